//! What topics hold and what queues owe, kept as plainly as can be.

use std::collections::{BTreeMap, BTreeSet};

use millstream_protocol::control::Retention;

/// What a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Published by the program.
    Published,
    /// A dead letter of this queue, that was at this offset.
    Letter(String, u64),
    /// Sent back to this queue.
    Redriven(String),
}

/// One record of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// The number in its body; copies have the original's.
    pub(super) number: u64,
    pub(super) kind: Kind,
}

/// One topic.
#[derive(Debug, Default)]
pub(super) struct Topic {
    /// Every offset that ever stood for a record.
    pub(super) given: BTreeMap<u64, Known>,
    /// Those that are there.
    pub(super) present: BTreeSet<u64>,
    /// All below survives power loss.
    pub(super) synced: u64,
    /// It gives what is stored, synced or not.
    pub(super) stored: bool,
}

/// What one queue owes about one record.
#[derive(Debug, Default, Clone)]
pub(super) struct Job {
    /// Acknowledgements on their way, or of which nobody heard.
    pub(super) acks: u32,
    /// Rejections and the like.
    pub(super) moves: u32,
    /// An acknowledgement was confirmed.
    pub(super) done: bool,
    /// A move was confirmed.
    pub(super) moved: bool,
    /// So many deliveries counted: that was confirmed.
    pub(super) counted_least: u64,
    /// So many deliveries may have counted.
    pub(super) counted_most: u64,
    /// Settled for good in this run, before its lease ended.
    pub(super) ended_in_run: bool,
    /// It was purged in this run: it may be on its way to a consumer nevertheless.
    pub(super) purged_in_run: bool,
}

impl Job {
    /// The delivery that is the record's `attempts`-th may count, as all before it did.
    pub(super) fn may_count(&mut self, attempts: u64) {
        self.counted_most = self.counted_most.max(attempts.min(self.counted_most + 1));
    }
}

/// One queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) topic: String,
    /// 0: dead letters are not made by counting.
    pub(super) deliveries_max: u64,
    /// Where dead letters go.
    pub(super) letters: Option<String>,
    pub(super) jobs: BTreeMap<u64, Job>,
    /// Making it was confirmed.
    pub(super) is_made: bool,
    /// It delivers nothing: that was confirmed.
    pub(super) is_paused: bool,
    /// Granted before it was paused, in this run: a record and which of its deliveries.
    pub(super) granted: BTreeSet<(u64, u64)>,
}

impl Queue {
    pub(super) fn job(&mut self, offset: u64) -> &mut Job {
        self.jobs.entry(offset).or_default()
    }

    /// Whether the record may be on its way elsewhere, or gone from the queue that way.
    pub(super) fn may_move(&self, offset: u64) -> bool {
        let used_up =
            |job: &Job| self.deliveries_max > 0 && job.counted_most >= self.deliveries_max;
        let job = self.jobs.get(&offset);
        job.is_some_and(|job| job.moves > 0 || job.moved || used_up(job))
    }

    /// Whether the record may be settled.
    pub(super) fn may_end(&self, offset: u64) -> bool {
        let job = self.jobs.get(&offset);
        job.is_some_and(|job| job.acks > 0 || job.done) || self.may_move(offset)
    }
}

/// All of a life.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) queues: BTreeMap<String, Queue>,
    /// What may be kept of `events`: what was said last, and whatever was said since and is not sure.
    pub(super) retentions: Vec<Retention>,
}

impl Model {
    /// Where the letter of `queue` about `offset` is, if there is one.
    pub(super) fn letter(&self, queue: &str, offset: u64) -> Option<u64> {
        let topic = self.queues[queue].letters.as_ref()?;
        let kind = Kind::Letter(queue.to_owned(), offset);
        let given = &self.topics.get(topic)?.given;
        let found = given.iter().find(|(_, known)| known.kind == kind);
        found.map(|(at, _)| *at)
    }

