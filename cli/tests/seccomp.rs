//! The same, with io_uring refused by a filter, as the default profiles of containers do.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;
mod suite;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use harness::{MILLSTREAM, REFUSE_URING, SERVE_ARGUMENTS, Server, Setup, run};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// Number of the system call that makes a ring; the same on every architecture.
const IO_URING_SETUP: i64 = 425;

/// The errors a ring is refused with, by name, with their numbers.
const ERRORS: [(&str, u32); 2] = [("EPERM", 1), ("ENOSYS", 38)];

const fn refused(io: &'static str, error: &'static str) -> Setup {
    Setup {
        io,
        refuse_uring: Some(error),
    }
}

mod eperm {
    crate::suite::suite!(crate::refused("auto", "EPERM"));
}

mod enosys {
    crate::suite::suite!(crate::refused("auto", "ENOSYS"));
}

#[test]
fn start_up_says_why_it_is_epoll() {
    for (error, _) in ERRORS {
        let place = tempfile::tempdir().unwrap();
        let server = Server::start(refused("auto", error), place.path());
        assert_eq!(server.ready["io"]["backend"], "epoll");
        let reason = server.ready["io"]["reason"].as_str().unwrap();
        assert!(reason.contains(error), "{reason}");
    }
}

#[test]
fn insisting_on_io_uring_fails_with_the_reason() {
    for (error, _) in ERRORS {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        let ended = run(&mut refused("uring", error).serve(&data, &[]), b"").expect(1);
        assert!(ended.stderr.contains("io_uring"), "{}", ended.stderr);
        assert!(ended.stderr.contains(error), "{}", ended.stderr);
    }
}

/// Not a test: the harness starts this binary with it to get a server without io_uring.
#[test]
#[ignore = "becomes a server, for the tests above"]
fn become_a_server_without_io_uring() {
    let Ok(error) = std::env::var(REFUSE_URING) else {
        return;
    };
    let (_, number) = ERRORS.iter().find(|(name, _)| *name == error).unwrap();
    let filter = SeccompFilter::new(
        BTreeMap::from([(IO_URING_SETUP, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(*number),
        std::env::consts::ARCH.try_into().unwrap(),
    )
    .unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
    let arguments = std::env::var(SERVE_ARGUMENTS).unwrap();
    panic!(
        "{}",
        Command::new(MILLSTREAM).args(arguments.split('\n')).exec()
    );
}
