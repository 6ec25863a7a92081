//! The manifest: one small file that says what a data folder consists of.
//!
//! It names every log and segment, says which logs are open, where sealed and cut segments end, what
//! recovery cut off, and which offsets may never be given out again. All of it is in memory
//! ([`State`]); the file `manifest` holds a checkpoint and the [`Entry`]s that came after. A commit
//! appends one checksummed record and syncs it; `docs/STORAGE.md` draws the bytes.
//!
//! # Torn or damaged
//!
//! The records vouch for each other, so damage is told from a commit that power loss tore: the torn
//! one was never acknowledged and is left out, and damage is an error that names the byte. What can't
//! be told from the file alone is that its end, once acknowledged, was cut away.
//!
//! # Replacing
//!
//! The file is never truncated and never written in the middle. A checkpoint of the whole state goes
//! to `manifest.new`, is synced, takes the name, and the folder is synced:
//! - at every open, which leaves a torn end behind and writes again, to be synced, what may so far
//!   only have been in the page cache;
//! - when much was appended since the last checkpoint, so that the file's length is bounded by that
//!   of the state;
//! - once after a failed append or sync, which is never repeated on the same file (S7). If that fails
//!   too, the manifest is poisoned, says why, and refuses entries until [`Manifest::replace`] works.

mod entry;
mod error;
mod fields;
mod log_state;
mod record;
#[cfg(test)]
mod samples;
mod state;

use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::folder::{AppendFile, Folder};
use crate::lock::LOCK_FILE;
pub use entry::{Entry, LogId, SegmentNumber};
pub use error::{InvalidEntry, ManifestError};
use record::{COMMIT_BYTES_MAX, Contents, FILE_BYTES_MAX, Tail};
pub use state::{CutState, DamageState, EndKind, LogState, SegmentEnd, SegmentState, State};

/// Name of the manifest in its folder.
pub const MANIFEST_FILE: &str = "manifest";
/// Name of a checkpoint that is still to become the manifest. One that was left behind is removed.
pub const MANIFEST_NEW_FILE: &str = "manifest.new";
/// Format of a data folder that this program makes, and the newest it knows.
pub const FOLDER_FORMAT: u32 = 1;

/// What a new folder may hold already: our own beginnings, and what file systems put there.
const HARMLESS: [&str; 3] = [LOCK_FILE, MANIFEST_NEW_FILE, "lost+found"];
/// A checkpoint is written when more was appended than this and than four times the last one.
const APPENDED_BYTES_MIN: u64 = 1 << 20;

/// The manifest of a folder that this process owns.
#[derive(Debug)]
pub struct Manifest {
    folder: Arc<dyn Folder>,
    file: Box<dyn AppendFile>,
    state: State,
    tail: Tail,
    /// Length of the file at which it is replaced.
    replace_at_bytes: u64,
    report: ManifestReport,
    poison: Option<String>,
}

/// What was found when a manifest was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestReport {
    /// How often the file was replaced since the folder was made.
    pub generation: u64,
    /// Whole records.
    pub records: u64,
    /// Their bytes, with the file's header.
    pub whole_bytes: u64,
    /// Bytes behind them: a commit that power loss tore, and that was not acknowledged.
    pub torn_bytes: u64,
}

/// How far replacing the file came.
enum Unreplaced {
    /// The old file has its name and is as it was.
    Untouched(io::Error),
    /// After power loss the name may stand for either.
    Unknown(io::Error),
}

impl Manifest {
    /// Makes the manifest of a new folder, which is given `folder_id`.
    ///
    /// # Errors
    ///
    /// [`Exists`](ManifestError::Exists) or [`NotEmpty`](ManifestError::NotEmpty) when the folder is
    /// not new, so that a lost manifest is never made anew; else what the disk said.
    pub fn create(folder: Arc<dyn Folder>, folder_id: [u8; 16]) -> Result<Self, ManifestError> {
        let names = folder.list("").map_err(io_error)?;
        if names.iter().any(|name| name == MANIFEST_FILE) {
            return Err(ManifestError::Exists);
        }
        if let Some(found) = names
            .into_iter()
            .find(|name| !HARMLESS.contains(&name.as_str()))
        {
            return Err(ManifestError::NotEmpty { found });
        }
        let mut state = State::default();
        let entry = Entry::Folder {
            id: folder_id,
            format: FOLDER_FORMAT,
        };
        state
            .apply_all(&[entry])
            .map_err(|reason| ManifestError::Refused { reason })?;
        Self::put(folder, state, 0)
    }

