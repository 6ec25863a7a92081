//! What becomes of records of a queue when something goes wrong around them: consumers and servers
//! that go, stall or are stopped, damage, a full disk, queues that are removed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Running, Server, Setup, files_under, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const SETUP: Setup = Setup::io("auto");

/// A folder for a server's data, a pipe that commands wait at, and a socket.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        Self { folder }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn address(&self) -> String {
        format!("unix:{}", self.folder.path().join("socket").display())
    }

    /// A server that is found at the same address after each start.
    fn serve(&self) -> Server {
        Server::start_with(SETUP, &self.data(), &["--listen", &self.address()])
    }

    /// A worker whose command waits at the pipe.
    fn waiting_worker(&self, more: &[&str]) -> Running {
        let command = format!("cat '{}'", self.pipe().display());
        let mut worker = Command::new(harness::MILLSTREAM);
        worker
            .args(["work", "q", "--json", "--exec", &command])
            .args(more)
            .env("MILLSTREAM_SERVER", self.address());
        Running::of(&mut worker)
    }

    fn pipe(&self) -> PathBuf {
        self.folder.path().join("pipe")
    }

    /// Waits until a command is at the pipe; it goes on when what this gives is dropped.
    fn enter(&self) -> fs::File {
        OpenOptions::new().write(true).open(self.pipe()).unwrap()
    }
}

fn next_record(server: &Server, queue: &str) -> Value {
    server
        .run(&["work", queue, "--count", "1", "--json"])
        .expect(0)
        .json()
}

/// Passes time that nobody gives notice of.
fn pass(time: Duration) {
    let over = Instant::now() + time;
    until("time to pass", || {
        if Instant::now() >= over {
            Ok(())
        } else {
            Err("too early")
        }
    });
}

/// A note that the broker made on a dead letter.
fn note(record: &Value, name: &str) -> Option<String> {
    let headers = record["headers"].as_array()?;
    let found = headers.iter().find(|pair| pair[0] == name)?;
    Some(found[1].as_str()?.to_owned())
}

fn dead(server: &Server) -> Vec<Value> {
    server
        .run(&["queue", "peek", "q", "--dead", "--all", "--json"])
        .expect(0)
        .json_lines()
}

#[test]
fn a_worker_that_is_killed_costs_its_records_an_attempt() {
    let place = Place::new();
    let server = place.serve();
    server
        .run(&["queue", "create", "q", "--backoff", "0"])
        .expect(0);
    server.run_with(&["pub", "q"], b"a\n").expect(0);
    let worker = place.waiting_worker(&[]);
    let _at_pipe = place.enter();
    worker.kill();
    let record = next_record(&server, "q");
    assert_eq!(record["attempts"], 2, "a lost connection counts");
    server.terminate().expect(0);
}

/// Has the server go while a command runs; what is with the worker comes again uncounted, and the
/// worker's ack of the lease of before is refused.
fn server_goes(go: impl FnOnce(Server)) {
    let place = Place::new();
    let server = place.serve();
    server
        .run(&["queue", "create", "q", "--backoff", "0"])
        .expect(0);
    server.run_with(&["pub", "q"], b"a\n").expect(0);
    let worker = place.waiting_worker(&["--count", "1"]);
    let at_pipe = place.enter();
    go(server);
    let server = place.serve();
    let record = next_record(&server, "q");
    assert_eq!(record["attempts"], 1, "the server's going is no attempt");
    drop(at_pipe);
    let ended = worker.wait().expect(0);
    let report = ended.json();
    assert_eq!((&report["acked"], &report["lost"]), (&json!(0), &json!(1)));
    assert!(ended.stderr.contains("offset 0"), "{}", ended.stderr);
    assert_eq!(server.queue("q")["totals"]["acked"], 1);
    server.terminate().expect(0);
}

#[test]
fn a_server_that_stops_gives_back_what_is_leased_uncounted() {
    server_goes(|server| {
        server.terminate().expect(0);
    });
}

#[test]
fn a_server_that_is_killed_gives_back_what_is_leased_uncounted() {
    server_goes(|server| {
        server.kill();
    });
}

#[test]
fn what_was_settled_is_settled_after_a_kill() {
    let place = Place::new();
    let server = place.serve();
    server
        .run(&["queue", "create", "q", "--backoff", "1h"])
        .expect(0);
    server
        .run_with(&["pub", "q"], b"ack\nretry\nreject\nrest\n")
        .expect(0);
    let command = r#"read -r what; case $what in ack) exit 0;; retry) exit 1;; esac; exit 65"#;
    server
        .run(&["work", "q", "--exec", command, "--count", "3"])
        .expect(0);
    server.kill();
    let server = place.serve();
    let shown = server.queue_until("q", |shown| shown["moving"] == 0);
    assert_eq!(
        (&shown["ready"], &shown["delayed"], &shown["dead"]),
        (&json!(1), &json!(1), &json!(1))
    );
    let peeked = server
        .run(&["queue", "peek", "q", "--json"])
        .expect(0)
        .json_lines();
    let seen: Vec<(&Value, &Value)> = peeked
        .iter()
        .map(|p| (&p["body"], &p["deliveries"]))
        .collect();
    assert_eq!(
        seen,
        [(&json!("retry"), &json!(1)), (&json!("rest"), &json!(0))]
    );
    assert_eq!(dead(&server).len(), 1, "buried once");
    server.terminate().expect(0);
}

