//! One suite for both implementations of `Folder`, and what only one of them does.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::mpsc;

use millstream_storage::{
    Access, Blocks, DiskFolder, Failure, FileError, Folder, HeapFolder, Operation, SegmentMemory,
};

/// Runs `check` on an empty folder of each kind.
fn on_each(check: impl Fn(&dyn Folder)) {
    let root = tempfile::tempdir().unwrap();
    check(&DiskFolder::open(root.path()).unwrap());
    check(&HeapFolder::new());
}

fn load(memory: &dyn SegmentMemory, position: usize, len_bytes: usize) -> Vec<u8> {
    assert!(position + len_bytes <= memory.len_bytes());
    let mut bytes = vec![0; len_bytes];
    // SAFETY: the range was checked, and these tests store from one thread only.
    let from = unsafe { memory.base().as_ptr().add(position) };
    // SAFETY: as above; `bytes` is as long as the range.
    unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), len_bytes) };
    bytes
}

fn store(memory: &dyn SegmentMemory, position: usize, bytes: &[u8]) {
    assert!(position + bytes.len() <= memory.len_bytes());
    // SAFETY: the range was checked, and these tests store from one thread only.
    let to = unsafe { memory.base().as_ptr().add(position) };
    // SAFETY: as above.
    unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
}

const WRITTEN: Blocks = Blocks::Written {
    piece_bytes: 16 << 10,
};

fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_new_segment_is_zeros_at_a_page_boundary() {
    on_each(|folder| {
        // Neither a whole number of pages nor of pieces.
        let len_bytes = (2 << 20) + 4096 + 100;
        let coarse = Blocks::Written {
            piece_bytes: 256 << 10,
        };
        for (name, blocks) in [
            ("a.seg", WRITTEN),
            ("b.seg", coarse),
            ("c.seg", Blocks::Reserved),
        ] {
            let memory = folder.create_segment(name, len_bytes, blocks).unwrap();
            assert_eq!(memory.len_bytes(), len_bytes);
            assert_eq!(memory.base().as_ptr() as usize % 4096, 0);
            assert!(load(&*memory, 0, len_bytes).iter().all(|byte| *byte == 0));
            assert_eq!(folder.len(name).unwrap(), len_bytes as u64);
        }
    });
}

#[test]
fn a_segment_takes_its_room_when_it_is_made() {
    use std::os::unix::fs::MetadataExt;
    let root = tempfile::tempdir().unwrap();
    let folder = DiskFolder::open_or_create(root.path()).unwrap();
    for (name, blocks) in [("a.seg", WRITTEN), ("b.seg", Blocks::Reserved)] {
        folder.create_segment(name, 1 << 20, blocks).unwrap();
        let allocated_bytes = root.path().join(name).metadata().unwrap().blocks() * 512;
        assert!(allocated_bytes >= 1 << 20, "{name}: {allocated_bytes} B");
    }
}

#[test]
fn a_segments_file_becomes_another_with_what_it_held() {
    on_each(|folder| {
        let len_bytes = 64 << 10;
        let first = folder.create_segment("a.seg", len_bytes, WRITTEN).unwrap();
        store(&*first, 0, &vec![7; len_bytes]);
        first.sync().unwrap();
        first.shrink(40_000).unwrap();
        drop(first);
        let again = folder.reuse_segment("a.seg", "b.seg", len_bytes);
        let again = again.unwrap().expect("its pages are in memory");
        assert_eq!(again.len_bytes(), len_bytes);
        assert_eq!(load(&*again, 0, 40_000), [7; 40_000]);
        let behind = load(&*again, 40_000, len_bytes - 40_000);
        assert!(behind.iter().all(|byte| *byte == 0));
        store(&*again, len_bytes - 1, &[9]);
        again.sync().unwrap();
        assert_eq!(folder.list("").unwrap(), ["b.seg"]);
        let bytes = folder.read_file("b.seg").unwrap();
        assert_eq!((bytes.len(), bytes.last()), (len_bytes, Some(&9)));
    });
}

#[test]
fn no_file_is_reused_over_another_or_where_there_is_none() {
    on_each(|folder| {
        drop(folder.create_segment("a.seg", 8192, WRITTEN).unwrap());
        folder.create_file("b.seg", b"notes").unwrap();
        let reuse = |from, to| folder.reuse_segment(from, to, 8192);
        assert_eq!(kind(reuse("a.seg", "b.seg")), ErrorKind::AlreadyExists);
        assert_eq!(kind(reuse("c.seg", "d.seg")), ErrorKind::NotFound);
        assert_eq!(kind(reuse("a.seg", "../e")), ErrorKind::InvalidInput);
        assert_eq!(folder.list("").unwrap(), ["a.seg", "b.seg"]);
        assert_eq!(folder.read_file("b.seg").unwrap(), b"notes");
    });
}

