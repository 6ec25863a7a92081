//! Queues over the simulated disk of `storage`: random programs, struck at any point.
//!
//! As there, a *life* is one folder through several crashes, by one seed, in one thread: what the
//! threads would do is done piece by piece, when the seed says. Two queues with their dead letters,
//! one over a topic of its own and one over a topic that may be only stored; records are published
//! in all shapes, leased, settled in every way, left to their leases' end, redriven, delayed; queues
//! are paused and purged; checkpoints are written and logs trimmed; then a kill or a power loss,
//! also in the middle of a start.
//!
//! Against a plain [`model`], after each start and at each delivery: a confirmed settle holds for
//! ever; nothing is settled without a settle; what counted is never forgotten once it was said to
//! be on disk, and nothing else counts; a dead letter is there exactly once, and so is what was
//! redriven; what was purged is gone, and what is paused delivers nothing; all else is delivered
//! again.
//!
//! `MILLSTREAM_QUEUE_CRASHES=10000 cargo test -p millstream --release --lib crash` runs more, from
//! seed `MILLSTREAM_CRASH_FROM` on; `MILLSTREAM_CRASH_SEED` runs the one life that a failure named.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its numbers are small"
)]

mod hands;
mod life;
mod model;
mod observe;
mod operator;
mod program;
mod settle;

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Instant;

use life::Life;
use millstream_protocol::{Offset, TopicName};
use millstream_storage::crash::{Named, Piece, number_of};
use millstream_storage::{Failure, Operation};

/// Crashes of a run that nobody asked to be longer.
const CRASHES: u64 = 1000;

/// What was done.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    lives: u64,
    crashes: u64,
    power_losses: u64,
    at_start: u64,
    operations: u64,
    failures: u64,
    published: u64,
    delivered: u64,
    settled: u64,
    confirmed: u64,
    letters: u64,
    redriven: u64,
    checkpoints: u64,
    lost: u64,
    stops: u64,
    purges: u64,
    retentions: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.lives += other.lives;
        self.crashes += other.crashes;
        self.power_losses += other.power_losses;
        self.at_start += other.at_start;
        self.operations += other.operations;
        self.failures += other.failures;
        self.published += other.published;
        self.delivered += other.delivered;
        self.settled += other.settled;
        self.confirmed += other.confirmed;
        self.letters += other.letters;
        self.redriven += other.redriven;
        self.checkpoints += other.checkpoints;
        self.lost += other.lost;
        self.stops += other.stops;
        self.purges += other.purges;
        self.retentions += other.retentions;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} crashes ({} power losses, {} during a start), {} lives, {} operations, {} failures \
             planned, {} records published, {} delivered, {} settled, {} settles confirmed, {} dead \
             letters, {} redriven, {} checkpoints, {} unacknowledged records lost, {} clean stops, {} purges, {} retentions",
            self.crashes,
            self.power_losses,
            self.at_start,
            self.lives,
            self.operations,
            self.failures,
            self.published,
            self.delivered,
            self.settled,
            self.confirmed,
            self.letters,
            self.redriven,
            self.checkpoints,
            self.lost,
            self.stops,
            self.purges,
            self.retentions
        )
    }
}

fn live(seed: u64) -> Tally {
    let _named = Named {
        seed,
        package: "millstream",
        test: "whatever_is_struck_a_confirmed_settle_holds",
    };
    let mut life = ManuallyDrop::new(Life::new(seed));
    let tally = life.run();
    // What a panic leaves half done is not to be wound up.
    drop(ManuallyDrop::into_inner(life));
    tally
}

#[test]
fn what_a_lost_consumer_never_had_does_not_count() {
    let mut life = Life::new(3);
    let broker = life.start_with_one_delivery();
    let mut publisher = broker.publisher("jobs").unwrap();
    for number in 1..=3 {
        publisher.publish_blocking(program::body(number)).unwrap();
    }
    life.open_seat("jobs", 2);
    while life.hands.work_once() {}
    let mut consumer = life.seats.pop().unwrap().consumer;
    let first = consumer.try_next().unwrap().unwrap();
    // The second is on its way, so this waits for company, and makes room for the third.
    first.ack();
    consumer.lose();
    while life.hands.work_once() {}
    assert_eq!(life.ready_uncounted("jobs"), [1, 2]);
    drop((broker, publisher));
    life.end_well();
}

