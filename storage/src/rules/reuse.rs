//! L7: files of dropped segments serve again, and nothing of what they were is ever seen.

use super::*;
use crate::crash::Piece;
use crate::layout::log_dir;
use crate::retention::trim;
use crate::verify::{Depth, VerifyReport, check_folder};

/// Bytes of a segment, whatever is published.
const SEGMENT_BYTES: u32 = 256 << 10;
/// Some of these fit into a segment; they are written and not stored.
const LARGE: usize = 40_000;

/// A log whose threads are the test's own, so that what serves again does not depend on the time.
struct Bench {
    folder: HeapFolder,
    store: Store,
    log: Arc<Log>,
    appender: Appender,
    published: u8,
}

impl Bench {
    fn over(folder: HeapFolder) -> Self {
        let options = StoreOptions {
            sync_workers: 1,
            segment_bytes_first: SEGMENT_BYTES,
            segment_bytes_max: SEGMENT_BYTES,
        };
        let store = Store::open_by_hand(Arc::new(folder.clone()), &options).unwrap();
        let log = log_of(&store, Durability::Synced);
        Self {
            appender: Appender::new(&log),
            folder,
            store,
            log,
            published: 0,
        }
    }

    /// With three segments that are finished in front of the one that is written to.
    fn grown() -> Self {
        let mut bench = Self::over(HeapFolder::new());
        bench.publish_to_segment(4);
        bench
    }

    /// Publishes until the segment numbered so is written to, and those before are finished.
    fn publish_to_segment(&mut self, number: u32) -> Offset {
        loop {
            let end = self.publish(LARGE);
            let last = *self.log.chain().numbers().last().unwrap();
            if last.0.0 >= number {
                assert_eq!(last.0.0, number);
                return end;
            }
        }
    }

    fn work(&self) {
        while self.store.work_by_hand(Piece::Sync) || self.store.work_by_hand(Piece::Prepare) {}
    }

    /// Publishes a record of so many equal bytes, and has it synced.
    fn publish(&mut self, body_bytes: usize) -> Offset {
        self.published += 1;
        let body = vec![self.published; body_bytes];
        let fields = PublisherFields::single(u32::try_from(body_bytes).unwrap());
        loop {
            match self
                .appender
                .try_append_with(&fields, |room| room.put(&body))
            {
                Err(AppendError::Rotating) => self.work(),
                appended => {
                    self.appender.announce();
                    self.work();
                    let end = appended.unwrap().end;
                    // Whoever looks how far the log goes lets go of the segments before.
                    assert!(self.appender.is_stored(end));
                    assert_eq!(self.log.committed(), end);
                    return end;
                }
            }
        }
    }

    /// Drops the first `segments`; gives the numbers of those whose files are kept.
    fn drop_first(&self, segments: usize) -> Vec<u32> {
        let line = self.log.chain().numbers()[segments].1;
        assert_eq!(trim(&self.log, line).unwrap().segments as usize, segments);
        self.log.chain().spare_numbers()
    }

    fn reuses(&self) -> u64 {
        self.folder.count(Operation::ReuseSegment, ".seg")
    }

    fn files(&self) -> Vec<String> {
        self.folder.list(&log_dir(self.log.identity().id)).unwrap()
    }

    /// Whether every record from the first that is kept on is what was published there.
    fn reads_all(&self, end: Offset) -> bool {
        let first = self.log.first_offset();
        let published: Vec<u8> = (first.0..end.0).map(|offset| offset as u8 + 1).collect();
        !published.is_empty() && self.read(first, end) == published
    }

