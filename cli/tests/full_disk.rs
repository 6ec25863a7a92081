//! A full disk: publishing is refused before acceptance, reading goes on, and publishing resumes by
//! itself once there is room. Mounts a small file system in memory, which needs root.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Numbers, Server, Setup, millstream};

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

/// Fills the disk up to the last byte; the file is named so that it can be removed again.
fn fill(path: &Path) {
    let mut bytes = vec![1; 1 << 20];
    let opened = fs::File::options().append(true).create(true).open(path);
    let mut file = opened.unwrap();
    while !bytes.is_empty() {
        if std::io::Write::write_all(&mut file, &bytes).is_err() {
            bytes.truncate(bytes.len() / 2);
        }
    }
}

#[test]
fn a_full_disk_refuses_publishing_and_nothing_else() {
    for io in ["auto", "epoll"] {
        let place = tempfile::tempdir().unwrap();
        let Some(disk) = SmallDisk::mount(place.path().join("disk"), "96m") else {
            eprintln!(
                "SKIPPED a_full_disk_refuses_publishing_and_nothing_else: needs root to mount"
            );
            return;
        };
        let data = disk.0.join("data");
        let server = Server::start(Setup::io(io), &data);
        let input = place.path().join("input");
        let sent = Numbers::new(4).bytes(200 << 20);
        fs::write(&input, &sent).unwrap();
        server.run_with(&["pub", "lines"], b"one\ntwo\n").expect(0);

        let args = [
            "pub",
            "t",
            "--chunk",
            "64k",
            "--json",
            input.to_str().unwrap(),
        ];
        let ended = server.run(&args).expect(1);
        let report = ended.json();
        let published = report["published"].as_u64().unwrap() as usize;
        assert!(
            report["error"].as_str().unwrap().contains("StorageFull"),
            "{report}"
        );
        assert!(published > 0, "{report}");
        assert_eq!(
            report["unknown"],
            serde_json::Value::Null,
            "refused, so nothing is unknown"
        );
        fill(&disk.0.join("rest"));

        // Reading goes on, and gives what was acknowledged.
        let back = server
            .run(&["tail", "t", "--bare", "--no-follow"])
            .expect(0)
            .stdout;
        assert!(back.len() >= published << 16 && back == sent[..back.len()]);
        assert_eq!(
            server
                .run(&["tail", "lines", "--no-follow"])
                .expect(0)
                .stdout,
            b"one\ntwo\n"
        );
        server.run(&["topic", "ls"]).expect(0);

        // Room again: a deleted topic and a removed file are enough, without a restart.
        fs::remove_file(disk.0.join("rest")).unwrap();
        server.run(&["topic", "rm", "t"]).expect(0);
        server
            .run_with(&["pub", "again", "--chunk", "64k"], &sent[..8 << 20])
            .expect(0);
        let back = server
            .run(&["tail", "again", "--bare", "--no-follow"])
            .expect(0)
            .stdout;
        assert!(back == sent[..8 << 20]);
        server.terminate().expect(0);
        millstream(&["verify", data.to_str().unwrap()]).expect(0);
        println!("{io}: {published} messages of 64 KiB before the disk was full");
    }
}

