//! One data folder, open: its lock, its manifest, its logs and the threads that serve them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use millstream_protocol::{Durability, Offset, TopicName};

use crate::chain::{Chain, Finished, Kept, KnownDamage};
use crate::checkpoints::Checkpoints;
use crate::disk::DiskFolder;
use crate::folder::Folder;
use crate::layout::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, log_dir, segment_name};
use crate::lock::{FolderLock, LockError};
use crate::log::{Level, Log, LogIdentity};
use crate::manifest::{EndKind, Entry, LogId, LogState, Manifest, ManifestError, State};
use crate::park::park_until;
use crate::recovery::{LogRecovery, OpenLog};
use crate::replacing::{FIRST_SEGMENT, replacing};
use crate::reserve;
use crate::retention::remove_leftovers;
use crate::scratch::ScratchFile;
use crate::segment::SegmentEnd;
use crate::shared::{SegmentSizes, Shared};
use crate::sync::Gate;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Threads that sync.
    pub sync_workers: usize,
    /// Bytes of a log's first segment.
    pub segment_bytes_first: u32,
    /// Bytes a segment grows to.
    pub segment_bytes_max: u32,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            sync_workers: 2,
            segment_bytes_first: 4 << 20,
            segment_bytes_max: 64 << 20,
        }
    }
}

/// Why a folder was not opened. Nothing in it was changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder can't be made or read.
    Folder(io::Error),
    /// Another process has it, or the lock can't be taken.
    Lock(LockError),
    /// The manifest can't be used.
    Manifest(ManifestError),
    /// A thread could not be started.
    Thread(io::Error),
    /// The handler of faults in mapped files could not be set.
    Signal(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(error) => error.fmt(f),
            Self::Lock(error) => error.fmt(f),
            Self::Manifest(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
            Self::Signal(error) => write!(f, "cannot take SIGBUS: {error}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Folder(error) | Self::Thread(error) | Self::Signal(error) => Some(error),
            Self::Lock(error) => Some(error),
            Self::Manifest(error) => Some(error),
        }
    }
}

/// Why a log was not made.
#[derive(Debug)]
#[non_exhaustive]
pub enum CreateError {
    /// There is one of this name.
    Exists(Arc<Log>),
    /// The store was closed.
    Closed,
    /// The log's folder could not be made.
    Io(io::Error),
    /// The manifest could not be written.
    Manifest(ManifestError),
}

impl CreateError {
    /// Whether it was for want of space.
    #[must_use]
    pub fn is_storage_full(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() == io::ErrorKind::StorageFull,
            Self::Manifest(error) => error.io_kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(log) => write!(f, "there is a log of {:?}", log.identity().name.as_str()),
            Self::Closed => f.write_str("the store is closed"),
            Self::Io(error) => error.fmt(f),
            Self::Manifest(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CreateError {}

/// Why a log was not deleted.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeleteError {
    /// There is none of this name.
    NotFound,
    /// The manifest could not be written.
    Manifest(ManifestError),
}

impl fmt::Display for DeleteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no such log"),
            Self::Manifest(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DeleteError {}

/// Topics that could not be closed cleanly; the next open recovers them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseError {
    /// Topic and reason.
    pub topics: Vec<(TopicName, String)>,
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not closed cleanly, will be recovered at the next start:")?;
        for (topic, reason) in &self.topics {
            write!(f, " {:?} ({reason})", topic.as_str())?;
        }
        Ok(())
    }
}

impl std::error::Error for CloseError {}

/// Logs by name. `None` once closed.
type Logs = Option<BTreeMap<TopicName, Arc<Log>>>;

/// An open data folder.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    boot_epoch: u32,
    recoveries: Vec<LogRecovery>,
    logs: Mutex<Logs>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held until the store is closed.
    lock: Mutex<Option<FolderLock>>,
    /// How closing went, once somebody did; held while he does.
    closed: Mutex<Option<Result<(), CloseError>>>,
}

