//! L7: what a use of a file before left reads as no commit of this one, even where somebody guessed half of its nonce.

use millstream_protocol::frame::{frame_bytes, walk_stored};

use super::*;
use crate::disk::DiskFolder;
use crate::folder::Access;
use crate::layout::{FRAMES_START, Identity, limit_bytes};
use crate::manifest::LogId;
use crate::segment::{Origin, Segment, Standby};
use crate::sync::Extend;

const SEGMENT_BYTES: u32 = 256 << 10;
const NONCE: u64 = 0xA11_CE00_0005_EED0;
/// What a walk would take for a frame of 64 bytes.
const GUESS: u64 = 64 | (NONCE & 0xFFFF_FFFF) << 32;

/// A segment over a file in which `left` stands at each position given, in memory and on a disk.
fn over(left: &[u32], check: impl Fn(&Segment)) {
    let dir = tempfile::tempdir().unwrap();
    let (heap, disk) = (HeapFolder::new(), DiskFolder::open_or_create(dir.path()));
    let mut former = vec![0; SEGMENT_BYTES as usize];
    for position in left {
        let place = former.get_mut(*position as usize..).unwrap();
        place[..8].copy_from_slice(&GUESS.to_le_bytes());
    }
    let folders: [Box<dyn Folder>; 2] = [Box::new(heap), Box::new(disk.unwrap())];
    for folder in folders {
        folder.create_file("1.seg", &former).unwrap();
        let memory = folder.open_segment("1.seg", Access::ReadWrite).unwrap();
        let identity = Identity {
            folder_id: [1; 16],
            incarnation: [2; 16],
            log: LogId(1),
            segment: FIRST,
            nonce: NONCE,
            len_bytes: SEGMENT_BYTES,
        };
        let origin = Origin::Reused { former_nonce: 7 };
        check(&Standby::new(memory, identity, origin).activate(Offset(0), 0));
    }
}

/// Claims a frame of this body and commits it; gives where it starts, or none where the segment ended.
fn publish(segment: &Segment, body: &[u8]) -> Option<u32> {
    let fields = PublisherFields::single(u32::try_from(body.len()).unwrap());
    match segment.try_claim(frame_bytes(fields.body_bytes), 1, 1) {
        TryClaim::Claim(mut claim) => {
            let position = claim.position();
            claim.copy_body(body);
            claim.commit_unsummed(&fields);
            Some(position)
        }
        TryClaim::Crossed(seal) => {
            crate::claim::commit_seal(segment, seal, 1);
            None
        }
        TryClaim::Tripped => panic!("it ended before"),
    }
}

/// Kinds of the frames that a walk finds, each of which checks out and follows the one before.
fn walked(segment: &Segment) -> Vec<FrameKind> {
    let mut run = segment.first_run();
    let (mut kinds, mut offset) = (Vec::new(), Offset(0));
    loop {
        let position = run.end();
        let nonce_half = segment.region().nonce_half();
        let found = run.extend_if(|frame| {
            let frame = walk_stored(frame, segment.seed(), position, nonce_half).unwrap();
            assert_eq!(frame.header().base_offset, offset);
            offset = frame.header().next_offset();
            kinds.push(frame.header().fields.kind);
            true
        });
        if found == Extend::Nothing {
            return kinds;
        }
    }
}

#[test]
fn l7_what_was_left_behind_a_frame_is_void_before_a_walk_comes_there() {
    use FrameKind::{Single, Void};
    let second = FRAMES_START + frame_bytes(100);
    over(&[second], |segment| {
        let TryClaim::Claim(claim) = segment.try_claim(frame_bytes(100), 1, 1) else {
            panic!("there is room");
        };
        assert!(walked(segment).is_empty(), "the first is not committed");
        drop(claim);
        assert_eq!(walked(segment), [Void, Void]);
        assert_eq!(publish(segment, b"next"), Some(second + 64));
        assert_eq!(walked(segment), [Void, Void, Single]);
    });
    // Nobody looks where no frame ends.
    over(&[second - 8, second + 8], |segment| {
        assert_eq!(publish(segment, &[7; 100]), Some(FRAMES_START));
        assert_eq!(walked(segment), [Single]);
    });
}

#[test]
fn l7_where_all_that_was_left_reads_as_commits_nothing_of_it_is_walked() {
    let all: Vec<u32> = (FRAMES_START..SEGMENT_BYTES).step_by(8).collect();
    over(&all, |segment| {
        assert!(walked(segment).is_empty());
        assert_eq!(publish(segment, b"first"), Some(FRAMES_START));
        let kinds = walked(segment);
        assert_eq!(kinds[0], FrameKind::Single);
        assert!(kinds[1..].iter().all(|kind| *kind == FrameKind::Void));
        let (_, end) = segment.region().claimed().unwrap();
        assert!(end + 64 > limit_bytes(SEGMENT_BYTES), "to its end");
        assert_eq!(publish(segment, b"no room"), None);
        assert_eq!(walked(segment).last(), Some(&FrameKind::Seal));
    });
}

#[test]
fn l7_frames_to_the_very_end_and_the_seal_stand_on_nothing_that_was_left() {
    let limit = limit_bytes(SEGMENT_BYTES);
    for short in [0, 8, 56, 64] {
        let ends: Vec<u32> = (limit - 64..=limit).step_by(8).collect();
        over(&ends, |segment| {
            let body = vec![7; (limit - FRAMES_START - 64 - short) as usize];
            assert_eq!(publish(segment, &body), Some(FRAMES_START));
            assert_eq!(walked(segment), [FrameKind::Single]);
            let sealed = [FrameKind::Single, FrameKind::Seal];
            assert_eq!(publish(segment, &[1; 8]), None);
            assert_eq!(walked(segment), sealed);
        });
    }
}

/// A publisher that finds the next one's commit behind his frame goes on.
#[test]
fn l7_a_commit_behind_a_frame_is_known_by_its_header() {
    let second = FRAMES_START + frame_bytes(100);
    over(&[], |segment| {
        publish(segment, &[7; 100]);
        publish(segment, &[8; 100]);
        assert!(segment.region().may_read_on(second));
        segment.clear_behind(second, 1);
        assert_eq!(walked(segment), [FrameKind::Single; 2]);
    });
}
