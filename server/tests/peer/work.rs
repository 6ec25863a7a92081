//! Queues, consumers and cursors, as the client made of bytes speaks of them.

use bytes::Bytes;
use millstream_protocol::control::{
    ConsumerOpened, ControlQueue, CreateQueue, CursorInfo, CursorList, DeleteCursor, DeleteQueue,
    DescribeCursor, DescribeQueue, LeaseInfo, LeaseList, Leaser, ListCursors, ListLeases,
    ListQueues, OpenConsumer, PeekQueue, PeekedList, PeekedRecord, QueueDone, QueueInfo, QueueList,
    QueueMode, QueueSettings, QueueVerb, Receive, ReceiveOver, RedriveQueue, SetCursor, SetQueue,
    Settle, SettleAck, SettleEntry, SettleFault, SettleVerb, Window, WorkRecords,
};

use super::{Ear, MessageKind, Offset, Said, Script, Start, StreamId, WireHeader, name};

/// What a server answers to requests about queues and cursors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Queue(Box<QueueInfo>),
    Queues(QueueList),
    Done(u64),
    Peeked(Vec<PeekedRecord>),
    Leases(Vec<LeaseInfo>),
    Cursor(CursorInfo),
    Cursors(CursorList),
    CursorDeleted,
}

/// A record that was delivered, and its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worked {
    pub offset: u64,
    pub lease: u64,
    pub attempts: u16,
    pub is_first: bool,
    pub left_ms: u32,
    pub body: Vec<u8>,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, String)>,
}

impl Worked {
    /// A settle of it, without argument and text.
    pub fn entry(&self, verb: SettleVerb) -> SettleEntry<'static> {
        SettleEntry {
            offset: Offset(self.offset),
            lease: self.lease,
            verb,
            arg_us: 0,
            text: "",
        }
    }
}

const CONNECTION: StreamId = StreamId(0);

impl Script {
    pub fn queue(self, correlation: u64, queue: &str, settings: QueueSettings) -> Self {
        self.queue_over(correlation, queue, None, settings)
    }

