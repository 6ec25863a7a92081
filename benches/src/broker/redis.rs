//! Redis streams: `XADD`, `XREAD` and consumer groups, each message an entry with one field.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::line::Line;
use super::{Broker, Failure, Kind, Process, Publish, Receive};
use crate::load::Target;

/// Entries asked for at once.
const COUNT: usize = 1000;
/// Group of the workers of a stream.
const GROUP: &str = "workers";
/// Longest answer that is waited for when something is set up.
const ANSWER: Duration = Duration::from_secs(30);

/// How a server keeps what it acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// In memory alone.
    Memory,
    /// In a file that is synced each second.
    EverySecond,
    /// In a file that is synced before each acknowledgement.
    Always,
}

/// A server started here.
#[derive(Debug)]
pub struct Redis {
    address: String,
    version: String,
    persistence: Persistence,
    process: Process,
}

impl Redis {
    /// Starts `redis-server` on a free port, in a folder of its own below `parent`.
    ///
    /// # Errors
    ///
    /// It is not there, or did not start.
    pub fn start(parent: &Path, persistence: Persistence) -> Result<Self, Failure> {
        let port = super::free_port()?;
        let process = Process::start(
            parent,
            |folder| {
                let mut command = Command::new("redis-server");
                command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
                command
                    .args(["--save", "", "--daemonize", "no"])
                    .arg("--dir")
                    .arg(folder);
                match persistence {
                    Persistence::Memory => command.args(["--appendonly", "no"]),
                    Persistence::EverySecond => {
                        command.args(["--appendonly", "yes", "--appendfsync", "everysec"])
                    }
                    Persistence::Always => {
                        command.args(["--appendonly", "yes", "--appendfsync", "always"])
                    }
                };
                command
            },
            |line| line.contains("Ready to accept connections"),
        )?;
        let address = format!("127.0.0.1:{port}");
        let mut line = Line::connect(&address)?;
        command(&mut line, &[b"INFO", b"server"]);
        let info = match answer(&mut line)? {
            Answer::Bytes(info) => String::from_utf8_lossy(&info).into_owned(),
            other => return Err(format!("redis: {other:?}").into()),
        };
        let version = info
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"));
        Ok(Self {
            address,
            version: version.unwrap_or("unknown").to_owned(),
            persistence,
            process,
        })
    }

    fn ask(&self, words: &[&[u8]]) -> Result<Answer, Failure> {
        let mut line = Line::connect(&self.address)?;
        command(&mut line, words);
        answer(&mut line)
    }
}

impl Broker for Redis {
    fn target(&self) -> Target {
        let (durability, setup) = match self.persistence {
            Persistence::Memory => ("memory", "appendonly no"),
            Persistence::EverySecond => (
                "synced every second",
                "appendonly yes, appendfsync everysec",
            ),
            Persistence::Always => ("synced", "appendonly yes, appendfsync always"),
        };
        Target {
            name: "redis".to_owned(),
            version: self.version.clone(),
            durability: durability.to_owned(),
            setup: setup.to_owned(),
        }
    }

    fn pid(&self) -> Option<u32> {
        Some(self.process.pid())
    }

    fn create(&self, topic: &str, _: Kind) -> Result<(), Failure> {
        // The stream comes with its group.
        let words: [&[u8]; 6] = [
            b"XGROUP",
            b"CREATE",
            topic.as_bytes(),
            GROUP.as_bytes(),
            b"0",
            b"MKSTREAM",
        ];
        self.ask(&words)?.done()
    }

    fn remove(&self, topic: &str) -> Result<(), Failure> {
        self.ask(&[b"UNLINK", topic.as_bytes()])?.done()
    }

    fn publisher(&self, topic: &str, _: usize) -> Result<Box<dyn Publish>, Failure> {
        Ok(Box::new(Publishing {
            line: Line::connect(&self.address)?,
            topic: topic.as_bytes().to_vec(),
        }))
    }

