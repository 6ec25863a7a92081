//! The socket of a connection that a thread carries, and what came over it.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use bytes::BytesMut;

use crate::handshake::{self, READ_BYTES, READ_BYTES_MIN};

/// A socket that does not block.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    /// Out of what a runtime waits for.
    pub(super) fn of(socket: handshake::Socket) -> io::Result<Self> {
        Ok(match socket {
            handshake::Socket::Tcp(socket) => Self::Tcp(socket.into_std()?),
            handshake::Socket::Unix(socket) => Self::Unix(socket.into_std()?),
        })
    }

    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(room),
            Self::Unix(socket) => socket.read(room),
        }
    }

    pub(super) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write_vectored(slices),
            Self::Unix(socket) => socket.write_vectored(slices),
        }
    }

    pub(super) fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Self::Unix(socket) => socket.shutdown(Shutdown::Write),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// What came and was not taken, with room behind it in the same allocation.
pub(super) struct Input {
    pub(super) came: BytesMut,
    /// Zeros, written once for each allocation.
    room: BytesMut,
}

impl Input {
    /// What came so far.
    pub(super) fn new(came: BytesMut) -> Self {
        let room = BytesMut::new();
        Self { came, room }
    }

    /// Reads what is there, as far as it has room; nothing at the end.
    pub(super) fn read(&mut self, socket: &mut Socket, wanted_bytes: usize) -> io::Result<usize> {
        let missing_bytes = wanted_bytes.saturating_sub(self.came.len());
        let least_bytes = match missing_bytes {
            0 => READ_BYTES_MIN,
            missing_bytes => missing_bytes,
        };
        if self.room.len() < least_bytes {
            let came_bytes = self.came.len();
            let mut whole = BytesMut::zeroed(came_bytes + missing_bytes.max(READ_BYTES));
            self.room = whole.split_off(came_bytes);
            whole.copy_from_slice(&self.came);
            self.came = whole;
        }
        let read = socket.read(&mut self.room)?;
        // Beside what came before, in the same allocation: nothing is copied.
        self.came.unsplit(self.room.split_to(read));
        Ok(read)
    }
}
