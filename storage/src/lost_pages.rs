//! Logs whose segments lost pages: what is stored is stored only where it is synced (S6).
//!
//! The handler of faults says in a table that a page of a mapping is not the file's any more, and
//! nothing else: it may have interrupted anything. Whoever is about to promise something looks there,
//! behind the commit, and behind the sync.

use std::sync::Arc;

use crate::log::Log;
use crate::segment::Segment;
use crate::sync::{Gate, any_page_lost};

impl Log {
    /// Whether a segment that this run writes to lost a page: then the log is poisoned, and being
    /// committed means nothing more. One load where no page of any segment was ever lost.
    #[inline]
    pub(crate) fn has_lost_pages(&self) -> bool {
        any_page_lost() && self.look_for_lost_pages()
    }

    #[cold]
    fn look_for_lost_pages(&self) -> bool {
        if self.gate_flags() & Gate::LOST != 0 {
            return true;
        }
        let lost = self
            .chain()
            .held()
            .iter()
            .find_map(|segment| segment.lost_pages());
        match lost {
            Some(error) => {
                self.lose(&error);
                true
            }
            None => false,
        }
    }

    /// Takes pages of `segment` that can't be read for lost, if this run still writes to it.
    pub(crate) fn note_unreadable(&self, segment: &Arc<Segment>, error: &std::io::Error) {
        let written = self.chain().held();
        if written.iter().any(|held| Arc::ptr_eq(held, segment)) {
            self.lose(error);
        }
    }

    fn lose(&self, error: &std::io::Error) {
        self.shut_for(Gate::LOST);
        self.poison(error);
    }
}

impl Segment {
    /// Why it lost pages, if it did.
    pub(crate) fn lost_pages(&self) -> Option<std::io::Error> {
        self.region().memory().lost_pages()
    }

    /// Whether its bytes may be taken as they are: of this run, and no page of it is lost. All others
    /// are checked (L7).
    #[inline]
    pub(crate) fn is_trusted(&self) -> bool {
        self.earlier_end().is_none() && !(any_page_lost() && self.lost_pages().is_some())
    }

    /// Brings the pages from `position` to `until` into memory.
    pub(crate) fn bring_in(&self, position: u32, until: u32) -> std::io::Result<()> {
        let range = position as usize..until.max(position) as usize;
        self.region().memory().populate(range)
    }
}
