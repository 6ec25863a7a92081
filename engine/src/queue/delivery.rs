//! One record leased to a consumer, and the ways to settle it.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_protocol::Offset;
use millstream_protocol::batch::{Record, RecordView};

use super::clock::boot_us;
use super::consumer::{Attachment, micros};
use super::error::SettleError;
use super::scheduler::{Grant, LeaseNumber, Verb};
use crate::block_on::block_on;

/// A record to work on, under a lease.
///
/// Settle it once: [`ack`](Self::ack), [`retry`](Self::retry), [`reject`](Self::reject) or
/// [`release`](Self::release) consume it. They do not wait: settles are handed over together, in
/// order. Dropped unsettled, it is released: it comes again at once, uncounted.
pub struct Delivery {
    record: Record,
    attachment: Arc<Attachment>,
    terms: Terms,
}

/// As [`Delivery`], borrowed from its consumer: counts no references.
///
/// Acknowledge it, or make it a delivery of its own by [`into_delivery`](Self::into_delivery) to settle
/// it otherwise, or later. Dropped unsettled, it is released.
pub struct DeliveryView<'a> {
    record: RecordView<'a>,
    attachment: &'a Arc<Attachment>,
    terms: Terms,
}

/// What a delivery was granted under.
#[derive(Debug, Clone, Copy)]
struct Terms {
    lease: LeaseNumber,
    attempts: u16,
    first_us: u64,
    until: LeaseTime,
    /// Its delivery was settled: dropping that says nothing more.
    settled: bool,
}

impl Terms {
    const fn of(grant: &Grant) -> Self {
        Self {
            lease: grant.lease,
            attempts: grant.attempts,
            first_us: grant.first_us,
            until: LeaseTime {
                boot_us: grant.until_boot_us,
            },
            settled: false,
        }
    }
}

/// Names a delivery apart from it, to extend its lease from elsewhere.
#[derive(Debug, Clone)]
pub struct DeliveryToken {
    attachment: Arc<Attachment>,
    offset: Offset,
    lease: LeaseNumber,
}

/// A time on the clock that leases go by, the machine's since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseTime {
    boot_us: u64,
}

impl LeaseTime {
    /// The time now. Costs a look at the clock.
    #[must_use]
    pub fn now() -> Self {
        Self { boot_us: boot_us() }
    }

    /// How much later it is than `earlier`; nothing where it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.boot_us.saturating_sub(earlier.boot_us))
    }
}

/// What a server sends on about a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryParts {
    /// The record's offset.
    pub offset: Offset,
    /// The lease's number.
    pub lease: u64,
    /// How often it was delivered, this time included.
    pub attempts: u16,
    /// When it was first delivered, microseconds of the Unix epoch; 0: this is the first time.
    pub first_us: u64,
    /// When the lease ends.
    pub until: LeaseTime,
}

// Up to here it is moved in registers; beyond, by a call each time.
const _: () = assert!(size_of::<Delivery>() <= 128, "cheap to move");

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("record", &self.record)
            .field("attempts", &self.terms.attempts)
            .finish_non_exhaustive()
    }
}

impl DeliveryToken {
    /// The record's offset.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// Keeps the lease for `lease` more from now; zero for its usual time.
    pub fn extend(&self, lease: Duration) {
        let lease_us = micros(lease);
        self.settle(Verb::Extend { lease_us }, 0);
    }

    /// Asks for the record to be delivered again after the queue's back-off, as
    /// [`Delivery::retry`]; what the delivery itself says later is too late.
    pub fn retry(&self) {
        self.settle(Verb::Retry, 0);
    }

    fn settle(&self, verb: Verb, tag: u64) {
        let link = &self.attachment.link;
        link.settle(self.offset, self.lease, verb, tag);
    }

    #[cfg(test)]
    pub(super) const fn lease_number(&self) -> u64 {
        self.lease.0
    }

    async fn confirmed(&self, verb: Verb) -> Result<(), SettleError> {
        let link = &self.attachment.link;
        let tag = link.new_confirmation();
        let forget = Forget(self, tag);
        self.settle(verb, tag);
        link.flush();
        let result = poll_fn(|cx| link.poll_confirmation(tag, cx)).await;
        std::mem::forget(forget);
        result
    }
}

/// Forgets a confirmation whose future was dropped.
struct Forget<'a>(&'a DeliveryToken, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.attachment.link.forget_confirmation(self.1);
    }
}

