//! A small disk filled until publishers are refused and drained through a queue, again and again,
//! without a restart.

use std::fs;
use std::path::Path;
use std::process::Command;

use millstream_faultdisk::{Format, Mounted, isolate};

use crate::harness::{Numbers, Server, Setup, files_under, millstream, until};
use crate::rig::rounds;

/// Cycles on each file system, unless `MILLSTREAM_FILL_CYCLES` says otherwise.
const CYCLES: u32 = 10;
/// Cycles after which all that is kept between cycles has been made.
const WARM: u32 = 3;
const DISK_BYTES: u64 = 64 << 20;
const MESSAGE_BYTES: usize = 64 << 10;
/// More than the disk takes.
const INPUT_BYTES: usize = 80 << 20;
/// Lock, manifest, two checkpoints, the journal's segments and the topic's.
const FILES_MAX: usize = 12;
/// How much more memory of its own a server may have than when it was warm.
const GROWTH_KIB: u64 = 24 << 10;

/// What a server takes when its queue is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    files: usize,
    disk_bytes: u64,
    memory_kib: u64,
    descriptors: usize,
}

impl Taken {
    fn by(server: &Server, data: &Path) -> Self {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let memory = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap();
        let memory = memory.trim_start().trim_end_matches(" kB");
        let descriptors = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        Self {
            files: files_under(data, "").len(),
            disk_bytes: DISK_BYTES - free_bytes(data),
            memory_kib: memory.parse().unwrap(),
            descriptors: descriptors.count(),
        }
    }
}

fn free_bytes(data: &Path) -> u64 {
    let stat = rustix::fs::statvfs(data).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Publishes until the disk is full; gives how many messages were taken.
fn fill(server: &Server, input: &Path) -> usize {
    let chunk = MESSAGE_BYTES.to_string();
    let input = input.to_str().unwrap();
    let ended = server.run(&["pub", "q", "--chunk", &chunk, "--json", input]);
    let report = ended.expect(1).json();
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("StorageFull"), "{report}");
    assert_eq!(report["unknown"], serde_json::Value::Null, "{report}");
    report["published"].as_u64().unwrap() as usize
}

/// Takes and settles everything; gives how many messages came.
fn drain(server: &Server, sent: &[u8]) -> usize {
    let work = ["work", "q", "--wait", "50ms", "--null"];
    let bodies = server.run(&work).expect(0).stdout;
    let mut messages = bodies.chunks_exact(MESSAGE_BYTES + 1);
    let mut expected = sent.chunks_exact(MESSAGE_BYTES);
    assert!(messages.all(|message| message[..MESSAGE_BYTES] == *expected.next().unwrap()));
    bodies.len() / (MESSAGE_BYTES + 1)
}

fn fill_and_drain(name: &str, io: &'static str, disk: &Mounted) {
    let cycles = rounds("MILLSTREAM_FILL_CYCLES", CYCLES);
    let place = tempfile::tempdir().unwrap();
    let input = place.path().join("input");
    let sent = Numbers::new(9).bytes(INPUT_BYTES);
    fs::write(&input, &sent).unwrap();
    let data = disk.files().join("data");
    let server = Server::start(Setup::io(io), &data);
    server.run(&["queue", "create", "q"]).expect(0);
    let mut published = 0;
    let mut warm = None;
    for cycle in 1..=cycles {
        // What was settled goes in the background, and a whole segment must fit what is free.
        let filled = until("room", || match fill(&server, &input) {
            0 => Err(free_bytes(&data)),
            filled => Ok(filled),
        });
        // A frame is taken as a whole, or refused as a whole.
        assert_eq!(drain(&server, &sent), filled, "cycle {cycle}");
        published += filled;
        let queue = server.queue("q");
        assert_eq!(queue["waiting"].as_u64().unwrap_or(0), 0, "{queue}");
        let taken = Taken::by(&server, &data);
        if cycle == WARM {
            warm = Some(taken);
        }
        if cycle % 100 == 0 || cycle == cycles || cycle == WARM {
            println!("{name} {io}: cycle {cycle}: {filled} messages, {taken:?}");
        }
        if let Some(warm) = warm {
            let flat = taken.memory_kib <= warm.memory_kib + GROWTH_KIB
                && taken.files <= FILES_MAX
                && taken.descriptors <= warm.descriptors + 4;
            assert!(flat, "cycle {cycle}: {taken:?} against {warm:?}");
        }
    }
    server.terminate().expect(0);
    millstream(&["verify", data.to_str().unwrap()]).expect(0);
    let server = Server::start(Setup::io(io), &data);
    server.run_with(&["pub", "q"], b"after\n").expect(0);
    let work = ["work", "q", "--count", "1"];
    assert_eq!(server.run(&work).expect(0).stdout, b"after\n");
    server.terminate().expect(0);
    println!("{name} {io}: {cycles} cycles, {published} messages of {MESSAGE_BYTES} bytes, 0 lost");
}

#[test]
fn a_small_ext4_is_filled_and_drained() {
    if let Err(lacking) = isolate() {
        eprintln!("SKIPPED a_small_ext4_is_filled_and_drained: {lacking}");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (image, files) = (place.path().join("image"), place.path().join("files"));
    fs::File::create(&image)
        .unwrap()
        .set_len(DISK_BYTES)
        .unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED a_small_ext4_is_filled_and_drained: needs mkfs.ext4");
        return;
    }
    fs::create_dir(&files).unwrap();
    let disk = Mounted::at_loop(&image, Format::Ext4, files).unwrap();
    fill_and_drain("ext4", "uring", &disk);
}

#[test]
fn a_small_tmpfs_is_filled_and_drained() {
    if let Err(lacking) = isolate() {
        eprintln!("SKIPPED a_small_tmpfs_is_filled_and_drained: {lacking}");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let files = place.path().join("files");
    fs::create_dir(&files).unwrap();
    let disk = Mounted::in_memory(DISK_BYTES, files).unwrap();
    fill_and_drain("tmpfs", "epoll", &disk);
}
