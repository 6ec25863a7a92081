//! What the benchmarks of the hot path share: a broker in a folder of its own, topics that are fresh
//! for each stretch that is timed.
//!
//! Data lies in the system's folder for temporary files, which should be a disk and not memory. A
//! topic is deleted once it was timed, so that no benchmark holds more than [`BURST_BYTES`] or
//! [`RUN_BYTES`] there.
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use millstream::{
    AckLevel, BatchBuilder, Broker, BrokerOptions, Durability, PublishError, Publisher, Reader,
    Start, TopicOptions,
};
use tempfile::TempDir;

use crate::broker::Failure;

/// Frames of a topic that is written in one go: below what a stored topic may have unsynced, so that
/// neither a rotation nor the disk is part of what is timed.
pub const BURST_BYTES: usize = 24 << 20;
/// Frames of a topic that is written until rotations and syncs are part of what is timed.
pub const RUN_BYTES: usize = 512 << 20;
/// A publisher that runs ahead looks for sleepers once in so many messages, as a server's loop does.
pub const WAKES_EVERY: u64 = 64;

/// Bytes of the segments of a burst: room for it twice, so that no rotation is even prepared.
const BURST_SEGMENT_BYTES: u32 = 128 << 20;
const _: () = assert!(4 * BURST_BYTES < BURST_SEGMENT_BYTES as usize);

/// Why a stage without a place of its own can be opened.
const FRESH: &str = "a fresh folder for temporary files can be opened";

/// A broker in a folder of its own, which goes away with it.
#[derive(Debug)]
pub struct Stage {
    broker: Broker,
    topics: u64,
    _folder: TempDir,
}

impl Stage {
    /// A broker whose topics take a burst without a rotation.
    #[must_use]
    pub fn of_bursts() -> Self {
        Self::of_bursts_in(&std::env::temp_dir()).expect(FRESH)
    }

    /// The same, with its data below `parent`.
    ///
    /// # Errors
    ///
    /// The disk failed.
    pub fn of_bursts_in(parent: &Path) -> Result<Self, Failure> {
        let options = BrokerOptions::new()
            .segment_bytes_first(BURST_SEGMENT_BYTES)
            .segment_bytes_max(BURST_SEGMENT_BYTES);
        Self::open(options, parent)
    }

    /// A broker as it is by default.
    #[must_use]
    pub fn of_runs() -> Self {
        Self::of_runs_in(&std::env::temp_dir()).expect(FRESH)
    }

    /// The same, with its data below `parent`.
    ///
    /// # Errors
    ///
    /// The disk failed.
    pub fn of_runs_in(parent: &Path) -> Result<Self, Failure> {
        Self::open(BrokerOptions::new(), parent)
    }

    fn open(options: BrokerOptions, parent: &Path) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("millstream-bench-")
            .tempdir_in(parent)?;
        Ok(Self {
            broker: options.open(folder.path())?,
            topics: 0,
            _folder: folder,
        })
    }

    /// The broker itself.
    #[must_use]
    pub const fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Makes a topic that nobody has written to; gives its name.
    pub fn unused_topic(&mut self, durability: Durability) -> String {
        let name = format!("topic-{}", self.topics);
        self.topics += 1;
        let options = TopicOptions::new().durability(durability);
        self.broker
            .create_topic(&name, options)
            .expect("a new name in an open broker");
        name
    }

    /// Makes a topic that nobody has written to, and leaves its first segment ready.
    pub fn topic(&mut self, durability: Durability) -> Topic {
        let topic = Topic {
            name: self.unused_topic(durability),
            broker: self.broker.clone(),
        };
        let mut publisher = topic.publisher();
        publish_one(&mut publisher, b"first");
        publisher.flush_wakes();
        wait_synced(&mut publisher);
        topic
    }
}

/// A topic that is deleted with this value.
#[derive(Debug)]
pub struct Topic {
    broker: Broker,
    name: String,
}

impl Topic {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its broker.
    #[must_use]
    pub const fn broker(&self) -> &Broker {
        &self.broker
    }