#[test]
fn a_file_whose_pages_left_memory_is_not_reused() {
    let root = tempfile::tempdir().unwrap();
    let folder = DiskFolder::open(root.path()).unwrap();
    let len_bytes = 1 << 20;
    let memory = folder.create_segment("a.seg", len_bytes, WRITTEN).unwrap();
    memory.sync().unwrap();
    memory.unmap_before_sync(0..len_bytes);
    let file = std::fs::File::open(root.path().join("a.seg")).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    // A file system in memory keeps its pages.
    let is_cold = !memory.is_resident(0..len_bytes);
    drop(memory);
    let again = folder.reuse_segment("a.seg", "b.seg", len_bytes).unwrap();
    assert_eq!(again.is_none(), is_cold);
    let name = if is_cold { "a.seg" } else { "b.seg" };
    assert_eq!(folder.list("").unwrap(), [name]);
}

/// Has `fallocate` refused to this thread from now on, as some file systems do.
fn refuse_to_allocate() {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};
    let step = |code: u32, jf: u8, k: u32| sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: 0,
        jf,
        k,
    };
    let refused = libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP.unsigned_abs();
    let call = u32::try_from(libc::SYS_fallocate).unwrap();
    let mut steps = [
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0),
        step(BPF_JMP | BPF_JEQ | BPF_K, 1, call),
        step(BPF_RET | BPF_K, 0, refused),
        step(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: plain integers.
    let alone = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the program and its steps live for the call, and it is as long as it says.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    assert_eq!((alone, set), (0, 0));
}

#[test]
fn where_nothing_can_be_allocated_no_file_is_reused_that_was_shrunk() {
    let root = tempfile::tempdir().unwrap();
    let folder = DiskFolder::open(root.path()).unwrap();
    refuse_to_allocate();
    let memory = folder.create_segment("a.seg", 1 << 20, WRITTEN).unwrap();
    memory.shrink(256 << 10).unwrap();
    drop(memory);
    // A map behind the end of its file is a signal to whoever stores to it.
    let again = folder.reuse_segment("a.seg", "b.seg", 1 << 20).unwrap();
    assert!(again.is_none());
    assert_eq!(folder.list("").unwrap(), ["a.seg"]);
}

#[test]
fn opening_a_segment_twice_gives_the_same_memory() {
    on_each(|folder| {
        let first = folder.create_segment("a.seg", 8192, WRITTEN).unwrap();
        let second = folder.open_segment("a.seg", Access::ReadWrite).unwrap();
        let third = folder.open_segment("a.seg", Access::Read).unwrap();
        store(&*first, 4096, b"hello");
        assert_eq!(load(&*second, 4096, 5), b"hello");
        store(&*second, 4096, b"J");
        assert_eq!(load(&*third, 4096, 5), b"Jello");
        first.sync().unwrap();
        assert_eq!(
            folder.read_file("a.seg").unwrap().get(4096..4101),
            Some(&b"Jello"[..])
        );
    });
}

#[test]
fn a_segment_that_exists_is_never_made_anew() {
    on_each(|folder| {
        let first = folder.create_segment("a.seg", 4096, WRITTEN).unwrap();
        store(&*first, 0, b"kept");
        assert_eq!(
            kind(folder.create_segment("a.seg", 4096, WRITTEN)),
            ErrorKind::AlreadyExists
        );
        assert_eq!(
            kind(folder.create_file("a.seg", b"other")),
            ErrorKind::AlreadyExists
        );
        assert_eq!(load(&*first, 0, 4), b"kept");
        assert_eq!(folder.list("").unwrap(), ["a.seg"]);
    });
}

#[test]
fn a_segment_of_no_bytes_is_refused_and_leaves_nothing() {
    on_each(|folder| {
        assert_eq!(
            kind(folder.create_segment("a.seg", 0, WRITTEN)),
            ErrorKind::InvalidInput
        );
        assert!(folder.list("").unwrap().is_empty());
    });
}

