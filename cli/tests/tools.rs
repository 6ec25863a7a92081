//! An operator's tools on folders that the real server made: `doctor`, `verify --deep`, `quarantine`,
//! `repair`; and one bit that flips in an old segment under a running server.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use harness::{Ended, Server, Setup, files_under, millstream};
use millstream_protocol::checksum::crc32c;
use serde_json::Value;

const SETUP: Setup = Setup::io("auto");

fn text(lines: usize) -> String {
    (0..lines)
        .map(|number| format!("line {number:08}\n"))
        .collect()
}

fn publish(server: &Server, topic: &str, lines: usize) {
    let lines = text(lines);
    server
        .run_with(&["pub", topic, "--batch", "10"], lines.as_bytes())
        .expect(0);
}

/// Runs a tool over `data`.
fn tool(words: &[&str], data: &Path) -> Ended {
    millstream(&[words, &[data.to_str().unwrap()]].concat())
}

/// The segment of topic `t`, which is the largest there is.
fn segment(data: &Path) -> PathBuf {
    let len = |path: &PathBuf| fs::metadata(path).unwrap().len();
    files_under(data, ".seg")
        .into_iter()
        .max_by_key(len)
        .unwrap()
}

/// Every file and its bytes.
fn contents(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files_under(data, "");
    files
        .into_iter()
        .map(|file| (file.clone(), fs::read(file).unwrap()))
        .collect()
}

fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// The frames of a segment, as `segment dump` has them.
fn frames(segment: &Path) -> Vec<Value> {
    let lines = tool(&["segment", "dump", "--json"], segment).json_lines();
    lines[1..].to_vec()
}

/// A folder of a killed server whose last sync was struck: by its slots all before the tenth frame is
/// proven, all before the twentieth was attempted, and the fifteenth is damaged.
fn in_doubt(data: &Path) {
    let server = Server::start(SETUP, data);
    publish(&server, "t", 300);
    server.kill();
    let segment = segment(data);
    let frames = frames(&segment);
    let mark = |frame: usize| {
        let frame = &frames[frame];
        (
            frame["base_offset"].as_u64().unwrap(),
            frame["position"].as_u64().unwrap(),
        )
    };
    let (proven, attempted) = (mark(10), mark(20));
    let mut bytes = fs::read(&segment).unwrap();
    for slot in [4096, 8192] {
        let slot = &mut bytes[slot..slot + 60];
        slot[4..8].fill(0);
        slot[24..32].copy_from_slice(&proven.0.to_le_bytes());
        slot[32..40].copy_from_slice(&attempted.0.to_le_bytes());
        slot[40..44].copy_from_slice(&(proven.1 as u32).to_le_bytes());
        slot[44..48].copy_from_slice(&(attempted.1 as u32).to_le_bytes());
        let crc = crc32c(&slot[..56]);
        slot[56..].copy_from_slice(&crc.to_le_bytes());
    }
    bytes[mark(15).1 as usize + 70] ^= 1;
    fs::write(&segment, bytes).unwrap();
    // Recovery decides.
    Server::start(SETUP, data).terminate().expect(0);
}

/// Reads the cut `name`: the damaged batch is named, and all behind it can be read, 14 batches of ten.
/// Gives the folder that the bodies were written to.
fn read_cut(data: &Path, name: &str, place: &Path) -> PathBuf {
    let bodies = place.join("bodies");
    let bodies_to = ["--bodies-to", bodies.to_str().unwrap()];
    let show = |more: &[&str]| {
        millstream(&[&["quarantine", "show", name, data.to_str().unwrap()], more].concat())
    };
    let shown = show(&[&["--json"][..], &bodies_to[..]].concat())
        .expect(0)
        .json_lines();
    assert_eq!(shown[0]["damaged"]["first_offset"], 150);
    assert_eq!(shown.len(), 1 + 140);
    assert_eq!(shown[1]["record"]["body"], "line 00000160");
    let body = fs::read_to_string(bodies.join(format!("{:020}", 299))).unwrap();
    assert_eq!(body, "line 00000299");
    // Nothing is written over.
    show(&bodies_to).expect(7);
    millstream(&["quarantine", "show", "9/9", data.to_str().unwrap()]).expect(3);
    millstream(&["quarantine", "show", "nine", data.to_str().unwrap()]).expect(2);
    bodies
}

