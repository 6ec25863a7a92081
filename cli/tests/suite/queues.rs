//! What a user does with work queues and cursors, end to end; the same for every way of doing I/O.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{folder, restart, text_of};
use crate::harness::{Ended, Server, Setup, until};

/// Files worked on by commands: enough for each kind of outcome to occur often.
const FILES: u32 = 400;

/// A named pipe: opening its writing end waits until a command has opened it for reading.
fn pipe(folder: &Path) -> PathBuf {
    let path = folder.join("pipe");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    path
}

/// Waits until a command reads the pipe; the command ends with what this gives.
fn enter(pipe: &Path) -> fs::File {
    OpenOptions::new().write(true).open(pipe).unwrap()
}

fn work_report(ended: &Ended) -> Value {
    serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

pub(crate) fn queues_are_created_listed_shown_changed_and_removed(setup: Setup) {
    let place = folder();
    let data = place.path().join("data");
    let server = Server::start(setup, &data);
    let create = ["queue", "create", "emails", "--max-deliveries", "3"];
    let made = server.run(&[&create[..], &["--json"]].concat());
    let made = made.expect(0).json();
    assert_eq!(made["queue"], "emails");
    assert_eq!(made["topic"], "emails");
    assert_eq!(made["own_topic"], true);
    assert_eq!(made["mode"], "plain");
    assert_eq!(made["settings"]["max_deliveries"], 3);
    assert_eq!(made["settings"]["dead_letter"], "emails.dead");
    assert_eq!(made["settings"]["backoff"], "1s..5mx2~20%");

    // Once more is as good as once; with other settings it is not.
    server.run(&create).expect(0);
    server.run(&["queue", "create", "emails"]).expect(7);
    server.run(&["queue", "show", "none"]).expect(3);

    let set = ["queue", "set", "emails", "--lease", "1m", "--backoff"];
    let changed = server.run(&[&set[..], &["10ms", "--json"]].concat());
    let changed = changed.expect(0).json();
    assert_eq!(changed["settings"]["lease_ms"], 60_000);
    assert_eq!(changed["settings"]["backoff"], "10ms");
    assert_eq!(
        changed["settings"]["max_deliveries"], 3,
        "what is not given stays"
    );

    server.run_with(&["pub", "emails"], b"a\nb\nc\n").expect(0);
    let shown = server.queue("emails");
    assert_eq!(shown["ready"], 3);
    assert_eq!(shown["leased"], 0);
    assert!(shown["oldest_ready_s"].is_number());

    let server = restart(server, setup, &data);
    let again = server.queue("emails");
    assert_eq!(again["settings"], changed["settings"]);
    assert_eq!(again["ready"], 3);
    let listed = server
        .run(&["queue", "ls", "--json"])
        .expect(0)
        .json_lines();
    let names: Vec<&Value> = listed.iter().map(|queue| &queue["queue"]).collect();
    assert_eq!(names, ["emails", "emails.dead"]);

    let removed = server
        .run(&["queue", "rm", "emails", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        removed["records"], 3,
        "told, and without a terminal not asked"
    );
    server.run(&["queue", "show", "emails"]).expect(3);
    server.run(&["topic", "show", "emails"]).expect(3);
    server.run(&["queue", "show", "emails.dead"]).expect(0);
}

pub(crate) fn a_queue_is_looked_into_and_nothing_is_taken(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    server.run(&["queue", "create", "q"]).expect(0);
    server.run_with(&["pub", "q"], b"a\nb\nc\n").expect(0);
    let peeked = server
        .run(&["queue", "peek", "q", "--json"])
        .expect(0)
        .json_lines();
    let seen: Vec<(&str, &str)> = peeked
        .iter()
        .map(|record| {
            let text = |name: &str| record[name].as_str().unwrap();
            (text("state"), text("body"))
        })
        .collect();
    assert_eq!(seen, [("ready", "a"), ("ready", "b"), ("ready", "c")]);
    let two = ["queue", "peek", "q", "--bare", "-n", "2"];
    assert_eq!(server.run(&two).expect(0).stdout, b"ab");
    let behind = ["queue", "peek", "q", "--bare", "--from", "1", "--all"];
    assert_eq!(server.run(&behind).expect(0).stdout, b"bc");
    let table = server.run(&["queue", "peek", "q"]).expect(0);
    assert!(table.stdout.starts_with(b"OFFSET  STATE"));
    let leases = server.run(&["queue", "leases", "q"]).expect(0);
    assert_eq!(leases.stdout, b"");
    assert_eq!(server.queue("q")["ready"], 3);
}

pub(crate) fn a_paused_queue_delivers_nothing_and_a_purged_one_has_nothing(setup: Setup) {
    let place = folder();
    let data = place.path().join("data");
    let server = Server::start(setup, &data);
    server.run(&["queue", "create", "q"]).expect(0);
    server.run_with(&["pub", "q"], b"a\nb\n").expect(0);
    server.run(&["queue", "pause", "q"]).expect(0);
    let server = restart(server, setup, &data);
    let idle = server.run(&["work", "q", "--wait", "50ms"]).expect(0);
    assert_eq!(idle.stdout, b"");
    assert_eq!(server.queue("q")["paused"], true);
    server.run(&["queue", "resume", "q"]).expect(0);
    let one = server.run(&["work", "q", "--count", "1"]).expect(0);
    assert_eq!(one.stdout, b"a\n");
    let purged = server.run(&["queue", "purge", "q", "--json"]).expect(0);
    assert_eq!(purged.json()["records"], 1);
    let shown = server.queue("q");
    assert_eq!((&shown["ready"], &shown["leased"]), (&json!(0), &json!(0)));
}

/// What a command does with a file of this number.
fn outcome(number: u32) -> &'static str {
    match number {
        n if n % 100 == 99 => "always",
        n if n % 40 == 13 => "reject",
        n if n % 20 == 7 => "twice",
        _ => "fine",
    }
}

/// Acks, fails the first two times, fails always or rejects, as the first word of the body says;
/// one line in `effects` for each run that was to the good.
const BY_BODY: &str = r#"read -r what number
case "$what" in
  twice) [ "$MILLSTREAM_ATTEMPTS" -gt 2 ] || exit 1 ;;
  always) exit 3 ;;
  reject) echo ignored >&2; echo "no such number: $number" >&2; exit 65 ;;