#[test]
fn a_segment_is_as_long_as_its_file() {
    on_each(|folder| {
        folder.create_file("short.seg", &[7; 5000]).unwrap();
        let memory = folder.open_segment("short.seg", Access::Read).unwrap();
        assert_eq!(memory.len_bytes(), 5000);
        assert_eq!(load(&*memory, 4990, 10), [7; 10]);
        folder.create_file("empty.seg", b"").unwrap();
        let memory = folder.open_segment("empty.seg", Access::Read).unwrap();
        assert_eq!(memory.len_bytes(), 0);
        memory.populate(0..0).unwrap();
        assert!(memory.is_resident(0..0));
        assert_eq!(
            kind(folder.open_segment("none.seg", Access::Read)),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn a_shrunk_segment_keeps_its_map_and_loses_its_end() {
    on_each(|folder| {
        let memory = folder.create_segment("a.seg", 4 * 4096, WRITTEN).unwrap();
        store(&*memory, 0, b"front");
        memory.shrink(4096 + 10).unwrap();
        memory.sync().unwrap();
        assert_eq!(memory.len_bytes(), 4 * 4096);
        assert_eq!(load(&*memory, 0, 5), b"front");
        assert_eq!(folder.len("a.seg").unwrap(), 4106);
        assert_eq!(
            folder
                .open_segment("a.seg", Access::Read)
                .unwrap()
                .len_bytes(),
            4106
        );
        assert_eq!(kind(memory.shrink(5 * 4096)), ErrorKind::InvalidInput);
    });
}

#[test]
fn populated_pages_are_resident_and_ranges_past_the_end_are_not() {
    on_each(|folder| {
        let memory = folder.create_segment("a.seg", 3 << 20, WRITTEN).unwrap();
        memory.populate(0..3 << 20).unwrap();
        assert!(memory.is_resident(0..3 << 20));
        assert!(memory.is_resident(4095..4097));
        memory.populate(5000..5001).unwrap();
        assert!(memory.is_resident(5000..5001));
        assert!(!memory.is_resident(0..(3 << 20) + 1));
        assert_eq!(
            kind(memory.populate(0..(3 << 20) + 1)),
            ErrorKind::InvalidInput
        );
    });
}

#[test]
fn memory_outlives_its_file() {
    on_each(|folder| {
        let memory = folder.create_segment("a.seg", 4096, WRITTEN).unwrap();
        store(&*memory, 0, b"still here");
        folder.remove("a.seg").unwrap();
        assert_eq!(load(&*memory, 0, 10), b"still here");
        assert_eq!(
            kind(folder.open_segment("a.seg", Access::Read)),
            ErrorKind::NotFound
        );
        assert_eq!(kind(folder.remove("a.seg")), ErrorKind::NotFound);
    });
}

#[test]
fn files_are_written_whole_appended_to_and_read() {
    on_each(|folder| {
        folder.create_file("log", b"one ").unwrap();
        let mut file = folder.append_file("log").unwrap();
        file.reserve(4).unwrap();
        file.append(b"two ").unwrap();
        file.reserve(1 << 20).unwrap();
        file.append(b"three").unwrap();
        file.sync().unwrap();
        assert_eq!(folder.read_file("log").unwrap(), b"one two three");
        assert_eq!(folder.len("log").unwrap(), 13);
        assert_eq!(kind(folder.append_file("none")), ErrorKind::NotFound);
        assert_eq!(kind(folder.read_file("none")), ErrorKind::NotFound);
        assert_eq!(kind(folder.len("none")), ErrorKind::NotFound);
    });
}

#[test]
fn a_renamed_file_replaces_and_its_appender_follows_it() {
    on_each(|folder| {
        folder.create_file("old", b"old").unwrap();
        folder.create_file("new", b"new").unwrap();
        let mut file = folder.append_file("new").unwrap();
        folder.rename("new", "old").unwrap();
        folder.sync_dir("").unwrap();
        file.append(b"er").unwrap();
        assert_eq!(folder.read_file("old").unwrap(), b"newer");
        assert_eq!(folder.list("").unwrap(), ["old"]);
        assert_eq!(kind(folder.rename("none", "old")), ErrorKind::NotFound);
    });
}

#[test]
fn directories_hold_files_and_go_when_empty() {
    on_each(|folder| {
        folder.make_dir("log-1").unwrap();
        assert_eq!(kind(folder.make_dir("log-1")), ErrorKind::AlreadyExists);
        folder.create_segment("log-1/2.seg", 4096, WRITTEN).unwrap();
        folder.create_file("log-1/1.seg", b"x").unwrap();
        folder.create_file("log-10", b"").unwrap();
        folder.sync_dir("log-1").unwrap();
        folder.sync_dir("").unwrap();
        assert_eq!(folder.list("").unwrap(), ["log-1", "log-10"]);
        assert_eq!(folder.list("log-1").unwrap(), ["1.seg", "2.seg"]);
        assert_eq!(
            kind(folder.remove_dir("log-1")),
            ErrorKind::DirectoryNotEmpty
        );
        folder.remove("log-1/1.seg").unwrap();
        folder.remove("log-1/2.seg").unwrap();
        folder.remove_dir("log-1").unwrap();
        assert_eq!(folder.list("").unwrap(), ["log-10"]);
        assert_eq!(kind(folder.remove_dir("log-1")), ErrorKind::NotFound);
        assert_eq!(kind(folder.list("log-1")), ErrorKind::NotFound);
        assert_eq!(kind(folder.sync_dir("log-1")), ErrorKind::NotFound);
        assert_eq!(
            kind(folder.create_file("log-1/1.seg", b"")),
            ErrorKind::NotFound
        );
        assert_eq!(kind(folder.list("log-10")), ErrorKind::NotADirectory);
    });
}

#[test]
fn a_range_is_copied_whole_or_not_at_all() {
    on_each(|folder| {
        let bytes: Vec<u8> = (0..(2 << 20) + 77_u32).map(|i| (i % 251) as u8).collect();
        folder.create_file("from", &bytes).unwrap();
        folder.make_dir("quarantine").unwrap();
        let range = 1000..(2_u64 << 20) + 50;
        folder.copy_range("from", range, "quarantine/part").unwrap();
        assert_eq!(
            folder.read_file("quarantine/part").unwrap(),
            bytes[1000..(2 << 20) + 50]
        );
        folder
            .copy_range("from", 9..9, "quarantine/nothing")
            .unwrap();
        assert_eq!(folder.len("quarantine/nothing").unwrap(), 0);
        let past = 0..bytes.len() as u64 + 1;
        assert_eq!(
            kind(folder.copy_range("from", past, "quarantine/past")),
            ErrorKind::UnexpectedEof
        );
        assert_eq!(
            kind(folder.copy_range("from", 0..1, "quarantine/part")),
            ErrorKind::AlreadyExists
        );
        assert_eq!(folder.list("quarantine").unwrap(), ["nothing", "part"]);
    });
}

#[test]
fn a_segment_can_be_copied_from_while_it_is_open() {
    on_each(|folder| {
        let memory = folder.create_segment("a.seg", 8192, WRITTEN).unwrap();
        store(&*memory, 4096, b"cut off");
        folder.copy_range("a.seg", 4096..4103, "tail").unwrap();
        assert_eq!(folder.read_file("tail").unwrap(), b"cut off");
    });
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    let long = "n".repeat(256);
    on_each(|folder| {
        folder.make_dir("d").unwrap();
        let names = [
            "",
            ".",
            "..",
            "/",
            "/etc/passwd",
            "d/",
            "d/..",
            "../x",
            "d/e/f",
            "a\0b",
            &long,
        ];
        for name in names {
            assert_eq!(
                kind(folder.create_file(name, b"")),
                ErrorKind::InvalidInput,
                "{name:?}"
            );
            assert_eq!(
                kind(folder.create_segment(name, 1, WRITTEN)),
                ErrorKind::InvalidInput,
                "{name:?}"
            );
            assert_eq!(
                kind(folder.read_file(name)),
                ErrorKind::InvalidInput,
                "{name:?}"
            );
            assert_eq!(
                kind(folder.remove(name)),
                ErrorKind::InvalidInput,
                "{name:?}"
            );
            assert_eq!(
                kind(folder.rename("d", name)),
                ErrorKind::InvalidInput,
                "{name:?}"
            );
        }
        for name in [".", "..", "d/e", "/"] {
            assert_eq!(
                kind(folder.make_dir(name)),
                ErrorKind::InvalidInput,
                "{name:?}"
            );
            assert_eq!(kind(folder.list(name)), ErrorKind::InvalidInput, "{name:?}");
            assert_eq!(
                kind(folder.sync_dir(name)),
                ErrorKind::InvalidInput,
                "{name:?}"
            );
        }
        assert_eq!(folder.list("").unwrap(), ["d"]);
    });
}

#[test]
fn errors_say_what_was_done_to_which_file() {
    on_each(|folder| {
        let error = folder.read_file("absent").unwrap_err();
        let payload = error
            .get_ref()
            .unwrap()
            .downcast_ref::<FileError>()
            .unwrap();
        assert_eq!(payload.operation(), "read");
        assert!(payload.path().ends_with("absent"));
        assert!(error.to_string().starts_with("cannot read "), "{error}");
    });
}

mod disk {
    use super::*;

    #[test]
    fn a_missing_folder_is_made_with_those_above_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/c");
        assert_eq!(kind(DiskFolder::open(&path)), ErrorKind::NotFound);
        let folder = DiskFolder::open_or_create(&path).unwrap();
        folder.create_file("x", b"1").unwrap();
        assert_eq!(
            DiskFolder::open_or_create(&path)
                .unwrap()
                .read_file("x")
                .unwrap(),
            b"1"
        );
        assert_eq!(folder.path(), path);
    }

    #[test]
    fn a_file_is_no_folder() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(kind(DiskFolder::open(&path)), ErrorKind::NotADirectory);
        assert_eq!(
            kind(DiskFolder::open_or_create(&path)),
            ErrorKind::NotADirectory
        );
    }

    #[test]
    fn a_folder_moved_while_open_is_still_the_same() {
        let root = tempfile::tempdir().unwrap();
        let (path, moved) = (root.path().join("data"), root.path().join("moved"));
        let folder = DiskFolder::open_or_create(&path).unwrap();
        std::fs::rename(&path, &moved).unwrap();
        std::fs::create_dir(&path).unwrap();
        folder.create_file("x", b"1").unwrap();
        assert!(moved.join("x").exists());
        assert!(!path.join("x").exists());
    }

    #[test]
    fn room_kept_behind_the_end_does_not_show_in_the_length() {
        let root = tempfile::tempdir().unwrap();
        let folder = DiskFolder::open(root.path()).unwrap();
        folder.create_file("log", b"").unwrap();
        let mut file = folder.append_file("log").unwrap();
        file.reserve(200_000).unwrap();
        file.append(b"x").unwrap();
        file.sync().unwrap();
        assert_eq!(folder.len("log").unwrap(), 1);
    }

    #[test]
    fn all_of_a_new_segment_is_allocated() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().unwrap();
        let folder = DiskFolder::open(root.path()).unwrap();
        folder.create_segment("a.seg", 1 << 20, WRITTEN).unwrap();
        let blocks = std::fs::metadata(root.path().join("a.seg"))
            .unwrap()
            .blocks();
        assert!(blocks * 512 >= 1 << 20);
    }

    #[test]
    fn a_segment_too_large_for_the_file_system_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let folder = DiskFolder::open(root.path()).unwrap();
        folder
            .create_segment("a.seg", usize::MAX >> 1, WRITTEN)
            .unwrap_err();
        assert!(folder.list("").unwrap().is_empty());
    }
}

