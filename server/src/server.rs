//! A server: its listening sockets, its threads, and how it is stopped.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::Duration;

use millstream::Broker;
use millstream_protocol::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX};
use tokio::sync::{mpsc, watch};

use crate::accept::{Acceptor, Caps, Seat};
use crate::buffers::BufferPools;
use crate::control::{Shutdown, Stage};
use crate::io_thread::{self, Post, Way};
use crate::jobs::JobQueue;
use crate::limits::{DESCRIPTORS_RESERVED, IO_THREADS_MAX};
use crate::listen::{Listen, Listener};
use crate::probe::{self, Backend, IoChoice, IoReport, Rings};
use crate::session::SessionOptions;

/// How a server is to be set up.
///
/// ```
/// use millstream_server::{IoChoice, Listen, ServerOptions};
/// let options = ServerOptions::new()
///     .listen(Listen::Tcp(([127, 0, 0, 1], 0).into()))
///     .io(IoChoice::Epoll)
///     .threads(2);
/// ```
#[derive(Debug, Clone)]
pub struct ServerOptions {
    listen: Vec<Listen>,
    io: IoChoice,
    threads: usize,
    connections_max: usize,
    connections_per_address_max: usize,
    drain_time: Duration,
    bind_patience: Duration,
    poll: Option<Duration>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            io: IoChoice::Auto,
            threads: 0,
            connections_max: CONNECTIONS_MAX,
            connections_per_address_max: CONNECTIONS_PER_ADDRESS_MAX,
            drain_time: Duration::from_secs(10),
            bind_patience: Duration::from_secs(2),
            poll: None,
        }
    }
}

impl ServerOptions {
    /// Nothing to listen at yet; one I/O thread for each core; every bound at its default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a place to listen at.
    #[must_use]
    pub fn listen(mut self, place: Listen) -> Self {
        self.listen.push(place);
        self
    }

    /// Chooses the way of doing I/O.
    #[must_use]
    pub const fn io(mut self, io: IoChoice) -> Self {
        self.io = io;
        self
    }

    /// Sets the number of I/O threads, at most 256; 0 is one for each core.
    #[must_use]
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the most connections in all. Fewer are taken where the limit of open files asks for it.
    #[must_use]
    pub const fn connections_max(mut self, connections: usize) -> Self {
        self.connections_max = connections;
        self
    }

    /// Sets the most connections from one address. Unix sockets have none.
    #[must_use]
    pub const fn connections_per_address_max(mut self, connections: usize) -> Self {
        self.connections_per_address_max = connections;
        self
    }

    /// Sets how long a graceful shutdown may wait for acknowledgements before it turns fast.
    #[must_use]
    pub const fn drain_time(mut self, time: Duration) -> Self {
        self.drain_time = time;
        self
    }

    /// Sets how long to try again while an address is in use, as it is for a moment after a kill.
    #[must_use]
    pub const fn bind_patience(mut self, time: Duration) -> Self {
        self.bind_patience = time;
        self
    }

    /// Has I/O threads look for work for `time` after the last that came, instead of sleeping: each
    /// takes a processor meanwhile, and a message that comes alone waits for no wake-up. It needs epoll,
    /// which [`IoChoice::Auto`] then is. At most an hour; zero is not at all.
    #[must_use]
    pub fn poll(mut self, time: Duration) -> Self {
        self.poll = Some(time).filter(|time| !time.is_zero());
        self
    }

    fn thread_count(&self) -> usize {
        let cores = || available_parallelism().map_or(1, NonZeroUsize::get);
        let asked = if self.threads == 0 {
            cores()
        } else {
            self.threads
        };
        asked.min(IO_THREADS_MAX)
    }
}

