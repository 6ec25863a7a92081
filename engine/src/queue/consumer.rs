//! Taking records from a queue: pushed within a window, or pulled.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use millstream_protocol::{Offset, TopicName};

use super::clock::boot_us;
use super::delivery::{Delivery, DeliveryView};
use super::error::ConsumeError;
use super::fetcher::{Fetcher, Unreadable};
use super::link::{Event, Link, Outcome};
use super::scheduler::{Detached, Grant, LeaseNumber, Settle, Verb};
use super::shared::{Message, QueueShared};
use crate::block_on::block_on;

/// Most records a consumer may have unsettled at once.
pub const PREFETCH_MAX: u32 = 65_536;

/// How a consumer is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerOptions {
    prefetch: u32,
    prefetch_bytes: u64,
    lease: Duration,
    name: String,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            prefetch: 64,
            prefetch_bytes: 64 << 20,
            lease: Duration::ZERO,
            name: String::new(),
        }
    }
}

impl ConsumerOptions {
    /// Up to 64 records and 64 MiB unsettled at once, under the queue's lease.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that may be delivered and not settled: 0 for a consumer that only pulls, at most
    /// [`PREFETCH_MAX`].
    #[must_use]
    pub fn prefetch(mut self, records: u32) -> Self {
        self.prefetch = records.min(PREFETCH_MAX);
        self
    }

    /// Bytes of records that may be delivered and not settled; one record always may.
    #[must_use]
    pub fn prefetch_bytes(mut self, bytes: u64) -> Self {
        self.prefetch_bytes = bytes;
        self
    }

    /// How long its leases last, instead of the queue's own time.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// What listings call it.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

/// Keeps a consumer known to its queue; gives back what it holds when the last user is gone.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) link: Arc<Link>,
    pub(super) boot_epoch: u32,
}

impl Attachment {
    fn detach(&self, cause: Detached) {
        let consumer = self.link.id;
        self.link.queue.send(Message::Detach { consumer, cause });
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.detach(Detached::Closed);
    }
}

/// What a consumer is told while it works: polling form, for servers.
#[derive(Debug)]
pub enum Worked {
    /// A record to work on.
    Delivery(Delivery),
    /// The pull that was begun is over; its records came before.
    ReceiveOver,
}

/// Takes records from one queue.
///
/// Deliveries hold on to it: what they lease goes back to the queue when it and all of them are
/// gone. Not shared: several consumers of one queue share its records.
#[derive(Debug)]
pub struct Consumer {
    attachment: Arc<Attachment>,
    fetcher: Fetcher,
    /// Granted, and not handed out yet.
    grant: Option<Grant>,
    /// Until when each pull that is under way waits, the oldest first. All but the last were given
    /// up: what they bring is for the next who asks.
    pulls: VecDeque<u64>,
}

/// What [`Consumer`] finds next.
enum Found {
    /// A record, for [`Consumer::view`].
    Record,
    /// A pull is over.
    Over(Pull),
}

/// Which pull is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pull {
    Newest,
    GivenUp,
}

impl Consumer {
    pub(super) fn open(queue: &Arc<QueueShared>, options: &ConsumerOptions) -> Self {
        let link = Arc::new(Link::new(queue, &options.name, options.prefetch));
        let consumer = Self {
            attachment: Arc::new(Attachment {
                link: Arc::clone(&link),
                boot_epoch: queue.boot_epoch,
            }),
            fetcher: Fetcher::new(&queue.topic),
            grant: None,
            pulls: VecDeque::new(),
        };
        let lease_us = micros(options.lease);
        queue.send(Message::Attach { link, lease_us });
        if options.prefetch > 0 {
            consumer.set_window(options.prefetch, options.prefetch_bytes);
        }
        consumer
    }

    #[cfg(test)]
    pub(super) fn confirmations(&self) -> usize {
        self.link().kept_confirmations()
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.attachment.link
    }

    /// The queue it takes from.
    #[must_use]
    pub fn queue(&self) -> &TopicName {
        &self.link().queue.name
    }

    /// The queue's number, never given to another.
    #[must_use]
    pub fn queue_id(&self) -> u32 {
        self.link().queue.id
    }

