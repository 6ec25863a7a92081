//! A queue while its journal is replaced: what must last waits for a checkpoint (S7).

use std::sync::Arc;

use super::{Core, RETRY_US};
use crate::queue::scheduler::{FarEntry, Now};
use crate::queue::shared::QueueShared;

impl Core {
    /// The queue's state for the checkpoint that takes the place of a journal that failed. What was to
    /// be written is in it, and what follows from that waits until it is on disk.
    pub(in crate::queue) fn hold_back(&mut self) -> std::io::Result<Vec<u8>> {
        self.note_journal();
        self.entries.clear();
        self.writer.forget();
        self.held_back = self.closed.is_none();
        self.durable_bytes()
    }

    /// The queue's state as a checkpoint has it.
    pub(in crate::queue) fn durable_bytes(&self) -> std::io::Result<Vec<u8>> {
        let mut far: Vec<FarEntry> = self.unstored_far().copied().collect();
        self.far.for_each(|entry| far.push(*entry))?;
        let mut bytes = Vec::new();
        self.scheduler.durable().encode_with(&mut far, &mut bytes);
        Ok(bytes)
    }

    /// Whether what was held back is on disk; asks again later, or ends the queue, where it is not.
    pub(super) fn is_held_back_no_more(&mut self, queue: &Arc<QueueShared>, now: Now) -> bool {
        if self.writer.is_to_be_replaced() {
            self.await_journal(queue, now);
            return false;
        }
        if let Some(poisoned) = self.writer.failed() {
            self.fail(&poisoned.to_string());
            return false;
        }
        true
    }

    /// Asks for another journal in the place of the one that failed, and to be run again meanwhile.
    pub(super) fn await_journal(&mut self, queue: &Arc<QueueShared>, now: Now) {
        queue.keeper().look_after();
        self.armed_us = Some(now.boot_us + RETRY_US);
        queue.keeper().wake_at(queue, now.boot_us + RETRY_US);
    }
}
