//! What a run does until it ends: publishing in all shapes, and the work of the threads it has not.

use std::sync::Arc;

use millstream_protocol::batch::BatchBuilder;
use millstream_protocol::frame::{PublisherFields, body_crc, frame_bytes};
use millstream_protocol::{Durability, Offset};

use super::Piece;
use super::life::{Life, There, read_all};
use super::model::Message;
use crate::appender::{AppendError, Appended};
use crate::chain::Following;
use crate::hand;
use crate::log::Log;
use crate::retention::trim;
use crate::segment::TryClaim;
use crate::store::{CreateError, DeleteError};

/// Claims of one thread of the program that are open at once.
const CLAIMS_MAX: usize = 2;

/// Records to publish together.
struct Batch {
    messages: Vec<Message>,
    fields: PublisherFields,
    body: Vec<u8>,
}

impl Life {
    /// Does this and that until a crash strikes or enough was done.
    pub(super) fn run_program(&mut self) {
        if self.dice.once_in(2) {
            self.plan_strike(60);
        }
        let steps = 5 + self.dice.below(40);
        for _ in 0..steps {
            if self.folder.is_struck() {
                return;
            }
            self.tally.operations += 1;
            self.step(0);
            self.look();
        }
    }

    /// One thing, with `claims` open.
    fn step(&mut self, claims: usize) {
        match self.dice.below(40) {
            0..=9 => self.publish(),
            10..=13 if claims < CLAIMS_MAX => self.hold_claim(claims),
            14..=20 => self.work_once(),
            21..=23 => self.work_off(),
            24..=26 => {
                let seed = self.dice.any();
                self.folder.write_back(seed);
            }
            27 | 28 => self.trim(),
            29..=31 => self.create(),
            32 if claims == 0 && self.dice.once_in(4) => self.delete(),
            33 if self.dice.once_in(2) => self.plan_failure(10),
            34 if claims > 0 => {
                let end = self.some_end();
                self.strike_now(end);
            }
            35 | 36 => self.read(),
            37 => self.pass_time(),
            38 if claims == 0 => self.rest(),
            39 => self.turn_over(),
            _ => self.publish(),
        }
    }

    /// Notes what is acknowledged.
    fn look(&mut self) {
        if self.folder.is_struck() {
            return;
        }
        for topic in &mut self.topics {
            if let Some(log) = &topic.log {
                topic.model.note_synced(log.synced().0);
                let committed = log.committed().0;
                assert!(
                    committed <= topic.model.prefix_end(),
                    "committed past a hole"
                );
                topic.note_committed(committed, log.synced().0, self.now_us);
            }
        }
    }

    /// A topic whose log is there.
    fn some_log(&mut self) -> Option<(usize, Arc<Log>)> {
        let at = self.dice.below(self.topics.len() as u64) as usize;
        let log = self.topics[at].log.clone()?;
        Some((at, log))
    }

    fn batch(&mut self) -> Batch {
        let (records, bytes_max) = match self.dice.below(16) {
            0..=6 => (1, 2000),
            7..=10 => (2 + self.dice.below(12), 700),
            11 => (1 + self.dice.below(300), 20),
            12 | 13 => (1, 80_000),
            14 => (2 + self.dice.below(3), 40_000),
            _ if self.dice.once_in(10) => (1, 700_000),
            _ => (1, 160_000),
        };
        let mut builder = BatchBuilder::new();
        let mut messages = Vec::new();
        for _ in 0..records {
            let message = Message {
                number: self.next_message,
                body_bytes: 8 + self.dice.below(bytes_max) as usize,
            };
            self.next_message += 1;
            builder.push_body(&message.body()).unwrap();
            messages.push(message);
        }
        let mut body = Vec::new();
        builder.write_body(&mut body);
        Batch {
            messages,
            fields: builder.fields(),
            body,
        }
    }