/// Why a server did not start. Nothing was changed, and nothing keeps running.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// No place to listen at was named.
    NowhereToListen,
    /// Somebody else listens there.
    InUse {
        /// The place.
        place: Listen,
    },
    /// The place can not be listened at.
    Listen {
        /// The place.
        place: Listen,
        /// What the system says.
        error: io::Error,
    },
    /// io_uring was insisted on and is refused.
    UringRefused {
        /// Why.
        reason: String,
    },
    /// io_uring was insisted on, and to poll was asked for.
    PollNeedsEpoll,
    /// A thread could not be started.
    Thread {
        /// What the system says.
        error: io::Error,
    },
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NowhereToListen => f.write_str("no address to listen at was given"),
            Self::InUse { place } => write!(
                f,
                "{place} is in use by another program: stop that, or choose another address"
            ),
            Self::Listen { place, error } => write!(f, "cannot listen at {place}: {error}"),
            Self::UringRefused { reason } => f.write_str(reason),
            Self::PollNeedsEpoll => f.write_str(
                "polling works with epoll, not with io_uring: ask for epoll, or leave the choice open",
            ),
            Self::Thread { error } => write!(f, "cannot start a server thread: {error}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { error, .. } | Self::Thread { error } => Some(error),
            Self::NowhereToListen
            | Self::InUse { .. }
            | Self::UringRefused { .. }
            | Self::PollNeedsEpoll => None,
        }
    }
}

/// A running server. It stops, fast, when dropped; [`Server::join`] waits for a kinder end.
#[derive(Debug)]
pub struct Server {
    places: Vec<Listen>,
    report: IoReport,
    handle: ServerHandle,
    threads: Vec<JoinHandle<()>>,
}

/// Stops a server from anywhere.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    stage: Arc<watch::Sender<Stage>>,
}

impl ServerHandle {
    /// Tells the server to stop. Returns at once; [`Server::join`] returns when it has.
    ///
    /// A graceful shutdown can be hurried by a fast one, not the other way round.
    pub fn shutdown(&self, how: Shutdown) {
        self.stage.send_if_modified(|stage| {
            let later = Stage::from(how) > *stage;
            if later {
                *stage = how.into();
            }
            later
        });
    }
}

impl Server {
    /// Listens, starts the threads and serves `broker`.
    ///
    /// The broker stays the caller's to close, after [`Server::join`].
    ///
    /// # Errors
    ///
    /// See [`BindError`]; an address in use is tried again for a while first.
    pub fn bind(options: &ServerOptions, broker: &Broker) -> Result<Self, BindError> {
        if options.listen.is_empty() {
            return Err(BindError::NowhereToListen);
        }
        let (way, reason) = choose(options)?;
        let listeners = options
            .listen
            .iter()
            .map(|place| listen(place, options.bind_patience))
            .collect::<Result<Vec<_>, _>>()?;
        let places = listeners
            .iter()
            .map(|listener| listener.place().clone())
            .collect();
        let mut crew = Crew::new();
        let (report, seats) = match crew.hire(way, options, broker) {
            Ok(seats) => (
                IoReport {
                    backend: way.into(),
                    reason,
                },
                seats,
            ),
            Err(error) if way != Way::Epoll && options.io == IoChoice::Auto => {
                crew = Crew::new();
                let seats = crew.hire(Way::Epoll, options, broker).map_err(thread)?;
                (
                    IoReport {
                        backend: Backend::Epoll,
                        reason: probe::refusal(&error),
                    },
                    seats,
                )
            }
            Err(error) if way != Way::Epoll => {
                return Err(BindError::UringRefused {
                    reason: probe::refusal(&error),
                });
            }
            Err(error) => return Err(thread(error)),
        };
        let caps = Caps {
            connections: options.connections_max.min(descriptors_allow()),
            connections_per_address: options.connections_per_address_max,
        };
        crew.start_acceptor(Acceptor::new(seats, caps), listeners)
            .map_err(thread)?;
        let (handle, threads) = crew.settle();
        Ok(Self {
            places,
            report,
            handle,
            threads,
        })
    }

    /// The first TCP address listened at, with the port the system chose.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.places.iter().find_map(|place| match place {
            Listen::Tcp(address) => Some(*address),
            Listen::Unix(_) => None,
        })
    }

    /// All places listened at.
    #[must_use]
    pub fn places(&self) -> &[Listen] {
        &self.places
    }

    /// The way of doing I/O, and why it is that one.
    #[must_use]
    pub const fn io(&self) -> &IoReport {
        &self.report
    }

    /// What stops this server from elsewhere.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Tells the server to stop; see [`ServerHandle::shutdown`].
    pub fn shutdown(&self, how: Shutdown) {
        self.handle.shutdown(how);
    }

    /// Waits until the server has stopped: told to, and all its connections over.
    ///
    /// # Panics
    ///
    /// Passes on the panic of a server thread.
    pub fn join(mut self) {
        for thread in std::mem::take(&mut self.threads) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// Tells the server to stop and waits until it has.
    ///
    /// # Panics
    ///
    /// As [`Server::join`].
    pub fn stop(self, how: Shutdown) {
        self.shutdown(how);
        self.join();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown(Shutdown::Fast);
        for thread in self.threads.drain(..) {
            // A panic was printed where it happened; a drop has nobody to pass it to.
            let _ = thread.join();
        }
    }
}

