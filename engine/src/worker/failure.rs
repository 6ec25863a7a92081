//! What a handler says of a record it did not do.

use std::fmt;
use std::time::Duration;

/// Why a record was not done, and what is to become of it.
///
/// Any error turns into [`Failure::Retry`] by `?`:
///
/// ```
/// # use millstream as api;
/// use api::Failure;
///
/// fn charge(body: &[u8]) -> Result<(), Failure> {
///     let amount = std::str::from_utf8(body)?; // not text: again, until its deliveries are used up
///     if amount.starts_with('-') {
///         return Err(Failure::reject("a negative amount"));
///     }
///     Ok(())
/// }
/// # assert!(matches!(charge(b"-1"), Err(Failure::Reject { .. })));
/// # assert!(matches!(charge(b"\xff"), Err(Failure::Retry { .. })));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Again after the queue's back-off; a dead letter if it had all its deliveries.
    Retry {
        /// Why, for the log.
        why: String,
    },
    /// Again after a delay.
    RetryAfter {
        /// How long.
        delay: Duration,
    },
    /// Never again: a dead letter.
    Reject {
        /// Why, for who looks at dead letters.
        reason: String,
    },
}

impl Failure {
    /// Again after the queue's back-off.
    #[must_use]
    pub fn retry(why: impl fmt::Display) -> Self {
        Self::Retry {
            why: why.to_string(),
        }
    }

    /// Again after `delay`.
    #[must_use]
    pub const fn retry_after(delay: Duration) -> Self {
        Self::RetryAfter { delay }
    }

    /// Never again: a dead letter for this reason.
    #[must_use]
    pub fn reject(reason: impl Into<String>) -> Self {
        Self::Reject {
            reason: reason.into(),
        }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry { why } => write!(f, "to be tried again: {why}"),
            Self::RetryAfter { delay } => write!(f, "to be tried again after {delay:?}"),
            Self::Reject { reason } => write!(f, "rejected: {reason}"),
        }
    }
}
