//! Which way of doing I/O this machine allows, found out before anything is started.

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};

use crate::limits::{RING_COMPLETIONS, RING_ENTRIES};

/// Entries of the ring that is built to find out; it is gone a moment later.
const PROBE_ENTRIES: u32 = 8;

/// Which way of doing I/O the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoChoice {
    /// io_uring where the kernel allows it, otherwise epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll, without asking for more.
    Epoll,
}

/// The way of doing I/O in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Completions through io_uring.
    Uring,
    /// Readiness through epoll.
    Epoll,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// The way of doing I/O in use, and why it is that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoReport {
    /// The way in use.
    pub backend: Backend,
    /// Why, in a few words.
    pub reason: String,
}

impl fmt::Display for IoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.backend, self.reason)
    }
}

/// Set-up flags of the rings, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RingFlags {
    /// Completions are handled when the thread enters the kernel anyway; one thread submits.
    CoopTaskrun,
    /// None, for kernels before 6.0.
    Plain,
}

impl RingFlags {
    /// A builder of rings with these flags.
    pub(crate) fn builder(self) -> io_uring::Builder {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_cqsize(RING_COMPLETIONS);
        if self == Self::CoopTaskrun {
            builder.setup_coop_taskrun().setup_single_issuer();
        }
        builder
    }

    /// Submission queue entries of the rings that serve.
    pub(crate) const fn entries(self) -> u32 {
        RING_ENTRIES
    }
}

/// What the probe found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rings {
    /// Rings work with these flags.
    Work(RingFlags),
    /// Rings are refused, for this reason.
    Refused(String),
}

/// Builds a small ring with the flags to be used, and asks it for the operations needed.
pub(crate) fn probe() -> Rings {
    let refused = match try_ring(RingFlags::CoopTaskrun) {
        Ok(()) => return Rings::Work(RingFlags::CoopTaskrun),
        Err(Refusal::Setup(error)) if error.raw_os_error() == Some(libc::EINVAL) => {
            match try_ring(RingFlags::Plain) {
                Ok(()) => return Rings::Work(RingFlags::Plain),
                Err(refused) => refused,
            }
        }
        Err(refused) => refused,
    };
    Rings::Refused(match refused {
        Refusal::Setup(error) => refusal(&error),
        Refusal::Missing(operation) => format!("io_uring of this kernel has no {operation}"),
    })
}

/// Why this machine refuses io_uring to this process, in a few words; `None` where it works. Builds a
/// small ring to find out, which is gone a moment later.
#[must_use]
pub fn io_uring_refusal() -> Option<String> {
    match probe() {
        Rings::Work(_) => None,
        Rings::Refused(reason) => Some(reason),
    }
}

/// Why a ring is of no use.
#[derive(Debug)]
enum Refusal {
    Setup(io::Error),
    Missing(&'static str),
}

fn try_ring(flags: RingFlags) -> Result<(), Refusal> {
    let ring = flags
        .builder()
        .build(PROBE_ENTRIES)
        .map_err(Refusal::Setup)?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(Refusal::Setup)?;
    let needed = [
        (opcode::Read::CODE, "read"),
        (opcode::Writev::CODE, "writev"),
        (opcode::AsyncCancel::CODE, "cancel"),
    ];
    match needed
        .into_iter()
        .find(|(code, _)| !probe.is_supported(*code))
    {
        Some((_, missing)) => Err(Refusal::Missing(missing)),
        None => Ok(()),
    }
}

/// What an error of setting a ring up means, in a few words.
pub(crate) fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "io_uring refused: EPERM (seccomp or kernel.io_uring_disabled)".to_owned()
        }
        Some(libc::EACCES) => "io_uring refused: EACCES (a security module)".to_owned(),
        Some(libc::ENOSYS) => "io_uring refused: ENOSYS (kernel without it, or seccomp)".to_owned(),
        Some(libc::ENOMEM) => {
            "io_uring refused: ENOMEM (memory or RLIMIT_MEMLOCK too small)".to_owned()
        }
        Some(libc::EMFILE | libc::ENFILE) => "io_uring refused: no file descriptor left".to_owned(),
        _ => format!("io_uring refused: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_what_an_operator_can_look_at() {
        for (code, word) in [
            (libc::EPERM, "kernel.io_uring_disabled"),
            (libc::ENOSYS, "ENOSYS"),
            (libc::ENOMEM, "RLIMIT_MEMLOCK"),
            (libc::EACCES, "security module"),
            (libc::EMFILE, "descriptor"),
        ] {
            let reason = refusal(&io::Error::from_raw_os_error(code));
            assert!(
                reason.starts_with("io_uring refused") && reason.contains(word),
                "{reason}"
            );
        }
    }

    #[test]
    fn the_probe_agrees_with_the_runtime() {
        match probe() {
            Rings::Work(flags) => {
                let ended = crate::uring::run(flags, async { crate::uring::Ended::Whole });
                assert_eq!(
                    ended.expect("the probe promised it"),
                    crate::uring::Ended::Whole
                );
            }
            Rings::Refused(reason) => eprintln!("SKIPPED: {reason}"),
        }
    }
}
