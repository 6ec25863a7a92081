//! Input buffers: small for a connection that is idle, pooled for one that is not.
//!
//! A message is parsed where it lies, so a buffer is grown until the message is contiguous and what
//! was consumed is never moved. Buffers are zeroed once, when made; a pool lends each to one owner,
//! and dropping the buffer gives it back. While the kernel fills a buffer the operation owns it, so
//! it can not be given back early. The pools bound what all connections hold together: who finds
//! one empty waits, and reads nothing meanwhile.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{
    INPUT_FRAME_BYTES, INPUT_FRAMES_KEPT, INPUT_FRAMES_MAX, INPUT_IDLE_BYTES, INPUT_LARGE_BYTES,
    INPUT_LARGES_KEPT, INPUT_LARGES_MAX, INPUT_RUN_BYTES, INPUT_RUNS_KEPT, INPUT_RUNS_MAX,
    READ_AHEAD_BYTES,
};

/// What the next read is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// The first bytes after a silence: whatever comes. Waiting for it takes a small buffer or none.
    Idle,
    /// More of a stream that is flowing.
    Run,
    /// The rest of a message of this many bytes in all.
    Message(usize),
}

/// Bytes received and not yet consumed, with room for more behind them.
#[derive(Debug)]
pub(crate) struct InputBuffer {
    /// Initialised in its whole length, which never changes while the kernel may write to it.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Where the next read ends at the latest.
    read_end: usize,
    lease: Option<Lease>,
}

/// The right to one buffer of a class; the buffer goes back with it.
#[derive(Debug)]
struct Lease {
    class: Arc<Class>,
    _permit: OwnedSemaphorePermit,
}

impl InputBuffer {
    /// An empty buffer of no size, to be given one by [`BufferPools::prepare`].
    pub(crate) const fn none() -> Self {
        Self::empty(Vec::new(), None)
    }

    fn idle() -> Self {
        Self::empty(vec![0; INPUT_IDLE_BYTES], None)
    }

    const fn empty(bytes: Vec<u8>, lease: Option<Lease>) -> Self {
        Self {
            bytes,
            start: 0,
            end: 0,
            read_end: 0,
            lease,
        }
    }

    /// What was received and not consumed.
    pub(crate) fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Takes the first `count` of the unread bytes as done with.
    pub(crate) fn consume(&mut self, count: usize) {
        debug_assert!(
            count <= self.end - self.start,
            "only what was received is consumed"
        );
        self.start = self.end.min(self.start + count);
        if self.start == self.end {
            self.clear();
        }
    }

    /// Drops what was received.
    pub(crate) const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Counts `count` bytes that a read put behind the unread ones.
    pub(crate) fn received(&mut self, count: usize) {
        debug_assert!(
            count <= self.read_end - self.end,
            "a read fills what it was given"
        );
        self.end = self.read_end.min(self.end + count);
    }

    /// Where a read may put bytes.
    pub(crate) fn free(&mut self) -> &mut [u8] {
        self.bytes
            .get_mut(self.end..self.read_end)
            .unwrap_or_default()
    }

    /// The same place, to look at.
    pub(crate) fn free_ref(&self) -> &[u8] {
        self.bytes.get(self.end..self.read_end).unwrap_or_default()
    }

    /// Whether the last read left room, so that nothing more was there to be read.
    pub(crate) const fn has_room(&self) -> bool {
        self.end < self.read_end
    }

    /// Bytes this buffer occupies.
    pub(crate) const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Makes the most room behind the unread bytes that `want` can use.
    fn make_room(&mut self, want: Want) {
        let unread = self.end - self.start;
        let needed = match want {
            Want::Message(bytes) => bytes.max(unread + 1),
            Want::Idle | Want::Run => unread + 1,
        };
        let tight = self.bytes.len() - self.start < needed || self.bytes.len() / 2 < self.start;
        if self.start > 0 && tight {
            self.bytes.copy_within(self.start..self.end, 0);
            self.start = 0;
            self.end = unread;
        }
        self.read_end = if needed > INPUT_RUN_BYTES {
            self.bytes.len().min(self.start + needed + READ_AHEAD_BYTES)
        } else {
            self.bytes.len()
        };
    }

