//! A file system with a single file, `disk`, whose bytes are a [`Faulty`] disk.
//!
//! The file is opened past the page cache, so every write of the loop device above comes here at
//! once, and its flushes come as `fsync`.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request as Call, Session, WriteFlags,
};

use crate::faults::{Faulty, Refused};
use crate::image::SECTOR_BYTES;

/// The one file.
pub(crate) const FILE: &str = "disk";
const FILE_INODE: INodeNo = INodeNo(2);
/// How long the kernel may keep what it was told of a file: nothing changes.
const KEPT: Duration = Duration::from_secs(3600);

/// How flushes come to be answered.
#[derive(Debug, Default)]
enum Pace {
    /// At once.
    #[default]
    Full,
    /// After this long.
    Slow(Duration),
    /// When told so; these wait.
    Held(Vec<ReplyEmpty>),
}

/// A disk that one side uses and the other makes fail.
#[derive(Debug)]
pub(crate) struct Device {
    faulty: Mutex<Faulty>,
    pace: Mutex<Pace>,
}

impl Device {
    pub(crate) fn new(faulty: Faulty) -> Arc<Self> {
        Arc::new(Self {
            faulty: Mutex::new(faulty),
            pace: Mutex::default(),
        })
    }

    /// Offers the disk as a file in the folder `at`.
    pub(crate) fn mount(self: &Arc<Self>, at: &Path) -> io::Result<BackgroundSession> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faultdisk".into())];
        Session::new(Offered(Arc::clone(self)), at, &config)?.spawn()
    }

    pub(crate) fn faulty(&self) -> MutexGuard<'_, Faulty> {
        // A panic of a test while it looks at the disk must not stop the disk.
        self.faulty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn full_pace(&self) {
        if let Pace::Held(waiting) = std::mem::take(&mut *self.pace()) {
            waiting.into_iter().for_each(|reply| self.flush(reply));
        }
    }

    pub(crate) fn slow_flushes(&self, by: Duration) {
        *self.pace() = Pace::Slow(by);
    }

    pub(crate) fn hold_flushes(&self) {
        *self.pace() = Pace::Held(Vec::new());
    }

    /// Flushes that wait.
    pub(crate) fn held(&self) -> usize {
        match &*self.pace() {
            Pace::Held(waiting) => waiting.len(),
            Pace::Full | Pace::Slow(_) => 0,
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self, reply: ReplyEmpty) {
        match self.faulty().flush() {
            Ok(()) => reply.ok(),
            Err(Refused) => reply.error(Errno::EIO),
        }
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o700, 0),
            FILE_INODE => (
                FileType::RegularFile,
                0o600,
                self.faulty().image().len_bytes(),
            ),
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size / SECTOR_BYTES as u64,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

/// The device as the kernel calls it.
struct Offered(Arc<Device>);

impl Filesystem for Offered {
    fn lookup(&self, _call: &Call, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let there = parent == INodeNo::ROOT && name == FILE;
        match there.then(|| self.0.attributes(FILE_INODE)).flatten() {
            Some(attributes) => reply.entry(&KEPT, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _call: &Call, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attributes(inode) {
            Some(attributes) => reply.attr(&KEPT, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _call: &Call, _inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _call: &Call,
        _inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.0.faulty().read(offset, size as usize);
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(Refused) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _call: &Call,
        _inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.0.faulty().write(offset, data);
        match written {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(Refused) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _call: &Call, _inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let slow = match &mut *self.0.pace() {
            Pace::Full => None,
            Pace::Slow(by) => Some(*by),
            Pace::Held(waiting) => return waiting.push(reply),
        };
        let Some(by) = slow else {
            return self.0.flush(reply);
        };
        let device = Arc::clone(&self.0);
        thread::spawn(move || {
            thread::sleep(by);
            device.flush(reply);
        });
    }

    fn flush(&self, _call: &Call, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // A file was closed, which makes nothing safe.
        reply.ok();
    }
}
