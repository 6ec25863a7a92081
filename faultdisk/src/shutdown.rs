//! Stops a mounted file system where it stands: what it has not written, it never will.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::ioctl::{self, Setter, opcode};

/// What a file system still does when it is shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Shutdown {
    /// Writes all data and its log.
    Flush = 0,
    /// Writes its log, not the data.
    Log = 1,
    /// Writes nothing.
    Nothing = 2,
}

/// `_IOR('X', 125, u32)`: ext4, xfs, f2fs and others share it.
const FS_IOC_SHUTDOWN: ioctl::Opcode = opcode::read::<u32>(b'X', 125);

/// Shuts down the file system that `folder` is on; all that uses it gets `EIO` from then on.
///
/// # Errors
///
/// As the kernel says: `ENOTTY` where the file system can't be shut down, `EPERM` without root.
pub fn shut_down(folder: &Path, how: Shutdown) -> io::Result<()> {
    let folder = File::open(folder)?;
    // SAFETY: the number is that of FS_IOC_SHUTDOWN, which reads one u32 at the address it gets;
    // `Setter` gives the address of the u32 it owns.
    let request = unsafe { Setter::<FS_IOC_SHUTDOWN, u32>::new(how as u32) };
    // SAFETY: as above; it writes to no memory of ours.
    unsafe { ioctl::ioctl(&folder, request) }?;
    Ok(())
}
