//! A [`Folder`] in memory, which fails on request: the twin that tests, loom and Miri run on.
//!
//! Every operation is counted by name and can be made to fail. Two views of what a crash leaves are
//! kept: the folder itself is what a killed process leaves behind (open it again), and
//! [`HeapFolder::after_power_loss`] is what a disk keeps that loses all that was not synced: names
//! without a later sync of their directory, and bytes of files without a later sync of the file.
//! Segments are the exception: they come back with the bytes they hold, since copying them at each
//! sync would cost more than it shows.
//!
//! Locks are the standard library's, also under loom: none is held while a hook runs.

mod block;
mod faults;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::folder::{
    Access, AppendFile, Blocks, FileError, Folder, check_dir_name, check_file_name,
};
use crate::memory::SegmentMemory;
use crate::scratch::{HeapScratch, ScratchFile};
use block::HeapBlock;
use faults::Faults;
pub use faults::{Failure, Operation};

/// Called with the name of a file while something is done to it.
type Hook = Arc<dyn Fn(&str) + Send + Sync>;

/// A data folder in memory. Clones are handles to the same folder.
#[derive(Clone, Default)]
pub struct HeapFolder {
    tree: Arc<Mutex<Tree>>,
    faults: Arc<Mutex<Faults>>,
    on_sync: Arc<Mutex<Option<Hook>>>,
    on_remove: Arc<Mutex<Option<Hook>>>,
}

/// Names to what they stand for, as the process sees them and as the disk would.
#[derive(Default)]
struct Tree {
    live: BTreeMap<String, Item>,
    durable: BTreeMap<String, Item>,
}

#[derive(Clone)]
enum Item {
    Dir,
    File(Arc<HeapFile>),
}

/// One file, whatever names it has.
struct HeapFile {
    content: Mutex<Content>,
    sync_failed: Mutex<bool>,
}

enum Content {
    Bytes {
        live: Vec<u8>,
        /// What survives power loss.
        durable: Vec<u8>,
        /// A sync failed: `durable` grows no more.
        spoiled: bool,
    },
    /// Opened as a segment; the file is `len_bytes` long, the block may be longer.
    Mapped {
        block: Arc<HeapBlock>,
        len_bytes: usize,
    },
}

impl HeapFolder {
    /// An empty folder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans that of the operations from now on whose name ends in `suffix` (an empty one fits all)
    /// the `nth`, counted from one, fails, once.
    ///
    /// ```
    /// use millstream_storage::{Failure, Folder, HeapFolder, Operation};
    /// let folder = HeapFolder::new();
    /// folder.fail(Operation::CreateFile, "b", 1, Failure::Full);
    /// assert!(folder.create_file("a", b"1").is_ok());
    /// assert_eq!(folder.create_file("b", b"2").unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    /// assert!(folder.create_file("b", b"2").is_ok());
    /// ```
    pub fn fail(&self, operation: Operation, suffix: &str, nth: u64, failure: Failure) {
        lock(&self.faults).plan(Some(operation), suffix, nth, failure);
    }

    /// Plans that the `nth` operation from now on that changes anything fails, whatever it is.
    pub fn fail_nth_change(&self, nth: u64, failure: Failure) {
        lock(&self.faults).plan(None, "", nth, failure);
    }

    /// From now on, or no more, nothing that needs room succeeds.
    pub fn set_full(&self, full: bool) {
        lock(&self.faults).set_full(full);
    }

    /// From now on syncs of files and segments ([`Operation::Sync`], and the one in
    /// [`Operation::CreateFile`]) or of directories ([`Operation::SyncDir`]) report success and do
    /// nothing: a planted defect, for tests that must notice it.
    pub fn skip(&self, operation: Operation) {
        lock(&self.faults).skip(operation);
    }

    /// Forgets all planned failures, what is skipped, and that the disk is full.
    pub fn heal(&self) {
        lock(&self.faults).clear();
    }

    /// How often `operation` was asked for with a name that ends in `suffix`.
    #[must_use]
    pub fn count(&self, operation: Operation, suffix: &str) -> u64 {
        lock(&self.faults).count(operation, suffix)
    }

    /// How many operations that change anything were asked for.
    #[must_use]
    pub fn changes(&self) -> u64 {
        lock(&self.faults).changes()
    }

    /// What failed so far, in order: the operation, and the name it was asked for.
    #[must_use]
    pub fn failures_met(&self) -> Vec<(Operation, String)> {
        lock(&self.faults).met().to_vec()
    }

