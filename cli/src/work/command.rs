//! One command for one record: its input, its environment, its lease, and what its exit means.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_client::Delivery;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::until;
use crate::failure::{Exit, Failure};

/// The exit code that rejects a record: EX_DATAERR of sysexits.
const REJECTED: i32 = 65;
/// Bytes kept of a line of standard error.
const LINE_BYTES_MAX: usize = 1024;
/// How long the end of standard error is waited for after a command ended: what it started and left
/// behind may keep it open.
const STDERR_TIME: Duration = Duration::from_secs(1);
/// The variables that a record may have no value for.
const KEY: &str = "MILLSTREAM_KEY";
const GROUP: &str = "MILLSTREAM_GROUP";

/// What all commands of a worker have in common.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) command: String,
    pub(super) queue: String,
    pub(super) topic: String,
    /// After which a command is killed.
    pub(super) longest: Option<Duration>,
    /// Whether all are to be killed.
    pub(super) killed: watch::Receiver<bool>,
}

/// A command that is to run for one delivery.
#[derive(Debug)]
pub(super) struct Job {
    delivery: Delivery,
    lease: Duration,
    orders: Arc<Orders>,
}

/// A delivery whose command ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) delivery: Delivery,
    pub(super) verdict: Verdict,
}

/// How a delivery is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Ack,
    Retry,
    Reject(String),
    Release,
}

/// Why a command was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    ForTime,
    ToEnd,
}

impl Job {
    pub(super) fn new(delivery: Delivery, lease: Duration, orders: Arc<Orders>) -> Self {
        Self {
            delivery,
            lease,
            orders,
        }
    }