    /// Moves the unread bytes of `old` to the front of this empty buffer.
    fn take_over(&mut self, old: &Self) {
        let unread = old.unread();
        if let Some(front) = self.bytes.get_mut(..unread.len()) {
            front.copy_from_slice(unread);
            self.end = unread.len();
        }
    }
}

impl Drop for InputBuffer {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            // A full queue keeps enough; this one is freed.
            let _ = lease.class.kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Buffers of one size.
#[derive(Debug)]
struct Class {
    bytes: usize,
    kept: ArrayQueue<Vec<u8>>,
    permits: Arc<Semaphore>,
}

impl Class {
    fn new(bytes: usize, max: usize, kept: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes,
            kept: ArrayQueue::new(kept),
            permits: Arc::new(Semaphore::new(max)),
        })
    }

    fn lend(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> InputBuffer {
        let bytes = self.kept.pop().unwrap_or_else(|| vec![0; self.bytes]);
        let lease = Lease {
            class: Arc::clone(self),
            _permit: permit,
        };
        InputBuffer::empty(bytes, Some(lease))
    }

    fn try_lease(self: &Arc<Self>) -> Option<InputBuffer> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(self.lend(permit))
    }

    async fn lease(self: &Arc<Self>) -> InputBuffer {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        self.lend(permit.expect("the pools are never closed"))
    }
}

/// The pooled buffers of one server.
#[derive(Debug, Clone)]
pub(crate) struct BufferPools {
    runs: Arc<Class>,
    larges: Arc<Class>,
    frames: Arc<Class>,
}

impl BufferPools {
    /// Empty pools with the bounds of the crate's limits.
    pub(crate) fn new() -> Self {
        Self {
            runs: Class::new(INPUT_RUN_BYTES, INPUT_RUNS_MAX, INPUT_RUNS_KEPT),
            larges: Class::new(INPUT_LARGE_BYTES, INPUT_LARGES_MAX, INPUT_LARGES_KEPT),
            frames: Class::new(INPUT_FRAME_BYTES, INPUT_FRAMES_MAX, INPUT_FRAMES_KEPT),
        }
    }

    /// Buffers of the largest size that are not lent.
    #[cfg(test)]
    pub(crate) fn frames_left(&self) -> usize {
        self.frames.permits.available_permits()
    }

    /// The smallest class whose buffers hold `bytes`.
    fn class(&self, bytes: usize) -> &Arc<Class> {
        [&self.runs, &self.larges]
            .into_iter()
            .find(|class| bytes <= class.bytes)
            .unwrap_or(&self.frames)
    }

    /// `buffer`, or another with the same unread bytes, ready for a read as `want` has it.
    ///
    /// Waits for a pooled buffer where the message asked for needs one and none is free; a run
    /// that finds none makes do with a small one.
    pub(crate) async fn prepare(&self, buffer: InputBuffer, want: Want) -> InputBuffer {
        let unread = buffer.unread().len();
        let needed = match want {
            Want::Message(bytes) => bytes.max(unread + 1),
            Want::Idle | Want::Run => unread + 1,
        };
        let mut ready = match want {
            _ if buffer.suits(want, needed) => buffer,
            Want::Run => match self.class(needed).try_lease() {
                Some(pooled) => buffer.moved_to(pooled),
                None if buffer.size() >= needed => buffer,
                None if needed <= INPUT_IDLE_BYTES => buffer.moved_to(InputBuffer::idle()),
                None => buffer.moved_to(self.class(needed).lease().await),
            },
            _ if needed <= INPUT_IDLE_BYTES => buffer.moved_to(InputBuffer::idle()),
            _ => buffer.moved_to(self.class(needed).lease().await),
        };
        ready.make_room(want);
        ready
    }
}

impl InputBuffer {
    /// Whether this buffer is the size `want` should have, neither too small nor a waste.
    fn suits(&self, want: Want, needed: usize) -> bool {
        match want {
            Want::Idle => self.size() == INPUT_IDLE_BYTES && needed <= INPUT_IDLE_BYTES,
            Want::Run => self.size() == INPUT_RUN_BYTES && needed <= INPUT_RUN_BYTES,
            Want::Message(_) => self.size() >= needed,
        }
    }

