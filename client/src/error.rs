//! What can fail, for each operation: its kind, whether a retry can help, whether it took effect.

mod connect;
mod connection;
mod consume;
mod producer;
mod publish;
mod queue;
mod read;
mod topic;

pub use connect::ConnectError;
pub use connection::ConnectionError;
pub use consume::{ConsumeError, SettleError};
pub use producer::ProducerEnd;
pub use publish::PublishError;
pub use queue::{QueueAction, QueueError, QueueErrorCause};
pub use read::ReadError;
pub use topic::{Action, TopicError, TopicErrorCause};

use std::fmt;
use std::sync::Arc;

use millstream_protocol::control::ErrorMessage;
use millstream_protocol::error::{Effect, ErrorCode};

/// What is said of a request whose answer never came.
const EFFECT_UNKNOWN: &str = "; whether it took effect is unknown";

/// The server's answer that it did not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What went wrong, as a number that never changes its meaning.
    pub code: ErrorCode,
    /// Whether the request took effect all the same.
    pub effect: Effect,
    /// Whether the same request may succeed later.
    pub retriable: bool,
    /// The server's sentence about it.
    pub message: Arc<str>,
}

impl Refusal {
    pub(crate) fn of(error: ErrorMessage) -> Self {
        let ErrorMessage {
            code,
            effect,
            retriable,
            message,
        } = error;
        Self {
            code,
            effect,
            retriable,
            message: message.into(),
        }
    }

    /// The same about something that was not even sent.
    pub(crate) fn without_effect(self) -> Self {
        Self {
            effect: Effect::NotApplied,
            ..self
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)?;
        if self.retriable {
            f.write_str("; the same may succeed later")?;
        }
        Ok(())
    }
}
