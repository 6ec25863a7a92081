//! Finds the records a consumer was granted in their topic.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use millstream_protocol::batch::{Checked, RecordRun, RecordView};
use millstream_protocol::{Offset, Start};
use millstream_storage::{Chunk, Log, LogReader};

/// Bytes of frames taken at a time while grants follow each other.
const AHEAD_BYTES: u32 = 256 << 10;

/// Why a record can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Trimmed, damaged, or its topic is gone.
    Lost,
    /// The disk could not read it now: nothing may be settled on that account.
    NotNow,
}

/// Reads single records by offset; cheap while the offsets rise.
#[derive(Debug)]
pub(super) struct Fetcher {
    log: Arc<Log>,
    reader: LogReader,
    run: Option<RecordRun>,
}

impl Fetcher {
    pub(super) fn new(log: &Arc<Log>) -> Self {
        Self {
            log: Arc::clone(log),
            reader: LogReader::new(log, Start::Offset(Offset(0))),
            run: None,
        }
    }

    /// Goes to the record of `offset`, which is visible. Pending while its page is brought in.
    pub(super) fn poll_find(
        &mut self,
        offset: Offset,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unreadable>> {
        loop {
            if let Some(run) = &mut self.run
                && run.next_offset() <= offset
            {
                run.skip_to(offset);
                match run.find_next() {
                    Ok(Some(found)) if found == offset => return Poll::Ready(Ok(())),
                    Ok(None) => {}
                    // What stands there is no record, or a frame that does not check out.
                    Ok(Some(_)) | Err(_) => {
                        self.run = None;
                        return Poll::Ready(Err(Unreadable::Lost));
                    }
                }
            }
            self.run = None;
            let next = self.reader.next_offset();
            let follows = next == offset;
            if next < offset {
                self.reader.skip_to(offset);
            } else if !follows {
                self.reader = LogReader::new(&self.log, Start::Offset(offset));
            }
            // One frame is enough where records are asked for here and there.
            let bytes = if follows { AHEAD_BYTES } else { 1 };
            match ready!(self.reader.poll_next(bytes, cx)) {
                Ok(Chunk::Frames(slice)) => {
                    let (first, place) = (slice.first_offset(), slice.place());
                    let frames = Bytes::from_owner(slice);
                    self.run = Some(RecordRun::new(frames, place, Checked::Yes, first));
                    if first > offset {
                        return Poll::Ready(Err(Unreadable::Lost));
                    }
                }
                Ok(Chunk::Gap(_)) if self.reader.gap_may_pass() => {
                    return Poll::Ready(Err(Unreadable::NotNow));
                }
                Ok(Chunk::Gap(_)) => return Poll::Ready(Err(Unreadable::Lost)),
                // A topic that failed or was closed may give it again after a restart.
                Err(_) => return Poll::Ready(Err(Unreadable::NotNow)),
            }
        }
    }

    /// Gives out the record that [`poll_find`](Self::poll_find) went to.
    pub(super) fn take_found(&mut self) -> Option<RecordView<'_>> {
        self.run.as_mut()?.take_found()
    }
}
