//! Reading what may not be in memory, on a fetching thread: mapping segments of earlier runs,
//! bringing their pages in, and checking every frame before it is served (L7).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use millstream_protocol::Offset;
use millstream_protocol::frame::{FrameKind, check_stored, walk_stored};

use crate::chain::Place;
use crate::folder::{Access, FileError};
use crate::footer::{self, PageIndex};
use crate::layout::{
    FRAMES_START, Identity, PAGE_BYTES, footer_position, segment_len, segment_name,
};
use crate::log::Log;
use crate::manifest::SegmentNumber;
use crate::memory::SegmentMemory;
use crate::segment::{Segment, SegmentEnd};
use crate::sync::{Extend, Gate, Region, lock};
use crate::walker::Glance;
use crate::work::Fetch;

/// Bytes brought in and checked for a reader at a time: few enough to be in a processor's cache still when
/// they are sent.
const FETCH_BYTES: u32 = 4 << 20;

/// A gap found where frames should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) first: Offset,
    pub(crate) next: Offset,
    /// Where reading goes on.
    pub(crate) resume: u32,
    /// The disk could not read it now: it may be there at another time.
    pub(crate) passing: bool,
}

/// What a fetch brought.
#[derive(Debug, Clone)]
pub(crate) enum Fetched {
    /// Frames from `position`, the first at `offset`, are in memory up to `resident_to` and good up to
    /// `checked_to`, which is no bound where the segment is trusted; then comes `damage`, if any, or the
    /// frame of `next`.
    Frames {
        segment: Arc<Segment>,
        position: u32,
        offset: Offset,
        checked_to: u32,
        resident_to: u32,
        damage: Option<Damage>,
        /// Unknown where the segment is trusted.
        next: Option<Offset>,
    },
    /// The segment can't be read at all: its records up to `next` are lost, unless that may pass.
    Unreadable { next: Offset, passing: bool },
    /// Answers a question about time.
    At(Offset),
    /// The store was closed or the topic deleted before the fetch was done.
    Closed,
}

/// What a reader wants fetched.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    /// The segment with this number, from the frame that holds this offset.
    Segment(SegmentNumber, Offset),
    /// More of a segment that is mapped: position and offset of the next frame.
    More(Arc<Segment>, u32, Offset),
    /// The same of one of this run that has no frame where one was synced.
    Doubted(Arc<Segment>, u32, Offset),
    /// The first record appended at or after this time.
    Time(u64),
}

#[derive(Debug, Default)]
struct Slot {
    fetched: Option<Fetched>,
    waker: Option<Waker>,
}

/// A fetch under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct FetchTicket {
    slot: Arc<Mutex<Slot>>,
}

impl FetchTicket {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        match self.slot.lock() {
            Ok(slot) => slot,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Asks a fetching thread for `wanted`.
    pub(crate) fn start(log: &Arc<Log>, wanted: Wanted) -> Self {
        let ticket = Self::default();
        let (answer, log_there) = (Answer(Some(ticket.clone())), Arc::clone(log));
        let fetch: Fetch = Box::new(move || {
            let fetched = fetch(&log_there, wanted);
            answer.give(fetched);
        });
        log.shared().work.fetch(fetch);
        ticket
    }

