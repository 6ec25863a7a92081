//! What is played: a prologue in which nothing fails, and the act in which every call fails once.

use millstream_protocol::Durability;

use super::super::disk::End;
use super::stage::Stage;
use crate::layout::FRAMES_START;
use crate::manifest::Entry;

/// One scenario.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) prepare: fn(&mut Stage),
    pub(super) act: fn(&mut Stage),
}

const T: &str = "t";
/// One of these fits into a segment, and no two.
const LARGE: usize = 30_000;
/// Four of these, so that the next one is no larger.
const QUARTER: usize = 10_000;

/// All of them.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("a new folder is opened", |_| {}, Stage::open),
    scenario("a topic is created", Stage::open, |stage| {
        stage.create(T, Durability::Synced);
    }),
    scenario("the first record is synced", created, |stage| {
        stage.publish_synced(T, 100);
    }),
    scenario("the first record is stored", created_stored, |stage| {
        stage.publish(T, 100);
        stage.settle_down();
    }),
    scenario("records are synced one by one", running, |stage| {
        for _ in 0..3 {
            stage.publish_synced(T, 3000);
        }
        stage.settle_down();
    }),
    scenario(
        "stored records are synced in time",
        running_stored,
        |stage| {
            for _ in 0..3 {
                stage.publish(T, 3000);
            }
            stage.settle_down();
            stage.publish_synced(T, 100);
        },
    ),
    scenario("segments are rotated", running, |stage| {
        for _ in 0..2 {
            stage.publish_synced(T, LARGE);
        }
    }),
    scenario("a stored topic rotates", running_stored, |stage| {
        for _ in 0..2 {
            stage.publish(T, LARGE);
        }
        stage.settle_down();
    }),
    scenario("a frame is larger than segments are", running, |stage| {
        stage.publish_synced(T, 90_000);
        stage.publish_synced(T, 100);
    }),
    scenario("a claim is given up", running, |stage| {
        stage.hold_claim(T, 1, true);
        stage.publish_synced(T, 100);
    }),
    scenario("two topics are written to", two_topics, |stage| {
        for body_bytes in [5000, LARGE, 100] {
            stage.publish_synced(T, body_bytes);
            stage.publish_synced("u", 100);
        }
        stage.settle_down();
    }),
    scenario("the store is closed", grown, Stage::close),
    scenario("a closed folder is opened", closed, |stage| {
        stage.open();
        stage.publish_synced(T, 100);
    }),
    scenario("what a kill left is recovered", killed, |stage| {
        stage.open();
        stage.publish_synced(T, 100);
    }),
    scenario("what a power loss left is recovered", power_lost, |stage| {
        stage.open();
        stage.publish_synced(T, 100);
    }),
    scenario("a tail is cut and set aside", torn, |stage| {
        stage.open();
        stage.publish_synced(T, 100);
    }),
    scenario("a folder with rot is recovered", rotten, |stage| {
        stage.open();
        stage.publish_synced(T, 100);
    }),
    scenario("a log is trimmed", grown, |stage| {
        trim_to_end(stage);
        stage.publish_synced(T, 100);
    }),
    scenario(
        "files of trimmed segments serve again",
        evenly_grown,
        |stage| {
            trim_to_end(stage);
            for _ in 0..8 {
                stage.publish_synced(T, QUARTER);
            }
            stage.settle_down();
        },
    ),
    scenario(
        "what a kill left of files that served again is recovered",
        reused,
        |stage| {
            stage.open();
            stage.publish_synced(T, 100);
        },
    ),
    scenario("a topic is deleted and made again", grown, |stage| {
        stage.delete(T);
        if stage.topics[T].log.is_none() {
            stage.create(T, Durability::Synced);
            stage.publish_synced(T, 100);
        }
    }),
    scenario(
        "the manifest is replaced as it is long",
        long_manifest,
        |stage| {
            grow_manifest(stage, 4000);
            stage.publish_synced(T, LARGE);
            stage.publish_synced(T, LARGE);
        },
    ),
    scenario("checkpoints are written and read", running, |stage| {
        for _ in 0..3 {
            stage.checkpoint();
        }
    }),
    scenario("cold segments are read", cold, |stage| stage.read(T)),
    scenario(
        "cold segments without a footer are read",
        cold_cut,
        |stage| stage.read(T),
    ),
    scenario("the folder is verified", closed, Stage::verify),
];

