//! The manifest against crashes, failing disks, rot and time, through its public face.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at what it did not expect"
)]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use millstream_protocol::Durability;
use millstream_storage::manifest::{
    EndKind, Entry, MANIFEST_FILE, MANIFEST_NEW_FILE, ManifestReport, State,
};
use millstream_storage::{
    DiskFolder, Failure, Folder, HeapFolder, LogId, Manifest, ManifestError, Operation,
    SegmentNumber,
};
use proptest::prelude::*;

const ID: [u8; 16] = *b"a folder's name.";
const LOG: LogId = LogId(1);

fn boot(epoch: u32) -> Entry {
    Entry::Boot {
        epoch,
        boot_id: [epoch as u8; 16],
    }
}

fn created(log: u32, name: &str) -> Entry {
    Entry::LogCreated {
        log: LogId(log),
        incarnation: [log as u8; 16],
        durability: Durability::Stored,
        name: name.to_owned(),
    }
}

fn prepared(segment: u32) -> Entry {
    Entry::SegmentPrepared {
        log: LOG,
        segment: SegmentNumber(segment),
        nonce: 0x0123_4567_89ab_cdef ^ u64::from(segment),
        len_bytes: 1 << 20,
        offset_ceiling: (u64::from(segment) + 1) << 18,
    }
}

fn sealed(segment: u32) -> Entry {
    Entry::Sealed {
        log: LOG,
        segment: SegmentNumber(segment),
        base_offset: u64::from(segment) * 1000,
        end_offset: u64::from(segment + 1) * 1000,
        end_position: 900_000,
        footer_bytes: 4096,
    }
}

fn cut(segment: u32, quarantined: &[u32]) -> Entry {
    Entry::Cut {
        log: LOG,
        segment: SegmentNumber(segment),
        base_offset: u64::from(segment) * 1000,
        end_offset: u64::from(segment) * 1000 + 70,
        end_position: 20_000,
        quarantined: quarantined.iter().copied().map(SegmentNumber).collect(),
        next_base_offset: 1 << 30,
        possibly_acknowledged: true,
        cut_bytes: 4711,
    }
}

fn damaged(segment: u32) -> Entry {
    Entry::Damaged {
        log: LOG,
        segment: SegmentNumber(segment),
        first_offset: 100,
        next_offset: 110,
        first_position: 16_384,
        next_position: 20_480,
    }
}

/// Commits as a broker makes them, one entry of each kind among them and several in one commit.
fn life() -> Vec<Vec<Entry>> {
    vec![
        vec![boot(1)],
        vec![created(1, "orders"), created(2, "größen")],
        vec![Entry::Opened { log: LOG }, prepared(1)],
        vec![prepared(2)],
        vec![sealed(1)],
        vec![prepared(3)],
        vec![boot(2)],
        vec![cut(2, &[3]), prepared(4)],
        vec![damaged(1)],
        vec![Entry::SegmentDropped {
            log: LOG,
            segment: SegmentNumber(3),
        }],
        vec![Entry::LogDeleted { log: LogId(2) }, created(7, "größen")],
        vec![Entry::Closed {
            log: LOG,
            next_offset: 1 << 30,
        }],
    ]
}

fn heap() -> (HeapFolder, Arc<dyn Folder>) {
    let folder = HeapFolder::new();
    (folder.clone(), Arc::new(folder))
}

fn inspect(folder: &HeapFolder) -> (State, ManifestReport) {
    Manifest::inspect(folder).unwrap()
}

/// A folder with bytes as its manifest.
fn holding(bytes: &[u8]) -> HeapFolder {
    let folder = HeapFolder::new();
    folder.create_file(MANIFEST_FILE, bytes).unwrap();
    folder
}

/// The bytes of a manifest never reopened since it was made, and after each commit its length and
/// what it said.
fn written(commits: &[Vec<Entry>]) -> (Vec<u8>, Vec<(usize, State)>) {
    let (folder, shared) = heap();
    let mut manifest = Manifest::create(shared, ID).unwrap();
    let here = |manifest: &Manifest| {
        let len_bytes = folder.read_file(MANIFEST_FILE).unwrap().len();
        (len_bytes, manifest.state().clone())
    };
    let mut steps = vec![here(&manifest)];
    for commit in commits {
        manifest.commit(commit).unwrap();
        steps.push(here(&manifest));
    }
    (folder.read_file(MANIFEST_FILE).unwrap(), steps)
}

