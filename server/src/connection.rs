//! One connection: moves bytes between a socket and a session until either is done.
//!
//! Everything happens in one task, so one wake serves the whole session. At most one read and one
//! write are under way; both are polled to their end, also when the connection is to be dropped,
//! because the kernel may own their buffers.
//!
//! ```text
//!  Serving ──session done──▶ Flushing ──all sent──▶ Lingering ──peer hangs up──▶ Cut ──▶ over
//!     │                          │                      │                         ▲
//!     └── socket error, fast shutdown, out of time ─────┴─────────────────────────┘
//! ```

use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::awake::Awake;
use crate::buffers::{BufferPools, InputBuffer, Want};
use crate::control::{Roster, Stage};
use crate::jobs::JobQueue;
use crate::limits::{
    ALONE_BYTES_MAX, FLUSH_TIME, GO_BYTES_MAX, INPUT_IDLE_BYTES, LINGER_TIME, TURNS_MAX,
    WRITE_STALL_TIME,
};
use crate::output::OutputBatch;
use crate::session::{JobDone, Session};
use crate::socket::Socket;

/// What the connections of one I/O thread share.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) pools: BufferPools,
    pub(crate) roster: Rc<Roster>,
    pub(crate) jobs: JobQueue,
    /// Of a thread that is to poll.
    pub(crate) awake: Option<Rc<Awake>>,
}

/// Serves `session` over `socket` until it is over; nothing of it is with the kernel then.
pub(crate) async fn serve<S: Socket>(socket: S, session: Session, around: Rc<Surroundings>) {
    let socket = HangUp(socket);
    let mut read = pin!(None);
    let mut write = pin!(None);
    let mut clock = pin!(tokio::time::sleep(Duration::ZERO));
    let mut connection = Connection {
        start_read: |buffer, want| socket.0.read(buffer, want, &around.pools),
        start_write: |batch| socket.0.write(batch),
        shutdown: |how| socket.0.shutdown(how),
        stand_back: S::stand_back,
        read: Operation {
            future: read.as_mut(),
        },
        write: Operation {
            future: write.as_mut(),
        },
        job: None,
        session,
        around: &around,
        input: Some(InputBuffer::none()),
        want: Want::Idle,
        news: false,
        ended: false,
        batch: Some(OutputBatch::default()),
        stalled: None,
        phase: Phase::Serving,
        due: true,
        go_bytes: 0,
        gives_way: false,
        clock: clock.as_mut(),
        asks_clock: true,
    };
    let place = poll_fn(|cx| Poll::Ready(around.roster.join(cx.waker()))).await;
    poll_fn(|cx| connection.poll(cx)).await;
    around.roster.leave(place);
}

/// Hangs up when dropped, so that what a panic leaves under way in the kernel ends soon.
struct HangUp<S: Socket>(S);

impl<S: Socket> Drop for HangUp<S> {
    fn drop(&mut self) {
        // Hung up already is as good.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// The time, on the clock the connections' timers go by.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A place for one operation, polled to its end once started.
struct Operation<'a, F> {
    future: Pin<&'a mut Option<F>>,
}

impl<F: Future> Operation<'_, F> {
    fn start(&mut self, future: F) {
        debug_assert!(!self.is_busy(), "a started operation is never dropped");
        self.future.set(Some(future));
    }

    fn is_busy(&self) -> bool {
        self.future.is_some()
    }

    /// The result, once: the place is free then.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<F::Output> {
        match self.future.as_mut().as_pin_mut()?.poll(cx) {
            Poll::Pending => None,
            Poll::Ready(output) => {
                self.future.set(None);
                Some(output)
            }
        }
    }
}

/// See the drawing above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Flushing { until: Instant },
    Lingering { until: Instant },
    Cut,
}

struct Connection<'a, R, W, StartRead, StartWrite, ShutDown> {
    start_read: StartRead,
    start_write: StartWrite,
    shutdown: ShutDown,
    stand_back: fn(&mut Context<'_>),
    read: Operation<'a, R>,
    write: Operation<'a, W>,
    job: Option<oneshot::Receiver<JobDone>>,
    session: Session,
    around: &'a Surroundings,
    /// `None` while a read owns it.
    input: Option<InputBuffer>,
    /// What the next read is for.
    want: Want,
    /// Whether `input` has bytes the session has not looked at.
    news: bool,
    /// Whether the peer sends nothing more.
    ended: bool,
    /// `None` while a write owns it.
    batch: Option<OutputBatch>,
    /// Since when a write has made no progress, as far as the clock was looked at.
    stalled: Option<Instant>,
    phase: Phase,
    /// Whether something happened that the session has not been polled for.
    due: bool,
    /// Bytes taken in and given out in this go.
    go_bytes: usize,
    /// Whether something was taken in in this go that may have woken others of this thread, since who
    /// waits for a message goes before who waits for its acknowledgement; or so much that more may follow,
    /// to be acknowledged with it.
    gives_way: bool,
    clock: Pin<&'a mut Sleep>,
    /// Whether the clock is to be looked at: once a go, and when it was set anew.
    asks_clock: bool,
}

