//! How much of a topic is kept: created with it, changed, shown, and after restarts.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;

use harness::{Ended, Server, Setup, millstream};
use serde_json::{Value, json};

const SETUP: Setup = Setup::io("auto");
const WEEK_MS: u64 = 7 * 86_400_000;

/// Asserts that `topic show` tells of these bytes and milliseconds, and of `text` to people.
#[track_caller]
fn assert_kept(server: &Server, topic: &str, kept: (u64, u64), text: &str) {
    let args = ["topic", "show", topic, "--json"];
    let shown = server.run(&args).expect(0).json();
    let wanted = (json!(kept.0), json!(kept.1));
    let found = (&shown["retention_bytes"], &shown["retention_age_ms"]);
    assert_eq!(found, (&wanted.0, &wanted.1), "{shown}");
    let shown = server.run(&["topic", "show", topic]).expect(0).stdout;
    let shown = String::from_utf8(shown).unwrap();
    let line = format!("keeps       {text}");
    assert!(shown.lines().any(|found| found == line), "{shown}");
}

#[track_caller]
fn set(server: &Server, topic: &str, more: &[&str]) -> Ended {
    server.run(&[&["topic", "set", topic], more].concat())
}

/// What `ended` said to standard error, which must hold `part`; nothing else was printed.
#[track_caller]
fn assert_said(ended: &Ended, part: &str) {
    assert!(ended.stderr.contains(part), "{}", ended.stderr);
    assert!(ended.stdout.is_empty(), "{ended:?}");
}

#[test]
fn a_topic_is_created_with_what_it_keeps_and_set_to_keep_something_else() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(SETUP, &place.path().join("data"));
    server.run(&["topic", "create", "all"]).expect(0);
    assert_kept(&server, "all", (0, 0), "everything");

    let both = ["--retention-bytes", "64MiB", "--retention-age", "7d"];
    let args = [&["topic", "create", "t", "--json"], &both[..]].concat();
    assert_eq!(server.run(&args).expect(0).json()["topic"], "t");
    let newest = "the newest 64.0 MiB of what is younger than 7d";
    assert_kept(&server, "t", (64 << 20, WEEK_MS), newest);
    // Created once more, it keeps what it kept.
    server.run(&["topic", "create", "t"]).expect(0);
    assert_kept(&server, "t", (64 << 20, WEEK_MS), newest);

    let other = ["topic", "create", "t", "--retention-bytes", "1MiB"];
    let refused = server.run(&other).expect(7);
    assert_said(&refused, "t is there and keeps the newest 64.0 MiB");
    assert_kept(&server, "t", (64 << 20, WEEK_MS), newest);

    let said = set(&server, "t", &["--retention-age", "none"]).expect(0);
    assert_eq!(said.stdout, b"t keeps the newest 64.0 MiB\n");
    assert_kept(&server, "t", (64 << 20, 0), "the newest 64.0 MiB");
    let more = ["--retention-bytes", "none", "--retention-age", "90m"];
    set(&server, "t", &more).expect(0);
    let young = "what is younger than 1h30m";
    assert_kept(&server, "t", (0, 5_400_000), young);
    let more = ["--retention-bytes", "1GiB", "--json"];
    let wanted = json!({ "topic": "t", "retention_bytes": 1 << 30, "retention_age_ms": 5_400_000 });
    assert_eq!(set(&server, "t", &more).expect(0).json(), wanted);
    let more = ["--retention-bytes", "0", "--retention-age", "0"];
    set(&server, "t", &more).expect(0);
    assert_kept(&server, "t", (0, 0), "everything");
    assert_kept(&server, "all", (0, 0), "everything");
}

