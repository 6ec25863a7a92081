//! The file a manifest is: a header, then records, each the unit of one commit.
//!
//! ```text
//! file    [ header 32 | record | record | …                                            ]
//! header  [ magic "MLSTMANI" 8 | version u32 | checkpoint records u32 | generation u64 |
//!           0 u32 | crc u32 ]                                       crc of the 28 bytes before it
//! record  [ mark "MREC" 4 | body bytes u32 | index u64 | previous u32 | body crc u32 |
//!           0 u32 | header crc u32 | body | 1 to 8 bytes 0xFF ]     a multiple of 8 bytes
//! ```
//! `previous` is the header crc of the record before, and the file's crc in the first one; the header
//! crc covers the file's crc and the 28 bytes before it. So each record vouches for all before it,
//! and none of another generation of the file fits in.
//!
//! # A tear and rot
//!
//! A commit is one record: appended, then synced, before the next is begun, and nothing is appended
//! after a failed append or sync. So at a power loss at most the last record is unsynced, and of it
//! the disk may keep any of its 512-byte sectors, an untouched one reading as zeros, or a shorter
//! file. A damaged record is therefore *torn* if
//! - it is not part of the checkpoint, which was synced before the file got its name;
//! - no later record header stands behind it (one has its index, which is higher, in its checksum);
//! - and the file ends inside it, or a whole sector of it is zeros (no record has one: it begins with
//!   its mark and ends with `0xFF`).
//!
//! Everything else is rot, reported with its place: a flipped bit never passes for a tear, not even
//! in the last record. Behind the damage nothing is *read*; looking for later headers only decides
//! what to say.
//!
//! Not to be told from the file alone: a file cut off at the end of a record, or inside one, after
//! later ones were acknowledged, and a last record of which rot zeroed a sector. The segments whose
//! lines are lost then are found as files the manifest does not name.

use millstream_protocol::checksum::{crc32c, crc32c_append};

use super::FOLDER_FORMAT;
use super::entry::Line;
use super::error::{InvalidEntry, ManifestError};
use super::state::State;

/// First bytes of every manifest.
const MAGIC: [u8; 8] = *b"MLSTMANI";
/// The only version so far. Magic, version and the header's crc are where they are in all to come.
pub(super) const VERSION: u32 = 1;
/// First bytes of every record.
const MARK: [u8; 4] = *b"MREC";
/// What follows a body, so that no record ends in zeros.
const PAD: u8 = 0xFF;
/// Bytes before the first record.
pub(super) const FILE_HEADER_BYTES: usize = 32;
/// Bytes before the body of a record.
const RECORD_HEADER_BYTES: usize = 32;
/// Records begin at multiples of this.
const ALIGN: usize = 8;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// Most bytes of the body of one record.
const BODY_BYTES_MAX: usize = 1 << 20;
/// A checkpoint begins a new record when one has this many bytes.
const CHECKPOINT_BODY_BYTES: usize = 64 << 10;
/// Most bytes of one commit. No line of a checkpoint is longer than the entry it comes from, so one
/// that is begun below `CHECKPOINT_BODY_BYTES` ends below `BODY_BYTES_MAX`.
pub(super) const COMMIT_BYTES_MAX: usize = BODY_BYTES_MAX - CHECKPOINT_BODY_BYTES;
/// Most bytes of a manifest that is read into memory.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 30;

const _: () = assert!(
    FILE_HEADER_BYTES.is_multiple_of(ALIGN),
    "the first record is aligned"
);
const _: () =
    assert!(RECORD_HEADER_BYTES.is_multiple_of(ALIGN) && SECTOR_BYTES.is_multiple_of(ALIGN));

/// Where the next record goes, and what it must vouch for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    /// How often the file was replaced.
    pub(super) generation: u64,
    file_crc: u32,
    index: u64,
    previous: u32,
    /// Length of the file up to here.
    pub(super) position: u64,
}

impl Tail {
    /// The record that holds `body`, and the tail behind it.
    pub(super) fn record(self, body: &[u8]) -> (Vec<u8>, Self) {
        let mut record = Vec::new();
        let tail = self.append(body, &mut record);
        (record, tail)
    }

    fn append(self, body: &[u8], out: &mut Vec<u8>) -> Self {
        let start = out.len();
        let len_bytes = u32::try_from(body.len()).expect("a body has at most a mebibyte");
        out.extend_from_slice(&MARK);
        out.extend_from_slice(&len_bytes.to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.previous.to_le_bytes());
        out.extend_from_slice(&crc32c(body).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let covered = out.get(start..).unwrap_or_default();
        let header_crc = crc32c_append(crc32c(&self.file_crc.to_le_bytes()), covered);
        out.extend_from_slice(&header_crc.to_le_bytes());
        out.extend_from_slice(body);
        out.resize(start + record_bytes(body.len()), PAD);
        Self {
            index: self.index + 1,
            previous: header_crc,
            position: self.position + record_bytes(body.len()) as u64,
            ..self
        }
    }
}

/// Bytes of a record with a body of `body_bytes`: at least one of padding, to a multiple of eight.
const fn record_bytes(body_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + body_bytes + 1).next_multiple_of(ALIGN)
}