    fn receiver(&self, topic: &str, kind: Kind) -> Result<Box<dyn Receive>, Failure> {
        Ok(Box::new(Receiving {
            line: Line::connect(&self.address)?,
            topic: topic.as_bytes().to_vec(),
            kind,
            last: b"0-0".to_vec(),
            name: format!("worker-{:?}", std::thread::current().id()).into_bytes(),
            unanswered: 0,
        }))
    }
}

/// An answer of the protocol, as far as it is looked at.
#[derive(Debug)]
enum Answer {
    Bytes(Vec<u8>),
    Text,
    Number,
    Array(Vec<Answer>),
    Nothing,
    Error(String),
}

impl Answer {
    fn done(self) -> Result<(), Failure> {
        match self {
            Self::Error(error) => Err(format!("redis: {error}").into()),
            _ => Ok(()),
        }
    }
}

fn command(line: &mut Line, words: &[&[u8]]) {
    let out = line.output();
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Sends what was gathered and waits for one answer.
fn answer(line: &mut Line) -> Result<Answer, Failure> {
    line.flush()?;
    loop {
        if let Some((answer, bytes)) = parse(line.input())? {
            line.take(bytes);
            return Ok(answer);
        }
        if !line.fill(ANSWER)? {
            return Err("redis does not answer".into());
        }
    }
}

/// The first answer in `input` and its length, if all of it is there.
fn parse(input: &[u8]) -> Result<Option<(Answer, usize)>, Failure> {
    let Some(end) = input.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let Some((kind, rest)) = input[..end].split_first() else {
        return Err("redis sent an empty line".into());
    };
    let after = end + 2;
    let number = || -> Result<i64, Failure> { Ok(std::str::from_utf8(rest)?.parse()?) };
    Ok(match kind {
        b'+' => Some((Answer::Text, after)),
        b'-' => Some((
            Answer::Error(String::from_utf8_lossy(rest).into_owned()),
            after,
        )),
        b':' => {
            number()?;
            Some((Answer::Number, after))
        }
        b'$' => match usize::try_from(number()?) {
            Err(_) => Some((Answer::Nothing, after)),
            Ok(length) => input
                .get(after..after + length)
                .filter(|_| input.len() >= after + length + 2)
                .map(|bytes| (Answer::Bytes(bytes.to_vec()), after + length + 2)),
        },
        b'*' => match usize::try_from(number()?) {
            Err(_) => Some((Answer::Nothing, after)),
            Ok(count) => parse_all(input, after, count)?,
        },
        other => return Err(format!("redis sent {:?}", char::from(*other)).into()),
    })
}

fn parse_all(input: &[u8], start: usize, count: usize) -> Result<Option<(Answer, usize)>, Failure> {
    let mut at = start;
    let mut answers = Vec::new();
    for _ in 0..count {
        let Some((answer, bytes)) = parse(&input[at..])? else {
            return Ok(None);
        };
        answers.push(answer);
        at += bytes;
    }
    Ok(Some((Answer::Array(answers), at)))
}

struct Publishing {
    line: Line,
    topic: Vec<u8>,
}

impl Publish for Publishing {
    fn send(&mut self, messages: &[u8], message_bytes: usize) -> Result<(), Failure> {
        for body in messages.chunks(message_bytes) {
            command(&mut self.line, &[b"XADD", &self.topic, b"*", b"b", body]);
            self.line.flush_if_full()?;
        }
        Ok(self.line.flush()?)
    }

    fn acknowledged(&mut self, wait: Duration) -> Result<u64, Failure> {
        let mut acknowledged = 0;
        loop {
            // An acknowledgement is the id of the entry: `$15\r\n1526919030474-0\r\n`.
            while let Some(end) = self.line.line_bytes() {
                let input = self.line.input();
                match input.first() {
                    Some(b'$') => {
                        let length: usize = std::str::from_utf8(&input[1..end])?.parse()?;
                        let whole = end + 2 + length + 2;
                        if input.len() < whole {
                            break;
                        }
                        self.line.take(whole);
                        acknowledged += 1;
                    }
                    _ => {
                        return Err(
                            format!("redis: {}", String::from_utf8_lossy(&input[..end])).into()
                        );
                    }
                }
            }
            let wait = if acknowledged > 0 {
                Duration::ZERO
            } else {
                wait
            };
            if !self.line.fill(wait)? {
                return Ok(acknowledged);
            }
        }
    }
}

struct Receiving {
    line: Line,
    topic: Vec<u8>,
    kind: Kind,
    last: Vec<u8>,
    name: Vec<u8>,
    /// Acknowledgements sent and not answered.
    unanswered: u64,
}

impl Receiving {
    /// Asks for what is new, for `wait` at most.
    fn ask(&mut self, wait: Duration) {
        let (count, block) = (COUNT.to_string(), wait.as_millis().max(1).to_string());
        let (count, block) = (count.as_bytes(), block.as_bytes());
        match self.kind {
            Kind::Stream => command(
                &mut self.line,
                &[
                    b"XREAD",
                    b"COUNT",
                    count,
                    b"BLOCK",
                    block,
                    b"STREAMS",
                    &self.topic,
                    &self.last,
                ],
            ),
            Kind::Queue => command(
                &mut self.line,
                &[
                    b"XREADGROUP",
                    b"GROUP",
                    GROUP.as_bytes(),
                    &self.name,
                    b"COUNT",
                    count,
                    b"BLOCK",
                    block,
                    b"STREAMS",
                    &self.topic,
                    b">",
                ],
            ),
        }
    }
}

impl Receive for Receiving {
    fn receive(&mut self, wait: Duration, take: &mut dyn FnMut(&[u8])) -> Result<u64, Failure> {
        self.ask(wait);
        self.finish()?;
        let Answer::Array(streams) = answer(&mut self.line)? else {
            return Ok(0);
        };
        let Some(Answer::Array(stream)) = streams.into_iter().next() else {
            return Ok(0);
        };
        let Some(Answer::Array(entries)) = stream.into_iter().nth(1) else {
            return Ok(0);
        };
        let mut received = 0;
        for entry in entries {
            let Answer::Array(entry) = entry else {
                continue;
            };
            let [Answer::Bytes(id), Answer::Array(fields)] = entry.as_slice() else {
                continue;
            };
            if let Some(Answer::Bytes(body)) = fields.get(1) {
                take(body);
                received += 1;
            }
            match self.kind {
                Kind::Stream => self.last.clone_from(id),
                Kind::Queue => {
                    command(
                        &mut self.line,
                        &[b"XACK", &self.topic, GROUP.as_bytes(), id],
                    );
                    self.unanswered += 1;
                }
            }
        }
        // Acknowledgements go out now, ahead of the next question.
        self.line.flush()?;
        Ok(received)
    }

    fn finish(&mut self) -> Result<(), Failure> {
        while self.unanswered > 0 {
            answer(&mut self.line)?.done()?;
            self.unanswered -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_when_all_of_them_is_there() {
        let whole = b"*2\r\n$3\r\nabc\r\n*1\r\n:-7\r\n+OK\r\n";
        for cut in 0..whole.len() - 5 {
            assert!(parse(&whole[..cut]).unwrap().is_none(), "{cut}");
        }
        let (answer, bytes) = parse(whole).unwrap().unwrap();
        assert_eq!(bytes, whole.len() - 5);
        assert!(matches!(answer, Answer::Array(parts) if parts.len() == 2));
        assert!(matches!(
            parse(b"$-1\r\n").unwrap(),
            Some((Answer::Nothing, 5))
        ));
        assert!(matches!(
            parse(b"-ERR no\r\n").unwrap(),
            Some((Answer::Error(_), 9))
        ));
    }
}
