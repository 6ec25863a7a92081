//! What is done behind the queues' backs: moves, trimming, checkpoints.

use std::collections::HashMap;
use std::sync::Arc;

use millstream_protocol::Offset;
use millstream_storage::{CreateError, Log, claimed_end, trim};

use super::journal::{self, Journal};
use super::recovery::{QueueSection, encode_checkpoint};
use super::registry::{Entry, Queues, State};

/// Bytes of journal behind the last checkpoint after which the next is written, unless a quarter of that
/// was more.
const CHECKPOINT_BYTES: u64 = 2 << 20;

/// What the upkeep remembers from one time to the next.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// Where the journal was when the last checkpoint was begun, and how large that became.
    last: Option<(u64, u64)>,
    /// Bytes of journal that were there at the start: runs too short for a checkpoint of their own
    /// must not let it grow without end.
    found_bytes: u64,
    /// The lowest position that the checkpoint before the last needs: the journal is kept from there.
    keep_from: Option<Offset>,
    /// The same of the last.
    next_keep_from: Option<Offset>,
    /// Boot time at which each topic with an age is asked next what of it is old: it has to look into segments.
    pub(super) ages_asked_us: HashMap<[u8; 16], u64>,
}

impl Upkeep {
    /// After a start that found `found_bytes` of journal, and a checkpoint that needs it from
    /// `keep_from` on.
    pub(super) fn after_start(found_bytes: u64, keep_from: Option<Offset>) -> Self {
        Self {
            found_bytes,
            next_keep_from: keep_from,
            ..Self::default()
        }
    }
}

impl Queues {
    /// Looks after everything once. Waits for the disk.
    pub(super) fn look_after(self: &Arc<Self>) {
        self.replace_failed_journal();
        let entries = self.entries();
        for entry in &entries {
            if !entry.carry_moves(self) {
                self.keeper.try_again();
            }
        }
        self.trim_topics(&entries);
        self.checkpoint_if_due();
    }

    fn checkpoint_if_due(self: &Arc<Self>) {
        let Some(journal) = self.state().journal.as_ref().map(|journal| journal.log()) else {
            return;
        };
        let (_, end_bytes) = claimed_end(&journal);
        let due = {
            let mut upkeep = self.upkeep();
            let (begun, size) = *upkeep.last.get_or_insert((0, 0));
            let grown = end_bytes.saturating_sub(begun) + upkeep.found_bytes;
            grown >= CHECKPOINT_BYTES.max(size / 4)
        };
        if due && let Err(error) = self.checkpoint(&journal) {
            if error.kind() == std::io::ErrorKind::WouldBlock {
                // What waits for the journal goes on first, or that is replaced.
                return self.keeper.try_again();
            }
            self.keeper.try_again();
            tracing::error!(%error, "cannot write a checkpoint: the journal is kept and grows");
        }
    }

    /// Writes a checkpoint of everything and trims the journal to what the one before it needs.
    pub(super) fn checkpoint(self: &Arc<Self>, journal: &Arc<Log>) -> std::io::Result<()> {
        let (_, begun_bytes) = claimed_end(journal);
        // Under the lock no registry frame is written: what is behind the position is not in the
        // changes, and what is before it is. A queue made or deleted later is told by the journal.
        let (position, changes, entries) = {
            let state = self.state();
            let changes = state.changes();
            let entries: Vec<Entry> = state.queues.values().cloned().collect();
            (journal.committed(), changes, entries)
        };
        let mut sections = Vec::new();
        for entry in &entries {
            sections.push(section(journal, entry)?);
        }
        let bytes = encode_checkpoint(position, &changes, &sections);
        self.store.checkpoints().write(&bytes)?;
        let positions = sections.iter().map(|section| section.position);
        let lowest = positions.fold(position, Offset::min);
        let keep_from = {
            let mut upkeep = self.upkeep();
            upkeep.last = Some((begun_bytes, bytes.len() as u64));
            upkeep.found_bytes = 0;
            upkeep.keep_from = upkeep.next_keep_from.replace(lowest);
            upkeep.keep_from
        };
        // Two checkpoints are kept, so the journal is kept for the older.
        if let Some(keep_from) = keep_from {
            trim(journal, keep_from).map_err(std::io::Error::other)?;
        }
        Ok(())
    }

