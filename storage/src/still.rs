//! A segment file that nobody writes, looked at without trust: what `verify` and the dump share.
//!
//! Pages are brought in before they are touched, a window at a time, so a page that can't be read is
//! an error with a place and not a signal. Nothing is opened for writing.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use millstream_protocol::batch::BatchView;
use millstream_protocol::frame::{
    CommitWord, FrameError, FrameHeader, FrameKind, FramePlace, StoredFrame, check_stored,
};
use millstream_protocol::limits::{FRAME_ALIGN, FRAME_BYTES_MAX, FRAME_HEADER_BYTES};

use crate::folder::{Access, Folder};
use crate::layout::{FIRST_USE, Identity, PAGE_BYTES, SEGMENT_BYTES_MAX, SLOT_POSITIONS, u64_at};
use crate::slot::Slot;
use crate::sync::Region;

pub(crate) const HEADER: u32 = FRAME_HEADER_BYTES as u32;
/// Bytes brought in at a time.
const WINDOW_BYTES: u32 = 4 << 20;

/// A mapped segment file and how far its pages were brought in.
#[derive(Debug)]
pub(crate) struct Still {
    region: Region,
    ready: Range<u32>,
}

/// What stands where a frame should.
#[derive(Debug)]
pub(crate) enum FrameAt<'a> {
    /// A frame that checks out in every byte, its columns too.
    Good(StoredFrame<'a>),
    /// Something else; and the header, where that at least is as it was written.
    Bad(FrameError, Option<FrameHeader>),
    /// Its pages can't be read.
    Unreadable(io::Error),
}

impl Still {
    /// Maps the file `name`; `None` where it is too short to hold even a frame's header, or longer
    /// than any segment. Its length comes along.
    pub(crate) fn open(folder: &dyn Folder, name: &str) -> io::Result<(Option<Self>, u64)> {
        let len_bytes = folder.len(name)?;
        if !(u64::from(HEADER)..=u64::from(SEGMENT_BYTES_MAX)).contains(&len_bytes) {
            return Ok((None, len_bytes));
        }
        let memory = folder.open_segment(name, Access::Read)?;
        let len_bytes = memory.len_bytes() as u64;
        let mapped = u32::try_from(len_bytes)
            .ok()
            .filter(|len| (HEADER..=SEGMENT_BYTES_MAX).contains(len));
        let still = mapped.map(|len| Self {
            // What the frames' nonce is, each look at one says.
            region: Region::readable(Arc::clone(&memory), len - HEADER, 0),
            ready: 0..0,
        });
        Ok((still, len_bytes))
    }

    pub(crate) fn len_bytes(&self) -> u32 {
        self.region.len_bytes()
    }

    /// The `bytes` bytes from `position`, brought in first; fewer where the file ends before.
    pub(crate) fn bytes(&mut self, position: u32, bytes: u32) -> io::Result<&[u8]> {
        let len = self.len_bytes();
        let start = position.min(len);
        let end = position.saturating_add(bytes).min(len);
        if start < self.ready.start || end > self.ready.end {
            self.bring_in(start, end)?;
        }
        Ok(self.region.still_bytes(start, end - start))
    }

    fn bring_in(&mut self, start: u32, end: u32) -> io::Result<()> {
        let page = start - start % PAGE_BYTES;
        let window = page
            .saturating_add(WINDOW_BYTES)
            .max(end)
            .min(self.len_bytes());
        let memory = self.region.memory();
        let mut ready = page..window;
        if memory.populate(page as usize..window as usize).is_err() {
            // Only what is asked for counts; a bad page behind it is for whoever asks for that.
            memory.populate(page as usize..end as usize)?;
            ready.end = end;
        }
        self.ready = ready;
        Ok(())
    }

