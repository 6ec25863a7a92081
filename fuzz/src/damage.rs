//! What becomes of a folder's files: rot, tears, truncation, files that go or change places.
//!
//! ```text
//! edit   what | file | place | distance i16 | argument u16
//! place  below 8: a page; 8 to 11: the end of the frames, of the footer's first page, of the file,
//!        of what is proven; all others: a frame
//! ```
//! A *forged* edit fixes the checksums that it breaks, as no accident does; of those less is claimed.

use std::collections::BTreeMap;

use millstream_protocol::checksum::{crc32c, crc32c_append};
use millstream_storage::{Folder, HeapFolder};

use crate::folder::{FRAMES_START, HEADER, PAGE, SLOT_BYTES, SegmentFile, Snapshot};
use crate::input::Input;

/// More are left out.
const EDITS_MAX: usize = 6;
const EDIT_BYTES: usize = 7;
const SECTOR: usize = 512;

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    /// Checksums were made to fit.
    pub(crate) forged: bool,
    /// The files that are not as they were, as they are now; `None`: gone.
    files: BTreeMap<String, Option<Vec<u8>>>,
}

impl Damage {
    pub(crate) fn touched(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The first byte that changed; the length where nothing did.
    pub(crate) fn first_changed(&self, file: &SegmentFile) -> usize {
        match self.files.get(&file.name) {
            None => file.bytes.len(),
            Some(None) => 0,
            Some(Some(now)) => {
                let same = now.iter().zip(&file.bytes).take_while(|(a, b)| a == b);
                same.count()
            }
        }
    }

    /// Whether these bytes are as they were.
    pub(crate) fn is_whole(&self, file: &SegmentFile, range: std::ops::Range<usize>) -> bool {
        match self.files.get(&file.name) {
            None => true,
            Some(None) => false,
            Some(Some(now)) => now.get(range.clone()) == file.bytes.get(range),
        }
    }

    /// Whether nothing but zeros is there now.
    pub(crate) fn is_blank_in(&self, file: &SegmentFile, range: std::ops::Range<usize>) -> bool {
        match self.files.get(&file.name) {
            None => false,
            Some(None) => true,
            Some(Some(now)) => now
                .get(range)
                .is_none_or(|bytes| bytes.iter().all(|byte| *byte == 0)),
        }
    }

    /// Length of the file now.
    pub(crate) fn len(&self, file: &SegmentFile) -> usize {
        match self.files.get(&file.name) {
            None => file.bytes.len(),
            Some(now) => now.as_ref().map_or(0, Vec::len),
        }
    }
}

/// Does to `folder`, a copy of the snapshot's, what `input` says to those of its files that `may`
/// be touched.
pub(crate) fn inflict(
    folder: &HeapFolder,
    snapshot: &Snapshot,
    may: impl Fn(&str) -> bool,
    input: &mut Input<'_>,
) -> Damage {
    let names: Vec<&String> = snapshot.names.iter().filter(|name| may(name)).collect();
    let mut damage = Damage::default();
    let mut touched = Vec::new();
    for _ in 0..EDITS_MAX {
        let spelt = input.bytes(EDIT_BYTES);
        if spelt.is_empty() || names.is_empty() {
            break;
        }
        let edit = Edit::read(spelt);
        let name = names[usize::from(edit.file) % names.len()];
        let segment = snapshot.segments.iter().find(|file| file.name == *name);
        if edit.what % 16 == 15 {
            // Most inputs should keep their files.
            if edit.argument.is_multiple_of(4) {
                folder.remove(name).ok();
            }
        } else if edit.what % 16 == 14 {
            let other = names[usize::from(edit.argument) % names.len()];
            if let Ok(content) = folder.read_file(other) {
                folder.edit(name, |bytes| *bytes = content).ok();
            }
        } else {
            folder
                .edit(name, |bytes| damage.forged |= edit.apply(bytes, segment))
                .ok();
        }
        touched.push(name);
    }
    for name in touched {
        let before = snapshot.folder.read_file(name).ok();
        let now = folder.read_file(name).ok();
        if now != before {
            damage.files.insert(name.clone(), now);
        }
    }
    damage
}

/// One edit as it is spelt.
struct Edit {
    what: u8,
    file: u8,
    place: u8,
    distance: i16,
    argument: u16,
}

impl Edit {
    fn read(spelt: &[u8]) -> Self {
        let mut input = Input::new(spelt);
        Self {
            what: input.byte(),
            file: input.byte(),
            place: input.byte(),
            distance: input.word() as i16,
            argument: input.word(),
        }
    }

