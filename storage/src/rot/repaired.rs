//! What repair makes of rot: planning changes nothing, carrying out loses no byte, and what can't be
//! put right is named. Also what only the deep check sees.

use super::sealed::make;
use super::unsealed::kill_after;
use super::*;
use crate::heap::Failure;
use crate::layout::footer_position;
use crate::quarantine::copies_of;
use crate::recovery::QUARANTINE;
use crate::repair::{RepairAction, RepairPlan, apply, plan};
use crate::verify::{Depth, Fault, check_folder};

const FILE: &str = "log-00000000/00000001.seg";

fn deep(folder: &HeapFolder) -> VerifyReport {
    check_folder(folder, Depth::Deep, &mut |_| ()).unwrap()
}

/// Plans, which must change nothing, and carries out, after which every byte must still be somewhere.
fn repair(folder: &HeapFolder) -> RepairPlan {
    let before = contents(folder);
    let planned = plan(folder).unwrap();
    assert_eq!(contents(folder), before, "planning changed something");
    apply(Arc::new(folder.clone()), &planned).unwrap();
    check_kept(&before, folder);
    planned
}

#[track_caller]
fn check_kept(before: &BTreeMap<String, Vec<u8>>, folder: &HeapFolder) {
    let after: Vec<Vec<u8>> = contents(folder).into_values().collect();
    // A checkpoint that never became the manifest is no data.
    for (name, bytes) in before.iter().filter(|(name, _)| *name != "manifest.new") {
        assert!(after.contains(bytes), "the bytes of {name} are gone");
    }
}

#[test]
fn repair_mends_what_lies_around_the_frames_and_names_the_rest() {
    let sealed = make();
    let pristine = contents(&sealed.folder);
    let (mut mended, mut named) = (0, 0);
    for (file, frames) in &sealed.frames {
        let end = frames.last().unwrap().end;
        for bit in (0..pristine[file].len() * 8).step_by(stride() * 5) {
            let left = flipped(&sealed.folder, file, bit);
            let done = repair(&left);
            let report = deep(&left);
            // The seal is a frame.
            let in_frames = (12_288..end + 64).contains(&(bit / 8));
            if in_frames {
                assert!(done.actions.is_empty(), "bit {bit} of {file}: {done:?}");
                assert!(!done.remains.is_empty() && !report.is_sound());
                named += 1;
            } else {
                let [RepairAction::Rebuild { .. }] = done.actions.as_slice() else {
                    panic!("bit {bit} of {file}: {done:?}");
                };
                assert!(done.remains.is_empty(), "{done:?}");
                assert!(report.is_sound(), "bit {bit} of {file}: {report}");
                let now = left.read_file(file).unwrap();
                assert_eq!(now[12_288..], pristine[file][12_288..], "bit {bit}");
                mended += 1;
            }
            let store = open(&left);
            for (name, published) in &sealed.published {
                read_all(&store.log(&topic(name)).unwrap()).check(published, &bit);
            }
        }
    }
    eprintln!("repair: {mended} folders mended, {named} named as beyond it");
    assert!(mended > 0 && named > 0);
}

#[test]
fn a_footer_that_was_cut_off_is_made_again_and_one_of_bad_frames_is_not() {
    let sealed = make();
    let frames = &sealed.frames[FILE];
    let footer = footer_position(frames.last().unwrap().end as u32) as usize;
    for len in [footer, footer + 1, footer - 8, footer + 4096] {
        let left = sealed.folder.duplicate();
        left.edit(FILE, |bytes| bytes.truncate(len)).unwrap();
        let done = repair(&left);
        assert_eq!(done.actions.len(), 1, "cut to {len}: {done:?}");
        assert!(deep(&left).is_sound());
        let pristine = sealed.folder.read_file(FILE).unwrap();
        assert_eq!(left.read_file(FILE).unwrap()[12_288..], pristine[12_288..]);
    }
    let left = sealed.folder.duplicate();
    left.edit(FILE, |bytes| {
        bytes.truncate(footer);
        bytes[frames[3].start + 70] ^= 1;
    })
    .unwrap();
    let done = repair(&left);
    assert!(
        done.actions.is_empty() && !done.remains.is_empty(),
        "{done:?}"
    );
}

/// Whatever call fails, nothing is lost, and repair can be run again.
#[test]
fn repair_may_fail_at_any_call_and_is_run_again() {
    let sealed = make();
    let mut failed = 0;
    for nth in 1..40 {
        let left = flipped(&sealed.folder, FILE, 20 * 8);
        left.create_file("stranger", b"not ours").unwrap();
        let before = contents(&left);
        let planned = plan(&left).unwrap();
        left.fail_nth_change(nth, Failure::Device);
        let said = apply(Arc::new(left.clone()), &planned);
        left.heal();
        check_kept(&before, &left);
        failed += usize::from(said.is_err());
        let again = repair(&left);
        assert!(again.remains.is_empty(), "{nth}: {again:?}");
        let report = deep(&left);
        assert!(
            report.is_sound() && report.unnamed.is_empty(),
            "{nth}: {report}"
        );
    }
    assert!(failed >= 10, "{failed} calls failed");
}