    /// Opens the manifest of a folder, replaces it by a checkpoint, and gives what it says.
    ///
    /// Reads the whole file, and writes and syncs one of the length of the state.
    ///
    /// # Errors
    ///
    /// [`Missing`](ManifestError::Missing), [`Foreign`](ManifestError::Foreign),
    /// [`NewerFormat`](ManifestError::NewerFormat), [`Corrupt`](ManifestError::Corrupt) or
    /// [`Invalid`](ManifestError::Invalid), which change nothing; else what the disk said.
    pub fn open(folder: Arc<dyn Folder>) -> Result<(Self, State), ManifestError> {
        let contents = read(&*folder)?;
        let report = report(&contents);
        let state = contents.state.clone();
        let mut manifest = Self::put(folder, contents.state, contents.tail.generation + 1)?;
        manifest.report = report;
        Ok((manifest, state))
    }

    /// What the manifest of `folder` says, without changing anything.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn inspect(folder: &dyn Folder) -> Result<(State, ManifestReport), ManifestError> {
        let contents = read(folder)?;
        let report = report(&contents);
        Ok((contents.state, report))
    }

    /// Everything it says now.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What was found when it was opened.
    #[must_use]
    pub fn report(&self) -> ManifestReport {
        self.report
    }

    /// Why it takes no entries any more.
    #[must_use]
    pub fn poison(&self) -> Option<&str> {
        self.poison.as_deref()
    }

    /// Writes `entries` as one: after a crash all of them are there or none. They are on disk, and
    /// part of the state, when this returns `Ok`. Costs one sync.
    ///
    /// # Errors
    ///
    /// [`OutcomeUnknown`](ManifestError::OutcomeUnknown) poisons the manifest. All others leave it,
    /// and what it says, as it was: [`Refused`](ManifestError::Refused) and
    /// [`TooLarge`](ManifestError::TooLarge) are the caller's mistake, [`Io`](ManifestError::Io) may
    /// be tried again once there is room, [`Poisoned`](ManifestError::Poisoned) may not.
    pub fn commit(&mut self, entries: &[Entry]) -> Result<(), ManifestError> {
        if let Some(reason) = &self.poison {
            return Err(ManifestError::Poisoned {
                reason: reason.clone(),
            });
        }
        if entries.is_empty() {
            return Ok(());
        }
        let mut body = Vec::new();
        let undo = self
            .state
            .apply_all(entries)
            .map_err(|reason| ManifestError::Refused { reason })?;
        // Only names that passed the check are encoded; they bound a field.
        entries.iter().for_each(|entry| entry.encode(&mut body));
        let written = self.write(&body);
        if written.is_err() {
            self.state.take_back(undo);
        }
        written
    }

    /// Writes a checkpoint of the state to a new file that takes the name. Heals a poisoned manifest:
    /// what an unknown outcome left open is then settled as not written.
    ///
    /// # Errors
    ///
    /// [`Io`](ManifestError::Io) when the old file is as it was;
    /// [`OutcomeUnknown`](ManifestError::OutcomeUnknown) when the folder may come back with either,
    /// which poisons the manifest.
    pub fn replace(&mut self) -> Result<(), ManifestError> {
        match self.put_again() {
            Ok(()) => Ok(()),
            Err(Unreplaced::Untouched(source)) => Err(ManifestError::Io { source }),
            Err(Unreplaced::Unknown(source)) => Err(self.poisoned(source.to_string())),
        }
    }

    /// Takes back that what a cut took off may have been acknowledged: an operator says that he knows
    /// of it. The state is written anew as by [`replace`](Self::replace).
    ///
    /// # Errors
    ///
    /// [`Refused`](ManifestError::Refused) where there is no such cut; else as `replace`.
    pub(crate) fn release_cut(
        &mut self,
        log: LogId,
        segment: SegmentNumber,
    ) -> Result<(), ManifestError> {
        let reason = InvalidEntry::NoSuchSegment { log, segment };
        let mut cuts = self
            .state
            .logs
            .get_mut(&log)
            .into_iter()
            .flat_map(|log| &mut log.cuts);
        let cut = cuts.find(|cut| cut.segment == segment && cut.possibly_acknowledged);
        let Some(cut) = cut else {
            return Err(ManifestError::Refused { reason });
        };
        cut.possibly_acknowledged = false;
        self.replace()
    }

    /// Appends a record and syncs it, or writes a checkpoint instead. The state has the entries.
    fn write(&mut self, body: &[u8]) -> Result<(), ManifestError> {
        if body.len() > COMMIT_BYTES_MAX {
            let (bytes, bytes_max) = (body.len() as u64, COMMIT_BYTES_MAX as u64);
            return Err(ManifestError::TooLarge { bytes, bytes_max });
        }
        let (record, tail) = self.tail.record(body);
        self.file.reserve(record.len() as u64).map_err(io_error)?;
        match self.file.append(&record).and_then(|()| self.file.sync()) {
            Ok(()) => {
                self.tail = tail;
                self.bound_length();
                Ok(())
            }
            // What the file holds is unknown from now on: it is given up, whatever comes.
            Err(first) => self.put_again().map_err(|unreplaced| {
                let (Unreplaced::Untouched(second) | Unreplaced::Unknown(second)) = unreplaced;
                self.poisoned(format!("{first}; then, replacing the file, {second}"))
            }),
        }
    }

    /// Replaces the file when it got long. What was committed is in both files, so nobody needs to
    /// hear of a failure; if it leaves the old file as it was, that one goes on.
    fn bound_length(&mut self) {
        if self.tail.position < self.replace_at_bytes {
            return;
        }
        match self.put_again() {
            Ok(()) => {}
            Err(Unreplaced::Untouched(_)) => {
                self.replace_at_bytes = self.tail.position.saturating_mul(2);
            }
            Err(Unreplaced::Unknown(error)) => {
                self.poisoned(error.to_string());
            }
        }
    }

    fn poisoned(&mut self, reason: String) -> ManifestError {
        self.poison = Some(reason.clone());
        ManifestError::OutcomeUnknown { reason }
    }

    fn put_again(&mut self) -> Result<(), Unreplaced> {
        let generation = self.tail.generation + 1;
        let (file, tail) = put_checkpoint(&*self.folder, &self.state, generation)?;
        (self.file, self.tail) = (file, tail);
        self.replace_at_bytes = replace_at(tail);
        self.poison = None;
        Ok(())
    }

    fn put(folder: Arc<dyn Folder>, state: State, generation: u64) -> Result<Self, ManifestError> {
        match put_checkpoint(&*folder, &state, generation) {
            Ok((file, tail)) => {
                let replace_at_bytes = replace_at(tail);
                let whole_bytes = tail.position;
                let report = ManifestReport {
                    generation,
                    records: 0,
                    whole_bytes,
                    torn_bytes: 0,
                };
                let poison = None;
                Ok(Self {
                    folder,
                    file,
                    state,
                    tail,
                    replace_at_bytes,
                    report,
                    poison,
                })
            }
            Err(Unreplaced::Untouched(source) | Unreplaced::Unknown(source)) => {
                Err(ManifestError::Io { source })
            }
        }
    }
}

