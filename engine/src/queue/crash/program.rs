//! What a run does until it ends.

use std::time::Duration;

use millstream_protocol::batch::{BatchBuilder, Message};
use millstream_storage::crash::Dice;

use super::life::Life;
use crate::error::PublishError;
use crate::publisher::{Appended, PublisherOptions};

/// Rounds of the last run in which nothing comes any more before it is over.
const QUIET_ROUNDS: u32 = 40;
/// What passes in each: less than makes a queue think that the process stood still.
const ROUND: Duration = Duration::from_millis(250);

const QUEUES: [&str; 4] = ["jobs", "jobs.dead", "mail", "mail.dead"];

/// The body of message `number`.
pub(super) fn body(number: u64) -> Vec<u8> {
    let mut dice = Dice::new(number);
    let words = match dice.below(40) {
        0 => 9000 + dice.below(2000),
        1..=4 => dice.below(500),
        _ => dice.below(12),
    };
    let mut body = number.to_le_bytes().to_vec();
    body.extend((0..words).flat_map(|_| dice.any().to_le_bytes()));
    body
}

/// The message with this body; 0 for none. It is whole.
pub(super) fn number_of(bytes: &[u8]) -> u64 {
    let Some(head) = bytes.first_chunk() else {
        assert!(bytes.is_empty(), "a body of {} bytes", bytes.len());
        return 0;
    };
    let number = u64::from_le_bytes(*head);
    assert!(bytes == body(number), "message {number} has other bytes");
    number
}

impl Life {
    /// Does this and that until a crash strikes or enough was done.
    pub(super) fn run_program(&mut self) {
        if self.dice.once_in(2) {
            self.plan_strike(80);
        }
        let steps = 20 + self.dice.below(120);
        for _ in 0..steps {
            if self.folder.is_struck() {
                return;
            }
            self.tally.operations += 1;
            self.step();
            self.hear();
            self.note_synced();
        }
    }

    fn step(&mut self) {
        match self.dice.below(67) {
            0..=9 => self.publish(),
            10..=13 => self.open_some_seat(),
            14..=19 => self.pull(),
            20..=28 => drop(self.take()),
            29..=37 => self.settle_some(),
            38..=48 => drop(self.hands.work_once()),
            49 | 50 => drop(self.hands.look_later()),
            51 => while self.hands.work_once() {},
            52..=54 => self.chores(),
            55 => self.checkpoint(),
            56 | 57 => {
                // Now and then so long that it looks as if the process had stood still.
                let most_us = if self.dice.once_in(4) {
                    2_500_000
                } else {
                    400_000
                };
                let us = self.dice.below(most_us);
                self.pass_time(us);
            }
            58 => self.drop_seat(),
            59 | 60 => {
                let seed = self.dice.any();
                self.folder.write_back(seed);
            }
            61 if self.dice.once_in(3) => self.plan_failure(25),
            62 => drop(self.wait_for(Self::check_queues)),
            63 => self.pause_or_resume(),
            64 if self.dice.once_in(4) => {
                let queue = self.some_queue();
                self.purge(queue);
            }
            65 if self.dice.once_in(4) => self.set_retention(),
            _ => self.publish(),
        }
    }

    fn open_some_seat(&mut self) {
        if self.seats.len() < 4 {
            let queues = ["jobs", "jobs", "mail", "mail", "jobs.dead", "mail.dead"];
            let queue = queues[self.dice.below(6) as usize];
            let prefetch = self.dice.below(2) * (1 + self.dice.below(8));
            self.open_seat(queue, prefetch as u32);
        }
    }

