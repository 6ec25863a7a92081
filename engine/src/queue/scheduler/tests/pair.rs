//! The scheduler beside the model: every effect is looked at, and after every step all of the state.

use std::collections::BTreeMap;

use super::model::{At, End, Expected, Held, Kind, Model, Record};
use super::*;

/// Both, and what lies between them: the journal, the far store, the topic.
pub(super) struct Pair {
    pub(super) scheduler: Scheduler,
    pub(super) model: Model,
    /// The journal, folded.
    pub(super) folded: Durable,
    frames: Vec<Vec<u8>>,
    pub(super) now: Now,
    pub(super) next_consumer: u64,
    /// Leases of former times, some of them over.
    pub(super) grants: Vec<Grant>,
    pub(super) effects: Vec<Effect>,
}

impl Pair {
    pub(super) fn new(mode: Mode, policy: Policy, bounds: Bounds) -> Self {
        let folded = Durable::new(Offset(0));
        Self {
            scheduler: Scheduler::bounded(mode, policy, &folded, bounds),
            model: Model::new(mode, policy, bounds),
            folded,
            frames: Vec::new(),
            now: Now {
                boot_us: 1_000,
                wall_us: 1_000_000,
            },
            next_consumer: 1,
            grants: Vec::new(),
            effects: Vec::new(),
        }
    }

    pub(super) fn publish(&mut self, record: Record) {
        self.model.records.push(record);
    }

    pub(super) fn end(&self) -> usize {
        self.model.records.len()
    }

    /// Gives both the same input and compares all there is to compare.
    pub(super) fn step(&mut self, input: Input) {
        self.take_in(input);
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        self.scheduler.deliver(self.now, &mut effects);
        self.hear(&effects);
        self.effects = effects;
        let deliverable = self.model.next_ready().filter(|_| self.model.may_deliver());
        assert_eq!(deliverable, None, "ready, and somebody has room");
        self.compare();
    }

    /// The same, but nothing is delivered yet.
    pub(super) fn absorb(&mut self, input: Input) {
        self.take_in(input);
        self.compare();
    }

    fn take_in(&mut self, input: Input) {
        self.model.input(self.now, &input);
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        self.scheduler.absorb(self.now, input, &mut effects);
        let granted = |effect: &Effect| matches!(effect, Effect::Deliver(_));
        assert!(!effects.iter().any(granted), "delivered");
        self.hear(&effects);
        self.effects = effects;
    }

    fn hear(&mut self, effects: &[Effect]) {
        self.fold(effects);
        for effect in effects {
            self.observe(effect);
        }
        assert_eq!(self.model.expected, [], "never told");
        self.model.voiding = false;
    }

    /// Writes the step's entries as a frame, reads it back and folds it.
    fn fold(&mut self, effects: &[Effect]) {
        let entries = effects.iter().filter_map(|effect| match effect {
            Effect::Journal(entry) => Some(entry),
            _ => None,
        });
        let mut frame = Vec::new();
        Entry::encode_all(entries, &mut frame);
        Entry::decode_all(&frame, |entry| self.folded.apply(&entry)).unwrap();
        self.frames.push(frame);
    }

    /// Frames that a checkpoint includes change nothing when they are folded in again, from any of
    /// them on: a queue's own position in the journal spares time, and nothing else (Q6).
    fn check_replayed_twice(&self) {
        for from in (0..self.frames.len()).step_by(1 + self.frames.len() / 4) {
            let mut again = self.folded.clone();
            for frame in self.frames.iter().skip(from) {
                Entry::decode_all(frame, |entry| again.apply(&entry)).unwrap();
            }
            assert_eq!(again, self.folded, "replayed twice from frame {from} on");
        }
    }

    fn observe(&mut self, effect: &Effect) {
        match effect {
            Effect::Journal(Entry::Settled { first, count }) => {
                for at in first.0..first.0 + count {
                    self.observe_settled(at);
                }
            }
            Effect::Journal(Entry::Moved { .. }) => self.observe_moved(effect),
            Effect::Journal(entry) => {
                assert!(self.told(&Expected::Entry(entry.clone())), "{entry:?}");
            }
            Effect::Deliver(grant) => self.observe_grant(*grant),
            Effect::ReceiveOver { consumer, granted } if *granted > 0 => {
                let mut workers = self.model.workers.iter_mut();
                let worker = workers.find(|worker| worker.id == *consumer).unwrap();
                let pull = worker.pulls.remove(0);
                assert_eq!(pull.given, *granted, "records of a pull");
            }
            Effect::Settled {
                consumer,
                tag,
                count,
                result,
            } if *count > 1 => {
                for nth in 0..u64::from(*count) {
                    self.observe(&Effect::Settled {
                        consumer: *consumer,
                        tag: tag + nth,
                        count: 1,
                        result: *result,
                    });
                }
            }
            Effect::Settled { .. } | Effect::ReceiveOver { .. } => {
                assert!(self.told(&Expected::Told(effect.clone())), "{effect:?}");
            }
            Effect::Far { entries } => {
                for entry in entries {
                    let record = &self.model.records[entry.offset.0 as usize];
                    assert_eq!(record.at, At::Delayed, "to the far store");
                    assert_eq!(record.due_us, entry.due_us);
                    let kept = FarEntry::from_bytes(&entry.to_bytes());
                    assert_eq!(kept, *entry);
                    self.model.far.push(kept);
                }
            }
        }
    }

