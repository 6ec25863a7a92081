//! One bit flipped in a segment that a kill left without an end: what it means depends on whether it
//! lies below what a sync proved, between that and what the next sync was to cover, or behind.

use super::*;
use crate::layout::{FRAMES_START, SLOT_POSITIONS};
use crate::manifest::Manifest;
use crate::recovery::QUARANTINE;
use crate::slot::Slot;
use crate::verify::Fault;

const FILE: &str = "log-00000000/00000001.seg";

/// What a kill left behind, and where its watermarks are.
pub(super) struct Killed {
    pub(super) folder: HeapFolder,
    pub(super) published: Records,
    pub(super) frames: Vec<Frame>,
    pub(super) proven: usize,
    pub(super) attempted: usize,
}

/// Publishes `bodies`, synced one by one but for the last two, of which nobody was told. The sync
/// before those proved all but the last one it covered.
pub(super) fn kill_after(bodies: &[Vec<u8>]) -> Killed {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, "t");
    let mut appender = Appender::new(&log);
    let mut published = Records::new();
    for (number, body) in bodies.iter().enumerate() {
        let appended = publish(&store, &mut appender, body);
        published.insert(appended.base.0, body.clone());
        if number + 2 < bodies.len() {
            sync(&store);
        }
    }
    killed(&folder, published)
}

pub(super) fn killed(folder: &HeapFolder, published: Records) -> Killed {
    let left = folder.duplicate();
    let nonce = nonce_of(&left);
    let bytes = left.read_file(FILE).unwrap();
    let pages = SLOT_POSITIONS.map(|at| &bytes[at as usize..at as usize + 4096]);
    let slot = Slot::newest(pages, nonce).unwrap();
    Killed {
        frames: frames_of(&left, FILE),
        folder: left,
        published,
        proven: slot.proven.position as usize,
        attempted: slot.attempted.position as usize,
    }
}

pub(super) fn nonce_of(folder: &HeapFolder) -> u64 {
    let state = Manifest::inspect(folder).unwrap().0;
    let log = state.logs.values().next().unwrap();
    log.segments.values().next().unwrap().nonce
}

/// What a damaged frame at some place comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// Nothing: no byte of a frame was hit.
    Nothing,
    /// A gap up to `proven`; nothing is cut.
    Gap,
    /// A cut, and what is gone may have been acknowledged; nothing is gone where a slot was hit, but
    /// what would tell.
    Doubt,
    /// A cut of what nobody was told is on disk.
    Tear,
}

impl Killed {
    fn at(&self, at: usize) -> (Comes, Option<Frame>) {
        let hit = self
            .frames
            .iter()
            .find(|frame| (frame.start..frame.end).contains(&at));
        let slot = SLOT_POSITIONS.map(|at| at as usize..at as usize + 60);
        let comes = match hit {
            None if slot.iter().any(|slot| slot.contains(&at)) => Comes::Doubt,
            None => Comes::Nothing,
            Some(frame) if frame.start < self.proven => Comes::Gap,
            Some(frame) if frame.start < self.attempted => Comes::Doubt,
            Some(_) => Comes::Tear,
        };
        (comes, hit.copied())
    }

    /// Asserts what is lost: with a gap, all from the hit frame to `proven`; with a cut, all from there.
    fn check_lost(&self, comes: Comes, hit: Option<Frame>, lost: &[u64], what: &str) {
        let from = hit.map_or(u64::MAX, |frame| frame.first);
        let to = match comes {
            Comes::Nothing => from,
            Comes::Gap => {
                let below = |frame: &&Frame| frame.end <= self.proven;
                self.frames.iter().rfind(below).unwrap().next
            }
            Comes::Doubt | Comes::Tear => u64::MAX,
        };
        let wanted: Vec<u64> = self
            .published
            .keys()
            .filter(|offset| (from..to).contains(offset))
            .copied()
            .collect();
        assert_eq!(lost, wanted, "{what}: {comes:?}");
    }

