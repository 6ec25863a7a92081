//! The 32-byte header before every message of a connection, and the splitter of the byte stream.
//!
//! ```text
//!  0 u8  kind           see [`MessageKind`]
//!  1 u8  flags          0
//!  2 u16 reserved       0
//!  4 u32 body length    of what follows the header
//!  8 u32 stream         0: the connection itself
//! 12 u32 reserved       0
//! 16 u64 correlation    chosen by who asks, echoed by who answers; a publish's number
//! 24 u32 body crc       crc32c of the body; of a delivery or work: without frames; of a publish: 0
//! 28 u32 header crc     crc32c of bytes 0..28
//! ```
//! A publish, a delivery and work carry frames, whose own checksums cover what this one leaves out.
//! Checked in this order: the kind is one, it may come now, reserved fields, header crc, stream,
//! length, body crc. Nothing is waited for or allocated from a length that was not checked.

use std::fmt;

use crate::bytes_at::{put, u8_at, u16_at, u32_at, u64_at};
use crate::checksum::crc32c;
use crate::coded::coded_enum;
use crate::control::work_covered;
use crate::error::ErrorCode;
use crate::limits::{
    ACK_RUNS_MAX, CONTROL_BYTES_MAX, DELIVERY_BYTES_MAX, DELIVERY_PRELUDE_BYTES, FRAME_BYTES_MAX,
    HELLO_BYTES_MAX, SETTLE_BYTES_MAX, SETTLE_FAULTS_MAX, WIRE_HEADER_BYTES, WORK_ENTRY_BYTES,
    WORK_PRELUDE_BYTES, WORK_RECORDS_MAX,
};

const LEN: usize = WIRE_HEADER_BYTES;
/// Header bytes the header crc covers.
const COVERED_BYTES: usize = 28;

