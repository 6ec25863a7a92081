//! Millstream in your own program: durable topics in one folder, no server, no async runtime.
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path();
//! use millstream::{Broker, Start};
//!
//! let broker = Broker::open(path)?;
//! let mut orders = broker.publisher("orders")?;
//! let receipt = orders.publish_blocking("hello")?; // on disk when it returns
//!
//! let mut tape = broker.reader("orders", Start::Earliest)?;
//! let record = tape.next_blocking().expect("one was published")?;
//! assert_eq!((record.offset(), record.as_bytes()), (receipt.first, &b"hello"[..]));
//! broker.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Every call has an async form, a blocking form, and a polling form that never blocks. Handles are
//! `Send + Sync + Clone`; a handle keeps its own order.
#![forbid(unsafe_code)]

mod block_on;
mod broker;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod producer;
mod publisher;
mod queue;
mod reader;
mod ticket;
mod worker;

pub use broker::{Broker, BrokerOptions, TopicOptions};
pub use error::{PublishError, ReadError, TopicError};
pub use millstream_protocol::batch::{
    BatchBuilder, Message, PushError, Record, RecordRef, RecordView,
};
pub use millstream_protocol::control::{
    Backoff, CursorInfo, DeadLetter, Gap, GapReason, LeaseInfo, OnExpiry, PeekedRecord, QueueInfo,
    QueueMode, QueueSettings, QueueTotals, RecordState, Retention, SettingsError, TopicInfo,
    WhenFull,
};
pub use millstream_protocol::error::{Effect, ErrorCode};
pub use millstream_protocol::{AckLevel, Durability, Offset, Start, TopicName, TopicNameError};
pub use millstream_storage::{Chunk, CloseError, FrameSlice, Level, LogRecovery, OpenError};
pub use producer::{ProducerError, ProducerInfo};
pub use publisher::{Appended, Publisher, PublisherOptions};
pub use queue::{
    CheckedQueue, ConsumeError, Consumer, ConsumerOptions, Cursor, Delivery, DeliveryParts,
    DeliveryToken, DeliveryView, LeaseTime, Outcome, PREFETCH_MAX, QueueError, QueueOptions,
    QueueProblem, QueuesReport, Redrive, SettleError, Settling, Worked, headers, verify_queues,
};
pub use reader::Reader;
pub use ticket::{Receipt, Ticket};
pub use worker::{Batch, BatchWorker, Failure, Report, Stop, Worker};
