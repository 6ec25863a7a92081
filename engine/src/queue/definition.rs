//! What the registry keeps: queues as they were made, cursors, and the journal entries of both.

use millstream_protocol::control::{
    Backoff, DeadLetter, OnExpiry, QueueMode, QueueSettings, Retention, WhenFull,
};
use millstream_protocol::{Offset, TopicName};

use super::codec::{Fields, Malformed, put_text};
use super::scheduler::{self, DeadLetters, Mode, Policy};

/// A queue as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Definition {
    pub(super) id: u32,
    pub(super) name: TopicName,
    pub(super) topic: TopicName,
    /// The topic's incarnation: one made again under the name is another.
    pub(super) incarnation: [u8; 16],
    /// The topic was made with the queue and goes with it; its settled segments are dropped.
    pub(super) own_topic: bool,
    pub(super) mode: QueueMode,
    /// The first record it delivers.
    pub(super) start: Offset,
    pub(super) paused: bool,
    pub(super) settings: QueueSettings,
}

impl Definition {
    pub(super) fn scheduler_mode(&self) -> Mode {
        match self.mode {
            QueueMode::Plain => Mode::Plain,
            QueueMode::Grouped => Mode::Grouped,
            QueueMode::Prioritised => Mode::Prioritised,
        }
    }

    /// The queue its dead letters go to.
    pub(super) fn dead_letter_queue(&self) -> Option<TopicName> {
        dead_letter_queue(&self.name, &self.settings)
    }
}

/// The queue that dead letters of `name` go to under `settings`.
pub(super) fn dead_letter_queue(name: &TopicName, settings: &QueueSettings) -> Option<TopicName> {
    match &settings.dead_letter {
        DeadLetter::Nowhere => None,
        DeadLetter::Own => TopicName::parse(&format!("{}.dead", name.as_str())).ok(),
        DeadLetter::Queue(queue) => Some(queue.clone()),
    }
}

/// Settings of a queue that is made to hold dead letters: they are delivered for ever, and have none
/// of their own.
pub(super) fn dead_letter_settings() -> QueueSettings {
    QueueSettings {
        deliveries_max: 0,
        dead_letter: DeadLetter::Nowhere,
        ..QueueSettings::default()
    }
}

/// What the scheduler needs of the settings.
pub(super) fn policy(settings: &QueueSettings) -> Policy {
    let us = |ms: u32| u64::from(ms) * 1_000;
    Policy {
        lease_us: us(settings.lease_ms),
        deliveries_max: u16::try_from(settings.deliveries_max).unwrap_or(u16::MAX),
        backoff: scheduler::Backoff {
            first_us: us(settings.backoff.first_ms),
            cap_us: us(settings.backoff.cap_ms),
            multiplier_milli: settings.backoff.multiplier_milli,
            jitter_percent: settings.backoff.jitter_percent,
        },
        expired: match settings.expired {
            OnExpiry::Drop => scheduler::OnExpiry::Drop,
            OnExpiry::DeadLetter => scheduler::OnExpiry::DeadLetter,
        },
        age_max_us: settings.age_max_ms.saturating_mul(1_000),
        dead_letters: match settings.dead_letter {
            DeadLetter::Nowhere => DeadLetters::Dropped,
            DeadLetter::Own | DeadLetter::Queue(_) => DeadLetters::Kept,
        },
    }
}

/// A reader's position kept under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CursorState {
    pub(super) topic: TopicName,
    pub(super) incarnation: [u8; 16],
    pub(super) name: TopicName,
    pub(super) offset: Offset,
    pub(super) updated_us: u64,
}

/// How much of a topic is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicRetention {
    pub(super) topic: TopicName,
    pub(super) incarnation: [u8; 16],
    pub(super) retention: Retention,
}