    pub fn queue_over(
        mut self,
        correlation: u64,
        queue: &str,
        topic: Option<&str>,
        settings: QueueSettings,
    ) -> Self {
        let create = CreateQueue {
            name: name(queue),
            topic: topic.map(name),
            mode: QueueMode::Plain,
            start: Start::Earliest,
            settings,
        };
        create.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn set_queue(mut self, correlation: u64, queue: &str, settings: QueueSettings) -> Self {
        let name = name(queue);
        SetQueue { name, settings }.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn delete_queue(mut self, correlation: u64, queue: &str) -> Self {
        DeleteQueue { name: name(queue) }.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn describe_queue(mut self, correlation: u64, queue: &str) -> Self {
        DescribeQueue { name: name(queue) }.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn list_queues(mut self, correlation: u64, after: Option<&str>) -> Self {
        let after = after.map(name);
        ListQueues { after }.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn control_queue(mut self, correlation: u64, queue: &str, verb: QueueVerb) -> Self {
        let name = name(queue);
        ControlQueue { name, verb }.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn redrive(mut self, correlation: u64, queue: &str) -> Self {
        let redrive = RedriveQueue {
            name: name(queue),
            records_max: 0,
            per_second: 0,
            reason: None,
            source: None,
            key: None,
        };
        redrive.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn peek(mut self, correlation: u64, queue: &str, from: u64, max: u32) -> Self {
        let peek = PeekQueue {
            name: name(queue),
            from: Offset(from),
            max,
        };
        peek.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn leases(mut self, correlation: u64, queue: &str) -> Self {
        let list = ListLeases {
            name: name(queue),
            max: u32::MAX,
        };
        list.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn set_cursor(mut self, correlation: u64, topic: &str, cursor: &str, at: u64) -> Self {
        let set = SetCursor {
            topic: name(topic),
            name: name(cursor),
            offset: Offset(at),
        };
        set.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn describe_cursor(mut self, correlation: u64, topic: &str, cursor: &str) -> Self {
        let describe = DescribeCursor {
            topic: name(topic),
            name: name(cursor),
        };
        describe.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn list_cursors(mut self, correlation: u64, after: Option<(&str, &str)>) -> Self {
        let list = ListCursors {
            topic: None,
            after_topic: after.map(|(topic, _)| name(topic)),
            after_name: after.map(|(_, cursor)| name(cursor)),
        };
        list.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn delete_cursor(mut self, correlation: u64, topic: &str, cursor: &str) -> Self {
        let delete = DeleteCursor {
            topic: name(topic),
            name: name(cursor),
        };
        delete.encode(CONNECTION, correlation, &mut self.0);
        self
    }

    pub fn consumer(mut self, stream: u32, queue: &str, window_messages: u32) -> Self {
        let open = OpenConsumer {
            queue: name(queue),
            window_messages,
            window_bytes: 0,
            lease_ms: 0,
            name: "bytes".to_owned(),
        };
        open.encode(StreamId(stream), 0, &mut self.0);
        self
    }

    pub fn window(mut self, stream: u32, messages: u32) -> Self {
        Window { messages, bytes: 0 }.encode(StreamId(stream), 0, &mut self.0);
        self
    }

    pub fn receive(mut self, stream: u32, correlation: u64, messages: u32, wait_ms: u32) -> Self {
        let receive = Receive {
            messages,
            bytes: 0,
            wait_ms,
            lease_ms: 0,
        };
        receive.encode(StreamId(stream), correlation, &mut self.0);
        self
    }

    pub fn settle(
        mut self,
        stream: u32,
        leaser: Leaser,
        first: u64,
        entries: &[SettleEntry<'_>],
    ) -> Self {
        let entries = entries.iter().copied();
        Settle::encode(leaser, entries, StreamId(stream), first, &mut self.0);
        self
    }
}

/// What a server said of queues and cursors.
pub fn said(header: &WireHeader, body: &[u8]) -> Said {
    let (stream, correlation) = (header.stream.0, header.correlation);
    let answer = match header.kind {
        MessageKind::QueueInfo => Answer::Queue(Box::new(QueueInfo::decode(body).unwrap())),
        MessageKind::QueueList => Answer::Queues(QueueList::decode(body).unwrap()),
        MessageKind::QueueDone => Answer::Done(QueueDone::decode(body).unwrap().records),
        MessageKind::PeekedList => Answer::Peeked(PeekedList::decode(body).unwrap().records),
        MessageKind::LeaseList => Answer::Leases(LeaseList::decode(body).unwrap().leases),
        MessageKind::CursorInfo => Answer::Cursor(CursorInfo::decode(body).unwrap()),
        MessageKind::CursorList => Answer::Cursors(CursorList::decode(body).unwrap()),
        MessageKind::CursorDeleted => Answer::CursorDeleted,
        MessageKind::ConsumerOpened => {
            let opened = ConsumerOpened::decode(body).unwrap();
            return Said::ConsumerOpened { stream, opened };
        }
        MessageKind::ReceiveOver => {
            let ReceiveOver { granted } = ReceiveOver::decode(body).unwrap();
            return Said::ReceiveOver {
                stream,
                correlation,
                granted,
            };
        }
        kind => panic!("a server does not say {kind:?}"),
    };
    Said::Queue {
        correlation,
        answer,
    }
}

impl Ear {
    pub(super) fn work(&mut self, stream: u32, body: &[u8]) {
        for (entry, record) in WorkRecords::new(Bytes::copy_from_slice(body)).unwrap() {
            let headers = record.headers();
            let headers = headers.map(|(name, value)| {
                let value = String::from_utf8_lossy(value).into_owned();
                (name.to_owned(), value)
            });
            let work = Worked {
                offset: entry.offset.0,
                lease: entry.lease,
                attempts: entry.attempts,
                is_first: entry.first_us == 0,
                left_ms: entry.left_ms,
                body: record.as_bytes().to_vec(),
                key: record.key().map(|key| key.to_vec()),
                headers: headers.collect(),
            };
            self.said.push(Said::Work { stream, work });
        }
    }

    pub(super) fn settled(&mut self, stream: u32, body: &[u8]) {
        let ack = SettleAck::decode(body).unwrap();
        let faults: std::collections::BTreeMap<u64, SettleFault> = ack
            .faults()
            .map(|entry| (entry.number, entry.fault))
            .collect();
        let before = self.settled.insert(stream, ack.through).unwrap_or(0);
        assert!(before < ack.through, "an answer answers something");
        assert!(faults.keys().all(|number| *number > before));
        for number in before + 1..=ack.through {
            let fault = faults.get(&number).copied();
            self.said.push(Said::Settled {
                stream,
                number,
                fault,
            });
        }
    }
}
