//! Whoever waits does a piece of what the threads would do, or lets time pass.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use millstream_storage::crash::Piece;
use millstream_storage::{Store, hand};

use crate::queue::Queues;

/// Any time will do.
const FIRST_US: u64 = 1_700_000_000_000_000;
/// So much passes when there is nothing to do.
const STEP_US: u64 = 50_000;
/// Somebody who waits this long waits for ever.
const PATIENCE_US: u64 = 120_000_000;

#[derive(Default)]
struct Place {
    store: Weak<Store>,
    queues: Weak<Queues>,
    now_us: u64,
    /// Since when nothing but waiting happens.
    idle_from_us: u64,
}

pub(in crate::queue) struct Hands(Rc<RefCell<Place>>);

impl Hands {
    pub(in crate::queue) fn new() -> Self {
        hand::set_time_us(FIRST_US);
        let place = Rc::new(RefCell::new(Place {
            now_us: FIRST_US,
            idle_from_us: FIRST_US,
            ..Place::default()
        }));
        let there = Rc::clone(&place);
        hand::work_with(move || wait(&there));
        Self(place)
    }

    pub(in crate::queue) fn set_store(&self, store: &Arc<Store>) {
        self.0.borrow_mut().store = Arc::downgrade(store);
    }

    pub(in crate::queue) fn set_queues(&self, queues: &Arc<Queues>) {
        self.0.borrow_mut().queues = Arc::downgrade(queues);
    }

    /// Does all there is to do now.
    pub(in crate::queue) fn work_off(&self) {
        while work(&self.0) {}
        let mut place = self.0.borrow_mut();
        place.idle_from_us = place.now_us;
    }

    pub(in crate::queue) fn pass_ms(&self, ms: u64) {
        let mut place = self.0.borrow_mut();
        place.now_us += ms * 1_000;
        hand::set_time_us(place.now_us);
    }

    /// Sets all clocks, also back.
    pub(in crate::queue) fn set_us(&self, us: u64) {
        let mut place = self.0.borrow_mut();
        (place.now_us, place.idle_from_us) = (us, us);
        hand::set_time_us(us);
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        hand::let_go();
    }
}

/// Does one piece; false where nothing is to do.
fn work(place: &RefCell<Place>) -> bool {
    let (store, queues) = {
        let place = place.borrow();
        (place.store.upgrade(), place.queues.upgrade())
    };
    let Some(store) = store else { return false };
    let pieces = [Piece::Sync, Piece::Prepare, Piece::Fetch];
    pieces.into_iter().any(|piece| store.work_by_hand(piece))
        || queues.is_some_and(|queues| queues.keeper.work_by_hand())
}

fn wait(place: &RefCell<Place>) {
    if work(place) {
        return;
    }
    // Of the chores the one that somebody may wait for.
    let queues = place.borrow().queues.upgrade();
    if let Some(queues) = queues
        && queues.keeper.take_chore()
    {
        queues.replace_failed_journal();
        queues.keeper.look_after();
    }
    let store = {
        let mut place = place.borrow_mut();
        place.now_us += STEP_US;
        hand::set_time_us(place.now_us);
        let waited_us = place.now_us - place.idle_from_us;
        assert!(waited_us < PATIENCE_US, "somebody waits for ever");
        place.store.upgrade()
    };
    if let Some(store) = store {
        store.work_by_hand(Piece::Later);
    }
}
