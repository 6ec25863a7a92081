//! What is due far ahead: kept on disk in the order it is due, so that a million delayed records
//! need no more memory than a few thousand.
//!
//! Each put becomes one run, sorted by due time, in a scratch file of its own; when there are many
//! they are merged into one. Nothing here must survive: a restart finds every delay again, in the
//! journal or in the topic itself. What the disk has no room for stays in memory until it is merged
//! with others into a file: a full disk costs memory then, and no queue.

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
    /// `None` where the disk had no room: then all of it is in `block`.
    file: Option<Box<dyn ScratchFile>>,
    /// Entries in the file, and how many were read.
    count: u64,
    read: u64,
    /// Read and not taken, the next one last.
    block: Vec<FarEntry>,
}

impl Run {
    /// A run that lies in `file`.
    fn in_file(file: Box<dyn ScratchFile>, count: u64) -> io::Result<Self> {
        let mut run = Self {
            file: Some(file),
            count,
            read: 0,
            block: Vec::new(),
        };
        run.fill()?;
        Ok(run)
    }

    /// A run of `entries`, in order, that lies in memory alone.
    fn in_memory(mut entries: Vec<FarEntry>) -> Self {
        entries.reverse();
        let count = entries.len() as u64;
        Self {
            file: None,
            count,
            read: count,
            block: entries,
        }
    }

    /// Makes sure the block holds the next entry, if there is one.
    fn fill(&mut self) -> io::Result<()> {
        if !self.block.is_empty() || self.read == self.count {
            return Ok(());
        }
        let Some(file) = &self.file else {
            return Ok(());
        };
        let left = usize::try_from(self.count - self.read).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(BLOCK_ENTRIES) * ENTRY_BYTES];
        file.read_at(&mut bytes, self.read * ENTRY_BYTES as u64)?;
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
    /// So many are merged; more where there was no room for that.
    merge_at: usize,
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
            merge_at: RUNS_MAX,
        }
    }

    /// Keeps `entries`.
    ///
    /// # Errors
    ///
    /// When what was put before can't be read back.
    pub(super) fn put(&mut self, mut entries: Vec<FarEntry>) -> io::Result<()> {
        entries.sort_unstable_by_key(|entry| (entry.due_us, entry.offset));
        if self.runs.len() >= self.merge_at {
            self.merge()?;
        }
        let run = match self.written(&entries) {
            Ok(file) => Run::in_file(file, entries.len() as u64)?,
            Err(error) => {
                tracing::warn!(%error, "delayed records stay in memory: the disk does not take them");
                Run::in_memory(entries)
            }
        };
        self.runs.push(run);
        Ok(())
    }

    fn written(&self, entries: &[FarEntry]) -> io::Result<Box<dyn ScratchFile>> {
        let mut file = self.store.create_scratch()?;
        file.append(&bytes_of(entries))?;
        Ok(file)
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
            let Some(file) = &run.file else {
                continue;
            };
            let mut at = run.read;
            while at < run.count {
                let left = usize::try_from(run.count - at).unwrap_or(usize::MAX);
                let mut bytes = vec![0; left.min(BLOCK_ENTRIES) * ENTRY_BYTES];
                file.read_at(&mut bytes, at * ENTRY_BYTES as u64)?;
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

    /// Makes one run of all; of all so far, where the disk has no room for more.
    fn merge(&mut self) -> io::Result<()> {
        let Ok(mut file) = self.store.create_scratch() else {
            self.merge_at = self.runs.len() * 2;
            return Ok(());
        };
        let mut count = 0;
        let mut refused = None;
        while refused.is_none() {
            let block = self.pop_block()?;
            if block.is_empty() {
                break;
            }
            match file.append(&bytes_of(&block)) {
                Ok(()) => count += block.len() as u64,
                Err(_) => refused = Some(block),
            }
        }
        if count > 0 {
            self.runs.push(Run::in_file(file, count)?);
        }
        let full = refused.is_some();
        self.runs.extend(refused.map(Run::in_memory));
        self.merge_at = if full { self.runs.len() * 2 } else { RUNS_MAX };
        Ok(())
    }

    /// Takes the entries due first, as many as are written together.
    fn pop_block(&mut self) -> io::Result<Vec<FarEntry>> {
        let mut block = Vec::new();
        while block.len() < BLOCK_ENTRIES
            && let Some(entry) = self.pop()?
        {
            block.push(entry);
        }
        Ok(block)
    }
}

fn bytes_of(entries: &[FarEntry]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_bytes()).collect()
}
