//! What queues ask of the publishers to their topic: limits, and ids that were seen before.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use millstream_protocol::control::{QueueSettings, WhenFull};
use millstream_protocol::{Offset, TopicName};
use millstream_storage::{Flag, Log, claimed_end, records_between};

use super::scheduler::Counts;

/// How long an id is remembered.
pub(crate) const ID_WINDOW_US: u64 = 300_000_000;
/// Ids remembered for one topic at most; beyond, the oldest are forgotten early.
pub(crate) const IDS_MAX: usize = 1 << 20;

/// A queue's limits, as its topic's publishers see them.
#[derive(Debug)]
pub(super) struct Gate {
    queue: TopicName,
    limited: Flag,
    /// All of the topic is looked at as it comes, because a limit drops or ages records.
    eager: Flag,
    state: Mutex<GateState>,
}

#[derive(Debug)]
struct GateState {
    messages_max: u64,
    bytes_max: u64,
    when_full: WhenFull,
    /// Records that may be unsettled at once, by both limits.
    unsettled_max: u64,
    /// Publishing may go on up to this offset.
    allowed_end: u64,
    waiting: Vec<Waker>,
}

/// What a queue's limits say to a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    Granted,
    /// Wait until the queue has been worked off.
    Wait,
    /// This queue is full and refuses.
    Refused(TopicName),
}

impl Gate {
    pub(super) fn new(queue: &TopicName, settings: &QueueSettings) -> Self {
        let gate = Self {
            queue: queue.clone(),
            limited: Flag::new(),
            eager: Flag::new(),
            state: Mutex::new(GateState {
                messages_max: 0,
                bytes_max: 0,
                when_full: WhenFull::Refuse,
                unsettled_max: u64::MAX,
                allowed_end: u64::MAX,
                waiting: Vec::new(),
            }),
        };
        gate.set(settings);
        gate
    }

    /// Takes over new limits.
    pub(super) fn set(&self, settings: &QueueSettings) {
        let limited = settings.messages_max != 0 || settings.bytes_max != 0;
        let drops = limited && settings.when_full == WhenFull::DropOldest;
        put(&self.limited, limited);
        put(&self.eager, drops || settings.age_max_ms != 0);
        let mut state = self.lock();
        state.messages_max = settings.messages_max;
        state.bytes_max = settings.bytes_max;
        state.when_full = settings.when_full;
        state.unsettled_max = u64::MAX;
        if !limited {
            state.allowed_end = u64::MAX;
        }
        state.wake();
    }

    pub(super) fn is_limited(&self) -> bool {
        self.limited.is_set()
    }

    pub(super) fn is_eager(&self) -> bool {
        self.eager.is_set()
    }

    /// Lets everything pass, for a queue that has ended.
    pub(super) fn open(&self) {
        self.limited.clear();
        let mut state = self.lock();
        state.allowed_end = u64::MAX;
        state.wake();
    }

    /// Says anew how far publishers may go; returns how many records are to be dropped.
    ///
    /// The queue looked at the topic up to `next_scan`; all behind it counts as unsettled.
    pub(super) fn update(&self, topic: &Log, counts: &Counts, next_scan: Offset) -> u64 {
        // What is on its way to the dead letters no longer fills the queue.
        let unsettled_up_to = |end: Offset| {
            let all = counts.unsettled_scanned + records_between(topic, next_scan, end);
            all.saturating_sub(counts.moving)
        };
        let mut state = self.lock();
        let mut unsettled_max = match state.messages_max {
            0 => u64::MAX,
            max => max,
        };
        let (_, bytes) = topic.size();
        let end = topic.high_watermark();
        let kept = records_between(topic, topic.first_offset(), end);
        if state.bytes_max != 0 && kept > 0 && bytes > 0 {
            // Records are taken to be of average size: exact sizes would cost memory per record.
            let average = (bytes / kept).max(1);
            unsettled_max = unsettled_max.min((state.bytes_max / average).max(1));
        }
        state.unsettled_max = unsettled_max;
        if state.when_full == WhenFull::DropOldest {
            state.allowed_end = u64::MAX;
            let unsettled = unsettled_up_to(end);
            return unsettled.saturating_sub(unsettled_max).min(counts.ready);
        }
        let (next, _) = claimed_end(topic);
        let unsettled = unsettled_up_to(next);
        let allowed_end = next
            .0
            .saturating_sub(unsettled)
            .saturating_add(unsettled_max);
        if allowed_end > state.allowed_end || !state.waiting.is_empty() {
            state.allowed_end = allowed_end;
            state.wake();
        }
        state.allowed_end = allowed_end;
        0
    }

