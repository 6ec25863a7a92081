//! What a user does with the binary, end to end; the same for every way of doing I/O.

mod queues;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use queues::{
    a_command_over_its_time_is_killed_and_retried, a_cursor_is_where_tail_left_it,
    a_full_queue_refuses_and_takes_again, a_late_ack_of_a_stopped_worker_is_refused,
    a_message_published_twice_is_told_to_be_a_duplicate,
    a_paused_queue_delivers_nothing_and_a_purged_one_has_nothing,
    a_queue_is_looked_into_and_nothing_is_taken, a_record_has_its_story_in_the_environment,
    a_second_signal_kills_commands_and_gives_their_records_back,
    a_tail_that_is_interrupted_leaves_its_cursor,
    a_worker_ends_with_its_queue_or_for_want_of_a_server,
    a_worker_keeps_its_lease_while_its_command_runs,
    a_worker_told_to_stop_finishes_and_gives_back_the_rest,
    files_are_acked_retried_and_rejected_by_commands, higher_priorities_are_delivered_first,
    printed_records_are_acked_once_they_are_written,
    queues_are_created_listed_shown_changed_and_removed,
    queues_over_one_topic_each_see_every_record, what_is_delayed_is_delivered_when_it_is_due,
};

use crate::harness::{Ended, Numbers, Server, Setup, files_under, millstream, run};

/// Bytes of real text published by lines.
const TEXT_BYTES: usize = 16 << 20;
/// Bytes of the binary published in pieces.
const BINARY_BYTES: usize = 48 << 20;

/// Defines a test of every scenario for one setup.
macro_rules! suite {
    ($setup:expr) => {
        $crate::suite::tests_of! {
            $setup,
            real_text_by_lines_is_the_same_after_a_restart,
            a_large_binary_in_pieces_is_the_same_after_a_restart,
            whole_files_come_back_byte_for_byte,
            messages_with_newlines_travel_between_nul_bytes,
            what_is_published_is_reported,
            keys_headers_times_and_offsets_are_given_back,
            tail_begins_where_it_is_told,
            tail_follows_what_is_published_later,
            topics_are_created_listed_shown_and_removed,
            acknowledged_messages_survive_a_kill,
            a_server_told_to_stop_finishes_first,
            a_server_told_twice_drops_its_connections_and_no_message,
            a_reader_that_closes_its_pipe_ends_tail_quietly,
            a_stored_topic_is_served_and_kept,
            a_unix_socket_serves_as_well,
            queues_are_created_listed_shown_changed_and_removed,
            a_queue_is_looked_into_and_nothing_is_taken,
            a_paused_queue_delivers_nothing_and_a_purged_one_has_nothing,
            files_are_acked_retried_and_rejected_by_commands,
            a_record_has_its_story_in_the_environment,
            printed_records_are_acked_once_they_are_written,
            a_late_ack_of_a_stopped_worker_is_refused,
            a_worker_keeps_its_lease_while_its_command_runs,
            a_worker_told_to_stop_finishes_and_gives_back_the_rest,
            a_second_signal_kills_commands_and_gives_their_records_back,
            a_command_over_its_time_is_killed_and_retried,
            a_worker_ends_with_its_queue_or_for_want_of_a_server,
            what_is_delayed_is_delivered_when_it_is_due,
            a_message_published_twice_is_told_to_be_a_duplicate,
            higher_priorities_are_delivered_first,
            a_full_queue_refuses_and_takes_again,
            queues_over_one_topic_each_see_every_record,
            a_cursor_is_where_tail_left_it,
            a_tail_that_is_interrupted_leaves_its_cursor,
        }
    };
}

macro_rules! tests_of {
    ($setup:expr, $($name:ident,)*) => {
        $(
            #[test]
            fn $name() {
                $crate::suite::$name($setup);
            }
        )*
    };
}

