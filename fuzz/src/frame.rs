//! Frames, as published and as stored.
//!
//! The input is taken as it is and, so that the fuzzer gets past checksums it cannot guess, with
//! its checksums made to fit. Claims: what is accepted encodes to the same bytes; no shorter input
//! is; a publish that is accepted can be stored, and every reader gets all its records.

use bytes::Bytes;
use millstream_protocol::Offset;
use millstream_protocol::batch::{BatchError, BatchView, Checked, RecordRun};
use millstream_protocol::checksum::crc32c;
use millstream_protocol::frame::{
    CommitWord, FrameError, FrameHeader, FrameKind, FramePlace, FrameSeed, PublishedFrame,
    check_publish, check_stored, publish_header,
};

use crate::Outcome;

/// Where stored frames of the corpus lie; the golden vectors say the same.
pub const PLACE: FramePlace = FramePlace {
    seed: FrameSeed(0x1122_3344),
    nonce_half: 0xa1b2_c3d4,
    position: 12_288,
};

/// Runs all claims over `data`.
pub fn check(data: &[u8]) -> Outcome {
    let published = check_published(data) | check_published(&repaired(data, Form::Published));
    let stored = check_stored_frame(data) | check_stored_frame(&repaired(data, Form::Stored));
    check_run(data);
    if published || stored {
        Outcome::Accepted
    } else {
        Outcome::Refused
    }
}

fn check_published(bytes: &[u8]) -> bool {
    let Ok(frame) = check_publish(bytes) else {
        return false;
    };
    let again = [
        publish_header(frame.fields(), frame.body()).as_slice(),
        frame.body(),
    ]
    .concat();
    assert_eq!(again, bytes, "a publish has one form");
    for shorter in [0, 63, 64, bytes.len() - 1] {
        let shorter = bytes
            .get(..shorter)
            .filter(|shorter| shorter.len() < bytes.len());
        if let Some(shorter) = shorter {
            let error = check_publish(shorter).expect_err("a part is no publish");
            assert!(matches!(error, FrameError::Truncated { .. }), "{error}");
        }
    }
    check_readable(&frame);
    true
}

/// A publish that passed is stored; every reader can read it.
fn check_readable(frame: &PublishedFrame<'_>) {
    let fields = *frame.fields();
    let header = FrameHeader {
        fields,
        body_crc: frame.body_crc(),
        base_offset: Offset(41),
        append_time_us: 7,
    };
    let stored = stored_bytes(&header, frame.body());
    let FramePlace {
        seed,
        nonce_half,
        position,
    } = PLACE;
    let read = check_stored(&stored, seed, position, nonce_half).expect("what is stored passes");
    assert_eq!((read.header(), read.body()), (&header, frame.body()));
    let run = RecordRun::new(Bytes::from(stored), PLACE, Checked::No, Offset(0));
    let records: Result<Vec<_>, _> = run.collect();
    if fields.compressed {
        // The broker does not expand: only the consumer can tell that a block is not lz4.
        if let Err(error) = &records {
            assert_eq!(error, &FrameError::Batch(BatchError::Compression));
            return;
        }
    }
    let records = records.expect("what the check accepted can be read");
    assert_eq!(records.len(), usize::from(fields.record_count));
    let view = BatchView::check(
        fields.kind,
        fields.record_count,
        fields.compressed,
        frame.body(),
    )
    .expect("the publish was checked");
    for (index, (record, in_place)) in records.iter().zip(&view).enumerate() {
        assert_eq!(record.offset(), Offset(41 + index as u64));
        assert_eq!(record.key().as_deref(), in_place.key());
        assert!(record.headers().eq(in_place.headers()));
        if !fields.compressed {
            assert_eq!(record.as_bytes(), in_place.body());
        }
    }
}

fn check_stored_frame(bytes: &[u8]) -> bool {
    let FramePlace {
        seed,
        nonce_half,
        position,
    } = PLACE;
    let Ok(frame) = check_stored(bytes, seed, position, nonce_half) else {
        return false;
    };
    let again = stored_bytes(frame.header(), frame.body());
    assert_eq!(
        bytes.get(..again.len()),
        Some(again.as_slice()),
        "a frame has one form"
    );
    let shorter = again.get(..again.len() - 1).unwrap_or_default();
    assert!(check_stored(shorter, seed, position, nonce_half).is_err());
    let moved = check_stored(bytes, seed, position + 8, nonce_half);
    assert!(moved.is_err(), "a frame passes in its own place only");
    true
}

/// A run of anything ends, and its offsets rise.
fn check_run(bytes: &[u8]) {
    let mut last = None;
    for record in RecordRun::new(Bytes::copy_from_slice(bytes), PLACE, Checked::No, Offset(0)) {
        let Ok(record) = record else { continue };
        assert!(last < Some(record.offset()), "offsets rise");
        last = Some(record.offset());
    }
}

fn stored_bytes(header: &FrameHeader, body: &[u8]) -> Vec<u8> {
    let frame_bytes = header.frame_bytes();
    let word = CommitWord {
        frame_bytes,
        nonce_half: PLACE.nonce_half,
    };
    let mut bytes = word.to_u64().to_le_bytes().to_vec();
    bytes.extend_from_slice(&header.encode(PLACE.seed, PLACE.position));
    bytes.extend_from_slice(body);
    bytes.resize(frame_bytes as usize, 0);
    bytes
}

enum Form {
    Published,
    Stored,
}

/// The input with the layout version, the checksums and what they need made to fit.
fn repaired(data: &[u8], form: Form) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(bytes.len().max(64), 0);
    bytes[33] = bytes[33] & 1 | 0x10;
    let body_bytes = match form {
        Form::Published => bytes.len() - 64,
        // The length stays the input's where it fits, so that padding and what follows is tried.
        Form::Stored => {
            let asked = u32::from_le_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]) as usize;
            asked.min(bytes.len() - 64)
        }
    };
    bytes[36..40].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    if bytes[32] == FrameKind::Single.code() {
        (bytes[33], bytes[34], bytes[35]) = (0x10, 1, 0);
    }
    let body_crc = crc32c(&bytes[32..64 + body_bytes]);
    bytes[12..16].copy_from_slice(&body_crc.to_le_bytes());
    match form {
        Form::Published => {
            bytes[..12].fill(0);
            bytes[16..32].fill(0);
        }
        Form::Stored => {
            let frame_bytes = (64 + body_bytes).next_multiple_of(8);
            bytes.resize(bytes.len().max(frame_bytes), 0);
            let word = CommitWord {
                frame_bytes: frame_bytes as u32,
                nonce_half: PLACE.nonce_half,
            };
            bytes[..8].copy_from_slice(&word.to_u64().to_le_bytes());
            let mut covered = PLACE.seed.0.to_le_bytes().to_vec();
            covered.extend_from_slice(&PLACE.position.to_le_bytes());
            covered.extend_from_slice(&bytes[12..64]);
            bytes[8..12].copy_from_slice(&crc32c(&covered).to_le_bytes());
        }
    }
    bytes
}
