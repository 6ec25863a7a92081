//! One I/O thread: a runtime of its own, and the connections it was dealt.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::resume_unwind;
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc as std_mpsc;
use std::task::{Context, Poll};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use millstream::Broker;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet, spawn_local};

use crate::accept::Accepted;
use crate::awake::Awake;
use crate::buffers::BufferPools;
use crate::connection::{self, Surroundings};
use crate::control::{Roster, Stage};
use crate::epoll::EpollSocket;
use crate::jobs::JobQueue;
use crate::probe::RingFlags;
use crate::session::{Session, SessionOptions};
use crate::socket::Socket;
use crate::uring::{self, Ended, UringSocket};

/// How a thread does its I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Uring(RingFlags),
    Epoll,
}

/// What a thread needs to serve.
pub(crate) struct Post {
    pub(crate) broker: Broker,
    pub(crate) session: SessionOptions,
    pub(crate) connections: mpsc::Receiver<Accepted>,
    pub(crate) stage: watch::Receiver<Stage>,
    pub(crate) pools: BufferPools,
    pub(crate) jobs: JobQueue,
    pub(crate) drain_time: Duration,
    /// How long to look for work after the last that came; epoll only.
    pub(crate) poll: Option<Duration>,
}

/// Starts thread number `index` and waits until it serves.
///
/// # Errors
///
/// What the kernel refused the thread, or its ring, with.
pub(crate) fn start(index: usize, way: Way, post: Post) -> io::Result<JoinHandle<()>> {
    let (tell, hear) = std_mpsc::sync_channel(1);
    let thread = Builder::new()
        .name(format!("mill-io-{index}"))
        .spawn(move || {
            let ready = tell.clone();
            let served = match way {
                Way::Uring(flags) => {
                    uring::run(flags, apart(serve::<UringSocket>(post, ready))).map(|_ended| ())
                }
                Way::Epoll => run_epoll(apart(serve::<EpollSocket>(post, ready))),
            };
            if let Err(error) = served {
                // Nobody listens only when the thread was told to have started.
                let _ = tell.send(Err(error));
            }
        })?;
    match hear.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("an I/O thread ended before it served")),
    }
}

fn run_epoll(work: impl Future<Output = Ended>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, work);
    Ok(())
}

/// Does `work` as a task, which is polled when it was woken; what a runtime blocks on is polled whenever
/// anything was.
async fn apart(work: impl Future<Output = Ended> + 'static) -> Ended {
    match spawn_local(work).await {
        Ok(ended) => ended,
        Err(error) => resume_unwind(error.into_panic()),
    }
}

/// Serves what is accepted until the server stops and the last connection is over.
async fn serve<S: Socket>(post: Post, ready: std_mpsc::SyncSender<io::Result<()>>) -> Ended {
    // The channel holds one, and this is the first.
    let _ = ready.send(Ok(()));
    drop(ready);
    let roster = Rc::new(Roster::new());
    let awake = post.poll.map(|time| Rc::new(Awake::new(time)));
    let keeper = awake
        .clone()
        .map(|awake| spawn_local(async move { awake.keep().await }));
    let around = Rc::new(Surroundings {
        awake,
        pools: post.pools,
        roster: Rc::clone(&roster),
        jobs: post.jobs,
    });
    let mut floor = Floor {
        broker: post.broker,
        session: post.session,
        connections: post.connections,
        around,
        tasks: JoinSet::new(),
        ended: Ended::Whole,
    };
    let mut stage = post.stage;
    floor.run_while::<S>(Stage::Serving, &mut stage, None).await;
    roster.advance(*stage.borrow());
    floor
        .run_while::<S>(Stage::Draining, &mut stage, Some(post.drain_time))
        .await;
    roster.advance(Stage::Dropping);
    floor
        .run_while::<S>(Stage::Dropping, &mut stage, None)
        .await;
    if let Some(keeper) = keeper {
        keeper.abort();
    }
    floor.ended
}

/// The connections of one thread.
struct Floor {
    broker: Broker,
    session: SessionOptions,
    connections: mpsc::Receiver<Accepted>,
    around: Rc<Surroundings>,
    tasks: JoinSet<()>,
    ended: Ended,
}

impl Floor {
    /// Serves while the server's stage is `stage`. Once it is no longer serving, also until the
    /// last connection is over, or `time` is.
    async fn run_while<S: Socket>(
        &mut self,
        stage: Stage,
        current: &mut watch::Receiver<Stage>,
        time: Option<Duration>,
    ) {
        // A server that is gone without a word is as good as one that stops at once.
        let mut past = pin!(current.wait_for(|now| *now > stage));
        let mut timeout = pin!(time.map(tokio::time::sleep));
        poll_fn(|cx| {
            self.take_in::<S>(cx);
            self.see_off(cx);
            let timed_out = match timeout.as_mut().as_pin_mut() {
                Some(sleep) => sleep.poll(cx).is_ready(),
                None => false,
            };
            let empty = stage != Stage::Serving && self.tasks.is_empty();
            if empty || timed_out || past.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// Starts serving the connections that were dealt to this thread.
    fn take_in<S: Socket>(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(Accepted { counted, socket })) = self.connections.poll_recv(cx) {
            let socket = match S::adopt(socket) {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken over");
                    continue;
                }
            };
            let session = Session::new(self.broker.clone(), self.session.clone());
            let around = Rc::clone(&self.around);
            self.tasks.spawn_local(async move {
                connection::serve(socket, session, around).await;
                drop(counted);
            });
        }
    }

    /// Takes note of connections that are over.
    fn see_off(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(result)) = self.tasks.poll_join_next(cx) {
            if let Err(error) = result {
                tracing::error!(%error, "a connection ended by a defect of this server");
                self.ended = Ended::Panicked;
            }
        }
    }
}
