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
    let mut file = fs::File::create(path).unwrap();
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
