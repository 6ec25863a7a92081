//! Carries a connection by the thread that waits for what it brings, which sleeps in the socket.
//!
//! What the client's futures wait for comes over the socket, so nothing needs to stand between the two: the
//! thread polls the future, sends what that left to be sent, and sleeps in `poll` until the server has sent
//! something. What else may wake it, a time-out or another thread, rings a bell beside the socket.

use std::fmt;
use std::future::{Future, ready};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Buf;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::bell::Bell;
use super::on_a_thread;
use super::socket::{Input, Socket};
use crate::Client;
use crate::address::Address;
use crate::client::ConnectOptions;
use crate::connection::{Output, Shared};
use crate::core::Outgoing;
use crate::driver::{EndOnDrop, READS_A_TURN, TURNS_AWAKE};
use crate::error::{ConnectError, ConnectionError};
use crate::handshake::{self, Greeted, greet};
use crate::turns::Turn;

/// Carries a connection by the thread that waits: as [`crate::Driver`], without a runtime in between.
///
/// It comes with an async [`Client`], whose futures and those of its handles it runs until they are done. A
/// message takes two system calls to wait for, or one with [`ConnectOptions::poll`], and no turn to another
/// thread or task.
///
/// Between two calls nothing is read or sent, but what was put in goes to the socket with the call that put it
/// in, as far as that takes it at once. A server that hears nothing for three of its heartbeats gives the
/// connection up. Dropped, it hangs up; `driver.run_until(client.close())` says goodbye.
///
/// A thread stays in the background, as with [`blocking::Client`](super::Client), for time-outs, for the task
/// of a [`Producer`](crate::Producer) and for the connections of those who connect again: it sleeps otherwise.
/// What a producer was given by `enqueue` waits for that task: its `flush`, or the ticket, is what to run until.
///
/// # Panics
///
/// The calls that run a future do, in an async runtime: its threads may not block.
///
/// ```no_run
/// use std::time::Duration;
/// use millstream_client::{ConnectOptions, Start, blocking::Driver};
///
/// let address = "millstream://localhost";
/// let (client, mut driver) = Driver::connect(address, &ConnectOptions::new())?;
/// let mut orders = driver.run_until(client.publisher("orders"))?;
/// let receipt = driver.run_until(orders.publish("one order"))?; // on disk
/// let mut reader = driver.run_until(client.reader("orders", Start::Offset(receipt.first)))?;
/// while let Some(Some(record)) = driver.run_for(Duration::from_secs(1), reader.next()) {
///     println!("{}", record?.offset());
/// }
/// driver.run_until(client.close())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a connection does nothing unless its driver runs"]
pub struct Driver {
    carrier: Carrier,
    /// Where the time-outs and tasks of futures are.
    runtime: Handle,
    /// Keeps the runtime's thread.
    _thread: mpsc::Sender<()>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("socket", &self.carrier.socket)
            .finish_non_exhaustive()
    }
}

impl Driver {
    /// Connects to the server at `address`, such as `millstream://host:port`.
    ///
    /// # Errors
    ///
    /// What was given is no address, nobody answers there, or not as a server does.
    pub fn connect<A>(address: A, options: &ConnectOptions) -> Result<(Client, Self), ConnectError>
    where
        A: TryInto<Address, Error: Into<ConnectError>>,
    {
        let address = address.try_into().map_err(Into::into)?;
        let options = options.clone();
        on_a_thread(async move |thread| {
            let greeted = greet(&address, &options).await?;
            let (shared, carrier) = Carrier::new(greeted, options.poll)
                .map_err(|error| handshake::unreachable(&address, &error))?;
            let client = Client::of(address, &options, shared, Some(thread.clone()));
            let driver = Self {
                carrier,
                runtime: Handle::current(),
                _thread: thread,
            };
            Ok(((client, driver), None))
        })
    }

    /// What `future` comes to; blocks until then, and carries the connection meanwhile. Goes on also where
    /// the connection ends.
    ///
    /// What `future` gave the connection to send is with the socket when this returns, as far as that took it
    /// at once; the rest waits for the next call.
    pub fn run_until<F: Future>(&mut self, future: F) -> F::Output {
        self.run(None, future)
            .expect("only an end to its time ends it sooner")
    }

