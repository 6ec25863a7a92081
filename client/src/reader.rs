//! Reading: the records of one topic from a place on.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use millstream_protocol::batch::{Checked, Record, RecordRun, RecordView};
use millstream_protocol::control::{GapReason, OpenReader, ReaderOpened};
use millstream_protocol::frame::FrameError;
use millstream_protocol::limits::READ_CREDIT_BYTES_MAX;
use millstream_protocol::wire::StreamId;
use millstream_protocol::{Offset, Start, TopicName};
use tokio::sync::oneshot;

use crate::client::answered;
use crate::connection::{Connection, Item, Opened, StreamEnd, StreamOver};
use crate::core::Delivery;
use crate::error::{Action, ReadError, TopicError, TopicErrorCause};

/// Bytes the server may send ahead unless told otherwise.
const CREDIT_BYTES: u32 = 4 << 20;

/// How a reader is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderOptions {
    credit_bytes: u32,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ReaderOptions {
    /// Four megabytes ahead.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            credit_bytes: CREDIT_BYTES,
        }
    }

    /// Sets how many bytes the server may send ahead of what was read; one frame more may come.
    ///
    /// At least one, at most 64 MiB.
    #[must_use]
    pub fn credit_bytes(mut self, bytes: u32) -> Self {
        self.credit_bytes = bytes.clamp(1, READ_CREDIT_BYTES_MAX);
        self
    }
}

/// Reads the records of one topic, in order, from a place on; goes on with what comes later.
///
/// Every frame is checked: its place, header and body checksums, columns, expanded size. Records
/// hold on to the bytes that were received; nothing is copied. Bytes that were read are given back
/// to the server as credit, so that what waits here is bounded.
///
/// ```no_run
/// # async fn example(client: millstream_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use millstream_client::{ReadError, Start};
///
/// let mut reader = client.reader("orders", Start::Earliest).await?;
/// reader.stop_at(reader.end_offset()); // what there is now, and no more
/// while let Some(record) = reader.next().await {
///     match record {
///         Ok(record) => println!("{}: {:?}", record.offset(), record.as_bytes()),
///         Err(gap @ ReadError::Gap { .. }) => eprintln!("{gap}"),
///         Err(error) => return Err(error.into()),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Reader {
    stream: OpenStream,
    topic: TopicName,
    opened: ReaderOpened,
    run: Option<Run>,
    /// An error that was come upon and not told yet; a record that was found stays in its run.
    ahead: Option<ReadError>,
    /// The offset that comes next.
    next: Offset,
    stop: Option<Offset>,
    /// Nothing more comes.
    over: bool,
}

/// A delivery whose records are being given out.
#[derive(Debug)]
struct Run {
    records: RecordRun,
    bytes: u32,
    next_offset: Offset,
}

/// A reader stream; closed when dropped.
#[derive(Debug)]
struct OpenStream {
    connection: Arc<Connection>,
    id: StreamId,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.connection.act(|state| state.drop_reader(self.id));
    }
}

impl Reader {
    pub(crate) async fn open(
        connection: Arc<Connection>,
        topic: TopicName,
        start: Start,
        options: ReaderOptions,
    ) -> Result<Self, TopicError> {
        let failed = |cause| TopicError::new(Action::OpenReader, topic.as_str(), cause);
        let (reply, answer) = oneshot::channel();
        let id = connection.act(|state| {
            let ReaderOptions { credit_bytes } = options;
            let open = OpenReader {
                topic: topic.clone(),
                start,
                credit_bytes,
            };
            let id = state.core.open_reader(&open)?;
            state.add_reader(id);
            state.opening.insert(id, reply);
            Ok(id)
        });
        let id = id.map_err(failed)?;
        let longest = connection.request_timeout;
        // Dropped on failure, or with this future, it closes what may have been opened.
        let stream = OpenStream { connection, id };
        match answered(answer, longest).await.map_err(failed)? {
            Opened::Reader(opened) => Ok(Self {
                stream,
                topic,
                next: opened.start_offset,
                opened,
                run: None,
                ahead: None,
                stop: None,
                over: false,
            }),
            Opened::Publisher(_) | Opened::Producer(_) | Opened::Consumer(_) => {
                Err(failed(TopicErrorCause::Closed))
            }
        }
    }

