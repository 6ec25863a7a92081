//! The data folder as the log sees it: names, segments, and files that only grow.
//!
//! [`Folder`] is one of the two seams of this crate (the other is [`SegmentMemory`]). A
//! [`DiskFolder`](crate::DiskFolder) is a directory; a [`HeapFolder`](crate::HeapFolder) is its twin
//! for tests, which also fails on request. One test suite runs against both.
//!
//! # Names
//!
//! A name is relative to the folder and has one part (`manifest`) or two
//! (`log-00000001/00000003.seg`). A part is 1 to 255 bytes, is neither `.` nor `..`, and holds no
//! slash and no NUL. The folder itself, where a directory is asked for, is the empty name. Any other
//! name is refused with `InvalidInput` before the disk is asked.
//!
//! # What survives
//!
//! A name and the bytes behind it are two things. Bytes survive once their file was synced; a name
//! made, renamed or removed survives once [`sync_dir`](Folder::sync_dir) of its directory returned.
//! Nothing here syncs a directory unasked.

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::memory::SegmentMemory;
use crate::scratch::ScratchFile;

/// Longest part of a name, in bytes: what Linux file systems take.
pub const NAME_PART_BYTES_MAX: usize = 255;

/// What a segment is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its memory is only read; storing into it is a fault.
    Read,
    /// Its memory is read and written.
    ReadWrite,
}

/// How the blocks of a new segment are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// Written with zeros: stores into them, and syncs of little, cost a fraction of what they cost in
    /// reserved ones; but every byte goes to the disk twice.
    Written {
        /// Bytes of one write, a power of two. The kernel may keep what one write made as one: a first
        /// store into it brings in all of it, and a sync of a byte of it writes all of it.
        piece_bytes: u32,
    },
    /// Reserved: for publishers that fill segments faster than zeros can be written ahead of them.
    Reserved,
}

/// One data folder.
///
/// All methods may be called from several threads; two calls about the same name at the same time
/// are the caller's mistake and end in either order.
///
/// Errors carry the operation and the path ([`FileError`]) and keep the kind of the cause:
/// `StorageFull`, `NotFound`, `AlreadyExists`, `PermissionDenied`, `ReadOnlyFilesystem` and so on.
pub trait Folder: Send + Sync + fmt::Debug {
    /// Makes a segment of `len_bytes` zeros: a new file, all of it allocated, its blocks as `blocks`
    /// says, and synced. Not yet synced is its name.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when there is such a file, which is left alone; `StorageFull` when there is no
    /// room; what the disk said. What was made is removed again.
    fn create_segment(
        &self,
        name: &str,
        len_bytes: usize,
        blocks: Blocks,
    ) -> io::Result<Arc<dyn SegmentMemory>>;

    /// Makes a segment of the file `from`, which served as one and which nobody has mapped: it is called `to`
    /// from now on and has `len_bytes` bytes, as many as it had when it was made, all allocated. They are what they
    /// were, zeros where the file was shorter. Nothing of it is synced.
    ///
    /// `None`, and `from` is still there, where a new one costs less, since its pages have left memory, and where
    /// the file system can't allocate, or can't give a name without replacing.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when there is a file `to`; `StorageFull`; what the disk said. `from` is still there.
    fn reuse_segment(
        &self,
        from: &str,
        to: &str,
        len_bytes: usize,
    ) -> io::Result<Option<Arc<dyn SegmentMemory>>>;

    /// Maps a segment that exists, as long as its file is now.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what the disk said. A short file is no error: the caller compares
    /// [`SegmentMemory::len_bytes`] to what it expects.
    fn open_segment(&self, name: &str, access: Access) -> io::Result<Arc<dyn SegmentMemory>>;

    /// Makes a directory.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`, or what the disk said.
    fn make_dir(&self, name: &str) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    ///
    /// `DirectoryNotEmpty`, `NotFound`, or what the disk said.
    fn remove_dir(&self, name: &str) -> io::Result<()>;