    fn check_flip(&self, bit: usize, counts: &mut Counts) {
        let left = flipped(&self.folder, FILE, bit);
        let what = format!("byte {}, bit {}", bit / 8, bit % 8);
        let (comes, hit) = self.at(bit / 8);
        let foretold = verify(&left).unwrap();
        let bytes_before = left.read_file(FILE).unwrap();
        let store = open(&left);
        let [report] = store.recoveries() else {
            panic!("{what}: one log was open");
        };
        let read = read_all(&store.log(&topic("t")).unwrap());
        // What was cut is no gap of damage but void.
        read.check(&self.published, &what);
        let lost = read.lost(&self.published);
        self.check_lost(comes, hit, &lost, &what);
        counts.flipped += 1;
        counts.delivered += read.records.len();
        counts.lost += lost.len();
        assert_eq!(
            report.damaged.len(),
            usize::from(comes == Comes::Gap),
            "{what}"
        );
        assert_eq!(
            report.possibly_acknowledged,
            comes == Comes::Doubt,
            "{what}"
        );
        let cut = hit.is_some() && matches!(comes, Comes::Doubt | Comes::Tear);
        if comes != Comes::Nothing {
            assert_eq!(report.cut_bytes > 0, cut, "{what}: {report}");
        }
        // What is there is never overwritten, nor what was cut.
        assert_eq!(left.read_file(FILE).unwrap(), bytes_before, "{what}");
        if let (true, Some(hit)) = (cut, hit) {
            check_copy(&left, &bytes_before, hit.start, &what);
        }
        drop(store);
        self.check_naming(comes, hit, (&foretold, &verify(&left).unwrap()), &what);
    }

    /// `verify` says the same before recovery and after it: rot and doubt are damage, a tear is none.
    fn check_naming(
        &self,
        comes: Comes,
        hit: Option<Frame>,
        (before, after): (&VerifyReport, &VerifyReport),
        what: &str,
    ) {
        let end = self.frames.last().map_or(0, |frame| frame.end);
        let start = hit.map_or(end, |frame| frame.start) as u64;
        let has = |report: &VerifyReport, wanted: fn(&Fault) -> bool| {
            report
                .problems
                .iter()
                .any(|problem| problem.position == Some(start) && wanted(&problem.fault))
        };
        match comes {
            Comes::Gap => {
                assert!(
                    has(before, |fault| matches!(fault, Fault::BelowProven)),
                    "{what}: {before}"
                );
                assert!(
                    has(after, |fault| matches!(fault, Fault::RecordedGap)),
                    "{what}: {after}"
                );
            }
            Comes::Doubt => {
                let doubt = |fault: &Fault| matches!(fault, Fault::PossiblyAcknowledged);
                let cut = |fault: &Fault| matches!(fault, Fault::CutPossiblyAcknowledged { .. });
                assert!(has(before, doubt), "{what}: {before}");
                assert!(has(after, cut), "{what}: {after}");
            }
            Comes::Tear => {
                assert!(before.is_sound(), "{what}: {before}");
                assert!(after.is_sound(), "{what}: {after}");
            }
            // The pages around the frames: `verify` looks at what recovery leaves of them.
            Comes::Nothing => {}
        }
    }
}

/// The quarantine holds what was cut, byte for byte.
fn check_copy(folder: &HeapFolder, bytes: &[u8], from: usize, what: &str) {
    let copies = folder.list(QUARANTINE).unwrap();
    let [copy] = copies.as_slice() else {
        panic!("{what}: {copies:?}");
    };
    let copy = folder.read_file(&format!("{QUARANTINE}/{copy}")).unwrap();
    assert_eq!(copy, &bytes[from..from + copy.len()], "{what}");
    assert!(
        bytes[from + copy.len()..].iter().all(|byte| *byte == 0),
        "{what}"
    );
}

