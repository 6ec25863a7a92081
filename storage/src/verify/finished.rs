//! A segment whose end the manifest knows: identity, slots, frames, seal and footer.

use millstream_protocol::Offset;
use millstream_protocol::frame::{FrameHeader, FrameKind, FramePlace};

use super::report::{Fault, Problem, Whereabouts};
use super::walk::{Meter, Stop, Tally, Walk};
use crate::footer::{self, FooterError, PageIndex, Summary};
use crate::layout::{
    FRAMES_START, Identity, PAGE_BYTES, SEGMENT_BYTES_MAX, SLOT_POSITIONS, footer_position,
};
use crate::manifest::{DamageState, EndKind, SegmentEnd};
use crate::slot::{SLOT_BYTES, Slot, Watermark};
use crate::still::{FrameAt, HEADER, Still};

/// One segment and what the manifest says of it.
pub(crate) struct Finished<'a> {
    pub(crate) at: Whereabouts<'a>,
    pub(crate) identity: Identity,
    pub(crate) end: SegmentEnd,
    /// Gaps in it that recovery found; they are reported apart.
    pub(crate) gaps: &'a [DamageState],
}

impl Finished<'_> {
    fn footer_bytes(&self) -> u32 {
        match self.end.kind {
            EndKind::Sealed { footer_bytes } => footer_bytes,
            EndKind::Cut => 0,
        }
    }

    /// Bytes of the file that mean something.
    fn needed_bytes(&self) -> u64 {
        let end = self.end.end_position;
        match self.end.kind {
            EndKind::Cut => u64::from(end),
            EndKind::Sealed { footer_bytes: 0 } => u64::from(end) + u64::from(HEADER),
            EndKind::Sealed { footer_bytes } => {
                u64::from(footer_position(end)) + u64::from(footer_bytes)
            }
        }
    }

    fn all_offsets(&self) -> (Offset, Offset) {
        (Offset(self.end.base_offset), Offset(self.end.end_offset))
    }

    /// Checks `still`, whose file has `len_bytes` bytes.
    pub(crate) fn check(
        &self,
        still: Option<Still>,
        len_bytes: u64,
        meter: &mut Meter<'_>,
        found: &mut Vec<Problem>,
    ) -> Tally {
        let possible = (FRAMES_START..=SEGMENT_BYTES_MAX - HEADER).contains(&self.end.end_position);
        let needed = if possible { self.needed_bytes() } else { 0 };
        let Some(mut still) = still.filter(|_| possible) else {
            let fault = Fault::Length {
                found: len_bytes,
                needed: needed.max(u64::from(FRAMES_START)),
            };
            found.push(self.at.lost(0, self.all_offsets(), fault));
            return Tally::default();
        };
        if len_bytes < needed {
            let fault = Fault::Length {
                found: len_bytes,
                needed,
            };
            found.push(self.at.problem(Some(still.len_bytes()), fault));
        }
        check_identity(self.at, &mut still, &self.identity, found);
        if self.footer_bytes() == 0 {
            let (tally, _) = self.walk(&mut still, &PageIndex::default(), meter, found);
            self.check_seal(&mut still, found);
            return tally;
        }
        self.check_slots(&mut still, found);
        let at = footer_position(self.end.end_position);
        let index = still
            .bytes(at, self.footer_bytes())
            .ok()
            .and_then(|bytes| footer::decode(bytes, self.identity.nonce).ok())
            .map(|(_, index, _)| index);
        let (tally, whole) = self.walk(&mut still, &index.unwrap_or_default(), meter, found);
        self.check_seal(&mut still, found);
        let unused = self.end.end_position + HEADER..at;
        check_zero(
            self.at,
            &mut still,
            unused,
            "the room behind the seal",
            found,
        );
        self.check_footer(&mut still, whole, found);
        tally
    }

    /// Both slots were written and synced before the footer was, and the newer proves the end (S3).
    fn check_slots(&self, still: &mut Still, found: &mut Vec<Problem>) {
        let slots = match still.slots(self.identity.nonce) {
            Ok(slots) => slots,
            Err(error) => {
                let [first, _] = SLOT_POSITIONS;
                found.push(self.at.problem(Some(first), Fault::Unreadable(error)));
                return;
            }
        };
        for (index, (slot, position)) in slots.iter().zip(SLOT_POSITIONS).enumerate() {
            if slot.is_none() {
                found.push(self.at.problem(Some(position), Fault::Slot { index }));
            }
            let unused = position + SLOT_BYTES as u32..position + PAGE_BYTES;
            check_zero(self.at, still, unused, "a slot page", found);
        }
        let end = Watermark {
            position: self.end.end_position,
            offset: self.end.end_offset,
            sealed: true,
        };
        let newest: Option<Slot> = slots.into_iter().flatten().max_by_key(|slot| slot.sequence);
        if slots.iter().all(Option::is_some) && newest.is_some_and(|slot| slot.proven != end) {
            let [first, _] = SLOT_POSITIONS;
            found.push(self.at.problem(Some(first), Fault::EndUnproven));
        }
    }

    /// Walks all frames; past a bad one, from the next boundary that is known. What a footer would
    /// say comes back if none was bad.
    fn walk(
        &self,
        still: &mut Still,
        index: &PageIndex,
        meter: &mut Meter<'_>,
        found: &mut Vec<Problem>,
    ) -> (Tally, Option<(Summary, PageIndex)>) {
        let (base, end_offset) = self.all_offsets();
        let end_position = self.end.end_position;
        let mut walk = Walk::new(still, &self.identity, base, end_position);
        let mut whole = true;
        loop {
            let (fault, header) = match walk.run(meter) {
                Stop::Limit => break,
                Stop::Seal => (Fault::EarlySeal, None),
                Stop::Bad(fault, header) => (fault, header),
            };
            whole = false;
            let (position, offset) = (walk.position(), walk.offset);
            let gap = self
                .gaps
                .iter()
                .find(|gap| (gap.first_position..gap.next_position).contains(&position));
            if let Some(gap) = gap {
                walk.jump(gap.next_position, Offset(gap.next_offset));
                continue;
            }
            let (to, next) = self
                .behind(position, offset, header)
                .or_else(|| boundary(&mut walk, index, end_position))
                .unwrap_or((end_position, end_offset));
            found.push(self.at.lost(position, (offset, next), fault));
            walk.jump(to, next);
        }
        if walk.offset != end_offset {
            let fault = Fault::EndOffset {
                found: walk.offset,
                expected: end_offset,
            };
            found.push(self.at.problem(Some(end_position), fault));
            whole = false;
        }
        let summary = Summary {
            segment: self.identity.segment,
            nonce: self.identity.nonce,
            frames: walk.tally.frames,
            base_offset: base.0,
            end_offset: walk.offset.0,
            first_time_us: walk.first_time_us,
            last_time_us: walk.last_time_us,
            end_position,
        };
        (walk.tally, whole.then_some((summary, walk.index)))
    }

    /// Where a frame ends whose header is good while its body is not.
    fn behind(
        &self,
        position: u32,
        offset: Offset,
        header: Option<FrameHeader>,
    ) -> Option<(u32, Offset)> {
        let header = header?;
        let to = position.checked_add(header.frame_bytes())?;
        let inside = to <= self.end.end_position
            && header.base_offset >= offset
            && header.next_offset().0 <= self.end.end_offset
            && header.fields.kind != FrameKind::Seal;
        inside.then_some((to, header.next_offset()))
    }

    fn check_seal(&self, still: &mut Still, found: &mut Vec<Problem>) {
        if self.end.kind == EndKind::Cut {
            return;
        }
        let (at, limit) = (self.end.end_position, still.len_bytes());
        let place = FramePlace {
            position: at,
            ..self.identity.first_frame()
        };
        let good = match still.frame(place, limit) {
            FrameAt::Good(stored) => {
                let header = stored.header();
                header.fields.kind == FrameKind::Seal && header.base_offset.0 == self.end.end_offset
            }
            FrameAt::Bad(..) | FrameAt::Unreadable(_) => false,
        };
        if !good {
            found.push(self.at.problem(Some(at), Fault::NoSeal));
        }
    }

    /// The footer that the frames call for; `None` unless every frame and the seal are good.
    pub(crate) fn footer_of_frames(
        &self,
        still: &mut Still,
        meter: &mut Meter<'_>,
    ) -> Option<Vec<u8>> {
        let mut found = Vec::new();
        let (_, whole) = self.walk(still, &PageIndex::default(), meter, &mut found);
        self.check_seal(still, &mut found);
        let (summary, index) = whole.filter(|_| found.is_empty())?;
        Some(footer::encode(&summary, &index))
    }

    /// Compares the footer, byte for byte, to the one that the frames call for.
    fn check_footer(
        &self,
        still: &mut Still,
        whole: Option<(Summary, PageIndex)>,
        found: &mut Vec<Problem>,
    ) {
        let at = footer_position(self.end.end_position);
        let bytes = match still.bytes(at, self.footer_bytes()) {
            Ok(bytes) => bytes,
            Err(error) => {
                found.push(self.at.problem(Some(at), Fault::Unreadable(error)));
                return;
            }
        };
        let expected = whole.map(|(summary, index)| (footer::encode(&summary, &index), summary));
        if expected
            .as_ref()
            .is_some_and(|(expected, _)| expected == bytes)
        {
            return;
        }
        let decoded = footer::decode(bytes, self.identity.nonce);
        let (summary, damage) = match decoded {
            Ok((summary, _, damage)) => (summary, damage),
            Err(error) => {
                found.push(self.at.problem(Some(at), Fault::Footer(error)));
                return;
            }
        };
        for error in &damage {
            let position = match error {
                FooterError::IndexPage(page) => at + (page + 1) * PAGE_BYTES,
                _ => at,
            };
            found.push(
                self.at
                    .problem(Some(position), Fault::Footer(error.clone())),
            );
        }
        if let (Some((expected, wanted)), true) = (expected, damage.is_empty()) {
            let differs = expected.iter().zip(bytes).position(|(a, b)| a != b);
            let differs = differs.unwrap_or_else(|| expected.len().min(bytes.len()));
            let position = at + u32::try_from(differs).unwrap_or(0);
            let fault = match disagreement(&wanted, &summary) {
                Some(field) => Fault::FooterDisagrees { field },
                None if differs < PAGE_BYTES as usize => Fault::NotZero {
                    place: "the footer's first page",
                },
                None => Fault::FooterDisagrees { field: "index" },
            };
            found.push(self.at.problem(Some(position), fault));
        }
    }
}

