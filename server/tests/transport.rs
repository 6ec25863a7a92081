//! The same scenarios over real sockets, for each way of doing I/O.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod peer;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown as Half, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use millstream::Broker;
use millstream_protocol::control::{Backoff, Leaser, QueueSettings, SettleVerb};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::limits::READ_CREDIT_BYTES_MAX;
use millstream_protocol::{AckLevel, Durability, Start};
use millstream_server::{Backend, BindError, IoChoice, Listen, Server, ServerOptions, Shutdown};

use socket2::SockRef;

use peer::{Ear, Said, Script, Worked};

/// A client on a socket; it blocks.
struct Caller<S> {
    socket: S,
    ear: Ear,
    hung_up: bool,
}

impl Caller<TcpStream> {
    fn tcp(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }
}

impl Caller<UnixStream> {
    fn unix(path: &Path) -> Self {
        Self::over(UnixStream::connect(path).unwrap())
    }
}

impl<S: Read + Write> Caller<S> {
    fn over(socket: S) -> Self {
        Self {
            socket,
            ear: Ear::default(),
            hung_up: false,
        }
    }

    fn greet(mut self) -> Self {
        self.say(&Script::hello());
        self.until(|said| matches!(said, [Said::Welcome(_)]));
        self.ear.said.clear();
        self
    }

    fn say(&mut self, script: &Script) {
        self.socket.write_all(&script.0).unwrap();
    }

