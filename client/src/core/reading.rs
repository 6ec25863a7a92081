//! One reader stream: its credit, and which offset must come next.

use millstream_protocol::Offset;
use millstream_protocol::control::{DeliveryPrelude, Gap};
use millstream_protocol::limits::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES};

/// Gaps a server may tell of before the reader takes the first.
const GAPS_WAITING_MAX: u32 = 65_536;
/// Credit goes back once this part of it was consumed, so that one message returns many.
const CREDIT_PARTS: u64 = 4;

/// One reader stream of a connection.
#[derive(Debug)]
pub(super) struct Reading {
    /// What the server may still send; one frame may overdraw it.
    credit: i64,
    credit_bytes: u32,
    /// Consumed and not given back yet.
    owed: u64,
    gaps_waiting: u32,
    /// The offset that must come next; none before the stream is open.
    next: Option<Offset>,
    /// Nothing came yet: the first frame may begin before the start.
    fresh: bool,
}

impl Reading {
    pub(super) fn new(credit_bytes: u32) -> Self {
        Self {
            credit: i64::from(credit_bytes),
            credit_bytes,
            owed: 0,
            gaps_waiting: 0,
            next: None,
            fresh: true,
        }
    }

    pub(super) const fn is_opening(&self) -> bool {
        self.next.is_none()
    }

    pub(super) const fn opened(&mut self, start: Offset) {
        self.next = Some(start);
    }

    /// Takes account of frames that came. An error says what no server may do.
    pub(super) fn delivered(&mut self, prelude: &DeliveryPrelude) -> Result<(), String> {
        let frames_bytes = prelude.frames_bytes;
        if (frames_bytes as usize) < FRAME_HEADER_BYTES {
            return Err(format!(
                "it delivered {frames_bytes} bytes, less than a frame"
            ));
        }
        let allowed = self.credit + FRAME_BYTES_MAX as i64;
        if self.credit <= 0 || i64::from(frames_bytes) > allowed {
            return Err(format!(
                "it delivered {frames_bytes} bytes on a credit of {}",
                self.credit
            ));
        }
        self.follows(prelude.first_offset, prelude.next_offset)?;
        self.credit -= i64::from(frames_bytes);
        Ok(())
    }

    /// Takes account of a gap. An error says what no server may do.
    pub(super) fn gap(&mut self, gap: &Gap) -> Result<(), String> {
        self.follows(gap.first_offset, gap.next_offset)?;
        self.gaps_waiting += 1;
        if self.gaps_waiting > GAPS_WAITING_MAX {
            return Err(format!(
                "it told of {GAPS_WAITING_MAX} gaps ahead of the reader"
            ));
        }
        Ok(())
    }

    fn follows(&mut self, first: Offset, next: Offset) -> Result<(), String> {
        let Some(wanted) = self.next else {
            return Err("it delivered on a stream it had not opened".to_owned());
        };
        let begins = if self.fresh {
            first <= wanted
        } else {
            first == wanted
        };
        if !begins || next <= wanted {
            return Err(format!(
                "it delivered offsets {first} up to {next} where {wanted} was to follow"
            ));
        }
        self.fresh = false;
        self.next = Some(next);
        Ok(())
    }

    /// The reader took a gap.
    pub(super) const fn gap_taken(&mut self) {
        self.gaps_waiting = self.gaps_waiting.saturating_sub(1);
    }

    /// The reader consumed bytes that were delivered; gives what is worth a credit message.
    pub(super) fn consumed(&mut self, bytes: u32) -> Option<u32> {
        self.owed += u64::from(bytes);
        if self.owed < u64::from(self.credit_bytes).div_ceil(CREDIT_PARTS) {
            return None;
        }
        let returned = u32::try_from(self.owed).unwrap_or(u32::MAX);
        self.owed -= u64::from(returned);
        self.credit += i64::from(returned);
        Some(returned)
    }
}
