//! The file system that holds the data folder: its kind, what a sync costs, how much room there is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, statfs, statvfs};

use super::{Finding, show_bytes};

/// Bytes of one measured write.
const WRITE_BYTES: usize = 4096;
/// A sync slower than this, once in a hundred, makes publishers wait noticeably.
const SLOW: Duration = Duration::from_millis(100);
/// No disk makes anything durable faster than this.
const TOO_FAST: Duration = Duration::from_micros(10);
/// Free bytes below which a topic's next segments find no room.
const FREE_MIN: u64 = 128 << 20;
/// Free bytes below which that is near.
const FREE_FEW: u64 = 1 << 30;
/// Free inodes below which new segments find none.
const INODES_MIN: u64 = 64;

/// What is to be known of a kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Tested: power cuts, full disks, failing writes.
    Tested,
    /// Works, with something to know.
    Beware(&'static str),
    /// What millstream promises does not hold there.
    Unfit(&'static str),
}

/// By magic number, as `statfs` tells it.
const KINDS: [(u64, &str, Kind); 14] = [
    (0xEF53, "ext4", Kind::Tested),
    (0x5846_5342, "xfs", Kind::Tested),
    (0x9123_683E, "btrfs", Kind::Tested),
    (
        0xF2F5_2010,
        "f2fs",
        Kind::Beware("it is not tested with millstream"),
    ),
    (
        0x2FC1_2FC1,
        "zfs",
        Kind::Beware("it is not tested with millstream; mapped files are held in memory twice"),
    ),
    (
        0x0102_1994,
        "tmpfs",
        Kind::Beware(
            "it is memory: nothing survives power loss or a reboot, whatever was acknowledged",
        ),
    ),
    (
        0x8584_58F6,
        "ramfs",
        Kind::Beware(
            "it is memory: nothing survives power loss or a reboot, whatever was acknowledged",
        ),
    ),
    (
        0x794C_7630,
        "overlayfs",
        Kind::Beware("in a container the layer goes with the container: put the data on a volume"),
    ),
    (
        0x6573_5546,
        "fuse",
        Kind::Beware("what a sync means there is up to its program"),
    ),
    (
        0x6969,
        "nfs",
        Kind::Unfit(
            "a network file system: mapped writes, locks and syncs do not mean what they do on a disk",
        ),
    ),
    (
        0xFF53_4D42,
        "cifs",
        Kind::Unfit(
            "a network file system: mapped writes, locks and syncs do not mean what they do on a disk",
        ),
    ),
    (
        0xFE53_4D42,
        "smb",
        Kind::Unfit(
            "a network file system: mapped writes, locks and syncs do not mean what they do on a disk",
        ),
    ),
    (
        0x00C3_6400,
        "ceph",
        Kind::Unfit(
            "a network file system: mapped writes, locks and syncs do not mean what they do on a disk",
        ),
    ),
    (
        0x0102_1997,
        "9p",
        Kind::Unfit(
            "shared from a host: mapped writes and syncs do not mean what they do on a disk",
        ),
    ),
];

/// The folder itself, or the nearest one above it that is there.
pub(super) fn existing(data: &Path) -> PathBuf {
    let whole = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let there = whole.ancestors().find(|path| path.is_dir());
    there.unwrap_or(Path::new("/")).to_owned()
}

pub(super) fn file_system(place: &Path) -> Vec<Finding> {
    const CHECK: &str = "file system";
    let magic = match statfs(place) {
        Ok(found) => u64::try_from(i128::from(found.f_type)).unwrap_or(0) & 0xFFFF_FFFF,
        Err(error) => {
            return vec![Finding::fail(
                CHECK,
                format!("{}: {error}", place.display()),
                "the folder must be one that can be read",
            )];
        }
    };
    let known = KINDS.iter().find(|(number, ..)| *number == magic);
    let kind = match known {
        Some((_, name, Kind::Tested)) => Finding::ok(CHECK, *name),
        Some((_, name, Kind::Beware(what))) => Finding::warn(CHECK, *name, *what),
        Some((_, name, Kind::Unfit(what))) => Finding::fail(
            CHECK,
            *name,
            format!("{what}; use a local ext4, xfs or btrfs"),
        ),
        None => Finding::warn(
            CHECK,
            format!("unknown, {magic:#x}"),
            "it is not tested with millstream: ext4, xfs and btrfs are",
        ),
    };
    let mut findings = vec![kind];
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    findings.extend(mount_options(&mounts, place));
    findings
}

/// What is wrong with the options of the mount that `place` lies in.
fn mount_options(mounts: &str, place: &Path) -> Option<Finding> {
    const CHECK: &str = "mount";
    let options = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let point = fields.next()?;
            Some((point, fields.nth(1)?))
        })
        .filter(|(point, _)| place.starts_with(point))
        // Of several mounts on one point the last is on top.
        .max_by_key(|(point, _)| point.len())?
        .1;
    let has = |wanted: &[&str]| options.split(',').any(|option| wanted.contains(&option));
    if has(&["ro"]) {
        return Some(Finding::fail(CHECK, "read-only", "mount it for writing"));
    }
    if has(&["nobarrier", "barrier=0"]) {
        let advice =
            "acknowledged messages can be lost at power loss: mount it without that option";
        return Some(Finding::fail(CHECK, "write barriers are off", advice));
    }
    None
}

