//! What is lent to the kernel: buffers through a ring, and a ring's socket to be told when it is readable.
//! The only unsafe code of this crate.
//!
//! The ring's operation owns the value from submission to completion, so the memory stays allocated
//! and nobody else sees it; what is left to show is that its address does not change when the value
//! is moved, and that the kernel may read or write as many bytes as it is told.

use std::io;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_uring::buf::{IoBuf, IoBufMut};
use tokio_uring::net::TcpStream;

use crate::buffers::InputBuffer;
use crate::output::Piece;

/// `stream`, and the kernel telling when there is something to read. Call on the thread of a runtime.
///
/// # Errors
///
/// What the kernel refused to watch it with.
pub(crate) fn watched(stream: TcpStream) -> io::Result<AsyncFd<TcpStream>> {
    // SAFETY: a stream has the same descriptor, and keeps it open, for as long as it lives, and nobody
    // gets it out of there or exclusively.
    let watched = unsafe { AsyncFd::register_with_interest(stream, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

// SAFETY: an `InputBuffer` keeps its bytes in a `Vec` whose length and capacity do not change while
// the operation owns it, so they stay where they are when the value moves.
unsafe impl IoBuf for InputBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.free_ref().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.free_ref().len()
    }

    fn bytes_total(&self) -> usize {
        self.free_ref().len()
    }
}

// SAFETY: the same bytes as above, derived from an exclusive borrow.
unsafe impl IoBufMut for InputBuffer {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.free().as_mut_ptr()
    }

    /// Nothing to note: all bytes are initialised from the start, and the reader counts what came.
    unsafe fn set_init(&mut self, _pos: usize) {}
}

// SAFETY: a `Piece` is bytes on the heap or a pinned range of a mapped segment. Neither moves with
// the value, and neither changes while it is owned: a committed frame is never written again.
unsafe impl IoBuf for Piece {
    fn stable_ptr(&self) -> *const u8 {
        self.unsent().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.unsent().len()
    }

    fn bytes_total(&self) -> usize {
        self.unsent().len()
    }
}
