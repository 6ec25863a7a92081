//! What the scheduler is told.

use millstream_protocol::Offset;

use super::effect::FarEntry;
use super::entry::Reason;
use super::policy::Policy;

/// A consumer, as the driver numbers them; never used twice in a run of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConsumerId(pub(crate) u64);

/// One lease; never used twice in a run of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LeaseNumber(pub(crate) u64);

/// A piece of the topic. Pieces come in offset order and without holes, from
/// [`next_scan`](super::Scheduler::next_scan) on; what lies below that is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// Records without options.
    Run {
        first: Offset,
        count: u32,
        bytes_each: u32,
        append_us: u64,
    },
    /// A record with options.
    One {
        offset: Offset,
        bytes: u32,
        append_us: u64,
        /// Number of its group; 0: in none. Looked at in grouped queues only.
        group: u64,
        /// Looked at in prioritised queues only.
        priority: u8,
        /// Not to be delivered before, in wall time; 0: at once.
        due_us: u64,
        /// Not to be delivered from then on, in wall time; 0: never expires.
        expires_us: u64,
    },
    /// Nothing here for this queue: void frames, jumps, gaps, what was settled before, what is
    /// addressed to another. It is settled for good, and journalled.
    Void { first: Offset, next: Offset },
}

/// How a consumer went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detached {
    /// In order: its deliveries are given back uncounted.
    Closed,
    /// Its connection broke: its deliveries are counted as attempts.
    Lost,
}

/// What happened; handled by [`Scheduler::step`](super::Scheduler::step).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// A piece of the topic.
    Scanned(Scanned),
    /// A consumer came; it gets nothing before it asks. `lease_us` 0: the policy's.
    Attach {
        consumer: ConsumerId,
        lease_us: u64,
    },
    /// A consumer went.
    Detach {
        consumer: ConsumerId,
        cause: Detached,
    },
    /// Sets how much may be delivered and unsettled at once; 0 of either stops. The last record may
    /// go over the bytes, so one that is larger than all of them still arrives.
    Window {
        consumer: ConsumerId,
        messages: u32,
        bytes: u64,
    },
    /// A pull: as many records as there are, all granted in one step, then `ReceiveOver`. Waits for
    /// the first until `until_boot_us`. It is apart from the window. At most
    /// [`RECEIVES_MAX`](super::consumers::RECEIVES_MAX) wait for a consumer; more are over at once.
    Receive {
        consumer: ConsumerId,
        messages: u32,
        bytes: u64,
        until_boot_us: u64,
        /// 0: the consumer's.
        lease_us: u64,
    },
    /// A consumer settles one record.
    Settle {
        consumer: ConsumerId,
        settle: Settle,
    },
    /// A consumer acknowledges records of one lease.
    Acks {
        consumer: ConsumerId,
        acks: Acks,
    },
    /// Time went on: leases end, delays pass, pulls time out. Nothing of these happens otherwise, so
    /// a driver that stood still can hear what its consumers said before their leases end.
    Tick,
    /// Delivers nothing until `Resume`; all else goes on.
    Pause,
    Resume,
    SetPolicy(Policy),
    /// Settles all below `to`, leased ones too; moves under way go on.
    Purge {
        to: Offset,
    },
    /// Settles so many of the oldest that are ready, or moves them as dead letters of that cause.
    DropOldest {
        messages: u64,
        cause: Reason,
    },
    /// The moves up to this number are synced where they go.
    Applied {
        through: u64,
    },
    /// Back from the far store, which from now on has nothing due before `horizon_wall_us`
    /// (`u64::MAX`: nothing at all). What the effects not yet carried out bring there is apart, if
    /// they are still in the list that the step appends to.
    Near {
        entries: Vec<FarEntry>,
        horizon_wall_us: u64,
    },
}

/// One settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settle {
    pub(crate) offset: Offset,
    pub(crate) lease: LeaseNumber,
    pub(crate) verb: Verb,
    /// Echoed by [`Effect::Settled`](super::Effect::Settled); with 0 only refusals are told.
    pub(crate) tag: u64,
}

impl Settle {
    /// An acknowledgement that nobody is told of.
    pub(crate) const fn ack(offset: Offset, lease: LeaseNumber) -> Self {
        Self {
            offset,
            lease,
            verb: Verb::Ack,
            tag: 0,
        }
    }
}

/// Acknowledgements under one lease: as much as a [`Settle`] for each, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acks {
    pub(crate) lease: LeaseNumber,
    pub(crate) first: Offset,
    /// Bit n: the n-th record from `first` on.
    pub(crate) bits: u64,
    /// Of the first; each further one's is one more. 0: all have none.
    pub(crate) tag: u64,
}

impl Acks {
    /// Only `settle`, if it is an acknowledgement.
    pub(crate) const fn of(settle: &Settle) -> Option<Self> {
        match settle {
            Settle {
                offset,
                lease,
                verb: Verb::Ack,
                tag,
            } => Some(Self {
                lease: *lease,
                first: *offset,
                bits: 1,
                tag: *tag,
            }),
            _ => None,
        }
    }

    /// Takes `settle` in; false if it is something else, or under another lease, or far, or here already,
    /// or its tag is not the next one.
    pub(crate) fn join(&mut self, settle: &Settle) -> bool {
        let distance = settle.offset.since(self.first).unwrap_or(u64::MAX);
        let alike = settle.verb == Verb::Ack && settle.lease == self.lease;
        if !alike || distance >= u64::from(u64::BITS) || self.bits >> distance & 1 == 1 {
            return false;
        }
        // Tags rise with the records.
        let follows = self.tag == 0 || self.bits >> distance == 0;
        if !follows || settle.tag != self.tag_of(self.count()) {
            return false;
        }
        self.bits |= 1 << distance;
        true
    }

    /// How many they are.
    pub(crate) const fn count(&self) -> u32 {
        self.bits.count_ones()
    }

    /// The tag of the `nth`.
    const fn tag_of(&self, nth: u32) -> u64 {
        match self.tag {
            0 => 0,
            tag => tag.saturating_add(nth as u64),
        }
    }

    /// Each by itself, in rising order.
    pub(crate) fn settles(self) -> impl Iterator<Item = Settle> {
        let held = (0..u64::from(u64::BITS)).filter(move |at| self.bits >> at & 1 == 1);
        held.zip(0..).map(move |(at, nth)| Settle {
            tag: self.tag_of(nth),
            ..Settle::ack(self.first + at, self.lease)
        })
    }
}

/// What is to become of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Done.
    Ack,
    /// Again, after the queue's back-off; counted.
    Retry,
    /// Again, after this; counted.
    RetryAfter { delay_us: u64 },
    /// Never again: a dead letter.
    Reject { reason: Box<str> },
    /// Given back, uncounted.
    Release,
    /// Its lease runs this long from now; 0: as long as at first.
    Extend { lease_us: u64 },
    /// It can't be read: settled and counted as damaged.
    Gone,
    /// Moved back to where it died, whatever the policy says about dead letters.
    Redrive,
}
