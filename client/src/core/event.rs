//! What the core tells its driver.

use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use millstream_protocol::Offset;
use millstream_protocol::batch::Record;
use millstream_protocol::control::{
    ConsumerOpened, GapReason, ProducerOpened, PublisherOpened, ReaderOpened, WorkEntry,
};
use millstream_protocol::frame::FramePlace;
use millstream_protocol::wire::StreamId;

use super::consuming::RefusedSettle;
use super::request::Answer;
use crate::error::{ConnectionError, Refusal};

/// The number of a request, chosen by the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// Where the first record of a publish is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stored {
    /// Its offset; the rest follow without gaps.
    pub first: Offset,
    /// Whether it was there before: it was published once already, with the same ids.
    pub duplicate: bool,
}

/// A record of a queue and its lease.
#[derive(Debug, Clone)]
pub struct WorkItem {
    /// What the server says of the lease.
    pub entry: WorkEntry,
    /// The record.
    pub record: Record,
    /// When the lease is over at the latest, unless it is extended.
    pub until: Instant,
}

impl PartialEq for WorkItem {
    fn eq(&self, other: &Self) -> bool {
        (self.entry, self.until) == (other.entry, other.until)
            && self.record.as_bytes() == other.record.as_bytes()
            && self.record.options_ref().is_some() == other.record.options_ref().is_some()
    }
}

/// Why settles are not answered and never will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsettled {
    /// They changed nothing: they were never sent, or were refused with their stream.
    Unchanged,
    /// They were sent: whether they changed anything is unknown.
    Unanswered,
}

/// Stored frames as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Whole frames, one after the other; nothing in them was checked yet.
    pub frames: Bytes,
    /// Where the first of them lies, which its checksum covers.
    pub place: FramePlace,
    /// The offset after the last of them.
    pub next_offset: Offset,
}

/// Why a publish is not acknowledged and never will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unpublished {
    /// The server refused it.
    Refused(Refusal),
    /// The connection ended before it was handed on.
    NotSent(ConnectionError),
    /// The connection ended before its acknowledgement came.
    Unknown(ConnectionError),
    /// The server closed the stream before it acknowledged it.
    Unacknowledged,
    /// The server closed the stream before it was handed on.
    StreamClosed,
}

/// What the core tells its driver.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A request was answered.
    Answered {
        /// The request.
        request: RequestId,
        /// The answer.
        answer: Result<Answer, Refusal>,
    },
    /// A publisher stream is open.
    PublisherOpened {
        /// The stream.
        stream: StreamId,
        /// What the server says of the topic.
        opened: PublisherOpened,
    },
    /// A producer's stream is open.
    ProducerOpened {
        /// The stream.
        stream: StreamId,
        /// What the server says of the topic and the producer.
        opened: ProducerOpened,
    },
    /// A publish is as durable as asked. Numbers rise by one.
    Published {
        /// The stream.
        stream: StreamId,
        /// The number of the publish.
        publish: u64,
        /// Where its records are.
        stored: Stored,
    },
    /// Publishes that will not be acknowledged. Numbers follow those told before.
    Unpublished {
        /// The stream.
        stream: StreamId,
        /// The numbers of the publishes.
        publishes: Range<u64>,
        /// Why.
        why: Unpublished,
    },
    /// A reader stream is open.
    ReaderOpened {
        /// The stream.
        stream: StreamId,
        /// Where it starts, and where the topic ends now.
        opened: ReaderOpened,
    },
    /// Frames arrived; their bytes are owed to the server as credit.
    Delivered {
        /// The stream.
        stream: StreamId,
        /// The frames.
        delivery: Delivery,
    },
    /// Offsets a reader will not get.
    Gap {
        /// The stream.
        stream: StreamId,
        /// The first missing one.
        first: Offset,
        /// The one at which the stream goes on.
        next: Offset,
        /// Why.
        reason: GapReason,
    },
    /// A consumer stream is open.
    ConsumerOpened {
        /// The stream.
        stream: StreamId,
        /// What the server says of the queue.
        opened: ConsumerOpened,
    },
    /// Records of a queue arrived; each is owed a settle.
    Worked {
        /// The stream.
        stream: StreamId,
        /// The records, in the order in which they were delivered.
        work: Vec<WorkItem>,
    },
    /// A receive has got all it will get.
    ReceiveOver {
        /// The stream.
        stream: StreamId,
        /// The records it got, all told before.
        granted: u32,
    },
    /// A settle changed nothing.
    SettleRefused {
        /// The stream.
        stream: StreamId,
        /// Which one, and why.
        refused: RefusedSettle,
    },
    /// All settles up to a number are on disk, but those told before as refused.
    Settled {
        /// The stream.
        stream: StreamId,
        /// The number.
        through: u64,
    },
    /// Settles that will not be answered. Numbers follow those told before; when their stream ended
    /// that is told first.
    Unsettled {
        /// The stream.
        stream: StreamId,
        /// The numbers of the settles.
        settles: Range<u64>,
        /// Why.
        why: Unsettled,
    },
    /// A stream takes and gives nothing more.
    StreamEnded {
        /// The stream.
        stream: StreamId,
        /// Why, when the server refused to go on.
        refusal: Option<Refusal>,
    },
    /// The connection is over: the last event.
    Ended(ConnectionError),
}