    /// What `future` comes to within `time`, or nothing; otherwise as [`run_until`](Self::run_until). Without
    /// any time it takes what is there already and does not block.
    ///
    /// A future that is not done is dropped. Waits for a record or a delivery lose nothing by it; of what was
    /// asked for or published, the answer is not heard, so a [`Ticket`](crate::Ticket) is better lent: `&mut
    /// ticket`.
    pub fn run_for<F: Future>(&mut self, time: Duration, future: F) -> Option<F::Output> {
        // A time without an end that could be told is none.
        self.run(Instant::now().checked_add(time), future)
    }

    fn run<F: Future>(&mut self, until: Option<Instant>, future: F) -> Option<F::Output> {
        let Self {
            carrier, runtime, ..
        } = self;
        // Panics where that may not be.
        runtime.block_on(ready(()));
        let _here = runtime.enter();
        let waker = Waker::from(Arc::clone(&carrier.bell));
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        let mut came = Instant::now();
        let mut late_reads = 0;
        // A future that is always ready leaves no other occasion to.
        carrier.keep_up(came);
        loop {
            carrier.bell.attend();
            // What `future` gives the connection goes out below: nobody has to be woken for it.
            carrier.end.0.forget_writer();
            let turn = Turn::begin();
            let output = future.as_mut().poll(&mut cx);
            drop(turn);
            carrier.send(&mut cx);
            if let Poll::Ready(output) = output {
                return Some(output);
            }
            match carrier.wait(until, came, &mut late_reads) {
                Woken::Came => came = Instant::now(),
                Woken::Otherwise => {}
                Woken::Late => return None,
            }
        }
    }
}

/// How a wait went.
enum Woken {
    /// The server sent something, or has hung up.
    Came,
    Otherwise,
    /// The time is over.
    Late,
}

struct Carrier {
    socket: Socket,
    input: Input,
    output: Outgoing,
    /// Bytes of `output` that are with the socket.
    sent_bytes: usize,
    /// Nothing is sent any more.
    is_over: bool,
    bell: Arc<Bell>,
    /// How long to look for more instead of sleeping.
    poll: Duration,
    /// Those to be woken by what came; kept for its room.
    wakers: Vec<Waker>,
    end: EndOnDrop,
}

impl Carrier {
    fn new(greeted: Greeted, poll: Duration) -> io::Result<(Arc<Shared>, Self)> {
        let Greeted {
            core,
            socket,
            input,
        } = greeted;
        let shared = Arc::new(Shared::new(core));
        let mut carrier = Self {
            socket: Socket::of(socket)?,
            input: Input::new(input),
            output: Outgoing::default(),
            sent_bytes: 0,
            is_over: false,
            bell: Arc::new(Bell::new()?),
            poll,
            wakers: Vec::new(),
            end: EndOnDrop(Arc::clone(&shared)),
        };
        // What came right behind the welcome.
        carrier.take();
        Ok((shared, carrier))
    }

    /// Hands what came to the core.
    fn take(&mut self) {
        let input = &mut self.input.came;
        let shared = &self.end.0;
        shared.tell(&mut self.wakers, |core| core.receive(Instant::now(), input));
    }

    fn end(&mut self, error: ConnectionError) {
        self.end.0.tell(&mut self.wakers, |core| core.end(error));
    }

