//! S1 to S5: syncing, the slots, the open mark, the bound of stored topics, footers.

use super::*;
use crate::crash::Piece;
use crate::verify::{Fault, verify_folder};

#[test]
fn s1_a_failed_sync_is_never_repeated_and_refuses_publishing() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    let good = publish_synced(&mut appender, b"good");
    folder.fail(Operation::Sync, "00000001.seg", 1, Failure::Device);
    let lost = append(&mut appender, b"unknown").unwrap();
    assert!(matches!(
        reach(&log, Level::Synced, lost.end),
        Err(AppendError::Poisoned(_))
    ));
    let syncs = folder.count(Operation::Sync, "00000001.seg");
    for _ in 0..3 {
        assert!(matches!(
            append(&mut appender, b"x"),
            Err(AppendError::Poisoned(_))
        ));
    }
    log.prove_idle();
    assert!(store.close().is_err(), "it can't be called clean");
    assert_eq!(folder.count(Operation::Sync, "00000001.seg"), syncs);
    assert_eq!(log.synced(), good.end);
    assert!(
        state(&folder).logs.values().next().unwrap().open,
        "S3: it keeps its open mark"
    );
}

#[test]
fn s1_a_sync_during_which_the_log_is_poisoned_proves_nothing() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    let good = publish_synced(&mut appender, b"good");
    let meanwhile = Arc::downgrade(&log);
    // A worker may sync the record below before anything else is done, and a log that is idle at any time.
    folder.on_sync(move |name| {
        if name.ends_with("00000001.seg")
            && let Some(log) = meanwhile.upgrade()
            && log.committed() > good.end
        {
            log.poison(&std::io::Error::other("the sync of another file failed"));
        }
    });
    let lost = append(&mut appender, b"unknown").unwrap();
    assert!(matches!(
        reach(&log, Level::Synced, lost.end),
        Err(AppendError::Poisoned(_))
    ));
    drop(store);
    assert_eq!(log.synced(), good.end);
}

/// A synced log with ten records of 1000 bytes; the folder as a kill leaves it, the last slot, and
/// the positions of the frames.
fn ten_records() -> (HeapFolder, String, Slot, Vec<usize>) {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    for number in 0..10_u8 {
        publish_synced(&mut appender, &[number + 1; 1000]);
    }
    let name = file(&log, FIRST);
    let left = folder.duplicate();
    let bytes = left.read_file(&name).unwrap();
    let pages = SLOT_POSITIONS.map(|at| &bytes[at as usize..]);
    let nonce = state(&left).logs.values().next().unwrap().segments[&FIRST].nonce;
    let slot = Slot::newest(pages, nonce).unwrap();
    let frame_bytes = 64 + 1000;
    let starts = (0..10)
        .map(|n| FRAMES_START as usize + n * frame_bytes)
        .collect();
    drop(store);
    (left, name, slot, starts)
}

fn flip(folder: &HeapFolder, name: &str, at: usize) {
    folder.edit(name, |bytes| bytes[at] ^= 0x10).unwrap();
}

#[test]
fn s2_damage_below_proven_is_a_gap_and_cuts_nothing() {
    let (folder, name, slot, starts) = ten_records();
    assert!(slot.proven.position as usize > starts[4]);
    flip(&folder, &name, starts[2] + 100);
    let store = open(&folder);
    let report = &store.recoveries()[0];
    assert_eq!(report.damaged, [(Offset(2), Offset(slot.proven.offset))]);
    assert_eq!((report.cut_bytes, report.end_offset), (0, Offset(10)));
    let (records, gaps) = read(&store.log(&topic()).unwrap(), Offset(10));
    let lost = 2..slot.proven.offset;
    assert_eq!(gaps, [(lost.start, lost.end)]);
    let kept: Vec<u64> = records.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(
        kept,
        (0..10)
            .filter(|offset| !lost.contains(offset))
            .collect::<Vec<_>>()
    );
}

#[test]
fn s2_damage_between_the_watermarks_is_cut_and_told_as_possibly_acknowledged() {
    let (folder, name, slot, starts) = ten_records();
    let at = starts
        .iter()
        .position(|start| *start >= slot.proven.position as usize)
        .unwrap();
    assert!((starts[at] as u64) < u64::from(slot.attempted.position));
    flip(&folder, &name, starts[at] + 100);
    let store = open(&folder);
    let report = &store.recoveries()[0];
    assert!(report.possibly_acknowledged && report.cut_bytes > 0);
    assert_eq!(report.end_offset, Offset(at as u64));
}

