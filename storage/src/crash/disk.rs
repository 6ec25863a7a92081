//! What a disk holds of a folder: sectors and names, and what a crash leaves of both.
//!
//! A file is what the process sees of it (its *cache*: the page cache) and what the *disk* has. A
//! sync brings the one to the other, page by page. A failed sync leaves its pages clean, so that later
//! ones pass over them unless they were stored to again, as Linux does. Between syncs the kernel may
//! write any sector at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::dice::mix;
use super::memory::copy_out;
use crate::memory::SegmentMemory;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;
/// What the page cache keeps track of.
const PAGE_BYTES: usize = 4096;

/// How a run ends that nobody stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process is killed: the page cache stays.
    Kill,
    /// The power goes: of what no sync covered any sectors stay, and any names.
    PowerLoss,
}

/// Number of a file within its disk.
pub(super) type FileNumber = usize;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    Dir,
    File(FileNumber),
}

/// A change of names that no sync of its directory covered.
#[derive(Debug, Clone)]
enum Change {
    Made(String, Item),
    Removed(String, Item),
    Renamed(String, String, Item),
}

/// All files and names.
#[derive(Default)]
pub(super) struct Disk {
    files: Vec<File>,
    /// As the process sees them.
    names: BTreeMap<String, Item>,
    /// As the last syncs of their directories left them.
    durable: BTreeMap<String, Item>,
    pending: Vec<Change>,
}

struct File {
    cache: Cache,
    /// Length as the process sees it.
    len_bytes: usize,
    disk: Vec<u8>,
    /// Pages that a failed sync left clean, as they were then.
    lost: BTreeMap<usize, Vec<u8>>,
    /// Pages of those that were stored to again with what they held.
    stored_again: BTreeSet<usize>,
}

enum Cache {
    Bytes(Vec<u8>),
    Mapped(Arc<dyn SegmentMemory>),
}

/// Which of the sectors that may have reached the disk did.
#[derive(Clone, Copy)]
struct Fate {
    seed: u64,
    /// Of 16.
    reach: u64,
}

impl Fate {
    fn of(seed: u64) -> Self {
        // All, none, few, most, half: each shape of tear comes up often.
        let reach = [0, 1, 8, 8, 15, 16][(mix(seed) % 6) as usize];
        Self { seed, reach }
    }

    fn reaches(self, file: FileNumber, sector: usize) -> bool {
        mix(self.seed ^ mix(file as u64) ^ mix(!(sector as u64))) % 16 < self.reach
    }

    /// A file that grew or shrank may have any length that one of its sectors gives it.
    fn length(self, file: FileNumber, old: usize, new: usize) -> usize {
        let draw = mix(self.seed ^ mix(file as u64 + 77));
        match draw % 3 {
            0 => old,
            1 => new,
            _ if new < old => new,
            _ => {
                let sectors = (new - old) / SECTOR_BYTES;
                let more = (draw >> 8) as usize % (sectors + 1) * SECTOR_BYTES;
                ((old + more) / SECTOR_BYTES * SECTOR_BYTES).max(old)
            }
        }
    }
}

impl Disk {
    /// The number of the file `name`.
    pub(super) fn number(&self, name: &str) -> Option<FileNumber> {
        match self.names.get(name) {
            Some(Item::File(number)) => Some(*number),
            _ => None,
        }
    }

    /// A new file: `synced` or only in the cache.
    pub(super) fn add(&mut self, name: &str, bytes: Vec<u8>, synced: bool) -> FileNumber {
        let number = self.files.len();
        self.files.push(File {
            len_bytes: bytes.len(),
            disk: if synced { bytes.clone() } else { Vec::new() },
            cache: Cache::Bytes(bytes),
            lost: BTreeMap::new(),
            stored_again: BTreeSet::new(),
        });
        self.made(name, Item::File(number));
        number
    }

    pub(super) fn made(&mut self, name: &str, item: Item) {
        self.names.insert(name.to_owned(), item);
        self.pending.push(Change::Made(name.to_owned(), item));
    }

    pub(super) fn removed(&mut self, name: &str) {
        if let Some(item) = self.names.remove(name) {
            self.pending.push(Change::Removed(name.to_owned(), item));
        }
    }

