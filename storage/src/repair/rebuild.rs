//! The pages around the frames of a finished segment, made again from the manifest and the frames.

use std::io;

use super::RepairAction;
use crate::folder::Folder;
use crate::inspect::identity_of;
use crate::layout::{
    FIRST_USE, FRAMES_START, Identity, PAGE_BYTES, SLOT_POSITIONS, footer_position, segment_name,
};
use crate::manifest::{EndKind, LogId, LogState, SegmentEnd, SegmentNumber, State};
use crate::slot::{Slot, Watermark};
use crate::still::{HEADER, Still};
use crate::verify::{Fault, Finished, Meter, Problem, Whereabouts};

/// Bytes written at a time.
const PIECE_BYTES: u32 = 1 << 20;
/// In the place of the nonce of an earlier use that nobody knows any more.
const UNKNOWN_USE: u64 = u64::MAX;

/// The action that mends `problems` of the segment `file`, if all of them lie around its frames.
pub(super) fn rebuild(
    folder: &dyn Folder,
    state: &State,
    file: &str,
    problems: &[&Problem],
) -> Option<RepairAction> {
    let around = |problem: &&Problem| {
        matches!(
            problem.fault,
            Fault::Identity(_)
                | Fault::OtherSegment { .. }
                | Fault::NotZero { .. }
                | Fault::Slot { .. }
                | Fault::EndUnproven
                | Fault::Footer(_)
                | Fault::FooterDisagrees { .. }
                | Fault::SlotPastEnd
                | Fault::Length { .. }
        )
    };
    if !problems.iter().all(around) {
        return None;
    }
    let (topic, log, segment) = state.logs.iter().find_map(|(id, log)| {
        let mut numbers = log.segments.keys();
        let number = numbers.find(|number| segment_name(*id, **number) == file)?;
        Some((log.name.clone(), *id, *number))
    })?;
    let action = RepairAction::Rebuild {
        topic,
        log,
        segment,
        because: problems
            .iter()
            .map(|problem| problem.fault.to_string())
            .collect(),
    };
    // Whether it can be done is found out by doing it, without writing.
    pieces(folder, state, (log, segment), &mut |_| Ok(())).ok()?;
    Some(action)
}

/// Gives the whole file as it should be, piece by piece, to `take`.
pub(super) fn pieces(
    folder: &dyn Folder,
    state: &State,
    (id, number): (LogId, SegmentNumber),
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let not = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let log = state.logs.get(&id).ok_or_else(|| not("no such log"))?;
    let segment = log.segments.get(&number);
    let segment = segment.ok_or_else(|| not("no such segment"))?;
    let end = segment
        .end
        .ok_or_else(|| not("the segment has no end yet"))?;
    let (still, _) = Still::open(folder, &segment_name(id, number))?;
    let mut still = still.ok_or_else(|| not("the file is too short for a segment"))?;
    let identity = identity_of(state.folder_id, (id, log), (number, segment));
    let gaps: Vec<_> = log
        .damage
        .iter()
        .filter(|gap| gap.segment == number)
        .copied()
        .collect();
    let finished = Finished {
        at: Whereabouts {
            topic: &log.name,
            log: id,
            segment: number,
        },
        identity,
        end,
        gaps: &gaps,
    };
    let mut tell = |_| ();
    let footer = finished.footer_of_frames(&mut still, &mut Meter::new(&mut tell, 0));
    let footer = footer.ok_or_else(|| not("not all of its frames are good"))?;
    let footer_bytes = match end.kind {
        EndKind::Sealed { footer_bytes } => footer_bytes,
        EndKind::Cut => 0,
    };
    let former_nonce = match Identity::former_nonce(still.bytes(0, PAGE_BYTES)?) {
        Ok(former_nonce) => former_nonce,
        Err(_) if footer_bytes > 0 => FIRST_USE,
        Err(_) => guessed_former(&mut still, log, number)?,
    };
    take(&head(&identity, &end, former_nonce))?;
    if footer_bytes == 0 {
        // What lies behind the end stays: it is evidence.
        let all = still.len_bytes();
        return copy(&mut still, FRAMES_START, all, take);
    }
    if footer.len() != footer_bytes as usize {
        return Err(not(
            "its frames call for another footer than the manifest says",
        ));
    }
    let seal_end = end.end_position + HEADER;
    copy(&mut still, FRAMES_START, seal_end, take)?;
    take(&vec![
        0;
        (footer_position(end.end_position) - seal_end) as usize
    ])?;
    take(&footer)
}

/// What is to stand for the nonce of an earlier use where the page that told it is damaged, of a segment without a
/// footer: none where what lies behind its end is what recovery found there in a file that did not serve before.
fn guessed_former(still: &mut Still, log: &LogState, number: SegmentNumber) -> io::Result<u64> {
    let Some(end) = log.segments.get(&number).and_then(|segment| segment.end) else {
        return Ok(FIRST_USE);
    };
    let cut = log.cuts.iter().find(|cut| cut.segment == number);
    let (from, stated_bytes) = match cut {
        Some(cut) if cut.quarantined.is_empty() => (end.end_position, cut.cut_bytes),
        Some(_) => (end.end_position, 0),
        None => (end.end_position + HEADER, 0),
    };
    let found_bytes = u64::from(still.set_to(from)? - from);
    let is_first = found_bytes == 0 || found_bytes == stated_bytes;
    Ok(if is_first { FIRST_USE } else { UNKNOWN_USE })
}

/// Identity and slots, both of which prove the end that the manifest states.
fn head(identity: &Identity, end: &SegmentEnd, former_nonce: u64) -> Vec<u8> {
    let mut head = vec![0; FRAMES_START as usize];
    put(&mut head, 0, &identity.encode_over(former_nonce));
    let mark = Watermark {
        position: end.end_position,
        offset: end.end_offset,
        sealed: end.kind != EndKind::Cut,
    };
    for (sequence, position) in [(2, SLOT_POSITIONS[0]), (1, SLOT_POSITIONS[1])] {
        let slot = Slot {
            sequence,
            proven: mark,
            attempted: mark,
        };
        put(&mut head, position as usize, &slot.encode(identity.nonce));
    }
    head
}

fn copy(
    still: &mut Still,
    from: u32,
    to: u32,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let piece = PIECE_BYTES.min(to - at);
        take(still.bytes(at, piece)?)?;
        at += piece;
    }
    Ok(())
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = page.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

const _: () = assert!(FRAMES_START == 3 * PAGE_BYTES, "identity and two slots");