    /// Whether this was to be told; it is told once.
    fn told(&mut self, what: &Expected) -> bool {
        let expected = &mut self.model.expected;
        let found = expected.iter().position(|expected| expected == what);
        found.map(|at| expected.swap_remove(at)).is_some()
    }

    /// An expired record may only be taken out when it is its turn, and somebody would have got it.
    fn expire(&mut self, at: usize) {
        let model = &self.model;
        assert!(model.may_deliver(), "expired, but nobody asked for it");
        self.check_turn(at);
        assert!(self.model.is_expired(self.now, at), "{at} has not expired");
        self.model.bury(at, (Reason::Expired, ""));
    }

    /// The record at `at` is the one that comes next. One that came out behind its group when it was
    /// due already needs no tick.
    fn check_turn(&self, at: usize) {
        let model = &self.model;
        let record = &model.records[at];
        let next = model.next_ready();
        if next == Some(at) {
            return;
        }
        let due = record.at == At::Delayed && record.due_us <= self.now.wall_us;
        assert!(
            due && model.group(at) != 0 && model.is_head(at),
            "{at} before {next:?}: {record:?}"
        );
        assert!(next.is_none_or(|next| model.rank(at) < model.rank(next)));
    }

    fn observe_settled(&mut self, at: u64) {
        let done = matches!(self.model.records[at as usize].at, At::Done(_));
        if self.told(&Expected::Settled(at)) || (self.model.voiding && done) {
            return;
        }
        self.expire(at as usize);
        assert!(self.told(&Expected::Settled(at)), "{at} was dropped");
    }

    fn observe_moved(&mut self, effect: &Effect) {
        let Effect::Journal(Entry::Moved { number, offset, .. }) = effect else {
            return;
        };
        assert_eq!(*number, self.model.next_move, "moves are numbered in order");
        self.model.next_move += 1;
        let Effect::Journal(mut unnumbered) = effect.clone() else {
            return;
        };
        if let Entry::Moved { number, .. } = &mut unnumbered {
            *number = 0;
        }
        let at = offset.0 as usize;
        if !self.told(&Expected::Entry(unnumbered.clone())) {
            self.expire(at);
            let told = self.told(&Expected::Entry(unnumbered));
            assert!(told, "{effect:?}");
        }
        assert_eq!(self.model.records[at].at, At::Moving(u64::MAX));
        self.model.records[at].at = At::Moving(*number);
    }

    fn observe_grant(&mut self, grant: Grant) {
        assert!(!self.model.paused, "paused");
        assert!(grant.count >= 1 && grant.count <= RUN_MAX);
        assert!(
            self.model.leases_seen.insert(grant.lease.0),
            "lease used twice"
        );
        for at in grant.first.0 as usize..grant.first.0 as usize + grant.count as usize {
            self.observe_delivery(at, grant);
        }
        self.grants.push(grant);
    }

    fn observe_delivery(&mut self, at: usize, grant: Grant) {
        self.check_turn(at);
        assert!(!self.model.is_expired(self.now, at), "{at} expired before");
        assert!(self.model.is_head(at), "{at} before others of its group");
        let record = self.model.records[at].clone();
        assert!(record.due_us <= self.now.wall_us, "{at} before it was due");
        assert!(record.kind != Kind::Void);
        assert_eq!(grant.attempts, record.attempts + 1, "attempts of {at}");
        assert_eq!(grant.first_us, record.first_us);
        assert!(grant.count == 1 || record.attempts == 0, "a run of retries");
        let workers = self.model.workers.iter();
        let worker = workers
            .enumerate()
            .find(|(_, worker)| worker.id == grant.consumer);
        let (seat, worker) = worker.unwrap();
        let mut lease_us = match worker.lease_us {
            0 => self.model.policy.lease_us,
            lease_us => lease_us,
        };
        if worker.pulls.is_empty() {
            assert!(self.model.is_hungry(worker), "{:?} has no room", worker.id);
        } else {
            let pull = &mut self.model.workers[seat].pulls[0];
            assert!(pull.given < pull.messages && pull.given_bytes < pull.bytes);
            pull.given += 1;
            pull.given_bytes += u64::from(record.bytes);
            if pull.lease_us != 0 {
                lease_us = pull.lease_us;
            }
        }
        assert_eq!(grant.until_boot_us, self.now.boot_us + lease_us);
        self.model.records[at].at = At::Leased(Held {
            consumer: grant.consumer,
            lease: grant.lease,
            until_us: grant.until_boot_us,
            lease_us,
            delivered_us: self.now.wall_us,
        });
    }

