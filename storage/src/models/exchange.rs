//! Models of ring and baton, of the mailbox, and of the flag.

use loom::cell::UnsafeCell;

use super::*;
use crate::sync::{Baton, Flag, Handed, Held, Mailbox, Ring};

/// What the baton guards: a sum that loom sees every access to.
pub(super) struct Guarded(UnsafeCell<u32>);

// SAFETY: reached only by one thread at a time, which is what the models check.
unsafe impl Send for Guarded {}

impl Guarded {
    pub(super) fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    pub(super) fn add(&mut self, number: u32) {
        // SAFETY: loom fails the model if another access is not ordered with this one.
        self.0.with_mut(|sum| unsafe { *sum += number });
    }

    fn get(&self) -> u32 {
        // SAFETY: as above.
        self.0.with(|sum| unsafe { *sum })
    }

    pub(super) fn take(&mut self) -> u32 {
        // SAFETY: as above.
        self.0.with_mut(|sum| unsafe { std::mem::take(&mut *sum) })
    }
}

/// A queue: inputs, and the sum of those taken.
struct Queue {
    ring: Ring<u32>,
    baton: Baton<Guarded>,
    /// What a holder handed over, for a worker.
    handed: Mutex<Vec<Handed>>,
}

impl Queue {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ring: Ring::new(4),
            baton: Baton::new(Guarded::new()),
            handed: Mutex::new(Vec::new()),
        })
    }

    fn put(&self, number: u32) {
        assert_eq!(self.ring.push(number), Ok(()));
        if let Some(held) = self.baton.knock() {
            self.run(held);
        }
    }

    fn run(&self, mut held: Held<'_, Guarded>) {
        loop {
            held.begin_round();
            while let Some(number) = self.ring.pop() {
                held.add(number);
            }
            match held.leave() {
                Ok(()) => return,
                Err(again) => held = again,
            }
        }
    }

    /// What was taken, once everybody is gone.
    fn sum(&self) -> u32 {
        for handed in self.handed.lock().unwrap().drain(..) {
            self.run(self.baton.resume(handed));
        }
        assert!(self.ring.is_empty(), "an input was left behind");
        let held = self.baton.knock().expect("the baton was not left");
        held.get()
    }
}

/// Q5: whoever pushes last, no input is left behind, and two never hold the baton.
fn ring_and_baton() {
    explore(3, || {
        let queue = Queue::new();
        let other = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.put(1))
        };
        queue.put(2);
        other.join().unwrap();
        assert_eq!(queue.sum(), 3);
    });
}

#[test]
fn no_input_is_left_behind_and_one_holds_the_baton() {
    ring_and_baton();
}

#[test]
#[should_panic(expected = "left behind")]
fn mutant_baton_left_by_a_store() {
    mutant::with(Mutant::LeaveByStore, ring_and_baton);
}

#[test]
#[should_panic(expected = "left behind")]
fn mutant_baton_marked_after_draining() {
    mutant::with(Mutant::MarkLate, ring_and_baton);
}

/// BATON-1 by itself: the ring, which orders much as a side effect, is left out.
fn baton_alone() {
    explore(3, || {
        let baton = Arc::new(Baton::new(Guarded::new()));
        let work = |baton: &Baton<Guarded>| {
            let Some(mut held) = baton.knock() else {
                return;
            };
            held.add(1);
            loop {
                held.begin_round();
                held.add(1);
                match held.leave() {
                    Ok(()) => return,
                    Err(again) => held = again,
                }
            }
        };
        let other = {
            let baton = Arc::clone(&baton);
            thread::spawn(move || work(&baton))
        };
        work(&baton);
        other.join().unwrap();
        let sum = baton.knock().expect("the baton was not left").get();
        assert!((2..=5).contains(&sum), "a knock was not answered: {sum}");
    });
}

#[test]
fn the_next_holder_sees_what_the_last_one_left() {
    baton_alone();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_knock_relaxed() {
    mutant::with(Mutant::KnockRelaxed, baton_alone);
}

/// Q5: what is handed over stays with one holder, and who knocks meanwhile is served.
#[test]
fn a_baton_handed_over_is_still_one() {
    explore(3, || {
        let queue = Queue::new();
        let other = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.put(1))
        };
        assert_eq!(queue.ring.push(2), Ok(()));
        if let Some(mut held) = queue.baton.knock() {
            held.begin_round();
            held.add(4);
            queue.handed.lock().unwrap().push(held.hand_over());
        }
        other.join().unwrap();
        let sum = queue.sum();
        assert!(sum == 3 || sum == 7, "{sum}");
    });
}

/// WAKE-2: who sleeps on an empty mailbox is woken by what comes.
#[test]
fn a_mailbox_wakes_its_reader() {
    explore(3, || {
        let mailbox = Arc::new(Mailbox::new());
        let sender = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.push(7))
        };
        let taken = sleeps_well(|cx| mailbox.poll_pop(cx), || sender.join().unwrap());
        assert_eq!(taken, Some(7));
    });
}

/// WAKE-2 again, by the one thing told without the ring.
fn mailbox() {
    explore(3, || {
        let mailbox = Arc::new(Mailbox::<u32>::new());
        let closer = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.close())
        };
        let taken = sleeps_well(|cx| mailbox.poll_pop(cx), || closer.join().unwrap());
        assert_eq!(taken, None);
    });
}

#[test]
fn a_closed_mailbox_wakes_its_reader() {
    mailbox();
}

#[test]
#[should_panic(expected = "nobody woke the sleeper")]
fn mutant_mailbox_without_its_fence() {
    mutant::with(Mutant::MailboxFence, mailbox);
}

/// FLAG-1: what is left behind a flag found set is seen by whoever clears it.
fn flag() {
    explore(3, || {
        let word = Arc::new(loom::sync::atomic::AtomicU32::new(0));
        let flag = Arc::new(Flag::new());
        assert!(flag.set());
        let leaver = {
            let (word, flag) = (Arc::clone(&word), Arc::clone(&flag));
            thread::spawn(move || {
                word.store(1, loom::sync::atomic::Ordering::Relaxed);
                flag.set()
            })
        };
        flag.clear();
        let seen = word.load(loom::sync::atomic::Ordering::Relaxed) == 1;
        let set_again = leaver.join().unwrap();
        assert!(seen || set_again, "neither seen nor set again");
    });
}

#[test]
fn what_is_left_behind_a_flag_is_seen() {
    flag();
}

#[test]
#[should_panic(expected = "neither seen nor set again")]
fn mutant_flag_without_its_fence() {
    mutant::with(Mutant::FlagFence, flag);
}
