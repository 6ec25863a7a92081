//! S6: a page of a mapped segment that can't be written or read costs its log, not the process.
//!
//! What must happen to a whole process is tried in a child: this program again, told by the environment
//! which part to play.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Barrier};

use millstream_protocol::control::GapReason;
use millstream_protocol::frame::{PublisherFields, body_crc};
use millstream_protocol::{Durability, Offset, Start, TopicName};
use millstream_storage::{
    AppendError, Appender, Blocks, Chunk, DiskFolder, Folder, Level, Log, LogReader, ReadError,
    SegmentMemory, Store, StoreOptions, catch_page_faults, park_until,
};

/// Says to a child which part it plays, and where.
const PART: &str = "MILLSTREAM_TEST_PART";
const PLACE: &str = "MILLSTREAM_TEST_PLACE";
/// Records of 1 KiB: four to a page.
const BODY_BYTES: usize = 1000;

fn open(path: &Path) -> Store {
    let options = StoreOptions {
        sync_workers: 1,
        segment_bytes_first: 1 << 20,
        segment_bytes_max: 1 << 20,
    };
    Store::open(path, &options).unwrap()
}

fn topic(store: &Store, name: &str, durability: Durability) -> Arc<Log> {
    let name = TopicName::parse(name).unwrap();
    store.create_log(&name, durability).unwrap()
}

fn append(appender: &mut Appender) -> Result<Offset, AppendError> {
    let fields = PublisherFields::single(BODY_BYTES as u32);
    loop {
        match appender.try_append_with(&fields, |room| room.put(&[7; BODY_BYTES])) {
            Err(AppendError::Rotating) => park_until(|cx| appender.poll_room(cx)),
            other => {
                appender.announce();
                return other.map(|appended| appended.end);
            }
        }
    }
}

/// Appends and waits for `level`.
fn publish(appender: &mut Appender, level: Level) -> Result<Offset, AppendError> {
    let end = append(appender)?;
    park_until(|cx| appender.poll_reached(level, end, cx))?;
    Ok(end)
}

/// The first segment of the log.
fn segment(path: &Path, log: &Log) -> PathBuf {
    let dir = path.join(format!("log-{:08}", log.identity().id.0));
    dir.join("00000001.seg")
}

fn cut_off(file: &Path, len_bytes: u64) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(len_bytes).unwrap();
}

/// Everything a reader is given: records, gaps, and why it ended.
fn read_all(log: &Arc<Log>) -> (u64, Vec<(Offset, Offset, GapReason)>, ReadError) {
    let mut reader = LogReader::new(log, Start::Earliest);
    let (mut records, mut gaps) = (0, Vec::new());
    loop {
        match park_until(|cx| reader.poll_next(1 << 20, cx)) {
            Ok(Chunk::Frames(slice)) => {
                records += slice.next_offset().0 - slice.first_offset().0;
                for frame in slice.as_bytes().chunks(1064) {
                    assert_eq!(frame[64..64 + BODY_BYTES], [7; BODY_BYTES]);
                }
            }
            Ok(Chunk::Gap(gap)) => gaps.push((gap.first_offset, gap.next_offset, gap.reason)),
            Err(error) => return (records, gaps, error),
        }
    }
}

#[test]
fn s6_a_file_cut_off_under_a_publisher_costs_its_topic_alone() {
    catch_page_faults().unwrap();
    for (durability, level) in [
        (Durability::Synced, Level::Synced),
        (Durability::Stored, Level::Stored),
    ] {
        let place = tempfile::tempdir().unwrap();
        let store = open(place.path());
        let (hit, spared) = (
            topic(&store, "hit", durability),
            topic(&store, "spared", durability),
        );
        let (mut publisher, mut other) = (Appender::new(&hit), Appender::new(&spared));
        for _ in 0..100 {
            publish(&mut publisher, Level::Synced).unwrap();
            publish(&mut other, level).unwrap();
        }
        let synced = hit.synced();
        assert_eq!(synced, Offset(100));
        cut_off(&segment(place.path(), &hit), 64 << 10);

        let error = publish(&mut publisher, level).unwrap_err();
        assert!(matches!(error, AppendError::Poisoned(_)), "{error}");
        let error = append(&mut publisher).unwrap_err();
        let AppendError::Poisoned(poisoned) = error else {
            panic!("{error}");
        };
        assert!(poisoned.reason.contains("pages"), "{poisoned}");
        assert_eq!(hit.synced(), synced, "nothing is proven by that sync");

        // What the file still has is read, the rest is told to be missing, and no more comes.
        let (records, gaps, ended) = read_all(&hit);
        assert!(matches!(ended, ReadError::Poisoned(_)), "{ended}");
        assert!(
            (40..60).contains(&records),
            "{records} of 100 lie in 64 KiB"
        );
        assert_eq!(
            gaps,
            [(Offset(records), Offset(100), GapReason::Damaged)],
            "{records}"
        );

        // The others go on.
        for _ in 0..100 {
            publish(&mut other, level).unwrap();
        }
        assert!(spared.poisoned().is_none());
        let closed = store.close().unwrap_err();
        assert_eq!(closed.topics.len(), 1, "{closed}");
        assert_eq!(closed.topics[0].0.as_str(), "hit");
        drop(store);

        let store = open(place.path());
        let again = store.log(&TopicName::parse("hit").unwrap()).unwrap();
        assert!(again.poisoned().is_none());
        let mut publisher = Appender::new(&again);
        assert!(publish(&mut publisher, level).unwrap() > synced, "L4");
    }
}