#[test]
fn what_was_committed_is_there_on_reopen() {
    let root = tempfile::tempdir().unwrap();
    let folders: [Arc<dyn Folder>; 2] = [
        Arc::new(DiskFolder::open(root.path()).unwrap()),
        Arc::new(HeapFolder::new()),
    ];
    for folder in folders {
        let mut manifest = Manifest::create(Arc::clone(&folder), ID).unwrap();
        for (number, commit) in life().iter().enumerate() {
            manifest.commit(commit).unwrap();
            let expected = manifest.state().clone();
            let (seen, report) = Manifest::inspect(&*folder).unwrap();
            assert_eq!(seen, expected);
            assert_eq!((report.records, report.torn_bytes), (number as u64 + 2, 0));
        }
        let expected = manifest.state().clone();
        drop(manifest);
        for generation in 0..3 {
            let (manifest, state) = Manifest::open(Arc::clone(&folder)).unwrap();
            assert_eq!(state, expected);
            assert_eq!(manifest.state(), &expected);
            assert_eq!(manifest.report().generation, generation);
        }
        assert_eq!(folder.list("").unwrap(), [MANIFEST_FILE]);
    }
}

#[test]
fn the_state_says_what_the_entries_did() {
    let (_, steps) = written(&life());
    let (_, state) = steps.last().unwrap();
    assert_eq!(
        (state.folder_id, state.boot_epoch, state.boot_id),
        (ID, 2, [2; 16])
    );
    assert_eq!(state.next_log, LogId(8));
    let (log, orders) = state.log_named("orders").unwrap();
    assert_eq!(
        (log, orders.durability, orders.open),
        (LOG, Durability::Stored, false)
    );
    assert_eq!(
        (orders.next_offset, orders.next_segment),
        (Some(1 << 30), SegmentNumber(5))
    );
    let end = orders.segments.get(&SegmentNumber(2)).unwrap().end.unwrap();
    assert_eq!((end.end_offset, end.kind), (2070, EndKind::Cut));
    assert!(orders.cuts.first().unwrap().possibly_acknowledged);
    assert_eq!(orders.damage.first().unwrap().next_offset, 110);
    assert_eq!(state.log_named("größen").unwrap().0, LogId(7));
}

