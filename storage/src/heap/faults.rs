//! What goes wrong in a [`HeapFolder`](crate::HeapFolder), when, and what was asked of it so far.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// What can be asked of a folder and its files, each counted by name and made to fail on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Making a segment. When it fails, no file stays.
    CreateSegment,
    /// Making a segment of a file that served as one, counted by its new name. When it fails, nothing changed.
    ReuseSegment,
    /// Mapping a segment.
    OpenSegment,
    /// Writing to a segment's file. When it fails, the first half of the bytes was written.
    Write,
    /// Cutting a segment's file.
    Shrink,
    /// Making a directory.
    MakeDir,
    /// Removing a directory.
    RemoveDir,
    /// Making a whole file. When it fails, no file stays.
    CreateFile,
    /// Opening a file to append to it.
    OpenAppend,
    /// Allocating room behind the end of a file.
    Reserve,
    /// Appending. When it fails, the first half of the bytes was written.
    Append,
    /// Syncing a segment or a file. When it fails, nothing that this file then holds survives
    /// power loss any more, whatever later syncs of it return.
    Sync,
    /// Reading or copying from a file, and asking for its length.
    Read,
    /// Listing a directory.
    List,
    /// Renaming a file, counted by its new name. When it fails, nothing was renamed.
    Rename,
    /// Removing a file.
    Remove,
    /// Syncing a directory. When it fails, its names survive power loss as they did before.
    SyncDir,
    /// Bringing pages of a segment into memory.
    Populate,
    /// Asking whether pages of a segment are in memory. When it fails, they are not.
    Resident,
}

impl Operation {
    /// Every one of them.
    pub const ALL: [Self; 19] = [
        Self::CreateSegment,
        Self::ReuseSegment,
        Self::OpenSegment,
        Self::Write,
        Self::Shrink,
        Self::MakeDir,
        Self::RemoveDir,
        Self::CreateFile,
        Self::OpenAppend,
        Self::Reserve,
        Self::Append,
        Self::Sync,
        Self::Read,
        Self::List,
        Self::Rename,
        Self::Remove,
        Self::SyncDir,
        Self::Populate,
        Self::Resident,
    ];

    /// Whether it changes the folder or brings changes to the disk.
    #[must_use]
    pub const fn changes(self) -> bool {
        !matches!(
            self,
            Self::OpenSegment
                | Self::OpenAppend
                | Self::Read
                | Self::List
                | Self::Populate
                | Self::Resident
        )
    }

    /// Whether it needs room on the disk.
    const fn takes_room(self) -> bool {
        matches!(
            self,
            Self::CreateSegment | Self::CreateFile | Self::MakeDir | Self::Reserve | Self::Append
        )
    }
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The device reports an error: `EIO`.
    Device,
    /// The disk is full: `ENOSPC`.
    Full,
    /// The process has no descriptor left: `EMFILE`.
    Descriptors,
}

impl Failure {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Device => libc::EIO,
            Self::Full => libc::ENOSPC,
            Self::Descriptors => libc::EMFILE,
        })
    }
}

/// One planned failure; it happens once.
#[derive(Debug)]
struct Planned {
    operation: Option<Operation>,
    suffix: String,
    /// How many operations it fits are let pass first.
    skip: u64,
    failure: Failure,
}

impl Planned {
    fn fits(&self, operation: Operation, name: &str) -> bool {
        let fits = match self.operation {
            Some(planned) => planned == operation,
            None => operation.changes(),
        };
        fits && name.ends_with(&self.suffix)
    }
}

/// The plan of a folder and its counters.
#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Vec<Planned>,
    full: bool,
    skipped: BTreeSet<Operation>,
    counts: BTreeMap<(Operation, String), u64>,
    met: Vec<(Operation, String)>,
    repeated_syncs: u64,
    populated_bytes: u64,
}

impl Faults {
    /// Plans that the `nth` (from one) operation from now on fails which fits.
    pub(super) fn plan(
        &mut self,
        operation: Option<Operation>,
        suffix: &str,
        nth: u64,
        failure: Failure,
    ) {
        let skip = nth.saturating_sub(1);
        self.planned.push(Planned {
            operation,
            suffix: suffix.to_owned(),
            skip,
            failure,
        });
    }

    pub(super) fn clear(&mut self) {
        self.planned.clear();
        self.full = false;
        self.skipped.clear();
    }

    pub(super) fn skip(&mut self, operation: Operation) {
        self.skipped.insert(operation);
    }

    pub(super) fn skips(&self, operation: Operation) -> bool {
        self.skipped.contains(&operation)
    }

    pub(super) fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Counts an operation and says whether it fails.
    pub(super) fn pass(&mut self, operation: Operation, name: &str) -> io::Result<()> {
        *self.counts.entry((operation, name.to_owned())).or_insert(0) += 1;
        let mut failure = None;
        self.planned.retain_mut(|planned| {
            if !planned.fits(operation, name) {
                return true;
            }
            let due = planned.skip == 0;
            if due {
                failure = Some(planned.failure);
            } else {
                planned.skip -= 1;
            }
            !due
        });
        if self.full && operation.takes_room() {
            failure = Some(Failure::Full);
        }
        let Some(failure) = failure else {
            return Ok(());
        };
        self.met.push((operation, name.to_owned()));
        Err(failure.error())
    }

    /// What failed so far, in order.
    pub(super) fn met(&self) -> &[(Operation, String)] {
        &self.met
    }

    /// A file is synced again, of which a sync failed.
    pub(super) fn note_repeated_sync(&mut self) {
        self.repeated_syncs += 1;
    }

    pub(super) fn repeated_syncs(&self) -> u64 {
        self.repeated_syncs
    }

    /// Pages of a segment were asked for.
    pub(super) fn note_populated(&mut self, bytes: u64) {
        self.populated_bytes += bytes;
    }

    pub(super) fn populated_bytes(&self) -> u64 {
        self.populated_bytes
    }

    pub(super) fn count(&self, operation: Operation, suffix: &str) -> u64 {
        let fits = |(key, name): &(Operation, String)| *key == operation && name.ends_with(suffix);
        self.counts
            .iter()
            .filter(|(key, _)| fits(key))
            .map(|(_, count)| count)
            .sum()
    }

    pub(super) fn changes(&self) -> u64 {
        let changes = self
            .counts
            .iter()
            .filter(|((operation, _), _)| operation.changes());
        changes.map(|(_, count)| count).sum()
    }
}
