//! A server that acknowledges every publish and keeps nothing: what the generator and the loopback
//! come to by themselves.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;

use millstream_client::Address;
use millstream_protocol::Offset;
use millstream_protocol::control::{AckRun, PublishAck};
use millstream_protocol::wire::MessageKind;

use super::wire::{Splitter, answer, flush};
use crate::broker::Failure;

/// It serves until the process ends; its connections are those of one run.
pub(super) struct Sink {
    port: u16,
}

impl Sink {
    pub(super) fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                // A connection that fails ends the load on it, which says so.
                thread::spawn(move || discard(socket));
            }
        });
        Ok(Self { port })
    }

    pub(super) fn address(&self) -> Result<Address, Failure> {
        Ok(format!("millstream://127.0.0.1:{}", self.port).parse()?)
    }
}

fn discard(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut splitter = Splitter::new();
    let mut out = Vec::new();
    let mut next = 0;
    while splitter.fill(&mut socket)? {
        let mut publishes = 0_u32;
        let mut last = None;
        while let Some(head) = splitter.next() {
            if head.is(MessageKind::Publish) {
                publishes += 1;
                last = Some(head);
            } else if !answer(&head, &mut out) {
                return Ok(());
            }
        }
        if let Some(last) = last {
            let run = AckRun {
                publishes,
                duplicates: false,
                base_offset: Offset(next),
            };
            // More than any batch has: offsets only have to rise.
            next += u64::from(publishes) << 16;
            PublishAck::encode(&[run], last.stream, last.correlation, &mut out);
        }
        flush(&mut socket, &mut out)?;
    }
    Ok(())
}