    fn publish(&mut self) {
        let Some((at, log)) = self.some_log() else {
            return self.create();
        };
        let who = self.dice.below(2) as usize;
        self.publish_to((at, &log), who);
    }

    fn publish_to(&mut self, (at, log): (usize, &Arc<Log>), who: usize) {
        let batch = self.batch();
        for _ in 0..4 {
            let aborts = self.dice.once_in(12);
            let copies = self.dice.once_in(2);
            let appender = &mut self.topics[at].appenders[who];
            let done = if aborts {
                let half = batch.body.len() / 2;
                appender.try_append_with(&batch.fields, |room| room.put(&batch.body[..half]))
            } else if copies {
                let crc = body_crc(&batch.fields, &batch.body);
                appender.try_append(&batch.fields, crc, &batch.body)
            } else {
                appender.try_append_with(&batch.fields, |room| room.put(&batch.body))
            };
            match done {
                Ok(appended) => return self.published(at, who, &batch, appended),
                Err(AppendError::Full { .. } | AppendError::Unprepared { .. }) => {
                    // As after the pause, which no test waits for.
                    if log.chain().retry_failure(u64::MAX) {
                        log.ask_standby();
                    }
                }
                Err(AppendError::Rotating) => {}
                Err(AppendError::ShortFill { .. } | AppendError::Poisoned(_)) => return,
                Err(error) => panic!("{error}"),
            }
            self.work_once();
            self.work_once();
            if self.folder.is_struck() {
                return;
            }
        }
    }

    fn published(&mut self, at: usize, who: usize, batch: &Batch, appended: Appended) {
        let topic = &mut self.topics[at];
        assert_eq!(
            appended.end.0 - appended.base.0,
            batch.messages.len() as u64
        );
        topic.model.claim(appended.base.0, &batch.messages);
        topic.model.commit(appended.base.0, &batch.messages);
        self.tally.records += batch.messages.len() as u64;
        match self.dice.below(4) {
            0 => topic.appenders[who].announce_and_lead(),
            1 => {}
            _ => {
                topic.appenders[who].announce();
                topic.check_bound(self.now_us);
            }
        }
    }

    /// Claims, does other things with the claim open, and commits it or gives it up.
    fn hold_claim(&mut self, claims: usize) {
        let Some((at, log)) = self.some_log() else {
            return;
        };
        let Following::Segment(segment) = log.chain().following(None) else {
            return;
        };
        if log.gate_flags() != 0 {
            return;
        }
        let batch = self.batch();
        let bytes = frame_bytes(batch.fields.body_bytes);
        let claimed = segment.try_claim(bytes, batch.fields.record_count, log.append_time_us());
        let mut claim = match claimed {
            TryClaim::Claim(claim) => claim,
            TryClaim::Crossed(seal) => return log.seal(&segment, seal, bytes),
            TryClaim::Tripped => return,
        };
        if segment.wants_standby(claim.position()) {
            log.ask_standby();
        }
        let base = claim.base_offset().0;
        self.topics[at].model.claim(base, &batch.messages);
        let filled = batch.body.len() * self.dice.below(3) as usize / 2;
        claim.body_mut()[..filled].copy_from_slice(&batch.body[..filled]);
        for _ in 0..1 + self.dice.below(4) {
            self.step(claims + 1);
            if self.folder.is_struck() {
                return;
            }
            self.look();
        }
        if self.dice.once_in(3) {
            drop(claim);
            self.topics[at].model.abort(base);
        } else {
            claim.body_mut()[..batch.body.len()].copy_from_slice(&batch.body);
            claim.commit_unsummed(&batch.fields);
            self.topics[at].model.commit(base, &batch.messages);
            self.tally.records += batch.messages.len() as u64;
        }
        log.announce();
    }

    /// One piece of what the threads would do.
    fn work_once(&mut self) {
        let Some(store) = &self.store else { return };
        store.work_by_hand(match self.dice.below(5) {
            0 | 1 => Piece::Sync,
            2 | 3 => Piece::Prepare,
            _ => Piece::Later,
        });
    }

