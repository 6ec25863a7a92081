//! What each message says of itself, so that whoever receives it can check all of it.
//!
//! ```text
//! 0 u32 crc32c of all behind it   4 u32 producer   8 u64 sequence   16 u64 due, in ns of the run   24 … filler
//! ```

use millstream_protocol::checksum::crc32c;

/// Bytes of a stamp; no message of a load is shorter.
pub const STAMP_BYTES: usize = 24;

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
    /// Writes the stamp over the start of `body`, whose rest stays as it is. Costs one checksum of it.
    ///
    /// # Panics
    ///
    /// If `body` is shorter than [`STAMP_BYTES`].
    #[inline]
    pub fn write(&self, body: &mut [u8]) {
        let (head, _) = body
            .split_first_chunk_mut::<STAMP_BYTES>()
            .expect("a body has room for its stamp");
        head[4..8].copy_from_slice(&self.producer.to_le_bytes());
        head[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        head[16..24].copy_from_slice(&self.due_ns.to_le_bytes());
        let crc = crc32c(&body[4..]);
        body[..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// The stamp of `body`; `None` where a bit of it is not as it was sent.
    #[inline]
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let (head, _) = body.split_first_chunk::<STAMP_BYTES>()?;
        let crc = u32::from_le_bytes(head[..4].try_into().ok()?);
        if crc32c(&body[4..]) != crc {
            return None;
        }
        Some(Self {
            producer: u32::from_le_bytes(head[4..8].try_into().ok()?),
            sequence: u64::from_le_bytes(head[8..16].try_into().ok()?),
            due_ns: u64::from_le_bytes(head[16..24].try_into().ok()?),
        })
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
    }
}
