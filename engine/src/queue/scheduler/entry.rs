//! Durable facts about one queue, and how they are written in the journal.
//!
//! ```text
//! entry   u8 kind, then numbers as LEB128 varints
//!  1 Settled    first, count
//!  2 Attempted  offset, attempts, last, first as distance from last, due as distance from last
//!  3 Moved      number, offset, attempts, first, last, reason, bytes of text, text
//!  4 Applied    through
//!  5 Purged     to
//! ```
//! A distance is the difference modulo 2^64 as a signed number, zigzag: near times take few bytes.
//! A frame of the journal holds the entries of one round, one behind the other.

use std::fmt;

use millstream_protocol::Offset;

/// Bytes of the text on a move, at most; a longer one is cut where a character ends.
pub(crate) const MOVE_TEXT_BYTES_MAX: usize = 256;

/// Why a record was moved, or dropped instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It was delivered as often as the queue allows.
    MaxDeliveries,
    /// A consumer rejected it.
    Rejected,
    /// Its time ran out.
    Expired,
    /// The queue was full, and drops its oldest then.
    LimitReached,
    /// It goes back to the queue it died in.
    Redriven,
}

impl Reason {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::MaxDeliveries => 1,
            Self::Rejected => 2,
            Self::Expired => 3,
            Self::LimitReached => 4,
            Self::Redriven => 5,
        }
    }

    pub(super) const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            1 => Self::MaxDeliveries,
            2 => Self::Rejected,
            3 => Self::Expired,
            4 => Self::LimitReached,
            5 => Self::Redriven,
            _ => return None,
        })
    }
}

/// One durable fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// These records are settled.
    Settled { first: Offset, count: u64 },
    /// This record was delivered so often, and is not due before `due_us`.
    Attempted {
        offset: Offset,
        attempts: u16,
        due_us: u64,
        first_us: u64,
        last_us: u64,
    },
    /// This record goes elsewhere; it stays where it is until that is `Applied`.
    Moved {
        number: u64,
        offset: Offset,
        attempts: u16,
        first_us: u64,
        last_us: u64,
        why: Reason,
        text: Box<str>,
    },
    /// The moves up to this number are there; what they moved is settled here.
    Applied { through: u64 },
    /// All below is settled, but what is being moved.
    Purged { to: Offset },
}

impl Entry {
    /// Appends `entries` to `out`; runs of settled records that follow each other become one.
    pub(crate) fn encode_all<'a>(entries: impl IntoIterator<Item = &'a Self>, out: &mut Vec<u8>) {
        let mut run: Option<(u64, u64)> = None;
        for entry in entries {
            if let Self::Settled { first, count } = entry {
                match &mut run {
                    Some((_, next)) if *next == first.0 => *next += count,
                    _ => {
                        put_settled(out, run.replace((first.0, first.0 + count)));
                    }
                }
                continue;
            }
            put_settled(out, run.take());
            entry.encode(out);
        }
        put_settled(out, run);
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Settled { first, count } => put(out, 1, &[first.0, *count]),
            Self::Attempted {
                offset,
                attempts,
                due_us,
                first_us,
                last_us,
            } => {
                put(out, 2, &[offset.0, u64::from(*attempts), *last_us]);
                put_distance(out, *first_us, *last_us);
                put_distance(out, *due_us, *last_us);
            }
            Self::Moved {
                number,
                offset,
                attempts,
                first_us,
                last_us,
                why,
                text,
            } => {
                let text = cut(text).as_bytes();
                let (attempts, why) = (u64::from(*attempts), u64::from(why.code()));
                let fields = [
                    *number,
                    offset.0,
                    attempts,
                    *first_us,
                    *last_us,
                    why,
                    text.len() as u64,
                ];
                put(out, 3, &fields);
                out.extend_from_slice(text);
            }
            Self::Applied { through } => put(out, 4, &[*through]),
            Self::Purged { to } => put(out, 5, &[to.0]),
        }
    }

    /// Gives each entry in `bytes` to `take`, in order.
    ///
    /// # Errors
    ///
    /// The first bytes that are no entry of this version; what came before was taken.
    pub(crate) fn decode_all(bytes: &[u8], mut take: impl FnMut(Self)) -> Result<(), EntryError> {
        let mut fields = Varints::new(bytes);
        while !fields.is_empty() {
            take(Self::decode(&mut fields)?);
        }
        Ok(())
    }

    fn decode(fields: &mut Varints<'_>) -> Result<Self, EntryError> {
        let at = fields.at;
        Ok(match fields.byte()? {
            1 => {
                let (first, count) = (fields.number()?, fields.number()?);
                if first.checked_add(count).is_none() {
                    return Err(EntryError { at });
                }
                let first = Offset(first);
                Self::Settled { first, count }
            }
            2 => {
                let (offset, attempts) = (fields.offset()?, fields.attempts()?);
                let last_us = fields.number()?;
                Self::Attempted {
                    offset,
                    attempts,
                    first_us: fields.distance(last_us)?,
                    due_us: fields.distance(last_us)?,
                    last_us,
                }
            }
            3 => Self::Moved {
                number: fields.move_number()?,
                offset: fields.offset()?,
                attempts: fields.attempts()?,
                first_us: fields.number()?,
                last_us: fields.number()?,
                why: Reason::from_code(fields.number()?).ok_or(EntryError { at })?,
                text: fields.text()?,
            },
            4 => Self::Applied {
                through: fields.number()?,
            },
            5 => Self::Purged {
                to: Offset(fields.number()?),
            },
            _ => return Err(EntryError { at }),
        })
    }
}