    /// All state of one against all of the other.
    fn compare(&mut self) {
        let scheduler = &self.scheduler;
        scheduler.check_everything();
        let model = &mut self.model;
        assert_eq!(scheduler.next_scan().0 as usize, model.scanned, "scanned");
        assert_eq!(scheduler.floor().0 as usize, model.floor(), "floor");
        let peeked: BTreeMap<u64, PeekedRecord> = scheduler
            .peek(Offset(0), usize::MAX)
            .into_iter()
            .map(|record| (record.offset.0, record))
            .collect();
        for at in 0..model.scanned {
            let record = &model.records[at];
            let far = model.far.iter().any(|entry| entry.offset.0 == at as u64);
            let found = peeked.get(&(at as u64));
            let state = found.map_or(State::Settled, |found| found.state);
            let expected = match record.at {
                At::Ready => State::Ready,
                At::Delayed if far => State::Far,
                At::Delayed => State::Delayed,
                At::Leased(_) => State::Leased,
                At::Moving(_) => State::Moving,
                At::Done(_) => State::Settled,
                At::Unscanned => panic!("{at} was scanned"),
            };
            let waits = [State::Ready, State::Delayed];
            if waits.contains(&state) && waits.contains(&expected) && state != expected {
                // Behind its group, a delay passes when the record comes out.
                let due = record.due_us <= self.now.wall_us;
                assert!(due && model.group(at) != 0, "{at}: {state:?}, {record:?}");
                model.records[at].at = if state == State::Ready {
                    At::Ready
                } else {
                    At::Delayed
                };
                continue;
            }
            assert_eq!(state, expected, "record {at}: {record:?}");
            if let Some(found) = found
                && state != State::Moving
            {
                let under_way = u16::from(state == State::Leased);
                assert_eq!(found.attempts, record.attempts + under_way, "of {at}");
            }
        }
        self.compare_durable();
    }

    fn compare_durable(&self) {
        assert_eq!(self.checkpoint(), self.folded, "what lasts");
        let counts = self.scheduler.counts();
        assert_eq!(counts.moving as usize, self.model.moving());
        assert_eq!(counts.leased as usize, self.model.held().count());
        for info in self.scheduler.leases(usize::MAX) {
            let at = self.model.records[info.offset.0 as usize].at;
            let At::Leased(held) = at else {
                panic!("{info:?}, but {at:?}");
            };
            assert_eq!(
                (info.lease, info.consumer, info.until_boot_us),
                (held.lease, held.consumer, held.until_us)
            );
        }
    }

    /// What a checkpoint would hold.
    pub(super) fn checkpoint(&self) -> Durable {
        let mut durable = self.scheduler.durable();
        self.far().for_each(|entry| durable.add_far(entry));
        durable
    }

    /// What the far store holds that is not settled.
    fn far(&self) -> impl Iterator<Item = &FarEntry> {
        let delayed =
            |entry: &&FarEntry| self.model.records[entry.offset.0 as usize].at == At::Delayed;
        self.model.far.iter().filter(delayed)
    }

    /// Ends the process and starts another from the journal, or from a checkpoint.
    pub(super) fn restart(&mut self, checkpoint: Option<()>) {
        let durable = match checkpoint {
            None => self.folded.clone(),
            Some(()) => {
                let mut bytes = Vec::new();
                let mut far: Vec<FarEntry> = self.far().copied().collect();
                self.scheduler.durable().encode_with(&mut far, &mut bytes);
                let mut added = Vec::new();
                self.checkpoint().encode(&mut added);
                assert_eq!(bytes, added);
                Durable::decode(&bytes).unwrap()
            }
        };
        assert_eq!(durable, self.folded);
        self.check_replayed_twice();
        self.folded = durable;
        let (mode, policy, bounds) = (self.model.mode, self.model.policy, self.model.bounds);
        self.scheduler = Scheduler::bounded(mode, policy, &self.folded, bounds);
        self.model.restart();
        // What was leased may be leased under the same number in another run.
        self.model.leases_seen.clear();
        self.model.scanned = self.scheduler.next_scan().0 as usize;
        self.compare();
    }

    pub(super) fn attach(&mut self, lease_us: u64) -> ConsumerId {
        let consumer = ConsumerId(self.next_consumer);
        self.next_consumer += 1;
        self.step(Input::Attach { consumer, lease_us });
        consumer
    }