#[test]
fn what_may_have_been_acknowledged_is_listed_read_and_released() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    in_doubt(&data);
    tool(&["verify"], &data).expect(8);
    let cuts = tool(&["quarantine", "ls", "--json"], &data)
        .expect(0)
        .json_lines();
    let [cut] = cuts.as_slice() else {
        panic!("{cuts:?}");
    };
    assert_eq!(
        (&cut["topic"], &cut["acknowledged"]),
        (&"t".into(), &"possibly".into())
    );
    assert_eq!(cut["first_offset"], 150);
    assert!(
        cut["when"].is_string() && cut["copies"][0]["bytes"] == cut["cut_bytes"],
        "{cut}"
    );
    let name = cut["cut"].as_str().unwrap();
    let table = tool(&["quarantine", "ls"], &data).expect(0);
    assert!(
        String::from_utf8(table.stdout)
            .unwrap()
            .contains("possibly")
    );

    let bodies = read_cut(&data, name, place.path());

    let before = contents(&data);
    let said = tool(&["repair", "--json"], &data).expect(8).json();
    assert_eq!(said["applied"], false);
    assert_eq!(said["actions"][0]["action"], "release");
    assert_eq!(contents(&data), before, "a dry run changes nothing");
    tool(&["repair", "--apply"], &data).expect(0);
    tool(&["verify", "--deep"], &data).expect(0);
    let after = contents(&data);
    for (file, bytes) in &before {
        assert!(
            after.values().any(|kept| kept == bytes),
            "{} is gone",
            file.display()
        );
    }
    let cuts = tool(&["quarantine", "ls", "--json"], &data)
        .expect(0)
        .json_lines();
    assert_eq!(cuts[0]["acknowledged"], "possibly, released");

    // Publish again by hand what was cut off.
    let server = Server::start(SETUP, &data);
    let files: Vec<PathBuf> = files_under(&bodies, "");
    let mut words = vec!["pub", "t", "--whole"];
    words.extend(files.iter().map(|file| file.to_str().unwrap()));
    server.run(&words).expect(0);
    let lines = server.run(&["tail", "t", "--no-follow"]).expect(0).stdout;
    assert_eq!(String::from_utf8(lines).unwrap().lines().count(), 150 + 140);
    server.terminate().expect(0);
}

#[test]
fn a_lost_footer_is_made_again_and_strangers_are_moved_aside() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = Server::start(SETUP, data);
    publish(&server, "t", 300);
    server.terminate().expect(0);
    let segment = segment(data);
    let whole = fs::read(&segment).unwrap();
    fs::write(&segment, &whole[..whole.len() - 4096 - 17]).unwrap();
    fs::write(data.join("stranger"), "not ours").unwrap();
    tool(&["verify"], data).expect(8);
    let before = contents(data);
    tool(&["repair"], data).expect(8);
    assert_eq!(contents(data), before, "a dry run changes nothing");
    let said = tool(&["repair", "--apply", "--json"], data)
        .expect(0)
        .json();
    assert_eq!(said["applied"], true);
    assert_eq!(said["actions"].as_array().unwrap().len(), 2);
    let report = tool(&["verify", "--deep", "--json"], data).expect(0).json();
    assert_eq!(
        (&report["sound"], &report["unnamed"]),
        (&true.into(), &serde_json::json!([]))
    );
    assert_eq!(fs::read(&segment).unwrap()[12_288..], whole[12_288..]);
    assert_eq!(
        fs::read(data.join("quarantine/stranger")).unwrap(),
        b"not ours"
    );
    let said = tool(&["repair"], data).expect(0);
    assert_eq!(said.stdout, b"nothing to repair\n");

    // What rotted in a frame can't be had back: it is named, and nothing is touched.
    let position = frames(&segment)[3]["position"].as_u64().unwrap();
    flip(&segment, position + 70);
    let said = tool(&["repair", "--apply", "--json"], data)
        .expect(8)
        .json();
    assert_eq!(said["actions"], serde_json::json!([]));
    assert!(
        said["remains"][0]["advice"]
            .as_str()
            .unwrap()
            .contains("backup"),
        "{said}"
    );
}

