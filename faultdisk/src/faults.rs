//! What a disk does, what goes wrong with it, and when.

use std::collections::BTreeMap;

use crate::image::{Image, Sectors, Survived};

/// A request that changes a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Some sectors, one behind the other.
    Write,
    /// All that was written is to be safe.
    Flush,
}

/// What happens at the request it was set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request fails and changes nothing; what follows succeeds.
    Error,
    /// It fails, and so do all requests of its kind that follow.
    ErrorsFromHere,
    /// The power fails before it, with this seed.
    Cut(u64),
}

/// Requests so far. What failed is counted too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Requests that were made to fail, those without power not counted.
    pub failed: u64,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// A disk, and what is to go wrong with it.
#[derive(Debug)]
pub(crate) struct Faulty {
    sectors: Sectors,
    counts: Counts,
    /// The fault that waits, for which kind of request, and that one's number, from 1.
    armed: Option<(Request, u64, Fault)>,
    /// What the power cut left, once there was one.
    survived: Option<Survived>,
    /// Bits that are read wrong, by their byte.
    flipped: BTreeMap<u64, u8>,
}

impl Faulty {
    pub(crate) fn new(image: Image) -> Self {
        Self {
            sectors: Sectors::new(image),
            counts: Counts::default(),
            armed: None,
            survived: None,
            flipped: BTreeMap::new(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn survived(&self) -> Option<Survived> {
        self.survived
    }

    pub(crate) fn image(&self) -> &Image {
        self.sectors.image()
    }

    /// Sets `fault` for the `nth` request of a kind from now on, 1 being the next.
    pub(crate) fn arm(&mut self, request: Request, nth: u64, fault: Fault) {
        let so_far = match request {
            Request::Write => self.counts.writes,
            Request::Flush => self.counts.flushes,
        };
        self.armed = Some((request, so_far + nth, fault));
    }

    pub(crate) fn disarm(&mut self) {
        self.armed = None;
        self.flipped.clear();
    }

    /// From now on the bits of `mask` are read wrong in the byte at `at`.
    pub(crate) fn flip(&mut self, at: u64, mask: u8) {
        self.flipped.insert(at, mask);
    }

    /// Cuts the power, if it is not off already.
    pub(crate) fn cut(&mut self, seed: u64) {
        if self.survived.is_none() {
            self.survived = Some(self.sectors.cut(seed));
        }
    }

    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Refused> {
        self.begin(Request::Write)?;
        self.sectors.write(at, bytes).then_some(()).ok_or(Refused)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Refused> {
        self.begin(Request::Flush)?;
        self.sectors.flush();
        Ok(())
    }

    pub(crate) fn read(&self, at: u64, len_bytes: usize) -> Result<Vec<u8>, Refused> {
        let mut bytes = vec![0; len_bytes];
        if self.survived.is_some() || !self.sectors.read(at, &mut bytes) {
            return Err(Refused);
        }
        for (place, mask) in self.flipped.range(at..at + len_bytes as u64) {
            if let Some(byte) = bytes.get_mut((place - at) as usize) {
                *byte ^= mask;
            }
        }
        Ok(bytes)
    }

    /// Counts a request and tells whether it may be carried out.
    fn begin(&mut self, request: Request) -> Result<(), Refused> {
        if self.survived.is_some() {
            return Err(Refused);
        }
        let count = match request {
            Request::Write => &mut self.counts.writes,
            Request::Flush => &mut self.counts.flushes,
        };
        *count += 1;
        match self.armed {
            Some((of, nth, fault)) if of == request && *count >= nth => match fault {
                Fault::Cut(seed) => self.cut(seed),
                Fault::Error => self.armed = None,
                Fault::ErrorsFromHere => {}
            },
            _ => return Ok(()),
        }
        self.counts.failed += u64::from(self.survived.is_none());
        Err(Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Faulty {
        Faulty::new(Image::blank(8 * 512))
    }

    #[test]
    fn one_write_fails_and_changes_nothing() {
        let mut disk = disk();
        disk.write(0, &[1; 512]).unwrap();
        disk.arm(Request::Write, 2, Fault::Error);
        disk.flush().unwrap();
        disk.write(512, &[1; 512]).unwrap();
        assert_eq!(disk.write(0, &[2; 512]), Err(Refused));
        disk.write(1024, &[1; 512]).unwrap();
        assert_eq!(disk.read(0, 1536).unwrap(), [1; 1536]);
        let (writes, flushes, failed) = (4, 1, 1);
        let counts = Counts {
            writes,
            flushes,
            failed,
        };
        assert_eq!(disk.counts(), counts);
    }

    #[test]
    fn a_flush_that_failed_made_nothing_safe() {
        let mut disk = disk();
        disk.arm(Request::Flush, 1, Fault::ErrorsFromHere);
        disk.write(0, &[1; 512]).unwrap();
        assert_eq!(disk.flush(), Err(Refused));
        assert_eq!(disk.flush(), Err(Refused));
        assert_eq!(disk.image().find(&[1]), None);
        disk.disarm();
        disk.flush().unwrap();
        assert_eq!(disk.image().find(&[1]), Some(0));
    }

    #[test]
    fn without_power_nothing_is_done() {
        let mut disk = disk();
        disk.arm(Request::Write, 1, Fault::Cut(1));
        assert_eq!(disk.write(0, &[1; 512]), Err(Refused));
        assert_eq!(disk.survived(), Some(Survived { new: 0, old: 0 }));
        assert_eq!(disk.flush(), Err(Refused));
        assert_eq!(disk.read(0, 512), Err(Refused));
        assert_eq!(disk.image().find(&[1]), None);
    }

    #[test]
    fn a_flipped_bit_is_in_what_is_read_alone() {
        let mut disk = disk();
        disk.write(512, &[4; 512]).unwrap();
        disk.flush().unwrap();
        disk.flip(513, 1);
        assert_eq!(disk.read(512, 512).unwrap()[..3], [4, 5, 4]);
        disk.disarm();
        assert_eq!(disk.read(512, 512).unwrap(), [4; 512]);
    }
}