esac
echo "$number $MILLSTREAM_ATTEMPTS $MILLSTREAM_QUEUE" >> effects"#;

/// How many files there are of each outcome.
struct Expected {
    fine: usize,
    twice: usize,
    always: usize,
    rejected: usize,
}

impl Expected {
    fn new() -> Self {
        let count = |kind| (0..FILES).filter(|n| outcome(*n) == kind).count();
        Self {
            fine: count("fine"),
            twice: count("twice"),
            always: count("always"),
            rejected: count("reject"),
        }
    }

    fn dead(&self) -> usize {
        self.always + self.rejected
    }

    fn acked(&self) -> usize {
        self.fine + self.twice
    }
}

/// Publishes the files to `jobs`, each as one message.
fn publish_files(place: &Path, server: &Server) {
    let mut args = vec!["pub".to_owned(), "jobs".to_owned(), "--whole".to_owned()];
    for number in 0..FILES {
        let path = place.join(format!("file-{number}"));
        fs::write(&path, format!("{} {number}\n", outcome(number))).unwrap();
        args.push(text_of(&path).to_owned());
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    server.run(&args).expect(0);
}

/// Works on `jobs` until nothing is left; gives the worker's report.
fn work_on_jobs(place: &Path, server: &Server, exec: &str) -> Value {
    let args = ["work", "jobs", "--exec", exec, "--concurrency", "8"];
    let args = [&args[..], &["--wait", "300ms", "--json"]].concat();
    let mut command = server.command(&args);
    command.current_dir(place);
    work_report(&crate::harness::run(&mut command, b"").expect(0))
}

/// The broker's note of this name on a dead letter.
fn note(record: &Value, name: &str) -> String {
    let headers = record["headers"].as_array().unwrap();
    let found = headers.iter().find(|pair| pair[0] == name);
    found.map_or_else(String::new, |pair| pair[1].as_str().unwrap().to_owned())
}

/// Asserts that every dead letter of `jobs` tells why it died.
#[track_caller]
fn assert_dead_letters_tell_why(server: &Server, expected: &Expected) {
    let peek = ["queue", "peek", "jobs", "--dead", "--all", "--json"];
    let dead = server.run(&peek).expect(0).json_lines();
    assert_eq!(dead.len(), expected.dead());
    let of_reason = |reason: &str| {
        let found = dead
            .iter()
            .filter(|record| note(record, "ms-reason") == reason);
        found.cloned().collect::<Vec<Value>>()
    };
    let used_up = of_reason("max-deliveries");
    assert_eq!(used_up.len(), expected.always);
    for record in &used_up {
        assert_eq!(note(record, "ms-attempts"), "3");
    }
    for record in &of_reason("rejected") {
        let body = record["body"].as_str().unwrap();
        let number = body.split_once(' ').unwrap().1.trim();
        let said = format!("no such number: {number}");
        assert_eq!(note(record, "ms-reason-text"), said);
    }
}

pub(crate) fn files_are_acked_retried_and_rejected_by_commands(setup: Setup) {
    let place = folder();
    let data = place.path().join("data");
    let server = Server::start(setup, &data);
    let create = ["queue", "create", "jobs", "--max-deliveries", "3"];
    let create = [&create[..], &["--backoff", "10ms"]].concat();
    server.run(&create).expect(0);
    publish_files(place.path(), &server);
    let expected = Expected::new();
    let report = work_on_jobs(place.path(), &server, BY_BODY);
    assert_eq!(report["acked"], expected.acked());
    assert_eq!(report["rejected"], expected.rejected);
    assert_eq!(report["retried"], 2 * expected.twice + 3 * expected.always);
    assert_eq!(report["lost"], 0);

    let shown = server.queue_until("jobs", |shown| shown["moving"] == 0);
    let attempts = json!({"1": expected.fine, "3": expected.twice});
    assert_eq!(shown["attempts"], attempts);
    assert_eq!(shown["dead"], expected.dead());
    assert_eq!(shown["totals"]["acked"], expected.acked());
    assert_eq!(shown["totals"]["dead_lettered"], expected.dead());
    for state in ["ready", "leased", "delayed"] {
        assert_eq!(shown[state], 0, "{state}");
    }
    let effects = fs::read_to_string(place.path().join("effects")).unwrap();
    assert_eq!(effects.lines().count(), expected.acked(), "each once");
    assert!(effects.lines().all(|line| line.ends_with(" jobs")));
    assert_dead_letters_tell_why(&server, &expected);

    // Some of what was rejected goes back first; then all, and a command that takes everything.
    let redriven = |more: &[&str]| {
        let args = [&["queue", "redrive", "jobs", "--json"], more].concat();
        server.run(&args).expect(0).json()["redriven"].clone()
    };
    assert_eq!(redriven(&["--reason", "rejected", "--max", "2"]), 2);
    assert_eq!(redriven(&["--reason", "none-such"]), 0);
    assert_eq!(redriven(&["--rate", "1000/s"]), expected.dead() - 2);
    assert_eq!(redriven(&[]), 0);
    server.queue_until("jobs", |shown| shown["ready"] == expected.dead());
    let report = work_on_jobs(place.path(), &server, "cat > /dev/null");
    assert_eq!(report["acked"], expected.dead());
    let server = restart(server, setup, &data);
    let shown = server.queue("jobs");
    for state in ["ready", "leased", "delayed", "moving", "dead"] {
        assert_eq!(shown[state], 0, "{state}");
    }
}

pub(crate) fn a_record_has_its_story_in_the_environment(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    server
        .run(&["queue", "create", "q", "--grouped", "--backoff", "0"])
        .expect(0);
    let publish = ["pub", "q", "--key", "k1", "--group", "g1"];
    server.run_with(&publish, b"body\n").expect(0);
    let command = r#"echo "$MILLSTREAM_QUEUE $MILLSTREAM_TOPIC $MILLSTREAM_OFFSET \
$MILLSTREAM_ATTEMPTS $MILLSTREAM_KEY $MILLSTREAM_GROUP $(cat)"; [ $MILLSTREAM_ATTEMPTS = 2 ]"#;
    let ended = server
        .run(&["work", "q", "--exec", command, "--count", "2"])
        .expect(0);
    let said = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(said, "q q 0 1 k1 g1 body\nq q 0 2 k1 g1 body\n");
}

pub(crate) fn printed_records_are_acked_once_they_are_written(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    server.run(&["queue", "create", "q"]).expect(0);
    server.run_with(&["pub", "q"], b"a\nb\nc\n").expect(0);
    let two = server.run(&["work", "q", "--count", "2"]).expect(0);
    assert_eq!(two.stdout, b"a\nb\n");
    assert!(two.stderr.contains("acked 2"), "{}", two.stderr);
    assert_eq!(
        server.queue("q")["totals"]["delivered"],
        2,
        "no more than it was to take"
    );
    let rest = server
        .run(&["work", "q", "--wait", "50ms", "--json"])
        .expect(0);
    let record: Value = serde_json::from_slice(&rest.stdout).unwrap();
    assert_eq!(
        (&record["body"], &record["attempts"]),
        (&json!("c"), &json!(1))
    );
    let shown = server.queue("q");
    assert_eq!(shown["totals"]["acked"], 3);
    assert_eq!(shown["ready"], 0);
}

pub(crate) fn a_late_ack_of_a_stopped_worker_is_refused(setup: Setup) {
    let place = folder();
    let pipe = pipe(place.path());
    let server = Server::start(setup, &place.path().join("data"));
    server
        .run(&["queue", "create", "q", "--lease", "300ms", "--backoff", "0"])
        .expect(0);
    server.run_with(&["pub", "q"], b"once\n").expect(0);
    let command = format!("cat '{}'", pipe.display());
    let late = server.spawn(&["work", "q", "--exec", &command, "--count", "1", "--json"]);
    let entered = enter(&pipe);
    late.signal(Signal::STOP);

    let args = [
        "work",
        "q",
        "--exec",
        "echo $MILLSTREAM_ATTEMPTS",
        "--count",
        "1",
    ];
    let other = server.run(&args).expect(0);
    assert_eq!(
        other.stdout, b"2\n",
        "the lease that ran out was an attempt"
    );
    assert_eq!(server.queue("q")["totals"]["acked"], 1);

    drop(entered);
    late.signal(Signal::CONT);
    let ended = late.wait().expect(0);
    let report = work_report(&ended);
    assert_eq!((&report["acked"], &report["lost"]), (&json!(0), &json!(1)));
    let warned: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| line.contains("offset 0"))
        .collect();
    assert_eq!(warned.len(), 1, "{}", ended.stderr);
    assert!(warned[0].contains("too late"), "{}", ended.stderr);
    let shown = server.queue("q");
    assert_eq!(shown["totals"]["acked"], 1, "nothing was changed");
    assert_eq!(shown["totals"]["lease_expired"], 1);
}

