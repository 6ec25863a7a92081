//! A [`Folder`] that is a directory of the file system.
//!
//! All names are looked up from one open descriptor of the directory, so a folder that is moved or
//! replaced by another while it is open is never mixed with that other one.

mod fault;
mod map;
mod unmap;

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::blocks::{PIECE_BYTES_MAX, PIECE_BYTES_MIN};
use crate::folder::{
    Access, AppendFile, Blocks, FileError, Folder, check_dir_name, check_file_name,
};
use crate::memory::SegmentMemory;
use crate::scratch::{DiskScratch, ScratchFile};
pub use fault::catch_page_faults;
use map::DiskSegment;
use unmap::Unmapper;

/// Bytes of one piece of a copy; larger ones gain nothing.
const PIECE_BYTES: usize = 1 << 20;
/// Bytes of one write of zeros at the start of a segment, where its watermarks lie: each sync writes what
/// the kernel keeps as one with them (decision 0014).
const HEAD_PIECE_BYTES: usize = PIECE_BYTES_MIN as usize;
/// Bytes of zeros that may wait for the disk at once: a message's sync waits behind no more than these.
const ZEROS_UNSYNCED_BYTES: usize = 1 << 20;
/// Room a file that grows keeps allocated behind its end, so that few appends ask for more.
const RESERVE_BYTES: u64 = 64 << 10;
/// One page in so many bytes is asked whether it is in memory before a file serves again: the kernel keeps and drops
/// pages in pieces, and asking for each costs as much as to read them.
const LOOK_BYTES: usize = 64 << 10;
/// Name of a scratch file for the moment between making it and taking its name away.
const SCRATCH_NAME: &str = "scratch";
/// Owner reads and writes, his group reads.
const FILE_MODE: u32 = 0o640;
/// The same for directories.
const DIR_MODE: u32 = 0o750;

/// What a new segment is filled with. Lies in the zero pages of the program.
static ZEROS: [u8; PIECE_BYTES_MAX as usize] = [0; PIECE_BYTES_MAX as usize];

/// A data folder on disk. Clones share the open directory.
#[derive(Clone)]
pub struct DiskFolder {
    root: Arc<OwnedFd>,
    path: Arc<PathBuf>,
    /// Where its segments go when nobody uses them any more.
    unmapper: Unmapper,
}

impl DiskFolder {
    /// Opens a directory that exists. Changes nothing.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NotADirectory`, `PermissionDenied`, or what else the disk said.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => Ok(Self {
                root: Arc::new(root),
                path: Arc::new(path.to_path_buf()),
                unmapper: Unmapper::default(),
            }),
            Err(error) => Err(FileError::wrap(
                "open",
                path.display().to_string(),
                error.into(),
            )),
        }
    }

    /// Opens a directory, and makes it and those above it if they are missing. What was made
    /// survives power loss when this returns.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), or what the disk said about making a directory.
    pub fn open_or_create(path: &Path) -> io::Result<Self> {
        make_dirs(path)?;
        Self::open(path)
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn error(
        &self,
        operation: &'static str,
        name: &str,
        source: impl Into<io::Error>,
    ) -> io::Error {
        FileError::wrap(
            operation,
            self.path.join(name).display().to_string(),
            source.into(),
        )
    }

    fn open_file(&self, operation: &'static str, name: &str, flags: OFlags) -> io::Result<File> {
        check_file_name(name)?;
        let mode = Mode::from_raw_mode(FILE_MODE);
        rustix::fs::openat(&*self.root, name, flags | OFlags::CLOEXEC, mode)
            .map(File::from)
            .map_err(|error| self.error(operation, name, error))
    }

    fn open_dir(&self, operation: &'static str, dir: &str) -> io::Result<OwnedFd> {
        check_dir_name(dir)?;
        let name = if dir.is_empty() { "." } else { dir };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&*self.root, name, flags, Mode::empty())
            .map_err(|error| self.error(operation, dir, error))
    }

    /// Makes the file `name` and lets `fill` write it; without success nothing stays.
    fn create_with<T>(
        &self,
        name: &str,
        fill: impl FnOnce(File) -> io::Result<T>,
    ) -> io::Result<T> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = self.open_file("create", name, flags)?;
        fill(file).map_err(|error| {
            // A second failure leaves a file that nothing names; the first one is what matters.
            let _ = rustix::fs::unlinkat(&*self.root, name, AtFlags::empty());
            self.error("create", name, error)
        })
    }
}

