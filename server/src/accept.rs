//! The acceptor: one thread that takes connections and deals them out to the I/O threads.
//!
//! A connection's counts are the strong counts of `Arc`s it holds: of its thread's, and of its
//! address's. They fall when it is gone, whatever made it go.

use std::collections::HashMap;
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Write};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use socket2::Socket;
use tokio::sync::{mpsc, watch};

use crate::control::Stage;
use crate::limits::{ACCEPT_PAUSE, COMPLAINT_PAUSE, TURNED_AWAY_MAX};
use crate::listen::{Listener, WaitingListener};
use crate::refusal;

/// A connection on its way to its I/O thread.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Counts the connection for as long as it lives.
    pub(crate) counted: Counted,
    pub(crate) socket: Socket,
}

/// What a connection is counted by.
#[derive(Debug)]
pub(crate) struct Counted {
    _thread: Arc<()>,
    _address: Option<Arc<()>>,
}

/// An I/O thread as the acceptor sees it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) connections: mpsc::Sender<Accepted>,
    pub(crate) load: Arc<()>,
}

impl Seat {
    fn load(&self) -> usize {
        Arc::strong_count(&self.load)
    }
}

/// How many connections a server takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    pub(crate) connections: usize,
    pub(crate) connections_per_address: usize,
}

/// The state of the accepting thread.
#[derive(Debug)]
pub(crate) struct Acceptor {
    seats: Vec<Seat>,
    caps: Caps,
    addresses: HashMap<IpAddr, Arc<()>>,
    /// Held so that one can be given up for turning a connection away when none is left.
    spare: Option<File>,
    complaints: Complaints,
}

/// Keeps a crowd at the door from filling the log: one line a second says enough.
#[derive(Debug, Default)]
struct Complaints {
    last: Option<Instant>,
}

impl Complaints {
    fn are_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= COMPLAINT_PAUSE);
        if due {
            self.last = Some(now);
        }
        due
    }
}

/// Why accepting was interrupted.
enum Interrupted {
    Stop,
    /// The kernel refuses for lack of something; to ask again at once would only repeat that.
    Exhausted(io::Error),
}

impl Acceptor {
    pub(crate) fn new(seats: Vec<Seat>, caps: Caps) -> Self {
        Self {
            seats,
            caps,
            addresses: HashMap::new(),
            spare: spare(),
            complaints: Complaints::default(),
        }
    }

    /// Accepts at all `listeners` until the server stops serving; they are closed then.
    pub(crate) async fn run(
        mut self,
        listeners: Vec<Listener>,
        mut stage: watch::Receiver<Stage>,
    ) -> io::Result<()> {
        let listeners = listeners
            .into_iter()
            .map(Listener::into_waiting)
            .collect::<io::Result<Vec<_>>>()?;
        loop {
            let interrupted = {
                let mut stop = pin!(stage.wait_for(|stage| *stage != Stage::Serving));
                poll_fn(|cx| {
                    if stop.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Interrupted::Stop);
                    }
                    self.accept_all(&listeners, cx)
                })
                .await
            };
            match interrupted {
                Interrupted::Stop => return Ok(()),
                Interrupted::Exhausted(error) => {
                    if self.complaints.are_due() {
                        tracing::warn!(%error, "no more connections can be accepted for now");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accept_all(
        &mut self,
        listeners: &[WaitingListener],
        cx: &mut Context<'_>,
    ) -> Poll<Interrupted> {
        for listener in listeners {
            while let Poll::Ready(accepted) = listener.poll_accept(cx) {
                match accepted {
                    Ok((socket, peer)) => self.seat(socket, peer),
                    Err(error) if is_the_callers(&error) => {
                        tracing::debug!(%error, "a connection ended before it was accepted");
                    }
                    Err(error) => {
                        self.turn_away(listener, cx);
                        return Poll::Ready(Interrupted::Exhausted(error));
                    }
                }
            }
        }
        Poll::Pending
    }

    /// Gives the connection to the thread that has fewest, or refuses it.
    fn seat(&mut self, socket: Socket, peer: Option<IpAddr>) {
        let total: usize = self.seats.iter().map(|seat| seat.load() - 1).sum();
        if total >= self.caps.connections {
            return self.refuse(&socket, "this server has as many connections as it takes");
        }
        let address = peer.map(|peer| self.address(peer));
        if let Some(address) = &address
            && Arc::strong_count(address) - 2 >= self.caps.connections_per_address
        {
            return self.refuse(&socket, "this address has as many connections as it may");
        }
        // A thread that ended by a defect is dealt nothing more.
        let seats = self
            .seats
            .iter()
            .filter(|seat| !seat.connections.is_closed());
        let Some(seat) = seats.min_by_key(|seat| seat.load()) else {
            return self.refuse(&socket, "this server has no thread left to serve with");
        };
        let counted = Counted {
            _thread: Arc::clone(&seat.load),
            _address: address,
        };
        if seat
            .connections
            .try_send(Accepted { counted, socket })
            .is_err()
        {
            tracing::warn!("a connection was dropped: its thread has ended");
        }
    }

    /// What connections from `address` are counted by. The table holds no more addresses than there
    /// are connections, twice over.
    fn address(&mut self, address: IpAddr) -> Arc<()> {
        if self.addresses.len() > 2 * self.caps.connections {
            self.addresses
                .retain(|_, count| Arc::strong_count(count) > 1);
        }
        Arc::clone(self.addresses.entry(address).or_default())
    }

    /// Out of descriptors: takes callers one by one with the spare and hangs up, so that they are
    /// not left waiting in the queue.
    fn turn_away(&mut self, listener: &WaitingListener, cx: &mut Context<'_>) {
        for _ in 0..TURNED_AWAY_MAX {
            if self.spare.take().is_none() {
                break;
            }
            let taken = listener.poll_accept(cx);
            let more = matches!(taken, Poll::Ready(Ok(_)));
            drop(taken);
            self.spare = spare();
            if !more {
                break;
            }
        }
        if self.spare.is_none() {
            self.spare = spare();
        }
    }

    /// Tells a caller why it is not served. A new socket's buffer takes that whole, or it goes
    /// untold.
    fn refuse(&mut self, socket: &Socket, sentence: &str) {
        if self.complaints.are_due() {
            tracing::warn!(sentence, "connection refused");
        }
        let message = refusal::too_many(sentence);
        if socket.set_nonblocking(true).is_ok() {
            let mut writer = socket;
            let _ = writer.write(&message);
            let _ = socket.shutdown(std::net::Shutdown::Write);
        }
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Errors of the connection accepted, not of accepting.
fn is_the_callers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotConnected
    ) || matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EPROTO | libc::ENETDOWN | libc::EHOSTUNREACH | libc::ENETUNREACH)
    )
}
