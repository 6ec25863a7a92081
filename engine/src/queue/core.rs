//! What the baton guards: a queue's scheduler, and the hands that carry out its effects.
//!
//! One round: take the inputs that wait, step the scheduler with each, write what must last as one
//! frame of the journal, and only then hand out grants. Until a frame is in the log nothing else
//! happens (Q2, Q3); settles are answered once it is on disk.

mod held_back;
mod settles;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use millstream_protocol::Offset;
use millstream_storage::{AppendError, ReadError, park_until, records_between};

use super::error::{ConsumeError, SettleError};
use super::far::FarStore;
use super::journal::Writer;
use super::link::{Event, Link, Patience};
use super::rate::Rate;
use super::scanner::{Found, Scanner};
use super::scheduler::{
    ConsumerId, Counts, Detached, Effect, Entry, FarEntry, Input, Now, Reason, Scheduler,
};
use super::shared::{Message, QueueShared};
use super::topic::Gate;

/// Inputs taken in one round.
const INPUTS_PER_ROUND: u32 = 256;
/// Entries of one frame of the journal at most: with the longest of them it stays well below what a
/// frame may hold, whatever happens in one round.
const FRAME_ENTRIES: usize = 8192;
/// Inputs kept while the journal has no room; those behind stay in the ring.
const DEFERRED_MAX: usize = 65_536;
/// Pieces of the topic looked at in one round.
const SCANS_PER_ROUND: u32 = 1024;
/// After so many bytes of its own in the journal a queue asks whether a checkpoint is due.
const CHECKPOINT_LOOK_BYTES: usize = 256 << 10;
/// Segments of the journal that a stop waits for; on a full disk it does not wait at all.
const ROOM_WAITS_MAX: u32 = 8;
/// A write that found no room is tried again after this.
const RETRY_US: u64 = 100_000;
/// What the disk could not read is asked for again after this.
const LOOK_AGAIN_US: u64 = 1_000_000;
/// A queue that runs so much later than it asked to was stopped with its process, or starved.
const STALL_US: u64 = 500_000;
/// After a stall, what waits in sockets is heard before leases end.
const GRACE_US: u64 = 500_000;
/// What is due by the wall clock is looked at this often at least, in case the clock is set.
const WALL_CHECK_US: u64 = 60_000_000;

/// Whether a round left something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Done,
}

/// A settle's answer, held until the journal is on disk up to `end`.
#[derive(Debug)]
struct Waiting {
    end: Offset,
    /// Kept here: its consumer may leave before the disk is done.
    link: Arc<Link>,
    tag: u64,
    /// So many, whose tags follow each other.
    count: u32,
    result: Result<(), SettleError>,
}

/// How far the queue is settled, and how far that is on disk: retention goes by the latter (R1).
#[derive(Debug, Default)]
struct Floors {
    synced: Offset,
    /// Where the journal must be synced to, and the floor that holds then.
    pending: Option<(Offset, Offset)>,
    latest: Option<(Offset, Offset)>,
}

impl Floors {
    fn note(&mut self, end: Offset, floor: Offset) {
        if self.pending.is_none() {
            self.pending = Some((end, floor));
        } else {
            self.latest = Some((end, floor));
        }
    }

    /// Takes what is covered; true if the synced floor moved.
    fn advance(&mut self, synced_end: Offset) -> bool {
        let before = self.synced;
        while let Some((end, floor)) = self.pending
            && end <= synced_end
        {
            self.synced = self.synced.max(floor);
            self.pending = self.latest.take();
        }
        self.synced > before
    }
}