coded_enum! {
    /// What a message is.
    pub enum MessageKind: u8 {
        /// First message of a client: [`crate::control::Hello`].
        Hello = 1,
        /// Its answer: [`crate::control::Welcome`].
        Welcome = 2,
        /// Asks for a pong of the same correlation; no body.
        Ping = 3,
        /// Answers a ping; no body.
        Pong = 4,
        /// [`crate::control::ErrorMessage`].
        Error = 5,
        /// The sender closes the connection in good order: [`crate::control::Goodbye`].
        Goodbye = 6,
        /// Asks to end a stream; no body.
        CloseStream = 7,
        /// The stream has ended, nothing of it follows; no body.
        StreamClosed = 8,
        /// [`crate::control::CreateTopic`].
        CreateTopic = 16,
        /// [`crate::control::DeleteTopic`].
        DeleteTopic = 17,
        /// [`crate::control::DescribeTopic`].
        DescribeTopic = 18,
        /// [`crate::control::ListTopics`].
        ListTopics = 19,
        /// [`crate::control::SetRetention`].
        SetRetention = 20,
        /// [`crate::control::DescribeRetention`].
        DescribeRetention = 21,
        /// [`crate::control::TopicInfo`].
        TopicInfo = 24,
        /// [`crate::control::TopicList`].
        TopicList = 25,
        /// Answers a deletion; no body.
        TopicDeleted = 26,
        /// [`crate::control::Retention`].
        Retention = 27,
        /// [`crate::control::OpenPublisher`].
        OpenPublisher = 32,
        /// [`crate::control::PublisherOpened`].
        PublisherOpened = 33,
        /// One frame, as [`crate::frame::check_publish`] takes it.
        Publish = 34,
        /// [`crate::control::PublishAck`].
        PublishAck = 35,
        /// [`crate::control::OpenProducer`].
        OpenProducer = 36,
        /// [`crate::control::ProducerOpened`].
        ProducerOpened = 37,
        /// [`crate::control::OpenReader`].
        OpenReader = 48,
        /// [`crate::control::ReaderOpened`].
        ReaderOpened = 49,
        /// [`crate::control::Credit`].
        Credit = 50,
        /// [`crate::control::Delivery`]: a prelude and whole stored frames.
        Frames = 51,
        /// [`crate::control::Gap`].
        Gap = 52,
        /// [`crate::control::CreateQueue`].
        CreateQueue = 64,
        /// [`crate::control::SetQueue`].
        SetQueue = 65,
        /// [`crate::control::DeleteQueue`].
        DeleteQueue = 66,
        /// [`crate::control::DescribeQueue`].
        DescribeQueue = 67,
        /// [`crate::control::ListQueues`].
        ListQueues = 68,
        /// [`crate::control::ControlQueue`].
        ControlQueue = 69,
        /// [`crate::control::RedriveQueue`].
        RedriveQueue = 70,
        /// [`crate::control::PeekQueue`].
        PeekQueue = 71,
        /// [`crate::control::ListLeases`].
        ListLeases = 72,
        /// [`crate::control::QueueInfo`].
        QueueInfo = 80,
        /// [`crate::control::QueueList`].
        QueueList = 81,
        /// [`crate::control::QueueDone`].
        QueueDone = 82,
        /// [`crate::control::PeekedList`].
        PeekedList = 83,
        /// [`crate::control::LeaseList`].
        LeaseList = 84,
        /// [`crate::control::OpenConsumer`].
        OpenConsumer = 96,
        /// [`crate::control::ConsumerOpened`].
        ConsumerOpened = 97,
        /// [`crate::control::Window`].
        Window = 98,
        /// [`crate::control::Receive`].
        Receive = 99,
        /// [`crate::control::Work`]: a prelude, entries and one frame.
        Work = 100,
        /// [`crate::control::Settle`].
        Settle = 101,
        /// [`crate::control::SettleAck`].
        SettleAck = 102,
        /// [`crate::control::ReceiveOver`].
        ReceiveOver = 103,
        /// [`crate::control::SetCursor`].
        SetCursor = 112,
        /// [`crate::control::DescribeCursor`].
        DescribeCursor = 113,
        /// [`crate::control::ListCursors`].
        ListCursors = 114,
        /// [`crate::control::DeleteCursor`].
        DeleteCursor = 115,
        /// [`crate::control::CursorInfo`].
        CursorInfo = 120,
        /// [`crate::control::CursorList`].
        CursorList = 121,
        /// Answers a cursor's deletion; no body.
        CursorDeleted = 122,
    }
}

/// Whom a message is about.
enum Scope {
    Connection,
    Stream,
    Either,
}

impl MessageKind {
    /// Most bytes of the body of such a message.
    #[must_use]
    pub const fn body_bytes_max(self) -> usize {
        match self {
            Self::Ping
            | Self::Pong
            | Self::CloseStream
            | Self::StreamClosed
            | Self::TopicDeleted
            | Self::CursorDeleted => 0,
            Self::Hello | Self::Welcome => HELLO_BYTES_MAX - WIRE_HEADER_BYTES,
            Self::Credit | Self::ReceiveOver => 4,
            Self::Window => 12,
            Self::Receive => 20,
            Self::Settle => SETTLE_BYTES_MAX,
            Self::SettleAck => 8 + 16 * SETTLE_FAULTS_MAX,
            Self::Work => {
                WORK_PRELUDE_BYTES + WORK_ENTRY_BYTES * WORK_RECORDS_MAX + FRAME_BYTES_MAX
            }
            Self::PublishAck => 12 * ACK_RUNS_MAX,
            Self::Publish => FRAME_BYTES_MAX,
            Self::Frames => DELIVERY_PRELUDE_BYTES + DELIVERY_BYTES_MAX + FRAME_BYTES_MAX,
            _ => CONTROL_BYTES_MAX,
        }
    }