impl DiskFolder {
    /// Makes a file and takes its name away. Others may do the same at the same time: whose name is
    /// taken away by another has his file all the same.
    fn create_and_unname(&self) -> io::Result<File> {
        let unname = || match self.remove(SCRATCH_NAME) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        loop {
            match self.create_with(SCRATCH_NAME, Ok) {
                Ok(file) => return unname().map(|()| file),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => unname()?,
                Err(error) => return Err(error),
            }
        }
    }
}

impl fmt::Debug for DiskFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DiskFolder").field(&self.path).finish()
    }
}

impl Folder for DiskFolder {
    fn create_segment(
        &self,
        name: &str,
        len_bytes: usize,
        blocks: Blocks,
    ) -> io::Result<Arc<dyn SegmentMemory>> {
        if len_bytes == 0 {
            return Err(self.error("create", name, ErrorKind::InvalidInput));
        }
        let path = self.path.join(name).display().to_string();
        let segment = self.create_with(name, |file| {
            let reserved = allocate(&file, len_bytes as u64)?;
            match blocks {
                Blocks::Written { piece_bytes } => {
                    write_zeros(&file, len_bytes, piece_bytes as usize)?;
                }
                Blocks::Reserved if reserved => {}
                Blocks::Reserved => write_zeros(&file, len_bytes, HEAD_PIECE_BYTES)?,
            }
            file.sync_data()?;
            DiskSegment::map(file, len_bytes, Access::ReadWrite, path, &self.unmapper)
        })?;
        Ok(Arc::new(segment))
    }

    fn reuse_segment(
        &self,
        from: &str,
        to: &str,
        len_bytes: usize,
    ) -> io::Result<Option<Arc<dyn SegmentMemory>>> {
        check_file_name(to)?;
        let file = self.open_file("open", from, OFlags::RDWR)?;
        let path = self.path.join(to).display().to_string();
        let segment = file.metadata().and_then(|metadata| {
            let known_bytes = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
            if !allocate(&file, len_bytes as u64)? {
                return Ok(None);
            }
            let segment =
                DiskSegment::map(file, len_bytes, Access::ReadWrite, path, &self.unmapper)?;
            // A store to a page that is not in memory would wait until what it held is read.
            let mut looks = (0..known_bytes.min(len_bytes)).step_by(LOOK_BYTES);
            let is_warm = looks.all(|at| segment.is_resident(at..at + 1));
            Ok(is_warm.then_some(segment))
        });
        let Some(segment) = segment.map_err(|error| self.error("reuse", from, error))? else {
            return Ok(None);
        };
        match rustix::fs::renameat_with(&*self.root, from, &*self.root, to, RenameFlags::NOREPLACE)
        {
            Ok(()) => Ok(Some(Arc::new(segment))),
            Err(Errno::INVAL | Errno::NOSYS) => Ok(None),
            Err(error) => Err(self.error("reuse", to, error)),
        }
    }

    fn open_segment(&self, name: &str, access: Access) -> io::Result<Arc<dyn SegmentMemory>> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        let file = self.open_file("open", name, flags)?;
        let path = self.path.join(name).display().to_string();
        let segment = file
            .metadata()
            .and_then(|metadata| {
                let len_bytes =
                    usize::try_from(metadata.len()).map_err(|_| ErrorKind::FileTooLarge)?;
                DiskSegment::map(file, len_bytes, access, path, &self.unmapper)
            })
            .map_err(|error| self.error("map", name, error))?;
        Ok(Arc::new(segment))
    }

    fn make_dir(&self, name: &str) -> io::Result<()> {
        check_dir_name(name)?;
        rustix::fs::mkdirat(&*self.root, name, Mode::from_raw_mode(DIR_MODE))
            .map_err(|error| self.error("create directory", name, error))
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        check_dir_name(name)?;
        rustix::fs::unlinkat(&*self.root, name, AtFlags::REMOVEDIR)
            .map_err(|error| self.error("remove directory", name, error))
    }

    fn create_file(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.create_with(name, |mut file| {
            file.write_all(bytes)?;
            file.sync_data()
        })
    }

    fn create_scratch(&self) -> io::Result<Box<dyn ScratchFile>> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = match rustix::fs::openat(&*self.root, ".", flags, mode) {
            Ok(file) => file.into(),
            // Some file systems have no nameless files: there the name is taken away at once.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => self.create_and_unname()?,
            Err(error) => return Err(self.error("create", "a scratch file", error)),
        };
        Ok(Box::new(DiskScratch::new(file)))
    }

    fn append_file(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let file = self.open_file("open", name, OFlags::WRONLY | OFlags::APPEND)?;
        let len_bytes = file
            .metadata()
            .map_err(|error| self.error("open", name, error))?
            .len();
        Ok(Box::new(DiskAppend {
            file,
            folder: self.clone(),
            name: name.to_owned(),
            len_bytes,
            reserved_bytes: len_bytes,
        }))
    }

    fn read_file(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut file = self.open_file("read", name, OFlags::RDONLY)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|error| self.error("read", name, error))?;
        Ok(bytes)
    }

    fn copy_range(&self, from: &str, range: Range<u64>, to: &str) -> io::Result<()> {
        let source = self.open_file("read", from, OFlags::RDONLY)?;
        self.create_with(to, |mut copy| {
            let left = range.end.saturating_sub(range.start);
            let mut piece = vec![0; left.min(PIECE_BYTES as u64) as usize];
            let mut position = range.start;
            while position < range.end {
                piece.truncate((range.end - position).min(PIECE_BYTES as u64) as usize);
                source
                    .read_exact_at(&mut piece, position)
                    .map_err(|error| self.error("read", from, error))?;
                copy.write_all(&piece)?;
                position += piece.len() as u64;
            }
            copy.sync_data()
        })
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let directory = self.open_dir("list", dir)?;
        let mut names = Vec::new();
        for entry in Dir::new(directory).map_err(|error| self.error("list", dir, error))? {
            let entry = entry.map_err(|error| self.error("list", dir, error))?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_file_name(from)?;
        check_file_name(to)?;
        rustix::fs::renameat(&*self.root, from, &*self.root, to)
            .map_err(|error| self.error("rename", from, error))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_file_name(name)?;
        rustix::fs::unlinkat(&*self.root, name, AtFlags::empty())
            .map_err(|error| self.error("remove", name, error))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let directory = self.open_dir("sync", dir)?;
        rustix::fs::fsync(directory).map_err(|error| self.error("sync", dir, error))
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        let file = self.open_file("look at", name, OFlags::RDONLY)?;
        let metadata = file
            .metadata()
            .map_err(|error| self.error("look at", name, error))?;
        Ok(metadata.len())
    }
}

