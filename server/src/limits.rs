//! Bounds of the server's own tables and buffers; those a peer must know are the protocol's.

use std::time::Duration;

use millstream_protocol::limits::{
    CONTROL_BYTES_MAX, DELIVERY_BYTES_MAX, FRAME_BYTES_MAX, HEARTBEAT_MS, HELLO_BYTES_MAX,
    PRE_HELLO_BYTES_MAX, SESSION_OUT_BYTES_MAX, SETTLE_BYTES_MAX, WIRE_HEADER_BYTES,
    WORK_BYTES_MAX,
};

/// Bytes of the buffer an idle connection may hold.
pub(crate) const INPUT_IDLE_BYTES: usize = 2 << 10;
/// Bytes of the pooled buffers for a run of small messages.
pub(crate) const INPUT_RUN_BYTES: usize = 64 << 10;
/// Bytes of the pooled buffers for messages of a megabyte and a little.
pub(crate) const INPUT_LARGE_BYTES: usize = (1 << 20) + (64 << 10);
/// Bytes of the pooled buffers that take the largest message of all.
pub(crate) const INPUT_FRAME_BYTES: usize = FRAME_BYTES_MAX + (64 << 10);

/// Most pooled buffers of each size in use at once, over all connections: 32, 34 and 64 MiB.
pub(crate) const INPUT_RUNS_MAX: usize = 512;
/// See [`INPUT_RUNS_MAX`].
pub(crate) const INPUT_LARGES_MAX: usize = 32;
/// See [`INPUT_RUNS_MAX`].
pub(crate) const INPUT_FRAMES_MAX: usize = 4;
/// Most buffers of each size kept when none is in use: 4, 8.5 and 16 MiB.
pub(crate) const INPUT_RUNS_KEPT: usize = 64;
/// See [`INPUT_RUNS_KEPT`].
pub(crate) const INPUT_LARGES_KEPT: usize = 8;
/// See [`INPUT_RUNS_KEPT`].
pub(crate) const INPUT_FRAMES_KEPT: usize = 1;

/// A read for the rest of a large message takes at most this much of what follows it, so that
/// little has to be moved to the front of the buffer for the next one.
pub(crate) const READ_AHEAD_BYTES: usize = 4 << 10;

/// Most pieces and most bytes of one vectored write; a piece over the latter goes alone.
pub(crate) const WRITE_PIECES_MAX: usize = 64;
/// See [`WRITE_PIECES_MAX`].
pub(crate) const WRITE_BYTES_MAX: usize = 1 << 20;

/// Most bytes that a thread with a ring sends by a call of their own.
pub(crate) const WRITE_NOW_BYTES_MAX: usize = 16 << 10;

/// Most bytes of deliveries a session keeps waiting for its socket, one delivery aside.
pub(crate) const DELIVERIES_OUT_BYTES_MAX: usize = SESSION_OUT_BYTES_MAX - CONTROL_OUT_BYTES_MAX;
/// Control output from which on a session takes no more input that could add to it.
pub(crate) const CONTROL_OUT_BYTES_MAX: usize = 1 << 20;
/// Control output is gathered in buffers of about this size.
pub(crate) const CONTROL_RUN_BYTES: usize = 16 << 10;
/// Emptied control buffers a session keeps for reuse, and most bytes of them.
pub(crate) const CONTROL_RUNS_KEPT: usize = 8;
/// See [`CONTROL_RUNS_KEPT`].
pub(crate) const CONTROL_BYTES_KEPT: usize = 2 * CONTROL_RUN_BYTES;

/// Most bytes of output on the heap that all sessions of a server keep beyond what each may anyway.
pub(crate) const OUT_BUDGET_BYTES: usize = 48 << 20;
/// The bytes of output on the heap each session may keep, whatever the others do.
pub(crate) const OUT_ALLOWANCE_BYTES: usize = 16 << 10;
/// The budget is lent in blocks of this.
pub(crate) const OUT_BLOCK_BYTES: usize = 16 << 10;

/// Rooms to gather messages of work in that are kept when none is in use; each has a megabyte or two.
pub(crate) const GATHERINGS_KEPT: usize = 8;