    /// Whether a side in `phase` takes such a message.
    #[must_use]
    pub const fn may_come(self, phase: Phase) -> bool {
        let to_server = matches!(
            self,
            Self::CreateTopic
                | Self::DeleteTopic
                | Self::DescribeTopic
                | Self::ListTopics
                | Self::SetRetention
                | Self::DescribeRetention
                | Self::OpenPublisher
                | Self::OpenProducer
                | Self::Publish
                | Self::OpenReader
                | Self::Credit
                | Self::CloseStream
                | Self::CreateQueue
                | Self::SetQueue
                | Self::DeleteQueue
                | Self::DescribeQueue
                | Self::ListQueues
                | Self::ControlQueue
                | Self::RedriveQueue
                | Self::PeekQueue
                | Self::ListLeases
                | Self::OpenConsumer
                | Self::Window
                | Self::Receive
                | Self::Settle
                | Self::SetCursor
                | Self::DescribeCursor
                | Self::ListCursors
                | Self::DeleteCursor
        );
        let to_either = matches!(self, Self::Ping | Self::Pong | Self::Goodbye);
        match phase {
            Phase::ServerBeforeHello => matches!(self, Self::Hello),
            Phase::Server => to_server || to_either,
            Phase::ClientBeforeWelcome => {
                matches!(self, Self::Welcome | Self::Error | Self::Goodbye)
            }
            Phase::Client => {
                to_either || !to_server && !matches!(self, Self::Hello | Self::Welcome)
            }
        }
    }

    const fn scope(self) -> Scope {
        match self {
            Self::Error => Scope::Either,
            Self::CloseStream
            | Self::StreamClosed
            | Self::OpenPublisher
            | Self::PublisherOpened
            | Self::OpenProducer
            | Self::ProducerOpened
            | Self::Publish
            | Self::PublishAck
            | Self::OpenReader
            | Self::ReaderOpened
            | Self::Credit
            | Self::Frames
            | Self::Gap
            | Self::OpenConsumer
            | Self::ConsumerOpened
            | Self::Window
            | Self::Receive
            | Self::Work
            | Self::Settle
            | Self::SettleAck
            | Self::ReceiveOver => Scope::Stream,
            _ => Scope::Connection,
        }
    }
}

/// Which side reads, and how far the connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A server that waits for the hello.
    ServerBeforeHello,
    /// A server afterwards.
    Server,
    /// A client that waits for the welcome.
    ClientBeforeWelcome,
    /// A client afterwards.
    Client,
}

/// A stream of a connection, numbered by the client; 0 is the connection itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId(pub u32);

impl StreamId {
    /// The connection itself.
    pub const CONNECTION: Self = Self(0);
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WireHeader {
    /// What it is.
    pub kind: MessageKind,
    /// The length of its body.
    pub body_bytes: u32,
    /// Whom it is about.
    pub stream: StreamId,
    /// What it answers or is answered by.
    pub correlation: u64,
    /// The checksum of its body, as far as the body has none of its own.
    pub body_crc: u32,
}

impl WireHeader {
    /// The header of a publish whose frame, header and body, has `frame_bytes`.
    ///
    /// `number` counts the publishes of the stream from 1.
    #[must_use]
    pub const fn publish(stream: StreamId, number: u64, frame_bytes: u32) -> Self {
        Self {
            kind: MessageKind::Publish,
            body_bytes: frame_bytes,
            stream,
            correlation: number,
            body_crc: 0,
        }
    }

    /// The header of a message without a body.
    #[must_use]
    pub const fn bare(kind: MessageKind, stream: StreamId, correlation: u64) -> Self {
        Self {
            kind,
            body_bytes: 0,
            stream,
            correlation,
            body_crc: 0,
        }
    }

    /// The 32 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; WIRE_HEADER_BYTES] {
        let mut bytes = [0; LEN];
        put::<0, 1, LEN>(&mut bytes, [self.kind.code()]);
        put::<4, 4, LEN>(&mut bytes, self.body_bytes.to_le_bytes());
        put::<8, 4, LEN>(&mut bytes, self.stream.0.to_le_bytes());
        put::<16, 8, LEN>(&mut bytes, self.correlation.to_le_bytes());
        put::<24, 4, LEN>(&mut bytes, self.body_crc.to_le_bytes());
        let crc = header_crc(&bytes);
        put::<28, 4, LEN>(&mut bytes, crc.to_le_bytes());
        bytes
    }

