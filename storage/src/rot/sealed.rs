//! One bit flipped in a folder that was closed cleanly.

use std::collections::BTreeMap;

use super::*;
use crate::crash::Piece;
use crate::layout::PAGE_BYTES;
use crate::manifest::{MANIFEST_FILE, ManifestError};
use crate::store::OpenError;

const PAGE: usize = PAGE_BYTES as usize;

/// A folder at rest, and what is in it.
pub(super) struct Sealed {
    pub(super) folder: HeapFolder,
    pub(super) published: BTreeMap<&'static str, Records>,
    /// By file.
    pub(super) frames: BTreeMap<String, Vec<Frame>>,
}

fn publish_and_note(store: &Store, name: &str, bodies: &[Vec<u8>], records: &mut Records) {
    let log = log_of(store, name);
    let mut appender = Appender::new(&log);
    for (number, piece) in bodies.chunks(3).enumerate() {
        // Two singles and a batch, in turns.
        let first = if number % 2 == 0 {
            let appended: Vec<_> = piece
                .iter()
                .map(|body| publish(store, &mut appender, body))
                .collect();
            appended[0].base
        } else {
            publish_batch(store, &mut appender, piece).base
        };
        for (offset, body) in (first.0..).zip(piece) {
            records.insert(offset, body.clone());
        }
        sync(store);
    }
}

/// Bodies of many lengths, one of them longer than a page.
fn bodies(count: usize, salt: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| {
            let len = if n == count / 2 { 9000 } else { n * 53 % 400 };
            (0..len).map(|at| (at * 7 + n * 31 + salt) as u8).collect()
        })
        .collect()
}

/// Two runs of two topics, so that each has two sealed segments.
pub(super) fn make() -> Sealed {
    let folder = HeapFolder::new();
    let mut published: BTreeMap<&'static str, Records> = BTreeMap::new();
    for run in 0..2 {
        let store = open(&folder);
        for (name, count) in [("orders", 45), ("audit", 9)] {
            let records = published.entry(name).or_default();
            publish_and_note(&store, name, &bodies(count, run), records);
        }
        while store.work_by_hand(Piece::Prepare) {}
        store.close().unwrap();
    }
    let files = contents(&folder).into_keys();
    let frames = files
        .filter(|file| file.ends_with(".seg"))
        .map(|file| (file.clone(), frames_of(&folder, &file)))
        .collect();
    Sealed {
        folder,
        published,
        frames,
    }
}

impl Sealed {
    /// The records that a flip of byte `at` of `file` may cost: those of the frame it lies in, and of
    /// the frames behind that one which start in the same page.
    fn allowed(&self, file: &str, at: usize) -> Option<(u64, u64)> {
        let frames = self.frames.get(file)?;
        let hit = frames
            .iter()
            .find(|frame| (frame.start..frame.end).contains(&at))?;
        let last = frames
            .iter()
            .rfind(|frame| frame.start / PAGE == hit.start / PAGE)?;
        Some((hit.first, last.next))
    }

    /// Opens and reads what is left after a flip.
    fn check_reading(&self, file: &str, bit: usize, counts: &mut Counts) {
        let left = flipped(&self.folder, file, bit);
        let what = format_args!("{file}, byte {}, bit {}", bit / 8, bit % 8).to_string();
        let store = open(&left);
        let allowed = self.allowed(file, bit / 8);
        let mut lost = Vec::new();
        for (name, published) in &self.published {
            let read = read_all(&store.log(&topic(name)).unwrap());
            read.check(published, &what);
            counts.delivered += read.records.len();
            lost.extend(read.lost(published));
        }
        counts.lost += lost.len();
        match allowed {
            None => assert!(lost.is_empty(), "{what}: records {lost:?} are lost"),
            Some((first, next)) => {
                assert!(lost.contains(&first), "{what}: a damaged frame came");
                assert!(
                    lost.iter().all(|offset| (first..next).contains(offset)),
                    "{what}: records {lost:?} are lost, and not only {first} to {next}"
                );
            }
        }
        self.check_naming(file, bit / 8, &left, &what);
    }

    /// Asks `verify` for the place, which is the page of the flip, or the frame it lies in.
    fn check_naming(&self, file: &str, at: usize, left: &HeapFolder, what: &str) {
        let report = verify(left).unwrap();
        assert!(!report.is_sound(), "{what}: verify sees nothing");
        let near = report.problems.iter().any(|problem| {
            let position = problem.position.map_or(usize::MAX, |at| at as usize);
            let frame = self.frames[file]
                .iter()
                .any(|frame| frame.start == position && (frame.start..frame.end).contains(&at));
            problem.file == file && (frame || position / PAGE == at / PAGE)
        });
        assert!(near, "{what}: verify says {report}");
    }

