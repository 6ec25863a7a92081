//! A queue as a list of records: slow and plain, to compare the scheduler with.

use super::*;

/// What the scheduler must say in this step; in any order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expected {
    Settled(u64),
    /// A move's number is looked at apart.
    Entry(Entry),
    Told(Effect),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Acked,
    Dropped,
    Moved,
    Damaged,
    Purged,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) consumer: ConsumerId,
    pub(super) lease: LeaseNumber,
    pub(super) until_us: u64,
    pub(super) lease_us: u64,
    pub(super) delivered_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Unscanned,
    Ready,
    Delayed,
    Leased(Held),
    Moving(u64),
    Done(End),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Void,
    Plain,
    Special,
}

#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) bytes: u32,
    pub(super) append_us: u64,
    pub(super) group: u64,
    pub(super) priority: u8,
    pub(super) due_us: u64,
    pub(super) expires_us: u64,
    pub(super) at: At,
    pub(super) attempts: u16,
    pub(super) first_us: u64,
    pub(super) last_us: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Pull {
    pub(super) messages: u32,
    pub(super) bytes: u64,
    pub(super) until_us: u64,
    pub(super) lease_us: u64,
    pub(super) given: u32,
    pub(super) given_bytes: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Worker {
    pub(super) id: ConsumerId,
    pub(super) lease_us: u64,
    pub(super) messages: u32,
    pub(super) bytes: u64,
    pub(super) pulls: Vec<Pull>,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) mode: Mode,
    pub(super) policy: Policy,
    pub(super) bounds: Bounds,
    pub(super) paused: bool,
    pub(super) records: Vec<Record>,
    pub(super) scanned: usize,
    pub(super) workers: Vec<Worker>,
    pub(super) next_move: u64,
    pub(super) far: Vec<FarEntry>,
    pub(super) expected: Vec<Expected>,
    /// A scan that says there is nothing may settle again what is settled.
    pub(super) voiding: bool,
    pub(super) leases_seen: std::collections::HashSet<u64>,
}

impl Model {
    pub(super) fn new(mode: Mode, policy: Policy, bounds: Bounds) -> Self {
        Self {
            mode,
            policy,
            bounds,
            paused: false,
            records: Vec::new(),
            scanned: 0,
            workers: Vec::new(),
            next_move: 1,
            far: Vec::new(),
            expected: Vec::new(),
            voiding: false,
            leases_seen: std::collections::HashSet::new(),
        }
    }

    pub(super) fn group(&self, at: usize) -> u64 {
        match self.mode {
            Mode::Grouped => self.records[at].group,
            Mode::Plain | Mode::Prioritised => 0,
        }
    }

    fn is_open(&self, at: usize) -> bool {
        !matches!(
            self.records[at].at,
            At::Unscanned | At::Moving(_) | At::Done(_)
        )
    }

    /// Whether nothing of its group is before it.
    pub(super) fn is_head(&self, at: usize) -> bool {
        let group = self.group(at);
        group == 0 || !(0..at).any(|earlier| self.group(earlier) == group && self.is_open(earlier))
    }

    pub(super) fn rank(&self, at: usize) -> (u8, bool, usize) {
        let record = &self.records[at];
        let priority = match self.mode {
            Mode::Prioritised => record.priority,
            Mode::Plain | Mode::Grouped => 0,
        };
        (255 - priority, record.attempts == 0, at)
    }

    /// The record that must be delivered next, or has expired in its turn.
    pub(super) fn next_ready(&self) -> Option<usize> {
        let mut groups = Vec::new();
        let mut best = None;
        for at in 0..self.records.len() {
            if !self.is_open(at) {
                continue;
            }
            let group = self.group(at);
            let is_head = group == 0 || !groups.contains(&group);
            if is_head {
                groups.push(group);
            }
            if is_head && self.records[at].at == At::Ready {
                let rank = self.rank(at);
                best = best.filter(|best| *best < rank).or(Some(rank));
            }
        }
        best.map(|(_, _, at)| at)
    }