mod heap {
    use super::*;

    #[test]
    fn the_planned_operation_fails_once() {
        let folder = HeapFolder::new();
        folder.fail(Operation::CreateSegment, ".seg", 2, Failure::Full);
        folder.create_segment("1.seg", 4096, WRITTEN).unwrap();
        assert_eq!(
            kind(folder.create_segment("2.seg", 4096, WRITTEN)),
            ErrorKind::StorageFull
        );
        assert_eq!(folder.list("").unwrap(), ["1.seg"]);
        folder.create_segment("2.seg", 4096, WRITTEN).unwrap();
        assert_eq!(folder.count(Operation::CreateSegment, "2.seg"), 2);
    }

    #[test]
    fn the_nth_sync_of_matching_names_fails() {
        let folder = HeapFolder::new();
        let (a, b) = (
            folder.create_segment("a", 1, WRITTEN).unwrap(),
            folder.create_segment("b", 1, WRITTEN).unwrap(),
        );
        folder.fail(Operation::Sync, "b", 2, Failure::Device);
        for _ in 0..3 {
            a.sync().unwrap();
        }
        b.sync().unwrap();
        b.sync().unwrap_err();
        b.sync().unwrap();
        assert_eq!(folder.count(Operation::Sync, "a"), 3);
        assert_eq!(folder.count(Operation::Sync, ""), 6);
    }

