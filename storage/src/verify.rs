//! Checking a data folder that no broker uses, without changing a byte of it.
//!
//! Every checksum is looked at, and that what the parts say of each other agrees: manifest and files,
//! frames and the offsets that follow, footer and frames. Segments that an unclean stop left without
//! an end are walked as recovery will walk them; what it would cut as a torn write is no damage, what
//! it would report as a gap or as possibly acknowledged is.
//!
//! Not looked at unless asked for ([`verify_deep`]), since nothing reads it: what lies behind the end of a cut segment, behind the seal
//! of one that recovery sealed, the slots of both, segments that a cut set aside (but for their first
//! page), and the copies in `quarantine/`.

mod deep;
mod finished;
mod report;
mod unclean;
mod walk;

use std::io::ErrorKind;
use std::path::Path;

use millstream_protocol::Offset;

use crate::checkpoints::is_checkpoint;
use crate::disk::DiskFolder;
use crate::folder::Folder;
use crate::layout::{FRAMES_START, Identity, log_dir, segment_name};
use crate::lock::{FolderLock, LOCK_FILE};
use crate::manifest::{
    LogId, LogState, MANIFEST_FILE, MANIFEST_NEW_FILE, Manifest, SegmentNumber, SegmentState, State,
};
use crate::recovery::QUARANTINE;
use crate::reserve::RESERVE_FILE;
use crate::still::Still;
pub(crate) use finished::Finished;
use finished::check_identity;
pub(crate) use report::Whereabouts;
pub use report::{
    Fault, PROBLEMS_MAX, Problem, TopicReport, Unclean, VerifyError, VerifyProgress, VerifyReport,
};
use unclean::OpenEnd;
pub(crate) use walk::Meter;
use walk::Tally;

/// What may lie in a folder besides what the manifest names.
const EXPECTED: [&str; 6] = [
    LOCK_FILE,
    MANIFEST_FILE,
    MANIFEST_NEW_FILE,
    QUARANTINE,
    RESERVE_FILE,
    "lost+found",
];

