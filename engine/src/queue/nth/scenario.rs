//! What is played: a prologue in which nothing fails, and the act in which every call fails once.

use std::time::Duration;

use millstream_storage::crash::End;

use super::ledger::Told;
use super::stage::Stage;

/// One scenario.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) prepare: fn(&mut Stage),
    pub(super) act: fn(&mut Stage),
}

/// One of these fits into a segment, and no two.
const LARGE: usize = 30_000;

/// All of them.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("the first queue is created", Stage::open, Stage::create),
    scenario("records are published to a queue", made, |stage| {
        stage.publish(3, 100);
        stage.publish(1, LARGE);
    }),
    scenario("records are settled one by one", published, |stage| {
        settle(stage, Stage::ack);
    }),
    scenario("a record is tried again later", published, |stage| {
        settle(stage, |_, delivery| {
            delivery.retry_after(Duration::from_secs(1))
        });
        stage.settle_down();
        settle(stage, Stage::ack);
    }),
    scenario("records become dead letters", published, |stage| {
        settle(stage, Stage::reject);
        stage.settle_down();
    }),
    scenario("dead letters are redriven", dead, |stage| {
        stage.redrive();
        stage.settle_down();
    }),
    scenario("a cursor is committed", published, |stage| {
        stage.commit_cursor(2);
        stage.commit_cursor(1);
    }),
    scenario("a queue is purged", published, Stage::purge),
    scenario("a queue is deleted and made again", published, |stage| {
        stage.delete();
        stage.settle_down();
        stage.create();
    }),
    scenario(
        "checkpoints are written, the journal trimmed",
        busy,
        |stage| {
            stage.checkpoint();
            settle(stage, Stage::ack);
            stage.checkpoint();
        },
    ),
    scenario("settled segments are trimmed", large, |stage| {
        settle(stage, Stage::ack);
        stage.settle_down();
        stage.settle_down();
    }),
    scenario("a broker with queues is closed", held, Stage::close),
    scenario("queues are opened again", closed, |stage| {
        stage.open();
        stage.settle_down();
    }),
    scenario("queues are recovered after a kill", killed, |stage| {
        stage.open();
        stage.settle_down();
    }),
    scenario("moves are finished after a power loss", moving, |stage| {
        stage.open();
        stage.settle_down();
    }),
];

const fn scenario(name: &'static str, prepare: fn(&mut Stage), act: fn(&mut Stage)) -> Scenario {
    Scenario { name, prepare, act }
}

/// Takes up to three records, and settles each by `how`.
fn settle(stage: &mut Stage, how: fn(&mut Stage, crate::Delivery)) {
    let Some(mut consumer) = stage.consumer("jobs") else {
        return;
    };
    for delivery in stage.receive(&mut consumer, 3) {
        how(stage, delivery);
    }
}

fn made(stage: &mut Stage) {
    stage.open();
    stage.create();
}

fn published(stage: &mut Stage) {
    made(stage);
    stage.publish(5, 100);
}

fn large(stage: &mut Stage) {
    made(stage);
    stage.publish(5, LARGE);
}

fn dead(stage: &mut Stage) {
    published(stage);
    settle(stage, Stage::reject);
    stage.settle_down();
}

/// A journal of several segments, with a checkpoint.
fn busy(stage: &mut Stage) {
    published(stage);
    stage.checkpoint();
    for next in 1..1200 {
        stage.commit_cursor(next);
    }
}

/// Deliveries are out.
fn held(stage: &mut Stage) {
    published(stage);
    let mut consumer = stage.consumer("jobs").unwrap();
    let mut taken = stage.receive(&mut consumer, 3);
    let first = taken.remove(0);
    stage.ack(first);
    drop(taken);
}

fn closed(stage: &mut Stage) {
    busy(stage);
    settle(stage, Stage::ack);
    stage.close();
}

fn killed(stage: &mut Stage) {
    dead(stage);
    settle(stage, Stage::ack);
    stage.crash((End::Kill, 1));
}

/// Rejected, on disk, and not moved yet.
fn moving(stage: &mut Stage) {
    published(stage);
    settle(stage, Stage::reject);
    stage.ledger.tell_all(Told::Dead, Told::RejectSent);
    stage.publish(1, 100);
    stage.crash((End::PowerLoss, 3));
}
