//! Drives a core over a socket: one tokio task reads, one writes, and time passes in the first.
//!
//! The writer asks the core for more whenever a write is done; what is published meanwhile has
//! gathered by then. The reader hands over what came before it lets time pass, so that a process
//! that was stopped for a while does not take its own pause for the server's silence.

use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant as TokioInstant, sleep_until};

use crate::address::Address;
use crate::client::ConnectOptions;
use crate::connection::Shared;
use crate::core::{Core, Greeting, Outgoing};
use crate::error::{ConnectError, ConnectionError};

/// Room for input that is made at once.
const READ_BYTES: usize = 64 << 10;
/// Room below which more is made before a read.
const READ_BYTES_MIN: usize = 4 << 10;

/// Looks at the sockets between two of the times that the processor is offered to others, and the clock
/// is looked at: each takes as long as a look.
const TURNS_AWAKE: u32 = 16;

type Reading = Box<dyn AsyncRead + Send + Unpin>;
type Writing = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection whose server said welcome, yet to be driven.
pub(crate) struct Established {
    pub(crate) shared: Arc<Shared>,
    reading: Reading,
    writing: Writing,
    input: BytesMut,
    /// How long to look for more after what came, before sleeping.
    poll: Duration,
}

/// Connects to `address` and greets the server.
pub(crate) async fn establish(
    address: &Address,
    options: &ConnectOptions,
) -> Result<Established, ConnectError> {
    let unreachable = |error: io::Error| ConnectError::Unreachable {
        address: address.clone(),
        kind: error.kind(),
        message: error.to_string().into(),
    };
    let (mut reading, mut writing) = open_socket(address).await.map_err(unreachable)?;
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let core = greet(&mut reading, &mut writing, &mut input, &options.name)
        .await
        .map_err(|cause| ConnectError::Handshake {
            address: address.clone(),
            cause,
        })?;
    Ok(Established {
        shared: Arc::new(Shared::new(core)),
        reading,
        writing,
        input,
        poll: options.poll,
    })
}

async fn open_socket(address: &Address) -> io::Result<(Reading, Writing)> {
    match address {
        Address::Tcp { host, port } => {
            let socket = TcpStream::connect((host.as_str(), *port)).await?;
            socket.set_nodelay(true)?;
            let (reading, writing) = socket.into_split();
            Ok((Box::new(reading), Box::new(writing)))
        }
        Address::Unix { path } => {
            let (reading, writing) = UnixStream::connect(path).await?.into_split();
            Ok((Box::new(reading), Box::new(writing)))
        }
    }
}

async fn greet(
    reading: &mut Reading,
    writing: &mut Writing,
    input: &mut BytesMut,
    name: &str,
) -> Result<Core, ConnectionError> {
    let greeting = Greeting::new(name);
    let io = |error: io::Error| ConnectionError::io(&error);
    writing.write_all(&greeting.hello()).await.map_err(io)?;
    writing.flush().await.map_err(io)?;
    loop {
        if let Some(core) = greeting.receive(Instant::now(), input)? {
            return Ok(core);
        }
        if reading.read_buf(input).await.map_err(io)? == 0 {
            return Err(ConnectionError::ClosedByServer { reason: "".into() });
        }
    }
}

impl Established {
    /// Carries the connection until it is over.
    pub(crate) async fn run(self) {
        let Self {
            shared,
            mut reading,
            writing,
            mut input,
            poll,
        } = self;
        let _end = EndOnDrop(Arc::clone(&shared));
        let mut writer = tokio::spawn(write(writing, Arc::clone(&shared)));
        read(&mut reading, &mut input, (&shared, poll), &mut writer).await;
        writer.abort();
    }
}

/// Ends the core when the task that carries it goes, be it because its runtime was shut down.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.tell(&mut Vec::new(), |core| {
            core.end(ConnectionError::ClosedHere)
        });
    }
}

