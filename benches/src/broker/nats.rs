//! NATS JetStream: publishes with acknowledgement inboxes, ordered readers, pull consumers as queues.

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::line::{self, Line};
use super::process::program;
use super::{Broker, Failure, Kind, Process, Publish, Receive};
use crate::load::Target;

/// Messages asked for at once by a worker, and again once half of them came.
const COUNT: u64 = 1000;
/// How long a worker's question stands, in nanoseconds.
const EXPIRES_NS: u64 = 60_000_000_000;
/// Longest answer that is waited for when something is set up.
const ANSWER: Duration = Duration::from_secs(30);
/// Name of the consumer that workers of a stream share.
const WORKERS: &str = "workers";

/// A server started here.
#[derive(Debug)]
pub struct Nats {
    address: String,
    version: String,
    synced: bool,
    process: Process,
}

impl Nats {
    /// Starts `nats-server`, or the program that is `named`, with JetStream on files, on a free port, in
    /// a folder of its own below `parent`; with `synced` it syncs before each acknowledgement, which
    /// servers before 2.10 do not know and refuse.
    ///
    /// # Errors
    ///
    /// It is not there, or did not start.
    pub fn start(named: Option<&Path>, parent: &Path, synced: bool) -> Result<Self, Failure> {
        let port = super::free_port()?;
        let process = Process::start(
            parent,
            |folder| {
                let sync = if synced {
                    ", sync_interval: always"
                } else {
                    ""
                };
                let store = folder.display();
                let config = format!("jetstream {{ store_dir: \"{store}\"{sync} }}\n");
                let file = folder.join("nats.conf");
                // If it can't be written the server says so.
                let _ = std::fs::write(&file, config);
                let mut command = Command::new(program(named, &["nats-server"]));
                command
                    .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-c"])
                    .arg(file);
                command
            },
            |line| line.contains("Server is ready"),
        )?;
        let address = format!("127.0.0.1:{port}");
        let version = Connection::open(&address)?.version;
        Ok(Self {
            address,
            version,
            synced,
            process,
        })
    }

    fn ask(&self, subject: &str, body: &str) -> Result<String, Failure> {
        Connection::open(&self.address)?.ask(subject, body)
    }
}