    /// The topic.
    #[must_use]
    pub const fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Tells the topic from others that had or will have its name.
    #[must_use]
    pub const fn incarnation(&self) -> [u8; 16] {
        self.opened.incarnation
    }

    /// The offset at which reading began.
    #[must_use]
    pub const fn start_offset(&self) -> Offset {
        self.opened.start_offset
    }

    /// The offset after the last record there was to read when the reader was opened.
    #[must_use]
    pub const fn end_offset(&self) -> Offset {
        self.opened.end_offset
    }

    /// The offset that comes next; a later one if that was never used.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        self.next
    }

    /// Ends the reading before `offset`: [`Reader::next`] then gives nothing more.
    ///
    /// With [`Reader::end_offset`] it reads what there was when it was opened.
    pub const fn stop_at(&mut self, offset: Offset) {
        self.stop = Some(offset);
    }

    /// The next record; waits until there is one. Nothing once the reader is at its stop, or after
    /// an error that is final.
    ///
    /// Gaps are errors after which reading goes on, see [`ReadError::is_final`]; numbers that were
    /// never used are passed over. May be cancelled: no record is lost.
    pub async fn next(&mut self) -> Option<Result<Record, ReadError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next record if it is here already; nothing also once the reader is over.
    pub fn try_next(&mut self) -> Option<Result<Record, ReadError>> {
        match self.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(record) => record,
            Poll::Pending => None,
        }
    }

    /// Waits until there is something, then gives all that is here, one by one without waiting.
    ///
    /// Nothing once the reader is at its stop, or after an error that is final. What is not taken
    /// comes next. [`Records::next_view`] gives the same records for less.
    ///
    /// ```no_run
    /// # async fn example(mut reader: millstream_client::Reader) -> Result<(), millstream_client::ReadError> {
    /// while let Some(run) = reader.next_run().await {
    ///     for record in run {
    ///         println!("{}", record?.offset());
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next_run(&mut self) -> Option<Records<'_>> {
        if let Err(error) = poll_fn(|cx| self.poll_found(cx)).await? {
            self.ahead = Some(error);
        }
        Some(Records { reader: self })
    }

    /// The polling form of [`Reader::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Record, ReadError>>> {
        let found = ready!(self.poll_found(cx));
        let record = self.give(found);
        Poll::Ready(record.map(|record| record.map(|record| record.to_record())))
    }

    /// The next record if it is here already, borrowed.
    #[inline]
    fn try_next_view(&mut self) -> Option<Result<RecordView<'_>, ReadError>> {
        match self.poll_found(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(found) => self.give(found),
            Poll::Pending => None,
        }
    }

    /// Ready once the run has come to a record that may be given, or with why none comes.
    #[inline]
    fn poll_found(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(), ReadError>>> {
        if let Some(error) = self.ahead.take() {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if self.over || self.stop.is_some_and(|stop| self.next >= stop) {
                return Poll::Ready(None);
            }
            if let Some(run) = &mut self.run {
                match run.records.find_next() {
                    Ok(Some(found)) => return Poll::Ready(self.check(found)),
                    Err(error) => return Poll::Ready(Some(Err(self.damaged(error)))),
                    Ok(None) => self.finish_run(),
                }
                continue;
            }
            let arrived = self
                .stream
                .connection
                .lock()
                .poll_arrived(self.stream.id, cx);
            match arrived {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Item::Frames(delivery))) => self.start_run(delivery),
                Poll::Ready(Ok(Item::Gap(gap))) => {
                    if let Some(error) = self.pass_gap(gap) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Poll::Ready(Err(end)) => return Poll::Ready(Some(Err(self.ended(end)))),
            }
        }
    }

    fn start_run(&mut self, delivery: Delivery) {
        let Delivery {
            frames,
            place,
            next_offset,
        } = delivery;
        let bytes = u32::try_from(frames.len()).unwrap_or(u32::MAX);
        let records = RecordRun::new(frames, place, Checked::No, self.next);
        self.run = Some(Run {
            records,
            bytes,
            next_offset,
        });
    }

    /// Whether the record of offset `found` may be given: not if it is behind the stop or out of order.
    #[inline]
    fn check(&mut self, found: Offset) -> Option<Result<(), ReadError>> {
        let ends_at = self.run.as_ref().map_or(self.next, |run| run.next_offset);
        if found < self.next || found >= ends_at {
            return Some(Err(self.out_of_order(found)));
        }
        if self.stop.is_some_and(|stop| found >= stop) {
            self.over = true;
            return None;
        }
        self.next = found;
        Some(Ok(()))
    }

    #[cold]
    fn out_of_order(&mut self, found: Offset) -> ReadError {
        self.over = true;
        ReadError::OutOfOrder {
            topic: self.topic.clone(),
            wanted: self.next,
            found,
        }
    }

    /// Gives out the record that the run has come to, if that is what was found.
    #[inline]
    fn give(
        &mut self,
        found: Option<Result<(), ReadError>>,
    ) -> Option<Result<RecordView<'_>, ReadError>> {
        if let Err(error) = found? {
            return Some(Err(error));
        }
        let record = self.run.as_mut()?.records.take_found()?;
        self.next = record.offset() + 1;
        Some(Ok(record))
    }

    /// All records of the delivery were given out: its bytes go back as credit.
    fn finish_run(&mut self) {
        if let Some(run) = self.run.take() {
            self.next = self.next.max(run.next_offset);
            let id = self.stream.id;
            self.stream
                .connection
                .act(|state| state.core.consumed(id, run.bytes));
        }
    }

    /// A batch that cannot be read is passed over; frames that are not as sent are the end.
    fn damaged(&mut self, error: FrameError) -> ReadError {
        let first = self.next;
        match (error, &self.run) {
            (FrameError::Batch(cause), Some(run)) => {
                self.next = run.records.next_offset().max(first);
                ReadError::Unreadable {
                    first,
                    next: self.next,
                    cause,
                }
            }
            (cause, _) => {
                self.over = true;
                ReadError::Corrupt {
                    topic: self.topic.clone(),
                    at: first,
                    cause,
                }
            }
        }
    }

    /// Goes on behind a gap; gives it unless its numbers were never used.
    fn pass_gap(&mut self, gap: ReadError) -> Option<ReadError> {
        let ReadError::Gap {
            first,
            next,
            reason,
        } = gap
        else {
            return Some(gap);
        };
        let first = first.max(self.next);
        self.next = self.next.max(next);
        (reason != GapReason::Void).then_some(ReadError::Gap {
            first,
            next,
            reason,
        })
    }

    fn ended(&mut self, end: StreamOver) -> ReadError {
        self.over = true;
        let topic = self.topic.clone();
        match end {
            StreamOver::Stream(StreamEnd::Refused(refusal)) => {
                ReadError::Refused { topic, refusal }
            }
            StreamOver::Stream(StreamEnd::Closed) => ReadError::StreamClosed { topic },
            StreamOver::Connection(cause) => ReadError::Connection { topic, cause },
        }
    }
}

/// What is at hand of a reader's records, one by one without waiting: owned by way of the iterator,
/// borrowed by way of [`Records::next_view`]. What one gives the other does not give again.
#[derive(Debug)]
pub struct Records<'a> {
    reader: &'a mut Reader,
}

impl Records<'_> {
    /// The next record, borrowed until the one after it is asked for: what the iterator would give,
    /// without counting references. Nothing once all that is here was given.
    ///
    /// # Errors
    ///
    /// Those of [`Reader::next`].
    ///
    /// # Example
    ///
    /// ```no_run
    /// # async fn example(mut reader: millstream_client::Reader) -> Result<(), millstream_client::ReadError> {
    /// let mut body_bytes = 0;
    /// while let Some(mut run) = reader.next_run().await {
    ///     while let Some(record) = run.next_view() {
    ///         body_bytes += record?.as_bytes().len();
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn next_view(&mut self) -> Option<Result<RecordView<'_>, ReadError>> {
        self.reader.try_next_view()
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.reader.try_next()
    }
}