#[test]
fn rot_below_the_watermark_is_a_gap_and_behind_it_a_cut() {
    let bodies: Vec<Vec<u8>> = (0..24_u8)
        .map(|n| vec![n; usize::from(n) * 41 % 300 + 1])
        .collect();
    let killed = kill_after(&bodies);
    let starts: Vec<usize> = killed.frames.iter().map(|frame| frame.start).collect();
    assert!(starts.contains(&killed.proven) && starts.contains(&killed.attempted));
    let mut counts = Counts::default();
    let end = killed.frames.last().unwrap().end;
    // The whole file up to a page behind its last frame, where zeros are.
    for bit in (0..(end + 4096) * 8).step_by(stride()) {
        killed.check_flip(bit, &mut counts);
    }
    counts.print("unsealed segment");
    assert!(counts.lost > 0);
}

/// The frames on either side of both watermarks, at a much smaller stride.
#[test]
fn just_below_and_just_above_each_watermark_is_told_apart() {
    let bodies: Vec<Vec<u8>> = (0..6_u8).map(|n| vec![n; 9]).collect();
    let killed = kill_after(&bodies);
    let mut counts = Counts::default();
    let [.., below, between, above, _] = killed.frames.as_slice() else {
        panic!("six frames");
    };
    assert_eq!((below.end, between.end), (killed.proven, killed.attempted));
    assert_eq!(above.start, killed.attempted);
    assert_eq!(killed.at(below.end - 1).0, Comes::Gap);
    assert_eq!(killed.at(between.start).0, Comes::Doubt);
    assert_eq!(killed.at(between.end - 1).0, Comes::Doubt);
    assert_eq!(killed.at(above.start).0, Comes::Tear);
    for bit in (below.start * 8..above.end * 8).step_by(stride().min(7)) {
        killed.check_flip(bit, &mut counts);
    }
    counts.print("around the watermarks");
}

/// A slot that rots leaves its predecessor, which proves less and never too much.
#[test]
fn a_rotten_slot_costs_nothing() {
    let bodies: Vec<Vec<u8>> = (0..6_u8).map(|n| vec![n; 9]).collect();
    let killed = kill_after(&bodies);
    for slot in SLOT_POSITIONS {
        for bit in (slot as usize * 8..(slot as usize + 60) * 8).step_by(stride().min(7)) {
            let left = flipped(&killed.folder, FILE, bit);
            let store = open(&left);
            let read = read_all(&store.log(&topic("t")).unwrap());
            read.check(&killed.published, &bit);
            assert!(read.lost(&killed.published).is_empty(), "bit {bit}");
        }
    }
    assert_eq!(killed.frames[0].start, FRAMES_START as usize);
}

/// A segment that recovery ended has no footer, so damage to it later costs all up to its end: the
/// stated limit of such segments. Nothing else comes of it.
#[test]
fn rot_in_a_segment_that_recovery_ended_costs_at_most_its_rest() {
    let bodies: Vec<Vec<u8>> = (0..24_u8)
        .map(|n| vec![n; usize::from(n) * 41 % 300 + 1])
        .collect();
    let killed = kill_after(&bodies);
    let recovered = killed.folder.duplicate();
    open(&recovered).close().unwrap();
    let end = killed.frames.last().unwrap().end;
    for bit in (0..end * 8).step_by(stride() * 3) {
        let left = flipped(&recovered, FILE, bit);
        let store = open(&left);
        let read = read_all(&store.log(&topic("t")).unwrap());
        read.check(&killed.published, &bit);
        let lost = read.lost(&killed.published);
        let hit = killed
            .frames
            .iter()
            .find(|frame| (frame.start..frame.end).contains(&(bit / 8)));
        match hit {
            None => assert!(lost.is_empty(), "bit {bit}"),
            Some(hit) => assert!(
                lost.first() == Some(&hit.first),
                "bit {bit}: {lost:?} are lost"
            ),
        }
        let sound = verify(&left).unwrap().is_sound();
        assert_eq!(sound, hit.is_none() && bit / 8 >= 4096, "bit {bit}");
    }
}
