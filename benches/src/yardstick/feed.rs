//! A server that has one topic's deliveries in memory, recorded from a real one, and sends them as fast
//! as they are taken: what a reader and the loopback come to by themselves.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use bytes::{Buf, BytesMut};
use millstream_client::Address;
use millstream_protocol::control::{
    Credit, Delivery, Hello, Magic, OpenReader, ReaderOpened, features,
};
use millstream_protocol::limits::WIRE_VERSION;
use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, next_message};
use millstream_protocol::{Start, TopicName};

use super::wire::{Splitter, answer, flush};
use crate::broker::Failure;

/// The stream it was recorded on: the first that a client opens.
const STREAM: StreamId = StreamId(1);
/// Bytes that may be under way while it is recorded.
const CREDIT_BYTES: u32 = 16 << 20;
/// Most bytes that are recorded.
const BYTES_MAX: usize = 4 << 30;
/// Bytes written at once: as many as the server writes.
const WRITE_BYTES: usize = 1 << 20;

/// It serves until the process ends, to one reader.
pub(super) struct Feed {
    port: u16,
}

/// Deliveries of a topic, one behind the other as they came.
struct Recording {
    opened: ReaderOpened,
    bytes: Vec<u8>,
    /// Where each delivery ends, and what it takes of the credit.
    deliveries: Vec<(usize, u32)>,
    /// Credit that was taken and not given back.
    owed: u32,
    whole: bool,
}

impl Feed {
    /// Records all of `topic` at `address`, and serves it.
    pub(super) fn record(address: &Address, topic: &str) -> Result<Self, Failure> {
        let recording = Recording::of(address, topic)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let recording = Arc::new(recording);
        thread::spawn(move || {
            if let Some(Ok(socket)) = listener.incoming().next() {
                // A connection that fails ends the load on it, which says so.
                let _ = recording.serve(socket);
            }
        });
        Ok(Self { port })
    }

    pub(super) fn address(&self) -> Result<Address, Failure> {
        Ok(format!("millstream://127.0.0.1:{}", self.port).parse()?)
    }
}

impl Recording {
    fn of(address: &Address, topic: &str) -> Result<Self, Failure> {
        let Address::Tcp { host, port } = address else {
            return Err("only what comes over TCP is recorded".into());
        };
        let mut socket = TcpStream::connect((host.as_str(), *port))?;
        let mut out = Vec::new();
        hello().encode(StreamId::CONNECTION, 0, &mut out);
        flush(&mut socket, &mut out)?;
        let mut recording = Self {
            opened: ReaderOpened {
                start_offset: millstream_protocol::Offset(0),
                end_offset: millstream_protocol::Offset(0),
                incarnation: [0; 16],
            },
            bytes: Vec::new(),
            deliveries: Vec::new(),
            owed: 0,
            whole: false,
        };
        let mut input = BytesMut::new();
        let mut welcomed = false;
        loop {
            while let Some((kind, consumed)) = recording.take(&input, welcomed)? {
                input.advance(consumed);
                match kind {
                    MessageKind::Welcome => {
                        welcomed = true;
                        open_reader(topic)?.encode(STREAM, 1, &mut out);
                    }
                    MessageKind::Error => return Err("the server refused the recording".into()),
                    _ => {}
                }
            }
            if recording.whole {
                return Ok(recording);
            }
            if recording.bytes.len() > BYTES_MAX {
                return Err(format!(
                    "the topic has more than {BYTES_MAX} bytes: tell fewer --messages"
                )
                .into());
            }
            recording.give_credit(&mut out);
            flush(&mut socket, &mut out)?;
            read_more(&mut socket, &mut input)?;
        }
    }

    /// Takes the next message in `input`; its kind and its bytes.
    fn take(
        &mut self,
        input: &[u8],
        welcomed: bool,
    ) -> Result<Option<(MessageKind, usize)>, Failure> {
        let phase = if welcomed {
            Phase::Client
        } else {
            Phase::ClientBeforeWelcome
        };
        let Next::Message {
            header,
            body,
            consumed,
        } = next_message(input, phase)?
        else {
            return Ok(None);
        };
        match header.kind {
            MessageKind::ReaderOpened => self.opened = ReaderOpened::decode(body)?,
            MessageKind::Frames => {
                let prelude = Delivery::decode(body)?.prelude;
                self.bytes.extend_from_slice(&input[..consumed]);
                let bytes = prelude.frames_bytes;
                self.deliveries.push((self.bytes.len(), bytes));
                self.owed += bytes;
                if prelude.next_offset >= self.opened.end_offset {
                    // As if nothing more were there, whatever is published meanwhile.
                    self.opened.end_offset = prelude.next_offset;
                    self.whole = true;
                }
            }
            _ => {}
        }
        Ok(Some((header.kind, consumed)))
    }

    /// Gives back what deliveries took since the last time.
    fn give_credit(&mut self, out: &mut Vec<u8>) {
        let bytes = std::mem::take(&mut self.owed);
        if bytes > 0 {
            Credit { bytes }.encode(STREAM, 0, out);
        }
    }

    fn serve(&self, mut socket: TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let mut splitter = Splitter::new();
        let mut out = Vec::new();
        let mut credit = 0_i64;
        let (mut sent, mut deliveries) = (0, self.deliveries.iter().peekable());
        loop {
            while credit > 0 && deliveries.peek().is_some() {
                let start = sent;
                while let Some((end, bytes)) = deliveries.peek()
                    && credit > 0
                    && sent - start < WRITE_BYTES
                {
                    (sent, credit) = (*end, credit - i64::from(*bytes));
                    deliveries.next();
                }
                socket.write_all(&self.bytes[start..sent])?;
            }
            if splitter.fill(&mut socket)?.is_empty() {
                return Ok(());
            }
            while let Some(head) = splitter.next() {
                if head.is(MessageKind::OpenReader) {
                    self.opened.encode(head.stream, head.correlation, &mut out);
                }
                if head.is(MessageKind::OpenReader) || head.is(MessageKind::Credit) {
                    // Both end in the bytes that may be sent.
                    while splitter.last_word().is_none() && !splitter.fill(&mut socket)?.is_empty()
                    {
                    }
                    credit += i64::from(splitter.last_word().unwrap_or(0));
                } else if !answer(&head, &mut out) {
                    return Ok(());
                }
            }
            flush(&mut socket, &mut out)?;
        }
    }
}

fn hello() -> Hello {
    Hello {
        magic: Magic,
        version_min: WIRE_VERSION,
        version_max: WIRE_VERSION,
        features: features::PRODUCERS,
        client: "yardstick".to_owned(),
    }
}

fn open_reader(topic: &str) -> Result<OpenReader, Failure> {
    Ok(OpenReader {
        topic: TopicName::parse(topic)?,
        start: Start::Earliest,
        credit_bytes: CREDIT_BYTES,
    })
}

fn read_more(socket: &mut TcpStream, input: &mut BytesMut) -> io::Result<()> {
    let before = input.len();
    input.resize(before + WRITE_BYTES, 0);
    let read = io::Read::read(socket, &mut input[before..])?;
    input.truncate(before + read);
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
