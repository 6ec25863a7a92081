//! The stable codes a peer answers with.

use std::fmt;

use crate::coded::coded_enum;

coded_enum! {
    /// What went wrong, as a number that never changes its meaning.
    ///
    /// `docs/PROTOCOL.md` has the table: who may get which, and what helps.
    pub enum ErrorCode: u16 {
        /// Bytes that follow no layout of the protocol.
        Malformed = 1,
        /// No version both sides speak.
        UnsupportedVersion = 2,
        /// A message kind this side does not know or does not take.
        UnknownKind = 3,
        /// A message or a record over its limit.
        TooLarge = 4,
        /// A checksum that does not match its bytes.
        BadChecksum = 5,
        /// Something other than a hello came first, or nothing did in time.
        HelloRequired = 6,
        /// Too many of something: connections, streams.
        Limit = 7,
        /// Something the protocol names but this server does not offer.
        Unsupported = 8,
        /// The peer was silent, or a request took too long.
        TimedOut = 9,
        /// The server is stopping.
        ShuttingDown = 10,
        /// A defect of the server.
        Internal = 11,
        /// No topic of that name.
        TopicNotFound = 16,
        /// A topic of that name is there, with other options.
        TopicExists = 17,
        /// A name no topic may have.
        TopicNameInvalid = 18,
        /// The topic's log failed and takes no more records until it is reopened.
        TopicPoisoned = 19,
        /// The disk has no room for more records now.
        StorageFull = 20,
        /// No stream of that number is open.
        StreamUnknown = 32,
        /// A stream of that number is open already.
        StreamInUse = 33,
        /// More sent than window or credit allows.
        WindowExceeded = 34,
        /// A publish whose number or sequence is not the next one.
        OutOfSequence = 35,
        /// An offset the topic does not hold and never will.
        OffsetOutOfRange = 36,
        /// A newer instance of the producer took over; this one must stop.
        Fenced = 37,
        /// A sequence that the producer used before, for other records.
        SequenceReused = 38,
        /// No queue of that name.
        QueueNotFound = 48,
        /// A queue of that name is there, over another topic or with other settings.
        QueueExists = 49,
        /// A queue over the topic holds as many records as it may.
        QueueFull = 50,
        /// Settings no queue may have.
        QueueSettings = 51,
        /// The topic is one that a queue needs.
        TopicInUse = 52,
        /// No cursor of that name.
        CursorNotFound = 53,
        /// The lease is over: the record may be with another consumer.
        LeaseLost = 54,
        /// The journal of queues and cursors failed; none takes a change until the broker restarts.
        JournalFailed = 55,
    }
}

impl ErrorCode {
    /// Whether the same request may succeed later without a change.
    #[must_use]
    pub const fn is_retriable(self) -> bool {
        matches!(
            self,
            Self::Limit | Self::TimedOut | Self::ShuttingDown | Self::StorageFull | Self::QueueFull
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ({})", self.code())
    }
}

coded_enum! {
    /// Whether a request that failed took effect.
    pub enum Effect: u8 {
        /// It did not and will not.
        NotApplied = 1,
        /// It did.
        Applied = 2,
        /// It cannot be told.
        Unknown = 3,
    }
}