    /// Runs the command to its end and keeps the lease meanwhile.
    pub(super) async fn run(self) -> Result<Finished, Failure> {
        let mut child = self.command().spawn().map_err(|error| {
            let message = format!("cannot run sh: {error}; its record is given back");
            Failure::new(Exit::Failed, message)
        })?;
        let body = self.delivery.body();
        let stdin = child.stdin.take();
        let fed = tokio::spawn(async move {
            if let Some(mut stdin) = stdin {
                // A command may end or close its input before it has read all: its exit tells.
                let _ = stdin.write_all(&body).await;
            }
        });
        let heard = tokio::spawn(hear(child.stderr.take()));
        let (status, killed) = self.wait(&mut child).await?;
        fed.abort();
        let last_line = match timeout(STDERR_TIME, heard).await {
            Ok(Ok(last_line)) => last_line,
            _ => LastLine::default(),
        };
        let verdict = verdict(status, killed, &last_line);
        Ok(Finished {
            delivery: self.delivery,
            verdict,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", &self.orders.command])
            .env("MILLSTREAM_QUEUE", &self.orders.queue)
            .env("MILLSTREAM_TOPIC", &self.orders.topic)
            .env("MILLSTREAM_OFFSET", self.delivery.offset().to_string())
            .env("MILLSTREAM_ATTEMPTS", self.delivery.attempts().to_string())
            .env_remove(KEY)
            .env_remove(GROUP)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            // A signal from the terminal is for the worker, which lets its commands finish.
            .process_group(0);
        let key = self.delivery.key();
        for (name, value) in [(KEY, key.as_deref()), (GROUP, self.delivery.group())] {
            // The environment has no place for a NUL byte.
            if let Some(value) = value.filter(|value| !value.contains(&0)) {
                command.env(name, String::from_utf8_lossy(value).as_ref());
            }
        }
        command
    }

    /// Waits for the end of the command; the lease is extended at every third of its time.
    async fn wait(&self, child: &mut Child) -> Result<(ExitStatus, Option<Killed>), Failure> {
        let token = self.delivery.token();
        let mut extend = interval((self.lease / 3).max(Duration::from_millis(1)));
        extend.set_missed_tick_behavior(MissedTickBehavior::Delay);
        extend.tick().await;
        let mut deadline = self.orders.longest.map(|longest| Instant::now() + longest);
        let mut end = self.orders.killed.clone();
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let mut killed = None;
        loop {
            tokio::select! {
                status = child.wait() => {
                    let status = status.map_err(|error| {
                        Failure::new(Exit::Failed, format_args!("cannot wait for sh: {error}"))
                    })?;
                    return Ok((status, killed));
                }
                // A lease that is lost stays lost; settling says so.
                _ = extend.tick() => token.extend(Duration::ZERO),
                () = until(deadline) => {
                    deadline = None;
                    killed = killed.or(Some(Killed::ForTime));
                    kill(group);
                }
                // All are killed, or the worker is gone and nobody can say so any more.
                _ = end.wait_for(|end| *end), if killed != Some(Killed::ToEnd) => {
                    killed = Some(Killed::ToEnd);
                    kill(group);
                }
            }
        }
    }
}

/// Kills a command and what it started; it may have ended just now.
fn kill(group: Option<Pid>) {
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn verdict(status: ExitStatus, killed: Option<Killed>, last_line: &LastLine) -> Verdict {
    match (status.code(), killed) {
        (Some(0), _) => Verdict::Ack,
        (Some(REJECTED), _) => Verdict::Reject(last_line.reason()),
        (_, Some(Killed::ToEnd)) => Verdict::Release,
        _ => Verdict::Retry,
    }
}

/// Passes standard error on and keeps its last line.
async fn hear(stderr: Option<ChildStderr>) -> LastLine {
    let mut last_line = LastLine::default();
    let Some(mut stderr) = stderr else {
        return last_line;
    };
    let mut own = tokio::io::stderr();
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        let said = buffer.get(..count).unwrap_or_default();
        last_line.add(said);
        // What cannot be passed on is still a reason.
        let _ = own.write_all(said).await;
    }
    let _ = own.flush().await;
    last_line
}

/// The last line that is not blank, of what comes in pieces.
#[derive(Debug, Default)]
struct LastLine {
    /// The last that ended.
    ended: Vec<u8>,
    /// The one that may go on.
    open: Vec<u8>,
}

impl LastLine {
    fn add(&mut self, piece: &[u8]) {
        let mut parts = piece.split(|byte| *byte == b'\n');
        self.append(parts.next().unwrap_or_default());
        for part in parts {
            if !self.open.trim_ascii().is_empty() {
                self.ended = std::mem::take(&mut self.open);
            }
            self.open.clear();
            self.append(part);
        }
    }

    fn append(&mut self, part: &[u8]) {
        let room = LINE_BYTES_MAX - self.open.len();
        self.open.extend(part.iter().take(room));
    }

    fn reason(&self) -> String {
        let last = match self.open.trim_ascii() {
            [] => self.ended.trim_ascii(),
            open => open,
        };
        if last.is_empty() {
            return format!("exit code {REJECTED}");
        }
        String::from_utf8_lossy(last).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn reason(pieces: &[&str]) -> String {
        let mut last_line = LastLine::default();
        for piece in pieces {
            last_line.add(piece.as_bytes());
        }
        last_line.reason()
    }

    #[test]
    fn the_reason_is_the_last_line_that_says_something() {
        assert_eq!(reason(&["a\nb\n"]), "b");
        assert_eq!(reason(&["a\nb"]), "b");
        assert_eq!(reason(&["a\n", "be", "e\n", "\n  \n"]), "bee");
        assert_eq!(reason(&[]), "exit code 65");
        let long = "x".repeat(5000);
        assert_eq!(reason(&[&long, "\n"]).len(), LINE_BYTES_MAX);
    }

    #[test]
    fn every_exit_has_its_verdict() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        let signal = ExitStatus::from_raw(9);
        let said = LastLine::default();
        let reject = Verdict::Reject("exit code 65".to_owned());
        for (status, killed, expected) in [
            (exit(0), None, Verdict::Ack),
            (exit(65), None, reject.clone()),
            (exit(1), None, Verdict::Retry),
            (exit(127), None, Verdict::Retry),
            (signal, None, Verdict::Retry),
            (signal, Some(Killed::ForTime), Verdict::Retry),
            (signal, Some(Killed::ToEnd), Verdict::Release),
            (exit(0), Some(Killed::ForTime), Verdict::Ack),
            (exit(0), Some(Killed::ToEnd), Verdict::Ack),
            (exit(65), Some(Killed::ToEnd), reject),
            (exit(1), Some(Killed::ToEnd), Verdict::Release),
        ] {
            assert_eq!(
                verdict(status, killed, &said),
                expected,
                "{status:?} {killed:?}"
            );
        }
    }
}
