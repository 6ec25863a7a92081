//! `millstream serve`: opens the folder, serves it until told to stop, and says what happens.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal};
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use millstream::{Broker, BrokerOptions, LogRecovery, OpenError};
use millstream_server::{
    BindError, IoChoice, Listen, Server, ServerHandle, ServerOptions, Shutdown,
};
use millstream_storage::{LockError, ManifestError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

use crate::args::{Io, ServeArgs};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// How long an address in use is tried again: that of a killed server is for a moment.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(20);

/// One thing that happened to the server, as `--json` prints it.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    /// It serves: the first event of all.
    Ready(Ready<'a>),
    /// A topic was open at an unclean stop and was recovered.
    Recovered(Recovered<'a>),
    /// It was told to stop.
    Stopping { signal: &'a str, how: &'a str },
    /// It has stopped, and the folder is clean.
    Stopped,
}

/// What the server is, once it is ready.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    listen: String,
    addresses: Vec<String>,
    version: &'a str,
    pid: u32,
    data: PathBuf,
    folder_id: String,
    boot_epoch: u32,
    durability: &'a str,
    io: IoObject,
    topics: usize,
}

#[derive(Debug, Serialize)]
struct IoObject {
    backend: String,
    reason: String,
}

/// What recovery found in one topic.
#[derive(Debug, Serialize)]
struct Recovered<'a> {
    topic: &'a str,
    kept_records: u64,
    end_offset: u64,
    next_offset: u64,
    cut_bytes: u64,
    possibly_acknowledged: bool,
    damaged: Vec<DamagedObject>,
}

#[derive(Debug, Serialize)]
struct DamagedObject {
    first_offset: u64,
    next_offset: u64,
}

/// Serves until a signal says to stop.
pub(crate) fn run(args: &ServeArgs, output: Output) -> Result<(), Failure> {
    start_logging(args, output)?;
    let options = options(args)?;
    let signals = Signals::new([SIGTERM, SIGINT]).map_err(|error| {
        Failure::new(Exit::Failed, format_args!("cannot take signals: {error}"))
    })?;
    allow_many_connections();
    // Before the folder is touched: a start that cannot succeed changes nothing.
    for place in &options.listen {
        wait_until_free(place)?;
    }
    let opened = BrokerOptions::new().catch_page_faults().open(&args.data);
    let broker = opened.map_err(|error| open_failure(args, &error))?;
    let server = Server::bind(&options.server, &broker).map_err(|error| bind_failure(&error))?;
    announce(args, output, &broker, &server);
    let handle = server.handle();
    thread::Builder::new()
        .name("mill-signals".to_owned())
        .spawn(move || obey(signals, &handle, output))
        .map_err(|error| {
            Failure::new(Exit::Failed, format_args!("cannot start a thread: {error}"))
        })?;
    server.join();
    broker
        .close()
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    say(
        output,
        &Event::Stopped,
        "stopped; everything acknowledged is on disk",
    );
    Ok(())
}

/// Prints an event. That nobody listens is no reason for a server to stop.
fn say(output: Output, event: &Event<'_>, text: impl Display) {
    if let Err(failure) = output.line(event, format_args!("{text}")) {
        failure.report(output.is_json());
    }
}

fn start_logging(args: &ServeArgs, output: Output) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|error| Failure::new(Exit::Usage, format_args!("--log {}: {error}", args.log)))?;
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = if output.is_json() {
        logger.json().try_init()
    } else {
        logger.try_init()
    };
    started.map_err(|error| Failure::new(Exit::Failed, error))
}

/// Where to listen, and how.
struct Options {
    listen: Vec<Listen>,
    server: ServerOptions,
}

fn options(args: &ServeArgs) -> Result<Options, Failure> {
    let usage = |error| Failure::new(Exit::Usage, format_args!("--listen: {error}"));
    let listen: Vec<Listen> = args
        .listen
        .iter()
        .map(|place| place.parse())
        .collect::<Result<_, _>>()
        .map_err(usage)?;
    let io = match args.io {
        Io::Auto => IoChoice::Auto,
        Io::Uring => IoChoice::Uring,
        Io::Epoll => IoChoice::Epoll,
    };
    let mut server = ServerOptions::new().io(io).bind_patience(PATIENCE);
    if let Some(time) = args.poll {
        if io == IoChoice::Uring {
            return Err(bind_failure(&BindError::PollNeedsEpoll));
        }
        server = server.poll(time);
    }
    if let Some(threads) = args.threads {
        server = server.threads(threads.get());
    }
    let server = listen.iter().cloned().fold(server, ServerOptions::listen);
    Ok(Options { listen, server })
}

