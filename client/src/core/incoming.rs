//! What the server sends: taken apart, checked against what this side knows, told as events.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use millstream_protocol::control::{
    ConsumerOpened, Delivery as WireDelivery, DeliveryPrelude, ErrorMessage, Gap, Goodbye,
    ProducerOpened, PublishAck, PublisherOpened, ReaderOpened, ReceiveOver, SettleAck, WorkRecords,
};
use millstream_protocol::error::Effect;
use millstream_protocol::limits::DELIVERY_PRELUDE_BYTES;
use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, WireHeader, next_message};

use super::event::{Delivery, Event, RequestId, Unpublished, WorkItem};
use super::{Core, Stream};
use crate::error::{ConnectionError, Refusal};

/// Deliveries from this size keep the input they came in; smaller ones are copied out of it, so
/// that a little that waits does not hold on to much.
const HAND_ON_BYTES_MIN: usize = 16 << 10;

impl Core {
    /// Takes whole messages off `input` and leaves the rest for when more has come.
    ///
    /// Frames are handed on as slices of `input`, without a copy unless they are few. What no server may send ends the
    /// connection.
    pub fn receive(&mut self, now: Instant, input: &mut BytesMut) {
        self.heartbeat.received(now);
        while self.ended.is_none() {
            match self.receive_one(now, input) {
                Ok(true) => {}
                Ok(false) => break,
                Err(what) => self.end(ConnectionError::protocol(what)),
            }
        }
    }

    /// Takes one message; false when none is whole.
    fn receive_one(&mut self, now: Instant, input: &mut BytesMut) -> Result<bool, String> {
        let (header, body, consumed) = match next_message(input, Phase::Client) {
            Err(error) => return Err(error.to_string()),
            Ok(Next::Need(bytes)) => {
                self.wanted_bytes = bytes;
                return Ok(false);
            }
            Ok(Next::Message {
                header,
                body,
                consumed,
            }) => (header, body, consumed),
        };
        self.wanted_bytes = 0;
        match header.kind {
            MessageKind::Frames => {
                let body_bytes = body.len();
                let prelude = WireDelivery::decode(body)
                    .map_err(|e| e.to_string())?
                    .prelude;
                let mut frames = hand_on(input, consumed, body_bytes);
                frames.advance(DELIVERY_PRELUDE_BYTES);
                self.delivered(&header, &prelude, frames)?;
            }
            MessageKind::Work => {
                let body_bytes = body.len();
                let body = hand_on(input, consumed, body_bytes);
                self.worked(&header, body, now)?;
            }
            _ => {
                self.handle(&header, body)?;
                input.advance(consumed);
            }
        }
        Ok(true)
    }

    fn delivered(
        &mut self,
        header: &WireHeader,
        prelude: &DeliveryPrelude,
        frames: Bytes,
    ) -> Result<(), String> {
        let stream = header.stream;
        let Some(Stream::Reader(reading)) = self.streams.get_mut(&stream) else {
            return self.only_if_gone(header);
        };
        reading.delivered(prelude)?;
        let (place, next_offset) = (prelude.place, prelude.next_offset);
        let delivery = Delivery {
            frames,
            place,
            next_offset,
        };
        self.events.push_back(Event::Delivered { stream, delivery });
        Ok(())
    }

    fn worked(&mut self, header: &WireHeader, body: Bytes, now: Instant) -> Result<(), String> {
        let stream = header.stream;
        let records = WorkRecords::new(body).map_err(|e| e.to_string())?;
        let Some(Stream::Consumer(consuming)) = self.streams.get_mut(&stream) else {
            return self.only_if_gone(header);
        };
        let items = records.map(|(entry, record)| WorkItem {
            entry,
            record,
            until: now + Duration::from_millis(entry.left_ms.into()),
        });
        let work: Vec<_> = items.collect();
        let bytes = work.iter().map(|item| item.record.as_bytes().len() as u64);
        consuming.delivered(work.len() as u64, bytes.sum())?;
        self.events.push_back(Event::Worked { stream, work });
        Ok(())
    }

    fn handle(&mut self, header: &WireHeader, body: &[u8]) -> Result<(), String> {
        match header.kind {
            MessageKind::Ping => {
                self.pong = Some(header.correlation);
                Ok(())
            }
            MessageKind::Pong => Ok(()),
            MessageKind::Goodbye => {
                let goodbye = Goodbye::decode(body).map_err(|e| e.to_string())?;
                self.goodbye = goodbye.reason.into();
                Ok(())
            }
            MessageKind::Error => {
                let error = ErrorMessage::decode(body).map_err(|e| e.to_string())?;
                self.refused(header, Refusal::of(error))
            }
            MessageKind::StreamClosed => self.stream_closed(header),
            MessageKind::PublisherOpened => self.publisher_opened(header, body),
            MessageKind::ProducerOpened => self.producer_opened(header, body),
            MessageKind::PublishAck => self.acknowledged(header, body),
            MessageKind::ReaderOpened => self.reader_opened(header, body),
            MessageKind::Gap => self.gap(header, body),
            MessageKind::ConsumerOpened => self.consumer_opened(header, body),
            MessageKind::SettleAck => self.settled(header, body),
            MessageKind::ReceiveOver => self.receive_over(header, body),
            // What else a client takes are answers to requests; the splitter lets no other pass.
            _ => self.answered(header, body),
        }
    }