pub(super) fn sync_cost(place: &Path, syncs: u32) -> Finding {
    const CHECK: &str = "sync";
    if syncs == 0 {
        return Finding::ok(CHECK, "not measured");
    }
    let mut times = match measure(place, syncs) {
        Ok(times) => times,
        Err(error) => {
            return Finding::fail(
                CHECK,
                format!("cannot write and sync in {}: {error}", place.display()),
                "the user of the server must be allowed to write there, and the disk must work",
            );
        }
    };
    times.sort_unstable();
    let at = |share: usize| {
        let index = times.len().saturating_sub(1) * share / 100;
        times.get(index).copied().unwrap_or_default()
    };
    grade_sync(at(50), at(99), times.len())
}

fn grade_sync(middle: Duration, slow: Duration, count: usize) -> Finding {
    const CHECK: &str = "sync";
    let found = format!(
        "4 KiB take {} µs, one in a hundred {} µs ({count} fdatasyncs)",
        middle.as_micros(),
        slow.as_micros()
    );
    if middle < TOO_FAST {
        return Finding::warn(
            CHECK,
            found,
            "no disk is so fast: it is memory, or a device that says done before it is",
        );
    }
    if slow > SLOW {
        return Finding::warn(
            CHECK,
            found,
            "publishers of synced topics wait that long: publish in larger batches, or use a disk with a protected cache",
        );
    }
    Finding::ok(CHECK, found)
}

/// How long each of `syncs` writes takes until it is on disk.
fn measure(place: &Path, syncs: u32) -> io::Result<Vec<Duration>> {
    let unnamed = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::TMPFILE.bits().cast_signed())
        .open(place);
    if let Ok(file) = unnamed {
        return write_and_sync(file, syncs);
    }
    // This file system has no files without a name.
    let path = place.join(format!("doctor-{}.tmp", std::process::id()));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    let measured = write_and_sync(file, syncs);
    fs::remove_file(&path)?;
    measured
}

fn write_and_sync(mut file: File, syncs: u32) -> io::Result<Vec<Duration>> {
    let bytes = [0x5A; WRITE_BYTES];
    let mut times = Vec::new();
    for _ in 0..syncs {
        let begun = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

pub(super) fn space(place: &Path) -> Vec<Finding> {
    let Ok(found) = statvfs(place) else {
        return Vec::new();
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let inodes = (found.f_files > 0).then_some(found.f_favail);
    grade_space(free, inodes)
}

/// Free bytes, and free inodes where the file system counts them.
fn grade_space(free: u64, inodes: Option<u64>) -> Vec<Finding> {
    let shown = format!("{} free", show_bytes(free));
    let advice =
        "make room: publishing stops when new segments find none, and goes on once there is some";
    let space = if free < FREE_MIN {
        Finding::fail("space", shown, advice)
    } else if free < FREE_FEW {
        Finding::warn("space", shown, advice)
    } else {
        Finding::ok("space", shown)
    };
    let names = match inodes {
        Some(few) if few < INODES_MIN => Finding::fail(
            "inodes",
            format!("{few} free"),
            "remove files: each segment takes one",
        ),
        Some(free) => Finding::ok("inodes", format!("{free} free")),
        None => Finding::ok("inodes", "not limited"),
    };
    vec![space, names]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn syncs_are_graded_by_their_time() {
        let us = Duration::from_micros;
        assert_eq!(grade_sync(us(2), us(9), 64).grade, Grade::Warn);
        assert_eq!(grade_sync(us(200), us(900), 64).grade, Grade::Ok);
        assert_eq!(grade_sync(us(200), us(900_000), 64).grade, Grade::Warn);
    }

    #[test]
    fn room_is_graded_by_what_is_left() {
        let grades = |free, inodes| -> Vec<Grade> {
            let findings = grade_space(free, inodes);
            findings.iter().map(|finding| finding.grade).collect()
        };
        assert_eq!(grades(1 << 20, Some(1000)), [Grade::Fail, Grade::Ok]);
        assert_eq!(grades(512 << 20, None), [Grade::Warn, Grade::Ok]);
        assert_eq!(grades(1 << 40, Some(3)), [Grade::Ok, Grade::Fail]);
    }

    #[test]
    fn the_innermost_mount_counts() {
        let mounts =
            "/dev/a / ext4 rw,nobarrier 0 0\n/dev/b /data ext4 rw 0 0\n/dev/c /old xfs ro 0 0\n";
        assert_eq!(mount_options(mounts, Path::new("/data/x")), None);
        let found = |place| mount_options(mounts, Path::new(place)).map(|f| f.found);
        assert_eq!(found("/old/x").as_deref(), Some("read-only"));
        assert_eq!(
            found("/database").as_deref(),
            Some("write barriers are off")
        );
    }
}
