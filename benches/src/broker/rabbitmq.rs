//! RabbitMQ over AMQP 0-9-1: durable queues, persistent messages, publisher confirms, an
//! acknowledgement each.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::line::Line;
use super::process::program;
use super::{Broker, Failure, Kind, Process, Publish, Receive};
use crate::load::Target;

/// Messages delivered ahead to a receiver.
const PREFETCH: u16 = 1000;
/// Largest frame: what the server offers by default.
const FRAME_BYTES: u32 = 131_072;
/// Longest answer that is waited for when something is set up.
const ANSWER: Duration = Duration::from_secs(60);
/// The one channel of each connection.
const CHANNEL: u16 = 1;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Behind every frame.
const END: u8 = 0xCE;

/// Class and method of what is sent and awaited.
type Method = (u16, u16);
const START: Method = (10, 10);
const TUNE: Method = (10, 30);
const OPEN_OK: Method = (10, 41);
const CLOSE: Method = (10, 50);
const CHANNEL_OPEN_OK: Method = (20, 11);
const CHANNEL_CLOSE: Method = (20, 40);
const DECLARE_OK: Method = (50, 11);
const DELETE_OK: Method = (50, 41);
const QOS_OK: Method = (60, 11);
const CONSUME_OK: Method = (60, 21);
const DELIVER: Method = (60, 60);
const ACK: Method = (60, 80);
const NACK: Method = (60, 120);
const SELECT_OK: Method = (85, 11);

/// Where packages put the script that becomes the server. The one on the path may be another that
/// starts it as another user, with a folder and a log of its own.
const PROGRAMS: [&str; 2] = ["/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"];

/// A server started here.
#[derive(Debug)]
pub struct RabbitMq {
    address: String,
    version: String,
    quorum: bool,
    process: Process,
    /// Connections of receivers that have left. A quorum queue takes acknowledgements in slower than it
    /// is sent them and drops the rest with the connection; whoever is still there would get those
    /// messages again. So they stay open until their queue is removed.
    left: Arc<Mutex<Vec<Connection>>>,
    /// Erlang's port mapper, of this server alone: one that the server started would outlive it.
    _mapper: Process,
}

impl RabbitMq {
    /// Starts `rabbitmq-server`, or the program that is `named`, on free ports, in a folder of its own
    /// below `parent`; with `quorum` its queues are quorum queues, which sync before they confirm.
    ///
    /// # Errors
    ///
    /// It is not there, or did not start.
    pub fn start(named: Option<&Path>, parent: &Path, quorum: bool) -> Result<Self, Failure> {
        let (port, distribution) = (super::free_port()?, super::free_port()?);
        let mapper_port = super::free_port()?.to_string();
        let mapper = Process::start(
            parent,
            |_| {
                let mut command = Command::new("epmd");
                // It tells that it is ready when asked for details twice, and stays in front.
                command.args(["-d", "-d", "-address", "127.0.0.1"]);
                command.args(["-port", &mapper_port]);
                command
            },
            |line| line.contains("entering the main select() loop"),
        )?;
        let process = Process::start(
            parent,
            |folder| {
                let mut command = Command::new(program(named, &PROGRAMS));
                command
                    .env("RABBITMQ_NODENAME", format!("bench{port}@localhost"))
                    .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
                    .env("RABBITMQ_NODE_PORT", port.to_string())
                    .env("RABBITMQ_DIST_PORT", distribution.to_string())
                    .env("RABBITMQ_CONFIG_FILE", folder.join("none"))
                    .env("RABBITMQ_CONF_ENV_FILE", folder.join("none"))
                    .env("RABBITMQ_MNESIA_BASE", folder)
                    .env("RABBITMQ_LOG_BASE", folder)
                    .env("RABBITMQ_PID_FILE", folder.join("pid"))
                    .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
                    .env("ERL_EPMD_PORT", &mapper_port)
                    .env("HOME", folder)
                    // The script becomes the server then, so that its id is the server's.
                    .env("RABBITMQ_ALLOW_INPUT", "yes")
                    .arg("-noinput");
                command
            },
            |line| line.contains("completed with"),
        )?;
        let address = format!("127.0.0.1:{port}");
        let version = Connection::open(&address)?.version;
        Ok(Self {
            address,
            version,
            quorum,
            process,
            left: Arc::default(),
            _mapper: mapper,
        })
    }

