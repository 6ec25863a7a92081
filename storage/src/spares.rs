//! Files of dropped segments that serve again (L7): who may still reach the bytes of one, and which are kept.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Weak};

use crate::manifest::SegmentNumber;
use crate::memory::SegmentMemory;
use crate::segment::Segment;

/// Most bytes of files that one log keeps to use again.
const SPARE_BYTES_MAX: u64 = 512 << 20;

/// The maps of a segment's file.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    /// Those that were made, for as long as anybody holds them.
    made: Vec<Weak<dyn SegmentMemory>>,
    /// So many more are being made.
    begun: u32,
    /// Its pages are there, in pieces: storing to it again costs less than to a new one. Of one of an
    /// earlier run that is not known.
    is_filled: bool,
}

impl Maps {
    /// Of a file that this run made or took into use.
    pub(crate) fn of_this_run(is_filled: bool) -> Self {
        Self {
            is_filled,
            ..Self::default()
        }
    }

    /// A map is being made: until [`end`](Self::end) the file serves nobody else.
    pub(crate) fn begin(&mut self) {
        self.begun += 1;
    }

    pub(crate) fn end(&mut self) {
        self.begun -= 1;
    }

    /// `segment` is a map of the file.
    pub(crate) fn add(&mut self, segment: &Segment) {
        self.made.retain(|made| made.strong_count() > 0);
        // For those that are told of no more (REUSE-1).
        fence(Ordering::Acquire);
        self.made.push(Arc::downgrade(segment.region().memory()));
    }

    /// Whether nobody can reach the bytes of the file, and it is worth keeping: all maps of it are gone, and who
    /// would make another does not find it once its segment is forgotten.
    pub(crate) fn is_spare(&self) -> bool {
        let are_gone = self.made.iter().all(|made| made.strong_count() == 0);
        // Behind the last drop of each memory, which released what its holders did (REUSE-1).
        fence(Ordering::Acquire);
        are_gone && self.begun == 0 && self.is_filled
    }
}

/// A file that served as a segment of its log and may serve as another: the manifest names it no more, and
/// nobody has it mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spare {
    pub(crate) number: SegmentNumber,
    pub(crate) nonce: u64,
    len_bytes: u32,
    /// It was there when the log last looked for those that nobody takes.
    was_seen: bool,
}

impl Spare {
    /// The file of the segment `number`, which had `len_bytes` bytes when it was made.
    pub(crate) fn of(number: SegmentNumber, nonce: u64, len_bytes: u32) -> Self {
        Self {
            number,
            nonce,
            len_bytes,
            was_seen: false,
        }
    }
}

/// The files that one log keeps, the last to have become free last: what of it is in a cache is of that.
#[derive(Debug, Default)]
pub(crate) struct Spares(Vec<Spare>);

impl Spares {
    /// Keeps a file, unless there are enough; gives whether it does.
    pub(crate) fn keep(&mut self, spare: Spare) -> bool {
        let bytes = |spare: &Spare| u64::from(spare.len_bytes);
        let has_room = self.0.iter().map(bytes).sum::<u64>() + bytes(&spare) <= SPARE_BYTES_MAX;
        if has_room {
            self.0.push(spare);
        }
        has_room
    }

    /// Takes a file of `len_bytes`.
    pub(crate) fn take(&mut self, len_bytes: u32) -> Option<Spare> {
        let fits = |spare: &Spare| spare.len_bytes == len_bytes;
        let at = self.0.iter().rposition(fits)?;
        Some(self.0.remove(at))
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.0.iter().map(|spare| spare.number.0).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the files that were there when this was called last and are still: nobody needs them. Gives
    /// whether there are others.
    pub(crate) fn take_unneeded(&mut self) -> (Vec<Spare>, bool) {
        let (unneeded, mut others): (Vec<Spare>, Vec<Spare>) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|spare| spare.was_seen);
        others.iter_mut().for_each(|spare| spare.was_seen = true);
        self.0 = others;
        (unneeded, !self.0.is_empty())
    }

    /// Takes all.
    pub(crate) fn take_all(&mut self) -> Vec<Spare> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_stated() {
        let mut spares = Spares::default();
        let spare = |number| Spare::of(SegmentNumber(number), 1, 256 << 20);
        let kept: Vec<bool> = (1..4).map(|number| spares.keep(spare(number))).collect();
        assert_eq!(kept, [true, true, false]);
        assert_eq!(spares.take(128 << 20), None, "of another length");
        assert_eq!(spares.take(256 << 20), Some(spare(2)), "the last");
        assert!(spares.keep(spare(4)));
    }
}
