//! `verify` and the dump of a segment, on folders as a broker leaves them and on damaged copies.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at what it did not expect"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use millstream_protocol::batch::BatchBuilder;
use millstream_protocol::frame::{FrameError, FrameKind, ProducerStamp, PublisherFields, body_crc};
use millstream_protocol::{Durability, Offset, TopicName};
use millstream_storage::{
    AppendError, Appended, Appender, DiskFolder, Fault, Level, Log, Manifest, Store, StoreOptions,
    VerifyError, VerifyReport, dump_segment, park_until, trim, verify,
};

const FRAMES_START: usize = 12_288;
const PAGE: usize = 4096;

fn options() -> StoreOptions {
    StoreOptions {
        sync_workers: 1,
        segment_bytes_first: 1 << 20,
        segment_bytes_max: 1 << 20,
    }
}

fn topic(store: &Store, name: &str) -> Arc<Log> {
    store
        .create_log(&TopicName::parse(name).unwrap(), Durability::Synced)
        .unwrap()
}

/// Appends one record and waits until it is on disk.
fn publish(appender: &mut Appender, body: &[u8]) -> Appended {
    let fields = PublisherFields::single(u32::try_from(body.len()).unwrap());
    append(appender, &fields, body)
}

fn append(appender: &mut Appender, fields: &PublisherFields, body: &[u8]) -> Appended {
    let crc = body_crc(fields, body);
    let appended = loop {
        match appender.try_append(fields, crc, body) {
            Ok(appended) => break appended,
            Err(AppendError::Rotating) => park_until(|cx| appender.poll_room(cx)),
            Err(error) => panic!("{error}"),
        }
    };
    appender.announce_and_lead();
    park_until(|cx| appender.poll_reached(Level::Synced, appended.end, cx)).unwrap();
    appended
}

fn publish_all(log: &Arc<Log>, bodies: impl IntoIterator<Item = Vec<u8>>) {
    let mut appender = Appender::new(log);
    for body in bodies {
        publish(&mut appender, &body);
    }
}

/// Records of many sizes, about 150 bytes each.
fn small(count: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|n| vec![u8::try_from(n % 251).unwrap(); n * 37 % 300])
}

fn check(path: &Path) -> VerifyReport {
    verify(path, &mut |_| ()).unwrap()
}

fn segment(path: &Path, number: u32) -> PathBuf {
    path.join(format!("log-00000000/{number:08}.seg"))
}

/// A folder with one topic of `count` records, stopped cleanly.
fn clean(path: &Path, count: usize) {
    let store = Store::open(path, &options()).unwrap();
    publish_all(&topic(&store, "orders"), small(count));
    store.close().unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn flip(file: &Path, at: usize, bit: u32) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1 << bit;
    fs::write(file, bytes).unwrap();
}

/// Everything in a folder: name, time of the last change, bytes.
fn contents(path: &Path) -> Vec<(PathBuf, SystemTime, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let changed = metadata.modified().unwrap();
        if metadata.is_dir() {
            all.push((entry.path(), changed, Vec::new()));
            all.extend(contents(&entry.path()));
        } else {
            all.push((entry.path(), changed, fs::read(entry.path()).unwrap()));
        }
    }
    all.sort();
    all
}

fn faults(report: &VerifyReport) -> Vec<String> {
    report.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_clean_folder_is_sound_and_not_a_byte_of_it_changes() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), &options()).unwrap();
    // More than one segment of a megabyte.
    publish_all(&topic(&store, "orders"), (0..40).map(|n| vec![n; 60_000]));
    publish_all(&topic(&store, "audit"), small(10));
    topic(&store, "empty");
    store.close().unwrap();
    let before = contents(root.path());
    let mut told = Vec::new();
    let report = verify(root.path(), &mut |progress| told.push(progress)).unwrap();
    assert!(report.is_sound(), "{report}");
    assert_eq!(contents(root.path()), before);
    let names: Vec<_> = report.topics.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["audit", "empty", "orders"]);
    let orders = &report.topics[2];
    assert_eq!((orders.records, orders.frames), (40, 40));
    assert_eq!(
        (orders.first_offset, orders.end_offset),
        (Offset(0), Offset(40))
    );
    assert_eq!(orders.bytes, 40 * (64 + 60_000));
    assert!(orders.segments > 2, "{report}");
    assert_eq!(orders.unclean, None);
    assert_eq!(report.records(), 50);
    assert!(report.unnamed.is_empty(), "{report}");
    let last = told.last().unwrap();
    assert_eq!(last.bytes_done, last.bytes_total);
}

