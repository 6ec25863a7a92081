//! What the scheduler asks for.

use millstream_protocol::Offset;

use super::entry::Entry;
use super::input::{ConsumerId, LeaseNumber};

/// Something to do; carried out in order, once the round's entries are in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Records for a consumer.
    Deliver(Grant),
    /// What became of a settle: always told when it has a tag, else only when it was refused.
    Settled {
        consumer: ConsumerId,
        tag: u64,
        /// So many, whose tags follow each other, came to the same.
        count: u32,
        result: Result<(), SettleRefusal>,
    },
    /// A pull is over; its grants came before.
    ReceiveOver { consumer: ConsumerId, granted: u32 },
    /// What must last.
    Journal(Entry),
    /// Too many are delayed to keep in memory: these, due last, are for the far store.
    Far { entries: Vec<FarEntry> },
}

/// A run of records leased to one consumer under one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) consumer: ConsumerId,
    pub(crate) first: Offset,
    /// At most [`RUN_MAX`](super::leases::RUN_MAX); more than one only when they were never delivered.
    pub(crate) count: u32,
    /// This delivery is the so manieth that counts.
    pub(crate) attempts: u16,
    pub(crate) lease: LeaseNumber,
    /// When the lease ends, in boot time.
    pub(crate) until_boot_us: u64,
    /// The first delivery that counted, in wall time; 0: this is the first.
    pub(crate) first_us: u64,
}

/// Why a settle changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SettleRefusal {
    /// The lease ended, was another's, or never was.
    LeaseLost,
}

/// All that is known of one record that is not in a run of plain ones. In the far store it is a
/// record due late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FarEntry {
    /// Not before, in wall time; 0: at once.
    pub(crate) due_us: u64,
    pub(crate) offset: Offset,
    /// First and last delivery that counted, in wall time; 0: none.
    pub(crate) first_us: u64,
    pub(crate) last_us: u64,
    pub(crate) append_us: u64,
    /// Not from then on, in wall time; 0: never expires.
    pub(crate) expires_us: u64,
    /// 0: none.
    pub(crate) group: u64,
    pub(crate) bytes: u32,
    /// Deliveries that counted.
    pub(crate) attempts: u16,
    pub(crate) priority: u8,
}

impl FarEntry {
    /// Bytes of an entry in the far store.
    pub(crate) const BYTES: usize = 64;

    /// The entry as the far store keeps it: its fields in their order, little-endian, and a zero.
    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [
            self.due_us,
            self.offset.0,
            self.first_us,
            self.last_us,
            self.append_us,
            self.expires_us,
            self.group,
            u64::from(self.bytes) | u64::from(self.attempts) << 32 | u64::from(self.priority) << 48,
        ];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) made.
    pub(crate) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut words = [0; 8];
        for (word, place) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*place);
        }
        let [
            due_us,
            offset,
            first_us,
            last_us,
            append_us,
            expires_us,
            group,
            small,
        ] = words;
        let [b0, b1, b2, b3, a0, a1, priority, _] = small.to_le_bytes();
        Self {
            due_us,
            offset: Offset(offset),
            first_us,
            last_us,
            append_us,
            expires_us,
            group,
            bytes: u32::from_le_bytes([b0, b1, b2, b3]),
            attempts: u16::from_le_bytes([a0, a1]),
            priority,
        }
    }
}

/// When the scheduler wants a `Tick`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wake {
    /// At this boot time at the latest.
    pub(crate) boot_us: Option<u64>,
    /// At this wall time at the latest.
    pub(crate) wall_us: Option<u64>,
}
