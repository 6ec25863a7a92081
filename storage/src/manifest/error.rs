//! What can be wrong with a manifest, and with what is to be written into it.

use std::error::Error;
use std::fmt;
use std::io;

use millstream_protocol::TopicNameError;

use super::entry::{LogId, SegmentNumber};

/// Why a manifest could not be made, opened, read or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum ManifestError {
    /// The folder has no manifest.
    Missing,
    /// The folder has a manifest already.
    Exists,
    /// The folder has none, but something else: it is not empty, and not ours.
    NotEmpty {
        /// A name found there.
        found: String,
    },
    /// The file named `manifest` is not one of Millstream's.
    Foreign,
    /// A newer Millstream wrote it.
    NewerFormat {
        /// The format it has.
        found: u32,
        /// The newest this program knows.
        known: u32,
    },
    /// Bytes of the file are not what was written: rot, not a torn end.
    Corrupt {
        /// The byte where the damaged part begins.
        position: u64,
        /// What is wrong there.
        problem: &'static str,
    },
    /// An entry of the file passed its checksum and can't be so.
    Invalid {
        /// The byte where its record begins.
        position: u64,
        /// What is wrong with it.
        reason: InvalidEntry,
    },
    /// An entry that was to be written can't be so. Nothing was written.
    Refused {
        /// What is wrong with it.
        reason: InvalidEntry,
    },
    /// More bytes than one file or one commit may have. Nothing was written.
    TooLarge {
        /// The bytes there are.
        bytes: u64,
        /// The bytes allowed.
        bytes_max: u64,
    },
    /// The disk failed before anything was changed; the manifest goes on.
    Io {
        /// What the disk said; `StorageFull` among it.
        source: io::Error,
    },
    /// The disk failed in the middle: what was to be written may be found at the next start or not.
    /// From now on the manifest is poisoned.
    OutcomeUnknown {
        /// What the disk said, each time.
        reason: String,
    },
    /// An earlier write had an unknown outcome. Nothing was written.
    Poisoned {
        /// What the disk said then.
        reason: String,
    },
}

impl ManifestError {
    /// Whether it leaves open if what was to be written is on disk.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. })
    }

    /// The nearest kind of I/O error; `StorageFull` when there was no room.
    #[must_use]
    pub fn io_kind(&self) -> io::ErrorKind {
        match self {
            Self::Missing => io::ErrorKind::NotFound,
            Self::Exists | Self::NotEmpty { .. } => io::ErrorKind::AlreadyExists,
            Self::Foreign | Self::Corrupt { .. } | Self::Invalid { .. } => {
                io::ErrorKind::InvalidData
            }
            Self::NewerFormat { .. } => io::ErrorKind::Unsupported,
            Self::Refused { .. } | Self::TooLarge { .. } => io::ErrorKind::InvalidInput,
            Self::Io { source } => source.kind(),
            Self::OutcomeUnknown { .. } | Self::Poisoned { .. } => io::ErrorKind::Other,
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "the data folder has no manifest"),
            Self::Exists => write!(f, "the data folder has a manifest already"),
            Self::NotEmpty { found } => {
                write!(
                    f,
                    "the folder has no manifest but holds {found:?}: it is no data folder"
                )
            }
            Self::Foreign => write!(f, "the file named manifest was not written by Millstream"),
            Self::NewerFormat { found, known } => write!(
                f,
                "the data folder has format {found}, and this program knows up to {known}: \
                 a newer Millstream wrote it"
            ),
            Self::Corrupt { position, problem } => {
                write!(f, "the manifest is damaged at byte {position}: {problem}")
            }
            Self::Invalid { position, reason } => {
                write!(
                    f,
                    "the manifest contradicts itself at byte {position}: {reason}"
                )
            }
            Self::Refused { reason } => write!(f, "the manifest refused an entry: {reason}"),
            Self::TooLarge { bytes, bytes_max } => {
                write!(
                    f,
                    "{bytes} bytes are more than the {bytes_max} a manifest takes"
                )
            }
            Self::Io { source } => write!(f, "the manifest could not be used: {source}"),
            Self::OutcomeUnknown { reason } => {
                write!(f, "the manifest may or may not have been written: {reason}")
            }
            Self::Poisoned { reason } => {
                write!(
                    f,
                    "the manifest is not written any more since this happened: {reason}"
                )
            }
        }
    }
}

