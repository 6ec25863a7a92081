//! What damage can't have taken: the records that must still be there.

use std::collections::BTreeSet;

use millstream_storage::manifest::EndKind;

use crate::damage::Damage;
use crate::folder::{FRAMES_START, Frame, HEADER, PAGE, SegmentFile};

const SHORTEST: usize = FRAMES_START + HEADER;

/// Offsets of all that must be read of the log in `files`, in order.
pub(crate) fn due<'a>(
    files: impl Iterator<Item = &'a SegmentFile>,
    damage: &Damage,
) -> BTreeSet<u64> {
    let mut due = BTreeSet::new();
    for file in files {
        match file.end.map(|end| end.kind) {
            Some(EndKind::Sealed { footer_bytes }) if footer_bytes > 0 => {
                due.extend(due_in_finished(file, footer_bytes, damage));
            }
            Some(_) => due.extend(due_before(file, damage)),
            None => {
                due.extend(due_in_unfinished(file, damage));
                if damage.touched(&file.name) {
                    break;
                }
            }
        }
    }
    due
}

/// Offsets of the frames that `keep` says are to be there.
fn offsets<'a>(
    frames: &'a [Frame],
    keep: impl Fn(&Frame) -> bool + 'a,
) -> impl Iterator<Item = u64> + 'a {
    frames
        .iter()
        .filter(move |frame| keep(frame))
        .flat_map(Frame::offsets)
}

/// Of a finished segment with a footer: all but the frames that begin in a page with a bad one.
fn due_in_finished(file: &SegmentFile, footer_bytes: u32, damage: &Damage) -> Vec<u64> {
    let footer = (file.frames_end() + HEADER).next_multiple_of(PAGE);
    let footer = footer..footer + footer_bytes as usize;
    if !damage.is_whole(file, footer) {
        return due_before(file, damage);
    }
    let is_bad = |frame: &&Frame| !damage.is_whole(file, frame.position..frame.end());
    let bad: BTreeSet<usize> = file
        .frames
        .iter()
        .filter(is_bad)
        .map(|frame| frame.position / PAGE)
        .collect();
    offsets(&file.frames, |frame| {
        !bad.contains(&(frame.position / PAGE))
    })
    .collect()
}

/// What lies before the first byte that changed.
fn due_before(file: &SegmentFile, damage: &Damage) -> Vec<u64> {
    let changed = damage.first_changed(file);
    let changed = if changed < 3 * PAGE {
        first_bad(file, damage)
    } else {
        changed
    };
    // A file shorter than any segment is not read at all.
    let readable = if damage.len(file) < SHORTEST {
        0
    } else {
        changed
    };
    offsets(&file.frames, |frame| frame.end() <= readable).collect()
}

/// Where the first frame lies that changed.
fn first_bad(file: &SegmentFile, damage: &Damage) -> usize {
    let is_bad = |frame: &&Frame| !damage.is_whole(file, frame.position..frame.end());
    let first = file.frames.iter().find(is_bad);
    first.map_or(file.frames_end(), |frame| frame.position)
}

/// Of an unfinished segment: what lies before the damage, and if that is below what its slots prove,
/// also what lies behind that, up to the next.
fn due_in_unfinished(file: &SegmentFile, damage: &Damage) -> Vec<u64> {
    let mut due = due_before(file, damage);
    let first = first_bad(file, damage);
    if first < file.proven && damage.is_whole(file, PAGE..3 * PAGE) {
        let mut behind = file
            .frames
            .iter()
            .filter(|frame| frame.position >= file.proven);
        let whole = |frame: &Frame| damage.is_whole(file, frame.position..frame.end());
        let kept = behind.by_ref().take_while(|frame| whole(frame));
        due.extend(kept.flat_map(Frame::offsets));
    }
    due
}

/// Whether each of these files is long enough to be a segment.
pub(crate) fn is_readable<'a>(
    mut files: impl Iterator<Item = &'a SegmentFile>,
    damage: &Damage,
) -> bool {
    files.all(|file| damage.len(file) >= SHORTEST)
}