#[test]
fn a_folder_of_several_runs_is_sound() {
    let root = tempfile::tempdir().unwrap();
    clean(root.path(), 5);
    for _ in 0..3 {
        let store = Store::open(root.path(), &options()).unwrap();
        let log = store.logs().remove(0);
        publish_all(&log, small(5));
        store.close().unwrap();
    }
    let report = check(root.path());
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.records(), 20);
}

#[test]
fn a_folder_in_use_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), &options()).unwrap();
    let error = verify(root.path(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, VerifyError::Lock(_)), "{error}");
    assert!(!error.is_damage());
    drop(store);
}

#[test]
fn what_is_no_data_folder_is_refused_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let error = verify(&root.path().join("none"), &mut |_| ()).unwrap_err();
    assert!(matches!(error, VerifyError::Lock(_)), "{error}");
    let error = verify(root.path(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, VerifyError::Manifest(_)), "{error}");
    assert!(!error.is_damage());
    assert_eq!(contents(root.path()), []);
}

#[test]
fn a_damaged_manifest_is_damage() {
    let root = tempfile::tempdir().unwrap();
    clean(root.path(), 3);
    flip(&root.path().join("manifest"), 40, 3);
    let error = verify(root.path(), &mut |_| ()).unwrap_err();
    assert!(error.is_damage(), "{error}");
}

/// A finished file has no byte that nothing checks: identity, slots, frames, seal, the zeros between
/// them, and the footer.
#[test]
fn any_flipped_bit_of_a_sealed_segment_is_reported_with_its_place() {
    let root = tempfile::tempdir().unwrap();
    clean(root.path(), 40);
    let file = segment(root.path(), 1);
    let good = fs::read(&file).unwrap();
    let end = dump_segment(&file).unwrap().footer().unwrap().end_position;
    let stride = 29;
    for at in (0..good.len()).step_by(stride) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at / stride % 8);
        fs::write(&file, &bad).unwrap();
        let report = check(root.path());
        assert!(!report.is_sound(), "byte {at}");
        let problem = &report.problems[0];
        assert_eq!(problem.file, "log-00000000/00000001.seg", "byte {at}");
        let position = usize::try_from(problem.position.unwrap()).unwrap();
        // Frames are named by where they begin, all else by its page or better.
        let near = if (FRAMES_START..end as usize).contains(&at) {
            position <= at && at - position < 64 + 304 && problem.offsets.is_some()
        } else {
            position / PAGE == at / PAGE
        };
        assert!(near, "byte {at}: {problem}");
    }
    fs::write(&file, &good).unwrap();
    assert!(check(root.path()).is_sound());
}

#[test]
fn a_bad_body_costs_that_frame_only() {
    let root = tempfile::tempdir().unwrap();
    clean(root.path(), 40);
    let file = segment(root.path(), 1);
    let frame = dump_segment(&file).unwrap().nth(20).unwrap();
    flip(&file, frame.position as usize + 64, 0);
    let report = check(root.path());
    assert_eq!(report.problems.len(), 1, "{report}");
    assert_eq!(report.problems[0].offsets, Some((Offset(20), Offset(21))));
    assert!(matches!(report.problems[0].fault, Fault::Frame(_)));
    assert_eq!(report.records(), 39);
}

#[test]
fn behind_a_bad_header_the_walk_goes_on_where_the_footer_knows_a_frame() {
    let root = tempfile::tempdir().unwrap();
    clean(root.path(), 100);
    let file = segment(root.path(), 1);
    let frames: Vec<_> = dump_segment(&file).unwrap().collect();
    let (hit, page) = (&frames[20], frames[20].position as usize / PAGE);
    flip(&file, hit.position as usize + 20, 5);
    let next = frames
        .iter()
        .position(|frame| frame.position as usize / PAGE > page)
        .unwrap();
    let report = check(root.path());
    assert_eq!(report.problems.len(), 1, "{report}");
    let lost = (Offset(20), Offset(next as u64));
    assert_eq!(report.problems[0].offsets, Some(lost));
    let dumped: Vec<_> = dump_segment(&file).unwrap().collect();
    assert_eq!(dumped.iter().filter(|f| f.problem.is_some()).count(), 1);
    assert_eq!(
        dumped.last().unwrap().position,
        frames.last().unwrap().position
    );
}

