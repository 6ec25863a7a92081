//! Bodies of batches.
//!
//! The first byte chooses plain (0) or compressed (1), the next two are the record count, the rest is
//! the body; or, with 2, the rest says how an archive is put together, which gets the fuzzer to the
//! rules of columns without having to guess pointers. Claims: what is accepted gives every record, and a builder that is given those records
//! makes the same bytes; a compressed body expands to an acceptable plain one of the size it said,
//! or is refused, and never grows past the bound.

mod assembly;

use millstream_protocol::batch::{
    BatchBuilder, BatchError, BatchView, Message, RecordRef, decompress,
};
use millstream_protocol::frame::FrameKind;

use crate::Outcome;

/// Larger expansions are refused, so that the fuzzer stays fast.
const EXPANDED_BYTES_MAX: usize = 1 << 20;

/// Runs all claims over `data`.
pub fn check(data: &[u8]) -> Outcome {
    let Some(([choice, low, high], body)) = data.split_first_chunk() else {
        return Outcome::Refused;
    };
    let record_count = u16::from_le_bytes([*low, *high]);
    match choice % 3 {
        0 => check_plain(record_count, body),
        1 => check_compressed(record_count, body),
        _ => {
            let (record_count, body) = assembly::assemble(body);
            check_plain(record_count, &body)
        }
    }
}

fn check_plain(record_count: u16, body: &[u8]) -> Outcome {
    let Ok(view) = BatchView::check(FrameKind::Batch, record_count, false, body) else {
        return Outcome::Refused;
    };
    let mut builder = BatchBuilder::new();
    for record in &view {
        builder
            .push(&message(record))
            .expect("what was accepted keeps to all limits");
    }
    let mut again = Vec::new();
    builder.write_body(&mut again);
    assert_eq!(again.len(), builder.body_bytes() as usize);
    if builder.fields().kind == FrameKind::Single {
        let only = view.record(0).expect("one record");
        assert_eq!(again, only.body());
    } else {
        assert_eq!(again, body, "a batch has one form");
    }
    assert!(view.record(view.len()).is_none());
    let other = BatchView::check(FrameKind::Batch, record_count ^ 1, false, body);
    assert!(
        matches!(other, Err(BatchError::RecordCount { .. })),
        "a count cannot be mistaken"
    );
    Outcome::Accepted
}

fn check_compressed(record_count: u16, body: &[u8]) -> Outcome {
    let checked = BatchView::check(FrameKind::Batch, record_count, true, body);
    let expanded = decompress(body, EXPANDED_BYTES_MAX);
    let Ok(view) = checked else {
        // The count is the one thing that expanding does not need to be told.
        let count_only = matches!(checked, Err(BatchError::RecordCount { .. }));
        assert!(
            expanded.is_err() || count_only,
            "what is refused does not expand"
        );
        return Outcome::Refused;
    };
    let plain = match expanded {
        Ok(plain) => plain,
        Err(BatchError::Compression) => return Outcome::Refused,
        Err(BatchError::ExpandedTooLarge { bytes, .. }) => {
            assert!(bytes > EXPANDED_BYTES_MAX);
            return Outcome::Refused;
        }
        Err(other) => panic!("{other}: but the check passed"),
    };
    let expanded = BatchView::check(FrameKind::Batch, record_count, false, &plain)
        .expect("a batch that passed expands to one that does");
    assert_eq!(expanded.payload_bytes(), view.payload_bytes());
    for (before, after) in view.iter().zip(&expanded) {
        assert_eq!(before.key(), after.key());
        assert!(before.headers().eq(after.headers()));
    }
    let bytes_max = plain.len() - 1;
    let bounded = decompress(body, bytes_max);
    assert_eq!(
        bounded,
        Err(BatchError::ExpandedTooLarge {
            bytes: plain.len(),
            bytes_max
        })
    );
    check_plain(record_count, &plain)
}

fn message(record: RecordRef<'_>) -> Message {
    let message = Message::from(record.body())
        .key(record.key().unwrap_or_default().to_vec())
        .id(record.id().unwrap_or_default().to_vec())
        .group(record.group().unwrap_or_default().to_vec())
        .due_at_us(record.due_at_us().unwrap_or(0))
        .expires_at_us(record.expires_at_us().unwrap_or(0))
        .published_at_us(record.published_at_us().unwrap_or(0))
        .priority(record.priority());
    record.headers().fold(message, |message, (name, value)| {
        message.header(name, value.to_vec())
    })
}
