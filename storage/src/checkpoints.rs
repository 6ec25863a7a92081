//! Checkpoints: small files that stand for all that a log said before, written whole.
//!
//! ```text
//! checkpoint-00000007   magic MLSTCHKP | version u32 = 1 | crc32c u32 of what follows | length u64 | bytes
//! ```
//! A checkpoint is written under another name, synced, renamed, and the folder synced (Q6). The one
//! before it is kept, in case the disk damages the newest; older ones are removed.

use std::io;
use std::sync::Arc;

use millstream_protocol::checksum::crc32c;

use crate::folder::Folder;

const MAGIC: &[u8; 8] = b"MLSTCHKP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
const PREFIX: &str = "checkpoint-";
const NEW: &str = "checkpoint.new";
/// How many are kept.
const KEPT: usize = 2;

/// The checkpoints of a folder.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: Arc<dyn Folder>,
}

impl Checkpoints {
    pub(crate) fn new(folder: &Arc<dyn Folder>) -> Self {
        Self {
            folder: Arc::clone(folder),
        }
    }

    /// Writes `bytes` as the next checkpoint; on disk when this returns its number.
    ///
    /// # Errors
    ///
    /// What the disk said; those that were there are as before.
    pub fn write(&self, bytes: &[u8]) -> io::Result<u64> {
        let numbers = self.numbers()?;
        let number = numbers.last().map_or(1, |last| last + 1);
        match self.folder.remove(NEW) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = Vec::with_capacity(HEADER_BYTES + bytes.len());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend_from_slice(&[0; 4]);
        file.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        file.extend_from_slice(bytes);
        let crc = crc32c(file.get(16..).unwrap_or_default());
        if let Some(place) = file.get_mut(12..16) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
        self.folder.create_file(NEW, &file)?;
        self.folder.rename(NEW, &name(number))?;
        self.folder.sync_dir("")?;
        let old = numbers.len().saturating_sub(KEPT - 1);
        for number in numbers.iter().take(old) {
            let name = name(*number);
            if let Err(error) = self.folder.remove(&name) {
                tracing::warn!(%name, %error, "an old checkpoint is left behind");
            }
        }
        Ok(number)
    }

