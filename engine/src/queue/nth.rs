//! Fail the N-th call, for every N, of what queues do.
//!
//! As in `storage`'s module of this name: each [`Scenario`] is played once to count its calls of each
//! [`Operation`] of the folder, then once for every call, every failure that can befall it, and every
//! end. One thread plays it over the simulated disk; whoever waits does a piece of what the threads
//! would do, and time passes only when there is nothing to do.
//!
//! Checked each time: nothing panics or waits for ever; errors name what failed; after a kill or a
//! power loss the folder opens with its queues; a settle that was confirmed holds, a record that was
//! published and not settled is there exactly once, a rejected one is exactly one dead letter; a file
//! of which a sync failed is never synced again.
//!
//! `MILLSTREAM_NTH=redrive cargo test -p millstream --lib nth` plays the scenarios whose name holds
//! that word, and more ends of each.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

pub(super) mod hands;
mod ledger;
mod scenario;
mod stage;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use millstream_storage::crash::End;
use millstream_storage::{Failure, Operation};
use scenario::{SCENARIOS, Scenario};
use stage::Stage;

/// One run of a scenario takes milliseconds; what takes this long hangs.
const HANGS: Duration = Duration::from_secs(60);

/// What is to fail.
type Fault = (Operation, u64, Failure);

fn failures(operation: Operation) -> &'static [Failure] {
    use Operation as O;
    match operation {
        O::CreateSegment | O::CreateFile => &[Failure::Device, Failure::Full, Failure::Descriptors],
        O::MakeDir | O::Reserve | O::Append | O::Sync => &[Failure::Device, Failure::Full],
        O::OpenSegment | O::OpenAppend | O::Read | O::List | O::SyncDir => {
            &[Failure::Device, Failure::Descriptors]
        }
        _ => &[Failure::Device],
    }
}

fn counts(stage: &Stage) -> [u64; Operation::ALL.len()] {
    Operation::ALL.map(|operation| stage.calls(operation))
}

/// Plays a scenario; gives how many calls it made, and whether the failure was met.
fn play(
    scenario: &Scenario,
    fault: Option<Fault>,
    end: (End, u64),
) -> ([u64; Operation::ALL.len()], bool) {
    let mut stage = Stage::new();
    (scenario.prepare)(&mut stage);
    stage.settle_down();
    let before = counts(&stage);
    stage.begin(fault);
    (scenario.act)(&mut stage);
    stage.settle_down();
    let mut made = counts(&stage);
    made.iter_mut()
        .zip(before)
        .for_each(|(made, before)| *made -= before);
    let met = stage.met().is_some();
    stage.finish(end);
    (made, met)
}

fn play_all(scenario: &Scenario, seeds: u64, heard: &mpsc::Sender<String>) -> u64 {
    let began = Instant::now();
    let (counted, _) = play(scenario, None, (End::Kill, 0));
    let (mut injected, mut told) = (0, String::new());
    for (operation, count) in Operation::ALL.into_iter().zip(counted) {
        if count == 0 {
            continue;
        }
        let _ = write!(told, " {operation:?} {count}");
        let all =
            (1..=count).flat_map(|nth| failures(operation).iter().map(move |how| (nth, *how)));
        for (nth, failure) in all {
            let losses = (0..seeds).map(|seed| (End::PowerLoss, seed * 1000 + nth));
            let kill = (failure == Failure::Device).then_some((End::Kill, nth));
            for end in kill.into_iter().chain(losses) {
                let fault = (operation, nth, failure);
                let what = format!("{}: {fault:?}, then {end:?}", scenario.name);
                // The other end is gone only when this is all over.
                let _ = heard.send(what.clone());
                let played = catch_unwind(AssertUnwindSafe(|| play(scenario, Some(fault), end)));
                match played {
                    Ok((_, met)) => assert!(met, "{what}: the call was not reached"),
                    Err(_) => panic!("failed in {what}"),
                }
                injected += 1;
            }
        }
    }
    let took = began.elapsed();
    println!(
        "{:40} {injected:5} failures in {took:.1?}:{told}",
        scenario.name
    );
    injected
}

#[test]
fn whichever_call_fails_no_confirmed_settle_is_lost() {
    let wanted = std::env::var("MILLSTREAM_NTH").ok();
    let seeds = if wanted.is_some() { 9 } else { 1 };
    let wanted = wanted.unwrap_or_default();
    let (heard, hear) = mpsc::channel();
    let player = thread::spawn(move || {
        let chosen = SCENARIOS
            .iter()
            .filter(|scenario| scenario.name.contains(&wanted));
        let injected: Vec<u64> = chosen
            .map(|scenario| play_all(scenario, seeds, &heard))
            .collect();
        println!(
            "{} scenarios, {} failures",
            injected.len(),
            injected.iter().sum::<u64>()
        );
        assert!(!injected.is_empty(), "no scenario has such a name");
    });
    let mut last = String::from("the first");
    loop {
        match hear.recv_timeout(HANGS) {
            Ok(what) => last = what,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs: {last}"),
        }
    }
    assert!(player.join().is_ok(), "the last was {last}");
}
