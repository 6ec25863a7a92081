//! Redis streams: `XADD`, `XREAD` and consumer groups, each message an entry with one field.

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::line::{self, Line};
use super::process::program;
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
    /// Starts `redis-server`, or the program that is `named`, on a free port, in a folder of its own
    /// below `parent`.
    ///
    /// # Errors
    ///
    /// It is not there, or did not start.
    pub fn start(
        named: Option<&Path>,
        parent: &Path,
        persistence: Persistence,
    ) -> Result<Self, Failure> {
        let port = super::free_port()?;
        let process = Process::start(
            parent,
            |folder| {
                let mut command = Command::new(program(named, &["redis-server"]));
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

    fn took(&self) -> Option<Duration> {
        Some(self.process.took())
    }

    fn folder(&self) -> Option<&Path> {
        Some(self.process.folder())
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
        let mut head = Vec::new();
        put_words(&mut head, &[b"XADD", topic.as_bytes(), b"*", b"b"], 1);
        Ok(Box::new(Publishing {
            line: Line::connect(&self.address)?,
            head,
        }))
    }

    fn receiver(&self, topic: &str, kind: Kind) -> Result<Box<dyn Receive>, Failure> {
        let mut ack = Vec::new();
        put_words(&mut ack, &[b"XACK", topic.as_bytes(), GROUP.as_bytes()], 1);
        Ok(Box::new(Receiving {
            line: Line::connect(&self.address)?,
            topic: topic.as_bytes().to_vec(),
            kind,
            last: b"0-0".to_vec(),
            name: format!("worker-{}", super::next_number()).into_bytes(),
            ack,
            awaited: Awaited::Nothing,
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
    Array,
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

/// Puts a command of `words` and `more` words that are still to come.
fn put_words(out: &mut Vec<u8>, words: &[&[u8]], more: usize) {
    out.extend_from_slice(format!("*{}\r\n", words.len() + more).as_bytes());
    for word in words {
        put_word(out, word);
    }
}

fn put_word(out: &mut Vec<u8>, word: &[u8]) {
    out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

fn command(line: &mut Line, words: &[&[u8]]) {
    put_words(line.output(), words, 0);
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
    let Some(end) = line::line_bytes(input) else {
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
    for _ in 0..count {
        let Some((_, bytes)) = parse(&input[at..])? else {
            return Ok(None);
        };
        at += bytes;
    }
    Ok(Some((Answer::Array, at)))
}

struct Publishing {
    line: Line,
    /// A command up to the word that is the message.
    head: Vec<u8>,
}

impl Publish for Publishing {
    fn send(&mut self, messages: &[u8], message_bytes: usize) -> Result<(), Failure> {
        let mut head = self.head.clone();
        head.extend_from_slice(format!("${message_bytes}\r\n").as_bytes());
        for body in messages.chunks(message_bytes) {
            let out = self.line.output();
            out.extend_from_slice(&head);
            out.extend_from_slice(body);
            out.extend_from_slice(b"\r\n");
            self.line.flush_if_full()?;
        }
        Ok(self.line.flush()?)
    }

    fn acknowledged(&mut self, wait: Duration) -> Result<u64, Failure> {
        let mut acknowledged = 0;
        loop {
            let input = self.line.input();
            let mut at = 0;
            // An acknowledgement is the id of the entry: `$15\r\n1526919030474-0\r\n`.
            while let Some((_, length)) = bytes(input.get(at..).unwrap_or_default())? {
                at += length;
                acknowledged += 1;
            }
            self.line.take(at);
            if acknowledged > 0 || !self.line.fill(wait)? {
                return Ok(acknowledged);
            }
        }
    }
}

/// Where the bulk string at the start of `input` lies and all of its length, if all of it is there.
fn bytes(input: &[u8]) -> Result<Option<(Range<usize>, usize)>, Failure> {
    let Some(end) = line::line_bytes(input) else {
        return Ok(None);
    };
    let head = input.get(..end).unwrap_or_default();
    let length = head.strip_prefix(b"$").and_then(line::number);
    let length = length.ok_or_else(|| format!("redis: {}", String::from_utf8_lossy(head)))?;
    let start = end + 2;
    let whole = start + length + 2;
    Ok((input.len() >= whole).then_some((start..start + length, whole)))
}

/// An entry of a stream: `*2 $15 id *2 $1 b $100 body`.
struct Entry {
    id: Range<usize>,
    body: Range<usize>,
    length: usize,
}

/// The entry at the start of `input`, if all of it is there.
fn entry(input: &[u8]) -> Result<Option<Entry>, Failure> {
    let rest = |at: usize| input.get(at..).unwrap_or_default();
    let Some(head) = array_head(input, 2)? else {
        return Ok(None);
    };
    let Some((id, id_length)) = bytes(rest(head))? else {
        return Ok(None);
    };
    let id = id.start + head..id.end + head;
    let mut at = head + id_length;
    let Some(head) = array_head(rest(at), 2)? else {
        return Ok(None);
    };
    at += head;
    let Some((_, name_length)) = bytes(rest(at))? else {
        return Ok(None);
    };
    at += name_length;
    let Some((body, body_length)) = bytes(rest(at))? else {
        return Ok(None);
    };
    Ok(Some(Entry {
        id,
        body: body.start + at..body.end + at,
        length: at + body_length,
    }))
}

/// Length of the head of an array with `count` elements at the start of `input`.
fn array_head(input: &[u8], count: usize) -> Result<Option<usize>, Failure> {
    let Some(end) = line::line_bytes(input) else {
        return Ok(None);
    };
    let head = input.get(..end).unwrap_or_default();
    if head.strip_prefix(b"*").and_then(line::number) == Some(count) {
        return Ok(Some(end + 2));
    }
    Err(format!("redis: {}", String::from_utf8_lossy(head)).into())
}

/// What a reader or worker waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// Nothing: it is to ask.
    Nothing,
    /// The head of an answer: how many entries there are.
    Head,
    /// So many entries of it.
    Entries(usize),
}

struct Receiving {
    line: Line,
    topic: Vec<u8>,
    kind: Kind,
    last: Vec<u8>,
    name: Vec<u8>,
    /// The start of an acknowledgement of one entry.
    ack: Vec<u8>,
    awaited: Awaited,
    /// Acknowledgements sent, whose answers come before that of the next question.
    unanswered: u64,
}

impl Receiving {
    fn ask(&mut self, wait: Duration) {
        let (count, block) = (COUNT.to_string(), wait.as_millis().max(1).to_string());
        let (count, block) = (count.as_bytes(), block.as_bytes());
        let mut words: Vec<&[u8]> = match self.kind {
            Kind::Stream => vec![b"XREAD"],
            Kind::Queue => vec![b"XREADGROUP", b"GROUP", GROUP.as_bytes(), &self.name],
        };
        let last: &[u8] = match self.kind {
            Kind::Stream => &self.last,
            Kind::Queue => b">",
        };
        words.extend([b"COUNT", count, b"BLOCK", block]);
        words.extend([b"STREAMS", self.topic.as_slice(), last]);
        put_words(self.line.output(), &words, 0);
        self.awaited = Awaited::Head;
    }

    /// Takes what is there of the head of an answer, `*1 *2 $n topic *n`; false if it is not all.
    fn head(&mut self) -> Result<bool, Failure> {
        while self.unanswered > 0 {
            match parse(self.line.input())? {
                Some((answer, length)) => {
                    answer.done()?;
                    self.line.take(length);
                    self.unanswered -= 1;
                }
                None => return Ok(false),
            }
        }
        let input = self.line.input();
        let Some(end) = line::line_bytes(input) else {
            return Ok(false);
        };
        if input.starts_with(b"*-1") {
            self.line.take(end + 2);
            self.awaited = Awaited::Nothing;
            return Ok(true);
        }
        let rest = |at: usize| input.get(at..).unwrap_or_default();
        let mut at = 0;
        for count in [1, 2] {
            match array_head(rest(at), count)? {
                Some(length) => at += length,
                None => return Ok(false),
            }
        }
        match bytes(rest(at))? {
            Some((_, length)) => at += length,
            None => return Ok(false),
        }
        let Some(end) = line::line_bytes(rest(at)) else {
            return Ok(false);
        };
        let count = rest(at).get(1..end).and_then(line::number);
        self.awaited = Awaited::Entries(count.ok_or("redis sent no number of entries")?);
        self.line.take(at + end + 2);
        Ok(true)
    }

    /// Takes the entries that are there; gives how many.
    fn entries(&mut self, left: usize, take: &mut dyn FnMut(&[u8])) -> Result<usize, Failure> {
        let (input, out) = self.line.both();
        let mut at = 0;
        let mut received = 0;
        let mut last = 0..0;
        while received < left
            && let Some(entry) = entry(input.get(at..).unwrap_or_default())?
        {
            let part = |range: Range<usize>| input.get(range.start + at..range.end + at);
            take(part(entry.body).unwrap_or_default());
            last = entry.id.start + at..entry.id.end + at;
            if self.kind == Kind::Queue {
                out.extend_from_slice(&self.ack);
                put_word(out, input.get(last.clone()).unwrap_or_default());
                self.unanswered += 1;
            }
            at += entry.length;
            received += 1;
        }
        if let Some(id) = input.get(last).filter(|id| !id.is_empty()) {
            id.clone_into(&mut self.last);
        }
        self.line.take(at);
        self.awaited = match left - received {
            0 => Awaited::Nothing,
            left => Awaited::Entries(left),
        };
        Ok(received)
    }
}

impl Receive for Receiving {
    fn receive(&mut self, wait: Duration, take: &mut dyn FnMut(&[u8])) -> Result<u64, Failure> {
        if self.awaited == Awaited::Nothing {
            self.ask(wait);
        }
        // Acknowledgements go out ahead of the next question.
        self.line.flush()?;
        loop {
            if self.awaited == Awaited::Head && self.head()? && self.awaited == Awaited::Nothing {
                return Ok(0);
            }
            if let Awaited::Entries(left) = self.awaited {
                let received = self.entries(left, take)?;
                if received > 0 {
                    return Ok(received as u64);
                }
            }
            // The server answers when it has waited as long.
            if !self.line.fill(ANSWER)? {
                return Err("redis does not answer".into());
            }
        }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        self.line.flush()?;
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
    fn an_entry_is_taken_when_all_of_it_is_there() {
        let whole = b"*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nb\r\n$4\r\nbody\r\n";
        for cut in 0..whole.len() {
            assert!(entry(&whole[..cut]).unwrap().is_none(), "{cut}");
        }
        let found = entry(whole).unwrap().unwrap();
        assert_eq!(
            (&whole[found.id], &whole[found.body]),
            (&b"1-0"[..], &b"body"[..])
        );
        assert_eq!(found.length, whole.len());
        assert!(entry(b"-NOGROUP no\r\n").is_err());
    }

    #[test]
    fn answers_are_taken_when_all_of_them_is_there() {
        let whole = b"*2\r\n$3\r\nabc\r\n*1\r\n:-7\r\n+OK\r\n";
        for cut in 0..whole.len() - 5 {
            assert!(parse(&whole[..cut]).unwrap().is_none(), "{cut}");
        }
        let (answer, bytes) = parse(whole).unwrap().unwrap();
        assert_eq!(bytes, whole.len() - 5);
        assert!(matches!(answer, Answer::Array));
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
