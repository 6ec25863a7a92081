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

mod polling {
    use crate::harness::{Server, Setup};

    #[test]
    fn a_server_that_polls_takes_epoll_and_serves() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        let server = Server::start_with(Setup::io("auto"), &data, &["--poll", "10ms"]);
        assert_eq!(server.ready["io"]["backend"], "epoll");
        assert_eq!(server.ready["io"]["reason"], "it is to poll");
        for text in ["one\n", "two\n"] {
            server.run_with(&["pub", "t"], text.as_bytes()).expect(0);
        }
        let tail = server.run(&["tail", "t", "--from", "start", "--count", "2"]);
        assert_eq!(tail.expect(0).stdout, b"one\ntwo\n");
        server.terminate().expect(0);
    }
}