/// By whatever way it gets there.
#[test]
fn s6_a_large_body_does_not_make_a_file_that_was_cut_off_grow() {
    catch_page_faults().unwrap();
    let body = vec![7; 20_000];
    let fields = PublisherFields::single(body.len() as u32);
    let crc = body_crc(&fields, &body);
    // Before the next frame, where it begins, and inside it, a page from its end.
    for len_bytes in [64 << 10, 212_992, 230_000] {
        let place = tempfile::tempdir().unwrap();
        let store = open(place.path());
        let log = topic(&store, "hit", Durability::Synced);
        let mut publisher = Appender::new(&log);
        while publish(&mut publisher, Level::Synced).unwrap().0 < 10 {}
        let mut publish = || {
            let appended = publisher.try_append(&fields, crc, &body)?;
            publisher.announce();
            park_until(|cx| publisher.poll_reached(Level::Synced, appended.end, cx))
        };
        for _ in 0..10 {
            publish().unwrap();
        }
        let file = segment(place.path(), &log);
        cut_off(&file, len_bytes);
        let error = publish().unwrap_err();
        assert!(matches!(error, AppendError::Poisoned(_)), "{error}");
        assert_eq!(std::fs::metadata(file).unwrap().len(), len_bytes);
        assert!(store.close().is_err());
    }
}

/// As when pages leave memory and the disk gives something else for them.
#[test]
fn l7_what_changes_behind_the_check_is_checked_again() {
    let place = tempfile::tempdir().unwrap();
    let store = open(place.path());
    let log = topic(&store, "t", Durability::Synced);
    let mut publisher = Appender::new(&log);
    for _ in 0..100 {
        publish(&mut publisher, Level::Synced).unwrap();
    }
    let file = segment(place.path(), &log);
    store.close().unwrap();
    drop(store);
    let store = open(place.path());
    let log = store.log(&TopicName::parse("t").unwrap()).unwrap();
    let mut reader = LogReader::new(&log, Start::Earliest);
    let mut next = || match park_until(|cx| reader.poll_next(1, cx)).unwrap() {
        Chunk::Frames(slice) => (slice.first_offset(), slice.next_offset(), None),
        Chunk::Gap(gap) => (gap.first_offset, gap.next_offset, Some(gap.reason)),
    };
    assert_eq!(next(), (Offset(0), Offset(1), None));
    let bytes = OpenOptions::new().write(true).open(file).unwrap();
    bytes.write_all_at(&[0; 1064], 12_288 + 3 * 1064).unwrap();
    assert_eq!(next(), (Offset(1), Offset(2), None));
    assert_eq!(next(), (Offset(2), Offset(3), None));
    let (first, behind, reason) = next();
    assert_eq!((first, reason), (Offset(3), Some(GapReason::Damaged)));
    assert!(behind <= Offset(8), "to the next page that begins a frame");
    assert_eq!(next(), (behind, Offset(behind.0 + 1), None));
}

#[test]
fn s6_a_sealed_segment_cut_off_under_its_readers_is_a_gap() {
    catch_page_faults().unwrap();
    let place = tempfile::tempdir().unwrap();
    let store = open(place.path());
    let log = topic(&store, "t", Durability::Synced);
    let mut publisher = Appender::new(&log);
    for _ in 0..2_000 {
        append(&mut publisher).unwrap();
    }
    let end = publish(&mut publisher, Level::Synced).unwrap();
    // A reader in the middle of the first segment holds it mapped.
    let mut held = LogReader::new(&log, Start::Offset(Offset(10)));
    assert!(matches!(
        park_until(|cx| held.poll_next(1, cx)),
        Ok(Chunk::Frames(_))
    ));
    cut_off(&segment(place.path(), &log), 256 << 10);

    let mut read = 0;
    let mut gaps = Vec::new();
    while held.next_offset() < end {
        match park_until(|cx| held.poll_next(64 << 10, cx)).unwrap() {
            Chunk::Frames(slice) => {
                let sound = slice.as_bytes().contains(&7);
                assert!(sound, "no zeros are handed out");
                read += slice.next_offset().0 - slice.first_offset().0;
            }
            Chunk::Gap(gap) => gaps.push(gap),
        }
    }
    let missing: u64 = gaps
        .iter()
        .map(|gap| gap.next_offset.0 - gap.first_offset.0)
        .sum();
    assert_eq!(read + missing, end.0 - 11, "{gaps:?}");
    assert!(gaps.iter().all(|gap| gap.reason == GapReason::Damaged));
    assert!(missing > 500, "three quarters of a segment of a thousand");
    store.close().ok();
}

