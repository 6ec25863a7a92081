//! Under construction.

mod disk;
mod folder;
mod heap;
mod lock;
mod memory;

pub use disk::DiskFolder;
pub use folder::{Access, AppendFile, FileError, Folder, NAME_PART_BYTES_MAX};
pub use heap::{Failure, HeapFolder, Operation};
pub use lock::{FolderLock, LOCK_FILE, LockError};
pub use memory::SegmentMemory;
