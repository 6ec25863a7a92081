//! What recovery cut off: where it lies, why, and the frames that can still be read in it.
//!
//! Frames are followed from the cut on by their own headers, which are checked. Behind one whose
//! header is bad it goes on at a watermark of the segment, if one lies there, and else ends: payload
//! is never searched for something that looks like a frame (L7).

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::SystemTime;

use millstream_protocol::Offset;
use millstream_protocol::frame::{FrameError, FrameHeader, FrameKind, FramePlace};

use crate::disk::DiskFolder;
use crate::folder::Folder;
use crate::inspect::identity_of;
use crate::layout::{FRAMES_START, segment_name};
use crate::lock::FolderLock;
use crate::manifest::{CutState, LogId, LogState, Manifest, SegmentNumber, State};
use crate::recovery::QUARANTINE;
use crate::still::{FrameAt, Still};
use crate::verify::VerifyError;

/// Whether somebody may have been told that what was cut off is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// Nobody was.
    Never,
    /// It can't be told; `verify` fails until an operator releases the cut.
    Possibly,
    /// It could not be told, and an operator has released the cut since.
    Released,
}

/// A file that holds what was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedFile {
    /// Relative to the data folder.
    pub file: String,
    /// Its length.
    pub len_bytes: u64,
    /// When it was written last.
    pub written: Option<SystemTime>,
}

/// One cut of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutOff {
    /// Its topic.
    pub topic: String,
    /// The number of its log.
    pub log: LogId,
    /// The segment that ends at the cut.
    pub segment: SegmentNumber,
    /// Where in that segment; `None` when it was trimmed since.
    pub position: Option<u32>,
    /// The offset of the cut: what was cut off had this one and higher ones.
    pub end_offset: Offset,
    /// No offset from the cut to this one is ever given out again.
    pub next_offset: Offset,
    /// Bytes cut off, in all segments.
    pub cut_bytes: u64,
    /// Whether it may have been acknowledged.
    pub acknowledged: Acknowledged,
    /// Copies of what lay behind the cut in its segment.
    pub copies: Vec<QuarantinedFile>,
    /// Whole segments behind it, which stay where they are.
    pub segments: Vec<QuarantinedFile>,
}

/// Everything that is set aside in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// The cuts that the manifest remembers, by log and age.
    pub cuts: Vec<CutOff>,
    /// Files in the quarantine that belong to none of them.
    pub others: Vec<QuarantinedFile>,
}

/// What stands where a frame that was cut off should be.
#[derive(Debug)]
pub enum CutFrame<'a> {
    /// A frame that is good in every byte.
    Good {
        /// Its header.
        header: FrameHeader,
        /// All of it.
        bytes: &'a [u8],
        /// Where it lies in its segment.
        place: FramePlace,
    },
    /// A frame whose header is good and whose body is not.
    Damaged {
        /// Its header.
        header: FrameHeader,
        /// What is wrong.
        error: FrameError,
    },
    /// Bytes that no known frame boundary leads into.
    Unknown {
        /// How many.
        bytes: u32,
        /// Why no frame begins there.
        reason: String,
    },
}

/// What recovery cut off in the data folder `path`, and what else lies in its quarantine.
///
/// Reads only, and keeps brokers out meanwhile.
///
/// # Errors
///
/// When the folder as a whole can't be looked at.
pub fn quarantine(path: &Path) -> Result<Quarantine, VerifyError> {
    let _kept_out = FolderLock::observe(path).map_err(VerifyError::Lock)?;
    let folder = DiskFolder::open(path).map_err(VerifyError::Folder)?;
    let (state, _) = Manifest::inspect(&folder).map_err(VerifyError::Manifest)?;
    let names = names(&folder).map_err(VerifyError::Folder)?;
    let mut taken = Vec::new();
    let mut cuts = Vec::new();
    for (id, log) in &state.logs {
        for cut in &log.cuts {
            cuts.push(cut_off(path, &folder, (*id, log), cut));
            taken.push(released_file(*id, cut.segment, cut.end_offset));
        }
    }
    taken.extend(
        cuts.iter()
            .flat_map(|cut| &cut.copies)
            .map(|copy| copy.file.clone()),
    );
    let others = names
        .into_iter()
        .map(|name| format!("{QUARANTINE}/{name}"))
        .filter(|file| !taken.contains(file))
        .map(|file| described(path, file))
        .collect();
    Ok(Quarantine { cuts, others })
}