    fn put(&self, fetched: Fetched) {
        let waker = {
            let mut slot = self.lock();
            slot.fetched = Some(fetched);
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Fetched> {
        let mut slot = self.lock();
        match slot.fetched.take() {
            Some(fetched) => Poll::Ready(fetched),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The duty to answer a ticket: dropped unanswered, the reader is told that no answer comes.
struct Answer(Option<FetchTicket>);

impl Answer {
    fn give(mut self, fetched: Fetched) {
        if let Some(ticket) = self.0.take() {
            ticket.put(fetched);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(ticket) = self.0.take() {
            ticket.put(Fetched::Closed);
        }
    }
}

fn fetch(log: &Arc<Log>, wanted: Wanted) -> Fetched {
    match wanted {
        Wanted::Segment(number, from) => match open_earlier(log, number) {
            Ok(segment) => {
                let (position, offset) = locate(&segment, from);
                check(log, segment, position, offset)
            }
            Err(_) if log.gate_flags() & Gate::CLOSED != 0 => Fetched::Closed,
            Err(unopened) => {
                let Some(finished) = log.chain().finished(number) else {
                    // Trimmed meanwhile, which is no damage: the reader looks where it goes on.
                    return Fetched::Unreadable {
                        next: from,
                        passing: false,
                    };
                };
                let next = finished.end.offset;
                let (reason, passing) = (unopened.reason, unopened.passing);
                tracing::error!(topic = %log.identity().name, segment = number.0, %reason, "segment cannot be read");
                Fetched::Unreadable { next, passing }
            }
        },
        Wanted::More(segment, position, offset) => check(log, segment, position, offset),
        Wanted::Doubted(segment, position, offset) => {
            let error = io::Error::other("a synced frame is not in its place any more");
            log.note_unreadable(&segment, &error);
            let ends = readable_end(log, &segment);
            let until = position.saturating_add(FETCH_BYTES).min(ends.position);
            check_frames(segment, (position, offset), until, ends)
        }
        Wanted::Time(time_us) => Fetched::At(offset_at(log, time_us)),
    }
}

/// How long is waited for descriptors or memory before a segment is asked for again.
const SCARCITY_PAUSE: Duration = Duration::from_millis(20);

/// Opens a segment to read it. Where the process is short of something it waits: a segment that can't
/// be opened now is not damaged, and must not be taken for that.
fn open_patiently(log: &Log, name: &str) -> io::Result<Arc<dyn SegmentMemory>> {
    let mut told = false;
    loop {
        let opened = log.shared().folder.open_segment(name, Access::Read);
        match opened {
            Err(error) if is_scarcity(&error) && log.gate_flags() & Gate::CLOSED == 0 => {
                if !told {
                    tracing::warn!(%name, %error, "reading waits until the process has what it lacks");
                    told = true;
                }
                std::thread::sleep(SCARCITY_PAUSE);
            }
            other => return other,
        }
    }
}

/// Whether the process lacks descriptors or memory, which says nothing about the file.
fn is_scarcity(error: &io::Error) -> bool {
    let file = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<FileError>());
    let code = file.map_or(error.raw_os_error(), FileError::raw_os_error);
    matches!(
        code,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN)
    )
}

/// Whether the device failed to read, which it may do better at another time. What is missing, too short
/// or wrong stays so.
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotFound, UnexpectedEof};
    let stays = [InvalidInput, NotFound, UnexpectedEof];
    !stays.contains(&error.kind())
}

/// Why a segment was not opened.
#[derive(Debug)]
pub(crate) struct Unopened {
    reason: String,
    /// See [`may_pass`].
    passing: bool,
}

impl Unopened {
    fn for_good(reason: String) -> Self {
        Self {
            reason,
            passing: false,
        }
    }
}

/// Maps a finished segment, or shares it with whoever has it mapped.
pub(crate) fn open_earlier(
    log: &Arc<Log>,
    number: SegmentNumber,
) -> Result<Arc<Segment>, Unopened> {
    if let Some(segment) = log.chain().mapped(number) {
        return Ok(segment);
    }
    let (finished, mapping) = log
        .chain()
        .map(number)
        .ok_or_else(|| Unopened::for_good(format!("segment {} is not kept", number.0)))?;
    let name = segment_name(log.identity().id, number);
    let memory = open_patiently(log, &name).map_err(|error| Unopened {
        passing: may_pass(&error),
        reason: error.to_string(),
    })?;
    let end = finished.end;
    // A file that was cut off still has its head.
    let len_bytes = segment_len(memory.as_ref(), &name)
        .map_err(|error| Unopened::for_good(error.to_string()))?;
    if len_bytes - 64 < end.position {
        tracing::error!(%name, len_bytes, end = end.position, "a segment is shorter than its frames");
    }
    let limit = end.position.min(len_bytes - 64);
    let identity = Identity {
        folder_id: log.shared().folder_id,
        incarnation: log.identity().incarnation,
        log: log.identity().id,
        segment: number,
        nonce: finished.nonce,
        len_bytes,
    };
    let region = Arc::new(Region::readable(memory, limit, finished.nonce));
    let index = if finished.footer_bytes == 0 {
        PageIndex::default()
    } else {
        let position = footer_position(end.position);
        let pages = position as usize..position as usize + finished.footer_bytes as usize;
        let bytes = match region.memory().populate(pages) {
            Ok(()) => region.still_bytes(position, finished.footer_bytes),
            Err(_) => &[],
        };
        match footer::decode(bytes, finished.nonce) {
            Ok((_, index, _)) => index,
            Err(error) => {
                tracing::warn!(%name, %error, "reading without an index");
                PageIndex::default()
            }
        }
    };
    let segment = Arc::new(Segment::earlier(region, identity, &finished, index));
    if finished.footer_bytes == 0 {
        index_by_walking(&segment);
    }
    log.chain().share(&segment, mapping);
    Ok(segment)
}

/// Makes the index of a segment that recovery ended, which has no footer.
fn index_by_walking(segment: &Arc<Segment>) {
    let end = segment
        .earlier_end()
        .map_or(segment.region().limit_bytes(), |end| end.position);
    let readable = readable_to(segment.region().memory().as_ref(), FRAMES_START, end).to;
    let mut index = PageIndex::default();
    let (mut at, mut offset) = (FRAMES_START, segment.base_offset());
    while at < end {
        index.note(at);
        match check_frame(segment, at, offset, readable) {
            Some((bytes, next)) => (at, offset) = (at + bytes, next),
            None => match segment.behind_damage(at) {
                Some(known) => (at, offset) = known,
                None => break,
            },
        }
    }
    *lock(segment.index()) = index;
}

/// A frame start at or before the record `from`, with its offset.
pub(crate) fn locate(segment: &Arc<Segment>, from: Offset) -> (u32, Offset) {
    let mut best = (FRAMES_START, segment.base_offset());
    let index = lock(segment.index());
    index.last_before(|position| {
        let Some(glance) = glance_at(segment, position) else {
            return false;
        };
        let before = glance.base_offset <= from;
        if before {
            best = (position, glance.base_offset);
        }
        before
    });
    best
}

/// The header fields of the frame at `position`, if one is committed there.
///
/// A page of an earlier run's segment that can't be read has none, and neither has a header there that
/// does not match its checksum: a wrong offset or time in it would lead far away.
fn glance_at(segment: &Arc<Segment>, position: u32) -> Option<Glance> {
    if !segment.is_trusted() {
        let header = position as usize..position as usize + 64;
        segment.region().memory().populate(header).ok()?;
    }
    glance_in(segment, position)
}

/// As [`glance_at`], where the header is in memory.
fn glance_in(segment: &Arc<Segment>, position: u32) -> Option<Glance> {
    let mut glance = None;
    segment.run_at(position).extend_if(|frame| {
        let nonce_half = segment.region().nonce_half();
        let is_good = segment.is_trusted()
            || walk_stored(frame, segment.seed(), position, nonce_half).is_ok();
        glance = is_good.then(|| Glance::of(frame));
        false
    });
    glance
}

/// Where the frames of a segment end that were ever promised to a reader.
fn readable_end(log: &Log, segment: &Segment) -> SegmentEnd {
    let ended = segment.earlier_end().or_else(|| {
        let finished = log.chain().finished(segment.number())?;
        Some(finished.end)
    });
    ended.unwrap_or(SegmentEnd {
        position: segment.region().limit_bytes(),
        offset: log.synced(),
    })
}

/// Brings frames from `position` into memory and checks each, as far as [`FETCH_BYTES`] reach.
///
/// Segments of this run are trusted as memory: their pages are brought in, and that is all, unless
/// one of them was lost.
fn check(log: &Log, segment: Arc<Segment>, position: u32, offset: Offset) -> Fetched {
    let end = readable_end(log, &segment);
    let until = position.saturating_add(FETCH_BYTES).min(end.position);
    if segment.is_trusted() {
        match segment.bring_in(position, until) {
            Err(error) if !is_scarcity(&error) => log.note_unreadable(&segment, &error),
            _ => {
                return Fetched::Frames {
                    segment,
                    position,
                    offset,
                    checked_to: u32::MAX,
                    resident_to: until,
                    damage: None,
                    next: None,
                };
            }
        }
    }
    check_frames(segment, (position, offset), until, end)
}

/// As [`check`], for a segment whose bytes are not trusted.
fn check_frames(
    segment: Arc<Segment>,
    (position, offset): (u32, Offset),
    until: u32,
    ends: SegmentEnd,
) -> Fetched {
    let end = ends.position;
    let memory = Arc::clone(segment.region().memory());
    let first = until.saturating_add(PAGE_BYTES).min(end);
    let mut readable = readable_to(memory.as_ref(), position, first);
    let mut at = position;
    let mut next = offset;
    let damage = loop {
        // Of this run, what lies behind was promised to nobody.
        let unpromised = segment.earlier_end().is_none() && next >= ends.offset;
        if at >= until || unpromised {
            break None;
        }
        match check_frame(&segment, at, next, readable.to) {
            Some((bytes, end_offset)) => {
                at += bytes;
                next = end_offset;
            }
            None => {
                let mut passing = false;
                // A frame longer than what was brought in: bring in all of it, and no more than that.
                if let Some(to) =
                    end_beyond(&segment, at, readable.to).filter(|_| readable.to < end)
                {
                    let more = readable_to(memory.as_ref(), at, to.max(first).min(end));
                    if more.to > readable.to {
                        readable = more;
                        continue;
                    }
                    passing = more.passing;
                }
                break Some(resume_behind(&segment, (at, next), (ends, passing)));
            }
        }
    };
    Fetched::Frames {
        segment,
        position,
        offset,
        checked_to: at,
        resident_to: at,
        damage,
        next: Some(next),
    }
}

/// How far pages could be brought in.
#[derive(Debug, Clone, Copy)]
struct Readable {
    to: u32,
    /// What stopped it may pass.
    passing: bool,
}

/// How far from `from` towards `to` pages could be brought in; no further than the file goes.
fn readable_to(memory: &dyn SegmentMemory, from: u32, to: u32) -> Readable {
    let to = to.min(u32::try_from(memory.len_bytes()).unwrap_or(u32::MAX));
    let to = to.max(from);
    let all = Readable { to, passing: false };
    if memory.populate(from as usize..to as usize).is_ok() {
        return all;
    }
    let mut page = from - from % PAGE_BYTES;
    while page < to {
        let next = (page + PAGE_BYTES).min(to);
        if let Err(error) = memory.populate(page as usize..next as usize) {
            return Readable {
                to: page.max(from),
                passing: may_pass(&error),
            };
        }
        page = next;
    }
    all
}

/// Where the frame at `at` ends by its header, or that header where it is not there yet, if that is behind
/// `readable`. A header that does not match its checksum says nothing.
fn end_beyond(segment: &Arc<Segment>, at: u32, readable: u32) -> Option<u32> {
    let header_end = at.checked_add(64)?;
    if header_end > readable {
        return Some(header_end);
    }
    let mut beyond = None;
    segment.run_at(at).extend_if(|frame| {
        let nonce_half = segment.region().nonce_half();
        let is_good = walk_stored(frame, segment.seed(), at, nonce_half).is_ok();
        let bytes = u32::try_from(frame.len()).ok().filter(|_| is_good);
        let end = bytes.and_then(|bytes| at.checked_add(bytes));
        beyond = end.filter(|end| *end > readable);
        false
    });
    beyond
}

/// Bytes and end offset of the frame at `at` if it is whole, good and starts at record `expected`.
fn check_frame(
    segment: &Arc<Segment>,
    at: u32,
    expected: Offset,
    readable: u32,
) -> Option<(u32, Offset)> {
    if at.checked_add(64)? > readable {
        return None;
    }
    let mut good = None;
    let found = segment.run_at(at).extend_if(|frame| {
        if at as usize + frame.len() > readable as usize {
            return false;
        }
        let nonce_half = segment.region().nonce_half();
        let Ok(stored) = check_stored(frame, segment.seed(), at, nonce_half) else {
            return false;
        };
        let header = stored.header();
        if header.fields.kind == FrameKind::Seal || header.base_offset != expected {
            return false;
        }
        good = Some(header.next_offset());
        true
    });
    match (found, good) {
        (Extend::Taken(bytes), Some(end)) => Some((bytes, end)),
        _ => None,
    }
}

/// The gap that starts with the damaged frame at `at`, up to the next boundary the index knows where
/// a good frame starts; never found by scanning payload (L7).
fn resume_behind(
    segment: &Arc<Segment>,
    (at, first): (u32, Offset),
    (ends, passing): (SegmentEnd, bool),
) -> Damage {
    let end = ends.position;
    if let Some((resume, next)) = segment.behind_damage(at) {
        return Damage {
            first,
            next,
            resume,
            passing,
        };
    }
    let index = lock(segment.index()).clone();
    let memory = Arc::clone(segment.region().memory());
    let mut passing = passing;
    let mut from = at + 1;
    while let Some(start) = index.next_start(from).filter(|start| *start < end) {
        let near = end.min(start.saturating_add(FETCH_BYTES));
        let mut readable = readable_to(memory.as_ref(), start, near);
        let header = Some(start).filter(|_| start + 64 <= readable.to);
        let base = header
            .and_then(|at| glance_in(segment, at))
            .map(|glance| glance.base_offset);
        if let Some(base) = base.filter(|base| *base >= first) {
            // One that is longer is brought in as a whole.
            if let Some(to) = end_beyond(segment, start, readable.to).filter(|_| near < end) {
                readable = readable_to(memory.as_ref(), start, to.min(end));
            }
            if check_frame(segment, start, base, readable.to).is_some() {
                return Damage {
                    first,
                    next: base,
                    resume: start,
                    passing,
                };
            }
        }
        // Not seen as a whole: it may be there at another time.
        if end_beyond(segment, start, readable.to).is_some() {
            passing |= readable.passing;
        }
        from = start + 1;
    }
    Damage {
        first,
        next: ends.offset.max(first),
        resume: end,
        passing,
    }
}

/// Offset of the first record appended at or after `time_us`; the end where there is none.
fn offset_at(log: &Arc<Log>, time_us: u64) -> Offset {
    let numbers = log.chain().numbers();
    // Times never go back, so the segments form a prefix that starts before the time.
    let behind = numbers.partition_point(|(number, _)| {
        match any_segment(log, *number) {
            Some(segment) => glance_at(&segment, FRAMES_START)
                .is_some_and(|glance| glance.append_time_us < time_us),
            // Trimmed meanwhile: older than all that is kept.
            None => *number < first_kept(log),
        }
    });
    let holder = behind
        .checked_sub(1)
        .and_then(|at| numbers.get(at))
        .and_then(|(number, _)| any_segment(log, *number));
    let Some(segment) = holder else {
        return log.first_offset();
    };
    let mut position = FRAMES_START;
    lock(segment.index()).last_before(|start| {
        let before = glance_at(&segment, start).is_some_and(|g| g.append_time_us < time_us);
        if before {
            position = start;
        }
        before
    });
    let mut next = segment.base_offset();
    while let Some(glance) = glance_at(&segment, position).filter(|glance| !glance.is_seal) {
        if glance.append_time_us >= time_us {
            return glance.base_offset;
        }
        next = glance.end_offset();
        let mut run = segment.run_at(position);
        let Extend::Taken(bytes) = run.extend_if(|_| true) else {
            break;
        };
        position += bytes;
    }
    let ends = segment.earlier_end();
    if ends.is_some_and(|end| position < end.position) {
        // A damaged frame: what is behind it may be so late, and the reader is told of the gap.
        return next;
    }
    // Nothing so late here: the next segment's first record, or the end of all.
    numbers
        .get(behind)
        .map_or_else(|| log.high_watermark(), |(_, base)| *base)
}

/// Where the finished segments at the front end all of whose records were appended before `time_us`; no further
/// than `limit`, and the first offset where there are none. Waits for the disk.
///
/// Each is asked by its own last frame, since the clock may have been right in one run and wrong in the next. One
/// that is damaged there goes with the next one; one that can't be opened now keeps all behind it.
#[must_use]
pub fn older_than(log: &Arc<Log>, time_us: u64, limit: Offset) -> Offset {
    let mut from = log.first_offset();
    let (finished, _) = log.chain().trimmable(limit);
    for number in finished {
        let Some(known) = log.chain().finished(number) else {
            break;
        };
        let Some(segment) = any_segment(log, number) else {
            break;
        };
        match last_time_us(&segment, known.end.position) {
            Some(last_us) if last_us >= time_us => break,
            Some(_) => from = known.end.offset,
            None => {}
        }
    }
    from
}

/// When the last record of a segment was appended whose frames end at `end`; `None` where that is damaged.
fn last_time_us(segment: &Arc<Segment>, end: u32) -> Option<u64> {
    let mut position = FRAMES_START;
    lock(segment.index()).last_before(|start| {
        position = start;
        true
    });
    let mut last_us = None;
    while let Some(glance) = glance_at(segment, position).filter(|glance| !glance.is_seal) {
        last_us = Some(glance.append_time_us);
        let mut run = segment.run_at(position);
        let Extend::Taken(bytes) = run.extend_if(|_| true) else {
            break;
        };
        position += bytes;
    }
    last_us.filter(|_| position == end)
}

fn first_kept(log: &Arc<Log>) -> SegmentNumber {
    let numbers = log.chain().numbers();
    let first = numbers.first();
    first.map_or(SegmentNumber(u32::MAX), |(number, _)| *number)
}

fn any_segment(log: &Arc<Log>, number: SegmentNumber) -> Option<Arc<Segment>> {
    open_earlier(log, number).ok()
}

/// Where a reader that wants `from` goes on, or the fetch that will tell.
pub(crate) fn place_of(log: &Arc<Log>, from: Offset) -> Result<Option<Arc<Segment>>, FetchTicket> {
    match log.chain().find(from) {
        Place::Live(segment) => Ok(Some(segment)),
        Place::Earlier(number) => Err(FetchTicket::start(log, Wanted::Segment(number, from))),
        Place::End => Ok(None),
    }
}
