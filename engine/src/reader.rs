//! Reading a topic from any offset.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use millstream_protocol::Offset;
use millstream_protocol::batch::{Checked, Record, RecordRun};
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
        if let Some(record) = self.next_of_run() {
            return Some(record);
        }
        block_on(self.next())
    }

    /// The next record if one is there now; never blocks. While segments of an earlier run are
    /// brought in from disk there is none for a moment: compare [`next_offset`](Self::next_offset)
    /// and [`high_watermark`](Self::high_watermark) to tell.
    pub fn try_next(&mut self) -> Option<Result<Record, ReadError>> {
        loop {
            if let Some(record) = self.next_of_run() {
                return Some(record);
            }
            let from = self.log.next_offset();
            let chunk = self.log.try_next(DELIVERY_BYTES)?;
            if let ControlFlow::Break(record) = self.take(from, chunk.map_err(ReadError::from)) {
                return record;
            }
        }
    }

    /// Polling form of [`next`](Self::next).
    pub fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Record, ReadError>>> {
        loop {
            if let Some(record) = self.next_of_run() {
                return Poll::Ready(Some(record));
            }
            let from = self.log.next_offset();
            let chunk = ready!(self.poll_frames(DELIVERY_BYTES, cx));
            if let ControlFlow::Break(record) = self.take(from, chunk) {
                return Poll::Ready(record);
            }
        }
    }

    /// Takes up what came while `from` was the next offset; breaks with what is to be told of it.
    fn take(
        &mut self,
        from: Offset,
        chunk: Result<Chunk, ReadError>,
    ) -> ControlFlow<Option<Result<Record, ReadError>>> {
        match chunk {
            Ok(Chunk::Frames(slice)) => {
                let from = from.max(slice.first_offset());
                let place = slice.place();
                let frames = Bytes::from_owner(slice);
                self.run = Some(RecordRun::new(frames, place, Checked::Yes, from));
                ControlFlow::Continue(())
            }
            Ok(Chunk::Gap(gap)) if gap.reason == GapReason::Void => ControlFlow::Continue(()),
            Ok(Chunk::Gap(gap)) => ControlFlow::Break(Some(Err(ReadError::Gap(gap)))),
            Err(ReadError::Closed) => ControlFlow::Break(None),
            Err(error) => ControlFlow::Break(Some(Err(error))),
        }
    }

    fn next_of_run(&mut self) -> Option<Result<Record, ReadError>> {
        let next = self.run.as_mut()?.next();
        if next.is_none() {
            self.run = None;
        }
        next.map(|record| record.map_err(ReadError::Damaged))
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