    #[test]
    fn a_full_disk_refuses_what_needs_room_until_there_is_some() {
        let folder = HeapFolder::new();
        folder.create_file("log", b"1").unwrap();
        let mut file = folder.append_file("log").unwrap();
        folder.set_full(true);
        assert_eq!(
            kind(folder.create_segment("s", 1, WRITTEN)),
            ErrorKind::StorageFull
        );
        assert_eq!(kind(folder.create_file("f", b"")), ErrorKind::StorageFull);
        assert_eq!(kind(file.reserve(1)), ErrorKind::StorageFull);
        assert_eq!(folder.read_file("log").unwrap(), b"1");
        folder.remove("log").unwrap();
        folder.set_full(false);
        folder.create_segment("s", 1, WRITTEN).unwrap();
    }

    #[test]
    fn a_sync_is_open_until_its_hook_returns() {
        let folder = HeapFolder::new();
        let memory = folder.create_segment("a.seg", 4096, WRITTEN).unwrap();
        let (entered, enters) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = std::sync::Mutex::new(released);
        folder.on_sync(move |name| {
            entered.send(name.to_owned()).unwrap();
            released.lock().unwrap().recv().unwrap();
        });
        let syncing = Arc::clone(&memory);
        let thread = std::thread::spawn(move || syncing.sync());
        assert_eq!(enters.recv().unwrap(), "a.seg");
        assert_eq!(
            folder.count(Operation::Sync, ""),
            0,
            "counted when the hook has returned"
        );
        store(&*memory, 0, b"while the sync is open");
        release.send(()).unwrap();
        thread.join().unwrap().unwrap();
        assert_eq!(folder.count(Operation::Sync, "a.seg"), 1);
    }

