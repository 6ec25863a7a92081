//! What one log must hold, kept as plainly as can be: offsets and messages.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::OnceLock;

use super::disk::End;

/// What bodies are cut from.
const PATTERN_BYTES: usize = 4 << 20;

/// One message: no two of a life have the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) number: u64,
    pub(super) body_bytes: usize,
}

impl Message {
    /// Its number, then bytes that depend on it.
    pub(super) fn body(self) -> Vec<u8> {
        let mut body = self.number.to_le_bytes().to_vec();
        body.truncate(self.body_bytes);
        body.extend_from_slice(self.rest());
        body
    }

    fn rest(self) -> &'static [u8] {
        static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
        let pattern = PATTERN.get_or_init(|| {
            (0..PATTERN_BYTES as u64 / 8)
                .flat_map(|at| super::dice::mix(at).to_le_bytes())
                .collect()
        });
        let start = self.number as usize * 8191 % (PATTERN_BYTES / 2);
        &pattern[start..start + self.body_bytes.saturating_sub(8)]
    }

    /// Whether `body` is this message's, every byte of it.
    pub(super) fn is(self, body: &[u8]) -> bool {
        let number = self.number.to_le_bytes();
        let head = number.len().min(self.body_bytes);
        body.len() == self.body_bytes
            && body[..head] == number[..head]
            && body[head..] == *self.rest()
    }
}

/// One log's records.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Every offset that was given to a message, in any run.
    given: BTreeMap<u64, u64>,
    /// What is committed and may be there.
    present: BTreeMap<u64, Message>,
    /// Claims that are neither committed nor given up: first offsets.
    open: BTreeSet<u64>,
    /// All below was synced.
    synced: u64,
    /// Nothing at or behind this offset was asked to be trimmed.
    trimmed_to: u64,
}

impl Model {
    /// Offsets from `base` on were claimed for `messages`.
    pub(super) fn claim(&mut self, base: u64, messages: &[Message]) {
        for (offset, message) in (base..).zip(messages) {
            let before = self.given.insert(offset, message.number);
            assert_eq!(before, None, "offset {offset} means two messages");
        }
        self.open.insert(base);
    }

    pub(super) fn commit(&mut self, base: u64, messages: &[Message]) {
        self.open.remove(&base);
        self.present.extend((base..).zip(messages.iter().copied()));
    }

    pub(super) fn abort(&mut self, base: u64) {
        self.open.remove(&base);
    }

    /// The log says that all below `offset` is synced.
    pub(super) fn note_synced(&mut self, offset: u64) {
        assert!(offset >= self.synced, "synced went back");
        assert!(offset <= self.prefix_end(), "synced behind a hole");
        self.synced = offset;
    }

    /// Behind the last record that is synced; 0 without one.
    /// Also where it was asked to be trimmed, since nobody knows whether it is gone.
    pub(super) fn synced_end(&self) -> u64 {
        let last = self.present.range(..self.synced).next_back();
        let kept = last.filter(|(offset, _)| **offset >= self.trimmed_to);
        kept.map_or(0, |(offset, _)| offset + 1)
    }

    /// Segments whose records are all below `offset` may go.
    pub(super) fn trim(&mut self, offset: u64) {
        self.trimmed_to = self.trimmed_to.max(offset);
    }

    /// Records from `first` on are kept.
    pub(super) fn trimmed(&mut self, first: u64) {
        if let Some((offset, _)) = self.present.range(..first).next_back() {
            assert!(
                *offset < self.trimmed_to,
                "record {offset} was trimmed unasked"
            );
        }
        self.present = self.present.split_off(&first);
    }

    /// Where the unbroken prefix ends at the latest.
    pub(super) fn prefix_end(&self) -> u64 {
        self.open.first().copied().unwrap_or(u64::MAX)
    }

    /// What a reader is to be given that may see all below `end`.
    pub(super) fn check_read(&self, found: &[(u64, Message)], end: u64) {
        let end = end.min(self.prefix_end());
        let expected = self
            .present
            .range(..end)
            .map(|(offset, message)| (*offset, *message));
        assert!(
            expected.eq(found.iter().copied()),
            "a reader got something else"
        );
    }

    /// What a reader is to be given below `end` that was told of `damaged` offsets.
    pub(super) fn check_read_but(
        &self,
        found: &[(u64, Message)],
        end: u64,
        damaged: &[Range<u64>],
    ) {
        let end = end.min(self.prefix_end());
        let told = |offset: &u64| damaged.iter().any(|range| range.contains(offset));
        let expected = self
            .present
            .range(..end)
            .filter(|(offset, _)| !told(offset));
        let expected = expected.map(|(offset, message)| (*offset, *message));
        assert!(
            expected.eq(found.iter().copied()),
            "a reader got something else"
        );
    }

    /// Records rotted on disk, as readers are told.
    pub(super) fn rotted(&mut self, offsets: Range<u64>) {
        self.present.retain(|offset, _| !offsets.contains(offset));
    }

    /// Records that may be there.
    pub(super) fn records(&self) -> u64 {
        self.present.len() as u64
    }

    /// Those of them that are synced.
    pub(super) fn synced_records(&self) -> u64 {
        self.present.range(..self.synced).count() as u64
    }

    /// The message that offset was given to.
    pub(super) fn message_at(&self, offset: u64) -> Message {
        let message = self.present.get(&offset);
        *message.unwrap_or_else(|| match self.given.get(&offset) {
            Some(_) => panic!("record {offset} was lost or given up, and came back"),
            None => panic!("record {offset} was invented"),
        })
    }

    /// The log was opened again, starts at `first` and holds `found`; takes that as what there is.
    pub(super) fn reopened(&mut self, end: End, first: u64, found: &[(u64, Message)]) {
        let needed_to = match end {
            End::Kill => self.prefix_end(),
            End::PowerLoss => self.synced,
        };
        let kept_to = found.last().map(|(offset, _)| offset + 1);
        assert!(
            kept_to.is_none_or(|end| end <= self.prefix_end()),
            "a record behind an open claim was kept"
        );
        if kept_to.is_some() {
            let unasked = self.present.range(self.trimmed_to..).next();
            assert!(
                unasked.is_none_or(|(offset, _)| *offset >= first),
                "trimmed unasked, or lost in the middle"
            );
        }
        // Where nothing is left, all that was asked for may have been trimmed.
        let lost_from = kept_to.unwrap_or(self.trimmed_to);
        if let Some((offset, _)) = self.present.range(lost_from..).next() {
            assert!(
                *offset >= needed_to,
                "record {offset} is lost, and all below {needed_to} was acknowledged"
            );
        }
        let end = kept_to.unwrap_or(first);
        let kept: BTreeMap<u64, Message> = self
            .present
            .range(first.min(end)..end)
            .map(|(offset, message)| (*offset, *message))
            .collect();
        let same = kept.iter().map(|(offset, message)| (*offset, *message));
        assert!(
            same.eq(found.iter().copied()),
            "what was lost is no suffix, or out of order"
        );
        self.present = kept;
        self.open.clear();
    }
}