pub(crate) fn a_worker_keeps_its_lease_while_its_command_runs(setup: Setup) {
    let place = folder();
    let pipe = pipe(place.path());
    let server = Server::start(setup, &place.path().join("data"));
    server.run(&["queue", "create", "q"]).expect(0);
    server.run_with(&["pub", "q"], b"once\n").expect(0);
    let command = format!("cat '{}'", pipe.display());
    let args = [
        "work", "q", "--exec", &command, "--count", "1", "--lease", "150ms", "--json",
    ];
    let worker = server.spawn(&args);
    let entered = enter(&pipe);
    // It holds the lease for many times as long as one lasts.
    let held = Instant::now() + Duration::from_millis(1500);
    until("the lease", || {
        let leases = server
            .run(&["queue", "leases", "q", "--json"])
            .expect(0)
            .json_lines();
        assert_eq!(leases.len(), 1);
        assert_eq!(leases[0]["attempts"], 1);
        if Instant::now() > held {
            Ok(())
        } else {
            Err("too early")
        }
    });
    drop(entered);
    let report = work_report(&worker.wait().expect(0));
    assert_eq!((&report["acked"], &report["lost"]), (&json!(1), &json!(0)));
}

pub(crate) fn a_worker_told_to_stop_finishes_and_gives_back_the_rest(setup: Setup) {
    let place = folder();
    let pipe = pipe(place.path());
    let server = Server::start(setup, &place.path().join("data"));
    server.run(&["queue", "create", "q"]).expect(0);
    server.run_with(&["pub", "q"], b"a\nb\nc\n").expect(0);
    let command = format!("cat '{}'", pipe.display());
    let worker = server.spawn(&["work", "q", "--exec", &command, "--json"]);
    let entered = enter(&pipe);
    worker.signal(Signal::TERM);
    // What it is told only once it takes nothing more.
    server.queue_until("q", |shown| shown["leased"] == 1);
    drop(entered);
    let report = work_report(&worker.wait().expect(0));
    assert_eq!(report["acked"], 1);
    let shown = server.queue("q");
    assert_eq!((&shown["ready"], &shown["leased"]), (&json!(2), &json!(0)));
    assert_eq!(shown["totals"]["lease_expired"], 0);
    let rest = server
        .run(&["work", "q", "--wait", "50ms", "--json"])
        .expect(0);
    assert!(
        rest.json_lines()
            .iter()
            .all(|record| record["attempts"] == 1)
    );
}