#[test]
fn a_truncated_segment_is_reported_with_what_is_lost() {
    let root = tempfile::tempdir().unwrap();
    clean(root.path(), 40);
    let file = segment(root.path(), 1);
    let at = dump_segment(&file).unwrap().nth(30).unwrap().position;
    for len in [0, 10, 4096, FRAMES_START as u64, u64::from(at) + 10] {
        let cut = fs::OpenOptions::new().write(true).open(&file).unwrap();
        let whole = fs::read(&file).unwrap();
        cut.set_len(len).unwrap();
        let report = check(root.path());
        assert!(!report.is_sound(), "{len}");
        assert!(
            matches!(report.problems[0].fault, Fault::Length { found, .. } if found == len),
            "{report}"
        );
        let lost = report.problems.iter().find_map(|problem| problem.offsets);
        let from = if len > u64::from(at) { 30 } else { 0 };
        assert_eq!(lost, Some((Offset(from), Offset(40))), "{len}: {report}");
        fs::write(&file, whole).unwrap();
    }
}

#[test]
fn a_missing_segment_is_reported() {
    let root = tempfile::tempdir().unwrap();
    clean(root.path(), 7);
    fs::remove_file(segment(root.path(), 1)).unwrap();
    let report = check(root.path());
    assert_eq!(report.problems.len(), 1, "{report}");
    assert!(matches!(report.problems[0].fault, Fault::Missing));
    assert_eq!(report.problems[0].offsets, Some((Offset(0), Offset(7))));
}

#[test]
fn another_segments_file_is_told_by_its_identity() {
    let root = tempfile::tempdir().unwrap();
    clean(root.path(), 7);
    let store = Store::open(root.path(), &options()).unwrap();
    publish_all(&store.logs().remove(0), small(7));
    store.close().unwrap();
    let number = (2..5).find(|n| segment(root.path(), *n).exists()).unwrap();
    fs::copy(segment(root.path(), 1), segment(root.path(), number)).unwrap();
    let report = check(root.path());
    let other = report
        .problems
        .iter()
        .any(|problem| matches!(problem.fault, Fault::OtherSegment { field: "nonce" }));
    assert!(other, "{report}");
    assert_eq!(report.records(), 7, "none of its frames passes");
}

#[test]
fn a_file_the_manifest_does_not_name_is_no_damage() {
    let root = tempfile::tempdir().unwrap();
    clean(root.path(), 3);
    fs::write(root.path().join("notes.txt"), "mine").unwrap();
    fs::write(segment(root.path(), 77), "what is this").unwrap();
    fs::create_dir(root.path().join("log-00000099")).unwrap();
    let report = check(root.path());
    assert!(report.is_sound(), "{report}");
    assert_eq!(
        report.unnamed,
        ["log-00000000/00000077.seg", "log-00000099", "notes.txt"]
    );
}

/// A kill, as far as the folder can tell: a copy made while the store is open.
fn killed(count: usize) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&root.path().join("live"), &options()).unwrap();
    publish_all(&topic(&store, "orders"), small(count));
    copy(&root.path().join("live"), &root.path().join("copy"));
    store.close().unwrap();
    root
}

#[test]
fn a_folder_that_was_killed_is_recoverable_and_so_is_what_recovery_makes_of_it() {
    let root = killed(50);
    let path = root.path().join("copy");
    let report = check(&path);
    assert!(report.is_sound(), "{report}");
    let unclean = report.topics[0].unclean.unwrap();
    assert_eq!((unclean.kept_records, unclean.cut_bytes), (50, 0));
    assert_eq!(report.topics[0].end_offset, Offset(50));

    let store = Store::open(&path, &options()).unwrap();
    let [recovery] = store.recoveries() else {
        panic!("one topic was recovered");
    };
    assert_eq!(recovery.kept_records, unclean.kept_records);
    assert_eq!(recovery.next_offset, report.topics[0].next_offset);
    publish_all(&store.logs().remove(0), small(5));
    store.close().unwrap();
    let report = check(&path);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.records(), 55);
    assert_eq!(report.topics[0].unclean, None);
}

