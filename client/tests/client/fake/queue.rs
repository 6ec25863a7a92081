//! Queues and cursors of the small server: leases without time, which end when a test says so.

use std::collections::BTreeMap;

use millstream_client::{
    CursorInfo, CursorList, ErrorCode, LeaseInfo, Offset, PeekedRecord, QueueInfo, QueueList,
    QueueSettings, QueueTotals, RecordState,
};
use millstream_protocol::batch::BatchBuilder;
use millstream_protocol::control::{
    ControlQueue, CreateQueue, DeleteCursor, DeleteQueue, DescribeCursor, DescribeQueue,
    FaultEntry, LeaseList, ListCursors, ListLeases, ListQueues, OpenConsumer, PeekQueue,
    PeekedList, QueueDone, QueueVerb, Receive, ReceiveOver, RedriveQueue, SetCursor, SetQueue,
    Settle, SettleAck, SettleEntry, SettleFault, SettleVerb, Window, Work, WorkEntry,
};
use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};

use super::{Fake, PAGE, Session, State, Stream};
use crate::script::{LEASE_MS, QUEUE_ID, bare, consumer_opened, encoded, topic};

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Ready,
    Leased,
    Acked,
    Dead,
}

#[derive(Debug)]
struct Item {
    body: Vec<u8>,
    attempts: u16,
    fate: Fate,
    lease: u64,
    /// Session and stream that hold it.
    holder: (usize, StreamId),
}

#[derive(Debug)]
pub(crate) struct Queue {
    settings: QueueSettings,
    create: CreateQueue,
    paused: bool,
    items: Vec<Item>,
    reasons: Vec<String>,
    extended: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Queues {
    queues: BTreeMap<String, Queue>,
    cursors: BTreeMap<(String, String), u64>,
    grants: Grants,
    /// Settles are taken and not answered while this is set.
    hold_answers: bool,
    /// The next receive that waits is over.
    end_receive: bool,

    /// Messages of settles that came.
    pub(crate) settle_messages: usize,
}

/// How leases are given.
#[derive(Debug, Default)]
struct Grants {
    leases: u64,
    /// How long they are said to last, unless it is 0.
    lease_ms: u32,
}

/// A consumer stream of a session.
#[derive(Debug)]
pub(crate) struct Consumer {
    queue: String,
    window: u32,
    receive: Option<(u64, Receive)>,
    settled: u64,
    answered: u64,
    faults: Vec<FaultEntry>,
}

/// What a test does with queues, behind the clients' backs.
impl Fake {
    fn queues<T>(&self, act: impl FnOnce(&mut Queues) -> T) -> T {
        let result = act(&mut self.shared.state.lock().unwrap().queues);
        self.shared.changed.notify_waiters();
        result
    }

    /// Makes a plain queue with these records.
    pub(crate) fn queue(&self, name: &str, bodies: &[&str]) {
        let create = CreateQueue {
            name: topic(name),
            topic: None,
            mode: millstream_client::QueueMode::Plain,
            start: millstream_client::Start::Earliest,
            settings: QueueSettings::default(),
        };
        self.queues(|queues| queues.create(create).is_some());
        self.enqueue(name, bodies);
    }

    pub(crate) fn enqueue(&self, name: &str, bodies: &[&str]) {
        self.queues(|queues| {
            let queue = queues.queues.get_mut(name).unwrap();
            queue.items.extend(bodies.iter().map(|body| Item {
                body: body.as_bytes().to_vec(),
                attempts: 0,
                fate: Fate::Ready,
                lease: 0,
                holder: (0, StreamId(0)),
            }));
        });
    }

    pub(crate) fn fates(&self, name: &str) -> Vec<Fate> {
        self.queues(|queues| {
            let items = &queues.queues[name].items;
            items.iter().map(|item| item.fate).collect()
        })
    }

    /// Why records were rejected.
    pub(crate) fn reasons(&self, name: &str) -> Vec<String> {
        self.queues(|queues| queues.queues[name].reasons.clone())
    }

