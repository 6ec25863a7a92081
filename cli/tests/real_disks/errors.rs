//! One error of the disk, at every request of a run in turn.
//!
//! A server starts on an empty folder, makes two topics and takes messages; one write or flush of
//! the disk fails on the way. It is killed and started again on the same mount, where the page
//! cache holds what the disk may not; then the plug is pulled, and what was acknowledged must be
//! there.

use millstream_faultdisk::{Counts, Fault, Request};

use crate::harness::Server;
use crate::ledger::{Ledger, Publishers};
use crate::rig::{Rig, available, disks, thorough};

/// Runs with a fault by default, on each disk and for each kind of request.
const SAMPLE: u64 = 4;
/// Messages for each topic in the run itself.
const MESSAGES: u32 = 24;

/// What came of the runs with an error.
#[derive(Debug, Default)]
struct Tally {
    runs: u32,
    /// Runs in which the error came before the run was over.
    hit: u32,
    /// Starts on the same mount that were refused.
    not_started: u32,
    /// Messages acknowledged before the last cut, and what was there behind it.
    acked: usize,
    there: usize,
}

impl Tally {
    fn note(&mut self, hit: bool) {
        self.runs += 1;
        self.hit += u32::from(hit);
    }
}

/// `MILLSTREAM_FAULTDISK=all` has the error at every request, on each format over each I/O path.
#[test]
fn an_error_at_any_request_loses_nothing_acknowledged() {
    if !available("an_error_at_any_request_loses_nothing_acknowledged") {
        return;
    }
    at_requests(SAMPLE, |rig, (request, nth), tally| {
        rig.disk().arm(request, nth, Fault::Error);
        run_with_error(rig, nth, tally);
    });
}

/// As above, with a power cut at the request: on the empty folder, while topics are made, while
/// segments are.
#[test]
fn a_power_cut_at_any_request_loses_nothing_acknowledged() {
    if !available("a_power_cut_at_any_request_loses_nothing_acknowledged") {
        return;
    }
    at_requests(SAMPLE / 2, |rig, (request, nth), tally| {
        rig.disk().arm(request, nth, Fault::Cut(nth));
        let mut topics = topics();
        match rig.try_start() {
            Ok(server) => {
                rig.publish(&server, &mut topics, MESSAGES);
                tally.note(rig.disk().survived().is_some());
                rig.pull_the_plug(server, nth);
            }
            Err(_) => {
                tally.not_started += 1;
                tally.note(rig.disk().survived().is_some());
                rig.remount();
            }
        }
        finish(rig, &mut topics, tally);
    });
}

/// Does `run` on an empty disk, with each request of a run, or a sample of them.
fn at_requests(sample: u64, run: impl Fn(&mut Rig, (Request, u64), &mut Tally)) {
    for (place, (disk, io)) in disks().into_iter().enumerate() {
        let counts = run_without_errors(&mut Rig::new(disk, io));
        let mut tally = Tally::default();
        let requests = [
            (Request::Write, counts.writes),
            (Request::Flush, counts.flushes),
        ];
        for (request, most) in requests {
            let stride = if thorough() { 1 } else { most.div_ceil(sample) };
            // Others on the second disk than on the first.
            let first = 1 + (place as u64 % 2 * stride / 2);
            for nth in (first..=most).step_by(stride as usize) {
                println!("{request:?} {nth}");
                run(&mut Rig::new(disk, io), (request, nth), &mut tally);
            }
        }
        println!("{} {io}: {counts:?}: {tally:?}", disk.0.name());
        assert!(tally.hit * 2 > tally.runs, "{tally:?}");
    }
}

/// What comes between the error and the power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Nothing,
    /// A kill and a start on the same mount.
    Kill,
    /// A stop in peace and a start on the same mount.
    Stop,
}

#[test]
fn after_one_error_what_was_acknowledged_or_read_outlives_a_power_cut() {
    if !available("after_one_error_what_was_acknowledged_or_read_outlives_a_power_cut") {
        return;
    }
    // Of the pages that a sync writes one may fail, or all.
    let (one, all) = (Fault::Error, Fault::ErrorsFromHere);
    let cases = [
        (Request::Write, 1, one, Between::Nothing),
        (Request::Write, 1, one, Between::Kill),
        (Request::Write, 2, one, Between::Kill),
        (Request::Write, 1, all, Between::Kill),
        (Request::Write, 1, all, Between::Stop),
        (Request::Flush, 1, one, Between::Kill),
    ];
    for (disk, io) in disks() {
        for (request, nth, fault, between) in cases {
            let rig = &mut Rig::new(disk, io);
            let mut topics = topics();
            let server = rig.start();
            assert_eq!(rig.publish(&server, &mut topics, 2), None);
            rig.disk().arm(request, nth, fault);
            let context = format!("{request:?} {nth} {fault:?}, {between:?}");
            one_error_then_a_cut((rig, server), &mut topics, between, &context);
        }
    }
}

