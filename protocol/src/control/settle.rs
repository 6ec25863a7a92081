//! Settling: what became of work, and what could not be settled.

use super::ControlError;
use super::layout::{append, at_most, wrong};
use crate::Offset;
use crate::bytes_at::{put, u8_at, u16_at, u32_at, u64_at};
use crate::coded::coded_enum;
use crate::limits::{
    BACKOFF_MS_MAX, LEASE_MS_MAX, REASON_BYTES_MAX, SETTLE_ENTRY_BYTES, SETTLE_FAULTS_MAX,
    SETTLE_PRELUDE_BYTES, SETTLES_MAX,
};
use crate::wire::{MessageKind, StreamId};

const LEN: usize = SETTLE_ENTRY_BYTES;
const PRELUDE: usize = SETTLE_PRELUDE_BYTES;
/// Bytes of what stands before the faults of an acknowledgement.
const THROUGH_BYTES: usize = 8;
/// Bytes of one fault.
const FAULT_BYTES: usize = 16;

coded_enum! {
    /// What is to become of a record that was delivered.
    pub enum SettleVerb: u8 {
        /// It is done with.
        Ack = 1,
        /// It is to be delivered again when the queue's back-off says so.
        Retry = 2,
        /// It is to be delivered again after the argument.
        RetryAfter = 3,
        /// It is not to be delivered again: a dead letter, for the reason in the text.
        Reject = 4,
        /// It is given back as if it had not been delivered.
        Release = 5,
        /// It stays leased, for the argument from now on; 0: for its lease again.
        Extend = 6,
    }
}

/// One record of a [`Settle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SettleEntry<'a> {
    /// Its number in the queue's topic.
    pub offset: Offset,
    /// The lease it was delivered with.
    pub lease: u64,
    /// What is to become of it.
    pub verb: SettleVerb,
    /// The time a [`SettleVerb::RetryAfter`] or [`SettleVerb::Extend`] names; else 0.
    pub arg_us: u64,
    /// Why a [`SettleVerb::Reject`], at most [`REASON_BYTES_MAX`] bytes; else empty.
    pub text: &'a str,
}

impl SettleEntry<'_> {
    /// The bytes it takes in a message.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        LEN + self.text().len()
    }

    /// As much of the text as a message takes.
    fn text(&self) -> &str {
        let end = self.text.floor_char_boundary(REASON_BYTES_MAX);
        self.text.get(..end).unwrap_or_default()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let text = self.text();
        let text_bytes = u16::try_from(text.len()).unwrap_or(u16::MAX);
        let mut bytes = [0; LEN];
        put::<0, 8, LEN>(&mut bytes, self.offset.0.to_le_bytes());
        put::<8, 8, LEN>(&mut bytes, self.lease.to_le_bytes());
        put::<16, 8, LEN>(&mut bytes, self.arg_us.to_le_bytes());
        put::<24, 1, LEN>(&mut bytes, [self.verb.code()]);
        put::<26, 2, LEN>(&mut bytes, text_bytes.to_le_bytes());
        out.extend_from_slice(&bytes);
        out.extend_from_slice(text.as_bytes());
    }
}

/// The first entry of some, and what follows it.
fn split_entry(bytes: &[u8]) -> Result<(SettleEntry<'_>, &[u8]), ControlError> {
    let length = ControlError::Length { found: bytes.len() };
    let Some((entry, rest)) = bytes.split_first_chunk::<LEN>() else {
        return Err(length);
    };
    let code = u8_at::<24, LEN>(entry);
    let verb = SettleVerb::from_code(code).ok_or(wrong("verb", code.into()))?;
    let reserved = u64::from(u8_at::<25, LEN>(entry)) + u64::from(u32_at::<28, LEN>(entry));
    if reserved != 0 {
        return Err(wrong("reserved bytes of a settle", reserved));
    }
    let arg_us = u64_at::<16, LEN>(entry);
    let arg_us_max = match verb {
        SettleVerb::RetryAfter => 1000 * u64::from(BACKOFF_MS_MAX),
        SettleVerb::Extend => 1000 * u64::from(LEASE_MS_MAX),
        _ => 0,
    };
    at_most("argument", arg_us, arg_us_max)?;
    let bytes = usize::from(u16_at::<26, LEN>(entry));
    let bytes_max = match verb {
        SettleVerb::Reject => REASON_BYTES_MAX,
        _ => 0,
    };
    let field = "reason";
    if bytes > bytes_max {
        return Err(ControlError::TextTooLong {
            field,
            bytes,
            bytes_max,
        });
    }
    let (text, rest) = rest.split_at_checked(bytes).ok_or(length)?;
    let text = str::from_utf8(text).map_err(|_| ControlError::TextNotUtf8 { field })?;
    let entry = SettleEntry {
        offset: Offset(u64_at::<0, LEN>(entry)),
        lease: u64_at::<8, LEN>(entry),
        verb,
        arg_us,
        text,
    };
    Ok((entry, rest))
}