/// A whole file that says `state`, and the tail behind it.
pub(super) fn checkpoint(state: &State, generation: u64) -> (Vec<u8>, Tail) {
    let bodies = checkpoint_bodies(state);
    let records = u32::try_from(bodies.len()).expect("a state in memory fills fewer records");
    let mut file = Vec::new();
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&VERSION.to_le_bytes());
    file.extend_from_slice(&records.to_le_bytes());
    file.extend_from_slice(&generation.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    let file_crc = crc32c(&file);
    file.extend_from_slice(&file_crc.to_le_bytes());
    let position = file.len() as u64;
    let mut tail = Tail {
        generation,
        file_crc,
        index: 0,
        previous: file_crc,
        position,
    };
    for body in bodies {
        tail = tail.append(&body, &mut file);
    }
    (file, tail)
}

fn checkpoint_bodies(state: &State) -> Vec<Vec<u8>> {
    let mut bodies = vec![Vec::new()];
    for line in state.checkpoint() {
        if bodies
            .last()
            .is_some_and(|body| body.len() >= CHECKPOINT_BODY_BYTES)
        {
            bodies.push(Vec::new());
        }
        if let Some(body) = bodies.last_mut() {
            match line {
                Line::Event(entry) => entry.encode(body),
                Line::Kept(kept) => kept.encode(body),
            }
        }
    }
    bodies
}

/// What a file says.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) state: State,
    /// Behind the last whole record.
    pub(super) tail: Tail,
    /// Whole records.
    pub(super) records: u64,
    /// Bytes behind them, of a commit that was torn.
    pub(super) torn_bytes: u64,
}

/// Reads a whole file.
pub(super) fn read(bytes: &[u8]) -> Result<Contents, ManifestError> {
    let header = FileHeader::decode(bytes)?;
    let mut state = State::default();
    let mut tail = Tail {
        generation: header.generation,
        file_crc: header.crc,
        index: 0,
        previous: header.crc,
        position: FILE_HEADER_BYTES as u64,
    };
    let mut at = FILE_HEADER_BYTES;
    while at < bytes.len() {
        let kept = tail.index < u64::from(header.checkpoint_records);
        let record = match Record::decode(bytes, at, tail) {
            Ok(record) => record,
            Err(bad) if !kept && is_torn(bytes, at, tail, bad) => break,
            Err(bad) => return Err(corrupt(at, bad.problem())),
        };
        take_in(&mut state, record.body, kept).map_err(|reason| ManifestError::Invalid {
            position: at as u64,
            reason,
        })?;
        if state.format > FOLDER_FORMAT {
            let (found, known) = (state.format, FOLDER_FORMAT);
            return Err(ManifestError::NewerFormat { found, known });
        }
        at = record.end;
        tail.index += 1;
        tail.previous = record.header_crc;
        tail.position = at as u64;
    }
    if tail.index < u64::from(header.checkpoint_records) {
        return Err(corrupt(at, "the file ends inside its checkpoint"));
    }
    if state.format == 0 {
        return Err(corrupt(
            FILE_HEADER_BYTES,
            "it does not say whose folder this is",
        ));
    }
    let torn_bytes = (bytes.len() - at) as u64;
    Ok(Contents {
        state,
        tail,
        records: tail.index,
        torn_bytes,
    })
}

/// Applies the lines of one record: pieces of a checkpoint in its part of the file, entries behind.
fn take_in(state: &mut State, mut body: &[u8], kept: bool) -> Result<(), InvalidEntry> {
    let mut entries = Vec::new();
    // Lines of a newer format may mean anything.
    while !body.is_empty() && state.format <= FOLDER_FORMAT {
        match (Line::decode(&mut body)?, kept) {
            (line, true) => state.restore(line)?,
            (Line::Event(entry), false) => entries.push(entry),
            (Line::Kept(_), false) => return Err(InvalidEntry::Misplaced),
        }
    }
    state.apply_all(&entries)?;
    Ok(())
}

fn corrupt(position: usize, problem: &'static str) -> ManifestError {
    ManifestError::Corrupt {
        position: position as u64,
        problem,
    }
}

struct FileHeader {
    checkpoint_records: u32,
    generation: u64,
    crc: u32,
}

