//! A frame as its publisher sends it: header and body, the log's fields zero, no padding.

use super::{FrameError, FrameKind, PUBLISHER_AT, PublisherFields, body_crc};
use crate::batch::{BatchView, HeaderLimits};
use crate::bytes_at::{put, u32_at, u64_at};
use crate::checksum::crc32c;
use crate::limits::FRAME_HEADER_BYTES;

/// The header of a frame as a publisher sends it, for `body` as it follows.
///
/// One pass over the body for its checksum; the log's fields stay zero.
#[must_use]
pub fn publish_header(fields: &PublisherFields, body: &[u8]) -> [u8; FRAME_HEADER_BYTES] {
    let mut header = [0; FRAME_HEADER_BYTES];
    put::<12, 4, FRAME_HEADER_BYTES>(&mut header, body_crc(fields, body).to_le_bytes());
    put::<32, 32, FRAME_HEADER_BYTES>(&mut header, fields.encode());
    header
}

/// A publish that was checked: whatever readers may later ask of it can be answered.
#[derive(Debug, Clone, Copy)]
pub struct PublishedFrame<'a> {
    fields: PublisherFields,
    body_crc: u32,
    body: &'a [u8],
}

impl<'a> PublishedFrame<'a> {
    /// The publisher's part of the header.
    #[must_use]
    pub const fn fields(&self) -> &PublisherFields {
        &self.fields
    }

    /// The publisher's checksum, which was found to match.
    #[must_use]
    pub const fn body_crc(&self) -> u32 {
        self.body_crc
    }

    /// The body.
    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// Checks a frame as a publisher sent it; `bytes` is all of it and nothing else.
///
/// Costs one pass over the body for the checksum and one over the columns of a batch; allocates
/// nothing. The payload of a compressed batch is not expanded, all its columns are checked.
///
/// # Errors
///
/// The first field that breaks its rule.
///
/// # Example
///
/// ```
/// use millstream_protocol::frame::{PublisherFields, check_publish, publish_header};
/// let fields = PublisherFields::single(5);
/// let mut sent = publish_header(&fields, b"hello").to_vec();
/// sent.extend_from_slice(b"hello");
/// assert_eq!(check_publish(&sent)?.body(), b"hello");
/// # Ok::<(), millstream_protocol::frame::FrameError>(())
/// ```
pub fn check_publish(bytes: &[u8]) -> Result<PublishedFrame<'_>, FrameError> {
    check_sent(bytes, HeaderLimits::PUBLISHER)
}

/// Checks a frame as the broker sends it to a consumer: like [`check_publish`], but the headers of
/// its records may hold the broker's notes, too.
///
/// # Errors
///
/// The first field that breaks its rule.
pub fn check_noted(bytes: &[u8]) -> Result<PublishedFrame<'_>, FrameError> {
    check_sent(bytes, HeaderLimits::NOTED)
}

fn check_sent(bytes: &[u8], limits: HeaderLimits) -> Result<PublishedFrame<'_>, FrameError> {
    let got = bytes.len() as u64;
    let Some((header, body)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return Err(FrameError::Truncated {
            needed: FRAME_HEADER_BYTES as u64,
            got,
        });
    };
    check_log_fields_zero(header)?;
    let fields = PublisherFields::decode(header)?;
    if !matches!(fields.kind, FrameKind::Single | FrameKind::Batch) {
        return Err(FrameError::KindNotPublished { found: fields.kind });
    }
    let needed = FRAME_HEADER_BYTES as u64 + u64::from(fields.body_bytes);
    if got < needed {
        return Err(FrameError::Truncated { needed, got });
    }
    if got > needed {
        return Err(FrameError::Trailing { needed, got });
    }
    let found = u32_at::<12, FRAME_HEADER_BYTES>(header);
    let wanted = crc32c(bytes.get(PUBLISHER_AT..).unwrap_or_default());
    if found != wanted {
        return Err(FrameError::BodyCrc { found, wanted });
    }
    BatchView::check_within(&fields, body, limits)?;
    Ok(PublishedFrame {
        fields,
        body_crc: found,
        body,
    })
}

/// Everything the log fills is zero, so a publish has one form only.
fn check_log_fields_zero(header: &[u8; FRAME_HEADER_BYTES]) -> Result<(), FrameError> {
    let fields = [
        ("commit word", u64_at::<0, FRAME_HEADER_BYTES>(header)),
        (
            "header crc",
            u64::from(u32_at::<8, FRAME_HEADER_BYTES>(header)),
        ),
        ("base offset", u64_at::<16, FRAME_HEADER_BYTES>(header)),
        ("append time", u64_at::<24, FRAME_HEADER_BYTES>(header)),
    ];
    match fields.into_iter().find(|(_, value)| *value != 0) {
        Some((field, _)) => Err(FrameError::NotZero { field }),
        None => Ok(()),
    }
}
