//! The bound of what a stored topic may lose (S4), as its publishers see it.

use super::life::Topic;
use crate::sync::Gate;

/// Nobody publishes while what was committed this long ago is not synced.
const BOUND_US: u64 = 1_000_000;

impl Topic {
    /// All below `committed` is committed at `now_us`, and all below `synced` is synced.
    pub(super) fn note_committed(&mut self, committed: u64, synced: u64, now_us: u64) {
        if self.unsynced.back().is_none_or(|(end, _)| *end < committed) {
            self.unsynced.push_back((committed, now_us));
        }
        self.forget_synced(synced);
    }

    fn forget_synced(&mut self, synced: u64) {
        while self.unsynced.front().is_some_and(|(end, _)| *end <= synced) {
            self.unsynced.pop_front();
        }
    }

    /// After a publish was announced: the next is held where a power loss could take more than the
    /// bound says.
    pub(super) fn check_bound(&mut self, now_us: u64) {
        let Some(log) = self.log.clone() else { return };
        self.forget_synced(log.synced().0);
        let Some((_, since_us)) = self.unsynced.front() else {
            return;
        };
        let synced_topic = log.identity().durability == millstream_protocol::Durability::Synced;
        let old = now_us - since_us > BOUND_US;
        if old && !synced_topic {
            let held = log.gate_flags() & (Gate::HELD | Gate::POISONED) != 0;
            assert!(held, "published beyond the bound of what may be lost");
        }
    }
}