    /// Where it strikes.
    fn position(&self, len_bytes: usize, segment: Option<&SegmentFile>) -> usize {
        let base = match (self.place, segment) {
            (page @ 0..8, _) => usize::from(page) * PAGE,
            (8, Some(file)) => file.frames_end(),
            (9, Some(file)) => (file.frames_end() + HEADER).next_multiple_of(PAGE) + PAGE,
            (10, _) => len_bytes,
            (11, Some(file)) => file.proven,
            (frame, Some(file)) => {
                let frame = file
                    .frames
                    .get(usize::from(frame) % file.frames.len().max(1));
                frame.map_or(FRAMES_START, |frame| frame.position)
            }
            (part, None) => len_bytes * usize::from(part) / 256,
        };
        base.saturating_add_signed(self.distance.into())
    }

    /// True if checksums were made to fit.
    fn apply(&self, bytes: &mut Vec<u8>, segment: Option<&SegmentFile>) -> bool {
        let at = self.position(bytes.len(), segment);
        let argument = usize::from(self.argument);
        let mut put = |from: usize, new: &[u8]| {
            for (place, byte) in bytes.iter_mut().skip(from).zip(new) {
                *place = *byte;
            }
        };
        match (self.what % 16, segment) {
            (0..4, _) => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (argument % 8);
                }
            }
            (4, _) => put(at, &self.argument.to_le_bytes()[..1]),
            (5, _) => put(at - at % SECTOR, &[0; SECTOR]),
            (6, _) => put(at, &vec![0; argument]),
            (7, _) => put(at, &vec![0; bytes_behind(at)]),
            (8, _) => bytes.truncate(at),
            (9, _) => bytes.resize(bytes.len() + argument, self.place),
            (10, Some(file)) => {
                // A frame, stale or in the wrong place.
                let from = file.frames.get(argument % file.frames.len().max(1));
                if let Some(frame) = from {
                    put(at, &file.bytes[frame.position..frame.end()]);
                }
            }
            (11, Some(file)) => return self.forge_slot(bytes, file),
            (12 | 13, Some(file)) => return self.forge_header(bytes, file),
            _ => {}
        }
        false
    }

    /// Changes one field of a slot to a place in the segment, checksum and all.
    fn forge_slot(&self, bytes: &mut [u8], file: &SegmentFile) -> bool {
        let slot = PAGE * (1 + usize::from(self.argument % 2));
        let value = self.position(bytes.len(), Some(file)) as u64;
        let Some(slot) = bytes.get_mut(slot..slot + SLOT_BYTES) else {
            return false;
        };
        let (at, width) = [(4, 4), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4)]
            [usize::from(self.argument / 2) % 6];
        slot[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        let crc = crc32c(&slot[..SLOT_BYTES - 4]);
        slot[SLOT_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        true
    }

    /// Changes a byte of a frame's header or commit word, and makes the header's checksum fit.
    fn forge_header(&self, bytes: &mut [u8], file: &SegmentFile) -> bool {
        let position = self.position(bytes.len(), Some(file)) & !7;
        let Some(header) = bytes.get_mut(position..position + HEADER) else {
            return false;
        };
        let [byte, value] = self.argument.to_le_bytes();
        header[usize::from(byte) % HEADER] = value;
        let mut crc = crc32c(&file.seed.0.to_le_bytes());
        crc = crc32c_append(crc, &(position as u32).to_le_bytes());
        crc = crc32c_append(crc, &header[12..]);
        header[8..12].copy_from_slice(&crc.to_le_bytes());
        true
    }
}

/// More than any file has behind `at`.
fn bytes_behind(at: usize) -> usize {
    (4_usize << 20).saturating_sub(at)
}
