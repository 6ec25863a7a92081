//! What lies where in a data folder, told from its manifest and the frames themselves.

use std::collections::BTreeMap;

use millstream_protocol::batch::{Checked, RecordRun};
use millstream_protocol::checksum::{crc32c, crc32c_append};
use millstream_protocol::frame::{FrameHeader, FrameKind, FrameSeed, check_stored};
use millstream_storage::manifest::{LogState, SegmentEnd, SegmentNumber};
use millstream_storage::{Folder, FrameSlice, HeapFolder, LogId, Manifest};

pub(crate) const PAGE: usize = 4096;
pub(crate) const FRAMES_START: usize = 3 * PAGE;
pub(crate) const HEADER: usize = 64;
pub(crate) const SLOT_BYTES: usize = 60;
pub(crate) const MANIFEST: &str = "manifest";

/// A frame in a segment.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) position: usize,
    pub(crate) bytes: usize,
    pub(crate) header: FrameHeader,
}

impl Frame {
    pub(crate) const fn end(&self) -> usize {
        self.position + self.bytes
    }

    pub(crate) fn offsets(&self) -> std::ops::Range<u64> {
        self.header.base_offset.0..self.header.next_offset().0
    }
}

/// A segment as it was before anything was done to it.
#[derive(Debug, Clone)]
pub(crate) struct SegmentFile {
    pub(crate) name: String,
    pub(crate) log: LogId,
    pub(crate) seed: FrameSeed,
    /// What the manifest says of its end.
    pub(crate) end: Option<SegmentEnd>,
    pub(crate) bytes: Vec<u8>,
    /// All but the seal.
    pub(crate) frames: Vec<Frame>,
    /// What its newer slot proves, and what the sync behind it was to prove.
    pub(crate) proven: usize,
    pub(crate) attempted: usize,
}

impl SegmentFile {
    /// Behind the last frame.
    pub(crate) fn frames_end(&self) -> usize {
        self.frames.last().map_or(FRAMES_START, Frame::end)
    }
}

/// A folder nobody writes to, and all that is known of it.
pub(crate) struct Snapshot {
    pub(crate) folder: HeapFolder,
    /// Every file but the lock.
    pub(crate) names: Vec<String>,
    pub(crate) segments: Vec<SegmentFile>,
    pub(crate) logs: BTreeMap<LogId, LogState>,
}

impl Snapshot {
    pub(crate) fn empty() -> Self {
        Self {
            folder: HeapFolder::new(),
            names: Vec::new(),
            segments: Vec::new(),
            logs: BTreeMap::new(),
        }
    }

    /// Looks at what `folder` holds now, as a kill would leave it.
    pub(crate) fn of(folder: &HeapFolder) -> Self {
        let folder = folder.duplicate();
        let (state, _) = Manifest::inspect(&folder).expect("the manifest is whole");
        let mut segments = Vec::new();
        for (id, log) in &state.logs {
            for (number, segment) in &log.segments {
                let name = segment_name(*id, *number);
                let Ok(bytes) = folder.read_file(&name) else {
                    continue;
                };
                let mut seed = crc32c(&state.folder_id);
                seed = crc32c_append(seed, &log.incarnation);
                seed = crc32c_append(seed, &number.0.to_le_bytes());
                let seed = FrameSeed(crc32c_append(seed, &segment.nonce.to_le_bytes()));
                let (proven, attempted) = watermarks(&bytes, segment.nonce);
                segments.push(SegmentFile {
                    name,
                    log: *id,
                    seed,
                    end: segment.end,
                    frames: frames(&bytes, seed, segment.nonce as u32),
                    proven,
                    attempted,
                    bytes,
                });
            }
        }
        let names = files(&folder);
        Self {
            folder,
            names,
            segments,
            logs: state.logs,
        }
    }

    pub(crate) fn log(&self, name: &str) -> LogId {
        let found = self.logs.iter().find(|(_, log)| log.name == name);
        *found.expect("the log is there").0
    }

    /// The segments of one log, in order.
    pub(crate) fn of_log(&self, log: LogId) -> impl Iterator<Item = &SegmentFile> {
        self.segments.iter().filter(move |file| file.log == log)
    }
}

/// Offset and body of the records in a piece of a log, each frame checked.
pub(crate) fn records_of(slice: &FrameSlice) -> Result<Vec<(u64, Vec<u8>)>, String> {
    let bytes = bytes::Bytes::copy_from_slice(slice.as_bytes());
    let run = RecordRun::new(bytes, slice.place(), Checked::No, slice.first_offset());
    let records = run.map(|record| {
        let record = record.map_err(|error| error.to_string())?;
        Ok((record.offset().0, record.as_bytes().to_vec()))
    });
    records.collect()
}

fn segment_name(log: LogId, segment: SegmentNumber) -> String {
    format!("log-{:08}/{:08}.seg", log.0, segment.0)
}

/// All files, by name.
fn files(folder: &HeapFolder) -> Vec<String> {
    let mut names = Vec::new();
    for name in folder.list("").expect("the folder can be listed") {
        match folder.list(&name) {
            Ok(inside) => names.extend(inside.iter().map(|file| format!("{name}/{file}"))),
            Err(_) => names.push(name),
        }
    }
    names
}

fn frames(bytes: &[u8], seed: FrameSeed, nonce_half: u32) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut position = FRAMES_START;
    while let Some(rest) = bytes.get(position..) {
        let Some((word, _)) = rest.split_first_chunk::<4>() else {
            break;
        };
        let frame_bytes = u32::from_le_bytes(*word) as usize;
        let Some(frame) = rest.get(..frame_bytes) else {
            break;
        };
        let Ok(stored) = check_stored(frame, seed, position as u32, nonce_half) else {
            break;
        };
        let header = *stored.header();
        if header.fields.kind == FrameKind::Seal {
            break;
        }
        frames.push(Frame {
            position,
            bytes: frame_bytes,
            header,
        });
        position += frame_bytes;
    }
    frames
}

/// The proven and the attempted position of the newer slot, read as STORAGE.md draws it.
fn watermarks(bytes: &[u8], nonce: u64) -> (usize, usize) {
    let slots = [PAGE, 2 * PAGE].map(|at| {
        let slot = bytes.get(at..at + SLOT_BYTES)?;
        let long = |at: usize| -> u64 {
            let field = slot[at..].first_chunk().expect("inside the slot");
            u64::from_le_bytes(*field)
        };
        let whole = slot.starts_with(b"MSLT")
            && crc32c(&slot[..SLOT_BYTES - 4]).to_le_bytes() == slot[SLOT_BYTES - 4..]
            && long(8) == nonce;
        let positions = (long(40) as u32 as usize, (long(40) >> 32) as usize);
        whole.then(|| (long(16), positions))
    });
    slots
        .into_iter()
        .flatten()
        .max()
        .map_or((FRAMES_START, FRAMES_START), |(_, positions)| positions)
}