/// A queue's state.
pub(super) struct Core {
    pub(super) scheduler: Scheduler,
    scanner: Scanner,
    pub(super) writer: Writer,
    pub(super) far: FarStore,
    consumers: HashMap<ConsumerId, Arc<Link>>,
    /// Left in this round: what concerns them is still carried out.
    leaving: Vec<ConsumerId>,
    effects: Vec<Effect>,
    /// How many of the effects have been looked at for what must last.
    noted: usize,
    /// What must last and is in no frame yet.
    entries: Vec<Entry>,
    /// Inputs that came while the journal had no room.
    deferred: VecDeque<Message>,
    /// Grants that nobody took any more are to be taken back from these, behind the inputs of a round:
    /// their goodbyes are among those, and would never be heard if this came first.
    unread: Vec<ConsumerId>,
    /// `deferred` holds a look at all settles: one is enough.
    sweep_deferred: bool,
    waiting: VecDeque<Waiting>,
    floors: Floors,
    gate: Arc<Gate>,
    pub(super) rate: Rate,
    /// What must last is in a checkpoint that is being written in the place of a failed journal.
    held_back: bool,
    closed: Option<ConsumeError>,
    pub(super) paused: bool,
    /// The boot time the keeper was asked to run this queue at.
    armed_us: Option<u64>,
    /// Leases do not end before this.
    grace_us: u64,
    /// The disk could not read the topic: it is looked at again at this boot time.
    look_again_us: Option<u64>,
    /// Why nothing more comes from the topic: it was read to its end, closed or failed.
    scanned_out: Option<ReadError>,
}

/// What a core is made from.
pub(super) struct CoreParts {
    pub(super) scheduler: Scheduler,
    pub(super) scanner: Scanner,
    pub(super) writer: Writer,
    pub(super) far: FarStore,
    pub(super) gate: Arc<Gate>,
    pub(super) paused: bool,
}

impl Core {
    pub(super) fn new(parts: CoreParts) -> Self {
        let floors = Floors {
            // What was recovered is on disk.
            synced: parts.scheduler.floor(),
            ..Floors::default()
        };
        Self {
            scheduler: parts.scheduler,
            scanner: parts.scanner,
            writer: parts.writer,
            far: parts.far,
            consumers: HashMap::new(),
            leaving: Vec::new(),
            effects: Vec::new(),
            noted: 0,
            entries: Vec::new(),
            deferred: VecDeque::new(),
            unread: Vec::new(),
            sweep_deferred: false,
            waiting: VecDeque::new(),
            floors,
            gate: parts.gate,
            rate: Rate::default(),
            held_back: false,
            closed: None,
            paused: parts.paused,
            armed_us: None,
            grace_us: 0,
            look_again_us: None,
            scanned_out: None,
        }
    }

    /// Takes what waits and does what follows from it.
    pub(super) fn round(&mut self, queue: &Arc<QueueShared>) -> Progress {
        let now = queue.clock().now();
        if self.closed.is_some() {
            while let Some(message) = self.deferred.pop_front().or_else(|| queue.next_input()) {
                self.take_closed(message, now);
            }
            return Progress::Done;
        }
        if self.is_due() && !self.write_out(queue, now) {
            self.answer_requests(queue, now);
            return self.after_no_room();
        }
        // A pull is given of all that is visible when it comes.
        if queue.topic.high_watermark() > self.scheduler.next_scan() {
            self.scan(queue, now);
        }
        let mut inputs = 0;
        while inputs < INPUTS_PER_ROUND {
            let Some(message) = self.deferred.pop_front().or_else(|| queue.next_input()) else {
                break;
            };
            self.take(message, now);
            inputs += 1;
        }
        if self.closed.is_some() {
            return Progress::More;
        }
        for consumer in std::mem::take(&mut self.unread) {
            self.take_settles(consumer, now, Patience::ComeAgain);
        }
        // Before pulls end: what they are for may be in the topic already.
        let scanned_all = self.scan(queue, now);
        self.take_due(now);
        self.note_journal();
        if !self.write_out(queue, now) {
            return self.after_no_room();
        }
        self.answer_synced(queue);
        self.tell_gate(queue);
        self.end_with_topic();
        self.arm(queue, now);
        let more = !self.effects.is_empty() || !self.deferred.is_empty() || !self.unread.is_empty();
        if inputs == INPUTS_PER_ROUND || !scanned_all || more {
            Progress::More
        } else {
            Progress::Done
        }
    }

    /// Without room the rest waits; of a queue that ended meanwhile everybody is still to be told.
    const fn after_no_room(&self) -> Progress {
        match self.closed {
            Some(_) => Progress::More,
            None => Progress::Done,
        }
    }

    pub(super) fn step(&mut self, now: Now, input: Input) {
        self.scheduler.step(now, input, &mut self.effects);
    }