/// Lets the process have as many descriptors as the system allows; each connection takes one.
fn allow_many_connections() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        )
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn wait_until_free(place: &Listen) -> Result<(), Failure> {
    let Listen::Tcp(address) = place else {
        return Ok(());
    };
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                if Instant::now() >= until {
                    return Err(bind_failure(&BindError::InUse {
                        place: place.clone(),
                    }));
                }
                thread::sleep(RETRY);
            }
            // Any other error is told by whoever binds in earnest.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}

fn open_failure(args: &ServeArgs, error: &OpenError) -> Failure {
    let exit = match error {
        OpenError::Lock(LockError::InUse { .. }) => Exit::Conflict,
        OpenError::Manifest(ManifestError::Corrupt { .. } | ManifestError::Invalid { .. }) => {
            Exit::Damaged
        }
        _ => Exit::Failed,
    };
    match error {
        OpenError::Lock(error) => Failure::new(exit, error),
        error => Failure::new(
            exit,
            format_args!("cannot open {}: {error}", args.data.display()),
        ),
    }
}

fn bind_failure(error: &BindError) -> Failure {
    let exit = match error {
        BindError::InUse { .. } => Exit::Conflict,
        BindError::PollNeedsEpoll => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, error)
}

fn announce(args: &ServeArgs, output: Output, broker: &Broker, server: &Server) {
    let addresses: Vec<String> = server.places().iter().map(ToString::to_string).collect();
    let data = std::path::absolute(&args.data).unwrap_or_else(|_| args.data.clone());
    let io = server.io();
    let text = format!(
        "millstream {version}\n  data        {data}\n  listening   {listening}\n  \
         durability  synced: what is acknowledged is on disk, unless a topic says stored\n  \
         i/o         {io}",
        version = env!("CARGO_PKG_VERSION"),
        data = data.display(),
        listening = addresses.join(", "),
    );
    let ready = Event::Ready(Ready {
        listen: addresses.first().cloned().unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        folder_id: broker
            .folder_id()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        boot_epoch: broker.boot_epoch(),
        durability: "synced",
        io: IoObject {
            backend: io.backend.to_string(),
            reason: io.reason.clone(),
        },
        topics: broker.topics().len(),
        addresses,
        data,
    });
    say(output, &ready, text);
    for recovery in broker.recovery() {
        say(output, &Event::Recovered(Recovered::of(recovery)), recovery);
    }
}

impl<'a> Recovered<'a> {
    fn of(recovery: &'a LogRecovery) -> Self {
        let damaged = recovery.damaged.iter().map(|(first, next)| DamagedObject {
            first_offset: first.0,
            next_offset: next.0,
        });
        Self {
            topic: recovery.topic.as_str(),
            kept_records: recovery.kept_records,
            end_offset: recovery.end_offset.0,
            next_offset: recovery.next_offset.0,
            cut_bytes: recovery.cut_bytes,
            possibly_acknowledged: recovery.possibly_acknowledged,
            damaged: damaged.collect(),
        }
    }
}

/// Stops the server at the first signal once it has finished its work, at the second at once.
fn obey(mut signals: Signals, handle: &ServerHandle, output: Output) {
    let mut told = false;
    for signal in signals.forever() {
        let signal = if signal == SIGINT {
            "SIGINT"
        } else {
            "SIGTERM"
        };
        let (how, stage, text) = if told {
            ("fast", Shutdown::Fast, "stopping at once")
        } else {
            (
                "graceful",
                Shutdown::Graceful,
                "stopping; once more to drop all connections",
            )
        };
        told = true;
        handle.shutdown(stage);
        say(
            output,
            &Event::Stopping { signal, how },
            format_args!("{signal}: {text}"),
        );
    }
}
