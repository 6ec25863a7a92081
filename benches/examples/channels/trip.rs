//! One parcel there and back, both threads polling.

use std::time::Instant;

use millstream_benches::embed::Parcel;
use millstream_benches::embed::hop::{Put, Take};
use millstream_benches::load::Latency;

/// Round trips timed together, so that the clock costs little of it; their mean is noted.
const TOGETHER: u64 = 16;
/// Groups of round trips.
const GROUPS: u64 = 500;

/// Turns without a parcel after which the processor is offered to others.
const TURNS: u64 = 1 << 12;

/// Nanoseconds of a round trip, the median over groups of [`TOGETHER`].
pub(crate) fn p50_ns<P: Put, T: Take>(there: (P, T), back: (P, T)) -> u64 {
    let (mut ask, mut listen) = there;
    let (mut answer, mut hear) = back;
    let mut latency = Latency::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..GROUPS * TOGETHER {
                let parcel = take_one(&mut listen);
                answer.put(&[parcel]);
                answer.finish();
            }
        });
        for group in 0..GROUPS {
            let start = Instant::now();
            for number in 0..TOGETHER {
                let parcel = Parcel::new(0, group * TOGETHER + number);
                ask.put(&[parcel]);
                ask.finish();
                let back = take_one(&mut hear);
                assert_eq!(back.0, parcel.0, "what comes back is what was sent");
            }
            let nanoseconds = start.elapsed().as_nanos() / u128::from(TOGETHER);
            latency.note(u64::try_from(nanoseconds).unwrap_or(u64::MAX), TOGETHER);
        }
    });
    latency.percentiles().p50_ns
}

fn take_one(take: &mut impl Take) -> Parcel {
    let mut taken = None;
    for turn in 1_u64.. {
        take.take(|bytes| taken = bytes.try_into().ok().map(Parcel));
        if let Some(parcel) = taken {
            return parcel;
        }
        if turn % TURNS == 0 {
            // Where processors are few and shared, whoever is to send needs this one.
            std::thread::yield_now();
        }
    }
    unreachable!("the turns don't end")
}
