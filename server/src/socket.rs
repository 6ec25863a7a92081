//! The seam between a connection and the kernel: one connected stream of bytes.
//!
//! Buffers go in by value and come back with the result, because a ring's kernel side owns them
//! meanwhile; the readiness side only borrows them and could not tell the difference. All methods
//! take `&self`: one read and one write may be under way at once.

use std::io;
use std::net::Shutdown;
use std::task::Context;

use crate::buffers::{BufferPools, InputBuffer, Want};
use crate::output::OutputBatch;

/// A connected stream of bytes, TCP or Unix, on one I/O thread.
pub(crate) trait Socket: Sized + 'static {
    /// Takes a connected socket over. Call on the I/O thread that will use it.
    fn adopt(socket: socket2::Socket) -> io::Result<Self>;

    /// Reads at least one byte behind those unread, or none at the end of the stream.
    ///
    /// `buffer` is given the size `want` needs from `pools`, by a readiness transport only once there
    /// is something to read. A future that was polled must be polled to its end: dropped earlier it
    /// would lose bytes. Shutting the socket down ends it.
    async fn read(
        &self,
        buffer: InputBuffer,
        want: Want,
        pools: &BufferPools,
    ) -> (io::Result<usize>, InputBuffer);

    /// Sends some of `batch`, and counts nothing in it as sent: that is the caller's.
    ///
    /// The rule for dropping a read holds here too.
    async fn write(&self, batch: OutputBatch) -> (io::Result<usize>, OutputBatch);

    /// Ends one or both directions, and with them the reads and writes under way.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;

    /// Has the task of `cx` polled again, after the other connections of the thread had their turn.
    fn stand_back(cx: &mut Context<'_>);
}