impl<R, W, StartRead, StartWrite, ShutDown> Connection<'_, R, W, StartRead, StartWrite, ShutDown>
where
    R: Future<Output = (io::Result<usize>, InputBuffer)>,
    W: Future<Output = (io::Result<usize>, OutputBatch)>,
    StartRead: Fn(InputBuffer, Want) -> R,
    StartWrite: Fn(OutputBatch) -> W,
    ShutDown: Fn(Shutdown) -> io::Result<()>,
{
    /// Does all that can be done now, up to a bound, so that one that floods delays the others of its
    /// thread by little. Ready once the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.due = true;
        self.go_bytes = 0;
        self.gives_way = false;
        self.asks_clock = true;
        self.obey();
        // What the last go held back, before there may be a reason to do so again.
        self.begin_write();
        for _ in 0..TURNS_MAX {
            let moved = self.turn(cx);
            if self.phase == Phase::Cut && !self.read.is_busy() && !self.write.is_busy() {
                return Poll::Ready(());
            }
            if !moved {
                if self.gives_way && self.has_unsent() && !self.write.is_busy() {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
            if self.go_bytes >= GO_BYTES_MAX {
                break;
            }
        }
        (self.stand_back)(cx);
        Poll::Pending
    }

    /// Follows the server's stage.
    fn obey(&mut self) {
        match self.around.roster.stage() {
            Stage::Serving => {}
            Stage::Draining => {
                if self.phase == Phase::Serving {
                    // What has arrived is taken first.
                    self.feed();
                    self.session.drain();
                }
            }
            Stage::Dropping => self.cut(),
        }
    }

    /// One round of everything; whether any of it made another round worth while.
    ///
    /// What is finished comes first and what is begun last, and is looked at once more at its place, so
    /// that a message and its answer take one round.
    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        self.look_at_clock(cx);
        self.finish_read(cx);
        self.finish_write(cx);
        let mut moved = false;
        if self.phase == Phase::Serving {
            self.feed();
            moved |= self.carry_job(cx);
            if std::mem::take(&mut self.due) && self.session.poll(cx) {
                self.due = true;
                moved = true;
            }
        }
        moved |= self.begin_write() && self.finish_write(cx);
        moved |= self.settle();
        moved |= self.begin_read() && self.finish_read(cx);
        moved
    }

    fn finish_read(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((result, mut buffer)) = self.read.poll(cx) else {
            return false;
        };
        match result {
            Ok(0) => {
                self.ended = true;
                self.session.input_ended();
                self.due = true;
            }
            Ok(count) => {
                buffer.received(count);
                if let Some(awake) = &self.around.awake {
                    awake.stir();
                }
                if self.phase == Phase::Serving {
                    self.news = true;
                } else {
                    self.want = if buffer.has_room() {
                        Want::Idle
                    } else {
                        Want::Run
                    };
                    buffer.clear();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "reading from a connection failed");
                self.cut();
            }
        }
        self.input = Some(buffer);
        true
    }

    /// Lets the session take what was received.
    fn feed(&mut self) {
        let Some(buffer) = &mut self.input else {
            return;
        };
        if !self.news || self.session.is_held() {
            return;
        }
        let drained = buffer.has_room();
        let Ok(received) = self.session.receive(buffer.unread()) else {
            self.news = false;
            return;
        };
        buffer.consume(received.consumed);
        self.go_bytes += received.consumed;
        self.gives_way |= received.may_wake || received.consumed > ALONE_BYTES_MAX;
        self.news = self.session.is_held();
        self.want = match received.need {
            ..=INPUT_IDLE_BYTES if drained => Want::Idle,
            ..=INPUT_IDLE_BYTES => Want::Run,
            bytes => Want::Message(bytes),
        };
        self.due = true;
    }

    fn begin_read(&mut self) -> bool {
        let may = match self.phase {
            Phase::Serving => !self.news && !self.session.is_closed(),
            Phase::Lingering { .. } => true,
            Phase::Flushing { .. } | Phase::Cut => false,
        };
        if !may || self.ended || self.read.is_busy() {
            return false;
        }
        let Some(buffer) = self.input.take() else {
            return false;
        };
        self.read.start((self.start_read)(buffer, self.want));
        true
    }

    /// Has the session's requests carried out where waiting for the disk hurts nobody.
    fn carry_job(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(running) = &mut self.job {
            let Poll::Ready(done) = Pin::new(running).poll(cx) else {
                return false;
            };
            self.job = None;
            match done {
                Ok(done) => self.session.finish_job(done),
                // It panicked; what the session holds can not be told any more.
                Err(_gone) => self.cut(),
            }
            self.due = true;
            return true;
        }
        self.job = self
            .session
            .take_job()
            .map(|job| self.around.jobs.carry_out(job));
        self.job.is_some()
    }

    fn finish_write(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((result, mut batch)) = self.write.poll(cx) else {
            return false;
        };
        match result {
            Ok(count) if count > 0 => {
                batch.sent(count, |out| self.session.recycle(out));
                self.stalled = None;
                self.due = true;
            }
            Ok(_) => self.cut(),
            Err(error) => {
                tracing::debug!(%error, "writing to a connection failed");
                self.cut();
            }
        }
        self.batch = Some(batch);
        true
    }

    fn begin_write(&mut self) -> bool {
        if self.phase == Phase::Cut || self.gives_way {
            return false;
        }
        let Some(batch) = &mut self.batch else {
            return false;
        };
        while batch.takes_more() {
            let Some(out) = self.session.pop_output() else {
                break;
            };
            batch.push(out);
        }
        if batch.is_empty() {
            return false;
        }
        let Some(batch) = self.batch.take() else {
            return false;
        };
        self.go_bytes += batch.bytes();
        self.write.start((self.start_write)(batch));
        true
    }

    /// Whether anything waits to be sent, be it the rest of what a write took a part of.
    fn has_unsent(&self) -> bool {
        let rest = self.batch.as_ref().is_none_or(|batch| !batch.is_empty());
        rest || self.session.has_output()
    }

    /// Moves on to the next phase where this one is done.
    fn settle(&mut self) -> bool {
        match self.phase {
            Phase::Serving => {
                if !self.session.is_closed() {
                    return false;
                }
                let until = now() + FLUSH_TIME;
                self.enter(Phase::Flushing { until }, until);
            }
            Phase::Flushing { .. } => {
                if self.has_unsent() {
                    return false;
                }
                if self.ended || (self.shutdown)(Shutdown::Write).is_err() {
                    self.cut();
                } else {
                    let until = now() + LINGER_TIME;
                    self.want = Want::Idle;
                    if let Some(buffer) = &mut self.input {
                        buffer.clear();
                    }
                    self.enter(Phase::Lingering { until }, until);
                }
            }
            Phase::Lingering { .. } => {
                if !self.ended {
                    return false;
                }
                self.cut();
            }
            Phase::Cut => return false,
        }
        true
    }

    fn enter(&mut self, phase: Phase, until: Instant) {
        self.phase = phase;
        self.clock.as_mut().reset(until.into());
        self.asks_clock = true;
    }

    /// Ends the connection without more ado; what is under way in the kernel ends by it.
    fn cut(&mut self) {
        if self.phase != Phase::Cut {
            self.phase = Phase::Cut;
            // A peer that hung up first leaves nothing to shut down.
            let _ = (self.shutdown)(Shutdown::Both);
        }
    }

    fn look_at_clock(&mut self, cx: &mut Context<'_>) {
        if !std::mem::take(&mut self.asks_clock) {
            return;
        }
        while self.phase != Phase::Cut && self.clock.as_mut().poll(cx).is_ready() {
            let next = self.tick(now());
            self.clock.as_mut().reset(next.into());
        }
    }

    /// Does what is due at `now`; when to look again.
    fn tick(&mut self, now: Instant) -> Instant {
        let mut next = self.session.tick(now);
        self.due = true;
        if self.write.is_busy() {
            let since = *self.stalled.get_or_insert(now);
            if now.saturating_duration_since(since) >= WRITE_STALL_TIME {
                tracing::debug!("a connection that takes nothing is dropped");
                self.cut();
            }
        }
        if let Phase::Flushing { until } | Phase::Lingering { until } = self.phase {
            if until <= now {
                self.cut();
            }
            next = next.min(until);
        }
        next
    }
}

#[cfg(test)]
mod tests;