    /// First bytes of the records from `first` on.
    fn read(&self, first: Offset, end: Offset) -> Vec<u8> {
        let mut reader = LogReader::new(&self.log, Start::Offset(first));
        let mut cx = Context::from_waker(Waker::noop());
        let mut found = Vec::new();
        while reader.next_offset() < end {
            match reader.poll_next(1 << 20, &mut cx) {
                Poll::Pending => assert!(self.store.work_by_hand(Piece::Fetch)),
                Poll::Ready(Ok(Chunk::Frames(slice))) => {
                    let (mut bytes, mut place) = (slice.as_bytes(), slice.place());
                    while !bytes.is_empty() {
                        let (seed, at) = (place.seed, place.position);
                        let frame = walk_stored(bytes, seed, at, place.nonce_half).unwrap();
                        let body = frame.body();
                        assert!(body.iter().all(|byte| *byte == body[0]));
                        found.push(body[0]);
                        let frame_bytes = frame.header().frame_bytes();
                        place.position += frame_bytes;
                        bytes = &bytes[frame_bytes as usize..];
                    }
                }
                Poll::Ready(other) => panic!("{other:?}"),
            }
        }
        found
    }
}

/// All that can be checked of a folder.
fn deep(folder: &HeapFolder) -> VerifyReport {
    check_folder(folder, Depth::Deep, &mut |_| ()).unwrap()
}

#[test]
fn l7_a_dropped_segments_file_serves_again_under_a_new_name_and_nonce() {
    let mut bench = Bench::grown();
    let nonce = bench.log.chain().finished(SegmentNumber(3)).unwrap().nonce;
    assert_eq!(bench.drop_first(3), [1, 2, 3]);
    let end = bench.publish_to_segment(7);
    // The fifth was made ready before.
    assert_eq!(bench.reuses(), 3);
    assert!(
        bench
            .files()
            .iter()
            .all(|name| name.as_str() > "00000003.seg")
    );
    let reused = bench
        .log
        .chain()
        .live_behind(Some(SegmentNumber(6)))
        .unwrap();
    assert_ne!(reused.nonce(), nonce);
    assert!(bench.reads_all(end));
    // And so after a stop, and nobody finds anything wrong.
    bench.store.close().unwrap();
    let report = deep(&bench.folder);
    assert!(report.problems.is_empty(), "{report:?}");
    let bench = Bench::over(bench.folder);
    assert!(bench.reads_all(end));
}

#[test]
fn l7_no_file_serves_again_while_anybody_can_reach_its_bytes() {
    let mut bench = Bench::grown();
    // A slice of the first; a map of the second that is under way; of the third one that is gone.
    let mut reader = LogReader::new(&bench.log, Start::Earliest);
    let mut cx = Context::from_waker(Waker::noop());
    let slice = loop {
        match reader.poll_next(1, &mut cx) {
            Poll::Ready(chunk) => break chunk.unwrap(),
            Poll::Pending => assert!(bench.store.work_by_hand(Piece::Fetch)),
        }
    };
    drop(reader);
    let Chunk::Frames(slice) = slice else {
        panic!("the first record is there");
    };
    let log = Arc::clone(&bench.log);
    let mapping = log.chain().map(SegmentNumber(2)).unwrap();
    drop(cold::open_earlier(&log, SegmentNumber(3)).unwrap());
    assert_eq!(bench.drop_first(3), [3]);
    drop(mapping);
    let bytes = slice.as_bytes().to_vec();
    bench.publish_to_segment(7);
    assert_eq!(bench.reuses(), 1);
    assert_eq!(slice.as_bytes(), bytes);
}

/// What a former use left is not taken for anything that this run wrote: nothing is set aside.
#[test]
fn l7_after_a_kill_nothing_of_a_former_use_comes_back_or_is_told() {
    let mut bench = Bench::grown();
    bench.drop_first(3);
    bench.publish_to_segment(6);
    let end = bench.publish(200);
    let left = bench.folder.duplicate();
    let verified = deep(&left);
    assert!(verified.problems.is_empty(), "{verified:?}");
    let again = Bench::over(left);
    let report = &again.store.recoveries()[0];
    assert_eq!((report.end_offset, report.cut_bytes), (end, 0), "{report}");
    assert!(!report.possibly_acknowledged && report.damaged.is_empty());
    assert!(again.reads_all(end));
}