pub(crate) use {suite, tests_of};

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Writes a file of real source text, whole lines only, and gives its path.
///
/// Takes this repository's sources, and those of the crates it uses where they are to be found.
fn real_text(folder: &Path) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = files_under(workspace, ".rs");
    if let Some(home) = std::env::home_dir() {
        let cargo = std::env::var_os("CARGO_HOME").map_or(home.join(".cargo"), PathBuf::from);
        sources.extend(files_under(&cargo.join("registry/src"), ".rs"));
    }
    let mut text = Vec::new();
    for source in &sources {
        text.extend(fs::read(source).unwrap());
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        if text.len() >= TEXT_BYTES {
            break;
        }
    }
    let path = folder.join("text");
    fs::write(&path, &text).unwrap();
    path
}

/// Tails the whole topic as it is now; gives what was printed.
#[track_caller]
fn tail(server: &Server, topic: &str, more: &[&str]) -> Vec<u8> {
    let mut args = vec!["tail", topic, "--no-follow"];
    args.extend(more);
    server.run(&args).expect(0).stdout
}

#[track_caller]
fn assert_same(found: &[u8], expected: &[u8]) {
    let first = found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected);
    assert!(
        first.is_none() && found.len() == expected.len(),
        "{} bytes for {}, the first difference at {first:?}",
        found.len(),
        expected.len()
    );
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Stops the server, checks its folder, and starts it again.
#[track_caller]
fn restart(server: Server, setup: Setup, data: &Path) -> Server {
    server.terminate().expect(0);
    verify(data).expect(0);
    Server::start(setup, data)
}

fn verify(data: &Path) -> Ended {
    millstream(&["verify", text_of(data), "--json"])
}

pub(crate) fn real_text_by_lines_is_the_same_after_a_restart(setup: Setup) {
    let place = folder();
    let data = place.path().join("data");
    let text = real_text(place.path());
    let expected = fs::read(&text).unwrap();
    let lines = expected.split(|byte| *byte == b'\n').count() - 1;

    let server = Server::start(setup, &data);
    let report = server
        .run(&["pub", "text", text_of(&text), "--json"])
        .expect(0)
        .json();
    assert_eq!(report["published"], lines);
    assert_eq!(report["ack"], "synced");
    assert_same(&tail(&server, "text", &[]), &expected);

    let server = restart(server, setup, &data);
    assert_same(&tail(&server, "text", &[]), &expected);
    println!("{lines} lines, {} bytes", expected.len());
}

pub(crate) fn a_large_binary_in_pieces_is_the_same_after_a_restart(setup: Setup) {
    let place = folder();
    let data = place.path().join("data");
    let binary = place.path().join("binary");
    let expected = Numbers::new(1).bytes(BINARY_BYTES + 12_345);
    fs::write(&binary, &expected).unwrap();

    let server = Server::start(setup, &data);
    let args = [
        "pub",
        "binary",
        text_of(&binary),
        "--chunk",
        "1MiB",
        "--json",
    ];
    let report = server.run(&args).expect(0).json();
    assert_eq!(report["published"], BINARY_BYTES / (1 << 20) + 1);
    assert_same(&tail(&server, "binary", &["--bare"]), &expected);

    let server = restart(server, setup, &data);
    assert_same(&tail(&server, "binary", &["--bare"]), &expected);
}

pub(crate) fn whole_files_come_back_byte_for_byte(setup: Setup) {
    let place = folder();
    let mut numbers = Numbers::new(2);
    let mut args = vec!["pub".to_owned(), "files".to_owned(), "--whole".to_owned()];
    let mut expected = Vec::new();
    for (number, bytes) in [1_000_000, 0, 1, 4095, 70_000, 3 << 20]
        .into_iter()
        .enumerate()
    {
        let path = place.path().join(format!("file-{number}"));
        let content = numbers.bytes(bytes);
        fs::write(&path, &content).unwrap();
        args.push(text_of(&path).to_owned());
        expected.push(content);
    }
    let server = Server::start(setup, &place.path().join("data"));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    server.run(&args).expect(0);
    assert_same(&tail(&server, "files", &["--bare"]), &expected.concat());
    for (offset, content) in expected.iter().enumerate() {
        let from = offset.to_string();
        let one = tail(
            &server,
            "files",
            &["--bare", "--from", &from, "--count", "1"],
        );
        assert_same(&one, content);
    }
}

