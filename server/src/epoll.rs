//! Sockets by readiness: tokio's epoll, on current-thread runtimes.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::buffers::{BufferPools, InputBuffer, Want};
use crate::limits::WRITE_PIECES_MAX;
use crate::output::OutputBatch;
use crate::socket::Socket;

/// A socket of either family behind tokio's stream type: once connected, reading, writing and
/// shutting down are the same calls for both.
#[derive(Debug)]
pub(crate) struct EpollSocket {
    reader: RefCell<OwnedReadHalf>,
    writer: RefCell<OwnedWriteHalf>,
}

impl Socket for EpollSocket {
    fn adopt(socket: socket2::Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let (reader, writer) = TcpStream::from_std(socket.into())?.into_split();
        Ok(Self {
            reader: RefCell::new(reader),
            writer: RefCell::new(writer),
        })
    }

    async fn read(
        &self,
        mut buffer: InputBuffer,
        want: Want,
        pools: &BufferPools,
    ) -> (io::Result<usize>, InputBuffer) {
        // Waiting costs no buffer here, so what is read when the wait is over may go to a large one.
        let want = if want == Want::Idle { Want::Run } else { want };
        loop {
            let ready = poll_fn(|cx| Poll::Ready(self.poll_read_ready(cx))).await;
            let ready = match ready {
                Poll::Ready(ready) => ready,
                Poll::Pending => {
                    buffer = buffer.put_away();
                    poll_fn(|cx| self.poll_read_ready(cx)).await
                }
            };
            if let Err(error) = ready {
                return (Err(error), buffer);
            }
            buffer = pools.prepare(buffer, want).await;
            let outcome = poll_fn(|cx| Poll::Ready(self.read_now(cx, &mut buffer))).await;
            if let Poll::Ready(count) = outcome {
                return (count, buffer);
            }
        }
    }

    async fn write(&self, batch: OutputBatch) -> (io::Result<usize>, OutputBatch) {
        let count = poll_fn(|cx| {
            let mut slices = [IoSlice::new(&[]); WRITE_PIECES_MAX];
            let mut writer = self.writer.borrow_mut();
            Pin::new(&mut *writer).poll_write_vectored(cx, batch.slices(&mut slices))
        })
        .await;
        (count, batch)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        socket2::SockRef::from(self.reader.borrow().as_ref()).shutdown(how)
    }

    /// Woken at once the task would run again before the thread looks at its other sockets, 61 times
    /// over. A deferred wake comes after that look.
    fn stand_back(cx: &mut Context<'_>) {
        let deferred = pin!(tokio::task::yield_now()).poll(cx);
        debug_assert!(deferred.is_pending(), "yielding takes one poll");
    }
}

impl EpollSocket {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.reader.borrow().as_ref().poll_read_ready(cx)
    }

    /// Reads what is there, if anything.
    fn read_now(&self, cx: &mut Context<'_>, buffer: &mut InputBuffer) -> Poll<io::Result<usize>> {
        let mut target = ReadBuf::new(buffer.free());
        let mut reader = self.reader.borrow_mut();
        Pin::new(&mut *reader)
            .poll_read(cx, &mut target)
            .map_ok(|()| target.filled().len())
    }
}
