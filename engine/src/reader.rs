//! Reading a topic from any offset.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use millstream_protocol::Offset;
use millstream_protocol::batch::{Checked, Record, RecordRun, RecordView};
use millstream_protocol::control::GapReason;
use millstream_protocol::limits::DELIVERY_BYTES_MAX;
use millstream_storage::{Chunk, LogReader};

use crate::block_on::block_on;
use crate::error::ReadError;

/// Reads one topic; changes nothing. Sees what the topic's durability lets it see, and waits at the
/// end for more.
#[derive(Debug)]
pub struct Reader {
    log: LogReader,
    /// Records of the last delivery that were not given out yet.
    run: Option<RecordRun>,
}

impl Reader {
    pub(crate) fn new(log: LogReader) -> Self {
        Self { log, run: None }
    }

    /// Offset of the next record it gives, unless a start by time is not resolved yet.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.run
            .as_ref()
            .map_or(self.log.next_offset(), RecordRun::next_offset)
    }

    /// The first offset readers of this topic can't see yet.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.log.log().high_watermark()
    }

    /// Ready with the first offset; waits only for a start by time.
    pub fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<Offset> {
        self.log.poll_start(cx)
    }

    /// The next record; `None` once the topic is closed and read to its end.
    ///
    /// The body is a slice of the mapped segment and outlives the reader and the broker. No
    /// allocation per record.
    pub async fn next(&mut self) -> Option<Result<Record, ReadError>> {
        poll_fn(|cx| self.poll_record(cx)).await
    }

    /// As [`next`](Self::next), blocking.
    pub fn next_blocking(&mut self) -> Option<Result<Record, ReadError>> {
        if let Some(found) = self.find_in_run() {
            return owned(self.give(found));
        }
        block_on(self.next())
    }

    /// The next record if one is there now; never blocks. While segments of an earlier run are
    /// brought in from disk there is none for a moment: compare [`next_offset`](Self::next_offset)
    /// and [`high_watermark`](Self::high_watermark) to tell.
    ///
    /// [`try_next_view`](Self::try_next_view) gives the same for less.
    #[inline]
    pub fn try_next(&mut self) -> Option<Result<Record, ReadError>> {
        owned(self.try_next_view())
    }

    /// As [`try_next`](Self::try_next), borrowed until the next call: counts no references. What is to
    /// be kept is made a record of its own by [`RecordView::to_record`].
    ///
    /// ```
    /// # use millstream::{Broker, Start, TopicOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let broker = Broker::open(folder.path())?;
    /// # broker.create_topic("orders", TopicOptions::new())?;
    /// let mut reader = broker.reader("orders", Start::Earliest)?;
    /// let mut body_bytes = 0;
    /// while let Some(record) = reader.try_next_view() {
    ///     body_bytes += record?.as_bytes().len();
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_next_view(&mut self) -> Option<Result<RecordView<'_>, ReadError>> {
        loop {
            if let Some(found) = self.find_in_run() {
                return self.give(found);
            }
            let from = self.log.next_offset();
            let chunk = self.log.try_next(DELIVERY_BYTES)?;
            if let ControlFlow::Break(end) = self.take(from, chunk) {
                return end.map(Err);
            }
        }
    }

    /// Polling form of [`next`](Self::next).
    pub fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Record, ReadError>>> {
        loop {
            if let Some(found) = self.find_in_run() {
                return Poll::Ready(owned(self.give(found)));
            }
            let from = self.log.next_offset();
            let chunk = ready!(self.log.poll_next(DELIVERY_BYTES, cx));
            if let ControlFlow::Break(end) = self.take(from, chunk) {
                return Poll::Ready(end.map(Err));
            }
        }
    }

    /// Takes up what came while `from` was the next offset; breaks with what is to be told of it.
    #[inline]
    fn take(
        &mut self,
        from: Offset,
        chunk: Result<Chunk, millstream_storage::ReadError>,
    ) -> ControlFlow<Option<ReadError>> {
        match chunk {
            Ok(Chunk::Frames(slice)) => {
                let from = from.max(slice.first_offset());
                let place = slice.place();
                let frames = Bytes::from_owner(slice);
                self.run = Some(RecordRun::new(frames, place, Checked::Yes, from));
                ControlFlow::Continue(())
            }
            Ok(Chunk::Gap(gap)) if gap.reason == GapReason::Void => ControlFlow::Continue(()),
            Ok(Chunk::Gap(gap)) => ControlFlow::Break(Some(ReadError::Gap(gap))),
            Err(error) => ControlFlow::Break(match ReadError::from(error) {
                ReadError::Closed => None,
                error => Some(error),
            }),
        }
    }

    /// Goes to the next record of what was taken up; `None` at its end.
    #[inline]
    fn find_in_run(&mut self) -> Option<Result<(), ReadError>> {
        match self.run.as_mut()?.find_next() {
            Ok(Some(_)) => Some(Ok(())),
            Ok(None) => {
                self.run = None;
                None
            }
            Err(error) => Some(Err(ReadError::Damaged(error))),
        }
    }

    /// Gives out what [`find_in_run`](Self::find_in_run) came to.
    #[inline]
    fn give(&mut self, found: Result<(), ReadError>) -> Option<Result<RecordView<'_>, ReadError>> {
        if let Err(error) = found {
            return Some(Err(error));
        }
        self.run.as_mut()?.take_found().map(Ok)
    }

    /// Whole frames, up to `max_bytes` of them but at least one: what a server sends on as it is.
    ///
    /// Do not mix with the calls that give records. Pending when caught up, or while cold pages are
    /// brought in by another thread.
    ///
    /// # Errors
    ///
    /// [`ReadError::Closed`] and [`ReadError::Poisoned`], when nothing more can come.
    pub fn poll_frames(
        &mut self,
        max_bytes: u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Chunk, ReadError>> {
        self.log.poll_next(max_bytes, cx).map_err(ReadError::from)
    }
}

/// Frames taken at a time for [`Reader::next`].
const DELIVERY_BYTES: u32 = DELIVERY_BYTES_MAX as u32;

/// A record that holds on to its bytes itself.
#[inline]
fn owned(record: Option<Result<RecordView<'_>, ReadError>>) -> Option<Result<Record, ReadError>> {
    record.map(|record| record.map(|record| record.to_record()))
}
