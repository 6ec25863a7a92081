//! How a server is told to stop, and how its threads and connections hear of it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::task::Waker;

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Accept nothing more, say goodbye, finish and acknowledge what was received.
    Graceful,
    /// Drop all connections. What was acknowledged stays true; the rest is for clients to ask about.
    Fast,
}

/// What a server is doing; it only moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Serving,
    Draining,
    Dropping,
}

impl From<Shutdown> for Stage {
    fn from(shutdown: Shutdown) -> Self {
        match shutdown {
            Shutdown::Graceful => Self::Draining,
            Shutdown::Fast => Self::Dropping,
        }
    }
}

/// A connection's place in its thread's [`Roster`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place(u64);

/// The connections of one I/O thread, and the stage they should be in.
///
/// Reading the stage costs nothing; a change wakes every connection once.
#[derive(Debug)]
pub(crate) struct Roster {
    stage: Cell<Stage>,
    wakers: RefCell<HashMap<Place, Waker>>,
    next: Cell<u64>,
}

impl Roster {
    pub(crate) fn new() -> Self {
        Self {
            stage: Cell::new(Stage::Serving),
            wakers: RefCell::default(),
            next: Cell::new(0),
        }
    }

    pub(crate) const fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Moves on to `stage`, unless that is behind.
    pub(crate) fn advance(&self, stage: Stage) {
        if stage > self.stage.get() {
            self.stage.set(stage);
            for waker in self.wakers.borrow().values() {
                waker.wake_by_ref();
            }
        }
    }

    /// Lets a connection hear of every next stage through `waker`, until it leaves its place.
    pub(crate) fn join(&self, waker: &Waker) -> Place {
        let place = Place(self.next.get());
        self.next.set(place.0 + 1);
        self.wakers.borrow_mut().insert(place, waker.clone());
        place
    }

    pub(crate) fn leave(&self, place: Place) {
        self.wakers.borrow_mut().remove(&place);
    }
}
