//! Every bound of the protocol, and the proofs that they fit together.
//!
//! A peer that exceeds one gets a typed error naming the field; nothing is allocated from a
//! number that was not compared with its bound first.

/// Bytes of the header before every frame.
pub const FRAME_HEADER_BYTES: usize = 64;
/// Bytes of the header before every message of a connection.
pub const WIRE_HEADER_BYTES: usize = 32;
/// Stored frames begin at multiples of this.
pub const FRAME_ALIGN: usize = 8;
/// Version of the layout of frames and bodies, kept in every frame header.
pub const LAYOUT_VERSION: u8 = 1;
/// Oldest and newest version of the wire protocol this code speaks.
pub const WIRE_VERSION: u16 = 1;

/// Most bytes of one frame: header, body and padding.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// Most bytes of a frame's body, and of a compressed batch once expanded.
pub const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_HEADER_BYTES;
/// Most records of one frame.
pub const RECORDS_PER_FRAME_MAX: usize = 65_535;
/// Most bytes of a topic's name.
pub const TOPIC_NAME_BYTES_MAX: usize = 255;
/// Most bytes of a record's key.
pub const KEY_BYTES_MAX: usize = 1024;
/// Most bytes of a record's id.
pub const ID_BYTES_MAX: usize = 255;
/// Most bytes of the name of a record's group.
pub const GROUP_BYTES_MAX: usize = 255;
/// Most headers a publisher gives one record.
pub const HEADERS_MAX: usize = 32;
/// Most bytes of the headers a publisher gives one record, names and values together.
pub const HEADERS_BYTES_MAX: usize = 4096;
/// Most headers of one record once the broker has added its notes.
pub const NOTED_HEADERS_MAX: usize = 40;
/// Most bytes of the headers of one record once the broker has added its notes.
pub const NOTED_HEADERS_BYTES_MAX: usize = 6144;
/// A payload block smaller than this is never compressed.
pub const COMPRESS_BYTES_MIN: usize = 1024;

/// Most bytes of a hello, its wire header included.
pub const HELLO_BYTES_MAX: usize = 512;
/// Most bytes of the body of any other control message.
pub const CONTROL_BYTES_MAX: usize = 64 << 10;
/// Most bytes of a sentence for people: a reason, an error's message.
pub const SENTENCE_BYTES_MAX: usize = 512;
/// Most bytes of the name a client or a server gives itself.
pub const AGENT_BYTES_MAX: usize = 128;
/// Most topics one answer lists; a client asks on for more.
pub const TOPICS_PER_LIST_MAX: usize = 64;
/// Most runs one acknowledgement carries.
pub const ACK_RUNS_MAX: usize = PUBLISH_WINDOW_FRAMES as usize;

/// Most bytes a connection may cost before its hello, in either direction.
pub const PRE_HELLO_BYTES_MAX: usize = 4096;
/// A connection without a hello is closed after this.
pub const PRE_HELLO_MS: u64 = 5000;
/// A side that has sent nothing for this long sends a ping.
pub const HEARTBEAT_MS: u64 = 10_000;
/// A connection that was silent for this many heartbeats is closed.
pub const HEARTBEATS_MISSED_MAX: u64 = 3;

/// Most streams open on one connection.
pub const STREAMS_PER_CONNECTION_MAX: usize = 256;
/// Most connections of one server.
pub const CONNECTIONS_MAX: usize = 10_240;
/// Most connections from one address.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 10_240;

