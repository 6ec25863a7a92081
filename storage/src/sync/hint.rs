//! Hints to the processor, which change no result.

/// How far behind its start a frame's body is asked for: the two lines of 64 bytes behind the header's. Those
/// further on come by themselves to whoever reads on.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const BODY_AHEAD_BYTES: [usize; 2] = [64, 128];

/// How far behind a frame the lines are that are written soon: nearer ones come late, and further on another publisher
/// is more often at them.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const WRITE_AHEAD_BYTES: [usize; 2] = [256, 320];

/// Says that the body of `frame` is read soon: it comes while the header is looked at, from the processor
/// of its publisher where it was just written. What lies behind the frame is left alone: that is being written.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub(crate) fn read_soon(frame: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for ahead_bytes in BODY_AHEAD_BYTES {
        let Some(line) = frame.get(ahead_bytes) else {
            return;
        };
        // SAFETY: every processor of this kind has the instruction, and it changes no memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast()) };
    }
}

/// Says that what lies behind `end`, where a claim ends, is written soon. Its lines come, to be written, while what was
/// claimed is filled: else the claim behind waits for them, as it does for all stores before it.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub(crate) fn write_behind_soon(end: *const u8) {
    for ahead_bytes in WRITE_AHEAD_BYTES {
        let line = end.wrapping_add(ahead_bytes);
        // SAFETY: the instruction changes no memory, and does nothing where there is none at the address; a
        // processor of this kind that has no such hint takes it for none.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
        }
    }
}

/// Nothing: there is no such hint for this processor.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
pub(crate) fn read_soon(_frame: &[u8]) {}

/// Nothing: there is no such hint for this processor.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
pub(crate) fn write_behind_soon(_end: *const u8) {}
