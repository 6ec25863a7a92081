//! A topic's name and the levels of durability.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::coded::coded_enum;
use crate::limits::TOPIC_NAME_BYTES_MAX;

/// A topic's name: 1 to 255 bytes of UTF-8 that can never be taken for a path.
///
/// ```
/// use millstream_protocol::{TopicName, TopicNameError};
/// assert_eq!(TopicName::parse("orders.eu")?.as_str(), "orders.eu");
/// assert_eq!(TopicName::parse("a/b"), Err(TopicNameError::Character { found: '/', at: 1 }));
/// # Ok::<(), TopicNameError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Takes `name` when it may name a topic.
    ///
    /// # Errors
    ///
    /// Says which rule `name` breaks.
    pub fn parse(name: &str) -> Result<Self, TopicNameError> {
        if name.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if name.len() > TOPIC_NAME_BYTES_MAX {
            return Err(TopicNameError::TooLong { bytes: name.len() });
        }
        if let Some((at, found)) = name
            .char_indices()
            .find(|(_, found)| *found == '/' || found.is_control())
        {
            return Err(TopicNameError::Character { found, at });
        }
        if name == "." || name == ".." {
            return Err(TopicNameError::Dots);
        }
        if name.trim() != name {
            return Err(TopicNameError::WhiteSpace);
        }
        Ok(Self(Arc::from(name)))
    }

    /// Whether it begins with `$`: such names are the broker's own, no user's.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicName {
    type Err = TopicNameError;

    fn from_str(name: &str) -> Result<Self, TopicNameError> {
        Self::parse(name)
    }
}

impl TryFrom<&str> for TopicName {
    type Error = TopicNameError;

    fn try_from(name: &str) -> Result<Self, TopicNameError> {
        Self::parse(name)
    }
}

/// Why something cannot name a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicNameError {
    /// It has no characters.
    Empty,
    /// It has more than 255 bytes.
    TooLong {
        /// The bytes it has.
        bytes: usize,
    },
    /// It holds a `/` or a control character.
    Character {
        /// The first such character.
        found: char,
        /// The byte at which it stands.
        at: usize,
    },
    /// It is `.` or `..`.
    Dots,
    /// It begins or ends with white space.
    WhiteSpace,
    /// Its bytes are not UTF-8.
    NotUtf8,
}

impl fmt::Display for TopicNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the topic name is empty"),
            Self::TooLong { bytes } => write!(
                f,
                "the topic name has {bytes} bytes, more than the {TOPIC_NAME_BYTES_MAX} allowed"
            ),
            Self::Character { found, at } => {
                write!(
                    f,
                    "the topic name holds {found:?} at byte {at}, which no name may"
                )
            }
            Self::Dots => write!(f, "the topic name may not be \".\" or \"..\""),
            Self::WhiteSpace => write!(f, "the topic name begins or ends with white space"),
            Self::NotUtf8 => write!(f, "the topic name is not UTF-8"),
        }
    }
}

impl std::error::Error for TopicNameError {}

coded_enum! {
    /// How safe a topic's records are when they are acknowledged and shown to readers.
    pub enum Durability: u8 {
        /// On disk: they survive power loss. The default.
        Synced = 1,
        /// In the committed prefix: they survive a crash of the process.
        Stored = 2,
    }
}

coded_enum! {
    /// What a publisher waits for.
    pub enum AckLevel: u8 {
        /// The topic's own level.
        Topic = 0,
        /// On disk.
        Synced = 1,
        /// In the committed prefix.
        Stored = 2,
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Synced => "synced",
            Self::Stored => "stored",
        })
    }
}

impl AckLevel {
    /// The level this asks for on a topic of `durability`.
    #[must_use]
    pub const fn of(self, durability: Durability) -> Durability {
        match self {
            Self::Topic => durability,
            Self::Synced => Durability::Synced,
            Self::Stored => Durability::Stored,
        }
    }
}