/// What this run wrote behind a claim that was open is set aside, to its last byte and no further.
#[test]
fn l7_what_is_cut_off_a_file_that_served_before_ends_with_this_use() {
    let mut bench = Bench::grown();
    bench.drop_first(3);
    let end = bench.publish_to_segment(6);
    let segment = bench.log.chain().live_behind(Some(SegmentNumber(5)));
    let segment = segment.unwrap();
    let TryClaim::Claim(claim) = segment.try_claim(128, 1, 1) else {
        panic!("there is room");
    };
    let fields = PublisherFields::single(100);
    let behind = bench
        .appender
        .try_append_with(&fields, |room| room.put(&[9; 100]));
    assert_eq!(behind.unwrap().end.0, end.0 + 2);
    let left = bench.folder.duplicate();
    drop(claim);
    let again = Bench::over(left.clone());
    let report = &again.store.recoveries()[0];
    // The claim's room and the frame behind it: 64 and 100 bytes, and 4 of padding.
    assert_eq!(
        (report.end_offset, report.cut_bytes),
        (end, 128 + 168),
        "{report}"
    );
    again.store.close().unwrap();
    let verified = deep(&left);
    assert!(verified.problems.is_empty(), "{verified:?}");
}

#[test]
fn files_that_nobody_needs_go_after_a_while_and_with_the_store() {
    let bench = Bench::grown();
    assert_eq!(bench.drop_first(2), [1, 2]);
    // Seen once, and there still when they are looked for again.
    for left in [4, 2] {
        for _ in 0..20 {
            bench.store.work_by_hand(Piece::Later);
            bench.work();
            if bench.files().len() == left {
                break;
            }
        }
        assert_eq!(bench.files().len(), left);
    }
    assert_eq!(bench.drop_first(1), [3]);
    bench.store.close().unwrap();
    assert_eq!(bench.files(), ["00000004.seg"]);
}

/// On its way to its next use a file has the name of the one and says that it is the other.
#[test]
fn a_file_that_a_kill_left_between_two_uses_goes_at_the_next_start() {
    let mut bench = Bench::grown();
    while !bench.files().contains(&"00000005.seg".to_owned()) {
        bench.publish(LARGE);
    }
    let of = |number| file(&bench.log, SegmentNumber(number));
    let first = bench.folder.read_file(&of(1)).unwrap();
    let next = bench.folder.read_file(&of(5)).unwrap();
    bench.drop_first(3);
    bench.store.close().unwrap();
    bench.folder.create_file(&of(9), &first).unwrap();
    bench.folder.create_file(&of(2), &next).unwrap();
    // One that is neither, and one that was copied from what is there.
    bench.folder.create_file(&of(8), &next).unwrap();
    let last = bench.folder.read_file(&of(4)).unwrap();
    bench.folder.create_file(&of(1), &last).unwrap();
    let again = Bench::over(bench.folder);
    assert_eq!(
        again.files(),
        ["00000001.seg", "00000004.seg", "00000008.seg"]
    );
}

#[test]
fn whatever_fails_when_a_file_is_to_serve_again_a_new_one_is_made() {
    for failure in [Failure::Device, Failure::Full, Failure::Descriptors] {
        let mut bench = Bench::grown();
        bench.drop_first(3);
        bench
            .folder
            .fail(Operation::ReuseSegment, ".seg", 1, failure);
        let end = bench.publish_to_segment(8);
        assert!(bench.reads_all(end));
        assert!(!bench.files().contains(&"00000003.seg".to_owned()));
    }
}

#[test]
fn a_name_that_is_taken_is_passed_over() {
    let mut bench = Bench::grown();
    bench.drop_first(3);
    let taken = file(&bench.log, SegmentNumber(6));
    bench
        .folder
        .create_file(&taken, b"somebody's notes")
        .unwrap();
    let end = bench.publish_to_segment(7);
    assert_eq!(bench.folder.read_file(&taken).unwrap(), b"somebody's notes");
    assert!(bench.reads_all(end));
    assert_eq!(bench.reuses(), 3, "one of which found the name taken");
    assert!(!bench.files().contains(&"00000003.seg".to_owned()));
}

