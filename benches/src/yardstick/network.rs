//! What a round trip costs: 64 bytes there and back over TCP, and waking a thread.

use std::hint::spin_loop;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::load::Latency;

/// Bytes there, and back.
const BYTES: usize = 64;
/// How long each is measured.
const MEASURED: Duration = Duration::from_secs(1);

/// How both sides wait for what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// They sleep.
    Parked,
    /// They ask again and again.
    Polling,
}

/// The median of a round trip over loopback.
pub(super) fn ping_pong_p50_us(waiting: Waiting) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    for socket in [&near, &far] {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(waiting == Waiting::Polling)?;
    }
    let echo = thread::spawn(move || -> io::Result<()> {
        let mut bytes = [0; BYTES];
        loop {
            read_all(&mut far, &mut bytes)?;
            far.write_all(&bytes)?;
        }
    });
    let mut latency = Latency::new();
    let began = Instant::now();
    let mut bytes = [7; BYTES];
    while began.elapsed() < MEASURED {
        let start = Instant::now();
        near.write_all(&bytes)?;
        read_all(&mut near, &mut bytes)?;
        latency.note(nanoseconds(start.elapsed()), 1);
    }
    drop(near);
    // It ends with the connection, which is an error to it.
    let _ = echo.join();
    Ok(latency.percentiles().p50_ns as f64 / 1e3)
}

fn read_all(socket: &mut TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match socket.read(&mut bytes[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The median of waking a thread that sleeps: half of there and back.
pub(super) fn wake_p50_us() -> f64 {
    let (ask, asked) = channel::<()>();
    let (answer, answered) = channel::<()>();
    let echo = thread::spawn(
        move || {
            while asked.recv().is_ok() && answer.send(()).is_ok() {}
        },
    );
    let mut latency = Latency::new();
    let began = Instant::now();
    while began.elapsed() < MEASURED {
        let start = Instant::now();
        if ask.send(()).is_err() || answered.recv().is_err() {
            break;
        }
        latency.note(nanoseconds(start.elapsed()) / 2, 1);
    }
    drop(ask);
    // It has nothing to say.
    let _ = echo.join();
    latency.percentiles().p50_ns as f64 / 1e3
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
