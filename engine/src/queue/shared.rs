//! A queue as all its users share it: a ring of inputs, and a baton around its state.
//!
//! Whoever has an input pushes it and knocks. Who finds the baton free runs the queue for everybody,
//! in his own thread; who does not leaves it to the holder, who looks again before he goes (Q5).

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use millstream_protocol::TopicName;
use millstream_storage::{Baton, Counter, Flag, Held, Log, Ring, park_until};

use super::clock::Clock;
use super::core::{Core, Progress};
use super::error::QueueError;
use super::keeper::Keeper;
use super::link::Link;
use super::scheduler::{ConsumerId, Detached, Now};

/// Inputs that may wait. A session whose queue has three quarters of them stops reading.
const RING_CAPACITY: usize = 256;
/// Rounds one knock runs before the rest goes to a worker: each takes at most a ring of inputs.
const ROUNDS_MAX: u32 = 4;

/// Something to be done with the queue's state by whoever holds the baton.
pub(super) type Request = Box<dyn FnOnce(&mut Core, Now) + Send>;

/// An input to the queue.
pub(super) enum Message {
    Attach {
        link: Arc<Link>,
        lease_us: u64,
    },
    Detach {
        consumer: ConsumerId,
        cause: Detached,
    },
    Window {
        consumer: ConsumerId,
        messages: u32,
        bytes: u64,
    },
    Receive {
        consumer: ConsumerId,
        messages: u32,
        bytes: u64,
        until_boot_us: u64,
        lease_us: u64,
    },
    /// This consumer has settles waiting.
    Settles(ConsumerId),
    /// Any consumer may have.
    AllSettles,
    /// Changes something.
    Ask(Request),
    /// Only looks: answered also while the journal has no room.
    Look(Request),
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attach { .. } => "Attach",
            Self::Detach { .. } => "Detach",
            Self::Window { .. } => "Window",
            Self::Receive { .. } => "Receive",
            Self::Settles(_) => "Settles",
            Self::AllSettles => "AllSettles",
            Self::Ask(_) => "Ask",
            Self::Look(_) => "Look",
        })
    }
}

/// One queue.
pub(super) struct QueueShared {
    pub(super) id: u32,
    pub(super) name: TopicName,
    pub(super) topic: Arc<Log>,
    pub(super) boot_epoch: u32,
    ring: Ring<Message>,
    baton: Baton<Core>,
    keeper: Arc<Keeper>,
    clock: Arc<Clock>,
    /// Stands in the keeper's list of queues to knock at soon.
    nudged: Flag,
    consumers: Counter,
    /// Wakes by knocking; made once.
    waker: OnceLock<Waker>,
}

impl fmt::Debug for QueueShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueShared")
            .field("id", &self.id)
            .field("name", &self.name.as_str())
            .finish_non_exhaustive()
    }
}

/// What a queue is made from.
pub(super) struct QueueParts {
    pub(super) id: u32,
    pub(super) name: TopicName,
    pub(super) topic: Arc<Log>,
    pub(super) boot_epoch: u32,
    pub(super) keeper: Arc<Keeper>,
    pub(super) clock: Arc<Clock>,
    pub(super) core: Core,
}

/// Wakes a queue when its topic or the journal has got further.
struct Knock(Weak<QueueShared>);

impl Wake for Knock {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(queue) = self.0.upgrade() {
            queue.knock_for_worker();
        }
    }
}

impl QueueShared {
    pub(super) fn new(parts: QueueParts) -> Arc<Self> {
        let queue = Arc::new(Self {
            id: parts.id,
            name: parts.name,
            topic: parts.topic,
            boot_epoch: parts.boot_epoch,
            ring: Ring::new(RING_CAPACITY),
            baton: Baton::new(parts.core),
            keeper: parts.keeper,
            clock: parts.clock,
            nudged: Flag::new(),
            consumers: Counter::new(),
            waker: OnceLock::new(),
        });
        let waker = Waker::from(Arc::new(Knock(Arc::downgrade(&queue))));
        queue.waker.get_or_init(|| waker);
        queue
    }

    /// Wakes this queue.
    pub(super) fn waker(&self) -> &Waker {
        self.waker.get().unwrap_or(Waker::noop())
    }

    pub(super) fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn next_consumer(&self) -> ConsumerId {
        ConsumerId(self.consumers.add(1))
    }

    pub(super) fn next_input(&self) -> Option<Message> {
        self.ring.pop()
    }

    /// Whether so many inputs wait that whoever has more should keep them.
    pub(super) fn is_busy(&self) -> bool {
        self.ring.len() >= RING_CAPACITY / 4 * 3
    }

    /// Hands an input to whoever runs the queue, which may be this thread.
    pub(super) fn send(self: &Arc<Self>, message: Message) {
        let mut message = message;
        while let Err(back) = self.ring.push(message) {
            message = back;
            self.knock();
            std::thread::yield_now();
        }
        self.knock();
    }

