//! What the handles of one connection share, and how the core's events reach them.
//!
//! One mutex guards the core and everything its events touch, so there is no order of locks. It is
//! held for moments only, never across an await, a system call or a wake-up of a ticket: those to
//! be woken are collected first. Besides the handles the connection's [`Driver`](crate::Driver) takes it.

mod consumers;

pub(crate) use consumers::{Confirmation, Counts, Notice, Tally};

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_protocol::batch::Message;
use millstream_protocol::control::{ConsumerOpened, ProducerOpened, PublisherOpened, ReaderOpened};
use millstream_protocol::wire::StreamId;
use millstream_protocol::{Offset, TopicName};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::client::answered;
use crate::core::{
    Answer, Core, Delivery, Event, NotTaken, Outgoing, ReadyFrame, Request, RequestId, Stored,
    Unpublished,
};
use crate::error::{ConnectionError, PublishError, ReadError, Refusal, TopicErrorCause};
use crate::outcomes::{Outcome, Outcomes, SlotId};
use consumers::ConsumerState;

/// A connection as its handles hold it: when the last one goes, it is closed.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// How long an answer to a request is waited for.
    pub(crate) request_timeout: Duration,
    /// Keeps the thread of a blocking client running; dropped with the last handle.
    _thread: Option<mpsc::Sender<()>>,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        request_timeout: Duration,
        thread: Option<mpsc::Sender<()>>,
    ) -> Self {
        Self {
            shared,
            request_timeout,
            _thread: thread,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// Does `act`, and has the driver polled if that left it something to send.
    pub(crate) fn act<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = act(&mut state);
        let writer = state.woken_writer();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
        result
    }

    /// Sends a request and waits for its answer, but not for ever.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Answer, TopicErrorCause> {
        // Sending back may be slow on purpose; the connection's heartbeats bound the wait.
        let longest = match request {
            Request::RedriveQueue(_) => Duration::MAX,
            _ => self.request_timeout,
        };
        let (reply, answer) = oneshot::channel();
        let sent = self.act(|state| {
            let id = state.core.request(request)?;
            state.answers.insert(id, reply);
            Ok(())
        });
        sent.map_err(TopicErrorCause::NotSent)?;
        answered(answer, longest).await
    }

    /// Waits until the connection is over; gives why.
    pub(crate) async fn over(&self) -> ConnectionError {
        let mut over = self.shared.over.subscribe();
        loop {
            if let Some(error) = self.lock().core.ended() {
                return error.clone();
            }
            // The sender is in `shared`, so it cannot be gone.
            let _ = over.changed().await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.act(|state| state.core.close());
    }
}

/// What the handles share with the tasks.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// True once the connection is over.
    over: watch::Sender<bool>,
}

/// What a connection has to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Some,
    /// Nothing any more.
    Finished,
}

impl Shared {
    pub(crate) fn new(core: Core) -> Self {
        let state = State {
            core,
            writer: None,
            answers: BTreeMap::new(),
            opening: BTreeMap::new(),
            publishers: BTreeMap::new(),
            readers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            notices: Vec::new(),
            outcomes: Outcomes::default(),
        };
        Self {
            state: Mutex::new(state),
            over: watch::Sender::new(false),
        }
    }

    /// What there is to send, put into `out`, once there is any.
    pub(crate) async fn output(&self, out: &mut Outgoing) -> Output {
        poll_fn(|cx| {
            let mut state = self.lock();
            let others = state.writer.take_if(|writer| !writer.will_wake(cx.waker()));
            let polled = state.poll_output(out, cx);
            drop(state);
            // Not under the lock: with it a task may go that has a handle of this connection.
            drop(others);
            polled
        })
        .await
    }

    /// Nobody carries the connection any more, or its writer is polled next in any case.
    pub(crate) fn forget_writer(&self) {
        let writer = self.lock().writer.take();
        drop(writer);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("a panic under the lock has ended this client")
    }

