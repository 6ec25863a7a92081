//! Looks at what is there, and holds it against the model.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_protocol::batch::{Checked, Record, RecordRun};
use millstream_protocol::control::{PeekedRecord, RecordState};
use millstream_protocol::{Offset, Start, TopicName};
use millstream_storage::crash::End;
use millstream_storage::{Chunk, LogReader, park_until};

use super::life::Life;
use super::model::{Kind, Known};
use super::program::number_of;
use crate::queue::notes;

const ALL: u32 = 1 << 20;

/// What a record is, by its notes.
pub(super) fn known(record: &Record) -> Known {
    let note = |name| notes::header_text(record, name);
    let kind = match (note(notes::QUEUE), note(notes::FOR_QUEUE)) {
        (Some(queue), _) => {
            let offset = note(notes::OFFSET).unwrap().parse().unwrap();
            Kind::Letter(queue, offset)
        }
        (None, Some(queue)) => Kind::Redriven(queue),
        (None, None) => Kind::Published,
    };
    let number = number_of(record.as_bytes());
    Known { number, kind }
}

impl Life {
    /// Reads a topic whole; `None` where it is not there.
    fn read(&self, name: &str) -> Option<(u64, BTreeMap<u64, Known>)> {
        let store = self.store.as_ref()?;
        let log = store.log(&TopicName::parse(name).unwrap())?;
        let mut found = BTreeMap::new();
        let mut reader = LogReader::new(&log, Start::Earliest);
        while reader.next_offset() < log.high_watermark() {
            let Ok(chunk) = park_until(|cx| reader.poll_next(ALL, cx)) else {
                break;
            };
            let Chunk::Frames(slice) = chunk else {
                continue;
            };
            let (place, first) = (slice.place(), slice.first_offset());
            let frames = Bytes::from_owner(slice);
            for record in RecordRun::new(frames, place, Checked::Yes, first) {
                let record = record.unwrap();
                found.insert(record.offset().0, known(&record));
            }
        }
        Some((log.first_offset().0, found))
    }

    /// Takes in what topics hold that only the broker writes to, and what was trimmed.
    pub(super) fn observe(&mut self) {
        let names: Vec<String> = self.model.topics.keys().cloned().collect();
        for name in names {
            if let Some((first, found)) = self.read(&name)
                && !self.folder.is_struck()
            {
                self.model.found(&name, first, &found);
            }
        }
    }

    /// After a start: nothing acknowledged is lost from any topic.
    pub(super) fn observe_start(&mut self, ended: End) {
        let names: Vec<String> = self.model.topics.keys().cloned().collect();
        for name in names {
            let Some((first, found)) = self.read(&name) else {
                let topic = &self.model.topics[&name];
                assert!(topic.present.is_empty(), "the topic {name} is gone");
                continue;
            };
            let topic = self.model.topics.get_mut(&name).unwrap();
            let missing = topic.present.iter().copied();
            let missing: Vec<u64> = missing.filter(|at| !found.contains_key(at)).collect();
            let end = found.last_key_value().map_or(0, |(at, _)| at + 1);
            for offset in missing {
                if ended == End::PowerLoss && offset >= topic.synced.max(end) {
                    topic.present.remove(&offset);
                    self.tally.lost += 1;
                } else {
                    assert!(
                        offset < first,
                        "{name} {offset} is lost after a {ended:?}, and all below {} was synced",
                        topic.synced
                    );
                }
            }
            // What is left of them was trimmed.
            self.model.found(&name, first, &found);
        }
    }

    /// Holds what every queue says is unsettled against the model.
    pub(super) fn check_queues(&mut self) {
        let names: Vec<String> = self.model.queues.keys().cloned().collect();
        for name in names {
            let Some(broker) = &self.broker else { return };
            let mut peeked = broker.peek_queue(&name, Offset(0), ALL);
            // A queue sees no further than what was brought in for it.
            while self.hands.fetch() {
                peeked = broker.peek_queue(&name, Offset(0), ALL);
            }
            let peeked = match peeked {
                Ok(peeked) => peeked,
                Err(_) if !self.model.queues[&name].is_made || self.failing => continue,
                Err(error) => panic!("{name}: {error}"),
            };
            if !self.folder.is_struck() {
                self.check_queue(&name, &peeked);
            }
        }
    }

