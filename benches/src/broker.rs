//! What a load is put on: Millstream's server, and whoever else speaks by these traits.
//!
//! Every publisher and receiver has a connection of its own and is used by one thread, which blocks.
//! How a broker batches and acknowledges is its driver's affair; the generator counts messages.

mod line;
mod millstream;
mod nats;
mod peer;
mod process;
mod rabbitmq;
mod redis;

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream_client::Address;

use crate::load::Target;

pub use millstream::Millstream;
pub(crate) use millstream::address_in;
pub use nats::Nats;
pub use peer::{PEERS, Peer};
pub use process::{NotInstalled, Process};
pub use rabbitmq::RabbitMq;
pub use redis::{Persistence, Redis};

/// What a driver fails with: whatever its broker said.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What receivers do with a topic's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Each receiver gets all of them, from the first on.
    Stream,
    /// Each message goes to one receiver, which acknowledges it by itself.
    Queue,
}

/// A broker under load.
pub trait Broker: Sync {
    /// What it is.
    fn target(&self) -> Target;

    /// Its process, where it has one of its own.
    fn pid(&self) -> Option<u32>;

    /// How long it took from its start until it was ready, where it was started here.
    fn took(&self) -> Option<Duration> {
        None
    }

    /// The folder of its data, where it is on this machine.
    fn folder(&self) -> Option<&Path> {
        None
    }

    /// Where to reach it by Millstream's own protocol.
    fn address(&self) -> Option<&Address> {
        None
    }

    /// Makes a topic, or whatever holds messages there.
    ///
    /// # Errors
    ///
    /// What the broker said.
    fn create(&self, topic: &str, kind: Kind) -> Result<(), Failure>;

    /// Removes it again, with all that is in it.
    ///
    /// # Errors
    ///
    /// What the broker said.
    fn remove(&self, topic: &str) -> Result<(), Failure>;

    /// A publisher with a connection of its own, which sends `batch` messages as one where that exists.
    ///
    /// # Errors
    ///
    /// What the broker said.
    fn publisher(&self, topic: &str, batch: usize) -> Result<Box<dyn Publish>, Failure>;

    /// A receiver with a connection of its own.
    ///
    /// # Errors
    ///
    /// What the broker said.
    fn receiver(&self, topic: &str, kind: Kind) -> Result<Box<dyn Receive>, Failure>;
}

/// Sends messages and hears of their acknowledgements, in order.
pub trait Publish {
    /// Sends the messages that lie one behind the other in `messages`, of `message_bytes` each.
    ///
    /// # Errors
    ///
    /// What the broker said; some may have been sent.
    fn send(&mut self, messages: &[u8], message_bytes: usize) -> Result<(), Failure>;

    /// How many more messages are acknowledged since the last call; waits for the first at most `wait`.
    ///
    /// # Errors
    ///
    /// What the broker said, of a message that was refused as well.
    fn acknowledged(&mut self, wait: Duration) -> Result<u64, Failure>;
}

/// Receives messages.
pub trait Receive {
    /// Hands each message that came to `take`, waiting for the first at most `wait`; gives their number.
    /// From a queue each is acknowledged once it was taken.
    ///
    /// # Errors
    ///
    /// What the broker said.
    fn receive(&mut self, wait: Duration, take: &mut dyn FnMut(&[u8])) -> Result<u64, Failure>;

    /// Messages in front of the last received that the broker had let go, as it was told to, before they were
    /// asked for.
    fn let_go(&self) -> u64 {
        0
    }

    /// Leaves once the broker has all acknowledgements.
    ///
    /// # Errors
    ///
    /// What the broker said.
    fn finish(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A port that is free now; brokers that can't take one themselves are told it.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A number that nobody else in this process gets.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Relaxed: it orders nothing.
    NEXT.fetch_add(1, Ordering::Relaxed)
}
