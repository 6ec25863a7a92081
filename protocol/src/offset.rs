//! A record's number in its topic, and where a reader starts.

use std::fmt;
use std::ops::Add;

/// A record's number in its topic: rising, unique for ever, contiguous within a frame.
///
/// ```
/// use millstream_protocol::Offset;
/// assert_eq!(Offset(7) + 3, Offset(10));
/// assert_eq!(Offset(7).to_string(), "7");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The records from `base` up to this one; `None` when `base` lies behind.
    #[must_use]
    pub const fn since(self, base: Self) -> Option<u64> {
        self.0.checked_sub(base.0)
    }

    /// The offset `records` further on; `None` past the last number.
    #[must_use]
    pub const fn checked_add(self, records: u64) -> Option<Self> {
        match self.0.checked_add(records) {
            Some(offset) => Some(Self(offset)),
            None => None,
        }
    }
}

impl Add<u64> for Offset {
    type Output = Self;

    fn add(self, records: u64) -> Self {
        Self(self.0 + records)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Offset {
    fn from(offset: u64) -> Self {
        Self(offset)
    }
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// The oldest record still kept.
    Earliest,
    /// The first record published from now on.
    Latest,
    /// This record; one that is no longer kept, or not yet there, is an error or a gap.
    Offset(Offset),
    /// The first record appended at or after this time, in microseconds of the Unix epoch.
    Time(u64),
}
