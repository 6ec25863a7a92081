//! What can fail, for each operation: its kind, whether a retry can help, whether it took effect.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;

use millstream_protocol::batch::{BatchError, PushError};
use millstream_protocol::control::{ErrorMessage, GapReason};
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::frame::FrameError;
use millstream_protocol::{Offset, TopicName, TopicNameError};

use crate::address::{Address, AddressError};

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

/// What was asked of a server about a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Create a topic.
    Create,
    /// Describe a topic.
    Describe,
    /// Delete a topic.
    Delete,
    /// List all topics.
    List,
    /// Open a topic for publishing.
    OpenPublisher,
    /// Open a topic for reading.
    OpenReader,
}

impl Action {
    const fn words(self) -> &'static str {
        match self {
            Self::Create => "create the topic",
            Self::Describe => "describe the topic",
            Self::Delete => "delete the topic",
            Self::List => "list the topics",
            Self::OpenPublisher => "publish to the topic",
            Self::OpenReader => "read the topic",
        }
    }

    /// Whether an answer that never came leaves something changed.
    const fn changes_nothing(self) -> bool {
        matches!(self, Self::Describe | Self::List | Self::OpenReader)
    }
}

/// Why a topic was not created, described, deleted, listed or opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicError {
    /// What was asked for.
    pub action: Action,
    /// The topic it was asked about; empty for a list of all.
    pub topic: Arc<str>,
    /// What stood in the way.
    pub cause: TopicErrorCause,
}

/// What stood in the way of a request about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicErrorCause {
    /// No topic may have this name.
    Name(TopicNameError),
    /// The server refused.
    Refused(Refusal),
    /// As many streams are open on this connection as may be.
    StreamsInUse {
        /// How many that is.
        streams: usize,
    },
    /// The connection ended before the request was sent.
    NotSent(ConnectionError),
    /// The connection ended before the answer came.
    Unanswered(ConnectionError),
    /// No answer came in time.
    TimedOut {
        /// How long it was waited for.
        ms: u64,
    },
    /// The server closed the stream instead of opening it.
    Closed,
}

impl TopicError {
    pub(crate) fn new(action: Action, topic: &str, cause: TopicErrorCause) -> Self {
        Self {
            action,
            topic: topic.into(),
            cause,
        }
    }

    /// The server's code, or the one that says the same; none when the connection just ended.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match &self.cause {
            TopicErrorCause::Name(_) => Some(ErrorCode::TopicNameInvalid),
            TopicErrorCause::Refused(refusal) => Some(refusal.code),
            TopicErrorCause::StreamsInUse { .. } => Some(ErrorCode::Limit),
            TopicErrorCause::NotSent(cause) | TopicErrorCause::Unanswered(cause) => cause.code(),
            TopicErrorCause::TimedOut { .. } => Some(ErrorCode::TimedOut),
            TopicErrorCause::Closed => None,
        }
    }

    /// Whether what was asked for happened all the same.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match &self.cause {
            TopicErrorCause::Refused(refusal) => refusal.effect,
            TopicErrorCause::Unanswered(_) | TopicErrorCause::TimedOut { .. }
                if !self.action.changes_nothing() =>
            {
                Effect::Unknown
            }
            _ => Effect::NotApplied,
        }
    }

    /// Whether the same request may succeed later, on this or a new connection.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match &self.cause {
            TopicErrorCause::Name(_) => false,
            TopicErrorCause::Refused(refusal) => refusal.retriable,
            TopicErrorCause::NotSent(cause) | TopicErrorCause::Unanswered(cause) => {
                cause.is_retriable()
            }
            TopicErrorCause::StreamsInUse { .. }
            | TopicErrorCause::TimedOut { .. }
            | TopicErrorCause::Closed => true,
        }
    }
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.action.words())?;
        if !self.topic.is_empty() {
            write!(f, " {:?}", &*self.topic)?;
        }
        match &self.cause {
            TopicErrorCause::Name(error) => write!(f, ": {error}"),
            TopicErrorCause::Refused(refusal) => write!(f, ": {refusal}"),
            TopicErrorCause::StreamsInUse { streams } => write!(
                f,
                ": all {streams} streams of this connection are in use; drop a handle or connect \
                 once more"
            ),
            TopicErrorCause::NotSent(cause) | TopicErrorCause::Unanswered(cause) => {
                write!(f, ": {cause}")
            }
            TopicErrorCause::TimedOut { ms } => write!(f, ": no answer within {ms} ms"),
            TopicErrorCause::Closed => f.write_str(": the server closed the stream; try again"),
        }?;
        match self.effect() {
            Effect::Unknown => f.write_str(EFFECT_UNKNOWN),
            Effect::Applied | Effect::NotApplied => Ok(()),
        }
    }
}

