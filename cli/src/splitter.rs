//! Cuts input into messages without reading more of it than it must.
//!
//! The buffer holds one read's worth of input and grows only for a message that does not fit, up
//! to the largest message there may be. [`Splitter::is_ready`] tells whether the next message is
//! here already, so that a batch can be sent off before a read that may wait.

use std::fmt;
use std::io::{self, Read};
use std::num::NonZeroUsize;

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// Where one message of the input ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Before this byte, which belongs to no message; the last message may lack it.
    Delimited(u8),
    /// At the end of the input, even when that is empty.
    Whole,
    /// After this many bytes; the last message may have fewer.
    Chunks(NonZeroUsize),
}

impl Framing {
    /// Bytes of the input that stand between two messages and belong to neither.
    pub(crate) const fn delimiter_bytes(self) -> u64 {
        match self {
            Self::Delimited(_) => 1,
            Self::Whole | Self::Chunks(_) => 0,
        }
    }
}

/// Messages of one input.
#[derive(Debug)]
pub(crate) struct Splitter<R> {
    input: R,
    framing: Framing,
    message_bytes_max: usize,
    /// Input not yet handed out lies in `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// No delimiter lies in `start..searched`.
    searched: usize,
    /// The next message, when it was found: its end, and how many bytes after it are dropped.
    found: Option<(usize, usize)>,
    input_ended: bool,
    /// Messages handed out.
    messages: u64,
}

impl<R: Read> Splitter<R> {
    /// Cuts `input` by `framing`; a message over `message_bytes_max` is an error.
    pub(crate) fn new(input: R, framing: Framing, message_bytes_max: usize) -> Self {
        Self {
            input,
            framing,
            message_bytes_max,
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            searched: 0,
            found: None,
            input_ended: false,
            messages: 0,
        }
    }

    /// Whether [`Splitter::next_message`] answers without reading.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.found.is_some() || self.search() || self.input_ended
    }

    /// The next message; `None` at the end of the input. Reads only when no message is here.
    pub(crate) fn next_message(&mut self) -> Result<Option<&[u8]>, SplitError> {
        while self.found.is_none() && !self.search() {
            if self.input_ended {
                return Ok(None);
            }
            self.fill()?;
        }
        let Some((message_end, dropped)) = self.found.take() else {
            return Ok(None);
        };
        let message = self.start..message_end;
        self.start = message_end + dropped;
        self.searched = self.start;
        self.messages += 1;
        if message.len() > self.message_bytes_max {
            return Err(self.too_long(self.messages));
        }
        Ok(self.buffer.get(message))
    }

    /// Looks for the end of the next message in what was read.
    fn search(&mut self) -> bool {
        let waiting = self.end - self.start;
        let found = match self.framing {
            Framing::Delimited(delimiter) => {
                let fresh = self.buffer.get(self.searched..self.end).unwrap_or_default();
                let at = fresh.iter().position(|byte| *byte == delimiter);
                let found = at.map(|at| (self.searched + at, 1));
                self.searched = self.end;
                found.or((self.input_ended && waiting > 0).then_some((self.end, 0)))
            }
            Framing::Whole => (self.input_ended && self.messages == 0).then_some((self.end, 0)),
            Framing::Chunks(bytes) if waiting >= bytes.get() => Some((self.start + bytes.get(), 0)),
            Framing::Chunks(_) => (self.input_ended && waiting > 0).then_some((self.end, 0)),
        };
        self.found = found;
        found.is_some()
    }

    /// Reads once, making room first.
    fn fill(&mut self) -> Result<(), SplitError> {
        if self.end - self.start > self.message_bytes_max {
            return Err(self.too_long(self.messages + 1));
        }
        if self.start > 0 && self.end == self.buffer.len() || self.start == self.end {
            self.buffer.copy_within(self.start..self.end, 0);
            self.searched -= self.start;
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            // One byte over the largest message and its delimiter is enough to see it is too long.
            let bytes = (self.buffer.len() * 2).min(self.message_bytes_max + 2);
            self.buffer.resize(bytes.max(self.end + 1), 0);
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        match self.input.read(room) {
            Ok(0) => self.input_ended = true,
            Ok(bytes) => self.end += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SplitError::Read(error)),
        }
        Ok(())
    }

    fn too_long(&self, number: u64) -> SplitError {
        SplitError::TooLong {
            framing: self.framing,
            number,
            bytes_max: self.message_bytes_max,
        }
    }
}

