//! The bodies of all messages that are not frames.
//!
//! Each is an rkyv archive with its root at the end: numbers little-endian and unaligned, texts
//! UTF-8 behind a 32-bit relative pointer and a length, choices as the number of the choice. What
//! is sent often has a fixed layout instead: [`PublishAck`], [`Credit`] and [`DeliveryPrelude`].
//!
//! `encode` appends the whole message, wire header and body. `decode` takes the body, checks every
//! reference and value, and refuses any form other than the one `encode` makes.

mod connection;
mod error;
mod layout;
mod publish;
mod read;
mod topic;

pub use connection::{ErrorMessage, Goodbye, Hello, Magic, Welcome};
pub use error::ControlError;
pub use publish::{AckRun, AckRuns, OpenPublisher, PublishAck, PublisherOpened};
pub use read::{Credit, Delivery, DeliveryPrelude, Gap, GapReason, OpenReader, ReaderOpened};
pub use topic::{CreateTopic, DeleteTopic, DescribeTopic, ListTopics, TopicInfo, TopicList};
