//! The real binary end to end, over both ways of doing I/O.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;
mod suite;

mod epoll {
    use crate::harness::Setup;

    crate::suite::suite!(Setup::io("epoll"));
}

mod uring {
    use crate::harness::Setup;

    // Where the kernel refuses io_uring this falls back; `tests/seccomp.rs` says what is told then.
    crate::suite::suite!(Setup::io("auto"));
}
