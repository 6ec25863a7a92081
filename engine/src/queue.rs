//! Work queues: named, durable work lists over topics, and named cursors for readers.
//!
//! ```text
//!  consumers ──inputs──▶ ring ──▶ whoever holds the baton: scheduler.step(now, input)
//!      ▲                                   │ what must last       │ grants
//!      └────────mailboxes◀─────────────────┼──────────────────────┘
//!                                          ▼
//!                                       journal ──synced──▶ answers, dead letters, retention
//! ```
//! The scheduler decides and does nothing; `core` carries out what it decides; `registry` knows all
//! queues; `upkeep` and `moves` work behind them. A restart reads the journal back (`recovery`) and
//! looks at the topic again from the first record that is not settled.

mod admin;
mod clock;
mod codec;
mod consumer;
mod core;
#[cfg(test)]
mod crash;
mod cursor;
mod definition;
mod delivery;
mod error;
mod far;
#[cfg(test)]
mod faults;
mod fetcher;
mod ids;
mod inspect;
mod journal;
mod keeper;
#[cfg(test)]
mod keeping;
mod link;
mod moves;
mod notes;
#[cfg(test)]
mod nth;
#[cfg(test)]
mod orders;
mod patient;
mod purge;
mod rate;
mod recovery;
mod redrive;
mod registry;
mod retention;
mod scanner;
pub(crate) mod scheduler;
mod shared;
mod topic;
mod upkeep;

pub use admin::QueueOptions;
pub use consumer::{Consumer, ConsumerOptions, PREFETCH_MAX, Settling, Worked};
pub use cursor::Cursor;
pub use delivery::{Delivery, DeliveryParts, DeliveryToken, DeliveryView, LeaseTime};
pub use error::{ConsumeError, QueueError, SettleError};
pub use inspect::{CheckedQueue, QueueProblem, QueuesReport, verify_queues};
pub use link::Outcome;
pub use redrive::Redrive;

pub(crate) use clock::{Clock, boot_us};
pub(crate) use codec::{Fields, Malformed, put_text};
pub(crate) use ids::Asking;
pub(crate) use journal::{Owner, Writer, replay};
pub(crate) use registry::{Queues, check_public, is_reserved};
pub(crate) use topic::{Admission, TopicRules};

/// Headers the broker puts on records it moves.
pub mod headers {
    pub use super::notes::{
        ATTEMPTS, FIRST_US, FOR_QUEUE, LAST_US, OFFSET, QUEUE, REASON, REASON_TEXT, TOPIC,
    };
}
