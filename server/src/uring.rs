//! Sockets by completion: tokio-uring.
//!
//! What its version 0.5 asks of its users, and where it is kept:
//!
//! - It submits only when its thread parks, so nothing here or above yields in a loop.
//! - A started operation that is dropped loses its bytes: the connection polls each to its end and
//!   shuts the socket down where it wants that end soon.
//! - A runtime dropped with operations under way frees their buffers before the kernel is done with
//!   them: [`run`] drops it only when told that all tasks came to their end, and leaks it otherwise.

use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::net::Shutdown;
use std::task::Context;

use tokio_uring::net::TcpStream;

use crate::buffers::{BufferPools, InputBuffer, Want};
use crate::output::OutputBatch;
use crate::probe::RingFlags;
use crate::socket::Socket;

/// A socket of either family behind the ring's stream type, which submits the same reads and writes
/// for both.
pub(crate) struct UringSocket {
    stream: TcpStream,
}

impl Socket for UringSocket {
    fn adopt(socket: socket2::Socket) -> io::Result<Self> {
        // On a non-blocking socket the ring would answer "try again" instead of waiting.
        socket.set_nonblocking(false)?;
        Ok(Self {
            stream: TcpStream::from_std(socket.into()),
        })
    }

    async fn read(
        &self,
        buffer: InputBuffer,
        want: Want,
        pools: &BufferPools,
    ) -> (io::Result<usize>, InputBuffer) {
        let buffer = pools.prepare(buffer, want).await;
        self.stream.read(buffer).await
    }

    async fn write(&self, mut batch: OutputBatch) -> (io::Result<usize>, OutputBatch) {
        let (count, pieces) = self.stream.writev(batch.take_pieces()).await;
        batch.restore_pieces(pieces);
        (count, batch)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.stream.shutdown(how)
    }

    /// A deferred wake would keep the thread from parking, and it submits only then. What came is at
    /// most one read, so there is no second go before that.
    fn stand_back(cx: &mut Context<'_>) {
        cx.waker().wake_by_ref();
    }
}

/// How a thread's work came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every task ran to its end: no operation is under way.
    Whole,
    /// A task panicked; the kernel may still hold its buffers.
    Panicked,
}

/// Runs `work` on a ring of this thread's own.
///
/// # Errors
///
/// What the kernel refused the ring with. `work` was not polled then.
pub(crate) fn run(flags: RingFlags, work: impl Future<Output = Ended>) -> io::Result<Ended> {
    let mut builder = tokio_uring::builder();
    builder
        .entries(flags.entries())
        .uring_builder(&flags.builder());
    // Leaked when `block_on` unwinds, as when a task did.
    let runtime = ManuallyDrop::new(tokio_uring::Runtime::new(&builder)?);
    let ended = runtime.block_on(work);
    if ended == Ended::Whole {
        drop(ManuallyDrop::into_inner(runtime));
    }
    Ok(ended)
}