    #[test]
    fn power_loss_takes_what_was_not_synced() {
        let folder = HeapFolder::new();
        folder.make_dir("d").unwrap();
        folder.create_file("d/in", b"1").unwrap();
        folder.sync_dir("d").unwrap();
        assert!(
            folder.after_power_loss().list("").unwrap().is_empty(),
            "its directory has no name"
        );
        folder.create_file("log", b"synced").unwrap();
        folder.sync_dir("").unwrap();
        let mut file = folder.append_file("log").unwrap();
        file.append(b" lost").unwrap();
        folder.create_file("nameless", b"").unwrap();
        let left = folder.after_power_loss();
        assert_eq!(left.list("").unwrap(), ["d", "log"]);
        assert_eq!(left.read_file("d/in").unwrap(), b"1");
        assert_eq!(left.read_file("log").unwrap(), b"synced");
        file.sync().unwrap();
        assert_eq!(
            folder.after_power_loss().read_file("log").unwrap(),
            b"synced lost"
        );
        folder.rename("nameless", "log").unwrap();
        assert_eq!(
            folder.after_power_loss().read_file("log").unwrap(),
            b"synced lost"
        );
        assert_eq!(folder.duplicate().read_file("log").unwrap(), b"");
    }

    #[test]
    fn after_a_failed_sync_later_ones_prove_nothing() {
        let folder = HeapFolder::new();
        folder.create_file("log", b"1").unwrap();
        folder.sync_dir("").unwrap();
        let mut file = folder.append_file("log").unwrap();
        file.append(b"2").unwrap();
        folder.fail(Operation::Sync, "", 1, Failure::Device);
        file.sync().unwrap_err();
        file.sync().unwrap();
        assert_eq!(folder.read_file("log").unwrap(), b"12");
        assert_eq!(folder.after_power_loss().read_file("log").unwrap(), b"1");
    }

    #[test]
    fn a_failed_append_leaves_half() {
        let folder = HeapFolder::new();
        folder.create_file("log", b"").unwrap();
        let mut file = folder.append_file("log").unwrap();
        folder.fail(Operation::Append, "", 1, Failure::Device);
        file.append(b"12345678").unwrap_err();
        assert_eq!(folder.read_file("log").unwrap(), b"1234");
    }

    #[test]
    fn an_edit_shows_to_those_who_open_later() {
        let folder = HeapFolder::new();
        let memory = folder.create_segment("a.seg", 4096, WRITTEN).unwrap();
        store(&*memory, 0, b"good");
        folder.edit("a.seg", |bytes| bytes[0] ^= 1).unwrap();
        assert_eq!(load(&*memory, 0, 4), b"good");
        let opened = folder.open_segment("a.seg", Access::ReadWrite).unwrap();
        assert_eq!(load(&*opened, 0, 4), b"food");
    }
}