/// Reads until the connection is over, for whatever reason.
async fn read(
    reading: &mut Reading,
    input: &mut BytesMut,
    (shared, poll): (&Shared, Duration),
    writer: &mut JoinHandle<()>,
) {
    let mut wakers = Vec::new();
    // What came right behind the welcome.
    shared.tell(&mut wakers, |core| core.receive(Instant::now(), input));
    let mut timer = pin!(sleep_until(TokioInstant::now()));
    loop {
        let (deadline, wanted_bytes) = {
            let state = shared.lock();
            let Some(deadline) = state.core.deadline() else {
                return;
            };
            (deadline, state.core.wanted_bytes())
        };
        if timer.is_elapsed() {
            timer.as_mut().reset(deadline.into());
        }
        let room_bytes = input.capacity() - input.len();
        if room_bytes < READ_BYTES_MIN.max(wanted_bytes.saturating_sub(input.len())) {
            input.reserve(wanted_bytes.saturating_sub(input.len()).max(READ_BYTES));
        }
        tokio::select! {
            biased;
            result = reading.read_buf(input) => shared.tell(&mut wakers, |core| match result {
                Ok(0) => core.end_of_input(),
                Ok(_) => core.receive(Instant::now(), input),
                Err(error) => core.end(ConnectionError::io(&error)),
            }),
            _ = &mut *writer => {
                // It ended the core before it went, unless it panicked.
                shared.tell(&mut wakers, |core| core.end(ConnectionError::ClosedHere));
                return;
            }
            () = timer.as_mut() => {
                // Traffic only moves the deadline on, so the timer is set anew when it fires.
                shared.tell(&mut wakers, |core| core.tick(Instant::now()));
            }
            () = stay_awake(poll), if !poll.is_zero() => {}
        }
    }
}

/// Keeps the runtime from sleeping for `time`, and lets it look at its sockets again and again; then
/// never ends.
async fn stay_awake(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        for _ in 0..TURNS_AWAKE {
            yield_now().await;
        }
        // Whoever else waits for this processor has a turn now: it may be the server.
        std::thread::yield_now();
    }
    std::future::pending().await
}

/// Writes until everything was sent that ever will be.
async fn write(mut writing: Writing, shared: Arc<Shared>) {
    let mut out = Outgoing::default();
    let mut wakers = Vec::new();
    loop {
        let (sends, finished) = {
            let mut state = shared.lock();
            let sends = state.core.transmit(Instant::now(), &mut out);
            let finished = !sends && state.core.is_finished();
            state.writer_waits = !sends && !finished;
            (sends, finished)
        };
        let error = if sends {
            match write_all(&mut writing, &out).await {
                Ok(()) => continue,
                Err(error) => ConnectionError::io(&error),
            }
        } else if finished {
            // The server may be gone already; nothing depends on it any more.
            let _ = writing.shutdown().await;
            ConnectionError::ClosedHere
        } else {
            shared.output.notified().await;
            continue;
        };
        shared.tell(&mut wakers, |core| core.end(error));
        return;
    }
}

async fn write_all(writing: &mut Writing, out: &Outgoing) -> io::Result<()> {
    let mut rest = Buf::chain(&out.head[..], &out.body[..]);
    while rest.has_remaining() {
        let mut slices = [IoSlice::new(&[]); 2];
        let filled = rest.chunks_vectored(&mut slices);
        let written = writing
            .write_vectored(slices.get(..filled).unwrap_or_default())
            .await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest.advance(written);
    }
    writing.flush().await
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Count(Mutex<u32>);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
    }

    #[test]
    fn the_runtime_is_kept_awake_for_its_time_and_no_longer() {
        for (time, wakes) in [(Duration::MAX, 1), (Duration::ZERO, 0)] {
            let count = Arc::new(Count::default());
            let waker = count.clone().into();
            let awake = pin!(stay_awake(time));
            assert!(awake.poll(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!(
                *count.0.lock().unwrap_or_else(PoisonError::into_inner),
                wakes
            );
        }
    }
}
