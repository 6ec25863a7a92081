//! What a client does with its streams: opens, feeds and closes them.

use std::collections::BTreeMap;

use millstream_protocol::batch::Message;
use millstream_protocol::control::{
    Credit, OpenConsumer, OpenProducer, OpenPublisher, OpenReader, Receive, Window, features,
};
use millstream_protocol::limits::STREAMS_PER_CONNECTION_MAX;
use millstream_protocol::wire::{MessageKind, StreamId};

use super::consuming::{Consuming, SettleRequest};
use super::publishing::{NotTaken, Place, Publishing, ReadyFrame};
use super::reading::Reading;
use super::{Closing, Core, Stream};
use crate::error::TopicErrorCause;

impl Core {
    /// Asks for a publisher stream; [`Event::PublisherOpened`](super::Event::PublisherOpened) or
    /// [`Event::StreamEnded`](super::Event::StreamEnded) answers.
    ///
    /// # Errors
    ///
    /// The connection is over or being closed, or all its streams are in use.
    pub fn open_publisher(&mut self, open: &OpenPublisher) -> Result<StreamId, TopicErrorCause> {
        let stream = self.next_stream()?;
        open.encode(stream, 0, &mut self.control);
        let publishing = Box::new(Publishing::new(self.limits));
        self.streams.insert(stream, Stream::Publisher(publishing));
        Ok(stream)
    }

    /// Asks for a producer's stream; [`Event::ProducerOpened`](super::Event::ProducerOpened) or
    /// [`Event::StreamEnded`](super::Event::StreamEnded) answers. It takes frames only, each with
    /// the producer's id, epoch and next sequence.
    ///
    /// # Errors
    ///
    /// The server knows no producers, the connection is over or being closed, or all its streams are
    /// in use.
    pub fn open_producer(&mut self, open: &OpenProducer) -> Result<StreamId, TopicErrorCause> {
        if self.welcome().features & features::PRODUCERS == 0 {
            return Err(TopicErrorCause::unsupported("producers"));
        }
        let stream = self.next_stream()?;
        open.encode(stream, 0, &mut self.control);
        let publishing = Box::new(Publishing::new(self.limits));
        self.streams.insert(stream, Stream::Publisher(publishing));
        Ok(stream)
    }

    /// Asks for a reader stream; [`Event::ReaderOpened`](super::Event::ReaderOpened) or
    /// [`Event::StreamEnded`](super::Event::StreamEnded) answers.
    ///
    /// # Errors
    ///
    /// The connection is over or being closed, or all its streams are in use.
    pub fn open_reader(&mut self, open: &OpenReader) -> Result<StreamId, TopicErrorCause> {
        let stream = self.next_stream()?;
        open.encode(stream, 0, &mut self.control);
        self.streams
            .insert(stream, Stream::Reader(Reading::new(open.credit_bytes)));
        Ok(stream)
    }

    /// Takes a message for a publisher stream. It goes out with others that wait, in order.
    ///
    /// # Errors
    ///
    /// Nothing was taken; see [`NotTaken`].
    pub fn publish(&mut self, stream: StreamId, message: &Message) -> Result<Place, NotTaken> {
        let publishing = publishing(&mut self.streams, stream)?;
        let place = publishing.push(message)?;
        if publishing.takes_turn() {
            self.sending.push_back(stream);
        }
        Ok(place)
    }

    /// Takes a message without options for a publisher stream, as [`publish`](Self::publish) does;
    /// copies its body.
    ///
    /// # Errors
    ///
    /// Nothing was taken; see [`NotTaken`].
    pub fn publish_body(&mut self, stream: StreamId, body: &[u8]) -> Result<Place, NotTaken> {
        let publishing = publishing(&mut self.streams, stream)?;
        let place = publishing.push_body(body)?;
        if publishing.takes_turn() {
            self.sending.push_back(stream);
        }
        Ok(place)
    }

    /// Takes a frame for a publisher stream, in order behind the messages before it; gives the
    /// number of its publish.
    ///
    /// # Errors
    ///
    /// Nothing was taken; see [`NotTaken`].
    pub fn publish_frame(&mut self, stream: StreamId, frame: ReadyFrame) -> Result<u64, NotTaken> {
        let publishing = publishing(&mut self.streams, stream)?;
        let publish = publishing.push_frame(frame)?;
        if publishing.takes_turn() {
            self.sending.push_back(stream);
        }
        Ok(publish)
    }

    /// Whether a publisher stream would take a message now, window and all.
    #[must_use]
    pub fn has_room(&self, stream: StreamId) -> bool {
        match self.streams.get(&stream) {
            Some(Stream::Publisher(publishing)) => publishing.has_room(),
            _ => false,
        }
    }

    /// The reader consumed bytes of what was delivered to it: credit goes back when it is due.
    pub fn consumed(&mut self, stream: StreamId, bytes: u32) {
        if let Some(Stream::Reader(reading)) = self.streams.get_mut(&stream)
            && let Some(bytes) = reading.consumed(bytes)
        {
            Credit { bytes }.encode(stream, 0, &mut self.control);
        }
    }