pub(crate) fn a_second_signal_kills_commands_and_gives_their_records_back(setup: Setup) {
    let place = folder();
    let pipe = pipe(place.path());
    let server = Server::start(setup, &place.path().join("data"));
    server.run(&["queue", "create", "q"]).expect(0);
    server.run_with(&["pub", "q"], b"a\n").expect(0);
    let command = format!("cat '{}'", pipe.display());
    let mut worker = server.spawn(&["work", "q", "--exec", &command, "--json"]);
    let entered = enter(&pipe);
    until("the end", || {
        worker.signal(Signal::TERM);
        if worker.has_ended() {
            Ok(())
        } else {
            Err("it runs")
        }
    });
    let report = work_report(&worker.wait().expect(0));
    assert_eq!(
        (&report["acked"], &report["released"]),
        (&json!(0), &json!(1))
    );
    drop(entered);
    let next = server
        .run(&["work", "q", "--count", "1", "--json"])
        .expect(0)
        .json();
    assert_eq!(next["attempts"], 1, "what is given back is no attempt");
}

pub(crate) fn a_command_over_its_time_is_killed_and_retried(setup: Setup) {
    let place = folder();
    let pipe = pipe(place.path());
    let server = Server::start(setup, &place.path().join("data"));
    server
        .run(&["queue", "create", "q", "--backoff", "10ms"])
        .expect(0);
    server.run_with(&["pub", "q"], b"a\n").expect(0);
    let command = format!("[ $MILLSTREAM_ATTEMPTS = 2 ] || cat '{}'", pipe.display());
    let args = [
        "work",
        "q",
        "--exec",
        &command,
        "--exec-timeout",
        "200ms",
        "--count",
        "2",
        "--json",
    ];
    let report = work_report(&server.run(&args).expect(0));
    assert_eq!(
        (&report["acked"], &report["retried"]),
        (&json!(1), &json!(1))
    );
}

