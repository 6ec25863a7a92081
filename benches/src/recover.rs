//! `recover`: how long a server takes to be ready, over nothing, after a kill and after a stop; and
//! what it costs while nobody talks to it.
//!
//! The folder is filled by a publisher whose messages are all read back and checked after each start.
//! What the kernel has in memory of the files stays there: this is a restart of the program, not of
//! the machine.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use millstream_client::{Address, Durability};
use rustix::process::{Pid, Signal, kill_process};

use crate::broker::{Broker, Failure, Kind, Millstream};
use crate::load::{
    Course, Delivered, Environment, Figure, Load, Outcome, Parameters, Progress, Run, SCHEMA, Tell,
    Usage, preload, read_back,
};

/// How long a server is left alone before and while its idleness is measured.
const IDLE: Duration = Duration::from_secs(2);
/// The topic in the folder.
const TOPIC: &str = "recover";

/// What is to be recovered, and by whom.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// The server's program.
    pub program: PathBuf,
    /// Further arguments for it.
    pub arguments: Vec<String>,
    /// What the topic's records survive.
    pub durability: Durability,
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Messages.
    pub messages: u64,
}

/// Measures it `repeats` times, each with a folder of its own below `scratch`.
///
/// # Errors
///
/// The server did not start, or the disk failed.
pub fn measure(
    recovery: &Recovery,
    repeats: usize,
    (began, scratch, tell): (&str, &Path, Tell<'_>),
) -> Result<Vec<Outcome>, Failure> {
    let at = Millstream::at("millstream://127.0.0.1:1".parse()?, recovery.durability);
    let mut outcome = Outcome {
        schema: SCHEMA,
        scenario: "recover".to_owned(),
        target: at.target(),
        parameters: recovery.parameters(),
        environment: Environment::now(began.to_owned(), scratch),
        runs: Vec::new(),
    };
    for _ in 0..repeats {
        outcome.runs.push(recovery.run(scratch, tell)?);
    }
    Ok(vec![outcome])
}

impl Recovery {
    fn parameters(&self) -> Parameters {
        Parameters {
            message_bytes: self.message_bytes,
            batch: 1000,
            publishers: 1,
            receivers: 1,
            messages: self.messages,
            ..Parameters::default()
        }
    }

    fn run(&self, scratch: &Path, tell: Tell<'_>) -> Result<Run, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("millstream-bench-")
            .tempdir_in(scratch)?;
        let data = folder.path().join("data");
        tell(Progress::Phase("idle"));
        let (server, empty) = self.start(&data)?;
        std::thread::sleep(IDLE);
        let before = Usage::of(server.child.id(), Some(scratch));
        std::thread::sleep(IDLE);
        let idle = Usage::of(server.child.id(), Some(scratch)) - before;
        let stored = self.fill(&server, tell)?;
        let bytes = bytes_in(&data)?;
        server.kill()?;
        let (server, killed) = self.start(&data)?;
        let mut delivered = self.check(&server, stored, tell)?;
        server.stop()?;
        let (server, stopped) = self.start(&data)?;
        delivered.add(&self.check(&server, stored, tell)?);
        server.stop()?;
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
        Ok(Run {
            messages: stored,
            messages_per_s: stored as f64 / killed.as_secs_f64(),
            bytes_per_s: bytes as f64 / killed.as_secs_f64(),
            seconds: killed.as_secs_f64(),
            delivered,
            broker: Some(idle),
            figures: vec![
                Figure::new("empty_ready_ms", milliseconds(empty)),
                Figure::new("killed_ready_ms", milliseconds(killed)),
                Figure::new("stopped_ready_ms", milliseconds(stopped)),
                Figure::new("folder_bytes", bytes as f64),
                Figure::new("idle_cpu_s_per_s", idle.cpu_s / IDLE.as_secs_f64()),
                Figure::new("idle_rss_anonymous_bytes", idle.rss_anonymous_bytes as f64),
                Figure::new("idle_context_switches_per_s", {
                    idle.context_switches as f64 / IDLE.as_secs_f64()
                }),
            ],
            ..Run::default()
        })
    }

    fn fill(&self, server: &Server, tell: Tell<'_>) -> Result<u64, Failure> {
        tell(Progress::Phase("storing"));
        let broker = self.at(server);
        broker.create(TOPIC, Kind::Stream)?;
        let load = self.load();
        preload(
            &broker,
            TOPIC,
            (0, self.messages),
            load.sizes(),
            load.parameters.window,
        )
    }

    fn check(&self, server: &Server, stored: u64, tell: Tell<'_>) -> Result<Delivered, Failure> {
        let topics = [TOPIC.to_owned()];
        read_back(&self.at(server), &self.load(), &[stored], &topics, tell)
    }

    fn load(&self) -> Load {
        Load {
            course: Course::Receive,
            kind: Kind::Stream,
            topics: 1,
            silence: Duration::from_secs(20),
            crowd: None,
            yardsticks: false,
            parameters: self.parameters(),
        }
    }

    fn at(&self, server: &Server) -> Millstream {
        Millstream::at(server.address.clone(), self.durability)
    }

    /// Starts the server over `data`, and how long it took to say that it is ready.
    fn start(&self, data: &Path) -> Result<(Server, Duration), Failure> {
        let start = Instant::now();
        let mut child = Command::new(&self.program)
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("a pipe was asked for")?;
        let mut server = Server {
            child,
            address: Address::Tcp {
                host: String::new(),
                port: 0,
            },
        };
        let mut lines = BufReader::new(output);
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            if line.contains("\"addresses\"") {
                let ready = start.elapsed();
                server.address = crate::broker::address_in(line.trim())?;
                // Whatever it says later must not stop it.
                std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
                return Ok((server, ready));
            }
            line.clear();
        }
        Err("the server ended before it was ready".into())
    }
}

/// A server of this scenario; killed when dropped.
struct Server {
    child: Child,
    address: Address,
}

impl Server {
    fn kill(mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn stop(mut self) -> Result<(), Failure> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the server stopped with {status}").into())
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already unless something failed, which is told elsewhere.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes of the files below `folder`, as far as blocks stand for them.
fn bytes_in(folder: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() {
            bytes_in(&entry.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(bytes)
}