    /// What stands at `place`, where frames end at `limit` at the latest.
    pub(crate) fn frame(&mut self, place: FramePlace, limit: u32) -> FrameAt<'_> {
        let room = limit.min(self.len_bytes()).saturating_sub(place.position);
        let word = match self.bytes(place.position, HEADER.min(room)) {
            Ok(head) => CommitWord::from_u64(u64_at(head, 0)),
            Err(error) => return FrameAt::Unreadable(error),
        };
        // A length that can't be is left to the checks, which need the header alone to refuse it.
        let believable = (HEADER..=FRAME_BYTES_MAX as u32).contains(&word.frame_bytes);
        let wanted = if believable { word.frame_bytes } else { HEADER };
        match self.bytes(place.position, wanted.min(room)) {
            Ok(bytes) => check(bytes, place),
            Err(error) => FrameAt::Unreadable(error),
        }
    }

    /// Whether nothing was ever committed at `position` as the segment `identity`: the `8` bytes of a commit word
    /// there are all zero or behind the end, or, in a file that served before, of another use.
    pub(crate) fn is_blank(&mut self, position: u32, identity: &Identity) -> bool {
        let Ok(word) = self.bytes(position, 8).map(|word| u64_at(word, 0)) else {
            return false;
        };
        let nonce_half = identity.first_frame().nonce_half;
        // The first page is looked at last: for a frame of this use that would bring in another window.
        word == 0
            || (CommitWord::from_u64(word).nonce_half != nonce_half
                && self.may_be_reuse().unwrap_or(true))
    }

    /// Position of the first byte of `range` that is not zero.
    pub(crate) fn first_set(&mut self, range: Range<u32>) -> io::Result<Option<u32>> {
        let mut at = range.start;
        let end = range.end.min(self.len_bytes());
        while at < end {
            let piece = WINDOW_BYTES.min(end - at);
            let bytes = self.bytes(at, piece)?;
            if let Some(found) = bytes.iter().position(|byte| *byte != 0) {
                return Ok(Some(at + u32::try_from(found).unwrap_or(0)));
            }
            at += piece;
        }
        Ok(None)
    }

    /// Position of the last byte of `range` that is not zero.
    pub(crate) fn last_set(&mut self, range: Range<u32>) -> io::Result<Option<u32>> {
        let mut end = range.end.min(self.len_bytes());
        while end > range.start {
            let start = end.saturating_sub(WINDOW_BYTES).max(range.start);
            let bytes = self.bytes(start, end - start)?;
            if let Some(found) = bytes.iter().rposition(|byte| *byte != 0) {
                return Ok(Some(start + u32::try_from(found).unwrap_or(0)));
            }
            end = start;
        }
        Ok(None)
    }

    /// Whether the file served before as another segment, or may have, where its first page does not tell: what it
    /// holds beyond this use need not be zeros.
    pub(crate) fn may_be_reuse(&mut self) -> io::Result<bool> {
        let former = Identity::former_nonce(self.bytes(0, PAGE_BYTES)?);
        Ok(former != Ok(FIRST_USE))
    }

    /// Where ends what was written at `from` or behind it as the segment `identity`, in front of the room for a last
    /// header; `from` where nothing was.
    ///
    /// In a file that was made for the segment that is behind the last byte that is not zero. One that served before
    /// holds frames of then as well; there it is behind the last place where a header of this use stands, and not
    /// before what a sync was begun for. That says how much is set aside, and never what is served (L7).
    pub(crate) fn used_to(&mut self, from: u32, identity: &Identity) -> io::Result<u32> {
        if !self.may_be_reuse()? {
            return self.set_to(from);
        }
        let limit = self.len_bytes().saturating_sub(HEADER);
        let slots = self.slots(identity.nonce)?;
        let attempted = slots.iter().flatten().map(|slot| slot.attempted.position);
        let mut end = attempted.max().unwrap_or(from).clamp(from, limit.max(from));
        let place = identity.first_frame();
        let mut start = from;
        while start < limit {
            let bytes = WINDOW_BYTES.min(limit - start);
            let window = self.bytes(start, bytes + HEADER)?;
            for at in (0..bytes).step_by(FRAME_ALIGN) {
                let Some(header) = window.get(at as usize..).and_then(<[u8]>::first_chunk) else {
                    break;
                };
                let word = CommitWord::from_u64(u64_at(header, 0));
                let position = start + at;
                let is_ours = word.nonce_half == place.nonce_half
                    && FrameHeader::decode(header, place.seed, position).is_ok();
                if is_ours {
                    let frame_end = position.saturating_add(word.frame_bytes).min(limit);
                    end = end.max(frame_end);
                }
            }
            start += bytes;
        }
        Ok(end)
    }

    /// Behind the last byte from `from` on that is not zero, in front of the room for a last header.
    pub(crate) fn set_to(&mut self, from: u32) -> io::Result<u32> {
        let limit = self.len_bytes().saturating_sub(HEADER);
        let last = self.last_set(from..limit)?;
        Ok(last.map_or(from, |last| last + 1))
    }

    /// The pages of both watermark slots.
    pub(crate) fn slot_pages(&mut self) -> io::Result<[Vec<u8>; 2]> {
        let [first, second] = SLOT_POSITIONS;
        Ok([
            self.bytes(first, PAGE_BYTES)?.to_vec(),
            self.bytes(second, PAGE_BYTES)?.to_vec(),
        ])
    }

    /// Both watermark slots, where they are whole and of this use of the file.
    pub(crate) fn slots(&mut self, nonce: u64) -> io::Result<[Option<Slot>; 2]> {
        let pages = self.slot_pages()?;
        Ok(pages.map(|page| Slot::decode(&page, nonce)))
    }
}

fn check(bytes: &[u8], place: FramePlace) -> FrameAt<'_> {
    let FramePlace {
        seed,
        nonce_half,
        position,
    } = place;
    let stored = match check_stored(bytes, seed, position, nonce_half) {
        Ok(stored) => stored,
        Err(error) => {
            let header = bytes
                .first_chunk()
                .and_then(|header| FrameHeader::decode(header, seed, position).ok());
            return FrameAt::Bad(error, header);
        }
    };
    let header = *stored.header();
    let fields = &header.fields;
    if !matches!(fields.kind, FrameKind::Single | FrameKind::Batch) {
        return FrameAt::Good(stored);
    }
    // Of a compressed batch, all but the payload block, which nobody but its reader expands.
    match BatchView::check(
        fields.kind,
        fields.record_count,
        fields.compressed,
        stored.body(),
    ) {
        Ok(_) => FrameAt::Good(stored),
        Err(error) => FrameAt::Bad(FrameError::Batch(error), Some(header)),
    }
}