pub(crate) fn a_worker_ends_with_its_queue_or_for_want_of_a_server(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    server.run(&["work", "q"]).expect(3);
    server.run(&["queue", "create", "q"]).expect(0);
    let worker = server.spawn(&["work", "q"]);
    server.queue_until("q", |shown| shown["consumers"] == 1);
    server.run(&["queue", "rm", "q"]).expect(0);
    let ended = worker.wait().expect(3);
    assert!(ended.stderr.contains("deleted"), "{}", ended.stderr);

    server.run(&["queue", "create", "p"]).expect(0);
    let worker = server.spawn(&["work", "p", "--timeout", "300ms"]);
    server.queue_until("p", |shown| shown["consumers"] == 1);
    server.kill();
    worker.wait().expect(5);
}

pub(crate) fn what_is_delayed_is_delivered_when_it_is_due(setup: Setup) {
    let place = folder();
    let data = place.path().join("data");
    let server = Server::start(setup, &data);
    server.run(&["queue", "create", "q"]).expect(0);
    server
        .run_with(&["pub", "q", "--delay", "1h"], b"later\n")
        .expect(0);
    let far = ["pub", "q", "--at", "2099-01-31T09:00:00Z"];
    server.run_with(&far, b"years\n").expect(0);
    let past = ["pub", "q", "--at", "2001-01-31T09:00:00Z"];
    server.run_with(&past, b"past\n").expect(0);
    let begun = Instant::now();
    server
        .run_with(&["pub", "q", "--delay", "400ms"], b"soon\n")
        .expect(0);

    // The wait is for what is due within it; an hour is not.
    let worked = server.run(&["work", "q", "--wait", "500ms"]).expect(0);
    assert_eq!(worked.stdout, b"past\nsoon\n");
    assert!(begun.elapsed() >= Duration::from_millis(400));
    let server = restart(server, setup, &data);
    let shown = server.queue_until("q", |shown| shown["delayed"] == 2);
    assert_eq!(shown["ready"], 0);
    let peeked = server
        .run(&["queue", "peek", "q", "--json"])
        .expect(0)
        .json_lines();
    let due: Vec<(&Value, &Value)> = peeked.iter().map(|p| (&p["state"], &p["body"])).collect();
    assert_eq!(
        due,
        [
            (&json!("delayed"), &json!("later")),
            (&json!("delayed"), &json!("years"))
        ]
    );
    assert!(
        peeked[1]["due"]
            .as_str()
            .unwrap()
            .starts_with("2099-01-31T09:00:00")
    );
}

