//! Requests that may wait for the disk, carried out beside the I/O threads.
//!
//! One thread for each I/O thread. A session has at most one request under way, so no more wait here
//! than there are connections.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use tokio::sync::oneshot;

use crate::session::{Job, JobDone};

struct Errand {
    job: Job,
    answer: oneshot::Sender<JobDone>,
}

/// Where an I/O thread leaves the requests of its sessions. Dropping it ends the thread behind it.
#[derive(Debug, Clone)]
pub(crate) struct JobQueue {
    errands: mpsc::Sender<Errand>,
}

impl JobQueue {
    /// Starts the thread that carries requests out.
    pub(crate) fn start(name: String) -> io::Result<(Self, JoinHandle<()>)> {
        let (errands, waiting) = mpsc::channel::<Errand>();
        let thread = Builder::new().name(name).spawn(move || {
            for Errand { job, answer } in waiting {
                // A panic costs the session that asked its connection, and nobody else anything:
                // the answer is dropped. What the job had in its hands is dropped with it.
                let Ok(done) = catch_unwind(AssertUnwindSafe(|| job.run())) else {
                    continue;
                };
                // A session that is gone drops the answer, and with it what was opened.
                let _ = answer.send(done);
            }
        })?;
        Ok((Self { errands }, thread))
    }

    /// Has `job` run; its outcome arrives at what is returned, or that hears of the thread's end.
    pub(crate) fn carry_out(&self, job: Job) -> oneshot::Receiver<JobDone> {
        let (answer, arrives) = oneshot::channel();
        // Without the thread the answer is dropped here, and the receiver hears of it.
        let _ = self.errands.send(Errand { job, answer });
        arrives
    }
}
