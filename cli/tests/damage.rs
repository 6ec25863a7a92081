//! Damaged data: `verify` and `segment dump` name the place, the server starts and serves the rest.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;

use std::fs;
use std::path::{Path, PathBuf};

use harness::{Ended, Server, Setup, files_under, millstream};

const SETUP: Setup = Setup::io("auto");
/// Lines of the topic; a frame holds a hundred of them.
const LINES: usize = 10_000;

/// A folder with one topic `t` of numbered lines, cleanly stopped; gives its largest segment.
fn make(data: &Path) -> PathBuf {
    let server = Server::start(SETUP, data);
    let text: String = (0..LINES)
        .map(|number| format!("line {number:08}\n"))
        .collect();
    server
        .run_with(&["pub", "t", "--batch", "100"], text.as_bytes())
        .expect(0);
    server.terminate().expect(0);
    let segments = files_under(data, ".seg");
    segments
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap()
}

fn verify(data: &Path) -> Ended {
    millstream(&["verify", data.to_str().unwrap(), "--json"])
}

fn dump(segment: &Path, more: &[&str]) -> Ended {
    millstream(&[&["segment", "dump", segment.to_str().unwrap()], more].concat())
}

#[test]
fn a_sound_folder_is_described() {
    let place = tempfile::tempdir().unwrap();
    let segment = make(place.path());
    let report = verify(place.path()).expect(0).json();
    assert_eq!(report["sound"], true);
    assert_eq!(report["records"], LINES);
    assert_eq!(report["topics"][0]["topic"], "t");
    assert_eq!(report["problems"], serde_json::json!([]));
    let text = millstream(&["verify", place.path().to_str().unwrap()]).expect(0);
    assert!(
        String::from_utf8(text.stdout)
            .unwrap()
            .ends_with("sound: 10000 records\n")
    );

    let lines = dump(&segment, &["--json"]).expect(0).json_lines();
    let records: u64 = lines[1..]
        .iter()
        .map(|frame| frame["records"].as_u64().unwrap())
        .sum();
    assert_eq!(records, LINES as u64);
    assert_eq!(lines.last().unwrap()["kind"], "seal");
    assert_eq!(lines[0]["footer"]["end_offset"], LINES);
    dump(&segment, &[]).expect(0);
}

#[test]
fn one_flipped_bit_is_found_told_and_read_around() {
    let place = tempfile::tempdir().unwrap();
    let segment = make(place.path());
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes
        .windows(13)
        .position(|window| window == b"line 00005000")
        .unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).unwrap();

    let report = verify(place.path()).expect(8).json();
    assert_eq!(report["sound"], false);
    let problem = &report["problems"][0];
    assert!(
        segment.ends_with(problem["file"].as_str().unwrap()),
        "{problem}"
    );
    let position = problem["position"].as_u64().unwrap();
    assert!(
        (position..position + 4096).contains(&(at as u64)),
        "{problem}, flipped at {at}"
    );
    let dumped = dump(&segment, &[]).expect(8);
    assert!(
        String::from_utf8(dumped.stdout)
            .unwrap()
            .contains("DAMAGED")
    );

    let server = Server::start(SETUP, place.path());
    let ended = server.run(&["tail", "t", "--no-follow"]).expect(8);
    assert!(ended.stderr.contains("missing"), "{}", ended.stderr);
    let text = String::from_utf8(ended.stdout).unwrap();
    let kept = text.lines().count();
    assert!(
        (LINES - 1000..LINES).contains(&kept),
        "{kept} lines are left"
    );
    assert!(text.starts_with("line 00000000\n") && text.ends_with("line 00009999\n"));
    let lines = server
        .run(&["tail", "t", "--no-follow", "--json"])
        .expect(8)
        .json_lines();
    let gap = lines.iter().find_map(|line| line.get("gap")).unwrap();
    let missing = gap["next_offset"].as_u64().unwrap() - gap["first_offset"].as_u64().unwrap();
    assert_eq!(missing as usize, LINES - kept);
    assert_eq!(gap["reason"], "damaged");

    // The rest of the topic goes on.
    server.run_with(&["pub", "t"], b"after\n").expect(0);
    server.terminate().expect(0);
}

#[test]
fn a_missing_segment_is_told_and_not_made_anew() {
    let place = tempfile::tempdir().unwrap();
    let segment = make(place.path());
    fs::remove_file(&segment).unwrap();
    let report = verify(place.path()).expect(8).json();
    assert!(
        report["problems"][0]["fault"]
            .as_str()
            .unwrap()
            .contains("missing"),
        "{report}"
    );
    assert!(!segment.exists());
}

#[test]
fn what_is_no_folder_or_segment_is_said_so() {
    let place = tempfile::tempdir().unwrap();
    let absent = place.path().join("absent");
    verify(&absent).expect(3);
    assert!(!absent.exists());
    dump(&absent, &[]).expect(3);
    let file = place.path().join("file");
    fs::write(&file, "text").unwrap();
    dump(&file, &[]).expect(8);
}