    /// The topic behind the queue.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.link().queue.topic.identity().name
    }

    /// Its own number among those of the queue.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.link().id.0
    }

    /// Number of the broker's start that its leases belong to.
    #[must_use]
    pub fn boot_epoch(&self) -> u32 {
        self.attachment.boot_epoch
    }

    /// Settles of it that came too late so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.link().lost()
    }

    /// Sets how much may be delivered and not settled at once; 0 records stop deliveries.
    pub fn set_window(&self, records: u32, bytes: u64) {
        let consumer = self.link().id;
        self.link().queue.send(Message::Window {
            consumer,
            messages: records.min(PREFETCH_MAX),
            bytes,
        });
    }

    /// The next record; `None` once the broker is closed or the queue deleted.
    ///
    /// # Errors
    ///
    /// [`ConsumeError::Failed`] when the journal or the topic failed; nothing follows.
    pub async fn next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`next`](Self::next), blocking.
    pub fn next_blocking(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        block_on(self.next())
    }

    /// The next record if one is there now. [`try_next_view`](Self::try_next_view) gives the same for less.
    pub fn try_next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        let next = self.try_next_view()?;
        Some(next.map(DeliveryView::into_delivery))
    }

    /// As [`try_next`](Self::try_next), borrowed until the next call: counts no references.
    ///
    /// ```
    /// # use millstream::{Broker, ConsumerOptions, QueueOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let broker = Broker::open(folder.path())?;
    /// # broker.create_queue("orders", QueueOptions::new())?;
    /// let mut consumer = broker.consumer("orders", ConsumerOptions::new())?;
    /// # let mut shipped_bytes = 0;
    /// while let Some(order) = consumer.try_next_view() {
    ///     let order = order?;
    ///     shipped_bytes += order.as_bytes().len();
    ///     order.ack();
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_next_view(&mut self) -> Option<Result<DeliveryView<'_>, ConsumeError>> {
        let mut cx = Context::from_waker(Waker::noop());
        match self.poll_record(&mut cx) {
            Poll::Ready(found) => found.map(|found| found.map(|()| self.view())),
            Poll::Pending => None,
        }
    }

    /// Polling form of [`next`](Self::next).
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Delivery, ConsumeError>>> {
        self.poll_record(cx)
            .map(|found| found.map(|found| found.map(|()| self.view().into_delivery())))
    }

    /// Goes to the next record, for [`view`](Self::view).
    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(), ConsumeError>>> {
        loop {
            match ready!(self.poll_found(cx)) {
                Some(Ok(Found::Record)) => return Poll::Ready(Some(Ok(()))),
                Some(Ok(Found::Over(_))) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// Gives out the record that was found last.
    #[inline]
    fn view(&mut self) -> DeliveryView<'_> {
        let grant = Self::take_part(&mut self.grant);
        let record = self.fetcher.take_found();
        let (grant, record) = grant.zip(record).expect("it was found");
        DeliveryView::new(record, &self.attachment, &grant)
    }

    /// The next record, or the end of a pull.
    pub fn poll_work(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Worked, ConsumeError>>> {
        self.poll_found(cx).map(|found| {
            found.map(|found| {
                found.map(|found| match found {
                    Found::Record => Worked::Delivery(self.view().into_delivery()),
                    Found::Over(_) => Worked::ReceiveOver,
                })
            })
        })
    }

    fn poll_found(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Found, ConsumeError>>> {
        loop {
            if let Some(grant) = &self.grant {
                let offset = grant.first;
                let fetched = ready!(self.fetcher.poll_find(offset, cx));
                match fetched {
                    Ok(()) => return Poll::Ready(Some(Ok(Found::Record))),
                    Err(Unreadable::Lost) => {
                        self.link().settle(offset, grant.lease, Verb::Gone, 0);
                    }
                    // Its lease ends, and it comes again.
                    Err(Unreadable::NotNow) => {
                        tracing::warn!(%offset, "a record can't be read now: it comes again when its lease has ended");
                    }
                }
                // Passed over.
                Self::take_part(&mut self.grant);
                continue;
            }
            if self.link().mailbox.is_empty() {
                self.link().flush();
            }
            match ready!(self.attachment.link.mailbox.poll_pop(cx)) {
                Some(Event::Grant(grant)) => self.grant = Some(grant),
                Some(Event::ReceiveOver(granted)) => {
                    let over = self.pull_over(granted);
                    return Poll::Ready(Some(Ok(Found::Over(over))));
                }
                None => {
                    return Poll::Ready(match self.link().closed() {
                        Some(error @ ConsumeError::Failed { .. }) => Some(Err(error.clone())),
                        _ => None,
                    });
                }
            }
        }
    }

    /// Takes the first record off the grant.
    #[inline]
    fn take_part(granted: &mut Option<Grant>) -> Option<Grant> {
        let grant = granted.as_mut()?;
        let part = Grant { count: 1, ..*grant };
        grant.first = grant.first + 1;
        grant.count -= 1;
        if grant.count == 0 {
            *granted = None;
        }
        Some(part)
    }

    /// Takes the pull off the list that is over. They are served in turn; of those that brought
    /// nothing the one that waited least long is over first.
    fn pull_over(&mut self, granted: u32) -> Pull {
        let at = match granted {
            0 => self
                .pulls
                .iter()
                .enumerate()
                .min_by_key(|(_, until)| **until),
            _ => self.pulls.iter().enumerate().next(),
        };
        let at = at.map_or(0, |(at, _)| at);
        let newest = at + 1 == self.pulls.len();
        self.pulls.remove(at);
        if newest { Pull::Newest } else { Pull::GivenUp }
    }

    /// Takes up to `max` records: those that are there, or else the first to come within `wait`.
    ///
    /// Empty when nothing came. What a call that was dropped would have got is for the next one.
    ///
    /// # Errors
    ///
    /// [`ConsumeError`] when nothing can come any more.
    pub async fn receive(
        &mut self,
        max: u32,
        wait: Duration,
    ) -> Result<Vec<Delivery>, ConsumeError> {
        let max = max.clamp(1, PREFETCH_MAX);
        let mut received = Vec::new();
        // What is here already, of pulls that were given up.
        let mut here = Context::from_waker(Waker::noop());
        while received.len() < max as usize
            && let Poll::Ready(Some(Ok(found))) = self.poll_found(&mut here)
        {
            if let Found::Record = found {
                received.push(self.view().into_delivery());
            }
        }
        if !received.is_empty() {
            return Ok(received);
        }
        self.begin_receive(max, u64::MAX, wait, Duration::ZERO);
        // What another pull brings beyond `max` is for the next call.
        while received.len() < max as usize || self.pulls.len() == 1 {
            match poll_fn(|cx| self.poll_found(cx)).await {
                Some(Ok(Found::Record)) => received.push(self.view().into_delivery()),
                Some(Ok(Found::Over(Pull::Newest))) => break,
                Some(Ok(Found::Over(Pull::GivenUp))) if received.is_empty() => {}
                Some(Ok(Found::Over(Pull::GivenUp))) => break,
                Some(Err(error)) => return Err(error),
                None if received.is_empty() => {
                    let closed = self.link().closed().cloned();
                    return Err(closed.unwrap_or(ConsumeError::Closed));
                }
                None => break,
            }
        }
        Ok(received)
    }

    /// As [`receive`](Self::receive), blocking.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    pub fn receive_blocking(
        &mut self,
        max: u32,
        wait: Duration,
    ) -> Result<Vec<Delivery>, ConsumeError> {
        block_on(self.receive(max, wait))
    }

    /// Begins a pull of up to `max` records and `bytes`, which ends with [`Worked::ReceiveOver`].
    /// A lease of zero is the consumer's own. One at a time.
    pub fn begin_receive(&mut self, max: u32, bytes: u64, wait: Duration, lease: Duration) {
        let consumer = self.link().id;
        let until_boot_us = boot_us().saturating_add(micros(wait));
        self.pulls.push_back(until_boot_us);
        self.link().flush();
        self.link().queue.send(Message::Receive {
            consumer,
            messages: max.clamp(1, PREFETCH_MAX),
            bytes,
            until_boot_us,
            lease_us: micros(lease),
        });
    }

    /// Whether a pull is under way.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        !self.pulls.is_empty()
    }

    /// Settles a record that was delivered to this consumer, by number: for servers, whose
    /// deliveries are far away. Its [`Outcome`] comes by [`next_outcome`](Self::next_outcome) unless
    /// `tag` is 0. The queue hears of it by [`flush_settles`](Self::flush_settles), which the caller does not
    /// leave out; before where a quarter of the window waits.
    pub fn settle(&self, offset: Offset, lease: u64, how: Settling, tag: u64) {
        self.link().settle_ahead(Settle {
            offset,
            lease: LeaseNumber(lease),
            verb: how.verb(),
            tag,
        });
    }

    /// Hands settles that wait to the queue at once.
    pub fn flush_settles(&self) {
        self.link().flush();
    }

    /// What became of numbered settles, as the queue came to them; [`poll_work`](Self::poll_work) wakes for it.
    #[must_use]
    pub fn next_outcome(&self) -> Option<Outcome> {
        self.link().next_outcome()
    }

    /// Whether the queue has so much to do that further inputs should wait.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.link().queue.is_busy()
    }

    /// The peer behind this consumer was lost: what it had counts as delivered in vain, and what it
    /// did not take yet does not.
    pub fn lose(mut self) {
        let grant = self.grant.take();
        self.link().lose_peer();
        if let Some(grant) = grant {
            self.link().give_back_grant(&grant);
        }
        self.attachment.detach(Detached::Lost);
    }

    /// Gives back what it holds and leaves; deliveries that are still held can be settled.
    pub fn close(self) {}
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if self.link().closed().is_some() {
            return;
        }
        self.set_window(0, 0);
        let grant = self.grant.take();
        let link = self.link();
        if let Some(grant) = grant {
            link.give_back_grant(&grant);
        }
        // A pull may be under way, and somebody else at the queue.
        link.stop_reading();
        link.flush();
    }
}

/// How a record is settled by number.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settling {
    /// Done.
    Ack,
    /// Again, after the queue's back-off.
    Retry,
    /// Again, after this.
    RetryAfter(Duration),
    /// Never again: a dead letter.
    Reject(String),
    /// Again at once, uncounted.
    Release,
    /// Keep the lease for this much longer from now; zero for its usual time.
    Extend(Duration),
}

impl Settling {
    fn verb(self) -> Verb {
        match self {
            Self::Ack => Verb::Ack,
            Self::Retry => Verb::Retry,
            Self::RetryAfter(delay) => Verb::RetryAfter {
                delay_us: micros(delay),
            },
            Self::Reject(reason) => Verb::Reject {
                reason: reason.into(),
            },
            Self::Release => Verb::Release,
            Self::Extend(lease) => Verb::Extend {
                lease_us: micros(lease),
            },
        }
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