impl Error for ManifestError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Invalid { reason, .. } | Self::Refused { reason } => Some(reason),
            Self::Io { source } => Some(source),
            _ => None,
        }
    }
}

impl From<ManifestError> for io::Error {
    fn from(error: ManifestError) -> Self {
        Self::new(error.io_kind(), error)
    }
}

/// Why an entry can't be so, by itself or after the ones before it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidEntry {
    /// Its line ends too early.
    Short,
    /// No entry has this kind.
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// Its fields are not those of its kind.
    Malformed {
        /// The kind.
        kind: u8,
    },
    /// A piece of a checkpoint stands outside of it, or an entry inside.
    Misplaced,
    /// The folder's own entry is missing in front, or comes twice.
    Folder,
    /// The boot epoch does not rise.
    EpochNotRising {
        /// The epoch.
        epoch: u32,
        /// The highest before.
        highest: u32,
    },
    /// There is no such log.
    NoSuchLog {
        /// The log.
        log: LogId,
    },
    /// A log of that number exists, has existed, or may have.
    LogNumberUsed {
        /// The log.
        log: LogId,
        /// The lowest number that is free.
        next: LogId,
    },
    /// Another log has the name.
    NameTaken {
        /// The name.
        name: String,
    },
    /// It is no name for a topic.
    Name {
        /// What is wrong with it.
        reason: TopicNameError,
    },
    /// The log is open and should not be, or the other way round.
    OpenMark {
        /// The log.
        log: LogId,
    },
    /// There is no such segment.
    NoSuchSegment {
        /// Its log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
    },
    /// A segment of that number exists, has existed, or may have.
    SegmentNumberUsed {
        /// Its log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
        /// The lowest number that is free.
        next: SegmentNumber,
    },
    /// The segment has an end, or is quarantined.
    SegmentFinished {
        /// Its log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
    },
    /// Offsets go back, overlap those of another segment, or pass the ceiling.
    Offsets {
        /// The log.
        log: LogId,
        /// The offset that can't be.
        offset: u64,
    },
    /// A position or a length does not fit the segment.
    Positions {
        /// Its log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
    },
}

impl fmt::Display for InvalidEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => write!(f, "a line ends too early"),
            Self::UnknownKind { kind } => write!(f, "no line has the kind {kind}"),
            Self::Malformed { kind } => write!(f, "the fields are not those of kind {kind}"),
            Self::Misplaced => write!(f, "checkpoint and entries are mixed"),
            Self::Folder => write!(f, "the folder's own entry must come first, and once"),
            Self::EpochNotRising { epoch, highest } => {
                write!(f, "boot epoch {epoch} is not above {highest}")
            }
            Self::NoSuchLog { log } => write!(f, "there is no {log}"),
            Self::LogNumberUsed { log, next } => {
                write!(
                    f,
                    "the number of {log} is below the next free one, {}",
                    next.0
                )
            }
            Self::NameTaken { name } => write!(f, "another log has the name {name:?}"),
            Self::Name { reason } => write!(f, "{reason}"),
            Self::OpenMark { log } => write!(f, "{log} is open already, or not open"),
            Self::NoSuchSegment { log, segment } => write!(f, "{log} has no {segment}"),
            Self::SegmentNumberUsed { log, segment, next } => {
                write!(
                    f,
                    "the number of {segment} of {log} is below the next free one, {}",
                    next.0
                )
            }
            Self::SegmentFinished { log, segment } => {
                write!(f, "{segment} of {log} has its end already")
            }
            Self::Offsets { log, offset } => write!(f, "offset {offset} of {log} can't be there"),
            Self::Positions { log, segment } => {
                write!(f, "a position does not fit into {segment} of {log}")
            }
        }
    }
}

impl Error for InvalidEntry {}
