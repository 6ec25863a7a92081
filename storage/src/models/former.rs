//! Segments over files that served before, where a commit word of this use was guessed (L7).

use millstream_protocol::limits::FRAME_HEADER_BYTES;

use super::*;
use crate::folder::Access;
use crate::layout::FRAMES_START;
use crate::segment::{Segment, TryClaim};
use crate::sync::Mark;

const FRAME_BYTES: u32 = (FRAME_HEADER_BYTES + BODY_BYTES) as u32;
const NONCE: u64 = 0x1234_5678_0000_0001;

/// What somebody left behind the first frame is the commit word of the second.
fn guessed() -> Arc<Segment> {
    let word = u64::from(FRAME_BYTES) | (NONCE & 0xFFFF_FFFF) << 32;
    let second = (FRAMES_START + FRAME_BYTES) as usize;
    let mut former = vec![0; SEGMENT_BYTES as usize];
    former[second..second + 8].copy_from_slice(&word.to_le_bytes());
    let folder = HeapFolder::new();
    folder.create_file("1.seg", &former).unwrap();
    let memory = folder.open_segment("1.seg", Access::ReadWrite).unwrap();
    let identity = Identity {
        folder_id: FOLDER,
        incarnation: [2; 16],
        log: LogId(1),
        segment: SegmentNumber(1),
        nonce: NONCE,
        len_bytes: SEGMENT_BYTES,
    };
    let origin = Origin::Reused { former_nonce: 5 };
    Arc::new(Standby::new(memory, identity, origin).activate(Offset(0), 0))
}

fn publish(segment: &Segment, who: u8) {
    let TryClaim::Claim(mut claim) = segment.try_claim(FRAME_BYTES, 1, 1) else {
        return;
    };
    claim.body_mut().fill(who);
    claim.commit_unsummed(&PublisherFields::single(BODY_BYTES as u32));
}

/// Who published the frames that a walk takes, each of which checks out.
fn walked(segment: &Segment) -> Vec<u8> {
    let mut run = segment.first_run();
    let mut seen = Vec::new();
    loop {
        let position = run.end();
        let nonce_half = segment.region().nonce_half();
        let found = run.extend_if(|frame| {
            let stored = check_stored(frame, segment.seed(), position, nonce_half).unwrap();
            if stored.header().fields.kind != FrameKind::Void {
                seen.push(stored.body()[0]);
            }
            true
        });
        if found == Extend::Nothing {
            return seen;
        }
    }
}

/// COMMIT-1, FORMER-1, L7: a walk takes what was committed and nothing of what was left.
fn guessed_commit() {
    explore(3, || {
        let segment = guessed();
        let publishing = {
            let segment = Arc::clone(&segment);
            thread::spawn(move || publish(&segment, 1))
        };
        let walking = {
            let segment = Arc::clone(&segment);
            thread::spawn(move || walked(&segment).len())
        };
        publish(&segment, 2);
        assert!(walking.join().unwrap() <= 2);
        publishing.join().unwrap();
        let mut seen = walked(&segment);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
    });
}

#[test]
fn what_was_left_behind_a_frame_is_no_commit() {
    guessed_commit();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_nobody_looks_behind_his_frame() {
    mutant::with(Mutant::NoLookBehind, guessed_commit);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_what_was_left_goes_behind_the_header() {
    mutant::with(Mutant::FormerFence, guessed_commit);
}

/// L7: who commits in front of a claim that is open does not wait for it.
fn open_claim() {
    explore(3, || {
        let segment = guessed();
        let is_committed = Arc::new(Mark::clean());
        let holding = {
            let (segment, is_committed) = (Arc::clone(&segment), Arc::clone(&is_committed));
            thread::spawn(move || {
                let claim = segment.try_claim(FRAME_BYTES, 1, 1);
                assert!(matches!(claim, TryClaim::Claim(_)));
                while !is_committed.is_set() {
                    thread::yield_now();
                }
                drop(claim);
            })
        };
        publish(&segment, 1);
        is_committed.set();
        holding.join().unwrap();
        assert_eq!(walked(&segment), [1]);
    });
}

#[test]
fn who_commits_waits_for_no_open_claim_behind() {
    open_claim();
}

#[test]
#[should_panic]
fn mutant_who_claims_leaves_what_was_there() {
    mutant::with(Mutant::FormerStays, open_claim);
}
