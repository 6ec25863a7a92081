//! Under construction.

mod folder;
mod memory;

pub use folder::{Access, AppendFile, FileError, Folder, NAME_PART_BYTES_MAX};
pub use memory::SegmentMemory;