/// Writes a checkpoint to a new file, syncs it, and gives it the manifest's name.
fn put_checkpoint(
    folder: &dyn Folder,
    state: &State,
    generation: u64,
) -> Result<(Box<dyn AppendFile>, Tail), Unreplaced> {
    let (bytes, tail) = record::checkpoint(state, generation);
    match folder.remove(MANIFEST_NEW_FILE) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Unreplaced::Untouched(error));
        }
        _ => {}
    }
    folder
        .create_file(MANIFEST_NEW_FILE, &bytes)
        .map_err(Unreplaced::Untouched)?;
    let mut file = folder
        .append_file(MANIFEST_NEW_FILE)
        .map_err(Unreplaced::Untouched)?;
    folder
        .rename(MANIFEST_NEW_FILE, MANIFEST_FILE)
        .map_err(Unreplaced::Unknown)?;
    file.set_name(MANIFEST_FILE);
    folder.sync_dir("").map_err(Unreplaced::Unknown)?;
    Ok((file, tail))
}

/// The length at which a file that begins with a checkpoint up to `tail` is replaced.
fn replace_at(tail: Tail) -> u64 {
    tail.position
        .saturating_add(APPENDED_BYTES_MIN.max(tail.position.saturating_mul(4)))
}

fn read(folder: &dyn Folder) -> Result<Contents, ManifestError> {
    let bytes = folder
        .len(MANIFEST_FILE)
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => ManifestError::Missing,
            _ => io_error(error),
        })?;
    if bytes > FILE_BYTES_MAX {
        return Err(ManifestError::TooLarge {
            bytes,
            bytes_max: FILE_BYTES_MAX,
        });
    }
    record::read(&folder.read_file(MANIFEST_FILE).map_err(io_error)?)
}