    /// How often a file was synced of which an earlier sync had failed, by any handle to it. Such a
    /// sync proves nothing, so nobody has a use for one.
    #[must_use]
    pub fn repeated_syncs(&self) -> u64 {
        lock(&self.faults).repeated_syncs()
    }

    /// How many bytes of segments readers asked to have brought into memory, those asked for again
    /// counted again.
    #[must_use]
    pub fn populated_bytes(&self) -> u64 {
        lock(&self.faults).populated_bytes()
    }

    /// Has `hook` called, with the segment's name, inside every sync of a segment from now on. The
    /// sync returns when the hook does, so a test can hold one open.
    pub fn on_sync(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        *lock(&self.on_sync) = Some(Arc::new(hook));
    }

    /// Has `hook` called, with the file's name, behind every removal of a file from now on.
    pub fn on_remove(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        *lock(&self.on_remove) = Some(Arc::new(hook));
    }

    /// Changes the bytes of a file behind everyone's back, and on the disk too: rot, a tear, a
    /// truncation. Memory already mapped from it keeps what it was and is the file's no more.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let file = self.file("edit", name)?;
        let mut content = lock(&file.content);
        let mut live = content.bytes();
        edit(&mut live);
        *content = Content::settled(live);
        Ok(())
    }

    /// What a disk that loses everything unsynced holds after power loss, as a folder of its own
    /// without plans, hook and counts. See the module for what is not modelled.
    #[must_use]
    pub fn after_power_loss(&self) -> Self {
        self.copied(|tree| &tree.durable, Content::durable_bytes)
    }

    /// The folder as it is, as a folder of its own without plans, hook and counts.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        self.copied(|tree| &tree.live, Content::bytes)
    }

    fn copied(
        &self,
        names: impl FnOnce(&Tree) -> &BTreeMap<String, Item>,
        bytes: impl Fn(&Content) -> Vec<u8>,
    ) -> Self {
        let tree = lock(&self.tree);
        let names = names(&tree);
        let has_parent = |name: &str| {
            name.split_once('/')
                .is_none_or(|(dir, _)| matches!(names.get(dir), Some(Item::Dir)))
        };
        let live: BTreeMap<String, Item> = names
            .iter()
            .filter(|(name, _)| has_parent(name))
            .map(|(name, item)| {
                let item = match item {
                    Item::Dir => Item::Dir,
                    Item::File(file) => {
                        Item::File(HeapFile::new(Content::settled(bytes(&lock(&file.content)))))
                    }
                };
                (name.clone(), item)
            })
            .collect();
        let durable = live.clone();
        let tree = Arc::new(Mutex::new(Tree { live, durable }));
        Self {
            tree,
            faults: Arc::default(),
            on_sync: Arc::default(),
            on_remove: Arc::default(),
        }
    }

    /// Counts an operation and fails it if that is planned.
    fn pass(&self, operation: Operation, verb: &'static str, name: &str) -> io::Result<()> {
        let passed = lock(&self.faults).pass(operation, name);
        passed.map_err(|error| FileError::wrap(verb, name, error))
    }

    fn skips(&self, operation: Operation) -> bool {
        lock(&self.faults).skips(operation)
    }

    fn file(&self, verb: &'static str, name: &str) -> io::Result<Arc<HeapFile>> {
        check_file_name(name)?;
        match lock(&self.tree).live.get(name) {
            Some(Item::File(file)) => Ok(Arc::clone(file)),
            Some(Item::Dir) => Err(failed(verb, name, ErrorKind::IsADirectory)),
            None => Err(failed(verb, name, ErrorKind::NotFound)),
        }
    }

    /// Adds a file that is not there yet, in a directory that is.
    fn add(&self, name: &str, content: Content) -> io::Result<Arc<HeapFile>> {
        let file = HeapFile::new(content);
        let mut tree = lock(&self.tree);
        if let Some((dir, _)) = name.split_once('/') {
            tree.check_dir("create", dir)?;
        }
        if tree.live.contains_key(name) {
            return Err(failed("create", name, ErrorKind::AlreadyExists));
        }
        tree.live
            .insert(name.to_owned(), Item::File(Arc::clone(&file)));
        Ok(file)
    }
}

impl fmt::Debug for HeapFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeapFolder")
            .field(&lock(&self.tree).live.keys())
            .finish()
    }
}

