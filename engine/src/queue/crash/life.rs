//! One folder with its queues, through its crashes.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use millstream_protocol::control::{Backoff, DeadLetter, QueueMode, Retention};
use millstream_protocol::{Durability, TopicName};
use millstream_storage::crash::{CrashFolder, Dice, End, Moment, Strike};
use millstream_storage::{Failure, Operation, Store, StoreOptions, hand};

use super::Tally;
use super::hands::{Hands, until_down};
use super::model::{Model, Queue, Topic};
use super::settle::{Held, Pending, Seat};
use crate::broker::{Broker, TopicOptions};
use crate::publisher::Publisher;
use crate::queue::{QueueOptions, Queues, SettleError};

/// Starts of one life.
const STARTS: u64 = 6;
/// Crashes in a row during one start, at most.
const STRIKES_AT_START: u64 = 3;
/// Small, so that there are many segments to trim.
const SEGMENT_BYTES: u32 = 128 << 10;
/// When a life begins, microseconds of the Unix epoch.
const FIRST_US: u64 = 1_800_000_000_000_000;

/// Waits for what becomes of a redrive.
pub(super) type Redriving = Pin<Box<dyn Future<Output = Result<(), SettleError>>>>;

/// One folder.
pub(super) struct Life {
    pub(super) dice: Dice,
    pub(super) folder: CrashFolder,
    pub(super) hands: Hands,
    pub(super) store: Option<Arc<Store>>,
    pub(super) queues: Option<Arc<Queues>>,
    pub(super) broker: Option<Broker>,
    pub(super) publishers: BTreeMap<String, Publisher>,
    pub(super) seats: Vec<Seat>,
    pub(super) held: Vec<Held>,
    /// Settles that nobody heard of yet, by consumer and tag.
    pub(super) pending: BTreeMap<(u64, u64), Pending>,
    pub(super) redriving: Vec<(Redriving, Pending)>,
    pub(super) model: Model,
    pub(super) tally: Tally,
    pub(super) now_us: u64,
    pub(super) next_number: u64,
    pub(super) next_seat: u64,
    pub(super) next_tag: u64,
    /// Something was made to fail since the last start.
    pub(super) failing: bool,
    pub(super) mode: QueueMode,
    /// How the last run ended; a power loss among several ends counts.
    ended: End,
    /// How far topics were synced when the last crash struck.
    seen: Arc<Mutex<Vec<(TopicName, u64)>>>,
}

