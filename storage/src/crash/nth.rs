//! Fail the N-th call, for every N: not random failure, a loop.
//!
//! Each [`Scenario`] is played once to count its calls of each [`Operation`], then once for every
//! call, every failure that can befall it, and every end: the N-th call fails, the scenario goes on,
//! the fault goes away, the run ends by a kill or a power loss, and the folder is opened again. One
//! thread plays it all over the simulated disk; what the background threads would do is done between
//! the steps.
//!
//! Checked each time: nothing panics or waits for ever; each error names what failed, and where;
//! nothing that was acknowledged as synced is lost, nothing comes back and nothing is invented; a
//! file of which a sync failed is never synced again, and nothing more is acknowledged in it; where
//! nothing was given up, publishing works again in the same run; the restart finds a sound folder,
//! takes new records and stops cleanly.
//!
//! `MILLSTREAM_NTH=trim cargo test -p millstream-storage --lib nth` plays the scenarios whose name
//! holds that word, and more ends of each.

mod act;
mod scenario;
mod stage;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::disk::End;
use crate::heap::{Failure, Operation};
use scenario::{SCENARIOS, Scenario};
use stage::Stage;

/// One run of a scenario takes milliseconds; what takes this long hangs.
const HANGS: Duration = Duration::from_secs(60);

/// What is to fail in a run, and how the run ends.
#[derive(Debug, Clone, Copy)]
struct Run {
    fault: Option<(Operation, u64, Failure)>,
    end: End,
    seed: u64,
}

/// How an operation can fail.
fn failures(operation: Operation) -> &'static [Failure] {
    use Operation as O;
    match operation {
        O::CreateSegment | O::ReuseSegment | O::CreateFile => {
            &[Failure::Device, Failure::Full, Failure::Descriptors]
        }
        // A disk that allocates late is found full when it is synced.
        O::MakeDir | O::Reserve | O::Append | O::Write | O::Sync => {
            &[Failure::Device, Failure::Full]
        }
        O::OpenSegment | O::OpenAppend | O::Read | O::List | O::SyncDir => {
            &[Failure::Device, Failure::Descriptors]
        }
        O::Shrink | O::RemoveDir | O::Rename | O::Remove | O::Populate | O::Resident => {
            &[Failure::Device]
        }
    }
}

/// How many calls of each operation the scenario makes.
fn counted(scenario: &Scenario) -> BTreeMap<Operation, u64> {
    let mut stage = Stage::new();
    (scenario.prepare)(&mut stage);
    stage.settle_down();
    let counts = |stage: &Stage| Operation::ALL.map(|operation| stage.calls(operation));
    let before = counts(&stage);
    stage.begin(None, 0);
    (scenario.act)(&mut stage);
    let after = counts(&stage);
    stage.finish(End::Kill);
    let made = before
        .iter()
        .zip(after)
        .map(|(before, after)| after - before);
    Operation::ALL.into_iter().zip(made).collect()
}

/// Plays the scenario with one call failing; false where the call was not reached.
fn play(scenario: &Scenario, run: &Run) -> bool {
    let mut stage = Stage::new();
    (scenario.prepare)(&mut stage);
    stage.settle_down();
    stage.begin(run.fault, run.seed);
    (scenario.act)(&mut stage);
    let met = stage.recover_in_place();
    stage.finish(run.end);
    met
}

/// All runs of one scenario; gives how many failures were injected, and tells.
fn play_all(scenario: &Scenario, seeds: u64, heard: &mpsc::Sender<String>) -> u64 {
    let began = Instant::now();
    let counts = counted(scenario);
    let (mut injected, mut told) = (0, String::new());
    for (operation, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        let _ = write!(told, " {operation:?} {count}");
        let all =
            (1..=count).flat_map(|nth| failures(operation).iter().map(move |how| (nth, *how)));
        for (nth, failure) in all {
            let fault = Some((operation, nth, failure));
            let losses = (0..seeds).map(|seed| (End::PowerLoss, seed * 1000 + nth));
            // After a kill it is all the same why it failed.
            let kill = (failure == Failure::Device).then_some((End::Kill, nth));
            for (end, seed) in kill.into_iter().chain(losses) {
                let run = Run { fault, end, seed };
                let what = format!("{}: {run:?}", scenario.name);
                // The other end is gone only when this is all over.
                let _ = heard.send(what.clone());
                let played = catch_unwind(AssertUnwindSafe(|| play(scenario, &run)));
                match played {
                    Ok(met) => assert!(met, "{what}: the call was not reached"),
                    Err(_) => panic!("failed in {what}"),
                }
                injected += 1;
            }
        }
    }
    let took = began.elapsed();
    println!(
        "{:32} {injected:5} failures in {took:.1?}:{told}",
        scenario.name
    );
    injected
}

#[test]
fn whichever_call_fails_nothing_acknowledged_is_lost() {
    let wanted = std::env::var("MILLSTREAM_NTH").ok();
    let seeds = if wanted.is_some() { 9 } else { 2 };
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
        assert!(injected.iter().all(|injected| *injected > 0));
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