/// A file of a [`DiskFolder`] that grows.
#[derive(Debug)]
struct DiskAppend {
    file: File,
    folder: DiskFolder,
    name: String,
    len_bytes: u64,
    /// Where the allocated room ends, as far as it is known.
    reserved_bytes: u64,
}

impl AppendFile for DiskAppend {
    fn reserve(&mut self, len_bytes: u64) -> io::Result<()> {
        let end = self.len_bytes.saturating_add(len_bytes);
        if end <= self.reserved_bytes {
            return Ok(());
        }
        let chunk = len_bytes.max(RESERVE_BYTES);
        let taken = match reserve_behind(&self.file, self.len_bytes, chunk) {
            Err(Errno::NOSPC | Errno::DQUOT) if chunk > len_bytes => {
                reserve_behind(&self.file, self.len_bytes, len_bytes).map(|()| len_bytes)
            }
            other => other.map(|()| chunk),
        };
        match taken {
            Ok(taken) => {
                self.reserved_bytes = self.len_bytes.saturating_add(taken);
                Ok(())
            }
            Err(error) => Err(self.folder.error("reserve room for", &self.name, error)),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|error| self.folder.error("append to", &self.name, error))?;
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file
            .sync_data()
            .map_err(|error| self.folder.error("sync", &self.name, error))
    }

    fn set_name(&mut self, name: &str) {
        name.clone_into(&mut self.name);
    }
}

/// Allocates blocks for the first `len_bytes` bytes, so that a full disk shows here and not as a
/// signal. False where the file system can't: it is left to allocate when zeros are written.
fn allocate(file: &File, len_bytes: u64) -> io::Result<bool> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len_bytes) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Allocates blocks behind the end without moving it; same exception.
fn reserve_behind(file: &File, end: u64, len_bytes: u64) -> Result<(), Errno> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, end, len_bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => other,
    }
}

/// Bytes of zeros to write at `position`: pieces of `piece_bytes`, or the power of two below, as far as there
/// are zeros; the first such piece in small ones.
fn piece_at(position: usize, len_bytes: usize, piece_bytes: usize) -> usize {
    let piece_bytes = piece_bytes.clamp(HEAD_PIECE_BYTES, ZEROS.len());
    let piece_bytes = 1 << piece_bytes.ilog2();
    let at_once = match position < piece_bytes {
        true => HEAD_PIECE_BYTES,
        false => piece_bytes,
    };
    at_once.min(len_bytes - position)
}

/// Writes zeros in the pieces of [`piece_at`], and syncs each mebibyte of them.
fn write_zeros(file: &File, len_bytes: usize, piece_bytes: usize) -> io::Result<()> {
    let mut position = 0;
    while position < len_bytes {
        let (piece, _) = ZEROS.split_at(piece_at(position, len_bytes, piece_bytes));
        file.write_all_at(piece, position as u64)?;
        position += piece.len();
        if position.is_multiple_of(ZEROS_UNSYNCED_BYTES) {
            file.sync_data()?;
        }
    }
    Ok(())
}

