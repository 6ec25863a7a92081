//! One segment file by itself: what it says it is, its slots, every frame's header, its footer.
//!
//! Needs no manifest, so it tells what the file says and not what the log holds: where a cut segment
//! ends, and whether a log has it at all, stands in the manifest only.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::Path;

use millstream_protocol::Offset;
use millstream_protocol::frame::{
    CommitWord, FrameError, FrameHeader, FrameKind, FramePlace, FrameSeed,
};

use crate::disk::DiskFolder;
use crate::folder::{FileError, Folder};
use crate::footer::{self, FooterError, PageIndex};
use crate::layout::{Identity, IdentityError, PAGE_BYTES, footer_pages, footer_position, u64_at};
use crate::manifest::{LogId, SegmentNumber};
use crate::slot::{Slot, Watermark};
use crate::still::{FrameAt, HEADER, Still};

/// Why a file could not be looked into.
#[derive(Debug)]
#[non_exhaustive]
pub enum DumpError {
    /// It can't be opened or read.
    Io(io::Error),
    /// It is not a segment, or of a newer version, or its identity page is damaged; without that no
    /// frame of it can be told from other bytes.
    Identity(IdentityError),
}

impl DumpError {
    /// Whether it is a damaged segment, as opposed to something else or nothing.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Identity(IdentityError::Checksum))
    }
}

impl fmt::Display for DumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Identity(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DumpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Identity(error) => Some(error),
        }
    }
}

/// What a segment's first page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpedIdentity {
    /// The folder it belongs to.
    pub folder_id: [u8; 16],
    /// The topic's incarnation.
    pub incarnation: [u8; 16],
    /// Number of its log.
    pub log: LogId,
    /// Its number in the log.
    pub segment: SegmentNumber,
    /// Nonce of this use of the file.
    pub nonce: u64,
    /// Length of the file when it was prepared; a finished segment is shorter.
    pub len_bytes: u32,
    /// What every header's checksum starts from; follows from the rest.
    pub seed: FrameSeed,
}

/// A place that a watermark slot states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpedMark {
    /// Byte behind the last frame before it.
    pub position: u32,
    /// Offset behind the last record before it.
    pub offset: Offset,
    /// It is the seal: nothing follows.
    pub sealed: bool,
}

/// One watermark slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpedSlot {
    /// Rises by one with each slot written.
    pub sequence: u64,
    /// A finished sync covered everything before it.
    pub proven: DumpedMark,
    /// The sync that wrote the slot was to cover everything before it.
    pub attempted: DumpedMark,
}

/// What a footer's first page says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedFooter {
    /// Where the footer lies.
    pub position: u32,
    /// Frames in the segment.
    pub frames: u64,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset behind the last.
    pub end_offset: Offset,
    /// Append time of the first frame, in microseconds of the Unix epoch; 0 without frames.
    pub first_time_us: u64,
    /// Append time of the last.
    pub last_time_us: u64,
    /// Where the seal is.
    pub end_position: u32,
    /// Index pages that are damaged.
    pub damage: Vec<FooterError>,
}

/// One frame, or what stands where one should.
#[derive(Debug)]
pub struct DumpedFrame {
    /// Where it begins.
    pub position: u32,
    /// Its commit word, as it stands there.
    pub commit: CommitWord,
    /// Its header, if that is good.
    pub header: Option<FrameHeader>,
    /// What is wrong with it, if anything is.
    pub problem: Option<FrameProblem>,
}

/// What is wrong with a frame.
#[derive(Debug)]
#[non_exhaustive]
pub enum FrameProblem {
    /// Its bytes.
    Frame(FrameError),
    /// They can't be read.
    Unreadable(io::Error),
}

impl fmt::Display for FrameProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

/// One segment file; an iterator over its frames, the seal as the last.
///
/// Frames are read and checked as they are asked for. Behind a frame whose header is bad it goes on
/// where the footer knows the next one; without a footer it ends there.
#[derive(Debug)]
pub struct SegmentDump {
    still: Still,
    len_bytes: u32,
    identity: DumpedIdentity,
    made_for: Identity,
    slots: [Option<DumpedSlot>; 2],
    footer: Option<DumpedFooter>,
    index: PageIndex,
    /// Where the next frame should be; `None` at the end.
    next: Option<FramePlace>,
}

/// Opens the segment file `path` to look into it. Reads only, and takes no lock: of a segment that a
/// broker is writing, the end may be seen half written.
///
/// # Errors
///
/// See [`DumpError`].
pub fn dump_segment(path: &Path) -> Result<SegmentDump, DumpError> {
    let name = path.file_name().and_then(OsStr::to_str).ok_or_else(|| {
        let message = format!("{} names no file", path.display());
        DumpError::Io(io::Error::new(io::ErrorKind::InvalidInput, message))
    })?;
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let folder = DiskFolder::open(dir).map_err(DumpError::Io)?;
    // Opening a pipe would wait for whoever writes into it.
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => SegmentDump::open(&folder, name),
        Ok(_) => Err(DumpError::Identity(IdentityError::NotASegment)),
        Err(error) => Err(DumpError::Io(FileError::wrap(
            "open",
            path.display().to_string(),
            error,
        ))),
    }
}

