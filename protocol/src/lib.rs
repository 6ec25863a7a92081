//! The bytes of Millstream: what lies on disk and what travels on the wire.
//!
//! This crate knows no socket, no clock, no disk and no thread. It defines
//!
//! - [`limits`]: every bound, in one place, tied together by const-asserts;
//! - [`frame`]: the 64-byte header before every batch, on disk and on the wire;
//! - [`batch`]: the columnar body of a frame, its builder, its checked view, its records;
//! - [`wire`]: the 32-byte header before every message of a connection;
//! - [`control`]: the bodies of all messages that are not frames;
//! - [`error`]: the stable codes a peer answers with.
//!
//! Everything read from outside is checked before it is believed: the type before the length, the
//! length before anything is allocated, the checksum before the content. Layouts are frozen;
//! `docs/PROTOCOL.md` draws them byte by byte.
#![forbid(unsafe_code)]

pub mod batch;
pub mod checksum;
pub mod control;
pub mod error;
pub mod frame;
pub mod limits;
pub mod wire;

mod bytes_at;
mod coded;
mod offset;
mod topic;

pub use offset::{Offset, Start};
pub use topic::{AckLevel, Durability, TopicName, TopicNameError};