    /// The checkpoints that are sound, newest first, by number. Those that are damaged or can't be read
    /// are told in the log and left where they are, as long as another is sound.
    ///
    /// # Errors
    ///
    /// The folder can't be listed, or there are checkpoints and none of them is sound: what they say is
    /// not known then, which is not the same as that there are none.
    pub fn load(&self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let (mut found, mut unread) = (Vec::new(), None);
        for number in self.numbers()?.into_iter().rev() {
            let file = match self.folder.read_file(&name(number)) {
                Ok(file) => file,
                Err(error) => {
                    tracing::error!(number, %error, "a checkpoint can't be read");
                    unread.get_or_insert(error);
                    continue;
                }
            };
            match check(file) {
                Ok(bytes) => found.push((number, bytes)),
                Err(error) => {
                    tracing::error!(number, %error, "a checkpoint can't be used");
                    let named = format!("{}: {error}", name(number));
                    unread.get_or_insert(io::Error::new(error.kind(), named));
                }
            }
        }
        match unread {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    /// Numbers of the checkpoints there are, rising.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        numbers(&*self.folder)
    }
}

/// The checkpoints in `folder`, newest first: file name, and content or what is wrong with it.
pub(crate) fn read_all(folder: &dyn Folder) -> io::Result<Vec<(String, io::Result<Vec<u8>>)>> {
    let numbers = numbers(folder)?.into_iter().rev();
    Ok(numbers
        .map(|number| {
            let name = name(number);
            let read = folder.read_file(&name).and_then(check);
            (name, read)
        })
        .collect())
}

fn damage(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whether a checkpoint that was read is damaged, as opposed to newer or out of reach.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

fn numbers(folder: &dyn Folder) -> io::Result<Vec<u64>> {
    let names = folder.list("")?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|file| number_of(file)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// What a checkpoint's file stands for.
fn check(mut file: Vec<u8>) -> io::Result<Vec<u8>> {
    let header = file.first_chunk::<HEADER_BYTES>().copied();
    let header = header.ok_or_else(|| damage("it is cut short"))?;
    let [
        m0,
        m1,
        m2,
        m3,
        m4,
        m5,
        m6,
        m7,
        v0,
        v1,
        v2,
        v3,
        c0,
        c1,
        c2,
        c3,
        length @ ..,
    ] = header;
    if [m0, m1, m2, m3, m4, m5, m6, m7] != *MAGIC {
        return Err(damage("its magic is wrong"));
    }
    let version = u32::from_le_bytes([v0, v1, v2, v3]);
    if version != VERSION {
        return Err(io::Error::other(format!(
            "it has version {version}, this program knows {VERSION}"
        )));
    }
    if u64::from_le_bytes(length) != (file.len() - HEADER_BYTES) as u64 {
        return Err(damage("it is cut short, or longer than it says"));
    }
    let crc = u32::from_le_bytes([c0, c1, c2, c3]);
    if crc32c(file.get(16..).unwrap_or_default()) != crc {
        return Err(damage("its checksum does not match"));
    }
    file.drain(..HEADER_BYTES);
    Ok(file)
}

/// Whether a file of this name is a checkpoint, or the beginning of one.
pub(crate) fn is_checkpoint(file: &str) -> bool {
    file == NEW || number_of(file).is_some()
}

fn number_of(file: &str) -> Option<u64> {
    let number = file.strip_prefix(PREFIX)?.parse().ok()?;
    (name(number) == file).then_some(number)
}

fn name(number: u64) -> String {
    format!("{PREFIX}{number:08}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::{Failure, HeapFolder, Operation};

    fn checkpoints() -> (HeapFolder, Checkpoints) {
        let heap = HeapFolder::new();
        let folder: Arc<dyn Folder> = Arc::new(heap.clone());
        (heap, Checkpoints::new(&folder))
    }

    #[test]
    fn the_newest_two_are_kept() {
        let (_, checkpoints) = checkpoints();
        assert!(checkpoints.load().unwrap().is_empty());
        for number in 1..=4_u8 {
            assert_eq!(checkpoints.write(&[number; 3]).unwrap(), u64::from(number));
        }
        let found = checkpoints.load().unwrap();
        assert_eq!(found, [(4, vec![4; 3]), (3, vec![3; 3])]);
    }

    #[test]
    fn a_damaged_one_is_passed_over_for_the_one_before() {
        let (heap, checkpoints) = checkpoints();
        checkpoints.write(b"old").unwrap();
        checkpoints.write(b"new").unwrap();
        let mut bytes = heap.read_file("checkpoint-00000002").unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 4;
            heap.remove("checkpoint-00000002").unwrap();
            heap.create_file("checkpoint-00000002", &bytes).unwrap();
            assert_eq!(
                checkpoints.load().unwrap(),
                [(1, b"old".to_vec())],
                "byte {at}"
            );
            bytes[at] ^= 4;
        }
    }

    /// A queue's state is what a checkpoint says: none must not be taken for an empty one.
    #[test]
    fn one_that_can_not_be_read_is_not_taken_for_none() {
        use crate::heap::{Failure, Operation};
        let (heap, checkpoints) = checkpoints();
        checkpoints.write(b"old").unwrap();
        heap.fail(Operation::List, "", 1, Failure::Descriptors);
        assert!(checkpoints.load().is_err());
        heap.fail(Operation::Read, "", 1, Failure::Descriptors);
        assert!(checkpoints.load().is_err());
        checkpoints.write(b"new").unwrap();
        heap.fail(Operation::Read, "", 1, Failure::Device);
        assert_eq!(checkpoints.load().unwrap(), [(1, b"old".to_vec())]);
    }

    #[test]
    fn a_folder_that_can_not_be_listed_is_not_taken_for_one_without_any() {
        let (heap, checkpoints) = checkpoints();
        checkpoints.write(b"only").unwrap();
        heap.fail(Operation::List, "", 1, Failure::Device);
        assert!(checkpoints.load().is_err());
        assert_eq!(checkpoints.load().unwrap(), [(1, b"only".to_vec())]);
    }

    #[test]
    fn damaged_ones_are_not_taken_for_none() {
        let (heap, checkpoints) = checkpoints();
        checkpoints.write(b"only").unwrap();
        let name = "checkpoint-00000001";
        let mut bytes = heap.read_file(name).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        heap.remove(name).unwrap();
        heap.create_file(name, &bytes).unwrap();
        let told = checkpoints.load().unwrap_err();
        assert!(
            is_damage(&told) && told.to_string().contains(name),
            "{told}"
        );
    }

    #[test]
    fn whatever_fails_or_is_cut_off_a_whole_one_is_left() {
        for nth in 1..=6 {
            let (heap, checkpoints) = checkpoints();
            checkpoints.write(b"first").unwrap();
            checkpoints.write(b"second").unwrap();
            heap.fail_nth_change(nth, crate::Failure::Device);
            let said = checkpoints.write(b"third");
            heap.heal();
            for left in [heap.duplicate(), heap.after_power_loss()] {
                let folder: Arc<dyn Folder> = Arc::new(left);
                let left = Checkpoints::new(&folder);
                let found: Vec<Vec<u8>> = left
                    .load()
                    .unwrap()
                    .into_iter()
                    .map(|(_, bytes)| bytes)
                    .collect();
                let newest = found.first().unwrap().as_slice();
                assert!(
                    newest == b"third" || (newest == b"second" && said.is_err()),
                    "{nth}"
                );
                assert!(found.len() >= 2, "{nth}: the one before is kept");
                assert!(left.write(b"fourth").is_ok());
                assert_eq!(left.load().unwrap().first().unwrap().1, b"fourth");
            }
        }
    }
}
