//! The producers of one topic: who they are, and what is on disk of what is known of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use millstream_protocol::frame::{
    ProducerStamp, PublisherFields, StoredFrame, body_crc, walk_stored,
};
use millstream_protocol::limits::{PRODUCER_WINDOW_MS, PRODUCERS_PER_TOPIC_MAX};
use millstream_protocol::{Offset, Start, TopicName};
use millstream_storage::{Chunk, Log, LogReader, park_until};

use super::entry::Entry;
use super::ledger::{Kept, Piece};
use super::{Producer, ProducerError, Times};

/// How long a producer that does nothing is remembered.
const WINDOW_US: u64 = PRODUCER_WINDOW_MS * 1_000;
/// Bytes of frames looked at together when a topic is read.
const SCAN_BYTES: u32 = 1 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Roll {
    producers: BTreeMap<TopicName, Arc<Producer>>,
    /// All frames below this offset are told in `$producers`.
    scanned: Offset,
    /// What is on disk of the topic behind `scanned` was looked at.
    loaded: bool,
}

impl Roll {
    /// Takes over what `$producers` says.
    pub(super) fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Opened {
                id,
                epoch,
                at_us,
                name,
            } => {
                let there = self.producers.get(&name).filter(|there| there.id == id);
                let producer = there.map_or_else(|| Arc::new(Producer::new(id)), Arc::clone);
                let mut state = producer.lock();
                state.ledger.saw_epoch(epoch);
                state.last_wall_us = state.last_wall_us.max(at_us);
                drop(state);
                self.producers.insert(name, producer);
            }
            Entry::Kept { id, at_us, frames } => {
                if let Some(producer) = self.by_id(id) {
                    let mut state = producer.lock();
                    state.last_wall_us = state.last_wall_us.max(at_us);
                    for kept in frames {
                        state.told = state.told.max(kept.next_sequence());
                        state.ledger.note(kept);
                    }
                }
            }
            Entry::Scanned(offset) => self.scanned = self.scanned.max(offset),
        }
    }

    fn by_id(&self, id: u64) -> Option<&Arc<Producer>> {
        self.producers.values().find(|producer| producer.id == id)
    }

    /// Reads what the topic itself has of its producers, once, and sets their ages.
    ///
    /// Everything that is visible in a log when it opens was synced before (S3). None of its
    /// producers publishes before this was done.
    pub(super) fn load(&mut self, log: &Arc<Log>, now: Times) -> Result<(), ProducerError> {
        if self.loaded {
            return Ok(());
        }
        if !self.producers.is_empty() {
            self.scan(log)?;
            self.set_ages(now);
        }
        self.loaded = true;
        Ok(())
    }

    fn scan(&self, log: &Arc<Log>) -> Result<(), ProducerError> {
        let from = self.scanned.max(log.first_offset());
        let end = log.high_watermark();
        let by_id = self.producers.values().map(|there| (there.id, there));
        let by_id: HashMap<u64, &Arc<Producer>> = by_id.collect();
        let mut reader = LogReader::new(log, Start::Offset(from));
        while reader.next_offset() < end {
            let chunk = park_until(|cx| reader.poll_next(SCAN_BYTES, cx));
            let chunk = chunk.map_err(|error| ProducerError::Storage {
                message: format!("what the topic has of its producers can't be read: {error}"),
            })?;
            let Chunk::Frames(slice) = chunk else {
                continue;
            };
            let place = slice.place();
            let (mut rest, mut position) = (slice.as_bytes(), place.position);
            while let Ok(frame) = walk_stored(rest, place.seed, position, place.nonce_half) {
                let stamp = frame.header().fields.producer;
                if let Some(producer) = by_id.get(&stamp.id) {
                    found(producer, &frame);
                }
                rest = rest.get(frame.frame_bytes() as usize..).unwrap_or_default();
                position += frame.frame_bytes();
                if rest.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Across a restart age is measured in append times, from the newest there is: while nobody
    /// publishes, nobody is forgotten, and a clock that was set means nothing (Q7).
    fn set_ages(&self, now: Times) {
        let wall = |producer: &Arc<Producer>| producer.lock().last_wall_us;
        let newest = self.producers.values().map(wall).max().unwrap_or(0);
        for producer in self.producers.values() {
            let mut state = producer.lock();
            let age_us = newest.saturating_sub(state.last_wall_us);
            state.until_boot_us = now.boot_us.saturating_add(WINDOW_US.saturating_sub(age_us));
        }
    }

    /// The producer `name`, if it is remembered. Needs [`load`](Self::load).
    pub(super) fn find(&mut self, name: &TopicName, now: Times) -> Option<Arc<Producer>> {
        let producer = self.producers.get(name)?;
        if is_forgotten(producer, now) {
            self.producers.remove(name);
            return None;
        }
        Some(Arc::clone(producer))
    }

    /// Whether another producer has a place, after those that are past their window went.
    pub(super) fn has_room(&mut self, now: Times) -> bool {
        if self.producers.len() >= PRODUCERS_PER_TOPIC_MAX {
            self.producers
                .retain(|_, producer| !is_forgotten(producer, now));
        }
        self.producers.len() < PRODUCERS_PER_TOPIC_MAX
    }

    pub(super) fn insert(&mut self, name: TopicName, producer: Arc<Producer>) {
        self.producers.insert(name, producer);
    }

    /// What is to be told so that nothing below `end`, which is synced, need be read again; and
    /// whether that is anything.
    pub(super) fn untold(&self, end: Offset, now: Times) -> Vec<Entry> {
        if self.producers.is_empty() || end <= self.scanned {
            return Vec::new();
        }
        let mut entries = Vec::new();
        for producer in self.producers.values() {
            let state = producer.lock();
            let told = state.told;
            let kept = state
                .ledger
                .kept()
                .filter(|kept| kept.piece.sequence >= told);
            let frames: Vec<Kept> = kept.filter(|kept| kept.end() <= end).copied().collect();
            if !frames.is_empty() {
                entries.push(Entry::Kept {
                    id: producer.id,
                    at_us: state.last_at(now),
                    frames,
                });
            }
        }
        entries.push(Entry::Scanned(end));
        entries
    }

    /// What was told is on disk.
    pub(super) fn told(&mut self, entries: &[Entry]) {
        for entry in entries {
            match entry {
                Entry::Kept { id, frames, .. } => {
                    if let (Some(producer), Some(last)) = (self.by_id(*id), frames.last()) {
                        let mut state = producer.lock();
                        state.told = state.told.max(last.next_sequence());
                        state.untold_bytes = 0;
                    }
                }
                Entry::Scanned(offset) => self.scanned = self.scanned.max(*offset),
                Entry::Opened { .. } => {}
            }
        }
    }

    /// All that was told so far, told again.
    pub(super) fn snapshot(&self, now: Times) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (name, producer) in &self.producers {
            if self.loaded && is_forgotten(producer, now) {
                continue;
            }
            let state = producer.lock();
            let at_us = if self.loaded {
                state.last_at(now)
            } else {
                state.last_wall_us
            };
            entries.push(Entry::Opened {
                id: producer.id,
                epoch: state.ledger.epoch(),
                at_us,
                name: name.clone(),
            });
            let told = state.told;
            let kept = state
                .ledger
                .kept()
                .filter(|kept| kept.piece.sequence < told);
            entries.push(Entry::Kept {
                id: producer.id,
                at_us,
                frames: kept.copied().collect(),
            });
        }
        entries.push(Entry::Scanned(self.scanned));
        entries
    }

    pub(super) fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    pub(super) const fn is_loaded(&self) -> bool {
        self.loaded
    }
}

/// Whether the producer's window is over and nobody holds it.
fn is_forgotten(producer: &Arc<Producer>, now: Times) -> bool {
    // Only the roll gives out the first reference, and the roll is held.
    Arc::strong_count(producer) == 1 && producer.lock().until_boot_us < now.boot_us
}

/// What makes a frame the same as another: the checksum over all that its publisher made but the
/// producer (P2).
pub(super) fn content_crc(fields: &PublisherFields, body: &[u8]) -> u32 {
    let anonymous = PublisherFields {
        producer: ProducerStamp::NONE,
        ..*fields
    };
    body_crc(&anonymous, body)
}

/// Where the window of a producer ends that did something now.
pub(super) const fn window_from(boot_us: u64) -> u64 {
    boot_us.saturating_add(WINDOW_US)
}

/// How long ago a producer whose window ends then did something.
pub(super) const fn age_us(until_boot_us: u64, now_boot_us: u64) -> u64 {
    WINDOW_US.saturating_sub(until_boot_us.saturating_sub(now_boot_us))
}

/// Takes over a frame that is in the topic.
fn found(producer: &Producer, frame: &StoredFrame<'_>) {
    let header = frame.header();
    let stamp = header.fields.producer;
    let mut state = producer.lock();
    state.ledger.saw_epoch(stamp.epoch);
    state.last_wall_us = state.last_wall_us.max(header.append_time_us);
    state.ledger.note(Kept {
        piece: Piece {
            sequence: stamp.sequence,
            records: header.fields.record_count,
            crc: content_crc(&header.fields, frame.body()),
        },
        base: header.base_offset,
    });
}
