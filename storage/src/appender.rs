//! Appending frames: claim, fill, commit, and learning how far the prefix got.
//!
//! An appender is one publisher's own: it holds the active segment and a walker, so that a publish
//! touches nothing shared but the tail and the pages it fills.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use millstream_protocol::Offset;
use millstream_protocol::batch::Sink;
use millstream_protocol::frame::{self, PublisherFields};
use millstream_protocol::limits::BODY_BYTES_MAX;

use crate::chain::Following;
use crate::claim::Claim;
use crate::clock::run_us;
use crate::log::{Level, Log, Poisoned};
use crate::segment::{Segment, TryClaim};
use crate::sync::{Gate, WaitKey};
use crate::walker::{OwnFrame, Step, Walker};

/// A failed preparation is tried again after this pause, when somebody publishes.
const RETRY_PAUSE_US: u64 = 100_000;

/// Frames that an appender walks over by itself, in one segment, before it asks how far all have come: what
/// many publish, each of them would walk over.
const FRAMES_ALONE_MAX: u32 = if cfg!(loom) { 1 } else { 64 };

thread_local! {
    /// This thread runs a caller's closure inside a claim.
    static FILLING: Cell<bool> = const { Cell::new(false) };
}

/// Why a frame was not appended. Every variant leaves the log as if nothing had been asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AppendError {
    /// The next segment is not ready, or the disk is behind; wait with [`Appender::poll_room`].
    Rotating,
    /// There is no room on the disk for another segment. May be retried.
    Full {
        /// What the system said.
        message: String,
    },
    /// The next segment could not be made for another reason than space. May be retried.
    Unprepared {
        /// What the system said.
        message: String,
    },
    /// A sync failed earlier.
    Poisoned(Poisoned),
    /// The log is closed, or its topic was deleted.
    Closed,
    /// The body is larger than a frame may be.
    TooLarge {
        /// Bytes of the body.
        body_bytes: u32,
        /// Bytes it may have.
        body_bytes_max: u32,
    },
    /// The closure that fills a claim tried to publish: what it waits for may lie behind the claim.
    InsideClaim,
    /// The closure wrote fewer bytes than it had asked room for; the room became a void frame.
    ShortFill {
        /// Bytes written.
        written: u32,
        /// Bytes asked for.
        claimed: u32,
    },
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rotating => f.write_str("the next segment is being prepared; try again"),
            Self::Full { message } => write!(
                f,
                "no space for another segment ({message}); publishing resumes once there is room"
            ),
            Self::Unprepared { message } => {
                write!(f, "the next segment could not be prepared ({message})")
            }
            Self::Poisoned(poisoned) => poisoned.fmt(f),
            Self::Closed => f.write_str("the topic's log is closed"),
            Self::TooLarge {
                body_bytes,
                body_bytes_max,
            } => write!(
                f,
                "a batch of {body_bytes} bytes is larger than the {body_bytes_max} bytes a frame can hold; split it"
            ),
            Self::InsideClaim => f.write_str("publishing while filling a claim"),
            Self::ShortFill { written, claimed } => {
                write!(
                    f,
                    "{written} bytes were written where {claimed} were announced"
                )
            }
        }
    }
}

impl std::error::Error for AppendError {}

/// Where a frame's records went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base: Offset,
    /// Offset behind the last.
    pub end: Offset,
}

/// Bytes of a claimed body, to be written from front to back.
#[derive(Debug)]
pub struct BodyWriter<'a> {
    room: &'a mut [u8],
    written: usize,
}

impl Sink for BodyWriter<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        BodyWriter::put(self, bytes);
    }
}

impl<'a> BodyWriter<'a> {
    /// Writes into `room`, which is no claim: for bodies that are looked at before they are appended.
    #[must_use]
    pub fn over(room: &'a mut [u8]) -> Self {
        Self { room, written: 0 }
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn written_bytes(&self) -> usize {
        self.written
    }

    /// Writes `bytes` behind what was written so far.
    ///
    /// # Panics
    ///
    /// If more is written than was announced.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        let end = self.written + bytes.len();
        self.room
            .get_mut(self.written..end)
            .expect("no more is written than was announced")
            .copy_from_slice(bytes);
        self.written = end;
    }
}