    /// The same unread bytes in no more than an idle connection may hold, if they fit that.
    pub(crate) fn put_away(self) -> Self {
        if self.unread().is_empty() {
            return Self::none();
        }
        if self.size() > INPUT_IDLE_BYTES && self.unread().len() < INPUT_IDLE_BYTES {
            return self.moved_to(Self::idle());
        }
        self
    }

    fn moved_to(self, mut target: Self) -> Self {
        target.take_over(&self);
        target
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn now<F: Future>(future: F) -> Option<F::Output> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    fn filled(pools: &BufferPools, want: Want, with: &[u8]) -> InputBuffer {
        let mut buffer = now(pools.prepare(InputBuffer::none(), want)).unwrap();
        buffer.free()[..with.len()].copy_from_slice(with);
        buffer.received(with.len());
        buffer
    }

    #[test]
    fn an_idle_buffer_is_small_and_belongs_to_no_pool() {
        let pools = BufferPools::new();
        let buffer = filled(&pools, Want::Idle, b"abc");
        assert_eq!(buffer.size(), INPUT_IDLE_BYTES);
        assert_eq!(pools.runs.permits.available_permits(), INPUT_RUNS_MAX);
    }

    #[test]
    fn unread_bytes_survive_every_change_of_size() {
        let pools = BufferPools::new();
        let mut buffer = filled(&pools, Want::Idle, b"xxhello");
        buffer.consume(2);
        for want in [
            Want::Run,
            Want::Message(INPUT_RUN_BYTES + 1),
            Want::Message(INPUT_LARGE_BYTES + 1),
            Want::Run,
            Want::Idle,
        ] {
            buffer = now(pools.prepare(buffer, want)).unwrap();
            assert_eq!(buffer.unread(), b"hello", "{want:?}");
            assert!(!buffer.free().is_empty());
        }
        assert_eq!(buffer.size(), INPUT_IDLE_BYTES);
        assert_eq!(pools.frames.kept.len(), 1, "the largest went back");
    }

    #[test]
    fn the_rest_of_a_large_message_is_read_with_little_of_what_follows() {
        let pools = BufferPools::new();
        let want = Want::Message(INPUT_RUN_BYTES + 100);
        let mut buffer = filled(&pools, want, &[7; 1000]);
        buffer = now(pools.prepare(buffer, want)).unwrap();
        assert_eq!(
            buffer.free().len(),
            INPUT_RUN_BYTES + 100 - 1000 + READ_AHEAD_BYTES
        );
    }

    #[test]
    fn consumed_bytes_make_room() {
        let pools = BufferPools::new();
        let mut buffer = filled(&pools, Want::Run, &[1; INPUT_RUN_BYTES]);
        assert!(!buffer.has_room());
        buffer.consume(INPUT_RUN_BYTES - 10);
        buffer = now(pools.prepare(buffer, Want::Run)).unwrap();
        assert_eq!(buffer.unread(), [1; 10]);
        assert_eq!(buffer.free().len(), INPUT_RUN_BYTES - 10);
    }

    #[test]
    fn an_empty_pool_makes_a_large_message_wait_and_a_run_small() {
        let pools = BufferPools::new();
        let frames: Vec<_> = (0..INPUT_FRAMES_MAX)
            .map(|_| pools.frames.try_lease().unwrap())
            .collect();
        let large = Want::Message(INPUT_FRAME_BYTES);
        assert!(
            now(pools.prepare(InputBuffer::none(), large)).is_none(),
            "all are lent"
        );
        drop(frames);
        assert!(now(pools.prepare(InputBuffer::none(), large)).is_some());
        assert_eq!(
            pools.frames.kept.len(),
            INPUT_FRAMES_KEPT,
            "only so many are kept"
        );

        let _runs: Vec<_> = (0..INPUT_RUNS_MAX)
            .map(|_| pools.runs.try_lease().unwrap())
            .collect();
        let small = now(pools.prepare(InputBuffer::none(), Want::Run)).unwrap();
        assert_eq!(small.size(), INPUT_IDLE_BYTES);
    }
}