pub(crate) fn messages_with_newlines_travel_between_nul_bytes(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    let input = b"one\nline\0\0\n\0last\xff\0";
    let report = server
        .run_with(&["pub", "t", "--null", "--json"], input)
        .expect(0)
        .json();
    assert_eq!(report["published"], 4);
    assert_same(&tail(&server, "t", &["--null"]), input);
    assert_same(&tail(&server, "t", &["--bare"]), b"one\nline\nlast\xff");
}

pub(crate) fn what_is_published_is_reported(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    let report = |args: &[&str], input: &[u8]| server.run_with(args, input).expect(0).json();

    let first = report(&["pub", "t", "--json"], b"a\nb\nc\n");
    assert_eq!(first["published"], 3);
    assert_eq!(first["first_offset"], 0);
    assert_eq!(first["last_offset"], 2);
    assert_eq!(first["ack"], "synced");

    let second = report(
        &["pub", "t", "--json", "--ack", "stored", "--batch", "1"],
        b"d\ne\n",
    );
    assert_eq!(second["published"], 2);
    assert_eq!(second["first_offset"], 3);
    assert_eq!(second["last_offset"], 4);
    assert_eq!(second["ack"], "stored");

    let nothing = report(&["pub", "t", "--json"], b"");
    assert_eq!(nothing["published"], 0);
    assert_eq!(nothing["first_offset"], Value::Null);
    assert_eq!(nothing["last_offset"], Value::Null);

    let plain = server.run_with(&["pub", "t"], b"f\n").expect(0);
    assert!(
        plain.stdout.starts_with(b"published 1 message"),
        "{plain:?}"
    );
    assert_same(&tail(&server, "t", &[]), b"a\nb\nc\nd\ne\nf\n");
}