    fn some_queue(&mut self) -> &'static str {
        QUEUES[self.dice.below(4) as usize]
    }

    /// Most of the time queues are not paused.
    fn pause_or_resume(&mut self) {
        let queue = self.some_queue();
        let pause = !self.model.queues[queue].is_paused && self.dice.once_in(4);
        self.pause(queue, pause);
    }

    fn publish(&mut self) {
        let topic = if self.dice.once_in(2) {
            "jobs"
        } else {
            "events"
        };
        if !self.publishers.contains_key(topic) {
            let Some(broker) = &self.broker else { return };
            let options = PublisherOptions::new().create(false);
            match broker.publisher_with(topic, options) {
                Ok(publisher) => drop(self.publishers.insert(topic.to_owned(), publisher)),
                Err(error) => return assert!(self.failing, "{error}"),
            }
        }
        for _ in 0..4 {
            let (first, done) = self.try_publish(topic);
            match done {
                Ok(appended) => {
                    for (number, offset) in (first..).zip(appended.base.0..appended.end.0) {
                        self.model.published(topic, offset, number);
                        self.tally.published += 1;
                    }
                    if !self.dice.once_in(4)
                        && let Some(publisher) = self.publishers.get_mut(topic)
                    {
                        publisher.flush_wakes();
                    }
                    return;
                }
                Err(PublishError::Rotating) => {}
                Err(PublishError::ShortFill) => return,
                Err(error) => return assert!(self.failing, "{error}"),
            }
            self.hands.work_once();
            self.hands.work_once();
            if self.folder.is_struck() {
                return;
            }
        }
    }

    /// One record or several, in one of all shapes; gives the number of the first.
    fn try_publish(&mut self, topic: &str) -> (u64, Result<Appended, PublishError>) {
        let first = self.next_number;
        let shape = self.dice.below(10);
        let count = if shape >= 6 {
            1 + self.dice.below(6)
        } else {
            1
        };
        self.next_number += count;
        let mut builder = BatchBuilder::new();
        if shape >= 6 {
            for number in first..first + count {
                let message = self.message(number, shape);
                builder.push(&message).unwrap();
            }
        }
        let bytes = body(first);
        let Some(publisher) = self.publishers.get_mut(topic) else {
            return (first, Err(PublishError::Closed));
        };
        let done = match shape {
            0..=3 => publisher.try_publish(&bytes),
            4 => publisher.try_publish_with(bytes.len(), |room| room.put(&bytes)),
            5 => publisher.try_publish_with(bytes.len() + 8, |room| room.put(&bytes)),
            _ => publisher.try_publish_batch(&builder),
        };
        (first, done)
    }

    fn message(&mut self, number: u64, shape: u64) -> Message {
        let mut message = Message::new(body(number));
        if shape >= 8 {
            message = message.group(vec![b'a' + self.dice.below(3) as u8]);
            message = message.priority(self.dice.below(4) as u8);
        }
        if shape == 9 && self.dice.once_in(2) {
            message = message.due_at_us(self.now_us + self.dice.below(4_000_000));
        }
        message
    }

    /// What the keeper does now and then.
    fn chores(&mut self) {
        let Some(queues) = self.queues.clone() else {
            return;
        };
        self.observe();
        if queues.keeper.take_chore() || self.dice.once_in(4) {
            self.wait_for(|_| queues.look_after());
        }
        if !self.folder.is_struck() {
            self.observe();
        }
    }

    fn checkpoint(&mut self) {
        let Some(queues) = self.queues.clone() else {
            return;
        };
        let journal = queues.state().journal.as_ref().map(|journal| journal.log());
        let Some(journal) = journal else { return };
        self.observe();
        if let Some(Ok(())) = self.wait_for(|_| queues.checkpoint(&journal)) {
            self.tally.checkpoints += 1;
        }
    }

    /// The last run: everything that is owed comes, is settled, and nothing is left.
    pub(super) fn drain(&mut self) {
        for queue in QUEUES {
            self.pause(queue, false);
            self.open_seat(queue, 64);
        }
        let mut quiet = 0;
        while quiet < QUIET_ROUNDS {
            let mut came = 0;
            loop {
                while self.hands.work_once() {}
                let taken = self.take();
                self.settle_all();
                self.seats
                    .iter()
                    .for_each(|seat| seat.consumer.flush_settles());
                came += taken;
                if taken == 0 {
                    break;
                }
            }
            while self.hands.look_later() {}
            while self.hands.work_once() {}
            self.hear();
            if quiet % 8 == 0 {
                self.chores();
            }
            self.pass_time(ROUND.as_micros() as u64);
            quiet = if came == 0 { quiet + 1 } else { 0 };
        }
        while self.hands.work_once() {}
        self.hear();
        assert!(
            self.pending.is_empty(),
            "settles that nobody answers: {:?}",
            self.pending
        );
        self.check_queues();
        self.check_drained();
        self.check_moves();
        let kinds = self
            .model
            .topics
            .values()
            .flat_map(|topic| topic.given.values());
        let letters = kinds.filter(|known| matches!(known.kind, super::model::Kind::Letter(..)));
        self.tally.letters += letters.count() as u64;
    }
}