    fn answered(&mut self, header: &WireHeader, body: &[u8]) -> Result<(), String> {
        let asked = self.requests.remove(&header.correlation);
        let Some(asked) = asked.filter(|asked| asked.kind() == header.kind) else {
            return Err(format!(
                "it answered request {} by {:?}, where {asked:?} was asked for",
                header.correlation, header.kind
            ));
        };
        let answer = asked.read(body).map_err(|e| e.to_string())?;
        let request = RequestId(header.correlation);
        self.events.push_back(Event::Answered {
            request,
            answer: Ok(answer),
        });
        Ok(())
    }

    /// An error about a stream, a request, or the connection.
    fn refused(&mut self, header: &WireHeader, refusal: Refusal) -> Result<(), String> {
        if header.stream == StreamId::CONNECTION {
            return self.connection_refused(header.correlation, refusal);
        }
        let stream = header.stream;
        match self.streams.get_mut(&stream) {
            Some(Stream::Publisher(publishing)) if !publishing.is_opening() => {
                let (sent, waiting) = publishing.refused(header.correlation)?;
                let over = publishing.is_answered();
                self.unpublished(stream, sent, Unpublished::Refused(refusal.clone()));
                let never_sent = refusal.clone().without_effect();
                self.unpublished(stream, waiting, Unpublished::Refused(never_sent));
                self.stream_ended(stream, Some(refusal));
                if over {
                    self.streams.remove(&stream);
                }
                self.go_on_closing();
            }
            Some(Stream::Publisher(_) | Stream::Reader(_)) => {
                self.streams.remove(&stream);
                self.stream_ended(stream, Some(refusal));
            }
            Some(Stream::Consumer(_)) => {
                // It is about settles from its correlation on.
                let unchanged = match refusal.effect {
                    Effect::NotApplied => header.correlation,
                    Effect::Applied | Effect::Unknown => u64::MAX,
                };
                self.consumer_over(stream, Some(refusal), unchanged);
            }
            Some(Stream::Closing) => {}
            None => self.only_if_gone(header)?,
        }
        Ok(())
    }

    fn connection_refused(&mut self, correlation: u64, refusal: Refusal) -> Result<(), String> {
        if correlation == 0 {
            self.end(ConnectionError::Refused(refusal));
            return Ok(());
        }
        if self.requests.remove(&correlation).is_none() {
            return Err(format!(
                "it refused request {correlation}, which is not open"
            ));
        }
        let request = RequestId(correlation);
        self.events.push_back(Event::Answered {
            request,
            answer: Err(refusal),
        });
        Ok(())
    }

    /// The last message of a stream: what it has not answered by now it never will.
    fn stream_closed(&mut self, header: &WireHeader) -> Result<(), String> {
        let stream = header.stream;
        if let Some(Stream::Consumer(_)) = self.streams.get(&stream) {
            self.consumer_over(stream, None, u64::MAX);
            return Ok(());
        }
        match self.streams.remove(&stream) {
            Some(Stream::Publisher(publishing)) => {
                let told = publishing.is_refused();
                let (sent, waiting) = publishing.unanswered();
                self.unpublished(stream, sent, Unpublished::Unacknowledged);
                self.unpublished(stream, waiting, Unpublished::StreamClosed);
                if !told {
                    self.stream_ended(stream, None);
                }
                self.go_on_closing();
            }
            Some(Stream::Reader(_) | Stream::Consumer(_)) => self.stream_ended(stream, None),
            Some(Stream::Closing) => {}
            None => self.only_if_gone(header)?,
        }
        Ok(())
    }

    fn publisher_opened(&mut self, header: &WireHeader, body: &[u8]) -> Result<(), String> {
        let opened = PublisherOpened::decode(body).map_err(|e| e.to_string())?;
        let stream = header.stream;
        match self.streams.get_mut(&stream) {
            Some(Stream::Publisher(publishing)) if publishing.is_opening() => {
                publishing.opened();
                self.events
                    .push_back(Event::PublisherOpened { stream, opened });
                Ok(())
            }
            _ => self.only_if_gone(header),
        }
    }

    fn producer_opened(&mut self, header: &WireHeader, body: &[u8]) -> Result<(), String> {
        let opened = ProducerOpened::decode(body).map_err(|e| e.to_string())?;
        let stream = header.stream;
        match self.streams.get_mut(&stream) {
            Some(Stream::Publisher(publishing)) if publishing.is_opening() => {
                publishing.opened();
                self.events
                    .push_back(Event::ProducerOpened { stream, opened });
                Ok(())
            }
            _ => self.only_if_gone(header),
        }
    }

