//! What `verify` says: counts per topic, what is wrong and where, and what is merely worth knowing.

use std::fmt;
use std::io;

use millstream_protocol::frame::FrameError;
use millstream_protocol::{Durability, Offset};

use crate::footer::FooterError;
use crate::layout::IdentityError;
use crate::lock::LockError;
use crate::manifest::{LogId, ManifestError, ManifestReport, SegmentNumber};

/// Problems listed one by one; more are only counted.
pub const PROBLEMS_MAX: usize = 1000;

/// How far a check has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes looked at.
    pub bytes_done: u64,
    /// Bytes there are to look at.
    pub bytes_total: u64,
}

/// Why a folder could not be checked at all. Nothing in it was changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum VerifyError {
    /// The folder can't be read.
    Folder(io::Error),
    /// A broker is using it, or its lock file is not ours.
    Lock(LockError),
    /// The manifest can't be used; without it nothing else can be told.
    Manifest(ManifestError),
}

impl VerifyError {
    /// Whether it is damage, as opposed to a folder that is in use, missing, foreign or newer.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Manifest(ManifestError::Corrupt { .. } | ManifestError::Invalid { .. })
        )
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(error) => error.fmt(f),
            Self::Lock(error) => error.fmt(f),
            Self::Manifest(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for VerifyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Folder(error) => Some(error),
            Self::Lock(error) => Some(error),
            Self::Manifest(error) => Some(error),
        }
    }
}

/// What was found in a data folder.
#[derive(Debug)]
pub struct VerifyReport {
    /// Whose folder it is.
    pub folder_id: [u8; 16],
    /// Number of the last start.
    pub boot_epoch: u32,
    /// What was found of the manifest.
    pub manifest: ManifestReport,
    /// One for each topic, by name.
    pub topics: Vec<TopicReport>,
    /// Files that the manifest does not name, by name. No damage: they are left alone.
    pub unnamed: Vec<String>,
    /// What is wrong, in the order it was found; at most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// Further problems that are not listed.
    pub problems_left_out: u64,
}

impl VerifyReport {
    /// Whether nothing is wrong: all that was ever proven to be on disk is there, and nothing that
    /// was cut off can have been acknowledged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// Records that were found good.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.topics.iter().map(|topic| topic.records).sum()
    }

    /// Bytes of the frames that were found good.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.topics.iter().map(|topic| topic.bytes).sum()
    }

    pub(super) fn push(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        } else {
            self.problems_left_out += 1;
        }
    }
}

/// What was found of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicReport {
    /// Its name.
    pub name: String,
    /// The number of its log.
    pub log: LogId,
    /// When its records count as safe.
    pub durability: Durability,
    /// Segments that belong to the log.
    pub segments: u32,
    /// Segments that a cut took out of the log and that are kept beside it; not looked into.
    pub quarantined: u32,
    /// Frames found good, void ones among them.
    pub frames: u64,
    /// Records found good; those of void frames, which nobody is given, do not count.
    pub records: u64,
    /// Bytes of the frames found good.
    pub bytes: u64,
    /// Offset of the first record kept.
    pub first_offset: Offset,
    /// Offset behind the last record kept.
    pub end_offset: Offset,
    /// Offset of the next record: lies ahead of the end after an unclean stop.
    pub next_offset: Offset,
    /// Present when the last stop was unclean: what the next start will do.
    pub unclean: Option<Unclean>,
}

/// What the next start will do about a log that was open at an unclean stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unclean {
    /// Records in segments without a known end, all of which it will keep.
    pub kept_records: u64,
    /// Bytes of unfinished writes it will cut off.
    pub cut_bytes: u64,
    /// Segments prepared ahead and not used, which it will drop.
    pub unused_segments: u32,
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Problem {
    /// The file, relative to the data folder.
    pub file: String,
    /// Its topic.
    pub topic: Option<String>,
    /// Where in the file.
    pub position: Option<u64>,
    /// The records lost to it, where that is known: the first offset, and the one behind the last.
    pub offsets: Option<(Offset, Offset)>,
    /// What it is.
    pub fault: Fault,
}

