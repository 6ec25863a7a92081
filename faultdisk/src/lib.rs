//! A disk for tests, below a real file system, that fails as it is told.
//!
//! ```text
//!  the program under test: mmap, fdatasync, io_uring
//!  ext4 or xfs of the kernel
//!  loop device
//!  FUSE: one file, `disk`
//!  sectors in memory: safe ones, and those written since the last flush   ◀── the test: FaultDisk
//! ```
//! Whatever the program uses to write comes by here, so nothing needs to be preloaded or injected,
//! and what the kernel makes of an error (it tells each open file once, and calls the page clean)
//! is the kernel's own doing.
//!
//! The model of the disk: a write goes to the disk's own memory; a flush makes all of it safe; a
//! power cut leaves of each sector written since the last flush the old or the new content, by
//! seed. A write that fails changes nothing, a flush that fails makes nothing safe.
//!
//! Needs root, `/dev/fuse` and loop devices: [`isolate`] tells. All mounts are made in a mount
//! namespace of the calling thread, so they go with the test, and its loop devices with them,
//! however it ends. Mounting and unmounting are done by other processes: one that waited inside the
//! kernel for its own file system could not be killed.

mod device;
mod faults;
mod image;
mod loaded;
mod shutdown;

pub use faults::{Counts, Fault, Request};
pub use image::{Image, Survived};
pub use loaded::{FaultDisk, Format, Held, Mounted, isolate};
pub use shutdown::{Shutdown, shut_down};
