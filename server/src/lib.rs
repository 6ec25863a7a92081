//! The Millstream server: connections, and the sessions behind them.
//!
//! A [`Session`] is bytes in, bytes and effects out; it knows no socket and no clock. One acceptor
//! deals connections out to I/O threads, each with a runtime of its own: io_uring where the kernel
//! allows it, epoll elsewhere. A message crosses no thread between its socket and the log.
//!
//! ```no_run
//! use millstream::Broker;
//! use millstream_server::{Server, ServerOptions, Shutdown};
//!
//! let broker = Broker::open("data")?;
//! let options = ServerOptions::new().listen("127.0.0.1:7411".parse()?);
//! let server = Server::bind(&options, &broker)?;
//! println!("{} on {:?}", server.io(), server.local_addr());
//! server.stop(Shutdown::Graceful);
//! broker.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod accept;
mod awake;
mod budget;
mod buffers;
mod connection;
mod control;
mod epoll;
mod io_thread;
mod jobs;
mod limits;
mod listen;
mod output;
mod probe;
mod refusal;
#[expect(
    unsafe_code,
    reason = "the only module that may: memory lent to the kernel"
)]
mod ring_buffers;
mod server;
mod session;
mod socket;
mod uring;

pub use control::Shutdown;
pub use listen::{Listen, ListenError};
pub use output::Out;
pub use probe::{Backend, IoChoice, IoReport, io_uring_refusal};
pub use server::{BindError, Server, ServerHandle, ServerOptions};
pub use session::{Closed, Job, JobDone, Received, Session, SessionOptions};