/// Makes `path` and what is missing above it, each synced into the directory that holds it.
fn make_dirs(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .filter(|dir| !dir.as_os_str().is_empty())
        .take_while(
            |dir| matches!(dir.symlink_metadata(), Err(e) if e.kind() == ErrorKind::NotFound),
        )
        .collect();
    for dir in missing.into_iter().rev() {
        let failed = |error| FileError::wrap("create directory", dir.display().to_string(), error);
        match std::fs::DirBuilder::new().mode(DIR_MODE).create(dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => other.map_err(failed)?,
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|dir| dir.sync_all())
            .map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn what_was_stored_through_the_map_is_read_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DiskFolder::open_or_create(dir.path()).unwrap();
        let len_bytes = (300 << 10) + 4096;
        let memory = folder
            .create_segment("1.seg", len_bytes, Blocks::Reserved)
            .unwrap();
        let stored: Vec<u8> = (0..=250).cycle().take(len_bytes).collect();
        // SAFETY: so many bytes are there, and nobody else has them.
        unsafe {
            let base = memory.base().as_ptr();
            base.copy_from_nonoverlapping(stored.as_ptr(), stored.len());
        };
        for (position, bytes) in [(0, len_bytes), (4090, 64), (len_bytes - 64, 64)] {
            let mut found = vec![0; bytes];
            memory.read_at(position, &mut found).unwrap();
            assert!(found == stored[position..position + bytes]);
        }
        let beyond = memory.read_at(len_bytes - 63, &mut [0; 64]);
        assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    /// A write would make the file grow again, with zeros where records were.
    #[test]
    fn s6_nothing_is_written_to_a_file_that_was_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DiskFolder::open_or_create(dir.path()).unwrap();
        let memory = folder.create_segment("1.seg", 64 << 10, Blocks::Reserved);
        let memory = memory.unwrap();
        // SAFETY: nobody else has them.
        let write = |position| unsafe { memory.write(position, &[7; 20_000]) };
        // Once a page of any segment of this process was lost, nothing is written any more.
        let writes = |position| write(position) || crate::sync::any_page_lost();
        assert!(writes(0) && writes(45_536));
        assert!(!write(45_537), "behind its end");
        let file = dir.path().join("1.seg");
        let opened = OpenOptions::new().write(true).open(&file).unwrap();
        opened.set_len(40_000).unwrap();
        for position in [20_001, 39_999, 45_000] {
            assert!(!write(position), "{position}");
        }
        assert_eq!(std::fs::metadata(file).unwrap().len(), 40_000);
        assert!(writes(20_000), "up to its end");
    }

    #[test]
    fn a_scratch_file_leaves_no_name_behind_and_keeps_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DiskFolder::open_or_create(dir.path()).unwrap();
        let unnamed = DiskScratch::new(folder.create_and_unname().unwrap());
        let files: [Box<dyn ScratchFile>; 2] =
            [folder.create_scratch().unwrap(), Box::new(unnamed)];
        for mut file in files {
            file.append(b"hello ").unwrap();
            file.append(b"world").unwrap();
            let mut bytes = [0; 5];
            file.read_at(&mut bytes, 6).unwrap();
            assert_eq!(&bytes, b"world");
            assert!(file.read_at(&mut bytes, 7).is_err());
            assert_eq!(folder.list("").unwrap(), Vec::<String>::new());
        }
    }

    #[test]
    fn pieces_of_zeros_are_small_at_the_start_and_meet_each_mebibyte() {
        for (asked_bytes, piece_bytes) in [
            (1, 16 << 10),
            (16 << 10, 16 << 10),
            (40_000, 32 << 10),
            (256 << 10, 256 << 10),
            (1 << 30, 256 << 10),
        ] {
            let len_bytes = (3 << 20) + 5000;
            let (mut position, mut met, mut largest) = (0, 0, 0);
            while position < len_bytes {
                let at_once = piece_at(position, len_bytes, asked_bytes);
                if position < piece_bytes {
                    assert_eq!(at_once, HEAD_PIECE_BYTES, "{asked_bytes} at {position}");
                }
                largest = largest.max(at_once);
                position += at_once;
                met += usize::from(position.is_multiple_of(ZEROS_UNSYNCED_BYTES));
            }
            let found = (position, met, largest);
            assert_eq!(found, (len_bytes, 3, piece_bytes), "{asked_bytes}");
        }
    }
}