#[test]
fn s6_threads_that_meet_one_lost_page_keep_each_others_stores() {
    catch_page_faults().unwrap();
    const THREADS: usize = 8;
    let place = tempfile::tempdir().unwrap();
    let folder = DiskFolder::open(place.path()).unwrap();
    for round in 0..50 {
        let name = format!("{round}.seg");
        let memory = folder
            .create_segment(&name, 2 << 20, Blocks::Reserved)
            .unwrap();
        cut_off(&place.path().join(&name), 0);
        let begin = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (memory, begin) = (&memory, &begin);
                scope.spawn(move || {
                    begin.wait();
                    for page in 0..4 {
                        store(memory.as_ref(), page * 4096 + thread, 1);
                    }
                });
            }
        });
        for position in (0..4).flat_map(|page| (0..THREADS).map(move |at| page * 4096 + at)) {
            assert_eq!(load(memory.as_ref(), position), 1, "round {round}");
        }
        assert!(memory.lost_pages().is_some());
        assert!(memory.sync().is_err(), "what was stored reaches no disk");
    }
}

fn store(memory: &dyn SegmentMemory, position: usize, value: u8) {
    assert!(position < memory.len_bytes());
    let byte = memory.base().as_ptr().wrapping_add(position);
    // SAFETY: inside the memory; each thread stores to bytes of its own.
    unsafe { byte.write_volatile(value) };
}

fn load(memory: &dyn SegmentMemory, position: usize) -> u8 {
    assert!(position < memory.len_bytes());
    let byte = memory.base().as_ptr().wrapping_add(position);
    // SAFETY: inside the memory; whoever stored to it has ended.
    unsafe { byte.read_volatile() }
}

/// Plays `part` in a child; says how it ended.
fn child(part: &str) -> ExitStatus {
    let place = tempfile::tempdir().unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_plays_its_part", "--nocapture"])
        .env(PART, part)
        .env(PLACE, place.path())
        .status()
        .unwrap()
}

#[test]
fn s6_a_fault_elsewhere_goes_to_the_handler_before() {
    assert_eq!(child("before").code(), Some(77));
}

#[test]
fn s6_a_fault_elsewhere_without_a_handler_before_ends_the_process() {
    assert_eq!(child("elsewhere").signal(), Some(libc::SIGBUS));
    assert_eq!(child("sent").signal(), Some(libc::SIGBUS));
}

#[test]
fn s6_without_the_handler_a_page_that_is_lost_ends_the_process() {
    assert_eq!(child("without").signal(), Some(libc::SIGBUS));
    assert_eq!(child("with").code(), Some(0));
}

/// Not a test by itself: what the children of the tests above do.
#[test]
fn a_child_plays_its_part() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let place = PathBuf::from(std::env::var(PLACE).unwrap());
    match part.as_str() {
        "before" => {
            set_handler(libc::SIGBUS, exit_77 as *const () as usize);
            catch_page_faults().unwrap();
            touch_past_the_end(&place);
        }
        "elsewhere" => {
            set_handler(libc::SIGBUS, libc::SIG_DFL);
            catch_page_faults().unwrap();
            touch_past_the_end(&place);
        }
        "sent" => {
            set_handler(libc::SIGBUS, libc::SIG_DFL);
            catch_page_faults().unwrap();
            // SAFETY: sends a signal to this very thread.
            unsafe { libc::raise(libc::SIGBUS) };
        }
        "with" | "without" => {
            if part == "with" {
                catch_page_faults().unwrap();
            }
            let store = open(&place);
            let log = topic(&store, "t", Durability::Synced);
            let mut publisher = Appender::new(&log);
            publish(&mut publisher, Level::Synced).unwrap();
            cut_off(&segment(&place, &log), 4096);
            let _ = publish(&mut publisher, Level::Synced);
        }
        other => panic!("no part {other:?}"),
    }
}

extern "C" fn exit_77(_: libc::c_int) {
    // SAFETY: ends the process at once; async-signal-safe.
    unsafe { libc::_exit(77) };
}

fn set_handler(signal: libc::c_int, handler: usize) {
    // SAFETY: of integers and nullable pointers; zeros are values.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // SAFETY: the handler takes a signal's number and is async-signal-safe, or is the default.
    let answer = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    assert_eq!(answer, 0);
}

/// Touches a mapping that is none of the broker's, behind the end of its file.
fn touch_past_the_end(place: &Path) {
    let path = place.join("file");
    std::fs::write(&path, vec![1; 8192]).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let map = memmap2::MmapOptions::new()
        .len(8192)
        .map_raw_read_only(&file)
        .unwrap();
    cut_off(&path, 0);
    // SAFETY: mapped; that it can't be read is what the test is about.
    let byte = unsafe { map.as_ptr().read_volatile() };
    panic!("read {byte} where nothing is");
}
