//! What a queue may be told about how it delivers.

use std::fmt;

use rkyv::rancor::Fallible;
use rkyv::ser::{Allocator, Writer};
use rkyv::with::{ArchiveWith, SerializeWith};
use rkyv::{Archive, Place, Serialize};

use super::ControlError;
use super::layout::{Number, Text, number, topic_name};
use crate::TopicName;
use crate::coded::coded_enum;
use crate::limits::{
    BACKOFF_MS_MAX, BACKOFF_MULTIPLIER_MILLI_MAX, DELIVERIES_MAX, LEASE_MS_MAX, LEASE_MS_MIN,
    TOPIC_NAME_BYTES_MAX,
};

coded_enum! {
    /// How a queue orders what it delivers; fixed when it is created.
    pub enum QueueMode: u8 {
        /// By offset, as many at once as there are consumers for.
        Plain = 1,
        /// By offset, and of each group one record at a time, in order.
        Grouped = 2,
        /// Higher priorities first, then by offset.
        Prioritised = 3,
    }
}

coded_enum! {
    /// What becomes of a record whose time has passed before it was settled.
    pub enum OnExpiry: u8 {
        /// It is settled and counted.
        Drop = 1,
        /// It becomes a dead letter; it is dropped where the queue keeps none.
        DeadLetter = 2,
    }
}

coded_enum! {
    /// What becomes of new records while a queue holds as many as it may.
    pub enum WhenFull: u8 {
        /// Publishing to its topic is refused, and may be tried again.
        Refuse = 1,
        /// Publishing to its topic waits.
        Wait = 2,
        /// The oldest ready records make room, as dead letters where the queue keeps any.
        DropOldest = 3,
    }
}

/// How long a record waits before it is delivered again.
///
/// The n-th wait is `first_ms` times the multiplier to the power of n - 1, at most `cap_ms`, and
/// then up to `jitter_percent` shorter or longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize)]
pub struct Backoff {
    /// The wait after the first delivery; 0: none.
    pub first_ms: u32,
    /// The longest wait.
    pub cap_ms: u32,
    /// What each wait is of the one before, in thousandths: 1000 keeps them alike.
    pub multiplier_milli: u32,
    /// How far a wait may be off, so that what failed together is not tried together.
    pub jitter_percent: u8,
}

impl Default for Backoff {
    /// One second, twice as long each time, at most five minutes, a fifth of jitter.
    fn default() -> Self {
        Self {
            first_ms: 1000,
            cap_ms: 300_000,
            multiplier_milli: 2000,
            jitter_percent: 20,
        }
    }
}

/// Where a queue's dead letters go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum DeadLetter {
    /// To a queue of their own, named like the queue with `.dead` behind, made together with it.
    #[default]
    Own,
    /// Nowhere: they are settled and counted.
    Nowhere,
    /// To this queue.
    Queue(TopicName),
}

/// How a queue delivers; all of it may be changed later.
///
/// ```
/// use millstream_protocol::control::{QueueSettings, SettingsError};
/// let settings = QueueSettings { lease_ms: 60_000, deliveries_max: 3, ..QueueSettings::default() };
/// settings.check()?;
/// # Ok::<(), SettingsError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Archive, Serialize)]
pub struct QueueSettings {
    /// How long a consumer has to settle a record, unless it asks for another time.
    pub lease_ms: u32,
    /// Deliveries after which a record that is not settled becomes a dead letter; 0: no limit.
    pub deliveries_max: u32,
    /// How long a record waits before it is delivered again.
    pub backoff: Backoff,
    /// Where dead letters go.
    #[rkyv(with = DeadLetterPair)]
    pub dead_letter: DeadLetter,
    /// What becomes of records whose time has passed.
    #[rkyv(with = Number)]
    pub expired: OnExpiry,
    /// Most records that are not settled; 0: no limit.
    pub messages_max: u64,
    /// Most bytes of records that are not settled; 0: no limit.
    pub bytes_max: u64,
    /// How long after it was appended a record's time has passed; 0: never.
    pub age_max_ms: u64,
    /// What becomes of new records while one of the limits is reached.
    #[rkyv(with = Number)]
    pub when_full: WhenFull,
}

impl Default for QueueSettings {
    /// Leases of 30 s, five deliveries, dead letters in a queue of their own, no limits.
    fn default() -> Self {
        Self {
            lease_ms: 30_000,
            deliveries_max: 5,
            backoff: Backoff::default(),
            dead_letter: DeadLetter::Own,
            expired: OnExpiry::DeadLetter,
            messages_max: 0,
            bytes_max: 0,
            age_max_ms: 0,
            when_full: WhenFull::Refuse,
        }
    }
}