    /// How often a lease was extended.
    pub(crate) fn extended(&self, name: &str) -> u64 {
        self.queues(|queues| queues.queues[name].extended)
    }

    pub(crate) fn settle_messages(&self) -> usize {
        self.queues(|queues| queues.settle_messages)
    }

    /// Says that leases are this short; they last all the same.
    pub(crate) fn short_leases(&self, lease_ms: u32) {
        self.queues(|queues| queues.grants.lease_ms = lease_ms);
    }

    /// Ends all leases; the records are somebody else's now, and stay that.
    pub(crate) fn take_leases(&self, name: &str) {
        self.queues(|queues| {
            let items = &mut queues.queues.get_mut(name).unwrap().items;
            for item in items.iter_mut().filter(|item| item.fate == Fate::Leased) {
                item.holder = (usize::MAX, StreamId(0));
                item.lease = u64::MAX;
            }
        });
    }

    pub(crate) fn hold_answers(&self, hold: bool) {
        self.queues(|queues| queues.hold_answers = hold);
    }

    /// The time of the next receive that waits has passed.
    pub(crate) fn end_receive(&self) {
        self.queues(|queues| queues.end_receive = true);
    }

    pub(crate) fn delete_queue(&self, name: &str) {
        self.queues(|queues| queues.queues.remove(name));
    }
}

impl Queues {
    fn create(&mut self, create: CreateQueue) -> Option<&Queue> {
        let name = create.name.as_str().to_owned();
        let queue = self.queues.entry(name).or_insert_with(|| Queue {
            settings: create.settings.clone(),
            create: create.clone(),
            paused: false,
            items: Vec::new(),
            reasons: Vec::new(),
            extended: 0,
        });
        (queue.create == create).then_some(queue)
    }

    /// What a lost session held is delivered again.
    pub(super) fn detach(&mut self, session: usize, stream: Option<StreamId>) {
        for queue in self.queues.values_mut() {
            for item in &mut queue.items {
                let mine = item.holder.0 == session && stream.is_none_or(|s| s == item.holder.1);
                if item.fate == Fate::Leased && mine {
                    item.fate = Fate::Ready;
                }
            }
        }
    }
}

impl Queue {
    fn count(&self, fate: Fate) -> u64 {
        self.items.iter().filter(|item| item.fate == fate).count() as u64
    }

    fn info(&self) -> QueueInfo {
        let next = Offset(self.items.len() as u64);
        let create = &self.create;
        QueueInfo {
            name: create.name.clone(),
            topic: create.topic.clone().unwrap_or_else(|| create.name.clone()),
            queue_id: QUEUE_ID,
            mode: create.mode,
            own_topic: create.topic.is_none(),
            paused: self.paused,
            settings: self.settings.clone(),
            ready: self.count(Fate::Ready),
            leased: self.count(Fate::Leased),
            delayed: 0,
            moving: 0,
            dead: self.count(Fate::Dead),
            oldest_ready_us: 0,
            consumers: 0,
            floor: Offset(0),
            next,
            delivered_milli: 0,
            acked_milli: 0,
            totals: QueueTotals::default(),
            attempts: [0; 16],
        }
    }

    /// Leases up to `max` records to `holder`.
    fn lease(&mut self, grants: &mut Grants, max: u32, holder: (usize, StreamId)) -> Vec<u8> {
        let mut batch = BatchBuilder::new();
        let mut entries = Vec::new();
        // Records that are granted together share a lease.
        grants.leases += 1;
        let ready = self.items.iter_mut().enumerate();
        let ready = ready.filter(|(_, item)| item.fate == Fate::Ready && !self.paused);
        for (offset, item) in ready.take(max as usize) {
            item.fate = Fate::Leased;
            item.lease = grants.leases;
            item.holder = holder;
            item.attempts += 1;
            batch.push_body(&item.body).unwrap();
            entries.push(WorkEntry {
                offset: Offset(offset as u64),
                lease: item.lease,
                append_us: 1,
                first_us: u64::from(item.attempts > 1),
                left_ms: match grants.lease_ms {
                    0 => LEASE_MS,
                    ms => ms,
                },
                attempts: item.attempts,
            });
        }
        if entries.is_empty() {
            return Vec::new();
        }
        encoded(|out| Work::encode(&entries, &batch, holder.1, 0, out))
    }