    /// Listens until `done` says so of all that was heard, or the server hangs up.
    fn until(&mut self, mut done: impl FnMut(&[Said]) -> bool) -> &[Said] {
        let mut bytes = vec![0; 256 << 10];
        while !self.hung_up && !done(&self.ear.said) {
            match self.socket.read(&mut bytes) {
                Ok(0) => self.hung_up = true,
                Ok(count) => self.ear.hear(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => self.hung_up = true,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(done(&self.ear.said) || self.hung_up);
        &self.ear.said
    }

    fn until_any(&mut self, wanted: impl Fn(&Said) -> bool) -> Said {
        let said = self.until(|said| said.iter().any(&wanted));
        said.iter()
            .find(|said| wanted(said))
            .cloned()
            .expect("the server hung up before that")
    }

    fn until_acked(&mut self, stream: u32, number: u64) {
        self.until_any(|said| {
            matches!(said, Said::Acked { stream: s, publish, .. }
                if *s == stream && *publish == number)
        });
    }

    fn until_hung_up(&mut self) -> &[Said] {
        self.until(|_| false)
    }
}

struct Site {
    _folder: tempfile::TempDir,
    broker: Broker,
    server: Server,
}

impl Site {
    fn address(&self) -> SocketAddr {
        self.server.local_addr().unwrap()
    }

    fn call(&self) -> Caller<TcpStream> {
        Caller::tcp(self.address()).greet()
    }
}

fn options(io: IoChoice) -> ServerOptions {
    ServerOptions::new()
        .listen(Listen::Tcp(([127, 0, 0, 1], 0).into()))
        .io(io)
        .threads(2)
}

fn site(options: &ServerOptions) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    let server = Server::bind(options, &broker).unwrap();
    Site {
        _folder: folder,
        broker,
        server,
    }
}

/// Runs a scenario on each backend this machine allows; a refused one is named aloud.
fn on_each_backend(scenario: impl Fn(ServerOptions)) {
    scenario(options(IoChoice::Epoll));
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    match Server::bind(&options(IoChoice::Uring), &broker) {
        Ok(server) => {
            assert_eq!(server.io().backend, Backend::Uring);
            drop(server);
            scenario(options(IoChoice::Uring));
        }
        Err(BindError::UringRefused { reason }) => {
            eprintln!("SKIPPED the io_uring half of this test: {reason}");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn messages_of_every_size_come_back_as_they_were_sent() {
    on_each_backend(|options| {
        let site = site(&options);
        let mut caller = site.call();
        caller.say(&Script::default().publisher(1, "t", AckLevel::Stored));
        let sizes = [
            1,
            0,
            100,
            1900,
            2048,
            5000,
            65_440,
            65_536,
            70_000,
            1 << 20,
            3,
            15 << 20,
            7,
        ];
        let body = |index: usize, bytes: usize| -> Vec<u8> {
            (0..bytes).map(|at| (at * 31 + index) as u8).collect()
        };
        for (index, bytes) in sizes.into_iter().enumerate() {
            let number = index as u64 + 1;
            caller.say(&Script::default().publish(1, number, &body(index, bytes)));
            caller.until_acked(1, number);
        }
        caller.say(&Script::default().reader(2, "t", Start::Earliest, READ_CREDIT_BYTES_MAX));
        let last = sizes.len() as u64 - 1;
        caller.until_any(|said| matches!(said, Said::Record { offset, .. } if *offset == last));
        let records: Vec<_> = caller
            .ear
            .said
            .iter()
            .filter_map(|said| match said {
                Said::Record { body, .. } => Some(body),
                _ => None,
            })
            .collect();
        assert_eq!(records.len(), sizes.len());
        for (index, bytes) in sizes.into_iter().enumerate() {
            assert!(
                *records[index] == body(index, bytes),
                "record {index} of {bytes} bytes"
            );
        }
    });
}

#[test]
fn a_long_run_of_small_messages_is_acknowledged_in_order() {
    on_each_backend(|options| {
        let site = site(&options);
        let mut caller = site.call();
        caller.say(&Script::default().publisher(1, "t", AckLevel::Topic));
        let mut number = 0u64;
        for _ in 0..20 {
            let mut script = Script::default();
            for _ in 0..1000 {
                number += 1;
                script = script.publish(1, number, &number.to_le_bytes());
            }
            caller.say(&script);
            caller.until_acked(1, number);
        }
        let bases: Vec<_> = caller
            .ear
            .said
            .iter()
            .filter_map(|said| match said {
                Said::Acked { base, .. } => Some(base.0),
                _ => None,
            })
            .collect();
        assert_eq!(bases, (0..number).collect::<Vec<_>>());
    });
}

#[test]
fn many_connections_publish_at_once() {
    on_each_backend(|options| {
        let site = site(&options);
        let address = site.address();
        let callers: Vec<_> = (0..32u32)
            .map(|index| {
                std::thread::spawn(move || {
                    let mut caller = Caller::tcp(address).greet();
                    let mut script = Script::default().publisher(index + 1, "t", AckLevel::Topic);
                    for number in 1..=50 {
                        script = script.publish(index + 1, number, &index.to_le_bytes());
                    }
                    caller.say(&script);
                    caller.until_acked(index + 1, 50);
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        assert_eq!(site.broker.topic("t").unwrap().next_offset.0, 32 * 50);
    });
}

#[test]
fn a_unix_socket_serves_as_well() {
    on_each_backend(|options| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let site = site(&options.listen(Listen::Unix(path.clone())));
        let mut caller = Caller::unix(&path).greet();
        let script = Script::default().publisher(1, "t", AckLevel::Stored);
        caller.say(&script.publish(1, 1, &[9; 100_000]));
        caller.until_acked(1, 1);
        caller.say(&Script::default().reader(2, "t", Start::Earliest, 1 << 20));
        caller.until_any(|said| matches!(said, Said::Record { body, .. } if *body == [9; 100_000]));
        site.server.stop(Shutdown::Graceful);
        assert!(!path.exists(), "the path goes with the server");
    });
}

#[test]
fn junk_is_answered_with_an_error_and_the_end() {
    on_each_backend(|options| {
        let site = site(&options);
        let mut caller = Caller::tcp(site.address());
        caller.say(&Script::default().raw(b"GET / HTTP/1.1\r\n\r\n"));
        let said = caller.until_hung_up();
        assert!(
            matches!(
                said,
                [Said::Error {
                    code: ErrorCode::HelloRequired,
                    ..
                }]
            ),
            "{said:?}"
        );
    });
}

#[test]
fn a_client_that_dies_in_mid_message_harms_nobody() {
    on_each_backend(|options| {
        let site = site(&options);
        for cut in [10, 40, 100, 60_000] {
            let mut caller = site.call();
            let script = Script::default().publisher(1, "t", AckLevel::Synced);
            let whole = script.publish(1, 1, &[1; 100_000]).0;
            caller.say(&Script(whole[..cut].to_vec()));
        }
        let mut caller = site.call();
        let script = Script::default().publisher(1, "t", AckLevel::Synced);
        caller.say(&script.publish(1, 1, b"whole"));
        caller.until_acked(1, 1);
        assert_eq!(site.broker.topic("t").unwrap().next_offset.0, 1);
    });
}

#[test]
fn a_client_that_only_stops_sending_gets_its_answers() {
    on_each_backend(|options| {
        let site = site(&options);
        let mut caller = site.call();
        let mut script = Script::default().publisher(1, "t", AckLevel::Synced);
        for number in 1..=100 {
            script = script.publish(1, number, b"last words");
        }
        caller.say(&script);
        caller.socket.shutdown(Half::Write).unwrap();
        let said = caller.until_hung_up();
        let acked = said
            .iter()
            .filter(|said| matches!(said, Said::Acked { .. }))
            .count();
        assert_eq!(acked, 100);
    });
}

#[test]
fn one_connection_too_many_is_told_so() {
    on_each_backend(|options| {
        for options in [
            options.clone().connections_max(3),
            options.clone().connections_per_address_max(3),
        ] {
            let site = site(&options);
            let mut callers: Vec<_> = (0..3).map(|_| site.call()).collect();
            let mut refused = Caller::tcp(site.address());
            let said = refused.until_hung_up();
            assert!(
                matches!(
                    said,
                    [Said::Error {
                        code: ErrorCode::Limit,
                        ..
                    }]
                ),
                "{said:?}"
            );
            // A place that becomes free is given out again, once the server has noticed.
            drop(callers.pop());
            loop {
                let mut caller = Caller::tcp(site.address());
                if caller.socket.write_all(&Script::hello().0).is_ok() {
                    let said = caller.until(|said| !said.is_empty());
                    if matches!(said, [Said::Welcome(_)]) {
                        break;
                    }
                }
            }
        }
    });
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody_and_loses_nothing() {
    const MEGABYTES: u64 = 24;
    on_each_backend(|options| {
        let site = site(&options.threads(1));
        let mut caller = site.call();
        caller.say(&Script::default().publisher(1, "t", AckLevel::Stored));
        let mut slow = site.call();
        slow.say(&Script::default().reader(1, "t", Start::Earliest, READ_CREDIT_BYTES_MAX));
        for number in 1..=MEGABYTES {
            let body = vec![number as u8; 1 << 20];
            caller.say(&Script::default().publish(1, number, &body));
            caller.until_acked(1, number);
        }
        // By now the kernel's buffers and the session's queue are full, and others were served.
        let said = slow.until(|said| {
            matches!(said.last(), Some(Said::Record { offset, .. }) if *offset == MEGABYTES - 1)
        });
        let records: Vec<_> = said
            .iter()
            .filter_map(|said| match said {
                Said::Record { offset, body, .. } => Some((*offset, body)),
                _ => None,
            })
            .collect();
        assert_eq!(records.len() as u64, MEGABYTES);
        for (offset, body) in records {
            assert!(body.len() == 1 << 20 && body.iter().all(|byte| *byte == offset as u8 + 1));
        }
    });
}

/// Each delivery is small and goes out by itself until the socket takes no more.
#[test]
fn small_deliveries_to_a_full_socket_wait_and_keep_their_order() {
    const MESSAGES: u64 = 3000;
    const BYTES: usize = 2 << 10;
    on_each_backend(|options| {
        let site = site(&options.threads(1));
        let mut caller = site.call();
        caller.say(&Script::default().publisher(1, "t", AckLevel::Stored));
        let mut slow = site.call();
        SockRef::from(&slow.socket)
            .set_recv_buffer_size(64 << 10)
            .unwrap();
        slow.say(&Script::default().reader(1, "t", Start::Earliest, READ_CREDIT_BYTES_MAX));
        slow.until_any(|said| matches!(said, Said::ReaderOpened { .. }));
        for number in 1..=MESSAGES {
            let body = vec![number as u8; BYTES];
            caller.say(&Script::default().publish(1, number, &body));
            caller.until_acked(1, number);
        }
        let said = slow.until(|said| {
            matches!(said.last(), Some(Said::Record { offset, .. }) if *offset == MESSAGES - 1)
        });
        let records = said.iter().filter_map(|said| match said {
            Said::Record { offset, body, .. } => Some((*offset, body)),
            _ => None,
        });
        let mut next = 0;
        for (offset, body) in records {
            assert_eq!(offset, next);
            assert!(body.len() == BYTES && body.iter().all(|byte| *byte == (offset + 1) as u8));
            next += 1;
        }
        assert_eq!(next, MESSAGES);
    });
}

#[test]
fn a_graceful_shutdown_acknowledges_and_says_goodbye() {
    on_each_backend(|options| {
        let site = site(&options);
        let mut idle = site.call();
        let mut silent = Caller::tcp(site.address());
        let mut caller = site.call();
        let mut script = Script::default().publisher(1, "t", AckLevel::Synced);
        for number in 1..=500 {
            script = script.publish(1, number, b"before the end");
        }
        caller.say(&script.reader(2, "t", Start::Latest, 1000));
        caller.until_acked(1, 1);
        let handle = site.server.handle();
        handle.shutdown(Shutdown::Graceful);
        let said = caller.until_hung_up().to_vec();
        let acked = said
            .iter()
            .filter(|said| matches!(said, Said::Acked { .. }))
            .count() as u64;
        assert!(
            matches!(said.last(), Some(Said::Goodbye(_))),
            "{:?}",
            said.last()
        );
        let refused_from = said.iter().find_map(|said| match said {
            Said::Error {
                stream: 1,
                correlation,
                ..
            } => Some(*correlation),
            _ => None,
        });
        assert_eq!(
            refused_from,
            Some(acked + 1),
            "each publish is one or the other"
        );
        assert!(matches!(idle.until_hung_up(), [Said::Goodbye(_)]));
        assert!(matches!(silent.until_hung_up(), [Said::Goodbye(_)] | []));
        drop((idle, silent, caller));
        site.server.join();
        assert_eq!(site.broker.topic("t").unwrap().next_offset.0, acked);
        site.broker.close().unwrap();
    });
}

#[test]
fn what_comes_after_the_goodbye_is_let_pass() {
    on_each_backend(|options| {
        let site = site(&options.threads(1));
        let mut caller = site.call();
        caller.say(
            &Script::default()
                .publisher(1, "t", AckLevel::Stored)
                .publish(1, 1, b"x"),
        );
        caller.until_acked(1, 1);
        site.server.shutdown(Shutdown::Graceful);
        // A client that heard nothing yet goes on; its bytes must not cut off what it is told.
        let more = (2..500).fold(Script::default(), |more, number| {
            more.publish(1, number, b"y")
        });
        for piece in more.0.chunks(1000) {
            if caller.socket.write_all(piece).is_err() {
                break;
            }
        }
        let said = caller.until_hung_up();
        assert!(
            said.iter().any(|said| matches!(said, Said::Goodbye(_))),
            "{:?}",
            said.last()
        );
        site.server.join();
    });
}

#[test]
fn a_fast_shutdown_hangs_up() {
    on_each_backend(|options| {
        let site = site(&options);
        let mut callers: Vec<_> = (0..8).map(|_| site.call()).collect();
        site.server.shutdown(Shutdown::Graceful);
        site.server.shutdown(Shutdown::Fast);
        site.server.join();
        for caller in &mut callers {
            caller.until_hung_up();
        }
    });
}

#[test]
fn a_dropped_server_frees_its_port() {
    on_each_backend(|options| {
        let site = site(&options);
        let address = site.address();
        let _caller = site.call();
        let in_use = ServerOptions::new()
            .listen(Listen::Tcp(address))
            .bind_patience(Duration::ZERO);
        match Server::bind(&in_use, &site.broker) {
            Err(error @ BindError::InUse { .. }) => {
                assert_eq!(
                    error.to_string(),
                    format!(
                        "{address} is in use by another program: stop that, or choose another address"
                    )
                );
            }
            other => panic!("{other:?}"),
        }
        drop(site.server);
        let again = Server::bind(&in_use, &site.broker).unwrap();
        assert_eq!(again.local_addr(), Some(address));
    });
}

#[test]
fn topics_are_administered_over_the_wire() {
    on_each_backend(|options| {
        let site = site(&options);
        let mut caller = site.call();
        caller.say(
            &Script::default()
                .create(1, "t", Durability::Stored)
                .list(2, None)
                .delete(3, "t"),
        );
        caller.until_any(|said| *said == Said::Deleted(3));
        assert!(site.broker.topics().is_empty());
    });
}

#[test]
fn a_server_without_a_place_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    let error = Server::bind(&ServerOptions::new(), &broker).unwrap_err();
    assert!(matches!(error, BindError::NowhereToListen));
}

/// The work that came, by offset.
fn worked(said: &[Said]) -> Vec<Worked> {
    let work = said.iter().filter_map(|said| match said {
        Said::Work { work, .. } => Some(work.clone()),
        _ => None,
    });
    let mut work: Vec<Worked> = work.collect();
    work.sort_by_key(|work| work.offset);
    work
}

#[test]
fn work_of_a_connection_that_breaks_goes_to_another_and_counts() {
    on_each_backend(|options| {
        let site = site(&options);
        let mut caller = site.call();
        let settings = QueueSettings {
            backoff: Backoff {
                first_ms: 0,
                cap_ms: 0,
                ..Backoff::default()
            },
            ..QueueSettings::default()
        };
        let mut script =
            Script::default()
                .queue(1, "jobs", settings)
                .publisher(1, "jobs", AckLevel::Topic);
        for number in 1..=100u64 {
            // Of every size: some travel as handles to the segment, some are gathered.
            let body = vec![number as u8; number as usize * 997 % 20_000];
            script = script.publish(1, number, &body);
        }
        caller.say(&script);
        caller.until_acked(1, 100);

        let mut broken = site.call();
        broken.say(&Script::default().consumer(1, "jobs", 100));
        let work = worked(broken.until(|said| worked(said).len() == 100));
        let opened = broken.until_any(|said| matches!(said, Said::ConsumerOpened { .. }));
        let Said::ConsumerOpened { opened, .. } = opened else {
            panic!("{opened:?}")
        };
        let leaser = Leaser {
            queue_id: opened.queue_id,
            boot_epoch: opened.boot_epoch,
        };
        let acks: Vec<_> = work[..40]
            .iter()
            .map(|work| work.entry(SettleVerb::Ack))
            .collect();
        broken.say(&Script::default().settle(1, leaser, 1, &acks));
        broken.until_any(|said| {
            matches!(
                said,
                Said::Settled {
                    number: 40,
                    fault: None,
                    ..
                }
            )
        });
        drop(broken);

        caller.say(&Script::default().consumer(2, "jobs", 100));
        let again = worked(caller.until(|said| worked(said).len() == 60));
        for (work, number) in again.iter().zip(41u64..) {
            assert_eq!((work.offset, work.attempts), (number - 1, 2));
            assert_eq!(
                work.body,
                vec![number as u8; number as usize * 997 % 20_000]
            );
        }
    });
}

#[test]
fn a_server_that_stops_gives_work_back_uncounted() {
    on_each_backend(|options| {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::open(folder.path()).unwrap();
        let server = Server::bind(&options, &broker).unwrap();
        let mut caller = Caller::tcp(server.local_addr().unwrap()).greet();
        let script = Script::default()
            .queue(1, "jobs", QueueSettings::default())
            .publisher(1, "jobs", AckLevel::Topic)
            .publish(1, 1, b"work");
        caller.say(&script);
        caller.until_acked(1, 1);
        caller.say(&Script::default().consumer(2, "jobs", 1));
        caller.until(|said| worked(said).len() == 1);
        let handle = server.handle();
        handle.shutdown(Shutdown::Graceful);
        let said = caller.until_hung_up();
        assert!(
            said.iter()
                .any(|said| said.is_error(ErrorCode::ShuttingDown))
        );
        assert!(matches!(said.last(), Some(Said::Goodbye(_))), "{said:?}");
        server.stop(Shutdown::Graceful);
        let server = Server::bind(&options, &broker).unwrap();
        let mut caller = Caller::tcp(server.local_addr().unwrap()).greet();
        caller.say(&Script::default().consumer(2, "jobs", 1));
        let work = worked(caller.until(|said| worked(said).len() == 1));
        assert_eq!(work[0].attempts, 1);
    });
}