#[test]
fn what_is_scanned_when_a_consumer_is_lost_does_not_count() {
    let mut life = Life::new(3);
    let broker = life.start_with_one_delivery();
    let mut publisher = broker.publisher("jobs").unwrap();
    life.open_seat("jobs", 2);
    while life.hands.work_once() {}
    let consumer = life.seats.pop().unwrap().consumer;
    publisher.publish_blocking(program::body(1)).unwrap();
    // The queue has not seen the record yet: it does in the round that hears of the loss.
    consumer.lose();
    while life.hands.work_once() {}
    assert_eq!(life.ready_uncounted("jobs"), [0]);
    drop((broker, publisher));
    life.end_well();
}

#[test]
fn q3_a_purge_that_was_answered_holds() {
    for seed in 0..8 {
        // What a panic leaves half done is not to be wound up.
        let mut life = ManuallyDrop::new(Life::new(seed));
        let broker = ManuallyDrop::new(life.start_with_one_delivery());
        let mut publisher = broker.publisher("jobs").unwrap();
        for number in 1..=3 {
            publisher.publish_blocking(program::body(number)).unwrap();
            life.model.published("jobs", number - 1, number);
        }
        while life.hands.work_once() {}
        life.purge("jobs");
        drop((ManuallyDrop::into_inner(broker), publisher));
        life.lose_power();
        assert!(life.ready_uncounted("jobs").is_empty(), "seed {seed}");
        let mut life = ManuallyDrop::into_inner(life);
        life.end_well();
    }
}

#[test]
fn s7_a_journal_that_fails_while_a_letter_is_moved_is_replaced() {
    // What a panic leaves half done is not to be wound up.
    let mut life = ManuallyDrop::new(Life::new(5));
    let broker = ManuallyDrop::new(life.start_with_one_delivery());
    let mut publisher = broker.publisher("jobs").unwrap();
    for number in 1..=3 {
        publisher.publish_blocking(program::body(number)).unwrap();
    }
    life.open_seat("jobs", 3);
    while life.hands.work_once() {}
    let mut consumer = life.seats.pop().unwrap().consumer;
    let mut taken = [(); 3]
        .map(|()| consumer.try_next().unwrap().unwrap())
        .into_iter();
    taken.next().unwrap().reject("no");
    consumer.flush_settles();
    while life.hands.work_once() {}
    let (queues, store) = (life.queues.clone().unwrap(), life.store.clone().unwrap());
    let journal = queues.state().journal.clone().unwrap().log();
    let entry = |name| queues.entry(&TopicName::parse(name).unwrap()).unwrap();
    let (jobs, letters) = (entry("jobs"), Arc::clone(&entry("jobs.dead").queue.topic));
    let folder = life.folder.clone();
    life.failing = true;
    // The copy is made and waited for: then the journal fails, and a settle finds no room in it.
    life.hands.meanwhile(move || {
        if letters.committed() == letters.synced() {
            return false;
        }
        while store.work_by_hand(Piece::Sync) {}
        folder
            .failures()
            .fail(Operation::Sync, ".seg", 1, Failure::Device);
        taken.next().unwrap().ack();
        while journal.poisoned().is_none() {
            assert!(
                store.work_by_hand(Piece::Sync),
                "the journal is to be synced"
            );
        }
        taken.next().unwrap().ack();
        // Whoever looks has the queue take it.
        jobs.queue.look(|_, _| ()).unwrap();
        true
    });
    queues.look_after();
    queues.look_after();
    while life.hands.work_once() {}
    let left = broker.peek_queue("jobs", Offset(0), 9).unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(life.ready_uncounted("jobs.dead"), [0]);
    drop((
        ManuallyDrop::into_inner(broker),
        publisher,
        consumer,
        queues,
    ));
    let mut life = ManuallyDrop::into_inner(life);
    life.end_well();
}

#[test]
fn whatever_is_struck_a_confirmed_settle_holds() {
    if let Some(seed) = number_of("MILLSTREAM_CRASH_SEED") {
        println!("{}", live(seed));
        return;
    }
    let crashes = number_of("MILLSTREAM_QUEUE_CRASHES").unwrap_or(CRASHES);
    let first = number_of("MILLSTREAM_CRASH_FROM").unwrap_or(0);
    let began = Instant::now();
    let mut all = Tally::default();
    let mut seed = first;
    while all.crashes < crashes {
        let told = all.crashes / 10_000;
        all.add(live(seed));
        seed += 1;
        if all.crashes / 10_000 > told {
            println!("seeds {first} to {}: {all}", seed - 1);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("seeds {first} to {}, {seconds:.1} s: {all}", seed - 1);
}