    /// Reads and checks a header as a side in `phase` may get it.
    ///
    /// # Errors
    ///
    /// The first field that breaks its rule.
    pub fn decode(bytes: &[u8; WIRE_HEADER_BYTES], phase: Phase) -> Result<Self, WireError> {
        let code = u8_at::<0, LEN>(bytes);
        let kind = MessageKind::from_code(code).ok_or(WireError::Kind { found: code })?;
        if !kind.may_come(phase) {
            return Err(WireError::KindNow { found: kind, phase });
        }
        let reserved = [
            ("flags", u32::from(u8_at::<1, LEN>(bytes))),
            ("reserved bytes 2..4", u32::from(u16_at::<2, LEN>(bytes))),
            ("reserved bytes 12..16", u32_at::<12, LEN>(bytes)),
        ];
        if let Some((field, found)) = reserved.into_iter().find(|(_, found)| *found != 0) {
            return Err(WireError::Reserved { field, found });
        }
        let (found, wanted) = (u32_at::<28, LEN>(bytes), header_crc(bytes));
        if found != wanted {
            return Err(WireError::HeaderCrc { found, wanted });
        }
        let header = Self {
            kind,
            body_bytes: u32_at::<4, LEN>(bytes),
            stream: StreamId(u32_at::<8, LEN>(bytes)),
            correlation: u64_at::<16, LEN>(bytes),
            body_crc: u32_at::<24, LEN>(bytes),
        };
        header.check()
    }

    /// The stream suits the kind, the length its limit, and a publish leaves the crc to its frame.
    fn check(self) -> Result<Self, WireError> {
        let Self {
            kind,
            stream,
            body_bytes,
            ..
        } = self;
        let suits = match kind.scope() {
            Scope::Connection => stream == StreamId::CONNECTION,
            Scope::Stream => stream != StreamId::CONNECTION,
            Scope::Either => true,
        };
        if !suits {
            return Err(WireError::Stream {
                kind,
                found: stream,
            });
        }
        if body_bytes as usize > kind.body_bytes_max() {
            return Err(WireError::BodyLength {
                kind,
                found: body_bytes,
            });
        }
        if kind == MessageKind::Publish && self.body_crc != 0 {
            return Err(WireError::Reserved {
                field: "body crc",
                found: self.body_crc,
            });
        }
        Ok(self)
    }

    /// The part of the body its checksum in this header covers.
    fn covered(self, body: &[u8]) -> &[u8] {
        match self.kind {
            MessageKind::Publish => &[],
            MessageKind::Work => work_covered(body),
            MessageKind::Frames => body.get(..DELIVERY_PRELUDE_BYTES).unwrap_or(body),
            _ => body,
        }
    }
}

/// What stands at the beginning of some bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<'a> {
    /// A whole message whose checksums match.
    Message {
        /// Its header.
        header: WireHeader,
        /// Its body. Frames in it are yet to be checked.
        body: &'a [u8],
        /// The bytes it took; the next message begins behind them.
        consumed: usize,
    },
    /// The message is not whole: ask again with this many bytes, in one run from its beginning.
    Need(usize),
}

