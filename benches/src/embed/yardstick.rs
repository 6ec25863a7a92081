//! What the engine is measured against in the same run: std's channel, memory, a cache line.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use super::hop::{Hopped, Put, Take, hop};
use super::parcel::Parcel;

/// Slots of the channel.
const SLOTS: usize = 1 << 10;
/// Bytes copied at once, which stay in the cache, and where they go, which does not.
const COPIED_BYTES: usize = 64 << 10;
const INTO_BYTES: usize = 64 << 20;

struct Sending(SyncSender<Parcel>);

impl Put for Sending {
    #[inline]
    fn put(&mut self, parcels: &[Parcel]) {
        for parcel in parcels {
            self.0.send(*parcel).expect("the receiver takes them all");
        }
    }
}

struct Taking(Receiver<Parcel>);

impl Take for Taking {
    #[inline]
    fn take(&mut self, mut each: impl FnMut(&[u8])) -> u64 {
        let mut taken = 0;
        while let Ok(parcel) = self.0.try_recv() {
            each(&parcel.0);
            taken += 1;
        }
        if taken == 0 {
            spin_loop();
        }
        taken
    }
}

/// The same parcels, one by one, through `std::sync::mpsc::sync_channel`.
pub(super) fn hop_through_channel(producers: usize, each: u64) -> Hopped {
    let (sender, receiver) = sync_channel(SLOTS);
    let puts = (0..producers).map(|_| Sending(sender.clone())).collect();
    drop(sender);
    hop(puts, Taking(receiver), 1, each)
}

/// Bytes a second that memory takes: 64 KiB from the cache, again and again, into 64 MiB.
#[must_use]
pub fn memcpy_bytes_per_s() -> f64 {
    let from = vec![7_u8; COPIED_BYTES];
    let mut into = vec![0_u8; INTO_BYTES];
    let mut best = f64::MAX;
    for round in 0..5 {
        let start = Instant::now();
        for place in into.chunks_exact_mut(COPIED_BYTES) {
            place.copy_from_slice(black_box(&from));
        }
        black_box(&mut into);
        if round > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    INTO_BYTES as f64 / best
}

/// A counter in cache lines of its own.
#[repr(align(128))]
struct Line(AtomicU64);

/// Round trips of a number between two threads that look at nothing else, `together` at a time: the
/// nanoseconds of each such group, handed to `note`.
pub(super) fn ping_pong(groups: u64, together: u64, mut note: impl FnMut(u64)) {
    let (there, back) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let last = groups * together;
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=last {
                // Acquire, Release: LINE, the number is all there is to see.
                while there.0.load(Ordering::Acquire) != number {
                    spin_loop();
                }
                // Release: LINE, as above.
                back.0.store(number, Ordering::Release);
            }
        });
        let mut number = 0;
        for _ in 0..groups {
            let start = Instant::now();
            for _ in 0..together {
                number += 1;
                // Release, Acquire: LINE, the way back.
                there.0.store(number, Ordering::Release);
                while back.0.load(Ordering::Acquire) != number {
                    spin_loop();
                }
            }
            note(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    });
}
