//! What a process used while it was measured, as `/proc` tells.

use std::fs;
use std::ops::Sub;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Counters of a process so far, and its memory now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    cpu_ns: u64,
    switches: u64,
    written_bytes: u64,
    anonymous_bytes: u64,
    file_bytes: u64,
    flushes: u64,
}

/// What a process used in a stretch of time; memory is as at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Processor seconds, in the process and in the kernel for it.
    pub cpu_s: f64,
    /// Resident memory that no file is behind.
    pub rss_anonymous_bytes: u64,
    /// Resident memory that files are behind.
    pub rss_file_bytes: u64,
    /// Context switches of all threads, wanted or not.
    pub context_switches: u64,
    /// Bytes that went to the disk for it.
    pub written_bytes: u64,
    /// Flushes of the disk with the data, whoever asked for them.
    #[serde(default)]
    pub device_flushes: u64,
}

impl Usage {
    /// Of process `pid`, whose data is in `folder`; all zeros where it is gone. Threads that ended in
    /// between are missed in the context switches alone.
    #[must_use]
    pub fn of(pid: u32, folder: Option<&Path>) -> Self {
        let read =
            |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let status = read("status");
        let (user, system) = cpu_ticks(&read("stat"));
        Self {
            cpu_ns: (user + system) * (1_000_000_000 / TICKS_PER_SECOND),
            switches: switches(pid),
            written_bytes: field(&read("io"), "write_bytes:"),
            anonymous_bytes: field(&status, "RssAnon:") * 1024,
            file_bytes: (field(&status, "RssFile:") + field(&status, "RssShmem:")) * 1024,
            flushes: folder.map_or(0, flushes),
        }
    }

    /// Of this process.
    #[must_use]
    pub fn own(folder: Option<&Path>) -> Self {
        Self::of(std::process::id(), folder)
    }

    /// Resident memory that no file is behind.
    #[must_use]
    pub const fn anonymous_bytes(&self) -> u64 {
        self.anonymous_bytes
    }

    /// Processor time so far, in steps of 10 ms.
    #[must_use]
    pub const fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns)
    }
}

impl Sub for Usage {
    type Output = Resources;

    fn sub(self, before: Self) -> Resources {
        Resources {
            cpu_s: Duration::from_nanos(self.cpu_ns.saturating_sub(before.cpu_ns)).as_secs_f64(),
            rss_anonymous_bytes: self.anonymous_bytes,
            rss_file_bytes: self.file_bytes,
            context_switches: self.switches.saturating_sub(before.switches),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
            device_flushes: self.flushes.saturating_sub(before.flushes),
        }
    }
}

/// The kernel counts processor time in hundredths of a second for everybody, whatever its own tick.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time in `/proc/PID/stat`, in ticks: the 14th and 15th field. The second is the
/// program's name in brackets and may hold anything.
fn cpu_ticks(stat: &str) -> (u64, u64) {
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = behind_name.split_whitespace().skip(11);
    let mut next = || {
        fields
            .next()
            .and_then(|field| field.parse().ok())
            .unwrap_or(0)
    };
    (next(), next())
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Flushes so far of the disk that `folder` is on; 0 where that is none of its own.
fn flushes(folder: &Path) -> u64 {
    let Ok(status) = fs::metadata(folder) else {
        return 0;
    };
    let device = status.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let disks = fs::read_to_string("/proc/diskstats").unwrap_or_default();
    let number = |text: &str, place: usize| -> Option<u64> {
        text.split_whitespace().nth(place)?.parse().ok()
    };
    let disk = disks.lines().find(|line| {
        number(line, 0) == Some(u64::from(major)) && number(line, 1) == Some(u64::from(minor))
    });
    // The kernel's documentation calls it field 16; three names stand before field 1.
    disk.and_then(|line| number(line, 18)).unwrap_or(0)
}

fn switches(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let statuses = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    statuses
        .map(|status| {
            field(&status, "voluntary_ctxt_switches:")
                + field(&status, "nonvoluntary_ctxt_switches:")
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_programs_name() {
        let stat = "12 (a) b) (c) S 1 12 12 0 -1 4194304 100 0 0 0 70 30 0 0 20";
        assert_eq!(cpu_ticks(stat), (70, 30));
        assert_eq!(cpu_ticks(""), (0, 0));
        assert_eq!(field("RssAnon:\t  12 kB\nRssFile: 3 kB\n", "RssFile:"), 3);
    }

    #[test]
    fn this_process_has_memory_and_uses_the_processor() {
        let before = Usage::own(None);
        let mut sum = 0_u64;
        while (Usage::own(None) - before).cpu_s < 0.02 {
            sum = std::hint::black_box(sum.wrapping_mul(31) + 1);
        }
        assert!((Usage::own(None) - before).rss_anonymous_bytes > 0);
    }
}