/// A change of the registry, as the journal has it.
///
/// ```text
/// u8 kind | fields           texts are u16 length and UTF-8
/// 1 queue      id u32, name, topic, incarnation 16, own topic u8, mode u8, start u64, paused u8, settings
/// 2 deleted    id u32
/// 3 cursor     topic, incarnation 16, name, offset u64, updated u64
/// 4 no cursor  incarnation 16, name
/// 5 next id    u32
/// 6 retention  topic, incarnation 16, bytes u64, age in ms u64
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A queue is made, or is now like this.
    Queue(Definition),
    QueueDeleted(u32),
    Cursor(CursorState),
    CursorDeleted([u8; 16], TopicName),
    /// Ids below were given out.
    NextId(u32),
    Retention(TopicRetention),
}

impl Change {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Queue(queue) => {
                out.push(1);
                out.extend_from_slice(&queue.id.to_le_bytes());
                put_text(out, queue.name.as_str());
                put_text(out, queue.topic.as_str());
                out.extend_from_slice(&queue.incarnation);
                out.push(u8::from(queue.own_topic));
                out.push(queue.mode.code());
                out.extend_from_slice(&queue.start.0.to_le_bytes());
                out.push(u8::from(queue.paused));
                encode_settings(&queue.settings, out);
            }
            Self::QueueDeleted(id) => {
                out.push(2);
                out.extend_from_slice(&id.to_le_bytes());
            }
            Self::Cursor(cursor) => {
                out.push(3);
                put_text(out, cursor.topic.as_str());
                out.extend_from_slice(&cursor.incarnation);
                put_text(out, cursor.name.as_str());
                out.extend_from_slice(&cursor.offset.0.to_le_bytes());
                out.extend_from_slice(&cursor.updated_us.to_le_bytes());
            }
            Self::CursorDeleted(incarnation, name) => {
                out.push(4);
                out.extend_from_slice(incarnation);
                put_text(out, name.as_str());
            }
            Self::NextId(id) => {
                out.push(5);
                out.extend_from_slice(&id.to_le_bytes());
            }
            Self::Retention(kept) => {
                out.push(6);
                put_text(out, kept.topic.as_str());
                out.extend_from_slice(&kept.incarnation);
                out.extend_from_slice(&kept.retention.bytes.to_le_bytes());
                out.extend_from_slice(&kept.retention.age_ms.to_le_bytes());
            }
        }
    }

    /// Takes one change off the front of `fields`.
    ///
    /// # Errors
    ///
    /// Anything that this version does not write.
    pub(super) fn decode(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        Ok(match fields.u8()? {
            1 => Self::Queue(Definition {
                id: fields.u32()?,
                name: name(fields)?,
                topic: name(fields)?,
                incarnation: fields.array()?,
                own_topic: flag(fields)?,
                mode: coded(fields, QueueMode::from_code)?,
                start: Offset(fields.u64()?),
                paused: flag(fields)?,
                settings: decode_settings(fields)?,
            }),
            2 => Self::QueueDeleted(fields.u32()?),
            3 => Self::Cursor(CursorState {
                topic: name(fields)?,
                incarnation: fields.array()?,
                name: name(fields)?,
                offset: Offset(fields.u64()?),
                updated_us: fields.u64()?,
            }),
            4 => Self::CursorDeleted(fields.array()?, name(fields)?),
            5 => Self::NextId(fields.u32()?),
            6 => Self::Retention(TopicRetention {
                topic: name(fields)?,
                incarnation: fields.array()?,
                retention: Retention {
                    bytes: fields.u64()?,
                    age_ms: fields.u64()?,
                },
            }),
            _ => return Err(fields.malformed()),
        })
    }
}

fn name(fields: &mut Fields<'_>) -> Result<TopicName, Malformed> {
    let text = fields.text()?;
    TopicName::parse(text).map_err(|_| fields.malformed())
}

fn flag(fields: &mut Fields<'_>) -> Result<bool, Malformed> {
    match fields.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(fields.malformed()),
    }
}

fn coded<T>(fields: &mut Fields<'_>, read: fn(u8) -> Option<T>) -> Result<T, Malformed> {
    let code = fields.u8()?;
    read(code).ok_or(fields.malformed())
}