/// Gives what is found of one cut to `visit`: file, position in it, and what stands there. First what
/// lay behind the cut, then the segments behind that.
///
/// # Errors
///
/// The folder can't be looked at, or the cut's segment can't be read.
pub fn read_cut(
    path: &Path,
    cut: &CutOff,
    visit: &mut dyn FnMut(&str, u32, CutFrame<'_>),
) -> Result<(), VerifyError> {
    let _kept_out = FolderLock::observe(path).map_err(VerifyError::Lock)?;
    let folder = DiskFolder::open(path).map_err(VerifyError::Folder)?;
    let (state, _) = Manifest::inspect(&folder).map_err(VerifyError::Manifest)?;
    let mut walk = |number, from| walk(&folder, &state, (cut.log, number), from, visit);
    if let Some(position) = cut.position {
        walk(cut.segment, position).map_err(VerifyError::Folder)?;
    }
    let numbers = state.logs.get(&cut.log).and_then(|log| {
        let here = |known: &&CutState| known.segment == cut.segment;
        Some(log.cuts.iter().find(here)?.quarantined.clone())
    });
    for number in numbers.unwrap_or_default() {
        walk(number, FRAMES_START).map_err(VerifyError::Folder)?;
    }
    Ok(())
}

fn walk(
    folder: &dyn Folder,
    state: &State,
    (id, number): (LogId, SegmentNumber),
    from: u32,
    visit: &mut dyn FnMut(&str, u32, CutFrame<'_>),
) -> io::Result<()> {
    let file = segment_name(id, number);
    let known = state
        .logs
        .get(&id)
        .and_then(|log| Some((log, log.segments.get(&number)?)));
    let (Some((log, segment)), (Some(mut still), _)) = (known, Still::open(folder, &file)?) else {
        return Ok(());
    };
    let identity = identity_of(state.folder_id, (id, log), (number, segment));
    let marks = marks(&mut still, identity.nonce)?;
    let limit = still.len_bytes();
    let end = still.used_to(from, &identity)?;
    let mut place = FramePlace {
        position: from,
        ..identity.first_frame()
    };
    while place.position < end {
        let at = place.position;
        let bytes = match still.frame(place, limit) {
            FrameAt::Good(stored) => {
                let header = *stored.header();
                let bytes = still.bytes(at, header.frame_bytes())?;
                visit(
                    &file,
                    at,
                    CutFrame::Good {
                        header,
                        bytes,
                        place,
                    },
                );
                match header.fields.kind {
                    FrameKind::Seal => return Ok(()),
                    _ => header.frame_bytes(),
                }
            }
            FrameAt::Bad(error, Some(header)) => {
                visit(&file, at, CutFrame::Damaged { header, error });
                header.frame_bytes()
            }
            FrameAt::Bad(error, None) => unknown(&file, at..end, &marks, &error, visit),
            FrameAt::Unreadable(error) => unknown(&file, at..end, &marks, &error, visit),
        };
        place.position = at.saturating_add(bytes);
    }
    Ok(())
}

/// Reports the bytes up to the next place where a frame is known to begin; gives how many.
fn unknown(
    file: &str,
    range: std::ops::Range<u32>,
    marks: &[u32],
    reason: &dyn std::fmt::Display,
    visit: &mut dyn FnMut(&str, u32, CutFrame<'_>),
) -> u32 {
    let next = marks.iter().copied().filter(|mark| *mark > range.start);
    let bytes = next.min().unwrap_or(range.end).min(range.end) - range.start;
    let reason = reason.to_string();
    visit(file, range.start, CutFrame::Unknown { bytes, reason });
    bytes
}

/// Where frames are known to begin: the watermarks.
fn marks(still: &mut Still, nonce: u64) -> io::Result<Vec<u32>> {
    let slots = still.slots(nonce)?;
    Ok(slots
        .into_iter()
        .flatten()
        .flat_map(|slot| [slot.proven.position, slot.attempted.position])
        .filter(|mark| mark.is_multiple_of(8))
        .collect())
}

fn cut_off(
    path: &Path,
    folder: &dyn Folder,
    (id, log): (LogId, &LogState),
    cut: &CutState,
) -> CutOff {
    let released = folder
        .len(&released_file(id, cut.segment, cut.end_offset))
        .is_ok();
    let copies = copies_of(folder, id, cut.segment).unwrap_or_default();
    let end = log.segments.get(&cut.segment).and_then(|state| state.end);
    CutOff {
        topic: log.name.clone(),
        log: id,
        segment: cut.segment,
        position: end.map(|end| end.end_position),
        end_offset: Offset(cut.end_offset),
        next_offset: Offset(cut.next_base_offset),
        cut_bytes: cut.cut_bytes,
        acknowledged: match (cut.possibly_acknowledged, released) {
            (true, _) => Acknowledged::Possibly,
            (false, true) => Acknowledged::Released,
            (false, false) => Acknowledged::Never,
        },
        copies: copies
            .into_iter()
            .map(|name| described(path, format!("{QUARANTINE}/{name}")))
            .collect(),
        segments: cut
            .quarantined
            .iter()
            .map(|number| described(path, segment_name(id, *number)))
            .collect(),
    }
}

fn described(path: &Path, file: String) -> QuarantinedFile {
    let metadata = path.join(&file).symlink_metadata().ok();
    QuarantinedFile {
        len_bytes: metadata.as_ref().map_or(0, std::fs::Metadata::len),
        written: metadata.and_then(|metadata| metadata.modified().ok()),
        file,
    }
}

fn names(folder: &dyn Folder) -> io::Result<Vec<String>> {
    match folder.list(QUARANTINE) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

/// Names of the copies of what lay behind the end of a segment, without the quarantine's own.
pub(crate) fn copies_of(
    folder: &dyn Folder,
    log: LogId,
    segment: SegmentNumber,
) -> io::Result<Vec<String>> {
    let prefix = format!("log-{:08}-segment-{:08}-boot-", log.0, segment.0);
    let mut names = names(folder)?;
    names.retain(|name| name.starts_with(&prefix) && name.ends_with(".cut"));
    Ok(names)
}

/// The file that says that an operator released a cut.
pub(crate) fn released_file(log: LogId, segment: SegmentNumber, end_offset: u64) -> String {
    format!(
        "{QUARANTINE}/log-{:08}-segment-{:08}-offset-{end_offset}.released",
        log.0, segment.0
    )
}
