//! One process owns a data folder: a lock on the file `lock` in it.
//!
//! The lock is `flock`, so it ends with the process however that ends; the file stays and means
//! nothing by itself. Its content is the owner's process id in decimal and a line feed, for whoever
//! is refused; an owner that leaves in peace empties it. A killed process may hold its lock for a
//! moment longer, while the kernel takes it apart, so a taker retries for two seconds.
//!
//! The descriptor is never given out: registered in a ring, it would outlive the process for longer.

use std::error::Error;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::{Pid, test_kill_process};

/// Name of the lock file in its folder.
pub const LOCK_FILE: &str = "lock";
/// How long a taker retries before it says that the folder is in use.
const PATIENCE: Duration = Duration::from_secs(2);
/// Wait between two tries.
const RETRY: Duration = Duration::from_millis(20);
/// Most bytes a lock file of ours can have: ten digits and a line feed.
const CONTENT_BYTES_MAX: usize = 11;
const FILE_MODE: u32 = 0o640;

/// The right to use a data folder, held until this is dropped.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
    path: PathBuf,
    hold: Hold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The owner's, on a file that was there.
    Owned,
    /// The owner's, on a file made by him.
    OwnedNew,
    /// A reader's, shared.
    Shared,
}

impl FolderLock {
    /// Makes this process the owner of the folder `path`, which exists.
    ///
    /// Retries for two seconds while another process has it.
    ///
    /// # Errors
    ///
    /// Each is one sentence about `path`; nothing in the folder has changed.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        Self::acquire_within(path, PATIENCE)
    }

    /// Like [`acquire`](Self::acquire), but retries for `patience`.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_within(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let until = Instant::now() + patience;
        let (file, hold) = loop {
            let (file, hold) = open_or_create(path)?;
            wait_for(&file, path, FlockOperation::NonBlockingLockExclusive, until)?;
            if still_named(&file, path)? {
                break (file, hold);
            }
        };
        let path = path.to_path_buf();
        // A file with anything else in it is not ours to write.
        if read_owner(&file) == Content::Foreign {
            return Err(LockError::Foreign { path });
        }
        // The lock holds without it: on a full disk the next taker just gets no process id.
        let _ = write_owner(&file);
        Ok(Self { file, path, hold })
    }

    /// Keeps owners out of the folder while it is looked at, without changing a byte of it.
    ///
    /// `None` when the folder has no lock file, so that there is nothing to hold; an owner may then
    /// come at any time. Retries like [`acquire`](Self::acquire).
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn observe(path: &Path) -> Result<Option<Self>, LockError> {
        Self::observe_within(path, PATIENCE)
    }

    fn observe_within(path: &Path, patience: Duration) -> Result<Option<Self>, LockError> {
        let file = match options().read(true).open(path.join(LOCK_FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound && path.is_dir() => return Ok(None),
            Err(error) => return Err(LockError::of(path, error)),
        };
        let until = Instant::now() + patience;
        wait_for(&file, path, FlockOperation::NonBlockingLockShared, until)?;
        Ok(Some(Self {
            file,
            path: path.to_path_buf(),
            hold: Hold::Shared,
        }))
    }

    /// Lets the folder go and leaves it as it was found: a lock file made by this owner is removed.
    ///
    /// For one who takes the lock and then finds that the folder is none of his.
    pub fn abandon(self) {
        if self.hold == Hold::OwnedNew {
            // A lock file that stays does no harm; the lock is on the file, and ends with it.
            let _ = std::fs::remove_file(self.path.join(LOCK_FILE));
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if self.hold != Hold::Shared {
            // Only a courtesy: a stale process id is checked before it is named.
            let _ = self.file.set_len(0);
        }
    }
}

/// Why a folder could not be locked.
#[derive(Debug)]
#[non_exhaustive]
pub enum LockError {
    /// Another process has it.
    InUse {
        /// The data folder.
        path: PathBuf,
        /// The owner, when the lock file names a process that lives.
        pid: Option<u32>,
    },
    /// The folder holds a file named `lock` that Millstream did not write.
    Foreign {
        /// The data folder.
        path: PathBuf,
    },
    /// There is no such folder.
    Missing {
        /// The data folder.
        path: PathBuf,
    },
    /// The path is not a folder.
    NotAFolder {
        /// The data folder.
        path: PathBuf,
    },
    /// The file system can't be written.
    ReadOnly {
        /// The data folder.
        path: PathBuf,
    },
    /// The user of this process may not write there.
    PermissionDenied {
        /// The data folder.
        path: PathBuf,
    },
    /// The disk said something else.
    Io {
        /// The data folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl LockError {
    fn of(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            ErrorKind::NotFound => Self::Missing { path },
            ErrorKind::NotADirectory => Self::NotAFolder { path },
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            ErrorKind::PermissionDenied => Self::PermissionDenied { path },
            ErrorKind::IsADirectory => Self::Foreign { path },
            _ => Self::Io { path, source },
        }
    }
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse {
                path,
                pid: Some(pid),
            } => {
                write!(
                    f,
                    "data folder {} is in use by process {pid}: stop that, or choose another folder",
                    path.display()
                )
            }
            Self::InUse { path, pid: None } => {
                write!(
                    f,
                    "data folder {} is in use by another process: stop that, or choose another folder",
                    path.display()
                )
            }
            Self::Foreign { path } => write!(
                f,
                "{} holds a file named {LOCK_FILE:?} that is not Millstream's; it was left alone",
                path.display()
            ),
            Self::Missing { path } => write!(f, "there is no data folder {}", path.display()),
            Self::NotAFolder { path } => write!(f, "{} is not a folder", path.display()),
            Self::ReadOnly { path } => {
                write!(
                    f,
                    "data folder {} is on a read-only file system",
                    path.display()
                )
            }
            Self::PermissionDenied { path } => {
                write!(
                    f,
                    "data folder {} may not be written by this user",
                    path.display()
                )
            }
            Self::Io { path, source } => {
                write!(f, "cannot lock data folder {}: {source}", path.display())
            }
        }
    }
}