    fn take(&mut self, message: Message, now: Now) {
        match message {
            Message::Attach { link, lease_us } => {
                let consumer = link.id;
                tracing::debug!(consumer = consumer.0, name = %link.name, "a consumer came");
                self.consumers.insert(consumer, link);
                self.step(now, Input::Attach { consumer, lease_us });
            }
            Message::Detach { consumer, cause } => {
                if cause == Detached::Lost {
                    self.give_back_untaken(consumer);
                }
                // Nothing more is delivered to whoever leaves: a lost one would count for it.
                self.absorb_settles(consumer, now, Patience::Wait);
                self.step(now, Input::Detach { consumer, cause });
                self.leaving.push(consumer);
            }
            Message::Window {
                consumer,
                messages,
                bytes,
            } => self.step(
                now,
                Input::Window {
                    consumer,
                    messages,
                    bytes,
                },
            ),
            Message::Receive {
                consumer,
                messages,
                bytes,
                until_boot_us,
                lease_us,
            } => self.step(
                now,
                Input::Receive {
                    consumer,
                    messages,
                    bytes,
                    until_boot_us,
                    lease_us,
                },
            ),
            Message::Settles(consumer) => self.take_settles(consumer, now, Patience::ComeAgain),
            Message::AllSettles => {
                self.sweep_deferred = false;
                self.take_all_settles(now, Patience::ComeAgain);
            }
            Message::Ask(request) | Message::Look(request) => request(self, now),
        }
    }

    /// What is delayed far ahead and not with the far store yet.
    pub(super) fn unstored_far(&self) -> impl Iterator<Item = &FarEntry> {
        self.effects.iter().flat_map(|effect| match effect {
            Effect::Far { entries } => entries.as_slice(),
            _ => &[],
        })
    }

    /// Lets leases end and delays pass, unless the whole process stood still: then what consumers
    /// said meanwhile comes first.
    fn take_due(&mut self, now: Now) {
        let late_us = self.take_armed(now).unwrap_or(0);
        if late_us > STALL_US {
            self.grace_us = now.boot_us + GRACE_US;
        }
        let wake = self.scheduler.next_wake();
        let lease_due = wake.boot_us.is_some_and(|at_us| at_us <= now.boot_us);
        let wall_due = wake.wall_us.is_some_and(|at_us| at_us <= now.wall_us);
        if !lease_due && !wall_due {
            return;
        }
        if now.boot_us < self.grace_us {
            return;
        }
        // An acknowledgement that waits must not lose to the end of its own lease.
        self.take_all_settles(now, Patience::Wait);
        self.step(now, Input::Tick);
        let wanted = self.scheduler.wants_near(now);
        if wanted > 0 {
            self.refill(wanted, now);
        }
    }

    /// How late it is after the time the queue asked to be run at, if that has come.
    fn take_armed(&mut self, now: Now) -> Option<u64> {
        let late_us = now.boot_us.checked_sub(self.armed_us?)?;
        self.armed_us = None;
        Some(late_us)
    }

    /// Brings back from disk what is due soon.
    fn refill(&mut self, wanted: usize, now: Now) {
        match self.far.take_near(wanted) {
            Ok((entries, horizon_wall_us)) => self.step(
                now,
                Input::Near {
                    entries,
                    horizon_wall_us,
                },
            ),
            Err(error) => self.fail(&format!("cannot read delayed records back: {error}")),
        }
    }

    /// Looks at the topic while the scheduler wants more of it. False if it wants still more now.
    fn scan(&mut self, queue: &Arc<QueueShared>, now: Now) -> bool {
        if self.look_again_us.is_some_and(|at_us| at_us > now.boot_us) {
            return true;
        }
        self.look_again_us = None;
        let mut cx = Context::from_waker(queue.waker());
        for _ in 0..SCANS_PER_ROUND {
            if self.scanned_out.is_some() || (self.scheduler.wants() == 0 && !self.gate.is_eager())
            {
                return true;
            }
            self.scanner.skip_to(self.scheduler.next_scan());
            match self.scanner.poll_next(&mut cx) {
                Poll::Pending => return true,
                Poll::Ready(Ok(Found::Records(scanned))) => {
                    self.step(now, Input::Scanned(scanned));
                }
                Poll::Ready(Ok(Found::NotNow)) => {
                    self.look_again_us = Some(now.boot_us + LOOK_AGAIN_US);
                    return true;
                }
                Poll::Ready(Err(error)) => {
                    tracing::info!(queue = %queue.name, %error, "the queue's topic gives nothing more");
                    self.scanned_out = Some(error);
                }
            }
        }
        false
    }