impl Delivery {
    /// The record's number in its topic.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.record.offset()
    }

    /// The payload: a slice of the mapped segment, which outlives retention and the broker.
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
        self.terms.attempts
    }

    /// What was left of the lease as it was granted; extending it does not show here.
    #[must_use]
    pub fn lease_left(&self) -> Duration {
        self.terms.until.since(LeaseTime::now())
    }

    /// Names it apart from itself.
    #[must_use]
    pub fn token(&self) -> DeliveryToken {
        DeliveryToken {
            attachment: Arc::clone(&self.attachment),
            offset: self.offset(),
            lease: self.terms.lease,
        }
    }

    /// Done: it is never delivered again.
    pub fn ack(mut self) {
        self.settle(Verb::Ack);
    }

    /// To be delivered again after the queue's back-off; a dead letter if it had all its attempts.
    pub fn retry(mut self) {
        self.settle(Verb::Retry);
    }

    /// To be delivered again after `delay`.
    pub fn retry_after(mut self, delay: Duration) {
        let delay_us = micros(delay);
        self.settle(Verb::RetryAfter { delay_us });
    }

    /// Never to be delivered again: a dead letter, for this reason.
    pub fn reject(mut self, reason: impl AsRef<str>) {
        let reason = reason.as_ref().into();
        self.settle(Verb::Reject { reason });
    }

    /// Given back: it comes again at once, and this delivery does not count.
    pub fn release(mut self) {
        self.settle(Verb::Release);
    }

    /// Keeps the lease for `lease` more from now; zero for its usual time.
    pub fn extend(&self, lease: Duration) {
        let lease_us = micros(lease);
        self.say(Verb::Extend { lease_us });
    }

    /// As [`ack`](Self::ack), and waits until that survives power loss.
    ///
    /// # Errors
    ///
    /// [`SettleError::LeaseLost`] when it came too late, and others; see there.
    pub async fn ack_confirmed(mut self) -> Result<(), SettleError> {
        self.terms.settled = true;
        self.token().confirmed(Verb::Ack).await
    }

    /// As [`ack_confirmed`](Self::ack_confirmed), blocking.
    ///
    /// # Errors
    ///
    /// As [`ack_confirmed`](Self::ack_confirmed).
    pub fn ack_confirmed_blocking(self) -> Result<(), SettleError> {
        block_on(self.ack_confirmed())
    }

    /// Settles it as the mover of dead letters back to their queue.
    pub(super) async fn redrive_confirmed(mut self) -> Result<(), SettleError> {
        self.terms.settled = true;
        self.token().confirmed(Verb::Redrive).await
    }

    /// Takes it apart; it is for the caller to settle it by number from now on.
    #[must_use]
    pub fn into_parts(mut self) -> (Record, DeliveryParts) {
        self.terms.settled = true;
        let parts = DeliveryParts {
            offset: self.offset(),
            lease: self.terms.lease.0,
            attempts: self.terms.attempts,
            first_us: self.terms.first_us,
            until: self.terms.until,
        };
        (self.record.take(), parts)
    }

    fn settle(&mut self, verb: Verb) {
        self.terms.settled = true;
        self.say(verb);
    }

    fn say(&self, verb: Verb) {
        let link = &self.attachment.link;
        link.settle(self.offset(), self.terms.lease, verb, 0);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.terms.settled {
            self.say(Verb::Release);
        }
    }
}

impl fmt::Debug for DeliveryView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryView")
            .field("record", &self.record)
            .field("attempts", &self.terms.attempts)
            .finish_non_exhaustive()
    }
}

impl<'a> DeliveryView<'a> {
    pub(super) const fn new(
        record: RecordView<'a>,
        attachment: &'a Arc<Attachment>,
        grant: &Grant,
    ) -> Self {
        Self {
            record,
            attachment,
            terms: Terms::of(grant),
        }
    }

    /// The record's number in its topic.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.record.offset()
    }

    /// The payload.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.record.as_bytes()
    }

    /// The whole record.
    #[must_use]
    pub const fn record(&self) -> &RecordView<'a> {
        &self.record
    }

    /// How often it was delivered, this time included.
    #[must_use]
    pub const fn attempts(&self) -> u16 {
        self.terms.attempts
    }

    /// The same delivery, which holds on to its record and its consumer itself: a count of references to
    /// each.
    #[must_use]
    pub fn into_delivery(self) -> Delivery {
        let delivery = Delivery {
            record: self.record.to_record(),
            attachment: Arc::clone(self.attachment),
            terms: self.terms,
        };
        std::mem::forget(self);
        delivery
    }

    /// Done: it is never delivered again.
    #[inline]
    pub fn ack(self) {
        let (attachment, offset, lease) = (self.attachment, self.offset(), self.terms.lease);
        // All of it is borrowed; what is left is that it was not settled.
        std::mem::forget(self);
        attachment.link.settle(offset, lease, Verb::Ack, 0);
    }
}

impl Drop for DeliveryView<'_> {
    fn drop(&mut self) {
        let link = &self.attachment.link;
        link.settle(self.offset(), self.terms.lease, Verb::Release, 0);
    }
}