    /// Makes a file of `bytes`, whole and synced. Its name is not synced.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when there is such a file, which is left alone; `StorageFull`; what the disk
    /// said. What was made is removed again.
    fn create_file(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Opens a file that exists, to write behind its end.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what the disk said.
    fn append_file(&self, name: &str) -> io::Result<Box<dyn AppendFile>>;

    /// The whole content of a file. The caller bounds it by asking [`len`](Self::len) first.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what the disk said.
    fn read_file(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Copies the bytes `range` of the file `from` into a new file `to`, whole and synced, in pieces.
    /// The name of the copy is not synced.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when `from` ends before the range does; else as [`create_file`](Self::create_file).
    fn copy_range(&self, from: &str, range: Range<u64>, to: &str) -> io::Result<()>;

    /// A file without a name, for what need not last.
    ///
    /// # Errors
    ///
    /// What the disk said.
    fn create_scratch(&self) -> io::Result<Box<dyn ScratchFile>>;

    /// Names in a directory, sorted, of files and of directories alike. A name that is not UTF-8 is
    /// given with replacement characters, and can't be opened by them.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what the disk said.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Gives the file `from` the name `to` in one step, which replaces a file that had it.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what the disk said.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Memory mapped from it stays what it is until it is let go.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what the disk said.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Brings the names in a directory to the disk.
    ///
    /// # Errors
    ///
    /// What the disk said. Which names the disk then holds is unknown.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Length of a file in bytes.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what the disk said.
    fn len(&self, name: &str) -> io::Result<u64>;
}

/// A file that is only written behind its end.
///
/// After an error of [`append`](Self::append) or [`sync`](Self::sync) what the file holds is unknown
/// and stays so: a second sync may return `Ok` and prove nothing. The caller gives the file up.
pub trait AppendFile: Send + fmt::Debug {
    /// Makes sure that the next `len_bytes` appended find room on the disk, where it can tell.
    ///
    /// # Errors
    ///
    /// `StorageFull` and others. Content and length of the file are as before, and it stays usable.
    fn reserve(&mut self, len_bytes: u64) -> io::Result<()>;

    /// Writes `bytes` behind the end.
    ///
    /// # Errors
    ///
    /// What the disk said; some of the bytes may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Brings everything appended so far to the disk.
    ///
    /// # Errors
    ///
    /// What the disk said.
    fn sync(&mut self) -> io::Result<()>;

    /// Tells the handle that its file was renamed, so that errors name it right from now on.
    fn set_name(&mut self, name: &str);
}

/// An error of the disk with what was being done, to which file. It is the payload of the
/// [`io::Error`]s that a [`Folder`] returns.
#[derive(Debug)]
pub struct FileError {
    operation: &'static str,
    path: String,
    source: io::Error,
}

impl FileError {
    /// Wraps `source`, keeping its kind.
    pub(crate) fn wrap(
        operation: &'static str,
        path: impl Into<String>,
        source: io::Error,
    ) -> io::Error {
        io::Error::new(
            source.kind(),
            Self {
                operation,
                path: path.into(),
                source,
            },
        )
    }

    /// What was being done: `create`, `sync`, and the like.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// The file it was done to.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The system's error number, when the system made the error.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot {} {}: {}",
            self.operation, self.path, self.source
        )
    }
}

impl Error for FileError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Refuses a file name that is not of the form the module describes.
pub(crate) fn check_file_name(name: &str) -> io::Result<()> {
    let mut parts = name.split('/');
    let fine = parts.next().is_some_and(part_is_fine)
        && parts.next().is_none_or(part_is_fine)
        && parts.next().is_none();
    if fine { Ok(()) } else { Err(bad_name(name)) }
}

/// Refuses a directory name that is neither empty (the folder itself) nor one part.
pub(crate) fn check_dir_name(name: &str) -> io::Result<()> {
    if name.is_empty() || part_is_fine(name) {
        Ok(())
    } else {
        Err(bad_name(name))
    }
}

fn part_is_fine(part: &str) -> bool {
    (1..=NAME_PART_BYTES_MAX).contains(&part.len())
        && part != "."
        && part != ".."
        && !part.contains(['/', '\0'])
}

fn bad_name(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{name:?} is no name in a data folder"),
    )
}