    fn declaration(&self, topic: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put_u16(&mut out, 0);
        put_short(&mut out, topic);
        // Durable; neither passive, exclusive nor deleted by itself; the answer is awaited.
        out.push(0b00010);
        let mut table = Vec::new();
        put_short(&mut table, "x-queue-type");
        table.push(b'S');
        put_long(&mut table, if self.quorum { b"quorum" } else { b"classic" });
        put_long(&mut out, &table);
        out
    }
}

impl Broker for RabbitMq {
    fn target(&self) -> Target {
        let name = if self.quorum {
            "rabbitmq-quorum"
        } else {
            "rabbitmq-classic"
        };
        Target {
            name: name.to_owned(),
            version: self.version.clone(),
            durability: if self.quorum { "synced" } else { "stored" }.to_owned(),
            setup: "durable queue, persistent messages, publisher confirms".to_owned(),
        }
    }

    fn pid(&self) -> Option<u32> {
        Some(self.process.pid())
    }

    fn took(&self) -> Option<Duration> {
        Some(self.process.took())
    }

    fn folder(&self) -> Option<&Path> {
        Some(self.process.folder())
    }

    fn create(&self, topic: &str, _: Kind) -> Result<(), Failure> {
        let mut connection = Connection::open(&self.address)?;
        connection.ask((50, 10), &self.declaration(topic), DECLARE_OK)
    }

    fn remove(&self, topic: &str) -> Result<(), Failure> {
        self.left.lock().map_err(|_| "a receiver panicked")?.clear();
        let mut arguments = vec![0, 0];
        put_short(&mut arguments, topic);
        arguments.push(0);
        Connection::open(&self.address)?.ask((50, 40), &arguments, DELETE_OK)
    }

    fn publisher(&self, topic: &str, _: usize) -> Result<Box<dyn Publish>, Failure> {
        let mut connection = Connection::open(&self.address)?;
        connection.ask((85, 10), &[0], SELECT_OK)?;
        // To the default exchange, routed by the queue's name.
        let mut publish = vec![0, 0, 0];
        put_short(&mut publish, topic);
        publish.push(0);
        Ok(Box::new(Publishing {
            connection,
            publish,
            confirmed: 0,
        }))
    }

    fn receiver(&self, topic: &str, kind: Kind) -> Result<Box<dyn Receive>, Failure> {
        let mut connection = Connection::open(&self.address)?;
        let mut qos = vec![0; 4];
        put_u16(&mut qos, PREFETCH);
        qos.push(0);
        connection.ask((60, 10), &qos, QOS_OK)?;
        let mut consume = vec![0, 0];
        put_short(&mut consume, topic);
        put_short(&mut consume, "");
        // Neither exclusive nor without its own messages; a reader acknowledges nothing.
        let acknowledges = kind == Kind::Queue;
        consume.push(if acknowledges { 0 } else { 0b0010 });
        put_long(&mut consume, &[]);
        connection.ask((60, 20), &consume, CONSUME_OK)?;
        Ok(Box::new(Receiving {
            connection: Some(connection),
            left: Arc::clone(&self.left),
            acknowledges,
            tag: 0,
            body: Vec::new(),
            missing: 0,
        }))
    }
}

fn put_u16(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn put_short(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("names of a benchmark are short"));
    out.extend_from_slice(text.as_bytes());
}

fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("arguments of a benchmark are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, parts: &[&[u8]]) {
    out.push(kind);
    put_u16(out, channel);
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).expect("a frame is bounded");
    out.extend_from_slice(&length.to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    out.push(END);
}

fn method_bytes((class, method): Method) -> [u8; 4] {
    let ([a, b], [c, d]) = (class.to_be_bytes(), method.to_be_bytes());
    [a, b, c, d]
}

/// A frame in the input: its kind, where its payload lies, and all of its length.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    payload: std::ops::Range<usize>,
    length: usize,
}

fn frame(input: &[u8]) -> Option<Frame> {
    let (head, _) = input.split_first_chunk::<7>()?;
    let [kind, _, _, a, b, c, d] = *head;
    let bytes = u32::from_be_bytes([a, b, c, d]) as usize;
    let length = 7 + bytes + 1;
    (input.len() >= length).then_some(Frame {
        kind,
        payload: 7..7 + bytes,
        length,
    })
}

fn method(payload: &[u8]) -> Option<(Method, &[u8])> {
    let ([a, b, c, d], rest) = payload.split_first_chunk::<4>()?;
    let pair = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
    Some((pair, rest))
}

#[derive(Debug)]
struct Connection {
    line: Line,
    version: String,
}

