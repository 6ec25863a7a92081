//! The ledger of a run: of each message that was sent, whether it came, once and in order.

use super::Stamp;

/// What came of the messages that were acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Delivered {
    /// Messages received, doubled ones included.
    pub received: u64,
    /// Acknowledged and never received.
    pub lost: u64,
    /// Received again.
    pub doubled: u64,
    /// Received behind a later one of the same publisher.
    pub reordered: u64,
    /// Not as they were sent, or of no publisher of the run.
    pub damaged: u64,
    /// Acknowledged, and let go by a topic that keeps only the newest: nobody looked at them.
    #[serde(default)]
    pub let_go: u64,
}

impl Delivered {
    /// Whether all came, once each, in order and as they were sent.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.reordered == 0 && self.damaged == 0
    }

    /// The same where the broker says that it let so many go: they are not lost, and no others are missing.
    #[must_use]
    pub const fn without(self, let_go: u64) -> Self {
        Self {
            lost: self.lost.abs_diff(let_go),
            let_go,
            ..self
        }
    }

    /// Adds another topic's or receiver's.
    pub const fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
        self.let_go += other.let_go;
    }
}

/// What was seen of one publisher's messages: a bit each.
#[derive(Debug, Default, Clone)]
struct Seen {
    bits: Vec<u64>,
    /// Sequence behind the highest seen.
    next: u64,
}

impl Seen {
    /// Whether this is the first time.
    fn take(&mut self, sequence: u64) -> bool {
        let word = usize::try_from(sequence / 64).unwrap_or(usize::MAX);
        if word >= self.bits.len() {
            self.bits.resize(word + 1 + word / 2, 0);
        }
        let bit = 1 << (sequence % 64);
        let first = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        first
    }

    fn count(&self) -> u64 {
        self.bits
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }
}

/// What one receiver, or all of them put together, got.
#[derive(Debug, Clone)]
pub struct Ledger {
    seen: Vec<Seen>,
    delivered: Delivered,
    /// Sequences above this are taken for damage: the ledger's memory is bounded.
    sequence_max: u64,
}

impl Ledger {
    /// A ledger of `producers` publishers that send at most `messages_max` each.
    #[must_use]
    pub fn new(producers: usize, messages_max: u64) -> Self {
        Self {
            seen: vec![Seen::default(); producers],
            delivered: Delivered::default(),
            sequence_max: messages_max,
        }
    }

    /// Takes a message in and gives its stamp, unless it is damaged.
    #[inline]
    pub fn take(&mut self, body: &[u8]) -> Option<Stamp> {
        let stamp = Stamp::read(body);
        let known = self.note(stamp.map(|stamp| (u64::from(stamp.producer), stamp.sequence)));
        stamp.filter(|_| known)
    }

    /// Takes in a message of this producer and sequence, or one that is damaged; whether it is one of
    /// the run's.
    #[inline]
    pub fn note(&mut self, message: Option<(u64, u64)>) -> bool {
        self.delivered.received += 1;
        let message = message.filter(|(_, sequence)| *sequence < self.sequence_max);
        let seen = message.and_then(|(producer, _)| self.seen.get_mut(producer as usize));
        let (Some((_, sequence)), Some(seen)) = (message, seen) else {
            self.delivered.damaged += 1;
            return false;
        };
        if !seen.take(sequence) {
            self.delivered.doubled += 1;
        } else if sequence < seen.next {
            self.delivered.reordered += 1;
        } else {
            seen.next = sequence + 1;
        }
        true
    }

    /// Adds what another receiver of the same run got; what both got is doubled. Between receivers
    /// there is no order.
    pub fn merge(&mut self, other: &Self) {
        self.delivered.received += other.delivered.received;
        self.delivered.doubled += other.delivered.doubled;
        self.delivered.reordered += other.delivered.reordered;
        self.delivered.damaged += other.delivered.damaged;
        for (mine, theirs) in self.seen.iter_mut().zip(&other.seen) {
            if mine.bits.len() < theirs.bits.len() {
                mine.bits.resize(theirs.bits.len(), 0);
            }
            for (mine, theirs) in mine.bits.iter_mut().zip(&theirs.bits) {
                self.delivered.doubled += u64::from((*mine & theirs).count_ones());
                *mine |= theirs;
            }
        }
    }

    /// Messages received, doubled ones included.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.delivered.received
    }

    /// What it comes to when each publisher had so many acknowledged, those from 0 on.
    #[must_use]
    pub fn settle(&self, acknowledged: &[u64]) -> Delivered {
        let lost = self.seen.iter().zip(acknowledged).map(|(seen, sent)| {
            let beyond = count_from(&seen.bits, *sent);
            sent.saturating_sub(seen.count() - beyond)
        });
        Delivered {
            lost: lost.sum(),
            ..self.delivered
        }
    }
}

/// Bits set from `first` on: messages that came though they were never acknowledged.
fn count_from(bits: &[u64], first: u64) -> u64 {
    let word = usize::try_from(first / 64).unwrap_or(usize::MAX);
    let Some((edge, rest)) = bits.get(word..).and_then(<[u64]>::split_first) else {
        return 0;
    };
    let above = edge >> (first % 64);
    let rest = rest.iter().map(|word| u64::from(word.count_ones()));
    u64::from(above.count_ones()) + rest.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(producer: u32, sequence: u64) -> [u8; 32] {
        let mut body = [0; 32];
        let stamp = Stamp {
            producer,
            sequence,
            due_ns: 0,
        };
        stamp.write(&mut body);
        body
    }

    #[test]
    fn lost_doubled_reordered_and_damaged_are_told_apart() {
        let mut ledger = Ledger::new(2, 1000);
        for sequence in [0, 1, 3, 2, 2, 5] {
            ledger.take(&message(0, sequence));
        }
        ledger.take(&message(7, 0));
        let mut bad = message(1, 0);
        bad[20] ^= 1;
        ledger.take(&bad);
        let found = ledger.settle(&[5, 1]);
        let wanted = Delivered {
            received: 8,
            lost: 2,
            doubled: 1,
            reordered: 1,
            damaged: 2,
            let_go: 0,
        };
        assert_eq!(
            found, wanted,
            "4 and the other's 0 were lost; 5 was never acknowledged"
        );
    }

    #[test]
    fn what_was_let_go_is_what_is_missing_and_no_more() {
        let mut ledger = Ledger::new(1, 1000);
        for sequence in 60..100 {
            ledger.take(&message(0, sequence));
        }
        let found = ledger.settle(&[100]);
        assert_eq!(found.lost, 60);
        let whole = found.without(60);
        assert_eq!((whole.lost, whole.let_go, whole.is_whole()), (0, 60, true));
        // One that is missing behind what was let go, and one that came though it was.
        assert_eq!(found.without(59).lost, 1);
        assert_eq!(found.without(61).lost, 1);
    }

    #[test]
    fn what_two_receivers_got_is_doubled() {
        let (mut one, mut other) = (Ledger::new(1, 1000), Ledger::new(1, 1000));
        for sequence in 0..100 {
            one.take(&message(0, sequence));
        }
        for sequence in 99..200 {
            other.take(&message(0, sequence));
        }
        one.merge(&other);
        let found = one.settle(&[200]);
        assert_eq!((found.received, found.lost, found.doubled), (201, 0, 1));
    }
}