#[test]
fn a_manifest_that_rotted_is_refused_by_its_byte_and_nothing_is_changed() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = Server::start(SETUP, data);
    publish(&server, "t", 10);
    server.terminate().expect(0);
    flip(&data.join("manifest"), 70);
    let before = contents(data);
    let refused = harness::run(&mut SETUP.serve(data, &[]), b"");
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("damaged at byte 32"),
        "{}",
        refused.stderr
    );
    tool(&["verify"], data).expect(8);
    tool(&["quarantine", "ls"], data).expect(8);
    for words in [&["repair"][..], &["repair", "--apply"]] {
        let said = tool(words, data).expect(8);
        assert!(said.stderr.contains("can't be repaired"), "{}", said.stderr);
    }
    tool(&["doctor", "--data"], data).expect(10);
    assert_eq!(contents(data), before);
}

#[test]
fn doctor_says_what_is_wrong_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let grades = |data: &Path| -> BTreeMap<String, (String, String)> {
        let words = ["doctor", "--json", "--syncs", "4", "--data"];
        let ended = tool(&words, data);
        let report = ended.json();
        let code = if report["grade"] == "fail" { 10 } else { 0 };
        assert_eq!(ended.code, Some(code), "{report}");
        let checks = report["checks"].as_array().unwrap().iter();
        checks
            .map(|check| {
                let word = |field: &str| check[field].as_str().unwrap().to_owned();
                assert_eq!(check["grade"] == "ok", check["advice"].is_null(), "{check}");
                (word("check"), (word("grade"), word("found")))
            })
            .collect()
    };
    let absent = grades(&data);
    for check in [
        "kernel",
        "io_uring",
        "file system",
        "sync",
        "space",
        "inodes",
        "descriptors",
        "memlock",
        "memory",
        "clock",
        "suspended",
        "folder",
    ] {
        assert!(absent.contains_key(check), "{check}: {absent:?}");
    }
    assert!(absent["sync"].1.contains("4 fdatasyncs"), "{absent:?}");
    assert!(!data.exists() && fs::read_dir(place.path()).unwrap().count() == 0);

    let server = Server::start(SETUP, &data);
    publish(&server, "t", 10);
    assert!(
        grades(&data)["folder"]
            .1
            .contains(&format!("in use by process {}", server.pid()))
    );
    server.kill();
    let before = contents(&data);
    let unclean = grades(&data);
    assert_eq!(unclean["stop"].0, "warn", "{unclean:?}");
    assert_eq!(contents(&data), before);
    Server::start(SETUP, &data).terminate().expect(0);
    let clean = grades(&data);
    assert_eq!(
        (clean["stop"].0.as_str(), clean["quarantine"].0.as_str()),
        ("ok", "ok")
    );

    let foreign = place.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("file"), "text").unwrap();
    assert_eq!(grades(&foreign)["folder"].0, "fail");
    let doubt = place.path().join("doubt");
    in_doubt(&doubt);
    assert_eq!(grades(&doubt)["quarantine"].0, "fail");
}

#[test]
fn the_deep_check_replays_the_journal_and_counts_what_moved() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = Server::start(SETUP, data);
    server.run(&["queue", "create", "jobs"]).expect(0);
    publish(&server, "jobs", 20);
    server.terminate().expect(0);
    let report = tool(&["verify", "--deep", "--json"], data).expect(0).json();
    let queues = &report["queues"];
    assert_eq!(
        (&queues["sound"], &report["sound"]),
        (&true.into(), &true.into())
    );
    assert_eq!(queues["queues"][0]["queue"], "jobs");
    assert_eq!(queues["queues"][0]["floor"], 0);
    assert!(queues["journal_frames"].as_u64().unwrap() > 0);
    let plain = tool(&["verify", "--json"], data).expect(0).json();
    assert!(plain.get("queues").is_none());

    // A checkpoint that rotted is of no use, and repair moves it aside.
    fs::write(data.join("checkpoint-00000001"), b"MLSTCHKPrubbish").unwrap();
    tool(&["verify"], data).expect(0);
    let said = tool(&["verify", "--deep"], data).expect(8);
    assert!(
        String::from_utf8(said.stdout)
            .unwrap()
            .contains("checkpoint-00000001")
    );
    tool(&["repair", "--apply"], data).expect(0);
    tool(&["verify", "--deep"], data).expect(0);
}