/// What is said of a request whose answer never came.
const EFFECT_UNKNOWN: &str = "; whether it took effect is unknown";

impl std::error::Error for TopicError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            TopicErrorCause::Name(error) => Some(error),
            TopicErrorCause::NotSent(cause) | TopicErrorCause::Unanswered(cause) => Some(cause),
            _ => None,
        }
    }
}

/// Why a message or a batch is not known to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The message breaks a limit; nothing was sent.
    Message {
        /// The topic.
        topic: TopicName,
        /// The limit.
        cause: PushError,
    },
    /// The batch has no records; nothing was sent.
    EmptyBatch {
        /// The topic.
        topic: TopicName,
    },
    /// The frame is larger than this server takes; nothing was sent.
    TooLarge {
        /// The topic.
        topic: TopicName,
        /// The frame's bytes.
        frame_bytes: u32,
        /// The most the server takes.
        frame_bytes_max: u32,
    },
    /// The server refused it.
    Refused {
        /// The topic.
        topic: TopicName,
        /// What the server said.
        refusal: Refusal,
    },
    /// The stream could not be opened again after an earlier refusal; nothing was sent.
    Reopen(TopicError),
    /// The connection ended before it was sent.
    NotSent {
        /// The topic.
        topic: TopicName,
        /// Why the connection ended.
        cause: ConnectionError,
    },
    /// It was sent, and no acknowledgement came before the connection ended.
    OutcomeUnknown {
        /// The topic.
        topic: TopicName,
        /// Why the connection ended.
        cause: ConnectionError,
    },
    /// It was sent, and the server closed the stream without saying what became of it.
    Unacknowledged {
        /// The topic.
        topic: TopicName,
    },
    /// The server closed the stream before it was sent.
    StreamClosed {
        /// The topic.
        topic: TopicName,
    },
}

impl PublishError {
    /// The server's code, or the one that says the same; none when the connection just ended.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Message { .. } | Self::TooLarge { .. } => Some(ErrorCode::TooLarge),
            Self::EmptyBatch { .. } => Some(ErrorCode::Malformed),
            Self::Refused { refusal, .. } => Some(refusal.code),
            Self::Reopen(error) => error.code(),
            Self::NotSent { cause, .. } | Self::OutcomeUnknown { cause, .. } => cause.code(),
            Self::Unacknowledged { .. } | Self::StreamClosed { .. } => None,
        }
    }

    /// Whether the records are in the topic all the same.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Refused { refusal, .. } => refusal.effect,
            Self::OutcomeUnknown { .. } | Self::Unacknowledged { .. } => Effect::Unknown,
            Self::Message { .. }
            | Self::EmptyBatch { .. }
            | Self::TooLarge { .. }
            | Self::Reopen(_)
            | Self::NotSent { .. }
            | Self::StreamClosed { .. } => Effect::NotApplied,
        }
    }

    /// Whether publishing the same again may succeed, on this or a new connection.
    ///
    /// Where [`effect`](Self::effect) is [`Effect::Unknown`] it may also publish it twice.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Message { .. } | Self::EmptyBatch { .. } | Self::TooLarge { .. } => false,
            Self::Refused { refusal, .. } => refusal.retriable,
            Self::Reopen(error) => error.is_retriable(),
            Self::NotSent { cause, .. } | Self::OutcomeUnknown { cause, .. } => {
                cause.is_retriable()
            }
            Self::Unacknowledged { .. } | Self::StreamClosed { .. } => true,
        }
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message { topic, cause } => write!(f, "cannot publish to {topic}: {cause}"),
            Self::EmptyBatch { topic } => {
                write!(
                    f,
                    "cannot publish to {topic}: the batch has no records; push one first"
                )
            }
            Self::TooLarge {
                topic,
                frame_bytes,
                frame_bytes_max,
            } => write!(
                f,
                "cannot publish to {topic}: the frame has {frame_bytes} bytes, the server takes \
                 {frame_bytes_max}; publish less at once"
            ),
            Self::Refused { topic, refusal } => write!(f, "cannot publish to {topic}: {refusal}"),
            Self::Reopen(error) => error.fmt(f),
            Self::NotSent { topic, cause } => {
                write!(f, "not sent to {topic}: {cause}")
            }
            Self::OutcomeUnknown { topic, cause } => {
                write!(
                    f,
                    "sent to {topic}, but never acknowledged: {cause}{EFFECT_UNKNOWN}"
                )
            }
            Self::Unacknowledged { topic } => write!(
                f,
                "sent to {topic}, but the server closed the stream before it was \
                 acknowledged{EFFECT_UNKNOWN}"
            ),
            Self::StreamClosed { topic } => {
                write!(
                    f,
                    "not sent to {topic}: the server closed the stream; publish it again"
                )
            }
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Message { cause, .. } => Some(cause),
            Self::Reopen(error) => Some(error),
            Self::NotSent { cause, .. } | Self::OutcomeUnknown { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// Why a reader gives no record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// Records are missing; reading goes on behind them.
    Gap {
        /// The first missing offset.
        first: Offset,
        /// The offset at which reading goes on.
        next: Offset,
        /// Why they are missing.
        reason: GapReason,
    },
    /// The server ended the stream.
    Refused {
        /// The topic.
        topic: TopicName,
        /// What the server said.
        refusal: Refusal,
    },
    /// A batch arrived as it was published, and cannot be read; reading goes on behind it.
    Unreadable {
        /// Its first offset that was wanted.
        first: Offset,
        /// The offset at which reading goes on.
        next: Offset,
        /// What is wrong with it.
        cause: BatchError,
    },
    /// The server closed the stream.
    StreamClosed {
        /// The topic.
        topic: TopicName,
    },
    /// What arrived is not what was published: a frame's own checks fail.
    Corrupt {
        /// The topic.
        topic: TopicName,
        /// The next offset that was wanted.
        at: Offset,
        /// What is wrong.
        cause: FrameError,
    },
    /// A record other than the next one arrived.
    OutOfOrder {
        /// The topic.
        topic: TopicName,
        /// The lowest offset that may come next.
        wanted: Offset,
        /// The offset that came.
        found: Offset,
    },
    /// The connection ended.
    Connection {
        /// The topic.
        topic: TopicName,
        /// Why it ended.
        cause: ConnectionError,
    },
}

