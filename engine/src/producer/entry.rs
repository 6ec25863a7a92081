//! What the log `$producers` says: who opened with which epoch, and frames of his that may go.
//!
//! ```text
//! u8 kind | incarnation of the topic 16 | fields
//! 1 opened   id u64, epoch u64, time u64, name (u16 length, UTF-8)
//! 2 kept     id u64, time u64, count u32, count x (sequence u64, offset u64, records u16, crc u32)
//! 3 scanned  offset u64: all frames of the topic's producers below it were told
//! ```
//! Saying a thing twice says no more than once, so a snapshot is the same entries again.

use millstream_protocol::{Offset, TopicName};

use super::ledger::{Kept, Piece};
use crate::queue::{Fields, Malformed, put_text};

/// An incarnation of a topic.
pub(super) type Incarnation = [u8; 16];

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// An instance of the producer `name` was given `epoch`.
    Opened {
        id: u64,
        epoch: u64,
        at_us: u64,
        name: TopicName,
    },
    /// Frames of a producer that are on disk in the topic, or were until they were trimmed.
    Kept {
        id: u64,
        at_us: u64,
        frames: Vec<Kept>,
    },
    /// What is told of the topic goes up to here.
    Scanned(Offset),
}

impl Entry {
    pub(super) fn encode(&self, topic: &Incarnation, out: &mut Vec<u8>) {
        let kind = match self {
            Self::Opened { .. } => 1,
            Self::Kept { .. } => 2,
            Self::Scanned(_) => 3,
        };
        out.push(kind);
        out.extend_from_slice(topic);
        match self {
            Self::Opened {
                id,
                epoch,
                at_us,
                name,
            } => {
                for number in [id, epoch, at_us] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                put_text(out, name.as_str());
            }
            Self::Kept { id, at_us, frames } => {
                out.extend_from_slice(&id.to_le_bytes());
                out.extend_from_slice(&at_us.to_le_bytes());
                let count = u32::try_from(frames.len()).unwrap_or(u32::MAX);
                out.extend_from_slice(&count.to_le_bytes());
                for Kept { piece, base } in frames {
                    out.extend_from_slice(&piece.sequence.to_le_bytes());
                    out.extend_from_slice(&base.0.to_le_bytes());
                    out.extend_from_slice(&piece.records.to_le_bytes());
                    out.extend_from_slice(&piece.crc.to_le_bytes());
                }
            }
            Self::Scanned(offset) => out.extend_from_slice(&offset.0.to_le_bytes()),
        }
    }

    /// Takes one entry off the front of `fields`.
    ///
    /// # Errors
    ///
    /// Anything that this version does not write.
    pub(super) fn decode(fields: &mut Fields<'_>) -> Result<(Incarnation, Self), Malformed> {
        let kind = fields.u8()?;
        let topic = fields.array()?;
        let entry = match kind {
            1 => {
                let (id, epoch, at_us) = (fields.u64()?, fields.u64()?, fields.u64()?);
                let name = TopicName::parse(fields.text()?).map_err(|_| fields.malformed())?;
                Self::Opened {
                    id,
                    epoch,
                    at_us,
                    name,
                }
            }
            2 => {
                let (id, at_us) = (fields.u64()?, fields.u64()?);
                let mut frames = Vec::new();
                for _ in 0..fields.u32()? {
                    let sequence = fields.u64()?;
                    let base = Offset(fields.u64()?);
                    let records = fields.array().map(u16::from_le_bytes)?;
                    let crc = fields.u32()?;
                    let piece = Piece {
                        sequence,
                        records,
                        crc,
                    };
                    frames.push(Kept { piece, base });
                }
                Self::Kept { id, at_us, frames }
            }
            3 => Self::Scanned(Offset(fields.u64()?)),
            _ => return Err(fields.malformed()),
        };
        Ok((topic, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_they_were_and_cut_ones_are_refused() {
        let entries = [
            Entry::Opened {
                id: 7,
                epoch: 3 << 32 | 1,
                at_us: 5,
                name: TopicName::parse("till-7").unwrap(),
            },
            Entry::Kept {
                id: 7,
                at_us: 6,
                frames: vec![Kept {
                    piece: Piece {
                        sequence: 4,
                        records: 2,
                        crc: 9,
                    },
                    base: Offset(100),
                }],
            },
            Entry::Scanned(Offset(102)),
        ];
        for entry in entries {
            let mut bytes = Vec::new();
            entry.encode(&[3; 16], &mut bytes);
            let mut fields = Fields::new("test", &bytes);
            assert_eq!(Entry::decode(&mut fields), Ok(([3; 16], entry)));
            assert!(fields.is_empty());
            for end in 0..bytes.len() {
                assert!(Entry::decode(&mut Fields::new("test", &bytes[..end])).is_err());
            }
        }
    }
}
