//! Reading a log from any offset: frames as they lie in the segments, never past the high watermark.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use millstream_protocol::control::{Gap, GapReason};
use millstream_protocol::{Offset, Start};

use crate::cold::{Damage, FetchTicket, Fetched, Wanted, locate, place_of};
use crate::log::{Level, Log, Poisoned};
use crate::segment::Segment;
use crate::slice::FrameSlice;
use crate::sync::{CommittedRun, Extend, Gate, WaitKey, hint};
use crate::walker::Glance;

/// What a reader is given.
#[derive(Debug, Clone)]
pub enum Chunk {
    /// Frames; the first may hold records before the wanted one.
    Frames(FrameSlice),
    /// Records that are not there.
    Gap(Gap),
}

/// Why a reader can't go on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// The topic was deleted or the store closed, and everything visible was read.
    Closed,
    /// A sync failed, and everything below the watermark was read.
    Poisoned(Poisoned),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the topic's log is closed and read to its end"),
            Self::Poisoned(poisoned) => poisoned.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {}

#[derive(Debug)]
struct At {
    segment: Arc<Segment>,
    /// Empty between calls; its end is the next frame.
    run: CommittedRun,
    /// Offset of the frame at the run's end.
    offset: Offset,
    /// Frames before this position may be served: of an earlier run, only what was checked.
    checked_to: u32,
    /// Pages before this position were brought in for this reader.
    resident_to: u32,
    damage: Option<Damage>,
}

/// Reads one log. Changes nothing; any number may read at once.
#[derive(Debug)]
pub struct LogReader {
    log: Arc<Log>,
    /// A time to start from, until it is turned into an offset.
    start_time_us: Option<u64>,
    from: Offset,
    at: Option<At>,
    fetch: Option<FetchTicket>,
    /// What comes behind the frames that were fetched last, from this record on: of a reader that goes
    /// through them in order it is fetched while they are read.
    ahead: Option<(Offset, FetchTicket)>,
    /// The fetch under way begins where the one before ended.
    in_order: bool,
    /// What the last gap stands for may be there at another time.
    gap_may_pass: bool,
    level: Level,
    key: WaitKey,
}

impl LogReader {
    /// A reader of `log` from `start`.
    ///
    /// An offset past the end is taken as it is: the reader waits for it. One before the first kept
    /// is answered with a gap.
    #[must_use]
    pub fn new(log: &Arc<Log>, start: Start) -> Self {
        let level = Level::from(log.identity().durability);
        let (from, start_time_us) = match start {
            Start::Earliest => (log.first_offset(), None),
            Start::Latest => (log.high_watermark(), None),
            Start::Offset(offset) => (offset, None),
            Start::Time(time_us) => (log.first_offset(), Some(time_us)),
        };
        Self {
            key: log.wait_key(level),
            log: Arc::clone(log),
            start_time_us,
            from,
            at: None,
            fetch: None,
            ahead: None,
            in_order: false,
            gap_may_pass: false,
            level,
        }
    }