/// Cuts a move's text to its limit.
pub(super) fn cut(text: &str) -> &str {
    let end = text.floor_char_boundary(MOVE_TEXT_BYTES_MAX);
    text.get(..end).unwrap_or_default()
}

fn put_settled(out: &mut Vec<u8>, run: Option<(u64, u64)>) {
    if let Some((first, next)) = run {
        put(out, 1, &[first, next - first]);
    }
}

fn put(out: &mut Vec<u8>, kind: u8, fields: &[u64]) {
    out.push(kind);
    for field in fields {
        put_number(out, *field);
    }
}

/// Appends a number, seven bits a byte, the lowest first.
pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Appends how far `number` is from `base`.
pub(super) fn put_distance(out: &mut Vec<u8>, number: u64, base: u64) {
    let distance = number.wrapping_sub(base).cast_signed();
    put_number(out, (distance << 1 ^ distance >> 63).cast_unsigned());
}

/// Bytes that are not what this version writes. The journal and checkpoints are checksummed, so this
/// is another version's file or a defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryError {
    /// Where in the bytes.
    pub(crate) at: usize,
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "queue state: byte {} is not as this version writes it",
            self.at
        )
    }
}

impl std::error::Error for EntryError {}

/// Takes numbers off the front of some bytes.
#[derive(Debug)]
pub(super) struct Varints<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Varints<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(super) const fn error(&self) -> EntryError {
        EntryError { at: self.at }
    }

    pub(super) fn byte(&mut self) -> Result<u8, EntryError> {
        let byte = self.bytes.get(self.at).ok_or(self.error())?;
        self.at += 1;
        Ok(*byte)
    }

    pub(super) fn number(&mut self) -> Result<u64, EntryError> {
        let at = self.at;
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(EntryError { at });
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(EntryError { at })
    }

    /// The number that is so far from `base`.
    pub(super) fn distance(&mut self, base: u64) -> Result<u64, EntryError> {
        let zigzag = self.number()?;
        let distance = zigzag >> 1 ^ (zigzag & 1).wrapping_neg();
        Ok(base.wrapping_add(distance))
    }

    /// An offset that another may follow.
    pub(super) fn offset(&mut self) -> Result<Offset, EntryError> {
        let error = self.error();
        let offset = self.number()?;
        (offset < u64::MAX).then_some(Offset(offset)).ok_or(error)
    }

    /// The number of a move that another may follow.
    pub(super) fn move_number(&mut self) -> Result<u64, EntryError> {
        self.offset().map(|number| number.0)
    }

    pub(super) fn attempts(&mut self) -> Result<u16, EntryError> {
        let error = self.error();
        u16::try_from(self.number()?).map_err(|_| error)
    }

    pub(super) fn text(&mut self) -> Result<Box<str>, EntryError> {
        let error = self.error();
        let len = usize::try_from(self.number()?).map_err(|_| error)?;
        if len > MOVE_TEXT_BYTES_MAX {
            return Err(error);
        }
        let bytes = self.bytes.get(self.at..).unwrap_or_default();
        let text = bytes.get(..len).ok_or(error)?;
        self.at += len;
        str::from_utf8(text).map(Box::from).map_err(|_| error)
    }
}
