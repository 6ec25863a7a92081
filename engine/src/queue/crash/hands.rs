//! Whoever waits does a piece of the work that is waited for: there is one thread.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use millstream_storage::Store;
use millstream_storage::crash::{CrashFolder, Dice, Piece};
use millstream_storage::hand;

use crate::queue::Queues;

/// Pieces in one run; with more, somebody waits for what never comes.
const PIECES_MAX: u64 = 400_000;

/// How far the clock is set on where only that can help.
const LEAP_US: u64 = 100_000;
/// And how far at most while one thing is done: less than any lease.
pub(super) const LEAPS_US: u64 = 1_000_000;

/// Somebody waited when the machine was down already: his thread is gone.
struct Down;

/// What there is to work on.
#[derive(Default)]
struct Place {
    folder: Option<CrashFolder>,
    store: Weak<Store>,
    queues: Weak<Queues>,
    dice: Option<Dice>,
    pieces: u64,
    /// How far the clock may still be set on while somebody waits.
    leap_us: u64,
    /// What happens while somebody waits, once it can.
    meanwhile: Option<Meanwhile>,
}

/// True once it has done its part.
type Meanwhile = Box<dyn FnMut() -> bool>;

/// The hands of one life.
pub(super) struct Hands(Rc<RefCell<Place>>);

impl Hands {
    /// Takes over this thread's waiting.
    pub(super) fn new(seed: u64) -> Self {
        let place = Rc::new(RefCell::new(Place {
            dice: Some(Dice::new(!seed)),
            ..Place::default()
        }));
        let there = Rc::clone(&place);
        hand::work_with(move || wait(&there));
        Self(place)
    }

    pub(super) fn start(&self, folder: &CrashFolder) {
        let mut place = self.0.borrow_mut();
        place.folder = Some(folder.clone());
        place.store = Weak::new();
        place.queues = Weak::new();
        place.pieces = 0;
        place.leap_us = LEAPS_US;
    }

    /// Something is begun that may wait.
    pub(super) fn begin(&self) {
        self.0.borrow_mut().leap_us = LEAPS_US;
    }

    pub(super) fn set_store(&self, store: &Arc<Store>) {
        self.0.borrow_mut().store = Arc::downgrade(store);
    }

    pub(super) fn set_queues(&self, queues: &Arc<Queues>) {
        self.0.borrow_mut().queues = Arc::downgrade(queues);
    }

    /// Has `run` tried whenever somebody waits, until it says that it has done its part.
    pub(super) fn meanwhile(&self, run: impl FnMut() -> bool + 'static) {
        self.0.borrow_mut().meanwhile = Some(Box::new(run));
    }

    /// Does one piece; false where nothing is to do.
    pub(super) fn work_once(&self) -> bool {
        work(&self.0)
    }

    /// Brings in what readers wait for; false where nobody does.
    pub(super) fn fetch(&self) -> bool {
        let store = self.0.borrow().store.upgrade();
        let Some(store) = store else { return false };
        let mut any = false;
        while store.work_by_hand(Piece::Fetch) {
            any = true;
        }
        any
    }

    /// Looks at something that is due later as if it were due.
    pub(super) fn look_later(&self) -> bool {
        let store = self.0.borrow().store.upgrade();
        store.is_some_and(|store| store.work_by_hand(Piece::Later))
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        hand::let_go();
    }
}

/// Runs `run`; `None` where the machine went down while it waited.
pub(super) fn until_down<T>(run: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(done) => Some(done),
        Err(panic) if panic.is::<Down>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

fn work(place: &RefCell<Place>) -> bool {
    let (store, queues, first) = {
        let mut place = place.borrow_mut();
        place.pieces += 1;
        assert!(place.pieces < PIECES_MAX, "somebody waits for ever");
        let first = place.dice.as_mut().map_or(0, |dice| dice.below(4));
        (place.store.upgrade(), place.queues.upgrade(), first)
    };
    let Some(store) = store else { return false };
    (0..4).any(|at| match (first + at) % 4 {
        0 => store.work_by_hand(Piece::Sync),
        1 => store.work_by_hand(Piece::Prepare),
        2 => store.work_by_hand(Piece::Fetch),
        _ => queues
            .as_ref()
            .is_some_and(|queues| queues.keeper.work_by_hand()),
    })
}

fn wait(place: &RefCell<Place>) {
    let meanwhile = place.borrow_mut().meanwhile.take();
    if let Some(mut run) = meanwhile
        && !run()
    {
        place.borrow_mut().meanwhile = Some(run);
    }
    if work(place) {
        return;
    }
    let (store, struck) = {
        let place = place.borrow();
        let struck = place.folder.as_ref().is_none_or(CrashFolder::is_struck);
        (place.store.upgrade(), struck)
    };
    if struck {
        resume_unwind(Box::new(Down));
    }
    if store.is_some_and(|store| store.work_by_hand(Piece::Later)) {
        return;
    }
    // What found no room is tried again after a while.
    let left_us = &mut place.borrow_mut().leap_us;
    assert!(
        *left_us >= LEAP_US,
        "somebody waits, and nobody has anything to do"
    );
    *left_us -= LEAP_US;
    hand::set_time_us(hand::time_us().unwrap_or(0) + LEAP_US);
}
