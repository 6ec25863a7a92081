//! What is due far ahead: kept on disk in the order it is due, so that a million delayed records
//! need no more memory than a few thousand.
//!
//! Each put becomes one run, sorted by due time, in a scratch file of its own; when there are many
//! they are merged into one. Nothing here must survive: a restart finds every delay again, in the
//! journal or in the topic itself.

use std::fmt;
use std::io;
use std::sync::Arc;

use millstream_storage::{ScratchFile, Store};

use super::scheduler::FarEntry;

const ENTRY_BYTES: usize = FarEntry::BYTES;
/// Runs that may be open at once; more are merged.
const RUNS_MAX: usize = 16;
/// Entries read from a run at a time.
const BLOCK_ENTRIES: usize = 1024;

/// Entries of one file, in order.
struct Run {
    file: Box<dyn ScratchFile>,
    /// Entries in the file, and how many were read.
    count: u64,
    read: u64,
    /// Read and not taken, the next one last.
    block: Vec<FarEntry>,
}

impl Run {
    /// Makes sure the block holds the next entry, if there is one.
    fn fill(&mut self) -> io::Result<()> {
        if !self.block.is_empty() || self.read == self.count {
            return Ok(());
        }
        let left = usize::try_from(self.count - self.read).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(BLOCK_ENTRIES) * ENTRY_BYTES];
        self.file
            .read_at(&mut bytes, self.read * ENTRY_BYTES as u64)?;
        let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
        self.block.extend(entries.iter().map(FarEntry::from_bytes));
        self.read += self.block.len() as u64;
        self.block.reverse();
        Ok(())
    }

    fn next_due_us(&self) -> Option<u64> {
        self.block.last().map(|entry| entry.due_us)
    }
}

/// The far store of one queue.
pub(super) struct FarStore {
    store: Arc<Store>,
    runs: Vec<Run>,
}

impl fmt::Debug for FarStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FarStore")
            .field("runs", &self.runs.len())
            .finish_non_exhaustive()
    }
}

impl FarStore {
    pub(super) fn new(store: &Arc<Store>) -> Self {
        Self {
            store: Arc::clone(store),
            runs: Vec::new(),
        }
    }

    /// Keeps `entries`.
    pub(super) fn put(&mut self, mut entries: Vec<FarEntry>) -> io::Result<()> {
        entries.sort_unstable_by_key(|entry| (entry.due_us, entry.offset));
        if self.runs.len() >= RUNS_MAX {
            self.merge()?;
        }
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY_BYTES);
        for entry in &entries {
            bytes.extend_from_slice(&entry.to_bytes());
        }
        let mut file = self.store.create_scratch()?;
        file.append(&bytes)?;
        let mut run = Run {
            file,
            count: entries.len() as u64,
            read: 0,
            block: Vec::new(),
        };
        run.fill()?;
        self.runs.push(run);
        Ok(())
    }

    /// Takes up to `max` entries, those due first, and the time before which none is left here.
    pub(super) fn take_near(&mut self, max: usize) -> io::Result<(Vec<FarEntry>, u64)> {
        let mut taken = Vec::new();
        while taken.len() < max {
            match self.pop()? {
                Some(entry) => taken.push(entry),
                None => break,
            }
        }
        let horizon_us = self
            .runs
            .iter()
            .filter_map(Run::next_due_us)
            .min()
            .unwrap_or(u64::MAX);
        Ok((taken, horizon_us))
    }

    /// Gives every entry to `look`, in no order, and keeps them.
    pub(super) fn for_each(&self, mut look: impl FnMut(&FarEntry)) -> io::Result<()> {
        for run in &self.runs {
            run.block.iter().for_each(&mut look);
            let mut at = run.read;
            while at < run.count {
                let left = usize::try_from(run.count - at).unwrap_or(usize::MAX);
                let mut bytes = vec![0; left.min(BLOCK_ENTRIES) * ENTRY_BYTES];
                run.file.read_at(&mut bytes, at * ENTRY_BYTES as u64)?;
                for entry in bytes.as_chunks::<ENTRY_BYTES>().0 {
                    look(&FarEntry::from_bytes(entry));
                }
                at += (bytes.len() / ENTRY_BYTES) as u64;
            }
        }
        Ok(())
    }

    /// Takes the entry due first.
    fn pop(&mut self) -> io::Result<Option<FarEntry>> {
        let first = self
            .runs
            .iter()
            .enumerate()
            .filter_map(|(at, run)| Some((run.next_due_us()?, at)))
            .min();
        let Some((_, at)) = first else {
            return Ok(None);
        };
        let Some(run) = self.runs.get_mut(at) else {
            return Ok(None);
        };
        let entry = run.block.pop();
        run.fill()?;
        if run.block.is_empty() {
            // Dropping a run removes its file.
            self.runs.swap_remove(at);
        }
        Ok(entry)
    }

    /// Makes one run of all.
    fn merge(&mut self) -> io::Result<()> {
        let mut file = self.store.create_scratch()?;
        let mut count = 0;
        let mut bytes = Vec::new();
        while let Some(entry) = self.pop()? {
            bytes.extend_from_slice(&entry.to_bytes());
            count += 1;
            if bytes.len() >= BLOCK_ENTRIES * ENTRY_BYTES {
                file.append(&bytes)?;
                bytes.clear();
            }
        }
        file.append(&bytes)?;
        let mut run = Run {
            file,
            count,
            read: 0,
            block: Vec::new(),
        };
        run.fill()?;
        self.runs.push(run);
        Ok(())
    }
}
