//! Where a scenario is played: one folder, its broker, and what was promised.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::Offset;
use millstream_storage::crash::{CrashFolder, End};
use millstream_storage::{Failure, Operation, Store, StoreOptions};

use super::Fault;
use super::hands::Hands;
use super::ledger::{Ledger, Told};
use crate::broker::Broker;
use crate::queue::consumer::{Consumer, ConsumerOptions};
use crate::queue::delivery::Delivery;
use crate::queue::{QueueOptions, Queues, Redrive};
use crate::{Backoff, Message};

/// Bytes of all segments.
const SEGMENT_BYTES: u32 = 64 << 10;
/// Nothing runs out of its lease here.
const LEASE: Duration = Duration::from_secs(3600);

pub(super) struct Stage {
    pub(super) folder: CrashFolder,
    hands: Hands,
    store: Option<Arc<Store>>,
    queues: Option<Arc<Queues>>,
    pub(super) broker: Option<Broker>,
    pub(super) ledger: Ledger,
    next_number: u64,
    fault: Option<Fault>,
    met_before: usize,
    /// The queue is known to be made.
    made: bool,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self {
            folder: CrashFolder::new(),
            hands: Hands::new(),
            store: None,
            queues: None,
            broker: None,
            ledger: Ledger {
                cursor: vec![0],
                ..Ledger::default()
            },
            next_number: 1,
            fault: None,
            met_before: 0,
            made: false,
        }
    }

    pub(super) fn calls(&self, operation: Operation) -> u64 {
        self.folder.failures().count(operation, "")
    }

    pub(super) fn met(&self) -> Option<(Operation, String)> {
        let met = self.folder.failures().failures_met();
        met.into_iter().nth(self.met_before)
    }

    pub(super) fn begin(&mut self, fault: Option<Fault>) {
        self.fault = fault;
        self.met_before = self.folder.failures().failures_met().len();
        if let Some((operation, nth, failure)) = fault {
            self.folder.failures().fail(operation, "", nth, failure);
        }
    }

    /// Looks at an error: it is of the failure that was planned, and says what failed and where.
    pub(super) fn failed(&self, error: &dyn Display) {
        let told = error.to_string();
        let Some((operation, name)) = self.met() else {
            panic!("nothing failed, and yet: {told}");
        };
        let code = match self.fault {
            Some((_, _, Failure::Device)) => libc_code::EIO,
            Some((_, _, Failure::Full)) => libc_code::ENOSPC,
            Some((_, _, Failure::Descriptors)) | None => libc_code::EMFILE,
        };
        let why = format!("os error {code}");
        let names_it = name.is_empty() || told.contains(&name);
        assert!(
            told.contains(&why) && names_it,
            "{operation:?} of {name:?} failed, and what is told is: {told}"
        );
    }

    /// A settle or a delivery that failed says only that it did; the queue's own error says why.
    fn expect_failure(&self, error: &dyn Display) {
        assert!(self.met().is_some(), "nothing failed, and yet: {error}");
    }

    /// All that the threads would do, for a few seconds.
    pub(super) fn settle_down(&mut self) {
        for _ in 0..4 {
            self.hands.work_off();
            self.chores();
            self.hands.pass_ms(600);
        }
        self.hands.work_off();
    }

    fn chores(&self) {
        if let Some(queues) = &self.queues
            && queues.keeper.take_chore()
        {
            queues.look_after();
        }
    }

    pub(super) fn open(&mut self) {
        let options = StoreOptions {
            sync_workers: 1,
            segment_bytes_first: SEGMENT_BYTES,
            segment_bytes_max: SEGMENT_BYTES,
        };
        let store = match Store::open_by_hand(Arc::new(self.folder.clone()), &options) {
            Ok(store) => Arc::new(store),
            Err(error) => return self.failed(&error),
        };
        self.hands.set_store(&store);
        let queues = match Queues::open(&store) {
            Ok(queues) => queues,
            Err(error) => return self.failed(&error),
        };
        self.hands.set_queues(&queues);
        let broker = Broker::of_parts(Arc::clone(&store), Arc::clone(&queues));
        let there = broker.queue("jobs").is_ok();
        assert_eq!(broker.check_queues(), Ok(()), "one failure takes no queue");
        // A log that can't be recovered takes its queues along, for this run.
        let whole = store.logs().iter().all(|log| log.poisoned().is_none());
        assert!(!self.made || there || !whole, "the queue is gone");
        (self.store, self.queues, self.broker) = (Some(store), Some(queues), Some(broker));
    }

    fn options() -> QueueOptions {
        QueueOptions::new().lease(LEASE).backoff(Backoff {
            first_ms: 1000,
            cap_ms: 1000,
            multiplier_milli: 1000,
            jitter_percent: 0,
        })
    }

    pub(super) fn create(&mut self) {
        let Some(broker) = &self.broker else { return };
        match broker.create_queue("jobs", Self::options()) {
            Ok(_) => self.made = true,
            Err(error) => self.failed(&error),
        }
    }

    /// Publishes `count` records of `bytes` bytes.
    pub(super) fn publish(&mut self, count: u64, bytes: usize) {
        let Some(broker) = self.broker.clone() else {
            return;
        };
        let mut publisher = match broker.publisher("jobs") {
            Ok(publisher) => publisher,
            Err(error) => return self.failed(&error),
        };
        for _ in 0..count {
            let number = self.next_number;
            self.next_number += 1;
            let mut body = number.to_le_bytes().to_vec();
            body.resize(bytes, 7);
            self.ledger.tell(number, Told::Perhaps);
            match publisher.publish_blocking(Message::new(body)) {
                Ok(_) => self.ledger.tell(number, Told::Published),
                Err(error) => self.failed(&error),
            }
        }
    }

    pub(super) fn consumer(&self, queue: &str) -> Option<Consumer> {
        let options = ConsumerOptions::new().prefetch(0);
        let opened = self.broker.as_ref()?.consumer(queue, options);
        opened.map_err(|error| self.expect_failure(&error)).ok()
    }

    /// Up to `count` deliveries, as many as there are.
    pub(super) fn receive(&mut self, consumer: &mut Consumer, count: u32) -> Vec<Delivery> {
        let mut all = Vec::new();
        for _ in 0..4 {
            self.hands.work_off();
            let wanted = count - u32::try_from(all.len()).unwrap();
            match consumer.receive_blocking(wanted, Duration::ZERO) {
                Ok(more) => all.extend(more),
                Err(error) => {
                    self.expect_failure(&error);
                    break;
                }
            }
            if all.len() as u32 == count {
                break;
            }
        }
        all
    }

    pub(super) fn ack(&mut self, delivery: Delivery) {
        let number = number(&delivery);
        self.ledger.tell(number, Told::AckSent);
        match delivery.ack_confirmed_blocking() {
            Ok(()) => self.ledger.tell(number, Told::Acked),
            Err(error) => self.expect_failure(&error),
        }
    }

    pub(super) fn reject(&mut self, delivery: Delivery) {
        self.ledger.tell(number(&delivery), Told::RejectSent);
        delivery.reject("no");
    }

    pub(super) fn redrive(&mut self) {
        let Some(broker) = self.broker.clone() else {
            return;
        };
        self.ledger.tell_all(Told::RejectSent, Told::RedriveSent);
        if let Err(error) = broker.redrive_queue("jobs.dead", &Redrive::all()) {
            self.expect_failure(&error);
        }
    }

    pub(super) fn commit_cursor(&mut self, next: u64) {
        let Some(broker) = self.broker.clone() else {
            return;
        };
        let cursor = match broker.cursor("jobs", "reader") {
            Ok(cursor) => cursor,
            Err(error) => return self.failed(&error),
        };
        self.ledger.cursor.push(next);
        match cursor.commit(Offset(next)) {
            Ok(()) => self.ledger.cursor = vec![next],
            Err(error) => self.failed(&error),
        }
    }

    pub(super) fn purge(&mut self) {
        let Some(broker) = self.broker.clone() else {
            return;
        };
        self.ledger.tell_all(Told::Published, Told::PurgeSent);
        match broker.purge_queue("jobs") {
            Ok(_) => self.ledger.tell_all(Told::PurgeSent, Told::Purged),
            Err(error) => self.failed(&error),
        }
    }

    pub(super) fn delete(&mut self) {
        let Some(broker) = self.broker.clone() else {
            return;
        };
        self.made = false;
        self.ledger.tell_all(Told::Published, Told::PurgeSent);
        match broker.delete_queue("jobs") {
            Ok(_) => self.ledger.tell_all(Told::PurgeSent, Told::Purged),
            Err(error) => self.failed(&error),
        }
    }

    pub(super) fn checkpoint(&mut self) {
        let Some(queues) = self.queues.clone() else {
            return;
        };
        let journal = queues.state().journal.clone().unwrap();
        if let Err(error) = queues.checkpoint(&journal.log()) {
            self.failed(&error);
        }
    }

    pub(super) fn close(&mut self) {
        if let Some(queues) = &self.queues {
            queues.close();
        }
        if let Some(store) = &self.store
            && let Err(error) = store.close()
        {
            self.failed(&error);
        }
        self.let_go();
    }

    fn let_go(&mut self) {
        self.broker = None;
        self.queues = None;
        self.store = None;
        let repeated = self.folder.failures().repeated_syncs();
        assert_eq!(repeated, 0, "a file was synced again whose sync had failed");
    }

    /// The process is killed, or the power goes.
    pub(super) fn crash(&mut self, (end, seed): (End, u64)) {
        self.folder.failures().heal();
        self.folder.strike_now(end, seed);
        if let Some(queues) = &self.queues {
            queues.close();
        }
        self.let_go();
        self.folder = self.folder.take_left().unwrap().0;
        self.fault = None;
        self.met_before = 0;
    }

    /// Ends the run, opens what is left, and finds what was promised.
    pub(super) fn finish(mut self, end: (End, u64)) {
        self.crash(end);
        self.open();
        self.create();
        self.settle_down();
        self.publish(1, 50);
        let here = self.drain("jobs");
        let dead = self.drain("jobs.dead");
        self.ledger.check(&here, &dead);
        let broker = self.broker.clone().unwrap();
        let stands = broker.cursor("jobs", "reader").unwrap().offset().0;
        let may = &self.ledger.cursor;
        // One that was never committed stands at what is kept.
        assert!(
            may.contains(&stands) || *may == [0],
            "the cursor is at {stands}, not {may:?}"
        );
        drop(broker);
        self.close();
        self.open();
        let left = self.drain("jobs");
        assert!(left.is_empty(), "{left:?} were acked");
        self.close();
    }

    /// Takes and acks everything in a queue; gives how often each record came.
    fn drain(&mut self, queue: &str) -> BTreeMap<u64, u32> {
        let mut found = BTreeMap::new();
        let Some(mut consumer) = self.consumer(queue) else {
            return found;
        };
        loop {
            // What is to be tried again is due by then.
            self.hands.pass_ms(3000);
            let some = self.receive(&mut consumer, 64);
            if some.is_empty() {
                return found;
            }
            for delivery in some {
                *found.entry(number(&delivery)).or_insert(0) += 1;
                delivery.ack_confirmed_blocking().unwrap();
            }
        }
    }
}

/// The system's numbers, which this crate has no other use for.
mod libc_code {
    pub(super) const EIO: i32 = 5;
    pub(super) const EMFILE: i32 = 24;
    pub(super) const ENOSPC: i32 = 28;
}

pub(super) fn number(delivery: &Delivery) -> u64 {
    u64::from_le_bytes(delivery.as_bytes()[..8].try_into().unwrap())
}
