//! Following commit words through a log's segments: the committed prefix, found by looking (L1).
//!
//! A walker trusts what it walks, so it is for segments of this run only.

use std::sync::Arc;

use millstream_protocol::Offset;

use crate::segment::Segment;
use crate::slot::Watermark;
use crate::sync::{CommittedRun, Extend};

/// The few header fields a walk needs, read from a committed frame of this run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Glance {
    pub(crate) is_seal: bool,
    pub(crate) records: u16,
    pub(crate) base_offset: Offset,
    pub(crate) append_time_us: u64,
}

impl Glance {
    /// Reads `frame`, which starts with a whole header.
    #[inline]
    pub(crate) fn of(frame: &[u8]) -> Self {
        let Some(header) = frame.first_chunk::<64>() else {
            return Self::SEAL_OF_NOTHING;
        };
        let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, rest @ ..] = header;
        let (base, rest) = rest.split_at(8);
        let (time, rest) = rest.split_at(8);
        Self {
            is_seal: rest.first() == Some(&SEAL_KIND),
            records: rest
                .get(2..4)
                .and_then(|count| count.first_chunk())
                .map_or(0, |count| u16::from_le_bytes(*count)),
            base_offset: Offset(base.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))),
            append_time_us: time.first_chunk().map_or(0, |t| u64::from_le_bytes(*t)),
        }
    }

    const SEAL_OF_NOTHING: Self = Self {
        is_seal: true,
        records: 0,
        base_offset: Offset(0),
        append_time_us: 0,
    };

    /// Offset behind the frame's last record.
    pub(crate) fn end_offset(&self) -> Offset {
        Offset(self.base_offset.0 + u64::from(self.records))
    }
}

const SEAL_KIND: u8 = millstream_protocol::frame::FrameKind::Seal as u8;

/// What a step of a walk found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// A frame, which starts at `position`; the walker stands behind it.
    Frame { position: u32, glance: Glance },
    /// The seal: this segment is walked to its end.
    Sealed,
    /// Nothing committed here yet.
    End,
}

/// A frame that a walker's owner committed.
#[derive(Debug)]
pub(crate) struct OwnFrame<'a> {
    pub(crate) segment: &'a Arc<Segment>,
    pub(crate) position: u32,
    pub(crate) bytes: u32,
}

/// A place in the committed prefix of one segment.
#[derive(Debug, Clone)]
pub(crate) struct Walker {
    segment: Arc<Segment>,
    run: CommittedRun,
    offset: Offset,
    sealed: bool,
}

impl Walker {
    /// A walker at the first frame of `segment`.
    pub(crate) fn new(segment: Arc<Segment>) -> Self {
        Self {
            run: segment.first_run(),
            offset: segment.base_offset(),
            segment,
            sealed: false,
        }
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The offset up to which the prefix is unbroken, as far as this walker has looked.
    pub(crate) fn offset(&self) -> Offset {
        self.offset
    }

    pub(crate) fn position(&self) -> u32 {
        self.run.end()
    }

    /// Where it stands, as a watermark slot states it.
    pub(crate) fn watermark(&self) -> Watermark {
        Watermark {
            position: self.run.end(),
            offset: self.offset.0,
            sealed: self.sealed,
        }
    }

    /// Takes one step.
    #[inline]
    pub(crate) fn step(&mut self) -> Step {
        if self.sealed {
            return Step::Sealed;
        }
        let mut seen = None;
        let position = self.run.end();
        let found = self.run.extend_if(|frame| {
            let glance = Glance::of(frame);
            seen = Some(glance);
            !glance.is_seal
        });
        match (found, seen) {
            (Extend::Taken(_), Some(glance)) => {
                debug_assert_eq!(glance.base_offset, self.offset, "frames are contiguous");
                self.offset = glance.end_offset();
                self.run.restart();
                Step::Frame { position, glance }
            }
            (Extend::Refused, _) => {
                self.sealed = true;
                Step::Sealed
            }
            _ => Step::End,
        }
    }

    /// Walks on within the segment as far as frames are committed, at most to `until` and over
    /// `frames_max` frames; the last of these is what it gives where there were so many.
    #[inline]
    pub(crate) fn advance(&mut self, until: Offset, frames_max: u32) -> Step {
        let mut last = Step::End;
        for _ in 0..frames_max {
            if self.offset >= until {
                return Step::End;
            }
            last = self.step();
            if !matches!(last, Step::Frame { .. }) {
                return last;
            }
        }
        last
    }

    /// Goes to where `other` stands, who follows the same log. Gives what it held of a segment it left, which
    /// may be unmapped with it.
    pub(crate) fn catch_up(&mut self, other: &Self) -> Option<Self> {
        if self.segment.number() != other.segment.number() {
            return Some(std::mem::replace(self, other.clone()));
        }
        self.run.skip_to_end_of(&other.run);
        self.offset = other.offset;
        self.sealed = other.sealed;
        None
    }

    /// Stands behind a frame that this walker's owner committed at its very place, in this segment.
    #[inline]
    pub(crate) fn skip_own(&mut self, frame: &OwnFrame<'_>, end: Offset) {
        let is_here = Arc::ptr_eq(&self.segment, frame.segment);
        if is_here && self.run.end() == frame.position && !self.sealed {
            self.run.skip_own(frame.bytes);
            self.offset = end;
        }
    }
}
