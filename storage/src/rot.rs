//! Rot: bits flipped anywhere, and what is left of the log.
//!
//! Every file of a folder is flipped bit by bit, one at a time; then the folder is opened, everything
//! in it is read and compared with what was published, and `verify` is asked. What is delivered is
//! what was published, record by record; what is lost is what `FAULTS` allows, and is told as a gap;
//! the store always opens, or, for the manifest, refuses, names the byte and changes nothing.
//!
//! By default one bit in [`STRIDE`] is flipped. `MILLSTREAM_ROT_STRIDE=1 cargo test -p
//! millstream-storage --release --lib rot -- --nocapture` flips them all.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its numbers are small"
)]

mod forged;
mod repaired;
mod sealed;
mod unsealed;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use millstream_protocol::batch::{BatchBuilder, BatchView};
use millstream_protocol::control::GapReason;
use millstream_protocol::frame::{FrameKind, ProducerStamp, PublisherFields, walk_stored};
use millstream_protocol::{Durability, Offset, Start, TopicName};

use crate::appender::{AppendError, Appended, Appender};
use crate::crash::Piece;
use crate::dump::SegmentDump;
use crate::folder::Folder;
use crate::heap::HeapFolder;
use crate::log::Log;
use crate::reader::{Chunk, LogReader};
use crate::store::{Store, StoreOptions};
use crate::verify::{VerifyError, VerifyReport, verify_folder};

/// Bits from one that is flipped to the next, when nobody asks for more. Odd, so that every bit of a
/// byte has its turn.
const STRIDE: usize = 397;

fn stride() -> usize {
    match std::env::var("MILLSTREAM_ROT_STRIDE") {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => STRIDE,
    }
}

/// Where one frame lies, and its records.
#[derive(Debug, Clone, Copy)]
struct Frame {
    start: usize,
    end: usize,
    first: u64,
    next: u64,
    time_us: u64,
}

/// Offset and body of each record.
type Records = BTreeMap<u64, Vec<u8>>;

/// What a reader is given of one log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    records: Records,
    gaps: Vec<(u64, u64)>,
}

impl Read {
    /// The offsets below `end` that are neither delivered nor expected to be void.
    fn lost(&self, published: &Records) -> Vec<u64> {
        published
            .keys()
            .filter(|offset| !self.records.contains_key(offset))
            .copied()
            .collect()
    }

    /// Asserts that only what was published came, byte for byte, and that a gap was told for all that
    /// did not come.
    #[track_caller]
    fn check(&self, published: &Records, what: &dyn fmt::Display) {
        for (offset, body) in &self.records {
            assert!(
                published.get(offset) == Some(body),
                "{what}: record {offset} is not what was published"
            );
        }
        for offset in self.lost(published) {
            let told = self
                .gaps
                .iter()
                .any(|(first, next)| (*first..*next).contains(&offset));
            assert!(
                told,
                "{what}: record {offset} is missing and no gap says so"
            );
        }
    }
}

/// What a run did.
#[derive(Debug, Default)]
struct Counts {
    flipped: usize,
    delivered: usize,
    lost: usize,
    refused: usize,
}

impl Counts {
    fn print(&self, what: &str) {
        eprintln!(
            "{what}: {} bits flipped, {} deliveries checked, {} records lost to gaps, {} folders refused",
            self.flipped, self.delivered, self.lost, self.refused
        );
    }
}

fn options() -> StoreOptions {
    StoreOptions {
        sync_workers: 1,
        segment_bytes_first: 1 << 20,
        segment_bytes_max: 1 << 20,
    }
}

