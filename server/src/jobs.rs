//! Requests that may wait for the disk, carried out beside the I/O threads.
//!
//! One thread for each I/O thread. A session has at most one request under way, so no more wait here
//! than there are connections. What may take long gets a thread of its own, and there are few of those.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::limits::LONG_JOBS_MAX;
use crate::session::{Job, JobDone};

struct Errand {
    job: Job,
    answer: oneshot::Sender<JobDone>,
}

impl Errand {
    fn turn_away(self) {
        let _ = self.answer.send(self.job.turned_away());
    }

    fn run(self) {
        let Self { job, answer } = self;
        // A panic costs the session that asked its connection, and nobody else anything: the answer
        // is dropped. What the job had in its hands is dropped with it.
        if let Ok(done) = catch_unwind(AssertUnwindSafe(|| job.run())) {
            // A session that is gone drops the answer, and with it what was opened.
            let _ = answer.send(done);
        }
    }
}

/// Where an I/O thread leaves the requests of its sessions. Dropping it ends the thread behind it.
#[derive(Debug, Clone)]
pub(crate) struct JobQueue {
    errands: mpsc::Sender<Errand>,
    /// For jobs that may take long.
    long: Arc<Semaphore>,
}

impl JobQueue {
    /// Starts the thread that carries requests out.
    pub(crate) fn start(name: String) -> io::Result<(Self, JoinHandle<()>)> {
        let (errands, waiting) = mpsc::channel::<Errand>();
        let thread = Builder::new().name(name).spawn(move || {
            for errand in waiting {
                errand.run();
            }
        })?;
        let long = Arc::new(Semaphore::new(LONG_JOBS_MAX));
        Ok((Self { errands, long }, thread))
    }

    /// Has `job` run; its outcome arrives at what is returned, or that hears of the thread's end.
    pub(crate) fn carry_out(&self, job: Job) -> oneshot::Receiver<JobDone> {
        let (answer, arrives) = oneshot::channel();
        if job.may_take_long() {
            self.carry_out_apart(Errand { job, answer });
            return arrives;
        }
        // Without the thread the answer is dropped here, and the receiver hears of it.
        let _ = self.errands.send(Errand { job, answer });
        arrives
    }

    /// Runs a job on a thread of its own, or turns it away when there are too many such.
    fn carry_out_apart(&self, errand: Errand) {
        let Ok(permit) = Arc::clone(&self.long).try_acquire_owned() else {
            return errand.turn_away();
        };
        let run = move |permit: OwnedSemaphorePermit| {
            errand.run();
            drop(permit);
        };
        // Without a thread the answer is dropped, and the session hears of it.
        let _ = Builder::new()
            .name("millstream-long".to_owned())
            .spawn(move || run(permit));
    }
}