    /// Writes a checkpoint whether one is due or not.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn checkpoint_now(self: &Arc<Self>) -> std::io::Result<()> {
        let journal = self.state().journal.clone();
        journal.map_or(Ok(()), |journal| self.checkpoint(&journal.log()))
    }

    /// Takes a new journal into use in the place of one that failed (S7): all that queues and cursors
    /// are goes to a checkpoint, which stands above all that the old one can hold.
    pub(super) fn replace_failed_journal(self: &Arc<Self>) {
        // Whoever is at the registry fails now, if that is so, and has us look again.
        let Some(mut state) = self.try_state() else {
            return self.keeper.look_again();
        };
        let Some(journal) = state.journal.clone() else {
            return;
        };
        if state.is_closed() || !journal.is_to_be_replaced() {
            return;
        }
        match self.put_new_journal(&mut state, &journal) {
            Ok(()) => tracing::warn!("the journal failed and was replaced: nothing of it is lost"),
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                tracing::warn!(%error, "the journal failed; there is no room yet for another");
                self.keeper.try_again();
                return;
            }
            Err(error) => {
                tracing::error!(%error, "the journal failed and can't be replaced: queues stop until a restart");
                journal.give_up();
            }
        }
        let entries: Vec<Entry> = state.queues.values().cloned().collect();
        drop(state);
        for entry in entries {
            entry.queue.knock();
        }
    }

    fn put_new_journal(
        self: &Arc<Self>,
        state: &mut State,
        journal: &Arc<Journal>,
    ) -> std::io::Result<()> {
        let old = journal.log();
        let position = self.store.offset_ceiling(&old);
        let mut sections = Vec::new();
        for entry in state.queues.values() {
            let held = entry.queue.look(|core, _| core.hold_back());
            sections.push(QueueSection {
                id: entry.definition.id,
                position,
                durable: held.map_err(std::io::Error::other)??,
                marks: entry.marks(),
            });
        }
        let bytes = encode_checkpoint(position, &state.changes(), &sections);
        // Twice: the older of the two that are kept must not need the old journal.
        for _ in 0..2 {
            self.store.checkpoints().write(&bytes)?;
        }
        let log = self.store.replace_log(&old).map_err(create_io_error)?;
        journal::set_sizes(&log);
        journal.replace(&log);
        let mut upkeep = self.upkeep();
        upkeep.last = Some((0, bytes.len() as u64));
        upkeep.found_bytes = 0;
        upkeep.keep_from = None;
        upkeep.next_keep_from = Some(position);
        Ok(())
    }

    pub(super) fn upkeep(&self) -> std::sync::MutexGuard<'_, Upkeep> {
        self.upkeep
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn create_io_error(error: CreateError) -> std::io::Error {
    let kind = if error.is_storage_full() {
        std::io::ErrorKind::StorageFull
    } else {
        std::io::ErrorKind::Other
    };
    std::io::Error::new(kind, error)
}

/// One queue as it is now, under its baton. Does not wait for the journal: the thread that writes
/// checkpoints is the one that replaces it.
fn section(journal: &Arc<Log>, entry: &Entry) -> std::io::Result<QueueSection> {
    let log = Arc::clone(journal);
    let queue = Arc::clone(&entry.queue);
    let asked = entry.queue.look(move |core, now| {
        // A checkpoint says no more than the journal up to its position, but of a queue that ended.
        if core.flush(&queue, now).is_none() && !core.is_closed() {
            let error = "the journal has no room now";
            return Err(std::io::Error::new(std::io::ErrorKind::WouldBlock, error));
        }
        let bytes = core.durable_bytes()?;
        std::io::Result::Ok((log.committed(), bytes))
    });
    let (position, durable) = asked.map_err(std::io::Error::other)??;
    Ok(QueueSection {
        id: entry.definition.id,
        position,
        durable,
        marks: entry.marks(),
    })
}
