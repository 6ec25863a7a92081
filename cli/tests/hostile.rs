//! Hostile clients against the real server: a thousand of them in little memory, and a server that
//! is out of descriptors.
//!
//! `MILLSTREAM_HOSTILE_ROUNDS` sets how many messages each honest client sends in the first test.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use harness::{MILLSTREAM, Server, Setup};
use millstream_protocol::control::{
    Hello, ListTopics, Magic, OpenConsumer, OpenPublisher, OpenReader, PublishAck,
};
use millstream_protocol::frame::{PublisherFields, publish_header};
use millstream_protocol::limits::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, READ_CREDIT_BYTES_MAX, WIRE_HEADER_BYTES, WIRE_VERSION,
};
use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};
use millstream_protocol::{AckLevel, Start, TopicName};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

const HONEST: usize = 100;
const HOSTILE: usize = 1000;
/// The memory the server and its page cache have.
const MEMORY_BYTES: u64 = 256 << 20;
/// Most memory of the server that no file is behind.
const ANONYMOUS_BYTES_MAX: u64 = 200 << 20;
/// Messages of each honest client.
const ROUNDS: u64 = 10;
/// How long a caller that is to be turned away may wait.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two rounds of the hostile ones.
const PERIOD: Duration = Duration::from_millis(50);

fn name(text: &str) -> TopicName {
    TopicName::parse(text).unwrap()
}

fn hello() -> Vec<u8> {
    let hello = Hello {
        magic: Magic,
        version_min: WIRE_VERSION,
        version_max: WIRE_VERSION,
        features: 0,
        client: "test".to_owned(),
    };
    let mut bytes = Vec::new();
    hello.encode(StreamId::CONNECTION, 0, &mut bytes);
    bytes
}

fn publisher(topic: &str) -> Vec<u8> {
    let open = OpenPublisher {
        topic: name(topic),
        ack: AckLevel::Stored,
        create: false,
    };
    let mut bytes = Vec::new();
    open.encode(StreamId(1), 0, &mut bytes);
    bytes
}

fn publish(number: u64, body: &[u8]) -> Vec<u8> {
    let frame_bytes = (FRAME_HEADER_BYTES + body.len()) as u32;
    let header = WireHeader::publish(StreamId(1), number, frame_bytes).encode();
    let fields = PublisherFields::single(body.len() as u32);
    [&header[..], &publish_header(&fields, body), body].concat()
}

/// Reads one message.
fn hear(socket: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut header = [0; WIRE_HEADER_BYTES];
    socket.read_exact(&mut header).unwrap();
    let bytes = u32::from_le_bytes(header[4..8].try_into().unwrap());
    let mut body = vec![0; bytes as usize];
    socket.read_exact(&mut body).unwrap();
    (header[0], body)
}

/// Publishes one message after the other on a connection of its own, each acknowledged before the
/// next; how long each took.
fn be_honest(address: &str, rounds: u64) -> Vec<Duration> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
        .write_all(&[hello(), publisher("good")].concat())
        .unwrap();
    let mut waits = Vec::new();
    for number in 1..=rounds {
        let begun = Instant::now();
        socket.write_all(&publish(number, &[7; 100])).unwrap();
        loop {
            let (kind, body) = hear(&mut socket);
            assert_ne!(kind, MessageKind::Error.code(), "{body:?}");
            if kind == MessageKind::PublishAck.code() {
                let acked = PublishAck::decode(&body).unwrap();
                assert_eq!(acked.runs().map(|run| run.publishes).sum::<u32>(), 1);
                break;
            }
        }
        waits.push(begun.elapsed());
    }
    waits
}

/// All honest clients at once; says how long their messages took.
fn honest_work(address: &str, rounds: u64, when: &str) {
    let clients: Vec<_> = (0..HONEST)
        .map(|_| {
            let address = address.to_owned();
            thread::spawn(move || be_honest(&address, rounds))
        })
        .collect();
    let mut waits: Vec<Duration> = clients
        .into_iter()
        .flat_map(|client| client.join().unwrap())
        .collect();
    assert_eq!(waits.len() as u64, HONEST as u64 * rounds);
    waits.sort_unstable();
    let at = |part: usize| waits[waits.len() * part / 1000];
    eprintln!(
        "{when}: {} messages acknowledged, p50 {:?}, p99 {:?}, most {:?}",
        waits.len(),
        at(500),
        at(990),
        at(999)
    );
}

/// Kinds of hostile clients.
const KINDS: usize = 9;