impl FileHeader {
    fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let seen = bytes.get(..MAGIC.len()).unwrap_or(bytes);
        if !MAGIC.starts_with(seen) {
            return Err(ManifestError::Foreign);
        }
        let short = || corrupt(bytes.len(), "the file ends inside its header");
        let (header, _) = bytes
            .split_first_chunk::<FILE_HEADER_BYTES>()
            .ok_or_else(short)?;
        let (covered, crc) = header.split_last_chunk::<4>().ok_or_else(short)?;
        let crc = u32::from_le_bytes(*crc);
        if crc32c(covered) != crc {
            return Err(corrupt(0, "the checksum of the file's header does not fit"));
        }
        let version = u32_at(header, 8);
        if version > VERSION {
            return Err(ManifestError::NewerFormat {
                found: version,
                known: VERSION,
            });
        }
        if version != VERSION || u32_at(header, 24) != 0 {
            return Err(corrupt(8, "the header says what no version does"));
        }
        Ok(Self {
            checkpoint_records: u32_at(header, 12),
            generation: u64_at(header, 16),
            crc,
        })
    }
}

/// A whole record of the file.
struct Record<'a> {
    body: &'a [u8],
    header_crc: u32,
    /// The position behind it.
    end: usize,
}

/// Why there is no whole record where one should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bad {
    /// The file ends before it does.
    Short,
    /// Its header is not one.
    Header,
    /// Its header is whole, its body or padding is not; it would end here.
    Body { end: usize },
    /// It is whole, but belongs elsewhere.
    Place,
}

impl Bad {
    const fn problem(self) -> &'static str {
        match self {
            Self::Short => "the file ends inside a record that was whole once",
            Self::Header => "the checksum of a record's header does not fit",
            Self::Body { .. } => "the checksum or the padding of a record does not fit",
            Self::Place => "a record does not follow from the one before it",
        }
    }
}

impl<'a> Record<'a> {
    fn decode(bytes: &'a [u8], at: usize, tail: Tail) -> Result<Self, Bad> {
        let header = record_header(bytes, at).ok_or(Bad::Short)?;
        if !is_record_header(header, tail.file_crc) {
            return Err(Bad::Header);
        }
        let body_bytes = u32_at(header, 4) as usize;
        if u64_at(header, 8) != tail.index
            || u32_at(header, 16) != tail.previous
            || body_bytes > BODY_BYTES_MAX
        {
            return Err(Bad::Place);
        }
        let end = at + record_bytes(body_bytes);
        let rest = bytes.get(at + RECORD_HEADER_BYTES..end).ok_or(Bad::Short)?;
        let (body, padding) = rest.split_at_checked(body_bytes).ok_or(Bad::Short)?;
        if crc32c(body) != u32_at(header, 20) || padding.iter().any(|byte| *byte != PAD) {
            return Err(Bad::Body { end });
        }
        Ok(Self {
            body,
            header_crc: u32_at(header, 28),
            end,
        })
    }
}

/// Whether the damaged record at `at` is one that power loss left in part. See the module.
fn is_torn(bytes: &[u8], at: usize, tail: Tail, bad: Bad) -> bool {
    let is_last = match bad {
        Bad::Place => false,
        Bad::Body { end } => end == bytes.len(),
        Bad::Short | Bad::Header => {
            bytes.len() - at <= record_bytes(BODY_BYTES_MAX) && !has_later_header(bytes, at, tail)
        }
    };
    is_last && (bad == Bad::Short || has_lost_sector(bytes, at))
}

fn has_later_header(bytes: &[u8], at: usize, tail: Tail) -> bool {
    let is_later = |position: usize| {
        record_header(bytes, position).is_some_and(|header| {
            is_record_header(header, tail.file_crc) && u64_at(header, 8) > tail.index
        })
    };
    (at + ALIGN..bytes.len()).step_by(ALIGN).any(is_later)
}

/// Whether all that one sector holds of the file from `at` on is zeros.
fn has_lost_sector(bytes: &[u8], at: usize) -> bool {
    let mut start = at;
    while start < bytes.len() {
        let end = (start + 1).next_multiple_of(SECTOR_BYTES).min(bytes.len());
        if bytes
            .get(start..end)
            .is_some_and(|sector| sector.iter().all(|byte| *byte == 0))
        {
            return true;
        }
        start = end;
    }
    false
}

fn record_header(bytes: &[u8], at: usize) -> Option<&[u8; RECORD_HEADER_BYTES]> {
    bytes.get(at..)?.first_chunk()
}

/// Whether these are the header of a record of the file with this crc, whichever it is.
fn is_record_header(header: &[u8; RECORD_HEADER_BYTES], file_crc: u32) -> bool {
    let Some((covered, crc)) = header.split_last_chunk::<4>() else {
        return false;
    };
    header.starts_with(&MARK)
        && u32_at(header, 24) == 0
        && crc32c_append(crc32c(&file_crc.to_le_bytes()), covered) == u32::from_le_bytes(*crc)
}

/// The number at `at`, which is inside.
fn u32_at(bytes: &[u8; 32], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The number at `at`, which is inside.
fn u64_at(bytes: &[u8; 32], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