pub(crate) fn a_message_published_twice_is_told_to_be_a_duplicate(setup: Setup) {
    let place = folder();
    let data = place.path().join("data");
    let server = Server::start(setup, &data);
    let publish = |server: &Server, id: &str| {
        let args = ["pub", "t", "--id", id, "--json"];
        server.run_with(&args, b"once\n").expect(0).json()
    };
    server.run_with(&["pub", "t"], b"first\n").expect(0);
    let first = publish(&server, "order-1");
    assert_eq!(
        (&first["published"], &first["duplicates"]),
        (&json!(1), &json!(0))
    );
    let again = publish(&server, "order-1");
    assert_eq!(
        (&again["published"], &again["duplicates"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(again["first_offset"], 1, "where it is");
    let server = restart(server, setup, &data);
    assert_eq!(publish(&server, "order-1")["duplicates"], 1);
    assert_eq!(publish(&server, "order-2")["published"], 1);
    let all = server.run(&["tail", "t", "--no-follow"]).expect(0);
    assert_eq!(all.stdout, b"first\nonce\nonce\n");

    let two = server
        .run_with(&["pub", "t", "--id", "x"], b"a\nb\n")
        .expect(2);
    assert!(two.stderr.contains("one message"), "{}", two.stderr);
    let whole = ["pub", "t", "--id", "x", "--whole"];
    server.run_with(&whole, b"a\nb\n").expect(0);
}

pub(crate) fn higher_priorities_are_delivered_first(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    server
        .run(&["queue", "create", "q", "--prioritised"])
        .expect(0);
    for (priority, body) in [
        ("0", "low"),
        ("9", "high"),
        ("5", "middle"),
        ("9", "high too"),
    ] {
        let line = format!("{body}\n");
        server
            .run_with(&["pub", "q", "--priority", priority], line.as_bytes())
            .expect(0);
    }
    let worked = server.run(&["work", "q", "--wait", "50ms"]).expect(0);
    assert_eq!(worked.stdout, b"high\nhigh too\nmiddle\nlow\n");
}

pub(crate) fn a_full_queue_refuses_and_takes_again(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    server
        .run(&["queue", "create", "q", "--max-messages", "2"])
        .expect(0);
    server
        .run_with(&["pub", "q", "--batch", "1"], b"a\nb\n")
        .expect(0);
    let full = server.run_with(&["pub", "q"], b"c\n").expect(1);
    assert!(full.stderr.contains("QueueFull"), "{}", full.stderr);
    server.run(&["work", "q", "--count", "1"]).expect(0);
    server.run_with(&["pub", "q"], b"c\n").expect(0);
    let rest = server.run(&["work", "q", "--wait", "50ms"]).expect(0);
    assert_eq!(rest.stdout, b"b\nc\n");
}

pub(crate) fn queues_over_one_topic_each_see_every_record(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    server.run_with(&["pub", "orders"], b"a\nb\nc\n").expect(0);
    let create = |name: &str, from: &str| {
        let args = ["queue", "create", name, "--topic", "orders", "--from", from];
        server.run(&args).expect(0);
    };
    create("all", "start");
    create("some", "1");
    create("new", "end");
    server.run_with(&["pub", "orders"], b"d\n").expect(0);
    for (queue, expected) in [
        ("all", "a\nb\nc\nd\n"),
        ("some", "b\nc\nd\n"),
        ("new", "d\n"),
    ] {
        let worked = server.run(&["work", queue, "--wait", "50ms"]).expect(0);
        assert_eq!(worked.stdout, expected.as_bytes(), "{queue}");
    }
    let topic = server.run(&["tail", "orders", "--no-follow"]).expect(0);
    assert_eq!(
        topic.stdout, b"a\nb\nc\nd\n",
        "a topic made by itself keeps its records"
    );
    server.run(&["topic", "rm", "orders"]).expect(7);
}

pub(crate) fn a_cursor_is_where_tail_left_it(setup: Setup) {
    let place = folder();
    let data = place.path().join("data");
    let server = Server::start(setup, &data);
    server.run_with(&["pub", "t"], b"a\nb\nc\nd\n").expect(0);
    let tail = |server: &Server, more: &[&str]| {
        let args = [&["tail", "t", "--cursor", "mine", "--no-follow"], more].concat();
        String::from_utf8(server.run(&args).expect(0).stdout).unwrap()
    };
    assert_eq!(tail(&server, &["--count", "1", "--from", "1"]), "b\n");
    let show = ["cursor", "show", "t", "mine", "--json"];
    let shown = server.run(&show).expect(0).json();
    assert_eq!((&shown["offset"], &shown["lag"]), (&json!(2), &json!(2)));
    let server = restart(server, setup, &data);
    assert_eq!(
        tail(&server, &["--count", "1"]),
        "c\n",
        "--from is for a new one"
    );
    assert_eq!(tail(&server, &[]), "d\n");
    assert_eq!(tail(&server, &[]), "");

    let set = |place: &str| {
        let args = ["cursor", "set", "t", "mine", place, "--json"];
        server.run(&args).expect(0).json()["offset"].clone()
    };
    assert_eq!(set("start"), 0);
    assert_eq!(set("end"), 4);
    assert_eq!(set("3"), 3);
    assert_eq!(tail(&server, &[]), "d\n");
    let listed = server
        .run(&["cursor", "ls", "--json"])
        .expect(0)
        .json_lines();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["topic"], &listed[0]["cursor"]),
        (&json!("t"), &json!("mine"))
    );
    server
        .run(&["cursor", "set", "none", "mine", "1"])
        .expect(3);
    server.run(&["cursor", "rm", "t", "mine"]).expect(0);
    server.run(&show).expect(3);
}

pub(crate) fn a_tail_that_is_interrupted_leaves_its_cursor(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    server.run_with(&["pub", "t"], b"a\nb\n").expect(0);
    let tail = server.spawn(&["tail", "t", "--cursor", "mine"]);
    // It moves the cursor behind what it printed though nothing more comes.
    until("the cursor", || {
        let shown = server
            .run(&["cursor", "ls", "t", "--json"])
            .expect(0)
            .json_lines();
        if shown.iter().any(|cursor| cursor["offset"] == 2) {
            Ok(())
        } else {
            Err(shown)
        }
    });
    tail.signal(Signal::INT);
    let ended = tail.wait().expect(0);
    assert_eq!(ended.stdout, b"a\nb\n");
}
