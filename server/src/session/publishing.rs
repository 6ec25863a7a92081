//! A publisher's stream: numbered publishes in, cumulative acknowledgements out.
//!
//! ```text
//!         ┌──closed by the client──▶ Closing ──all acknowledged──▶ StreamClosed
//!  Open ──┼──a publish refused─────▶ Refused ──all acknowledged──▶ Error, StreamClosed
//!         └──the log failed: Error─▶ Failed  ────────────────────▶ StreamClosed
//! ```
//! Publishes are answered in order: an error waits for the acknowledgements of those before it.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use millstream::{Level, PublishError, Publisher};
use millstream_protocol::control::{AckRun, ErrorMessage, PublishAck};
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::frame::check_publish;
use millstream_protocol::limits::{PUBLISH_WINDOW_BYTES, PUBLISH_WINDOW_FRAMES};
use millstream_protocol::wire::StreamId;
use millstream_protocol::{AckLevel, Offset};

use crate::output::OutQueue;
use crate::refusal::refused;

/// A publish that is in the log and not yet as safe as asked.
#[derive(Debug, Clone, Copy)]
struct Unacked {
    base: Offset,
    /// Behind its last record.
    end: Offset,
    /// It was there before: nothing was added.
    duplicate: bool,
    frame_bytes: u32,
}

/// What became of a publish.
#[derive(Debug)]
pub(crate) enum Published {
    /// It is in the log.
    Accepted,
    /// The log has no place for it at this moment: nothing happened, it is to be tried again.
    NotYet,
    /// It is refused, and with it all that follow on the stream.
    Refused(ErrorMessage),
    /// The stream had ended before it, which the client could not know: it means nothing.
    Ignored,
    /// The client itself had closed the stream before it.
    Closed,
}

/// See the drawing above.
#[derive(Debug)]
enum State {
    Open,
    /// The request to close it had this correlation.
    Closing {
        correlation: u64,
    },
    Refused(Box<ErrorMessage>),
    Failed,
}

/// The last thing to say on a stream.
#[derive(Debug)]
pub(crate) enum Farewell {
    /// The client closed it, by a request of this correlation.
    Closed { correlation: u64 },
    /// Publishes from `number` on were refused.
    Refused { number: u64, error: ErrorMessage },
    /// It was said already.
    Failed,
}

#[derive(Debug)]
pub(crate) struct PublisherStream {
    publisher: Publisher,
    /// Stored or synced: what the client asked for, the topic's own level resolved.
    level: AckLevel,
    /// The number of the last publish accepted.
    accepted: u64,
    unacked: VecDeque<Unacked>,
    unacked_bytes: u64,
    /// Where the last run of the acknowledgement being made ends.
    run_end: Offset,
    /// Whether sleepers have yet to be told of what was published.
    unflushed: bool,
    state: State,
}

impl PublisherStream {
    pub(crate) fn new(publisher: Publisher) -> Self {
        let level = match publisher.level() {
            Level::Stored => AckLevel::Stored,
            Level::Synced => AckLevel::Synced,
        };
        Self {
            publisher,
            level,
            accepted: 0,
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            run_end: Offset(0),
            unflushed: false,
            state: State::Open,
        }
    }

    /// Takes publish `number`, whose frame is `bytes`: one copy, into the log.
    pub(crate) fn publish(&mut self, number: u64, bytes: &[u8]) -> Published {
        match self.state {
            State::Open => {}
            State::Closing { .. } => return Published::Closed,
            State::Refused(_) | State::Failed => return Published::Ignored,
        }
        if let Err(refusal) = self.admit(number, bytes) {
            return Published::Refused(refusal);
        }
        let frame = match check_publish(bytes) {
            Ok(frame) => frame,
            Err(error) => return Published::Refused(refused(error.code(), error.to_string())),
        };
        match self.publisher.try_publish_frame(&frame) {
            Ok(appended) => {
                let frame_bytes = bytes.len() as u32;
                self.unacked.push_back(Unacked {
                    base: appended.base,
                    end: appended.end,
                    duplicate: appended.duplicate,
                    frame_bytes,
                });
                self.unacked_bytes += u64::from(frame_bytes);
                self.accepted = number;
                self.unflushed = true;
                Published::Accepted
            }
            Err(PublishError::Rotating) => Published::NotYet,
            Err(error) => Published::Refused(refusal(&error)),
        }
    }

    /// Whether publish `number` is the next one and fits the window. One that is larger than the
    /// whole window fits it alone.
    fn admit(&self, number: u64, bytes: &[u8]) -> Result<(), ErrorMessage> {
        let next = self.accepted + 1;
        if number != next {
            let sentence = format!("correlation: publish {number} came where {next} was next");
            return Err(refused(ErrorCode::OutOfSequence, sentence));
        }
        let frames = self.unacked.len() as u64 + 1;
        let window_bytes = self.unacked_bytes + bytes.len() as u64;
        let over = frames > u64::from(PUBLISH_WINDOW_FRAMES)
            || window_bytes > u64::from(PUBLISH_WINDOW_BYTES) && frames > 1;
        if over {
            let sentence = format!(
                "window: {frames} frames of {window_bytes} bytes unacknowledged, over \
                 {PUBLISH_WINDOW_FRAMES} or {PUBLISH_WINDOW_BYTES}"
            );
            return Err(refused(ErrorCode::WindowExceeded, sentence));
        }
        Ok(())
    }