impl Broker for Nats {
    fn target(&self) -> Target {
        Target {
            name: "nats-jetstream".to_owned(),
            version: self.version.clone(),
            durability: if self.synced { "synced" } else { "stored" }.to_owned(),
            setup: if self.synced {
                "file, sync_interval always"
            } else {
                "file"
            }
            .to_owned(),
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

    fn create(&self, topic: &str, kind: Kind) -> Result<(), Failure> {
        let stream = format!(
            r#"{{"name":"{topic}","subjects":["{topic}"],"storage":"file","num_replicas":1}}"#
        );
        self.ask(&format!("$JS.API.STREAM.CREATE.{topic}"), &stream)?;
        if kind == Kind::Queue {
            let consumer = format!(
                r#"{{"stream_name":"{topic}","config":{{"durable_name":"{WORKERS}","ack_policy":"explicit","deliver_policy":"all","max_ack_pending":10000}}}}"#
            );
            self.ask(
                &format!("$JS.API.CONSUMER.DURABLE.CREATE.{topic}.{WORKERS}"),
                &consumer,
            )?;
        }
        Ok(())
    }

    fn remove(&self, topic: &str) -> Result<(), Failure> {
        self.ask(&format!("$JS.API.STREAM.DELETE.{topic}"), "")
            .map(|_| ())
    }

    fn publisher(&self, topic: &str, _: usize) -> Result<Box<dyn Publish>, Failure> {
        let mut connection = Connection::open(&self.address)?;
        let inbox = connection.subscribe()?;
        Ok(Box::new(Publishing {
            head: format!("PUB {topic} {inbox} ").into_bytes(),
            connection,
        }))
    }

    fn receiver(&self, topic: &str, kind: Kind) -> Result<Box<dyn Receive>, Failure> {
        let mut connection = Connection::open(&self.address)?;
        let inbox = connection.subscribe()?;
        if kind == Kind::Stream {
            // What clients call an ordered consumer.
            let consumer = format!(
                r#"{{"stream_name":"{topic}","config":{{"deliver_subject":"{inbox}","ack_policy":"none","deliver_policy":"all","max_deliver":1,"mem_storage":true,"flow_control":true,"idle_heartbeat":5000000000}}}}"#
            );
            let mut other = Connection::open(&self.address)?;
            other.ask(&format!("$JS.API.CONSUMER.CREATE.{topic}"), &consumer)?;
        }
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{topic}.{WORKERS}");
        Ok(Box::new(Receiving {
            connection,
            pull: (kind == Kind::Queue).then_some((next, inbox)),
            asked: 0,
        }))
    }
}

/// A message that was delivered: where its parts lie in the input, and all of its length.
struct Message {
    reply: Range<usize>,
    /// Status of a message without a body, such as 404, and the headers behind it; empty for any other.
    status: Range<usize>,
    body: Range<usize>,
    length: usize,
}

/// What the server sent.
enum Sent {
    Message(Message),
    /// To be answered.
    Ping(usize),
    /// What was sent before the question was taken in.
    Pong(usize),
    /// Of no matter.
    Other(usize),
    Error(String),
}

struct Connection {
    line: Line,
    version: String,
    inboxes: u64,
    number: u64,
}

impl Connection {
    fn open(address: &str) -> Result<Self, Failure> {
        let mut line = Line::connect(address)?;
        let version = loop {
            if let Some(end) = line.line_bytes() {
                let info = String::from_utf8_lossy(&line.input()[..end]).into_owned();
                line.take(end + 2);
                let json = info
                    .strip_prefix("INFO ")
                    .ok_or("nats did not introduce itself")?;
                let info: serde_json::Value = serde_json::from_str(json)?;
                break info["version"].as_str().unwrap_or("unknown").to_owned();
            }
            if !line.fill(ANSWER)? {
                return Err("nats does not answer".into());
            }
        };
        line.output().extend_from_slice(
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n",
        );
        line.flush()?;
        let number = u64::from(std::process::id()) << 32 | super::next_number();
        Ok(Self {
            line,
            version,
            inboxes: 0,
            number,
        })
    }

    fn subscribe(&mut self) -> Result<String, Failure> {
        self.inboxes += 1;
        let inbox = format!("_INBOX.{}.{}", self.number, self.inboxes);
        let subscription = format!("SUB {inbox} {}\r\n", self.inboxes);
        self.line
            .output()
            .extend_from_slice(subscription.as_bytes());
        self.line.flush()?;
        Ok(inbox)
    }

    fn ask(&mut self, subject: &str, body: &str) -> Result<String, Failure> {
        let inbox = self.subscribe()?;
        let question = format!("PUB {subject} {inbox} {}\r\n{body}\r\n", body.len());
        self.line.output().extend_from_slice(question.as_bytes());
        self.line.flush()?;
        loop {
            match next(self.line.input())? {
                Some(Sent::Message(message)) => {
                    let text =
                        String::from_utf8_lossy(&self.line.input()[message.body]).into_owned();
                    self.line.take(message.length);
                    if text.contains("\"error\":") {
                        return Err(format!("nats: {text}").into());
                    }
                    return Ok(text);
                }
                Some(other) => self.pass(other)?,
                None if self.line.fill(ANSWER)? => {}
                None => return Err("nats does not answer".into()),
            }
        }
    }

    /// Answers pings, passes over what is of no matter.
    fn pass(&mut self, sent: Sent) -> Result<(), Failure> {
        match sent {
            Sent::Ping(length) => {
                self.line.take(length);
                self.line.output().extend_from_slice(b"PONG\r\n");
                self.line.flush()?;
            }
            Sent::Pong(length) | Sent::Other(length) => self.line.take(length),
            Sent::Message(message) => self.line.take(message.length),
            Sent::Error(error) => return Err(format!("nats: {error}").into()),
        }
        Ok(())
    }
}

/// What stands at the start of `input`, if all of it is there.
fn next(input: &[u8]) -> Result<Option<Sent>, Failure> {
    let Some(end) = line::line_bytes(input) else {
        return Ok(None);
    };
    let head = input.get(..end).unwrap_or_default();
    let headers = head.starts_with(b"HMSG ");
    if headers || head.starts_with(b"MSG ") {
        let message = message(input, head, headers).ok_or("nats sent a head that is none")?;
        return Ok((input.len() >= message.length).then_some(Sent::Message(message)));
    }
    Ok(Some(if head.starts_with(b"PING") {
        Sent::Ping(end + 2)
    } else if head.starts_with(b"PONG") {
        Sent::Pong(end + 2)
    } else if head.starts_with(b"-ERR") {
        Sent::Error(String::from_utf8_lossy(head).into_owned())
    } else {
        Sent::Other(end + 2)
    }))
}

/// The parts of a message whose head line is `head`: `MSG subject sid [reply] bytes`, and with headers
/// `HMSG subject sid [reply] header-bytes bytes`.
fn message(input: &[u8], head: &[u8], headers: bool) -> Option<Message> {
    // Where each word ends.
    let mut ends = [0; 6];
    let mut words = 0;
    let spaces = head.iter().enumerate().filter(|(_, byte)| **byte == b' ');
    for end in spaces.map(|(at, _)| at).chain([head.len()]) {
        *ends.get_mut(words)? = end;
        words += 1;
    }
    let word = |number: usize| -> Option<Range<usize>> {
        Some(ends.get(number.checked_sub(1)?)? + 1..*ends.get(number)?)
    };
    let number = |word: Range<usize>| line::number(head.get(word)?);
    let total = number(word(words.checked_sub(1)?)?)?;
    let header_bytes = if headers {
        number(word(words.checked_sub(2)?)?)?
    } else {
        0
    };
    let has_reply = words == if headers { 6 } else { 5 };
    let start = head.len() + 2;
    // A status stands in the first line of the headers: `NATS/1.0 404 No Messages`.
    let first = input.get(start..start + header_bytes).unwrap_or_default();
    let has_status = first.starts_with(b"NATS/1.0 ");
    Some(Message {
        reply: if has_reply { word(3)? } else { 0..0 },
        status: if has_status {
            start + 9..start + header_bytes
        } else {
            0..0
        },
        body: start + header_bytes..start + total,
        length: start + total + 2,
    })
}

struct Publishing {
    connection: Connection,
    head: Vec<u8>,
}

impl Publish for Publishing {
    fn send(&mut self, messages: &[u8], message_bytes: usize) -> Result<(), Failure> {
        let line = &mut self.connection.line;
        let length = format!("{message_bytes}\r\n");
        for body in messages.chunks(message_bytes) {
            let out = line.output();
            out.extend_from_slice(&self.head);
            out.extend_from_slice(length.as_bytes());
            out.extend_from_slice(body);
            out.extend_from_slice(b"\r\n");
            line.flush_if_full()?;
        }
        Ok(line.flush()?)
    }

    fn acknowledged(&mut self, wait: Duration) -> Result<u64, Failure> {
        let mut acknowledged = 0;
        loop {
            while let Some(sent) = next(self.connection.line.input())? {
                if let Sent::Message(message) = &sent {
                    let answer = self.connection.line.input().get(message.body.clone());
                    let answer = answer.unwrap_or_default();
                    if !answer.starts_with(b"{\"stream\"") {
                        return Err(format!("nats: {}", String::from_utf8_lossy(answer)).into());
                    }
                    acknowledged += 1;
                }
                self.connection.pass(sent)?;
            }
            if acknowledged > 0 || !self.connection.line.fill(wait)? {
                return Ok(acknowledged);
            }
        }
    }
}

struct Receiving {
    connection: Connection,
    /// Where a worker asks for more, and where it comes to.
    pull: Option<(String, String)>,
    /// Messages asked for and not come yet.
    asked: u64,
}

impl Receive for Receiving {
    fn receive(&mut self, wait: Duration, take: &mut dyn FnMut(&[u8])) -> Result<u64, Failure> {
        if let Some((next, inbox)) = &self.pull
            && self.asked <= COUNT / 2
        {
            let body = format!(r#"{{"batch":{COUNT},"expires":{EXPIRES_NS}}}"#);
            let question = format!("PUB {next} {inbox} {}\r\n{body}\r\n", body.len());
            let out = self.connection.line.output();
            out.extend_from_slice(question.as_bytes());
            self.asked += COUNT;
        }
        self.connection.line.flush()?;
        loop {
            let mut received = 0;
            while let Some(sent) = next(self.connection.line.input())? {
                match &sent {
                    Sent::Message(message) if message.status.is_empty() => {
                        self.take(message, take);
                        received += 1;
                    }
                    Sent::Message(message) => self.heed(message)?,
                    _ => {}
                }
                self.connection.pass(sent)?;
            }
            self.connection.line.flush()?;
            if received > 0 || !self.connection.line.fill(wait)? {
                return Ok(received);
            }
        }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        // What was sent before a ping was taken in when its answer comes.
        self.connection.line.output().extend_from_slice(b"PING\r\n");
        self.connection.line.flush()?;
        loop {
            while let Some(sent) = next(self.connection.line.input())? {
                let answered = matches!(sent, Sent::Pong(_));
                self.connection.pass(sent)?;
                if answered {
                    return Ok(());
                }
            }
            if !self.connection.line.fill(ANSWER)? {
                return Err("nats does not answer".into());
            }
        }
    }
}

impl Receiving {
    fn take(&mut self, message: &Message, take: &mut dyn FnMut(&[u8])) {
        let (input, out) = self.connection.line.both();
        let part = |range: &Range<usize>| input.get(range.clone()).unwrap_or_default();
        take(part(&message.body));
        if self.pull.is_some() {
            self.asked = self.asked.saturating_sub(1);
            out.extend_from_slice(b"PUB ");
            out.extend_from_slice(part(&message.reply));
            out.extend_from_slice(b" 4\r\n+ACK\r\n");
        }
    }

    /// A message of the server's own: it asks for a sign of life, or the question has ended.
    fn heed(&mut self, message: &Message) -> Result<(), Failure> {
        let (input, out) = self.connection.line.both();
        let part = |range: &Range<usize>| input.get(range.clone()).unwrap_or_default();
        let status = String::from_utf8_lossy(part(&message.status));
        if status.starts_with("100") {
            // Flow control is answered where it says so; a heartbeat tells of an answer that got lost.
            let stalled = header(&status, "Nats-Consumer-Stalled:").map(str::as_bytes);
            let reply = stalled.unwrap_or_else(|| part(&message.reply));
            if !reply.is_empty() {
                out.extend_from_slice(b"PUB ");
                out.extend_from_slice(reply);
                out.extend_from_slice(b" 0\r\n\r\n");
            }
            return Ok(());
        }
        if !["404", "408"].iter().any(|over| status.starts_with(over)) {
            return Err(format!("nats: {}", status.trim_end()).into());
        }
        let left = header(&status, "Nats-Pending-Messages:").and_then(|left| left.parse().ok());
        self.asked = self.asked.saturating_sub(left.unwrap_or(COUNT));
        Ok(())
    }
}

/// The value of header `name` among `headers`.
fn header<'a>(headers: &'a str, name: &str) -> Option<&'a str> {
    headers
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_message_are_found() {
        let text = b"MSG a.b 1 $JS.ACK.x 5\r\nhello\r\n";
        for cut in 0..text.len() {
            assert!(next(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let Some(Sent::Message(found)) = next(text).unwrap() else {
            panic!("a message was sent");
        };
        assert_eq!(&text[found.reply], b"$JS.ACK.x");
        assert_eq!(&text[found.body], b"hello");
        assert_eq!(found.length, text.len());
        let text =
            b"HMSG i 1 50 50\r\nNATS/1.0 408 Timeout\r\nNats-Pending-Messages: 7\r\n\r\n\r\n";
        let Some(Sent::Message(found)) = next(text).unwrap() else {
            panic!("a message was sent");
        };
        let status = std::str::from_utf8(&text[found.status]).unwrap();
        assert!(status.starts_with("408"));
        assert_eq!(header(status, "Nats-Pending-Messages:"), Some("7"));
        assert!(found.reply.is_empty() && found.body.is_empty());
    }
}