    /// All that the threads would do.
    pub(super) fn work_off(&mut self) {
        let Some(store) = &self.store else { return };
        while store.work_by_hand(Piece::Sync) || store.work_by_hand(Piece::Prepare) {}
    }

    /// Some time passes, in which no thread gets to work.
    fn pass_time(&mut self) {
        for topic in &mut self.topics {
            for appender in &mut topic.appenders {
                appender.announce();
            }
        }
        self.look();
        self.now_us += self.dice.below(700_000);
        hand::set_time_us(self.now_us);
    }

    /// Nobody publishes for a while: then everything is synced, whoever waits (S4).
    fn rest(&mut self) {
        for topic in &mut self.topics {
            for appender in &mut topic.appenders {
                appender.announce();
            }
        }
        let Some(store) = &self.store else { return };
        let mut again = true;
        while again {
            again = [Piece::Sync, Piece::Prepare, Piece::Later]
                .into_iter()
                .any(|piece| store.work_by_hand(piece));
        }
        if self.folder.is_struck() {
            return;
        }
        for topic in &self.topics {
            if let Some(log) = topic.log.as_ref().filter(|log| log.poisoned().is_none()) {
                assert_eq!(log.synced(), log.committed(), "forgotten by the workers");
            }
        }
    }

    fn trim(&mut self) {
        if let Some((at, log)) = self.some_log() {
            self.trim_one(at, &log);
        }
    }

    fn trim_one(&mut self, at: usize, log: &Arc<Log>) {
        let end = log.synced().0;
        let before = self.dice.below(end + 2);
        let model = &mut self.topics[at].model;
        model.trim(before);
        if let Ok(trimmed) = trim(log, Offset(before))
            && !self.folder.is_struck()
        {
            model.trimmed(trimmed.first_offset.0);
            self.tally.trimmed += u64::from(trimmed.segments);
        }
    }

    /// Segments come and go, so that files of those that went serve again.
    fn turn_over(&mut self) {
        let Some((at, log)) = self.some_log() else {
            return;
        };
        for round in 0..20 + self.dice.below(40) {
            if round % 5 == 4 {
                self.work_off();
                self.trim_one(at, &log);
            } else {
                self.publish_to((at, &log), round as usize % 2);
            }
            self.look();
            if self.folder.is_struck() {
                return;
            }
        }
    }

    fn read(&mut self) {
        let Some((at, log)) = self.some_log() else {
            return;
        };
        let end = log.high_watermark().0;
        let model = &self.topics[at].model;
        let found = read_all(&log, model);
        if !self.folder.is_struck() {
            model.check_read(&found, end);
        }
    }

    fn create(&mut self) {
        let absent = self
            .topics
            .iter()
            .position(|topic| topic.there == There::No);
        let (Some(at), Some(store)) = (absent, &self.store) else {
            return;
        };
        let durability = if self.dice.once_in(3) {
            Durability::Stored
        } else {
            Durability::Synced
        };
        let topic = &mut self.topics[at];
        topic.there = There::Unknown;
        match store.create_log(&topic.name, durability) {
            Ok(_) if self.folder.is_struck() => {}
            Ok(log) => {
                topic.made(log);
                self.watch();
            }
            Err(CreateError::Exists(_)) => panic!("a log that nobody made"),
            // Either nothing was written, or nobody can tell.
            Err(_) => {}
        }
    }

    fn delete(&mut self) {
        let Some((at, _)) = self.some_log() else {
            return;
        };
        let Some(store) = &self.store else { return };
        let topic = &mut self.topics[at];
        topic.there = There::Unknown;
        match store.delete_log(&topic.name) {
            Ok(()) if self.folder.is_struck() => {}
            Ok(()) => topic.gone(),
            Err(DeleteError::NotFound) => panic!("the log is gone"),
            Err(_) => {}
        }
    }
}
