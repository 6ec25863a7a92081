//! A [`Folder`] over a simulated disk, which a crash may strike at any operation.
//!
//! What the process sees is a [`HeapFolder`], and so is what fails on request; this twin adds what
//! the disk holds meanwhile. Once a crash has struck, nothing works any more, and what it left can be
//! taken up as a folder of its own.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dice::mix;
use super::disk::{Disk, End, FileNumber, Item};
use super::memory::CrashSegment;
use crate::folder::{Access, AppendFile, Blocks, Folder};
use crate::heap::HeapFolder;
use crate::memory::SegmentMemory;
use crate::scratch::ScratchFile;

/// At which moment of an operation a crash strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nothing of it was done.
    Before,
    /// The process sees it done, and no sync in it has taken place.
    Within,
    /// It is done, and nobody has heard.
    After,
}

/// A crash to come.
#[derive(Debug, Clone, Copy)]
pub struct Strike {
    /// Operations that change the folder and are still let pass.
    pub skip: u64,
    /// When within the next one.
    pub moment: Moment,
    /// As what.
    pub end: End,
    /// Says what is left.
    pub seed: u64,
}

/// Looks at what was acknowledged up to a crash.
type Witness = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Machine {
    disk: Disk,
    witness: Option<Witness>,
    strike: Option<Strike>,
    operations: u64,
    left: Option<(Disk, End)>,
}

/// A data folder of a machine that may crash. Clones are handles to the same folder.
#[derive(Clone)]
pub struct CrashFolder {
    live: HeapFolder,
    machine: Arc<Mutex<Machine>>,
}

impl CrashFolder {
    /// An empty folder.
    #[must_use]
    pub fn new() -> Self {
        Self::holding(Disk::default())
    }

    fn holding(disk: Disk) -> Self {
        let live = HeapFolder::new();
        for (name, bytes) in disk.contents() {
            match bytes {
                None => live.make_dir(name).unwrap(),
                Some(bytes) => live.create_file(name, bytes).unwrap(),
            }
        }
        let machine = Machine {
            disk,
            ..Machine::default()
        };
        Self {
            live,
            machine: Arc::new(Mutex::new(machine)),
        }
    }

    /// What failures are planned with.
    #[must_use]
    pub fn failures(&self) -> &HeapFolder {
        &self.live
    }

    /// Plans a crash, or none.
    pub fn plan(&self, strike: Option<Strike>) {
        self.lock().strike = strike;
    }

    /// Has `look` called right before a crash strikes, once: what it sees acknowledged then has to
    /// survive. It must not use the folder.
    pub fn witness(&self, look: impl Fn() + Send + Sync + 'static) {
        self.lock().witness = Some(Arc::new(look));
    }

    fn bear_witness(&self) {
        let witness = self.lock().witness.take();
        if let Some(look) = witness {
            look();
        }
    }

    /// The crash happens now.
    pub fn strike_now(&self, end: End, seed: u64) {
        self.bear_witness();
        self.lock().strike_now(end, seed);
    }

    /// Whether a crash has struck: nothing works any more.
    #[must_use]
    pub fn is_struck(&self) -> bool {
        self.lock().left.is_some()
    }

    /// What the crash left, as a folder.
    #[must_use]
    pub fn take_left(&self) -> Option<(Self, End)> {
        let (disk, end) = self.lock().left.take()?;
        Some((Self::holding(disk), end))
    }

    /// The kernel writes some dirty sectors of its own accord.
    pub fn write_back(&self, seed: u64) {
        self.with_disk(|disk| disk.write_back(seed));
    }

    /// A bit of a file that nobody has mapped flips.
    #[cfg(test)]
    pub(super) fn rot(&self, name: &str, position: usize) {
        let file = self.number(name).unwrap();
        self.with_disk(|disk| disk.rot(file, position));
        let flip = |bytes: &mut Vec<u8>| bytes[position] ^= 0x10;
        self.live.edit(name, flip).unwrap();
    }

    pub(super) fn with_disk<T>(&self, with: impl FnOnce(&mut Disk) -> T) -> T {
        with(&mut self.lock().disk)
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_up(&self) -> io::Result<()> {
        if self.is_struck() {
            return Err(io::Error::other("the machine is down"));
        }
        Ok(())
    }

    /// Runs an operation that changes something; `note` tells the disk, and whether a crash strikes
    /// within it.
    pub(super) fn change<T>(
        &self,
        run: impl FnOnce() -> io::Result<T>,
        note: impl FnOnce(&mut Disk, &io::Result<T>, bool),
    ) -> io::Result<T> {
        self.check_up()?;
        let due = self.lock().next_strike();
        if due.is_some() {
            // Whatever is promised by now was promised before this operation was done.
            self.bear_witness();
        }
        if let Some(strike) = due.filter(|strike| strike.moment == Moment::Before) {
            self.strike_now(strike.end, strike.seed);
            return Err(io::Error::other("the machine went down"));
        }
        let done = run();
        let mut machine = self.lock();
        let within = due.is_some_and(|strike| strike.moment == Moment::Within);
        note(&mut machine.disk, &done, within);
        if let Some(strike) = due {
            machine.strike_now(strike.end, strike.seed);
        }
        done
    }

    /// Syncs a file by `run`.
    pub(super) fn sync_file(
        &self,
        file: FileNumber,
        run: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let seed = mix(self.lock().operations);
        self.change(run, |disk, done, within| match done {
            Ok(()) if within => {}
            Ok(()) => disk.sync(file),
            Err(_) => disk.sync_failed(file, seed),
        })
    }

    fn number(&self, name: &str) -> io::Result<FileNumber> {
        let number = self.lock().disk.number(name);
        number.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn segment(&self, name: &str, live: Arc<dyn SegmentMemory>) -> io::Result<Arc<CrashSegment>> {
        let file = self.number(name)?;
        self.with_disk(|disk| disk.mapped(file, &live));
        Ok(Arc::new(CrashSegment {
            live,
            folder: self.clone(),
            file,
        }))
    }
}

impl Machine {
    /// The strike, if it falls on the operation that begins now.
    fn next_strike(&mut self) -> Option<Strike> {
        self.operations += 1;
        match &mut self.strike {
            Some(strike) if strike.skip == 0 => self.strike.take(),
            Some(strike) => {
                strike.skip -= 1;
                None
            }
            None => None,
        }
    }

    fn strike_now(&mut self, end: End, seed: u64) {
        if self.left.is_none() {
            let disk = std::mem::take(&mut self.disk);
            self.left = Some((disk.after(end, seed), end));
        }
    }
}

impl Default for CrashFolder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CrashFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CrashFolder").field(&self.live).finish()
    }
}

