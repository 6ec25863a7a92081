//! Batches as rkyv itself writes them, so that tests can make those no builder would.
#![allow(dead_code, reason = "each test file uses a part of it")]

use millstream_protocol::Offset;
use millstream_protocol::checksum::crc32c;
use millstream_protocol::frame::{
    CommitWord, FrameHeader, FrameKind, FrameSeed, ProducerStamp, PublisherFields, body_crc,
    publish_header,
};
use rkyv::rancor::Error;
use rkyv::{Archive, Serialize};

pub(crate) const SEED: FrameSeed = FrameSeed(0x5eed_5eed);
pub(crate) const NONCE_HALF: u32 = 0x1234_5678;
pub(crate) const POSITION: u32 = 12_288;

#[derive(Archive, Serialize)]
pub(crate) struct Batch {
    pub(crate) ends: Vec<u32>,
    pub(crate) payload: Vec<u8>,
    pub(crate) columns: Vec<Column>,
}

#[derive(Archive, Serialize)]
pub(crate) struct Column {
    pub(crate) kind: u8,
    pub(crate) ends: Vec<u32>,
    pub(crate) words: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

impl Batch {
    /// Two records, "ab" and "cde", with these columns.
    pub(crate) fn of_two(columns: Vec<Column>) -> Vec<u8> {
        Self {
            ends: vec![2, 5],
            payload: b"abcde".to_vec(),
            columns,
        }
        .body()
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        rkyv::to_bytes::<Error>(self).unwrap().to_vec()
    }
}

impl Column {
    pub(crate) fn of_bytes(kind: u8, ends: &[u32], bytes: &[u8]) -> Self {
        Self {
            kind,
            ends: ends.to_vec(),
            words: Vec::new(),
            bytes: bytes.to_vec(),
        }
    }

    pub(crate) fn of_words(kind: u8, words: &[u64]) -> Self {
        Self {
            kind,
            ends: Vec::new(),
            words: words.to_vec(),
            bytes: Vec::new(),
        }
    }
}

pub(crate) fn batch_fields(record_count: u16, body: &[u8]) -> PublisherFields {
    PublisherFields {
        kind: FrameKind::Batch,
        compressed: false,
        record_count,
        body_bytes: u32::try_from(body.len()).unwrap(),
        producer: ProducerStamp::NONE,
    }
}

/// A publish of `body`, whatever it is.
pub(crate) fn publish(fields: &PublisherFields, body: &[u8]) -> Vec<u8> {
    [publish_header(fields, body).as_slice(), body].concat()
}

/// Changes a publish and makes its checksum fit again.
pub(crate) fn change_publish(bytes: &mut [u8], change: impl FnOnce(&mut [u8])) {
    change(bytes);
    let crc = crc32c(&bytes[32..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// A frame as stored at `position`.
pub(crate) fn stored(fields: PublisherFields, body: &[u8], base: u64, position: u32) -> Vec<u8> {
    let header = FrameHeader {
        fields,
        body_crc: body_crc(&fields, body),
        base_offset: Offset(base),
        append_time_us: 1_790_000_000_000_000,
    };
    let word = CommitWord {
        frame_bytes: header.frame_bytes(),
        nonce_half: NONCE_HALF,
    };
    let mut bytes = word.to_u64().to_le_bytes().to_vec();
    bytes.extend_from_slice(&header.encode(SEED, position));
    bytes.extend_from_slice(body);
    bytes.resize(header.frame_bytes() as usize, 0);
    bytes
}

/// Changes a stored frame at [`POSITION`] and makes both checksums fit again.
pub(crate) fn change_stored(bytes: &mut [u8], change: impl FnOnce(&mut [u8])) {
    change(bytes);
    let body_bytes = u32::from_le_bytes(bytes[36..40].try_into().unwrap()) as usize;
    let crc = crc32c(&bytes[32..bytes.len().min(64 + body_bytes)]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let covered = [
        SEED.0.to_le_bytes().as_slice(),
        &POSITION.to_le_bytes(),
        &bytes[12..64],
    ]
    .concat();
    bytes[8..12].copy_from_slice(&crc32c(&covered).to_le_bytes());
}