#[test]
fn an_ack_sent_while_the_server_stood_still_counts() {
    let place = Place::new();
    let server = place.serve();
    server
        .run(&["queue", "create", "q", "--lease", "400ms"])
        .expect(0);
    server.run_with(&["pub", "q"], b"a\n").expect(0);
    let worker = place.waiting_worker(&["--count", "1"]);
    let at_pipe = place.enter();
    server.signal(Signal::STOP);
    drop(at_pipe);
    // The command ends and the worker sends its ack; the lease runs out meanwhile.
    pass(Duration::from_millis(1200));
    server.signal(Signal::CONT);
    let report = worker.wait().expect(0).json();
    assert_eq!((&report["acked"], &report["lost"]), (&json!(1), &json!(0)));
    let shown = server.queue("q");
    assert_eq!((&shown["ready"], &shown["leased"]), (&json!(0), &json!(0)));
    assert_eq!(shown["totals"]["lease_expired"], 0);
    server.terminate().expect(0);
}

#[test]
fn a_dead_letter_queue_that_was_removed_is_made_again() {
    let place = Place::new();
    let server = place.serve();
    server.run(&["queue", "create", "q"]).expect(0);
    server.run_with(&["pub", "q"], b"a\nb\n").expect(0);
    let reject = ["work", "q", "--exec", "exit 65", "--count", "1"];
    server.run(&reject).expect(0);
    server.queue_until("q", |shown| shown["moving"] == 0 && shown["dead"] == 1);
    let removed = server
        .run(&["queue", "rm", "q.dead", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        removed["records"], 1,
        "the dead letters go with their queue"
    );
    server.run(&reject).expect(0);
    server.queue_until("q", |shown| shown["moving"] == 0 && shown["dead"] == 1);
    assert_eq!(dead(&server)[0]["body"], "b");
    server.terminate().expect(0);
}

#[test]
fn dead_letters_go_to_the_queue_that_is_named_or_nowhere() {
    let place = Place::new();
    let server = place.serve();
    server.run(&["queue", "create", "graves"]).expect(0);
    server
        .run(&["queue", "create", "q", "--dead-letter", "graves"])
        .expect(0);
    server.run_with(&["pub", "q"], b"a\nb\n").expect(0);
    let reject = ["work", "q", "--exec", "exit 65", "--count", "1"];
    server.run(&reject).expect(0);
    server.queue_until("graves", |shown| shown["ready"] == 1);
    assert_eq!(note(&dead(&server)[0], "ms-queue").as_deref(), Some("q"));
    // One that others send their dead letters to is redriven itself.
    let redriven = server
        .run(&["queue", "redrive", "graves", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        redriven,
        json!({"queue": "graves", "source": null, "redriven": 1})
    );
    server.queue_until("q", |shown| shown["ready"] == 2);

    server
        .run(&["queue", "set", "q", "--dead-letter", "none"])
        .expect(0);
    server.run(&reject).expect(0);
    let shown = server.queue_until("q", |shown| shown["moving"] == 0 && shown["leased"] == 0);
    assert_eq!(
        (&shown["dead"], &shown["totals"]["dropped"]),
        (&json!(0), &json!(1))
    );
    server.run(&["queue", "peek", "q", "--dead"]).expect(3);
    server.terminate().expect(0);
}

#[test]
fn what_expires_is_buried_or_dropped() {
    let place = Place::new();
    let server = place.serve();
    server.run(&["queue", "create", "q"]).expect(0);
    let publish = ["pub", "q", "--expires", "1ms"];
    server.run_with(&publish, b"late\n").expect(0);
    server.run_with(&["pub", "q"], b"fine\n").expect(0);
    pass(Duration::from_millis(5));
    let worked = server.run(&["work", "q", "--wait", "50ms"]).expect(0);
    assert_eq!(worked.stdout, b"fine\n");
    server.queue_until("q", |shown| shown["moving"] == 0 && shown["dead"] == 1);
    assert_eq!(
        note(&dead(&server)[0], "ms-reason").as_deref(),
        Some("expired")
    );

    server
        .run(&["queue", "set", "q", "--expired", "drop"])
        .expect(0);
    server.run_with(&publish, b"late\n").expect(0);
    pass(Duration::from_millis(5));
    server.run(&["work", "q", "--wait", "50ms"]).expect(0);
    let shown = server.queue("q");
    assert_eq!((&shown["dead"], &shown["ready"]), (&json!(1), &json!(0)));
    assert_eq!(shown["totals"]["expired"], 2);
    server.terminate().expect(0);
}

#[test]
fn a_full_queue_buries_the_oldest_or_has_publishers_wait() {
    let place = Place::new();
    let server = place.serve();
    let create = [
        "queue",
        "create",
        "q",
        "--max-messages",
        "2",
        "--when-full",
        "drop-oldest",
    ];
    server.run(&create).expect(0);
    for body in ["a\n", "b\n", "c\n"] {
        server.run_with(&["pub", "q"], body.as_bytes()).expect(0);
    }
    server.queue_until("q", |shown| shown["moving"] == 0 && shown["dead"] == 1);
    let buried = dead(&server);
    assert_eq!(buried[0]["body"], "a");
    assert_eq!(note(&buried[0], "ms-reason").as_deref(), Some("limit"));

    server
        .run(&["queue", "set", "q", "--when-full", "wait"])
        .expect(0);
    fs::write(place.folder.path().join("input"), "d\n").unwrap();
    let input = place.folder.path().join("input");
    let mut waiting = server.spawn(&["pub", "q", input.to_str().unwrap()]);
    pass(Duration::from_millis(300));
    assert!(!waiting.has_ended(), "there is no room");
    assert_eq!(next_record(&server, "q")["body"], "b");
    waiting.wait().expect(0);
    let rest = server.run(&["work", "q", "--wait", "50ms"]).expect(0);
    assert_eq!(rest.stdout, b"c\nd\n");
    server.terminate().expect(0);
}

#[test]
fn damaged_records_are_passed_over() {
    let place = Place::new();
    let server = place.serve();
    server.run(&["queue", "create", "q"]).expect(0);
    // Each in pages of its own: the frames that begin in the page of a bad one go with it.
    for number in 0..4 {
        let line = format!("record number {number}{}\n", " ".repeat(10_000));
        server.run_with(&["pub", "q"], line.as_bytes()).expect(0);
    }
    server.terminate().expect(0);
    damage(&place.data(), b"record number 2");
    let server = place.serve();
    let worked = server.run(&["work", "q", "--wait", "50ms"]).expect(0);
    let said = String::from_utf8(worked.stdout).unwrap();
    let seen: Vec<&str> = said.lines().map(str::trim_end).collect();
    assert_eq!(
        seen,
        ["record number 0", "record number 1", "record number 3"]
    );
    let shown = server.queue("q");
    for state in ["ready", "leased", "delayed", "moving"] {
        assert_eq!(shown[state], 0, "{state}: {shown}");
    }
    server.terminate().expect(0);
}

/// Flips a bit of `bytes` where they lie.
fn damage(data: &Path, bytes: &[u8]) {
    for path in files_under(data, ".seg") {
        let mut content = fs::read(&path).unwrap();
        let found = content
            .windows(bytes.len())
            .position(|window| window == bytes);
        if let Some(at) = found {
            content[at] ^= 1;
            fs::write(&path, content).unwrap();
            return;
        }
    }
    panic!("the record is not found");
}

/// A file system of a given size, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&at)
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Takes every byte the disk has left.
fn fill(path: &Path) {
    let mut bytes = vec![1; 1 << 20];
    let mut file = fs::File::create(path).unwrap();
    while !bytes.is_empty() {
        if file.write_all(&bytes).is_err() {
            bytes.truncate(bytes.len() / 2);
        }
    }
}

#[test]
fn a_full_disk_lets_what_is_there_be_settled() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(place.folder.path().join("disk"), "256m") else {
        eprintln!("SKIPPED a_full_disk_lets_what_is_there_be_settled: needs root to mount");
        return;
    };
    let data = disk.0.join("data");
    let server = Server::start_with(SETUP, &data, &["--listen", &place.address()]);
    server
        .run(&["queue", "create", "q", "--backoff", "0"])
        .expect(0);
    let lines: String = (0..500).map(|number| format!("{number}\n")).collect();
    server.run_with(&["pub", "q"], lines.as_bytes()).expect(0);
    fill(&disk.0.join("rest"));
    let refused = server.run_with(&["pub", "q", "--chunk", "1MiB"], &vec![7; 128 << 20]);
    assert!(refused.expect(1).stderr.contains("StorageFull"));
    let held = server.queue("q")["ready"].as_u64().unwrap();
    let worked = server
        .run(&[
            "work",
            "q",
            "--exec",
            "cat > /dev/null",
            "--concurrency",
            "8",
            "--count",
            "500",
            "--json",
        ])
        .expect(0)
        .json();
    assert_eq!(worked["acked"], 500);
    assert_eq!(server.queue("q")["ready"], held - 500);
    fs::remove_file(disk.0.join("rest")).unwrap();
    server.run_with(&["pub", "q"], b"again\n").expect(0);
    server.terminate().expect(0);
}