#[test]
fn repair_keeps_that_a_file_served_before() {
    let mut bench = Bench::grown();
    bench.drop_first(3);
    bench.publish_to_segment(6);
    bench.publish(200);
    let name = file(&bench.log, SegmentNumber(6));
    let left = bench.folder.duplicate();
    Bench::over(left.clone()).store.close().unwrap();
    assert!(deep(&left).problems.is_empty());
    let slots = SLOT_POSITIONS.map(|at| at as usize + 20);
    // Both slots; the identity page, which tells it.
    for rotten in [&slots[..], &[20]] {
        let left = left.duplicate();
        for at in rotten {
            left.edit(&name, |bytes| bytes[*at] ^= 1).unwrap();
        }
        let plan = crate::repair::plan(&left).unwrap();
        assert_eq!((plan.actions.len(), plan.remains.len()), (1, 0), "{plan:?}");
        crate::repair::apply(Arc::new(left.clone()), &plan).unwrap();
        let after = deep(&left);
        assert!(after.problems.is_empty(), "{:?}", after.problems);
    }
}

#[test]
fn a_dump_of_a_file_that_served_before_ends_with_this_use() {
    let mut bench = Bench::grown();
    bench.drop_first(3);
    bench.publish_to_segment(6);
    bench.publish(200);
    let name = file(&bench.log, SegmentNumber(6));
    let dump = crate::dump::SegmentDump::open(&bench.folder, &name).unwrap();
    let frames: Vec<_> = dump.collect();
    assert!(frames.len() >= 2);
    let bad = frames.iter().find(|frame| frame.problem.is_some());
    assert!(bad.is_none(), "{bad:?}");
}

#[test]
fn what_a_kill_left_goes_behind_a_quarantined_segment_too() {
    let mut bench = Bench::grown();
    let active = bench.log.chain().live_behind(Some(SegmentNumber(3)));
    let active = active.unwrap();
    let TryClaim::Claim(claim) = active.try_claim(128, 1, 1) else {
        panic!("there is room");
    };
    // Past the hole, into the next segment.
    let fields = PublisherFields::single(LARGE as u32);
    let fifth = SegmentNumber(5);
    let holds_any = |log: &Log| {
        let segment = log.chain().live_behind(Some(SegmentNumber(4)));
        segment.is_some_and(|segment| segment.claimed_bytes() > 0)
    };
    while !holds_any(&bench.log) {
        let body = [7; LARGE];
        let appended = bench
            .appender
            .try_append_with(&fields, |room| room.put(&body));
        if let Err(error) = appended {
            assert!(matches!(error, AppendError::Rotating), "{error}");
            bench.work();
        }
    }
    let left = bench.folder.duplicate();
    drop(claim);
    let mut again = Bench::over(left);
    let state = state(&again.folder);
    let log = state.logs.values().next().unwrap();
    assert!(log.segments[&fifth].quarantined);
    again.publish_to_segment(10);
    // Those of the run before, which are cut or read by others, and those of this one.
    trim(&again.log, again.log.committed()).unwrap();
    assert!(!again.log.chain().spare_numbers().is_empty());
    let killed = again.folder.duplicate();
    Bench::over(killed.clone()).store.close().unwrap();
    let report = deep(&killed);
    assert!(report.unnamed.is_empty(), "{:?}", report.unnamed);
}

/// Where the disk has no room for a segment of another length, what is kept gives it.
#[test]
fn a_full_disk_takes_back_what_is_kept() {
    let mut bench = Bench::grown();
    assert_eq!(bench.drop_first(3), [1, 2, 3]);
    let full = Operation::CreateSegment;
    bench.folder.fail(full, ".seg", 1, Failure::Full);
    // It needs a longer segment than those were.
    let end = bench.publish(240_000);
    assert_eq!(bench.folder.failures_met().len(), 1);
    assert!(bench.log.chain().spare_numbers().is_empty());
    assert!(
        bench
            .files()
            .iter()
            .all(|name| name.as_str() > "00000003.seg")
    );
    assert!(bench.reads_all(end));
}
