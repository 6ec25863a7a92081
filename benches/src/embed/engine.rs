//! The engine as a carrier of parcels: a stored topic, published and read without waiting.

use millstream::{BatchBuilder, Durability, Publisher, Reader};

use super::hop::{Hopped, Put, Shape, Take, hop};
use super::parcel::Parcel;
use crate::stage::{Stage, Topic, WAKES_EVERY, publish_batch, publish_one, step_back};

/// Sends `each` parcels a producer through a topic that is made for it.
pub(super) fn hop_through(stage: &mut Stage, shape: Shape, each: u64) -> Hopped {
    let topic = stage.topic(Durability::Stored);
    let puts = (0..shape.producers).map(|_| Publishing::to(&topic));
    let puts: Vec<_> = puts.collect();
    let reading = Reading {
        reader: topic.reader_at_end(),
    };
    hop(puts, reading, shape.batch, each)
}

/// Puts parcels in a topic.
pub(super) struct Publishing {
    publisher: Publisher,
    batch: BatchBuilder,
    since_wake: u64,
}

impl Publishing {
    pub(super) fn to(topic: &Topic) -> Self {
        Self::by(topic.publisher())
    }

    pub(super) fn by(publisher: Publisher) -> Self {
        Self {
            publisher,
            batch: BatchBuilder::new(),
            since_wake: 0,
        }
    }
}

impl Put for Publishing {
    #[inline]
    fn put(&mut self, parcels: &[Parcel]) {
        if let [parcel] = parcels {
            publish_one(&mut self.publisher, &parcel.0);
        } else {
            self.batch.clear();
            for parcel in parcels {
                self.batch
                    .push_body(&parcel.0)
                    .expect("a batch of parcels fits in a frame");
            }
            publish_batch(&mut self.publisher, &self.batch);
        }
        // As a server's loop does: one look for sleepers for many messages.
        self.since_wake += parcels.len() as u64;
        if self.since_wake >= WAKES_EVERY {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.since_wake = 0;
        self.publisher.flush_wakes();
    }
}

struct Reading {
    reader: Reader,
}

impl Take for Reading {
    #[inline]
    fn take(&mut self, mut each: impl FnMut(&[u8])) -> u64 {
        let mut taken = 0;
        while let Some(record) = self.reader.try_next_view() {
            each(record.expect("nothing is damaged").as_bytes());
            taken += 1;
        }
        if taken == 0 {
            step_back();
        }
        taken
    }
}
