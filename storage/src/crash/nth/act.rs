//! What scenarios do on their [`Stage`]: publish, trim, delete, and the like.

use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll, Wake, Waker};

use millstream_protocol::batch::BatchBuilder;
use millstream_protocol::frame::{PublisherFields, body_crc, frame_bytes};
use millstream_protocol::{Durability, Offset, TopicName};

use super::super::disk::End;
use super::super::model::Message;
use super::stage::{Stage, There, Topic};
use crate::appender::{AppendError, Appended, Appender, LevelWait};
use crate::chain::Following;
use crate::folder::Folder;
use crate::log::Level;
use crate::retention::trim;
use crate::segment::TryClaim;
use crate::store::{CreateError, DeleteError};
use crate::verify::{Fault, verify_folder};

/// How often a publisher that is told to wait tries again.
const TRIES: u32 = 8;

/// Notes that it was woken.
struct Woken(Mutex<bool>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() = true;
    }
}

impl Stage {
    fn message(&mut self, body_bytes: usize) -> (Message, PublisherFields, Vec<u8>) {
        let number = self.next_message;
        self.next_message += 1;
        let message = Message { number, body_bytes };
        let mut builder = BatchBuilder::new();
        builder.push_body(&message.body()).unwrap();
        let mut body = Vec::new();
        builder.write_body(&mut body);
        (message, builder.fields(), body)
    }

    pub(super) fn create(&mut self, name: &'static str, durability: Durability) {
        let mut topic = Topic::absent(durability);
        let Some(store) = &self.store else { return };
        match store.create_log(&TopicName::parse(name).unwrap(), durability) {
            Ok(log) => {
                topic.there = There::Yes;
                topic.appender = Some(Appender::new(&log));
                topic.log = Some(log);
            }
            Err(CreateError::Exists(_)) => panic!("a log that nobody made"),
            Err(error) => {
                self.failed(&error);
                topic.there = There::Unknown;
            }
        }
        self.topics.insert(name, topic);
    }

    pub(super) fn delete(&mut self, name: &'static str) {
        let Some(store) = &self.store else { return };
        let deleted = store.delete_log(&TopicName::parse(name).unwrap());
        let topic = self.topics.get_mut(name).unwrap();
        match deleted {
            Ok(()) => *topic = Topic::absent(topic.durability),
            Err(DeleteError::NotFound) => panic!("the log is gone"),
            Err(error) => {
                // It is served on; whether the next start knows it is open.
                topic.there = There::Unknown;
                self.failed(&error);
            }
        }
    }

    /// Publishes one record and announces it; `None` where it is refused for good.
    pub(super) fn publish(&mut self, name: &'static str, body_bytes: usize) -> Option<Appended> {
        let (message, fields, body) = self.message(body_bytes);
        let crc = body_crc(&fields, &body);
        for _ in 0..TRIES {
            let topic = self.topics.get_mut(name).unwrap();
            let (Some(log), Some(appender)) = (topic.log.clone(), &mut topic.appender) else {
                return None;
            };
            match appender.try_append(&fields, crc, &body) {
                Ok(appended) => {
                    appender.announce();
                    topic.model.claim(appended.base.0, &[message]);
                    topic.model.commit(appended.base.0, &[message]);
                    return Some(appended);
                }
                Err(AppendError::Rotating) => {}
                Err(error @ (AppendError::Full { .. } | AppendError::Unprepared { .. })) => {
                    self.failed(&error);
                    // As after the pause, which nobody waits for here.
                    if log.chain().retry_failure(u64::MAX) {
                        log.ask_standby();
                    }
                }
                Err(error @ AppendError::Poisoned(_)) => {
                    self.failed(&error);
                    return None;
                }
                Err(error) => panic!("{error}"),
            }
            self.work_off();
        }
        None
    }

    /// Publishes one record and waits until it is synced; false where that is refused.
    pub(super) fn publish_synced(&mut self, name: &'static str, body_bytes: usize) -> bool {
        let Some(appended) = self.publish(name, body_bytes) else {
            return false;
        };
        self.sync(name, appended.end)
    }

