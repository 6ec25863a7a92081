//! A small server in memory, for the client over real sockets. Runs on a thread of its own.

mod queue;

pub(crate) use queue::Fate;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::{Buf, BytesMut};
use millstream_client::{Durability, ErrorCode, GapReason, Offset, Start, TopicInfo, TopicList};
use millstream_protocol::control::{
    AckRun, CreateTopic, Credit, DeleteTopic, DescribeRetention, DescribeTopic, ErrorMessage, Gap,
    Hello, ListTopics, OpenPublisher, OpenReader, PublishAck, Retention, SetRetention, Welcome,
};
use millstream_protocol::frame::check_publish;
use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, WireHeader, next_message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, mpsc};

use crate::script::{
    PLACE, bare, delivery, encoded, publisher_opened, reader_opened, record_count, store,
};

/// Topics one answer lists.
const PAGE: usize = 3;

/// What goes wrong, on purpose; each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The next publish is refused with this code.
    Refuse(ErrorCode),
    /// The next publish gets no answer, and the connection is closed behind it.
    Hangup,
    /// A byte of the next delivery is not as it was stored.
    DamageDelivery,
    /// The next delivery says that it ends before its last record.
    ShortenDelivery,
    /// The next reader is told of a gap before its first record.
    Gap(GapReason),
    /// Requests are not answered.
    Mute,
    /// All readers of a connection are ended with this code.
    EndReaders(ErrorCode),
}

/// A stored frame.
#[derive(Debug, Clone)]
struct Stored {
    base: u64,
    next: u64,
    /// As its publisher sent it.
    sent: Vec<u8>,
}

#[derive(Debug)]
struct Topic {
    durability: Durability,
    frames: Vec<Stored>,
    next: u64,
    retention: Retention,
}

#[derive(Debug, Default)]
struct State {
    topics: BTreeMap<String, Topic>,
    faults: VecDeque<Fault>,
    /// Publishes are taken and not acknowledged while this is set.
    hold_acks: bool,
    /// Feature bits of the welcome.
    features: u64,
    hellos: Vec<String>,
    goodbyes: usize,
    publishers_opened: usize,
    queues: queue::Queues,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something may be delivered or acknowledged.
    changed: Notify,
}