impl Store {
    /// Opens the data folder `path`, or makes one, and recovers logs that an unclean stop left open.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open(path: &Path, options: &StoreOptions) -> Result<Self, OpenError> {
        let folder: Arc<dyn Folder> =
            Arc::new(DiskFolder::open_or_create(path).map_err(OpenError::Folder)?);
        let lock = FolderLock::acquire(path).map_err(OpenError::Lock)?;
        match open_on_any_disk(&folder) {
            Ok(manifest) => {
                // Recovery may need room, and gives most of it back.
                reserve::release(folder.as_ref());
                let store = Self::start(Arc::clone(&folder), Some(lock), manifest, options)?;
                reserve::keep(folder.as_ref());
                Ok(store)
            }
            Err(error) => {
                // Not our folder, or one we must not touch: leave no file behind.
                lock.abandon();
                Err(error)
            }
        }
    }

    /// As [`open`](Self::open), over any folder, which nobody else uses.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open_folder(folder: Arc<dyn Folder>, options: &StoreOptions) -> Result<Self, OpenError> {
        let manifest = open_manifest(&folder)?;
        Self::start(folder, None, manifest, options)
    }

    /// As [`open_folder`](Self::open_folder), without a thread: what is listed in the store's work is
    /// run by the caller, piece by piece. Segments may be smaller than any other's.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    #[cfg(all(any(test, feature = "testing"), not(loom)))]
    #[doc(hidden)]
    pub fn open_by_hand(
        folder: Arc<dyn Folder>,
        options: &StoreOptions,
    ) -> Result<Self, OpenError> {
        let manifest = open_manifest(&folder)?;
        let sizes = SegmentSizes {
            first_bytes: options.segment_bytes_first,
            largest_bytes: options.segment_bytes_max,
        };
        Self::recover(folder, None, manifest, sizes)
    }

    /// Does one piece of what is listed for threads; false where nothing of the kind is.
    #[cfg(all(any(test, feature = "testing"), not(loom)))]
    #[doc(hidden)]
    pub fn work_by_hand(&self, piece: crate::crash::Piece) -> bool {
        self.shared.work.by_hand(piece)
    }

    fn start(
        folder: Arc<dyn Folder>,
        lock: Option<FolderLock>,
        manifest: Manifest,
        options: &StoreOptions,
    ) -> Result<Self, OpenError> {
        let store = Self::recover(folder, lock, manifest, segment_sizes(options))?;
        store.start_threads(options.sync_workers.max(1))?;
        Ok(store)
    }

    fn recover(
        folder: Arc<dyn Folder>,
        lock: Option<FolderLock>,
        mut manifest: Manifest,
        sizes: SegmentSizes,
    ) -> Result<Self, OpenError> {
        let boot_epoch = manifest.state().boot_epoch + 1;
        let boot = Entry::Boot {
            epoch: boot_epoch,
            boot_id: kernel_boot_id(),
        };
        manifest.commit(&[boot]).map_err(OpenError::Manifest)?;
        let (recoveries, failed) = recover_all(&folder, &mut manifest);
        let state = manifest.state().clone();
        for (id, log) in &state.logs {
            remove_leftovers(folder.as_ref(), state.folder_id, *id, log);
        }
        let shared = Arc::new(Shared::new(folder, state.folder_id, sizes, manifest));
        let logs = build_logs(&shared, &state, &failed);
        Ok(Self {
            boot_epoch,
            recoveries,
            logs: Mutex::new(Some(logs)),
            threads: Mutex::new(Vec::new()),
            shared,
            lock: Mutex::new(lock),
            closed: Mutex::new(None),
        })
    }

    fn start_threads(&self, sync_workers: usize) -> Result<(), OpenError> {
        let mut threads = Vec::new();
        let mut start = |name: String, run: fn(&Shared)| -> Result<(), OpenError> {
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new()
                .name(name)
                .spawn(move || run(&shared))
                .map_err(OpenError::Thread)?;
            threads.push(thread);
            Ok(())
        };
        let mut all = || {
            for number in 0..sync_workers {
                start(format!("ms-sync-{number}"), |shared| {
                    shared.work.run_sync_worker();
                })?;
            }
            start("ms-prepare".to_owned(), |shared| {
                shared.work.run_preparer();
            })?;
            start("ms-finish".to_owned(), |shared| shared.work.run_finisher())?;
            start("ms-fetch".to_owned(), |shared| shared.work.run_fetcher())
        };
        let started = all();
        *lock_plain(&self.threads) = threads;
        started
    }

    /// The folder's id.
    #[must_use]
    pub fn folder_id(&self) -> [u8; 16] {
        self.shared.folder_id
    }

    /// Number of this start.
    #[must_use]
    pub fn boot_epoch(&self) -> u32 {
        self.boot_epoch
    }

    /// What recovery found when the store was opened.
    #[must_use]
    pub fn recoveries(&self) -> &[LogRecovery] {
        &self.recoveries
    }

    /// The folder's checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(&self.shared.folder)
    }

    /// A file in the folder's file system that has no name and goes with the process.
    ///
    /// # Errors
    ///
    /// What the disk said.
    pub fn create_scratch(&self) -> io::Result<Box<dyn ScratchFile>> {
        self.shared.folder.create_scratch()
    }

    /// Has `ring` called whenever a segment was made or finished, by the thread that did: it must not wait. The
    /// first call holds.
    pub fn on_segment(&self, ring: impl Fn() + Send + Sync + 'static) {
        self.shared.segment_bell.set(ring);
    }

    /// The log of `name`.
    #[must_use]
    pub fn log(&self, name: &TopicName) -> Option<Arc<Log>> {
        lock_plain(&self.logs).as_ref()?.get(name).cloned()
    }

    /// All logs, by name.
    #[must_use]
    pub fn logs(&self) -> Vec<Arc<Log>> {
        lock_plain(&self.logs)
            .as_ref()
            .map(|logs| logs.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Makes a log; it is in the synced manifest when this returns.
    ///
    /// # Errors
    ///
    /// See [`CreateError`].
    pub fn create_log(
        &self,
        name: &TopicName,
        durability: Durability,
    ) -> Result<Arc<Log>, CreateError> {
        let mut guard = lock_plain(&self.logs);
        let logs = guard.as_mut().ok_or(CreateError::Closed)?;
        if let Some(log) = logs.get(name) {
            return Err(CreateError::Exists(Arc::clone(log)));
        }
        let mut incarnation = [0; 16];
        fill_random(&mut incarnation).map_err(CreateError::Io)?;
        let mut manifest = self.shared.manifest();
        let id = manifest.state().next_log;
        self.make_log_dir(id)?;
        let created = Entry::LogCreated {
            log: id,
            incarnation,
            durability,
            name: name.as_str().to_owned(),
        };
        manifest.commit(&[created]).map_err(CreateError::Manifest)?;
        drop(manifest);
        let identity = LogIdentity {
            id,
            incarnation,
            name: name.clone(),
            durability,
        };
        let chain = Chain::new(BTreeMap::new(), Offset(0), 1);
        let log = Log::new(identity, Arc::clone(&self.shared), chain);
        logs.insert(name.clone(), Arc::clone(&log));
        Ok(log)
    }

    /// Makes a new log in the place of one that failed: same name, nothing in it, offsets above all that
    /// the old one can have given out. The old one is gone with its files: all that mattered in it is
    /// on disk elsewhere. One record of the manifest says both, so after a crash there is one of them.
    ///
    /// # Errors
    ///
    /// See [`CreateError`]; the old log is there as it was, or after a restart either.
    pub fn replace_log(&self, old: &Arc<Log>) -> Result<Arc<Log>, CreateError> {
        let mut guard = lock_plain(&self.logs);
        let logs = guard.as_mut().ok_or(CreateError::Closed)?;
        let name = old.identity().name.clone();
        let mut incarnation = [0; 16];
        fill_random(&mut incarnation).map_err(CreateError::Io)?;
        let mut manifest = self.shared.manifest();
        let id = manifest.state().next_log;
        let start = self.shared.ceiling_in(&manifest, old);
        self.make_log_dir(id)?;
        let entries = replacing(old, id, incarnation, start);
        manifest.commit(&entries).map_err(CreateError::Manifest)?;
        drop(manifest);
        let identity = LogIdentity {
            id,
            incarnation,
            name: name.clone(),
            durability: old.identity().durability,
        };
        let chain = Chain::new(BTreeMap::new(), start, FIRST_SEGMENT + 1);
        let log = Log::new(identity, Arc::clone(&self.shared), chain);
        logs.insert(name, Arc::clone(&log));
        drop(guard);
        old.shut_for(Gate::CLOSED);
        drop(old.chain().close());
        drop(old.chain().take_spares());
        old.wake_everyone();
        self.remove_files(old.identity().id);
        Ok(log)
    }

    /// No offset that `log` gave out so far, or will after a restart in its place, reaches this one.
    #[must_use]
    pub fn offset_ceiling(&self, log: &Log) -> Offset {
        self.shared.ceiling_in(&self.shared.manifest(), log)
    }

    fn make_log_dir(&self, id: LogId) -> Result<(), CreateError> {
        match self.shared.folder.make_dir(&log_dir(id)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(CreateError::Io(error))
            }
            _ => self.shared.folder.sync_dir("").map_err(CreateError::Io),
        }
    }

    /// Deletes a log: first the manifest says so, then its files go. Slices that readers hold stay
    /// valid.
    ///
    /// # Errors
    ///
    /// See [`DeleteError`].
    pub fn delete_log(&self, name: &TopicName) -> Result<(), DeleteError> {
        let mut guard = lock_plain(&self.logs);
        let logs = guard.as_mut().ok_or(DeleteError::NotFound)?;
        let log = logs.get(name).cloned().ok_or(DeleteError::NotFound)?;
        let id = log.identity().id;
        self.shared
            .commit(&[Entry::LogDeleted { log: id }])
            .map_err(DeleteError::Manifest)?;
        log.shut_for(Gate::CLOSED);
        drop(log.chain().close());
        // They go with all other files.
        drop(log.chain().take_spares());
        logs.remove(name);
        drop(guard);
        log.wake_everyone();
        self.remove_files(id);
        Ok(())
    }

    /// Removes the files of a log that the manifest no longer names.
    fn remove_files(&self, id: LogId) {
        let dir = log_dir(id);
        let removed = self.shared.folder.list(&dir).and_then(|names| {
            for name in names {
                match self.shared.folder.remove(&format!("{dir}/{name}")) {
                    // Whoever made it ready removed it as well.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    done => done?,
                }
            }
            self.shared.folder.remove_dir(&dir)
        });
        if let Err(error) = removed {
            tracing::warn!(%dir, %error, "files of a deleted topic are left behind");
        }
    }

    /// Seals and syncs every log and clears its open mark (S3). Publishing fails from then on.
    ///
    /// # Errors
    ///
    /// Names the topics that could not be synced; they keep their open mark.
    pub fn close(&self) -> Result<(), CloseError> {
        let mut closed = lock_plain(&self.closed);
        closed.get_or_insert_with(|| self.close_once()).clone()
    }

    fn close_once(&self) -> Result<(), CloseError> {
        let logs = lock_plain(&self.logs).take().unwrap_or_default();
        for log in logs.values() {
            seal_log(log);
        }
        // Footers still listed are written before the threads end.
        self.stop_threads();
        let mut topics = Vec::new();
        for log in logs.values() {
            if let Err(reason) = mark_closed(log) {
                topics.push((log.identity().name.clone(), reason));
            }
            log.wake_everyone();
        }
        // Nothing is written from here on: another process may have the folder.
        *lock_plain(&self.lock) = None;
        if topics.is_empty() {
            Ok(())
        } else {
            Err(CloseError { topics })
        }
    }

    fn stop_threads(&self) {
        self.shared.work.stop();
        let threads = std::mem::take(&mut *lock_plain(&self.threads));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a storage thread panicked");
            }
        }
        self.shared.work.clear();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "close");
        }
    }
}