impl Folder for HeapFolder {
    fn create_segment(
        &self,
        name: &str,
        len_bytes: usize,
        _blocks: Blocks,
    ) -> io::Result<Arc<dyn SegmentMemory>> {
        check_file_name(name)?;
        if len_bytes == 0 {
            return Err(failed("create", name, ErrorKind::InvalidInput));
        }
        self.pass(Operation::CreateSegment, "create", name)?;
        let block = Arc::new(HeapBlock::zeroed(len_bytes));
        let file = self.add(
            name,
            Content::Mapped {
                block: Arc::clone(&block),
                len_bytes,
            },
        )?;
        Ok(Arc::new(HeapSegment {
            block,
            len_bytes,
            file,
            folder: self.clone(),
            name: name.to_owned(),
        }))
    }

    fn reuse_segment(
        &self,
        from: &str,
        to: &str,
        len_bytes: usize,
    ) -> io::Result<Option<Arc<dyn SegmentMemory>>> {
        check_file_name(to)?;
        let file = self.file("reuse", from)?;
        self.pass(Operation::ReuseSegment, "reuse", to)?;
        let mut tree = lock(&self.tree);
        if tree.live.contains_key(to) {
            return Err(failed("reuse", to, ErrorKind::AlreadyExists));
        }
        let Some(block) = lock(&file.content).grown_back(len_bytes) else {
            return Ok(None);
        };
        if let Some(item) = tree.live.remove(from) {
            tree.live.insert(to.to_owned(), item);
        }
        drop(tree);
        Ok(Some(Arc::new(HeapSegment {
            block,
            len_bytes,
            file,
            folder: self.clone(),
            name: to.to_owned(),
        })))
    }

    fn open_segment(&self, name: &str, _: Access) -> io::Result<Arc<dyn SegmentMemory>> {
        let file = self.file("open", name)?;
        self.pass(Operation::OpenSegment, "open", name)?;
        let (block, len_bytes) = lock(&file.content).mapped();
        Ok(Arc::new(HeapSegment {
            block,
            len_bytes,
            file,
            folder: self.clone(),
            name: name.to_owned(),
        }))
    }

    fn make_dir(&self, name: &str) -> io::Result<()> {
        check_dir_name(name)?;
        self.pass(Operation::MakeDir, "create directory", name)?;
        let mut tree = lock(&self.tree);
        if name.is_empty() || tree.live.contains_key(name) {
            return Err(failed("create directory", name, ErrorKind::AlreadyExists));
        }
        tree.live.insert(name.to_owned(), Item::Dir);
        Ok(())
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        check_dir_name(name)?;
        self.pass(Operation::RemoveDir, "remove directory", name)?;
        let mut tree = lock(&self.tree);
        tree.check_dir("remove directory", name)?;
        if tree.live.keys().any(|other| parent(other) == name) {
            return Err(failed(
                "remove directory",
                name,
                ErrorKind::DirectoryNotEmpty,
            ));
        }
        tree.live.remove(name);
        Ok(())
    }

    fn create_file(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        check_file_name(name)?;
        self.pass(Operation::CreateFile, "create", name)?;
        let mut content = Content::settled(bytes.to_vec());
        if self.skips(Operation::CreateFile)
            && let Content::Bytes { durable, .. } = &mut content
        {
            durable.clear();
        }
        self.add(name, content)?;
        Ok(())
    }

    fn create_scratch(&self) -> io::Result<Box<dyn ScratchFile>> {
        self.pass(Operation::CreateFile, "create", "a scratch file")?;
        Ok(Box::new(FailingScratch {
            file: HeapScratch::default(),
            folder: self.clone(),
        }))
    }

    fn append_file(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let file = self.file("open", name)?;
        self.pass(Operation::OpenAppend, "open", name)?;
        Ok(Box::new(HeapAppend {
            file,
            folder: self.clone(),
            name: name.to_owned(),
        }))
    }

    fn read_file(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = self.file("read", name)?;
        self.pass(Operation::Read, "read", name)?;
        Ok(lock(&file.content).bytes())
    }