#[test]
fn a_folder_that_is_not_new_gets_no_new_manifest() {
    let (folder, shared) = heap();
    folder.create_file("lock", b"").unwrap();
    folder
        .create_file(MANIFEST_NEW_FILE, b"begun once")
        .unwrap();
    folder.make_dir("lost+found").unwrap();
    assert!(matches!(
        Manifest::open(Arc::clone(&shared)),
        Err(ManifestError::Missing)
    ));
    Manifest::create(Arc::clone(&shared), ID).unwrap();
    assert!(matches!(
        Manifest::create(Arc::clone(&shared), ID),
        Err(ManifestError::Exists)
    ));
    folder.make_dir("log-00000001").unwrap();
    folder.remove(MANIFEST_FILE).unwrap();
    match Manifest::create(shared, ID) {
        Err(ManifestError::NotEmpty { found }) => assert_eq!(found, "log-00000001"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn foreign_and_newer_files_are_left_alone() {
    let (bytes, _) = written(&life());
    let mut newer = bytes[..28].to_vec();
    newer[8] = 9;
    newer.extend_from_slice(&millstream_protocol::checksum::crc32c(&newer).to_le_bytes());
    newer.extend_from_slice(b"whatever version 9 has here");
    let cases: [(&[u8], &str); 5] = [
        (
            b"not ours, but long enough to be",
            "was not written by Millstream",
        ),
        (b"x", "was not written by Millstream"),
        (b"", "damaged at byte 0"),
        (&bytes[..20], "damaged at byte 20"),
        (&newer, "has format 9, and this program knows up to 1"),
    ];
    for (content, sentence) in cases {
        let folder = holding(content);
        let changes = folder.changes();
        let shared: Arc<dyn Folder> = Arc::new(folder.clone());
        let error = Manifest::open(shared).unwrap_err();
        assert!(error.to_string().contains(sentence), "{error}");
        assert_eq!(folder.changes(), changes);
        assert_eq!(folder.read_file(MANIFEST_FILE).unwrap(), content);
    }
}

/// A folder format of a later day: the file is version 1, and what follows its first line may be
/// anything.
#[test]
fn a_newer_folder_format_is_left_alone() {
    let folder = holding(include_bytes!("golden/manifest-newer-folder.bin"));
    match Manifest::inspect(&folder) {
        Err(ManifestError::NewerFormat { found: 2, known: 1 }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn refused_entries_leave_no_trace() {
    let (folder, shared) = heap();
    let mut manifest = Manifest::create(shared, ID).unwrap();
    manifest.commit(&[boot(1), created(1, "a")]).unwrap();
    let before = (
        manifest.state().clone(),
        folder.read_file(MANIFEST_FILE).unwrap(),
    );
    let changes = folder.changes();
    let error = manifest
        .commit(&[created(2, "b"), prepared(1), created(3, "b")])
        .unwrap_err();
    assert!(matches!(error, ManifestError::Refused { .. }), "{error:?}");
    manifest.commit(&[]).unwrap();
    assert_eq!(folder.changes(), changes);
    assert_eq!(
        (
            manifest.state().clone(),
            folder.read_file(MANIFEST_FILE).unwrap()
        ),
        before
    );
    manifest.commit(&[created(2, "b")]).unwrap();
}

#[test]
fn a_commit_has_a_largest_size() {
    let (_, shared) = heap();
    let mut manifest = Manifest::create(Arc::clone(&shared), ID).unwrap();
    manifest.commit(&[created(1, "a")]).unwrap();
    let before = manifest.state().clone();
    let many: Vec<Entry> = (1..40_000).map(prepared).collect();
    let error = manifest.commit(&many).unwrap_err();
    assert!(matches!(error, ManifestError::TooLarge { .. }), "{error:?}");
    assert_eq!(manifest.state(), &before);
    // A line longer than a record of a checkpoint begins goes into one as well.
    let many: Vec<u32> = (2..60_000).collect();
    for piece in many.chunks(20_000) {
        let piece: Vec<Entry> = piece.iter().copied().map(prepared_small).collect();
        manifest.commit(&piece).unwrap();
    }
    manifest.commit(&[cut(2, &many[1..])]).unwrap();
    assert_eq!(&Manifest::open(shared).unwrap().1, manifest.state());
}

fn prepared_small(segment: u32) -> Entry {
    let mut entry = prepared(segment);
    if let Entry::SegmentPrepared { nonce, .. } = &mut entry {
        *nonce = 1;
    }
    entry
}

/// Entries that lead back to the same state.
fn back_and_forth() -> Vec<Entry> {
    let there = Entry::Opened { log: LOG };
    let back = Entry::Closed {
        log: LOG,
        next_offset: 0,
    };
    [there, back].into_iter().cycle().take(200).collect()
}

#[test]
fn the_file_is_bounded_by_the_state() {
    let (folder, shared) = heap();
    let mut manifest = Manifest::create(Arc::clone(&shared), ID).unwrap();
    manifest.commit(&[created(1, "a")]).unwrap();
    let mut longest = 0;
    for _ in 0..1000 {
        manifest.commit(&back_and_forth()).unwrap();
        longest = longest.max(folder.len(MANIFEST_FILE).unwrap());
    }
    assert!(longest < (1 << 20) + 8192, "{longest}");
    assert_eq!(folder.count(Operation::Rename, MANIFEST_FILE), 4);
    assert_eq!(&Manifest::open(shared).unwrap().1, manifest.state());
}

#[test]
fn a_file_that_cannot_be_replaced_when_long_goes_on() {
    let (folder, shared) = heap();
    let mut manifest = Manifest::create(Arc::clone(&shared), ID).unwrap();
    manifest.commit(&[created(1, "a")]).unwrap();
    for _ in 0..1000 {
        folder.fail(Operation::CreateFile, MANIFEST_NEW_FILE, 1, Failure::Full);
        manifest.commit(&back_and_forth()).unwrap();
        folder.heal();
    }
    assert_eq!(folder.count(Operation::Rename, MANIFEST_FILE), 1);
    assert_eq!(
        folder.count(Operation::CreateFile, MANIFEST_NEW_FILE),
        3,
        "less often each time"
    );
    assert_eq!(&Manifest::inspect(&*shared).unwrap().0, manifest.state());
}

mod damage {
    use super::*;

    /// A file cut anywhere gives the commits before the cut, or is refused inside its checkpoint.
    #[test]
    fn a_file_cut_anywhere_gives_the_commits_before_the_cut() {
        let (bytes, steps) = written(&life());
        let (checkpoint_bytes, _) = steps[0];
        for len_bytes in 0..bytes.len() {
            let folder = holding(&bytes[..len_bytes]);
            if len_bytes < checkpoint_bytes {
                let error = Manifest::inspect(&folder).unwrap_err();
                assert!(
                    matches!(error, ManifestError::Corrupt { .. }),
                    "{len_bytes}: {error:?}"
                );
                continue;
            }
            let (whole, expected) = steps.iter().rfind(|(end, _)| *end <= len_bytes).unwrap();
            let (state, report) = inspect(&folder);
            assert_eq!(&state, expected, "{len_bytes}");
            assert_eq!(report.torn_bytes as usize, len_bytes - whole);
            let (manifest, state) = Manifest::open(Arc::new(folder.clone())).unwrap();
            assert_eq!(&state, expected);
            assert_eq!(manifest.report(), report);
            assert_eq!(
                inspect(&folder).1.torn_bytes,
                0,
                "the torn end is left behind"
            );
        }
    }

    /// No flipped bit is taken for a tear, also in the last record.
    #[test]
    fn every_flipped_bit_is_refused() {
        let (bytes, _) = written(&life());
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            match Manifest::inspect(&holding(&rotten)) {
                Err(ManifestError::Foreign) => assert!(bit < 64, "{bit}"),
                Err(ManifestError::Corrupt { position, .. }) => {
                    assert!(position as usize <= bit / 8, "{bit}: {position}");
                }
                other => panic!("{bit}: {other:?}"),
            }
        }
    }

    /// What a sector-atomic disk may keep of the last commit, whichever sectors it loses, gives the
    /// commits before it or all of them; a sector lost of an earlier one is refused.
    #[test]
    fn lost_sectors_are_a_tear_in_the_last_commit_only() {
        for names in 1..14 {
            let mut commits = life();
            let big = |log| created(log, &format!("{log}-{}", "n".repeat(240)));
            commits.push((10..10 + names).map(big).collect());
            let (bytes, steps) = written(&commits);
            let [.., (last_start, before), (_, after)] = steps.as_slice() else {
                panic!()
            };
            let sectors: Vec<usize> = (last_start / 512..bytes.len().div_ceil(512)).collect();
            for lost in 1..1_u32 << sectors.len() {
                let mut torn = bytes.clone();
                for (number, sector) in sectors.iter().enumerate() {
                    if lost & 1 << number != 0 {
                        let start = (sector * 512).max(*last_start);
                        let end = (sector * 512 + 512).min(bytes.len());
                        torn[start..end].fill(0);
                    }
                }
                let (state, report) = inspect(&holding(&torn));
                assert_eq!(&state, before, "{names} {lost:b}");
                assert_eq!(report.torn_bytes as usize, bytes.len() - last_start);
            }
            assert_eq!(&inspect(&holding(&bytes)).0, after);
            for sector in 0..last_start / 512 {
                let mut rotten = bytes.clone();
                rotten[sector * 512..sector * 512 + 512].fill(0);
                Manifest::inspect(&holding(&rotten)).unwrap_err();
            }
        }
    }

    #[test]
    fn a_record_taken_out_is_refused() {
        let (bytes, steps) = written(&life());
        for pair in steps.windows(2).rev().skip(1) {
            let [(start, _), (end, _)] = pair else {
                panic!()
            };
            let mut without = bytes.clone();
            without.drain(start..end);
            match Manifest::inspect(&holding(&without)) {
                Err(ManifestError::Corrupt { position, .. }) => assert_eq!(position, *start as u64),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The end of an older file behind the checkpoint of a newer one is not taken for entries.
    #[test]
    fn records_of_another_generation_do_not_fit() {
        let (folder, shared) = heap();
        let mut manifest = Manifest::create(Arc::clone(&shared), ID).unwrap();
        let first = folder.len(MANIFEST_FILE).unwrap() as usize;
        manifest.commit(&[boot(1)]).unwrap();
        let old = folder.read_file(MANIFEST_FILE).unwrap();
        let (other, shared) = heap();
        Manifest::create(Arc::clone(&shared), ID).unwrap();
        Manifest::open(shared).unwrap();
        let mut mixed = other.read_file(MANIFEST_FILE).unwrap();
        assert_eq!(mixed.len(), first);
        mixed.extend_from_slice(&old[first..]);
        let error = Manifest::inspect(&holding(&mixed)).unwrap_err();
        assert!(matches!(error, ManifestError::Corrupt { .. }), "{error:?}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(
            header in any::<bool>(),
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let (whole, _) = written(&life());
            let mut content = if header { whole[..32].to_vec() } else { Vec::new() };
            content.extend_from_slice(&bytes);
            prop_assert!(Manifest::inspect(&holding(&content)).is_err());
        }

        #[test]
        fn arbitrary_changes_are_refused_or_leave_a_prefix(
            at in any::<prop::sample::Index>(),
            patch in prop::collection::vec(any::<u8>(), 1..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let (bytes, steps) = written(&life());
            let mut changed = bytes.clone();
            let at = at.index(bytes.len());
            for (place, byte) in changed.iter_mut().skip(at).zip(patch) {
                *place = byte;
            }
            changed.truncate(at + cut.index(bytes.len() - at + 1));
            if let Ok((state, _)) = Manifest::inspect(&holding(&changed)) {
                prop_assert!(steps.iter().any(|(_, step)| *step == state));
            }
        }
    }
}

mod faults {
    use super::*;

    /// What the disk may say after a run: the last state known to be committed and, where an outcome
    /// was unknown, the one with it.
    struct Allowed {
        committed: Option<State>,
        unknown: Option<State>,
    }

    impl Allowed {
        fn check(&self, folder: &HeapFolder, case: &str) {
            match Manifest::inspect(folder) {
                Ok((state, _)) => assert!(
                    self.committed.as_ref() == Some(&state)
                        || self.unknown.as_ref() == Some(&state),
                    "{case}: {state:?}"
                ),
                Err(ManifestError::Missing) => assert!(self.committed.is_none(), "{case}"),
                Err(error) => panic!("{case}: {error}"),
            }
        }
    }

    /// Makes a manifest, commits, reopens in the middle and replaces; goes on after errors as a
    /// broker would, which stops only at poison. Gives what the disk may say.
    fn run(folder: &HeapFolder, check: impl Fn(&Allowed)) -> Allowed {
        let shared: Arc<dyn Folder> = Arc::new(folder.clone());
        let mut allowed = Allowed {
            committed: None,
            unknown: written(&[]).1.pop().map(|(_, fresh)| fresh),
        };
        let first = Manifest::create(Arc::clone(&shared), ID).or_else(|_| {
            // The first start failed; the next finds a manifest, or none.
            match Manifest::open(Arc::clone(&shared)) {
                Ok((manifest, _)) => Ok(manifest),
                Err(_) => Manifest::create(Arc::clone(&shared), ID),
            }
        });
        let Ok(mut manifest) = first else {
            return allowed;
        };
        for (number, commit) in life().into_iter().enumerate() {
            allowed = Allowed {
                committed: Some(manifest.state().clone()),
                unknown: None,
            };
            if number == 5 {
                drop(manifest);
                let opened = Manifest::open(Arc::clone(&shared))
                    .or_else(|_| Manifest::open(Arc::clone(&shared)));
                let Ok((opened, state)) = opened else {
                    return allowed;
                };
                assert_eq!(Some(&state), allowed.committed.as_ref());
                manifest = opened;
            }
            if number == 8 {
                let _ = manifest.replace();
            }
            if manifest.poison().is_some() && manifest.replace().is_err() {
                return allowed;
            }
            check(&allowed);
            while let Err(error) = manifest.commit(&commit) {
                assert_eq!(Some(manifest.state()), allowed.committed.as_ref());
                if error.is_unknown() {
                    allowed.unknown = Some(with(manifest.state(), &commit));
                    return allowed;
                }
                assert!(matches!(error, ManifestError::Io { .. }), "{error:?}");
                check(&allowed);
            }
            allowed = Allowed {
                committed: Some(manifest.state().clone()),
                unknown: None,
            };
            check(&allowed);
        }
        allowed
    }

    /// The state with one more commit.
    fn with(state: &State, commit: &[Entry]) -> State {
        let (bytes, steps) = written(&life());
        let at = steps.iter().position(|(_, step)| step == state).unwrap();
        assert_eq!(life()[at], commit);
        assert!(bytes.len() >= steps[at].0);
        steps[at + 1].1.clone()
    }

    fn check_all(folder: &HeapFolder, allowed: &Allowed, case: &str) {
        allowed.check(&folder.duplicate(), &format!("{case}, after a kill"));
        allowed.check(
            &folder.after_power_loss(),
            &format!("{case}, after power loss"),
        );
    }

    #[test]
    fn whatever_fails_what_was_committed_is_there() {
        let counted = HeapFolder::new();
        run(&counted, |_| {});
        let changes = counted.changes();
        assert!(changes > 30, "{changes}");
        for failure in [Failure::Device, Failure::Full] {
            for nth in 1..=changes {
                let folder = HeapFolder::new();
                folder.fail_nth_change(nth, failure);
                let case = format!("{failure:?} at change {nth}");
                let allowed = run(&folder, |allowed| check_all(&folder, allowed, &case));
                check_all(&folder, &allowed, &case);
            }
        }
    }

    #[test]
    fn whatever_fails_twice_what_was_committed_is_there() {
        let counted = HeapFolder::new();
        run(&counted, |_| {});
        let changes = counted.changes();
        for nth in 1..=changes {
            for second in nth + 1..nth + 9 {
                let folder = HeapFolder::new();
                folder.fail_nth_change(nth, Failure::Device);
                folder.fail_nth_change(second, Failure::Device);
                let case = format!("changes {nth} and {second}");
                let allowed = run(&folder, |allowed| check_all(&folder, allowed, &case));
                check_all(&folder, &allowed, &case);
            }
        }
    }

    /// The planted defects: a suite that passes without syncs proves nothing.
    fn run_without(operation: Operation) {
        let folder = HeapFolder::new();
        folder.skip(operation);
        let allowed = run(&folder, |allowed| {
            check_all(&folder, allowed, "without syncs")
        });
        check_all(&folder, &allowed, "without syncs");
    }

    #[test]
    #[should_panic(expected = "after power loss")]
    fn commits_without_a_sync_are_noticed() {
        run_without(Operation::Sync);
    }

    #[test]
    #[should_panic(expected = "after power loss")]
    fn names_without_a_sync_are_noticed() {
        run_without(Operation::SyncDir);
    }

    #[test]
    #[should_panic(expected = "after power loss")]
    fn checkpoints_without_a_sync_are_noticed() {
        run_without(Operation::CreateFile);
    }

    #[test]
    fn a_failed_sync_is_never_repeated_but_the_file_replaced() {
        let (folder, shared) = heap();
        let mut manifest = Manifest::create(Arc::clone(&shared), ID).unwrap();
        folder.fail(Operation::Sync, MANIFEST_FILE, 1, Failure::Device);
        let syncs = folder.count(Operation::Sync, "");
        manifest.commit(&[boot(1)]).unwrap();
        assert_eq!(folder.count(Operation::Sync, ""), syncs + 1);
        assert_eq!(folder.count(Operation::Rename, MANIFEST_FILE), 2);
        assert_eq!(&inspect(&folder.after_power_loss()).0, manifest.state());
        manifest.commit(&[created(1, "a")]).unwrap();
        assert_eq!(&inspect(&folder.after_power_loss()).0, manifest.state());
    }

    #[test]
    fn a_manifest_that_cannot_be_replaced_is_poisoned_and_says_why() {
        let (folder, shared) = heap();
        let mut manifest = Manifest::create(Arc::clone(&shared), ID).unwrap();
        let before = manifest.state().clone();
        folder.fail(Operation::Append, "", 1, Failure::Device);
        folder.fail(Operation::CreateFile, "", 1, Failure::Full);
        let error = manifest.commit(&[boot(1)]).unwrap_err();
        assert!(error.is_unknown(), "{error:?}");
        assert!(
            error.to_string().contains("cannot append to manifest:"),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains("then, replacing the file, cannot create"),
            "{error}"
        );
        let changes = folder.changes();
        let error = manifest.commit(&[boot(1)]).unwrap_err();
        assert!(matches!(error, ManifestError::Poisoned { .. }), "{error:?}");
        assert_eq!(folder.changes(), changes);
        assert_eq!(manifest.state(), &before);
        manifest.replace().unwrap();
        assert_eq!(manifest.poison(), None);
        manifest.commit(&[boot(1)]).unwrap();
        assert_eq!(&inspect(&folder.after_power_loss()).0, manifest.state());
    }

    #[test]
    fn a_full_disk_refuses_a_commit_and_poisons_nothing() {
        let (folder, shared) = heap();
        let mut manifest = Manifest::create(Arc::clone(&shared), ID).unwrap();
        folder.set_full(true);
        let error = manifest.commit(&[boot(1)]).unwrap_err();
        assert_eq!(error.io_kind(), ErrorKind::StorageFull);
        assert_eq!(std::io::Error::from(error).kind(), ErrorKind::StorageFull);
        let error = Manifest::open(Arc::clone(&shared)).unwrap_err();
        assert_eq!(error.io_kind(), ErrorKind::StorageFull);
        folder.set_full(false);
        manifest.commit(&[boot(1)]).unwrap();
        assert_eq!(&Manifest::open(shared).unwrap().1, manifest.state());
    }

    #[test]
    fn a_checkpoint_that_never_got_its_name_is_removed() {
        let (folder, shared) = heap();
        let mut manifest = Manifest::create(Arc::clone(&shared), ID).unwrap();
        manifest.commit(&[boot(1)]).unwrap();
        folder
            .create_file(MANIFEST_NEW_FILE, b"half a check")
            .unwrap();
        assert_eq!(&Manifest::open(shared).unwrap().1, manifest.state());
        assert_eq!(folder.list("").unwrap(), [MANIFEST_FILE]);
    }
}

mod golden {
    use super::*;

    const V1: &[u8] = include_bytes!("golden/manifest-v1.bin");

    /// The life once, reopened so that all of it is a checkpoint, and another piece of it behind.
    fn script() -> (Vec<u8>, State) {
        let (folder, shared) = heap();
        let mut manifest = Manifest::create(Arc::clone(&shared), ID).unwrap();
        life()
            .iter()
            .for_each(|commit| manifest.commit(commit).unwrap());
        let (mut manifest, _) = Manifest::open(shared).unwrap();
        for commit in [
            vec![boot(3)],
            vec![Entry::Opened { log: LOG }, prepared(5), prepared(6)],
            vec![cut(5, &[6]), prepared(7)],
            vec![created(9, "late"), Entry::LogDeleted { log: LogId(7) }],
            vec![Entry::SegmentDropped {
                log: LOG,
                segment: SegmentNumber(1),
            }],
        ] {
            manifest.commit(&commit).unwrap();
        }
        (
            folder.read_file(MANIFEST_FILE).unwrap(),
            manifest.state().clone(),
        )
    }

    #[test]
    fn version_1_opens_and_says_what_it_said() {
        let (state, report) = inspect(&holding(V1));
        assert_eq!(state, script().1);
        assert_eq!(
            (report.generation, report.records, report.torn_bytes),
            (1, 6, 0)
        );
        let (_, opened) = Manifest::open(Arc::new(holding(V1))).unwrap();
        assert_eq!(opened, state);
    }

    #[test]
    fn version_1_is_what_is_written_today() {
        let (bytes, _) = script();
        if bytes != V1 {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("manifest.bin");
            std::fs::write(&path, &bytes).unwrap();
            panic!(
                "the format changed; today's bytes are in {}",
                path.display()
            );
        }
    }
}
