//! What a plain check passes over, since nothing reads it in service: the pages around the frames of
//! segments that recovery ended, what lies behind their ends and its copies in the quarantine,
//! checkpoints, and the payloads of compressed batches.

use std::io;
use std::ops::Range;

use millstream_protocol::batch::decompress;
use millstream_protocol::frame::{FrameError, FrameKind};
use millstream_protocol::limits::BODY_BYTES_MAX;

use super::report::{Fault, Problem, Whereabouts};
use super::{Check, walked_bytes};
use crate::checkpoints;
use crate::folder::Folder;
use crate::inspect::identity_of;
use crate::layout::{
    FRAMES_START, Identity, PAGE_BYTES, SLOT_POSITIONS, footer_position, segment_name,
};
use crate::manifest::{CutState, EndKind, LogId, LogState, SegmentEnd};
use crate::quarantine::{copies_of, released_file};
use crate::recovery::QUARANTINE;
use crate::slot::{SLOT_BYTES, Slot};
use crate::still::{FrameAt, HEADER, Still};

/// Looks at everything that the plain check left out.
pub(super) fn look(check: &mut Check<'_>) {
    let (folder, state) = (check.folder, check.state);
    for (id, log) in &state.logs {
        for (number, segment) in &log.segments {
            let at = Whereabouts {
                topic: &log.name,
                log: *id,
                segment: *number,
            };
            let done = check.meter.bytes_done() + walked_bytes(segment);
            // What can't be opened was reported.
            if let Ok((Some(mut still), _)) = Still::open(folder, &segment_name(*id, *number)) {
                let identity = identity_of(state.folder_id, (*id, log), (*number, segment));
                let mut found = Vec::new();
                let has_footer = segment.end.is_some_and(|end| footer_bytes(&end) > 0);
                let looked = if has_footer {
                    Ok(())
                } else {
                    around(at, &mut still, &identity, segment.end, &mut found)
                };
                if let Err(error) = looked {
                    found.push(at.problem(None, Fault::Unreadable(error)));
                }
                if !segment.quarantined {
                    expand(at, &mut still, &identity, segment.end, &mut found);
                }
                found
                    .into_iter()
                    .for_each(|problem| check.report.push(problem));
            }
            check.meter.reach(done);
        }
        for cut in &log.cuts {
            for problem in copies(folder, *id, log, cut) {
                check.report.push(problem);
            }
        }
    }
    look_at_checkpoints(check);
}

fn footer_bytes(end: &SegmentEnd) -> u32 {
    match end.kind {
        EndKind::Sealed { footer_bytes } => footer_bytes,
        EndKind::Cut => 0,
    }
}

/// Slots, and what lies between a seal and where a footer would begin.
fn around(
    at: Whereabouts<'_>,
    still: &mut Still,
    identity: &Identity,
    end: Option<SegmentEnd>,
    found: &mut Vec<Problem>,
) -> io::Result<()> {
    let slots = still.slots(identity.nonce)?;
    let may_be_reuse = still.may_be_reuse()?;
    for (index, (slot, position)) in slots.iter().zip(SLOT_POSITIONS).enumerate() {
        let page = position..position + PAGE_BYTES;
        let Some(slot) = slot else {
            // Never written, or it is damaged: a slot lies in one sector, which is not torn.
            if still.first_set(page)?.is_some() {
                found.push(at.problem(Some(position), Fault::Slot { index }));
            }
            continue;
        };
        let behind = position + SLOT_BYTES as u32..page.end;
        zeros(at, still, behind, "a slot page", found)?;
        if end.is_some_and(|end| proves_too_much(slot, &end)) {
            found.push(at.problem(Some(position), Fault::SlotPastEnd));
        }
    }
    // A footer is written with zeros before it; without one there may be what an earlier use left.
    let has_zeros = |end: &SegmentEnd| footer_bytes(end) > 0 || !may_be_reuse;
    if let Some(end) = end.filter(|end| end.kind != EndKind::Cut && has_zeros(end)) {
        let room = end.end_position + HEADER..footer_position(end.end_position);
        zeros(at, still, room, "the room behind the seal", found)?;
    }
    Ok(())
}

/// Nothing below what a slot proves is ever cut.
fn proves_too_much(slot: &Slot, end: &SegmentEnd) -> bool {
    slot.proven.position > end.end_position || slot.proven.offset > end.end_offset
}

fn zeros(
    at: Whereabouts<'_>,
    still: &mut Still,
    range: Range<u32>,
    place: &'static str,
    found: &mut Vec<Problem>,
) -> io::Result<()> {
    if let Some(position) = still.first_set(range)? {
        found.push(at.problem(Some(position), Fault::NotZero { place }));
    }
    Ok(())
}

