//! Whole frames of one segment, as they lie in its memory.

use std::fmt;

use millstream_protocol::Offset;
use millstream_protocol::frame::{FramePlace, FrameSeed};

use crate::sync::CommittedRun;

/// A run of whole frames, straight from the mapped segment.
///
/// Keeps the mapping alive: the bytes outlive retention, the topic and the store. Cloning counts a
/// reference, nothing is copied.
#[derive(Clone)]
pub struct FrameSlice {
    run: CommittedRun,
    seed: FrameSeed,
    first_offset: Offset,
    next_offset: Offset,
}

impl fmt::Debug for FrameSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameSlice")
            .field("run", &self.run)
            .field("first_offset", &self.first_offset)
            .field("next_offset", &self.next_offset)
            .finish_non_exhaustive()
    }
}

impl FrameSlice {
    pub(crate) fn new(
        run: CommittedRun,
        seed: FrameSeed,
        first_offset: Offset,
        next_offset: Offset,
    ) -> Self {
        Self {
            run,
            seed,
            first_offset,
            next_offset,
        }
    }

    /// Where the first frame lies, which its header's checksum covers.
    #[must_use]
    pub fn place(&self) -> FramePlace {
        FramePlace {
            seed: self.seed,
            nonce_half: self.run.region().nonce_half(),
            position: self.run.start(),
        }
    }

    /// Offset of the first record the reader asked for; the first frame may start before it.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        self.first_offset
    }

    /// Offset behind the last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Bytes of the frames.
    #[must_use]
    pub fn len_bytes(&self) -> u32 {
        self.run.end() - self.run.start()
    }

    /// The frames.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.run.bytes()
    }
}

impl AsRef<[u8]> for FrameSlice {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}