/// What a hostile client of each kind says, and how often.
fn malice(kind: usize) -> (Vec<u8>, usize) {
    let mut bytes = hello();
    match kind % KINDS {
        0 => (Vec::new(), 1),
        1 => (bytes[..1].to_vec(), 1),
        2 => (vec![0xee; 100], 1),
        3 => {
            let ping = WireHeader::bare(MessageKind::Ping, StreamId::CONNECTION, 1).encode();
            (ping.repeat(1000), usize::MAX)
        }
        4 => {
            // The first part of a frame that never comes to its end.
            bytes.extend(publisher("junk"));
            let header = WireHeader::publish(StreamId(1), 1, FRAME_BYTES_MAX as u32);
            bytes.extend(header.encode());
            bytes.extend([7; 60_000]);
            (bytes, 1)
        }
        5 => {
            let open = OpenConsumer {
                queue: name("bait"),
                window_messages: 65_536,
                window_bytes: 0,
                lease_ms: 0,
                name: "never settles".to_owned(),
            };
            open.encode(StreamId(1), 0, &mut bytes);
            (bytes, 1)
        }
        6 => {
            let open = OpenReader {
                topic: name("bait"),
                start: Start::Earliest,
                credit_bytes: READ_CREDIT_BYTES_MAX,
            };
            open.encode(StreamId(1), 0, &mut bytes);
            (bytes, 1)
        }
        7 => {
            // Acknowledgements that nobody reads, and a number out of sequence each time again.
            bytes.extend(publisher("junk"));
            for number in 1..=50 {
                bytes.extend(publish(number, &[7; 4000]));
            }
            (bytes, 1)
        }
        _ => {
            let list = ListTopics { after: None };
            (0..500).for_each(|number| list.encode(StreamId::CONNECTION, number, &mut bytes));
            (bytes, 1)
        }
    }
}

/// A client that reads nothing it is told.
struct Hostile {
    kind: usize,
    socket: TcpStream,
    says: Vec<u8>,
    times: usize,
    said: usize,
}

impl Hostile {
    fn new(address: &str, kind: usize) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (mut says, mut times) = malice(kind);
        if times == usize::MAX {
            // The greeting first, then the same without end.
            let mut socket = &socket;
            socket.write_all(&hello()).unwrap();
        }
        if says.is_empty() {
            (says, times) = (Vec::new(), 0);
        }
        Self {
            kind,
            socket,
            says,
            times,
            said: 0,
        }
    }

    /// Says what the server takes at this moment; false when it has hung up.
    fn go_on(&mut self) -> bool {
        while self.times > 0 {
            match self.socket.write(&self.says[self.said..]) {
                Ok(count) => self.said += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
            if self.said == self.says.len() {
                self.said = 0;
                self.times -= 1;
            }
        }
        if self.kind % KINDS > 2 {
            return true;
        }
        // These are told why, and hung up on.
        match self.socket.read(&mut [0; 1024]) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Keeps all hostile clients at it, anew where the server hung up; how often it did. Told to stop they go on
/// until it did so a second time, where it does.
fn be_hostile(address: &str, stop: &Receiver<()>, started: &mpsc::Sender<()>) -> usize {
    let mut clients: Vec<_> = (0..HOSTILE)
        .map(|kind| Hostile::new(address, kind))
        .collect();
    let (mut hung_up, mut told) = (0, None);
    loop {
        if stop.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout) {
            let told = told.get_or_insert_with(Instant::now);
            if hung_up > HOSTILE / KINDS || told.elapsed() > PATIENCE {
                return hung_up;
            }
        }
        for client in &mut clients {
            if !client.go_on() {
                *client = Hostile::new(address, client.kind);
                hung_up += 1;
            }
        }
        // Who does not listen any more has heard it before.
        let _ = started.send(());
    }
}

/// A memory group of its own for one process; removed when dropped.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new() -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup/memory");
        let group = root.join(format!("millstream-test-{}", std::process::id()));
        fs::create_dir(&group).ok()?;
        let group = Self(group);
        fs::write(
            group.file("memory.limit_in_bytes"),
            MEMORY_BYTES.to_string(),
        )
        .ok()?;
        Some(group)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A server that counts to the group from its first instruction.
    fn serve(&self, data: &Path, io: &str) -> Server {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.file("cgroup.procs"))
            .arg(MILLSTREAM)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--json",
                "--io",
                io,
                "--data",
            ])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Server::of(&mut command)
    }

    /// How many processes of the group were killed for want of memory.
    fn killed(&self) -> u64 {
        let control = fs::read_to_string(self.file("memory.oom_control")).unwrap();
        let kills = control
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        kills.map_or(0, |kills| kills.parse().unwrap())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Memory of the server that no file is behind.
fn anonymous_bytes(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib << 10
}

/// Descriptors for all sockets of this process and of the servers it starts.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, wanted).unwrap();
}

