//! What was promised of each record of the queue `jobs`, and what must therefore be found.

use std::collections::BTreeMap;

/// How far one record has come, as its user was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Publishing it came to no known end.
    Perhaps,
    /// It was published.
    Published,
    /// An ack was sent and not confirmed.
    AckSent,
    /// An ack was confirmed.
    Acked,
    /// It was rejected, unconfirmed: here or a dead letter.
    RejectSent,
    /// It was seen as a dead letter.
    Dead,
    /// It was sent back, perhaps: here or a dead letter.
    RedriveSent,
    /// Its queue was asked to forget it, without an answer.
    PurgeSent,
    /// Its queue was deleted, or forgot it.
    Purged,
}

/// Records by number.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) records: BTreeMap<u64, Told>,
    /// Where the cursor may stand: what was confirmed last, and all that was sent since.
    pub(super) cursor: Vec<u64>,
}

impl Ledger {
    pub(super) fn tell(&mut self, number: u64, told: Told) {
        self.records.insert(number, told);
    }

    pub(super) fn tell_all(&mut self, from: Told, to: Told) {
        for told in self.records.values_mut().filter(|told| **told == from) {
            *told = to;
        }
    }

    /// Compares with what was found: how often each record, in the queue and among its dead letters.
    pub(super) fn check(&self, here: &BTreeMap<u64, u32>, dead: &BTreeMap<u64, u32>) {
        for number in here.keys().chain(dead.keys()) {
            assert!(self.records.contains_key(number), "{number} was invented");
        }
        for (number, told) in &self.records {
            let found = (
                here.get(number).copied().unwrap_or(0),
                dead.get(number).copied().unwrap_or(0),
            );
            let right = match told {
                Told::Published => found == (1, 0),
                Told::Acked | Told::Purged => found == (0, 0),
                Told::Perhaps | Told::AckSent | Told::PurgeSent => found.0 <= 1 && found.1 == 0,
                Told::RejectSent | Told::RedriveSent => found.0 + found.1 == 1,
                Told::Dead => found == (0, 1),
            };
            assert!(
                right,
                "record {number} is {told:?}, and found {found:?} times"
            );
        }
    }
}
