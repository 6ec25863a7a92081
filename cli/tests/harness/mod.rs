//! Runs the real binary: a server in a folder of its own, and commands against it.
//!
//! Nothing here waits for time to pass: a server is up when it says so, and gone when it exited.
//! A server is killed by the test that started it, by its process id.
#![allow(
    dead_code,
    reason = "every test binary uses its own part of the harness"
)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The binary under test.
pub(crate) const MILLSTREAM: &str = env!("CARGO_BIN_EXE_millstream");

/// The ignored test that refuses io_uring to itself and then becomes a server: a filter outlives
/// the start of another program. What follows tells it which error to refuse with, and the
/// server's arguments, one a line.
pub(crate) const BECOME_SERVER: &str = "become_a_server_without_io_uring";
/// Variable with the name of the error.
pub(crate) const REFUSE_URING: &str = "MILLSTREAM_TEST_REFUSE_URING";
/// Variable with the server's arguments.
pub(crate) const SERVE_ARGUMENTS: &str = "MILLSTREAM_TEST_SERVE_ARGUMENTS";

/// How long a condition may take to come true before a test gives up.
const PATIENCE: Duration = Duration::from_secs(180);

/// How servers of a suite are started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// Value of `--io`.
    pub(crate) io: &'static str,
    /// Name of the error with which io_uring is refused, when it is.
    pub(crate) refuse_uring: Option<&'static str>,
}

impl Setup {
    /// A server with `--io IO`, free to use what the kernel offers.
    pub(crate) const fn io(io: &'static str) -> Self {
        Self {
            io,
            refuse_uring: None,
        }
    }

    /// The command `millstream serve` over `data`, on a free port, with its output piped.
    pub(crate) fn serve(&self, data: &Path, more: &[&str]) -> Command {
        let data = data.to_str().unwrap();
        let mut args = vec![
            "serve",
            "--data",
            data,
            "--listen",
            "127.0.0.1:0",
            "--io",
            self.io,
        ];
        args.extend(more);
        let mut command = match self.refuse_uring {
            None => Command::new(MILLSTREAM),
            Some(error) => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command
                    .env(REFUSE_URING, error)
                    .env(SERVE_ARGUMENTS, args.join("\n"));
                args = vec!["--ignored", "--exact", BECOME_SERVER, "--nocapture"];
                command
            }
        };
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// What a process that ended left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it wrote to standard output.
    pub(crate) stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
}

impl Ended {
    /// Asserts that it exited with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let shown: String = stdout.chars().take(2000).collect();
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {shown}\nstderr: {}",
            self.stderr
        );
        self
    }

    /// Its standard output as one JSON object.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.stdout)))
    }

    /// Its standard output as JSON objects, one a line.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Option<Child>,
    /// The object of its first line.
    pub(crate) ready: Value,
    address: String,
    stdout: BufReader<ChildStdout>,
    stderr: Option<JoinHandle<String>>,
}