/// Requests a session may have waiting behind the one being carried out.
pub(crate) const REQUESTS_WAITING_MAX: usize = 64;
/// Streams ended by the server whose late messages a session still recognises.
pub(crate) const STREAMS_ENDED_MAX: usize = 256;

/// Jobs under way beside the others of an I/O thread because they may take long.
pub(crate) const LONG_JOBS_MAX: usize = 4;

/// Most I/O threads.
pub(crate) const IO_THREADS_MAX: usize = 256;
/// Descriptors left to the broker's files and the runtimes, or half of all where that is less.
pub(crate) const DESCRIPTORS_RESERVED: usize = 128;
/// Connections waiting in the kernel to be accepted.
pub(crate) const LISTEN_BACKLOG: i32 = 1024;
/// Submission queue entries of one ring; a full queue is submitted early.
pub(crate) const RING_ENTRIES: u32 = 256;
/// Completion queue entries of one ring.
pub(crate) const RING_COMPLETIONS: u32 = 4096;

/// What is left to send when a connection ends must go out within this.
pub(crate) const FLUSH_TIME: Duration = Duration::from_secs(5);
/// After the last byte sent, a client has this long to read it and hang up before it is cut off.
pub(crate) const LINGER_TIME: Duration = Duration::from_secs(1);
/// A peer that takes nothing of what waits for it is closed after this.
pub(crate) const WRITE_STALL_TIME: Duration = Duration::from_secs(30);
/// How often a connection looks at its clock when nothing sooner is due.
pub(crate) const CLOCK_TIME: Duration = Duration::from_millis(HEARTBEAT_MS / 2);
/// A message begun must come to its end: a message's time is three heartbeats and a second for each
/// of so many bytes.
pub(crate) const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;
/// Bytes taken in and sent after which a connection lets the others of its thread have their turn.
pub(crate) const GO_BYTES_MAX: usize = 64 << 10;
/// Bytes taken in up to which they are answered at once where nobody else was woken, as somebody waits for
/// it; of more, more may follow.
pub(crate) const ALONE_BYTES_MAX: usize = 4 << 10;
/// Turns after which it does, however little they moved.
pub(crate) const TURNS_MAX: usize = 4;
/// Pause after the listening socket failed in a way that accepting at once would repeat.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Callers turned away in one go when no descriptor is left.
pub(crate) const TURNED_AWAY_MAX: usize = 64;
/// Pause between two lines of the log about connections that are not served.
pub(crate) const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);

const _: () = {
    assert!(
        HELLO_BYTES_MAX <= INPUT_IDLE_BYTES,
        "a hello fits the buffer before it"
    );
    assert!(
        2 * INPUT_IDLE_BYTES <= PRE_HELLO_BYTES_MAX,
        "before its hello nobody gets more"
    );
    assert!(
        CONTROL_BYTES_MAX + WIRE_HEADER_BYTES <= INPUT_LARGE_BYTES,
        "control messages fit"
    );
    assert!(
        SETTLE_BYTES_MAX + WIRE_HEADER_BYTES <= INPUT_LARGE_BYTES,
        "settles fit"
    );
    assert!(
        WORK_BYTES_MAX <= DELIVERIES_OUT_BYTES_MAX,
        "there is room for a message of work"
    );
    assert!(
        FRAME_BYTES_MAX + WORK_BYTES_MAX <= OUT_BUDGET_BYTES,
        "the largest record can be lent for"
    );
    assert!(
        FRAME_BYTES_MAX + WIRE_HEADER_BYTES <= INPUT_FRAME_BYTES,
        "every frame fits"
    );
    assert!(
        DELIVERY_BYTES_MAX <= WRITE_BYTES_MAX,
        "a delivery can go out in one write"
    );
    assert!(
        INPUT_RUNS_KEPT <= INPUT_RUNS_MAX,
        "kept buffers are counted"
    );
    assert!(
        INPUT_LARGES_KEPT <= INPUT_LARGES_MAX,
        "kept buffers are counted"
    );
    assert!(
        INPUT_FRAMES_KEPT <= INPUT_FRAMES_MAX,
        "kept buffers are counted"
    );
};