impl Error for LockError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// What a lock file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Empty,
    Owner(u32),
    Foreign,
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // No link is followed, and nothing that is not a plain file can block the opening.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options
        .mode(FILE_MODE)
        .custom_flags(flags.bits().cast_signed());
    options
}

fn open_or_create(path: &Path) -> Result<(File, Hold), LockError> {
    let name = path.join(LOCK_FILE);
    loop {
        match options().read(true).write(true).open(&name) {
            Ok(file) => return Ok((file, Hold::Owned)),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(LockError::of(path, error));
            }
            Err(_) => {}
        }
        match options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&name)
        {
            Ok(file) => return Ok((file, Hold::OwnedNew)),
            // Made by another in between: it is there to be opened now.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(LockError::of(path, error)),
        }
    }
}

/// Tries for the lock until it is ours or the time has come.
fn wait_for(
    file: &File,
    path: &Path,
    operation: FlockOperation,
    until: Instant,
) -> Result<(), LockError> {
    loop {
        match flock(file, operation).map_err(io::Error::from) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                return Err(LockError::of(path, error));
            }
            Err(_) if Instant::now() >= until => {
                return Err(LockError::InUse {
                    path: path.to_path_buf(),
                    pid: living_owner(file),
                });
            }
            Err(_) => std::thread::sleep(RETRY),
        }
    }
}

