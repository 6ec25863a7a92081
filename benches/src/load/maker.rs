//! Messages of one publisher, one behind the other, each with its stamp.

use super::{STAMP_BYTES, Stamp};

/// Bytes of the messages of a load: all alike, or random between two bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) smallest: usize,
    /// The same as the smallest where all are alike.
    pub(crate) largest: usize,
}

/// Makes messages of one publisher. What it makes together has one size.
pub(super) struct Maker {
    producer: u32,
    sequence: u64,
    sizes: Sizes,
    bytes: Vec<u8>,
    random: u64,
}

impl Maker {
    pub(super) fn new(number: usize, sizes: Sizes) -> Self {
        let producer = u32::try_from(number).expect("publishers are few");
        Self {
            producer,
            sequence: 0,
            sizes: Sizes {
                smallest: sizes.smallest.max(STAMP_BYTES),
                largest: sizes.largest.max(STAMP_BYTES),
            },
            bytes: Vec::new(),
            random: u64::from(producer).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    /// Sequence of the next message.
    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The next `count` messages and the bytes of each. The n-th of all was due at `due_ns(n)`.
    pub(super) fn make(&mut self, count: usize, due_ns: impl Fn(u64) -> u64) -> (&[u8], usize) {
        let message_bytes = self.next_size();
        let wanted = count * message_bytes;
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
        let bytes = &mut self.bytes[..wanted];
        for body in bytes.chunks_exact_mut(message_bytes) {
            let stamp = Stamp {
                producer: self.producer,
                sequence: self.sequence,
                due_ns: due_ns(self.sequence),
            };
            stamp.write(body);
            self.sequence += 1;
        }
        (bytes, message_bytes)
    }

    /// Each power of two is as likely as the next, so that there are small ones and large ones.
    fn next_size(&mut self) -> usize {
        let Sizes { smallest, largest } = self.sizes;
        if smallest >= largest {
            return smallest;
        }
        let octaves = u64::from((largest / smallest).ilog2()) + 1;
        let most = (smallest as u64) << (self.next_random() % octaves);
        let size = most + self.next_random() % most;
        usize::try_from(size).unwrap_or(largest).min(largest)
    }

    /// Xorshift: it is for variety, the same in each run.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_stamped_in_order_and_keep_within_their_sizes() {
        let sizes = Sizes {
            smallest: 24,
            largest: 5000,
        };
        let mut maker = Maker::new(2, sizes);
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..200 {
            let (bytes, message_bytes) = maker.make(3, |sequence| sequence * 10);
            assert!((24..=5000).contains(&message_bytes));
            seen.insert(message_bytes.ilog2());
            for (place, body) in bytes.chunks(message_bytes).enumerate() {
                let stamp = Stamp::read(body).unwrap();
                let sequence = round * 3 + place as u64;
                assert_eq!((stamp.producer, stamp.sequence), (2, sequence));
                assert_eq!(stamp.due_ns, sequence * 10);
            }
        }
        assert!(seen.len() >= 7, "sizes of all kinds: {seen:?}");
    }
}