/// Whose leases a [`Settle`] is about, as [`super::ConsumerOpened`] said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leaser {
    /// The queue.
    pub queue_id: u32,
    /// The run of the broker.
    pub boot_epoch: u32,
}

/// What became of some records. A fixed layout:
///
/// ```text
///  0 u32 queue id    4 u32 boot epoch    8 u32 count    12 u32 0
/// 16 count x:   0 u64 offset    8 u64 lease    16 u64 argument in microseconds
///              24 u8 verb      25 u8 0         26 u16 bytes of text    28 u32 0    32 text
/// ```
/// The settles of a stream are numbered from 1; the correlation is the number of the first here.
#[derive(Debug, Clone, Copy)]
pub struct Settle<'a> {
    /// Whose leases.
    pub leaser: Leaser,
    entries: &'a [u8],
    count: u32,
}

impl<'a> Settle<'a> {
    /// Appends the whole message; `first` is the number of its first entry.
    ///
    /// The caller keeps to [`SETTLES_MAX`] entries and to the bytes of such a message; reasons are
    /// cut to their limit.
    pub fn encode<'e>(
        leaser: Leaser,
        entries: impl IntoIterator<Item = SettleEntry<'e>>,
        stream: StreamId,
        first: u64,
        out: &mut Vec<u8>,
    ) {
        append(MessageKind::Settle, stream, first, out, |out| {
            let start = out.len();
            let mut prelude = [0; PRELUDE];
            put::<0, 4, PRELUDE>(&mut prelude, leaser.queue_id.to_le_bytes());
            put::<4, 4, PRELUDE>(&mut prelude, leaser.boot_epoch.to_le_bytes());
            out.extend_from_slice(&prelude);
            let mut count: u32 = 0;
            for entry in entries {
                entry.encode(out);
                count += 1;
            }
            put::<8, 4, PRELUDE>(&mut prelude, count.to_le_bytes());
            if let Some(place) = out.get_mut(start..start + PRELUDE) {
                place.copy_from_slice(&prelude);
            }
        });
    }

    /// Reads a body; allocates nothing.
    ///
    /// # Errors
    ///
    /// The first field that is not as it must be.
    pub fn decode(body: &'a [u8]) -> Result<Self, ControlError> {
        let Some((prelude, entries)) = body.split_first_chunk::<PRELUDE>() else {
            return Err(ControlError::Length { found: body.len() });
        };
        let count = u32_at::<8, PRELUDE>(prelude);
        let reserved = u32_at::<12, PRELUDE>(prelude);
        if reserved != 0 {
            return Err(wrong("reserved bytes 12..16", reserved.into()));
        }
        if count == 0 {
            return Err(wrong("count", 0));
        }
        at_most("count", count.into(), SETTLES_MAX as u64)?;
        let mut rest = entries;
        for _ in 0..count {
            (_, rest) = split_entry(rest)?;
        }
        if !rest.is_empty() {
            return Err(ControlError::Length { found: body.len() });
        }
        let leaser = Leaser {
            queue_id: u32_at::<0, PRELUDE>(prelude),
            boot_epoch: u32_at::<4, PRELUDE>(prelude),
        };
        Ok(Self {
            leaser,
            entries,
            count,
        })
    }

    /// The entries, in order.
    #[must_use]
    pub const fn entries(&self) -> SettleEntries<'a> {
        SettleEntries { rest: self.entries }
    }

    /// How many there are, at least one.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }
}

