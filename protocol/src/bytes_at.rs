//! Little-endian numbers at fixed places of a fixed-size header.
//!
//! The place and the size of the header are constants, so a place outside does not compile and
//! nothing is indexed at run time.

/// The `N` bytes from `AT` of a header of `LEN` bytes.
const fn part<const AT: usize, const N: usize, const LEN: usize>(header: &[u8; LEN]) -> [u8; N] {
    const { assert!(AT + N <= LEN, "the field lies inside the header") };
    let (_, rest) = header.split_at(AT);
    match rest.first_chunk::<N>() {
        Some(bytes) => *bytes,
        None => [0; N],
    }
}

/// The byte at `AT`.
pub(crate) const fn u8_at<const AT: usize, const LEN: usize>(header: &[u8; LEN]) -> u8 {
    u8::from_le_bytes(part::<AT, 1, LEN>(header))
}

/// The 16-bit number at `AT`.
pub(crate) const fn u16_at<const AT: usize, const LEN: usize>(header: &[u8; LEN]) -> u16 {
    u16::from_le_bytes(part::<AT, 2, LEN>(header))
}

/// The 32-bit number at `AT`.
pub(crate) const fn u32_at<const AT: usize, const LEN: usize>(header: &[u8; LEN]) -> u32 {
    u32::from_le_bytes(part::<AT, 4, LEN>(header))
}

/// The 64-bit number at `AT`.
pub(crate) const fn u64_at<const AT: usize, const LEN: usize>(header: &[u8; LEN]) -> u64 {
    u64::from_le_bytes(part::<AT, 8, LEN>(header))
}

/// Puts the bytes of a field at `AT`.
pub(crate) fn put<const AT: usize, const N: usize, const LEN: usize>(
    header: &mut [u8; LEN],
    bytes: [u8; N],
) {
    const { assert!(AT + N <= LEN, "the field lies inside the header") };
    if let Some(place) = header.get_mut(AT..AT + N) {
        place.copy_from_slice(&bytes);
    }
}