#[test]
fn s2_damage_past_attempted_is_a_tear_nobody_was_promised() {
    let (folder, name, slot, _) = ten_records();
    folder
        .edit(&name, |bytes| {
            let tail = slot.attempted.position as usize;
            bytes[tail..tail + 300].fill(0xAB);
        })
        .unwrap();
    let store = open(&folder);
    let report = &store.recoveries()[0];
    assert!(!report.possibly_acknowledged);
    assert_eq!((report.cut_bytes, report.end_offset), (300, Offset(10)));
}

#[test]
fn s2_where_the_slots_rotted_what_is_gone_may_have_been_acknowledged() {
    let (folder, name, _, starts) = ten_records();
    let zero = |bytes: &mut Vec<u8>, from: usize| bytes[from..].fill(0);
    let rotten = |bytes: &mut Vec<u8>| SLOT_POSITIONS.map(|at| bytes[at as usize + 20] ^= 1);
    // All of the file, its first page too, which was synced before the manifest named it; then with
    // that page, and slots that are no longer whole.
    for (number, from) in [0, FRAMES_START as usize, starts[5]]
        .into_iter()
        .enumerate()
    {
        let left = folder.duplicate();
        let damage = |bytes: &mut Vec<u8>| {
            rotten(bytes);
            zero(bytes, from);
        };
        left.edit(&name, damage).unwrap();
        let store = open(&left);
        let report = &store.recoveries()[0];
        assert!(report.possibly_acknowledged, "{number}: {report}");
        assert!(report.to_string().contains("may have been acknowledged"));
        let kept = if number == 2 { 5 } else { 0 };
        assert_eq!(report.end_offset, Offset(kept), "{number}");
        let state = state(&left);
        let log = state.logs.values().next().unwrap();
        assert!(log.cuts[0].possibly_acknowledged, "{number}: it is kept");
    }
}

#[test]
fn s2_where_the_newer_slot_rotted_the_older_one_does_not_say_that_nobody_was_told() {
    let (folder, name, newer, starts) = ten_records();
    let place = SLOT_POSITIONS[newer.sequence as usize % 2] as usize;
    flip(&folder, &name, place + 24);
    let bytes = folder.read_file(&name).unwrap();
    let nonce = state(&folder).logs.values().next().unwrap().segments[&FIRST].nonce;
    let older = Slot::newest(SLOT_POSITIONS.map(|at| &bytes[at as usize..]), nonce).unwrap();
    // By the older slot no sync of this frame was ever begun.
    let hit = starts
        .iter()
        .position(|start| *start == older.attempted.position as usize)
        .unwrap();
    flip(&folder, &name, starts[hit] + 100);
    let found = verify_folder(&folder, &mut |_| ()).unwrap();
    let fault = &found.problems.last().unwrap().fault;
    assert!(matches!(fault, Fault::PossiblyAcknowledged), "{found}");
    let store = open(&folder);
    let report = &store.recoveries()[0];
    assert_eq!(report.end_offset, Offset(hit as u64));
    assert!(
        report.possibly_acknowledged && report.cut_bytes > 0,
        "{report}"
    );
}

#[test]
fn s2_an_idle_log_is_synced_once_more_so_that_the_proof_is_on_disk() {
    let folder = HeapFolder::new();
    let (synced, hear) = mpsc::channel();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    publish_synced(&mut appender, b"warm");
    let hears = folder.clone();
    let name = file(&log, FIRST);
    let nonce = state(&folder).logs.values().next().unwrap().segments[&FIRST].nonce;
    folder.on_sync(move |_| synced.send(()).unwrap_or_default());
    let last = publish_synced(&mut appender, b"last");
    // The sync of the record, then one more that nobody asked for.
    loop {
        hear.recv().unwrap();
        let bytes = hears.read_file(&name).unwrap();
        let slot = Slot::newest(SLOT_POSITIONS.map(|at| &bytes[at as usize..]), nonce).unwrap();
        if slot.proven.offset == last.end.0 {
            break;
        }
    }
}

#[test]
fn s3_the_open_mark_is_on_disk_before_the_first_write_and_cleared_by_a_clean_stop() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    assert!(!state(&folder).logs.values().next().unwrap().open);
    publish_synced(&mut Appender::new(&log), b"x");
    assert!(
        state(&folder.after_power_loss())
            .logs
            .values()
            .next()
            .unwrap()
            .open
    );
    store.close().unwrap();
    let closed = state(&folder.after_power_loss());
    let log_state = closed.logs.values().next().unwrap();
    assert!(!log_state.open);
    assert_eq!(log_state.next_offset, Some(1));
}

#[test]
fn s3_what_recovery_keeps_is_synced_before_it_is_served_and_a_second_one_changes_nothing() {
    let (folder, name, _, _) = ten_records();
    let before = folder.count(Operation::Sync, "00000001.seg");
    drop(open(&folder));
    assert!(
        folder.count(Operation::Sync, "00000001.seg") > before,
        "written again and synced"
    );
    let bytes = folder.read_file(&name).unwrap();
    let store = open(&folder);
    assert!(store.recoveries().is_empty());
    assert_eq!(read(&store.log(&topic()).unwrap(), Offset(10)).0.len(), 10);
    assert_eq!(folder.read_file(&name).unwrap(), bytes);
}