/// The way of doing I/O that is asked for and possible, and why.
fn choose(options: &ServerOptions) -> Result<(Way, String), BindError> {
    match (options.io, options.poll) {
        (IoChoice::Epoll, _) => return Ok((Way::Epoll, "as asked".to_owned())),
        (IoChoice::Auto, Some(_)) => return Ok((Way::Epoll, "it is to poll".to_owned())),
        (IoChoice::Uring, Some(_)) => return Err(BindError::PollNeedsEpoll),
        (IoChoice::Auto | IoChoice::Uring, None) => {}
    }
    match (probe::probe(), options.io) {
        (Rings::Work(flags), IoChoice::Uring) => Ok((Way::Uring(flags), "as asked".to_owned())),
        (Rings::Work(flags), _) => Ok((Way::Uring(flags), "probed".to_owned())),
        (Rings::Refused(reason), IoChoice::Uring) => Err(BindError::UringRefused { reason }),
        (Rings::Refused(reason), _) => Ok((Way::Epoll, reason)),
    }
}

/// The most connections that leave the broker the descriptors it needs.
fn descriptors_allow() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = limit.current.map_or(usize::MAX, |all| all as usize);
    all.saturating_sub(DESCRIPTORS_RESERVED.min(all / 2))
}

fn listen(place: &Listen, patience: Duration) -> Result<Listener, BindError> {
    Listener::bind(place, patience).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse {
            place: place.clone(),
        },
        _ => BindError::Listen {
            place: place.clone(),
            error,
        },
    })
}

const fn thread(error: io::Error) -> BindError {
    BindError::Thread { error }
}

/// The threads of a server being started. Dropped before it is settled, it stops them.
struct Crew {
    stage: Arc<watch::Sender<Stage>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    fn new() -> Self {
        Self {
            stage: Arc::new(watch::Sender::new(Stage::Serving)),
            threads: Vec::new(),
        }
    }

    /// Starts the I/O threads, each with a thread for its requests.
    fn hire(
        &mut self,
        way: Way,
        options: &ServerOptions,
        broker: &Broker,
    ) -> io::Result<Vec<Seat>> {
        let pools = BufferPools::new();
        let session = SessionOptions::new();
        let mut seats = Vec::new();
        for index in 0..options.thread_count() {
            let (jobs, thread) = JobQueue::start(format!("mill-job-{index}"))?;
            self.threads.push(thread);
            let (deal, dealt) = mpsc::channel(options.connections_max.max(1));
            let post = Post {
                broker: broker.clone(),
                session: session.clone(),
                connections: dealt,
                stage: self.stage.subscribe(),
                pools: pools.clone(),
                jobs,
                drain_time: options.drain_time,
                poll: options.poll,
            };
            self.threads.push(io_thread::start(index, way, post)?);
            seats.push(Seat {
                connections: deal,
                load: Arc::default(),
            });
        }
        Ok(seats)
    }

    fn start_acceptor(&mut self, acceptor: Acceptor, listeners: Vec<Listener>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stage = self.stage.subscribe();
        let thread = Builder::new()
            .name("mill-accept".to_owned())
            .spawn(move || {
                if let Err(error) = runtime.block_on(acceptor.run(listeners, stage)) {
                    tracing::error!(%error, "no connections are accepted any more");
                }
            })?;
        self.threads.push(thread);
        Ok(())
    }

    fn settle(mut self) -> (ServerHandle, Vec<JoinHandle<()>>) {
        let handle = ServerHandle {
            stage: Arc::clone(&self.stage),
        };
        (handle, std::mem::take(&mut self.threads))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        self.stage.send_replace(Stage::Dropping);
        for thread in self.threads.drain(..) {
            // A panic was printed where it happened; the error that led here is the one to report.
            let _ = thread.join();
        }
    }
}

impl From<Way> for Backend {
    fn from(way: Way) -> Self {
        match way {
            Way::Uring(_) => Self::Uring,
            Way::Epoll => Self::Epoll,
        }
    }
}
