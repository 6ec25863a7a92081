//! NATS JetStream: publishes with acknowledgement inboxes, ordered readers, pull consumers as queues.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::line::Line;
use super::{Broker, Failure, Kind, Process, Publish, Receive};
use crate::load::Target;

/// Messages asked for at once by a worker.
const COUNT: u64 = 1000;
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
    /// Starts `nats-server` with JetStream on files, on a free port, in a folder of its own below
    /// `parent`; with `synced` it syncs before each acknowledgement.
    ///
    /// # Errors
    ///
    /// It is not there, or did not start.
    pub fn start(parent: &Path, synced: bool) -> Result<Self, Failure> {
        let port = super::free_port()?;
        let process = Process::start(
            parent,
            |folder| {
                let sync = if synced { "always" } else { "2m" };
                let store = folder.display();
                let config =
                    format!("jetstream {{ store_dir: \"{store}\", sync_interval: \"{sync}\" }}\n");
                let file = folder.join("nats.conf");
                // If it can't be written the server says so.
                let _ = std::fs::write(&file, config);
                let mut command = Command::new("sh");
                // It logs to standard error.
                command.args([
                    "-c",
                    "exec nats-server -a 127.0.0.1 -p \"$0\" -c \"$1\" 2>&1",
                ]);
                command.arg(port.to_string()).arg(file);
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

    fn create(&self, topic: &str, kind: Kind) -> Result<(), Failure> {
        let stream = format!(
            r#"{{"name":"{topic}","subjects":["{topic}"],"storage":"file","num_replicas":1}}"#
        );
        self.ask(&format!("$JS.API.STREAM.CREATE.{topic}"), &stream)?;
        if kind == Kind::Queue {
            let consumer = format!(
                r#"{{"stream_name":"{topic}","config":{{"durable_name":"{WORKERS}","ack_policy":"explicit","deliver_policy":"all","max_ack_pending":65536}}}}"#
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
            let consumer = format!(
                r#"{{"stream_name":"{topic}","config":{{"deliver_subject":"{inbox}","ack_policy":"none","deliver_policy":"all","max_deliver":1,"mem_storage":true}}}}"#
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
    reply: std::ops::Range<usize>,
    /// Status of a message without a body, such as 404; empty for any other.
    status: std::ops::Range<usize>,
    body: std::ops::Range<usize>,
    length: usize,
}

/// What the server sent.
enum Sent {
    Message(Message),
    /// To be answered.
    Ping(usize),
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
            match self.next()? {
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
            Sent::Other(length) => self.line.take(length),
            Sent::Message(message) => self.line.take(message.length),
            Sent::Error(error) => return Err(format!("nats: {error}").into()),
        }
        Ok(())
    }

    /// What came next, if all of it is there. It is still to be taken.
    fn next(&self) -> Result<Option<Sent>, Failure> {
        let input = self.line.input();
        let Some(end) = self.line.line_bytes() else {
            return Ok(None);
        };
        let head = &input[..end];
        if head.starts_with(b"PING") {
            return Ok(Some(Sent::Ping(end + 2)));
        }
        if head.starts_with(b"-ERR") {
            return Ok(Some(Sent::Error(
                String::from_utf8_lossy(head).into_owned(),
            )));
        }
        let headers = head.starts_with(b"HMSG ");
        if !headers && !head.starts_with(b"MSG ") {
            return Ok(Some(Sent::Other(end + 2)));
        }
        let message = message(input, head, end + 2, headers)?;
        Ok(Some(Sent::Message(message))
            .filter(|sent| matches!(sent, Sent::Message(message) if input.len() >= message.length)))
    }
}

/// The parts of a message whose head line is `head`: `MSG subject sid [reply] bytes`, and with headers
/// `HMSG subject sid [reply] header-bytes bytes`.
fn message(input: &[u8], head: &[u8], start: usize, headers: bool) -> Result<Message, Failure> {
    let words: Vec<&[u8]> = head.split(|byte| *byte == b' ').collect();
    let number = |word: Option<&&[u8]>| -> Result<usize, Failure> {
        Ok(std::str::from_utf8(word.copied().unwrap_or_default())?.parse()?)
    };
    let total = number(words.last())?;
    let header_bytes = if headers {
        number(words.iter().rev().nth(1))?
    } else {
        0
    };
    let has_reply = words.len() == if headers { 6 } else { 5 };
    let reply = match words.get(3).filter(|_| has_reply) {
        Some(reply) => {
            let at = words[..3].iter().map(|word| word.len() + 1).sum::<usize>();
            at..at + reply.len()
        }
        None => 0..0,
    };
    // A status stands in the first line of the headers: `NATS/1.0 404 No Messages`.
    let first = input.get(start..start + header_bytes).unwrap_or_default();
    let has_status = first.starts_with(b"NATS/1.0 ") && first.len() > 12;
    Ok(Message {
        reply,
        status: if has_status {
            start + 9..start + 12
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
            while let Some(sent) = self.connection.next()? {
                if let Sent::Message(message) = &sent {
                    let answer = &self.connection.line.input()[message.body.clone()];
                    if !answer.starts_with(b"{\"stream\"") {
                        return Err(format!("nats: {}", String::from_utf8_lossy(answer)).into());
                    }
                    acknowledged += 1;
                }
                self.connection.pass(sent)?;
            }
            let wait = if acknowledged > 0 {
                Duration::ZERO
            } else {
                wait
            };
            if !self.connection.line.fill(wait)? {
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
        if let (Some((next, inbox)), 0) = (&self.pull, self.asked) {
            let body = format!(r#"{{"batch":{COUNT},"expires":{}}}"#, wait.as_nanos());
            let question = format!("PUB {next} {inbox} {}\r\n{body}\r\n", body.len());
            self.connection
                .line
                .output()
                .extend_from_slice(question.as_bytes());
            self.asked = COUNT;
        }
        self.connection.line.flush()?;
        let mut received = 0;
        loop {
            while let Some(sent) = self.connection.next()? {
                if let Sent::Message(message) = &sent {
                    received += self.take(message, take);
                }
                self.connection.pass(sent)?;
            }
            self.connection.line.flush()?;
            if received > 0 || !self.connection.line.fill(wait)? {
                if received == 0 {
                    // What was asked for has expired by now.
                    self.asked = 0;
                }
                return Ok(received);
            }
        }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        // What was sent before a ping was taken in when its answer comes.
        self.connection.line.output().extend_from_slice(b"PING\r\n");
        self.connection.line.flush()?;
        loop {
            while let Some(sent) = self.connection.next()? {
                let answered = self.connection.line.input().starts_with(b"PONG");
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
    fn take(&mut self, message: &Message, take: &mut dyn FnMut(&[u8])) -> u64 {
        if !message.status.is_empty() {
            // The pull is over: nothing more comes of it.
            self.asked = 0;
            return 0;
        }
        self.asked = self.asked.saturating_sub(1);
        let line = &mut self.connection.line;
        take(&line.input()[message.body.clone()]);
        if self.pull.is_some() {
            let reply = line.input()[message.reply.clone()].to_vec();
            let out = line.output();
            out.extend_from_slice(b"PUB ");
            out.extend_from_slice(&reply);
            out.extend_from_slice(b" 4\r\n+ACK\r\n");
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_message_are_found() {
        let text = b"MSG a.b 1 $JS.ACK.x 5\r\nhello\r\n";
        let end = 21;
        let found = message(text, &text[..end], end + 2, false).unwrap();
        assert_eq!(&text[found.reply], b"$JS.ACK.x");
        assert_eq!(&text[found.body], b"hello");
        assert_eq!(found.length, text.len());
        let text = b"HMSG i 1 26 26\r\nNATS/1.0 404 No Messages\r\n\r\n";
        let found = message(text, &text[..14], 16, true).unwrap();
        assert_eq!(&text[found.status], b"404");
        assert!(found.reply.is_empty());
    }
}
