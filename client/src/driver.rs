//! Drives a core over a socket: one future reads and lets time pass, one writes, and a [`Driver`] polls both.
//!
//! The writer asks the core for more whenever a write is done; what is published meanwhile has
//! gathered by then. The reader hands over what came before it lets time pass, so that a process
//! that was stopped for a while does not take its own pause for the server's silence.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::{unconstrained, yield_now};
use tokio::time::{Instant as TokioInstant, sleep_until};

use crate::connection::{Output, Shared};
use crate::core::Outgoing;
use crate::error::ConnectionError;
use crate::handshake::{Greeted, READ_BYTES, READ_BYTES_MIN, Socket};

/// Reads after which the connection's others have their turn.
pub(crate) const READS_A_TURN: u32 = 32;

/// Looks at the sockets between two of the times that the processor is offered to others, and the clock
/// is looked at: each takes as long as a look.
pub(crate) const TURNS_AWAKE: u32 = 16;

type Reading = Box<dyn AsyncRead + Send + Unpin>;
type Writing = Box<dyn AsyncWrite + Send + Unpin>;

/// The work of one connection: reads, writes and lets time pass while it is polled. Resolves when the
/// connection is over; ends it when it is dropped.
///
/// [`Client::connect`](crate::Client::connect) has a task of its own do this.
/// [`Client::connect_driven`](crate::Client::connect_driven) gives it to the caller, who polls it beside
/// what he waits for. Then an answer takes no turn from one task to another: whoever waits for it takes it
/// from the socket himself.
///
/// A connection that is not polled does nothing: nothing is sent, and a server that hears nothing for three
/// of its heartbeats gives it up. Once the last handle is gone, a driver that is polled on sends what was
/// published and says goodbye; one that is dropped hangs up.
///
/// # Panics
///
/// When polled for the first time outside a tokio runtime. Later, too, it waits for the sockets of the runtime
/// it was connected in, which has to run.
#[must_use = "a connection does nothing unless its driver is polled"]
pub struct Driver {
    /// Until the connection is over.
    carrying: Option<Carrying>,
}

type Part = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Carrying {
    reading: Part,
    writing: Part,
    /// Goes last.
    end: EndOnDrop,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("is_over", &self.carrying.is_none())
            .finish()
    }
}

impl Driver {
    /// Carries the connection to a server that was greeted.
    pub(crate) fn new(greeted: Greeted, poll: Duration) -> (Arc<Shared>, Self) {
        let Greeted {
            core,
            socket,
            input,
        } = greeted;
        let (reading, writing): (Reading, Writing) = match socket {
            Socket::Tcp(socket) => {
                let (reading, writing) = socket.into_split();
                (Box::new(reading), Box::new(writing))
            }
            Socket::Unix(socket) => {
                let (reading, writing) = socket.into_split();
                (Box::new(reading), Box::new(writing))
            }
        };
        let shared = Arc::new(Shared::new(core));
        // The runtime's budget for a turn of a task is the caller's. Reading has its own; writing ends where the
        // windows are full, as what makes room in them is read.
        let reading = read(reading, input, Arc::clone(&shared), poll);
        let carrying = Carrying {
            reading: Box::pin(unconstrained(reading)),
            writing: Box::pin(unconstrained(write(writing, Arc::clone(&shared)))),
            end: EndOnDrop(Arc::clone(&shared)),
        };
        let driver = Self {
            carrying: Some(carrying),
        };
        (shared, driver)
    }

