//! `pub --producer` while servers are killed under it, and when it is run again: each message once.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use harness::{Server, Setup, millstream, until};
use millstream_client::Start;
use millstream_client::blocking::Client;
use serde_json::Value;

/// Times the server is killed, unless `MILLSTREAM_PRODUCER_KILLS` says otherwise.
const KILLS: u64 = 8;
/// Messages between two kills.
const MESSAGES: u64 = 4_000;

fn line(number: u64) -> String {
    format!("message {number:08}\n")
}

/// A server that is found at the same place after each start.
fn start(place: &Path, io: &'static str) -> Server {
    let listen = format!("unix:{}", place.join("socket").display());
    Server::start_with(Setup::io(io), &place.join("data"), &["--listen", &listen])
}

/// `pub` with its input to be written.
fn publisher(place: &Path, more: &[&str]) -> Child {
    let server = format!("millstream+unix://{}", place.join("socket").display());
    Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(["pub", "orders", "--producer", "till-7", "--json"])
        .args(more)
        .env("MILLSTREAM_SERVER", server)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn write(input: &mut ChildStdin, lines: std::ops::Range<u64>) {
    for number in lines {
        input.write_all(line(number).as_bytes()).unwrap();
    }
}

/// Waits until so many messages are in the topic.
fn await_messages(server: &Server, count: u64) {
    let client = Client::connect(format!("millstream://{}", server.address())).unwrap();
    until("messages", || {
        // The topic may not be there yet. Offsets jump at kills, so records are counted.
        let Ok(topic) = client.topic("orders") else {
            return Err(0);
        };
        let mut reader = client.reader("orders", Start::Earliest).unwrap();
        reader.stop_at(topic.next_offset);
        let mut found = 0;
        while let Some(record) = reader.next() {
            record.unwrap();
            found += 1;
        }
        if found >= count { Ok(()) } else { Err(found) }
    });
}

/// Every message is there, once, in order.
fn check(server: &Server, messages: u64) {
    let client = Client::connect(format!("millstream://{}", server.address())).unwrap();
    let mut reader = client.reader("orders", Start::Earliest).unwrap();
    reader.stop_at(reader.end_offset());
    let mut next = 0;
    while let Some(record) = reader.next() {
        let record = record.unwrap();
        let text = String::from_utf8(record.as_bytes().to_vec()).unwrap() + "\n";
        assert_eq!(text, line(next), "at {}", record.offset());
        next += 1;
    }
    assert_eq!(next, messages);
}

fn report(child: Child, code: i32) -> Value {
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(code), "{said}");
    serde_json::from_slice(&ended.stdout).unwrap()
}

#[test]
fn a_producer_lives_through_kills_of_its_server_and_each_message_is_there_once() {
    let kills =
        std::env::var("MILLSTREAM_PRODUCER_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let mut server = start(place.path(), "auto");
    let mut child = publisher(place.path(), &["--batch", "3"]);
    let mut input = child.stdin.take().unwrap();
    // The input runs ahead of the kills by less than the messages between two of them, so there is
    // always something under way.
    let (go_on, allowed) = mpsc::channel::<()>();
    let writer = thread::spawn(move || {
        let mut written = 0;
        for () in allowed {
            write(&mut input, written..written + MESSAGES);
            written += MESSAGES;
        }
        written
    });
    for round in 0..kills {
        go_on.send(()).unwrap();
        await_messages(&server, round * MESSAGES + 1 + round * 97 % MESSAGES);
        if round % 4 == 3 {
            server.terminate().expect(0);
        } else {
            server.kill();
        }
        let io = if round.is_multiple_of(2) {
            "epoll"
        } else {
            "auto"
        };
        server = start(place.path(), io);
    }
    drop(go_on);
    let messages = writer.join().unwrap();
    let report = report(child, 0);
    assert_eq!(report["published"], messages, "{report}");
    assert_eq!(
        (&report["unknown"], &report["error"]),
        (&Value::Null, &Value::Null)
    );
    check(&server, messages);
    server.terminate().expect(0);
    let data = place.path().join("data");
    millstream(&["verify", data.to_str().unwrap()]).expect(0);
    println!("{kills} kills, {messages} messages, each there once");
}

#[test]
fn run_again_it_goes_on_behind_what_is_there_and_the_older_one_is_fenced() {
    let place = tempfile::tempdir().unwrap();
    let server = start(place.path(), "auto");
    let mut older = publisher(place.path(), &[]);
    let mut input = older.stdin.take().unwrap();
    write(&mut input, 0..1_000);
    await_messages(&server, 1_000);
    let mut newer = publisher(place.path(), &[]);
    write(&mut newer.stdin.take().unwrap(), 0..2_500);
    let told = report(newer, 0);
    assert_eq!(
        (&told["already_there"], &told["published"]),
        (&1_000.into(), &1_500.into())
    );
    write(&mut input, 1_000..1_001);
    drop(input);
    let told = report(older, 7);
    assert_eq!(
        (&told["published"], &told["unknown"]),
        (&1_000.into(), &Value::Null),
        "{told}"
    );
    assert!(
        told["error"].as_str().unwrap().contains("newer instance"),
        "{told}"
    );
    check(&server, 2_500);
    // Once more, over a server that was killed: nothing is added.
    server.kill();
    let server = start(place.path(), "auto");
    let mut again = publisher(place.path(), &[]);
    write(&mut again.stdin.take().unwrap(), 0..2_500);
    let told = report(again, 0);
    assert_eq!(
        (&told["already_there"], &told["published"]),
        (&2_500.into(), &0.into())
    );
    check(&server, 2_500);
    server
        .run(&["pub", "orders", "--producer", "a/b"])
        .expect(2);
}
