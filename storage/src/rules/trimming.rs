//! R1 and L4 under trimming: what goes, what stays, and what a kill in between leaves.

use super::*;
use crate::crash::Piece;
use crate::retention::{Trimmed, trim};
use millstream_protocol::control::GapReason;

/// A synced log with at least three finished segments in front of the active one.
fn grown(folder: &HeapFolder) -> (Store, Arc<Log>, Offset) {
    let store = open(folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    let mut end = Offset(0);
    // Segments are finished by another thread, which needs none of these records.
    while log.chain().trimmable(end).0.len() < 3 {
        let body = vec![end.0 as u8; 200_000];
        end = publish_synced(&mut appender, &body).end;
    }
    (store, log, end)
}

/// Has none of the files that are there now serve again.
fn let_none_serve_again(log: &Log) {
    for (number, _) in log.chain().numbers() {
        std::mem::forget(log.chain().map(number));
    }
}

fn files(folder: &HeapFolder, log: &Log) -> Vec<String> {
    folder
        .list(&crate::layout::log_dir(log.identity().id))
        .unwrap()
}

/// Where the segment numbered `number` starts.
fn base(log: &Log, number: u32) -> Offset {
    let numbers = log.chain().numbers();
    numbers.iter().find(|(kept, _)| kept.0 == number).unwrap().1
}

#[test]
fn whole_segments_below_the_line_go_and_no_others() {
    let folder = HeapFolder::new();
    let (_store, log, end) = grown(&folder);
    let_none_serve_again(&log);
    let (all, _) = read(&log, end);
    let (second, third) = (base(&log, 2), base(&log, 3));
    assert_eq!(trim(&log, Offset(second.0 - 1)).unwrap().segments, 0);
    assert_eq!(trim(&log, Offset(third.0 - 1)).unwrap().segments, 1);
    assert_eq!(log.first_offset(), second);
    let trimmed = trim(&log, third).unwrap();
    assert_eq!((trimmed.segments, trimmed.first_offset), (1, third));
    assert!(trimmed.bytes > 200_000);
    let left = files(&folder, &log);
    assert!(!left.contains(&"00000001.seg".to_owned()));
    assert!(!left.contains(&"00000002.seg".to_owned()));
    assert!(left.contains(&"00000003.seg".to_owned()));
    let (kept, gaps) = read(&log, end);
    assert!(gaps.is_empty());
    assert_eq!(kept, all[third.0 as usize..]);
}

#[test]
fn a_reader_behind_the_line_is_told_and_slices_stay_what_they_were() {
    let folder = HeapFolder::new();
    let (_store, log, _) = grown(&folder);
    let mut ahead = LogReader::new(&log, Start::Earliest);
    let Chunk::Frames(slice) = park_until(|cx| ahead.poll_next(1, cx)).unwrap() else {
        panic!("the first record is there");
    };
    let bytes = slice.as_bytes().to_vec();
    let first = trim(&log, base(&log, 3)).unwrap().first_offset;
    let mut late = LogReader::new(&log, Start::Offset(Offset(1)));
    let Chunk::Gap(gap) = park_until(|cx| late.poll_next(1, cx)).unwrap() else {
        panic!("its record is gone");
    };
    assert_eq!((gap.first_offset, gap.next_offset), (Offset(1), first));
    assert_eq!(gap.reason, GapReason::Trimmed);
    assert_eq!(slice.as_bytes(), bytes);
}

/// The only segment that is left has lost its first frame, which says where it starts: the manifest
/// knows that it is not before what was trimmed.
#[test]
fn l4_a_rotten_first_frame_behind_trimmed_segments_starts_no_earlier() {
    let folder = HeapFolder::new();
    let (store, log, end) = grown(&folder);
    // All that is finished goes, until one segment is left.
    park_until_one_is_left(&log, end);
    let (last, first) = log.chain().numbers()[0];
    assert!(first > Offset(0));
    for checkpointed in [false, true] {
        let left = folder.duplicate();
        if checkpointed {
            // What the entries said stands in the checkpoint alone.
            let folder: Arc<dyn Folder> = Arc::new(left.clone());
            drop(crate::manifest::Manifest::open(folder).unwrap());
        }
        left.edit(&file(&log, last), |bytes| {
            bytes[FRAMES_START as usize + 80] ^= 1
        })
        .unwrap();
        let (_, store, report) = after_kill(&left);
        let log = store.log(&topic()).unwrap();
        assert!(
            log.first_offset() >= first,
            "{} {first}",
            log.first_offset()
        );
        assert!(
            report.damaged.iter().all(|(from, _)| *from >= first),
            "{report}"
        );
        assert!(report.next_offset > end, "{report}");
    }
    drop(store);
}

fn park_until_one_is_left(log: &Arc<Log>, end: Offset) {
    while log.chain().numbers().len() > 1 {
        trim(log, end).unwrap();
        std::thread::yield_now();
    }
}

#[test]
fn l4_offsets_go_on_where_everything_was_trimmed() {
    let folder = HeapFolder::new();
    let (store, _, end) = grown(&folder);
    store.close().unwrap();
    let store = open(&folder);
    let log = store.log(&topic()).unwrap();
    let first = trim(&log, Offset(u64::MAX)).unwrap().first_offset;
    assert_eq!(log.chain().numbers().len(), 1, "the last one stays");
    store.close().unwrap();
    let store = open(&folder);
    let log = store.log(&topic()).unwrap();
    assert_eq!(log.first_offset(), first);
    let next = publish_synced(&mut Appender::new(&log), b"new");
    assert_eq!(next.base, end);
    // And after a kill, with nothing finished left in front.
    let (_, reopened, _) = after_kill(&folder);
    let log = reopened.log(&topic()).unwrap();
    assert!(publish_synced(&mut Appender::new(&log), b"more").base >= next.end);
}

#[test]
fn r1_the_manifest_forgets_before_a_file_goes() {
    let folder = HeapFolder::new();
    let (_store, log, end) = grown(&folder);
    let before = files(&folder, &log);
    for operation in [Operation::Append, Operation::CreateFile] {
        folder.fail(operation, "", 1, Failure::Device);
    }
    assert!(trim(&log, end).is_err());
    assert!(
        before
            .iter()
            .all(|file| files(&folder, &log).contains(file))
    );
    assert_eq!(folder.count(Operation::Remove, ".seg"), 0);
    assert_eq!(log.first_offset(), Offset(0));
    assert_eq!(read(&log, end).0.len(), end.0 as usize);
}

#[test]
fn files_that_a_kill_or_power_loss_left_go_at_the_next_start() {
    let folder = HeapFolder::new();
    let (_store, log, end) = grown(&folder);
    let_none_serve_again(&log);
    // The disk forgets the unlinking of one, the kill comes before that of the other.
    folder.fail(Operation::Remove, "00000002.seg", 1, Failure::Device);
    let first = trim(&log, base(&log, 3)).unwrap().first_offset;
    assert!(files(&folder, &log).contains(&"00000002.seg".to_owned()));
    let (all, _) = read(&log, end);
    for left in [folder.duplicate(), folder.after_power_loss()] {
        let store = open(&left);
        let log = store.log(&topic()).unwrap();
        assert_eq!(log.first_offset(), first);
        assert_eq!(files(&left, &log).first().unwrap(), "00000003.seg");
        assert_eq!(read(&log, end).0, all);
    }
}

#[test]
fn s7_a_file_of_a_dropped_segments_name_that_is_not_ours_stays() {
    let folder = HeapFolder::new();
    let (store, log, _) = grown(&folder);
    let_none_serve_again(&log);
    trim(&log, base(&log, 3)).unwrap();
    let other = file(&log, SegmentNumber(2));
    let third = folder.read_file(&file(&log, SegmentNumber(3))).unwrap();
    folder.create_file(&other, &third).unwrap();
    folder
        .create_file(&file(&log, FIRST), b"somebody's notes")
        .unwrap();
    store.close().unwrap();
    let store = open(&folder);
    let log = store.log(&topic()).unwrap();
    let left = files(&folder, &log);
    assert!(left.starts_with(&["00000001.seg".to_owned(), "00000002.seg".to_owned()]));
}

#[test]
fn a_file_of_a_dropped_segments_name_may_have_any_length() {
    let folder = HeapFolder::new();
    let (store, log, _) = grown(&folder);
    let_none_serve_again(&log);
    trim(&log, base(&log, 3)).unwrap();
    let name = file(&log, FIRST);
    drop((store, log));
    for len_bytes in [0, 1, 4095, 4096, 4097, 4159, 4160, 4161] {
        folder.create_file(&name, &vec![0; len_bytes]).unwrap();
        drop(open(&folder));
        folder.remove(&name).unwrap();
    }
}

#[test]
fn a_closed_log_is_not_trimmed() {
    let folder = HeapFolder::new();
    let (store, log, end) = grown(&folder);
    store.close().unwrap();
    let changes = folder.changes();
    let nothing = Trimmed {
        segments: 0,
        bytes: 0,
        first_offset: Offset(0),
        unfinished: false,
    };
    assert_eq!(trim(&log, end).unwrap(), nothing);
    assert_eq!(folder.changes(), changes, "another process may have it");
}

#[test]
fn what_is_trimmed_while_a_reader_is_on_its_way_there_is_a_gap_and_no_damage() {
    for fetched_before in [true, false] {
        let folder = HeapFolder::new();
        let (_store, log, end) = grown(&folder);
        trim(&log, base(&log, 2)).unwrap();
        let mut late = LogReader::new(&log, Start::Offset(Offset(0)));
        let mut cx = Context::from_waker(Waker::noop());
        // Mostly its segment is still to be fetched.
        let early = late.poll_next(1 << 20, &mut cx);
        if fetched_before {
            // Fetches are done in turn, so this one's answer comes behind the other.
            let mut behind = LogReader::new(&log, Start::Earliest);
            assert!(park_until(|cx| behind.poll_next(1, cx)).is_ok());
        }
        let first = trim(&log, base(&log, 3)).unwrap().first_offset;
        let mut next = match early {
            Poll::Ready(chunk) => chunk,
            Poll::Pending => park_until(|cx| late.poll_next(1 << 20, cx)),
        };
        loop {
            match next.unwrap() {
                Chunk::Frames(slice) if slice.next_offset() >= end => break,
                Chunk::Frames(_) => {}
                Chunk::Gap(gap) => {
                    assert_eq!(gap.reason, GapReason::Trimmed);
                    assert!(gap.next_offset <= first);
                }
            }
            next = park_until(|cx| late.poll_next(1 << 20, cx));
        }
    }
}

#[test]
fn r1_whatever_change_fails_or_is_cut_off_what_is_kept_is_all_there() {
    for nth in 1..=8 {
        for failure in [Failure::Device, Failure::Full] {
            let folder = HeapFolder::new();
            let (store, log, end) = grown(&folder);
            let (all, _) = read(&log, end);
            let line = base(&log, 3);
            folder.fail_nth_change(nth, failure);
            // It may say that it could not; and something else may have met the failure.
            let said = trim(&log, line);
            folder.heal();
            for left in [folder.duplicate(), folder.after_power_loss()] {
                let again = open(&left);
                let log = log_of(&again, Durability::Synced);
                let first = log.first_offset();
                assert!(first == Offset(0) || first == line, "{first:?}, {said:?}");
                assert!(said.is_err() || first == line, "what was said is so");
                let (kept, gaps) = read(&log, end);
                assert!(gaps.is_empty());
                assert!(kept == all[first.0 as usize..], "{nth} {failure:?}");
                let files = files(&left, &log);
                assert_eq!(
                    files.contains(&"00000001.seg".to_owned()),
                    first == Offset(0)
                );
                again.close().unwrap();
            }
            drop(store);
        }
    }
}

/// A segment that can't be opened for want of descriptors is read once there are some: it is not
/// damaged, and a queue must not settle what is in it.
#[test]
fn a_process_without_descriptors_waits_and_reports_no_damage() {
    let folder = HeapFolder::new();
    let (store, _, end) = grown(&folder);
    store.close().unwrap();
    let store = open(&folder);
    let log = store.log(&topic()).unwrap();
    for nth in 1..=3 {
        let operation = Operation::OpenSegment;
        folder.fail(operation, ".seg", nth, Failure::Descriptors);
    }
    let (kept, gaps) = read(&log, end);
    assert!(gaps.is_empty(), "{gaps:?}");
    assert_eq!(kept.len() as u64, end.0);
}

/// A log whose first segments are full and synced, the footer of the last of them still to be written
/// by hand.
fn unfinished(folder: &HeapFolder, full: usize) -> (Store, Arc<Log>, Offset) {
    let options = StoreOptions {
        sync_workers: 1,
        segment_bytes_first: 64 << 10,
        segment_bytes_max: 64 << 10,
    };
    let store = Store::open_by_hand(Arc::new(folder.clone()), &options).unwrap();
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    let body = vec![7; 20 << 10];
    let fields = PublisherFields::single(u32::try_from(body.len()).unwrap());
    let mut end = Offset(0);
    while log.chain().numbers().len() <= full {
        match appender.try_append_with(&fields, |room| room.put(&body)) {
            Ok(appended) => end = appended.end,
            Err(AppendError::Rotating) => {
                // What is synced here is finished here.
                while log.chain().numbers().len() < full && store.work_by_hand(Piece::Sync) {}
                while store.work_by_hand(Piece::Prepare) {}
            }
            Err(error) => panic!("{error}"),
        }
    }
    appender.announce();
    while store.work_by_hand(Piece::Sync) {}
    (store, log, end)
}

#[test]
fn r1_a_segment_that_is_not_finished_yet_is_told_and_goes_once_it_is() {
    let folder = HeapFolder::new();
    let (store, log, end) = unfinished(&folder, 1);
    let trimmed = trim(&log, end).unwrap();
    assert_eq!((trimmed.segments, trimmed.unfinished), (0, true));
    while store.work_by_hand(Piece::Prepare) {}
    let trimmed = trim(&log, end).unwrap();
    assert_eq!((trimmed.segments, trimmed.unfinished), (1, false));
}

#[test]
fn r1_a_segment_whose_end_the_manifest_had_no_room_for_goes_once_it_has() {
    let folder = HeapFolder::new();
    let (store, log, end) = unfinished(&folder, 1);
    folder.fail(Operation::Reserve, "manifest", 1, Failure::Full);
    while store.work_by_hand(Piece::Prepare) {}
    assert!(!folder.failures_met().is_empty(), "it was asked for room");
    let trimmed = trim(&log, end).unwrap();
    assert_eq!((trimmed.segments, trimmed.unfinished), (1, false));
}

#[test]
fn r1_a_segment_that_is_finished_while_others_are_dropped_is_told_to_be_left() {
    let folder = HeapFolder::new();
    let (store, log, end) = unfinished(&folder, 2);
    let_none_serve_again(&log);
    let store = Arc::new(store);
    let worker = Arc::clone(&store);
    folder.on_remove(move |_| while worker.work_by_hand(Piece::Prepare) {});
    // The first goes, and meanwhile the second could.
    let trimmed = trim(&log, end).unwrap();
    assert_eq!(trimmed.segments, 1);
    assert!(trimmed.unfinished, "somebody has to come back");
    let trimmed = trim(&log, end).unwrap();
    assert_eq!((trimmed.segments, trimmed.unfinished), (1, false));
}
