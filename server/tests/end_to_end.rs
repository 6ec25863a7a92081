//! The client crate against the server, over both ways of doing I/O, with a restart in between.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

use millstream::Broker;
use millstream_client::blocking::{Client, Driver};
use millstream_client::{
    AckLevel, BatchBuilder, ConnectOptions, Durability, Effect, Message, Offset, PublisherOptions,
    QueueOptions, Start, TopicOptions,
};
use millstream_server::{BindError, IoChoice, Listen, Server, ServerOptions, Shutdown};

struct Site {
    broker: Broker,
    server: Server,
    address: String,
}

impl Site {
    fn start(folder: &std::path::Path, io: IoChoice) -> Self {
        let broker = Broker::open(folder).unwrap();
        let listen = Listen::Tcp(([127, 0, 0, 1], 0).into());
        let options = ServerOptions::new().listen(listen).io(io).threads(2);
        let server = Server::bind(&options, &broker).unwrap();
        let address = format!("millstream://{}", server.local_addr().unwrap());
        Self {
            broker,
            server,
            address,
        }
    }

    fn client(&self) -> Client {
        Client::connect(self.address.as_str()).unwrap()
    }

    fn stop(self) {
        self.server.stop(Shutdown::Graceful);
        self.broker.close().unwrap();
    }
}

/// Runs a scenario on each backend this machine allows; a refused one is named aloud.
fn on_each_backend(scenario: impl Fn(IoChoice)) {
    scenario(IoChoice::Epoll);
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    let listen = Listen::Tcp(([127, 0, 0, 1], 0).into());
    match Server::bind(
        &ServerOptions::new().listen(listen).io(IoChoice::Uring),
        &broker,
    ) {
        Ok(server) => {
            drop(server);
            scenario(IoChoice::Uring);
        }
        Err(BindError::UringRefused { reason }) => {
            eprintln!("SKIPPED the io_uring half of this test: {reason}");
        }
        Err(error) => panic!("{error}"),
    }
}

fn body(number: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + number) as u8).collect()
}

#[test]
fn what_was_acknowledged_is_read_back_after_a_restart() {
    let sizes = [
        1,
        64,
        100,
        1000,
        4000,
        65_000,
        65_536,
        66_000,
        300_000,
        1 << 20,
    ];
    on_each_backend(|io| {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::start(folder.path(), io);
        let client = site.client();
        let mut sent = Vec::new();
        for (topic, ack) in [("synced", AckLevel::Topic), ("hurried", AckLevel::Stored)] {
            let options = PublisherOptions::new().ack(ack);
            let mut publisher = client.publisher_with(topic, options).unwrap();
            let mut tickets = Vec::new();
            for round in 0..8 {
                for (index, bytes) in sizes.into_iter().enumerate() {
                    let body = body(round * 10 + index, bytes);
                    tickets.push(publisher.enqueue(body.clone()).unwrap());
                    sent.push((topic, body));
                }
            }
            for (number, ticket) in tickets.into_iter().enumerate() {
                let receipt = ticket.wait().unwrap();
                assert_eq!(receipt.first.0, number as u64);
            }
        }
        drop(client);
        site.stop();

        let site = Site::start(folder.path(), io);
        let client = site.client();
        for topic in ["synced", "hurried"] {
            let mut reader = client.reader(topic, Start::Earliest).unwrap();
            for (_, body) in sent.iter().filter(|(sent, _)| *sent == topic) {
                let record = reader.next().unwrap().unwrap();
                assert!(
                    record.as_bytes() == body,
                    "record {} of {topic}",
                    record.offset()
                );
            }
        }
        site.stop();
    });
}