    fn settle(&mut self, entry: &SettleEntry<'_>, holder: (usize, StreamId)) -> bool {
        let item = self.items.get_mut(entry.offset.0 as usize).unwrap();
        let lease = (Fate::Leased, entry.lease, holder);
        if (item.fate, item.lease, item.holder) != lease {
            return false;
        }
        item.fate = match entry.verb {
            SettleVerb::Ack => Fate::Acked,
            SettleVerb::Retry | SettleVerb::RetryAfter => Fate::Ready,
            SettleVerb::Reject => {
                self.reasons.push(entry.text.to_owned());
                Fate::Dead
            }
            SettleVerb::Release => {
                item.attempts -= 1;
                Fate::Ready
            }
            SettleVerb::Extend => {
                self.extended += 1;
                Fate::Leased
            }
        };
        true
    }
}

/// What clients ask.
impl Session {
    pub(super) fn answer_queue(&mut self, state: &mut State, header: &WireHeader, body: &[u8]) {
        let queues = &mut state.queues;
        let id = header.correlation;
        let connection = StreamId::CONNECTION;
        let name = match header.kind {
            MessageKind::CreateQueue => {
                let create = CreateQueue::decode(body).unwrap();
                return match queues.create(create) {
                    Some(queue) => queue.info().encode(connection, id, &mut self.out),
                    None => self.refuse(connection, id, ErrorCode::QueueExists),
                };
            }
            MessageKind::ListQueues => {
                let after = ListQueues::decode(body).unwrap().after;
                let mut all: Vec<_> = queues.queues.values().map(Queue::info).collect();
                all.retain(|info| after.as_ref().is_none_or(|after| info.name > *after));
                let more = all.len() > PAGE;
                all.truncate(PAGE);
                let list = QueueList { queues: all, more };
                return list.encode(connection, id, &mut self.out);
            }
            MessageKind::SetQueue => SetQueue::decode(body).unwrap().name,
            MessageKind::DescribeQueue => DescribeQueue::decode(body).unwrap().name,
            MessageKind::DeleteQueue => DeleteQueue::decode(body).unwrap().name,
            MessageKind::ControlQueue => ControlQueue::decode(body).unwrap().name,
            MessageKind::RedriveQueue => RedriveQueue::decode(body).unwrap().name,
            MessageKind::PeekQueue => PeekQueue::decode(body).unwrap().name,
            MessageKind::ListLeases => ListLeases::decode(body).unwrap().name,
            _ => return self.answer_cursor(state, header, body),
        };
        let Some(queue) = queues.queues.get_mut(name.as_str()) else {
            return self.refuse(connection, id, ErrorCode::QueueNotFound);
        };
        match header.kind {
            MessageKind::SetQueue => {
                queue.settings = SetQueue::decode(body).unwrap().settings;
                queue.info().encode(connection, id, &mut self.out);
            }
            MessageKind::DescribeQueue => queue.info().encode(connection, id, &mut self.out),
            MessageKind::PeekQueue => queue.peek(body).encode(connection, id, &mut self.out),
            MessageKind::ListLeases => queue.leases(body).encode(connection, id, &mut self.out),
            _ => {
                let records = match header.kind {
                    MessageKind::DeleteQueue => {
                        let left = queue.count(Fate::Ready);
                        queues.queues.remove(name.as_str());
                        left
                    }
                    MessageKind::ControlQueue => queue.control(body),
                    _ => queue.redrive(body),
                };
                QueueDone { records }.encode(connection, id, &mut self.out);
            }
        }
        self.shared.changed.notify_waiters();
    }

