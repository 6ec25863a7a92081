//! One record leased to a consumer, and the ways to settle it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_protocol::Offset;
use millstream_protocol::batch::Record;
use millstream_protocol::control::SettleVerb;
use millstream_protocol::limits::{BACKOFF_MS_MAX, LEASE_MS_MAX};
use tokio::sync::oneshot;

use crate::connection::Confirmation;
use crate::consumer::OpenStream;
use crate::core::{SettleRequest, WorkItem};
use crate::error::SettleError;

/// A record to work on, under a lease.
///
/// Settle it once: [`ack`](Self::ack), [`retry`](Self::retry), [`reject`](Self::reject) or
/// [`release`](Self::release) consume it. They do not wait: settles are sent together, in order,
/// and answered together. Dropped unsettled, it is released: it comes again at once, uncounted.
///
/// A settle that comes after the end of the lease changes nothing, as the record is or was
/// somebody else's: [`Consumer::lost`](crate::Consumer::lost) counts those, and
/// [`ack_confirmed`](Self::ack_confirmed) says so.
pub struct Delivery {
    record: Record,
    token: DeliveryToken,
    attempts: u16,
    first_us: u64,
    settled: bool,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("record", &self.record)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// Names a delivery apart from it, to extend its lease from elsewhere.
#[derive(Clone)]
pub struct DeliveryToken {
    stream: Arc<OpenStream>,
    offset: Offset,
    lease: u64,
}

impl fmt::Debug for DeliveryToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryToken")
            .field("offset", &self.offset)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl DeliveryToken {
    /// The record's number in its topic.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// Keeps the lease for `lease` more from now; zero for its usual time. At most a day.
    pub fn extend(&self, lease: Duration) {
        let arg_us = micros(lease, LEASE_MS_MAX);
        self.settle(SettleVerb::Extend, arg_us, "", None);
    }

    /// Asks for the record to be delivered again after the queue's back-off, as
    /// [`Delivery::retry`]; what the delivery itself says later is too late.
    pub fn retry(&self) {
        self.settle(SettleVerb::Retry, 0, "", None);
    }

    /// What is left of the lease, as far as this side knows; nothing once it is lost or settled.
    #[must_use]
    pub fn lease_left(&self) -> Duration {
        let until = self.stream.held_until(self.lease, self.offset);
        until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    /// Whether the lease is known to be over or the delivery settled.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.lease_left().is_zero()
    }

    fn settle(
        &self,
        verb: SettleVerb,
        arg_us: u64,
        reason: &str,
        confirmation: Option<Confirmation>,
    ) {
        let settle = SettleRequest {
            offset: self.offset,
            lease: self.lease,
            verb,
            arg_us,
            reason: reason.into(),
        };
        self.stream.settle(settle, confirmation);
    }
}

impl Delivery {
    pub(crate) fn new(item: WorkItem, stream: &Arc<OpenStream>) -> Self {
        let WorkItem { entry, record, .. } = item;
        Self {
            record,
            token: DeliveryToken {
                stream: Arc::clone(stream),
                offset: entry.offset,
                lease: entry.lease,
            },
            attempts: entry.attempts,
            first_us: entry.first_us,
            settled: false,
        }
    }

    /// Another handle of the same lease, to settle what cannot be taken back; the first of the two
    /// to be settled counts.
    pub(crate) fn second(&self) -> Self {
        Self {
            record: self.record.clone(),
            token: self.token.clone(),
            attempts: self.attempts,
            first_us: self.first_us,
            settled: false,
        }
    }

    /// The record's number in its topic.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.record.offset()
    }

    /// The payload; costs a reference count, no copy.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.record.body()
    }

    /// The payload, borrowed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.record.as_bytes()
    }

    /// The whole record.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<Bytes> {
        self.record.key()
    }

    /// The group, if it has one.
    #[must_use]
    pub fn group(&self) -> Option<&[u8]> {
        self.record.options_ref()?.group()
    }

    /// The headers, name and value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.record.headers()
    }

    /// How often it was delivered, this time included.
    #[must_use]
    pub const fn attempts(&self) -> u16 {
        self.attempts
    }

    /// When it was delivered first, in microseconds of the Unix epoch; none when this is the first
    /// time.
    #[must_use]
    pub const fn first_delivered_us(&self) -> Option<u64> {
        match self.first_us {
            0 => None,
            us => Some(us),
        }
    }

    /// What is left of the lease, as far as this side knows; nothing once it is lost.
    #[must_use]
    pub fn lease_left(&self) -> Duration {
        self.token.lease_left()
    }

    /// Names it apart from itself.
    #[must_use]
    pub fn token(&self) -> DeliveryToken {
        self.token.clone()
    }

    /// Done: it is never delivered again.
    pub fn ack(mut self) {
        self.settle(SettleVerb::Ack, 0, "", None);
    }

    /// To be delivered again after the queue's back-off; a dead letter if it had all its attempts.
    pub fn retry(mut self) {
        self.settle(SettleVerb::Retry, 0, "", None);
    }

    /// To be delivered again after `delay`, at most a week.
    pub fn retry_after(mut self, delay: Duration) {
        let arg_us = micros(delay, BACKOFF_MS_MAX);
        self.settle(SettleVerb::RetryAfter, arg_us, "", None);
    }

    /// Never to be delivered again: a dead letter, for this reason, of which 256 bytes are kept.
    pub fn reject(mut self, reason: impl AsRef<str>) {
        self.settle(SettleVerb::Reject, 0, reason.as_ref(), None);
    }

    /// Given back: it comes again at once, and this delivery does not count.
    pub fn release(mut self) {
        self.settle(SettleVerb::Release, 0, "", None);
    }

    /// Keeps the lease for `lease` more from now; zero for its usual time. At most a day.
    pub fn extend(&self, lease: Duration) {
        self.token.extend(lease);
    }

    /// As [`ack`](Self::ack), and waits until that survives power loss.
    ///
    /// # Errors
    ///
    /// [`SettleError::LeaseLost`] when it came too late, and others; see there.
    pub async fn ack_confirmed(self) -> Result<(), SettleError> {
        let (_stream, answer) = self.confirmed();
        answer.await.unwrap_or(Err(SettleError::Unknown))
    }

    /// As [`ack_confirmed`](Self::ack_confirmed), blocking. Panics inside an async runtime.
    ///
    /// # Errors
    ///
    /// As [`ack_confirmed`](Self::ack_confirmed).
    pub fn ack_confirmed_blocking(self) -> Result<(), SettleError> {
        let (_stream, answer) = self.confirmed();
        answer.blocking_recv().unwrap_or(Err(SettleError::Unknown))
    }

    /// Sends the ack; the stream is to be kept until its answer came.
    fn confirmed(mut self) -> (Arc<OpenStream>, oneshot::Receiver<Result<(), SettleError>>) {
        let (confirmation, answer) = oneshot::channel();
        self.settle(SettleVerb::Ack, 0, "", Some(confirmation));
        (Arc::clone(&self.token.stream), answer)
    }

    fn settle(
        &mut self,
        verb: SettleVerb,
        arg_us: u64,
        reason: &str,
        confirmation: Option<Confirmation>,
    ) {
        self.settled = true;
        self.token.settle(verb, arg_us, reason, confirmation);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(SettleVerb::Release, 0, "", None);
        }
    }
}

/// A time as settles carry it, cut to what they may.
fn micros(duration: Duration, ms_max: u32) -> u64 {
    let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    us.min(1000 * u64::from(ms_max))
}