/// Most bytes of frames a publisher stream may have sent and not seen acknowledged.
pub const PUBLISH_WINDOW_BYTES: u32 = 32 << 20;
/// Most frames a publisher stream may have sent and not seen acknowledged.
pub const PUBLISH_WINDOW_FRAMES: u32 = 4096;
/// Frames of one producer whose repetition is recognised: the last ones.
pub const PRODUCER_FRAMES_KEPT: usize = 4096;
/// How long a producer that publishes nothing is remembered: a day.
pub const PRODUCER_WINDOW_MS: u64 = 86_400_000;
/// Most producers a topic remembers at a time.
pub const PRODUCERS_PER_TOPIC_MAX: usize = 1024;
/// Most credit a reader stream may hold.
pub const READ_CREDIT_BYTES_MAX: u32 = 64 << 20;
/// A delivery ends with the frame that reaches this many bytes.
pub const DELIVERY_BYTES_MAX: usize = 1 << 20;
/// Most bytes a session keeps waiting for its socket.
pub const SESSION_OUT_BYTES_MAX: usize = 4 << 20;

/// Shortest lease.
pub const LEASE_MS_MIN: u32 = 10;
/// Longest lease: a day.
pub const LEASE_MS_MAX: u32 = 86_400_000;
/// Most deliveries a queue can count to before a record becomes a dead letter.
pub const DELIVERIES_MAX: u32 = 10_000;
/// Longest wait before a record is delivered again: a week.
pub const BACKOFF_MS_MAX: u32 = 604_800_000;
/// The most a wait may grow each time, in thousandths.
pub const BACKOFF_MULTIPLIER_MILLI_MAX: u32 = 100_000;
/// Most bytes of the reason for which a record is rejected.
pub const REASON_BYTES_MAX: usize = 256;
/// Numbers of deliveries that are counted apart.
pub const ATTEMPT_COUNTS: usize = 16;
/// Most queues one answer lists; a client asks on for more.
pub const QUEUES_PER_LIST_MAX: usize = 32;
/// Most records or leases of a queue one answer lists.
pub const QUEUE_RECORDS_PER_LIST_MAX: usize = 1024;
/// Most cursors one answer lists; a client asks on for more.
pub const CURSORS_PER_LIST_MAX: usize = 64;

/// Most records a consumer may hold that are not settled.
pub const WORK_WINDOW_MESSAGES_MAX: u32 = 65_536;
/// Most bytes of records a consumer may hold that are not settled.
pub const WORK_WINDOW_BYTES_MAX: u64 = 64 << 20;
/// Most records of one message of work.
pub const WORK_RECORDS_MAX: usize = 4096;
/// Most bytes of the bodies of a message of work of two records or more.
pub const WORK_BYTES_MAX: usize = 1 << 20;
/// Bytes before the entries of a message of work.
pub const WORK_PRELUDE_BYTES: usize = 8;
/// Bytes of the entry of each record in a message of work.
pub const WORK_ENTRY_BYTES: usize = 40;
/// Longest a receive waits for its first record.
pub const RECEIVE_WAIT_MS_MAX: u32 = 300_000;
/// Most settles of one message.
pub const SETTLES_MAX: usize = 4096;
/// Most bytes of the body of a message of settles.
pub const SETTLE_BYTES_MAX: usize = 256 << 10;
/// Bytes before the entries of a message of settles.
pub const SETTLE_PRELUDE_BYTES: usize = 16;
/// Bytes of a settle without its reason.
pub const SETTLE_ENTRY_BYTES: usize = 32;
/// Most settles a consumer's stream may have sent and not seen answered.
pub const SETTLES_UNANSWERED_MAX: usize = 65_536;
/// Most settles that did nothing one answer lists.
pub const SETTLE_FAULTS_MAX: usize = 4096;

/// Smallest segment.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// Largest segment.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Largest claim made by an atomic add; larger ones compare and swap.
pub const CLAIM_ADD_BYTES_MAX: u32 = 64 << 10;
/// Most threads that may claim in one log at once.
pub const THREADS_MAX: usize = 1024;

/// Bytes of the prelude before the frames of a delivery.
pub const DELIVERY_PRELUDE_BYTES: usize = 32;

/// Upper bound of the archived form of one topic's description, its strings included.
pub(crate) const TOPIC_INFO_BYTES_MAX: usize = 128 + TOPIC_NAME_BYTES_MAX + SENTENCE_BYTES_MAX;

