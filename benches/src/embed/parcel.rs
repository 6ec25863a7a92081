//! Messages of 64 bytes between threads: which one it is, and a check of all its bits.

/// Bytes of a parcel.
pub const PARCEL_BYTES: usize = 64;
/// Odd, so that no change of a word is multiplied away.
const FACTORS: [u64; 7] = [
    0x9E37_79B9_7F4A_7C15,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
    0xD6E8_FEB8_6659_FD93,
    0xA076_1D64_78BD_642F,
];

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parcel(pub [u8; PARCEL_BYTES]);

impl Parcel {
    /// Message `sequence` of `producer`. Costs about 3 ns.
    #[inline]
    #[must_use]
    pub fn new(producer: u64, sequence: u64) -> Self {
        let words = [producer, sequence, 2, 3, 4, 5, 6];
        let mut bytes = [0; PARCEL_BYTES];
        let (places, _) = bytes.as_chunks_mut::<8>();
        for (place, word) in places.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        places[7] = check(&words).to_le_bytes();
        Self(bytes)
    }
}

/// Producer and sequence of what is in `bytes`; `None` if it is no parcel or a bit of it changed.
#[inline]
pub(super) fn read(bytes: &[u8]) -> Option<(u64, u64)> {
    let bytes: &[u8; PARCEL_BYTES] = bytes.try_into().ok()?;
    let (places, _) = bytes.as_chunks::<8>();
    let mut words = [0; 7];
    for (word, place) in words.iter_mut().zip(places) {
        *word = u64::from_le_bytes(*place);
    }
    let [producer, sequence, ..] = words;
    (u64::from_le_bytes(places[7]) == check(&words)).then_some((producer, sequence))
}

/// Changes with each single bit, and costs seven multiplications that don't wait for one another.
#[inline]
fn check(words: &[u64; 7]) -> u64 {
    let products = words.iter().zip(FACTORS);
    products.fold(0, |sum, (word, factor)| {
        sum.wrapping_add(word.wrapping_mul(factor))
    })
}

/// What the only receiver of a hop got: each producer's messages come in order, so a count is enough.
#[derive(Debug)]
pub(super) struct Check {
    next: Vec<u64>,
    delivered: crate::load::Delivered,
}

impl Check {
    /// For so many producers.
    #[must_use]
    pub(super) fn new(producers: usize) -> Self {
        Self {
            next: vec![0; producers],
            delivered: crate::load::Delivered::default(),
        }
    }

    /// Takes what came.
    #[inline]
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.delivered.received += 1;
        let parcel = read(bytes);
        let next = parcel.and_then(|(producer, _)| self.next.get_mut(producer as usize));
        let (Some((_, sequence)), Some(next)) = (parcel, next) else {
            self.delivered.damaged += 1;
            return;
        };
        if sequence == *next {
            *next += 1;
        } else if sequence > *next {
            self.delivered.lost += sequence - *next;
            *next = sequence + 1;
        } else {
            self.delivered.reordered += 1;
        }
    }

    /// Messages that came.
    #[must_use]
    pub(super) const fn received(&self) -> u64 {
        self.delivered.received
    }

    /// What it comes to when each producer sent so many.
    #[must_use]
    pub(super) fn settle(mut self, each: u64) -> crate::load::Delivered {
        let missing = self.next.iter().map(|next| each.saturating_sub(*next));
        self.delivered.lost += missing.sum::<u64>();
        self.delivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let parcel = Parcel::new(1, 77);
        assert_eq!(read(&parcel.0), Some((1, 77)));
        for bit in 0..PARCEL_BYTES * 8 {
            let mut bytes = parcel.0;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn what_is_lost_doubled_or_damaged_is_counted() {
        let mut check = Check::new(2);
        for (producer, sequence) in [(0, 0), (1, 0), (0, 1), (0, 4), (0, 3)] {
            check.take(&Parcel::new(producer, sequence).0);
        }
        check.take(&[0; 3]);
        let found = check.settle(6);
        assert_eq!((found.received, found.damaged), (6, 1));
        assert_eq!((found.lost, found.reordered), (2 + 1 + 5, 1));
    }
}