/// Checks every byte that counts in the data folder `path`, and says what was found.
///
/// Reads only: nothing is made, changed or removed. Keeps brokers out meanwhile, by a shared lock on
/// the lock file if there is one. Reads each frame once; its memory is bounded whatever the folder
/// holds, since segments are mapped one at a time and problems are counted from [`PROBLEMS_MAX`] on.
/// `progress` is called at least once a segment.
///
/// # Errors
///
/// When the folder as a whole can't be looked at; see [`VerifyError::is_damage`]. Damage in a
/// segment is no error but in the report.
///
/// # Example
///
/// ```no_run
/// use millstream_storage::verify;
///
/// let report = verify("data".as_ref(), &mut |progress| {
///     eprintln!("{} of {}", progress.bytes_done, progress.bytes_total);
/// })?;
/// println!("{report}");
/// assert!(report.is_sound());
/// # Ok::<(), millstream_storage::VerifyError>(())
/// ```
pub fn verify(
    path: &Path,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<VerifyReport, VerifyError> {
    verify_path(path, Depth::Plain, progress)
}

/// As [`verify`], and looks at what nothing reads in service as well: slots and room of segments that
/// recovery ended, what lies behind their ends and its copies in the quarantine, checkpoints, and the
/// payloads of compressed batches. Reads each frame twice.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_deep(
    path: &Path,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<VerifyReport, VerifyError> {
    verify_path(path, Depth::Deep, progress)
}

fn verify_path(
    path: &Path,
    depth: Depth,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<VerifyReport, VerifyError> {
    let _kept_out = FolderLock::observe(path).map_err(VerifyError::Lock)?;
    let folder = DiskFolder::open(path).map_err(VerifyError::Folder)?;
    check_folder(&folder, depth, progress)
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// What is read in service.
    Plain,
    /// All there is.
    Deep,
}

/// As [`verify`], over any folder, which nobody else uses.
#[cfg(all(test, not(loom)))]
pub(crate) fn verify_folder(
    folder: &dyn Folder,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<VerifyReport, VerifyError> {
    check_folder(folder, Depth::Plain, progress)
}

/// As [`verify`] or [`verify_deep`], over any folder, which nobody else uses.
pub(crate) fn check_folder(
    folder: &dyn Folder,
    depth: Depth,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<VerifyReport, VerifyError> {
    let (state, manifest) = Manifest::inspect(folder).map_err(VerifyError::Manifest)?;
    let report = VerifyReport {
        folder_id: state.folder_id,
        boot_epoch: state.boot_epoch,
        manifest,
        topics: Vec::new(),
        unnamed: unnamed(folder, &state)?,
        problems: Vec::new(),
        problems_left_out: 0,
    };
    let once: u64 = state
        .logs
        .values()
        .flat_map(|log| log.segments.values())
        .map(walked_bytes)
        .sum();
    let bytes_total = if depth == Depth::Deep { 2 * once } else { once };
    let mut check = Check {
        folder,
        state: &state,
        meter: Meter::new(progress, bytes_total),
        report,
    };
    for (id, log) in &state.logs {
        let topic = check.log(*id, log);
        check.report.topics.push(topic);
    }
    if depth == Depth::Deep {
        deep::look(&mut check);
    }
    let mut report = check.report;
    report.topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(report)
}

/// Bytes of a segment that are walked, at most.
fn walked_bytes(segment: &SegmentState) -> u64 {
    match &segment.end {
        _ if segment.quarantined => 0,
        Some(end) => u64::from(end.end_position.saturating_sub(FRAMES_START)),
        None => segment.len_bytes.saturating_sub(u64::from(FRAMES_START)),
    }
}

/// Files that the manifest does not name.
fn unnamed(folder: &dyn Folder, state: &State) -> Result<Vec<String>, VerifyError> {
    let mut unnamed = Vec::new();
    for name in folder.list("").map_err(VerifyError::Folder)? {
        let log = state.logs.iter().find(|(id, _)| log_dir(**id) == name);
        let Some((id, log)) = log else {
            if !EXPECTED.contains(&name.as_str()) && !is_checkpoint(&name) {
                unnamed.push(name);
            }
            continue;
        };
        for file in folder.list(&name).map_err(VerifyError::Folder)? {
            let path = format!("{name}/{file}");
            if !log.segments.keys().any(|n| segment_name(*id, *n) == path) {
                unnamed.push(path);
            }
        }
    }
    Ok(unnamed)
}

/// A check under way.
struct Check<'a> {
    folder: &'a dyn Folder,
    state: &'a State,
    meter: Meter<'a>,
    report: VerifyReport,
}

/// The segments of one log seen so far.
#[derive(Debug, Default)]
struct Seen {
    /// End offset of the last one that has an end.
    last: Option<Offset>,
    /// The highest offset ceiling.
    ceiling: u64,
}

impl Check<'_> {
    fn log(&mut self, id: LogId, log: &LogState) -> TopicReport {
        self.recorded_faults(id, log);
        let mut seen = Seen::default();
        let mut tally = Tally::default();
        let mut first = None;
        let mut open_end = OpenEnd::new(expected_base(log), Offset(log.offset_ceiling));
        for (number, segment) in &log.segments {
            let done = self.meter.bytes_done() + walked_bytes(segment);
            let at = Whereabouts {
                topic: &log.name,
                log: id,
                segment: *number,
            };
            if let Some(end) = segment.end {
                self.join(at, log, &seen, Offset(end.base_offset));
                first = first.or(Some(Offset(end.base_offset)));
                seen.last = Some(Offset(end.end_offset));
            }
            seen.ceiling = seen.ceiling.max(segment.offset_ceiling);
            tally.add(self.segment(at, log, segment, &mut open_end));
            self.meter.reach(done);
        }
        tally.add(open_end.tally);
        let end = match (open_end.base, seen.last) {
            (Some(_), _) => open_end.expected,
            (None, Some(end)) => end,
            (None, None) => expected_base(log),
        };
        // Of an open log it is no more than a floor.
        let closed_at = log.next_offset.filter(|_| !log.open);
        if let Some(next) = closed_at {
            let behind = Whereabouts {
                topic: &log.name,
                log: id,
                segment: log.next_segment,
            };
            self.join(behind, log, &seen, Offset(next));
        }
        let quarantined = log.segments.values().filter(|s| s.quarantined).count();
        let next_offset = match closed_at {
            Some(next) => Offset(next),
            None if log.open => end.max(Offset(log.offset_ceiling)),
            None => end,
        };
        TopicReport {
            name: log.name.clone(),
            log: id,
            durability: log.durability,
            segments: count(log.segments.len() - quarantined),
            quarantined: count(quarantined),
            frames: tally.frames,
            records: tally.records,
            bytes: tally.bytes,
            first_offset: first.or(open_end.base).unwrap_or(next_offset),
            end_offset: end,
            next_offset,
            unclean: log.open.then_some(open_end.unclean),
        }
    }

    /// What earlier recoveries found and the manifest keeps.
    fn recorded_faults(&mut self, id: LogId, log: &LogState) {
        let at = |segment| Whereabouts {
            topic: &log.name,
            log: id,
            segment,
        };
        for cut in log.cuts.iter().filter(|cut| cut.possibly_acknowledged) {
            let end = log.segments.get(&cut.segment).and_then(|s| s.end);
            let fault = Fault::CutPossiblyAcknowledged {
                cut_bytes: cut.cut_bytes,
            };
            let position = end.map(|end| end.end_position);
            self.report.push(at(cut.segment).problem(position, fault));
        }
        for gap in &log.damage {
            let offsets = (Offset(gap.first_offset), Offset(gap.next_offset));
            let fault = Fault::RecordedGap;
            self.report
                .push(at(gap.segment).lost(gap.first_position, offsets, fault));
        }
    }

    /// Checks that offsets go on at `base`, or jump there for a reason the manifest knows.
    fn join(&mut self, at: Whereabouts<'_>, log: &LogState, seen: &Seen, base: Offset) {
        let Some(before) = seen.last else {
            return;
        };
        if base == before {
            return;
        }
        if base < before {
            let fault = Fault::OffsetsGoBack {
                found: base,
                before,
            };
            self.report.push(at.problem(None, fault));
            return;
        }
        let by_cut = log.cuts.iter().any(|cut| cut.next_base_offset == base.0);
        // After an unclean stop without a cut, offsets jump to the ceiling of all segments so far;
        // among them may be one that is gone, whose ceiling nobody knows: dropped unused by a stop
        // long before this one, or trimmed.
        let to_ceiling = seen.ceiling == base.0;
        let one_is_gone =
            (1..at.segment.0).any(|number| !log.segments.contains_key(&SegmentNumber(number)));
        if !(by_cut || to_ceiling || one_is_gone) {
            let fault = Fault::UnexplainedJump {
                found: base,
                before,
            };
            self.report.push(at.problem(None, fault));
        }
    }

    fn segment(
        &mut self,
        at: Whereabouts<'_>,
        log: &LogState,
        segment: &SegmentState,
        open_end: &mut OpenEnd,
    ) -> Tally {
        let opened = Still::open(self.folder, &segment_name(at.log, at.segment));
        let (still, len_bytes) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.report.push(unopened(at, segment, error));
                return Tally::default();
            }
        };
        let identity = Identity {
            folder_id: self.state.folder_id,
            incarnation: log.incarnation,
            log: at.log,
            segment: at.segment,
            nonce: segment.nonce,
            len_bytes: u32::try_from(segment.len_bytes).unwrap_or(u32::MAX),
        };
        let mut found = Vec::new();
        let mut tally = Tally::default();
        match (segment.end, still) {
            (Some(end), still) => {
                if end.end_offset > segment.offset_ceiling {
                    let fault = Fault::PastCeiling {
                        found: Offset(end.end_offset),
                        ceiling: Offset(segment.offset_ceiling),
                    };
                    found.push(at.problem(None, fault));
                }
                let gaps = log.damage.iter().filter(|gap| gap.segment == at.segment);
                let finished = Finished {
                    at,
                    identity,
                    end,
                    gaps: &gaps.copied().collect::<Vec<_>>(),
                };
                tally = finished.check(still, len_bytes, &mut self.meter, &mut found);
            }
            (None, None) => {
                let fault = Fault::Length {
                    found: len_bytes,
                    needed: u64::from(FRAMES_START),
                };
                found.push(at.problem(None, fault));
            }
            (None, Some(mut still)) if log.open && !segment.quarantined => {
                found = open_end.segment(at, &mut still, &identity, &mut self.meter);
            }
            (None, Some(mut still)) => {
                check_identity(at, &mut still, &identity, &mut found);
                if !segment.quarantined && !still.is_blank(FRAMES_START, &identity) {
                    found.push(at.problem(Some(FRAMES_START), Fault::UnusedHoldsFrames));
                }
            }
        }
        for problem in found {
            self.report.push(problem);
        }
        tally
    }
}

/// What is said of a segment whose file can't be opened: all of its records are missing.
fn unopened(at: Whereabouts<'_>, segment: &SegmentState, error: std::io::Error) -> Problem {
    let fault = match error.kind() {
        ErrorKind::NotFound => Fault::Missing,
        _ => Fault::Unreadable(error),
    };
    let mut problem = at.problem(None, fault);
    problem.offsets = segment
        .end
        .map(|end| (Offset(end.base_offset), Offset(end.end_offset)));
    problem
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Where the first segment without a known end starts, as far as the manifest tells.
fn expected_base(log: &LogState) -> Offset {
    let ends = log.segments.values().filter_map(|segment| segment.end);
    let cuts = log.cuts.iter().map(|cut| cut.next_base_offset);
    ends.map(|end| end.end_offset)
        .chain(cuts)
        .chain(log.next_offset)
        .max()
        .map_or(Offset(0), Offset)
}
