//! Every lock-free cell of Millstream, and the one switch between the machine's atomics and loom's.
//!
//! No other module names a raw atomic or an `UnsafeCell`; `clippy.toml` refuses them. What the cells
//! promise is kept by types: a [`Space`] is the sole right to write some bytes of a segment, a
//! [`CommittedRun`] is the right to read some, and neither can be made from thin air.
//!
//! | edge | release side | acquire side | makes visible |
//! | --- | --- | --- | --- |
//! | COMMIT-1 | [`Space::commit`] | [`CommittedRun::extend_if`], [`Region::may_read_on`] | the frame's header and body |
//! | FORMER-1 | fence in [`Region::claim`], [`Region::trip`] | fence in [`Region::read_header`] | who finds a header finds gone what was left in its place |
//! | FRONT-1 | [`Frontier::raise`] | [`Frontier::get`] | all that was done before the frontier rose |
//! | GATE-1 | [`Gate::shut`] | [`Gate::flags`] | the reason stored before the gate shut |
//! | WAKE-1 | fence in [`Waiters::register`] | fence in [`publish_fence`] | one of the two sees the other |
//! | DIRTY-1 | fence in [`Mark::clear`] | fence in [`publish_fence`] | a commit is synced or marks the log |
//! | BATON-1 | [`Held::leave`] | [`Baton::knock`] | the state the last holder left |
//! | BATON-2 | [`Baton::knock`] | [`Held::begin_round`] | the inputs pushed before the knock |
//! | WAKE-2 | fence in [`Mailbox::wake`] | fence in [`Mailbox::poll_pop`] | one of the two sees the other |
//! | CLOSE-1 | [`Mailbox::close`] | [`Mailbox::poll_pop`] | all that was pushed before |
//! | FLAG-1 | fence in [`Flag::set`] | fence in [`Flag::clear`] | what was left is seen or the flag set again |
//! | TRAY-1 | [`Tray::put`], [`Tray::take`] | both | what was added, or that it was taken |
//! | TRAY-2 | fence in [`Tray::put`] | fence in [`Tray::take`] | one of the two sees what the other stored before |
//! | MAP-1, FAULT-1, FAULT-2 | | | see `mappings` |
//!
//! WAKE-1, DIRTY-1, WAKE-2, FLAG-1 and TRAY-2 are store-then-load patterns on both sides, which only `SeqCst`
//! fences order.

#![allow(
    clippy::disallowed_types,
    reason = "this is the module the ban points at"
)]

mod cells;
mod exchange;
pub(crate) mod hint;
mod mappings;
mod region;
mod tail;
mod tray;
mod waiters;

pub(crate) use cells::{Frontier, Gate, Mark, publish_fence};
pub use exchange::{Baton, Counter, Flag, Handed, Held, Lane, Mailbox, Ring};
pub(crate) use mappings::{Alone, MappedPlace, Registration, any_page_lost};
pub(crate) use region::{
    ClaimOutcome, CommittedRun, Extend, FooterSpace, Region, RegionParts, SealSpace, SlotSpace,
    Space,
};
pub use tray::{Put, Tray, TrayBusy};
pub(crate) use waiters::{WaitKey, Waiters};

#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};

#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;

#[cfg(loom)]
pub(crate) use loom::thread::yield_now;

#[cfg(not(loom))]
mod atomic {
    pub(super) use std::sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

#[cfg(loom)]
mod atomic {
    pub(super) use loom::sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

/// Locks `mutex`, taking the state as it is if another thread panicked while holding it.
///
/// Every state kept behind these mutexes is valid between any two statements that change it, so a
/// panic elsewhere leaves nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// Weakened edges, so that models can show that each edge is needed.
#[cfg(loom)]
pub mod mutant {
    use std::cell::Cell;

    /// An edge of the table in the module documentation, or a step that a rule asks for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Mutant {
        /// COMMIT-1's store is `Relaxed`.
        CommitRelease,
        /// COMMIT-1's load is `Relaxed`.
        CommitAcquire,
        /// FRONT-1's store is `Relaxed`.
        FrontRelease,
        /// The publisher's fence is missing (WAKE-1, DIRTY-1).
        PublishFence,
        /// The waiter does not look again after it registered (L6).
        NoSecondLook,
        /// The mark is cleared after `committed` was read (L6).
        ClearLate,
        /// A tripped tail is added to again (L5).
        AddToTripped,
        /// An aborted claim is left open instead of becoming a void frame (L5).
        NoVoid,
        /// Acknowledge by a frame's own commit instead of the prefix (L1).
        AckOwnCommit,
        /// A knock is `Relaxed` (BATON-1, BATON-2).
        KnockRelaxed,
        /// The holder marks the baton after draining instead of before (Q5).
        MarkLate,
        /// The holder leaves by a store, whoever knocked meanwhile (Q5).
        LeaveByStore,
        /// The mailbox looks for a sleeper without its fence (WAKE-2).
        MailboxFence,
        /// The flag is looked at without its fence (FLAG-1).
        FlagFence,
        /// What is put on a tray is not released (TRAY-1).
        TrayRelaxed,
        /// The first of a tray is told without its fence (TRAY-2).
        TrayFence,
        /// Nobody looks what a use before left behind a frame (L7).
        NoLookBehind,
        /// Who claims a frame leaves what was left where its commit word goes (L7).
        FormerStays,
        /// What was left is taken away without a fence behind it (FORMER-1).
        FormerFence,
    }

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Runs `model` with `mutant` in force on this thread (loom runs a model on one thread).
    pub fn with(mutant: Mutant, model: impl FnOnce()) {
        struct Off;
        impl Drop for Off {
            fn drop(&mut self) {
                ACTIVE.with(|active| active.set(None));
            }
        }
        let _off = Off;
        ACTIVE.with(|active| active.set(Some(mutant)));
        model();
    }

    /// True while `mutant` is in force.
    #[must_use]
    pub fn is(mutant: Mutant) -> bool {
        ACTIVE.with(|active| active.get() == Some(mutant))
    }
}

/// True when a model runs with this step broken on purpose; constant `false` in real builds.
macro_rules! mutated {
    ($name:ident) => {{
        #[cfg(loom)]
        {
            $crate::sync::mutant::is($crate::sync::mutant::Mutant::$name)
        }
        #[cfg(not(loom))]
        {
            false
        }
    }};
}
pub(crate) use mutated;
