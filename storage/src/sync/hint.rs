//! Hints to the processor, which change no result.

/// How far behind its start a frame's body is asked for: in the two lines of 64 bytes behind the header's.
/// Those further on come by themselves to whoever reads on.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const BODY_AHEAD_BYTES: [usize; 2] = [64, 128];

/// Says that the body of `frame` is read soon: it comes while the header is looked at, from the processor
/// of its publisher where it was just written.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub(crate) fn read_soon(frame: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for ahead_bytes in BODY_AHEAD_BYTES {
        let line = frame.as_ptr().wrapping_add(ahead_bytes);
        // SAFETY: every processor of this kind has the instruction. It changes no memory, and where there
        // is none at the address it does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
}

/// Nothing: there is no such hint for this processor.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
pub(crate) fn read_soon(_frame: &[u8]) {}