impl Connection {
    fn open(address: &str) -> Result<Self, Failure> {
        let mut line = Line::connect(address)?;
        line.output().extend_from_slice(b"AMQP\x00\x00\x09\x01");
        line.flush()?;
        let mut connection = Self {
            line,
            version: String::new(),
        };
        let start = connection.await_method(START)?;
        connection.version = version_in(&start);
        let mut start_ok = Vec::new();
        put_long(&mut start_ok, &[]);
        put_short(&mut start_ok, "PLAIN");
        put_long(&mut start_ok, b"\0guest\0guest");
        put_short(&mut start_ok, "en_US");
        connection.put_method(0, (10, 11), &start_ok);
        connection.await_method(TUNE)?;
        let mut tune_ok = Vec::new();
        put_u16(&mut tune_ok, 8);
        tune_ok.extend_from_slice(&FRAME_BYTES.to_be_bytes());
        // No heartbeats.
        put_u16(&mut tune_ok, 0);
        connection.put_method(0, (10, 31), &tune_ok);
        connection.put_method(0, (10, 40), &[1, b'/', 0, 0]);
        connection.await_method(OPEN_OK)?;
        connection.put_method(CHANNEL, (20, 10), &[0]);
        connection.await_method(CHANNEL_OPEN_OK)?;
        Ok(connection)
    }

    fn put_method(&mut self, channel: u16, which: Method, arguments: &[u8]) {
        put_frame(
            self.line.output(),
            METHOD,
            channel,
            &[&method_bytes(which), arguments],
        );
    }

    fn ask(&mut self, question: Method, arguments: &[u8], answer: Method) -> Result<(), Failure> {
        self.put_method(CHANNEL, question, arguments);
        self.await_method(answer).map(|_| ())
    }

    /// Sends what was gathered and waits for `wanted`; gives its arguments.
    fn await_method(&mut self, wanted: Method) -> Result<Vec<u8>, Failure> {
        self.line.flush()?;
        loop {
            while let Some(frame) = frame(self.line.input()) {
                let payload = self.line.input()[frame.payload.clone()].to_vec();
                self.line.take(frame.length);
                if frame.kind == METHOD {
                    let (found, arguments) =
                        method(&payload).ok_or("rabbitmq sent half a method")?;
                    refuse_close(found, arguments)?;
                    if found == wanted {
                        return Ok(arguments.to_vec());
                    }
                }
            }
            if !self.line.fill(ANSWER)? {
                return Err("rabbitmq does not answer".into());
            }
        }
    }
}

fn refuse_close(found: Method, arguments: &[u8]) -> Result<(), Failure> {
    if found == CLOSE || found == CHANNEL_CLOSE {
        let length = usize::from(arguments.get(2).copied().unwrap_or(0));
        let text = arguments.get(3..3 + length).unwrap_or_default();
        return Err(format!("rabbitmq: {}", String::from_utf8_lossy(text)).into());
    }
    Ok(())
}

/// The server's version among its properties: the long string behind the key `version`.
fn version_in(start: &[u8]) -> String {
    let key = b"\x07versionS";
    let at = start.windows(key.len()).position(|window| window == key);
    let value = at
        .and_then(|at| start.get(at + key.len()..))
        .unwrap_or_default();
    let Some((length, rest)) = value.split_first_chunk::<4>() else {
        return "unknown".to_owned();
    };
    let text = rest
        .get(..u32::from_be_bytes(*length) as usize)
        .unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

struct Publishing {
    connection: Connection,
    publish: Vec<u8>,
    /// Numbers up to this are confirmed.
    confirmed: u64,
}

impl Publish for Publishing {
    fn send(&mut self, messages: &[u8], message_bytes: usize) -> Result<(), Failure> {
        let publish = method_bytes((60, 40));
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&(message_bytes as u64).to_be_bytes());
        // One property: delivery mode 2, persistent.
        header.extend_from_slice(&[0x10, 0x00, 2]);
        let line = &mut self.connection.line;
        for body in messages.chunks(message_bytes) {
            let out = line.output();
            put_frame(out, METHOD, CHANNEL, &[&publish, &self.publish]);
            put_frame(out, HEADER, CHANNEL, &[&header]);
            for part in body.chunks(FRAME_BYTES as usize - 8) {
                put_frame(out, BODY, CHANNEL, &[part]);
            }
            line.flush_if_full()?;
        }
        Ok(line.flush()?)
    }

    fn acknowledged(&mut self, wait: Duration) -> Result<u64, Failure> {
        let before = self.confirmed;
        loop {
            while let Some(frame) = frame(self.connection.line.input()) {
                let payload = &self.connection.line.input()[frame.payload.clone()];
                if frame.kind == METHOD
                    && let Some((found, arguments)) = method(payload)
                {
                    refuse_close(found, arguments)?;
                    let tag = arguments
                        .first_chunk::<8>()
                        .map_or(0, |tag| u64::from_be_bytes(*tag));
                    match found {
                        // With one queue confirms come in order, singly or up to a number.
                        ACK => self.confirmed = self.confirmed.max(tag),
                        NACK => return Err("rabbitmq refused a message".into()),
                        _ => {}
                    }
                }
                self.connection.line.take(frame.length);
            }
            let wait = if self.confirmed > before {
                Duration::ZERO
            } else {
                wait
            };
            if !self.connection.line.fill(wait)? {
                return Ok(self.confirmed - before);
            }
        }
    }
}

