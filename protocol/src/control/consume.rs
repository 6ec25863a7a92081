//! Consuming a queue: opening a stream, windows, work, settling it.
//!
//! What is sent often has a fixed layout: [`Window`], [`Receive`], [`ReceiveOver`], [`Work`],
//! [`Settle`] and [`SettleAck`].

use rkyv::{Archive, Serialize};

use super::ControlError;
use super::layout::{
    Text, append, archived_message, at_most, fixed, positive, text, topic_name, wrong,
};
use crate::TopicName;
use crate::bytes_at::{u32_at, u64_at};
use crate::limits::{
    AGENT_BYTES_MAX, LEASE_MS_MAX, RECEIVE_WAIT_MS_MAX, TOPIC_NAME_BYTES_MAX,
    WORK_WINDOW_BYTES_MAX, WORK_WINDOW_MESSAGES_MAX,
};
use crate::wire::{MessageKind, StreamId};

/// Opens a consumer's stream; answered by a [`ConsumerOpened`], work follows as the window allows.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct OpenConsumer {
    /// The queue to consume.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub queue: TopicName,
    /// Records that may be delivered and not settled at once; 0: none until a window or a receive
    /// says otherwise.
    pub window_messages: u32,
    /// Bytes of such records; 0: as many as there may be.
    pub window_bytes: u64,
    /// How long it has to settle a record; 0: as long as the queue gives.
    pub lease_ms: u32,
    /// What the consumer calls itself, for people.
    #[rkyv(with = Text<AGENT_BYTES_MAX>)]
    pub name: String,
}

impl OpenConsumer {
    fn read(archived: &ArchivedOpenConsumer) -> Result<Self, ControlError> {
        Ok(Self {
            queue: topic_name(&archived.queue)?,
            window_messages: archived.window_messages.to_native(),
            window_bytes: archived.window_bytes.to_native(),
            lease_ms: archived.lease_ms.to_native(),
            name: text("name", &archived.name, AGENT_BYTES_MAX)?,
        })
    }

    /// The window it begins with.
    #[must_use]
    pub const fn window(&self) -> Window {
        Window {
            messages: self.window_messages,
            bytes: self.window_bytes,
        }
    }
}

/// The stream is open.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct ConsumerOpened {
    /// Tells the queue from others that had its name before; settles name it.
    pub queue_id: u32,
    /// Tells this run of the broker from others; settles name it.
    pub boot_epoch: u32,
    /// The consumer, as lists of leases show it.
    pub consumer: u64,
    /// How long it has to settle a record.
    pub lease_ms: u32,
    /// The topic whose records the queue delivers.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: TopicName,
}

impl ConsumerOpened {
    fn read(archived: &ArchivedConsumerOpened) -> Result<Self, ControlError> {
        Ok(Self {
            queue_id: archived.queue_id.to_native(),
            boot_epoch: archived.boot_epoch.to_native(),
            consumer: archived.consumer.to_native(),
            lease_ms: positive("lease ms", &archived.lease_ms)?,
            topic: topic_name(&archived.topic)?,
        })
    }
}

archived_message!(OpenConsumer: OpenConsumer, ConsumerOpened: ConsumerOpened);

/// Sets what may be delivered and not settled at once. A fixed layout of 12 bytes:
///
/// ```text
///  0 u32 messages    4 u64 bytes
/// ```
/// The window is that of this message, whatever it was before; what is out stays out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Records; 0 stops deliveries.
    pub messages: u32,
    /// Bytes of their bodies; 0: as many as there may be. One record is always allowed.
    pub bytes: u64,
}

impl Window {
    const LEN: usize = 12;

    /// Appends the whole message.
    pub fn encode(&self, stream: StreamId, correlation: u64, out: &mut Vec<u8>) {
        append(MessageKind::Window, stream, correlation, out, |out| {
            out.extend_from_slice(&self.messages.to_le_bytes());
            out.extend_from_slice(&self.bytes.to_le_bytes());
        });
    }

