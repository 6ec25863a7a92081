//! Putting right what can be put right in a data folder that no broker uses.
//!
//! A plan is made by reading only; carrying it out deletes nothing and overwrites nothing: what is to
//! be replaced is copied to the quarantine first, and synced there. What a frame holds is never
//! touched, and nothing is made up: the pages around the frames of a segment follow from the manifest
//! and the frames, and are made again only where every frame is good.

mod apply;
mod rebuild;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;

use crate::checkpoints;
use crate::disk::DiskFolder;
use crate::folder::Folder;
use crate::layout::segment_name;
use crate::lock::{FolderLock, LockError};
use crate::manifest::{LogId, Manifest, ManifestError, SegmentNumber, State};
use crate::recovery::QUARANTINE;
use crate::verify::{Depth, Fault, Problem, VerifyError, check_folder};
#[cfg(all(test, not(loom)))]
pub(crate) use apply::apply;

/// One thing that repair does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RepairAction {
    /// Takes back that a cut counts as damage: the operator says that he knows of it.
    ReleaseCut {
        /// The topic that was cut.
        topic: String,
        /// Its log.
        log: LogId,
        /// The segment that ends at the cut.
        segment: SegmentNumber,
        /// The offset of the cut.
        end_offset: u64,
        /// Bytes that were cut off.
        cut_bytes: u64,
    },
    /// Makes the pages around the frames of a finished segment again: identity, slots, footer.
    Rebuild {
        /// The topic.
        topic: String,
        /// Its log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
        /// What is wrong with them.
        because: Vec<String>,
    },
    /// Moves a file that the manifest does not name, or a checkpoint that is of no use, aside.
    MoveAside {
        /// Its name now.
        file: String,
        /// Its name then.
        to: String,
    },
}

impl fmt::Display for RepairAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReleaseCut {
                topic,
                log,
                segment,
                end_offset,
                cut_bytes,
            } => write!(
                f,
                "release the cut of topic {topic:?} at offset {end_offset} ({log}, {segment}, {cut_bytes} bytes that may have been acknowledged); they stay in {QUARANTINE}/"
            ),
            Self::Rebuild {
                log,
                segment,
                because,
                ..
            } => write!(
                f,
                "make the pages around the frames of {} again ({}); the file as it is goes to {QUARANTINE}/",
                segment_name(*log, *segment),
                because.join("; ")
            ),
            Self::MoveAside { file, to } => write!(f, "move {file} to {to}"),
        }
    }
}

/// Something that repair can't put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrepairable {
    /// What is wrong, and where.
    pub problem: String,
    /// Why it stays so, and what can be done instead.
    pub advice: &'static str,
}

/// What is to be done, and what can't be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepairPlan {
    /// In the order in which it is done.
    pub actions: Vec<RepairAction>,
    /// What stays as it is.
    pub remains: Vec<Unrepairable>,
}

/// Why nothing, or not all, was repaired. No byte is lost by any of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum RepairError {
    /// The folder can't be looked at, or its manifest can't be read.
    Folder(VerifyError),
    /// A step failed; those before it are done, and repair may be run again.
    Step {
        /// What was being done.
        action: RepairAction,
        /// What the disk said.
        source: io::Error,
    },
}

impl fmt::Display for RepairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(error) => error.fmt(f),
            Self::Step { action, source } => write!(f, "cannot {action}: {source}"),
        }
    }
}

impl std::error::Error for RepairError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Folder(error) => Some(error),
            Self::Step { source, .. } => Some(source),
        }
    }
}

/// Says what [`repair`] would do about the folder `path`. Changes nothing.
///
/// # Errors
///
/// The folder as a whole can't be looked at. A manifest that can't be read can't be repaired: the
/// records of it vouch for each other, and nothing else says which segments belong to a topic, where
/// they end and which offsets were given out.
pub fn plan_repair(path: &Path) -> Result<RepairPlan, VerifyError> {
    let _kept_out = FolderLock::observe(path).map_err(VerifyError::Lock)?;
    let folder = DiskFolder::open(path).map_err(VerifyError::Folder)?;
    plan(&folder)
}

/// Carries out what [`plan_repair`] says, as the only user of the folder; gives what was done.
///
/// # Errors
///
/// See [`RepairError`].
pub fn repair(path: &Path) -> Result<RepairPlan, RepairError> {
    let failed = |error: LockError| RepairError::Folder(VerifyError::Lock(error));
    // Nothing is made in a folder that is none.
    let folder = DiskFolder::open(path)
        .map_err(VerifyError::Folder)
        .map_err(RepairError::Folder)?;
    Manifest::inspect(&folder)
        .map_err(VerifyError::Manifest)
        .map_err(RepairError::Folder)?;
    let _owned = FolderLock::acquire(path).map_err(failed)?;
    let plan = plan(&folder).map_err(RepairError::Folder)?;
    apply::apply(std::sync::Arc::new(folder), &plan)?;
    Ok(plan)
}

