//! What a simulation takes into its own hands: the clock, and the work of threads that it has not.
//!
//! Everything happens in one thread. Where that would park until another one has done something, it
//! does a piece of the work itself ([`park_until`](crate::park_until)), and the time is what the
//! simulation says. So a run is the same each time, by its seed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Does a piece of what threads would do; panics when there is nothing, since nobody else comes.
type Piece = Rc<dyn Fn()>;

thread_local! {
    static TIME_US: Cell<Option<u64>> = const { Cell::new(None) };
    static PIECE: RefCell<Option<Piece>> = const { RefCell::new(None) };
}

/// From now on this thread does `piece` wherever it would wait for another.
pub fn work_with(piece: impl Fn() + 'static) {
    PIECE.with_borrow_mut(|place| *place = Some(Rc::new(piece)));
}

/// From now on the clocks that this thread reads stand at `us`.
pub fn set_time_us(us: u64) {
    TIME_US.set(Some(us));
}

/// What the clocks say, if they are in hand.
#[must_use]
pub fn time_us() -> Option<u64> {
    TIME_US.get()
}

/// Whether this thread does the work of those it has not.
#[must_use]
pub fn is_working() -> bool {
    PIECE.with_borrow(Option::is_some)
}

/// Gives clock and work back.
pub fn let_go() {
    TIME_US.set(None);
    PIECE.with_borrow_mut(|place| *place = None);
}

/// Does a piece instead of waiting; false where threads are to be waited for.
pub(crate) fn work_instead() -> bool {
    let piece = PIECE.with_borrow(Clone::clone);
    piece.map(|piece| piece()).is_some()
}
