//! Workers and servers that are killed, and what becomes of the work: every record has its effect at
//! least once and is settled exactly once.
//!
//! Rounds are few by default; `MILLSTREAM_WORK_ROUNDS` makes them more.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Numbers, Running, Server, Setup, until};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Kills in each test, unless told otherwise.
const ROUNDS: u32 = 6;
const WORKERS: usize = 8;

fn rounds() -> u32 {
    std::env::var("MILLSTREAM_WORK_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap())
}

/// A folder with a server's data, its socket and the effects of commands.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn address(&self) -> String {
        format!("unix:{}", self.path().join("socket").display())
    }

    /// A server that is found at the same address after each start.
    fn serve(&self, io: &'static str) -> Server {
        let address = self.address();
        Server::start_with(
            Setup::io(io),
            &self.path().join("data"),
            &["--listen", &address],
        )
    }

    /// A worker that notes each record it is done with in a file of its own.
    fn worker(&self, name: &str, more: &[&str]) -> Running {
        let command = format!("echo $MILLSTREAM_OFFSET $MILLSTREAM_ATTEMPTS >> effects-{name}");
        self.worker_that(&command, more)
    }

    fn worker_that(&self, command: &str, more: &[&str]) -> Running {
        let mut worker = Command::new(harness::MILLSTREAM);
        worker
            .args(["work", "q", "--json", "--exec", command])
            .args(more)
            .env("MILLSTREAM_SERVER", self.address())
            .current_dir(self.path());
        Running::of(&mut worker)
    }

    /// How often each offset had its effect.
    fn effects(&self) -> BTreeMap<u64, u32> {
        let mut effects = BTreeMap::new();
        for path in self.effect_files() {
            for line in fs::read_to_string(path).unwrap().lines() {
                let offset = line.split(' ').next().unwrap().parse().unwrap();
                *effects.entry(offset).or_default() += 1;
            }
        }
        effects
    }

    fn effect_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy();
                name.starts_with("effects-")
            })
            .collect()
    }
}

fn publish(server: &Server, records: u32) {
    let lines: String = (0..records).map(|number| format!("{number}\n")).collect();
    server.run_with(&["pub", "q"], lines.as_bytes()).expect(0);
}

/// Asserts that every record of the queue is settled and had its effect.
#[track_caller]
fn assert_all_done(place: &Place, server: &Server, records: u64) -> Value {
    let shown = server.queue_until("q", |shown| shown["leased"] == 0);
    for state in ["ready", "delayed", "moving", "dead"] {
        assert_eq!(shown[state], 0, "{state}: {shown}");
    }
    assert_eq!(shown["floor_offset"], shown["next_offset"], "{shown}");
    let effects = place.effects();
    assert_eq!(effects.len() as u64, records, "each had its effect");
    shown
}

/// Asserts that every delivery is an attempt of a record that was acked in the end, unless it was
/// given back.
#[track_caller]
fn assert_attempts_add_up(shown: &Value) {
    let total = |name: &str| shown["totals"][name].as_u64().unwrap();
    let attempts: u64 = shown["attempts"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(attempts, records)| attempts.parse::<u64>().unwrap() * records.as_u64().unwrap())
        .sum();
    assert_eq!(attempts, total("delivered") - total("released"), "{shown}");
}

#[test]
fn killed_workers_lose_no_record_and_settle_none_twice() {
    const RECORDS: u32 = 600;
    let place = Place::new();
    let server = place.serve("auto");
    let create = [
        "queue",
        "create",
        "q",
        "--max-deliveries",
        "0",
        "--backoff",
        "5ms",
    ];
    server.run(&create).expect(0);
    publish(&server, RECORDS);
    let mut numbers = Numbers::new(11);
    let spawn = |number: usize, generation: u32| {
        place.worker(&format!("{number}-{generation}"), &["--concurrency", "2"])
    };
    let mut workers: Vec<Running> = (0..WORKERS).map(|number| spawn(number, 0)).collect();
    let step = u64::from(RECORDS / (rounds() + 1));
    for round in 1..=rounds() {
        let goal = u64::from(round) * step;
        server.queue_until("q", |shown| shown["totals"]["acked"].as_u64() >= Some(goal));
        let number = (numbers.next() % WORKERS as u64) as usize;
        workers.remove(number).kill();
        workers.insert(number, spawn(number, round));
    }
    server.queue_until("q", |shown| shown["totals"]["acked"] == RECORDS);
    let shown = assert_all_done(&place, &server, RECORDS.into());
    assert_eq!(shown["totals"]["acked"], RECORDS, "each settled once");
    assert_attempts_add_up(&shown);
    for worker in workers {
        worker.signal(rustix::process::Signal::TERM);
        worker.wait().expect(0);
    }
    server.terminate().expect(0);
}

