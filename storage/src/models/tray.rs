//! Models of the tray.

use loom::sync::atomic::{AtomicBool, Ordering};

use super::exchange::Guarded;
use super::*;
use crate::sync::{Flag, Put, Tray};

/// A tray, and how one tells the other that something is on it.
struct Shared<T> {
    tray: Tray<Guarded>,
    tell: T,
}

impl<T> Shared<T> {
    fn new(tell: T) -> Arc<Self> {
        Arc::new(Self {
            tray: Tray::new(Guarded::new()),
            tell,
        })
    }

    /// What was on the tray.
    fn take(&self) -> u32 {
        loop {
            if let Ok(taken) = self.tray.take(Guarded::take) {
                return taken.unwrap_or(0);
            }
            thread::yield_now();
        }
    }
}

/// TRAY-1: what is added is taken by somebody who was told, or kept by who found another at it.
fn told_by_a_flag() {
    explore(3, || {
        let shared = Shared::new(Flag::new());
        let adder = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let mut kept = 0;
                for _ in 0..2 {
                    match shared.tray.put(1, Guarded::add) {
                        Ok(Put::Joined(())) => continue,
                        Ok(Put::First(())) => {}
                        Err(what) => kept += what,
                    }
                    // Set by this or before: whoever clears it looks.
                    let _ = shared.tell.set();
                }
                kept
            })
        };
        shared.tell.clear();
        let first = shared.tray.take(Guarded::take);
        if first.is_err() {
            // Who takes comes again by himself.
            let _ = shared.tell.set();
        }
        let mut taken = first.ok().flatten().unwrap_or(0);
        taken += adder.join().unwrap();
        if shared.tell.is_set() {
            taken += shared.take();
        }
        assert_eq!(taken, 2, "something was left on the tray");
    });
}

#[test]
fn who_takes_is_told_of_all_that_is_added() {
    told_by_a_flag();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_tray_relaxed() {
    mutant::with(Mutant::TrayRelaxed, told_by_a_flag);
}

/// TRAY-2: who ends it takes what is there, or who adds the first sees that it ended.
fn ended() {
    explore(3, || {
        let shared = Shared::new(AtomicBool::new(false));
        let adder = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let mut taken = 0;
                for _ in 0..2 {
                    match shared.tray.put(1, Guarded::add) {
                        Ok(Put::First(())) if shared.tell.load(Ordering::Relaxed) => {
                            taken += shared.take();
                        }
                        Ok(_) => {}
                        Err(what) => taken += what,
                    }
                }
                taken
            })
        };
        shared.tell.store(true, Ordering::Relaxed);
        let taken = shared.take();
        assert_eq!(
            taken + adder.join().unwrap(),
            2,
            "something was left on the tray"
        );
    });
}

#[test]
fn nothing_is_left_on_a_tray_that_ended() {
    ended();
}

#[test]
#[should_panic(expected = "left on the tray")]
fn mutant_tray_without_its_fence() {
    mutant::with(Mutant::TrayFence, ended);
}
