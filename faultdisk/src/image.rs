//! What a disk holds: sectors that are safe, and newer ones that a flush would make safe.
//!
//! A sector of 512 bytes is old or new as a whole. A sector of zeros takes no memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a sector: what a disk writes whole or not at all.
pub(crate) const SECTOR_BYTES: usize = 512;
const ZEROS: Sector = [0; SECTOR_BYTES];

type Sector = [u8; SECTOR_BYTES];

/// The content of a disk without power.
#[derive(Debug, Clone)]
pub struct Image {
    len_bytes: u64,
    sectors: BTreeMap<u64, Sector>,
}

impl Image {
    /// An empty disk.
    pub(crate) fn blank(len_bytes: u64) -> Self {
        Self {
            len_bytes,
            sectors: BTreeMap::new(),
        }
    }

    /// The content of a file.
    pub(crate) fn read_from(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut image = Self::blank(file.metadata()?.len());
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(image);
            }
            let (whole, rest) = buffer.get(..read).unwrap_or_default().as_chunks();
            if !rest.is_empty() {
                return Err(io::Error::other("a disk consists of whole sectors"));
            }
            for sector in whole {
                image.put(at, *sector);
                at += 1;
            }
        }
    }

    /// Its size.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Where on the disk `wanted` stands for the first time, if it does not straddle two sectors.
    pub fn find(&self, wanted: &[u8]) -> Option<u64> {
        self.sectors.iter().find_map(|(number, sector)| {
            let within = sector
                .windows(wanted.len())
                .position(|window| window == wanted)?;
            Some(number * SECTOR_BYTES as u64 + within as u64)
        })
    }

    fn get(&self, number: u64) -> &Sector {
        self.sectors.get(&number).unwrap_or(&ZEROS)
    }

    fn put(&mut self, number: u64, sector: Sector) {
        if sector == ZEROS {
            self.sectors.remove(&number);
        } else {
            self.sectors.insert(number, sector);
        }
    }
}

/// A disk with power: an image, and what was written since the last flush.
#[derive(Debug)]
pub(crate) struct Sectors {
    stable: Image,
    /// The newest content of each sector written since the last flush.
    unsynced: BTreeMap<u64, Sector>,
}

/// What a power cut left of the sectors that no flush had covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survived {
    /// Sectors that hold what was written last.
    pub new: usize,
    /// Sectors that hold what they held at the last flush.
    pub old: usize,
}

impl Sectors {
    pub(crate) fn new(stable: Image) -> Self {
        Self {
            stable,
            unsynced: BTreeMap::new(),
        }
    }

    pub(crate) fn image(&self) -> &Image {
        &self.stable
    }

    /// Fills `buffer` with what a reader sees from byte `at` on; false when that is not on the disk.
    pub(crate) fn read(&self, at: u64, buffer: &mut [u8]) -> bool {
        let Some(first) = self.place(at, buffer.len()) else {
            return false;
        };
        for (number, piece) in (first..).zip(buffer.chunks_mut(SECTOR_BYTES)) {
            let sector = self.unsynced.get(&number);
            piece.copy_from_slice(sector.unwrap_or_else(|| self.stable.get(number)));
        }
        true
    }

    /// Takes `bytes` into the disk's own memory; false when they do not belong on the disk.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> bool {
        let Some(first) = self.place(at, bytes.len()) else {
            return false;
        };
        let (whole, _) = bytes.as_chunks();
        for (number, sector) in (first..).zip(whole) {
            self.unsynced.insert(number, *sector);
        }
        true
    }

    /// Makes all that was written safe.
    pub(crate) fn flush(&mut self) {
        for (number, sector) in std::mem::take(&mut self.unsynced) {
            self.stable.put(number, sector);
        }
    }

    /// Cuts the power. Of each sector written since the last flush the old or the new content
    /// stays; how many of which, and which, is up to `seed`.
    pub(crate) fn cut(&mut self, seed: u64) -> Survived {
        let mut coins = Coins(seed);
        // Of some cuts all is lost or kept, or all but a few: one sector that is missing behind
        // many that are there is another case than half of them.
        let kept_of_eight = match coins.next() % 8 {
            0 => 0,
            1 => 8,
            2 => 1,
            3 | 4 => 4,
            _ => 7,
        };
        let mut survived = Survived { new: 0, old: 0 };
        for (number, sector) in std::mem::take(&mut self.unsynced) {
            if coins.next() % 8 < kept_of_eight {
                self.stable.put(number, sector);
                survived.new += 1;
            } else {
                survived.old += 1;
            }
        }
        survived
    }

    /// The sector at byte `at`, if `len_bytes` from there are whole sectors of the disk.
    fn place(&self, at: u64, len_bytes: usize) -> Option<u64> {
        let sector = SECTOR_BYTES as u64;
        let len_bytes = len_bytes as u64;
        let fits = at.checked_add(len_bytes)? <= self.stable.len_bytes;
        let whole = at.is_multiple_of(sector) && len_bytes.is_multiple_of(sector);
        (fits && whole).then_some(at / sector)
    }
}

/// Numbers that look random and are the same for the same seed (SplitMix64).
struct Coins(u64);

impl Coins {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Sectors {
        Sectors::new(Image::blank(64 * 512))
    }

    fn sector(disk: &Sectors, number: u64) -> u8 {
        let mut bytes = [0; 512];
        assert!(disk.read(number * 512, &mut bytes));
        bytes[0]
    }

    #[test]
    fn what_was_flushed_survives_every_cut() {
        for seed in 0..100 {
            let mut disk = disk();
            assert!(disk.write(0, &[1; 64 * 512]));
            disk.flush();
            assert!(disk.write(0, &[2; 32 * 512]));
            let survived = disk.cut(seed);
            assert_eq!(survived.new + survived.old, 32);
            let new = (0..32).filter(|&number| sector(&disk, number) == 2).count();
            let old = (0..64).filter(|&number| sector(&disk, number) == 1).count();
            assert_eq!((new, old), (survived.new, survived.old + 32));
        }
    }

    #[test]
    fn cuts_of_all_kinds_come_about() {
        let mut kept: Vec<usize> = (0..100)
            .map(|seed| {
                let mut disk = disk();
                assert!(disk.write(0, &[1; 64 * 512]));
                disk.cut(seed).new
            })
            .collect();
        kept.sort_unstable();
        kept.dedup();
        assert!(kept.starts_with(&[0]) && kept.ends_with(&[64]) && kept.len() > 10);
    }

    #[test]
    fn a_reader_sees_what_was_written_last() {
        let mut disk = disk();
        assert!(disk.write(512, &[1; 512]));
        disk.flush();
        assert!(disk.write(512, &[2; 512]));
        assert_eq!([0, 1, 2].map(|number| sector(&disk, number)), [0, 2, 0]);
        assert_eq!(disk.image().find(&[1; 512]), Some(512));
        assert_eq!(disk.image().find(&[2]), None);
    }

    #[test]
    fn what_is_not_on_the_disk_is_refused() {
        let mut disk = disk();
        assert!(!disk.write(63 * 512, &[1; 1024]));
        assert!(!disk.write(1, &[1; 512]));
        assert!(!disk.write(0, &[1; 511]));
        assert!(!disk.read(u64::MAX - 511, &mut [0; 512]));
    }
}