    fn acknowledged(&mut self, header: &WireHeader, body: &[u8]) -> Result<(), String> {
        let ack = PublishAck::decode(body).map_err(|e| e.to_string())?;
        let stream = header.stream;
        let Some(Stream::Publisher(publishing)) = self.streams.get_mut(&stream) else {
            return self.only_if_gone(header);
        };
        let events = &mut self.events;
        publishing.acknowledged(header.correlation, &ack, |publish, stored| {
            events.push_back(Event::Published {
                stream,
                publish,
                stored,
            });
        })?;
        if publishing.is_refused() && publishing.is_answered() {
            self.streams.remove(&stream);
        }
        self.wants_to_send(stream);
        self.close_if_drained(stream);
        self.go_on_closing();
        Ok(())
    }

    fn reader_opened(&mut self, header: &WireHeader, body: &[u8]) -> Result<(), String> {
        let opened = ReaderOpened::decode(body).map_err(|e| e.to_string())?;
        let stream = header.stream;
        match self.streams.get_mut(&stream) {
            Some(Stream::Reader(reading)) if reading.is_opening() => {
                reading.opened(opened.start_offset);
                self.events
                    .push_back(Event::ReaderOpened { stream, opened });
                Ok(())
            }
            _ => self.only_if_gone(header),
        }
    }

    fn gap(&mut self, header: &WireHeader, body: &[u8]) -> Result<(), String> {
        let gap = Gap::decode(body).map_err(|e| e.to_string())?;
        let stream = header.stream;
        let Some(Stream::Reader(reading)) = self.streams.get_mut(&stream) else {
            return self.only_if_gone(header);
        };
        reading.gap(&gap)?;
        let Gap {
            first_offset: first,
            next_offset: next,
            reason,
        } = gap;
        self.events.push_back(Event::Gap {
            stream,
            first,
            next,
            reason,
        });
        Ok(())
    }

    fn consumer_opened(&mut self, header: &WireHeader, body: &[u8]) -> Result<(), String> {
        let opened = ConsumerOpened::decode(body).map_err(|e| e.to_string())?;
        let stream = header.stream;
        match self.streams.get_mut(&stream) {
            Some(Stream::Consumer(consuming)) if consuming.is_opening() => {
                consuming.opened(&opened);
                self.events
                    .push_back(Event::ConsumerOpened { stream, opened });
                Ok(())
            }
            _ => self.only_if_gone(header),
        }
    }

    fn settled(&mut self, header: &WireHeader, body: &[u8]) -> Result<(), String> {
        let ack = SettleAck::decode(body).map_err(|e| e.to_string())?;
        let stream = header.stream;
        let Some(Stream::Consumer(consuming)) = self.streams.get_mut(&stream) else {
            return self.only_if_gone(header);
        };
        let events = &mut self.events;
        consuming.acknowledged(&ack, |refused| {
            events.push_back(Event::SettleRefused { stream, refused });
        })?;
        let through = ack.through;
        self.events.push_back(Event::Settled { stream, through });
        self.wants_to_send(stream);
        self.close_if_drained(stream);
        self.go_on_closing();
        Ok(())
    }

    fn receive_over(&mut self, header: &WireHeader, body: &[u8]) -> Result<(), String> {
        let ReceiveOver { granted } = ReceiveOver::decode(body).map_err(|e| e.to_string())?;
        let stream = header.stream;
        let Some(Stream::Consumer(consuming)) = self.streams.get_mut(&stream) else {
            return self.only_if_gone(header);
        };
        consuming.receive_over(header.correlation)?;
        self.events
            .push_back(Event::ReceiveOver { stream, granted });
        Ok(())
    }

    /// A consumer stream is over: what it settled and was not answered never will be.
    fn consumer_over(&mut self, stream: StreamId, refusal: Option<Refusal>, unchanged: u64) {
        if let Some(Stream::Consumer(consuming)) = self.streams.remove(&stream) {
            self.stream_ended(stream, refusal);
            self.unsettled(stream, &consuming, unchanged);
            self.go_on_closing();
        }
    }

    fn stream_ended(&mut self, stream: StreamId, refusal: Option<Refusal>) {
        self.events
            .push_back(Event::StreamEnded { stream, refusal });
    }

    /// Lets a message pass that crossed the end of its stream, and no other.
    fn only_if_gone(&self, header: &WireHeader) -> Result<(), String> {
        let stream = header.stream;
        match self.streams.get(&stream) {
            None if stream.0 < self.next_stream => Ok(()),
            Some(Stream::Closing) => Ok(()),
            None => Err(format!(
                "it sent {:?} on stream {stream}, never opened",
                header.kind
            )),
            Some(_) => Err(format!(
                "it sent {:?} on stream {stream}, out of place",
                header.kind
            )),
        }
    }
}

/// Takes a message off `input` and gives its body, with a copy only when that is small.
fn hand_on(input: &mut BytesMut, consumed: usize, body_bytes: usize) -> Bytes {
    let body_at = consumed - body_bytes;
    if body_bytes < HAND_ON_BYTES_MIN {
        let body = Bytes::copy_from_slice(input.get(body_at..consumed).unwrap_or_default());
        input.advance(consumed);
        return body;
    }
    let mut body = input.split_to(consumed).freeze();
    body.advance(body_at);
    body
}
