//! A server that acknowledges every publish and keeps nothing: what the generator and the loopback
//! come to by themselves. Or it writes all that comes to fresh files: what the kernel takes for that.

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread;

use millstream_client::Address;
use millstream_protocol::Offset;
use millstream_protocol::control::{AckRun, PublishAck};
use millstream_protocol::wire::MessageKind;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::wire::{Splitter, answer, flush};
use crate::broker::Failure;

/// Bytes of a file, as of a segment; taken on the disk before anything is in it, as a segment's are.
const FILE_BYTES: u64 = 64 << 20;

/// It serves until the process ends; its connections are those of one run.
pub(super) struct Sink {
    port: u16,
}

impl Sink {
    /// Keeps what comes in files without a name in `folder`, if there is one.
    pub(super) fn start(folder: Option<PathBuf>) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let files = folder.clone().map(Files::new);
                // A connection that fails ends the load on it, which says so.
                thread::spawn(move || answer_all(socket, files));
            }
        });
        Ok(Self { port })
    }

    pub(super) fn address(&self) -> Result<Address, Failure> {
        Ok(format!("millstream://127.0.0.1:{}", self.port).parse()?)
    }
}

/// Files written one behind the other, which are there, and so is their memory, until the last is.
struct Files {
    folder: PathBuf,
    files: Vec<File>,
    /// Where the last one's next byte goes.
    place: u64,
}

impl Files {
    fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            files: Vec::new(),
            place: FILE_BYTES,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.place + bytes.len() as u64 > FILE_BYTES {
            let file = tempfile::tempfile_in(&self.folder)?;
            match fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES) {
                // Some file systems can't; the file grows then.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
            self.files.push(file);
            self.place = 0;
        }
        if let Some(file) = self.files.last() {
            file.write_all_at(bytes, self.place)?;
            self.place += bytes.len() as u64;
        }
        Ok(())
    }
}

fn answer_all(mut socket: TcpStream, mut files: Option<Files>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut splitter = Splitter::new();
    let mut out = Vec::new();
    let mut next = 0;
    loop {
        let came = splitter.fill(&mut socket)?;
        if came.is_empty() {
            return Ok(());
        }
        if let Some(files) = &mut files {
            files.write(came)?;
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_written_to_one_file_behind_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files::new(folder.path().to_owned());
        files.write(b"one").unwrap();
        files.write(b"two").unwrap();
        files.place = FILE_BYTES - 4;
        files.write(b"three").unwrap();
        let read = |file: &File, count: usize| {
            let mut bytes = vec![0; count];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        let [first, second] = &files.files[..] else {
            panic!("{} files", files.files.len());
        };
        assert_eq!(read(first, 6), b"onetwo");
        assert_eq!(read(second, 5), b"three");
        assert_eq!(second.metadata().unwrap().len(), FILE_BYTES);
    }
}
