//! Dropping what nobody needs any more: whole finished segments from the front of a log.
//!
//! Whoever calls has made sure that everything below the trim line is settled or copied, on disk
//! (R1). Then the manifest forgets the segments, synced; only then their files go. A kill in between
//! leaves files whose identity is ours and whose number the manifest gave out and no longer names:
//! they are removed at the next open.

use std::fmt;
use std::io;
use std::sync::Arc;

use millstream_protocol::Offset;
use millstream_protocol::limits::FRAME_HEADER_BYTES;

use crate::folder::{Access, Folder};
use crate::layout::{Identity, PAGE_BYTES, log_dir, segment_name};
use crate::log::Log;
use crate::manifest::{Entry, LogId, LogState, ManifestError, SegmentNumber};
use crate::shared::SegmentSizes;
use crate::sync::{Gate, Region};

/// What [`trim`] dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trimmed {
    /// Segments dropped.
    pub segments: u32,
    /// Bytes of frames in them.
    pub bytes: u64,
    /// The first record kept.
    pub first_offset: Offset,
    /// The next segment to go lay below the line, and was not finished yet when the others were chosen:
    /// in a moment there is more to drop, or there is already.
    pub unfinished: bool,
}

/// Why nothing was dropped.
#[derive(Debug)]
pub struct TrimError(ManifestError);

impl fmt::Display for TrimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the manifest could not forget segments: {}", self.0)
    }
}

impl std::error::Error for TrimError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Drops the finished segments of `log` in which every record is below `before`. The last segment
/// stays, whatever is in it, and so does what was not synced; of a closed log everything does.
/// Readers further back get a gap; slices they hold stay valid.
///
/// Waits for the disk.
///
/// # Errors
///
/// The manifest could not be written; nothing was dropped. A file that can't be removed is told in
/// the log, and removed at the next open.
pub fn trim(log: &Arc<Log>, before: Offset) -> Result<Trimmed, TrimError> {
    let before = before.min(log.synced());
    // Of a closed log another process may have the folder.
    let is_closed = log.gate_flags() & Gate::CLOSED != 0;
    let (mut going, mut unfinished) = log.chain().trimmable(before);
    // What failed is never finished.
    let may_finish = log.poisoned().is_none();
    if going.is_empty() && unfinished && may_finish && !is_closed {
        // The manifest may have had no room for its end.
        log.note_ends(None).map_err(TrimError)?;
        (going, unfinished) = log.chain().trimmable(before);
    }
    let unfinished = unfinished && may_finish;
    if going.is_empty() || is_closed {
        return Ok(Trimmed {
            segments: 0,
            bytes: 0,
            first_offset: log.first_offset(),
            unfinished,
        });
    }
    let id = log.identity().id;
    let entries: Vec<Entry> = going
        .iter()
        .map(|segment| Entry::SegmentDropped {
            log: id,
            segment: *segment,
        })
        .collect();
    log.shared().commit(&entries).map_err(TrimError)?;
    let forgotten = log.chain().forget(&going);
    for segment in &forgotten.useless {
        remove(log.shared().folder.as_ref(), &segment_name(id, *segment));
    }
    if forgotten.has_spares {
        log.release_unneeded_later();
    }
    Ok(Trimmed {
        segments: u32::try_from(going.len()).unwrap_or(u32::MAX),
        bytes: forgotten.bytes,
        first_offset: log.first_offset(),
        unfinished,
    })
}

/// Whether [`trim`] to `before` would drop anything, or is owed another look at what is not finished.
/// Takes a lock for a moment.
#[must_use]
pub fn may_trim(log: &Log, before: Offset) -> bool {
    let (going, unfinished) = log.chain().trimmable(before.min(log.synced()));
    !going.is_empty() || unfinished
}

pub(crate) fn remove(folder: &dyn Folder, name: &str) {
    if let Err(error) = folder.remove(name) {
        tracing::warn!(%name, %error, "a dropped segment is left behind until the next start");
    }
}

