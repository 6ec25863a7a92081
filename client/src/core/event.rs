//! What the core tells its driver.

use std::ops::Range;

use bytes::Bytes;
use millstream_protocol::Offset;
use millstream_protocol::control::{
    GapReason, PublisherOpened, ReaderOpened, TopicInfo, TopicList,
};
use millstream_protocol::frame::FramePlace;
use millstream_protocol::wire::StreamId;

use crate::error::{ConnectionError, Refusal};

/// The number of a request about topics, chosen by the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// The answer to a request about topics.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A topic, created or described.
    Topic(TopicInfo),
    /// Some topics.
    Topics(TopicList),
    /// A topic was deleted.
    Deleted,
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
    /// A request about topics was answered.
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
    /// A publish is as durable as asked. Numbers rise by one.
    Published {
        /// The stream.
        stream: StreamId,
        /// The number of the publish.
        publish: u64,
        /// The offset of the first record of its frame; the rest follow without gaps.
        first: Offset,
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
