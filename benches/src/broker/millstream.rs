//! Millstream's own server, through its client; each connection is carried by the thread that uses it.

use std::collections::VecDeque;
use std::future::pending;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use millstream_client::blocking::Driver;
use millstream_client::{
    Address, BatchBuilder, Client, ConnectError, ConnectOptions, Consumer, ConsumerOptions,
    Durability, GapReason, Publisher, QueueOptions, ReadError, Reader, Retention, Start, Ticket,
    TopicOptions,
};

use super::{Broker, Failure, Kind, Process, Publish, Receive};
use crate::load::Target;

/// Records a worker of a queue is sent ahead.
const PREFETCH: u32 = 1024;

/// A server, started here or elsewhere.
#[derive(Debug)]
pub struct Millstream {
    address: Address,
    durability: Durability,
    setup: String,
    process: Option<Process>,
    /// How long its clients look for more instead of sleeping.
    poll: Duration,
    /// Its topics keep so much and let the rest go; 0: all.
    retention_bytes: u64,
}

impl Millstream {
    /// Starts `program serve` with `arguments` in a folder of its own below `parent`.
    ///
    /// # Errors
    ///
    /// It did not start.
    pub fn start(
        program: &Path,
        arguments: &[String],
        parent: &Path,
        durability: Durability,
    ) -> Result<Self, Failure> {
        let process = Process::start(
            parent,
            |folder| {
                let mut command = Command::new(program);
                command
                    .args(["serve", "--json", "--listen", "127.0.0.1:0", "--data"])
                    .arg(folder.join("data"))
                    .args(arguments);
                command
            },
            |line| line.contains("\"addresses\""),
        )?;
        let address = address_in(process.ready_line())?;
        Ok(Self {
            address,
            durability,
            setup: format!("serve {}", arguments.join(" "))
                .trim_end()
                .to_owned(),
            process: Some(process),
            poll: Duration::ZERO,
            retention_bytes: 0,
        })
    }

    /// The server at `address`, which somebody else started.
    #[must_use]
    pub const fn at(address: Address, durability: Durability) -> Self {
        Self {
            address,
            durability,
            setup: String::new(),
            process: None,
            poll: Duration::ZERO,
            retention_bytes: 0,
        }
    }

    /// Has its clients poll for `time` after what came last.
    #[must_use]
    pub fn clients_poll(mut self, time: Duration) -> Self {
        self.poll = time;
        self.note("clients that poll");
        self
    }

    /// Has its topics keep the newest `bytes` and let older messages go.
    #[must_use]
    pub fn keeping(mut self, bytes: u64) -> Self {
        self.retention_bytes = bytes;
        self.note(&format!("topics keep the newest {} MiB", bytes >> 20));
        self
    }

    fn note(&mut self, setup: &str) {
        if !self.setup.is_empty() {
            self.setup += ", ";
        }
        self.setup += setup;
    }

    fn connect(&self) -> Result<(Client, Driver), ConnectError> {
        let options = ConnectOptions::new().poll(self.poll);
        Driver::connect(self.address.clone(), &options)
    }
}

/// The first address in the object that a server prints once it is ready.
pub(crate) fn address_in(ready: &str) -> Result<Address, Failure> {
    let object: serde_json::Value = serde_json::from_str(ready)?;
    let address = object.pointer("/addresses/0");
    let address = address.and_then(serde_json::Value::as_str);
    let address = address.ok_or_else(|| format!("the server names no address: {ready}"))?;
    Ok(format!("millstream://{address}").parse()?)
}

impl Broker for Millstream {
    fn target(&self) -> Target {
        Target {
            name: "millstream".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            durability: self.durability.to_string(),
            setup: self.setup.clone(),
        }
    }

    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    fn took(&self) -> Option<Duration> {
        self.process.as_ref().map(Process::took)
    }

    fn address(&self) -> Option<&Address> {
        Some(&self.address)
    }

    fn folder(&self) -> Option<&Path> {
        self.process.as_ref().map(Process::folder)
    }

    fn create(&self, topic: &str, kind: Kind) -> Result<(), Failure> {
        let (client, mut driver) = self.connect()?;
        driver.run_until(async {
            let options = TopicOptions::new().durability(self.durability);
            client.create_topic(topic, options).await?;
            if self.retention_bytes > 0 {
                let retention = Retention {
                    bytes: self.retention_bytes,
                    ..Retention::KEEP_ALL
                };
                client.set_retention(topic, retention).await?;
            }
            if kind == Kind::Queue {
                // A topic of its name that nobody used becomes the queue's own, as with other brokers.
                client.create_queue(topic, QueueOptions::new()).await?;
            }
            Ok(())
        })
    }

    fn remove(&self, topic: &str) -> Result<(), Failure> {
        let (client, mut driver) = self.connect()?;
        driver.run_until(async {
            if client.queue(topic).await.is_ok() {
                // And the topic with it.
                client.delete_queue(topic).await?;
            } else {
                client.delete_topic(topic).await?;
            }
            Ok(())
        })
    }

    fn publisher(&self, topic: &str, batch: usize) -> Result<Box<dyn Publish>, Failure> {
        let (client, mut driver) = self.connect()?;
        let publisher = driver.run_until(client.publisher(topic))?;
        Ok(Box::new(Publishing {
            driver,
            publisher,
            batch,
            builder: BatchBuilder::new(),
            under_way: VecDeque::new(),
        }))
    }