/// As [`plan_repair`], over any folder.
pub(crate) fn plan(folder: &dyn Folder) -> Result<RepairPlan, VerifyError> {
    let (state, _) = Manifest::inspect(folder).map_err(VerifyError::Manifest)?;
    let report = check_folder(folder, Depth::Deep, &mut |_| ())?;
    let mut plan = RepairPlan::default();
    move_aside(folder, &report.unnamed, &mut plan)?;
    let mut by_file: BTreeMap<&str, Vec<&Problem>> = BTreeMap::new();
    for problem in &report.problems {
        by_file.entry(&problem.file).or_default().push(problem);
    }
    for (file, problems) in by_file {
        let (cuts, others): (Vec<_>, Vec<_>) = problems
            .into_iter()
            .partition(|problem| matches!(problem.fault, Fault::CutPossiblyAcknowledged { .. }));
        if !cuts.is_empty() {
            plan.actions.extend(releases(&state, file));
        }
        if others.is_empty() {
            continue;
        }
        match rebuild::rebuild(folder, &state, file, &others) {
            Some(action) => plan.actions.push(action),
            None => plan.remains.extend(
                others
                    .iter()
                    .filter(|problem| !matches!(problem.fault, Fault::Checkpoint(_)))
                    .map(|problem| unrepairable(problem)),
            ),
        }
    }
    if report.problems_left_out > 0 {
        plan.remains.push(Unrepairable {
            problem: format!("{} problems more", report.problems_left_out),
            advice: "they are seen once those before them are gone",
        });
    }
    Ok(plan)
}

/// Moves files that nothing names, and checkpoints that can't be used.
fn move_aside(
    folder: &dyn Folder,
    unnamed: &[String],
    plan: &mut RepairPlan,
) -> Result<(), VerifyError> {
    let mut taken: BTreeSet<String> = match folder.list(QUARANTINE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
        listed => listed.map_err(VerifyError::Folder)?.into_iter().collect(),
    };
    let useless = checkpoints::read_all(folder)
        .map_err(VerifyError::Folder)?
        .into_iter()
        // One of a newer version, or that the disk does not give now, is not damaged.
        .filter(|(_, read)| read.as_ref().is_err_and(checkpoints::is_damage))
        .map(|(file, _)| file);
    for file in unnamed.iter().cloned().chain(useless) {
        if file.contains(char::REPLACEMENT_CHARACTER) {
            plan.remains.push(Unrepairable {
                problem: format!("{file}: the manifest does not name it"),
                advice: "its name is not UTF-8: move it away by hand",
            });
            continue;
        }
        let plain = file.replace('/', "-");
        let mut name = plain.clone();
        let mut number = 1;
        while !taken.insert(name.clone()) {
            number += 1;
            name = format!("{plain}.{number}");
        }
        let to = format!("{QUARANTINE}/{name}");
        plan.actions.push(RepairAction::MoveAside { file, to });
    }
    Ok(())
}

/// The cuts that end in the segment `file` and may have taken something acknowledged.
fn releases(state: &State, file: &str) -> Vec<RepairAction> {
    let logs = state.logs.iter();
    logs.flat_map(|(id, log)| log.cuts.iter().map(move |cut| (*id, log, cut)))
        .filter(|(id, _, cut)| cut.possibly_acknowledged && segment_name(*id, cut.segment) == file)
        .map(|(id, log, cut)| RepairAction::ReleaseCut {
            topic: log.name.clone(),
            log: id,
            segment: cut.segment,
            end_offset: cut.end_offset,
            cut_bytes: cut.cut_bytes,
        })
        .collect()
}

fn unrepairable(problem: &Problem) -> Unrepairable {
    let advice = match &problem.fault {
        Fault::Missing => "only the file itself has these records: put it back from a backup",
        Fault::Unreadable(_) => {
            "the disk does not give these bytes: copy the folder to another disk and look again"
        }
        Fault::PossiblyAcknowledged | Fault::BelowProven => {
            "the log was not closed: start the server once, which decides where it ends, then look again"
        }
        Fault::RecordedGap | Fault::Frame(_) | Fault::OffsetBroken { .. } => {
            "what these records held is gone; readers are told of the gap and get all others. Put the file back from a backup if you have one"
        }
        Fault::Footer(_) | Fault::FooterDisagrees { .. } | Fault::NoSeal => {
            "not all of its frames are good, so the rest of the segment can't be made again from them. Put the file back from a backup if you have one"
        }
        Fault::CopyMissing | Fault::CopyDiffers { .. } | Fault::CutBytes { .. } => {
            "what was cut off was changed since; what is left of it stays as it is"
        }
        _ => {
            "nothing says what should stand there: put the file back from a backup if you have one"
        }
    };
    Unrepairable {
        problem: problem.to_string(),
        advice,
    }
}

fn manifest_error(error: &ManifestError) -> io::Error {
    io::Error::new(error.io_kind(), error.to_string())
}