    fn admit(&self, next: Offset, records: u64) -> Admission {
        if !self.limited.is_set() {
            return Admission::Granted;
        }
        let state = self.lock();
        if state.has_room(next, records) {
            Admission::Granted
        } else if state.when_full == WhenFull::Wait && state.could_fit(records) {
            Admission::Wait
        } else {
            Admission::Refused(self.queue.clone())
        }
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GateState {
    const fn has_room(&self, next: Offset, records: u64) -> bool {
        next.0.saturating_add(records) <= self.allowed_end
    }

    /// Whether so many together would fit into an empty queue: if not, waiting is no use.
    const fn could_fit(&self, records: u64) -> bool {
        records <= self.unsettled_max
    }

    fn wake(&mut self) {
        for waker in self.waiting.drain(..) {
            waker.wake();
        }
    }
}

fn put(flag: &Flag, value: bool) {
    if value {
        // Whether it was set before does not matter.
        let _ = flag.set();
    } else {
        flag.clear();
    }
}

/// What publishers to one topic look at.
#[derive(Debug)]
pub(crate) struct TopicRules {
    /// Some queue of the topic has limits.
    limited: Flag,
    gates: Mutex<Vec<Arc<Gate>>>,
    ids: Mutex<Ids>,
}

impl TopicRules {
    pub(super) fn new() -> Self {
        Self {
            limited: Flag::new(),
            gates: Mutex::new(Vec::new()),
            ids: Mutex::new(Ids::new()),
        }
    }

    pub(super) fn add_gate(&self, gate: &Arc<Gate>) {
        self.gates().push(Arc::clone(gate));
        self.refresh();
    }

    pub(super) fn remove_gate(&self, gate: &Arc<Gate>) {
        self.gates().retain(|other| !Arc::ptr_eq(other, gate));
        self.refresh();
    }

    /// Looks again whether any queue has limits.
    pub(super) fn refresh(&self) {
        let limited = self.gates().iter().any(|gate| gate.is_limited());
        put(&self.limited, limited);
    }

    /// Whether `records` more may be published; one load where no queue has limits.
    #[inline]
    pub(crate) fn admit(&self, log: &Log, records: u64) -> Admission {
        if !self.limited.is_set() {
            return Admission::Granted;
        }
        self.admit_limited(log, records)
    }

    #[cold]
    fn admit_limited(&self, log: &Log, records: u64) -> Admission {
        let (next, _) = claimed_end(log);
        for gate in self.gates().iter() {
            match gate.admit(next, records) {
                Admission::Granted => {}
                other => return other,
            }
        }
        Admission::Granted
    }

    /// Ready once a publish of `records` that was told to wait is worth another try.
    pub(crate) fn poll_admitted(&self, log: &Log, records: u64, cx: &mut Context<'_>) -> Poll<()> {
        if !self.limited.is_set() {
            return Poll::Ready(());
        }
        let (next, _) = claimed_end(log);
        for gate in self.gates().iter() {
            let mut state = gate.lock();
            let waits = state.when_full == WhenFull::Wait && state.could_fit(records);
            if waits && !state.has_room(next, records) {
                if !state
                    .waiting
                    .iter()
                    .any(|waker| waker.will_wake(cx.waker()))
                {
                    state.waiting.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// The ids seen, held while a message with one is published: check and append are one step.
    pub(crate) fn ids(&self) -> MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gates(&self) -> MutexGuard<'_, Vec<Arc<Gate>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An id as it is remembered: 128 bits of keyed hash.
type IdHash = [u64; 2];

/// The ids published to a topic within the window.
#[derive(Debug)]
pub(crate) struct Ids {
    hashers: [RandomState; 2],
    seen: HashMap<IdHash, Offset>,
    /// Oldest first, with the boot time they came at.
    order: VecDeque<(u64, IdHash, Offset)>,
    loading: Loading,
}

/// Whether ids of before the start are known.
#[derive(Debug)]
enum Loading {
    /// Nobody asked yet.
    Not,
    /// They are being read; who waits for it.
    Under(Vec<Waker>),
    Done,
}

impl Ids {
    fn new() -> Self {
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            seen: HashMap::new(),
            order: VecDeque::new(),
            loading: Loading::Not,
        }
    }

    fn hash(&self, id: &[u8]) -> IdHash {
        self.hashers.each_ref().map(|hasher| hasher.hash_one(id))
    }

    /// Whether those of before the start are known.
    pub(crate) fn is_loaded(&self) -> bool {
        matches!(self.loading, Loading::Done)
    }

    /// Takes the duty to load; true for the first who asks.
    pub(crate) fn begin_loading(&mut self) -> bool {
        let first = matches!(self.loading, Loading::Not);
        if first {
            self.loading = Loading::Under(Vec::new());
        }
        first
    }

    /// Gives the duty to load back; who waits for it asks again.
    pub(super) fn loading_failed(&mut self) {
        if let Loading::Under(waiting) = std::mem::replace(&mut self.loading, Loading::Not) {
            for waker in waiting {
                waker.wake();
            }
        }
    }

    /// Asks to be woken when they are loaded; true if they are.
    pub(crate) fn wait_loaded(&mut self, waker: &Waker) -> bool {
        match &mut self.loading {
            Loading::Done => true,
            Loading::Under(waiting) => {
                waiting.push(waker.clone());
                false
            }
            Loading::Not => true,
        }
    }

    /// Takes over what was found, oldest first, in front of what came meanwhile.
    pub(super) fn loaded(&mut self, found: &[(u64, Vec<u8>, Offset)]) {
        for (at_us, id, offset) in found {
            self.note(id, *offset, *at_us);
        }
        if let Loading::Under(waiting) = std::mem::replace(&mut self.loading, Loading::Done) {
            for waker in waiting {
                waker.wake();
            }
        }
    }

    /// The offset of the record that `id` came with first, if that was within the window.
    pub(crate) fn find(&mut self, id: &[u8], now_us: u64) -> Option<Offset> {
        self.forget_old(now_us);
        self.seen.get(&self.hash(id)).copied()
    }

    /// Remembers `id`.
    pub(crate) fn note(&mut self, id: &[u8], offset: Offset, now_us: u64) {
        let hash = self.hash(id);
        if self.seen.insert(hash, offset).is_none() {
            self.order.push_back((now_us, hash, offset));
        }
        if self.order.len() > IDS_MAX {
            self.forget_first();
        }
    }

    fn forget_old(&mut self, now_us: u64) {
        while let Some((at_us, _, _)) = self.order.front()
            && at_us.saturating_add(ID_WINDOW_US) < now_us
        {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, hash, _)) = self.order.pop_front() {
            self.seen.remove(&hash);
        }
    }

    /// No record from this offset on may be trimmed: a restart would forget its id.
    pub(super) fn hold_from(&mut self, now_us: u64) -> Option<Offset> {
        self.forget_old(now_us);
        self.order.front().map(|(_, _, offset)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_for_the_window_and_then_forgotten() {
        let mut ids = Ids::new();
        ids.note(b"a", Offset(7), 1_000);
        assert_eq!(ids.find(b"a", 1_000 + ID_WINDOW_US), Some(Offset(7)));
        assert_eq!(ids.find(b"b", 1_000), None);
        assert_eq!(ids.hold_from(2_000), Some(Offset(7)));
        assert_eq!(ids.find(b"a", 1_001 + ID_WINDOW_US), None);
        assert_eq!(ids.hold_from(1_001 + ID_WINDOW_US), None);
    }
}