impl Server {
    /// Starts a server with `--json` over `data` and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(setup: Setup, data: &Path) -> Self {
        Self::start_with(setup, data, &[])
    }

    /// As [`Server::start`], with more arguments.
    #[track_caller]
    pub(crate) fn start_with(setup: Setup, data: &Path, more: &[&str]) -> Self {
        Self::of(&mut setup.serve(data, &[&["--json"], more].concat()))
    }

    /// Starts `command`, which must be a `serve --json` with its output piped.
    #[track_caller]
    pub(crate) fn of(command: &mut Command) -> Self {
        Self::try_of(command)
            .unwrap_or_else(|ended| panic!("the server did not start: {:?}", ended))
    }

    /// As [`Server::of`]; a server that ends before it is ready is told of instead.
    pub(crate) fn try_of(command: &mut Command) -> Result<Self, Ended> {
        let mut child = command.spawn().unwrap();
        let stderr = collect(child.stderr.take().unwrap());
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        // Above the server's own first line may stand what a test binary says before it becomes one.
        while !line.starts_with('{') {
            line.clear();
            if stdout.read_line(&mut line).unwrap() == 0 {
                return Err(Ended {
                    code: child.wait().unwrap().code(),
                    stdout: Vec::new(),
                    stderr: stderr.join().unwrap(),
                });
            }
        }
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["event"], "ready", "{line}");
        let address = ready["listen"].as_str().unwrap().to_owned();
        Ok(Self {
            child: Some(child),
            ready,
            address,
            stdout,
            stderr: Some(stderr),
        })
    }

    /// The address it listens at.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The next line it prints; `None` when it has closed its output.
    pub(crate) fn next_line(&mut self) -> Option<Value> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        Some(serde_json::from_str(&line).unwrap())
    }

    /// A command of the binary that talks to this server.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(MILLSTREAM);
        command.args(args).env("MILLSTREAM_SERVER", &self.address);
        command
    }

    /// Runs a command that talks to this server, without input.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        run(&mut self.command(args), b"")
    }

    /// Runs a command that talks to this server, with `input`.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Ended {
        run(&mut self.command(args), input)
    }

    /// Starts a command that talks to this server and runs beside the test.
    pub(crate) fn spawn(&self, args: &[&str]) -> Running {
        Running::of(&mut self.command(args))
    }

    /// What `queue show` tells of a queue.
    #[track_caller]
    pub(crate) fn queue(&self, queue: &str) -> Value {
        self.run(&["queue", "show", queue, "--json"])
            .expect(0)
            .json()
    }

    /// Waits until what `queue show` tells of a queue is as `wanted`; gives it.
    #[track_caller]
    pub(crate) fn queue_until(&self, queue: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("queue {queue}"), || {
            let shown = self.queue(queue);
            if wanted(&shown) {
                Ok(shown)
            } else {
                Err(shown)
            }
        })
    }

    /// Sends `signal`.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().unwrap());
        kill_process(pid, signal).unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Kills it where it stands and waits for the end.
    pub(crate) fn kill(mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let mut stdout = Vec::new();
        self.stdout.read_to_end(&mut stdout).unwrap();
        let code = self.child.take().unwrap().wait().unwrap().code();
        Ended {
            code,
            stdout,
            stderr: self.stderr.take().unwrap().join().unwrap(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            if thread::panicking()
                && let Some(Ok(said)) = self.stderr.take().map(JoinHandle::join)
            {
                eprintln!("the server said: {said}");
            }
        }
    }
}

/// A command that runs beside the test, without input. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Option<Child>,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Starts `command`.
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = collect_bytes(child.stdout.take().unwrap());
        let stderr = collect_bytes(child.stderr.take().unwrap());
        Self {
            child: Some(child),
            stdout: Some(stdout),
            stderr: Some(stderr),
        }
    }

    /// Starts `command` with its output in `file`.
    pub(crate) fn writing_to(command: &mut Command, file: File) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = collect_bytes(child.stderr.take().unwrap());
        Self {
            child: Some(child),
            stdout: None,
            stderr: Some(stderr),
        }
    }

    /// Sends `signal` to this process and no other.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().unwrap());
        kill_process(pid, signal).unwrap();
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Kills it where it stands.
    pub(crate) fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let code = self.child.take().unwrap().wait().unwrap().code();
        let stderr = self.stderr.take().unwrap().join().unwrap();
        Ended {
            code,
            stdout: match self.stdout.take() {
                Some(stdout) => stdout.join().unwrap(),
                None => Vec::new(),
            },
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Asks again and again until the answer is one; what it was instead is told when it never is.
#[track_caller]
pub(crate) fn until<T, E: std::fmt::Debug>(what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let given_up = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(instead) => assert!(Instant::now() < given_up, "{what}: {instead:?}"),
        }
    }
}

/// Runs `command` to its end with `input`.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Ended {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stderr = collect(child.stderr.take().unwrap());
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = Vec::new();
    thread::scope(|scope| {
        // A command that needs no input may have closed it.
        scope.spawn(move || stdin.write_all(input).ok());
        child
            .stdout
            .take()
            .unwrap()
            .read_to_end(&mut stdout)
            .unwrap();
    });
    Ended {
        code: child.wait().unwrap().code(),
        stdout,
        stderr: stderr.join().unwrap(),
    }
}

/// Runs the binary with `args`, no input and no server.
pub(crate) fn millstream(args: &[&str]) -> Ended {
    run(
        Command::new(MILLSTREAM)
            .args(args)
            .env_remove("MILLSTREAM_SERVER"),
        b"",
    )
}

fn collect(pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    let bytes = collect_bytes(pipe);
    thread::spawn(move || String::from_utf8_lossy(&bytes.join().unwrap()).into_owned())
}

fn collect_bytes(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Numbers that look random and are the same in every run.
#[derive(Debug, Clone)]
pub(crate) struct Numbers(u64);

impl Numbers {
    /// The sequence of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (SplitMix64).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// Files under `folder` whose names end in `suffix`, in order of their paths.
pub(crate) fn files_under(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_symlink() || path.file_name() == Some(OsStr::new("target")) {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
