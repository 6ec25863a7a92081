//! What each message says of itself, so that whoever receives it can check all of it.
//!
//! ```text
//! 0 u32 checksum of the next 20   4 u32 producer   8 u64 sequence   16 u64 due, in ns of the run   24 … filler
//! ```
//! The checksum is made of the three numbers while they are in registers: one over bytes that were just
//! stored waits for the stores. The filler follows from the sequence, so that it is compared byte by byte:
//! that costs less than a checksum, and notices more.

/// Bytes of a stamp; no message of a load is shorter.
pub const STAMP_BYTES: usize = 24;

/// After so many bytes the filler begins again; a prime, so that no copy of a power of two fits.
const PERIOD: usize = 251;
/// Bytes compared at once: whole periods.
const PIECE_BYTES: usize = 256 * PERIOD;
/// A piece of filler from each of its places on.
static FILLER: [u8; PIECE_BYTES + PERIOD] = filler();

const fn filler() -> [u8; PIECE_BYTES + PERIOD] {
    let mut bytes = [0; PIECE_BYTES + PERIOD];
    let mut place = 0;
    while place < bytes.len() {
        bytes[place] = (place % PERIOD) as u8;
        place += 1;
    }
    bytes
}

/// Who sent a message, which one it is, and when it was meant to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the publisher in its run.
    pub producer: u32,
    /// Rises by one with each message of the publisher.
    pub sequence: u64,
    /// Nanoseconds since the run began.
    pub due_ns: u64,
}

impl Stamp {
    /// Writes the stamp over the start of `body`, and filler over the rest.
    ///
    /// # Panics
    ///
    /// If `body` is shorter than [`STAMP_BYTES`].
    #[inline]
    pub fn write(&self, body: &mut [u8]) {
        let (head, rest) = body
            .split_first_chunk_mut::<STAMP_BYTES>()
            .expect("a body has room for its stamp");
        head[..4].copy_from_slice(&self.checksum().to_le_bytes());
        head[4..8].copy_from_slice(&self.producer.to_le_bytes());
        head[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        head[16..24].copy_from_slice(&self.due_ns.to_le_bytes());
        let filler = self.filler();
        for piece in rest.chunks_mut(PIECE_BYTES) {
            piece.copy_from_slice(&filler[..piece.len()]);
        }
    }

    /// The stamp of `body`; `None` where a bit of it is not as it was sent.
    #[inline]
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let (head, rest) = body.split_first_chunk::<STAMP_BYTES>()?;
        let checksum = u32::from_le_bytes(head[..4].try_into().ok()?);
        let stamp = Self {
            producer: u32::from_le_bytes(head[4..8].try_into().ok()?),
            sequence: u64::from_le_bytes(head[8..16].try_into().ok()?),
            due_ns: u64::from_le_bytes(head[16..24].try_into().ok()?),
        };
        if stamp.checksum() != checksum {
            return None;
        }
        let filler = stamp.filler();
        let whole = rest
            .chunks(PIECE_BYTES)
            .all(|piece| piece == &filler[..piece.len()]);
        whole.then_some(stamp)
    }

    /// The numbers times odd constants, together, and folded to 32 bits. Of zeros it is not zero.
    #[inline]
    fn checksum(&self) -> u32 {
        let sum = u64::from(self.producer).wrapping_mul(0xD6E8_FEB8_6659_FD93)
            ^ self.sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ self.due_ns.wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
        !((sum ^ (sum >> 32)) as u32)
    }

    /// What follows the stamp, up to a piece; longer messages have it again.
    #[inline]
    fn filler(&self) -> &'static [u8] {
        let place = (self.sequence + u64::from(self.producer)) % PERIOD as u64;
        &FILLER[place as usize..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_written_and_any_flipped_bit_is_noticed() {
        let stamp = Stamp {
            producer: 3,
            sequence: 1 << 40,
            due_ns: 77,
        };
        let mut body = [0xA5; 40];
        stamp.write(&mut body);
        assert_eq!(Stamp::read(&body), Some(stamp));
        for bit in 0..body.len() * 8 {
            body[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::read(&body), None, "bit {bit}");
            body[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Stamp::read(&body[..STAMP_BYTES - 1]), None);
        assert_eq!(Stamp::read(&[0; STAMP_BYTES]), None, "a page that was lost");
    }

    #[test]
    fn long_messages_are_compared_to_their_ends_and_no_two_are_alike() {
        let stamp = |sequence| Stamp {
            producer: 3,
            sequence,
            due_ns: 77,
        };
        let written = |sequence| {
            let mut body = vec![0; 3 * PIECE_BYTES + 1000];
            stamp(sequence).write(&mut body);
            body
        };
        let (mut first, second) = (written(5), written(6));
        assert_eq!(Stamp::read(&first), Some(stamp(5)));
        for at in [
            STAMP_BYTES,
            PIECE_BYTES,
            2 * PIECE_BYTES + 500,
            first.len() - 1,
        ] {
            first[at] ^= 1;
            assert_eq!(Stamp::read(&first), None, "byte {at}");
            first[at] ^= 1;
        }
        let spliced = [&first[..STAMP_BYTES + 8], &second[STAMP_BYTES + 8..]].concat();
        assert_eq!(Stamp::read(&spliced), None);
    }
}