impl QueueSettings {
    /// Whether a queue may have these.
    ///
    /// # Errors
    ///
    /// The first field that is out of its bounds.
    pub fn check(&self) -> Result<(), SettingsError> {
        let Backoff {
            first_ms,
            cap_ms,
            multiplier_milli,
            jitter_percent,
        } = self.backoff;
        let multiplier = "back-off multiplier in thousandths";
        let multiplier_max = BACKOFF_MULTIPLIER_MILLI_MAX;
        let fields = [
            ("lease ms", self.lease_ms, LEASE_MS_MIN, LEASE_MS_MAX),
            ("deliveries max", self.deliveries_max, 0, DELIVERIES_MAX),
            ("back-off cap ms", cap_ms, 0, BACKOFF_MS_MAX),
            ("back-off first ms", first_ms, 0, cap_ms),
            (multiplier, multiplier_milli, 1000, multiplier_max),
            ("back-off jitter percent", jitter_percent.into(), 0, 100),
        ];
        let wrong = fields
            .into_iter()
            .find(|(_, found, min, max)| found < min || found > max);
        match wrong {
            None => Ok(()),
            Some((field, found, min, max)) => Err(SettingsError {
                field,
                found,
                min,
                max,
            }),
        }
    }

    /// Choices must be choices; whether the numbers keep their bounds is for [`Self::check`].
    pub(super) fn read(archived: &ArchivedQueueSettings) -> Result<Self, ControlError> {
        let backoff = &archived.backoff;
        Ok(Self {
            lease_ms: archived.lease_ms.to_native(),
            deliveries_max: archived.deliveries_max.to_native(),
            backoff: Backoff {
                first_ms: backoff.first_ms.to_native(),
                cap_ms: backoff.cap_ms.to_native(),
                multiplier_milli: backoff.multiplier_milli.to_native(),
                jitter_percent: backoff.jitter_percent,
            },
            dead_letter: archived.dead_letter.read()?,
            expired: number("expired", archived.expired)?,
            messages_max: archived.messages_max.to_native(),
            bytes_max: archived.bytes_max.to_native(),
            age_max_ms: archived.age_max_ms.to_native(),
            when_full: number("when full", archived.when_full)?,
        })
    }
}

/// A setting out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// The setting.
    pub field: &'static str,
    /// Its value.
    pub found: u32,
    /// The least it may be.
    pub min: u32,
    /// The most it may be.
    pub max: u32,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            found,
            min,
            max,
        } = self;
        write!(f, "{field}: {found} is not from {min} to {max}")
    }
}

impl std::error::Error for SettingsError {}

/// Where dead letters go as it is archived: which, and the queue's name or nothing.
#[derive(Archive, Serialize)]
pub(super) struct DeadLetterLayout {
    which: u8,
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    queue: Option<TopicName>,
}

impl DeadLetterLayout {
    fn of(dead_letter: &DeadLetter) -> Self {
        let (which, queue) = match dead_letter {
            DeadLetter::Own => (1, None),
            DeadLetter::Nowhere => (2, None),
            DeadLetter::Queue(queue) => (3, Some(queue.clone())),
        };
        Self { which, queue }
    }
}

/// Archives where dead letters go as a pair.
pub(super) struct DeadLetterPair;

impl ArchiveWith<DeadLetter> for DeadLetterPair {
    type Archived = ArchivedDeadLetterLayout;
    type Resolver = DeadLetterLayoutResolver;

    fn resolve_with(field: &DeadLetter, resolver: Self::Resolver, out: Place<Self::Archived>) {
        DeadLetterLayout::of(field).resolve(resolver, out);
    }
}

impl<S> SerializeWith<DeadLetter, S> for DeadLetterPair
where
    S: Fallible + Allocator + Writer + ?Sized,
{
    fn serialize_with(field: &DeadLetter, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        DeadLetterLayout::of(field).serialize(serializer)
    }
}

impl ArchivedDeadLetterLayout {
    fn read(&self) -> Result<DeadLetter, ControlError> {
        match self.which {
            1 => Ok(DeadLetter::Own),
            2 => Ok(DeadLetter::Nowhere),
            3 => Ok(DeadLetter::Queue(topic_name(&self.queue)?)),
            which => Err(ControlError::Number {
                field: "dead letter",
                found: u64::from(which),
            }),
        }
    }
}
