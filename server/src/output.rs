//! What a session has to send, and the batches in which a socket takes it.

use std::collections::VecDeque;
use std::io::IoSlice;

use millstream::FrameSlice;

use crate::budget::{Account, OutBudget};
use crate::limits::{
    CONTROL_BYTES_KEPT, CONTROL_OUT_BYTES_MAX, CONTROL_RUN_BYTES, CONTROL_RUNS_KEPT,
    DELIVERIES_OUT_BYTES_MAX, WRITE_BYTES_MAX, WRITE_PIECES_MAX,
};

/// One piece of output. Pieces are sent whole and in order.
#[derive(Debug)]
pub enum Out {
    /// Control messages, work, and the header of the delivery that follows.
    Bytes(Vec<u8>),
    /// Stored frames, sent from the segment's pages without a copy.
    Frames(FrameSlice),
}

impl Out {
    /// The bytes to send.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Frames(frames) => frames.as_ref(),
        }
    }
}

/// Output in order; control messages that follow each other share a buffer.
#[derive(Debug, Default)]
pub(crate) struct OutQueue {
    /// Each with its bytes of control messages.
    sealed: VecDeque<(Out, usize)>,
    /// Control messages behind everything sealed.
    gathering: Vec<u8>,
    /// Bytes of work among them.
    gathering_work: usize,
    bytes: usize,
    control_bytes: usize,
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
    /// Everything here but stored frames, and what was taken and not given back.
    account: Account,
}

impl OutQueue {
    /// An empty queue that borrows of `budget`.
    pub(crate) fn new(budget: OutBudget) -> Self {
        Self {
            account: Account::new(budget),
            ..Self::default()
        }
    }

    /// Bytes waiting.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is room for a delivery.
    pub(crate) const fn takes_delivery(&self) -> bool {
        self.bytes < DELIVERIES_OUT_BYTES_MAX && !self.account.is_overdrawn()
    }

    /// Bytes of work there is memory for: those wanted, or what this session may keep anyway.
    pub(crate) fn work_room(&mut self, wanted_bytes: usize) -> usize {
        if self.account.covers(wanted_bytes) {
            wanted_bytes
        } else {
            self.account.left_bytes()
        }
    }

    /// Gives up the room for work that was not made.
    pub(crate) fn settle_room(&mut self) {
        self.account.settle();
    }