    /// A manifest with a flipped bit is refused, and nothing is changed.
    fn check_refusal(&self, bit: usize) {
        let left = flipped(&self.folder, MANIFEST_FILE, bit);
        let before = contents(&left);
        let opened = Store::open_by_hand(Arc::new(left.clone()), &options());
        let Err(OpenError::Manifest(error)) = opened else {
            panic!("bit {bit} of the manifest passes");
        };
        let at = (bit / 8) as u64;
        match &error {
            ManifestError::Corrupt { position, .. } | ManifestError::Invalid { position, .. } => {
                assert!(*position <= at, "bit {bit}: {error}");
                assert!(error.to_string().contains(&format!("byte {position}")));
            }
            // The magic, and the version of the format.
            ManifestError::Foreign | ManifestError::NewerFormat { .. } => assert!(at < 12),
            _ => panic!("bit {bit} of the manifest: {error}"),
        }
        assert_eq!(contents(&left), before, "bit {bit} of the manifest");
        assert!(verify(&left).is_err());
    }
}

#[test]
fn any_flipped_bit_of_a_sealed_folder_costs_its_page_and_is_named() {
    let sealed = make();
    assert!(sealed.frames.len() >= 4, "two topics of two segments");
    let mut counts = Counts::default();
    for (file, bytes) in contents(&sealed.folder) {
        for bit in (0..bytes.len() * 8).step_by(stride()) {
            counts.flipped += 1;
            if file == MANIFEST_FILE {
                counts.refused += 1;
                sealed.check_refusal(bit);
            } else {
                sealed.check_reading(&file, bit, &mut counts);
            }
        }
    }
    assert!(counts.flipped > 1000 && counts.lost > 0 && counts.refused > 0);
    counts.print("sealed folder");
}

/// Offset and time in a header that rotted would lead whoever looks a place up far away: readers from
/// any offset and any time get all but what the page cost.
#[test]
fn a_rotten_header_misleads_nobody() {
    let sealed = make();
    let published = &sealed.published["orders"];
    for (file, frames) in sealed.frames.iter().take(2) {
        let mut page = 0;
        let mut firsts = frames.iter().filter(|frame| {
            let first = frame.start / PAGE != page;
            page = frame.start / PAGE;
            first
        });
        let hit = firsts.nth(1).unwrap();
        let (first, next) = sealed.allowed(file, hit.start).unwrap();
        // The base offset and the append time.
        for bit in (hit.start + 16) * 8..(hit.start + 32) * 8 {
            let left = flipped(&sealed.folder, file, bit);
            let store = open(&left);
            let log = store.log(&topic("orders")).unwrap();
            for from in frames.iter().step_by(3) {
                for start in [Start::Offset(Offset(from.first)), Start::Time(from.time_us)] {
                    let read = read_from(&log, start);
                    let wanted = published.range(from.first..);
                    let missing: Vec<u64> = wanted
                        .map(|(offset, _)| *offset)
                        .filter(|offset| !(first..next).contains(offset))
                        .filter(|offset| !read.records.contains_key(offset))
                        .collect();
                    assert!(
                        missing.is_empty(),
                        "bit {bit}, {start:?}: {missing:?} are missing"
                    );
                }
            }
        }
    }
}

/// A flipped bit in the index costs nothing as long as the frames are good, and a flipped bit in a
/// frame as well costs what the index no longer says; nothing else ever comes out of it.
#[test]
fn several_flipped_bits_never_make_a_record() {
    let sealed = make();
    let files: Vec<(String, usize)> = contents(&sealed.folder)
        .into_iter()
        .filter(|(file, _)| file != MANIFEST_FILE)
        .map(|(file, bytes)| (file, bytes.len() * 8))
        .collect();
    let mut numbers = 0x0005_EED0_F0A1_u64;
    let mut below = |end: usize| {
        numbers = numbers
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (numbers >> 33) as usize % end
    };
    for round in 0..200 {
        let left = sealed.folder.duplicate();
        for _ in 0..1 + round % 40 {
            let (file, bits) = &files[below(files.len())];
            let bit = below(*bits);
            left.edit(file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8))
                .unwrap();
        }
        let store = open(&left);
        for (name, published) in &sealed.published {
            let read = read_all(&store.log(&topic(name)).unwrap());
            read.check(published, &round);
        }
    }
}
