//! How long others of an I/O thread wait while one connection floods it.
//!
//! `cargo run --release -p millstream-benches --example flooded -- [epoll|uring] [seconds]`: a server
//! with one I/O thread; one connection sends a ping each millisecond and times its pong, from the
//! time it was to be sent; first alone, then beside a flood of each kind.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use millstream::{AckLevel, Broker, Durability, TopicName, TopicOptions};
use millstream_protocol::control::{Hello, Magic, OpenPublisher};
use millstream_protocol::frame::{PublisherFields, publish_header};
use millstream_protocol::limits::{FRAME_HEADER_BYTES, WIRE_HEADER_BYTES, WIRE_VERSION};
use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};
use millstream_server::{IoChoice, Listen, Server, ServerOptions};

/// Between two pings.
const PERIOD: Duration = Duration::from_millis(1);
/// Publishes a flood has under way.
const WINDOW: u64 = 2048;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let io = match arguments.next().as_deref() {
        Some("uring") => IoChoice::Uring,
        _ => IoChoice::Epoll,
    };
    let seconds = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    let broker = Broker::open(folder.path())?;
    broker.create_topic("t", TopicOptions::new().durability(Durability::Stored))?;
    let options = ServerOptions::new()
        .listen(Listen::Tcp(([127, 0, 0, 1], 0).into()))
        .io(io)
        .threads(1);
    let server = Server::bind(&options, &broker)?;
    let address = server.local_addr().ok_or("no address")?;
    let time = Duration::from_secs(seconds);
    tell("alone", pings(address, time)?);
    for (name, body_bytes) in [
        ("publishes of 100 B", Some(100)),
        ("publishes of 1 MiB", Some(1 << 20)),
        ("pings", None),
    ] {
        let mut socket = greet(address)?;
        let breaker = socket.try_clone()?;
        let flood = thread::spawn(move || match body_bytes {
            Some(bytes) => flood_publishes(&mut socket, bytes),
            None => flood_pings(&mut socket),
        });
        tell(name, pings(address, time)?);
        breaker.shutdown(Shutdown::Both)?;
        // It ends by the error that its socket is gone.
        let messages = flood.join().map_err(|_| "the flood panicked")?;
        println!(
            "  {:.0} messages/s flooded",
            messages as f64 / time.as_secs_f64()
        );
    }
    Ok(())
}

fn tell(name: &str, mut waits: Vec<Duration>) {
    waits.sort_unstable();
    let at = |part: f64| {
        waits
            .get((waits.len() as f64 * part) as usize)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{name}: {} pings, p50 {:?}, p99 {:?}, p99.9 {:?}",
        waits.len(),
        at(0.5),
        at(0.99),
        at(0.999)
    );
}

fn greet(address: SocketAddr) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let hello = Hello {
        magic: Magic,
        version_min: WIRE_VERSION,
        version_max: WIRE_VERSION,
        features: 0,
        client: "bench".to_owned(),
    };
    let mut bytes = Vec::new();
    hello.encode(StreamId::CONNECTION, 0, &mut bytes);
    socket.write_all(&bytes)?;
    hear(&mut socket)?;
    Ok(socket)
}

/// Reads one message; its kind and correlation.
fn hear(socket: &mut TcpStream) -> io::Result<(u8, u64)> {
    let mut header = [0; WIRE_HEADER_BYTES];
    socket.read_exact(&mut header)?;
    let [kind, _, _, _, b0, b1, b2, b3, ..] = header;
    let mut body = vec![0; u32::from_le_bytes([b0, b1, b2, b3]) as usize];
    socket.read_exact(&mut body)?;
    let correlation = header.get(16..24).and_then(|bytes| bytes.try_into().ok());
    Ok((kind, u64::from_le_bytes(correlation.unwrap_or_default())))
}

/// Pings on a connection of its own; how long each pong took.
fn pings(address: SocketAddr, time: Duration) -> io::Result<Vec<Duration>> {
    let mut socket = greet(address)?;
    let mut waits = Vec::new();
    let start = Instant::now();
    let mut due = start;
    while due < start + time {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let ping = WireHeader::bare(MessageKind::Ping, StreamId::CONNECTION, 1);
        socket.write_all(&ping.encode())?;
        while hear(&mut socket)?.0 != MessageKind::Pong.code() {}
        waits.push(due.elapsed());
        due += PERIOD;
    }
    Ok(waits)
}

/// Publishes as fast as the window allows; how many were acknowledged.
fn flood_publishes(socket: &mut TcpStream, body_bytes: usize) -> u64 {
    let mut acked = 0;
    // The end of the socket is the end of the flood.
    let _ = publish_on(socket, body_bytes, &mut acked);
    acked
}

fn publish_on(socket: &mut TcpStream, body_bytes: usize, acked: &mut u64) -> io::Result<()> {
    let mut bytes = Vec::new();
    let open = OpenPublisher {
        topic: TopicName::parse("t").map_err(io::Error::other)?,
        ack: AckLevel::Stored,
        create: false,
    };
    open.encode(StreamId(1), 0, &mut bytes);
    let body = vec![7; body_bytes];
    let fields = PublisherFields::single(body_bytes as u32);
    let frame = [&publish_header(&fields, &body)[..], &body].concat();
    let window = WINDOW.min((6 << 20) / frame.len() as u64);
    let mut number = 0;
    loop {
        while number - *acked < window {
            number += 1;
            let frame_bytes = (FRAME_HEADER_BYTES + body_bytes) as u32;
            let header = WireHeader::publish(StreamId(1), number, frame_bytes);
            bytes.extend_from_slice(&header.encode());
            bytes.extend_from_slice(&frame);
        }
        socket.write_all(&bytes)?;
        bytes.clear();
        while number - *acked > window / 2 {
            let (kind, through) = hear(socket)?;
            if kind == MessageKind::PublishAck.code() {
                *acked = through;
            }
        }
    }
}

/// Pings as fast as the pongs are read; how many came.
fn flood_pings(socket: &mut TcpStream) -> u64 {
    let mut pongs = 0;
    let ping = WireHeader::bare(MessageKind::Ping, StreamId::CONNECTION, 1).encode();
    let bytes = ping.repeat(64 << 10);
    let Ok(mut reader) = socket.try_clone() else {
        return 0;
    };
    let heard = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            pongs += count as u64 / 32;
        }
        pongs
    });
    while socket.write_all(&bytes).is_ok() {}
    heard.join().unwrap_or_default()
}