fn report(contents: &Contents) -> ManifestReport {
    ManifestReport {
        generation: contents.tail.generation,
        records: contents.records,
        whole_bytes: contents.tail.position,
        torn_bytes: contents.torn_bytes,
    }
}

fn io_error(source: io::Error) -> ManifestError {
    ManifestError::Io { source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::HeapFolder;
    use proptest::prelude::*;

    fn folder_with(bytes: &[u8]) -> HeapFolder {
        let folder = HeapFolder::new();
        folder.create_file(MANIFEST_FILE, bytes).unwrap();
        folder
    }

    proptest! {
        /// Whatever is committed is there on reopen; cut anywhere, the commits before the cut are;
        /// one flipped bit and nothing is believed.
        #[test]
        fn any_commits_are_kept(
            commits in samples::commits(),
            cut in any::<prop::sample::Index>(),
            bit in any::<prop::sample::Index>(),
        ) {
            let folder = HeapFolder::new();
            let shared: Arc<dyn Folder> = Arc::new(folder.clone());
            let mut manifest = Manifest::create(Arc::clone(&shared), [7; 16]).unwrap();
            let mut steps = Vec::new();
            for commit in [Vec::new()].iter().chain(&commits) {
                let before = manifest.state().clone();
                match manifest.commit(commit) {
                    Ok(()) => {
                        let end = folder.len(MANIFEST_FILE).unwrap() as usize;
                        steps.push((end, manifest.state().clone()));
                    }
                    Err(ManifestError::Refused { .. }) => {
                        prop_assert_eq!(manifest.state(), &before);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let bytes = folder.read_file(MANIFEST_FILE).unwrap();
            let (first, _) = steps[0];
            let cut = first + cut.index(bytes.len() - first + 1);
            let (_, expected) = steps.iter().rfind(|(end, _)| *end <= cut).unwrap();
            let (seen, _) = Manifest::inspect(&folder_with(&bytes[..cut])).unwrap();
            prop_assert_eq!(&seen, expected);
            let mut rotten = bytes.clone();
            let bit = bit.index(bytes.len() * 8);
            rotten[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Manifest::inspect(&folder_with(&rotten)).is_err());
            let expected = manifest.state().clone();
            drop(manifest);
            let (_, state) = Manifest::open(Arc::clone(&shared)).unwrap();
            prop_assert_eq!(&state, &expected);
            let (seen, _) = Manifest::inspect(&folder.after_power_loss()).unwrap();
            prop_assert_eq!(&seen, &expected);
        }
    }
}
