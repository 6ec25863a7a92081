//! Reads a topic for its queue's scheduler: which records there are, not what is in them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use millstream_protocol::batch::{BatchView, ColumnKind, Columns};
use millstream_protocol::frame::{FrameKind, StoredFrame, walk_stored};
use millstream_protocol::{Offset, Start};
use millstream_storage::{Chunk, FrameSlice, Log, LogReader, ReadError};

use super::notes;
use super::scheduler::Scanned;

/// Bytes of frames looked at in one go.
const SCAN_BYTES: u32 = 256 << 10;
/// Plain records appended within this time count as appended together.
const TOGETHER_US: u64 = 100_000;

/// Columns that change what a queue does with a record; headers may address it to another queue.
const MATTERS: [ColumnKind; 5] = [
    ColumnKind::Headers,
    ColumnKind::Group,
    ColumnKind::DueAt,
    ColumnKind::ExpiresAt,
    ColumnKind::Priority,
];

/// What a look at the topic brought.
#[derive(Debug)]
pub(super) enum Found {
    Records(Scanned),
    /// The disk can't read what comes next now: worth another look later.
    NotNow,
}

/// Follows a topic from an offset on.
#[derive(Debug)]
pub(super) struct Scanner {
    log: Arc<Log>,
    reader: LogReader,
    /// The queue it scans for: records addressed to another are passed over.
    queue: Box<str>,
    grouped: bool,
    /// Found and not handed over yet; bounded by what [`SCAN_BYTES`] hold.
    found: VecDeque<Scanned>,
    next: Offset,
}

impl Scanner {
    pub(super) fn new(log: &Arc<Log>, queue: &str, grouped: bool, from: Offset) -> Self {
        Self {
            reader: LogReader::new(log, Start::Offset(from)),
            log: Arc::clone(log),
            queue: queue.into(),
            grouped,
            found: VecDeque::new(),
            next: from,
        }
    }

    /// Goes on from `offset`, which lies ahead: what is between was settled before.
    pub(super) fn skip_to(&mut self, offset: Offset) {
        if self.found.is_empty() && offset > self.next {
            self.reader = LogReader::new(&self.log, Start::Offset(offset));
            self.next = offset;
        }
    }

    /// What comes next in the topic. Pending at its end, or while pages are brought in.
    ///
    /// # Errors
    ///
    /// When the topic is closed or failed and all below was scanned.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Found, ReadError>> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Poll::Ready(Ok(Found::Records(found)));
            }
            match ready!(self.reader.poll_next(SCAN_BYTES, cx))? {
                Chunk::Frames(slice) => self.look_at(&slice),
                Chunk::Gap(gap) if self.reader.gap_may_pass() => {
                    // Nothing is known of what is there, so nothing is settled on that account.
                    self.reader = LogReader::new(&self.log, Start::Offset(gap.first_offset));
                    return Poll::Ready(Ok(Found::NotNow));
                }
                Chunk::Gap(gap) => {
                    self.void(gap.first_offset, gap.next_offset);
                }
            }
        }
    }

    fn void(&mut self, first: Offset, next: Offset) {
        let first = first.max(self.next);
        if next > first {
            self.found.push_back(Scanned::Void { first, next });
            self.next = next;
        }
    }

    fn look_at(&mut self, slice: &FrameSlice) {
        let place = slice.place();
        let mut position = place.position;
        let mut rest = slice.as_bytes();
        while !rest.is_empty() {
            let Ok(frame) = walk_stored(rest, place.seed, position, place.nonce_half) else {
                // The reader checked them; what can't be walked all the same holds nothing to give.
                break;
            };
            self.look_at_frame(&frame);
            rest = rest.get(frame.frame_bytes() as usize..).unwrap_or_default();
            position += frame.frame_bytes();
        }
        self.void(self.next, slice.next_offset());
    }

    fn look_at_frame(&mut self, frame: &StoredFrame<'_>) {
        let header = frame.header();
        let (base, end) = (header.base_offset, header.next_offset());
        if end <= self.next {
            return;
        }
        self.void(self.next, base);
        let fields = &header.fields;
        match fields.kind {
            FrameKind::Void | FrameKind::Seal => return self.void(self.next, end),
            FrameKind::Single => {
                return self.run(1, fields.body_bytes, header.append_time_us);
            }
            FrameKind::Batch => {}
        }
        let columns = Columns::of(fields, frame.body());
        let view = columns.has_any(&MATTERS).then(|| {
            BatchView::check(
                fields.kind,
                fields.record_count,
                fields.compressed,
                frame.body(),
            )
        });
        let Some(Ok(view)) = view else {
            // Plain; or nobody can read them, which is found when they are delivered.
            let count = u32::try_from(end.since(self.next).unwrap_or(0)).unwrap_or(u32::MAX);
            let each = fields.body_bytes / u32::from(fields.record_count.max(1));
            return self.run(count, each, header.append_time_us);
        };
        self.look_at_records(&view, base, header.append_time_us);
    }

    fn look_at_records(&mut self, view: &BatchView<'_>, base: Offset, append_us: u64) {
        for (index, record) in view.iter().enumerate() {
            let offset = base + index as u64;
            if offset < self.next {
                continue;
            }
            if notes::addressee(&record).is_some_and(|queue| queue != self.queue.as_bytes()) {
                self.void(offset, offset + 1);
                continue;
            }
            let group = match record.group() {
                Some(group) if self.grouped => group_number(group),
                _ => 0,
            };
            let bytes = u32::try_from(record.body().len()).unwrap_or(u32::MAX);
            self.found.push_back(Scanned::One {
                offset,
                bytes,
                append_us,
                group,
                priority: record.priority(),
                due_us: record.due_at_us().unwrap_or(0),
                expires_us: record.expires_at_us().unwrap_or(0),
            });
            self.next = offset + 1;
        }
    }

    /// Notes `count` plain records, joined to the run before them where they are alike.
    fn run(&mut self, count: u32, bytes_each: u32, append_us: u64) {
        let first = self.next;
        self.next = first + u64::from(count);
        if let Some(Scanned::Run {
            first: run_first,
            count: run_count,
            bytes_each: run_bytes,
            append_us: run_us,
        }) = self.found.back_mut()
            && *run_bytes == bytes_each
            && append_us.abs_diff(*run_us) < TOGETHER_US
            && *run_first + u64::from(*run_count) == first
        {
            *run_count += count;
            return;
        }
        self.found.push_back(Scanned::Run {
            first,
            count,
            bytes_each,
            append_us,
        });
    }
}

/// A group's key as a number: 64-bit FNV-1a, never 0.
///
/// Two keys of one number are delivered as one group: in order, one at a time, which is stricter
/// than asked and never wrong.
fn group_number(key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash.max(1)
}