#[test]
fn a_torn_tail_is_no_damage() {
    let root = killed(50);
    let path = root.path().join("copy");
    let file = segment(&path, 1);
    let end: usize = {
        let last = dump_segment(&file).unwrap().last().unwrap();
        (last.position + last.commit.frame_bytes) as usize
    };
    let mut bytes = fs::read(&file).unwrap();
    bytes[end..end + 700].fill(0xA5);
    fs::write(&file, bytes).unwrap();
    let report = check(&path);
    assert!(report.is_sound(), "{report}");
    let unclean = report.topics[0].unclean.unwrap();
    assert_eq!((unclean.kept_records, unclean.cut_bytes), (50, 700));
    let store = Store::open(&path, &options()).unwrap();
    assert_eq!(store.recoveries()[0].cut_bytes, 700);
    store.close().unwrap();
    assert!(check(&path).is_sound());
}

#[test]
fn damage_below_what_was_proven_fails_before_and_after_recovery() {
    let root = killed(50);
    let path = root.path().join("copy");
    let file = segment(&path, 1);
    let hit = dump_segment(&file).unwrap().nth(10).unwrap();
    flip(&file, hit.position as usize + 70, 1);
    let report = check(&path);
    let [problem] = report.problems.as_slice() else {
        panic!("{report}");
    };
    assert!(matches!(problem.fault, Fault::BelowProven), "{report}");
    assert_eq!(problem.position, Some(u64::from(hit.position)));
    assert_eq!(problem.offsets.unwrap().0, Offset(10));
    let store = Store::open(&path, &options()).unwrap();
    assert_eq!(store.recoveries()[0].damaged.len(), 1);
    store.close().unwrap();
    let report = check(&path);
    assert!(
        matches!(report.problems[0].fault, Fault::RecordedGap),
        "{report}"
    );
    assert_eq!(report.problems.len(), 1, "{:?}", faults(&report));
}

#[test]
fn a_hole_in_what_the_last_sync_was_to_cover_fails() {
    let root = tempfile::tempdir().unwrap();
    let (live, path) = (root.path().join("live"), root.path().join("copy"));
    let store = Store::open(&live, &options()).unwrap();
    publish_all(&topic(&store, "orders"), small(50));
    // At the latest here the idle log's last sync is proven, and the cut is below it.
    copy(&live, &path);
    store.close().unwrap();
    let file = segment(&path, 1);
    let last = dump_segment(&file).unwrap().last().unwrap();
    flip(&file, last.position as usize + 33, 7);
    let report = check(&path);
    let [problem] = report.problems.as_slice() else {
        panic!("{report}");
    };
    assert!(
        matches!(
            problem.fault,
            Fault::PossiblyAcknowledged | Fault::BelowProven
        ),
        "{report}"
    );
    let store = Store::open(&path, &options()).unwrap();
    store.close().unwrap();
    assert!(!check(&path).is_sound(), "the cut stays reported");
}

#[test]
fn a_dump_gives_identity_slots_frames_and_footer() {
    let root = tempfile::tempdir().unwrap();
    clean(root.path(), 12);
    let dump = dump_segment(&segment(root.path(), 1)).unwrap();
    assert_eq!(dump.identity().segment.0, 1);
    assert_eq!(dump.identity().len_bytes, 1 << 20);
    let footer = dump.footer().unwrap().clone();
    assert_eq!((footer.frames, footer.end_offset), (12, Offset(12)));
    assert_eq!(dump.len_bytes(), footer.position + 2 * 4096);
    let proven = dump.slots().iter().flatten().map(|slot| slot.proven);
    assert!(proven.clone().any(|mark| mark.sealed));
    let frames: Vec<_> = dump.collect();
    assert_eq!(frames.len(), 13);
    assert!(frames.iter().all(|frame| frame.problem.is_none()));
    assert_eq!(frames[0].position as usize, FRAMES_START);
    let seal = frames.last().unwrap();
    assert_eq!(seal.header.unwrap().fields.kind, FrameKind::Seal);
    assert_eq!(seal.position, footer.end_position);
    assert!(dump_segment(&root.path().join("manifest")).is_err());
    assert!(dump_segment(&root.path().join("none")).is_err());
}