    /// Looks at all of the topic that is visible now, for a count that is exact.
    pub(super) fn scan_to_end(&mut self, queue: &Arc<QueueShared>, now: Now) {
        let mut cx = Context::from_waker(queue.waker());
        // While a frame waits for room no step may be taken (Q2).
        while !self.is_due() && self.scanned_out.is_none() && self.scheduler.wants_lookahead() {
            self.scanner.skip_to(self.scheduler.next_scan());
            match self.scanner.poll_next(&mut cx) {
                Poll::Ready(Ok(Found::Records(scanned))) => {
                    self.step(now, Input::Scanned(scanned));
                }
                Poll::Ready(Err(error)) => self.scanned_out = Some(error),
                Poll::Ready(Ok(Found::NotNow)) | Poll::Pending => break,
            }
        }
    }

    /// Whether something that must last is not in the journal yet: no step may be taken (Q2).
    fn is_due(&self) -> bool {
        self.writer.is_due() || !self.entries.is_empty() || self.held_back
    }

    /// Takes what must last out of the effects, for the journal.
    fn note_journal(&mut self) {
        for effect in self.effects.iter().skip(self.noted) {
            if let Effect::Journal(entry) = effect {
                self.entries.push(entry.clone());
            }
        }
        self.noted = self.effects.len();
    }

    /// Takes the settles that wait and writes what the steps so far made, in the middle of a round;
    /// gives where the journal then ends for this queue. `None` when there is no room, or the queue ended before it could.
    pub(super) fn flush(&mut self, queue: &Arc<QueueShared>, now: Now) -> Option<Offset> {
        if self.closed.is_none() && !self.is_due() {
            self.take_all_settles(now, Patience::Wait);
        }
        self.note_journal();
        if self.closed.is_some() {
            return (!self.is_due()).then(|| self.writer.end());
        }
        self.write_out(queue, now).then(|| self.writer.end())
    }

    /// Makes a frame of the next entries.
    fn begin_frame(&mut self) {
        let rest = self
            .entries
            .split_off(self.entries.len().min(FRAME_ENTRIES));
        let frame = self.writer.begin();
        Entry::encode_all(&self.entries, frame);
        if rest.is_empty() {
            self.entries.clear();
        } else {
            self.entries = rest;
        }
    }

    /// Writes the frames and carries out what waits for them. False if there is no room for them now.
    ///
    /// Facts stand in the journal in the order they came, each for itself, so a stop between two
    /// frames leaves a state that was.
    fn write_out(&mut self, queue: &Arc<QueueShared>, now: Now) -> bool {
        let wrote = self.is_due();
        if self.held_back && !self.is_held_back_no_more(queue, now) {
            return false;
        }
        loop {
            if !self.writer.is_due() {
                if self.entries.is_empty() {
                    break;
                }
                self.begin_frame();
            }
            match self.writer.try_write() {
                Ok(()) => {}
                Err(AppendError::Rotating) => {
                    let mut cx = Context::from_waker(queue.waker());
                    if self.writer.poll_room(&mut cx).is_pending() {
                        return false;
                    }
                }
                Err(AppendError::Full { .. } | AppendError::Unprepared { .. }) => {
                    // In place of the time it was to run at, which is asked for again afterwards.
                    self.armed_us = Some(now.boot_us + RETRY_US);
                    queue.keeper().wake_at(queue, now.boot_us + RETRY_US);
                    return false;
                }
                Err(_) if self.writer.is_to_be_replaced() => {
                    self.await_journal(queue, now);
                    return false;
                }
                Err(error) => {
                    self.fail(&error.to_string());
                    return false;
                }
            }
        }
        self.held_back = false;
        if wrote {
            self.floors.note(self.writer.end(), self.scheduler.floor());
            if self.writer.has_written(CHECKPOINT_LOOK_BYTES) {
                queue.keeper().look_after();
            }
        }
        self.carry_out(queue, now);
        true
    }