    fn receiver(&self, topic: &str, kind: Kind) -> Result<Box<dyn Receive>, Failure> {
        let (client, mut driver) = self.connect()?;
        Ok(match kind {
            Kind::Stream => {
                let opening = client.reader(topic, Start::Earliest);
                let reader = driver.run_until(opening)?;
                Box::new(Reading {
                    driver,
                    reader,
                    has_begun: false,
                    passed_over: 0,
                    may_pass_over: self.retention_bytes > 0,
                })
            }
            Kind::Queue => {
                let options = ConsumerOptions::new().prefetch(PREFETCH);
                let opened = client.consumer_with(topic, options);
                let consumer = driver.run_until(opened)?;
                Box::new(Working {
                    driver,
                    consumer: Some(consumer),
                    client: Some(client),
                })
            }
        })
    }
}

struct Publishing {
    driver: Driver,
    publisher: Publisher,
    batch: usize,
    builder: BatchBuilder,
    /// Tickets in the order of their messages, with how many each is for.
    under_way: VecDeque<(Ticket, u64)>,
}

impl Publish for Publishing {
    fn send(&mut self, messages: &[u8], message_bytes: usize) -> Result<(), Failure> {
        let Self {
            driver,
            publisher,
            batch,
            builder,
            under_way,
        } = self;
        // What is put into the connection goes to the socket with this call.
        driver.run_until(async {
            if *batch == 1 {
                for body in messages.chunks_exact(message_bytes) {
                    under_way.push_back((publisher.enqueue_body(body).await?, 1));
                }
            } else {
                for run in messages.chunks(*batch * message_bytes) {
                    builder.clear();
                    for body in run.chunks_exact(message_bytes) {
                        builder.push_body(body)?;
                    }
                    let ticket = publisher.enqueue_batch(builder).await?;
                    under_way.push_back((ticket, builder.len() as u64));
                }
            }
            Ok(())
        })
    }

    fn acknowledged(&mut self, wait: Duration) -> Result<u64, Failure> {
        let Some((first, count)) = self.under_way.front_mut() else {
            // Nobody is waited for; the connection is looked at all the same.
            self.driver.run_for(Duration::ZERO, pending::<()>());
            return Ok(0);
        };
        let Some(receipt) = self.driver.run_for(wait, first) else {
            return Ok(0);
        };
        receipt?;
        let mut acknowledged = *count;
        self.under_way.pop_front();
        let mut cx = Context::from_waker(Waker::noop());
        while let Some((ticket, count)) = self.under_way.front_mut() {
            match Pin::new(ticket).poll(&mut cx) {
                Poll::Ready(receipt) => {
                    receipt?;
                    acknowledged += *count;
                    self.under_way.pop_front();
                }
                Poll::Pending => break,
            }
        }
        Ok(acknowledged)
    }
}

struct Reading {
    driver: Driver,
    reader: Reader,
    /// A message came.
    has_begun: bool,
    /// Offsets that no message came for, since the topic let them go.
    passed_over: u64,
    /// The topic lets messages go.
    may_pass_over: bool,
}

impl Receive for Reading {
    fn receive(&mut self, wait: Duration, take: &mut dyn FnMut(&[u8])) -> Result<u64, Failure> {
        let Self {
            driver,
            reader,
            has_begun,
            passed_over,
            may_pass_over,
        } = self;
        let received = driver.run_for(wait, async {
            let run = reader.next_run().await;
            let mut run = run.ok_or("the topic gives nothing more")?;
            let mut received = 0;
            while let Some(record) = run.next_view() {
                let record = match record {
                    Err(ReadError::Gap {
                        first,
                        next,
                        reason: GapReason::Trimmed,
                    }) if *may_pass_over => {
                        *passed_over += next.since(first).unwrap_or(0);
                        continue;
                    }
                    record => record?,
                };
                // From the earliest on there is no gap before the first; anywhere else what is missing is lost.
                if !*has_begun {
                    *passed_over = record.offset().0;
                    *has_begun = true;
                }
                take(record.as_bytes());
                received += 1;
            }
            Ok(received)
        });
        received.unwrap_or(Ok(0))
    }

    fn let_go(&self) -> u64 {
        if self.may_pass_over {
            self.passed_over
        } else {
            0
        }
    }
}

struct Working {
    driver: Driver,
    /// Until it has finished.
    consumer: Option<Consumer>,
    client: Option<Client>,
}

impl Receive for Working {
    fn receive(&mut self, wait: Duration, take: &mut dyn FnMut(&[u8])) -> Result<u64, Failure> {
        let Self {
            driver, consumer, ..
        } = self;
        let consumer = consumer.as_mut().ok_or("the worker has finished")?;
        let received = driver.run_for(wait, async {
            let mut next = consumer.next().await;
            let mut received = 0;
            while let Some(delivery) = next {
                let delivery = delivery?;
                take(delivery.as_bytes());
                delivery.ack();
                received += 1;
                next = consumer.try_next();
            }
            Ok(received)
        });
        received.unwrap_or(Ok(0))
    }

    fn finish(&mut self) -> Result<(), Failure> {
        if let Some(consumer) = self.consumer.take() {
            consumer.close();
        }
        if let Some(client) = self.client.take() {
            self.driver.run_until(client.close())?;
        }
        Ok(())
    }
}