    fn copy_range(&self, from: &str, range: Range<u64>, to: &str) -> io::Result<()> {
        let bytes = self.read_file(from)?;
        let piece = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end.max(range.start)).ok())
            .and_then(|(start, end)| bytes.get(start..end))
            .ok_or_else(|| failed("read", from, ErrorKind::UnexpectedEof))?;
        self.create_file(to, piece)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        check_dir_name(dir)?;
        self.pass(Operation::List, "list", dir)?;
        let tree = lock(&self.tree);
        tree.check_dir("list", dir)?;
        let inside = tree.live.keys().filter(|name| parent(name) == dir);
        let last_part = |name: &String| name.rsplit('/').next().unwrap_or(name).to_owned();
        Ok(inside.map(last_part).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_file_name(to)?;
        self.file("rename", from)?;
        self.pass(Operation::Rename, "rename", to)?;
        let mut tree = lock(&self.tree);
        tree.check_dir("rename", parent(to))?;
        if matches!(tree.live.get(to), Some(Item::Dir)) {
            return Err(failed("rename", to, ErrorKind::IsADirectory));
        }
        if let Some(item) = tree.live.remove(from) {
            tree.live.insert(to.to_owned(), item);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.file("remove", name)?;
        self.pass(Operation::Remove, "remove", name)?;
        lock(&self.tree).live.remove(name);
        let hook = lock(&self.on_remove).clone();
        if let Some(hook) = hook {
            hook(name);
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        check_dir_name(dir)?;
        self.pass(Operation::SyncDir, "sync", dir)?;
        let mut tree = lock(&self.tree);
        tree.check_dir("sync", dir)?;
        if self.skips(Operation::SyncDir) {
            return Ok(());
        }
        let Tree { live, durable } = &mut *tree;
        durable.retain(|name, _| parent(name) != dir);
        let inside = live.iter().filter(|(name, _)| parent(name) == dir);
        durable.extend(inside.map(|(name, item)| (name.clone(), item.clone())));
        Ok(())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        let file = self.file("look at", name)?;
        self.pass(Operation::Read, "look at", name)?;
        Ok(lock(&file.content).len_bytes() as u64)
    }
}

impl Tree {
    fn check_dir(&self, verb: &'static str, dir: &str) -> io::Result<()> {
        match self.live.get(dir) {
            Some(Item::Dir) => Ok(()),
            None if dir.is_empty() => Ok(()),
            Some(Item::File(_)) => Err(failed(verb, dir, ErrorKind::NotADirectory)),
            None => Err(failed(verb, dir, ErrorKind::NotFound)),
        }
    }
}

impl HeapFile {
    fn new(content: Content) -> Arc<Self> {
        Arc::new(Self {
            content: Mutex::new(content),
            sync_failed: Mutex::new(false),
        })
    }

    /// Counts a sync of it, under the `name` its handle has, and fails it if that is planned.
    fn pass_sync(&self, folder: &HeapFolder, name: &str) -> io::Result<()> {
        let passed = folder.pass(Operation::Sync, "sync", name);
        let mut failed = lock(&self.sync_failed);
        if *failed {
            lock(&folder.faults).note_repeated_sync();
        }
        *failed |= passed.is_err();
        passed
    }
}

impl Content {
    /// Bytes that are on the disk as they are in memory.
    fn settled(live: Vec<u8>) -> Self {
        Self::Bytes {
            durable: live.clone(),
            live,
            spoiled: false,
        }
    }

    fn len_bytes(&self) -> usize {
        match self {
            Self::Bytes { live, .. } => live.len(),
            Self::Mapped { len_bytes, .. } => *len_bytes,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes { live, .. } => live.clone(),
            Self::Mapped { block, len_bytes } => block.copy(*len_bytes),
        }
    }

    fn durable_bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes { durable, .. } => durable.clone(),
            Self::Mapped { .. } => self.bytes(),
        }
    }

    /// The block behind the file, which has `len_bytes` bytes again, the last of them zeros; `None` where it never
    /// had as many.
    fn grown_back(&mut self, len_bytes: usize) -> Option<Arc<HeapBlock>> {
        let Self::Mapped {
            block,
            len_bytes: file_bytes,
        } = self
        else {
            return None;
        };
        if block.len_bytes() != len_bytes {
            return None;
        }
        // SAFETY: what was cut off the file is touched by nobody, as whoever cut it off promised, and nobody has
        // it mapped, as the caller of `reuse_segment` promises.
        unsafe { block.store(*file_bytes, &vec![0; len_bytes - *file_bytes]) };
        *file_bytes = len_bytes;
        Some(Arc::clone(block))
    }

    /// The block behind the file, made from its bytes the first time.
    fn mapped(&mut self) -> (Arc<HeapBlock>, usize) {
        let (block, len_bytes) = match self {
            Self::Bytes { live, .. } => (Arc::new(HeapBlock::holding(live)), live.len()),
            Self::Mapped { block, len_bytes } => (Arc::clone(block), *len_bytes),
        };
        *self = Self::Mapped {
            block: Arc::clone(&block),
            len_bytes,
        };
        (block, len_bytes)
    }
}

/// A segment of a [`HeapFolder`].
struct HeapSegment {
    block: Arc<HeapBlock>,
    /// Length of the file when it was opened.
    len_bytes: usize,
    file: Arc<HeapFile>,
    folder: HeapFolder,
    name: String,
}