/// The lines that a tail printed, each of which must be one that was published; and whether it told of
/// a gap.
fn tailed(server: &Server) -> (Vec<String>, bool) {
    let ended = server.run(&["tail", "t", "--no-follow"]);
    let lines: Vec<String> = String::from_utf8(ended.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    for line in &lines {
        let number = line
            .strip_prefix("line ")
            .and_then(|number| number.parse().ok());
        assert!(
            number.is_some_and(|number: usize| number < 3000),
            "{line:?} was never published"
        );
    }
    match ended.code {
        Some(0) => (lines, false),
        Some(8) => (lines, true),
        code => panic!("{code:?}: {}", ended.stderr),
    }
}

/// Under a running server, before anybody read the segment and after: what comes is what was
/// published, the gap is told, everything else goes on.
#[test]
fn one_bit_flipped_under_a_running_server_is_a_gap() {
    for read_before in [false, true] {
        let place = tempfile::tempdir().unwrap();
        let data = place.path();
        let server = Server::start(SETUP, data);
        publish(&server, "t", 3000);
        server.terminate().expect(0);
        let segment = segment(data);
        let position = frames(&segment)[150]["position"].as_u64().unwrap();

        let server = Server::start(SETUP, data);
        if read_before {
            assert_eq!(
                tailed(&server),
                (text(3000).lines().map(str::to_owned).collect(), false)
            );
        }
        // The byte 100 of the frame is in its body.
        flip(&segment, position + 100);
        let (lines, gap) = tailed(&server);
        assert!(
            gap,
            "read before: {read_before}: {} lines and no gap",
            lines.len()
        );
        assert!((2900..3000).contains(&lines.len()), "{} lines", lines.len());
        assert_eq!(lines.last().unwrap(), "line 00002999");
        // The topic and others take more.
        for topic in ["t", "other"] {
            server
                .run_with(&["pub", topic], b"line 00000001\n")
                .expect(0);
        }
        let other = server.run(&["tail", "other", "--no-follow"]).expect(0);
        assert_eq!(other.stdout, b"line 00000001\n");
        server.terminate().expect(0);
        let report = tool(&["verify", "--json"], data).expect(8).json();
        assert_eq!(report["problems"][0]["position"], position);
    }
}

#[test]
fn publishers_that_wait_are_measured_alone_with_a_connection_each_and_on_one() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(SETUP, &place.path().join("data"));
    let address = server.address();
    let words = ["bench", "waiting", "--json", "--server", address];
    let more = ["--publishers", "5", "--ack", "stored", "--repeat", "1"];
    let short = ["--duration", "100ms", "--warmup", "1ms"];
    let outcomes = millstream(&[&words[..], &more, &short].concat())
        .expect(0)
        .json_lines();
    let wanted = [
        ("alone", 1),
        ("a connection each", 5),
        ("one connection", 5),
    ];
    assert_eq!(outcomes.len(), wanted.len());
    for (outcome, (extra, publishers)) in outcomes.iter().zip(wanted) {
        let Value::Object(parameters) = &outcome["parameters"] else {
            panic!("{outcome}");
        };
        assert_eq!(parameters["extra"], extra);
        assert_eq!(parameters["publishers"], publishers);
        assert_eq!(parameters["window"], publishers, "one under way of each");
        let run = &outcome["runs"][0];
        assert!(run["delivered"]["received"].as_u64() >= Some(publishers));
        for fault in ["lost", "doubled", "reordered", "damaged"] {
            assert_eq!(run["delivered"][fault], 0, "{extra}: {fault}");
        }
        let figures = run["figures"].as_array().unwrap();
        let has_ratio = figures.iter().any(|it| it["name"] == "ratio_to_first");
        assert_eq!(has_ratio, publishers > 1, "{extra}");
    }
}