    /// What `future` comes to, with the connection polled beside it: first what came, then `future`, then
    /// what there is to send. Goes on also where the connection ends.
    ///
    /// What `future` gave the connection to send is with the socket when this returns, as far as that took
    /// it at once; the rest waits until the connection is polled again. With
    /// [`poll`](crate::ConnectOptions::poll) `future` is polled at each look.
    pub async fn run_until<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.poll_reading(cx);
            // What `future` gives the connection goes out below: nobody has to be woken for it, which takes
            // a system call.
            if let Some(carrying) = &self.carrying {
                carrying.end.0.forget_writer();
            }
            let output = future.as_mut().poll(cx);
            self.poll_writing(cx);
            output
        })
        .await
    }

    fn poll_reading(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_part(cx, |carrying| &mut carrying.reading)
    }

    fn poll_writing(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_part(cx, |carrying| &mut carrying.writing)
    }

    /// Whether the connection is over, with this part of it or before.
    fn poll_part(&mut self, cx: &mut Context<'_>, part: fn(&mut Carrying) -> &mut Part) -> bool {
        let carrying = self.carrying.as_mut();
        let over = carrying.is_none_or(|carrying| part(carrying).as_mut().poll(cx).is_ready());
        if over {
            self.carrying = None;
        }
        over
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_reading(cx) || self.poll_writing(cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// Ends the core when what carries it goes, be it because its runtime was shut down.
pub(crate) struct EndOnDrop(pub(crate) Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.forget_writer();
        self.0.tell(&mut Vec::new(), |core| {
            core.end(ConnectionError::ClosedHere)
        });
    }
}

/// Reads until the connection is over, for whatever reason.
async fn read(mut reading: Reading, mut input: BytesMut, shared: Arc<Shared>, poll: Duration) {
    let input = &mut input;
    let mut wakers = Vec::new();
    // What came right behind the welcome.
    shared.tell(&mut wakers, |core| core.receive(Instant::now(), input));
    let first = shared.lock().core.deadline();
    let first = first.map_or_else(TokioInstant::now, TokioInstant::from);
    let mut timer = pin!(sleep_until(first));
    let mut turns = 0_u32;
    loop {
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(READS_A_TURN) {
            yield_now().await;
        }
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
    let error = loop {
        match shared.output(&mut out).await {
            Output::Some => {
                if let Err(error) = write_all(&mut writing, &out).await {
                    break ConnectionError::io(&error);
                }
            }
            Output::Finished => {
                // The server may be gone already; nothing depends on it any more.
                let _ = writing.shutdown().await;
                break ConnectionError::ClosedHere;
            }
        }
    };
    shared.tell(&mut Vec::new(), |core| core.end(error));
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
    use std::sync::{Mutex, PoisonError};
    use std::task::Wake;

    use millstream_protocol::control::ListTopics;
    use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};
    use tokio::io::ReadBuf;

    use super::*;
    use crate::connection::Connection;
    use crate::core::Request;
    use crate::handshake::welcomed;

    #[derive(Default)]
    struct Count(Mutex<u32>);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
    }

    fn wakes(count: &Count) -> u32 {
        std::mem::take(&mut *count.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[test]
    fn who_polled_the_writing_last_is_woken_once_for_what_there_is_to_send() {
        let shared = Arc::new(Shared::new(welcomed(10_000)));
        let connection = Connection::new(Arc::clone(&shared), Duration::MAX, None);
        let mut out = Outgoing::default();
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        for count in [&first, &first, &second] {
            let output = pin!(shared.output(&mut out));
            let waker = Arc::clone(count).into();
            assert!(output.poll(&mut Context::from_waker(&waker)).is_pending());
        }
        connection.act(|_| {});
        assert_eq!((wakes(&first), wakes(&second)), (0, 0), "there is nothing");
        for _ in 0..2 {
            connection.act(|state| {
                let list = ListTopics { after: None };
                state.core.request(&Request::List(list)).unwrap();
            });
        }
        assert_eq!((wakes(&first), wakes(&second)), (0, 1));
        let waker = Arc::clone(&second).into();
        {
            let output = pin!(shared.output(&mut out));
            let output = output.poll(&mut Context::from_waker(&waker));
            assert_eq!(output, Poll::Ready(Output::Some));
        }
        assert!(!out.is_empty());
    }

    #[test]
    fn who_carries_the_connection_is_not_woken_for_what_he_sends_himself() {
        let shared = Arc::new(Shared::new(welcomed(10_000)));
        let connection = Connection::new(Arc::clone(&shared), Duration::MAX, None);
        let writing = write(Box::new(tokio::io::sink()), Arc::clone(&shared));
        let mut driver = Driver {
            carrying: Some(Carrying {
                reading: Box::pin(std::future::pending()),
                writing: Box::pin(writing),
                end: EndOnDrop(Arc::clone(&shared)),
            }),
        };
        let count = Arc::new(Count::default());
        let waker = Arc::clone(&count).into();
        let wait = |driver: &mut Driver| {
            let waiting = pin!(driver.run_until(std::future::pending::<()>()));
            assert!(waiting.poll(&mut Context::from_waker(&waker)).is_pending());
        };
        wait(&mut driver);
        let ask = || {
            connection.act(|state| {
                let list = ListTopics { after: None };
                state.core.request(&Request::List(list)).unwrap();
            });
        };
        {
            let asking = pin!(driver.run_until(async { ask() }));
            let asked = asking.poll(&mut Context::from_waker(std::task::Waker::noop()));
            assert!(asked.is_ready() && !shared.lock().core.has_output());
        }
        assert_eq!(wakes(&count), 0);
        // Anybody else has him woken.
        wait(&mut driver);
        ask();
        assert_eq!(wakes(&count), 1);
    }

    /// A server that always has another ping, for as long as anybody could have patience.
    struct Pings(Arc<Count>);

    impl AsyncRead for Pings {
        fn poll_read(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            input: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let mut reads = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
            if *reads > 2 * READS_A_TURN {
                return Poll::Pending;
            }
            *reads += 1;
            let ping = WireHeader::bare(MessageKind::Ping, StreamId::CONNECTION, 1);
            input.put_slice(&ping.encode());
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn who_reads_without_end_gives_way_to_who_writes() {
        let shared = Arc::new(Shared::new(welcomed(10_000)));
        let (reads, count) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let pings = Box::new(Pings(Arc::clone(&reads)));
        let reading = read(pings, BytesMut::new(), Arc::clone(&shared), Duration::ZERO);
        let mut reading = pin!(unconstrained(reading));
        let waker = Arc::clone(&count).into();
        let polled = reading.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending() && shared.lock().core.ended().is_none());
        let read = wakes(&reads);
        assert!((1..=READS_A_TURN).contains(&read), "{read}");
        tokio::task::yield_now().await;
        assert_eq!(wakes(&count), 1, "it comes round again");
    }

    #[test]
    fn the_runtime_is_kept_awake_for_its_time_and_no_longer() {
        for (time, wakes) in [(Duration::MAX, 1), (Duration::ZERO, 0)] {
            let count = Arc::new(Count::default());
            let waker = count.clone().into();
            let awake = pin!(stay_awake(time));
            assert!(awake.poll(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!(self::wakes(&count), wakes);
        }
    }
}
