//! What a real kernel makes of the disk, over ext4 and xfs: that its errors, cuts and flipped bits
//! arrive at a program, and what the program can't see of them.
//!
//! Needs root, `/dev/fuse` and loop devices, and says so where they lack.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;

use millstream_faultdisk::{
    Fault, FaultDisk, Format, Image, Request, Shutdown, isolate, shut_down,
};

const DISK_BYTES: u64 = 512 << 20;
const PAGE: usize = 4096;

/// Runs `test` on an empty disk of each format that can be made here.
fn on_each_format(name: &str, test: impl Fn(Format, Image, &Path)) {
    if let Err(lacking) = isolate() {
        eprintln!("SKIPPED {name}: {lacking}");
        return;
    }
    for (format, image) in formatted() {
        let place = tempfile::tempdir().unwrap();
        test(*format, image.clone(), place.path());
    }
}

/// An empty disk of each format that can be made here.
fn formatted() -> &'static [(Format, Image)] {
    static FORMATTED: OnceLock<Vec<(Format, Image)>> = OnceLock::new();
    FORMATTED.get_or_init(|| {
        let scratch = tempfile::tempdir().unwrap();
        let made = |format: Format| match format.make(DISK_BYTES, scratch.path()) {
            Ok(image) => Some((format, image)),
            Err(error) => {
                eprintln!("SKIPPED all tests on {}: {error}", format.name());
                None
            }
        };
        [Format::Ext4, Format::Xfs]
            .into_iter()
            .filter_map(made)
            .collect()
    })
}

/// A synced file of one page of ones.
fn make_file(disk: &FaultDisk) -> File {
    let path = disk.files().join("file");
    fs::write(&path, [1; PAGE]).unwrap();
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open(path).unwrap();
    file.sync_all().unwrap();
    File::open(disk.files()).unwrap().sync_all().unwrap();
    file
}

fn first_byte(disk: &FaultDisk) -> u8 {
    fs::read(disk.files().join("file")).unwrap()[0]
}

#[test]
fn after_one_failed_write_the_second_sync_lies() {
    on_each_format(
        "after_one_failed_write_the_second_sync_lies",
        |format, image, place| {
            let disk = FaultDisk::insert(image, format, place).unwrap();
            let file = make_file(&disk);
            file.write_all_at(&[2; PAGE], 0).unwrap();
            disk.arm(Request::Write, 1, Fault::Error);
            file.sync_data().unwrap_err();
            assert_eq!(disk.counts().failed, 1);
            file.sync_data()
                .expect("it says that all is well, and so it does to whoever asks next");
            drop(file);
            assert_eq!(first_byte(&disk), 2, "the page cache has what was written");
            disk.cut(1);
            let disk = FaultDisk::insert(disk.remove().unwrap(), format, place).unwrap();
            assert_eq!(first_byte(&disk), 1, "the disk has what was there before");
        },
    );
}

#[test]
fn what_is_written_again_and_synced_is_there() {
    on_each_format(
        "what_is_written_again_and_synced_is_there",
        |format, image, place| {
            let disk = FaultDisk::insert(image, format, place).unwrap();
            let file = make_file(&disk);
            file.write_all_at(&[2; PAGE], 0).unwrap();
            disk.arm(Request::Write, 1, Fault::Error);
            file.sync_data().unwrap_err();
            let mut bytes = [0; PAGE];
            file.read_exact_at(&mut bytes, 0).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            file.sync_data().unwrap();
            drop(file);
            disk.cut(1);
            let disk = FaultDisk::insert(disk.remove().unwrap(), format, place).unwrap();
            assert_eq!(first_byte(&disk), 2);
        },
    );
}

#[test]
fn a_failed_flush_fails_the_sync() {
    on_each_format("a_failed_flush_fails_the_sync", |format, image, place| {
        let disk = FaultDisk::insert(image, format, place).unwrap();
        let file = make_file(&disk);
        file.write_all_at(&[2; PAGE], 0).unwrap();
        disk.arm(Request::Flush, 1, Fault::ErrorsFromHere);
        file.sync_data().unwrap_err();
        disk.cut(0);
        drop(file);
    });
}

#[test]
fn a_cut_keeps_what_was_synced_and_may_lose_the_rest() {
    on_each_format(
        "a_cut_keeps_what_was_synced_and_may_lose_the_rest",
        |format, image, place| {
            let disk = FaultDisk::insert(image, format, place).unwrap();
            let file = make_file(&disk);
            fs::write(disk.files().join("unsynced"), [3; PAGE]).unwrap();
            drop(file);
            disk.cut(2);
            let disk = FaultDisk::insert(disk.remove().unwrap(), format, place).unwrap();
            assert_eq!(first_byte(&disk), 1);
            assert!(!disk.files().join("unsynced").exists());
            let image = disk.remove().unwrap();
            let disk = FaultDisk::insert(image, format, place).unwrap();
            assert_eq!(first_byte(&disk), 1, "and is there after a calm removal");
        },
    );
}

#[test]
fn a_sync_waits_for_a_flush_that_is_held() {
    on_each_format(
        "a_sync_waits_for_a_flush_that_is_held",
        |format, image, place| {
            let disk = FaultDisk::insert(image, format, place).unwrap();
            let file = make_file(&disk);
            file.write_all_at(&[2; PAGE], 0).unwrap();
            let held = disk.hold_flushes();
            let before = disk.counts().flushes;
            thread::scope(|scope| {
                let sync = scope.spawn(|| file.sync_data());
                while held.waiting() == 0 {
                    thread::yield_now();
                }
                assert!(!sync.is_finished());
                assert_eq!(disk.counts().flushes, before);
                drop(held);
                sync.join().unwrap().unwrap();
            });
            assert!(disk.counts().flushes > before);
            drop(file);
        },
    );
}

#[test]
fn a_flipped_bit_is_read_by_whoever_mounts_it_next() {
    on_each_format(
        "a_flipped_bit_is_read_by_whoever_mounts_it_next",
        |format, image, place| {
            let disk = FaultDisk::insert(image, format, place).unwrap();
            let file = make_file(&disk);
            file.write_all_at(b"found again", 100).unwrap();
            file.sync_data().unwrap();
            drop(file);
            let disk = FaultDisk::insert(disk.remove().unwrap(), format, place).unwrap();
            let at = disk.find(b"found again").unwrap();
            disk.flip(at, 1);
            let read = fs::read(disk.files().join("file")).unwrap();
            assert_eq!(&read[100..111], b"gound again");
        },
    );
}

#[test]
fn a_file_system_that_is_shut_down_writes_what_it_was_told() {
    let name = "a_file_system_that_is_shut_down_writes_what_it_was_told";
    on_each_format(name, |format, image, place| {
        for (how, kept) in [(Shutdown::Flush, 2), (Shutdown::Nothing, 1)] {
            let disk = FaultDisk::insert(image.clone(), format, place).unwrap();
            let file = make_file(&disk);
            file.write_all_at(&[2; PAGE], 0).unwrap();
            shut_down(disk.files(), how).unwrap();
            file.sync_data().unwrap_err();
            drop(file);
            let disk = FaultDisk::insert(disk.remove().unwrap(), format, place).unwrap();
            assert_eq!(first_byte(&disk), kept, "{how:?}");
        }
    });
}