#[test]
fn void_frames_are_counted_and_their_records_are_not() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), &options()).unwrap();
    let mut appender = Appender::new(&topic(&store, "orders"));
    publish(&mut appender, b"one");
    let fields = PublisherFields::single(5);
    let short = appender.try_append_with(&fields, |body| body.put(b"two"));
    assert!(matches!(short, Err(AppendError::ShortFill { .. })));
    publish(&mut appender, b"three");
    drop(appender);
    store.close().unwrap();
    let report = check(root.path());
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.topics[0].frames, report.records()), (3, 2));
    assert_eq!(report.topics[0].end_offset, Offset(3));
}

#[test]
fn a_batch_whose_columns_disagree_is_reported_though_its_checksum_is_right() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), &options()).unwrap();
    let mut appender = Appender::new(&topic(&store, "orders"));
    let mut batch = BatchBuilder::new();
    for body in small(20) {
        batch.push_body(&body).unwrap();
    }
    let mut frame = Vec::new();
    batch.encode_frame(ProducerStamp::NONE, &mut frame);
    let body = &frame[64..];
    append(&mut appender, &batch.fields(), body);
    // What a server would have refused: a record more than there are.
    let fields = PublisherFields {
        record_count: 21,
        ..batch.fields()
    };
    append(&mut appender, &fields, body);
    drop(appender);
    store.close().unwrap();
    let report = check(root.path());
    let [problem] = report.problems.as_slice() else {
        panic!("{report}");
    };
    assert!(matches!(problem.fault, Fault::Frame(FrameError::Batch(_))));
    assert_eq!(problem.offsets, Some((Offset(20), Offset(41))));
    assert_eq!(report.records(), 20);
}

/// Publishes nothing, but makes the first segment ready, and is killed.
fn killed_before_the_first_record(path: &Path) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), &options()).unwrap();
    let mut appender = Appender::new(&topic(&store, "orders"));
    let fields = PublisherFields::single(0);
    let first = appender.try_append(&fields, body_crc(&fields, &[]), &[]);
    assert_eq!(first, Err(AppendError::Rotating));
    park_until(|cx| appender.poll_room(cx));
    copy(root.path(), path);
    store.close().unwrap();
}

#[test]
fn a_jump_without_a_cut_survives_the_next_kill() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    killed_before_the_first_record(&first);
    let report = check(&first);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.topics[0].unclean.unwrap().unused_segments, 1);

    let store = Store::open(&first, &options()).unwrap();
    let jumped_to = store.recoveries()[0].next_offset;
    assert!(jumped_to > Offset(0));
    publish_all(&store.logs().remove(0), small(5));
    copy(&first, &second);
    store.close().unwrap();

    let report = check(&second);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.topics[0].first_offset, jumped_to);
    let store = Store::open(&second, &options()).unwrap();
    let recovery = &store.recoveries()[0];
    assert_eq!(
        (recovery.kept_records, recovery.cut_bytes),
        (5, 0),
        "{recovery}"
    );
    assert!(recovery.damaged.is_empty(), "{recovery}");
    store.close().unwrap();
    let report = check(&second);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.records(), 5);
}

#[test]
fn a_kill_between_footer_and_manifest_loses_nothing() {
    for count in [1, 60] {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), &options()).unwrap();
        publish_all(&topic(&store, "orders"), small(count));
        let manifest = fs::read(root.path().join("manifest")).unwrap();
        store.close().unwrap();
        // The footer is on disk and the file was shrunk to it; the manifest did not hear of it.
        fs::write(root.path().join("manifest"), manifest).unwrap();
        let report = check(root.path());
        assert!(report.is_sound(), "{report}");
        let unclean = report.topics[0].unclean.unwrap();
        assert_eq!(unclean.kept_records, count as u64);
        let store = Store::open(root.path(), &options()).unwrap();
        let recovery = store.recoveries().first().expect("the topic is recovered");
        assert_eq!(recovery.kept_records, count as u64);
        store.close().unwrap();
        let report = check(root.path());
        assert!(report.is_sound(), "{report}");
        assert_eq!(report.records(), count as u64);
    }
}

