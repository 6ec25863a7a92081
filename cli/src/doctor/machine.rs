//! Kernel, io_uring, limits and clocks.

use std::fs;
use std::time::Duration;

use millstream_server::io_uring_refusal;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::{Finding, show_bytes};

/// The oldest kernel that is tried: anonymous files, `O_TMPFILE` and `MADV_POPULATE` are older.
const KERNEL_OLDEST: (u32, u32) = (5, 14);
/// Descriptors below which a busy server runs out: one a connection, some for each topic in use.
const DESCRIPTORS_MIN: u64 = 4096;
/// Memory below which a server is short of it.
const MEMORY_MIN: u64 = 256 << 20;
/// A wall clock before this is not set: seconds from 1970 to 2024.
const WALL_MIN_S: i64 = 1_704_067_200;
/// What systemd's time service leaves once the clock is synchronised.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// What a file under `/proc` or `/sys` says, without the newline.
fn said(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

pub(super) fn kernel() -> Finding {
    const CHECK: &str = "kernel";
    let Some(release) = said("/proc/sys/kernel/osrelease") else {
        return Finding::warn(
            CHECK,
            "/proc can't be read",
            "mount /proc: some checks need it",
        );
    };
    match version(&release) {
        Some(version) if version < KERNEL_OLDEST => Finding::warn(
            CHECK,
            format!("Linux {release}"),
            format!(
                "millstream is tested with {}.{} and newer",
                KERNEL_OLDEST.0, KERNEL_OLDEST.1
            ),
        ),
        _ => Finding::ok(CHECK, format!("Linux {release}")),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    let major = parts.next()?.parse().ok()?;
    Some((major, parts.next()?.parse().ok()?))
}

pub(super) fn io_uring() -> Finding {
    const CHECK: &str = "io_uring";
    let Some(reason) = io_uring_refusal() else {
        return Finding::ok(CHECK, "works");
    };
    let disabled = said("/proc/sys/kernel/io_uring_disabled");
    let seccomp = said("/proc/self/status")
        .is_some_and(|status| status.lines().any(|line| line == "Seccomp:\t2"));
    let memlock = getrlimit(Resource::Memlock).current;
    Finding::warn(
        CHECK,
        reason.clone(),
        advice(&reason, disabled.as_deref(), seccomp, memlock),
    )
}

/// What to do to have io_uring, by what refuses it.
fn advice(reason: &str, disabled: Option<&str>, seccomp: bool, memlock: Option<u64>) -> String {
    let serves = "epoll serves instead, with the same guarantees";
    let cause = match disabled {
        Some(value @ ("1" | "2")) => {
            format!("sysctl kernel.io_uring_disabled is {value}: 0 allows it")
        }
        _ if reason.contains("RLIMIT_MEMLOCK") => format!(
            "the limit on locked memory is {}: raise it (ulimit -l, LimitMEMLOCK=)",
            memlock.map_or_else(|| "none".to_owned(), show_bytes)
        ),
        _ if seccomp => {
            "a seccomp filter is set: let its profile allow io_uring_setup, io_uring_enter and io_uring_register".to_owned()
        }
        _ => "the kernel has it not, or a security module forbids it".to_owned(),
    };
    format!("{serves}. {cause}")
}

pub(super) fn limits() -> Vec<Finding> {
    let mut findings = Vec::new();
    let descriptors = getrlimit(Resource::Nofile);
    let shown = descriptors
        .current
        .map_or_else(|| "no limit".to_owned(), |limit| limit.to_string());
    findings.push(match descriptors.current {
        Some(limit) if limit < DESCRIPTORS_MIN => Finding::warn(
            "descriptors",
            shown,
            format!("each connection takes one: raise the limit to {DESCRIPTORS_MIN} or more (ulimit -n, LimitNOFILE=)"),
        ),
        _ => Finding::ok("descriptors", shown),
    });
    let locked = getrlimit(Resource::Memlock).current;
    findings.push(Finding::ok(
        "memlock",
        locked.map_or_else(|| "no limit".to_owned(), show_bytes),
    ));
    findings.push(memory(memory_limit()));
    findings
}

fn memory(limit: Option<u64>) -> Finding {
    const CHECK: &str = "memory";
    match limit {
        None => Finding::ok(CHECK, "no limit by control groups"),
        Some(limit) if limit < MEMORY_MIN => Finding::warn(
            CHECK,
            format!("control groups limit it to {}", show_bytes(limit)),
            format!(
                "connections and queues may not fit: {} is a good start",
                show_bytes(MEMORY_MIN)
            ),
        ),
        Some(limit) => Finding::ok(
            CHECK,
            format!("control groups limit it to {}", show_bytes(limit)),
        ),
    }
}

/// The lowest limit on memory of the control groups this process is in.
fn memory_limit() -> Option<u64> {
    let groups = said("/proc/self/cgroup")?;
    let mut lowest = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut group = path.trim_end_matches('/');
        // A group is bound by those above it as well.
        loop {
            let limit = said(&format!("{root}{group}/{file}")).and_then(|text| text.parse().ok());
            // The first version says "no limit" with a number near 2^63.
            let limit = limit.filter(|limit: &u64| *limit < 1 << 60);
            lowest = lowest.into_iter().chain(limit).min();
            match group.rsplit_once('/') {
                Some((above, _)) => group = above,
                None => break,
            }
        }
    }
    lowest
}

pub(super) fn clock() -> Vec<Finding> {
    const CHECK: &str = "clock";
    let wall = clock_gettime(ClockId::Realtime);
    let mut findings = Vec::new();
    if wall.tv_sec < WALL_MIN_S {
        findings.push(Finding::fail(
            CHECK,
            format!("it says {} s after 1970", wall.tv_sec),
            "set the clock: times of messages, expiry and retention by age go by it",
        ));
    } else if fs::exists(SYNCHRONISED).unwrap_or(false) {
        findings.push(Finding::ok(CHECK, "synchronised"));
    } else {
        findings.push(Finding::warn(
            CHECK,
            "it can't be told whether it is synchronised",
            "look at `timedatectl` or `chronyc tracking`; leases go by a clock that no setting moves, expiry and retention by age go by this one",
        ));
    }
    let slept = since(clock_gettime(ClockId::Boottime))
        .saturating_sub(since(clock_gettime(ClockId::Monotonic)));
    findings.push(Finding::ok(
        "suspended",
        format!(
            "{} s since the machine started; leases go on meanwhile",
            slept.as_secs()
        ),
    ));
    findings
}

fn since(time: Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn kernels_are_compared_by_number() {
        assert_eq!(version("6.18.5-amd64"), Some((6, 18)));
        assert_eq!(version("5.4.0"), Some((5, 4)));
        assert_eq!(version("other"), None);
    }

    #[test]
    fn each_cause_of_a_refusal_has_its_advice() {
        let why = "io_uring refused: EPERM (seccomp or kernel.io_uring_disabled)";
        assert!(advice(why, Some("2"), true, None).contains("io_uring_disabled is 2"));
        assert!(advice(why, Some("0"), true, None).contains("seccomp filter"));
        let why = "io_uring refused: ENOMEM (memory or RLIMIT_MEMLOCK too small)";
        assert!(advice(why, Some("0"), false, Some(65_536)).contains("64 KiB"));
        let why = "io_uring refused: ENOSYS (kernel without it, or seccomp)";
        assert!(advice(why, None, false, None).contains("kernel has it not"));
    }

    #[test]
    fn little_memory_is_a_warning() {
        assert_eq!(memory(Some(64 << 20)).grade, Grade::Warn);
        assert_eq!(memory(Some(1 << 30)).grade, Grade::Ok);
        assert_eq!(memory(None).grade, Grade::Ok);
    }
}
