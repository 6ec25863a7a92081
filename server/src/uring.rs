//! Sockets by completion: tokio-uring.
//!
//! What its version 0.5 asks of its users, and where it is kept:
//!
//! - It submits only when its thread parks, so nothing here or above yields in a loop.
//! - A started operation that is dropped loses its bytes: the connection polls each to its end and
//!   shuts the socket down where it wants that end soon.
//! - A runtime dropped with operations under way frees their buffers before the kernel is done with
//!   them: [`run`] drops it only when told that all tasks came to their end, and leaks it otherwise.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::mem::ManuallyDrop;
use std::net::Shutdown;
use std::task::{Context, Poll};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use tokio::io::unix::AsyncFd;
use tokio_uring::net::TcpStream;

use crate::buffers::{BufferPools, InputBuffer, Want};
use crate::limits::{WRITE_NOW_BYTES_MAX, WRITE_PIECES_MAX};
use crate::output::OutputBatch;
use crate::probe::RingFlags;
use crate::ring_buffers::watched;
use crate::socket::Socket;

/// A socket of either family behind the ring's stream type, which submits the same reads and writes
/// for both.
///
/// What flows goes through the ring. The first bytes after a silence are waited for by readiness, and a
/// few bytes are sent by a call of their own: for a message that comes alone the ring takes two turns of
/// the thread more.
pub(crate) struct UringSocket {
    stream: AsyncFd<TcpStream>,
}

impl Socket for UringSocket {
    fn adopt(socket: socket2::Socket) -> io::Result<Self> {
        // On a non-blocking socket the ring would answer "try again" instead of waiting.
        socket.set_nonblocking(false)?;
        let stream = TcpStream::from_std(socket.into());
        Ok(Self {
            stream: watched(stream)?,
        })
    }

    async fn read(
        &self,
        mut buffer: InputBuffer,
        want: Want,
        pools: &BufferPools,
    ) -> (io::Result<usize>, InputBuffer) {
        if want != Want::Idle {
            let buffer = pools.prepare(buffer, want).await;
            return self.stream.get_ref().read(buffer).await;
        }
        loop {
            let ready = poll_fn(|cx| Poll::Ready(self.stream.poll_read_ready(cx))).await;
            let ready = match ready {
                Poll::Ready(ready) => ready,
                Poll::Pending => {
                    // Waiting costs no buffer here.
                    buffer = buffer.put_away();
                    self.stream.readable().await
                }
            };
            let mut guard = match ready {
                Ok(guard) => guard,
                Err(error) => return (Err(error), buffer),
            };
            buffer = pools.prepare(buffer, Want::Run).await;
            match self.read_now(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                outcome => {
                    if outcome
                        .as_ref()
                        .is_ok_and(|count| *count < buffer.free().len())
                    {
                        // That was all there is: the next bytes are an event of their own.
                        guard.clear_ready();
                    }
                    return (outcome, buffer);
                }
            }
        }
    }

    async fn write(&self, mut batch: OutputBatch) -> (io::Result<usize>, OutputBatch) {
        if batch.bytes() <= WRITE_NOW_BYTES_MAX {
            match self.write_now(&batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return (outcome, batch),
            }
        }
        let pieces = batch.take_pieces();
        let (count, pieces) = self.stream.get_ref().writev(pieces).await;
        batch.restore_pieces(pieces);
        (count, batch)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.stream.get_ref().shutdown(how)
    }

    /// A deferred wake would keep the thread from parking, and it submits only then. What came is at
    /// most one read, so there is no second go before that.
    fn stand_back(cx: &mut Context<'_>) {
        cx.waker().wake_by_ref();
    }
}

impl UringSocket {
    /// Reads what is there.
    fn read_now(&self, buffer: &mut InputBuffer) -> io::Result<usize> {
        rustix::net::recv(&self.stream, buffer.free(), RecvFlags::DONTWAIT)
            .map(|(count, _)| count)
            .map_err(io::Error::from)
    }

    /// Sends what there is room for.
    fn write_now(&self, batch: &OutputBatch) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); WRITE_PIECES_MAX];
        let slices = batch.slices(&mut slices);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut control = SendAncillaryBuffer::default();
        rustix::net::sendmsg(&self.stream, slices, &mut control, flags).map_err(io::Error::from)
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