    fn answer_cursor(&mut self, state: &mut State, header: &WireHeader, body: &[u8]) {
        let id = header.correlation;
        let connection = StreamId::CONNECTION;
        let cursors = &mut state.queues.cursors;
        let key = match header.kind {
            MessageKind::SetCursor => {
                let set = SetCursor::decode(body).unwrap();
                let key = (set.topic.as_str().to_owned(), set.name.as_str().to_owned());
                cursors.insert(key.clone(), set.offset.0);
                key
            }
            MessageKind::DescribeCursor => {
                let ask = DescribeCursor::decode(body).unwrap();
                (ask.topic.as_str().to_owned(), ask.name.as_str().to_owned())
            }
            MessageKind::DeleteCursor => {
                let ask = DeleteCursor::decode(body).unwrap();
                let key = (ask.topic.as_str().to_owned(), ask.name.as_str().to_owned());
                return match cursors.remove(&key) {
                    Some(_) => self
                        .out
                        .extend(bare(MessageKind::CursorDeleted, connection, id)),
                    None => self.refuse(connection, id, ErrorCode::CursorNotFound),
                };
            }
            MessageKind::ListCursors => {
                let ask = ListCursors::decode(body).unwrap();
                let mut all: Vec<_> = cursors.iter().map(|(key, at)| cursor(key, *at)).collect();
                all.retain(|cursor| ask.topic.as_ref().is_none_or(|t| *t == cursor.topic));
                let after = ask.after_topic.zip(ask.after_name);
                all.retain(|c| {
                    let place = (c.topic.clone(), c.name.clone());
                    after.as_ref().is_none_or(|after| place > *after)
                });
                let more = all.len() > PAGE;
                all.truncate(PAGE);
                let list = CursorList { cursors: all, more };
                return list.encode(connection, id, &mut self.out);
            }
            kind => panic!("{kind:?}"),
        };
        match cursors.get(&key) {
            Some(at) => cursor(&key, *at).encode(connection, id, &mut self.out),
            None => self.refuse(connection, id, ErrorCode::CursorNotFound),
        }
    }

    pub(super) fn open_consumer(&mut self, state: &mut State, stream: StreamId, body: &[u8]) {
        let open = OpenConsumer::decode(body).unwrap();
        let queue = open.queue.as_str().to_owned();
        if !state.queues.queues.contains_key(&queue) {
            return self.refuse(stream, 0, ErrorCode::QueueNotFound);
        }
        self.out.extend(consumer_opened(stream, self.number as u64));
        let consumer = Consumer {
            queue,
            window: open.window_messages,
            receive: None,
            settled: 0,
            answered: 0,
            faults: Vec::new(),
        };
        self.streams.insert(stream, Stream::Consumer(consumer));
    }

    pub(super) fn consume(&mut self, state: &mut State, header: &WireHeader, body: &[u8]) {
        let Some(Stream::Consumer(consumer)) = self.streams.get_mut(&header.stream) else {
            return;
        };
        match header.kind {
            MessageKind::Window => consumer.window = Window::decode(body).unwrap().messages,
            MessageKind::Receive => {
                assert!(consumer.receive.is_none(), "one receive at a time");
                consumer.receive = Some((header.correlation, Receive::decode(body).unwrap()));
            }
            _ => {
                state.queues.settle_messages += 1;
                let settle = Settle::decode(body).unwrap();
                assert_eq!(header.correlation, consumer.settled + 1);
                for entry in settle.entries() {
                    consumer.settled += 1;
                    let queue = state.queues.queues.get_mut(&consumer.queue);
                    let holder = (self.number, header.stream);
                    let fault = match queue {
                        None => SettleFault::QueueGone,
                        Some(queue) => match queue.settle(&entry, holder) {
                            true => continue,
                            false => SettleFault::LeaseLost,
                        },
                    };
                    let number = consumer.settled;
                    consumer.faults.push(FaultEntry { number, fault });
                }
                self.shared.changed.notify_waiters();
            }
        }
    }