    /// Ready when a publish that had no place is worth another try.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // An error is for the publish that is tried again: it gets the same.
        self.publisher.poll_ready(cx).map(|_| ())
    }

    /// Takes no more publishes, because of `error`.
    pub(crate) fn refuse(&mut self, error: &ErrorMessage) {
        if let State::Open = self.state {
            self.state = State::Refused(Box::new(error.clone()));
        }
    }

    /// Has the log look for sleepers, once for all that was published since; whether there were any.
    pub(crate) fn flush_wakes(&mut self) -> bool {
        std::mem::take(&mut self.unflushed) && self.publisher.flush_wakes()
    }

    /// The client closed the stream with a request of this correlation.
    pub(crate) fn close(&mut self, correlation: u64) {
        if let State::Open = self.state {
            self.state = State::Closing { correlation };
        }
    }

    pub(crate) fn has_unacked(&self) -> bool {
        !self.unacked.is_empty()
    }

    /// What is still to be said, once that is all there is.
    pub(crate) fn farewell(&self) -> Option<Farewell> {
        match &self.state {
            State::Open => None,
            _ if self.has_unacked() => None,
            State::Closing { correlation } => Some(Farewell::Closed {
                correlation: *correlation,
            }),
            State::Refused(error) => Some(Farewell::Refused {
                number: self.accepted + 1,
                error: ErrorMessage::clone(error),
            }),
            State::Failed => Some(Farewell::Failed),
        }
    }

    /// Whether the stream is neither over nor about to be.
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Acknowledges all that has become as safe as asked, in one message, and has the task woken
    /// when there is more.
    pub(crate) fn poll_acks(
        &mut self,
        id: StreamId,
        cx: &mut Context<'_>,
        runs: &mut Vec<AckRun>,
        out: &mut OutQueue,
    ) -> bool {
        let before = self.unacked.len();
        runs.clear();
        let mut failed = None;
        if let Some(last) = self.unacked.back().copied()
            && self.all_stored(last, cx)
        {
            self.collect(last.end, runs);
        }
        while let Some(first) = self.unacked.front() {
            match self.publisher.poll_reached(self.level, first.end, cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => {
                    let reached = self.publisher.reached(self.level).max(first.end);
                    self.collect(reached, runs);
                }
                Poll::Ready(Err(error)) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        self.acknowledge(id, runs, out);
        if let Some(error) = failed {
            self.fail(id, &error, out);
        }
        self.unacked.len() != before
    }

    /// Whether everything is stored up to the `last` publish, as it nearly always is at once: one
    /// look for all of them.
    fn all_stored(&mut self, last: Unacked, cx: &mut Context<'_>) -> bool {
        self.level == AckLevel::Stored
            && self.publisher.poll_reached(self.level, last.end, cx) == Poll::Ready(Ok(()))
    }

    /// Moves all publishes up to `reached` into `runs`.
    fn collect(&mut self, reached: Offset, runs: &mut Vec<AckRun>) {
        while let Some(publish) = self.unacked.front().copied() {
            if publish.end > reached {
                break;
            }
            match runs.last_mut() {
                Some(run)
                    if self.run_end == publish.base && !publish.duplicate && !run.duplicates =>
                {
                    run.publishes += 1;
                }
                _ => runs.push(AckRun {
                    publishes: 1,
                    duplicates: publish.duplicate,
                    base_offset: publish.base,
                }),
            }
            self.run_end = publish.end;
            self.unacked.pop_front();
            self.unacked_bytes -= u64::from(publish.frame_bytes);
        }
    }

    fn acknowledge(&self, id: StreamId, runs: &mut Vec<AckRun>, out: &mut OutQueue) {
        if !runs.is_empty() {
            let number = self.accepted - self.unacked.len() as u64;
            out.control(|out| PublishAck::encode(runs, id, number, out));
            runs.clear();
        }
    }

    /// The log failed under what is not acknowledged: nobody can tell what became of it.
    fn fail(&mut self, id: StreamId, error: &PublishError, out: &mut OutQueue) {
        let number = self.accepted + 1 - self.unacked.len() as u64;
        let message = ErrorMessage {
            effect: Effect::Unknown,
            ..refusal(error)
        };
        out.control(|out| message.encode(id, number, out));
        self.unacked.clear();
        self.unacked_bytes = 0;
        self.state = State::Failed;
    }

    /// Gives back what was only needed for a burst.
    pub(crate) fn shrink(&mut self) {
        if self.unacked.is_empty() {
            self.unacked = VecDeque::new();
        }
    }
}

/// A publish error as it is told to the client.
fn refusal(error: &PublishError) -> ErrorMessage {
    ErrorMessage {
        effect: error.effect(),
        retriable: error.is_retriable(),
        ..refused(error.code(), error.to_string())
    }
}
