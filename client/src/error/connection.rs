//! Why a connection ended.

use std::fmt;
use std::io;
use std::sync::Arc;

use millstream_protocol::error::ErrorCode;

use super::Refusal;

/// Why a connection ended. Nothing more is sent or received on it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionError {
    /// This side closed it: [`Client::close`](crate::Client::close), or every handle was dropped.
    ClosedHere,
    /// The server closed it, with its reason when it gave one.
    ClosedByServer {
        /// What the server said last; empty when it said nothing.
        reason: Arc<str>,
    },
    /// The server refused to go on.
    Refused(Refusal),
    /// Reading or writing the socket failed.
    Io {
        /// What the system calls it.
        kind: io::ErrorKind,
        /// What the system says.
        message: Arc<str>,
    },
    /// Nothing came for too long, heartbeats included.
    Silent {
        /// For how long.
        ms: u64,
    },
    /// The server sent what no server may: this side no longer trusts the stream.
    Protocol {
        /// What it was.
        what: Arc<str>,
    },
}

impl ConnectionError {
    pub(crate) fn protocol(what: impl fmt::Display) -> Self {
        Self::Protocol {
            what: what.to_string().into(),
        }
    }

    pub(crate) fn io(error: &io::Error) -> Self {
        Self::Io {
            kind: error.kind(),
            message: error.to_string().into(),
        }
    }

    /// The server's code, or the one that says the same; none when the socket just ended.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Silent { .. } => Some(ErrorCode::TimedOut),
            Self::Protocol { .. } => Some(ErrorCode::Malformed),
            Self::ClosedHere | Self::ClosedByServer { .. } | Self::Io { .. } => None,
        }
    }

    /// Whether a new connection may fare better.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::ClosedByServer { .. } | Self::Io { .. } | Self::Silent { .. } => true,
            Self::Refused(refusal) => refusal.retriable,
            Self::ClosedHere | Self::Protocol { .. } => false,
        }
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClosedHere => f.write_str("this client was closed"),
            Self::ClosedByServer { reason } if reason.is_empty() => {
                f.write_str("the server closed the connection; connect again")
            }
            Self::ClosedByServer { reason } => {
                write!(
                    f,
                    "the server closed the connection ({reason}); connect again"
                )
            }
            Self::Refused(refusal) => write!(f, "the server ended the connection: {refusal}"),
            Self::Io { message, .. } => {
                write!(f, "the connection broke ({message}); connect again")
            }
            Self::Silent { ms } => {
                write!(
                    f,
                    "the server was silent for {ms} ms, heartbeats included; connect again"
                )
            }
            Self::Protocol { what } => {
                write!(
                    f,
                    "the server broke the protocol ({what}), so the connection was closed"
                )
            }
        }
    }
}

impl std::error::Error for ConnectionError {}