    /// Runs the queue, unless somebody is at it, who then looks again.
    pub(super) fn knock(self: &Arc<Self>) {
        if let Some(held) = self.baton.knock() {
            self.run(held);
        }
    }

    /// As [`knock`](Self::knock), leaving the work to the queue worker: for callers in the middle of
    /// something else.
    fn knock_for_worker(self: &Arc<Self>) {
        if let Some(held) = self.baton.knock() {
            self.leave_to_worker(held);
        }
    }

    fn leave_to_worker(self: &Arc<Self>, held: Held<'_, Core>) {
        if let Err(handed) = self.keeper.run_soon(self, held.hand_over()) {
            // The worker has ended, and so has the queue: there is little to do.
            self.resume(handed);
        }
    }

    /// Goes on with what was handed over.
    pub(super) fn resume(self: &Arc<Self>, handed: millstream_storage::Handed) {
        self.run(self.baton.resume(handed));
    }

    fn run(self: &Arc<Self>, mut held: Held<'_, Core>) {
        let mut rounds = 0;
        loop {
            held.begin_round();
            let progress = self.round(&mut held);
            rounds += 1;
            if progress == Progress::More {
                if rounds >= ROUNDS_MAX && !held.is_closed() {
                    return self.leave_to_worker(held);
                }
                continue;
            }
            match held.leave() {
                Ok(()) => return,
                Err(again) => held = again,
            }
        }
    }

    /// One round. A panic in it ends this queue: its state may be half changed, so nothing more is
    /// delivered or settled, and everybody is told.
    fn round(self: &Arc<Self>, core: &mut Core) -> Progress {
        match catch_unwind(AssertUnwindSafe(|| core.round(self))) {
            Ok(progress) => progress,
            Err(_) => {
                tracing::error!(queue = %self.name, "a queue panicked and is stopped");
                core.fail("a defect of the broker, which the log tells of");
                // The input that it was at is gone; those behind it are answered.
                Progress::More
            }
        }
    }

    /// Has the queue look for settles within a millisecond or so.
    pub(super) fn nudge(self: &Arc<Self>) {
        if self.nudged.set() {
            self.keeper.nudge(self);
        }
    }

    /// Answers a nudge.
    pub(super) fn nudged(self: &Arc<Self>) {
        self.nudged.clear();
        // Not by `send`: the worker that answers may be whom the queue was handed to, and must not
        // wait for room that only it makes.
        match self.ring.push(Message::AllSettles) {
            Ok(()) => self.knock(),
            Err(_) => self.nudge(),
        }
    }

    /// Runs `request` with the queue's state and gives its answer, blocking until its turn came.
    ///
    /// # Errors
    ///
    /// [`QueueError::Stopped`] when the queue ended before that.
    pub(super) fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        request: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<T, QueueError> {
        self.answer(Message::Ask, request)
    }

    /// As [`ask`](Self::ask), for a request that takes no step: it need not wait for the journal.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub(super) fn look<T: Send + 'static>(
        self: &Arc<Self>,
        request: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<T, QueueError> {
        self.answer(Message::Look, request)
    }

    fn answer<T: Send + 'static>(
        self: &Arc<Self>,
        message: fn(Request) -> Message,
        request: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<T, QueueError> {
        let slot = Arc::new(Slot::default());
        let answer = Answer(Arc::clone(&slot));
        self.send(message(Box::new(move |core, now| {
            answer.give(request(core, now));
        })));
        let answered = park_until(|cx| slot.poll(cx));
        answered.ok_or_else(|| QueueError::Stopped {
            name: self.name.clone(),
        })
    }
}

/// Where an answer is put.
#[derive(Debug)]
struct Slot<T> {
    state: Mutex<Awaited<T>>,
}

#[derive(Debug)]
enum Awaited<T> {
    Nothing(Option<Waker>),
    /// The answer; `None` when none will come.
    Answer(Option<T>),
}

/// The duty to answer: dropped unanswered, who asked is told that no answer comes.
struct Answer<T>(Arc<Slot<T>>);

impl<T> Answer<T> {
    fn give(self, value: T) {
        self.0.put(Some(value));
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        self.0.put(None);
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(Awaited::Nothing(None)),
        }
    }
}

impl<T> Slot<T> {
    /// Puts the first answer there and wakes who waits for it.
    fn put(&self, answer: Option<T>) {
        let waker = {
            let mut state = self.lock();
            let Awaited::Nothing(waker) = &mut *state else {
                return;
            };
            let waker = waker.take();
            *state = Awaited::Answer(answer);
            waker
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match &mut *self.lock() {
            Awaited::Answer(answer) => Poll::Ready(answer.take()),
            Awaited::Nothing(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Awaited<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