/// The server. Stops when dropped.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) address: String,
    shared: Arc<Shared>,
    path: Option<std::path::PathBuf>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn tcp() -> Self {
        Self::start(None)
    }

    pub(crate) fn unix(path: &std::path::Path) -> Self {
        Self::start(Some(path.to_owned()))
    }

    fn start(path: Option<std::path::PathBuf>) -> Self {
        Self::start_with(path, Arc::new(Shared::default()))
    }

    /// Starts again where it was killed, with all it knew.
    pub(crate) fn restart(&mut self) {
        let path = self.path.clone().unwrap();
        std::fs::remove_file(&path).unwrap();
        *self = Self::start_with(Some(path), Arc::clone(&self.shared));
    }

    fn start_with(path: Option<std::path::PathBuf>, shared: Arc<Shared>) -> Self {
        let (stop, stopped) = mpsc::channel(1);
        let (started, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            let path = path.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = { runtime }.enable_all().build().unwrap();
                runtime.block_on(listen(path, shared, &started, stopped));
            }
        });
        let address = address.recv().unwrap();
        Self {
            address,
            shared,
            path,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.shared.state.lock().unwrap().faults.push_back(fault);
        self.shared.changed.notify_waiters();
    }

    pub(crate) fn hold_acks(&self, hold: bool) {
        self.shared.state.lock().unwrap().hold_acks = hold;
        self.shared.changed.notify_waiters();
    }

    /// Has the features in the welcomes from now on.
    pub(crate) fn offer(&self, features: u64) {
        self.shared.state.lock().unwrap().features = features;
    }

    /// The records of a topic, in order.
    pub(crate) fn bodies(&self, topic: &str) -> Vec<Vec<u8>> {
        let state = self.shared.state.lock().unwrap();
        let Some(topic) = state.topics.get(topic) else {
            return Vec::new();
        };
        let frames = topic.frames.iter().flat_map(|stored| {
            let sent = (
                WireHeader::publish(StreamId(1), 1, stored.sent.len() as u32),
                stored.sent.clone(),
            );
            crate::script::published(&sent).bodies
        });
        frames.collect()
    }

    /// The records of each frame of a topic.
    pub(crate) fn frame_counts(&self, topic: &str) -> Vec<u64> {
        let state = self.shared.state.lock().unwrap();
        let frames = state.topics.get(topic).map(|topic| &topic.frames);
        frames
            .into_iter()
            .flatten()
            .map(|stored| stored.next - stored.base)
            .collect()
    }

    /// Puts a frame into a topic as some other client would.
    pub(crate) fn put(&self, topic: &str, sent: &[u8]) {
        let mut state = self.shared.state.lock().unwrap();
        let topic = state
            .topics
            .entry(topic.to_owned())
            .or_insert_with(Topic::new);
        topic.append(sent);
        drop(state);
        self.shared.changed.notify_waiters();
    }

    pub(crate) fn hellos(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().hellos.clone()
    }

    pub(crate) fn publishers_opened(&self) -> usize {
        self.shared.state.lock().unwrap().publishers_opened
    }

    pub(crate) fn goodbyes(&self) -> usize {
        self.shared.state.lock().unwrap().goodbyes
    }

    /// Stops at once, as a killed server does.
    pub(crate) fn kill(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn listen(
    path: Option<std::path::PathBuf>,
    shared: Arc<Shared>,
    started: &std::sync::mpsc::Sender<String>,
    mut stopped: mpsc::Receiver<()>,
) {
    if let Some(path) = path {
        let listener = UnixListener::bind(&path).unwrap();
        started
            .send(format!("millstream+unix://{}", path.display()))
            .unwrap();
        loop {
            tokio::select! {
                socket = listener.accept() => {
                    let (reading, writing) = socket.unwrap().0.into_split();
                    tokio::spawn(serve(reading, writing, Arc::clone(&shared)));
                }
                _ = stopped.recv() => return,
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    started
        .send(format!("millstream://{}", listener.local_addr().unwrap()))
        .unwrap();
    loop {
        tokio::select! {
            socket = listener.accept() => {
                let socket = socket.unwrap().0;
                socket.set_nodelay(true).unwrap();
                let (reading, writing) = socket.into_split();
                tokio::spawn(serve(reading, writing, Arc::clone(&shared)));
            }
            _ = stopped.recv() => return,
        }
    }
}

async fn serve(
    mut reading: impl AsyncRead + Unpin,
    mut writing: impl AsyncWrite + Unpin,
    shared: Arc<Shared>,
) {
    let mut session = Session::new(Arc::clone(&shared));
    let mut input = BytesMut::new();
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        session.poll();
        writing
            .write_all(&std::mem::take(&mut session.out))
            .await
            .ok();
        if session.over {
            return;
        }
        tokio::select! {
            read = reading.read_buf(&mut input) => match read {
                Ok(bytes) if bytes > 0 => {}
                _ => return,
            },
            () = &mut changed => {}
        }
        while let Next::Message {
            header,
            body,
            consumed,
        } = next_message(&input, session.phase).expect("the client keeps to the protocol")
        {
            session.take(&header, body);
            input.advance(consumed);
        }
    }
}

#[derive(Debug)]
enum Stream {
    Publisher {
        topic: String,
        taken: u64,
        acked: u64,
        waiting: Vec<AckRun>,
    },
    Reader {
        topic: String,
        next: u64,
        credit: i64,
    },
    Consumer(queue::Consumer),
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock().unwrap();
        state.queues.detach(self.number, None);
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

struct Session {
    shared: Arc<Shared>,
    /// Which session it is, from 1 on.
    number: usize,
    phase: Phase,
    streams: BTreeMap<StreamId, Stream>,
    out: Vec<u8>,
    over: bool,
}

impl Topic {
    fn new() -> Self {
        Self {
            durability: Durability::Synced,
            frames: Vec::new(),
            next: 0,
            retention: Retention::KEEP_ALL,
        }
    }

    fn append(&mut self, sent: &[u8]) -> u64 {
        let base = self.next;
        self.next += u64::from(record_count(sent));
        self.frames.push(Stored {
            base,
            next: self.next,
            sent: sent.to_vec(),
        });
        base
    }

    fn info(&self, name: &str) -> TopicInfo {
        TopicInfo {
            name: crate::script::topic(name),
            incarnation: [1; 16],
            durability: self.durability,
            first_offset: Offset(0),
            next_offset: Offset(self.next),
            synced_offset: Offset(self.next),
            bytes: 0,
            segments: 1,
            poisoned: None,
        }
    }
}

impl State {
    fn take_fault(&mut self, wanted: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let at = self.faults.iter().position(wanted)?;
        self.faults.remove(at)
    }
}

impl Session {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            number: 0,
            phase: Phase::ServerBeforeHello,
            streams: BTreeMap::new(),
            out: Vec::new(),
            over: false,
        }
    }

    fn refuse(&mut self, stream: StreamId, correlation: u64, code: ErrorCode) {
        let error = ErrorMessage::new(code, format!("refused on purpose: {code}"));
        error.encode(stream, correlation, &mut self.out);
        if stream != StreamId::CONNECTION {
            self.out.extend(bare(MessageKind::StreamClosed, stream, 0));
            self.streams.remove(&stream);
        }
    }

    fn take(&mut self, header: &WireHeader, body: &[u8]) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock().unwrap();
        let WireHeader {
            stream,
            correlation,
            ..
        } = *header;
        match header.kind {
            MessageKind::Hello => {
                state.hellos.push(Hello::decode(body).unwrap().client);
                self.number = state.hellos.len();
                let welcome = Welcome {
                    features: state.features,
                    ..crate::script::welcome()
                };
                welcome.encode(stream, 0, &mut self.out);
                self.phase = Phase::Server;
            }
            MessageKind::Ping => self
                .out
                .extend(bare(MessageKind::Pong, stream, correlation)),
            MessageKind::Goodbye => {
                state.goodbyes += 1;
                self.over = true;
            }
            MessageKind::CloseStream => {
                self.streams.remove(&stream);
                state.queues.detach(self.number, Some(stream));
                self.shared.changed.notify_waiters();
                self.out
                    .extend(bare(MessageKind::StreamClosed, stream, correlation));
            }
            MessageKind::OpenPublisher => self.open_publisher(&mut state, stream, body),
            MessageKind::OpenReader => self.open_reader(&mut state, stream, body),
            MessageKind::Publish => self.publish(&mut state, header, body),
            MessageKind::Credit => {
                if let Some(Stream::Reader { credit, .. }) = self.streams.get_mut(&stream) {
                    *credit += i64::from(Credit::decode(body).unwrap().bytes);
                }
            }
            MessageKind::OpenConsumer => self.open_consumer(&mut state, stream, body),
            MessageKind::Window | MessageKind::Receive | MessageKind::Settle => {
                self.consume(&mut state, header, body);
            }
            _ if state.take_fault(|fault| *fault == Fault::Mute).is_some() => {}
            _ => self.answer(&mut state, header, body),
        }
    }

    fn answer(&mut self, state: &mut State, header: &WireHeader, body: &[u8]) {
        let correlation = header.correlation;
        let topics = &mut state.topics;
        match header.kind {
            MessageKind::CreateTopic => {
                let create = CreateTopic::decode(body).unwrap();
                let name = create.name.as_str();
                let topic = topics.entry(name.to_owned()).or_insert_with(|| Topic {
                    durability: create.durability,
                    ..Topic::new()
                });
                if topic.durability == create.durability {
                    topic
                        .info(name)
                        .encode(StreamId::CONNECTION, correlation, &mut self.out);
                } else {
                    self.refuse(StreamId::CONNECTION, correlation, ErrorCode::TopicExists);
                }
            }
            MessageKind::DescribeTopic => {
                let name = DescribeTopic::decode(body).unwrap().name;
                match topics.get(name.as_str()) {
                    Some(topic) => topic.info(name.as_str()).encode(
                        StreamId::CONNECTION,
                        correlation,
                        &mut self.out,
                    ),
                    None => {
                        self.refuse(StreamId::CONNECTION, correlation, ErrorCode::TopicNotFound)
                    }
                }
            }
            MessageKind::DeleteTopic => {
                let name = DeleteTopic::decode(body).unwrap().name;
                match topics.remove(name.as_str()) {
                    Some(_) => {
                        let deleted =
                            bare(MessageKind::TopicDeleted, StreamId::CONNECTION, correlation);
                        self.out.extend(deleted);
                    }
                    None => {
                        self.refuse(StreamId::CONNECTION, correlation, ErrorCode::TopicNotFound)
                    }
                }
            }
            MessageKind::ListTopics => {
                let after = ListTopics::decode(body).unwrap().after;
                let mut all: Vec<_> = topics
                    .iter()
                    .map(|(name, topic)| topic.info(name))
                    .collect();
                all.retain(|info| after.as_ref().is_none_or(|after| info.name > *after));
                let more = all.len() > PAGE;
                all.truncate(PAGE);
                let list = TopicList { topics: all, more };
                list.encode(StreamId::CONNECTION, correlation, &mut self.out);
            }
            MessageKind::SetRetention => {
                let SetRetention { topic, retention } = SetRetention::decode(body).unwrap();
                self.answer_retention(state, correlation, topic.as_str(), Some(retention));
            }
            MessageKind::DescribeRetention => {
                let name = DescribeRetention::decode(body).unwrap().topic;
                self.answer_retention(state, correlation, name.as_str(), None);
            }
            _ => self.answer_queue(state, header, body),
        }
    }

    fn answer_retention(
        &mut self,
        state: &mut State,
        correlation: u64,
        topic: &str,
        set: Option<Retention>,
    ) {
        let stream = StreamId::CONNECTION;
        let Some(topic) = state.topics.get_mut(topic) else {
            return self.refuse(stream, correlation, ErrorCode::TopicNotFound);
        };
        topic.retention = set.unwrap_or(topic.retention);
        topic.retention.encode(stream, correlation, &mut self.out);
    }

    fn open_publisher(&mut self, state: &mut State, stream: StreamId, body: &[u8]) {
        let open = OpenPublisher::decode(body).unwrap();
        let topic = open.topic.as_str().to_owned();
        if !open.create && !state.topics.contains_key(&topic) {
            return self.refuse(stream, 0, ErrorCode::TopicNotFound);
        }
        state.topics.entry(topic.clone()).or_insert_with(Topic::new);
        state.publishers_opened += 1;
        self.out.extend(publisher_opened(stream));
        let publisher = Stream::Publisher {
            topic,
            taken: 0,
            acked: 0,
            waiting: Vec::new(),
        };
        self.streams.insert(stream, publisher);
    }

    fn open_reader(&mut self, state: &mut State, stream: StreamId, body: &[u8]) {
        let open = OpenReader::decode(body).unwrap();
        let name = open.topic.as_str().to_owned();
        let Some(topic) = state.topics.get(&name) else {
            return self.refuse(stream, 0, ErrorCode::TopicNotFound);
        };
        let mut next = match open.start {
            Start::Earliest | Start::Time(_) => 0,
            Start::Latest => topic.next,
            Start::Offset(offset) if offset.0 > topic.next => {
                return self.refuse(stream, 0, ErrorCode::OffsetOutOfRange);
            }
            Start::Offset(offset) => offset.0,
        };
        self.out.extend(reader_opened(stream, next, topic.next));
        if let Some(Fault::Gap(reason)) = state.take_fault(|fault| matches!(fault, Fault::Gap(_))) {
            let gap = Gap {
                first_offset: Offset(next),
                next_offset: Offset(next + 1),
                reason,
            };
            self.out.extend(encoded(|out| gap.encode(stream, 0, out)));
            next += 1;
        }
        let reader = Stream::Reader {
            topic: name,
            next,
            credit: i64::from(open.credit_bytes),
        };
        self.streams.insert(stream, reader);
    }

    fn publish(&mut self, state: &mut State, header: &WireHeader, body: &[u8]) {
        let stream = header.stream;
        let Some(Stream::Publisher {
            topic,
            taken,
            waiting,
            ..
        }) = self.streams.get_mut(&stream)
        else {
            return;
        };
        match state.take_fault(|fault| matches!(fault, Fault::Refuse(_) | Fault::Hangup)) {
            Some(Fault::Refuse(code)) => {
                self.poll_publishers(state);
                return self.refuse(stream, header.correlation, code);
            }
            Some(_) => {
                self.over = true;
                return;
            }
            None => {}
        }
        check_publish(body).expect("the client sends what passes the checks");
        *taken += 1;
        assert_eq!(*taken, header.correlation, "publishes are numbered");
        let topic = state
            .topics
            .get_mut(topic)
            .expect("open topics are not deleted here");
        let base_offset = Offset(topic.append(body));
        waiting.push(AckRun {
            publishes: 1,
            duplicates: false,
            base_offset,
        });
        self.shared.changed.notify_waiters();
    }

    fn poll(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock().unwrap();
        if !state.hold_acks {
            self.poll_publishers(&state);
        }
        if let Some(Fault::EndReaders(code)) =
            state.take_fault(|fault| matches!(fault, Fault::EndReaders(_)))
        {
            let readers = self
                .streams
                .iter()
                .filter(|(_, s)| matches!(s, Stream::Reader { .. }));
            for stream in readers.map(|(stream, _)| *stream).collect::<Vec<_>>() {
                self.refuse(stream, 0, code);
            }
        }
        self.poll_consumers(&mut state);
        let mut streams = std::mem::take(&mut self.streams);
        for (stream, opened) in &mut streams {
            if let Stream::Reader {
                topic,
                next,
                credit,
            } = opened
            {
                self.deliver(&mut state, *stream, topic, (next, credit));
            }
        }
        self.streams = streams;
    }

    fn poll_publishers(&mut self, _state: &State) {
        for (stream, opened) in &mut self.streams {
            if let Stream::Publisher { acked, waiting, .. } = opened
                && !waiting.is_empty()
            {
                *acked += waiting.len() as u64;
                PublishAck::encode(waiting, *stream, *acked, &mut self.out);
                waiting.clear();
            }
        }
    }

    fn deliver(
        &mut self,
        state: &mut State,
        stream: StreamId,
        topic: &str,
        (next, credit): (&mut u64, &mut i64),
    ) {
        let Some(topic) = state.topics.get(topic) else {
            return;
        };
        let frames: Vec<_> = topic
            .frames
            .iter()
            .filter(|frame| frame.next > *next)
            .collect();
        // Two frames a delivery at most, so that there are many.
        for pair in frames.chunks(2) {
            if *credit <= 0 {
                return;
            }
            let mut bytes = Vec::new();
            for frame in pair {
                let position = PLACE.position + bytes.len() as u32;
                bytes.extend(store(&frame.sent, frame.base, position));
            }
            let end = pair.last().map_or(*next, |frame| frame.next);
            if state.faults.contains(&Fault::DamageDelivery) {
                state.faults.retain(|fault| *fault != Fault::DamageDelivery);
                let at = bytes.len() - 8;
                bytes[at] ^= 1;
            }
            let mut said = end;
            if state.faults.contains(&Fault::ShortenDelivery) {
                state
                    .faults
                    .retain(|fault| *fault != Fault::ShortenDelivery);
                said -= 1;
            }
            *credit -= bytes.len() as i64;
            self.out
                .extend(delivery(stream, PLACE.position, *next..said, &bytes));
            *next = end;
        }
    }
}