/// Appends to one log in order. Not shared: each publisher has its own.
#[derive(Debug)]
pub struct Appender {
    log: Arc<Log>,
    segment: Option<Arc<Segment>>,
    /// Follows the committed prefix, so that the next look starts where the last one ended (L1).
    walker: Option<Walker>,
    /// Something was appended since the last announcement.
    unannounced: bool,
    room_key: WaitKey,
    level_keys: [WaitKey; 2],
}

impl Appender {
    /// An appender to `log`. Cheap; nothing is mapped before the first append.
    #[must_use]
    pub fn new(log: &Arc<Log>) -> Self {
        Self {
            segment: None,
            walker: None,
            unannounced: false,
            room_key: log.rotation_waiters().key(),
            level_keys: [log.wait_key(Level::Stored), log.wait_key(Level::Synced)],
            log: Arc::clone(log),
        }
    }

    /// The log it appends to.
    #[must_use]
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Appends a frame whose body a publisher has made and checksummed; copies the body once.
    ///
    /// The frame is committed but nobody was woken: call [`announce`](Self::announce) after the last
    /// of a run. No lock, allocation or system call while the segment lasts, but for one write of a body
    /// of 12 KiB or more in a segment made without zeros, and a read of a header where, in a file that
    /// served before, another publisher committed the next frame before this one looked behind its own (L7).
    ///
    /// # Errors
    ///
    /// See [`AppendError`]; nothing was appended.
    #[inline]
    pub fn try_append(
        &mut self,
        fields: &PublisherFields,
        body_crc: u32,
        body: &[u8],
    ) -> Result<Appended, AppendError> {
        debug_assert_eq!(body.len(), fields.body_bytes as usize);
        let fields = *fields;
        self.with_claim(&fields, |claim| {
            let base = claim.base_offset();
            claim.copy_body(body);
            claim.commit(&fields, body_crc);
            Ok(base)
        })
    }