#[test]
fn what_is_wrong_is_told_and_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(SETUP, &place.path().join("data"));
    let age = ["--retention-age", "7d"];
    let args = [&["topic", "create", "t"], &age[..]].concat();
    server.run(&args).expect(0);

    let said = set(&server, "t", &[]).expect(2);
    let nothing = "nothing to change: give --retention-bytes, --retention-age or both";
    assert_eq!(said.stderr, format!("millstream: {nothing}\n"));
    assert_said(&said, nothing);
    let said = set(&server, "t", &["--json"]).expect(2);
    let error: Value = serde_json::from_str(&said.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "usage");
    // It is wrong wherever it is sent.
    assert_said(&millstream(&["topic", "set", "t"]).expect(2), nothing);

    let said = set(&server, "nosuch", &["--retention-bytes", "1GiB"]).expect(3);
    assert_said(&said, "there is no topic \"nosuch\"");
    set(&server, "$journal", &age).expect(2);
    set(&server, "a/b", &age).expect(2);

    let size = "a size is a number above 0 and a unit: 4096, 64KiB, 1MiB, or none";
    for wrong in ["lots", "", "-1", "1.5GiB", "7d", "99999999999999999999"] {
        let wrong = format!("--retention-bytes={wrong}");
        assert_said(&set(&server, "t", &[&wrong]).expect(2), size);
        let create = ["topic", "create", "new", &wrong];
        assert_said(&server.run(&create).expect(2), size);
    }
    let duration = "a duration is written like 500ms, 30s, 1h30m or 7d, or none";
    for wrong in ["yesterday", "", "-7d", "7", "1GiB", "99999999999d"] {
        let wrong = format!("--retention-age={wrong}");
        assert_said(&set(&server, "t", &[&wrong]).expect(2), duration);
        let create = ["topic", "create", "new", &wrong];
        assert_said(&server.run(&create).expect(2), duration);
    }
    server.run(&["topic", "show", "new"]).expect(3);
    assert_kept(&server, "t", (0, WEEK_MS), "what is younger than 7d");
}

#[test]
fn a_topic_of_a_queues_own_tells_that_what_is_settled_may_go() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(SETUP, &place.path().join("data"));
    server.run(&["queue", "create", "jobs"]).expect(0);
    let unsettled = "what its queues have not settled";
    assert_kept(&server, "jobs", (0, 0), unsettled);
    let said = set(&server, "jobs", &["--retention-age", "7d"]).expect(0);
    let both = format!("what is younger than 7d, and {unsettled}");
    let line = format!("jobs keeps {both}\n");
    assert_eq!(String::from_utf8(said.stdout).unwrap(), line);
    assert_kept(&server, "jobs", (0, WEEK_MS), &both);
    let shown = server.run(&["topic", "show", "jobs", "--json"]).expect(0);
    assert_eq!(shown.json()["queues_own"], true);
}

#[test]
fn what_a_topic_keeps_survives_a_kill_and_a_stop() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let server = Server::start(SETUP, &data);
    let create = ["topic", "create", "t", "--retention-bytes", "64MiB"];
    server.run(&create).expect(0);
    server.run(&["topic", "create", "all"]).expect(0);
    server.kill();

    let server = Server::start(SETUP, &data);
    assert_kept(&server, "t", (64 << 20, 0), "the newest 64.0 MiB");
    assert_kept(&server, "all", (0, 0), "everything");
    set(&server, "t", &["--retention-age", "7d"]).expect(0);
    server.terminate().expect(0);

    let server = Server::start(SETUP, &data);
    let both = "the newest 64.0 MiB of what is younger than 7d";
    assert_kept(&server, "t", (64 << 20, WEEK_MS), both);
    let more = ["--retention-bytes", "none", "--retention-age", "none"];
    set(&server, "t", &more).expect(0);
    server.kill();

    let server = Server::start(SETUP, &data);
    assert_kept(&server, "t", (0, 0), "everything");
    set(&server, "t", &["--retention-age", "7d"]).expect(0);
    server.run(&["topic", "rm", "t"]).expect(0);
    server.run(&["topic", "create", "t"]).expect(0);
    assert_kept(&server, "t", (0, 0), "everything");
    server.kill();

    let server = Server::start(SETUP, &data);
    assert_kept(&server, "t", (0, 0), "everything");
    server.terminate().expect(0);
    millstream(&["verify", data.to_str().unwrap(), "--deep"]).expect(0);
}
