//! A blocking connection for the text protocols of others: writes gathered, reads buffered, and reads
//! that may be told not to wait.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 256 << 10;
/// Gathered bytes that are written without being told to.
const WRITE_BYTES: usize = 256 << 10;

/// A connection.
#[derive(Debug)]
pub(super) struct Line {
    socket: TcpStream,
    input: Vec<u8>,
    taken: usize,
    output: Vec<u8>,
}

impl Line {
    pub(super) fn connect(address: &str) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            input: Vec::new(),
            taken: 0,
            output: Vec::new(),
        })
    }

    /// Where the next bytes to send go.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Sends what was gathered once it is enough.
    pub(super) fn flush_if_full(&mut self) -> io::Result<()> {
        if self.output.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Sends what was gathered.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.socket.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// What came and was not taken yet.
    pub(super) fn input(&self) -> &[u8] {
        self.input.get(self.taken..).unwrap_or_default()
    }

    /// Takes `bytes` off what came.
    pub(super) fn take(&mut self, bytes: usize) {
        self.taken += bytes;
        if self.taken == self.input.len() {
            self.input.clear();
            self.taken = 0;
        }
    }

    /// Reads more, waiting for it at most `wait`; false if nothing came.
    pub(super) fn fill(&mut self, wait: Duration) -> io::Result<bool> {
        if self.taken > 0 {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        if wait.is_zero() {
            self.socket.set_nonblocking(true)?;
        } else {
            self.socket.set_read_timeout(Some(wait))?;
        }
        let before = self.input.len();
        self.input.resize(before + READ_BYTES, 0);
        let read = self.socket.read(&mut self.input[before..]);
        self.input.truncate(before + *read.as_ref().unwrap_or(&0));
        if wait.is_zero() {
            self.socket.set_nonblocking(false)?;
        }
        match read {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The next line without its end, if all of it is there.
    pub(super) fn line_bytes(&self) -> Option<usize> {
        self.input().windows(2).position(|two| two == b"\r\n")
    }
}