    /// Takes what the server sent; false if there is nothing.
    fn receive(&mut self) -> bool {
        let wanted_bytes = self.end.0.lock().core.wanted_bytes();
        match self.input.read(&mut self.socket, wanted_bytes) {
            Ok(0) => {
                let shared = &self.end.0;
                shared.tell(&mut self.wakers, |core| core.end_of_input());
            }
            Ok(_) => self.take(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => self.end(ConnectionError::io(&error)),
        }
        true
    }

    /// Sends what there is, as far as the socket takes it at once; `cx` is woken once there is more.
    fn send(&mut self, cx: &mut Context<'_>) {
        while !self.is_over {
            let mut rest = Buf::chain(&self.output.head[..], &self.output.body[..]);
            rest.advance(self.sent_bytes);
            if rest.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 2];
                let filled = rest.chunks_vectored(&mut slices);
                match self.socket.write(slices.get(..filled).unwrap_or_default()) {
                    Ok(0) => self.give_up(&io::ErrorKind::WriteZero.into()),
                    Ok(written) => self.sent_bytes += written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => self.give_up(&error),
                }
                continue;
            }
            self.sent_bytes = 0;
            let output = pin!(self.end.0.output(&mut self.output)).poll(cx);
            match output {
                Poll::Pending => return,
                Poll::Ready(Output::Some) => {}
                Poll::Ready(Output::Finished) => {
                    self.is_over = true;
                    // The server may be gone already; nothing depends on it any more.
                    let _ = self.socket.shutdown();
                    self.end(ConnectionError::ClosedHere);
                }
            }
        }
    }

    /// Nothing can be sent any more.
    fn give_up(&mut self, error: &io::Error) {
        self.is_over = true;
        self.end(ConnectionError::io(error));
    }

    /// Where it is time for a sign of life, takes what the server sent, or asks for one if that is nothing. In
    /// this order, so that one's own pause is not taken for the server's silence.
    fn keep_up(&mut self, now: Instant) {
        let deadline = self.end.0.lock().core.deadline();
        if deadline.is_some_and(|deadline| now >= deadline) && !self.receive() {
            let shared = &self.end.0;
            shared.tell(&mut self.wakers, |core| core.tick(now));
        }
    }

    /// Waits for something to look at, at most until then, by looking for it or asleep. What the server sent
    /// last came at `came`. Of what is there once the time is over it takes some, counted by `late_reads`.
    fn wait(&mut self, until: Option<Instant>, came: Instant, late_reads: &mut u32) -> Woken {
        let now = Instant::now();
        let Some(deadline) = self.end.0.lock().core.deadline() else {
            return self.wait_for_others(until, now);
        };
        if until.is_some_and(|until| now >= until) {
            *late_reads += 1;
            if *late_reads <= READS_A_TURN && self.receive() {
                return Woken::Came;
            }
            return Woken::Late;
        }
        if now >= deadline {
            self.keep_up(now);
            return Woken::Otherwise;
        }
        if now.duration_since(came) < self.poll {
            return self.look();
        }
        let first = until.map_or(deadline, |until| until.min(deadline));
        match self.park(Some(first - now), true) && self.receive() {
            true => Woken::Came,
            false => Woken::Otherwise,
        }
    }

    /// As [`wait`](Self::wait), where nothing comes from the server any more.
    fn wait_for_others(&mut self, until: Option<Instant>, now: Instant) -> Woken {
        let left = until.map(|until| until.saturating_duration_since(now));
        if left.is_some_and(|left| left.is_zero()) {
            return Woken::Late;
        }
        self.park(left, false);
        Woken::Otherwise
    }

    /// Looks for what the server sends a few times, instead of sleeping.
    fn look(&mut self) -> Woken {
        for _ in 0..TURNS_AWAKE {
            if self.receive() {
                return Woken::Came;
            }
            if self.bell.is_woken() {
                return Woken::Otherwise;
            }
        }
        // Whoever else waits for this processor has a turn now: it may be the server.
        thread::yield_now();
        Woken::Otherwise
    }

    /// Sleeps until it is rung for, or `time` is over, or the server has sent something where the connection
    /// lives. Whether there may be something to read: also where it was woken before and does not sleep, as it
    /// may be each time.
    fn park(&mut self, time: Option<Duration>, lives: bool) -> bool {
        if !self.bell.fall_asleep() {
            return true;
        }
        let mut flags = PollFlags::IN;
        flags.set(
            PollFlags::OUT,
            self.sent_bytes < self.output.head.len() + self.output.body.len(),
        );
        let mut fds = [
            PollFd::new(self.bell.socket(), PollFlags::IN),
            PollFd::new(&self.socket, flags),
        ];
        let waited_for = if lives { &mut fds[..] } else { &mut fds[..1] };
        // A time that can't be told has no end.
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let slept = poll(waited_for, time.as_ref());
        // Whom the server's bytes are for is looked at by this thread: it would ring for itself.
        self.bell.wake_up();
        match slept {
            Ok(_) => fds[1].revents().intersects(!PollFlags::OUT),
            Err(rustix::io::Errno::INTR) => false,
            Err(error) => {
                self.end(ConnectionError::io(&error.into()));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::io::{Read, Write};
    use std::task::Wake;

    use bytes::BytesMut;
    use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, WireHeader, next_message};
    use tokio::runtime::Builder;

    use super::*;
    use crate::handshake::welcomed;

    const HEARTBEAT_MS: u32 = 10;

    /// A driver of a connection with such heartbeats that something came in, its server's end, and the runtime it is in.
    fn carried(
        heartbeat_ms: u32,
        input: &[u8],
    ) -> (
        Driver,
        std::os::unix::net::UnixStream,
        tokio::runtime::Runtime,
    ) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let _here = runtime.enter();
        let greeted = Greeted {
            core: welcomed(heartbeat_ms),
            socket: handshake::Socket::Unix(tokio::net::UnixStream::from_std(near).unwrap()),
            input: BytesMut::from(input),
        };
        let (_, carrier) = Carrier::new(greeted, Duration::ZERO).unwrap();
        let driver = Driver {
            carrier,
            runtime: runtime.handle().clone(),
            _thread: mpsc::channel(1).0,
        };
        (driver, far, runtime)
    }

    fn ended(driver: &Driver) -> Option<ConnectionError> {
        driver.carrier.end.0.lock().core.ended().cloned()
    }

    fn ping() -> Vec<u8> {
        let header = WireHeader::bare(MessageKind::Ping, StreamId::CONNECTION, 7);
        header.encode().to_vec()
    }

    /// The first message that was sent.
    fn sent(far: &mut std::os::unix::net::UnixStream) -> MessageKind {
        let mut bytes = [0; 64];
        far.set_nonblocking(true).unwrap();
        let read = far.read(&mut bytes).unwrap();
        match next_message(&bytes[..read], Phase::Server) {
            Ok(Next::Message { header, .. }) => header.kind,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until more than three heartbeats have passed.
    fn pause() {
        let began = Instant::now();
        while began.elapsed() < 4 * Duration::from_millis(HEARTBEAT_MS.into()) {
            thread::yield_now();
        }
    }

    #[test]
    fn an_idle_server_is_asked_for_a_sign_of_life_and_given_up_without_one() {
        let (mut driver, mut far, _runtime) = carried(HEARTBEAT_MS, &[]);
        while ended(&driver).is_none() {
            assert_eq!(
                driver.run_for(Duration::from_millis(100), pending::<()>()),
                None
            );
        }
        assert!(matches!(
            ended(&driver),
            Some(ConnectionError::Silent { .. })
        ));
        assert_eq!(sent(&mut far), MessageKind::Ping);
    }

    #[test]
    fn what_came_right_behind_the_welcome_is_taken() {
        let (mut driver, mut far, _runtime) = carried(HEARTBEAT_MS, &ping());
        driver.run_for(Duration::ZERO, pending::<()>());
        assert_eq!(sent(&mut far), MessageKind::Pong);
    }

    #[test]
    fn what_came_over_the_socket_rings_no_bell() {
        let (mut driver, mut far, _runtime) = carried(3_600_000, &[]);
        let carrier = &mut driver.carrier;
        far.write_all(&ping()).unwrap();
        assert!(carrier.park(None, true) && carrier.receive());
        carrier.bell.wake_by_ref();
        let mut rung = carrier.bell.socket();
        assert!(rung.read(&mut [0]).is_err(), "the thread is awake");
        assert!(carrier.bell.is_woken());
    }

    #[test]
    fn a_future_that_wakes_itself_keeps_nothing_from_being_read() {
        let (mut driver, mut far, _runtime) = carried(3_600_000, &[]);
        far.write_all(&ping()).unwrap();
        let shared = Arc::clone(&driver.carrier.end.0);
        let mut polls = 0;
        let until_read = poll_fn(|cx| {
            cx.waker().wake_by_ref();
            polls += 1;
            assert!(polls < 1_000, "nothing is read");
            match shared.lock().core.has_output() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        driver.run_until(until_read);
    }

    #[test]
    fn a_time_ends_a_wait_also_while_more_and_more_comes() {
        let (mut driver, mut far, _runtime) = carried(3_600_000, &[]);
        let mut polls = 0;
        let more = poll_fn(|_| {
            polls += 1;
            far.write_all(&ping()).unwrap();
            Poll::<()>::Pending
        });
        assert_eq!(driver.run_for(Duration::ZERO, more), None);
        assert_eq!(polls, READS_A_TURN + 1);
    }

    #[test]
    fn calls_whose_futures_are_ready_give_signs_of_life_all_the_same() {
        let (mut driver, mut far, _runtime) = carried(HEARTBEAT_MS, &[]);
        far.write_all(&ping()).unwrap();
        pause();
        driver.run_until(ready(()));
        assert_eq!(sent(&mut far), MessageKind::Pong);
        pause();
        driver.run_until(ready(()));
        assert!(matches!(
            ended(&driver),
            Some(ConnectionError::Silent { .. })
        ));
    }

    #[test]
    fn ones_own_pause_is_not_taken_for_the_servers_silence() {
        let (mut driver, mut far, _runtime) = carried(HEARTBEAT_MS, &[]);
        for _ in 0..3 {
            far.write_all(&ping()).unwrap();
            pause();
            driver.run_for(Duration::ZERO, pending::<()>());
            assert_eq!(ended(&driver), None);
        }
    }
}