const fn scenario(name: &'static str, prepare: fn(&mut Stage), act: fn(&mut Stage)) -> Scenario {
    Scenario { name, prepare, act }
}

fn created(stage: &mut Stage) {
    stage.open();
    stage.create(T, Durability::Synced);
}

fn created_stored(stage: &mut Stage) {
    stage.open();
    stage.create(T, Durability::Stored);
}

fn running(stage: &mut Stage) {
    created(stage);
    stage.publish_synced(T, 100);
}

fn running_stored(stage: &mut Stage) {
    created_stored(stage);
    stage.publish(T, 100);
    stage.settle_down();
}

fn two_topics(stage: &mut Stage) {
    running(stage);
    stage.create("u", Durability::Synced);
    stage.publish_synced("u", 100);
}

/// Two finished segments and one that is written to.
fn grown(stage: &mut Stage) {
    running(stage);
    for _ in 0..3 {
        stage.publish_synced(T, LARGE);
    }
}

/// The same, all of one length.
fn evenly_grown(stage: &mut Stage) {
    running(stage);
    for _ in 0..9 {
        stage.publish_synced(T, QUARTER);
    }
}

/// Drops the finished segments; their files are kept.
fn trim_to_end(stage: &mut Stage) {
    // Whoever looks how far the log goes lets go of the segments before.
    let log = stage.topics[T].log.as_ref().unwrap();
    assert_eq!(log.committed(), log.synced());
    let end = stage.topics[T].log.as_ref().unwrap().synced();
    stage.trim(T, end.0);
}

/// Written to in such files until a kill, in front of which a claim is open.
fn reused(stage: &mut Stage) {
    evenly_grown(stage);
    trim_to_end(stage);
    for _ in 0..6 {
        stage.publish_synced(T, QUARTER);
    }
    stage.hold_claim(T, 6, false);
    stage.crash(End::Kill);
}

fn closed(stage: &mut Stage) {
    grown(stage);
    stage.close();
}

fn cold(stage: &mut Stage) {
    closed(stage);
    stage.open_unread();
}

/// Recovered: its segments have no footers, or are cut.
fn cold_cut(stage: &mut Stage) {
    grown(stage);
    stage.crash(End::Kill);
    stage.open();
    stage.publish_synced(T, 100);
    stage.close();
    stage.open_unread();
}

fn killed(stage: &mut Stage) {
    grown(stage);
    stage.publish(T, 5000);
    stage.crash(End::Kill);
}

fn power_lost(stage: &mut Stage) {
    grown(stage);
    for _ in 0..5 {
        stage.publish(T, 5_000);
    }
    stage.crash(End::PowerLoss);
}

/// An open claim, and more behind it: in the same segment, and in the next.
fn torn(stage: &mut Stage) {
    running(stage);
    stage.hold_claim(T, 6, false);
    stage.crash(End::Kill);
}

/// A bit flipped below the watermark of a segment that was not finished.
fn rotten(stage: &mut Stage) {
    running(stage);
    for _ in 0..4 {
        stage.publish_synced(T, 8_000);
    }
    stage.settle_down();
    stage.crash(End::Kill);
    stage.rot(FRAMES_START as usize + 12_000);
}

fn long_manifest(stage: &mut Stage) {
    running(stage);
    let manifest_bytes = |stage: &Stage| {
        use crate::folder::Folder;
        stage.folder.len("manifest").unwrap()
    };
    // Up to the last commit that is appended before the file is replaced.
    while manifest_bytes(stage) < (1 << 20) - (64 << 10) {
        grow_manifest(stage, 1000);
    }
}

/// Starts that nobody made: each leaves an entry, and no trace in the state but the last.
fn grow_manifest(stage: &mut Stage, thousands: u32) {
    let Some(log) = stage.topics[T].log.clone() else {
        return;
    };
    let mut manifest = log.shared().manifest();
    let epoch = manifest.state().boot_epoch;
    let boots = (1..=thousands).map(|more| Entry::Boot {
        epoch: epoch + more,
        boot_id: [0; 16],
    });
    let boots: Vec<Entry> = boots.collect();
    if let Err(error) = manifest.commit(&boots) {
        drop(manifest);
        stage.failed(&error);
    }
}
