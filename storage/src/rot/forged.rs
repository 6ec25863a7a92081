//! Payloads full of frame images, and damage to the frames around them: none of the images is ever
//! taken for a frame, whatever nonce it was made with, since nothing is found by scanning (L7).

use super::unsealed::{Killed, kill_after, killed, nonce_of};
use super::*;
use crate::layout::{FRAMES_START, Identity};
use crate::manifest::{LogId, Manifest, SegmentNumber};
use millstream_protocol::frame::{CommitWord, FrameHeader, body_crc, frame_bytes};

const FILE: &str = "log-00000000/00000001.seg";
const FORGED: &[u8] = b"forged";
/// Bytes of one image: a header and a body of a word.
const IMAGE_BYTES: usize = 72;

/// Which nonce a forger believes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nonce {
    /// That of the segment itself: readers are told it, so one of them may publish it.
    Right,
    /// That of an earlier use of the file.
    Old,
    /// Drawn by the forger, but for the half that stands in commit words.
    HalfGuessed,
}

fn identity(folder: &HeapFolder, nonce: u64) -> Identity {
    let state = Manifest::inspect(folder).unwrap().0;
    let (id, log) = state.logs.first_key_value().unwrap();
    Identity {
        folder_id: state.folder_id,
        incarnation: log.incarnation,
        log: LogId(id.0),
        segment: SegmentNumber(1),
        nonce,
        len_bytes: 1 << 20,
    }
}

/// The frame of one record `FORGED` for `position`, as the use of the file that `identity` names has it.
fn image(identity: &Identity, position: u32, base_offset: u64) -> Vec<u8> {
    let fields = PublisherFields::single(FORGED.len() as u32);
    let header = FrameHeader {
        fields,
        body_crc: body_crc(&fields, FORGED),
        base_offset: Offset(base_offset),
        append_time_us: 1,
    };
    let word = CommitWord {
        frame_bytes: frame_bytes(FORGED.len() as u32),
        nonce_half: identity.first_frame().nonce_half,
    };
    let mut bytes = word.to_u64().to_le_bytes().to_vec();
    bytes.extend(header.encode(identity.seed(), position));
    bytes.extend(FORGED);
    bytes.resize(IMAGE_BYTES, 0);
    bytes
}

/// A payload of `len` bytes that will lie at `position`, filled with images, each for where it lies,
/// the first of each page at its beginning; their offsets go on from `base_offset`.
fn payload(identity: &Identity, position: u32, len: usize, base_offset: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut offset = base_offset;
    while bytes.len() + IMAGE_BYTES <= len {
        let at = position as usize + bytes.len();
        let to_page = at.next_multiple_of(4096) - at;
        if to_page > 0 && to_page < IMAGE_BYTES {
            bytes.resize(bytes.len() + to_page, 0);
            continue;
        }
        bytes.extend(image(identity, at as u32, offset));
        offset += 1;
    }
    bytes.resize(len, 0);
    bytes
}

/// The nonce as `which` has it.
fn believed(right: u64, which: Nonce) -> u64 {
    match which {
        Nonce::Right => right,
        Nonce::Old => right ^ 0x0123_4567_89AB_CDEF,
        Nonce::HalfGuessed => right ^ 0xFFFF_0000_0000_0000,
    }
}

/// A segment whose every second frame is full of images, killed; its two last frames are not synced.
fn hostile(which: Nonce) -> (HeapFolder, Store, Records) {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, "t");
    let mut appender = Appender::new(&log);
    let mut published = Records::new();
    // The first one makes the segment, and its nonce.
    let mut position = FRAMES_START;
    for number in 0..8_u64 {
        let body = if number % 2 == 0 {
            vec![number as u8; 40]
        } else {
            let forger = identity(&folder, believed(nonce_of(&folder), which));
            let len = [200, 9_000, 5_000, 300][number as usize / 2];
            payload(&forger, position + 64, len, number)
        };
        let appended = publish(&store, &mut appender, &body);
        assert_eq!(appended.base.0, number);
        position += frame_bytes(body.len() as u32);
        published.insert(number, body);
        if number < 6 {
            sync(&store);
        }
    }
    (folder, store, published)
}