#[test]
fn each_publisher_keeps_its_order_and_every_reader_sees_all() {
    const EACH: u64 = 3000;
    on_each_backend(|io| {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::start(folder.path(), io);
        let stored = TopicOptions::new().durability(Durability::Stored);
        site.client().create_topic("t", stored).unwrap();
        std::thread::scope(|scope| {
            for publisher in 0..4u64 {
                let client = site.client();
                scope.spawn(move || {
                    let mut handle = client.publisher("t").unwrap();
                    let mut last = None;
                    for number in 0..EACH {
                        let body = [publisher.to_le_bytes(), number.to_le_bytes()].concat();
                        last = Some(handle.enqueue(body).unwrap());
                    }
                    last.unwrap().wait().unwrap();
                });
            }
            for _ in 0..2 {
                let client = site.client();
                scope.spawn(move || {
                    let mut reader = client.reader("t", Start::Earliest).unwrap();
                    let mut next = [0u64; 4];
                    for offset in 0..4 * EACH {
                        let record = reader.next().unwrap().unwrap();
                        assert_eq!(record.offset().0, offset);
                        let number = |at: usize| {
                            u64::from_le_bytes(record.as_bytes()[at..at + 8].try_into().unwrap())
                        };
                        let publisher = number(0) as usize;
                        assert_eq!(number(8), next[publisher]);
                        next[publisher] += 1;
                    }
                });
            }
        });
        site.stop();
    });
}

#[test]
fn batches_keys_and_headers_arrive() {
    on_each_backend(|io| {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::start(folder.path(), io);
        let client = site.client();
        let mut publisher = client.publisher("t").unwrap();
        let mut batch = BatchBuilder::new();
        for number in 0..100u8 {
            batch
                .push(&Message::new(vec![number; 10]).key(vec![number]))
                .unwrap();
        }
        let receipt = publisher.publish_batch(&batch).unwrap();
        assert_eq!((receipt.first.0, receipt.last.0), (0, 99));
        let mut reader = client
            .reader("t", Start::Offset(receipt.first + 50))
            .unwrap();
        for number in 50..100u8 {
            let record = reader.next().unwrap().unwrap();
            assert_eq!(record.offset().0, u64::from(number));
            assert_eq!(record.as_bytes(), [number; 10]);
            assert_eq!(record.key().unwrap(), [number][..]);
        }
        site.stop();
    });
}

#[test]
fn a_shutdown_under_load_leaves_no_ticket_in_doubt() {
    on_each_backend(|io| {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::start(folder.path(), io);
        let handle = site.server.handle();
        let publishers: Vec<_> = (0..3u8)
            .map(|name| {
                let client = site.client();
                std::thread::spawn(move || {
                    let mut publisher = client.publisher(format!("t{name}")).unwrap();
                    let mut acked = Vec::new();
                    let mut waiting = std::collections::VecDeque::new();
                    for number in 0u64.. {
                        match publisher.enqueue(number.to_le_bytes().to_vec()) {
                            Ok(ticket) => waiting.push_back((number, ticket)),
                            Err(error) => {
                                assert_eq!(error.effect(), Effect::NotApplied, "{error}");
                                break;
                            }
                        }
                    }
                    for (number, ticket) in waiting {
                        match ticket.wait() {
                            Ok(_) => acked.push(number),
                            Err(error) => {
                                assert_eq!(error.effect(), Effect::NotApplied, "{error}");
                            }
                        }
                    }
                    (format!("t{name}"), acked)
                })
            })
            .collect();
        // Enough to be in the middle of something on every connection.
        while (0..3).any(|name| {
            site.broker
                .topic(format!("t{name}"))
                .map_or(0, |topic| topic.next_offset.0)
                < 2000
        }) {
            std::thread::yield_now();
        }
        handle.shutdown(Shutdown::Graceful);
        let outcomes: Vec<_> = publishers
            .into_iter()
            .map(|one| one.join().unwrap())
            .collect();
        site.stop();

        let broker = Broker::open(folder.path()).unwrap();
        for (topic, acked) in outcomes {
            assert_eq!(
                broker.topic(&topic).unwrap().next_offset.0,
                acked.len() as u64
            );
            let mut reader = broker.reader(&topic, Start::Earliest).unwrap();
            for number in acked {
                let record = reader.next_blocking().unwrap().unwrap();
                assert_eq!(record.as_bytes(), number.to_le_bytes());
            }
        }
    });
}