/// The lowest offset that must stay for the newest `bytes` of frames to be kept: the first of a segment.
#[must_use]
pub fn newest(log: &Log, bytes: u64) -> Offset {
    log.chain().newest(bytes)
}

/// What is below was there when the store was opened; all else was appended since.
#[must_use]
pub const fn started_at(log: &Log) -> Offset {
    log.started_at
}

/// Whether all that is kept is in one segment, which never goes.
#[must_use]
pub fn is_one_segment(log: &Log) -> bool {
    log.size().0 <= 1
}

/// Sets how large segments of `log` are made from now on, where that is less than the folder's sizes.
/// The first call holds, until the store is opened again.
pub fn set_segment_sizes(log: &Log, first_bytes: u32, largest_bytes: u32) {
    // The first call holds.
    let _ = log.own_sizes.set(SegmentSizes {
        first_bytes,
        largest_bytes,
    });
}

/// Where the next record will be, as far as a look at the tail tells: others may be claiming. And
/// the bytes of frames appended in this run.
#[must_use]
pub fn claimed_end(log: &Log) -> (Offset, u64) {
    let chain = log.chain();
    let between = || (chain.next_base().unwrap_or_else(|| log.committed()), 0);
    chain.claimed_end().unwrap_or_else(between)
}

/// How many records there are from `from` on and below `to`, kept and not trimmed. The offsets that an
/// unclean stop left out are not counted; the few of claims that came to nothing are.
#[must_use]
pub fn records_between(log: &Log, from: Offset, to: Offset) -> u64 {
    log.chain().offsets_between(from, to)
}

/// Removes files of dropped segments that a kill left in the folder of log `id`.
///
/// Only those whose identity page says that they are segments of this very log, under a number that
/// was given out and that the manifest names no more; or are called so, and were about to become the segment that
/// the page speaks of, which the manifest never heard of. Anything else is not ours to touch (S7).
pub(crate) fn remove_leftovers(
    folder: &dyn Folder,
    folder_id: [u8; 16],
    id: LogId,
    state: &LogState,
) {
    // One that was quarantined stays for good, whatever is dropped behind it.
    let in_service = state
        .segments
        .iter()
        .find(|(_, segment)| !segment.quarantined);
    let Some((first, _)) = in_service else {
        return;
    };
    let Ok(names) = folder.list(&log_dir(id)) else {
        return;
    };
    for file in names {
        let number = file
            .strip_suffix(".seg")
            .and_then(|number| number.parse().ok());
        let Some(number) = number.map(SegmentNumber) else {
            continue;
        };
        if state.segments.contains_key(&number) {
            continue;
        }
        let name = segment_name(id, number);
        let listed = name.ends_with(&format!("/{file}"));
        let is_dropped = identity_in(folder, &name).is_ok_and(|found| {
            found.is_some_and(|found| {
                let is_ours = found.folder_id == folder_id
                    && found.incarnation == state.incarnation
                    && found.log == id;
                // Of a file on its way to its next use only one of the two is dropped.
                let is_named = state.segments.contains_key(&found.segment);
                is_ours && !is_named && (number < *first || found.segment < *first)
            })
        });
        if listed && is_dropped {
            tracing::info!(%name, "removing a dropped segment that a kill left behind");
            remove(folder, &name);
        }
    }
}

/// What the first page of a file says that the file is, if that is a segment.
fn identity_in(folder: &dyn Folder, name: &str) -> io::Result<Option<Identity>> {
    let memory = folder.open_segment(name, Access::Read)?;
    // Power loss may leave any length; a region holds a seal behind its limit.
    if memory.len_bytes() < PAGE_BYTES as usize + FRAME_HEADER_BYTES {
        return Ok(None);
    }
    let region = Region::readable(memory, PAGE_BYTES, 0);
    Ok(Identity::decode(region.still_bytes(0, PAGE_BYTES)).ok())
}