    pub(super) fn poll_consumers(&mut self, state: &mut State) {
        let queues = &mut state.queues;
        let mut gone = Vec::new();
        for (stream, opened) in &mut self.streams {
            let Stream::Consumer(consumer) = opened else {
                continue;
            };
            if consumer.answered < consumer.settled && !queues.hold_answers {
                consumer.answered = consumer.settled;
                let faults = std::mem::take(&mut consumer.faults);
                SettleAck::encode(consumer.settled, &faults, *stream, &mut self.out);
            }
            let Some(queue) = queues.queues.get_mut(&consumer.queue) else {
                gone.push(*stream);
                continue;
            };
            let holder = (self.number, *stream);
            let held = queue.items.iter().filter(|item| item.fate == Fate::Leased);
            let held = held.filter(|item| item.holder == holder).count() as u32;
            let room = consumer.window.saturating_sub(held);
            self.out
                .extend(queue.lease(&mut queues.grants, room, holder));
            if let Some((number, receive)) = &consumer.receive {
                let ready = queue.count(Fate::Ready) as u32;
                let granted = ready.min(receive.messages);
                if granted > 0 || receive.wait_ms == 0 || queues.end_receive {
                    queues.end_receive = false;
                    self.out
                        .extend(queue.lease(&mut queues.grants, granted, holder));
                    ReceiveOver { granted }.encode(*stream, *number, &mut self.out);
                    consumer.receive = None;
                }
            }
        }
        for stream in gone {
            self.refuse(stream, 0, ErrorCode::QueueNotFound);
        }
    }
}

impl Queue {
    fn peek(&self, body: &[u8]) -> PeekedList {
        let peek = PeekQueue::decode(body).unwrap();
        let items = self.items.iter().enumerate();
        let records = items.filter_map(|(offset, item)| {
            let state = match item.fate {
                Fate::Ready => RecordState::Ready,
                Fate::Leased => RecordState::Leased,
                Fate::Acked | Fate::Dead => return None,
            };
            let offset = Offset(offset as u64);
            (offset >= peek.from).then_some(PeekedRecord {
                offset,
                state,
                attempts: item.attempts,
                due_us: 0,
            })
        });
        PeekedList {
            records: records.take(peek.max as usize).collect(),
        }
    }

    fn leases(&self, body: &[u8]) -> LeaseList {
        let max = ListLeases::decode(body).unwrap().max as usize;
        let items = self.items.iter().enumerate();
        let leased = items.filter(|(_, item)| item.fate == Fate::Leased);
        let leases = leased.map(|(offset, item)| LeaseInfo {
            offset: Offset(offset as u64),
            consumer: item.holder.0 as u64,
            attempts: item.attempts,
            left_ms: LEASE_MS,
        });
        LeaseList {
            leases: leases.take(max).collect(),
        }
    }

    fn control(&mut self, body: &[u8]) -> u64 {
        let verb = ControlQueue::decode(body).unwrap().verb;
        self.paused = match verb {
            QueueVerb::Pause => true,
            QueueVerb::Resume => false,
            QueueVerb::Purge => {
                let mut purged = 0;
                for item in &mut self.items {
                    if matches!(item.fate, Fate::Ready | Fate::Leased) {
                        item.fate = Fate::Acked;
                        purged += 1;
                    }
                }
                return purged;
            }
        };
        0
    }

    fn redrive(&mut self, body: &[u8]) -> u64 {
        let redrive = RedriveQueue::decode(body).unwrap();
        assert_eq!(redrive.reason.as_deref(), Some("rejected"));
        assert_eq!(redrive.source.unwrap().as_str(), "jobs");
        assert_eq!(redrive.key.as_deref(), Some("c7"));
        assert_eq!(redrive.per_second, 50);
        let dead = self.items.iter_mut().filter(|i| i.fate == Fate::Dead);
        let mut records = 0;
        for item in dead.take(redrive.records_max as usize) {
            item.fate = Fate::Ready;
            records += 1;
        }
        records
    }
}

fn cursor((on, name): &(String, String), at: u64) -> CursorInfo {
    CursorInfo {
        topic: topic(on),
        name: topic(name),
        offset: Offset(at),
        end_offset: Offset(100),
        updated_us: 1,
    }
}