/// Upper bound of the archived form of one queue's description, its strings included.
pub(crate) const QUEUE_INFO_BYTES_MAX: usize = 512 + 3 * TOPIC_NAME_BYTES_MAX;
/// Upper bound of the archived form of one cursor's description, its strings included.
pub(crate) const CURSOR_INFO_BYTES_MAX: usize = 64 + 2 * TOPIC_NAME_BYTES_MAX;

const _: () = {
    assert!(
        FRAME_HEADER_BYTES.is_multiple_of(FRAME_ALIGN),
        "bodies are aligned too"
    );
    assert!(
        FRAME_BYTES_MAX.is_multiple_of(FRAME_ALIGN),
        "the largest frame needs no rounding"
    );
    assert!(
        FRAME_BYTES_MAX <= u32::MAX as usize,
        "a frame's length fits its commit word"
    );
    assert!(
        RECORDS_PER_FRAME_MAX == u16::MAX as usize,
        "the record count is 16 bits"
    );
    assert!(LAYOUT_VERSION < 16, "the layout version is four bits");
    assert!(
        PRODUCER_FRAMES_KEPT >= PUBLISH_WINDOW_FRAMES as usize,
        "whatever a publisher may send again is recognised"
    );
    assert!(
        HELLO_BYTES_MAX <= PRE_HELLO_BYTES_MAX,
        "a hello fits what it may cost"
    );
    assert!(
        AGENT_BYTES_MAX + 128 <= HELLO_BYTES_MAX,
        "an agent's name fits a hello"
    );
    assert!(
        TOPICS_PER_LIST_MAX * TOPIC_INFO_BYTES_MAX + 64 <= CONTROL_BYTES_MAX,
        "a full list of topics fits a control message"
    );
    assert!(
        QUEUES_PER_LIST_MAX * QUEUE_INFO_BYTES_MAX + 64 <= CONTROL_BYTES_MAX,
        "a full list of queues fits a control message"
    );
    assert!(
        CURSORS_PER_LIST_MAX * CURSOR_INFO_BYTES_MAX + 64 <= CONTROL_BYTES_MAX,
        "a full list of cursors fits a control message"
    );
    assert!(
        QUEUE_RECORDS_PER_LIST_MAX * 32 + 64 <= CONTROL_BYTES_MAX,
        "a full list of records fits a control message"
    );
    assert!(
        SETTLE_PRELUDE_BYTES + SETTLES_MAX * SETTLE_ENTRY_BYTES <= SETTLE_BYTES_MAX,
        "a full message of settles without reasons fits"
    );
    assert!(
        WORK_RECORDS_MAX <= RECORDS_PER_FRAME_MAX,
        "the records of a message of work fit its frame"
    );
    assert!(
        HEADERS_MAX + 8 <= NOTED_HEADERS_MAX && HEADERS_BYTES_MAX + 2048 <= NOTED_HEADERS_BYTES_MAX,
        "the broker's eight notes fit behind all a publisher may give"
    );
    assert!(
        ACK_RUNS_MAX * 12 <= CONTROL_BYTES_MAX,
        "an acknowledgement of a full window fits"
    );
    assert!(
        NOTED_HEADERS_BYTES_MAX + KEY_BYTES_MAX < BODY_BYTES_MAX,
        "options leave room for a body"
    );
    assert!(
        SEGMENT_BYTES_MAX <= u32::MAX as u64,
        "a position in a segment is 32 bits"
    );
    assert!(
        DELIVERY_PRELUDE_BYTES + DELIVERY_BYTES_MAX + FRAME_BYTES_MAX <= u32::MAX as usize,
        "a delivery's length fits its header"
    );
    assert!(
        SEGMENT_BYTES_MAX + THREADS_MAX as u64 * CLAIM_ADD_BYTES_MAX as u64 <= u32::MAX as u64,
        "failed adds of every thread cannot carry out of the tail's byte count"
    );
};