/// A store without threads: what they would do is done by hand.
fn open(folder: &HeapFolder) -> Store {
    Store::open_by_hand(Arc::new(folder.clone()), &options()).unwrap()
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

fn log_of(store: &Store, name: &str) -> Arc<Log> {
    store
        .log(&topic(name))
        .unwrap_or_else(|| store.create_log(&topic(name), Durability::Synced).unwrap())
}

/// Appends one frame; the segment it needs is prepared by hand.
fn append(
    store: &Store,
    appender: &mut Appender,
    fields: &PublisherFields,
    body: &[u8],
) -> Appended {
    loop {
        match appender.try_append_with(fields, |room| room.put(body)) {
            Ok(appended) => {
                appender.announce();
                return appended;
            }
            Err(AppendError::Rotating) => while store.work_by_hand(Piece::Prepare) {},
            Err(error) => panic!("{error}"),
        }
    }
}

fn publish(store: &Store, appender: &mut Appender, body: &[u8]) -> Appended {
    let fields = PublisherFields::single(u32::try_from(body.len()).unwrap());
    append(store, appender, &fields, body)
}

fn publish_batch(store: &Store, appender: &mut Appender, bodies: &[Vec<u8>]) -> Appended {
    let mut batch = BatchBuilder::new();
    for body in bodies {
        batch.push_body(body).unwrap();
    }
    let mut frame = Vec::new();
    batch.encode_frame(ProducerStamp::NONE, &mut frame);
    append(store, appender, &batch.fields(), &frame[64..])
}

fn sync(store: &Store) {
    while store.work_by_hand(Piece::Sync) {}
}

/// Everything that a reader is given of `log` up to where it is visible.
fn read_all(log: &Arc<Log>) -> Read {
    read_from(log, Start::Offset(Offset(0)))
}

fn read_from(log: &Arc<Log>, start: Start) -> Read {
    let mut reader = LogReader::new(log, start);
    let mut cx = Context::from_waker(Waker::noop());
    let mut read = Read::default();
    loop {
        match reader.poll_next(1 << 20, &mut cx) {
            Poll::Ready(Ok(Chunk::Frames(slice))) => {
                let (mut bytes, mut place) = (slice.as_bytes(), slice.place());
                while !bytes.is_empty() {
                    let frame =
                        walk_stored(bytes, place.seed, place.position, place.nonce_half).unwrap();
                    take(&frame, &mut read.records);
                    place.position += frame.frame_bytes();
                    bytes = &bytes[frame.frame_bytes() as usize..];
                }
            }
            Poll::Ready(Ok(Chunk::Gap(gap))) => {
                assert!(gap.next_offset > gap.first_offset);
                assert!(matches!(gap.reason, GapReason::Damaged | GapReason::Void));
                read.gaps.push((gap.first_offset.0, gap.next_offset.0));
            }
            Poll::Ready(Err(_)) => return read,
            Poll::Pending if log.shared().work.by_hand(Piece::Fetch) => {}
            Poll::Pending => return read,
        }
    }
}

fn take(frame: &millstream_protocol::frame::StoredFrame<'_>, records: &mut Records) {
    let (header, fields) = (frame.header(), frame.header().fields);
    if !matches!(fields.kind, FrameKind::Single | FrameKind::Batch) {
        return;
    }
    let view = BatchView::check(fields.kind, fields.record_count, false, frame.body()).unwrap();
    for (offset, record) in (header.base_offset.0..).zip(view.iter()) {
        let before = records.insert(offset, record.body().to_vec());
        assert!(before.is_none(), "record {offset} came twice");
    }
}

/// Where the frames of a segment lie, its seal not.
fn frames_of(folder: &HeapFolder, file: &str) -> Vec<Frame> {
    SegmentDump::open(folder, file)
        .unwrap()
        .filter_map(|dumped| {
            let header = dumped.header.expect("nothing is damaged yet");
            (header.fields.kind != FrameKind::Seal).then(|| Frame {
                start: dumped.position as usize,
                end: (dumped.position + header.frame_bytes()) as usize,
                first: header.base_offset.0,
                next: header.next_offset().0,
                time_us: header.append_time_us,
            })
        })
        .collect()
}

/// Names and bytes of all files.
fn contents(folder: &HeapFolder) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for name in folder.list("").unwrap() {
        match folder.read_file(&name) {
            Ok(bytes) => drop(all.insert(name, bytes)),
            Err(_) => {
                for file in folder.list(&name).unwrap() {
                    let path = format!("{name}/{file}");
                    all.insert(path.clone(), folder.read_file(&path).unwrap());
                }
            }
        }
    }
    all
}

fn verify(folder: &HeapFolder) -> Result<VerifyReport, VerifyError> {
    verify_folder(folder, &mut |_| ())
}

/// A copy of `folder` in which one bit of `file` is flipped.
fn flipped(folder: &HeapFolder, file: &str, bit: usize) -> HeapFolder {
    let left = folder.duplicate();
    left.edit(file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8))
        .unwrap();
    left
}