/// Why there is no next message.
#[derive(Debug)]
pub(crate) enum SplitError {
    /// Message `number`, counted from one, has more than `bytes_max` bytes.
    TooLong {
        framing: Framing,
        number: u64,
        bytes_max: usize,
    },
    /// The input cannot be read.
    Read(io::Error),
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong {
                framing,
                number,
                bytes_max,
            } => {
                match framing {
                    Framing::Delimited(b'\n') => write!(f, "line {number}")?,
                    Framing::Whole => write!(f, "the file")?,
                    Framing::Delimited(_) | Framing::Chunks(_) => write!(f, "message {number}")?,
                }
                write!(
                    f,
                    " is longer than the {bytes_max} bytes a message may have"
                )?;
                if *framing == Framing::Whole {
                    write!(f, "; --chunk cuts a file into several")?;
                }
                Ok(())
            }
            Self::Read(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes out in pieces of the given size.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            let bytes = self.1.min(self.0.len()).min(room.len());
            let (now, later) = self.0.split_at(bytes);
            room[..bytes].copy_from_slice(now);
            self.0 = later;
            Ok(bytes)
        }
    }

    fn split(
        input: &[u8],
        piece: usize,
        framing: Framing,
        max: usize,
    ) -> Result<Vec<Vec<u8>>, String> {
        let mut splitter = Splitter::new(Pieces(input, piece), framing, max);
        let mut messages = Vec::new();
        while let Some(message) = splitter.next_message().map_err(|error| error.to_string())? {
            messages.push(message.to_vec());
        }
        Ok(messages)
    }

    #[test]
    fn lines_keep_all_but_their_newline_however_they_arrive() {
        for piece in 1..12 {
            let lines = split(
                b"a\r\n\n\xff\0b\nlast",
                piece,
                Framing::Delimited(b'\n'),
                100,
            );
            assert_eq!(
                lines.unwrap(),
                [&b"a\r"[..], b"", b"\xff\0b", b"last"],
                "{piece}"
            );
        }
        assert_eq!(
            split(b"", 1, Framing::Delimited(b'\n'), 9).unwrap().len(),
            0
        );
        assert_eq!(
            split(b"\n", 1, Framing::Delimited(b'\n'), 9).unwrap(),
            [b""]
        );
    }

    #[test]
    fn a_line_of_the_largest_size_fits_and_one_byte_more_does_not() {
        for bytes in [0, 10, READ_BYTES - 1, READ_BYTES, 3 * READ_BYTES + 7] {
            let mut input = b"x\n".to_vec();
            input.resize(2 + bytes, b'y');
            input.extend(b"\nz\n");
            let lines = split(&input, 5_000, Framing::Delimited(b'\n'), bytes.max(1)).unwrap();
            assert_eq!(
                lines.iter().map(Vec::len).collect::<Vec<_>>(),
                [1, bytes, 1]
            );
            if bytes > 1 {
                let error = split(&input, 5_000, Framing::Delimited(b'\n'), bytes - 1).unwrap_err();
                assert!(error.starts_with("line 2 is longer than the "), "{error}");
            }
        }
    }

    #[test]
    fn a_file_is_one_message_even_when_empty() {
        assert_eq!(split(b"", 1, Framing::Whole, 9).unwrap(), [b""]);
        assert_eq!(split(b"a\nb\n", 1, Framing::Whole, 9).unwrap(), [b"a\nb\n"]);
        assert!(
            split(b"a\nb\n", 1, Framing::Whole, 3)
                .unwrap_err()
                .contains("--chunk")
        );
    }

    #[test]
    fn chunks_join_to_the_input() {
        let four = Framing::Chunks(NonZeroUsize::new(4).unwrap());
        for piece in 1..11 {
            assert_eq!(
                split(b"0123456789", piece, four, 4).unwrap(),
                [&b"0123"[..], b"4567", b"89"]
            );
        }
        assert_eq!(split(b"01234567", 3, four, 4).unwrap().len(), 2);
        assert_eq!(split(b"", 3, four, 4).unwrap().len(), 0);
    }

    #[test]
    fn a_message_is_ready_as_soon_as_it_was_read() {
        let mut splitter = Splitter::new(Pieces(b"a\nb\nc", 4), Framing::Delimited(b'\n'), 9);
        assert!(!splitter.is_ready());
        assert_eq!(splitter.next_message().unwrap(), Some(&b"a"[..]));
        assert!(splitter.is_ready());
        assert_eq!(splitter.next_message().unwrap(), Some(&b"b"[..]));
        assert!(!splitter.is_ready(), "what follows has not been read");
        assert_eq!(splitter.next_message().unwrap(), Some(&b"c"[..]));
        assert_eq!(splitter.next_message().unwrap(), None);
    }
}