    /// Lets `act` tell the core something, carries out the events that follow, and wakes those
    /// concerned, but for the writer: the caller has it polled.
    pub(crate) fn tell(&self, wakers: &mut Vec<Waker>, act: impl FnOnce(&mut Core)) {
        let mut state = self.lock();
        act(&mut state.core);
        while let Some(event) = state.core.next_event() {
            state.carry_out(event, wakers);
        }
        let ended = state.core.ended().is_some();
        let notices = std::mem::take(&mut state.notices);
        drop(state);
        for notice in notices {
            notice.tell();
        }
        if ended {
            self.over.send_replace(true);
        }
        for waker in wakers.drain(..) {
            waker.wake();
        }
    }
}

/// What a stream's opening is answered by.
#[derive(Debug)]
pub(crate) enum Opened {
    Publisher(PublisherOpened),
    Producer(ProducerOpened),
    Reader(ReaderOpened),
    Consumer(ConsumerOpened),
}

/// A sender of the answer to something that was asked once.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, TopicErrorCause>>;

/// Everything under the lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) core: Core,
    /// Of the driver, whose writing has nothing to do until this is woken.
    writer: Option<Waker>,
    pub(crate) answers: BTreeMap<RequestId, Reply<Answer>>,
    pub(crate) opening: BTreeMap<StreamId, Reply<Opened>>,
    publishers: BTreeMap<StreamId, PublisherState>,
    readers: BTreeMap<StreamId, Inbox>,
    consumers: BTreeMap<StreamId, ConsumerState>,
    /// Refused settles that are to be told once the lock is free.
    notices: Vec<Notice>,
    pub(crate) outcomes: Outcomes,
}

#[derive(Debug)]
struct PublisherState {
    topic: TopicName,
    /// The slots of the frames from publish `first` on; `None` where one was answered before those
    /// in front of it, as a refusal may be.
    frames: VecDeque<Option<SlotId>>,
    first: u64,
    /// The one handle whose turn it is to wait for room in the window waits here.
    room: Arc<Notify>,
    /// Handles that wait for room, or for their turn to.
    waiting: usize,
    /// Why the stream takes nothing more.
    ended: Option<StreamEnd>,
    /// The handles are gone; the entry goes with the last answer.
    dropped: bool,
}

/// Why a stream is over while its connection is not.
#[derive(Debug, Clone)]
pub(crate) enum StreamEnd {
    Refused(Refusal),
    /// The server closed it without a word.
    Closed,
}

/// What a reader has not taken yet.
#[derive(Debug, Default)]
struct Inbox {
    items: VecDeque<Item>,
    waker: Option<Waker>,
    ended: Option<StreamEnd>,
}

/// What arrived for a reader.
#[derive(Debug)]
pub(crate) enum Item {
    Frames(Delivery),
    Gap(ReadError),
}

/// Why a message was not taken.
#[derive(Debug)]
pub(crate) enum Untaken {
    /// The window is full.
    WindowFull,
    /// The stream is over; another may be opened.
    StreamOver,
    /// It will not be taken.
    Failed(PublishError),
}

/// What is handed to a publisher stream at once.
#[derive(Debug)]
pub(crate) enum Load<'a> {
    Message(Message),
    /// The body of a message without options.
    Body(&'a [u8]),
    Frame(ReadyFrame),
}

impl<'a> Load<'a> {
    /// A message, as a frame of its own when that saves copying it.
    pub(crate) fn of_message(message: Message) -> Self {
        match ReadyFrame::of_large(&message) {
            Some(frame) => Self::Frame(frame),
            None => Self::Message(message),
        }
    }

    /// A message of this body, which is copied here when it makes a frame of its own: copying much is
    /// not for under the lock.
    pub(crate) fn of_body(body: &'a [u8]) -> Self {
        if ReadyFrame::is_large(body) {
            Self::of_message(Message::new(Bytes::copy_from_slice(body)))
        } else {
            Self::Body(body)
        }
    }
}

impl State {
    /// What to wake, once, where the writer waits and has something to do now.
    fn woken_writer(&mut self) -> Option<Waker> {
        let has_work = self.core.has_output() || self.core.is_finished();
        self.writer.take_if(|_| has_work)
    }