/// Kills the server again and again while workers run.
fn server_is_killed(io: &'static str) {
    const RECORDS: u32 = 600;
    let place = Place::new();
    let mut server = place.serve(io);
    let create = [
        "queue",
        "create",
        "q",
        "--max-deliveries",
        "0",
        "--backoff",
        "5ms",
    ];
    server.run(&create).expect(0);
    publish(&server, RECORDS);
    let workers: Vec<Running> = (0..WORKERS)
        .map(|number| place.worker(&number.to_string(), &["--wait", "1s"]))
        .collect();
    let step = u64::from(RECORDS / (rounds() + 1));
    for round in 1..=rounds() {
        // What is settled stays settled: the floor never falls, whoever is killed.
        let goal = u64::from(round) * step;
        until("the floor", || {
            let shown = server.queue("q");
            let unsettled = shown["ready"].as_u64().unwrap() + shown["leased"].as_u64().unwrap();
            if unsettled + goal <= u64::from(RECORDS) {
                Ok(())
            } else {
                Err(shown)
            }
        });
        server.kill();
        server = place.serve(io);
    }
    let mut acked = 0;
    let mut unknown = 0;
    let mut reconnects = 0;
    for worker in workers {
        let report = worker.wait().expect(0).json();
        acked += report["acked"].as_u64().unwrap();
        unknown += report["unknown"].as_u64().unwrap();
        reconnects += report["reconnects"].as_u64().unwrap();
    }
    assert_all_done(&place, &server, RECORDS.into());
    assert!(
        acked <= u64::from(RECORDS),
        "{acked} acknowledged: one of them twice"
    );
    assert!(
        acked + unknown >= u64::from(RECORDS),
        "{acked} and {unknown} unknown"
    );
    assert!(
        reconnects >= u64::from(rounds()),
        "{reconnects} reconnections"
    );
    println!("{acked} acked, {unknown} unknown, {reconnects} reconnections");
    server.terminate().expect(0);
    let data = place.path().join("data");
    harness::millstream(&["verify", data.to_str().unwrap()]).expect(0);
}

#[test]
fn a_server_killed_under_workers_loses_no_record_and_settles_none_twice() {
    server_is_killed("auto");
}

#[test]
fn a_server_killed_under_workers_loses_no_record_and_settles_none_twice_over_epoll() {
    server_is_killed("epoll");
}

#[test]
fn a_group_of_a_thousand_keeps_its_order_through_eight_workers() {
    const RECORDS: u32 = 1000;
    let place = Place::new();
    let server = place.serve("auto");
    let create = [
        "queue",
        "create",
        "q",
        "--grouped",
        "--backoff",
        "2ms",
        "--lease",
        "1m",
    ];
    server.run(&create).expect(0);
    let lines: String = (0..RECORDS).map(|number| format!("{number}\n")).collect();
    server
        .run_with(&["pub", "q", "--group", "one"], lines.as_bytes())
        .expect(0);
    // One in seven fails at first: those behind it wait for it.
    let command = "read -r n; [ $((n % 7)) != 3 ] || [ $MILLSTREAM_ATTEMPTS = 2 ] || exit 1; \
                   echo $n >> order";
    let workers: Vec<Running> = (0..WORKERS)
        .map(|_| place.worker_that(command, &["--wait", "300ms"]))
        .collect();
    let mut retried = 0;
    let mut at_work = 0;
    for worker in workers {
        let report = worker.wait().expect(0).json();
        retried += report["retried"].as_u64().unwrap();
        at_work += u32::from(report["acked"] != 0);
    }
    let order = fs::read_to_string(place.path().join("order")).unwrap();
    assert_eq!(order, lines, "the group's order");
    let failing = (0..RECORDS).filter(|n| n % 7 == 3).count() as u64;
    assert_eq!(retried, failing);
    let shown = server.queue("q");
    let at_once = u64::from(RECORDS) - failing;
    assert_eq!(shown["attempts"], json!({"1": at_once, "2": failing}));
    assert!(at_work > 1, "the group went from worker to worker");
    server.terminate().expect(0);
}

