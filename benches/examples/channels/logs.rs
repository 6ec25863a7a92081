//! Logs in files: the engine as it is by default and within one segment, and walrus-rust, mapped and
//! synced only where it can't be told not to, after each batch.

use std::hint::spin_loop;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use millstream::{BatchBuilder, Durability, Publisher, Reader};
use millstream_benches::embed::Parcel;
use millstream_benches::embed::hop::{Hopped, Put, Shape, Take, hop};
use millstream_benches::stage::{
    BURST_BYTES, Stage, Topic, WAKES_EVERY, publish_batch, publish_one, step_back,
};
use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus, disable_fd_backend};

use crate::{Contender, trip};

/// Bytes of a frame with one parcel.
const FRAME_BYTES: u64 = 128;
/// Bytes asked of walrus at once.
const READ_BYTES: usize = 64 << 10;
/// The one topic of a walrus.
const TOPIC: &str = "t";

struct Publishing {
    publisher: Publisher,
    batch: BatchBuilder,
    since_wake: u64,
}

impl Publishing {
    fn on(topic: &Topic) -> Self {
        Self {
            publisher: topic.publisher(),
            batch: BatchBuilder::new(),
            since_wake: 0,
        }
    }
}

impl Put for Publishing {
    #[inline]
    fn put(&mut self, parcels: &[Parcel]) {
        if let [parcel] = parcels {
            publish_one(&mut self.publisher, &parcel.0);
        } else {
            self.batch.clear();
            for parcel in parcels {
                let pushed = self.batch.push_body(&parcel.0);
                pushed.expect("a batch of parcels fits in a frame");
            }
            publish_batch(&mut self.publisher, &self.batch);
        }
        // As a server's loop does: one look for sleepers for many messages.
        self.since_wake += parcels.len() as u64;
        if self.since_wake >= WAKES_EVERY {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.since_wake = 0;
        self.publisher.flush_wakes();
    }
}

/// Reads, and between two looks waits by what comes second.
struct Reading(Reader, fn());

impl Take for Reading {
    #[inline]
    fn take(&mut self, mut each: impl FnMut(&[u8])) -> u64 {
        let mut taken = 0;
        while let Some(record) = self.0.try_next_view() {
            each(record.expect("nothing is damaged").as_bytes());
            taken += 1;
        }
        if taken == 0 {
            (self.1)();
        }
        taken
    }
}

fn hop_on(mut stage: Stage, shape: Shape, each: u64) -> Hopped {
    let topic = stage.topic(Durability::Stored);
    let puts = (0..shape.producers).map(|_| Publishing::on(&topic));
    let puts: Vec<_> = puts.collect();
    hop(
        puts,
        Reading(topic.reader_at_end(), step_back),
        shape.batch,
        each,
    )
}

fn hop_by_default(folder: &Path, shape: Shape, each: u64) -> Option<Hopped> {
    let stage = Stage::of_runs_in(folder).expect("a fresh folder can be opened");
    Some(hop_on(stage, shape, each))
}

fn hop_in_a_segment(folder: &Path, shape: Shape, each: u64) -> Option<Hopped> {
    let stage = Stage::of_bursts_in(folder).expect("a fresh folder can be opened");
    let room = BURST_BYTES as u64 / FRAME_BYTES / shape.producers as u64;
    Some(hop_on(stage, shape, each.min(room)))
}

fn trip_through_topics(folder: &Path) -> Option<u64> {
    let mut stage = Stage::of_bursts_in(folder).expect("a fresh folder can be opened");
    let (there, back) = (
        stage.topic(Durability::Stored),
        stage.topic(Durability::Stored),
    );
    // Who waits for one answer looks as often as the others here do.
    let pair = |topic: &Topic| {
        (
            Publishing::on(topic),
            Reading(topic.reader_at_end(), spin_loop),
        )
    };
    Some(trip::p50_ns(pair(&there), pair(&back)))
}

struct Appending(Arc<Walrus>);

impl Put for Appending {
    fn put(&mut self, parcels: &[Parcel]) {
        if let [parcel] = parcels {
            let appended = self.0.append_for_topic(TOPIC, &parcel.0);
            appended.expect("the disk has room");
        } else {
            let bodies: Vec<&[u8]> = parcels.iter().map(|parcel| &parcel.0[..]).collect();
            // It refuses a batch while another is being written.
            while self.0.batch_append_for_topic(TOPIC, &bodies).is_err() {
                spin_loop();
            }
        }
    }
}

struct Consuming(Arc<Walrus>);

impl Take for Consuming {
    fn take(&mut self, mut each: impl FnMut(&[u8])) -> u64 {
        let entries = self.0.batch_read_for_topic(TOPIC, READ_BYTES, true);
        let entries = entries.expect("nothing is damaged");
        for entry in &entries {
            each(&entry.data);
        }
        if entries.is_empty() {
            spin_loop();
        }
        entries.len() as u64
    }
}

/// A walrus in a folder of its own below that of the environment.
fn walrus() -> Arc<Walrus> {
    disable_fd_backend();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let name = format!("walrus-{}", now.unwrap_or_default().as_nanos());
    let walrus = Walrus::with_consistency_and_schedule_for_key(
        &name,
        ReadConsistency::AtLeastOnce {
            persist_every: 1_000_000,
        },
        FsyncSchedule::NoFsync,
    );
    Arc::new(walrus.expect("a fresh folder can be opened"))
}

fn hop_through_walrus(_: &Path, shape: Shape, each: u64) -> Option<Hopped> {
    let walrus = walrus();
    let puts = (0..shape.producers).map(|_| Appending(Arc::clone(&walrus)));
    let puts = puts.collect();
    Some(hop(puts, Consuming(walrus), shape.batch, each))
}

fn trip_through_walrus(_: &Path) -> Option<u64> {
    let pair = || {
        let walrus = walrus();
        (Appending(Arc::clone(&walrus)), Consuming(walrus))
    };
    Some(trip::p50_ns(pair(), pair()))
}

pub(crate) fn contenders() -> Vec<Contender> {
    vec![
        Contender {
            name: "millstream",
            package: "millstream",
            keeps: "a file, checksummed; rotation and the disk in it",
            share: 1,
            hop: hop_by_default,
            trip: |_| None,
        },
        Contender {
            name: "millstream, one segment",
            package: "millstream",
            keeps: "a file, checksummed; no rotation",
            share: 1,
            hop: hop_in_a_segment,
            trip: trip_through_topics,
        },
        Contender {
            name: "walrus-rust",
            package: "walrus-rust",
            keeps: "a mapped file, checksummed; each batch is synced, singly never",
            share: 20,
            hop: hop_through_walrus,
            trip: trip_through_walrus,
        },
    ]
}