    /// Whether so much control output waits that what could add to it has to.
    pub(crate) const fn is_congested(&self) -> bool {
        self.control_bytes >= CONTROL_OUT_BYTES_MAX || self.account.is_overdrawn()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends what `encode` writes.
    pub(crate) fn control(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.gathering.len() >= CONTROL_RUN_BYTES {
            self.seal();
        }
        let before = self.gathering.len();
        encode(&mut self.gathering);
        let added = self.gathering.len() - before;
        self.bytes += added;
        self.control_bytes += added;
        self.account.add(added);
    }

    /// Appends work that `encode` writes: like control output, but it is a delivery, whose room is
    /// looked at before.
    pub(crate) fn work(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let before = self.control_bytes;
        self.control(encode);
        self.gathering_work += self.control_bytes - before;
        self.control_bytes = before;
    }

    /// Appends `frames`, whose header was the last control output.
    pub(crate) fn frames(&mut self, frames: FrameSlice) {
        self.seal();
        self.bytes += frames.as_ref().len();
        self.sealed.push_back((Out::Frames(frames), 0));
    }

    fn seal(&mut self) {
        if !self.gathering.is_empty() {
            let next = self.spare.pop().unwrap_or_default();
            self.spare_bytes -= next.capacity();
            let full = std::mem::replace(&mut self.gathering, next);
            let control = full.len() - std::mem::take(&mut self.gathering_work);
            self.sealed.push_back((Out::Bytes(full), control));
        }
    }

    /// Takes the first piece.
    pub(crate) fn pop(&mut self) -> Option<Out> {
        if self.sealed.is_empty() {
            self.seal();
        }
        let (out, control) = self.sealed.pop_front()?;
        self.bytes -= out.as_bytes().len();
        self.control_bytes -= control;
        Some(out)
    }

    /// Takes back the buffer of a piece that was sent.
    pub(crate) fn recycle(&mut self, out: Out) {
        let Out::Bytes(mut bytes) = out else {
            return;
        };
        self.account.subtract(bytes.len());
        let kept_bytes = self.spare_bytes + bytes.capacity();
        if kept_bytes <= CONTROL_BYTES_KEPT && self.spare.len() < CONTROL_RUNS_KEPT {
            bytes.clear();
            self.spare.push(bytes);
            self.spare_bytes = kept_bytes;
        }
    }

    /// Frees what is kept for reuse.
    pub(crate) fn shrink(&mut self) {
        self.spare = Vec::new();
        self.spare_bytes = 0;
        if self.gathering.is_empty() {
            self.gathering = Vec::new();
        }
        if self.sealed.is_empty() {
            self.sealed = VecDeque::new();
        }
    }
}

/// A piece of which the first `sent` bytes are with the kernel.
#[derive(Debug)]
pub(crate) struct Piece {
    out: Out,
    sent: usize,
}

impl Piece {
    /// What is still to be sent.
    pub(crate) fn unsent(&self) -> &[u8] {
        self.out.as_bytes().get(self.sent..).unwrap_or_default()
    }
}

/// The pieces of one vectored write.
#[derive(Debug, Default)]
pub(crate) struct OutputBatch {
    pieces: Vec<Piece>,
    bytes: usize,
}

impl OutputBatch {
    /// The pieces that still have bytes to send.
    #[cfg(test)]
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// What is still to be sent, as a vectored write takes it.
    pub(crate) fn slices<'s, 'b: 's>(
        &'b self,
        slices: &'s mut [IoSlice<'b>; WRITE_PIECES_MAX],
    ) -> &'s [IoSlice<'b>] {
        let mut used = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece.unsent());
            used += 1;
        }
        slices.get(..used).unwrap_or_default()
    }

    /// Bytes that are still to be sent.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether another piece may join: a bounded number, and no more bytes than one write takes.
    pub(crate) const fn takes_more(&self) -> bool {
        self.pieces.len() < WRITE_PIECES_MAX && self.bytes < WRITE_BYTES_MAX
    }

    pub(crate) fn push(&mut self, out: Out) {
        self.bytes += out.as_bytes().len();
        self.pieces.push(Piece { out, sent: 0 });
    }

    /// The pieces, for a write that takes ownership of them.
    pub(crate) fn take_pieces(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }

    /// Puts back what [`Self::take_pieces`] took.
    pub(crate) fn restore_pieces(&mut self, pieces: Vec<Piece>) {
        self.pieces = pieces;
    }

    /// Counts `count` more bytes as sent and hands each piece now sent whole to `done`.
    pub(crate) fn sent(&mut self, count: usize, mut done: impl FnMut(Out)) {
        let mut left = count.min(self.bytes);
        self.bytes -= left;
        let mut whole = 0;
        for piece in &mut self.pieces {
            let unsent = piece.unsent().len();
            if left < unsent {
                piece.sent += left;
                break;
            }
            left -= unsent;
            whole += 1;
        }
        for piece in self.pieces.drain(..whole) {
            done(piece.out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut OutQueue) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(out) = queue.pop() {
            all.extend_from_slice(out.as_bytes());
            queue.recycle(out);
        }
        all
    }

    #[test]
    fn control_output_shares_buffers_and_keeps_its_order() {
        let mut queue = OutQueue::default();
        let mut expected = Vec::new();
        for number in 0..10_000u32 {
            queue.control(|out| out.extend_from_slice(&number.to_le_bytes()));
            expected.extend_from_slice(&number.to_le_bytes());
        }
        assert_eq!(queue.bytes(), 40_000);
        assert_eq!(queue.sealed.len(), 2);
        assert_eq!(drain(&mut queue), expected);
        assert!(queue.is_empty());
        assert!(!queue.spare.is_empty(), "their buffers are kept");
        queue.shrink();
        assert_eq!(queue.spare.capacity(), 0);
    }

    #[test]
    fn a_partial_write_leaves_the_rest() {
        let mut batch = OutputBatch::default();
        for piece in [&b"abc"[..], b"defg", b"hi"] {
            batch.push(Out::Bytes(piece.to_vec()));
        }
        let mut done = 0;
        batch.sent(5, |_| done += 1);
        assert_eq!(done, 1);
        assert_eq!(batch.pieces()[0].unsent(), b"fg");
        batch.sent(4, |_| done += 1);
        assert_eq!(done, 3);
        assert!(batch.is_empty() && batch.pieces().is_empty());
    }

    #[test]
    fn a_batch_is_bounded_by_pieces_and_bytes() {
        let mut batch = OutputBatch::default();
        for _ in 0..WRITE_PIECES_MAX {
            assert!(batch.takes_more());
            batch.push(Out::Bytes(vec![0]));
        }
        assert!(!batch.takes_more());
        let mut batch = OutputBatch::default();
        batch.push(Out::Bytes(vec![0; WRITE_BYTES_MAX]));
        assert!(!batch.takes_more());
    }
}