/// Seals one log and syncs it to its end.
fn seal_log(log: &Arc<Log>) {
    log.shut_for(Gate::CLOSED);
    let (active, standby) = log.chain().close();
    if let Some(standby) = standby {
        log.discard(&standby);
    }
    log.remove_spares(log.chain().take_spares());
    if let Some(active) = active {
        match active.trip() {
            Some(seal) => log.seal(&active, seal, 0),
            // A publisher crossed the end and is about to write the seal.
            None => {
                while log.chain().next_base().is_none() {
                    thread::yield_now();
                }
            }
        }
    }
    if let Some(end) = log.chain().next_base() {
        // A claim still open elsewhere holds the prefix back; claims are short.
        let key = log.wait_key(Level::Stored);
        park_until(|cx| log.poll_committed(key, end, cx));
    }
    log.sync_to_end();
}

/// Clears the open mark of a log that was synced and finished to its end (S3).
fn mark_closed(log: &Arc<Log>) -> Result<(), String> {
    if let Some(poisoned) = log.poisoned() {
        return Err(poisoned.to_string());
    }
    if !log.opened().is_set() {
        return Ok(());
    }
    log.note_ends(None).map_err(|error| error.to_string())?;
    let Some(end) = log.chain().finished_to() else {
        return Err("a segment could not be finished".to_owned());
    };
    let id = log.identity().id;
    let mut manifest = log.shared().manifest();
    // A segment that was made ready and never used must not stand before the next run's.
    let unused = manifest
        .state()
        .logs
        .get(&id)
        .into_iter()
        .flat_map(|state| {
            state
                .segments
                .iter()
                .filter(|(_, segment)| segment.end.is_none() && !segment.quarantined)
                .map(|(segment, _)| Entry::SegmentDropped {
                    log: id,
                    segment: *segment,
                })
        });
    let mut entries: Vec<Entry> = unused.collect();
    entries.push(Entry::Closed {
        log: id,
        next_offset: end.0,
    });
    manifest.commit(&entries).map_err(|error| error.to_string())
}

