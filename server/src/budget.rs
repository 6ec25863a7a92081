//! The memory of output: each session has its own, and all together a budget beyond that.
//!
//! What waits for a socket that nobody reads is on the heap, unless it is stored frames. Each session
//! may keep a little of it; for more it borrows blocks of a budget that all sessions of a server
//! share. Who can not borrow is overdrawn: it takes no input that could add to its output, and makes
//! no more work, until some of what it has is sent. So a client that reads is never stopped by one
//! that does not.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::limits::{OUT_ALLOWANCE_BYTES, OUT_BLOCK_BYTES, OUT_BUDGET_BYTES};

/// The budget of a server.
#[derive(Debug, Clone)]
pub(crate) struct OutBudget {
    blocks: Arc<Semaphore>,
}

impl Default for OutBudget {
    fn default() -> Self {
        Self::of_bytes(OUT_BUDGET_BYTES)
    }
}

impl OutBudget {
    fn of_bytes(bytes: usize) -> Self {
        Self {
            blocks: Arc::new(Semaphore::new(bytes / OUT_BLOCK_BYTES)),
        }
    }
}

/// What one session keeps, and has borrowed for it. Dropping it gives back what it borrowed.
#[derive(Debug, Default)]
pub(crate) struct Account {
    budget: OutBudget,
    used_bytes: usize,
    borrowed_blocks: usize,
}

impl Account {
    pub(crate) fn new(budget: OutBudget) -> Self {
        Self {
            budget,
            used_bytes: 0,
            borrowed_blocks: 0,
        }
    }

    /// Counts bytes that are kept, borrowing for them if that is possible.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.used_bytes += bytes;
        self.covers(0);
    }

    /// Counts bytes as kept no more.
    pub(crate) fn subtract(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.used_bytes, "what goes had come");
        self.used_bytes = self.used_bytes.saturating_sub(bytes);
        self.settle();
    }

    /// Whether more is kept than is covered.
    pub(crate) const fn is_overdrawn(&self) -> bool {
        self.used_bytes > OUT_ALLOWANCE_BYTES + self.borrowed_blocks * OUT_BLOCK_BYTES
    }

    /// Whether `bytes` more are covered, after borrowing for them if need be.
    pub(crate) fn covers(&mut self, bytes: usize) -> bool {
        let needed = Self::blocks_for(self.used_bytes + bytes);
        let missing = needed.saturating_sub(self.borrowed_blocks);
        if missing == 0 {
            return true;
        }
        let blocks = u32::try_from(missing).unwrap_or(u32::MAX);
        match self.budget.blocks.try_acquire_many(blocks) {
            Ok(lent) => {
                lent.forget();
                self.borrowed_blocks += missing;
                true
            }
            Err(_) => false,
        }
    }

    /// What is still covered without borrowing.
    pub(crate) const fn left_bytes(&self) -> usize {
        let covered = OUT_ALLOWANCE_BYTES + self.borrowed_blocks * OUT_BLOCK_BYTES;
        covered.saturating_sub(self.used_bytes)
    }

    /// Gives back what was borrowed and is not needed.
    pub(crate) fn settle(&mut self) {
        let spare = self
            .borrowed_blocks
            .saturating_sub(Self::blocks_for(self.used_bytes));
        if spare > 0 {
            self.borrowed_blocks -= spare;
            self.budget.blocks.add_permits(spare);
        }
    }

    const fn blocks_for(bytes: usize) -> usize {
        bytes
            .saturating_sub(OUT_ALLOWANCE_BYTES)
            .div_ceil(OUT_BLOCK_BYTES)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.used_bytes = 0;
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_borrows_another_can_not_and_each_has_its_own() {
        let budget = OutBudget::of_bytes(4 * OUT_BLOCK_BYTES);
        let mut one = Account::new(budget.clone());
        let mut other = Account::new(budget.clone());
        one.add(OUT_ALLOWANCE_BYTES + 4 * OUT_BLOCK_BYTES);
        assert!(!one.is_overdrawn());
        other.add(OUT_ALLOWANCE_BYTES);
        assert!(!other.is_overdrawn(), "that is its own");
        other.add(1);
        assert!(other.is_overdrawn() && !other.covers(1));
        one.subtract(1);
        assert!(!other.covers(0), "the block is in use");
        one.subtract(OUT_BLOCK_BYTES);
        assert!(other.covers(0) && !other.is_overdrawn());
        drop((one, other));
        assert_eq!(budget.blocks.available_permits(), 4);
    }

    #[test]
    fn what_was_borrowed_for_nothing_goes_back() {
        let budget = OutBudget::of_bytes(4 * OUT_BLOCK_BYTES);
        let mut account = Account::new(budget.clone());
        assert_eq!(account.left_bytes(), OUT_ALLOWANCE_BYTES);
        assert!(account.covers(OUT_ALLOWANCE_BYTES + 4 * OUT_BLOCK_BYTES));
        assert_eq!(budget.blocks.available_permits(), 0);
        account.settle();
        assert_eq!(budget.blocks.available_permits(), 4);
        assert!(!account.covers(OUT_ALLOWANCE_BYTES + 4 * OUT_BLOCK_BYTES + 1));
    }
}