    /// What the writer has to do; has it woken for more where that is nothing yet. A waker that is there is
    /// that of `cx`.
    fn poll_output(&mut self, out: &mut Outgoing, cx: &mut Context<'_>) -> Poll<Output> {
        // `out` is not empty behind a write, and holds on to what was sent.
        if out.is_empty() && !self.core.has_output() && !self.core.is_finished() {
            self.writer.get_or_insert_with(|| cx.waker().clone());
            return Poll::Pending;
        }
        self.writer = None;
        if self.core.transmit(Instant::now(), out) {
            return Poll::Ready(Output::Some);
        }
        if self.core.is_finished() {
            return Poll::Ready(Output::Finished);
        }
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn carry_out(&mut self, event: Event, wakers: &mut Vec<Waker>) {
        match event {
            Event::Answered { request, answer } => {
                if let Some(reply) = self.answers.remove(&request) {
                    // Whoever asked may have gone; then nobody wants to know.
                    let _ = reply.send(answer.map_err(TopicErrorCause::Refused));
                }
            }
            Event::PublisherOpened { stream, opened } => {
                self.opened(stream, Ok(Opened::Publisher(opened)));
            }
            Event::ProducerOpened { stream, opened } => {
                self.opened(stream, Ok(Opened::Producer(opened)));
            }
            Event::ReaderOpened { stream, opened } => {
                self.opened(stream, Ok(Opened::Reader(opened)));
            }
            Event::Published {
                stream,
                publish,
                stored,
            } => {
                self.answer(stream, publish, Ok(stored), wakers);
            }
            Event::Unpublished {
                stream,
                publishes,
                why,
            } => self.unpublished(stream, publishes, &why, wakers),
            Event::Delivered { stream, delivery } => {
                self.arrived(stream, Item::Frames(delivery), wakers);
            }
            Event::Gap {
                stream,
                first,
                next,
                reason,
            } => {
                let gap = ReadError::Gap {
                    first,
                    next,
                    reason,
                };
                self.arrived(stream, Item::Gap(gap), wakers);
            }
            Event::ConsumerOpened { stream, opened } => {
                self.consumer_opened(stream, opened.lease_ms);
                self.opened(stream, Ok(Opened::Consumer(opened)));
            }
            Event::Worked { stream, work } => self.worked(stream, work, wakers),
            Event::ReceiveOver { stream, .. } => self.receive_over(stream, wakers),
            Event::SettleRefused { stream, refused } => self.settle_refused(stream, refused),
            Event::Settled { stream, through } => self.settled(stream, through),
            Event::Unsettled {
                stream,
                settles,
                why,
            } => self.unsettled(stream, settles, why),
            Event::StreamEnded { stream, refusal } => {
                let end = refusal.map_or(StreamEnd::Closed, StreamEnd::Refused);
                self.stream_ended(stream, &end, wakers);
            }
            Event::Ended(error) => self.ended(&error, wakers),
        }
    }

    fn unpublished(
        &mut self,
        stream: StreamId,
        publishes: Range<u64>,
        why: &Unpublished,
        wakers: &mut Vec<Waker>,
    ) {
        for publish in publishes {
            let Some(publisher) = self.publishers.get(&stream) else {
                break;
            };
            let error = unpublished(publisher.topic.clone(), why.clone());
            self.answer(stream, publish, Err(error), wakers);
        }
    }

    fn opened(&mut self, stream: StreamId, answer: Result<Opened, TopicErrorCause>) {
        if let Some(reply) = self.opening.remove(&stream) {
            // Whoever asked may have gone; dropping what it held closes the stream.
            let _ = reply.send(answer);
        }
    }

    fn answer(
        &mut self,
        stream: StreamId,
        publish: u64,
        outcome: Outcome,
        wakers: &mut Vec<Waker>,
    ) {
        let Some(publisher) = self.publishers.get_mut(&stream) else {
            return;
        };
        let at = publish
            .checked_sub(publisher.first)
            .and_then(|at| usize::try_from(at).ok());
        let Some(slot) = at
            .and_then(|at| publisher.frames.get_mut(at))
            .and_then(Option::take)
        else {
            return;
        };
        while publisher
            .frames
            .pop_front_if(|slot| slot.is_none())
            .is_some()
        {
            publisher.first += 1;
        }
        self.outcomes.resolve(slot, outcome, wakers);
        if publisher.dropped && publisher.frames.is_empty() {
            self.publishers.remove(&stream);
        } else if self.core.has_room(stream) {
            publisher.room.notify_one();
        }
    }

    fn arrived(&mut self, stream: StreamId, item: Item, wakers: &mut Vec<Waker>) {
        if let Some(inbox) = self.readers.get_mut(&stream) {
            inbox.items.push_back(item);
            wakers.extend(inbox.waker.take());
        }
    }

    fn stream_ended(&mut self, stream: StreamId, end: &StreamEnd, wakers: &mut Vec<Waker>) {
        self.opened(stream, Err(end.clone().into_cause()));
        if let Some(publisher) = self.publishers.get_mut(&stream) {
            publisher.ended = Some(end.clone());
            publisher.room.notify_one();
        }
        if let Some(inbox) = self.readers.get_mut(&stream) {
            inbox.ended = Some(end.clone());
            wakers.extend(inbox.waker.take());
        }
        self.consumer_ended(stream, end, wakers);
    }

    /// The connection is over. What was published was answered by events before this one.
    fn ended(&mut self, error: &ConnectionError, wakers: &mut Vec<Waker>) {
        for reply in std::mem::take(&mut self.answers).into_values() {
            let _ = reply.send(Err(TopicErrorCause::Unanswered(error.clone())));
        }
        for reply in std::mem::take(&mut self.opening).into_values() {
            let _ = reply.send(Err(TopicErrorCause::Unanswered(error.clone())));
        }
        for publisher in self.publishers.values() {
            publisher.room.notify_one();
        }
        for inbox in self.readers.values_mut() {
            wakers.extend(inbox.waker.take());
        }
        self.consumers_ended(wakers);
    }

    /// Makes room for the tickets of a publisher stream.
    pub(crate) fn add_publisher(&mut self, stream: StreamId, topic: TopicName, room: Arc<Notify>) {
        let publisher = PublisherState {
            topic,
            frames: VecDeque::new(),
            first: 1,
            room,
            waiting: 0,
            ended: None,
            dropped: false,
        };
        self.publishers.insert(stream, publisher);
    }

    /// Hands a message or a frame to a stream; gives its slot, and its place in the frame. Whoever has
    /// not waited for the turn goes behind those who do: for them there is no room.
    pub(crate) fn publish(
        &mut self,
        stream: StreamId,
        load: &Load<'_>,
        has_turn: bool,
    ) -> Result<(SlotId, u16), Untaken> {
        let publisher = self.publishers.get_mut(&stream);
        let publisher = publisher.expect("a publisher's state lives as long as its handle");
        if publisher.waiting > 0 && !has_turn {
            return Err(Untaken::WindowFull);
        }
        let taken = match load {
            Load::Message(message) => self
                .core
                .publish(stream, message)
                .map(|place| (place.publish, place.record)),
            Load::Body(body) => self
                .core
                .publish_body(stream, body)
                .map(|place| (place.publish, place.record)),
            Load::Frame(frame) => self
                .core
                .publish_frame(stream, frame.clone())
                .map(|publish| (publish, 0)),
        };
        let (publish, record) = match taken {
            Ok(taken) => taken,
            Err(NotTaken::WindowFull) => return Err(Untaken::WindowFull),
            Err(why) => {
                let topic = publisher.topic.clone();
                return Err(untaken(
                    why,
                    topic,
                    publisher.ended.as_ref(),
                    self.core.check_open(),
                ));
            }
        };
        let slot = match publisher.frames.back() {
            Some(Some(last)) if publisher.first + publisher.frames.len() as u64 > publish => *last,
            _ => {
                let slot = self.outcomes.expect();
                publisher.frames.push_back(Some(slot));
                slot
            }
        };
        self.outcomes.add_ticket(slot);
        Ok((slot, record))
    }

    /// Somebody waits to put something into a publisher stream.
    pub(crate) fn begin_wait(&mut self, stream: StreamId) {
        if let Some(publisher) = self.publishers.get_mut(&stream) {
            publisher.waiting += 1;
        }
    }

    pub(crate) fn end_wait(&mut self, stream: StreamId) {
        if let Some(publisher) = self.publishers.get_mut(&stream) {
            publisher.waiting -= 1;
        }
    }

    /// The handles of a publisher stream are gone.
    pub(crate) fn drop_publisher(&mut self, stream: StreamId) {
        self.core.close_stream(stream);
        self.opening.remove(&stream);
        if let Some(publisher) = self.publishers.get_mut(&stream) {
            publisher.dropped = true;
            if publisher.frames.is_empty() {
                self.publishers.remove(&stream);
            }
        }
    }

    /// Makes room for what a reader stream brings.
    pub(crate) fn add_reader(&mut self, stream: StreamId) {
        self.readers.insert(stream, Inbox::default());
    }

    /// The next thing that arrived for a reader. Ready without one when nothing more will come.
    pub(crate) fn poll_arrived(
        &mut self,
        stream: StreamId,
        cx: &Context<'_>,
    ) -> Poll<Result<Item, StreamOver>> {
        let inbox = self.readers.get_mut(&stream);
        let inbox = inbox.expect("a reader's inbox lives as long as its handle");
        if let Some(item) = inbox.items.pop_front() {
            if matches!(item, Item::Gap(_)) {
                self.core.gap_taken(stream);
            }
            return Poll::Ready(Ok(item));
        }
        if let Some(end) = &inbox.ended {
            return Poll::Ready(Err(StreamOver::Stream(end.clone())));
        }
        if let Some(error) = self.core.ended() {
            return Poll::Ready(Err(StreamOver::Connection(error.clone())));
        }
        inbox.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The handle of a reader stream is gone.
    pub(crate) fn drop_reader(&mut self, stream: StreamId) {
        self.core.close_stream(stream);
        self.opening.remove(&stream);
        self.readers.remove(&stream);
    }
}

/// Why nothing more comes for a reader or a consumer.
#[derive(Debug)]
pub(crate) enum StreamOver {
    Stream(StreamEnd),
    Connection(ConnectionError),
}

impl StreamEnd {
    fn into_cause(self) -> TopicErrorCause {
        match self {
            Self::Refused(refusal) => TopicErrorCause::Refused(refusal),
            Self::Closed => TopicErrorCause::Closed,
        }
    }
}

fn unpublished(topic: TopicName, why: Unpublished) -> PublishError {
    match why {
        Unpublished::Refused(refusal) => PublishError::Refused { topic, refusal },
        Unpublished::NotSent(cause) => PublishError::NotSent { topic, cause },
        Unpublished::Unknown(cause) => PublishError::OutcomeUnknown { topic, cause },
        Unpublished::Unacknowledged => PublishError::Unacknowledged { topic },
        Unpublished::StreamClosed => PublishError::StreamClosed { topic },
    }
}

fn untaken(
    why: NotTaken,
    topic: TopicName,
    ended: Option<&StreamEnd>,
    open: Result<(), ConnectionError>,
) -> Untaken {
    Untaken::Failed(match why {
        NotTaken::WindowFull => return Untaken::WindowFull,
        NotTaken::Message(cause) => PublishError::Message { topic, cause },
        NotTaken::TooLarge {
            frame_bytes,
            frame_bytes_max,
        } => PublishError::TooLarge {
            topic,
            frame_bytes,
            frame_bytes_max,
        },
        NotTaken::StreamEnded => match (open, ended) {
            (Err(cause), _) => PublishError::NotSent { topic, cause },
            (Ok(()), Some(StreamEnd::Refused(refusal))) if !refusal.retriable => {
                PublishError::Refused {
                    topic,
                    refusal: refusal.clone().without_effect(),
                }
            }
            (Ok(()), _) => return Untaken::StreamOver,
        },
    })
}

/// The first offset of a frame and a place in it make a record's offset.
pub(crate) const fn offset_in(stored: Stored, record: u16) -> Offset {
    Offset(stored.first.0.saturating_add(record as u64))
}
