//! Reads a log for somebody who can't come back later: replay at a start, ids of before it.

use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::{Offset, Start};
use millstream_storage::{Chunk, Log, LogReader, ReadError, park_until};

/// How often what the disk can't read is asked for before it counts as lost.
pub(super) const TRIES: u32 = 5;
/// Between them.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// A reader that asks again where the disk can't read now. What still can't be read is a gap as any
/// other: a start must come to an end, too, over a page that is bad for good.
pub(super) struct PatientReader {
    log: Arc<Log>,
    reader: LogReader,
    tried: u32,
}

impl PatientReader {
    pub(super) fn new(log: &Arc<Log>, start: Start) -> Self {
        let mut reader = LogReader::new(log, start);
        park_until(|cx| reader.poll_start(cx));
        Self {
            log: Arc::clone(log),
            reader,
            tried: 0,
        }
    }

    pub(super) fn next_offset(&self) -> Offset {
        self.reader.next_offset()
    }

    /// Waits for the next chunk of up to `max_bytes`.
    pub(super) fn next(&mut self, max_bytes: u32) -> Result<Chunk, ReadError> {
        loop {
            let chunk = park_until(|cx| self.reader.poll_next(max_bytes, cx))?;
            match &chunk {
                Chunk::Gap(gap) if self.reader.gap_may_pass() && self.tried < TRIES => {
                    self.tried += 1;
                    std::thread::sleep(PAUSE);
                    self.reader = LogReader::new(&self.log, Start::Offset(gap.first_offset));
                }
                Chunk::Gap(_) => return Ok(chunk),
                Chunk::Frames(_) => {
                    self.tried = 0;
                    return Ok(chunk);
                }
            }
        }
    }
}