impl Life {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut model = Model {
            retentions: vec![Retention::KEEP_ALL],
            ..Model::default()
        };
        for name in ["jobs", "jobs.dead", "events", "mail.dead"] {
            model.topics.insert(name.to_owned(), Topic::default());
        }
        model.topics.get_mut("events").unwrap().stored = dice.once_in(2);
        let deliveries_max = [0, 1, 2, 3][dice.below(4) as usize];
        for (name, topic) in [("jobs", "jobs"), ("mail", "events")] {
            let letters = format!("{name}.dead");
            let queue = Queue {
                topic: topic.to_owned(),
                deliveries_max,
                letters: Some(letters.clone()),
                ..Queue::default()
            };
            model.queues.insert(name.to_owned(), queue);
            let queue = Queue {
                topic: letters.clone(),
                ..Queue::default()
            };
            model.queues.insert(letters, queue);
        }
        let modes = [QueueMode::Plain, QueueMode::Grouped, QueueMode::Prioritised];
        hand::set_time_us(FIRST_US);
        Self {
            mode: modes[dice.below(3) as usize],
            hands: Hands::new(seed),
            dice,
            folder: CrashFolder::new(),
            store: None,
            queues: None,
            broker: None,
            publishers: BTreeMap::new(),
            seats: Vec::new(),
            held: Vec::new(),
            pending: BTreeMap::new(),
            redriving: Vec::new(),
            model,
            tally: Tally::default(),
            now_us: FIRST_US,
            next_number: 1,
            next_seat: 1,
            next_tag: 1,
            failing: false,
            ended: End::Kill,
            seen: Arc::default(),
        }
    }

    /// Lives through all of it.
    pub(super) fn run(&mut self) -> Tally {
        for _ in 0..STARTS {
            self.start();
            self.run_program();
            self.end();
        }
        self.start();
        self.drain();
        self.stop();
        self.let_go();
        self.tally.lives = 1;
        self.tally
    }

    /// Starts a life whose queues give up after one delivery.
    pub(super) fn start_with_one_delivery(&mut self) -> Broker {
        self.mode = QueueMode::Plain;
        for queue in self.model.queues.values_mut() {
            queue.deliveries_max = u64::from(queue.letters.is_some());
        }
        self.start();
        self.broker.clone().unwrap()
    }

    /// Power is lost, and comes back.
    pub(super) fn lose_power(&mut self) {
        self.strike(End::PowerLoss);
        self.let_go();
        self.crashed();
        self.start();
    }

    /// Stops, and that is all.
    pub(super) fn end_well(&mut self) {
        self.stop();
        self.let_go();
    }

    /// Opens the folder, through crashes and failures, and checks what is there.
    fn start(&mut self) {
        for strikes in 0.. {
            self.failing = false;
            if strikes < STRIKES_AT_START && self.dice.once_in(3) {
                self.plan_strike(60);
            }
            if strikes < STRIKES_AT_START && self.dice.once_in(12) {
                self.plan_failure(30);
            }
            self.hands.start(&self.folder);
            let opened = until_down(|| self.open()).unwrap_or(false);
            if opened && !self.folder.is_struck() {
                self.folder.plan(None);
                self.folder.failures().heal();
                self.failing = false;
                let ended = std::mem::replace(&mut self.ended, End::Kill);
                self.observe_start(ended);
                self.model.run_ended();
                self.watch();
                self.note_synced();
                self.check_queues();
                self.check_retention();
                return;
            }
            if !self.folder.is_struck() {
                assert!(self.failing, "the folder is refused, or a queue of it");
                self.strike(End::Kill);
            }
            self.tally.at_start += 1;
            self.let_go();
            self.crashed();
        }
    }

    /// True if all is there and works.
    fn open(&mut self) -> bool {
        let options = StoreOptions {
            sync_workers: 1,
            segment_bytes_first: SEGMENT_BYTES,
            segment_bytes_max: SEGMENT_BYTES,
        };
        let Ok(store) = Store::open_by_hand(Arc::new(self.folder.clone()), &options) else {
            return false;
        };
        let store = Arc::new(store);
        self.hands.set_store(&store);
        self.store = Some(Arc::clone(&store));
        if store.logs().iter().any(|log| log.poisoned().is_some()) {
            return false;
        }
        self.watch();
        let Ok(queues) = Queues::open(&store) else {
            return false;
        };
        self.hands.set_queues(&queues);
        self.queues = Some(Arc::clone(&queues));
        let broker = Broker::of_parts(store, queues);
        self.broker = Some(broker.clone());
        if self.folder.is_struck() {
            return false;
        }
        for (name, queue) in &self.model.queues {
            let there = broker.queue(name).is_ok();
            assert!(
                there || !queue.is_made || self.failing || self.folder.is_struck(),
                "{name} is gone"
            );
        }
        self.make_queues(&broker)
    }

    fn make_queues(&mut self, broker: &Broker) -> bool {
        let events = &self.model.topics["events"];
        let durability = if events.stored {
            Durability::Stored
        } else {
            Durability::Synced
        };
        let options = TopicOptions::new().durability(durability);
        if broker.create_topic("events", options).is_err() {
            return false;
        }
        for (name, over) in [("jobs", None), ("mail", Some("events"))] {
            let deliveries_max = self.model.queues[name].deliveries_max;
            let mut options = QueueOptions::new()
                .mode(self.mode)
                .lease(Duration::from_secs(4))
                .max_deliveries(deliveries_max as u32)
                .dead_letter(DeadLetter::Own)
                .backoff(Backoff {
                    first_ms: 300,
                    cap_ms: 2000,
                    multiplier_milli: 2000,
                    jitter_percent: 0,
                });
            if let Some(topic) = over {
                options = options.topic(topic);
            }
            if broker.create_queue(name, options).is_err() {
                return false;
            }
            if self.folder.is_struck() {
                return false;
            }
            for made in [name.to_owned(), format!("{name}.dead")] {
                self.model.queues.get_mut(&made).unwrap().is_made = true;
            }
        }
        true
    }

    /// Has the next crash tell how far topics were synced when it struck.
    fn watch(&self) {
        let Some(store) = &self.store else { return };
        let logs: Vec<Weak<_>> = store.logs().iter().map(Arc::downgrade).collect();
        let seen = Arc::clone(&self.seen);
        self.folder.witness(move || {
            let logs = logs.iter().filter_map(Weak::upgrade);
            let synced = logs.map(|log| (log.identity().name.clone(), log.synced().0));
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend(synced);
        });
    }

    /// Notes how far topics are synced now.
    pub(super) fn note_synced(&mut self) {
        let Some(store) = &self.store else { return };
        if self.folder.is_struck() {
            return;
        }
        for log in store.logs() {
            let name = log.identity().name.as_str();
            if let Some(topic) = self.model.topics.get_mut(name) {
                topic.synced = topic.synced.max(log.synced().0);
            }
        }
    }

    /// Plans a crash at one of the next `operations`.
    pub(super) fn plan_strike(&mut self, operations: u64) {
        let moments = [Moment::Before, Moment::Within, Moment::After];
        let strike = Strike {
            skip: self.dice.below(operations),
            moment: moments[self.dice.below(3) as usize],
            end: self.some_end(),
            seed: self.dice.any(),
        };
        self.folder.plan(Some(strike));
    }

    /// Plans that one of the next `operations` fails.
    pub(super) fn plan_failure(&mut self, operations: u64) {
        let nth = 1 + self.dice.below(operations);
        let folder = self.folder.failures();
        if self.dice.once_in(2) {
            folder.fail(Operation::Sync, ".seg", nth.div_ceil(4), Failure::Device);
        } else if self.dice.once_in(3) {
            folder.fail_nth_change(nth, Failure::Full);
        } else {
            folder.fail_nth_change(nth, Failure::Device);
        }
        self.failing = true;
        self.tally.failures += 1;
    }

    pub(super) fn some_end(&mut self) -> End {
        if self.dice.once_in(3) {
            End::Kill
        } else {
            End::PowerLoss
        }
    }

    pub(super) fn strike(&mut self, end: End) {
        let seed = self.dice.any();
        self.folder.strike_now(end, seed);
    }

    /// Crashes unless the program has already, or stops cleanly.
    fn end(&mut self) {
        if !self.folder.is_struck() && self.dice.once_in(5) {
            if self.dice.once_in(3) {
                self.plan_strike(20);
            }
            self.stop();
            if !self.folder.is_struck() && self.dice.once_in(2) {
                self.let_go();
                return;
            }
        }
        if !self.folder.is_struck() {
            let end = self.some_end();
            self.strike(end);
        }
        self.let_go();
        self.crashed();
    }

    /// Goes on with what the crash left.
    fn crashed(&mut self) {
        let (folder, end) = self.folder.take_left().unwrap();
        self.folder = folder;
        for (name, synced) in std::mem::take(&mut *self.seen.lock().unwrap()) {
            if let Some(topic) = self.model.topics.get_mut(name.as_str()) {
                topic.synced = topic.synced.max(synced);
            }
        }
        self.tally.crashes += 1;
        if end == End::PowerLoss {
            self.tally.power_losses += 1;
            self.ended = End::PowerLoss;
        }
    }

    /// Stops in peace: what was settled in time is settled for good.
    fn stop(&mut self) {
        self.leave_seats();
        let (Some(queues), Some(store)) = (self.queues.clone(), self.store.clone()) else {
            return;
        };
        let closed = until_down(|| {
            queues.close();
            while self.hands.work_once() {}
            store.close()
        });
        if self.folder.is_struck() {
            return;
        }
        let closed = closed.expect("nothing struck");
        assert!(closed.is_ok() || self.failing, "{closed:?}");
        if closed.is_ok() && !self.failing {
            self.tally.stops += 1;
            self.note_synced();
            self.model.stopped();
        }
    }

    /// Drops all that belongs to this run.
    fn let_go(&mut self) {
        self.pending.clear();
        let (held, seats) = (
            std::mem::take(&mut self.held),
            std::mem::take(&mut self.seats),
        );
        let redriving = std::mem::take(&mut self.redriving);
        let publishers = std::mem::take(&mut self.publishers);
        let (broker, queues) = (self.broker.take(), self.queues.take());
        let store = self.store.take();
        until_down(move || drop((redriving, held)));
        until_down(move || drop(seats));
        until_down(move || drop(publishers));
        if let Some(queues) = &queues {
            until_down(|| queues.close());
        }
        until_down(move || drop((broker, queues)));
        if let Some(store) = &store {
            until_down(|| drop(store.close()));
        }
        until_down(move || drop(store));
        self.folder.failures().heal();
        if !self.folder.is_struck() {
            self.folder.plan(None);
        }
    }
}