    pub(super) fn renamed(&mut self, from: &str, to: &str) {
        if let Some(item) = self.names.remove(from) {
            self.names.insert(to.to_owned(), item);
            let change = Change::Renamed(from.to_owned(), to.to_owned(), item);
            self.pending.push(change);
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &str) {
        let (synced, left) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|change| change.dir() == dir);
        self.pending = left;
        let synced: Vec<Change> = synced;
        synced
            .iter()
            .for_each(|change| change.apply(&mut self.durable));
    }

    /// The file is mapped: its bytes are there from now on.
    pub(super) fn mapped(&mut self, file: FileNumber, memory: &Arc<dyn SegmentMemory>) {
        if let Some(file) = self.files.get_mut(file)
            && matches!(file.cache, Cache::Bytes(_))
        {
            file.cache = Cache::Mapped(Arc::clone(memory));
        }
    }

    pub(super) fn appended(&mut self, file: FileNumber, bytes: &[u8]) {
        if let Some(file) = self.files.get_mut(file)
            && let Cache::Bytes(cache) = &mut file.cache
        {
            cache.extend_from_slice(bytes);
            file.len_bytes = cache.len();
        }
    }

    /// A file that was shrunk has room for as many bytes as before again.
    pub(super) fn grew_back(&mut self, name: &str, len_bytes: usize) {
        if let Some(file) = self.number(name) {
            self.shrunk(file, len_bytes);
        }
    }

    pub(super) fn shrunk(&mut self, file: FileNumber, len_bytes: usize) {
        if let Some(file) = self.files.get_mut(file) {
            file.len_bytes = len_bytes;
        }
    }

    /// Flips a bit of a file that nobody has mapped, wherever it is kept.
    #[cfg(test)]
    pub(super) fn rot(&mut self, file: FileNumber, position: usize) {
        if let Some(file) = self.files.get_mut(file) {
            file.disk[position] ^= 0x10;
            if let Cache::Bytes(cache) = &mut file.cache {
                cache[position] ^= 0x10;
            }
        }
    }

    pub(super) fn stored_again(&mut self, file: FileNumber, position: usize) {
        if let Some(file) = self.files.get_mut(file) {
            file.stored_again.insert(position / PAGE_BYTES);
        }
    }

    /// A sync that worked.
    pub(super) fn sync(&mut self, file: FileNumber) {
        if let Some(file) = self.files.get_mut(file) {
            file.sync();
        }
    }

    /// A sync that failed: some sectors got there, and no page of the file is dirty any more.
    pub(super) fn sync_failed(&mut self, number: FileNumber, seed: u64) {
        if let Some(file) = self.files.get_mut(number) {
            let missed = file.reach(number, Fate::of(seed));
            for (page, bytes) in missed {
                file.lost.insert(page, bytes);
                file.stored_again.remove(&page);
            }
        }
    }

    /// The kernel writes some dirty sectors of its own accord.
    pub(super) fn write_back(&mut self, seed: u64) {
        for (number, file) in self.files.iter_mut().enumerate() {
            file.reach(number, Fate::of(seed));
        }
    }

    /// What is there after the run ended.
    pub(super) fn after(mut self, end: End, seed: u64) -> Self {
        let fate = Fate::of(seed);
        if end == End::PowerLoss {
            let pending = std::mem::take(&mut self.pending);
            for (at, change) in pending.iter().enumerate() {
                if fate.reaches(usize::MAX, at) {
                    change.apply(&mut self.durable);
                }
            }
            self.names.clone_from(&self.durable);
        }
        let found = self.reachable();
        for (number, file) in self.files.iter_mut().enumerate() {
            match end {
                _ if !found.contains(&number) => *file = File::gone(),
                End::PowerLoss => {
                    file.reach(number, fate);
                    file.len_bytes = file.disk.len();
                    file.cache = Cache::Bytes(file.disk.clone());
                    file.lost.clear();
                    file.stored_again.clear();
                }
                End::Kill => file.cache = Cache::Bytes(file.bytes()),
            }
        }
        self
    }

    /// Files that have a name, or had one that may come back.
    fn reachable(&self) -> BTreeSet<FileNumber> {
        let named = self.names.values().chain(self.durable.values());
        let items = named.chain(self.pending.iter().map(Change::item));
        items
            .filter_map(|item| match item {
                Item::Dir => None,
                Item::File(number) => Some(*number),
            })
            .collect()
    }

    /// Every name that the process sees, parents first, with what a file holds.
    pub(super) fn contents(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let has_parent = |name: &str| {
            name.split_once('/')
                .is_none_or(|(dir, _)| self.names.get(dir) == Some(&Item::Dir))
        };
        self.names
            .iter()
            .filter(move |(name, _)| has_parent(name))
            .map(|(name, item)| match item {
                Item::Dir => (name.as_str(), None),
                Item::File(number) => (name.as_str(), Some(self.files[*number].cached())),
            })
    }
}

