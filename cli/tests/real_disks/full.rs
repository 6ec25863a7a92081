//! A small disk filled until publishers are refused and drained through a queue, again and again,
//! without a restart.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use millstream_faultdisk::{Format, Mounted, isolate};

use crate::harness::{Numbers, Server, Setup, files_under, millstream, until};
use crate::rig::rounds;

/// Cycles on each file system, unless `MILLSTREAM_FILL_CYCLES` says otherwise.
const CYCLES: u32 = 15;
/// Cycles after which all that is kept between cycles has been made.
const WARM: u32 = 3;
const DISK_BYTES: u64 = 64 << 20;
const MESSAGE_BYTES: usize = 64 << 10;
/// More than the disk takes.
const INPUT_BYTES: usize = 80 << 20;
/// A worker that gives nothing for so long gives nothing any more.
const STUCK: Duration = Duration::from_secs(120);
/// Lock, manifest, reserve, two checkpoints, the topic's last segments, and the journal's of two
/// checkpoints, which are small on a nearly full disk. Fewer than with one more in each cycle.
const FILES_MAX: usize = 16;
/// How many more descriptors a server may have than when it was warm: a reader that rests holds the
/// segment it read last, dropped or not. Fewer than cycles, so that one lost in each is seen.
const GROWTH_DESCRIPTORS: usize = 8;
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

    /// Whether it is no more than when the server was warm, but for what comes and goes.
    fn is_level_with(&self, warm: &Self) -> bool {
        self.memory_kib <= warm.memory_kib + GROWTH_KIB
            && self.files <= FILES_MAX
            && self.descriptors <= warm.descriptors + GROWTH_DESCRIPTORS
    }
}

fn free_bytes(data: &Path) -> u64 {
    let stat = rustix::fs::statvfs(data).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Publishes until the disk is full; gives how many messages were taken.
pub(crate) fn fill(server: &Server, input: &Path) -> usize {
    let chunk = MESSAGE_BYTES.to_string();
    let input = input.to_str().unwrap();
    let ended = server.run(&["pub", "q", "--chunk", &chunk, "--json", input]);
    let report = ended.expect(1).json();
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("StorageFull"), "{report}");
    assert_eq!(report["unknown"], serde_json::Value::Null, "{report}");
    report["published"].as_u64().unwrap() as usize
}

/// What a worker gives, which is taken for stuck when nothing comes for a while: the whole may take
/// long.
fn worked_off(server: &Server) -> Vec<u8> {
    let mut worker = server.command(&["work", "q", "--wait", "50ms", "--null"]);
    worker
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = worker.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (tell, hear) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut piece = vec![0; 1 << 20];
        while let count @ 1.. = stdout.read(&mut piece).unwrap() {
            if tell.send(piece[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut bodies = Vec::new();
    loop {
        match hear.recv_timeout(STUCK) {
            Ok(piece) => bodies.extend(piece),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill().unwrap();
                child.wait().unwrap();
                let queue = server.queue("q");
                panic!("nothing comes behind {} bytes: {queue}", bodies.len());
            }
        }
    }
    reader.join().unwrap();
    assert!(child.wait().unwrap().success());
    bodies
}

/// Takes and settles everything; gives how many messages came.
pub(crate) fn drain(server: &Server, sent: &[u8]) -> usize {
    let bodies = worked_off(server);
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
    let mut warm: Option<Taken> = None;
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
        // Small segments, as on a nearly full disk, are many, and go in the background as well.
        let taken = until("a level state", || {
            let taken = Taken::by(&server, &data);
            let level = warm.is_none_or(|warm| taken.is_level_with(&warm));
            if level { Ok(taken) } else { Err(taken) }
        });
        if cycle == WARM {
            warm = Some(taken);
        }
        if cycle % 100 == 0 || cycle == cycles || cycle == WARM {
            println!("{name} {io}: cycle {cycle}: {filled} messages, {taken:?}");
        }
    }
    server.terminate().expect(0);
    millstream(&["verify", data.to_str().unwrap()]).expect(0);
    let server = Server::start(Setup::io(io), &data);
    // Behind a start as well it goes in the background.
    until("room behind a start", || {
        let ended = server.run_with(&["pub", "q"], b"after\n");
        if ended.code == Some(0) {
            return Ok(());
        }
        assert!(ended.stderr.contains("StorageFull"), "{}", ended.stderr);
        Err(free_bytes(&data))
    });
    let work = ["work", "q", "--count", "1"];
    assert_eq!(server.run(&work).expect(0).stdout, b"after\n");
    server.terminate().expect(0);
    println!("{name} {io}: {cycles} cycles, {published} messages of {MESSAGE_BYTES} bytes, 0 lost");
}

/// A small disk at a loop device, or a word on what lacks.
pub(crate) fn small_ext4(test: &str, place: &Path) -> Option<Mounted> {
    if let Err(lacking) = isolate() {
        eprintln!("SKIPPED {test}: {lacking}");
        return None;
    }
    let (image, files) = (place.join("image"), place.join("files"));
    fs::File::create(&image)
        .unwrap()
        .set_len(DISK_BYTES)
        .unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED {test}: needs mkfs.ext4");
        return None;
    }
    fs::create_dir(&files).unwrap();
    Some(Mounted::at_loop(&image, Format::Ext4, files).unwrap())
}

#[test]
fn a_small_ext4_is_filled_and_drained() {
    let place = tempfile::tempdir().unwrap();
    if let Some(disk) = small_ext4("a_small_ext4_is_filled_and_drained", place.path()) {
        fill_and_drain("ext4", "uring", &disk);
    }
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