/// Whether the locked file is still the one that has the name: its owner may have removed it while
/// we waited, and a lock on a file without a name keeps nobody out.
fn still_named(file: &File, path: &Path) -> Result<bool, LockError> {
    let ours = file
        .metadata()
        .map_err(|error| LockError::of(path, error))?;
    match path.join(LOCK_FILE).symlink_metadata() {
        Ok(named) => Ok((ours.dev(), ours.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(LockError::of(path, error)),
    }
}

fn living_owner(file: &File) -> Option<u32> {
    let Content::Owner(pid) = read_owner(file) else {
        return None;
    };
    let known = Pid::from_raw(pid.cast_signed())?;
    match test_kill_process(known) {
        // It lives, ours to signal or not.
        Ok(()) | Err(rustix::io::Errno::PERM) => Some(pid),
        Err(_) => None,
    }
}

fn read_owner(file: &File) -> Content {
    let mut bytes = Vec::new();
    let mut from = file;
    let limit = CONTENT_BYTES_MAX as u64 + 1;
    let read = io::Seek::rewind(&mut from).and_then(|()| from.take(limit).read_to_end(&mut bytes));
    if read.is_err() || bytes.len() > CONTENT_BYTES_MAX {
        return Content::Foreign;
    }
    if bytes.is_empty() {
        return Content::Empty;
    }
    let digits = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let number = std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok());
    number.map_or(Content::Foreign, Content::Owner)
}

fn write_owner(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    io::Seek::rewind(&mut file)?;
    match writeln!(file, "{}", std::process::id()) {
        // Who owns the folder is told by the lock; its number is for people, and a full disk has none.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => file.set_len(0),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn now() -> Duration {
        Duration::ZERO
    }

    #[test]
    fn a_second_taker_gets_the_owners_pid() {
        let root = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(root.path()).unwrap();
        let error = FolderLock::acquire_within(root.path(), now()).unwrap_err();
        assert!(
            matches!(&error, LockError::InUse { pid: Some(pid), .. } if *pid == std::process::id()),
            "{error:?}"
        );
        assert!(
            error
                .to_string()
                .contains(&format!(" by process {}: ", std::process::id()))
        );
        drop(lock);
        FolderLock::acquire_within(root.path(), now()).unwrap();
    }

    #[test]
    fn a_taker_waits_for_an_owner_who_is_leaving() {
        let root = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(root.path()).unwrap();
        std::thread::scope(|scope| {
            let taker =
                scope.spawn(|| FolderLock::acquire_within(root.path(), Duration::from_secs(60)));
            drop(lock);
            taker.join().unwrap().unwrap();
        });
    }

    #[test]
    fn the_pid_of_a_dead_owner_is_not_named() {
        let root = tempfile::tempdir().unwrap();
        let holder = FolderLock::acquire(root.path()).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        std::fs::write(root.path().join(LOCK_FILE), format!("{dead}\n")).unwrap();
        let error = FolderLock::acquire_within(root.path(), now()).unwrap_err();
        assert!(
            matches!(error, LockError::InUse { pid: None, .. }),
            "{error:?}"
        );
        drop(holder);
    }

    #[test]
    fn a_stale_pid_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(LOCK_FILE);
        std::fs::write(&path, b"4294967295\n").unwrap();
        let lock = FolderLock::acquire_within(root.path(), now()).unwrap();
        let owner = format!("{}\n", std::process::id());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), owner);
        drop(lock);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn a_foreign_file_named_lock_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(LOCK_FILE);
        for content in ["my notes", "12 34\n", "-7\n", "123456789012345\n"] {
            std::fs::write(&path, content).unwrap();
            let error = FolderLock::acquire_within(root.path(), now()).unwrap_err();
            assert!(matches!(error, LockError::Foreign { .. }), "{error:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = FolderLock::acquire_within(root.path(), now()).unwrap_err();
        assert!(matches!(error, LockError::Foreign { .. }), "{error:?}");
    }

    #[test]
    fn a_link_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("target");
        std::fs::write(&target, b"").unwrap();
        std::os::unix::fs::symlink(&target, root.path().join(LOCK_FILE)).unwrap();
        let error = FolderLock::acquire_within(root.path(), now()).unwrap_err();
        assert!(matches!(error, LockError::Io { .. }), "{error:?}");
        assert_eq!(std::fs::read(&target).unwrap(), b"");
    }

    #[test]
    fn an_abandoned_folder_is_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        FolderLock::acquire(root.path()).unwrap().abandon();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        drop(FolderLock::acquire(root.path()).unwrap());
        FolderLock::acquire(root.path()).unwrap().abandon();
        assert!(root.path().join(LOCK_FILE).exists(), "it was there before");
    }

    #[test]
    fn a_lock_on_a_removed_file_is_not_taken_for_the_folders() {
        let root = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(root.path()).unwrap();
        std::fs::remove_file(root.path().join(LOCK_FILE)).unwrap();
        assert!(!still_named(&lock.file, root.path()).unwrap());
        let second = FolderLock::acquire_within(root.path(), now()).unwrap();
        assert!(still_named(&second.file, root.path()).unwrap());
    }

    #[test]
    fn observers_share_and_keep_owners_out() {
        let root = tempfile::tempdir().unwrap();
        assert!(FolderLock::observe(root.path()).unwrap().is_none());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        let owner = FolderLock::acquire(root.path()).unwrap();
        let error = FolderLock::observe_within(root.path(), now()).unwrap_err();
        assert!(
            matches!(error, LockError::InUse { pid: Some(_), .. }),
            "{error:?}"
        );
        drop(owner);
        let first = FolderLock::observe(root.path()).unwrap();
        let second = FolderLock::observe(root.path()).unwrap();
        assert!(first.is_some() && second.is_some());
        let error = FolderLock::acquire_within(root.path(), now()).unwrap_err();
        assert!(matches!(error, LockError::InUse { .. }), "{error:?}");
    }

    #[test]
    fn what_is_no_folder_is_said_in_one_sentence() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("missing");
        let error = FolderLock::acquire(&missing).unwrap_err();
        assert!(matches!(error, LockError::Missing { .. }), "{error:?}");
        let error = FolderLock::observe(&missing).unwrap_err();
        assert!(matches!(error, LockError::Missing { .. }), "{error:?}");
        let file = root.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = FolderLock::acquire(&file).unwrap_err();
        assert!(matches!(error, LockError::NotAFolder { .. }), "{error:?}");
        assert!(error.to_string().ends_with("file is not a folder"));
    }

    #[test]
    fn a_folder_one_may_not_write_is_said_so() {
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o500)).unwrap();
        match FolderLock::acquire(root.path()) {
            Err(error) => assert!(
                matches!(error, LockError::PermissionDenied { .. }),
                "{error:?}"
            ),
            Ok(lock) => {
                println!("not shown: this user may write everywhere");
                lock.abandon();
            }
        }
        let error = LockError::of(root.path(), ErrorKind::ReadOnlyFilesystem.into());
        assert!(
            error.to_string().ends_with("is on a read-only file system"),
            "{error}"
        );
        std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o700)).unwrap();
    }
}
