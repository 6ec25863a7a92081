//! Room on disk for what need not last: files without a name, gone with the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A file that is appended to and read from, and that nobody finds afterwards.
pub trait ScratchFile: Send + std::fmt::Debug {
    /// Writes `bytes` behind the end.
    ///
    /// # Errors
    ///
    /// What the disk said; what is behind the old end is unknown.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Fills `bytes` from position `at`.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the file ends before that, or what the disk said.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;
}

/// A nameless file on disk.
#[derive(Debug)]
pub(crate) struct DiskScratch {
    file: File,
    len_bytes: u64,
}

impl DiskScratch {
    pub(crate) const fn new(file: File) -> Self {
        Self { file, len_bytes: 0 }
    }
}

impl ScratchFile for DiskScratch {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.len_bytes)?;
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }
}

/// Its twin on the heap.
#[derive(Debug, Default)]
pub(crate) struct HeapScratch {
    bytes: Vec<u8>,
}

impl ScratchFile for HeapScratch {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let start = usize::try_from(at).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(bytes.len());
        let found = end.and_then(|end| self.bytes.get(start..end));
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