    pub(super) fn is_expired(&self, now: Now, at: usize) -> bool {
        let record = &self.records[at];
        let age_us = self.policy.age_max_us;
        (age_us > 0 && record.append_us + age_us <= now.wall_us)
            || (record.expires_us > 0 && record.expires_us <= now.wall_us)
    }

    pub(super) fn floor(&self) -> usize {
        let open = (0..self.scanned).find(|at| !matches!(self.records[*at].at, At::Done(_)));
        open.unwrap_or(self.scanned)
    }

    pub(super) fn moving(&self) -> usize {
        let moving = |record: &&Record| matches!(record.at, At::Moving(_));
        self.records.iter().filter(moving).count()
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (usize, Held)> {
        self.records
            .iter()
            .enumerate()
            .filter_map(|(at, record)| match record.at {
                At::Leased(held) => Some((at, held)),
                _ => None,
            })
    }

    pub(super) fn is_hungry(&self, worker: &Worker) -> bool {
        if !worker.pulls.is_empty() {
            return true;
        }
        let mine = || self.held().filter(|(_, held)| held.consumer == worker.id);
        let bytes: u64 = mine()
            .map(|(at, _)| u64::from(self.records[at].bytes))
            .sum();
        mine().count() < worker.messages as usize && bytes < worker.bytes
    }

    pub(super) fn may_deliver(&self) -> bool {
        let mut leases: Vec<LeaseNumber> = self.held().map(|(_, held)| held.lease).collect();
        leases.sort_unstable();
        leases.dedup();
        !self.paused
            && self.moving() < self.bounds.moves_max
            && leases.len() < self.bounds.leases_max
            && self.workers.iter().any(|worker| self.is_hungry(worker))
    }

    // Commands: what an input does, and what must be told of it.

    pub(super) fn input(&mut self, now: Now, input: &Input) {
        self.voiding = false;
        match input.clone() {
            Input::Scanned(scanned) => self.scan(now, scanned),
            Input::Attach { consumer, lease_us } => self.workers.push(Worker {
                id: consumer,
                lease_us,
                messages: 0,
                bytes: 0,
                pulls: Vec::new(),
            }),
            Input::Detach { consumer, cause } => {
                self.workers.retain(|worker| worker.id != consumer);
                let held: Vec<_> = self.held().collect();
                for (at, held) in held {
                    match cause {
                        _ if held.consumer != consumer => {}
                        Detached::Closed => self.records[at].at = At::Ready,
                        Detached::Lost => self.again(now, at, held, 0),
                    }
                }
            }
            Input::Window {
                consumer,
                messages,
                bytes,
            } => {
                if let Some(worker) = self.worker(consumer) {
                    worker.messages = messages;
                    worker.bytes = bytes;
                }
            }
            Input::Receive {
                consumer,
                messages,
                bytes,
                until_boot_us,
                lease_us,
            } => {
                let pull = Pull {
                    messages,
                    bytes: bytes.max(1),
                    until_us: until_boot_us,
                    lease_us,
                    given: 0,
                    given_bytes: 0,
                };
                match self.worker(consumer) {
                    Some(worker) if messages > 0 && worker.pulls.len() < RECEIVES_MAX => {
                        worker.pulls.push(pull);
                    }
                    _ => self.over(consumer),
                }
            }
            Input::Settle { consumer, settle } => self.settle(now, consumer, &settle),
            Input::Acks { consumer, acks } => self.acks(now, consumer, acks),
            Input::Tick => self.tick(now),
            Input::Pause => self.paused = true,
            Input::Resume => self.paused = false,
            Input::SetPolicy(policy) => self.policy = policy,
            Input::Purge { to } => self.purge(to),
            Input::DropOldest { messages, cause } => {
                for _ in 0..messages {
                    let ready = |at: &usize| self.records[*at].at == At::Ready;
                    let oldest = (0..self.records.len()).find(ready);
                    let Some(at) = oldest.filter(|_| self.moving() < self.bounds.moves_max) else {
                        break;
                    };
                    self.bury(at, (cause, ""));
                }
            }
            Input::Applied { through } => self.applied(through),
            Input::Near { entries, .. } => {
                for entry in entries {
                    let record = &mut self.records[entry.offset.0 as usize];
                    if record.at == At::Delayed && entry.due_us <= now.wall_us {
                        record.at = At::Ready;
                    }
                }
            }
        }
        while self.scanned < self.records.len()
            && matches!(self.records[self.scanned].at, At::Done(_))
        {
            self.scanned += 1;
        }
    }

    fn worker(&mut self, id: ConsumerId) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.id == id)
    }

    fn over(&mut self, consumer: ConsumerId) {
        self.expected.push(Expected::Told(Effect::ReceiveOver {
            consumer,
            granted: 0,
        }));
    }

    fn scan(&mut self, now: Now, scanned: Scanned) {
        let (first, next, void) = match scanned {
            Scanned::Run { first, count, .. } => (first.0, first.0 + u64::from(count), false),
            Scanned::One { offset, .. } => (offset.0, offset.0 + 1, false),
            Scanned::Void { first, next } => (first.0, next.0, true),
        };
        self.voiding = void;
        for at in (first as usize).max(self.scanned)..next as usize {
            let record = &mut self.records[at];
            if record.at == At::Unscanned {
                let due = record.due_us > now.wall_us;
                record.at = match void {
                    true => At::Done(End::Nothing),
                    false if due => At::Delayed,
                    false => At::Ready,
                };
                if void {
                    self.expected.push(Expected::Settled(at as u64));
                }
            }
        }
        self.scanned = self.scanned.max(next as usize);
    }

    fn tick(&mut self, now: Now) {
        let mut over = Vec::new();
        for worker in &mut self.workers {
            let id = worker.id;
            worker.pulls.retain(|pull| {
                let stays = pull.until_us > now.boot_us;
                if !stays {
                    over.push(id);
                }
                stays
            });
        }
        for id in over {
            self.over(id);
        }
        let held: Vec<_> = self.held().collect();
        for (at, held) in held {
            if held.until_us <= now.boot_us {
                self.again(now, at, held, 0);
            }
        }
        for at in 0..self.records.len() {
            let far = self.far.iter().any(|entry| entry.offset.0 == at as u64);
            let record = &self.records[at];
            if record.at == At::Delayed && record.due_us <= now.wall_us && !far && self.is_head(at)
            {
                self.records[at].at = At::Ready;
            }
        }
    }

    fn purge(&mut self, to: Offset) {
        if to.0 as usize <= self.floor() {
            return;
        }
        self.expected.push(Expected::Entry(Entry::Purged { to }));
        for record in &mut self.records[..to.0 as usize] {
            if !matches!(record.at, At::Moving(_) | At::Done(_)) {
                record.at = At::Done(End::Purged);
            }
        }
        self.scanned = self.scanned.max(to.0 as usize);
    }

    fn applied(&mut self, through: u64) {
        let arrived =
            |record: &Record| matches!(record.at, At::Moving(number) if number <= through);
        if self.records.iter().any(arrived) {
            self.expected
                .push(Expected::Entry(Entry::Applied { through }));
        }
        for record in &mut self.records {
            if arrived(record) {
                record.at = At::Done(End::Moved);
            }
        }
    }

    fn acks(&mut self, now: Now, consumer: ConsumerId, acks: Acks) {
        for settle in acks.settles() {
            self.settle(now, consumer, &settle);
        }
    }

    fn settle(&mut self, now: Now, consumer: ConsumerId, settle: &Settle) {
        let at = settle.offset.0 as usize;
        let held = match self.records.get(at).map(|record| record.at) {
            Some(At::Leased(held)) if held.consumer == consumer && held.lease == settle.lease => {
                Some(held)
            }
            _ => None,
        };
        if held.is_none() || settle.tag != 0 {
            self.expected.push(Expected::Told(Effect::Settled {
                consumer,
                tag: settle.tag,
                count: 1,
                result: held.map(|_| ()).ok_or(SettleRefusal::LeaseLost),
            }));
        }
        let Some(held) = held else {
            return;
        };
        match &settle.verb {
            Verb::Ack => self.finish(at, End::Acked),
            Verb::Gone => self.finish(at, End::Damaged),
            Verb::Retry => {
                let attempts = self.records[at].attempts + 1;
                let delay_us = self.policy.backoff.delay_us(attempts, at as u64);
                self.again(now, at, held, delay_us);
            }
            Verb::RetryAfter { delay_us } => self.again(now, at, held, *delay_us),
            Verb::Reject { reason } => {
                self.count(at, held);
                self.bury(at, (Reason::Rejected, reason));
            }
            Verb::Redrive => {
                self.count(at, held);
                self.bury(at, (Reason::Redriven, ""));
            }
            Verb::Release => self.records[at].at = At::Ready,
            Verb::Extend { lease_us } => {
                let lease_us = if *lease_us == 0 {
                    held.lease_us
                } else {
                    *lease_us
                };
                self.records[at].at = At::Leased(Held {
                    until_us: now.boot_us + lease_us,
                    ..held
                });
            }
        }
    }

    fn finish(&mut self, at: usize, end: End) {
        assert!(matches!(self.records[at].at, At::Leased(_)));
        self.records[at].at = At::Done(end);
        self.expected.push(Expected::Settled(at as u64));
    }

    fn count(&mut self, at: usize, held: Held) {
        let record = &mut self.records[at];
        if record.attempts == 0 {
            record.first_us = held.delivered_us;
        }
        record.attempts += 1;
        record.last_us = held.delivered_us;
    }

    fn again(&mut self, now: Now, at: usize, held: Held, delay_us: u64) {
        self.count(at, held);
        let max = self.policy.deliveries_max;
        if max != 0 && self.records[at].attempts >= max {
            return self.bury(at, (Reason::MaxDeliveries, ""));
        }
        let due_us = if delay_us == 0 {
            0
        } else {
            now.wall_us + delay_us
        };
        let record = &mut self.records[at];
        record.due_us = due_us;
        record.at = if due_us > now.wall_us {
            At::Delayed
        } else {
            At::Ready
        };
        let entry = Entry::Attempted {
            offset: Offset(at as u64),
            attempts: record.attempts,
            due_us,
            first_us: record.first_us,
            last_us: record.last_us,
        };
        self.expected.push(Expected::Entry(entry));
    }

    pub(super) fn bury(&mut self, at: usize, (why, text): (Reason, &str)) {
        let kept = self.policy.dead_letters == DeadLetters::Kept;
        let moved = match why {
            Reason::Redriven => true,
            Reason::Expired => kept && self.policy.expired == OnExpiry::DeadLetter,
            _ => kept,
        };
        let record = &mut self.records[at];
        assert!(!matches!(record.at, At::Moving(_) | At::Done(_)), "twice");
        if moved {
            record.at = At::Moving(u64::MAX);
            self.expected.push(Expected::Entry(Entry::Moved {
                number: 0,
                offset: Offset(at as u64),
                attempts: record.attempts,
                first_us: record.first_us,
                last_us: record.last_us,
                why,
                text: text[..text.len().min(256)].into(),
            }));
        } else {
            record.at = At::Done(End::Dropped);
            self.expected.push(Expected::Settled(at as u64));
        }
    }

    /// The process ended: what was with consumers is as it was before, and nothing is scanned.
    pub(super) fn restart(&mut self) {
        self.scanned = self.floor();
        self.far.clear();
        self.workers.clear();
        self.paused = false;
        for record in &mut self.records {
            if !matches!(record.at, At::Moving(_) | At::Done(_)) {
                record.at = At::Unscanned;
            }
        }
    }
}