/// What can be wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The manifest names the file, and it is not there.
    Missing,
    /// The disk does not give the bytes.
    Unreadable(io::Error),
    /// The file is shorter than what the manifest says lies in it, or longer than any segment.
    Length {
        /// Bytes it has.
        found: u64,
        /// Bytes it should have, at least.
        needed: u64,
    },
    /// Its first page is not an identity.
    Identity(IdentityError),
    /// Its first page says that it is another segment.
    OtherSegment {
        /// The field that differs.
        field: &'static str,
    },
    /// A byte that should be zero is not.
    NotZero {
        /// What it belongs to.
        place: &'static str,
    },
    /// A watermark slot of a sealed segment is not whole.
    Slot {
        /// Which one, 0 or 1.
        index: usize,
    },
    /// No slot proves the end of a segment that the manifest calls sealed.
    EndUnproven,
    /// What should be a frame is not, or not in every byte.
    Frame(FrameError),
    /// A good frame has another offset than the one that was to follow.
    OffsetBroken {
        /// What it has.
        found: Offset,
        /// What was to follow.
        expected: Offset,
    },
    /// A seal stands before the end that the manifest knows.
    EarlySeal,
    /// The frames end at another offset than the manifest says.
    EndOffset {
        /// Where they end.
        found: Offset,
        /// Where the manifest says.
        expected: Offset,
    },
    /// There is no seal at the end of a sealed segment.
    NoSeal,
    /// A page of the footer is damaged.
    Footer(FooterError),
    /// The footer is whole, and says something else than the frames.
    FooterDisagrees {
        /// What differs.
        field: &'static str,
    },
    /// A segment that nobody used, by the manifest, holds frames.
    UnusedHoldsFrames,
    /// Below what a finished sync covered, frames are missing: rot, not a torn write.
    BelowProven,
    /// The log ends between what a sync covered and what the next was to cover: it can't be told
    /// whether what is missing was acknowledged.
    PossiblyAcknowledged,
    /// Recovery cut the log here, and what it cut off may have been acknowledged.
    CutPossiblyAcknowledged {
        /// Bytes it cut off.
        cut_bytes: u64,
    },
    /// Recovery found this gap, and it is still there.
    RecordedGap,
    /// Offsets go back.
    OffsetsGoBack {
        /// Where the segment starts.
        found: Offset,
        /// Where the one before ends.
        before: Offset,
    },
    /// Offsets jump, and nothing in the manifest says why.
    UnexplainedJump {
        /// Where it goes on.
        found: Offset,
        /// Where the segment before ends.
        before: Offset,
    },
    /// What a cut took off has no copy in the quarantine.
    CopyMissing,
    /// No copy of what a cut took off is like it.
    CopyDiffers {
        /// One of them.
        copy: String,
    },
    /// Behind a cut lies another number of bytes than the manifest says.
    CutBytes {
        /// What lies there.
        found: u64,
        /// What the manifest says.
        stated: u64,
    },
    /// A slot proves more than the manifest says is there.
    SlotPastEnd,
    /// A checkpoint can't be used; the one before it is.
    Checkpoint(String),
    /// A slot says that frames end where none can.
    SlotPosition {
        /// The position it states.
        position: u32,
    },
    /// Offsets reach past what the manifest reserved for the segment.
    PastCeiling {
        /// Where the segment ends.
        found: Offset,
        /// What it may not pass.
        ceiling: Offset,
    },
}

