//! Walking the frames of one segment, every byte of them checked.

use millstream_protocol::Offset;
use millstream_protocol::frame::{FrameHeader, FrameKind, FramePlace};

use super::VerifyProgress;
use super::report::Fault;
use crate::footer::PageIndex;
use crate::layout::Identity;
use crate::still::{FrameAt, Still};

/// Bytes walked between two reports of progress.
const PROGRESS_BYTES: u64 = 4 << 20;

/// How far the whole check has come, and who wants to know.
pub(crate) struct Meter<'a> {
    tell: &'a mut dyn FnMut(VerifyProgress),
    progress: VerifyProgress,
    untold_bytes: u64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(tell: &'a mut dyn FnMut(VerifyProgress), bytes_total: u64) -> Self {
        let progress = VerifyProgress {
            bytes_done: 0,
            bytes_total,
        };
        tell(progress);
        Self {
            tell,
            progress,
            untold_bytes: 0,
        }
    }

    pub(super) fn bytes_done(&self) -> u64 {
        self.progress.bytes_done
    }

    fn add(&mut self, bytes: u64) {
        self.progress.bytes_done += bytes;
        self.untold_bytes += bytes;
        if self.untold_bytes >= PROGRESS_BYTES {
            self.tell();
        }
    }

    /// Says that all up to `bytes_done` was looked at, whatever of it was walked.
    pub(super) fn reach(&mut self, bytes_done: u64) {
        self.progress.bytes_done = bytes_done;
        self.tell();
    }

    fn tell(&mut self) {
        self.untold_bytes = 0;
        (self.tell)(self.progress);
    }
}

/// What was found good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(super) frames: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// Why a walk stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// At the limit, behind the last frame.
    Limit,
    /// At a good seal.
    Seal,
    /// At something that is not the next frame; its header, where that is good.
    Bad(Fault, Option<FrameHeader>),
}

/// A place in one segment, and what was found on the way there.
pub(super) struct Walk<'a> {
    pub(super) still: &'a mut Still,
    place: FramePlace,
    pub(super) offset: Offset,
    /// Frames end here at the latest.
    limit: u32,
    pub(super) tally: Tally,
    /// Where frames start, as a footer would have it.
    pub(super) index: PageIndex,
    pub(super) first_time_us: u64,
    pub(super) last_time_us: u64,
}

impl<'a> Walk<'a> {
    /// Stands at the first frame of the segment that `identity` names.
    pub(super) fn new(
        still: &'a mut Still,
        identity: &Identity,
        offset: Offset,
        limit: u32,
    ) -> Self {
        Self {
            still,
            place: identity.first_frame(),
            offset,
            limit,
            tally: Tally::default(),
            index: PageIndex::default(),
            first_time_us: 0,
            last_time_us: 0,
        }
    }

    pub(super) fn position(&self) -> u32 {
        self.place.position
    }

    /// Goes on elsewhere.
    pub(super) fn jump(&mut self, position: u32, offset: Offset) {
        self.place.position = position;
        self.offset = offset;
    }

    /// Header of the frame at `position`, if that at least is good.
    pub(super) fn header_at(&mut self, position: u32) -> Option<FrameHeader> {
        let place = FramePlace {
            position,
            ..self.place
        };
        match self.still.frame(place, self.limit) {
            FrameAt::Good(stored) => Some(*stored.header()),
            FrameAt::Bad(_, header) => header,
            FrameAt::Unreadable(_) => None,
        }
    }

    /// Walks on while the next frame is good in every byte and has the offset that follows.
    pub(super) fn run(&mut self, meter: &mut Meter<'_>) -> Stop {
        while self.place.position < self.limit {
            let header = match self.still.frame(self.place, self.limit) {
                FrameAt::Good(stored) => *stored.header(),
                FrameAt::Bad(error, header) => return Stop::Bad(Fault::Frame(error), header),
                FrameAt::Unreadable(error) => return Stop::Bad(Fault::Unreadable(error), None),
            };
            if header.base_offset != self.offset {
                let fault = Fault::OffsetBroken {
                    found: header.base_offset,
                    expected: self.offset,
                };
                return Stop::Bad(fault, Some(header));
            }
            if header.fields.kind == FrameKind::Seal {
                return Stop::Seal;
            }
            self.take(&header);
            meter.add(u64::from(header.frame_bytes()));
        }
        Stop::Limit
    }

    fn take(&mut self, header: &FrameHeader) {
        self.index.note(self.place.position);
        if self.tally.frames == 0 {
            self.first_time_us = header.append_time_us;
        }
        self.last_time_us = header.append_time_us;
        self.tally.frames += 1;
        self.tally.bytes += u64::from(header.frame_bytes());
        if header.fields.kind != FrameKind::Void {
            self.tally.records += u64::from(header.fields.record_count);
        }
        self.place.position += header.frame_bytes();
        self.offset = header.next_offset();
    }
}
