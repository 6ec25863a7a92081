//! A disk in use: offered, looped and mounted, and taken away again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::BackgroundSession;
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};

use crate::device::{Device, FILE};
use crate::faults::{Counts, Fault, Faulty, Request};
use crate::image::{Image, Survived};

/// How long an unmount may find the file system in use: a killed process may hold its files a
/// little longer than it can be waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gives the calling thread, and what it starts from now on, mounts of its own.
///
/// # Errors
///
/// What is missing for a disk that fails, in words.
pub fn isolate() -> Result<(), String> {
    for device in ["/dev/fuse", "/dev/loop-control"] {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(device)
            .map_err(|error| format!("{device}: {error}"))?;
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("mounts of its own: {error}"))?;
    let alone = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", alone).map_err(|error| format!("mounts of its own: {error}"))
}

/// A file system that a disk can be formatted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// ext4, in its default mode.
    Ext4,
    /// xfs, which needs 300 MiB at least.
    Xfs,
}

impl Format {
    /// Its name, as `mount` knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Makes an empty file system on a disk of `len_bytes`, with the program of the system.
    ///
    /// # Errors
    ///
    /// `NotFound` where the system has no such program, else what it said.
    pub fn make(self, len_bytes: u64, scratch: &Path) -> io::Result<Image> {
        let path = scratch.join("unformatted");
        File::create(&path)?.set_len(len_bytes)?;
        let mut command = match self {
            Self::Ext4 => {
                let mut command = Command::new("mkfs.ext4");
                // Nothing of it is left to be done later, in the middle of a test.
                command.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
                command
            }
            Self::Xfs => {
                let mut command = Command::new("mkfs.xfs");
                command.args(["-q", "-f"]);
                command
            }
        };
        succeed(command.arg(&path).output()?)?;
        let image = Image::read_from(&path)?;
        fs::remove_file(&path)?;
        Ok(image)
    }
}

/// A disk that can be made to fail, with a mounted file system on it.
///
/// Dropping it unmounts everything, without waiting for what is still in use.
#[derive(Debug)]
pub struct FaultDisk {
    device: Arc<Device>,
    // Unmounted before the session ends, which would fail what is still to be written.
    mounted: Mounted,
    offered: Mounted,
    _session: BackgroundSession,
}

impl FaultDisk {
    /// Puts power on a disk that holds `image` and mounts it; the folders for that are made in
    /// `place`, and their names are not used before.
    ///
    /// # Errors
    ///
    /// What the system says, as when the file system on the disk is beyond repair.
    pub fn insert(image: Image, format: Format, place: &Path) -> io::Result<Self> {
        let device = Device::new(Faulty::new(image));
        let offered = free_folder(place, "device")?;
        let session = device.mount(&offered)?;
        let offered = Mounted(offered);
        let files = free_folder(place, "files")?;
        let mounted = Mounted::at_loop(&offered.0.join(FILE), format, files)?;
        Ok(Self {
            device,
            mounted,
            offered,
            _session: session,
        })
    }

    /// The root of the mounted file system.
    pub fn files(&self) -> &Path {
        self.mounted.files()
    }

    /// Requests so far.
    pub fn counts(&self) -> Counts {
        self.device.faulty().counts()
    }

    /// Sets `fault` for the `nth` request of a kind from now on, 1 being the next.
    pub fn arm(&self, request: Request, nth: u64, fault: Fault) {
        self.device.faulty().arm(request, nth, fault);
    }

    /// Lets nothing go wrong any more, a power cut that was excepted.
    pub fn disarm(&self) {
        self.device.faulty().disarm();
    }

    /// From now on the bits of `mask` are read wrong in the byte at `at`.
    pub fn flip(&self, at: u64, mask: u8) {
        self.device.faulty().flip(at, mask);
    }

    /// Where on the disk `wanted` safely stands for the first time, within one sector.
    pub fn find(&self, wanted: &[u8]) -> Option<u64> {
        self.device.faulty().image().find(wanted)
    }

    /// Cuts the power now. A second cut does nothing.
    pub fn cut(&self, seed: u64) {
        self.device.faulty().cut(seed);
        // What waits is answered: with an error.
        self.device.full_pace();
    }

    /// What the power cut left, once there was one.
    pub fn survived(&self) -> Option<Survived> {
        self.device.faulty().survived()
    }

    /// From now on a flush takes so long.
    pub fn slow_flushes(&self, by: Duration) {
        self.device.slow_flushes(by);
    }

    /// From now on flushes wait until what this gives is dropped; then each is answered at once.
    ///
    /// A process that waits for one can't be killed, so it must be dropped before a server is.
    pub fn hold_flushes(&self) -> Held {
        self.device.hold_flushes();
        Held(Arc::clone(&self.device))
    }

    /// Unmounts it and gives what it holds: after a power cut what survived, else everything.
    ///
    /// # Errors
    ///
    /// Without a power cut, if the file system stays in use.
    pub fn remove(self) -> io::Result<Image> {
        if self.survived().is_none() {
            self.mounted.unmount()?;
            // The loop device is let go behind the unmount, and flushes once more for that.
            self.offered.unmount()?;
        }
        let mut faulty = self.device.faulty();
        faulty.cut(0);
        Ok(faulty.image().clone())
    }
}

/// Holds the flushes of a disk.
#[derive(Debug)]
pub struct Held(Arc<Device>);

impl Held {
    /// Flushes that wait.
    pub fn waiting(&self) -> usize {
        self.0.held()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.full_pace();
    }
}

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts the file system in the file `image` over a loop device that goes with the mount.
    ///
    /// # Errors
    ///
    /// What `mount` says.
    pub fn at_loop(image: &Path, format: Format, files: PathBuf) -> io::Result<Self> {
        let options = match format {
            Format::Ext4 => "loop",
            // The same disk may still be mounted elsewhere, without power and in use.
            Format::Xfs => "loop,nouuid",
        };
        let mut command = Command::new("mount");
        command.args(["-t", format.name(), "-o", options]);
        succeed(command.arg(image).arg(&files).output()?)?;
        Ok(Self(files))
    }

    /// Mounts an empty file system in memory that takes so many bytes.
    ///
    /// # Errors
    ///
    /// What `mount` says.
    pub fn in_memory(len_bytes: u64, files: PathBuf) -> io::Result<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={len_bytes}"), "tmpfs"]);
        succeed(command.arg(&files).output()?)?;
        Ok(Self(files))
    }

    /// Its root.
    pub fn files(&self) -> &Path {
        &self.0
    }

    /// Unmounts it, once nothing uses it any more.
    fn unmount(&self) -> io::Result<()> {
        let given_up = Instant::now() + PATIENCE;
        loop {
            match succeed(Command::new("umount").arg(&self.0).output()?) {
                Err(_) if Instant::now() < given_up => {}
                done => return done,
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It may have been unmounted before.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn free_folder(place: &Path, name: &str) -> io::Result<PathBuf> {
    for number in 0_u32.. {
        let path = place.join(format!("{name}-{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no name is free"))
}

fn succeed(output: Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}
