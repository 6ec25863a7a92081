//! A frame as it lies in a segment, and as a reader is sent it.

use super::{CommitWord, FrameError, FrameHeader, FrameSeed, PUBLISHER_AT};
use crate::bytes_at::u64_at;
use crate::checksum::crc32c;
use crate::limits::FRAME_HEADER_BYTES;

/// A stored frame: its header, its body, and the bytes to the next one.
#[derive(Debug, Clone, Copy)]
pub struct StoredFrame<'a> {
    header: FrameHeader,
    body: &'a [u8],
}

impl<'a> StoredFrame<'a> {
    /// What the header says.
    #[must_use]
    pub const fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// The body.
    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Bytes the frame takes: header, body, padding.
    #[must_use]
    pub const fn frame_bytes(&self) -> u32 {
        self.header.frame_bytes()
    }
}

/// Checks the stored frame `bytes` begins with: commit word, header crc, fields, body crc, padding.
///
/// `position` is where the frame lies in its segment. Whether the body of a batch is sound was
/// checked before it was stored; [`crate::batch::BatchView::check`] checks it again.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn check_stored(
    bytes: &[u8],
    seed: FrameSeed,
    position: u32,
    nonce_half: u32,
) -> Result<StoredFrame<'_>, FrameError> {
    let frame = walk_stored(bytes, seed, position, nonce_half)?;
    let end = FRAME_HEADER_BYTES + frame.body.len();
    let wanted = crc32c(bytes.get(PUBLISHER_AT..end).unwrap_or_default());
    let found = frame.header.body_crc;
    if found != wanted {
        return Err(FrameError::BodyCrc { found, wanted });
    }
    let padding = bytes
        .get(end..frame.frame_bytes() as usize)
        .unwrap_or_default();
    if padding.iter().any(|byte| *byte != 0) {
        return Err(FrameError::Padding);
    }
    Ok(frame)
}

/// As [`check_stored`], without a pass over the body: commit word, header crc and fields only.
///
/// For frames whose body was checked before, such as those this process wrote itself.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn walk_stored(
    bytes: &[u8],
    seed: FrameSeed,
    position: u32,
    nonce_half: u32,
) -> Result<StoredFrame<'_>, FrameError> {
    let header = |bytes: &[u8; FRAME_HEADER_BYTES]| FrameHeader::decode(bytes, seed, position);
    open_stored(bytes, nonce_half, header)
}

/// As [`walk_stored`], for a frame whose header was compared with its checksum in this process, or
/// that this process wrote.
#[inline]
pub(crate) fn reopen_stored(bytes: &[u8], nonce_half: u32) -> Result<StoredFrame<'_>, FrameError> {
    open_stored(bytes, nonce_half, FrameHeader::read)
}

#[inline]
fn open_stored(
    bytes: &[u8],
    nonce_half: u32,
    read_header: impl FnOnce(&[u8; FRAME_HEADER_BYTES]) -> Result<FrameHeader, FrameError>,
) -> Result<StoredFrame<'_>, FrameError> {
    let got = bytes.len() as u64;
    let Some((header_bytes, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return Err(FrameError::Truncated {
            needed: FRAME_HEADER_BYTES as u64,
            got,
        });
    };
    let word = CommitWord::from_u64(u64_at::<0, FRAME_HEADER_BYTES>(header_bytes));
    if word.frame_bytes == 0 {
        return Err(FrameError::CommitLength {
            found: 0,
            wanted: 0,
        });
    }
    if word.nonce_half != nonce_half {
        return Err(FrameError::CommitNonce {
            found: word.nonce_half,
            wanted: nonce_half,
        });
    }
    let header = read_header(header_bytes)?;
    let wanted = header.frame_bytes();
    if word.frame_bytes != wanted {
        return Err(FrameError::CommitLength {
            found: word.frame_bytes,
            wanted,
        });
    }
    if got < u64::from(wanted) {
        return Err(FrameError::Truncated {
            needed: u64::from(wanted),
            got,
        });
    }
    let body = rest
        .get(..header.fields.body_bytes as usize)
        .unwrap_or_default();
    Ok(StoredFrame { header, body })
}
