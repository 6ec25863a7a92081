//! The real binary end to end, over both ways of doing I/O.

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