    /// Tells of up to `records` more of the topic; from `back` records before what comes next.
    pub(super) fn scan(&mut self, records: usize, back: usize) {
        let mut at = self.scheduler.next_scan().0 as usize;
        at = at.saturating_sub(back);
        let end = (at + back + records).min(self.end());
        if at < end {
            let (scanned, _) = self.piece(at, end);
            self.step(Input::Scanned(scanned));
        }
    }

    /// The piece of the topic at `at`, at most up to `end`.
    fn piece(&self, at: usize, end: usize) -> (Scanned, usize) {
        let records = &self.model.records;
        let first = &records[at];
        let like = |record: &&Record| {
            record.kind == first.kind
                && (first.kind == Kind::Void
                    || (record.bytes, record.append_us) == (first.bytes, first.append_us))
        };
        let count = records[at..end].iter().take_while(like).count();
        let offset = Offset(at as u64);
        match first.kind {
            Kind::Void => {
                let next = offset + count as u64;
                (
                    Scanned::Void {
                        first: offset,
                        next,
                    },
                    count,
                )
            }
            Kind::Plain => (
                Scanned::Run {
                    first: offset,
                    count: count as u32,
                    bytes_each: first.bytes,
                    append_us: first.append_us,
                },
                count,
            ),
            Kind::Special => (
                Scanned::One {
                    offset,
                    bytes: first.bytes,
                    append_us: first.append_us,
                    group: first.group,
                    priority: first.priority,
                    // Found in the topic, where a retry's delay does not stand.
                    due_us: if first.attempts == 0 { first.due_us } else { 0 },
                    expires_us: first.expires_us,
                },
                1,
            ),
        }
    }

    /// Brings back some of the far store.
    pub(super) fn near(&mut self, entries: usize) {
        self.model
            .far
            .sort_by_key(|entry| (entry.due_us, entry.offset));
        let entries = entries.min(self.model.far.len());
        let entries: Vec<FarEntry> = self.model.far.drain(..entries).collect();
        let horizon_wall_us = self
            .model
            .far
            .first()
            .map_or(u64::MAX, |entry| entry.due_us);
        self.step(Input::Near {
            entries,
            horizon_wall_us,
        });
    }

    /// Lets one consumer work until nothing is left, going by what the scheduler wants.
    pub(super) fn drain(&mut self) {
        let workers: Vec<ConsumerId> = self.model.workers.iter().map(|worker| worker.id).collect();
        for consumer in workers {
            let cause = Detached::Closed;
            self.step(Input::Detach { consumer, cause });
        }
        self.step(Input::Resume);
        let consumer = self.attach(0);
        let (messages, bytes) = (7, 1 << 40);
        self.step(Input::Window {
            consumer,
            messages,
            bytes,
        });
        let mut turns = 0;
        while self.scheduler.floor().0 as usize != self.end() {
            turns += 1;
            assert!(turns < 100_000, "it does not come to an end");
            if !self.drain_some(consumer) {
                let wake = self.scheduler.next_wake();
                assert_ne!(
                    wake,
                    Wake::default(),
                    "open records, and nothing to wait for"
                );
                self.now.boot_us = self.now.boot_us.max(wake.boot_us.unwrap_or(0));
                self.now.wall_us = self.now.wall_us.max(wake.wall_us.unwrap_or(0));
                self.step(Input::Tick);
            }
        }
        for (at, record) in self.model.records.iter().enumerate() {
            assert!(matches!(record.at, At::Done(_)), "{at} is left: {record:?}");
        }
        assert_eq!(self.scheduler.counts().unsettled_scanned, 0);
    }

    /// One thing that is to do; false if there is none.
    fn drain_some(&mut self, consumer: ConsumerId) -> bool {
        let held = self.model.held().next();
        if let Some((at, held)) = held {
            let settle = Settle {
                offset: Offset(at as u64),
                lease: held.lease,
                verb: Verb::Ack,
                tag: 1,
            };
            self.step(Input::Settle { consumer, settle });
            assert_eq!(self.model.records[at].at, At::Done(End::Acked));
            return true;
        }
        if self.model.moving() > 0 {
            let through = self.model.next_move - 1;
            if self
                .model
                .records
                .iter()
                .any(|record| matches!(record.at, At::Moving(_)))
            {
                self.step(Input::Applied { through });
                return true;
            }
        }
        if self.scheduler.wants() > 0 && (self.scheduler.next_scan().0 as usize) < self.end() {
            self.scan(16, 0);
            return true;
        }
        let near = self.scheduler.wants_near(self.now);
        if near > 0 {
            self.near(near);
            return true;
        }
        false
    }
}