    /// A publisher that has its segment already.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        let mut publisher = self.broker.publisher(&self.name).expect("the topic exists");
        publish_one(&mut publisher, b"warm");
        publisher
    }

    /// A reader behind everything published so far.
    #[must_use]
    pub fn reader_at_end(&self) -> Reader {
        self.broker
            .reader(&self.name, Start::Latest)
            .expect("the topic exists")
    }

    /// A reader of everything.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.broker
            .reader(&self.name, Start::Earliest)
            .expect("the topic exists")
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // Whatever became of the benchmark, the folder goes away with the stage.
        let _ = self.broker.delete_topic(&self.name);
    }
}

/// A body of `len_bytes` bytes.
#[must_use]
pub fn body(len_bytes: usize) -> Vec<u8> {
    (0..=250).cycle().take(len_bytes).collect()
}

/// A batch of `records` such bodies.
#[must_use]
pub fn batch(records: usize, len_bytes: usize) -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    let body = body(len_bytes);
    for _ in 0..records {
        batch.push_body(&body).expect("the batch fits in a frame");
    }
    batch
}

/// Publishes one message, and waits where the log has no room at this moment.
#[inline]
pub fn publish_one(publisher: &mut Publisher, body: &[u8]) {
    while let Err(error) = publisher.try_publish(body) {
        wait_for_room(publisher, &error);
    }
}

/// Publishes a batch, and waits where the log has no room at this moment.
#[inline]
pub fn publish_batch(publisher: &mut Publisher, batch: &BatchBuilder) {
    while let Err(error) = publisher.try_publish_batch(batch) {
        wait_for_room(publisher, &error);
    }
}

#[cold]
fn wait_for_room(publisher: &mut Publisher, error: &PublishError) {
    assert_eq!(*error, PublishError::Rotating, "publishing goes on");
    publisher.flush_wakes();
    park_until(|cx| publisher.poll_ready(cx)).expect("the next segment can be made");
}

/// Waits until everything published so far is on disk.
pub fn wait_synced(publisher: &mut Publisher) {
    publisher.flush_wakes();
    let end = publisher.reached(AckLevel::Stored);
    park_until(|cx| publisher.poll_reached(AckLevel::Synced, end, cx)).expect("the disk works");
}

/// The time of `iterations` stretches, each on a fresh topic.
pub fn time_stretches(
    iterations: u64,
    mut fresh: impl FnMut() -> Topic,
    mut stretch: impl FnMut(&Topic) -> Duration,
) -> Duration {
    (0..iterations).map(|_| stretch(&fresh())).sum()
}

/// Work for a thread of its own.
pub type Work<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Runs `work` on as many threads as it has elements, all let go at once; the time until the last
/// has finished.
pub fn time_together(work: Vec<Work<'_>>) -> Duration {
    let barrier = std::sync::Barrier::new(work.len() + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = work
            .into_iter()
            .map(|work| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    work();
                    (start, Instant::now())
                })
            })
            .collect();
        barrier.wait();
        let times: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().expect("the measured code does not panic"))
            .collect();
        let first = times.iter().map(|(start, _)| *start).min();
        let last = times.iter().map(|(_, end)| *end).max();
        match (first, last) {
            (Some(first), Some(last)) => last - first,
            _ => Duration::ZERO,
        }
    })
}

/// Pauses as long as a queue's own backoff would for the first few attempts, so that whoever polls
/// leaves the line being written alone.
#[inline]
pub fn step_back() {
    for _ in 0..16 {
        std::hint::spin_loop();
    }
}

/// Wakes by a message, so that a poll can be waited for without a runtime.
struct Bell(std::sync::mpsc::SyncSender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // A bell that rang and was not heard yet need not ring again.
        let _ = self.0.try_send(());
    }
}

fn park_until<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let (sender, bell): (_, Receiver<()>) = sync_channel(1);
    let waker = Waker::from(Arc::new(Bell(sender)));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = poll(&mut cx) {
            return value;
        }
        bell.recv().expect("the waker keeps the bell");
    }
}