#[test]
fn many_groups_run_at_once_and_each_keeps_its_order() {
    const GROUPS: u32 = 20;
    const EACH: u32 = 15;
    let place = Place::new();
    let server = place.serve("epoll");
    server
        .run(&["queue", "create", "q", "--grouped", "--backoff", "5ms"])
        .expect(0);
    for group in 0..GROUPS {
        let name = format!("g{group}");
        let lines: String = (0..EACH).map(|number| format!("{number}\n")).collect();
        server
            .run_with(&["pub", "q", "--group", &name], lines.as_bytes())
            .expect(0);
    }
    let command = "read -r n; [ $((n % 5)) != 2 ] || [ $MILLSTREAM_ATTEMPTS = 2 ] || exit 1; \
                   echo $n >> order-$MILLSTREAM_GROUP";
    let workers: Vec<Running> = (0..2)
        .map(|_| place.worker_that(command, &["--wait", "300ms", "--concurrency", "4"]))
        .collect();
    for worker in workers {
        worker.wait().expect(0);
    }
    let expected: String = (0..EACH).map(|number| format!("{number}\n")).collect();
    for group in 0..GROUPS {
        let order = fs::read_to_string(place.path().join(format!("order-g{group}"))).unwrap();
        assert_eq!(order, expected, "group {group}");
    }
    server.terminate().expect(0);
}

/// A worker that prints what it is given to the end of `out`, before it acks.
fn printing_worker(place: &Place) -> Running {
    let out = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(place.path().join("out"))
        .unwrap();
    let mut worker = Command::new(harness::MILLSTREAM);
    worker
        .args(["work", "q", "--output", "jsonl"])
        .env("MILLSTREAM_SERVER", place.address());
    Running::writing_to(&mut worker, out)
}

/// Asserts that of each group every number came, in order; a number may come again until the next
/// one came, as nobody heard that it was done.
#[track_caller]
fn assert_groups_in_order(printed: &str, groups: u64, each: u64) -> u64 {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut again = 0;
    for line in printed.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let group = record["group"].as_str().unwrap().to_owned();
        let number: u64 = record["body"].as_str().unwrap().parse().unwrap();
        let attempts = record["attempts"].as_u64().unwrap();
        match last.get(&group) {
            Some(last) if *last == number => again += 1,
            Some(last) => assert_eq!(number, last + 1, "group {group}, attempt {attempts}"),
            None => assert_eq!(number, 0, "group {group}"),
        }
        last.insert(group, number);
    }
    assert_eq!(last.len() as u64, groups);
    assert!(last.values().all(|last| last + 1 == each), "{last:?}");
    again
}

#[test]
fn groups_keep_their_order_while_workers_and_servers_are_killed() {
    const GROUPS: u64 = 10;
    let each = 200 * u64::from(rounds());
    let place = Place::new();
    let mut server = place.serve("auto");
    let create = ["queue", "create", "q", "--grouped", "--max-deliveries", "0"];
    server
        .run(&[&create[..], &["--backoff", "2ms"]].concat())
        .expect(0);
    let lines: String = (0..each).map(|number| format!("{number}\n")).collect();
    for group in 0..GROUPS {
        let name = format!("g{group}");
        server
            .run_with(&["pub", "q", "--group", &name], lines.as_bytes())
            .expect(0);
    }
    let mut numbers = Numbers::new(12);
    let mut workers: Vec<Running> = (0..WORKERS).map(|_| printing_worker(&place)).collect();
    let kills = 4 * rounds();
    for kill in 1..=kills {
        // One more part of the whole is done before each.
        let left = GROUPS * each / u64::from(kills + 1) * u64::from(kills + 1 - kill);
        until("the work", || {
            let shown = server.queue("q");
            let unsettled = shown["ready"].as_u64().unwrap() + shown["leased"].as_u64().unwrap();
            if unsettled <= left {
                Ok(())
            } else {
                Err(shown)
            }
        });
        if kill.is_multiple_of(8) {
            server.kill();
            server = place.serve("auto");
        } else {
            let number = (numbers.next() % WORKERS as u64) as usize;
            workers.remove(number).kill();
            workers.insert(number, printing_worker(&place));
        }
    }
    server.queue_until("q", |shown| shown["floor_offset"] == shown["next_offset"]);
    for worker in workers {
        worker.signal(rustix::process::Signal::TERM);
        worker.wait().expect(0);
    }
    let printed = fs::read_to_string(place.path().join("out")).unwrap();
    let again = assert_groups_in_order(&printed, GROUPS, each);
    println!("{kills} kills, {again} records printed again");
    server.terminate().expect(0);
}