/// A loop-mounted xfs whose files may share blocks, unmounted when dropped.
fn mount_xfs(place: &Path) -> Option<SmallDisk> {
    let (image, at) = (place.join("image"), place.join("disk"));
    fs::File::create(&image)
        .unwrap()
        .set_len(320 << 20)
        .unwrap();
    fs::create_dir(&at).unwrap();
    let done = |program: &str, args: &[&str]| {
        let ran = Command::new(program).args(args).output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    let (image, path) = (image.to_str().unwrap(), at.to_str().unwrap());
    let made = done("mkfs.xfs", &["-q", "-m", "reflink=1", image]);
    let mounted = made && done("mount", &["-o", "loop", image, path]);
    mounted.then_some(SmallDisk(at))
}

/// Has another file share the blocks of `segment`, and leaves the disk without a free one.
fn share_blocks(segment: &Path, disk: &SmallDisk) {
    let copied = Command::new("cp")
        .arg("--reflink=always")
        .args([segment, &disk.0.join("copy")])
        .status()
        .unwrap();
    assert!(copied.success());
    // What was set aside for a file that grows is free again once the file is closed and synced.
    for _ in 0..6 {
        fill(&disk.0.join("rest"));
        assert!(
            Command::new("sync")
                .arg("-f")
                .arg(&disk.0)
                .status()
                .unwrap()
                .success()
        );
    }
}

/// S6: on xfs a store to a page that another file shares needs new blocks, and raises SIGBUS where
/// there are none.
#[test]
fn s6_a_page_without_room_costs_its_topic_alone_and_loses_nothing() {
    let place = tempfile::tempdir().unwrap();
    let Some(disk) = mount_xfs(place.path()) else {
        eprintln!(
            "SKIPPED s6_a_page_without_room_costs_its_topic_alone_and_loses_nothing: needs root to mount, and mkfs.xfs"
        );
        return;
    };
    let data = disk.0.join("data");
    let server = Server::start(Setup::io("auto"), &data);
    let mut lines: String = (0..100).map(|number| format!("{number:02000}\n")).collect();
    server.run_with(&["pub", "hit"], lines.as_bytes()).expect(0);
    server.run_with(&["pub", "spared"], b"one\n").expect(0);
    let segment = data.join("log-00000000/00000001.seg");
    share_blocks(&segment, &disk);

    // What xfs set aside around pages that it did find room for is used up first.
    let line = format!("{:032000}\n", 0);
    let refused = (0..100).any(|_| {
        let ended = server.run_with(&["pub", "hit"], line.as_bytes());
        if ended.code == Some(0) {
            lines.push_str(&line);
        }
        ended.code != Some(0)
    });
    assert!(refused, "the disk is full");
    let topic = server
        .run(&["topic", "show", "hit", "--json"])
        .expect(0)
        .json();
    let reason = topic["poisoned"].as_str().unwrap_or_default();
    assert!(reason.contains("pages"), "{topic}");
    // The page that could not be written holds what was there before.
    let back = server.run(&["tail", "hit", "--no-follow"]);
    assert_eq!(
        String::from_utf8_lossy(&back.stdout),
        lines,
        "{}",
        back.stderr
    );
    server.run_with(&["pub", "spared"], b"one more\n").expect(0);
    let back = server
        .run(&["tail", "spared", "--no-follow"])
        .expect(0)
        .stdout;
    assert_eq!(back, b"one\none more\n");

    // With room again a restart is all it takes.
    fs::remove_file(disk.0.join("rest")).unwrap();
    server.terminate();
    let server = Server::start(Setup::io("auto"), &data);
    server.run_with(&["pub", "hit"], b"after\n").expect(0);
    let back = server.run(&["tail", "hit", "--no-follow"]).expect(0).stdout;
    let back = String::from_utf8(back).unwrap();
    assert!(
        back.starts_with(&lines) && back.ends_with("after\n"),
        "{back}"
    );
    server.terminate().expect(0);
    verify_or_release(&data);
}

/// The page may have been lost in the middle of a sync: what that was to cover is cut, told as possibly
/// acknowledged, and is the operator's to release.
fn verify_or_release(data: &Path) {
    let data = data.to_str().unwrap();
    let checked = millstream(&["verify", data]);
    if checked.code == Some(8) {
        let told = String::from_utf8_lossy(&checked.stdout);
        assert!(told.contains("may have been acknowledged"), "{told}");
        assert!(told.contains("1 problems"), "{told}");
        millstream(&["repair", data, "--apply"]).expect(0);
    }
    millstream(&["verify", data]).expect(0);
}

/// S7: what is set aside is enough to start on a disk without a free byte, after a kill, and to settle.
#[test]
fn s7_a_server_starts_and_settles_on_a_disk_without_a_free_byte() {
    let place = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(place.path().join("disk"), "96m") else {
        eprintln!(
            "SKIPPED s7_a_server_starts_and_settles_on_a_disk_without_a_free_byte: needs root to mount"
        );
        return;
    };
    let data = disk.0.join("data");
    let mut server = Server::start(Setup::io("auto"), &data);
    server.run(&["queue", "create", "jobs"]).expect(0);
    let lines: String = (0..200).map(|number| format!("job {number}\n")).collect();
    server
        .run_with(&["pub", "jobs"], lines.as_bytes())
        .expect(0);
    for kill in [true, false] {
        if kill {
            let _ = server.kill();
        } else {
            let _ = server.terminate();
        }
        fill(&disk.0.join("rest"));
        server = Server::start(Setup::io("auto"), &data);
        let worked = server.run(&["work", "jobs", "--count", "50", "--exec", "true"]);
        worked.expect(0);
        let shown = server
            .run(&["queue", "show", "jobs", "--json"])
            .expect(0)
            .json();
        assert_eq!(shown["leased"], 0, "{shown}");
    }
    fs::remove_file(disk.0.join("rest")).unwrap();
    server.run_with(&["pub", "jobs"], b"one more\n").expect(0);
    server.terminate().expect(0);
    millstream(&["verify", data.to_str().unwrap()]).expect(0);
}