fn check_reading(left: &HeapFolder, published: &Records, what: &str) {
    let store = open(left);
    let read = read_all(&store.log(&topic("t")).unwrap());
    assert!(
        read.records.values().all(|body| body != FORGED),
        "{what}: a forged record came"
    );
    read.check(published, &what);
}

/// Every bit of every commit word, and by stride of the rest; a whole page lost; a header zeroed.
fn check_damage(folder: &HeapFolder, published: &Records, frames: &[Frame], which: Nonce) {
    for frame in frames {
        let word = frame.start * 8..(frame.start + 8) * 8;
        let rest = (frame.start + 8) * 8..(frame.start + 64) * 8;
        let body = (frame.start + 64) * 8..frame.end * 8;
        // The right nonce is the one that a scan would fall for.
        let some = stride() * if which == Nonce::Right { 3 } else { 9 };
        for bit in word
            .chain(rest.step_by(some / 60 + 1))
            .chain(body.step_by(some))
        {
            let left = flipped(folder, FILE, bit);
            check_reading(&left, published, &format!("{which:?}, bit {bit}"));
        }
        for zeroed in [
            frame.start..frame.start + 8,
            frame.start..frame.start + 64,
            frame.start..(frame.start + 1).next_multiple_of(4096),
        ] {
            let left = folder.duplicate();
            left.edit(FILE, |bytes| bytes[zeroed.clone()].fill(0))
                .unwrap();
            check_reading(&left, published, &format!("{which:?}, {zeroed:?} zeroed"));
        }
    }
}

#[test]
fn frame_images_in_payloads_never_surface() {
    for which in [Nonce::Right, Nonce::Old, Nonce::HalfGuessed] {
        let (folder, store, published) = hostile(which);
        let Killed {
            folder: unsealed,
            frames,
            ..
        } = killed(&folder, published.clone());
        check_damage(&unsealed, &published, &frames, which);
        store.close().unwrap();
        check_damage(&folder, &published, &frames, which);
    }
}

/// A frame image put where a frame was: one of another use of the file, one of another place. Both
/// have the right commit word and the right offset; only the header's checksum tells.
#[test]
fn a_frame_of_another_use_or_place_is_refused() {
    let bodies: Vec<Vec<u8>> = (0..6_u8).map(|_| b"honest".to_vec()).collect();
    let Killed {
        folder,
        published,
        frames,
        ..
    } = kill_after(&bodies);
    let right = identity(&folder, nonce_of(&folder));
    let old = Identity {
        nonce: believed(right.nonce, Nonce::HalfGuessed),
        ..right
    };
    let hit = frames[1];
    let at = hit.start as u32;
    assert_eq!(hit.end - hit.start, IMAGE_BYTES);
    for (what, forged, comes) in [
        ("made for here", image(&right, at, hit.first), true),
        ("of another use", image(&old, at, hit.first), false),
        ("of another place", image(&right, at + 72, hit.first), false),
        (
            "of another page",
            image(&right, at + 4096, hit.first),
            false,
        ),
    ] {
        let left = folder.duplicate();
        left.edit(FILE, |bytes| {
            bytes[hit.start..hit.end].copy_from_slice(&forged);
        })
        .unwrap();
        let store = open(&left);
        let read = read_all(&store.log(&topic("t")).unwrap());
        let surfaced = read.records.get(&hit.first).map(Vec::as_slice) == Some(FORGED);
        // The first case shows that the images are right in all else.
        assert_eq!(surfaced, comes, "{what}");
        if !comes {
            read.check(&published, &what);
            assert_eq!(read.gaps.first().map(|gap| gap.0), Some(hit.first));
        }
    }
}