#[test]
fn work_is_shared_and_settled_once_also_across_a_restart() {
    const RECORDS: u64 = 3000;
    on_each_backend(|io| {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::start(folder.path(), io);
        let client = site.client();
        client.create_queue("jobs", QueueOptions::new()).unwrap();
        let mut publisher = client.publisher("jobs").unwrap();
        let mut last = None;
        for number in 0..RECORDS {
            let message = Message::new(number.to_le_bytes().to_vec()).key(number.to_string());
            last = Some(publisher.enqueue(message).unwrap());
        }
        last.unwrap().wait().unwrap();
        drop(publisher);
        // Each takes a third; what it was given ahead and did not take goes back uncounted.
        let taken: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    let client = site.client();
                    scope.spawn(move || {
                        let mut jobs = client.consumer("jobs").unwrap();
                        let mut taken = Vec::new();
                        while taken.len() < RECORDS as usize / 3 {
                            let delivery = jobs.next().unwrap().unwrap();
                            assert_eq!(delivery.attempts(), 1);
                            let offset = delivery.offset().0;
                            assert_eq!(delivery.as_bytes(), offset.to_le_bytes());
                            assert_eq!(delivery.key().unwrap(), offset.to_string());
                            taken.push(offset);
                            if taken.len() % 100 == 0 {
                                delivery.ack_confirmed_blocking().unwrap();
                            } else {
                                delivery.ack();
                            }
                        }
                        assert_eq!(jobs.lost(), 0);
                        taken
                    })
                })
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().unwrap())
                .collect()
        });
        let mut sorted = taken.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..RECORDS).collect::<Vec<_>>());
        let mut publisher = client.publisher("jobs").unwrap();
        publisher.publish("after").unwrap();
        drop((client, publisher));
        site.stop();

        let site = Site::start(folder.path(), io);
        let client = site.client();
        let mut jobs = client.consumer("jobs").unwrap();
        let delivery = jobs.next().unwrap().unwrap();
        assert_eq!((delivery.offset().0, delivery.attempts()), (RECORDS, 1));
        delivery.ack_confirmed_blocking().unwrap();
        let info = client.queue("jobs").unwrap();
        assert_eq!((info.floor.0, info.ready, info.leased), (RECORDS + 1, 0, 0));
        drop((client, jobs));
        site.stop();
    });
}

#[test]
fn cursors_are_where_they_were_after_a_restart() {
    on_each_backend(|io| {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::start(folder.path(), io);
        let client = site.client();
        let mut publisher = client.publisher("t").unwrap();
        for number in 0..10u8 {
            publisher.publish(vec![number]).unwrap();
        }
        client.set_cursor("t", "audit", Offset(7)).unwrap();
        drop((client, publisher));
        site.stop();
        let site = Site::start(folder.path(), io);
        let client = site.client();
        let cursor = client.cursor_info("t", "audit").unwrap();
        assert_eq!((cursor.offset, cursor.end_offset), (Offset(7), Offset(10)));
        drop(client);
        site.stop();
    });
}

#[test]
fn one_thread_carries_the_connection_of_a_producer_a_queue_and_a_reader() {
    on_each_backend(|io| {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::start(folder.path(), io);
        let options = ConnectOptions::new();
        let (client, mut driver) = Driver::connect(site.address.as_str(), &options).unwrap();
        driver.run_until(async {
            let queue = QueueOptions::new().topic("orders");
            client
                .create_topic("orders", TopicOptions::new())
                .await
                .unwrap();
            client.create_queue("billing", queue).await.unwrap();
            let mut producer = client.producer("orders", "till").await.unwrap();
            for number in 0..100 {
                let receipt = producer.publish(body(number, 100)).await.unwrap();
                assert_eq!(receipt.first, Offset(number as u64));
            }
        });
        let mut jobs = driver.run_until(client.consumer("billing")).unwrap();
        let mut tape = driver
            .run_until(client.reader("orders", Start::Earliest))
            .unwrap();
        for number in 0..100 {
            let job = driver.run_until(jobs.next()).unwrap().unwrap();
            assert_eq!(job.as_bytes(), body(number, 100));
            driver.run_until(job.ack_confirmed()).unwrap();
            let record = driver.run_until(tape.next()).unwrap().unwrap();
            assert_eq!(record.as_bytes(), body(number, 100));
        }
        driver.run_until(client.close()).unwrap();
        site.stop();
    });
}