/// Expands the payload of every good compressed batch.
fn expand(
    at: Whereabouts<'_>,
    still: &mut Still,
    identity: &Identity,
    end: Option<SegmentEnd>,
    found: &mut Vec<Problem>,
) {
    let end = end.map_or(still.len_bytes(), |end| end.end_position);
    let mut place = identity.first_frame();
    while place.position < end {
        let header = match still.frame(place, end) {
            FrameAt::Good(stored) => {
                let header = *stored.header();
                if header.fields.compressed
                    && let Err(error) = decompress(stored.body(), BODY_BYTES_MAX)
                {
                    let offsets = (header.base_offset, header.next_offset());
                    let fault = Fault::Frame(FrameError::Batch(error));
                    found.push(at.lost(place.position, offsets, fault));
                }
                header
            }
            FrameAt::Bad(_, Some(header)) => header,
            // The plain check says what is wrong here.
            FrameAt::Bad(_, None) | FrameAt::Unreadable(_) => return,
        };
        if header.fields.kind == FrameKind::Seal {
            return;
        }
        place.position = place.position.saturating_add(header.frame_bytes());
    }
}

/// Compares what lies behind a cut with its copies, and both with what the manifest says was cut.
fn copies(folder: &dyn Folder, id: LogId, log: &LogState, cut: &CutState) -> Vec<Problem> {
    let at = Whereabouts {
        topic: &log.name,
        log: id,
        segment: cut.segment,
    };
    let end = log.segments.get(&cut.segment).and_then(|state| state.end);
    let mut found = Vec::new();
    let looked = match end {
        // Trimmed since: there is nothing to compare with.
        None => Ok(()),
        Some(end) => compare(folder, at, cut, end.end_position, &mut found),
    };
    match looked {
        // What is missing was reported.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            found.push(at.problem(None, Fault::Unreadable(error)));
        }
        _ => {}
    }
    found
}

fn compare(
    folder: &dyn Folder,
    at: Whereabouts<'_>,
    cut: &CutState,
    end: u32,
    found: &mut Vec<Problem>,
) -> io::Result<()> {
    let Some(behind) = used_from(folder, &segment_name(at.log, at.segment), end)? else {
        return Ok(());
    };
    let mut cut_bytes = u64::from(behind);
    for number in &cut.quarantined {
        let name = segment_name(at.log, *number);
        let Some(used) = used_from(folder, &name, FRAMES_START)? else {
            return Ok(());
        };
        cut_bytes += u64::from(used);
    }
    if cut_bytes != cut.cut_bytes {
        let fault = Fault::CutBytes {
            found: cut_bytes,
            stated: cut.cut_bytes,
        };
        found.push(at.problem(Some(end), fault));
    }
    if behind == 0 {
        return Ok(());
    }
    let copies = copies_of(folder, at.log, at.segment)?;
    let mut same = false;
    for copy in &copies {
        same |= is_same(folder, at, end..end + behind, copy)?;
    }
    let released = released_file(at.log, at.segment, cut.end_offset);
    let kept_for_good = folder.len(&released).is_err();
    let fault = match copies.first() {
        _ if same => return Ok(()),
        Some(copy) => Fault::CopyDiffers { copy: copy.clone() },
        // An operator may have taken away what was never acknowledged, or what he released.
        None if cut.possibly_acknowledged && kept_for_good => Fault::CopyMissing,
        None => return Ok(()),
    };
    found.push(at.problem(Some(end), fault));
    Ok(())
}

/// Bytes from `from` to the last that was written, as recovery counted them. `None` where the first page, which
/// tells what is of this use of the file, is damaged: that is told by itself.
fn used_from(folder: &dyn Folder, name: &str, from: u32) -> io::Result<Option<u32>> {
    let (still, _) = Still::open(folder, name)?;
    let Some(mut still) = still else {
        return Ok(Some(0));
    };
    match Identity::decode(still.bytes(0, PAGE_BYTES)?) {
        Ok(identity) => Ok(Some(still.used_to(from, &identity)? - from)),
        Err(_) => Ok(None),
    }
}

fn is_same(
    folder: &dyn Folder,
    at: Whereabouts<'_>,
    range: Range<u32>,
    copy: &str,
) -> io::Result<bool> {
    let name = format!("{QUARANTINE}/{copy}");
    if folder.len(&name)? != u64::from(range.end - range.start) {
        return Ok(false);
    }
    let copied = folder.read_file(&name)?;
    let (still, _) = Still::open(folder, &segment_name(at.log, at.segment))?;
    let Some(mut still) = still else {
        return Ok(false);
    };
    Ok(still.bytes(range.start, range.end - range.start)? == copied)
}

fn look_at_checkpoints(check: &mut Check<'_>) {
    match checkpoints::read_all(check.folder) {
        Ok(all) => {
            for (file, read) in all {
                if let Err(error) = read {
                    let fault = Fault::Checkpoint(error.to_string());
                    check.report.push(Problem::of_file(file, fault));
                }
            }
        }
        Err(error) => check
            .report
            .push(Problem::of_file(String::new(), Fault::Unreadable(error))),
    }
}