/// As [`open_manifest`]; where the disk is full, with what was set aside for that.
fn open_on_any_disk(folder: &Arc<dyn Folder>) -> Result<Manifest, OpenError> {
    match open_manifest(folder) {
        Err(OpenError::Manifest(error))
            // It was read, so the folder is ours: there was no room to write it again.
            if error.io_kind() == io::ErrorKind::StorageFull
                && reserve::release(folder.as_ref()) =>
        {
            open_manifest(folder)
        }
        opened => opened,
    }
}

fn open_manifest(folder: &Arc<dyn Folder>) -> Result<Manifest, OpenError> {
    match Manifest::open(Arc::clone(folder)) {
        Ok((manifest, _)) => Ok(manifest),
        Err(ManifestError::Missing) => {
            let mut folder_id = [0; 16];
            fill_random(&mut folder_id).map_err(OpenError::Folder)?;
            Manifest::create(Arc::clone(folder), folder_id).map_err(OpenError::Manifest)
        }
        Err(error) => Err(OpenError::Manifest(error)),
    }
}

fn fill_random(bytes: &mut [u8; 16]) -> io::Result<()> {
    rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(())
}

/// Recovers every log with an open mark; those that can't be are given with the reason.
fn recover_all(
    folder: &Arc<dyn Folder>,
    manifest: &mut Manifest,
) -> (Vec<LogRecovery>, BTreeMap<LogId, io::Error>) {
    let state = manifest.state().clone();
    let mut recoveries = Vec::new();
    let mut failed = BTreeMap::new();
    for (id, log) in state.logs.iter().filter(|(_, log)| log.open) {
        let Ok(name) = TopicName::parse(&log.name) else {
            continue;
        };
        let open = OpenLog {
            folder: folder.as_ref(),
            folder_id: state.folder_id,
            boot_epoch: state.boot_epoch,
            id: *id,
            name,
            state: log,
        };
        match recover_one(&open, manifest) {
            Ok(report) => {
                tracing::info!("{report}");
                recoveries.push(report);
            }
            Err(error) => {
                tracing::error!(topic = %log.name, %error, "cannot recover: only its finished segments are served");
                failed.insert(*id, error);
            }
        }
    }
    (recoveries, failed)
}