/// The entries of a [`Settle`], in order.
#[derive(Debug, Clone)]
pub struct SettleEntries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for SettleEntries<'a> {
    type Item = SettleEntry<'a>;

    fn next(&mut self) -> Option<SettleEntry<'a>> {
        let (entry, rest) = split_entry(self.rest).ok()?;
        self.rest = rest;
        Some(entry)
    }
}

coded_enum! {
    /// Why a record was not settled.
    pub enum SettleFault: u8 {
        /// The lease is over: it ran out, was settled before, or is of another run of the broker.
        LeaseLost = 1,
        /// The queue was deleted.
        QueueGone = 2,
    }
}

/// A settle that did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FaultEntry {
    /// Its number.
    pub number: u64,
    /// Why.
    pub fault: SettleFault,
}

/// All settles of a stream up to a number are on disk, but those listed. A fixed layout:
///
/// ```text
///  0 u64 through    8 n x 16:  0 u64 number    8 u8 fault    9 7 x 0
/// ```
/// Faults are listed by rising number; they lie behind the acknowledgement before.
#[derive(Debug, Clone, Copy)]
pub struct SettleAck<'a> {
    /// The highest number that is answered.
    pub through: u64,
    faults: &'a [u8],
}

impl<'a> SettleAck<'a> {
    /// Appends the whole message.
    ///
    /// The caller keeps to [`SETTLE_FAULTS_MAX`], and answers the rest in a next one.
    pub fn encode(through: u64, faults: &[FaultEntry], stream: StreamId, out: &mut Vec<u8>) {
        append(MessageKind::SettleAck, stream, 0, out, |out| {
            out.extend_from_slice(&through.to_le_bytes());
            for FaultEntry { number, fault } in faults {
                let mut bytes = [0; FAULT_BYTES];
                put::<0, 8, FAULT_BYTES>(&mut bytes, number.to_le_bytes());
                put::<8, 1, FAULT_BYTES>(&mut bytes, [fault.code()]);
                out.extend_from_slice(&bytes);
            }
        });
    }

    /// Reads a body; allocates nothing.
    ///
    /// # Errors
    ///
    /// A length no such message has, or the first fault that is not as it must be.
    pub fn decode(body: &'a [u8]) -> Result<Self, ControlError> {
        let length = ControlError::Length { found: body.len() };
        let Some((through, faults)) = body.split_first_chunk::<THROUGH_BYTES>() else {
            return Err(length);
        };
        let through = u64::from_le_bytes(*through);
        if !faults.len().is_multiple_of(FAULT_BYTES) {
            return Err(length);
        }
        if faults.len() > SETTLE_FAULTS_MAX * FAULT_BYTES {
            let found = faults.len() / FAULT_BYTES;
            return Err(ControlError::ListTooLong {
                field: "faults",
                found,
            });
        }
        if through == 0 {
            return Err(wrong("through", 0));
        }
        let mut before = 0;
        for fault in faults.as_chunks::<FAULT_BYTES>().0 {
            let word = u64_at::<8, FAULT_BYTES>(fault);
            // The fault's code and its seven reserved bytes.
            if u8::try_from(word)
                .ok()
                .and_then(SettleFault::from_code)
                .is_none()
            {
                return Err(wrong("fault", word));
            }
            let number = u64_at::<0, FAULT_BYTES>(fault);
            if number <= before || number > through {
                return Err(wrong("number", number));
            }
            before = number;
        }
        Ok(Self { through, faults })
    }

    /// The settles up to [`Self::through`] that did nothing, by rising number.
    #[must_use]
    pub const fn faults(&self) -> Faults<'a> {
        Faults { rest: self.faults }
    }
}

/// The faults of a [`SettleAck`], by rising number.
#[derive(Debug, Clone)]
pub struct Faults<'a> {
    rest: &'a [u8],
}

impl Iterator for Faults<'_> {
    type Item = FaultEntry;

    fn next(&mut self) -> Option<FaultEntry> {
        let (fault, rest) = self.rest.split_first_chunk::<FAULT_BYTES>()?;
        self.rest = rest;
        Some(FaultEntry {
            number: u64_at::<0, FAULT_BYTES>(fault),
            fault: SettleFault::from_code(u8_at::<8, FAULT_BYTES>(fault))?,
        })
    }
}