/// A folder whose last sync was struck: recovery has cut what it can't tell about.
fn in_doubt() -> HeapFolder {
    let bodies: Vec<Vec<u8>> = (0..9_u8).map(|n| vec![n; 50]).collect();
    let killed = kill_after(&bodies);
    let left = flipped(&killed.folder, FILE, (killed.proven + 64) * 8);
    open(&left).close().unwrap();
    left
}

#[test]
fn a_cut_in_doubt_is_released_by_the_operator_and_by_nobody_else() {
    let left = in_doubt();
    let doubts = |folder: &HeapFolder| {
        let report = deep(folder);
        let doubt = |fault: &Fault| matches!(fault, Fault::CutPossiblyAcknowledged { .. });
        report.problems.iter().filter(|p| doubt(&p.fault)).count()
    };
    assert_eq!(doubts(&left), 1);
    // A start does not release it.
    open(&left).close().unwrap();
    assert_eq!(doubts(&left), 1);
    let copies = copies_of(
        &left,
        crate::manifest::LogId(0),
        crate::manifest::SegmentNumber(1),
    );
    let copy = left
        .read_file(&format!("{QUARANTINE}/{}", copies.unwrap()[0]))
        .unwrap();
    let done = repair(&left);
    assert!(matches!(
        done.actions.as_slice(),
        [RepairAction::ReleaseCut { .. }]
    ));
    let report = deep(&left);
    assert!(report.is_sound(), "{report}");
    assert!(contents(&left).values().any(|bytes| *bytes == copy));
    open(&left).close().unwrap();
    assert!(deep(&left).is_sound(), "a start keeps it released");
    assert!(repair(&left).actions.is_empty());
}

#[test]
fn a_release_may_fail_at_any_call_and_is_done_again() {
    let folder = in_doubt();
    for nth in 1..20 {
        let left = folder.duplicate();
        let planned = plan(&left).unwrap();
        left.fail_nth_change(nth, Failure::Device);
        let said = apply(Arc::new(left.clone()), &planned);
        left.heal();
        for found in [left.duplicate(), left.after_power_loss()] {
            let before = deep(&found).is_sound();
            assert!(
                before || said.is_err(),
                "call {nth}: it said it was released"
            );
            repair(&found);
            assert!(deep(&found).is_sound(), "call {nth}");
        }
    }
}

/// Bytes behind a cut, its copy, and the slots of its segment: nothing reads them in service, and the
/// deep check compares them.
#[test]
fn the_deep_check_sees_what_nothing_reads() {
    let folder = in_doubt();
    repair(&folder);
    let state = crate::manifest::Manifest::inspect(&folder).unwrap().0;
    let cut = &state.logs.values().next().unwrap().segments[&crate::manifest::SegmentNumber(1)];
    let end = cut.end.unwrap().end_position as usize;
    let copy = format!(
        "{QUARANTINE}/{}",
        copies_of(
            &folder,
            crate::manifest::LogId(0),
            crate::manifest::SegmentNumber(1)
        )
        .unwrap()[0]
    );
    let len = folder.read_file(&copy).unwrap().len();
    let is_seen = |file: &str, at: usize| {
        let left = flipped(&folder, file, at * 8 + 3);
        assert!(
            verify(&left).unwrap().is_sound(),
            "{file} at {at}: the plain check looks there"
        );
        !deep(&left).is_sound()
    };
    for at in (0..len).step_by(7) {
        assert!(is_seen(&copy, at), "{copy} at {at}");
        assert!(is_seen(FILE, end + at), "behind the cut at {at}");
    }
    for at in (4096..12_288).step_by(31) {
        assert!(is_seen(FILE, at), "slot pages at {at}");
    }
    // Mended but for what was cut off, which is evidence and stays.
    let left = flipped(&folder, FILE, 4100 * 8);
    assert_eq!(repair(&left).actions.len(), 1);
    assert!(deep(&left).is_sound());
}

#[test]
fn strangers_and_useless_checkpoints_are_moved_aside() {
    let sealed = make();
    let left = sealed.folder.duplicate();
    left.create_file("stranger", b"not ours").unwrap();
    left.create_file("log-00000000/00000077.seg", b"lost")
        .unwrap();
    let checkpoints =
        crate::checkpoints::Checkpoints::new(&(Arc::new(left.clone()) as Arc<dyn Folder>));
    checkpoints.write(b"older").unwrap();
    checkpoints.write(b"newer").unwrap();
    assert!(deep(&left).is_sound());
    left.edit("checkpoint-00000002", |bytes| bytes[25] ^= 1)
        .unwrap();
    let report = deep(&left);
    assert!(
        matches!(report.problems[0].fault, Fault::Checkpoint(_)),
        "{report}"
    );
    assert_eq!(report.problems[0].file, "checkpoint-00000002");
    let done = repair(&left);
    assert_eq!((done.actions.len(), done.remains.len()), (3, 0), "{done:?}");
    let report = deep(&left);
    assert!(report.is_sound() && report.unnamed.is_empty(), "{report}");
    assert_eq!(checkpoints.load().unwrap(), [(1, b"older".to_vec())]);
}