// SAFETY: the block is page-aligned, never moves, is at least `len_bytes` long and lives as long as
// `self` keeps its `Arc`; no reference to its bytes is ever made.
unsafe impl SegmentMemory for HeapSegment {
    fn base(&self) -> NonNull<u8> {
        self.block.base()
    }

    fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    fn sync(&self) -> io::Result<()> {
        let hook = lock(&self.folder.on_sync).clone();
        if let Some(hook) = hook {
            hook(&self.name);
        }
        self.file.pass_sync(&self.folder, &self.name)
    }

    unsafe fn write(&self, position: usize, bytes: &[u8]) -> bool {
        let passed = self.folder.pass(Operation::Write, "write", &self.name);
        let (half, _) = bytes.split_at(bytes.len() / 2);
        // SAFETY: as the caller promises.
        unsafe {
            self.block
                .store(position, if passed.is_ok() { bytes } else { half })
        };
        passed.is_ok()
    }

    fn is_resident(&self, range: Range<usize>) -> bool {
        let passed = self.folder.pass(Operation::Resident, "look at", &self.name);
        passed.is_ok() && range.end <= self.block.len_bytes()
    }

    fn populate(&self, range: Range<usize>) -> io::Result<()> {
        self.folder.pass(Operation::Populate, "read", &self.name)?;
        if range.start > range.end || range.end > self.block.len_bytes() {
            return Err(failed("read", &self.name, ErrorKind::InvalidInput));
        }
        let bytes = (range.end - range.start) as u64;
        lock(&self.folder.faults).note_populated(bytes);
        Ok(())
    }

    fn read_at(&self, position: usize, bytes: &mut [u8]) -> io::Result<()> {
        self.folder.pass(Operation::Populate, "read", &self.name)?;
        if self.block.load(position, bytes) {
            Ok(())
        } else {
            Err(failed("read", &self.name, ErrorKind::UnexpectedEof))
        }
    }

    fn shrink(&self, len_bytes: usize) -> io::Result<()> {
        self.folder.pass(Operation::Shrink, "shrink", &self.name)?;
        if len_bytes > self.block.len_bytes() {
            return Err(failed("shrink", &self.name, ErrorKind::InvalidInput));
        }
        if let Content::Mapped {
            len_bytes: file_bytes,
            ..
        } = &mut *lock(&self.file.content)
        {
            *file_bytes = len_bytes;
        }
        Ok(())
    }
}

impl fmt::Debug for HeapSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapSegment")
            .field("name", &self.name)
            .field("len_bytes", &self.len_bytes)
            .finish()
    }
}

/// A file of a [`HeapFolder`] that grows.
struct HeapAppend {
    file: Arc<HeapFile>,
    folder: HeapFolder,
    name: String,
}

impl AppendFile for HeapAppend {
    fn reserve(&mut self, _: u64) -> io::Result<()> {
        self.folder
            .pass(Operation::Reserve, "reserve room for", &self.name)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let passed = self.folder.pass(Operation::Append, "append to", &self.name);
        let (half, _) = bytes.split_at(bytes.len() / 2);
        match &mut *lock(&self.file.content) {
            Content::Bytes { live, .. } => {
                live.extend_from_slice(if passed.is_ok() { bytes } else { half });
            }
            Content::Mapped { .. } => {
                return Err(failed("append to", &self.name, ErrorKind::ResourceBusy));
            }
        }
        passed
    }

    fn sync(&mut self) -> io::Result<()> {
        let passed = self.file.pass_sync(&self.folder, &self.name);
        if let Content::Bytes {
            live,
            durable,
            spoiled,
        } = &mut *lock(&self.file.content)
        {
            *spoiled |= passed.is_err();
            if !*spoiled && !self.folder.skips(Operation::Sync) {
                durable.clone_from(live);
            }
        }
        passed
    }

    fn set_name(&mut self, name: &str) {
        name.clone_into(&mut self.name);
    }
}

impl fmt::Debug for HeapAppend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeapAppend").field(&self.name).finish()
    }
}

/// A nameless file of a [`HeapFolder`].
#[derive(Debug)]
struct FailingScratch {
    file: HeapScratch,
    folder: HeapFolder,
}

impl ScratchFile for FailingScratch {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.folder
            .pass(Operation::Append, "append to", "a scratch file")?;
        self.file.append(bytes)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.folder
            .pass(Operation::Read, "read", "a scratch file")?;
        self.file.read_at(bytes, at)
    }
}

/// The directory a name lies in.
fn parent(name: &str) -> &str {
    name.split_once('/').map_or("", |(dir, _)| dir)
}

fn failed(verb: &'static str, name: &str, kind: ErrorKind) -> io::Error {
    FileError::wrap(verb, name, kind.into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