#[test]
fn s3_a_recovery_whose_sync_fails_serves_nothing_of_it() {
    let (folder, _, _, _) = ten_records();
    folder.fail(Operation::Sync, "00000001.seg", 1, Failure::Device);
    let store = open(&folder);
    let log = store.log(&topic()).unwrap();
    assert!(log.poisoned().is_some());
    assert_eq!(log.high_watermark(), Offset(0));
    drop(store);
    let store = open(&folder);
    assert_eq!(
        store.recoveries()[0].end_offset,
        Offset(10),
        "the next start tries again"
    );
}

#[test]
fn s4_a_synced_topic_is_synced_whoever_waits() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let (synced, hear) = mpsc::channel();
    let watched = Arc::clone(&log);
    folder.on_sync(move |name| {
        if name.ends_with("00000001.seg") {
            synced.send(watched.committed()).unwrap_or_default();
        }
    });
    let mut appender = Appender::new(&log);
    append(&mut appender, b"nobody waits for this").unwrap();
    while hear.recv().unwrap() < Offset(1) {}
}

#[test]
fn s4_a_stored_topic_holds_publishers_where_the_disk_is_slower_than_the_bound() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Stored);
    let mut appender = Appender::new(&log);
    append(&mut appender, b"warm").unwrap();
    let (go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let slow = log.identity().id;
    folder.on_sync(move |name| {
        // Syncs of frames wait until the test lets them go; making segments does not.
        let number = name
            .trim_end_matches(".seg")
            .rsplit('/')
            .next()
            .unwrap_or_default();
        if name.starts_with(&format!("log-{:08}", slow.0)) && number == "00000001" {
            let _ = gate.lock().unwrap().recv();
        }
    });
    let body = vec![3; 500_000];
    let fields = PublisherFields::single(500_000);
    let mut appended_bytes = 0_u64;
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match appender.try_append_with(&fields, |room| room.put(&body)) {
            Ok(_) => {
                appended_bytes += 500_064;
                appender.announce();
                assert!(
                    appended_bytes < crate::log::STORED_UNSYNCED_BYTES_MAX + 2_000_000,
                    "nobody was held"
                );
            }
            Err(AppendError::Rotating) if log.gate_flags() != 0 => break,
            Err(AppendError::Rotating) => {
                if appender.poll_room(&mut cx) == Poll::Pending {
                    park_until(|cx| appender.poll_room(cx));
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    drop(go);
    park_until(|cx| appender.poll_room(cx));
    append(&mut appender, b"let go").unwrap();
}

/// Without threads, so that the test does their work.
fn open_by_hand(segment_bytes: u32) -> Store {
    let options = StoreOptions {
        sync_workers: 1,
        segment_bytes_first: segment_bytes,
        segment_bytes_max: segment_bytes,
    };
    Store::open_by_hand(Arc::new(HeapFolder::new()), &options).unwrap()
}

/// The disk is to be at work long before anybody is held.
#[test]
fn s4_a_stored_topic_asks_for_a_sync_at_a_quarter_of_the_bound() {
    // So that nothing is asked for by the time that passes.
    crate::hand::set_time_us(1_000_000_000);
    let store = open_by_hand(1 << 20);
    let log = log_of(&store, Durability::Stored);
    let mut appender = Appender::new(&log);
    let body = vec![3; 100_000];
    let fields = PublisherFields::single(100_000);
    let quarter_bytes = crate::log::STORED_UNSYNCED_BYTES_MAX / 4;
    for _ in 0..2 {
        let mut appended_bytes = 0_u64;
        while !store.work_by_hand(Piece::Sync) {
            match appender.try_append_with(&fields, |room| room.put(&body)) {
                Ok(_) => appended_bytes += 100_064,
                Err(AppendError::Rotating) => while store.work_by_hand(Piece::Prepare) {},
                Err(error) => panic!("{error}"),
            }
            appender.announce();
            assert!(
                appended_bytes < quarter_bytes + 2_000_000,
                "nothing was asked for"
            );
        }
        assert!(
            appended_bytes > quarter_bytes - 2_000_000,
            "{appended_bytes}"
        );
        assert_eq!(log.synced(), log.committed());
    }
    crate::hand::let_go();
}

/// Publishers wait for the next segment, and not for the footers of a few before it.
#[test]
fn segments_are_made_while_the_disk_keeps_few_footers_waiting() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Stored);
    let (waits, waiting) = mpsc::channel::<()>();
    let (go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    folder.on_sync(move |_| {
        if std::thread::current().name() == Some("ms-finish") {
            waits.send(()).unwrap_or_default();
            let _ = gate.lock().unwrap().recv();
        }
    });
    let mut appender = Appender::new(&log);
    let mut publish_to_segment = |number: u32| {
        while log
            .chain()
            .numbers()
            .last()
            .is_none_or(|last| last.0.0 < number)
        {
            append(&mut appender, &[3; 100_000]).unwrap();
        }
    };
    publish_to_segment(2);
    log.hurry();
    waiting.recv().unwrap();
    publish_to_segment(4);
    drop(go);
    store.close().unwrap();
}

/// What has no footer can't be dropped.
#[test]
fn no_segment_is_made_while_eight_wait_for_their_footers() {
    crate::hand::set_time_us(1_000_000_000);
    let store = open_by_hand(256 << 10);
    let log = log_of(&store, Durability::Synced);
    let work = &log.shared().work;
    let mut appender = Appender::new(&log);
    let body = vec![3; 40_000];
    let fields = PublisherFields::single(40_000);
    loop {
        match appender.try_append_with(&fields, |room| room.put(&body)) {
            Ok(_) => {}
            Err(AppendError::Rotating) if work.make_by_hand() => {}
            Err(AppendError::Rotating) => break,
            Err(error) => panic!("{error}"),
        }
        appender.announce();
        while store.work_by_hand(Piece::Sync) {}
    }
    // The last has just been sealed, and was not synced since.
    assert_eq!(log.chain().held().len(), 9);
    // The first that is listed is a footer.
    assert!(store.work_by_hand(Piece::Prepare));
    assert_eq!(log.chain().held().len(), 8);
    assert!(work.make_by_hand());
    crate::hand::let_go();
}

#[test]
fn s5_a_sealed_segment_ends_with_a_synced_footer_that_the_manifest_names() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    let mut last = Offset(0);
    for number in 0..3000_u32 {
        last = append(&mut appender, &vec![1; 100 + number as usize % 1500])
            .unwrap()
            .end;
    }
    reach(&log, Level::Synced, last).unwrap();
    store.close().unwrap();
    let durable = folder.after_power_loss();
    let manifest = state(&durable);
    let segments = &manifest.logs.values().next().unwrap().segments;
    assert!(segments.len() >= 3);
    for (number, segment) in segments {
        let end = segment.end.as_ref().unwrap();
        let bytes = durable.read_file(&file(&log, *number)).unwrap();
        let footer = &bytes[footer_position(end.end_position) as usize..];
        let (summary, index, damage) = footer::decode(footer, segment.nonce).unwrap();
        assert!(damage.is_empty());
        assert_eq!(
            (summary.base_offset, summary.end_offset),
            (end.base_offset, end.end_offset)
        );
        assert!(summary.first_time_us <= summary.last_time_us);
        assert_eq!(index.next_start(0), Some(FRAMES_START));
    }
    // And readers find every offset through it.
    let store = open(&folder);
    let log = store.log(&topic()).unwrap();
    for offset in (0..last.0).step_by(97) {
        let crate::chain::Place::Earlier(number) = log.chain().find(Offset(offset)) else {
            panic!("a segment of an earlier run");
        };
        let segment = cold::open_earlier(&log, number).unwrap();
        let (_, found) = cold::locate(&segment, Offset(offset));
        assert!(
            found.0 <= offset && offset - found.0 < 64,
            "{offset} from {found}"
        );
    }
}

#[test]
fn s5_the_manifest_names_no_footer_that_was_not_synced() {
    use crate::manifest::EndKind;

    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let synced_bytes = Arc::new(std::sync::Mutex::new(std::collections::BTreeMap::new()));
    let (noted, files) = (Arc::clone(&synced_bytes), folder.clone());
    folder.on_sync(move |name| {
        let len_bytes = files.len(name).unwrap();
        noted.lock().unwrap().insert(name.to_owned(), len_bytes);
    });
    let mut appender = Appender::new(&log);
    for _ in 0..3000 {
        append(&mut appender, &[1; 900]).unwrap();
    }
    store.close().unwrap();
    let manifest = state(&folder);
    let segments = &manifest.logs.values().next().unwrap().segments;
    assert!(segments.len() >= 3);
    let synced_bytes = synced_bytes.lock().unwrap();
    for (number, segment) in segments {
        let end = segment.end.as_ref().unwrap();
        let EndKind::Sealed { footer_bytes } = end.kind else {
            panic!("a clean stop seals");
        };
        let footer_end = footer_position(end.end_position) + footer_bytes;
        // A file gets its last length with its footer.
        assert_eq!(synced_bytes[&file(&log, *number)], u64::from(footer_end));
    }
}