    /// A record that was found in a topic and that the program did not publish.
    fn check_copy(&self, topic: &str, offset: u64, found: &Known) {
        match &found.kind {
            Kind::Published => panic!("record {offset} of {topic} was invented"),
            Kind::Letter(queue, of) => {
                let source = &self.queues[queue];
                assert_eq!(
                    source.letters.as_deref(),
                    Some(topic),
                    "a letter gone astray"
                );
                assert!(
                    source.may_move(*of),
                    "{queue} {of} is a dead letter that nobody made one"
                );
                assert_eq!(self.letter(queue, *of), None, "{queue} {of} died twice");
                let given = &self.topics[&source.topic].given;
                let number = given.get(of).map(|known| known.number);
                let readable = found.number != 0;
                assert!(
                    !readable || number == Some(found.number),
                    "another's letter"
                );
                let there = self.topics[&source.topic].present.contains(of);
                // A letter that had lost its body before was sent back, and died once more.
                let had_none = number == Some(0);
                assert!(readable || !there || had_none, "a letter lost its body");
            }
            Kind::Redriven(queue) => {
                let copies = self.copies(topic, found.number) + 1;
                let (_, most) = self.redriven(queue, found.number);
                assert!(copies <= most, "{} was redriven twice", found.number);
            }
        }
    }

    /// Records of `topic` that were sent back with this number.
    pub(super) fn copies(&self, topic: &str, number: u64) -> u64 {
        let given = self.topics[topic].given.values();
        let copies =
            given.filter(|known| known.number == number && matches!(known.kind, Kind::Redriven(_)));
        copies.count() as u64
    }

    /// How many letters of `queue` with this number were sent back at least and at most.
    pub(super) fn redriven(&self, queue: &str, number: u64) -> (u64, u64) {
        let Some(letters) = self.queues[queue].letters.as_ref() else {
            return (0, 0);
        };
        let (mut least, mut most) = (0, 0);
        for (at, known) in &self.topics[letters].given {
            if known.number == number
                && let Some(job) = self.queues[letters].jobs.get(at)
            {
                least += u64::from(job.moved);
                most += u64::from(job.moved || job.moves > 0);
            }
        }
        (least, most)
    }

    /// The program published the record `number` at `offset`.
    pub(super) fn published(&mut self, topic: &str, offset: u64, number: u64) {
        let topic = self.topics.get_mut(topic).unwrap();
        let kind = Kind::Published;
        let before = topic.given.insert(offset, Known { number, kind });
        assert_eq!(before, None, "offset {offset} means two messages");
        topic.present.insert(offset);
    }

    /// A topic was read: from `first` on it holds `found`.
    pub(super) fn found(&mut self, topic: &str, first: u64, found: &BTreeMap<u64, Known>) {
        for (offset, known) in found {
            match self.topics[topic].given.get(offset) {
                Some(before) => assert_eq!(before, known, "{topic} {offset} means two messages"),
                None => {
                    self.check_copy(topic, *offset, known);
                    let there = self.topics.get_mut(topic).unwrap();
                    there.given.insert(*offset, known.clone());
                    there.present.insert(*offset);
                }
            }
            let there = self.topics[topic].present.contains(offset);
            assert!(there, "{topic} {offset} was lost, and came back");
        }
        let gone = self.topics[topic].present.range(..first);
        let gone: Vec<u64> = gone.copied().filter(|at| !found.contains_key(at)).collect();
        for offset in gone {
            self.check_trimmed(topic, offset);
            self.topics.get_mut(topic).unwrap().present.remove(&offset);
        }
    }

    /// A record was trimmed: every queue over the topic must be done with it.
    fn check_trimmed(&self, topic: &str, offset: u64) {
        let over = self.queues.iter().filter(|(_, queue)| queue.topic == topic);
        for (name, queue) in over {
            assert!(
                queue.may_end(offset) || self.is_for_another(topic, offset, name),
                "{topic} {offset} is trimmed, and {name} was not done with it"
            );
        }
    }

    /// Whether the record is addressed to a queue other than `queue`.
    pub(super) fn is_for_another(&self, topic: &str, offset: u64, queue: &str) -> bool {
        let known = self.topics[topic].given.get(&offset);
        known.is_some_and(|known| matches!(&known.kind, Kind::Redriven(to) if to != queue))
    }

    /// The run ended in peace: what was settled in time is on disk.
    pub(super) fn stopped(&mut self) {
        for queue in self.queues.values_mut() {
            for job in queue.jobs.values_mut().filter(|job| job.ended_in_run) {
                match (job.acks, job.moves) {
                    (1.., 0) => job.done = true,
                    (0, 1..) => job.moved = true,
                    _ => {}
                }
            }
        }
    }

    /// Forgets what held only for the run that ended.
    pub(super) fn run_ended(&mut self) {
        for queue in self.queues.values_mut() {
            queue.granted.clear();
            for job in queue.jobs.values_mut() {
                job.ended_in_run = false;
                job.purged_in_run = false;
            }
        }
    }
}