    fn check_queue(&self, name: &str, peeked: &[PeekedRecord]) {
        let queue = &self.model.queues[name];
        let topic = &self.model.topics[&queue.topic];
        let listed: BTreeMap<u64, &PeekedRecord> =
            peeked.iter().map(|one| (one.offset.0, one)).collect();
        for (offset, one) in &listed {
            // What was only stored may be lost while it is on its way.
            let on_its_way = one.state == RecordState::Moving && topic.stored;
            assert!(
                // A topic that failed does not show all that its queue saw.
                topic.present.contains(offset) || on_its_way || self.failing,
                "{name} has {offset}, which is not there: {one:?}"
            );
            let job = queue.jobs.get(offset).cloned().unwrap_or_default();
            assert!(
                !job.done,
                "{name} {offset} was acknowledged for good, and is {one:?}"
            );
            let attempts = u64::from(one.attempts);
            if one.state == RecordState::Moving {
                assert!(
                    queue.may_move(*offset),
                    "{name} {offset} moves, and nobody said so"
                );
                continue;
            }
            assert!(
                !job.moved,
                "{name} {offset} was moved for good, and is {one:?}"
            );
            assert_eq!(
                self.model.letter(name, *offset),
                None,
                "{name} {offset} died, and lives"
            );
            let leased = u64::from(one.state == RecordState::Leased);
            // While the disk fails, leases may end that the program never heard of.
            let most = if self.failing {
                u64::MAX
            } else {
                job.counted_most + leased
            };
            assert!(
                (job.counted_least..=most).contains(&attempts),
                "{name} {offset} counts {attempts} deliveries: {job:?}"
            );
        }
        for offset in topic.present.range(..self.scanned(name)) {
            let owed =
                !queue.may_end(*offset) && !self.model.is_for_another(&queue.topic, *offset, name);
            assert!(
                !owed || listed.contains_key(offset),
                "{name} {offset} is settled, and nobody settled it: {:?}, {:?}, {peeked:?}",
                topic.given.get(offset),
                self.broker.as_ref().map(|broker| broker.queue(name)),
            );
        }
    }

    /// What is ready in the queue, and was never counted.
    pub(super) fn ready_uncounted(&self, queue: &str) -> Vec<u64> {
        let broker = self.broker.as_ref().unwrap();
        let peeked = broker.peek_queue(queue, Offset(0), ALL).unwrap();
        let fits = |one: &&PeekedRecord| one.state == RecordState::Ready && one.attempts == 0;
        peeked.iter().filter(fits).map(|one| one.offset.0).collect()
    }

    /// How far the queue has looked at its topic.
    fn scanned(&self, queue: &str) -> u64 {
        let name = TopicName::parse(queue).unwrap();
        let Some(queues) = &self.queues else { return 0 };
        let Ok(entry) = queues.entry(&name) else {
            return 0;
        };
        let scanned = entry.queue.look(|core, _| core.scheduler.next_scan().0);
        scanned.unwrap_or(0)
    }

    /// Nothing is left of any queue, and it has looked at all there is.
    pub(super) fn check_drained(&self) {
        let Some(broker) = &self.broker else { return };
        for (name, queue) in &self.model.queues {
            let left = broker.peek_queue(name, Offset(0), 10).unwrap();
            assert!(left.is_empty(), "{name} is never done with {left:?}");
            let last = self.model.topics[&queue.topic].present.last();
            let seen = last.is_none_or(|last| *last < self.scanned(name));
            assert!(seen, "{name} does not see the end of its topic");
        }
    }

    /// At the very end, when everything has arrived: each move exactly once.
    pub(super) fn check_moves(&self) {
        for (name, queue) in &self.model.queues {
            for (offset, job) in &queue.jobs {
                let letters = queue.letters.is_some() && !queue.is_letters(name);
                if letters && job.moved {
                    let letter = self.model.letter(name, *offset);
                    assert!(letter.is_some(), "{name} {offset} has no letter");
                }
            }
            for known in self.model.topics[&queue.topic].given.values() {
                let (least, most) = self.model.redriven(name, known.number);
                let copies = self.model.copies(&queue.topic, known.number);
                assert!(
                    (least..=most).contains(&copies),
                    "{} came back {copies} times to {name}, of {least} to {most}",
                    known.number
                );
            }
        }
    }
}

impl super::model::Queue {
    fn is_letters(&self, name: &str) -> bool {
        name.ends_with(".dead")
    }
}
