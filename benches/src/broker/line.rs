//! A blocking connection for the protocols of others: writes gathered, reads buffered, and reads that
//! may be told not to wait. Costs one system call a read, and another where the wait changes.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 256 << 10;
/// Gathered bytes that are written without being told to.
const WRITE_BYTES: usize = 256 << 10;

/// A connection.
#[derive(Debug)]
pub(super) struct Line {
    socket: TcpStream,
    /// What came lies in `taken..filled`.
    input: Vec<u8>,
    taken: usize,
    filled: usize,
    output: Vec<u8>,
    /// What the socket was told of waiting.
    wait: Duration,
}

impl Line {
    pub(super) fn connect(address: &str) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            input: vec![0; 2 * READ_BYTES],
            taken: 0,
            filled: 0,
            output: Vec::new(),
            wait: Duration::ZERO,
        })
    }

    /// Where the next bytes to send go.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// What came and was not taken yet, and where the next bytes to send go.
    pub(super) fn both(&mut self) -> (&[u8], &mut Vec<u8>) {
        let input = self.input.get(self.taken..self.filled);
        (input.unwrap_or_default(), &mut self.output)
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
        if !self.output.is_empty() {
            self.socket.write_all(&self.output)?;
            self.output.clear();
        }
        Ok(())
    }

    /// What came and was not taken yet.
    pub(super) fn input(&self) -> &[u8] {
        self.input.get(self.taken..self.filled).unwrap_or_default()
    }

    /// Takes `bytes` off what came.
    pub(super) fn take(&mut self, bytes: usize) {
        self.taken = (self.taken + bytes).min(self.filled);
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
        }
    }

    /// Reads more, waiting for it at most `wait`; false if nothing came.
    pub(super) fn fill(&mut self, wait: Duration) -> io::Result<bool> {
        if self.input.len() - self.filled < READ_BYTES {
            self.input.copy_within(self.taken..self.filled, 0);
            (self.taken, self.filled) = (0, self.filled - self.taken);
            if self.input.len() - self.filled < READ_BYTES {
                self.input.resize(2 * self.input.len(), 0);
            }
        }
        let flags = if wait.is_zero() {
            RecvFlags::DONTWAIT
        } else {
            if wait != self.wait {
                self.socket.set_read_timeout(Some(wait))?;
                self.wait = wait;
            }
            RecvFlags::empty()
        };
        let room = self.input.get_mut(self.filled..).unwrap_or_default();
        match recv(&self.socket, room, flags).map_err(io::Error::from) {
            Ok((_, 0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, read)) => {
                self.filled += read;
                Ok(true)
            }
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

    /// Bytes of the next line without its end, if all of it is there.
    pub(super) fn line_bytes(&self) -> Option<usize> {
        line_bytes(self.input())
    }
}

/// Bytes of the first line in `input` without its end, if all of it is there.
pub(super) fn line_bytes(input: &[u8]) -> Option<usize> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    end.checked_sub(1)
}

/// The number that `digits` write; `None` where they do not.
pub(super) fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_usize, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(usize::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_came_stays_until_it_is_taken_and_no_wait_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut line = Line::connect(&listener.local_addr().unwrap().to_string()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        assert!(!line.fill(Duration::ZERO).unwrap());
        // More than the buffer has room for, so that it moves and grows.
        let sent: Vec<u8> = (0..=250).cycle().take(5 * READ_BYTES).collect();
        let copy = sent.clone();
        let sender = std::thread::spawn(move || other.write_all(&copy).map(|()| other));
        let mut got = Vec::new();
        while got.len() < sent.len() {
            assert!(line.fill(Duration::from_secs(60)).unwrap());
            let half = line.input().len().div_ceil(2);
            got.extend_from_slice(&line.input()[..half]);
            line.take(half);
            if got.len() + line.input().len() == sent.len() {
                got.extend_from_slice(line.input());
                line.take(line.input().len());
            }
        }
        assert_eq!(got, sent);
        let mut other = sender.join().unwrap().unwrap();
        line.output().extend_from_slice(b"answer");
        line.flush().unwrap();
        let mut answer = [0; 6];
        other.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
        drop(other);
        assert!(line.fill(Duration::from_secs(60)).is_err());
    }

    #[test]
    fn numbers_are_digits_alone() {
        assert_eq!(number(b"1024"), Some(1024));
        for no in [&b""[..], b"-1", b"1x", b"99999999999999999999999"] {
            assert_eq!(number(no), None);
        }
    }
}