impl SegmentDump {
    pub(crate) fn open(folder: &dyn Folder, name: &str) -> Result<Self, DumpError> {
        let (still, _) = Still::open(folder, name).map_err(DumpError::Io)?;
        let mut still = still.ok_or(DumpError::Identity(IdentityError::NotASegment))?;
        let page = still.bytes(0, PAGE_BYTES).map_err(DumpError::Io)?;
        let identity = Identity::decode(page).map_err(DumpError::Identity)?;
        let slots = still.slots(identity.nonce).map_err(DumpError::Io)?;
        let (footer, index) = find_footer(&mut still, identity.nonce).map_err(DumpError::Io)?;
        Ok(Self {
            len_bytes: still.len_bytes(),
            next: Some(identity.first_frame()),
            made_for: identity,
            identity: DumpedIdentity {
                folder_id: identity.folder_id,
                incarnation: identity.incarnation,
                log: identity.log,
                segment: identity.segment,
                nonce: identity.nonce,
                len_bytes: identity.len_bytes,
                seed: identity.seed(),
            },
            slots: slots.map(|slot| slot.map(DumpedSlot::from)),
            footer,
            index,
            still,
        })
    }

    /// Length of the file now.
    #[must_use]
    pub fn len_bytes(&self) -> u32 {
        self.len_bytes
    }

    /// Whose segment it is.
    #[must_use]
    pub fn identity(&self) -> &DumpedIdentity {
        &self.identity
    }

    /// The two watermark slots, where they are whole and of this use of the file.
    #[must_use]
    pub fn slots(&self) -> &[Option<DumpedSlot>; 2] {
        &self.slots
    }

    /// The footer, if the file ends with one.
    #[must_use]
    pub fn footer(&self) -> Option<&DumpedFooter> {
        self.footer.as_ref()
    }

    /// Where the next frame is known to be, behind a bad one at `position`.
    fn resume(&self, position: u32) -> Option<u32> {
        let end = self.footer.as_ref()?.end_position;
        self.index
            .next_start(position + 1)
            .filter(|start| *start < end)
            .or_else(|| (position < end).then_some(end))
    }
}

impl Iterator for SegmentDump {
    type Item = DumpedFrame;

    fn next(&mut self) -> Option<DumpedFrame> {
        let place = self.next.take()?;
        let position = place.position;
        let seal = self.footer.as_ref().map(|footer| footer.end_position);
        if position > self.len_bytes - HEADER {
            return None;
        }
        // Zeros, or what an earlier use left, end a segment that is not finished. Inside a finished one they are damage.
        if seal.is_none() && self.still.is_blank(position, &self.made_for) {
            return None;
        }
        let word = self.still.bytes(position, 8);
        let commit = CommitWord::from_u64(word.map_or(0, |word| u64_at(word, 0)));
        let limit = seal.map_or(self.len_bytes, |seal| seal + HEADER);
        let (header, problem) = match self.still.frame(place, limit) {
            FrameAt::Good(stored) => (Some(*stored.header()), None),
            FrameAt::Bad(error, header) => (header, Some(FrameProblem::Frame(error))),
            FrameAt::Unreadable(error) => (None, Some(FrameProblem::Unreadable(error))),
        };
        let next = match &header {
            Some(header) if header.fields.kind == FrameKind::Seal => None,
            Some(header) => position.checked_add(header.frame_bytes()),
            None => self.resume(position),
        };
        self.next = next.map(|position| FramePlace { position, ..place });
        Some(DumpedFrame {
            position,
            commit,
            header,
            problem,
        })
    }
}

/// The footer that the file ends with: one page and as many index pages as it says.
fn find_footer(still: &mut Still, nonce: u64) -> io::Result<(Option<DumpedFooter>, PageIndex)> {
    let len_bytes = still.len_bytes();
    for pages in 1..=footer_pages(len_bytes) {
        let Some(position) = len_bytes.checked_sub(pages * PAGE_BYTES) else {
            break;
        };
        let bytes = still.bytes(position, pages * PAGE_BYTES)?;
        let Ok((summary, index, damage)) = footer::decode(bytes, nonce) else {
            continue;
        };
        // Only the one behind the seal it names is the footer; a payload may hold another's bytes.
        let named = summary
            .end_position
            .checked_add(HEADER + PAGE_BYTES)
            .is_some_and(|_| footer_position(summary.end_position) == position);
        if named {
            let footer = DumpedFooter {
                position,
                frames: summary.frames,
                base_offset: Offset(summary.base_offset),
                end_offset: Offset(summary.end_offset),
                first_time_us: summary.first_time_us,
                last_time_us: summary.last_time_us,
                end_position: summary.end_position,
                damage,
            };
            return Ok((Some(footer), index));
        }
    }
    Ok((None, PageIndex::default()))
}

impl From<Slot> for DumpedSlot {
    fn from(slot: Slot) -> Self {
        Self {
            sequence: slot.sequence,
            proven: slot.proven.into(),
            attempted: slot.attempted.into(),
        }
    }
}

impl From<Watermark> for DumpedMark {
    fn from(mark: Watermark) -> Self {
        Self {
            position: mark.position,
            offset: Offset(mark.offset),
            sealed: mark.sealed,
        }
    }
}
