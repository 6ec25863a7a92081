//! Who else is measured, by name.

use std::path::Path;
use std::str::FromStr;

use super::{Broker, Failure, Nats, Persistence, RabbitMq, Redis};

/// Another broker in one of its forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Redis streams, in memory: its default without snapshots.
    Redis,
    /// Redis streams with an append-only file that is synced each second.
    RedisAof,
    /// Redis streams with an append-only file that is synced before each answer.
    RedisAlways,
    /// NATS JetStream on files, synced every two minutes: its default.
    Nats,
    /// NATS JetStream on files, synced before each acknowledgement.
    NatsSynced,
    /// RabbitMQ with durable classic queues: its default.
    RabbitMq,
    /// RabbitMQ with quorum queues of one member, which sync before they confirm.
    RabbitMqQuorum,
}

/// All of them, with their names.
pub const PEERS: [(&str, Peer); 7] = [
    ("redis", Peer::Redis),
    ("redis-aof", Peer::RedisAof),
    ("redis-always", Peer::RedisAlways),
    ("nats", Peer::Nats),
    ("nats-synced", Peer::NatsSynced),
    ("rabbitmq", Peer::RabbitMq),
    ("rabbitmq-quorum", Peer::RabbitMqQuorum),
];

impl Peer {
    /// Starts it, or `program` in its stead, on loopback and in a folder of its own below `parent`. It
    /// is stopped with the value.
    ///
    /// # Errors
    ///
    /// It is not installed, or did not start.
    pub fn start(self, program: Option<&Path>, parent: &Path) -> Result<Box<dyn Broker>, Failure> {
        Ok(match self {
            Self::Redis => Box::new(Redis::start(program, parent, Persistence::Memory)?),
            Self::RedisAof => Box::new(Redis::start(program, parent, Persistence::EverySecond)?),
            Self::RedisAlways => Box::new(Redis::start(program, parent, Persistence::Always)?),
            Self::Nats => Box::new(Nats::start(program, parent, false)?),
            Self::NatsSynced => Box::new(Nats::start(program, parent, true)?),
            Self::RabbitMq => Box::new(RabbitMq::start(program, parent, false)?),
            Self::RabbitMqQuorum => Box::new(RabbitMq::start(program, parent, true)?),
        })
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = PEERS.iter().find(|(name, _)| *name == text);
        found.map(|(_, peer)| *peer).ok_or_else(|| {
            let names: Vec<&str> = PEERS.iter().map(|(name, _)| *name).collect();
            format!("{text}: the others are {}", names.join(", "))
        })
    }
}
