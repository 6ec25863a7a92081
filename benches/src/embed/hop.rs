//! A hop: parcels from one or two threads to another, through whatever carries them.

use std::time::{Duration, Instant};

use super::parcel::{Check, PARCEL_BYTES, Parcel};
use crate::load::Delivered;
use crate::stage::time_together;

/// Without a parcel for so long, what did not come is lost.
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// Turns without a parcel between two looks at the clock.
const TURNS: u32 = 1 << 12;

/// Puts parcels in.
pub trait Put: Send {
    /// Puts them all in, one behind the other; waits for room.
    fn put(&mut self, parcels: &[Parcel]);

    /// All were put in.
    fn finish(&mut self) {}
}

/// Takes parcels out.
pub trait Take: Send {
    /// Hands over what is there at this moment; how many that was. Steps back a little if none.
    fn take(&mut self, each: impl FnMut(&[u8])) -> u64;
}

/// How many threads send what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Threads that send.
    pub producers: usize,
    /// Parcels handed over together.
    pub batch: usize,
}

/// What a hop came to.
#[derive(Debug)]
pub struct Hopped {
    /// Parcels.
    pub messages: u64,
    /// Until the last was received.
    pub spent: Duration,
    /// What became of them.
    pub delivered: Delivered,
}

/// Sends `each` parcels, rounded to whole batches, from every one of `puts` to `take`.
#[must_use]
pub fn hop<P: Put, T: Take>(puts: Vec<P>, mut take: T, batch: usize, each: u64) -> Hopped {
    let each = each - each % batch as u64;
    let producers = puts.len();
    let messages = each * producers as u64;
    let mut check = Check::new(producers);
    let spent = {
        let mut work: Vec<crate::stage::Work<'_>> = Vec::new();
        for (producer, mut put) in puts.into_iter().enumerate() {
            work.push(Box::new(move || {
                send(&mut put, producer as u64, (batch, each));
            }));
        }
        let check = &mut check;
        let take = &mut take;
        work.push(Box::new(move || receive(take, check, messages)));
        time_together(work)
    };
    Hopped {
        messages,
        spent,
        delivered: check.settle(each),
    }
}

/// Puts `each` parcels of a producer in, `batch` at a time.
pub(super) fn send(put: &mut impl Put, producer: u64, (batch, each): (usize, u64)) {
    if batch == 1 {
        for sequence in 0..each {
            put.put(&[Parcel::new(producer, sequence)]);
        }
    } else {
        let mut parcels = vec![Parcel([0; PARCEL_BYTES]); batch];
        let mut sequence = 0;
        while sequence < each {
            for parcel in &mut parcels {
                *parcel = Parcel::new(producer, sequence);
                sequence += 1;
            }
            put.put(&parcels);
        }
    }
    put.finish();
}

fn receive(take: &mut impl Take, check: &mut Check, messages: u64) {
    let mut idle = 0;
    let mut heard = Instant::now();
    while check.received() < messages {
        if take.take(|bytes| check.take(bytes)) > 0 {
            idle = 0;
            continue;
        }
        idle += 1;
        if idle == 1 {
            heard = Instant::now();
        } else if idle % TURNS == 0 {
            // Where processors are few and shared, whoever is to send needs this one.
            std::thread::yield_now();
            if heard.elapsed() > SILENCE {
                return;
            }
        }
    }
}
