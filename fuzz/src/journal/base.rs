//! The folders whose journals are damaged: made once by the broker itself, and left as a kill leaves
//! them.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use millstream::{
    Backoff, Broker, Consumer, ConsumerOptions, Delivery, QueueInfo, QueueOptions, QueueSettings,
};
use millstream_storage::{HeapFolder, StoreOptions};

use crate::folder::{Frame, Snapshot};

pub(crate) const QUEUE: &str = "jobs";
pub(crate) const DEAD: &str = "jobs.dead";
pub(crate) const JOURNAL: &str = "$journal";

/// What somebody was told became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Acked,
    /// It is a dead letter.
    Rejected,
    /// It was delivered once in vain.
    Retried,
}

/// One settle, and the frames of the journal that may say so: one of them does.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    pub(crate) record: usize,
    pub(crate) told: Told,
    pub(crate) frames: Range<u64>,
}

/// A folder, how many records were published to its queue, and what became of them.
pub(crate) struct Base {
    pub(crate) snapshot: Snapshot,
    pub(crate) records: usize,
    pub(crate) settled: Vec<Settled>,
    /// The frames that make the queue and that of its dead letters.
    pub(crate) made: Range<u64>,
}

/// All of them.
pub(crate) fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| vec![plain(), checkpoints(), second_run()])
}

pub(crate) fn open(folder: &HeapFolder) -> Broker {
    let options = StoreOptions {
        sync_workers: 1,
        segment_bytes_first: 1 << 20,
        segment_bytes_max: 1 << 20,
    };
    millstream::fuzzing::open_folder(Arc::new(folder.clone()), &options).expect("it opens")
}

/// A body that says of itself which it is.
pub(crate) fn body(record: usize) -> Vec<u8> {
    format!("record {record} {}", ".".repeat(record * 7)).into_bytes()
}

pub(crate) fn consumer(broker: &Broker) -> Result<Consumer, millstream::QueueError> {
    broker.consumer(QUEUE, ConsumerOptions::new().prefetch(0))
}

/// Takes one delivery, where there is one.
pub(crate) fn take(consumer: &mut Consumer) -> Option<Delivery> {
    let taken = consumer.receive_blocking(1, Duration::from_secs(20));
    taken.ok()?.pop()
}

/// Waits until what the queue has on its way has arrived.
pub(crate) fn arrived(broker: &Broker) -> QueueInfo {
    loop {
        let info = broker.queue(QUEUE).expect("the queue is there");
        if info.moving == 0 {
            return info;
        }
        std::thread::yield_now();
    }
}

/// A broker that is worked with, frame by frame.
struct Run {
    folder: HeapFolder,
    broker: Broker,
    base: Base,
}

impl Run {
    fn new(folder: HeapFolder, base: Base) -> Self {
        Self {
            broker: open(&folder),
            folder,
            base,
        }
    }

    /// Behind the last frame of the journal.
    fn journal_end(&self) -> u64 {
        let snapshot = Snapshot::of(&self.folder);
        let log = snapshot.log(JOURNAL);
        let files = snapshot.of_log(log);
        let frames = files.flat_map(|file| &file.frames);
        frames
            .map(Frame::offsets)
            .map(|offsets| offsets.end)
            .max()
            .unwrap_or(0)
    }

    fn publish(&mut self, records: usize) {
        let mut publisher = self.broker.publisher(QUEUE).expect("the topic is there");
        for record in self.base.records..self.base.records + records {
            publisher
                .publish_blocking(body(record))
                .expect("it is synced");
        }
        self.base.records += records;
    }

    /// Settles the next delivery as `told`, and waits until that is on disk.
    fn settle(&mut self, told: Told) {
        let before = self.journal_end();
        let mut consumer = consumer(&self.broker).expect("the queue is there");
        let delivery = take(&mut consumer).expect("there is one");
        let text = String::from_utf8_lossy(delivery.as_bytes()).into_owned();
        let number = text.split(' ').nth(1).expect("the body says which it is");
        let record = number.parse().expect("a number");
        match told {
            Told::Acked => delivery.ack_confirmed_blocking().expect("it is acked"),
            Told::Rejected => {
                delivery.reject("no");
                consumer.flush_settles();
                // Another settle that is confirmed comes behind it.
                while self.broker.queue(QUEUE).expect("the queue").dead == self.dead() {
                    std::thread::yield_now();
                }
                arrived(&self.broker);
            }
            Told::Retried => {
                delivery.retry();
                consumer.flush_settles();
                consumer.close();
                self.wait_frames(before);
            }
        }
        let frames = before..self.journal_end();
        assert!(!frames.is_empty(), "a settle is journalled");
        self.base.settled.push(Settled {
            record,
            told,
            frames,
        });
    }

    /// Dead letters so far.
    fn dead(&self) -> u64 {
        let told = |settled: &&Settled| settled.told == Told::Rejected;
        self.base.settled.iter().filter(told).count() as u64
    }

    fn wait_frames(&self, before: u64) {
        while self.journal_end() == before {
            std::thread::yield_now();
        }
    }

    fn checkpoint(&self) {
        millstream::fuzzing::checkpoint(&self.broker).expect("it is written");
    }

    /// What a kill leaves now.
    fn killed(mut self) -> Base {
        // An ack that is confirmed behind everything: all before it is synced.
        self.settle(Told::Acked);
        let mut holder = consumer(&self.broker).expect("the queue is there");
        let held = take(&mut holder);
        self.base.snapshot = Snapshot::of(&self.folder);
        drop((held, holder));
        self.broker.close().expect("it closes");
        self.base
    }
}

fn begun() -> Run {
    let folder = HeapFolder::new();
    let snapshot = Snapshot::empty();
    let base = Base {
        snapshot,
        records: 0,
        settled: Vec::new(),
        made: 0..0,
    };
    let mut run = Run::new(folder, base);
    let settings = QueueSettings {
        backoff: Backoff {
            first_ms: 0,
            cap_ms: 0,
            multiplier_milli: 1000,
            jitter_percent: 0,
        },
        ..QueueSettings::default()
    };
    let options = QueueOptions::new().settings(settings);
    run.broker.create_queue(QUEUE, options).expect("it is made");
    run.base.made = 0..run.journal_end();
    run
}

fn work(run: &mut Run) {
    run.publish(9);
    for told in [
        Told::Acked,
        Told::Rejected,
        Told::Acked,
        Told::Retried,
        Told::Acked,
    ] {
        run.settle(told);
    }
}

/// A journal without a checkpoint.
fn plain() -> Base {
    let mut run = begun();
    work(&mut run);
    run.killed()
}

/// Two checkpoints, and journal behind each.
fn checkpoints() -> Base {
    let mut run = begun();
    work(&mut run);
    run.checkpoint();
    run.publish(6);
    run.settle(Told::Acked);
    run.settle(Told::Retried);
    run.checkpoint();
    run.settle(Told::Rejected);
    run.killed()
}

/// Killed once before: its journal has a segment that recovery ended.
fn second_run() -> Base {
    let first = checkpoints();
    let folder = first.snapshot.folder.duplicate();
    let mut run = Run::new(folder, first);
    run.publish(3);
    run.settle(Told::Acked);
    run.settle(Told::Rejected);
    run.killed()
}
