//! No allocation per message: publishing into a segment allocates nothing, reading allocates once a
//! delivery.
//!
//! Only what the calling thread allocates is counted; making segments ready is another thread's work.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use millstream::{
    BatchBuilder, Broker, BrokerOptions, Chunk, Durability, Message, Offset, PublishError,
    Publisher, Reader, Start, TopicOptions,
};
use millstream_protocol::frame::{PublisherFields, check_publish, publish_header};

/// Large enough for everything a test publishes.
const SEGMENT_BYTES: u32 = 32 << 20;
/// What `Reader` takes at a time.
const DELIVERY_BYTES: usize = 1 << 20;
const MESSAGES: usize = 10_000;

thread_local! {
    /// Allocations made by this thread. Without a destructor, so it may be used at any time.
    static MADE: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

fn count() {
    MADE.set(MADE.get() + 1);
}

// SAFETY: every call goes on to the system's allocator with the arguments as they came; the count
// beside it is a number of this thread and allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises; the block came from the system's allocator.
        unsafe { System.realloc(block, layout, bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; the block came from the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` returns, and how many allocations it made in this thread.
fn counted<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = MADE.get();
    let value = work();
    (value, MADE.get() - before)
}

struct Stage {
    broker: Broker,
    _folder: tempfile::TempDir,
}

/// A broker with a stored topic `t` whose segment outlasts the test.
fn stage() -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let broker = BrokerOptions::new()
        .segment_bytes_first(SEGMENT_BYTES)
        .segment_bytes_max(SEGMENT_BYTES)
        .open(folder.path())
        .unwrap();
    let options = TopicOptions::new().durability(Durability::Stored);
    broker.create_topic("t", options).unwrap();
    Stage {
        broker,
        _folder: folder,
    }
}

/// A publisher that has its segment, and whose log is marked for a sync that is half a second away.
fn warm_publisher(broker: &Broker) -> Publisher {
    let mut publisher = broker.publisher("t").unwrap();
    publisher.publish_blocking("warm").unwrap();
    publisher
}

/// Publishes `MESSAGES` times and returns how many allocations that made.
fn allocations_of(
    publisher: &mut Publisher,
    mut publish: impl FnMut(&mut Publisher) -> Result<(), PublishError>,
) -> usize {
    let (done, allocations) = counted(|| {
        for number in 1..=MESSAGES {
            publish(publisher)?;
            if number % 64 == 0 {
                publisher.flush_wakes();
            }
        }
        Ok::<_, PublishError>(())
    });
    done.unwrap();
    allocations
}

fn sent_frame(body: &[u8]) -> Vec<u8> {
    let fields = PublisherFields::single(u32::try_from(body.len()).unwrap());
    let mut frame = publish_header(&fields, body).to_vec();
    frame.extend_from_slice(body);
    frame
}

#[test]
fn publishing_singles_allocates_nothing() {
    let stage = stage();
    let mut publisher = warm_publisher(&stage.broker);
    let body = [7; 100];
    let allocations = allocations_of(&mut publisher, |publisher| {
        publisher.try_publish(&body).map(drop)
    });
    assert_eq!(allocations, 0);
}

#[test]
fn publishing_a_reused_batch_allocates_nothing() {
    let stage = stage();
    let mut publisher = warm_publisher(&stage.broker);
    let key = Message::new("body of a message")
        .key("key")
        .header("name", "value");
    let mut batch = BatchBuilder::new();
    let fill = |batch: &mut BatchBuilder| {
        batch.clear();
        for _ in 0..8 {
            batch.push_body(&[7; 100]).unwrap();
            batch.push(&key).unwrap();
        }
    };
    fill(&mut batch);
    let allocations = allocations_of(&mut publisher, |publisher| {
        fill(&mut batch);
        publisher.try_publish_batch(&batch).map(drop)
    });
    assert_eq!(allocations, 0);
}

#[test]
fn publishing_a_frame_as_it_came_allocates_nothing() {
    let stage = stage();
    let mut publisher = warm_publisher(&stage.broker);
    let frame = sent_frame(&[7; 100]);
    let allocations = allocations_of(&mut publisher, |publisher| {
        let frame = check_publish(&frame).unwrap();
        publisher.try_publish_frame(&frame).map(drop)
    });
    assert_eq!(allocations, 0);
}

#[test]
fn learning_what_is_stored_allocates_nothing() {
    let stage = stage();
    let mut publisher = warm_publisher(&stage.broker);
    let mut last = Offset(0);
    let allocations = allocations_of(&mut publisher, |publisher| {
        last = publisher.try_publish(b"body")?.end;
        assert_eq!(publisher.reached(millstream::AckLevel::Stored), last);
        Ok(())
    });
    assert_eq!(allocations, 0);
}

/// Publishes so much that reading it takes several deliveries; how many it takes at least.
fn publish_for_readers(broker: &Broker, body_bytes: usize, batch_records: usize) -> usize {
    let mut publisher = warm_publisher(broker);
    let mut batch = BatchBuilder::new();
    for _ in 0..batch_records {
        batch.push_body(&vec![7; body_bytes]).unwrap();
    }
    for _ in 0..MESSAGES.div_ceil(batch_records) {
        publisher.try_publish_batch(&batch).unwrap();
    }
    publisher.flush_wakes();
    let info = broker.topic("t").unwrap();
    usize::try_from(info.bytes).unwrap() / DELIVERY_BYTES + 1
}

fn read_to_end(reader: &mut Reader) -> usize {
    let mut records = 0;
    while let Some(record) = reader.try_next() {
        records += usize::from(!record.unwrap().as_bytes().is_empty());
    }
    records
}

/// A delivery is one owner behind a `Bytes`; the last look, at the end, registers a waiter.
fn reading_allocates_at_most(deliveries: usize) -> usize {
    deliveries + 2
}

#[test]
fn reading_records_allocates_once_a_delivery() {
    for (body_bytes, batch_records) in [(1000, 1), (1000, 50), (10, 1)] {
        let stage = stage();
        let deliveries = publish_for_readers(&stage.broker, body_bytes, batch_records);
        let mut reader = stage.broker.reader("t", Start::Earliest).unwrap();
        let (records, allocations) = counted(|| read_to_end(&mut reader));
        assert_eq!(records, MESSAGES + 1);
        assert!(
            allocations <= reading_allocates_at_most(deliveries),
            "{allocations} allocations for {deliveries} deliveries of {records} records"
        );
    }
}

#[test]
fn reading_frames_as_they_lie_allocates_nothing() {
    let stage = stage();
    let deliveries = publish_for_readers(&stage.broker, 1000, 10);
    let mut reader = stage.broker.reader("t", Start::Earliest).unwrap();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let ((frames, slices), allocations) = counted(|| {
        let (mut frames, mut slices) = (0, 0);
        while let std::task::Poll::Ready(delivery) =
            reader.poll_frames(u32::try_from(DELIVERY_BYTES).unwrap(), &mut cx)
        {
            let Chunk::Frames(slice) = delivery.unwrap() else {
                panic!("nothing is missing");
            };
            frames += slice.as_bytes().len();
            slices += 1;
        }
        (frames, slices)
    });
    assert!(frames > MESSAGES * 1000);
    assert!(slices <= deliveries + 1, "{slices} slices");
    // Frames are handed out where they lie; only the waiter at the end allocates.
    assert!(allocations <= 1, "{allocations} allocations");
}
