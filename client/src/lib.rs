//! The remote client of Millstream: the same words as the engine, over a connection.
//!
//! [`Client`] is async and runs on tokio; [`blocking::Client`] is the same without async. Both
//! drive one [`core::Core`], which takes bytes and gives bytes and does no I/O itself.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use millstream_client::{Client, Start};
//!
//! let client = Client::connect("millstream://localhost").await?;
//! let mut orders = client.publisher("orders").await?;
//! let receipt = orders.publish("hello").await?; // on disk when it returns
//! let ticket = orders.enqueue("again").await?; // pipelined; the ticket resolves later
//! println!("{} and {}", receipt.first, ticket.await?.first);
//!
//! let mut tape = client.reader("orders", Start::Earliest).await?;
//! while let Some(record) = tape.next().await {
//!     println!("{:?}", record?.as_bytes());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A queue delivers records to workers, each under a lease, until they are settled:
//!
//! ```no_run
//! # async fn example(client: millstream_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use millstream_client::{Failure, QueueOptions, Worker};
//!
//! client.create_queue("billing", QueueOptions::new().topic("orders")).await?;
//! let worker = Worker::new(client.consumer("billing").await?);
//! worker.run(|delivery| async move {
//!     println!("{:?}, time {}", delivery.as_bytes(), delivery.attempts());
//!     Ok::<(), Failure>(()) // acked; an error retries it
//! }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - A [`Receipt`] means that the records are as safe as its level says, at its offsets.
//! - What one handle publishes is stored in the order of its calls.
//! - Every error tells its kind (`code`), whether the records are in the topic all the same
//!   (`effect`), and whether trying again may help (`is_retriable`).
//! - A settle that comes after the end of its lease changes nothing, is counted and told; one whose
//!   confirmation came is on disk.
//! - A record is given out only after every checksum on its way was compared.
//! - Memory is bounded: publishing waits at the server's window, reading at its own credit,
//!   consuming at its own window.
//!
//! What was sent on a connection that was lost and not acknowledged is unknown, unless a [`Producer`]
//! sent it: that sends it again, and it is there once. Consumers go on by
//! themselves on a new connection, see [`ConsumerOptions::reconnect`]; other handles are opened
//! again after [`Client::reconnect`].
#![forbid(unsafe_code)]

pub mod blocking;
pub mod core;

mod address;
mod client;
mod connection;
mod consumer;
mod delivery;
mod driver;
mod error;
mod handshake;
mod link;
mod outcomes;
mod producer;
mod publisher;
mod queues;
mod reader;
mod turns;
mod worker;

pub use address::{Address, AddressError};
pub use client::{Client, ConnectOptions, TopicOptions};
pub use consumer::{Consumer, ConsumerCounts, ConsumerOptions};
pub use delivery::{Delivery, DeliveryToken};
pub use driver::Driver;
pub use error::{
    Action, ConnectError, ConnectionError, ConsumeError, ProducerEnd, PublishError, QueueAction,
    QueueError, QueueErrorCause, ReadError, Refusal, SettleError, TopicError, TopicErrorCause,
};
pub use millstream_protocol::batch::{BatchBuilder, Message, Record, RecordView};
pub use millstream_protocol::control::{
    Backoff, CursorInfo, CursorList, DeadLetter, GapReason, LeaseInfo, OnExpiry, PeekedRecord,
    QueueInfo, QueueList, QueueMode, QueueSettings, QueueTotals, RecordState, Retention,
    SettingsError, TopicInfo, TopicList, Welcome, WhenFull,
};
pub use millstream_protocol::error::{Effect, ErrorCode};
pub use millstream_protocol::{AckLevel, Durability, Offset, Start, TopicName};
pub use producer::{Producer, ProducerOptions, ProducerTicket};
pub use publisher::{Publisher, PublisherOptions, Receipt, Ticket};
pub use queues::{QueueOptions, Redrive};
pub use reader::{Reader, ReaderOptions, Records};
pub use worker::{Failure, Report, Stop, Worker};

/// The port a server listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7878;
