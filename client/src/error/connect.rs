//! Why no connection came about.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;

use millstream_protocol::error::{Effect, ErrorCode};

use super::ConnectionError;
use crate::address::{Address, AddressError};

/// Why no connection came about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// What was given is no address.
    Address(AddressError),
    /// Nobody could be reached at the address.
    Unreachable {
        /// The address.
        address: Address,
        /// What the system calls it.
        kind: io::ErrorKind,
        /// What the system says.
        message: Arc<str>,
    },
    /// No welcome came in time.
    TimedOut {
        /// The address.
        address: Address,
        /// How long it was waited for.
        ms: u64,
    },
    /// Somebody listens there, but no session came about.
    Handshake {
        /// The address.
        address: Address,
        /// Why not.
        cause: ConnectionError,
    },
    /// The thread of a blocking client could not be started.
    Thread {
        /// What the system says.
        message: Arc<str>,
    },
}

impl ConnectError {
    /// The server's code, or the one that says the same; none when nobody answered.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::TimedOut { .. } => Some(ErrorCode::TimedOut),
            Self::Handshake { cause, .. } => cause.code(),
            Self::Address(_) | Self::Unreachable { .. } | Self::Thread { .. } => None,
        }
    }

    /// Always [`Effect::NotApplied`].
    #[must_use]
    pub const fn effect(&self) -> Effect {
        Effect::NotApplied
    }

    /// Whether trying again may help.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Handshake { cause, .. } => cause.is_retriable(),
            Self::Address(_) | Self::Thread { .. } => false,
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(error) => error.fmt(f),
            Self::Unreachable {
                address, message, ..
            } => {
                write!(
                    f,
                    "cannot connect to {address}: {message}; is the server running there?"
                )
            }
            Self::TimedOut { address, ms } => {
                write!(f, "cannot connect to {address}: no welcome within {ms} ms")
            }
            Self::Handshake { address, cause } => write!(f, "cannot connect to {address}: {cause}"),
            Self::Thread { message } => {
                write!(f, "cannot start the thread of a blocking client: {message}")
            }
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Address(error) => Some(error),
            Self::Handshake { cause, .. } => Some(cause),
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Thread { .. } => None,
        }
    }
}

impl From<Infallible> for ConnectError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<AddressError> for ConnectError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}