    /// The log it reads.
    #[must_use]
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Offset of the next record it will give.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.from
    }

    /// Goes on at `offset`, at or behind [`next_offset`](Self::next_offset): what was brought in and checked
    /// already, and is in memory still, is not fetched again. A start by time is given up.
    pub fn skip_to(&mut self, offset: Offset) {
        if self.start_time_us.take().is_some() {
            self.fetch = None;
        }
        if offset <= self.from {
            return;
        }
        self.from = offset;
        match &mut self.at {
            // Nothing of it was checked that would be lost, and its index finds the frame.
            Some(at) if at.checked_to == u32::MAX => self.at = None,
            // Meanwhile its pages may have left memory.
            Some(at) => at.resident_to = 0,
            None => {}
        }
    }

    /// Ready with the first offset once a start by time is resolved; at once for the others.
    #[inline]
    pub fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<Offset> {
        match self.start_time_us {
            Some(time_us) => self.poll_start_at(time_us, cx),
            None => Poll::Ready(self.from),
        }
    }

    #[cold]
    fn poll_start_at(&mut self, time_us: u64, cx: &mut Context<'_>) -> Poll<Offset> {
        let log = &self.log;
        let ticket = self
            .fetch
            .get_or_insert_with(|| FetchTicket::start(log, Wanted::Time(time_us)));
        let fetched = ready!(ticket.poll(cx));
        self.fetch = None;
        self.start_time_us = None;
        if let Fetched::At(offset) = fetched {
            self.from = offset;
        }
        Poll::Ready(self.from)
    }

    /// Whether the last gap is one because the disk could not read now. It may be there at another
    /// time: who does something for good about a gap asks, and asks again later.
    #[must_use]
    pub fn gap_may_pass(&self) -> bool {
        self.gap_may_pass
    }

    /// The next frames, up to `max_bytes` of them but at least one, or a gap.
    ///
    /// Pending when caught up, or while cold pages are brought in; the waker is woken for either.
    /// Never waits for the disk.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when nothing more can come: the log was closed, or it failed and all before was given.
    pub fn poll_next(
        &mut self,
        max_bytes: u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Chunk, ReadError>> {
        self.next_or(max_bytes, cx, Self::wait)
    }

    /// As [`poll_next`](Self::poll_next), for whoever looks again by himself: `None` when caught up, or
    /// while cold pages are brought in. Nobody is told that he waits, so it takes no lock, and no
    /// publisher has anyone to wake.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when nothing more can come: the log was closed, or it failed and all before was given.
    pub fn try_next(&mut self, max_bytes: u32) -> Option<Result<Chunk, ReadError>> {
        let mut cx = Context::from_waker(Waker::noop());
        match self.next_or(max_bytes, &mut cx, |reader, _| reader.look_on()) {
            Poll::Ready(next) => Some(next),
            Poll::Pending => None,
        }
    }

    /// The next chunk; `wait` is asked at the end, and says whether to look again.
    fn next_or(
        &mut self,
        max_bytes: u32,
        cx: &mut Context<'_>,
        wait: impl Fn(&mut Self, &mut Context<'_>) -> Poll<Result<(), ReadError>>,
    ) -> Poll<Result<Chunk, ReadError>> {
        ready!(self.poll_start(cx));
        loop {
            if let Some(ticket) = &self.fetch {
                let fetched = ready!(ticket.poll(cx));
                self.fetch = None;
                if let Some(gap) = self.arrive(fetched)? {
                    return Poll::Ready(Ok(Chunk::Gap(gap)));
                }
            }
            if self.at.is_none() && !self.find_place() {
                if self.fetch.is_some() {
                    continue;
                }
                if let Some(gap) = self.jump_ahead() {
                    return Poll::Ready(Ok(Chunk::Gap(gap)));
                }
                ready!(wait(self, cx))?;
                continue;
            }
            match self.advance(max_bytes) {
                Advance::Frames => return Poll::Ready(Ok(Chunk::Frames(self.take_run()))),
                Advance::Gap(gap) => return Poll::Ready(Ok(Chunk::Gap(gap))),
                Advance::Again => {}
                Advance::Wait => ready!(wait(self, cx))?,
            }
        }
    }

    /// Takes up the place of `from`. False if it is to be fetched or does not exist yet.
    fn find_place(&mut self) -> bool {
        if let Some((_, ticket)) = self.ahead.take_if(|(first, _)| *first == self.from) {
            self.fetch = Some(ticket);
            self.in_order = true;
            return false;
        }
        match place_of(&self.log, self.from) {
            Ok(Some(segment)) => {
                let (position, offset) = locate(&segment, self.from);
                if !segment.is_trusted() {
                    let wanted = Wanted::More(segment, position, offset);
                    self.fetch = Some(FetchTicket::start(&self.log, wanted));
                    return false;
                }
                self.at = Some(At {
                    run: segment.run_at(position),
                    segment,
                    offset,
                    checked_to: u32::MAX,
                    resident_to: 0,
                    damage: None,
                });
                true
            }
            Ok(None) => false,
            Err(ticket) => {
                self.fetch = Some(ticket);
                false
            }
        }
    }

    /// Has what comes behind the frames just fetched brought in, the first of which is that of `next`.
    fn fetch_ahead(&mut self, segment: &Arc<Segment>, position: u32, next: Offset) {
        let ticket = if segment
            .earlier_end()
            .is_some_and(|end| position >= end.position)
        {
            match place_of(&self.log, next) {
                Err(ticket) => ticket,
                Ok(_) => return,
            }
        } else {
            let wanted = Wanted::More(Arc::clone(segment), position, next);
            FetchTicket::start(&self.log, wanted)
        };
        self.ahead = Some((next, ticket));
    }

    /// The void range an unclean stop left at the end of the log, before anything is behind it.
    fn jump_ahead(&mut self) -> Option<Gap> {
        let next = self.log.chain().next_base()?;
        if self.log.high_watermark() < next {
            return None;
        }
        self.gap_to(next, GapReason::Void)
    }

    fn arrive(&mut self, fetched: Fetched) -> Result<Option<Gap>, ReadError> {
        match fetched {
            Fetched::Closed => Err(ReadError::Closed),
            Fetched::Frames {
                segment,
                position,
                offset,
                checked_to,
                resident_to,
                damage,
                next,
            } => {
                let in_order = std::mem::take(&mut self.in_order);
                if let Some(next) = next.filter(|_| in_order && damage.is_none())
                    && checked_to > position
                {
                    self.fetch_ahead(&segment, checked_to, next);
                }
                self.at = Some(At {
                    run: segment.run_at(position),
                    segment,
                    offset,
                    checked_to,
                    resident_to,
                    damage,
                });
                Ok(None)
            }
            Fetched::Unreadable { next, passing } => {
                let gap = self.gap_to(next, GapReason::Damaged);
                self.gap_may_pass = passing;
                Ok(gap)
            }
            Fetched::At(offset) => {
                self.from = offset;
                Ok(None)
            }
        }
    }

    fn gap_to(&mut self, next: Offset, reason: GapReason) -> Option<Gap> {
        let first = self.from;
        if next <= first {
            return None;
        }
        self.from = next;
        self.gap_may_pass = false;
        Some(Gap {
            first_offset: first,
            next_offset: next,
            reason,
        })
    }

    /// How far the reader may look now.
    fn limit(&self) -> Offset {
        match self.level {
            // It walks commit words itself, and so cannot pass a hole.
            Level::Stored
                if self.log.gate_flags() & Gate::POISONED == 0 && !self.log.has_lost_pages() =>
            {
                Offset(u64::MAX)
            }
            _ => self.log.synced(),
        }
    }

    /// Leaves a segment that lost a page since it was taken up: its bytes are to be checked now.
    fn leave_untrusted(&mut self) -> bool {
        let Some(at) = &self.at else {
            return false;
        };
        if at.checked_to != u32::MAX || at.segment.is_trusted() {
            return false;
        }
        self.check_again();
        true
    }

    /// Has the frames from here on brought in and checked.
    fn check_again(&mut self) -> Advance {
        if let Some(at) = self.at.take() {
            let wanted = Wanted::More(at.segment, at.run.end(), at.offset);
            self.fetch = Some(FetchTicket::start(&self.log, wanted));
        }
        Advance::Again
    }

    fn advance(&mut self, max_bytes: u32) -> Advance {
        let limit = self.limit();
        let promised = self.log.synced();
        if self.leave_untrusted() {
            return Advance::Again;
        }
        let Some(at) = &mut self.at else {
            return Advance::Again;
        };
        if at.offset > self.from {
            let next = at.offset;
            // What is kept may begin further on by now.
            let reason = if self.log.first_offset() >= next {
                GapReason::Trimmed
            } else {
                GapReason::Void
            };
            return match self.gap_to(next, reason) {
                Some(gap) => Advance::Gap(gap),
                None => Advance::Again,
            };
        }
        let sealed = at.take_frames(self.from, limit, max_bytes);
        let bytes = at.run.end() - at.run.start();
        if bytes > 0 {
            return self.deliver();
        }
        if at.offset >= limit {
            return Advance::Wait;
        }
        if at.checked_to == u32::MAX && at.offset < promised && !sealed {
            // It was synced, and its place is empty: somebody changed the file.
            let wanted = Wanted::Doubted(Arc::clone(&at.segment), at.run.end(), at.offset);
            self.fetch = Some(FetchTicket::start(&self.log, wanted));
            self.at = None;
            return Advance::Again;
        }
        if at.run.end() >= at.checked_to {
            return self.behind_checked();
        }
        if at.checked_to != u32::MAX && !sealed {
            // What was a frame when it was checked is none any more: it was read from the disk again.
            return self.check_again();
        }
        if sealed {
            // The next segment starts at or behind this offset.
            self.at = None;
            return if self.find_place() || self.fetch.is_some() {
                Advance::Again
            } else {
                Advance::Wait
            };
        }
        Advance::Wait
    }

    /// Whether the frames taken may be handed out: unless they lie in pages that may have to be read back first.
    fn deliver(&mut self) -> Advance {
        let Some(at) = &mut self.at else {
            return Advance::Again;
        };
        let range = at.run.start() as usize..at.run.end() as usize;
        let left_behind = at.run.end() > at.resident_to && at.segment.is_left_behind();
        if left_behind && !at.segment.region().memory().is_resident(range) {
            let position = at.run.start();
            let offset = at.first_of_run();
            let wanted = Wanted::More(Arc::clone(&at.segment), position, offset);
            self.fetch = Some(FetchTicket::start(&self.log, wanted));
            self.at = None;
            return Advance::Again;
        }
        Advance::Frames
    }

    /// Hands out the frames taken.
    #[inline]
    fn take_run(&mut self) -> FrameSlice {
        let at = self.at.as_mut().expect("frames were taken from it");
        let slice = FrameSlice::new(at.run.clone(), at.segment.seed(), self.from, at.offset);
        at.run.restart();
        self.from = at.offset;
        slice
    }

    fn behind_checked(&mut self) -> Advance {
        let Some(at) = &mut self.at else {
            return Advance::Again;
        };
        if let Some(damage) = at.damage.take() {
            at.run = at.segment.run_at(damage.resume);
            at.offset = damage.next;
            at.checked_to = damage.resume;
            return match self.gap_to(damage.next, GapReason::Damaged) {
                Some(gap) => {
                    self.gap_may_pass = damage.passing;
                    Advance::Gap(gap)
                }
                None => Advance::Again,
            };
        }
        let ends = at.segment.earlier_end().or_else(|| {
            let finished = self.log.chain().finished(at.segment.number())?;
            Some(finished.end)
        });
        let ended = ends.is_some_and(|end| at.run.end() >= end.position);
        if ended {
            self.at = None;
            return if self.find_place() || self.fetch.is_some() {
                Advance::Again
            } else {
                Advance::Wait
            };
        }
        let (mut position, mut offset) = (at.run.end(), at.offset);
        self.in_order = self.from == offset;
        if let Some((_, ticket)) = self.ahead.take_if(|(first, _)| *first == self.from) {
            self.fetch = Some(ticket);
            return Advance::Again;
        }
        if self.from > offset {
            // The reader skipped past what was fetched. What the index finds may be damaged and lead back.
            let (found, found_offset) = locate(&at.segment, self.from);
            if found > position {
                (position, offset) = (found, found_offset);
            }
        }
        let wanted = Wanted::More(Arc::clone(&at.segment), position, offset);
        self.fetch = Some(FetchTicket::start(&self.log, wanted));
        Advance::Again
    }

    /// Pending until there is something behind `from`; ready when there may be.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        let behind = Offset(self.from.0 + 1);
        if self.log.high_watermark() >= behind {
            return Poll::Ready(Ok(()));
        }
        if !self.log.wait(self.level, self.key, behind, cx.waker()) {
            return Poll::Pending;
        }
        match self.more_or_end() {
            Some(found) => Poll::Ready(found),
            None => {
                // A record below the watermark of another level; look again when woken.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// As `wait`, and registers nothing.
    fn look_on(&mut self) -> Poll<Result<(), ReadError>> {
        if self.log.gate_flags() & (Gate::POISONED | Gate::CLOSED) == 0 {
            return Poll::Pending;
        }
        self.more_or_end().map_or(Poll::Pending, Poll::Ready)
    }

    /// Whether there is something behind `from`, or never will be.
    fn more_or_end(&self) -> Option<Result<(), ReadError>> {
        if self.log.high_watermark() > self.from {
            return Some(Ok(()));
        }
        if let Some(poisoned) = self.log.poisoned() {
            return Some(Err(ReadError::Poisoned(poisoned)));
        }
        (self.log.gate_flags() & Gate::CLOSED != 0).then_some(Err(ReadError::Closed))
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.log.stop_waiting(self.level, self.key);
    }
}

enum Advance {
    /// Frames, which lie in the run.
    Frames,
    Gap(Gap),
    Again,
    Wait,
}

impl At {
    /// Grows the run by frames that end at or before `limit`; drops those that end before `from`.
    /// True if the segment's end was met.
    fn take_frames(&mut self, from: Offset, limit: Offset, max_bytes: u32) -> bool {
        let checked_to = self.checked_to;
        loop {
            if self.run.end() >= checked_to {
                return false;
            }
            let taken = self.run.end() - self.run.start();
            let mut glance = None;
            let found = self.run.extend_if(|frame| {
                hint::read_soon(frame);
                let seen = Glance::of(frame);
                glance = Some(seen);
                let fits = taken == 0 || taken as usize + frame.len() <= max_bytes as usize;
                fits && !seen.is_seal && seen.end_offset() <= limit
            });
            match (found, glance) {
                (Extend::Taken(_), Some(seen)) => {
                    self.offset = seen.end_offset();
                    if self.offset <= from {
                        self.run.restart();
                    }
                }
                (Extend::Refused, Some(seen)) => return seen.is_seal,
                _ => return false,
            }
        }
    }

    /// Offset of the first frame in the run.
    fn first_of_run(&self) -> Offset {
        Glance::of(self.run.bytes()).base_offset
    }
}