fn encode_settings(settings: &QueueSettings, out: &mut Vec<u8>) {
    let numbers = [
        settings.lease_ms,
        settings.deliveries_max,
        settings.backoff.first_ms,
        settings.backoff.cap_ms,
        settings.backoff.multiplier_milli,
    ];
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(settings.backoff.jitter_percent);
    match &settings.dead_letter {
        DeadLetter::Own => out.push(1),
        DeadLetter::Nowhere => out.push(2),
        DeadLetter::Queue(queue) => {
            out.push(3);
            put_text(out, queue.as_str());
        }
    }
    out.push(settings.expired.code());
    for number in [
        settings.messages_max,
        settings.bytes_max,
        settings.age_max_ms,
    ] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(settings.when_full.code());
}

fn decode_settings(fields: &mut Fields<'_>) -> Result<QueueSettings, Malformed> {
    Ok(QueueSettings {
        lease_ms: fields.u32()?,
        deliveries_max: fields.u32()?,
        backoff: Backoff {
            first_ms: fields.u32()?,
            cap_ms: fields.u32()?,
            multiplier_milli: fields.u32()?,
            jitter_percent: fields.u8()?,
        },
        dead_letter: match fields.u8()? {
            1 => DeadLetter::Own,
            2 => DeadLetter::Nowhere,
            3 => DeadLetter::Queue(name(fields)?),
            _ => return Err(fields.malformed()),
        },
        expired: coded(fields, OnExpiry::from_code)?,
        messages_max: fields.u64()?,
        bytes_max: fields.u64()?,
        age_max_ms: fields.u64()?,
        when_full: coded(fields, WhenFull::from_code)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Definition {
        Definition {
            id: 7,
            name: TopicName::parse("emails").unwrap(),
            topic: TopicName::parse("mail").unwrap(),
            incarnation: [9; 16],
            own_topic: true,
            mode: QueueMode::Grouped,
            start: Offset(12),
            paused: true,
            settings: QueueSettings {
                dead_letter: DeadLetter::Queue(TopicName::parse("graves").unwrap()),
                messages_max: 1 << 40,
                ..QueueSettings::default()
            },
        }
    }

    #[test]
    fn changes_come_back_as_they_were() {
        let changes = [
            Change::Queue(queue()),
            Change::QueueDeleted(7),
            Change::Cursor(CursorState {
                topic: TopicName::parse("mail").unwrap(),
                incarnation: [3; 16],
                name: TopicName::parse("report").unwrap(),
                offset: Offset(99),
                updated_us: 5,
            }),
            Change::CursorDeleted([3; 16], TopicName::parse("report").unwrap()),
            Change::NextId(8),
            Change::Retention(TopicRetention {
                topic: TopicName::parse("mail").unwrap(),
                incarnation: [3; 16],
                retention: Retention {
                    bytes: 1 << 40,
                    age_ms: 7,
                },
            }),
        ];
        let mut bytes = Vec::new();
        for change in &changes {
            change.encode(&mut bytes);
        }
        let mut fields = Fields::new("test", &bytes);
        for change in &changes {
            assert_eq!(Change::decode(&mut fields).as_ref(), Ok(change));
        }
        assert!(fields.is_empty());
        for end in 0..bytes.len() - 1 {
            let mut fields = Fields::new("test", &bytes[..end]);
            while !fields.is_empty() && Change::decode(&mut fields).is_ok() {}
        }
    }

    #[test]
    fn dead_letters_go_where_the_settings_say() {
        let mut queue = queue();
        assert_eq!(queue.dead_letter_queue().unwrap().as_str(), "graves");
        queue.settings.dead_letter = DeadLetter::Own;
        assert_eq!(queue.dead_letter_queue().unwrap().as_str(), "emails.dead");
        queue.settings.dead_letter = DeadLetter::Nowhere;
        assert_eq!(queue.dead_letter_queue(), None);
    }
}