    /// Writes what the steps so far made, waiting while the journal's next segment is made: at a
    /// stop nobody comes back later. False where there is no room on the disk, or the journal failed.
    fn write_all_out(&mut self, queue: &Arc<QueueShared>, now: Now) -> bool {
        self.note_journal();
        for _ in 0..ROOM_WAITS_MAX {
            if self.write_out(queue, now) {
                return true;
            }
            if self.closed.is_some() {
                return false;
            }
            park_until(|cx| self.writer.poll_room(cx));
        }
        false
    }

    fn carry_out(&mut self, queue: &Arc<QueueShared>, now: Now) {
        let end = self.writer.end();
        let mut effects = std::mem::take(&mut self.effects);
        self.noted = 0;
        let mut moved = false;
        for effect in effects.drain(..) {
            match effect {
                Effect::Deliver(grant) => {
                    self.rate.delivered(u64::from(grant.count), now.boot_us);
                    // Whom the scheduler delivers to is attached, so the link is there.
                    if let Some(link) = self.consumers.get(&grant.consumer) {
                        link.mailbox.push(Event::Grant(grant));
                        if !link.is_read() {
                            link.give_back();
                            self.unread.push(link.id);
                        }
                    }
                }
                Effect::Settled {
                    consumer,
                    tag,
                    count,
                    result,
                } => {
                    if let Some(link) = self.consumers.get(&consumer) {
                        self.waiting.push_back(Waiting {
                            end,
                            link: Arc::clone(link),
                            tag,
                            count,
                            result: result.map_err(SettleError::from),
                        });
                    }
                }
                Effect::ReceiveOver { consumer, granted } => {
                    if let Some(link) = self.consumers.get(&consumer) {
                        link.mailbox.push(Event::ReceiveOver(granted));
                    }
                }
                Effect::Journal(entry) => {
                    moved |= matches!(entry, Entry::Moved { .. });
                    if let Entry::Settled { count, .. } = entry {
                        self.rate.settled(count, now.boot_us);
                    }
                }
                Effect::Far { entries } => {
                    if let Err(error) = self.far.put(entries) {
                        self.fail(&format!("cannot read delayed records back: {error}"));
                    }
                }
            }
        }
        self.effects = effects;
        for consumer in self.leaving.drain(..) {
            self.consumers.remove(&consumer);
        }
        if moved {
            queue.keeper().look_after();
        }
    }

    /// Answers settles that are on disk, and lets retention know.
    fn answer_synced(&mut self, queue: &Arc<QueueShared>) {
        let last = self.waiting.back().map(|waiting| waiting.end).max(
            self.floors
                .latest
                .or(self.floors.pending)
                .map(|(end, _)| end),
        );
        let Some(last) = last else {
            return;
        };
        let mut cx = Context::from_waker(queue.waker());
        let reached = self.writer.poll_synced(last, &mut cx);
        let synced = self.writer.synced();
        while let Some(waiting) = self.waiting.front()
            && waiting.end <= synced
        {
            if let Some(waiting) = self.waiting.pop_front() {
                waiting
                    .link
                    .tell(waiting.tag, waiting.count, waiting.result);
            }
        }
        if let Poll::Ready(Err(error)) = reached {
            if self.writer.is_to_be_replaced() {
                return self.await_journal(queue, queue.clock().now());
            }
            return self.fail(&error.to_string());
        }
        if self.floors.advance(synced) {
            queue.keeper().look_after();
        }
    }

    /// All below this is settled, on disk.
    pub(super) fn synced_floor(&self) -> Offset {
        self.floors.synced
    }

    /// Tells publishers how far the queue's limits let them go.
    fn tell_gate(&mut self, queue: &Arc<QueueShared>) {
        if !self.gate.is_limited() {
            return;
        }
        let counts = self.scheduler.counts();
        let over = self
            .gate
            .update(&queue.topic, &counts, self.scheduler.next_scan());
        if over > 0 {
            let now = queue.clock().now();
            let messages = over;
            let cause = Reason::LimitReached;
            // What follows from it is written in the next round.
            self.step(now, Input::DropOldest { messages, cause });
        }
    }