fn survive(group: &MemoryGroup, io: &str) {
    let rounds = std::env::var("MILLSTREAM_HOSTILE_ROUNDS");
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let server = group.serve(&place.path().join("data"), io);
    for topic in ["good", "junk"] {
        let create = ["topic", "create", topic, "--durability", "stored"];
        server.run(&create).expect(0);
    }
    server.run(&["queue", "create", "bait"]).expect(0);
    let bait: String = (0..4000).map(|_| "b".repeat(10_000) + "\n").collect();
    server.run_with(&["pub", "bait"], bait.as_bytes()).expect(0);
    let address = server.address();
    honest_work(address, rounds, &format!("{io}, alone"));
    let before = anonymous_bytes(&server);
    let hung_up = thread::scope(|scope| {
        // Dropped, also by a failure, it stops them.
        let (tell_stop, stop) = mpsc::channel();
        let (tell_started, started) = mpsc::channel();
        let hostile = scope.spawn(move || be_hostile(address, &stop, &tell_started));
        // Each has said what it says once.
        started.recv().unwrap();
        honest_work(
            address,
            rounds,
            &format!("{io}, beside {HOSTILE} hostile ones"),
        );
        let among = anonymous_bytes(&server);
        eprintln!(
            "{io}: {} KiB before, {} KiB among them",
            before >> 10,
            among >> 10
        );
        assert!(among <= ANONYMOUS_BYTES_MAX, "{among}");
        drop(tell_stop);
        hostile.join().unwrap()
    });
    eprintln!("{io}: hung up on hostile clients {hung_up} times");
    assert!(
        hung_up > HOSTILE / KINDS,
        "who talks nonsense is hung up on"
    );
    assert_eq!(group.killed(), 0);
    let shown = server
        .run(&["topic", "show", "good", "--json"])
        .expect(0)
        .json();
    assert_eq!(shown["next_offset"], 2 * HONEST as u64 * rounds, "{shown}");
    server.terminate().expect(0);
}

#[test]
fn a_thousand_hostile_clients_leave_the_honest_their_memory_and_their_work() {
    let Some(group) = MemoryGroup::new() else {
        eprintln!(
            "SKIPPED a_thousand_hostile_clients_leave_the_honest_their_memory_and_their_work: \
             needs root and memory groups of version 1"
        );
        return;
    };
    allow_descriptors();
    for io in ["epoll", "auto"] {
        survive(&group, io);
    }
}

/// A connection that was answered; nothing where it was hung up on, and never left waiting in the queue.
fn call(server: &Server) -> Option<TcpStream> {
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = socket.write_all(&hello());
    match socket.read(&mut [0; 1]) {
        Ok(0) => None,
        Ok(_) => Some(socket),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            None
        }
    }
}

#[test]
fn out_of_descriptors_callers_are_turned_away_and_later_ones_served() {
    for io in ["epoll", "auto"] {
        let place = tempfile::tempdir().unwrap();
        let server = Server::start(Setup::io(io), place.path());
        server.run(&["topic", "create", "t"]).expect(0);
        let pid = Pid::from_raw(server.pid().cast_signed());
        let folder = format!("/proc/{}/fd", server.pid());
        let open: Vec<u64> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|number| number.parse().unwrap())
            .collect();
        let first_free = (0..).find(|number| !open.contains(number));
        let before = getrlimit(Resource::Nofile);
        let tight = Rlimit {
            current: first_free,
            ..before
        };
        prlimit(pid, Resource::Nofile, tight).unwrap();
        // The server may close a file of its own meanwhile: then one more is served.
        let (mut served, mut turned_away) = (Vec::new(), 0);
        while turned_away < 20 {
            match call(&server) {
                Some(socket) => served.push(socket),
                None => turned_away += 1,
            }
            assert!(served.len() < 8, "it is not out of descriptors");
        }
        prlimit(pid, Resource::Nofile, before).unwrap();
        // Who comes while it still hangs up on others is one of them.
        let served_again = (0..1000).any(|_| call(&server).is_some());
        assert!(served_again);
        server.run_with(&["pub", "t"], b"after\n").expect(0);
        let back = server.run(&["tail", "t", "--no-follow"]).expect(0);
        assert_eq!(back.stdout, b"after\n");
        server.terminate().expect(0);
    }
}