    /// Reads a body.
    ///
    /// # Errors
    ///
    /// Not twelve bytes, or a window over its limit.
    pub fn decode(body: &[u8]) -> Result<Self, ControlError> {
        const LEN: usize = Window::LEN;
        let bytes: &[u8; LEN] = fixed(body)?;
        let window = Self {
            messages: u32_at::<0, LEN>(bytes),
            bytes: u64_at::<4, LEN>(bytes),
        };
        window.check()?;
        Ok(window)
    }

    /// Whether a consumer may have such a window.
    ///
    /// # Errors
    ///
    /// The field over its limit.
    pub fn check(&self) -> Result<(), ControlError> {
        at_most(
            "messages",
            self.messages.into(),
            WORK_WINDOW_MESSAGES_MAX.into(),
        )?;
        at_most("bytes", self.bytes, WORK_WINDOW_BYTES_MAX)
    }
}

/// Asks once for records, apart from the window. A fixed layout of 20 bytes:
///
/// ```text
///  0 u32 messages    4 u64 bytes    12 u32 wait ms    16 u32 lease ms
/// ```
/// As many as there are come at once, at least one; then a [`ReceiveOver`] of the same
/// correlation, or that alone when there was none in time. One at a time on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receive {
    /// At most so many records.
    pub messages: u32,
    /// At most so many bytes of their bodies, but one record in any case; 0: as many as there may
    /// be.
    pub bytes: u64,
    /// How long to wait for the first.
    pub wait_ms: u32,
    /// How long the consumer has to settle them; 0: as long as it has otherwise.
    pub lease_ms: u32,
}

impl Receive {
    const LEN: usize = 20;

    /// Appends the whole message.
    pub fn encode(&self, stream: StreamId, correlation: u64, out: &mut Vec<u8>) {
        append(MessageKind::Receive, stream, correlation, out, |out| {
            out.extend_from_slice(&self.messages.to_le_bytes());
            out.extend_from_slice(&self.bytes.to_le_bytes());
            out.extend_from_slice(&self.wait_ms.to_le_bytes());
            out.extend_from_slice(&self.lease_ms.to_le_bytes());
        });
    }

    /// Reads a body.
    ///
    /// # Errors
    ///
    /// Not twenty bytes, a number over its limit, or a receive of no message.
    pub fn decode(body: &[u8]) -> Result<Self, ControlError> {
        const LEN: usize = Receive::LEN;
        let bytes: &[u8; LEN] = fixed(body)?;
        let receive = Self {
            messages: u32_at::<0, LEN>(bytes),
            bytes: u64_at::<4, LEN>(bytes),
            wait_ms: u32_at::<12, LEN>(bytes),
            lease_ms: u32_at::<16, LEN>(bytes),
        };
        if receive.messages == 0 {
            return Err(wrong("messages", 0));
        }
        at_most(
            "messages",
            receive.messages.into(),
            WORK_WINDOW_MESSAGES_MAX.into(),
        )?;
        at_most("bytes", receive.bytes, WORK_WINDOW_BYTES_MAX)?;
        at_most(
            "wait ms",
            receive.wait_ms.into(),
            RECEIVE_WAIT_MS_MAX.into(),
        )?;
        at_most("lease ms", receive.lease_ms.into(), LEASE_MS_MAX.into())?;
        Ok(receive)
    }
}

/// A receive has got all it will get. A fixed layout: one u32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReceiveOver {
    /// The records it got: those delivered since, at most as many as it asked for.
    pub granted: u32,
}

impl ReceiveOver {
    /// Appends the whole message; the correlation is that of the receive.
    pub fn encode(&self, stream: StreamId, correlation: u64, out: &mut Vec<u8>) {
        append(MessageKind::ReceiveOver, stream, correlation, out, |out| {
            out.extend_from_slice(&self.granted.to_le_bytes());
        });
    }

    /// Reads a body.
    ///
    /// # Errors
    ///
    /// Not four bytes, or more than can be asked for.
    pub fn decode(body: &[u8]) -> Result<Self, ControlError> {
        let granted = u32::from_le_bytes(*fixed(body)?);
        at_most("granted", granted.into(), WORK_WINDOW_MESSAGES_MAX.into())?;
        Ok(Self { granted })
    }
}