struct Receiving {
    /// Until it has left.
    connection: Option<Connection>,
    left: Arc<Mutex<Vec<Connection>>>,
    acknowledges: bool,
    /// Delivery tag of the message that comes.
    tag: u64,
    body: Vec<u8>,
    /// Bytes of it that are still to come.
    missing: usize,
}

impl Receive for Receiving {
    fn receive(&mut self, wait: Duration, take: &mut dyn FnMut(&[u8])) -> Result<u64, Failure> {
        let mut received = 0;
        loop {
            while let Some(frame) = frame(self.line()?.input()) {
                received += self.take(&frame, take)?;
                self.line()?.take(frame.length);
            }
            self.line()?.flush()?;
            if received > 0 || !self.line()?.fill(wait)? {
                return Ok(received);
            }
        }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        if let Some(mut connection) = self.connection.take() {
            connection.line.flush()?;
            let mut left = self.left.lock().map_err(|_| "a receiver panicked")?;
            left.push(connection);
        }
        Ok(())
    }
}

impl Receiving {
    fn line(&mut self) -> Result<&mut Line, Failure> {
        let connection = self.connection.as_mut();
        Ok(&mut connection.ok_or("the receiver has left")?.line)
    }

    fn take(&mut self, frame: &Frame, take: &mut dyn FnMut(&[u8])) -> Result<u64, Failure> {
        let connection = self.connection.as_mut().ok_or("the receiver has left")?;
        let (input, out) = connection.line.both();
        let payload = input.get(frame.payload.clone()).unwrap_or_default();
        match frame.kind {
            METHOD => {
                let (found, arguments) = method(payload).ok_or("rabbitmq sent half a method")?;
                refuse_close(found, arguments)?;
                if found == DELIVER {
                    // Behind the consumer's tag.
                    let at = 1 + usize::from(arguments.first().copied().unwrap_or(0));
                    let tag = arguments.get(at..).and_then(<[u8]>::first_chunk::<8>);
                    self.tag = tag.map_or(0, |tag| u64::from_be_bytes(*tag));
                }
                return Ok(0);
            }
            HEADER => {
                let bytes = payload.get(4..).and_then(<[u8]>::first_chunk::<8>);
                let bytes = bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes));
                self.missing = usize::try_from(bytes)?;
                self.body.clear();
                return Ok(0);
            }
            BODY => {
                self.missing = self.missing.saturating_sub(payload.len());
                // Most come in one frame.
                if self.missing == 0 && self.body.is_empty() {
                    take(payload);
                } else {
                    self.body.extend_from_slice(payload);
                    if self.missing > 0 {
                        return Ok(0);
                    }
                    take(&self.body);
                }
            }
            HEARTBEAT => return Ok(0),
            other => return Err(format!("rabbitmq sent a frame of kind {other}").into()),
        }
        if self.acknowledges {
            let ack = method_bytes(ACK);
            let parts = [&ack[..], &self.tag.to_be_bytes(), &[0]];
            put_frame(out, METHOD, CHANNEL, &parts);
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_when_all_of_it_is_there() {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, METHOD, CHANNEL, &[&method_bytes(ACK), &[0; 9]]);
        for cut in 0..bytes.len() {
            assert_eq!(frame(&bytes[..cut]), None, "{cut}");
        }
        let found = frame(&bytes).unwrap();
        assert_eq!((found.kind, found.length), (METHOD, bytes.len()));
        let (which, arguments) = method(&bytes[found.payload]).unwrap();
        assert_eq!((which, arguments.len()), (ACK, 9));
        assert_eq!(bytes.last(), Some(&END));
    }

    #[test]
    fn the_version_is_found_among_the_properties() {
        let mut start = b"\0\x09....\x07versionS".to_vec();
        put_long(&mut start, b"3.10.8");
        assert_eq!(version_in(&start), "3.10.8");
        assert_eq!(version_in(b"nothing"), "unknown");
    }
}
