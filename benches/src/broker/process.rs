//! A broker started for a benchmark, in a folder of its own, and stopped with it.

use std::collections::VecDeque;
use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Failure;

/// Lines of a program that did not start which its failure tells.
const TOLD_LINES: usize = 8;

/// The program of a broker is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotInstalled {
    program: String,
}

impl fmt::Display for NotInstalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is not installed: no such program was found",
            self.program
        )
    }
}

impl Error for NotInstalled {}

/// A child process and its folder; both go away with it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    folder: TempDir,
    /// The line it said when it was ready.
    ready: String,
    /// How long that took.
    took: Duration,
}

impl Process {
    /// Starts `command`, which `prepare` completes with what goes into the folder, and waits until it
    /// prints a line in which `is_ready` finds what it looks for, on either of its outputs.
    ///
    /// # Errors
    ///
    /// It is not there, can't be started, or ended before it was ready.
    pub fn start(
        parent: &Path,
        prepare: impl FnOnce(&Path) -> Command,
        is_ready: impl Fn(&str) -> bool,
    ) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("millstream-bench-")
            .tempdir_in(parent)?;
        let wanted = prepare(folder.path());
        let name = wanted.get_program().to_string_lossy().into_owned();
        if !is_there(wanted.get_program()) {
            return Err(NotInstalled { program: name }.into());
        }
        let mut command = bound(wanted);
        let (reader, writer) = std::io::pipe()?;
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let began = Instant::now();
        let child = command
            .spawn()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        // The pipe ends with the child: the command holds the other end of it.
        drop(command);
        let mut started = Self {
            child,
            folder,
            ready: String::new(),
            took: Duration::ZERO,
        };
        let mut lines = BufReader::new(reader);
        let mut told = VecDeque::new();
        loop {
            let mut line = Vec::new();
            if lines.read_until(b'\n', &mut line)? == 0 {
                let status = started.child.wait()?;
                let told = Vec::from(told).join("\n  ");
                return Err(format!("{name} ended before it was ready: {status}\n  {told}").into());
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if is_ready(&line) {
                started.ready = line;
                break;
            }
            if told.len() == TOLD_LINES {
                told.pop_front();
            }
            told.push_back(line);
        }
        started.took = began.elapsed();
        // Whatever it says later must not stop it.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(started)
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The line that told it was ready.
    #[must_use]
    pub fn ready_line(&self) -> &str {
        self.ready.trim()
    }

    /// From its start until it said that it was ready.
    #[must_use]
    pub const fn took(&self) -> Duration {
        self.took
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; its data goes anyway.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `program` is a file, or one on the path.
fn is_there(program: &OsStr) -> bool {
    if Path::new(program).components().count() > 1 {
        return Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// `wanted` so that it ends with the thread that starts it even if that is killed, where the tool for
/// that is there: a benchmark that is broken off must leave no broker behind.
fn bound(wanted: Command) -> Command {
    if !is_there(OsStr::new("setpriv")) {
        return wanted;
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    command.arg(wanted.get_program()).args(wanted.get_args());
    for (name, value) in wanted.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// The program to start: the one that was named, or the first of `known` that is there as a file, or
/// the last of them, which is looked for on the path.
pub(super) fn program(named: Option<&Path>, known: &[&str]) -> PathBuf {
    let there = known.iter().copied().find(|path| Path::new(path).is_file());
    let usual = there.or_else(|| known.last().copied()).unwrap_or_default();
    named.map_or_else(|| PathBuf::from(usual), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> Result<Process, Failure> {
        let script = script.to_owned();
        Process::start(
            &std::env::temp_dir(),
            |_| {
                let mut command = Command::new("sh");
                command.arg("-c").arg(script);
                command
            },
            |line| line == "ready",
        )
    }

    #[test]
    fn a_process_and_its_folder_go_away_with_it() {
        let process = start("echo one; echo ready >&2; exec sleep 600").unwrap();
        let (pid, folder) = (process.pid(), process.folder().to_owned());
        assert_eq!(process.ready_line(), "ready");
        assert!(folder.is_dir());
        drop(process);
        assert!(!folder.exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_failure_says_why() {
        let failure = start("echo 'the port is taken' >&2; exit 3").unwrap_err();
        let failure = failure.to_string();
        assert!(failure.contains("the port is taken"), "{failure}");
        let none = Process::start(
            &std::env::temp_dir(),
            |_| Command::new("no-such-broker"),
            |_| true,
        );
        let failure = none.unwrap_err().to_string();
        assert!(
            failure.contains("no-such-broker is not installed"),
            "{failure}"
        );
    }
}