impl Fault {
    /// Of what nothing reads in service.
    fn fmt_unread(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CopyMissing => {
                f.write_str("what recovery cut off here has no copy in the quarantine")
            }
            Self::CopyDiffers { copy } => {
                write!(
                    f,
                    "what recovery cut off here is not what its copy {copy} holds"
                )
            }
            Self::CutBytes { found, stated } => write!(
                f,
                "{found} bytes lie behind the cut here, and the manifest says {stated}"
            ),
            Self::SlotPastEnd => {
                f.write_str("a watermark slot proves more than the manifest says is there")
            }
            Self::Checkpoint(reason) => write!(f, "the checkpoint can't be used: {reason}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the file is missing"),
            Self::Unreadable(error) => error.fmt(f),
            Self::Length { found, needed } if found < needed => write!(
                f,
                "the file has {found} bytes, and what should lie in it takes {needed}"
            ),
            Self::Length { found, .. } => write!(
                f,
                "the file has {found} bytes, more than any segment"
            ),
            Self::Identity(error) => error.fmt(f),
            Self::OtherSegment { field } => {
                write!(f, "the identity page has another {field} than the manifest")
            }
            Self::NotZero { place } => write!(f, "a byte of {place} should be zero and is not"),
            Self::Slot { index } => write!(f, "watermark slot {index} is damaged"),
            Self::EndUnproven => f.write_str("no watermark slot proves the end of the segment"),
            Self::Frame(error) => write!(f, "no good frame: {error}"),
            Self::OffsetBroken { found, expected } => write!(
                f,
                "the frame has base offset {found} where {expected} should follow"
            ),
            Self::EarlySeal => f.write_str("the segment is sealed before its end"),
            Self::EndOffset { found, expected } => write!(
                f,
                "frames end at offset {found}, and the manifest says {expected}"
            ),
            Self::NoSeal => f.write_str("there is no good seal at the end of the segment"),
            Self::Footer(error) => error.fmt(f),
            Self::FooterDisagrees { field } => {
                write!(f, "the footer's {field} is not that of the frames")
            }
            Self::UnusedHoldsFrames => {
                f.write_str("the segment holds frames, and the manifest says it was never used")
            }
            Self::BelowProven => f.write_str("damaged below what was proven to be on disk"),
            Self::PossiblyAcknowledged => f.write_str(
                "the log ends inside what the last sync was to cover: what is missing may have been acknowledged",
            ),
            Self::CutPossiblyAcknowledged { cut_bytes } => write!(
                f,
                "recovery cut off {cut_bytes} bytes here, some of which may have been acknowledged"
            ),
            Self::RecordedGap => f.write_str("recovery found the records from here on damaged"),
            Self::OffsetsGoBack { found, before } => write!(
                f,
                "the segment starts at offset {found}, before the end {before} of the one before it"
            ),
            Self::UnexplainedJump { found, before } => write!(
                f,
                "offsets jump from {before} to {found}, and the manifest does not say why"
            ),
            Self::SlotPosition { position } => {
                write!(f, "a watermark slot names byte {position}, where no frame can end")
            }
            Self::PastCeiling { found, ceiling } => write!(
                f,
                "offsets end at {found}, past the {ceiling} that the manifest reserved"
            ),
            Self::CopyMissing
            | Self::CopyDiffers { .. }
            | Self::CutBytes { .. }
            | Self::SlotPastEnd
            | Self::Checkpoint(_) => self.fmt_unread(f),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(position) = self.position {
            write!(f, ", byte {position}")?;
        }
        write!(f, ": {}", self.fault)?;
        if let Some((first, next)) = self.offsets.filter(|(first, next)| first < next) {
            write!(f, " (records {first} to {}", next.0 - 1)?;
            match &self.topic {
                Some(topic) => write!(f, " of {topic:?})")?,
                None => f.write_str(")")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for TopicReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "topic {:?}: {} records in {} frames, {} bytes in {} segments, offsets {} to {}",
            self.name,
            self.records,
            self.frames,
            self.bytes,
            self.segments,
            self.first_offset,
            self.end_offset
        )?;
        if let Some(unclean) = &self.unclean {
            write!(f, "; {unclean}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Unclean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "not stopped cleanly: the next start keeps {} records of the last run",
            self.kept_records
        )?;
        if self.cut_bytes > 0 {
            write!(f, " and cuts {} bytes behind them", self.cut_bytes)?;
        }
        Ok(())
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for topic in &self.topics {
            writeln!(f, "{topic}")?;
        }
        if self.manifest.torn_bytes > 0 {
            writeln!(
                f,
                "manifest: a commit of {} bytes that power loss tore is left out",
                self.manifest.torn_bytes
            )?;
        }
        for name in &self.unnamed {
            writeln!(f, "{name}: the manifest does not name it; left alone")?;
        }
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        if self.problems_left_out > 0 {
            writeln!(f, "and {} problems more", self.problems_left_out)?;
        }
        if self.is_sound() {
            write!(f, "sound: {} records", self.records())
        } else {
            let found = self.problems.len() as u64 + self.problems_left_out;
            write!(f, "damaged: {found} problems")
        }
    }
}

impl Problem {
    /// One with a file that is no segment.
    pub(super) fn of_file(file: String, fault: Fault) -> Self {
        Self {
            file,
            topic: None,
            position: None,
            offsets: None,
            fault,
        }
    }
}

/// A problem's place, gathered while a segment is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whereabouts<'a> {
    pub(crate) topic: &'a str,
    pub(crate) log: LogId,
    pub(crate) segment: SegmentNumber,
}

impl Whereabouts<'_> {
    pub(super) fn problem(&self, position: Option<u32>, fault: Fault) -> Problem {
        Problem {
            file: crate::layout::segment_name(self.log, self.segment),
            topic: Some(self.topic.to_owned()),
            position: position.map(u64::from),
            offsets: None,
            fault,
        }
    }

    pub(super) fn lost(&self, position: u32, offsets: (Offset, Offset), fault: Fault) -> Problem {
        Problem {
            offsets: Some(offsets),
            ..self.problem(Some(position), fault)
        }
    }
}
