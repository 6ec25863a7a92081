//! A reader's stream: credit in, deliveries straight from the segments out.
//!
//! It says that it is open once its start is known, which for a start by time may take a while.

use std::task::{Context, Poll};

use millstream::{Chunk, Reader};
use millstream_protocol::control::{DeliveryPrelude, ErrorMessage, ReaderOpened};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::limits::{DELIVERY_BYTES_MAX, READ_CREDIT_BYTES_MAX};
use millstream_protocol::wire::StreamId;

use crate::output::OutQueue;
use crate::refusal::refused;

/// What polling a reader came to.
#[derive(Debug)]
pub(crate) enum Delivered {
    /// Something was queued; there may be more.
    Some,
    /// Nothing now: no credit, no room, or no records.
    Nothing,
    /// The reader failed.
    Failed(ErrorMessage),
}

#[derive(Debug)]
pub(crate) struct ReaderStream {
    reader: Reader,
    /// Bytes that may be sent; below zero by at most one frame.
    credit: i64,
    /// Deliveries so far, their correlation.
    deliveries: u64,
    /// What is to be said once the start is known.
    opening: Option<Opening>,
}

/// The answer that waits for a reader's start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    pub(crate) incarnation: [u8; 16],
    pub(crate) correlation: u64,
}

impl ReaderStream {
    /// The caller has compared `credit_bytes` with its limit.
    pub(crate) const fn new(reader: Reader, credit_bytes: u32, opening: Opening) -> Self {
        Self {
            reader,
            credit: credit_bytes as i64,
            deliveries: 0,
            opening: Some(opening),
        }
    }

    /// Adds to the credit.
    pub(crate) fn credit(&mut self, bytes: u32) -> Result<(), ErrorMessage> {
        self.credit += i64::from(bytes);
        check_credit(self.credit)
    }

    /// Queues one delivery, or the gap or the answer before it, if credit and room allow.
    pub(crate) fn poll_deliver(
        &mut self,
        id: StreamId,
        cx: &mut Context<'_>,
        out: &mut OutQueue,
    ) -> Delivered {
        if let Some(opening) = self.opening {
            return self.poll_open(id, opening, cx, out);
        }
        if self.credit <= 0 || !out.takes_delivery() {
            return Delivered::Nothing;
        }
        let bytes_max = self.credit.min(DELIVERY_BYTES_MAX as i64) as u32;
        match self.reader.poll_frames(bytes_max, cx) {
            Poll::Pending => return Delivered::Nothing,
            Poll::Ready(Err(error)) => {
                return Delivered::Failed(refused(error.code(), error.to_string()));
            }
            Poll::Ready(Ok(Chunk::Frames(frames))) => {
                let frames_bytes = frames.len_bytes();
                let prelude = DeliveryPrelude {
                    place: frames.place(),
                    frames_bytes,
                    first_offset: frames.first_offset(),
                    next_offset: frames.next_offset(),
                };
                self.deliveries += 1;
                let head = prelude.encode(id, self.deliveries);
                out.control(|out| out.extend_from_slice(&head));
                out.frames(frames);
                self.credit -= i64::from(frames_bytes);
            }
            Poll::Ready(Ok(Chunk::Gap(gap))) => {
                self.deliveries += 1;
                out.control(|out| gap.encode(id, self.deliveries, out));
            }
        }
        Delivered::Some
    }
}

impl ReaderStream {
    fn poll_open(
        &mut self,
        id: StreamId,
        opening: Opening,
        cx: &mut Context<'_>,
        out: &mut OutQueue,
    ) -> Delivered {
        let Poll::Ready(start_offset) = self.reader.poll_start(cx) else {
            return Delivered::Nothing;
        };
        let opened = ReaderOpened {
            start_offset,
            end_offset: self.reader.high_watermark(),
            incarnation: opening.incarnation,
        };
        out.control(|out| opened.encode(id, opening.correlation, out));
        self.opening = None;
        Delivered::Some
    }
}

/// Whether `bytes` is a credit a reader may have.
pub(crate) fn check_credit(bytes: i64) -> Result<(), ErrorMessage> {
    if bytes > i64::from(READ_CREDIT_BYTES_MAX) {
        let sentence = format!("credit: {bytes} bytes, over the limit of {READ_CREDIT_BYTES_MAX}");
        return Err(refused(ErrorCode::WindowExceeded, sentence));
    }
    Ok(())
}