fn recover_one(open: &OpenLog<'_>, manifest: &mut Manifest) -> io::Result<LogRecovery> {
    let recovered = open.recover()?;
    manifest
        .commit(&recovered.entries)
        .map_err(io::Error::other)?;
    for segment in &recovered.unused {
        let name = segment_name(open.id, *segment);
        if let Err(error) = open.folder.remove(&name) {
            tracing::warn!(%name, %error, "an unused segment is left behind");
        }
    }
    Ok(recovered.report)
}

fn build_logs(
    shared: &Arc<Shared>,
    state: &State,
    failed: &BTreeMap<LogId, io::Error>,
) -> BTreeMap<TopicName, Arc<Log>> {
    let mut logs = BTreeMap::new();
    for (id, log) in &state.logs {
        let Ok(name) = TopicName::parse(&log.name) else {
            continue;
        };
        let identity = LogIdentity {
            id: *id,
            incarnation: log.incarnation,
            name: name.clone(),
            durability: log.durability,
        };
        let built = Log::new(identity, Arc::clone(shared), chain_of(log));
        if let Some(error) = failed.get(id) {
            built.poison(error);
        }
        logs.insert(name, built);
    }
    logs
}

/// The chain of a log that nobody wrote to yet in this run.
fn chain_of(log: &LogState) -> Chain {
    let mut kept = BTreeMap::new();
    let mut next_base = log.next_offset.unwrap_or(0);
    for (number, segment) in &log.segments {
        let Some(end) = &segment.end else {
            continue;
        };
        next_base = next_base.max(end.end_offset);
        let finished = Finished {
            nonce: segment.nonce,
            base_offset: Offset(end.base_offset),
            end: SegmentEnd {
                position: end.end_position,
                offset: Offset(end.end_offset),
            },
            footer_bytes: match end.kind {
                EndKind::Sealed { footer_bytes } => footer_bytes,
                EndKind::Cut => 0,
            },
            damage: log
                .damage
                .iter()
                .filter(|damage| damage.segment == *number)
                .map(|damage| KnownDamage {
                    first_position: damage.first_position,
                    next_position: damage.next_position,
                    next_offset: Offset(damage.next_offset),
                })
                .collect(),
        };
        let len_bytes = u32::try_from(segment.len_bytes).unwrap_or(u32::MAX);
        kept.insert(*number, Kept::earlier(finished, len_bytes));
    }
    Chain::new(kept, Offset(next_base), log.next_segment.0.max(1))
}

fn segment_sizes(options: &StoreOptions) -> SegmentSizes {
    let largest_bytes = options
        .segment_bytes_max
        .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
    SegmentSizes {
        first_bytes: options
            .segment_bytes_first
            .clamp(SEGMENT_BYTES_MIN, largest_bytes),
        largest_bytes,
    }
}

/// The kernel's id of its own run; only for people to read (L4).
fn kernel_boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
}

fn lock_plain<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}