#[test]
fn a_file_left_by_a_killed_preparation_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), &options()).unwrap();
    let log = topic(&store, "orders");
    for number in 1..3 {
        fs::write(segment(root.path(), number), vec![0; 1 << 20]).unwrap();
    }
    publish_all(&log, small(3));
    store.close().unwrap();
    let report = check(root.path());
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.records(), 3);
    assert_eq!(
        report.unnamed,
        ["log-00000000/00000001.seg", "log-00000000/00000002.seg"]
    );
}

#[test]
fn what_lies_behind_a_segment_that_was_lost_whole_is_kept_aside() {
    let root = tempfile::tempdir().unwrap();
    let (live, path) = (root.path().join("live"), root.path().join("copy"));
    let store = Store::open(&live, &options()).unwrap();
    let log = topic(&store, "orders");
    let named = || {
        let folder = DiskFolder::open(&live).unwrap();
        let (state, _) = Manifest::inspect(&folder).unwrap();
        state
            .logs
            .values()
            .map(|log| log.segments.len())
            .sum::<usize>()
    };
    let mut appender = Appender::new(&log);
    for _ in 0..6 {
        publish(&mut appender, &[1; 60_000]);
    }
    while named() < 2 {
        publish(&mut appender, b"until the next segment is ready");
    }
    let early = fs::read(live.join("manifest")).unwrap();
    while log.size().0 < 2 {
        publish(&mut appender, &[2; 60_000]);
    }
    publish(&mut appender, &[3; 60_000]);
    copy(&live, &path);
    store.close().unwrap();
    fs::write(path.join("manifest"), early).unwrap();
    // As if no page of the first segment had reached the disk, while pages of the second did.
    let mut lost = fs::read(segment(&path, 1)).unwrap();
    lost[PAGE..].fill(0);
    fs::write(segment(&path, 1), lost).unwrap();
    let report = check(&path);
    assert!(report.is_sound(), "{report}");
    let cut_bytes = report.topics[0].unclean.unwrap().cut_bytes;
    assert!(cut_bytes >= 60_000, "{report}");
    let store = Store::open(&path, &options()).unwrap();
    assert_eq!(store.recoveries()[0].cut_bytes, cut_bytes);
    store.close().unwrap();
    assert!(segment(&path, 2).exists(), "it is not thrown away");
    let report = check(&path);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.topics[0].quarantined, 1);
}

#[test]
fn an_unfinished_first_frame_is_set_aside_and_the_log_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("killed");
    killed_before_the_first_record(&path);
    let file = segment(&path, 1);
    let mut bytes = fs::read(&file).unwrap();
    // The body is there, the commit word is not.
    bytes[FRAMES_START + 64..FRAMES_START + 900].fill(7);
    fs::write(&file, bytes).unwrap();
    let report = check(&path);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.topics[0].unclean.unwrap().cut_bytes, 900);
    let store = Store::open(&path, &options()).unwrap();
    assert_eq!(store.recoveries()[0].cut_bytes, 900);
    publish_all(&store.logs().remove(0), small(3));
    store.close().unwrap();
    let report = check(&path);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.records(), 3);
}

#[test]
fn a_folder_that_was_trimmed_and_checkpointed_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &options()).unwrap();
    let log = topic(&store, "orders");
    publish_all(&log, (0..12).map(|_| vec![3; 300_000]));
    store.close().unwrap();
    let store = Store::open(dir.path(), &options()).unwrap();
    let log = store.log(&TopicName::parse("orders").unwrap()).unwrap();
    assert!(trim(&log, Offset(8)).unwrap().segments > 0);
    for number in 1..=3 {
        assert_eq!(store.checkpoints().write(b"state").unwrap(), number);
    }
    store.close().unwrap();
    fs::write(dir.path().join("checkpoint-3"), b"not its name").unwrap();
    let report = check(dir.path());
    assert_eq!(report.unnamed, ["checkpoint-3"], "{report}");
    fs::remove_file(dir.path().join("checkpoint-3")).unwrap();
    assert!(check(dir.path()).is_sound(), "{report}");
}