    /// Appends a frame whose body `fill` writes straight into the segment, all of its announced bytes.
    ///
    /// As [`try_append`](Self::try_append), without the copy. If `fill` panics or writes too little,
    /// its room becomes a void frame: the offsets are used up and readers pass over it.
    ///
    /// # Errors
    ///
    /// See [`AppendError`].
    #[inline]
    pub fn try_append_with(
        &mut self,
        fields: &PublisherFields,
        fill: impl FnOnce(&mut BodyWriter<'_>),
    ) -> Result<Appended, AppendError> {
        let fields = *fields;
        self.with_claim(&fields, |claim| {
            let base = claim.base_offset();
            let body = claim
                .body_mut()
                .get_mut(..fields.body_bytes as usize)
                .unwrap_or_default();
            let mut writer = BodyWriter::over(body);
            {
                let _inside = Filling::enter();
                fill(&mut writer);
            }
            if writer.written != fields.body_bytes as usize {
                return Err(AppendError::ShortFill {
                    written: u32::try_from(writer.written).unwrap_or(u32::MAX),
                    claimed: fields.body_bytes,
                });
            }
            claim.commit_unsummed(&fields);
            Ok(base)
        })
    }

    #[inline]
    fn with_claim(
        &mut self,
        fields: &PublisherFields,
        fill: impl FnOnce(&mut Claim<'_>) -> Result<Offset, AppendError>,
    ) -> Result<Appended, AppendError> {
        if fields.body_bytes as usize > BODY_BYTES_MAX {
            return Err(AppendError::TooLarge {
                body_bytes: fields.body_bytes,
                body_bytes_max: u32::try_from(BODY_BYTES_MAX).unwrap_or(u32::MAX),
            });
        }
        self.check_gate()?;
        let frame_bytes = frame::frame_bytes(fields.body_bytes);
        let time_us = self.log.append_time_us();
        loop {
            let Some(segment) = &self.segment else {
                self.next_segment()?;
                continue;
            };
            {
                // Dropped behind the claim: tells of the void frame it became.
                let void = AnnounceVoid(&self.log);
                // Filled where it lies (decision 0027).
                let mut tried = segment.try_claim(frame_bytes, fields.record_count, time_us);
                if let TryClaim::Claim(claim) = &mut tried {
                    let position = claim.position();
                    if segment.wants_standby(position) {
                        self.log.ask_standby();
                    }
                    let base = fill(claim)?;
                    std::mem::forget(void);
                    self.unannounced = true;
                    let end = Offset(base.0 + u64::from(fields.record_count));
                    if let Some(walker) = &mut self.walker {
                        let frame = OwnFrame {
                            segment,
                            position,
                            bytes: frame_bytes,
                        };
                        walker.skip_own(&frame, end);
                    }
                    return Ok(Appended { base, end });
                }
                std::mem::forget(void);
                if let TryClaim::Crossed(seal) = tried {
                    self.log.seal(segment, seal, frame_bytes);
                }
            }
            self.next_segment()?;
        }
    }

    #[inline]
    fn check_gate(&self) -> Result<(), AppendError> {
        let flags = self.log.gate_flags();
        if flags != 0 {
            return Err(self.refusal(flags));
        }
        if FILLING.with(Cell::get) {
            return Err(AppendError::InsideClaim);
        }
        Ok(())
    }

    #[cold]
    fn refusal(&self, flags: u32) -> AppendError {
        match self.log.poisoned() {
            Some(poisoned) => AppendError::Poisoned(poisoned),
            None if flags & Gate::CLOSED != 0 => AppendError::Closed,
            None => AppendError::Rotating,
        }
    }

    #[cold]
    fn next_segment(&mut self) -> Result<(), AppendError> {
        let left = self.segment.as_ref().map(|segment| segment.number());
        match self.log.chain().following(left) {
            Following::Segment(segment) => {
                if self.walker.is_none() {
                    self.log.catch_up(&mut self.walker);
                }
                self.segment = Some(segment);
                Ok(())
            }
            Following::Rotating => {
                self.log.ask_first();
                Err(AppendError::Rotating)
            }
            Following::Failed(failure) => {
                let now = run_us();
                if self
                    .log
                    .chain()
                    .retry_failure(now.saturating_sub(RETRY_PAUSE_US))
                {
                    self.log.ask_standby();
                    return Err(AppendError::Rotating);
                }
                let message = failure.message;
                Err(if failure.kind == std::io::ErrorKind::StorageFull {
                    AppendError::Full { message }
                } else {
                    AppendError::Unprepared { message }
                })
            }
        }
    }

    /// Tells whoever waits for what was appended; once after a run of appends. Returns whether anybody
    /// waited.
    #[inline]
    pub fn announce(&mut self) -> bool {
        self.unannounced = false;
        let waited = self.log.announce();
        if let Some(segment) = &self.segment {
            self.log.keep_bound(segment);
        }
        waited
    }

    /// As [`announce`](Self::announce), and syncs in this thread unless a worker is at it: for a
    /// publisher that would block until its records are synced anyway.
    pub fn announce_and_lead(&mut self) {
        self.unannounced = false;
        self.log.announce_and_lead();
    }

    /// Ready once an append that answered [`AppendError::Rotating`] is worth another try.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        let waiters = self.log.rotation_waiters();
        if waiters.register(self.room_key, 0, cx.waker(), || self.has_room()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn has_room(&self) -> bool {
        let flags = self.log.gate_flags();
        if flags != 0 {
            return flags & (Gate::POISONED | Gate::CLOSED) != 0;
        }
        match &self.segment {
            Some(segment) if segment.region().claimed().is_some() => true,
            left => !matches!(
                self.log
                    .chain()
                    .following(left.as_ref().map(|segment| segment.number())),
                Following::Rotating
            ),
        }
    }

    /// True once everything below `end` is committed; walks only what is new since the last look.
    #[inline]
    pub fn is_stored(&mut self, end: Offset) -> bool {
        let Some(walker) = &mut self.walker else {
            return self.log.has_reached(Level::Stored, end);
        };
        loop {
            let step = walker.advance(end, FRAMES_ALONE_MAX);
            if matches!(step, Step::Frame { .. }) && walker.offset() < end {
                self.log.catch_up(&mut self.walker);
                // Its segment may be the last that is kept, with all behind it finished.
                return self.log.has_reached(Level::Stored, end);
            }
            if walker.offset() >= end {
                // Behind the walk (FAULT-1).
                return !self.log.has_lost_pages() || self.log.has_reached(Level::Stored, end);
            }
            if !matches!(step, Step::Sealed) {
                return false;
            }
            match self
                .log
                .chain()
                .live_behind(Some(walker.segment().number()))
            {
                Some(next) => *walker = Walker::new(next),
                // Finished meanwhile, or the next one is not there yet.
                None => return self.log.has_reached(Level::Stored, end),
            }
        }
    }

    /// Ready once everything below `end` is `level`.
    ///
    /// # Errors
    ///
    /// [`AppendError::Poisoned`] or [`AppendError::Closed`] if it will not become so in this run.
    pub fn poll_reached(
        &mut self,
        level: Level,
        end: Offset,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), AppendError>> {
        let key = match level {
            Level::Stored => self.level_keys[0],
            Level::Synced => self.level_keys[1],
        };
        if level == Level::Stored && self.is_stored(end) {
            return Poll::Ready(Ok(()));
        }
        poll_level(&self.log, level, key, end, cx)
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        if self.unannounced {
            self.log.announce();
        }
        let [stored, synced] = self.level_keys;
        self.log.stop_waiting(Level::Stored, stored);
        self.log.stop_waiting(Level::Synced, synced);
        self.log.rotation_waiters().withdraw(self.room_key);
    }
}

/// One wait for a level of one log, apart from any appender: what a ticket holds.
#[derive(Debug)]
pub struct LevelWait {
    log: Arc<Log>,
    level: Level,
    end: Offset,
    /// Drawn when it first has to wait.
    key: Option<WaitKey>,
}

impl LevelWait {
    /// A wait until everything below `end` is `level`.
    #[must_use]
    pub fn new(log: &Arc<Log>, level: Level, end: Offset) -> Self {
        Self {
            log: Arc::clone(log),
            level,
            end,
            key: None,
        }
    }

    /// The log waited on.
    #[must_use]
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Ready once it is so.
    ///
    /// # Errors
    ///
    /// As [`Appender::poll_reached`].
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AppendError>> {
        if self.log.has_reached(self.level, self.end) {
            return Poll::Ready(Ok(()));
        }
        let (log, level) = (&self.log, self.level);
        let key = *self.key.get_or_insert_with(|| log.wait_key(level));
        poll_level(log, level, key, self.end, cx)
    }
}

impl Drop for LevelWait {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.log.stop_waiting(self.level, key);
        }
    }
}

fn poll_level(
    log: &Arc<Log>,
    level: Level,
    key: WaitKey,
    end: Offset,
    cx: &mut Context<'_>,
) -> Poll<Result<(), AppendError>> {
    if log.has_reached(level, end) {
        return Poll::Ready(Ok(()));
    }
    if level == Level::Synced {
        log.hurry();
    }
    if !log.wait(level, key, end, cx.waker()) {
        return Poll::Pending;
    }
    Poll::Ready(if log.has_reached(level, end) {
        Ok(())
    } else if let Some(poisoned) = log.poisoned() {
        Err(AppendError::Poisoned(poisoned))
    } else {
        Err(AppendError::Closed)
    })
}

/// Marks this thread as filling a claim, until dropped.
struct Filling;

impl Filling {
    fn enter() -> Self {
        FILLING.with(|filling| filling.set(true));
        Self
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        FILLING.with(|filling| filling.set(false));
    }
}

/// Announces when dropped: a claim that became void may be what others wait behind (L6).
struct AnnounceVoid<'a>(&'a Arc<Log>);

impl Drop for AnnounceVoid<'_> {
    fn drop(&mut self) {
        self.0.announce();
    }
}