pub(crate) fn keys_headers_times_and_offsets_are_given_back(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    let args = ["pub", "t", "--key", "k7", "-H", "trace:a:b", "-H", "n: 1"];
    server.run_with(&args, b"text\n\xff\xfe\n").expect(0);
    server.run_with(&["pub", "t"], b"plain\n").expect(0);
    let lines = server
        .run(&["tail", "t", "--no-follow", "-o", "jsonl"])
        .expect(0)
        .json_lines();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["offset"], 0);
    assert_eq!(lines[0]["body"], "text");
    assert_eq!(lines[0]["key"], "k7");
    assert_eq!(
        lines[0]["headers"],
        serde_json::json!([["trace", "a:b"], ["n", "1"]])
    );
    assert!(lines[0]["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(lines[1]["body"], Value::Null);
    assert_eq!(lines[1]["body_base64"], "//4=");
    assert_eq!(lines[2]["offset"], 2);
    assert_eq!(lines[2]["key"], Value::Null);
    let same = server
        .run(&["tail", "t", "--no-follow", "--json"])
        .expect(0)
        .json_lines();
    assert_eq!(same, lines);
}

pub(crate) fn tail_begins_where_it_is_told(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    server.run_with(&["pub", "t"], b"0\n1\n2\n3\n").expect(0);
    let from = |place: &str| tail(&server, "t", &["--from", place]);
    assert_same(&from("start"), b"0\n1\n2\n3\n");
    assert_same(&from("2"), b"2\n3\n");
    assert_same(&from("end"), b"");
    assert_same(&from("-1h"), b"0\n1\n2\n3\n");
    assert_same(&from("2020-01-01T00:00:00Z"), b"0\n1\n2\n3\n");
    assert_same(
        &tail(&server, "t", &["--from", "1", "--count", "2"]),
        b"1\n2\n",
    );

    // Between two publishes lies the time at which the second was appended.
    server.run_with(&["pub", "t"], b"later\n").expect(0);
    let args = ["tail", "t", "--from", "4", "--count", "1", "--json"];
    let later = server.run(&args).expect(0).json_lines();
    let time = later[0]["time"].as_str().unwrap();
    assert_same(&from(time), b"later\n");

    server.run(&["tail", "nothing", "--no-follow"]).expect(3);
    server.run(&["tail", "t", "--from", "yesterday"]).expect(2);
}

pub(crate) fn tail_follows_what_is_published_later(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    server.run_with(&["pub", "t"], b"before\n").expect(0);
    let mut reader = server
        .command(&["tail", "t", "--count", "4"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "before");
    for message in ["one", "two"] {
        // What was read is printed before tail waits for more.
        server.run_with(&["pub", "t"], message.as_bytes()).expect(0);
        assert_eq!(lines.next().unwrap().unwrap(), message);
    }

    // A publisher that is still being written to holds nothing back.
    let mut writer = server
        .command(&["pub", "t"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = writer.stdin.take().unwrap();
    input.write_all(b"three\nfo").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "three");
    drop(input);
    assert!(writer.wait().unwrap().success());
    assert!(reader.wait().unwrap().success());
}

pub(crate) fn topics_are_created_listed_shown_and_removed(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    let create = |topic: &str, more: &[&str]| {
        server.run(&[&["topic", "create", topic, "--json"], more].concat())
    };
    assert_eq!(create("a", &[]).expect(0).json()["durability"], "synced");
    assert_eq!(
        create("b", &["--durability", "stored"]).expect(0).json()["durability"],
        "stored"
    );
    create("a", &["--durability", "stored"]).expect(7);
    create("x/y", &[]).expect(2);
    create("..", &[]).expect(2);
    create("", &[]).expect(2);
    create(&"x".repeat(256), &[]).expect(2);
    create(&"x".repeat(255), &[]).expect(0);
    server.run(&["topic", "rm", &"x".repeat(255)]).expect(0);

    let listed = server
        .run(&["topic", "ls", "--json"])
        .expect(0)
        .json_lines();
    let names: Vec<&str> = listed
        .iter()
        .map(|topic| topic["topic"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let listed = server.run(&["topic", "ls"]).expect(0);
    assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().count(), 3);

    server.run_with(&["pub", "a"], b"1\n2\n").expect(0);
    let shown = server
        .run(&["topic", "show", "a", "--json"])
        .expect(0)
        .json();
    assert_eq!(shown["first_offset"], 0);
    assert_eq!(shown["next_offset"], 2);
    assert_eq!(shown["synced_offset"], 2);
    server.run(&["topic", "show", "a"]).expect(0);

    server.run(&["topic", "rm", "a"]).expect(0);
    server.run(&["topic", "rm", "a"]).expect(3);
    server.run(&["topic", "show", "a"]).expect(3);
    server.run(&["tail", "a"]).expect(3);
}

pub(crate) fn acknowledged_messages_survive_a_kill(setup: Setup) {
    let place = folder();
    let data = place.path().join("data");
    let mut expected = Vec::new();
    for round in 0..4 {
        let server = Server::start(setup, &data);
        server.run(&["topic", "create", "t"]).expect(0);
        assert_same(&tail(&server, "t", &[]), &expected);
        let lines = format!("round {round}\nline two\n\n");
        server.run_with(&["pub", "t"], lines.as_bytes()).expect(0);
        expected.extend(lines.as_bytes());
        server.kill();
    }
    let server = Server::start(setup, &data);
    assert_same(&tail(&server, "t", &[]), &expected);
    let server = restart(server, setup, &data);
    assert_same(&tail(&server, "t", &[]), &expected);
}

pub(crate) fn a_server_told_to_stop_finishes_first(setup: Setup) {
    stop_in_mid_publish(setup, 1);
}

pub(crate) fn a_server_told_twice_drops_its_connections_and_no_message(setup: Setup) {
    stop_in_mid_publish(setup, 2);
}

/// Publishes until the server, sent SIGTERM this often, is gone; then looks for what it promised.
fn stop_in_mid_publish(setup: Setup, signals: usize) {
    let place = folder();
    let data = place.path().join("data");
    let server = Server::start(setup, &data);
    server.run(&["topic", "create", "t"]).expect(0);
    let mut writer = server
        .command(&["pub", "t", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = writer.stdin.take().unwrap();
    input.write_all(b"first\n").unwrap();
    server.run(&["tail", "t", "--count", "1"]).expect(0);

    let many = "x".repeat(99) + "\n";
    let feeder = std::thread::spawn(move || while input.write_all(many.as_bytes()).is_ok() {});
    for _ in 1..signals {
        server.signal(Signal::TERM);
    }
    server.terminate().expect(0);
    let ended = writer.wait_with_output().unwrap();
    feeder.join().unwrap();
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let published = report["published"].as_u64().unwrap();
    assert!(
        !ended.status.success(),
        "the rest was not published: {report}"
    );

    verify(&data).expect(0);
    let server = Server::start(setup, &data);
    let kept = server
        .run(&["topic", "show", "t", "--json"])
        .expect(0)
        .json();
    assert!(
        kept["next_offset"].as_u64().unwrap() >= published,
        "{kept} {report}"
    );
}

pub(crate) fn a_reader_that_closes_its_pipe_ends_tail_quietly(setup: Setup) {
    let place = folder();
    let server = Server::start(setup, &place.path().join("data"));
    let lines = "some line of text\n".repeat(100_000);
    server.run_with(&["pub", "t"], lines.as_bytes()).expect(0);
    let mut reader = server
        .command(&["tail", "t", "--no-follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(reader.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert_eq!(first, "some line of text\n");
    let ended = reader.wait_with_output().unwrap();
    assert!(ended.status.success());
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}

pub(crate) fn a_stored_topic_is_served_and_kept(setup: Setup) {
    let place = folder();
    let data = place.path().join("data");
    let server = Server::start(setup, &data);
    server
        .run(&["topic", "create", "t", "--durability", "stored"])
        .expect(0);
    let report = server
        .run_with(&["pub", "t", "--json"], b"a\nb\n")
        .expect(0)
        .json();
    assert_eq!(report["ack"], "stored");
    server.kill();
    let server = Server::start(setup, &data);
    assert_same(&tail(&server, "t", &[]), b"a\nb\n");
    let args = ["pub", "t", "--json", "--ack", "synced"];
    assert_eq!(
        server.run_with(&args, b"c\n").expect(0).json()["ack"],
        "synced"
    );
    assert_same(
        &tail(&restart(server, setup, &data), "t", &[]),
        b"a\nb\nc\n",
    );
}

pub(crate) fn a_unix_socket_serves_as_well(setup: Setup) {
    let place = folder();
    let socket = place.path().join("socket");
    let listen = format!("unix:{}", socket.display());
    let server = Server::start_with(setup, &place.path().join("data"), &["--listen", &listen]);
    let at_socket = |args: &[&str], input: &[u8]| {
        run(
            Command::new(crate::harness::MILLSTREAM)
                .args(args)
                .env("MILLSTREAM_SERVER", &listen),
            input,
        )
    };
    at_socket(&["pub", "t"], b"over a socket\n").expect(0);
    assert_same(
        &at_socket(&["tail", "t", "--no-follow"], b"")
            .expect(0)
            .stdout,
        b"over a socket\n",
    );
    server.terminate().expect(0);
    assert!(!socket.exists(), "the socket goes with the server");
}
