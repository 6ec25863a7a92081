//! Rings, which send several at once: disruptor, and rtrb for one sender.

use std::hint::spin_loop;
use std::path::Path;

use disruptor::{
    BusySpin, EventPoller, MultiProducerBarrier, Producer, SingleProducerBarrier,
    build_multi_producer, build_single_producer,
};
use millstream_benches::embed::hop::{Hopped, Put, Shape, Take, hop};
use millstream_benches::embed::{PARCEL_BYTES, Parcel};

use crate::{Contender, trip};

/// Slots of a ring.
const SLOTS: usize = 1 << 10;

fn blank() -> Parcel {
    Parcel([0; PARCEL_BYTES])
}

/// One end of a disruptor.
struct Publishing<P>(P);

impl<P: Producer<Parcel> + Send> Put for Publishing<P> {
    #[inline]
    fn put(&mut self, parcels: &[Parcel]) {
        if let [parcel] = parcels {
            self.0.publish(|slot| *slot = *parcel);
        } else {
            self.0.batch_publish(parcels.len(), |slots| {
                for (slot, parcel) in slots.zip(parcels) {
                    *slot = *parcel;
                }
            });
        }
    }
}

/// The other end.
struct Polling<B>(EventPoller<Parcel, B>);

/// What bounds these is not told outside of the crate.
macro_rules! polling {
    ($($barrier:ty),*) => {
        $(impl Take for Polling<$barrier> {
            #[inline]
            fn take(&mut self, mut each: impl FnMut(&[u8])) -> u64 {
                let mut taken = 0;
                match self.0.poll() {
                    Ok(mut parcels) => {
                        for parcel in &mut parcels {
                            each(&parcel.0);
                            taken += 1;
                        }
                    }
                    Err(_) => spin_loop(),
                }
                taken
            }
        })*
    };
}
polling!(SingleProducerBarrier, MultiProducerBarrier);

fn hop_through_disruptor(_: &Path, shape: Shape, each: u64) -> Option<Hopped> {
    Some(if shape.producers == 1 {
        let builder = build_single_producer(SLOTS, blank, BusySpin);
        let (poller, builder) = builder.new_event_poller();
        let puts = vec![Publishing(builder.build())];
        hop(puts, Polling(poller), shape.batch, each)
    } else {
        let builder = build_multi_producer(SLOTS, blank, BusySpin);
        let (poller, builder) = builder.new_event_poller();
        let producer = builder.build();
        let puts = (0..shape.producers).map(|_| Publishing(producer.clone()));
        hop(puts.collect(), Polling(poller), shape.batch, each)
    })
}

fn trip_through_disruptor(_: &Path) -> Option<u64> {
    let pair = || {
        let builder = build_single_producer(SLOTS, blank, BusySpin);
        let (poller, builder) = builder.new_event_poller();
        (Publishing(builder.build()), Polling(poller))
    };
    Some(trip::p50_ns(pair(), pair()))
}

struct Pushing(rtrb::Producer<Parcel>);

impl Put for Pushing {
    #[inline]
    fn put(&mut self, parcels: &[Parcel]) {
        if let [parcel] = parcels {
            while self.0.push(*parcel).is_err() {
                spin_loop();
            }
        } else {
            loop {
                if let Ok(chunk) = self.0.write_chunk_uninit(parcels.len()) {
                    chunk.fill_from_iter(parcels.iter().copied());
                    return;
                }
                spin_loop();
            }
        }
    }
}

struct Popping(rtrb::Consumer<Parcel>);

impl Take for Popping {
    #[inline]
    fn take(&mut self, mut each: impl FnMut(&[u8])) -> u64 {
        let there = self.0.slots();
        let Ok(chunk) = self.0.read_chunk(there) else {
            return 0;
        };
        if there == 0 {
            spin_loop();
        }
        let (first, second) = chunk.as_slices();
        for parcel in first.iter().chain(second) {
            each(&parcel.0);
        }
        chunk.commit_all();
        there as u64
    }
}

fn hop_through_rtrb(_: &Path, shape: Shape, each: u64) -> Option<Hopped> {
    if shape.producers > 1 {
        return None;
    }
    let (producer, consumer) = rtrb::RingBuffer::new(SLOTS);
    Some(hop(
        vec![Pushing(producer)],
        Popping(consumer),
        shape.batch,
        each,
    ))
}

fn trip_through_rtrb(_: &Path) -> Option<u64> {
    let pair = || {
        let (producer, consumer) = rtrb::RingBuffer::new(SLOTS);
        (Pushing(producer), Popping(consumer))
    };
    Some(trip::p50_ns(pair(), pair()))
}

pub(crate) fn contenders() -> Vec<Contender> {
    vec![
        Contender {
            name: "disruptor",
            package: "disruptor",
            keeps: "memory",
            share: 1,
            hop: hop_through_disruptor,
            trip: trip_through_disruptor,
        },
        Contender {
            name: "rtrb",
            package: "rtrb",
            keeps: "memory",
            share: 1,
            hop: hop_through_rtrb,
            trip: trip_through_rtrb,
        },
    ]
}
