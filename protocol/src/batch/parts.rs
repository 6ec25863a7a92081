//! The options of one message, wherever they lie, on their way into a batch.

use bytes::Bytes;

use super::layout::ColumnKind;
use super::view::{HeaderLimits, Headers, RecordRef};
use super::{Message, PushError};
use crate::limits::{GROUP_BYTES_MAX, ID_BYTES_MAX, KEY_BYTES_MAX};

pub(super) const COLUMNS: usize = ColumnKind::ALL.len();
pub(super) const COLUMN_KINDS: [ColumnKind; COLUMNS] =
    *ColumnKind::ALL.first_chunk::<COLUMNS>().expect("all");

/// Bytes each option of a message needs besides its entry; `None` without the option.
pub(super) type ValueBytes = [Option<usize>; COLUMNS];

/// The options of one message: empty or zero where it has none.
pub(super) struct Parts<'a, H> {
    pub(super) key: &'a [u8],
    pub(super) id: &'a [u8],
    pub(super) group: &'a [u8],
    pub(super) headers: H,
    pub(super) due_at_us: u64,
    pub(super) expires_at_us: u64,
    pub(super) published_at_us: u64,
    pub(super) priority: u8,
}

impl<'a> Parts<'a, Headers<'a>> {
    /// The options of a record as it was read.
    pub(super) fn of_record(record: &RecordRef<'a>) -> Self {
        Self {
            key: record.key().unwrap_or_default(),
            id: record.id().unwrap_or_default(),
            group: record.group().unwrap_or_default(),
            headers: record.headers(),
            due_at_us: record.due_at_us().unwrap_or(0),
            expires_at_us: record.expires_at_us().unwrap_or(0),
            published_at_us: record.published_at_us().unwrap_or(0),
            priority: record.priority(),
        }
    }
}

/// The headers of a message, as names and values.
type MessageHeaders<'a> =
    std::iter::Map<std::slice::Iter<'a, (String, Bytes)>, fn(&(String, Bytes)) -> (&str, &[u8])>;

impl<'a> Parts<'a, MessageHeaders<'a>> {
    /// The options a message was given.
    pub(super) fn of_message(message: &'a Message) -> Self {
        let options = message.options_or_none();
        Self {
            key: &options.key,
            id: &options.id,
            group: &options.group,
            headers: options.headers.iter().map(|(name, value)| (name, value)),
            due_at_us: options.due_at_us,
            expires_at_us: options.expires_at_us,
            published_at_us: options.published_at_us,
            priority: options.priority,
        }
    }
}

impl<'a, H> Parts<'a, H>
where
    H: ExactSizeIterator<Item = (&'a str, &'a [u8])> + Clone,
{
    pub(super) fn value_bytes(&self) -> ValueBytes {
        let filled = |value: &[u8]| (!value.is_empty()).then_some(value.len());
        let headers = self.headers.len();
        let headers_bytes = self.headers_bytes() + 8 * headers;
        COLUMN_KINDS.map(|kind| match kind {
            ColumnKind::Key => filled(self.key),
            ColumnKind::Headers => (headers > 0).then_some(headers_bytes),
            ColumnKind::Id => filled(self.id),
            ColumnKind::Group => filled(self.group),
            ColumnKind::DueAt => (self.due_at_us != 0).then_some(0),
            ColumnKind::ExpiresAt => (self.expires_at_us != 0).then_some(0),
            ColumnKind::PublishedAt => (self.published_at_us != 0).then_some(0),
            ColumnKind::Priority => (self.priority != 0).then_some(0),
        })
    }

    fn headers_bytes(&self) -> usize {
        let headers = self.headers.clone();
        headers.map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Every part keeps to its limit.
    pub(super) fn check(&self, limits: HeaderLimits) -> Result<(), PushError> {
        let fields = [
            ("key", self.key.len(), KEY_BYTES_MAX),
            ("id", self.id.len(), ID_BYTES_MAX),
            ("group", self.group.len(), GROUP_BYTES_MAX),
            ("header count", self.headers.len(), limits.count),
            ("headers", self.headers_bytes(), limits.bytes),
        ];
        if let Some((field, found, max)) = fields.into_iter().find(|(_, found, max)| found > max) {
            return Err(PushError::FieldTooLarge { field, found, max });
        }
        if self.headers.clone().any(|(name, _)| name.is_empty()) {
            return Err(PushError::HeaderNameEmpty);
        }
        Ok(())
    }
}