impl ReadError {
    /// The server's code, or the one that says the same; none when the connection just ended.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Gap { .. } => Some(ErrorCode::OffsetOutOfRange),
            Self::Refused { refusal, .. } => Some(refusal.code),
            Self::Unreadable { cause, .. } => Some(cause.code()),
            Self::StreamClosed { .. } => None,
            Self::Corrupt { .. } => Some(ErrorCode::BadChecksum),
            Self::OutOfOrder { .. } => Some(ErrorCode::OutOfSequence),
            Self::Connection { cause, .. } => cause.code(),
        }
    }

    /// Always [`Effect::NotApplied`]: reading changes nothing.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        Effect::NotApplied
    }

    /// Whether a new reader from the next wanted offset may get on.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Gap { .. }
            | Self::Unreadable { .. }
            | Self::Corrupt { .. }
            | Self::OutOfOrder { .. } => false,
            Self::StreamClosed { .. } => true,
            Self::Refused { refusal, .. } => refusal.retriable,
            Self::Connection { cause, .. } => cause.is_retriable(),
        }
    }

    /// Whether this reader gives nothing more.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Gap { .. } | Self::Unreadable { .. })
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap {
                first,
                next,
                reason,
            } => write!(
                f,
                "offsets {first} up to {next} are missing ({reason:?}); reading goes on at {next}"
            ),
            Self::Unreadable { first, next, cause } => write!(
                f,
                "offsets {first} up to {next} cannot be read as they were published: {cause}; \
                 reading goes on at {next}"
            ),
            Self::StreamClosed { topic } => {
                write!(
                    f,
                    "the server closed the stream that reads {topic}; open another reader"
                )
            }
            Self::Refused { topic, refusal } => write!(f, "cannot read {topic}: {refusal}"),
            Self::Corrupt { topic, at, cause } => {
                write!(
                    f,
                    "what arrived of {topic} at offset {at} is damaged: {cause}"
                )
            }
            Self::OutOfOrder {
                topic,
                wanted,
                found,
            } => write!(
                f,
                "offset {found} of {topic} arrived where {wanted} or a later one belongs"
            ),
            Self::Connection { topic, cause } => write!(f, "reading {topic} ended: {cause}"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Corrupt { cause, .. } => Some(cause),
            Self::Unreadable { cause, .. } => Some(cause),
            Self::Connection { cause, .. } => Some(cause),
            _ => None,
        }
    }
}