impl Folder for CrashFolder {
    fn create_segment(
        &self,
        name: &str,
        len_bytes: usize,
        blocks: Blocks,
    ) -> io::Result<Arc<dyn SegmentMemory>> {
        let live = self.change(
            || self.live.create_segment(name, len_bytes, blocks),
            |disk, done, within| {
                if done.is_ok() {
                    disk.add(name, vec![0; len_bytes], !within);
                }
            },
        )?;
        self.check_up()?;
        Ok(self.segment(name, live)?)
    }

    fn reuse_segment(
        &self,
        from: &str,
        to: &str,
        len_bytes: usize,
    ) -> io::Result<Option<Arc<dyn SegmentMemory>>> {
        let live = self.change(
            || self.live.reuse_segment(from, to, len_bytes),
            |disk, done, _| {
                if matches!(done, Ok(Some(_))) {
                    disk.grew_back(from, len_bytes);
                    disk.renamed(from, to);
                }
            },
        )?;
        self.check_up()?;
        match live {
            Some(live) => Ok(Some(self.segment(to, live)?)),
            None => Ok(None),
        }
    }

    fn open_segment(&self, name: &str, access: Access) -> io::Result<Arc<dyn SegmentMemory>> {
        self.check_up()?;
        let live = self.live.open_segment(name, access)?;
        Ok(self.segment(name, live)?)
    }

    fn make_dir(&self, name: &str) -> io::Result<()> {
        self.change(
            || self.live.make_dir(name),
            |disk, done, _| {
                if done.is_ok() {
                    disk.made(name, Item::Dir);
                }
            },
        )
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        self.change(
            || self.live.remove_dir(name),
            |disk, done, _| {
                if done.is_ok() {
                    disk.removed(name);
                }
            },
        )
    }

    fn create_file(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.change(
            || self.live.create_file(name, bytes),
            |disk, done, within| {
                if done.is_ok() {
                    disk.add(name, bytes.to_vec(), !within);
                }
            },
        )
    }

    fn create_scratch(&self) -> io::Result<Box<dyn ScratchFile>> {
        self.live.create_scratch()
    }

    fn append_file(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        self.check_up()?;
        Ok(Box::new(CrashAppend {
            live: self.live.append_file(name)?,
            folder: self.clone(),
            file: self.number(name)?,
        }))
    }

    fn read_file(&self, name: &str) -> io::Result<Vec<u8>> {
        self.check_up()?;
        self.live.read_file(name)
    }

    fn copy_range(&self, from: &str, range: Range<u64>, to: &str) -> io::Result<()> {
        self.change(
            || {
                self.live.copy_range(from, range, to)?;
                self.live.read_file(to)
            },
            |disk, done, within| {
                if let Ok(bytes) = done {
                    disk.add(to, bytes.clone(), !within);
                }
            },
        )
        .map(drop)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.check_up()?;
        self.live.list(dir)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(
            || self.live.rename(from, to),
            |disk, done, _| {
                if done.is_ok() {
                    disk.renamed(from, to);
                }
            },
        )
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(
            || self.live.remove(name),
            |disk, done, _| {
                if done.is_ok() {
                    disk.removed(name);
                }
            },
        )
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.change(
            || self.live.sync_dir(dir),
            |disk, done, within| {
                if done.is_ok() && !within {
                    disk.sync_dir(dir);
                }
            },
        )
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        self.check_up()?;
        self.live.len(name)
    }
}

/// A file that grows.
#[derive(Debug)]
struct CrashAppend {
    live: Box<dyn AppendFile>,
    folder: CrashFolder,
    file: FileNumber,
}

impl AppendFile for CrashAppend {
    fn reserve(&mut self, len_bytes: u64) -> io::Result<()> {
        self.folder.check_up()?;
        self.live.reserve(len_bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.folder.change(
            || self.live.append(bytes),
            |disk, done, _| {
                // A failed append has written the first half.
                let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
                disk.appended(self.file, if done.is_ok() { bytes } else { half });
            },
        )
    }

    fn sync(&mut self) -> io::Result<()> {
        self.folder.sync_file(self.file, || self.live.sync())
    }

    fn set_name(&mut self, name: &str) {
        self.live.set_name(name);
    }
}
