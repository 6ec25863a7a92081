//! Expands the payload block of a compressed batch.

use lz4_flex::block::decompress_into;

use super::layout::{ArchivedBatch, ROOT_BYTES, VEC_BYTES, vec_ref};
use super::{BatchError, BatchView};
use crate::frame::FrameKind;

/// The plain form of a compressed batch's body.
///
/// The expanded size is compared with `bytes_max` before anything is allocated; one allocation.
///
/// # Errors
///
/// The body is no compressed batch, would be larger than `bytes_max`, or its payload is not the
/// lz4 block its ends describe.
///
/// # Example
///
/// ```
/// use millstream_protocol::batch::{BatchBuilder, decompress};
/// use millstream_protocol::limits::BODY_BYTES_MAX;
/// let mut batch = BatchBuilder::new();
/// batch.push_body(&[b'a'; 4000]).unwrap();
/// assert!(batch.compress());
/// let mut body = Vec::new();
/// batch.write_body(&mut body);
/// assert_eq!(decompress(&body, BODY_BYTES_MAX)?.len(), 4 + 4000 + 24);
/// # Ok::<(), millstream_protocol::batch::BatchError>(())
/// ```
pub fn decompress(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    let records = ArchivedBatch::access(body)?.ends.len();
    let wanted = u16::try_from(records).unwrap_or(u16::MAX);
    let view = BatchView::check(FrameKind::Batch, wanted, true, body)?;
    let block = view.payload_block();
    let ends_bytes = 4 * records;
    let payload_bytes = view.payload_bytes();
    let bytes = body.len() - block.len() + payload_bytes;
    if bytes > bytes_max {
        return Err(BatchError::ExpandedTooLarge { bytes, bytes_max });
    }
    let (ends, rest) = body
        .split_at_checked(ends_bytes)
        .ok_or(BatchError::Archive)?;
    let behind = rest.get(block.len()..).ok_or(BatchError::Archive)?;

    let mut plain = vec![0; bytes];
    let (ends_place, place) = plain.split_at_mut(ends_bytes);
    let (payload_place, place) = place.split_at_mut(payload_bytes);
    ends_place.copy_from_slice(ends);
    if decompress_into(block, payload_place).ok() != Some(payload_bytes) {
        return Err(BatchError::Compression);
    }
    place.copy_from_slice(behind);
    // Everything behind the payload moved as one; only the root refers to what lies before it.
    let root_at = bytes - ROOT_BYTES;
    let payload_ref_at = root_at + VEC_BYTES;
    if let Some(root) = plain.get_mut(root_at..payload_ref_at + VEC_BYTES) {
        let (ends_ref, payload_ref) = root.split_at_mut(VEC_BYTES);
        ends_ref.copy_from_slice(&vec_ref(root_at, 0, records));
        payload_ref.copy_from_slice(&vec_ref(payload_ref_at, ends_bytes, payload_bytes));
    }
    Ok(plain)
}
