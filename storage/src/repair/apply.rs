//! Carrying out a plan: copies first, then what replaces, each synced before the next.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::{RepairAction, RepairError, RepairPlan, manifest_error, rebuild};
use crate::folder::Folder;
use crate::layout::{log_dir, segment_name};
use crate::manifest::{LogId, MANIFEST_FILE, Manifest, SegmentNumber, State};
use crate::quarantine::{copies_of, released_file};
use crate::recovery::QUARANTINE;
use crate::verify::VerifyError;

/// Carries out all of `plan`, over any folder, which nobody else uses.
pub(crate) fn apply(folder: Arc<dyn Folder>, plan: &RepairPlan) -> Result<(), RepairError> {
    let (state, report) = Manifest::inspect(&*folder)
        .map_err(VerifyError::Manifest)
        .map_err(RepairError::Folder)?;
    let step = Step {
        folder,
        state,
        generation: report.generation,
    };
    for action in &plan.actions {
        step.take(action).map_err(|source| RepairError::Step {
            action: action.clone(),
            source,
        })?;
    }
    Ok(())
}

struct Step {
    folder: Arc<dyn Folder>,
    state: State,
    generation: u64,
}

impl Step {
    fn take(&self, action: &RepairAction) -> io::Result<()> {
        match self.folder.make_dir(QUARANTINE) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => self.folder.sync_dir("")?,
        }
        match action {
            RepairAction::MoveAside { file, to } => self.move_aside(file, to),
            RepairAction::Rebuild { log, segment, .. } => self.rebuild(*log, *segment),
            RepairAction::ReleaseCut {
                log,
                segment,
                end_offset,
                ..
            } => self.release(*log, *segment, *end_offset),
        }
    }

    fn move_aside(&self, file: &str, to: &str) -> io::Result<()> {
        self.folder.rename(file, to)?;
        self.folder.sync_dir(QUARANTINE)?;
        let dir = file.split_once('/').map_or("", |(dir, _)| dir);
        self.folder.sync_dir(dir)
    }

    /// A name in the quarantine that nothing has.
    fn free_name(&self, plain: &str) -> io::Result<String> {
        let names = self.folder.list(QUARANTINE)?;
        let mut name = plain.to_owned();
        let mut number = 1;
        while names.contains(&name) {
            number += 1;
            name = format!("{plain}.{number}");
        }
        Ok(format!("{QUARANTINE}/{name}"))
    }

    /// Copies a whole file to the quarantine; the copy is on disk when this returns.
    fn keep(&self, file: &str) -> io::Result<()> {
        let to = self.free_name(&file.replace('/', "-"))?;
        let len_bytes = self.folder.len(file)?;
        self.folder.copy_range(file, 0..len_bytes, &to)?;
        self.folder.sync_dir(QUARANTINE)
    }

    fn rebuild(&self, log: LogId, segment: SegmentNumber) -> io::Result<()> {
        let name = segment_name(log, segment);
        self.keep(&name)?;
        let new = format!("{name}.new");
        // One that an earlier attempt left is of no use and no evidence; it is kept all the same.
        if self.folder.len(&new).is_ok() {
            let aside = self.free_name(&new.replace('/', "-"))?;
            self.folder.rename(&new, &aside)?;
        }
        self.folder.create_file(&new, &[])?;
        let mut file = self.folder.append_file(&new)?;
        rebuild::pieces(&*self.folder, &self.state, (log, segment), &mut |piece| {
            file.append(piece)
        })?;
        file.sync()?;
        drop(file);
        self.folder.rename(&new, &name)?;
        self.folder.sync_dir(&log_dir(log))
    }

    fn release(&self, log: LogId, segment: SegmentNumber, end_offset: u64) -> io::Result<()> {
        let cut = self
            .state
            .logs
            .get(&log)
            .and_then(|state| state.cuts.iter().find(|cut| cut.segment == segment))
            .ok_or(ErrorKind::NotFound)?;
        // Trimming will drop these segments once the cut is released: they are kept as copies.
        if copies_of(&*self.folder, log, segment)?.is_empty() {
            self.keep_if_there(&segment_name(log, segment))?;
        }
        for number in &cut.quarantined {
            self.keep_if_there(&segment_name(log, *number))?;
        }
        // The manifest is replaced: what it is now is kept as well.
        let name = format!("{MANIFEST_FILE}-generation-{}", self.generation);
        let manifest = self.free_name(&name)?;
        let len_bytes = self.folder.len(MANIFEST_FILE)?;
        self.folder
            .copy_range(MANIFEST_FILE, 0..len_bytes, &manifest)?;
        let note = format!(
            "released: {log}, {segment}, cut at offset {end_offset}, {} bytes that may have been acknowledged\n",
            cut.cut_bytes
        );
        let mark = released_file(log, segment, end_offset);
        match self.folder.create_file(&mark, note.as_bytes()) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => self.folder.sync_dir(QUARANTINE)?,
        }
        let (mut manifest, _) =
            Manifest::open(Arc::clone(&self.folder)).map_err(|error| manifest_error(&error))?;
        manifest
            .release_cut(log, segment)
            .map_err(|error| manifest_error(&error))
    }

    fn keep_if_there(&self, file: &str) -> io::Result<()> {
        match self.keep(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            kept => kept,
        }
    }
}
