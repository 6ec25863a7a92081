//! Publishing: opening a stream, and what was accepted.

use rkyv::{Archive, Serialize};

use super::ControlError;
use super::layout::{Number, Text, append, archived_message, number, offset, topic_name, wrong};
use crate::bytes_at::{u32_at, u64_at};
use crate::limits::{ACK_RUNS_MAX, TOPIC_NAME_BYTES_MAX};
use crate::wire::{MessageKind, StreamId};
use crate::{AckLevel, Durability, Offset, TopicName};

/// Bytes of one run.
const RUN_BYTES: usize = 12;

/// Opens a publisher's stream; answered by a [`PublisherOpened`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct OpenPublisher {
    /// The topic to publish to.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: TopicName,
    /// How safe a record must be before it is acknowledged.
    #[rkyv(with = Number)]
    pub ack: AckLevel,
    /// Whether to create the topic, `synced`, when it is not there.
    pub create: bool,
}

impl OpenPublisher {
    fn read(archived: &ArchivedOpenPublisher) -> Result<Self, ControlError> {
        Ok(Self {
            topic: topic_name(&archived.topic)?,
            ack: number("ack", archived.ack)?,
            create: archived.create,
        })
    }
}

/// The stream is open: publishes may follow, numbered from 1.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct PublisherOpened {
    /// How safe the topic's records are.
    #[rkyv(with = Number)]
    pub durability: Durability,
    /// The offset after the last record readers see.
    #[rkyv(with = Number)]
    pub next_offset: Offset,
}

impl PublisherOpened {
    fn read(archived: &ArchivedPublisherOpened) -> Result<Self, ControlError> {
        Ok(Self {
            durability: number("durability", archived.durability)?,
            next_offset: offset(&archived.next_offset),
        })
    }
}

/// Opens a publisher's stream whose publishes carry a producer; answered by a [`ProducerOpened`].
///
/// Only for a server whose welcome has [`features::PRODUCERS`](super::features::PRODUCERS).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct OpenProducer {
    /// The topic to publish to.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: TopicName,
    /// The producer: it has one sequence in the topic, whoever publishes for it.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub producer: TopicName,
    /// How safe a record must be before it is acknowledged.
    #[rkyv(with = Number)]
    pub ack: AckLevel,
    /// Whether to create the topic, `synced`, when it is not there.
    pub create: bool,
    /// The epoch to go on with, of an instance that was connected before; 0 for a new instance,
    /// which fences those before it.
    pub epoch: u64,
    /// The highest sequence the instance knows to be acknowledged, or 0: what follows is above it.
    pub acknowledged: u64,
}

impl OpenProducer {
    fn read(archived: &ArchivedOpenProducer) -> Result<Self, ControlError> {
        Ok(Self {
            topic: topic_name(&archived.topic)?,
            producer: topic_name(&archived.producer)?,
            ack: number("ack", archived.ack)?,
            create: archived.create,
            epoch: archived.epoch.to_native(),
            acknowledged: archived.acknowledged.to_native(),
        })
    }
}

/// The stream is open: publishes of the producer may follow, numbered from 1.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct ProducerOpened {
    /// How safe the topic's records are.
    #[rkyv(with = Number)]
    pub durability: Durability,
    /// The offset after the last record readers see.
    #[rkyv(with = Number)]
    pub next_offset: Offset,
    /// What the frames are to carry as their producer: not 0.
    pub producer_id: u64,
    /// What the frames are to carry as their epoch: not 0.
    pub epoch: u64,
    /// The sequence of the last record the topic has of the producer; 0: none.
    pub last_sequence: u64,
    /// Whether the producer was remembered; if not, nothing tells what it published before.
    pub known: bool,
}

impl ProducerOpened {
    fn read(archived: &ArchivedProducerOpened) -> Result<Self, ControlError> {
        let opened = Self {
            durability: number("durability", archived.durability)?,
            next_offset: offset(&archived.next_offset),
            producer_id: archived.producer_id.to_native(),
            epoch: archived.epoch.to_native(),
            last_sequence: archived.last_sequence.to_native(),
            known: archived.known,
        };
        for (field, found) in [("producer id", opened.producer_id), ("epoch", opened.epoch)] {
            if found == 0 {
                return Err(wrong(field, found));
            }
        }
        Ok(opened)
    }
}

archived_message!(
    OpenPublisher: OpenPublisher,
    PublisherOpened: PublisherOpened,
    OpenProducer: OpenProducer,
    ProducerOpened: ProducerOpened,
);

/// Publishes in a row whose offsets follow each other without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AckRun {
    /// How many.
    pub publishes: u32,
    /// Whether they were published before, with the same ids or sequences: nothing was added, and
    /// the offsets are those of then.
    pub duplicates: bool,
    /// The offset of the first record of the first.
    pub base_offset: Offset,
}

/// The bit of a run's count that says its publishes are duplicates.
const DUPLICATES_BIT: u32 = 1 << 31;

/// All publishes of a stream up to the correlation are as safe as asked.
///
/// The runs cover those that no acknowledgement before covered, in order. Twelve bytes a run, one
/// run for a window of publishes unless others publish in between; reading allocates nothing.
#[derive(Debug, Clone, Copy)]
pub struct PublishAck<'a> {
    runs: &'a [u8],
}

impl<'a> PublishAck<'a> {
    /// Appends the whole message; `number` is the highest publish acknowledged.
    ///
    /// The caller keeps to [`ACK_RUNS_MAX`] runs, which a full window cannot exceed.
    pub fn encode(runs: &[AckRun], stream: StreamId, number: u64, out: &mut Vec<u8>) {
        append(MessageKind::PublishAck, stream, number, out, |out| {
            for run in runs {
                let bit = if run.duplicates { DUPLICATES_BIT } else { 0 };
                out.extend_from_slice(&(run.publishes | bit).to_le_bytes());
                out.extend_from_slice(&run.base_offset.0.to_le_bytes());
            }
        });
    }

    /// Reads a body.
    ///
    /// # Errors
    ///
    /// No run, too many, half a one, or a run of no publish.
    pub fn decode(body: &'a [u8]) -> Result<Self, ControlError> {
        if body.is_empty() || !body.len().is_multiple_of(RUN_BYTES) {
            return Err(ControlError::Length { found: body.len() });
        }
        if body.len() > ACK_RUNS_MAX * RUN_BYTES {
            let found = body.len() / RUN_BYTES;
            return Err(ControlError::ListTooLong {
                field: "runs",
                found,
            });
        }
        let ack = Self { runs: body };
        if ack.runs().any(|run| run.publishes == 0) {
            return Err(ControlError::Number {
                field: "publishes",
                found: 0,
            });
        }
        Ok(ack)
    }

    /// The runs, in order.
    #[must_use]
    pub fn runs(&self) -> AckRuns<'a> {
        AckRuns { rest: self.runs }
    }
}

/// The runs of an acknowledgement, in order.
#[derive(Debug, Clone)]
pub struct AckRuns<'a> {
    rest: &'a [u8],
}

impl Iterator for AckRuns<'_> {
    type Item = AckRun;

    fn next(&mut self) -> Option<AckRun> {
        let (run, rest) = self.rest.split_first_chunk::<RUN_BYTES>()?;
        self.rest = rest;
        let publishes = u32_at::<0, RUN_BYTES>(run);
        Some(AckRun {
            publishes: publishes & !DUPLICATES_BIT,
            duplicates: publishes & DUPLICATES_BIT != 0,
            base_offset: Offset(u64_at::<4, RUN_BYTES>(run)),
        })
    }
}
