//! The server's side of Millstream's protocol, as little of it as the yardsticks need.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use millstream_protocol::control::{PublisherOpened, Welcome, features};
use millstream_protocol::limits::{
    FRAME_BYTES_MAX, HEARTBEAT_MS, PUBLISH_WINDOW_BYTES, PUBLISH_WINDOW_FRAMES, WIRE_HEADER_BYTES,
    WIRE_VERSION,
};
use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};
use millstream_protocol::{Durability, Offset};

/// Bytes asked of a socket at once.
const READ_BYTES: usize = 256 << 10;

/// The start of a message: trusted, as it comes from this process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) body_bytes: usize,
    pub(super) stream: StreamId,
    pub(super) correlation: u64,
}

impl Head {
    fn read(bytes: &[u8; WIRE_HEADER_BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(word)
        };
        Self {
            kind: bytes[0],
            body_bytes: word(4) as usize,
            stream: StreamId(word(8)),
            correlation: u64::from(word(16)) | u64::from(word(20)) << 32,
        }
    }

    pub(super) const fn is(&self, kind: MessageKind) -> bool {
        self.kind == kind.code()
    }
}

/// Splits what comes from a socket into messages, without a look at their bodies.
pub(super) struct Splitter {
    input: Vec<u8>,
    taken: usize,
    filled: usize,
    /// Bytes of a body that are still to come and nobody wants.
    skipping: usize,
}

impl Splitter {
    pub(super) fn new() -> Self {
        Self {
            input: vec![0; 2 * READ_BYTES],
            taken: 0,
            filled: 0,
            skipping: 0,
        }
    }

    /// Reads once; gives what came, nothing at the end of the connection.
    pub(super) fn fill(&mut self, socket: &mut TcpStream) -> io::Result<&[u8]> {
        if self.input.len() - self.filled < READ_BYTES {
            self.input.copy_within(self.taken..self.filled, 0);
            (self.taken, self.filled) = (0, self.filled - self.taken);
        }
        let read = socket.read(&mut self.input[self.filled..])?;
        self.filled += read;
        Ok(&self.input[self.filled - read..self.filled])
    }

    /// The next message whose header is there; its body is passed over when it comes.
    pub(super) fn next(&mut self) -> Option<Head> {
        let skipped = self.skipping.min(self.filled - self.taken);
        self.taken += skipped;
        self.skipping -= skipped;
        let rest = &self.input[self.taken..self.filled];
        let (head, _) = rest.split_first_chunk::<WIRE_HEADER_BYTES>()?;
        let head = Head::read(head);
        self.taken += WIRE_HEADER_BYTES;
        self.skipping = head.body_bytes;
        Some(head)
    }

    /// The last four bytes of the body of the message that came last, once all of it is there.
    pub(super) fn last_word(&self) -> Option<u32> {
        let body = self.input[self.taken..self.filled].get(..self.skipping)?;
        body.last_chunk().map(|word| u32::from_le_bytes(*word))
    }
}

/// Answers what has nothing to do with messages; whether the connection goes on.
pub(super) fn answer(head: &Head, out: &mut Vec<u8>) -> bool {
    if head.is(MessageKind::Hello) {
        welcome().encode(StreamId::CONNECTION, 0, out);
    } else if head.is(MessageKind::Ping) {
        let pong = WireHeader::bare(MessageKind::Pong, StreamId::CONNECTION, head.correlation);
        out.extend_from_slice(&pong.encode());
    } else if head.is(MessageKind::CloseStream) {
        let closed = WireHeader::bare(MessageKind::StreamClosed, head.stream, head.correlation);
        out.extend_from_slice(&closed.encode());
    } else if head.is(MessageKind::OpenPublisher) {
        let opened = PublisherOpened {
            durability: Durability::Stored,
            next_offset: Offset(0),
        };
        opened.encode(head.stream, head.correlation, out);
    }
    !head.is(MessageKind::Goodbye)
}

fn welcome() -> Welcome {
    Welcome {
        version: WIRE_VERSION,
        features: features::PRODUCERS,
        server: "yardstick".to_owned(),
        folder_id: [7; 16],
        boot_epoch: 1,
        frame_bytes_max: u32::try_from(FRAME_BYTES_MAX).unwrap_or(u32::MAX),
        publish_window_bytes: PUBLISH_WINDOW_BYTES,
        publish_window_frames: PUBLISH_WINDOW_FRAMES,
        heartbeat_ms: u32::try_from(HEARTBEAT_MS).unwrap_or(u32::MAX),
    }
}

/// Sends what was gathered.
pub(super) fn flush(socket: &mut TcpStream, out: &mut Vec<u8>) -> io::Result<()> {
    if !out.is_empty() {
        socket.write_all(out)?;
        out.clear();
    }
    Ok(())
}