fn one_error_then_a_cut(
    (rig, mut server): (&mut Rig, Server),
    topics: &mut [(&'static str, Ledger); 2],
    between: Between,
    context: &str,
) {
    let life = rig.life() + 100;
    // One topic takes nothing any more and the other everything, unless what failed was something
    // of the file system's.
    let told = topics.each_mut().map(|(topic, ledger)| {
        let told = Publishers::start(&server, topic, life, &[0], 6).finish(ledger);
        rig.disk().disarm();
        told.is_some()
    });
    if rig.disk().counts().failed == 0 {
        // What was published may be on disk in one write; in the others something did fail.
        assert!(context.starts_with("Write 2"), "{context}");
        eprintln!("{context}: there was no second write");
        return;
    }
    let read = check(&server, topics);

    if between != Between::Nothing {
        if between == Between::Kill {
            server.kill();
        } else {
            server.terminate();
        }
        match rig.try_start() {
            Ok(started) => {
                assert!(check(&started, topics) >= read, "{context}");
                server = started;
            }
            Err(ended) => {
                assert_eq!(ended.code, Some(1), "{context}: {ended:?}");
                rig.disk().cut(1);
                rig.remount();
                server = rig.start();
                check(&server, topics);
            }
        }
    }
    rig.pull_the_plug(server, 2);
    let server = rig.start();
    let there = check(&server, topics);
    assert_eq!(rig.publish(&server, topics, 1), None, "{context}");
    rig.stop(server);
    println!("{context}: {told:?} topics told, {read} read before, {there} after");
}

fn topics() -> [(&'static str, Ledger); 2] {
    ["a", "b"].map(|topic| (topic, Ledger::default()))
}

fn check(server: &Server, topics: &mut [(&str, Ledger)]) -> usize {
    topics
        .iter_mut()
        .map(|(topic, ledger)| ledger.check(server, topic))
        .sum()
}

/// Requests of a run in which nothing goes wrong.
fn run_without_errors(rig: &mut Rig) -> Counts {
    let before = rig.disk().counts();
    let mut topics = topics();
    let server = rig.start();
    assert_eq!(rig.publish(&server, &mut topics, MESSAGES), None);
    let after = rig.disk().counts();
    rig.pull_the_plug(server, 1);
    let server = rig.start();
    let there = check(&server, &mut topics);
    assert_eq!(there, 2 * MESSAGES as usize);
    rig.stop(server);
    Counts {
        writes: after.writes - before.writes,
        flushes: after.flushes - before.flushes,
        failed: 0,
    }
}

fn run_with_error(rig: &mut Rig, nth: u64, tally: &mut Tally) {
    let mut topics = topics();
    if let Ok(server) = rig.try_start() {
        rig.publish(&server, &mut topics, MESSAGES);
        server.kill();
    }
    tally.note(rig.disk().counts().failed == 1);
    rig.disk().disarm();

    // The same mount: what failed may be in the page cache, and look as if it were on the disk.
    match rig.try_start() {
        Ok(server) => {
            check(&server, &mut topics);
            rig.publish(&server, &mut topics, 3);
            rig.pull_the_plug(server, nth);
        }
        Err(ended) => {
            // The file system gave up with the disk; that is said and nothing else happens.
            assert_eq!(ended.code, Some(1), "{ended:?}");
            tally.not_started += 1;
            rig.disk().cut(nth);
            rig.remount();
        }
    }
    finish(rig, &mut topics, tally);
}

/// The last start, on a disk that is sound again: what was acknowledged is there, and all goes on.
fn finish(rig: &mut Rig, topics: &mut [(&'static str, Ledger); 2], tally: &mut Tally) {
    let server = rig.start();
    tally.there += check(&server, topics);
    let known: usize = topics.iter().map(|(_, ledger)| ledger.acked()).sum();
    tally.acked += known;
    assert_eq!(rig.publish(&server, topics, 3), None);
    check(&server, topics);
    rig.stop(server);
}