    /// The reader took a gap.
    pub fn gap_taken(&mut self, stream: StreamId) {
        if let Some(Stream::Reader(reading)) = self.streams.get_mut(&stream) {
            reading.gap_taken();
        }
    }

    /// Asks for a consumer stream; [`Event::ConsumerOpened`](super::Event::ConsumerOpened) or
    /// [`Event::StreamEnded`](super::Event::StreamEnded) answers.
    ///
    /// # Errors
    ///
    /// The connection is over or being closed, or all its streams are in use.
    pub fn open_consumer(&mut self, open: &OpenConsumer) -> Result<StreamId, TopicErrorCause> {
        let stream = self.next_stream()?;
        open.encode(stream, 0, &mut self.control);
        self.streams
            .insert(stream, Stream::Consumer(Box::new(Consuming::new())));
        Ok(stream)
    }

    /// Sets what the server may deliver to a consumer and not see settled.
    pub fn set_window(&mut self, stream: StreamId, window: Window) {
        if let Some(Stream::Consumer(_)) = self.streams.get(&stream) {
            window.encode(stream, 0, &mut self.control);
        }
    }

    /// Asks once for records, unless the last such request is not over or the stream is;
    /// [`Event::ReceiveOver`](super::Event::ReceiveOver) answers, behind the records.
    pub fn receive_work(&mut self, stream: StreamId, receive: &Receive) {
        if let Some(Stream::Consumer(consuming)) = self.streams.get_mut(&stream)
            && let Some(number) = consuming.start_receive()
        {
            receive.encode(stream, number, &mut self.control);
        }
    }

    /// The consumer took a record with a body of so many bytes.
    pub fn work_taken(&mut self, stream: StreamId, bytes: u64) {
        if let Some(Stream::Consumer(consuming)) = self.streams.get_mut(&stream) {
            consuming.taken(bytes);
        }
    }

    /// Takes a settle for a consumer stream; gives its number. It goes out with others that wait.
    ///
    /// None when the stream is over: then the lease is, too.
    pub fn settle(&mut self, stream: StreamId, settle: SettleRequest) -> Option<u64> {
        let Some(Stream::Consumer(consuming)) = self.streams.get_mut(&stream) else {
            return None;
        };
        let number = consuming.settle(settle)?;
        self.wants_to_send(stream);
        Some(number)
    }

    /// Nobody uses the stream any more. A publisher's or a consumer's is closed once all that was
    /// sent on it is answered.
    pub fn close_stream(&mut self, stream: StreamId) {
        match self.streams.get_mut(&stream) {
            Some(Stream::Publisher(publishing)) if !publishing.is_opening() => {
                publishing.drain();
                self.close_if_drained(stream);
            }
            Some(Stream::Consumer(consuming)) if !consuming.is_opening() => {
                consuming.drain();
                self.close_if_drained(stream);
            }
            Some(state @ (Stream::Publisher(_) | Stream::Reader(_) | Stream::Consumer(_))) => {
                *state = Stream::Closing;
                self.bare(MessageKind::CloseStream, stream, 0);
            }
            Some(Stream::Closing) | None => {}
        }
    }

    /// Closes a stream whose handle is gone once all it sent was answered.
    pub(super) fn close_if_drained(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        let drained = match state {
            Stream::Publisher(publishing) => publishing.is_drained(),
            Stream::Consumer(consuming) => consuming.is_drained(),
            Stream::Reader(_) | Stream::Closing => false,
        };
        if drained && self.closing == Closing::No {
            *state = Stream::Closing;
            self.bare(MessageKind::CloseStream, stream, 0);
        }
    }

    fn next_stream(&mut self) -> Result<StreamId, TopicErrorCause> {
        self.check_open().map_err(TopicErrorCause::NotSent)?;
        if self.streams.len() >= STREAMS_PER_CONNECTION_MAX || self.next_stream == u32::MAX {
            return Err(TopicErrorCause::StreamsInUse {
                streams: self.streams.len(),
            });
        }
        let stream = StreamId(self.next_stream);
        self.next_stream += 1;
        Ok(stream)
    }

    /// Has a stream asked for something to send, when it has something it may send.
    pub(super) fn wants_to_send(&mut self, stream: StreamId) {
        let takes_turn = match self.streams.get_mut(&stream) {
            Some(Stream::Publisher(publishing)) => publishing.takes_turn(),
            Some(Stream::Consumer(consuming)) => {
                consuming.can_send() && !std::mem::replace(&mut consuming.in_turn, true)
            }
            _ => false,
        };
        if takes_turn {
            self.sending.push_back(stream);
        }
    }
}

fn publishing(
    streams: &mut BTreeMap<StreamId, Stream>,
    stream: StreamId,
) -> Result<&mut Publishing, NotTaken> {
    match streams.get_mut(&stream) {
        Some(Stream::Publisher(publishing)) => Ok(publishing),
        _ => Err(NotTaken::StreamEnded),
    }
}