    /// Waits until all below `end` is synced, or is told that it will not be.
    pub(super) fn sync(&mut self, name: &'static str, end: Offset) -> bool {
        let log = self.topics[name].log.clone().unwrap();
        let woken = Arc::new(Woken(Mutex::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let mut wait = LevelWait::new(&log, Level::Synced, end);
        let first = wait.poll(&mut cx);
        self.work_off();
        if first.is_pending() {
            assert!(*woken.0.lock().unwrap(), "who waits is not woken");
        }
        let done = match first {
            Poll::Ready(done) => done,
            Poll::Pending => match wait.poll(&mut cx) {
                Poll::Ready(done) => done,
                Poll::Pending => panic!("woken for nothing"),
            },
        };
        if let Err(error) = &done {
            self.failed(error);
        }
        done.is_ok()
    }

    /// A claim with half of its body and records behind it, given up in the end or open at a kill.
    pub(super) fn hold_claim(&mut self, name: &'static str, behind: usize, aborts: bool) {
        let Some(log) = self.topics[name].log.clone() else {
            return;
        };
        let Following::Segment(segment) = log.chain().following(None) else {
            return;
        };
        let (message, fields, body) = self.message(5000);
        let bytes = frame_bytes(fields.body_bytes);
        let TryClaim::Claim(mut claim) = segment.try_claim(bytes, 1, log.append_time_us()) else {
            panic!("there is room");
        };
        let base = claim.base_offset().0;
        let half = body.len() / 2;
        claim.body_mut()[..half].copy_from_slice(&body[..half]);
        let model = &mut self.topics.get_mut(name).unwrap().model;
        model.claim(base, &[message]);
        for _ in 0..behind {
            self.publish(name, 12_000);
            self.work_off();
        }
        if aborts {
            drop(claim);
            let model = &mut self.topics.get_mut(name).unwrap().model;
            model.abort(base);
            log.announce();
            self.work_off();
        } else {
            self.strike(End::Kill);
            drop(claim);
        }
    }

    pub(super) fn trim(&mut self, name: &'static str, before: u64) {
        let Some(log) = self.topics[name].log.clone() else {
            return;
        };
        let model = &mut self.topics.get_mut(name).unwrap().model;
        model.trim(before);
        match trim(&log, Offset(before)) {
            Ok(trimmed) => model.trimmed(trimmed.first_offset.0),
            Err(error) => self.failed(&error),
        }
    }

    /// Flips a bit at `position` of the first segment of the first log, on disk.
    pub(super) fn rot(&mut self, position: usize) {
        let names = self.folder.list("").unwrap();
        let log = names.iter().find(|name| name.starts_with("log-")).unwrap();
        self.folder.rot(&format!("{log}/00000001.seg"), position);
        self.rotten = true;
    }

    /// Writes a checkpoint. The newest that can be read is one of the last two that were written.
    pub(super) fn checkpoint(&mut self) {
        let Some(store) = &self.store else { return };
        let checkpoints = store.checkpoints();
        let next = match checkpoints.load() {
            Err(error) => return self.failed(&error),
            Ok(loaded) => {
                for (number, bytes) in &loaded {
                    assert_eq!(*bytes, number.to_le_bytes(), "a checkpoint of other bytes");
                }
                loaded.first().map_or(1, |(number, _)| number + 1)
            }
        };
        match checkpoints.write(&next.to_le_bytes()) {
            Ok(number) => assert!(number >= next),
            Err(error) => self.failed(&error),
        }
    }

    /// Checks the folder without a store: it is not called sound where it was not read.
    pub(super) fn verify(&mut self) {
        match verify_folder(&self.folder, &mut |_| {}) {
            Err(error) => self.failed(&error),
            Ok(report) => {
                for problem in &report.problems {
                    assert!(matches!(problem.fault, Fault::Unreadable(_)), "{problem:?}");
                    self.failed(&problem);
                }
                let all: u64 = self
                    .topics
                    .values()
                    .map(|topic| topic.model.records())
                    .sum();
                assert!(
                    report.records() == all || !report.is_sound(),
                    "{} of {all} records were found, and nothing is wrong",
                    report.records()
                );
            }
        }
    }
}