impl Change {
    fn dir(&self) -> &str {
        match self {
            Self::Made(name, _) | Self::Removed(name, _) | Self::Renamed(_, name, _) => {
                name.split_once('/').map_or("", |(dir, _)| dir)
            }
        }
    }

    fn item(&self) -> &Item {
        match self {
            Self::Made(_, item) | Self::Removed(_, item) | Self::Renamed(_, _, item) => item,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, Item>) {
        match self {
            Self::Made(name, item) => {
                names.insert(name.clone(), *item);
            }
            Self::Removed(name, item) => {
                if names.get(name) == Some(item) {
                    names.remove(name);
                }
            }
            Self::Renamed(from, to, item) => {
                if names.get(from) == Some(item) {
                    names.remove(from);
                }
                names.insert(to.clone(), *item);
            }
        }
    }
}

impl File {
    fn gone() -> Self {
        Self {
            cache: Cache::Bytes(Vec::new()),
            len_bytes: 0,
            disk: Vec::new(),
            lost: BTreeMap::new(),
            stored_again: BTreeSet::new(),
        }
    }

    fn cached(&self) -> &[u8] {
        match &self.cache {
            Cache::Bytes(bytes) => bytes.get(..self.len_bytes).unwrap_or(bytes),
            Cache::Mapped(_) => &[],
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len_bytes];
        self.copy(0, &mut bytes);
        bytes
    }

    fn copy(&self, position: usize, out: &mut [u8]) {
        match &self.cache {
            Cache::Bytes(bytes) => out.copy_from_slice(&bytes[position..position + out.len()]),
            Cache::Mapped(memory) => copy_out(memory.as_ref(), position, out),
        }
    }

    /// Whether the next sync writes the page, which holds `now`.
    fn is_dirty(&self, page: usize, now: &[u8]) -> bool {
        match self.lost.get(&page) {
            Some(then) => self.stored_again.contains(&page) || then != now,
            None => true,
        }
    }

    /// Calls `each` with the number and the bytes of every page that may be unlike the disk's.
    fn each_dirty(&mut self, mut each: impl FnMut(&mut Self, usize, &[u8])) {
        let mut buffer = [0; PAGE_BYTES];
        for page in 0..self.len_bytes.div_ceil(PAGE_BYTES) {
            let start = page * PAGE_BYTES;
            let now = &mut buffer[..PAGE_BYTES.min(self.len_bytes - start)];
            self.copy(start, now);
            let same = self.disk.get(start..start + now.len()) == Some(now);
            if !same && self.is_dirty(page, now) {
                each(self, page, now);
            }
        }
    }

    fn sync(&mut self) {
        let mut written = Vec::new();
        self.each_dirty(|file, page, now| {
            let start = page * PAGE_BYTES;
            let end = start + now.len();
            if file.disk.len() < end {
                file.disk.resize(end, 0);
            }
            file.disk[start..end].copy_from_slice(now);
            written.push(page);
        });
        for page in written {
            self.lost.remove(&page);
        }
        self.stored_again.clear();
        self.disk.resize(self.len_bytes, 0);
    }

    /// Lets the sectors reach the disk that `fate` says; gives the pages that are not whole there.
    fn reach(&mut self, number: FileNumber, fate: Fate) -> Vec<(usize, Vec<u8>)> {
        let mut missed = Vec::new();
        let len_bytes = if self.len_bytes == self.disk.len() {
            self.len_bytes
        } else {
            fate.length(number, self.disk.len(), self.len_bytes)
        };
        self.disk.resize(len_bytes, 0);
        self.each_dirty(|file, page, now| {
            let mut whole = true;
            for (at, sector) in now.chunks(SECTOR_BYTES).enumerate() {
                let start = page * PAGE_BYTES + at * SECTOR_BYTES;
                let end = (start + sector.len()).min(len_bytes);
                if start >= end {
                    whole = false;
                } else if file.disk[start..end] != sector[..end - start] {
                    if fate.reaches(number, start / SECTOR_BYTES) {
                        file.disk[start..end].copy_from_slice(&sector[..end - start]);
                    } else {
                        whole = false;
                    }
                }
            }
            if !whole {
                missed.push((page, now.to_vec()));
            }
        });
        missed
    }
}