/// The first known frame start behind where `walk` stands whose header is good; its offset with it.
fn boundary(walk: &mut Walk<'_>, index: &PageIndex, end: u32) -> Option<(u32, Offset)> {
    let mut from = walk.position() + 1;
    while let Some(start) = index.next_start(from).filter(|start| *start < end) {
        let base = walk
            .header_at(start)
            .filter(|header| header.fields.kind != FrameKind::Seal)
            .map(|header| header.base_offset);
        if let Some(base) = base.filter(|base| *base >= walk.offset) {
            return Some((start, base));
        }
        from = start + 1;
    }
    None
}

fn disagreement(wanted: &Summary, found: &Summary) -> Option<&'static str> {
    let fields = [
        ("segment number", wanted.segment == found.segment),
        ("count of frames", wanted.frames == found.frames),
        ("base offset", wanted.base_offset == found.base_offset),
        ("end offset", wanted.end_offset == found.end_offset),
        ("first time", wanted.first_time_us == found.first_time_us),
        ("last time", wanted.last_time_us == found.last_time_us),
        ("end position", wanted.end_position == found.end_position),
    ];
    fields
        .into_iter()
        .find(|(_, same)| !same)
        .map(|(name, _)| name)
}

/// Compares the first page of a file to the identity it must have.
pub(super) fn check_identity(
    at: Whereabouts<'_>,
    still: &mut Still,
    wanted: &Identity,
    found: &mut Vec<Problem>,
) {
    let decoded = match still.bytes(0, PAGE_BYTES) {
        Ok(page) => Identity::decode(page),
        Err(error) => {
            found.push(at.problem(Some(0), Fault::Unreadable(error)));
            return;
        }
    };
    let identity = match decoded {
        Ok(identity) => identity,
        Err(error) => {
            found.push(at.problem(Some(0), Fault::Identity(error)));
            return;
        }
    };
    let fields = [
        ("folder id", identity.folder_id == wanted.folder_id),
        ("incarnation", identity.incarnation == wanted.incarnation),
        ("log number", identity.log == wanted.log),
        ("segment number", identity.segment == wanted.segment),
        ("nonce", identity.nonce == wanted.nonce),
        ("length", identity.len_bytes == wanted.len_bytes),
    ];
    for (field, same) in fields {
        if !same {
            found.push(at.problem(Some(0), Fault::OtherSegment { field }));
        }
    }
    let used = u32::try_from(identity.encode().len()).unwrap_or(0);
    check_zero(at, still, used..PAGE_BYTES, "the identity page", found);
}

fn check_zero(
    at: Whereabouts<'_>,
    still: &mut Still,
    range: std::ops::Range<u32>,
    place: &'static str,
    found: &mut Vec<Problem>,
) {
    let start = range.start;
    match still.first_set(range) {
        Ok(None) => {}
        Ok(Some(position)) => found.push(at.problem(Some(position), Fault::NotZero { place })),
        Err(error) => found.push(at.problem(Some(start), Fault::Unreadable(error))),
    }
}