/// Splits the first message off `input`; keeps no state and allocates nothing.
///
/// # Errors
///
/// The first field that breaks its rule. The stream of bytes cannot be trusted afterwards.
pub fn next_message(input: &[u8], phase: Phase) -> Result<Next<'_>, WireError> {
    let Some((header, rest)) = input.split_first_chunk::<WIRE_HEADER_BYTES>() else {
        // Junk is refused by its first byte, before the rest of a header is waited for.
        return match input
            .first()
            .map(|code| (*code, MessageKind::from_code(*code)))
        {
            Some((found, None)) => Err(WireError::Kind { found }),
            Some((_, Some(found))) if !found.may_come(phase) => {
                Err(WireError::KindNow { found, phase })
            }
            _ => Ok(Next::Need(WIRE_HEADER_BYTES)),
        };
    };
    let header = WireHeader::decode(header, phase)?;
    let body_bytes = header.body_bytes as usize;
    let Some(body) = rest.get(..body_bytes) else {
        return Ok(Next::Need(WIRE_HEADER_BYTES + body_bytes));
    };
    let (found, wanted) = (header.body_crc, crc32c(header.covered(body)));
    if found != wanted {
        return Err(WireError::BodyCrc {
            kind: header.kind,
            found,
            wanted,
        });
    }
    Ok(Next::Message {
        header,
        body,
        consumed: WIRE_HEADER_BYTES + body_bytes,
    })
}

fn header_crc(bytes: &[u8; WIRE_HEADER_BYTES]) -> u32 {
    crc32c(bytes.get(..COVERED_BYTES).unwrap_or_default())
}

/// Why bytes of a connection are not a message: the field that is wrong, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// No such kind of message.
    Kind {
        /// The number in the header.
        found: u8,
    },
    /// A kind that may not come to this side, or not yet.
    KindNow {
        /// The kind.
        found: MessageKind,
        /// Where the connection was.
        phase: Phase,
    },
    /// A field that must be zero.
    Reserved {
        /// The field.
        field: &'static str,
        /// What it holds.
        found: u32,
    },
    /// The header's checksum does not match.
    HeaderCrc {
        /// The checksum in the header.
        found: u32,
        /// The checksum of its bytes.
        wanted: u32,
    },
    /// A message about a stream without one, or one about the connection with one.
    Stream {
        /// The kind.
        kind: MessageKind,
        /// The stream in the header.
        found: StreamId,
    },
    /// A body over the limit of its kind.
    BodyLength {
        /// The kind.
        kind: MessageKind,
        /// The length in the header.
        found: u32,
    },
    /// The body's checksum does not match.
    BodyCrc {
        /// The kind.
        kind: MessageKind,
        /// The checksum in the header.
        found: u32,
        /// The checksum of the bytes.
        wanted: u32,
    },
}

impl WireError {
    /// The code the peer is answered with before the connection is closed.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::KindNow {
                phase: Phase::ServerBeforeHello,
                ..
            } => ErrorCode::HelloRequired,
            Self::Kind { .. } | Self::KindNow { .. } => ErrorCode::UnknownKind,
            Self::HeaderCrc { .. } | Self::BodyCrc { .. } => ErrorCode::BadChecksum,
            Self::BodyLength { .. } => ErrorCode::TooLarge,
            Self::Reserved { .. } | Self::Stream { .. } => ErrorCode::Malformed,
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind { found } => write!(f, "message kind: {found} is none"),
            Self::KindNow {
                found,
                phase: Phase::ServerBeforeHello,
            } => {
                write!(
                    f,
                    "message kind: {found:?} came where a hello must come first; is the peer a Millstream client?"
                )
            }
            Self::KindNow { found, .. } => {
                write!(f, "message kind: {found:?} may not come to this side now")
            }
            Self::Reserved { field, found } => write!(f, "{field}: {found:#x} instead of zero"),
            Self::HeaderCrc { found, wanted } => {
                write!(
                    f,
                    "header crc: {found:#010x} but the bytes give {wanted:#010x}"
                )
            }
            Self::Stream { kind, found } => {
                write!(
                    f,
                    "stream: a {kind:?} message may not be about stream {found}"
                )
            }
            Self::BodyLength { kind, found } => write!(
                f,
                "body length: {found} is over the limit of {} for a {kind:?} message",
                kind.body_bytes_max()
            ),
            Self::BodyCrc {
                kind,
                found,
                wanted,
            } => {
                write!(
                    f,
                    "body crc: {found:#010x} but the {kind:?} body gives {wanted:#010x}"
                )
            }
        }
    }
}

impl std::error::Error for WireError {}