    /// Asks to be run when the next lease ends or the next delay passes.
    fn arm(&mut self, queue: &Arc<QueueShared>, now: Now) {
        let wake = self.scheduler.next_wake();
        let wall_in = wake
            .wall_us
            .map(|at_us| at_us.saturating_sub(now.wall_us).min(WALL_CHECK_US));
        let due = [
            wake.boot_us,
            wall_in.map(|in_us| now.boot_us + in_us),
            self.look_again_us,
        ];
        let Some(at_us) = due.into_iter().flatten().min() else {
            return;
        };
        let at_us = at_us.max(self.grace_us);
        let armed = self
            .armed_us
            .is_some_and(|armed_us| armed_us <= at_us && armed_us > now.boot_us);
        if !armed {
            self.armed_us = Some(at_us);
            queue.keeper().wake_at(queue, at_us);
        }
    }

    /// While the journal has no room, answers those who only look, and keeps the rest in order.
    fn answer_requests(&mut self, queue: &Arc<QueueShared>, now: Now) {
        while self.deferred.len() < DEFERRED_MAX && self.closed.is_none() {
            match queue.next_input() {
                Some(Message::Look(request)) => request(self, now),
                Some(Message::AllSettles) if self.sweep_deferred => {}
                Some(other) => {
                    self.sweep_deferred |= matches!(other, Message::AllSettles);
                    self.deferred.push_back(other);
                }
                None => return,
            }
        }
    }

    fn take_closed(&mut self, message: Message, now: Now) {
        match message {
            Message::Ask(request) | Message::Look(request) => request(self, now),
            Message::Attach { link, .. } => {
                if let Some(error) = &self.closed {
                    link.close(error.clone());
                }
            }
            _ => {}
        }
    }

    /// A topic that failed gives nothing more: once all of it that could be read is settled, who
    /// waits is told.
    fn end_with_topic(&mut self) {
        if let Some(ReadError::Poisoned(poisoned)) = &self.scanned_out
            && self.closed.is_none()
            // Who settled the last ones still hears that it lasts.
            && self.waiting.is_empty()
        {
            let counts = self.scheduler.counts();
            if counts.unsettled_scanned == 0 {
                let reason = format!("its topic failed: {}", poisoned.reason);
                self.fail(&reason);
            }
        }
    }

    /// Whether more may come from the topic.
    pub(super) const fn is_reading(&self) -> bool {
        self.scanned_out.is_none() && self.closed.is_none()
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Nothing more can be promised: everybody is told.
    pub(super) fn fail(&mut self, reason: &str) {
        tracing::error!(%reason, "a queue stopped");
        self.close(&ConsumeError::Failed {
            reason: reason.to_owned(),
        });
    }

    /// Ends the queue for all its consumers.
    pub(super) fn close(&mut self, error: &ConsumeError) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(error.clone());
        self.gate.open();
        for (_, link) in self.consumers.drain() {
            link.close(error.clone());
        }
        for waiting in self.waiting.drain(..) {
            // Of consumers that left before; the others were told just now.
            waiting.link.close(error.clone());
        }
        self.leaving.clear();
        // Who asked something is told that no answer comes.
        self.deferred.clear();
        self.unread.clear();
    }

    /// Gives back all leases and writes what is settled, before the broker closes. Where the journal
    /// has no room nothing more can be settled, and a restart gives the leases back.
    pub(super) fn wind_up(&mut self, queue: &Arc<QueueShared>, now: Now) {
        if self.closed.is_some() {
            return;
        }
        if !self.write_all_out(queue, now) {
            return self.close(&ConsumeError::Closed);
        }
        self.take_all_settles(now, Patience::Wait);
        let mut consumers: Vec<ConsumerId> = self.consumers.keys().copied().collect();
        consumers.sort_unstable();
        for consumer in consumers {
            let cause = Detached::Closed;
            self.step(now, Input::Detach { consumer, cause });
        }
        if self.write_all_out(queue, now) {
            let end = self.writer.end();
            // What was settled in time is said to be. A failed journal is found again, and told, by what follows.
            let _ = park_until(|cx| self.writer.poll_synced(end, cx));
            self.answer_synced(queue);
        }
        self.close(&ConsumeError::Closed);
    }

    pub(super) fn consumers(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.consumers.values()
    }

    pub(super) fn counts(&self) -> Counts {
        self.scheduler.counts()
    }

    /// How many visible records were not scanned yet.
    pub(super) fn unscanned(&self, queue: &QueueShared) -> u64 {
        let topic = &queue.topic;
        records_between(topic, self.scheduler.next_scan(), topic.high_watermark())
    }
}
