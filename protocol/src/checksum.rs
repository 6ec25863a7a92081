//! CRC-32C (Castagnoli), the one checksum of disk and wire.

use crc_fast::{CrcAlgorithm, Digest};

/// The CRC-32C of `bytes`.
///
/// ```
/// assert_eq!(millstream_protocol::checksum::crc32c(b"123456789"), 0xe306_9283);
/// ```
#[inline]
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The CRC-32C of what `crc` covers followed by `bytes`.
///
/// ```
/// use millstream_protocol::checksum::{crc32c, crc32c_append};
/// assert_eq!(crc32c_append(crc32c(b"1234"), b"56789"), crc32c(b"123456789"));
/// ```
#[inline]
#[must_use]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    low_half(digest.finalize())
}

/// The 32 bits a 32-bit algorithm leaves in its 64-bit state.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the upper half of a CRC-32 is zero"
)]
const fn low_half(crc: u64) -> u32 {
    crc as u32
}
