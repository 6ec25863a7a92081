//! The footer of a sealed segment: its counts and times, and where frames start.
//!
//! One summary page, then index pages: for every 4 KiB page of the segment two bytes that give the
//! first frame starting in it. That is the index for offsets and times, and the only source of frame
//! boundaries after damage. Every page has its own checksum, so one bad page costs one page.

use millstream_protocol::checksum::crc32c;

use crate::layout::{INDEX_ENTRIES_PER_PAGE, PAGE_BYTES, u32_at, u64_at};
use crate::manifest::SegmentNumber;

const MAGIC: [u8; 8] = *b"MLSTFOOT";
const FORMAT: u32 = 1;
const SUMMARY_BYTES: usize = 88;
/// Index entry of a page in which no frame starts.
const NO_FRAME: u16 = u16::MAX;
/// Frames start at multiples of eight, so an entry counts eights.
const ENTRY_UNIT: u32 = 8;

/// The first frame start of every page of a segment, grown as frames are walked in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PageIndex {
    starts: Vec<u16>,
}

impl PageIndex {
    /// Notes that a frame starts at `position`. Frames must come in order.
    pub(crate) fn note(&mut self, position: u32) {
        let page = (position / PAGE_BYTES) as usize;
        if page < self.starts.len() {
            return;
        }
        self.starts.resize(page, NO_FRAME);
        let unit = position % PAGE_BYTES / ENTRY_UNIT;
        self.starts
            .push(u16::try_from(unit).expect("a page has fewer than 65,536 eights"));
    }

    fn start_in(&self, page: usize) -> Option<u32> {
        let unit = self
            .starts
            .get(page)
            .copied()
            .filter(|unit| *unit != NO_FRAME)?;
        let page = u32::try_from(page).ok()?;
        Some(page * PAGE_BYTES + u32::from(unit) * ENTRY_UNIT)
    }

    /// The first known frame start at or behind `position`.
    pub(crate) fn next_start(&self, position: u32) -> Option<u32> {
        let first = (position / PAGE_BYTES) as usize;
        (first..self.starts.len())
            .filter_map(|page| self.start_in(page))
            .find(|start| *start >= position)
    }

    /// The last known frame start for which `before` holds, given that it holds for a prefix.
    pub(crate) fn last_before(&self, mut before: impl FnMut(u32) -> bool) -> Option<u32> {
        let (mut low, mut high) = (0, self.starts.len());
        let mut found = None;
        while low < high {
            let middle = low.midpoint(high);
            // Pages without a frame start take the next page that has one.
            let known = (middle..high).find_map(|page| Some((page, self.start_in(page)?)));
            match known {
                Some((page, start)) if before(start) => {
                    found = Some(start);
                    low = page + 1;
                }
                _ => high = middle,
            }
        }
        found
    }
}

/// What a segment holds, as its footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) segment: SegmentNumber,
    pub(crate) nonce: u64,
    pub(crate) frames: u64,
    pub(crate) base_offset: u64,
    pub(crate) end_offset: u64,
    pub(crate) first_time_us: u64,
    pub(crate) last_time_us: u64,
    pub(crate) end_position: u32,
}

/// What is wrong with a footer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FooterError {
    /// The summary page is not one, or its checksum does not match.
    Summary,
    /// This index page's checksum or number does not match.
    IndexPage(u32),
    /// The footer belongs to another use of the file.
    Foreign,
}

impl std::fmt::Display for FooterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Summary => f.write_str("the footer's summary page is damaged"),
            Self::IndexPage(page) => write!(f, "index page {page} of the footer is damaged"),
            Self::Foreign => f.write_str("the footer belongs to another use of the file"),
        }
    }
}

impl std::error::Error for FooterError {}

/// The bytes of a footer: whole pages.
pub(crate) fn encode(summary: &Summary, index: &PageIndex) -> Vec<u8> {
    let entries = u32::try_from(index.starts.len()).expect("a segment has fewer than 2^32 pages");
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&summary.segment.0.to_le_bytes());
    bytes.extend_from_slice(&summary.nonce.to_le_bytes());
    bytes.extend_from_slice(&summary.frames.to_le_bytes());
    bytes.extend_from_slice(&summary.base_offset.to_le_bytes());
    bytes.extend_from_slice(&summary.end_offset.to_le_bytes());
    bytes.extend_from_slice(&summary.first_time_us.to_le_bytes());
    bytes.extend_from_slice(&summary.last_time_us.to_le_bytes());
    bytes.extend_from_slice(&summary.end_position.to_le_bytes());
    bytes.extend_from_slice(&entries.to_le_bytes());
    // Producers of the de-duplication window: none are kept yet.
    bytes.extend_from_slice(&0_u64.to_le_bytes());
    bytes.resize(SUMMARY_BYTES, 0);
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.resize(PAGE_BYTES as usize, 0);
    for (number, starts) in index
        .starts
        .chunks(INDEX_ENTRIES_PER_PAGE as usize)
        .enumerate()
    {
        let mut page = Vec::with_capacity(PAGE_BYTES as usize);
        page.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        for start in starts {
            page.extend_from_slice(&start.to_le_bytes());
        }
        page.resize(PAGE_BYTES as usize - 4, 0xFF);
        bytes.extend_from_slice(&crc32c(&page).to_le_bytes());
        bytes.extend_from_slice(&page);
    }
    bytes
}

/// Reads a footer back. Index pages that do not check out are left empty and listed.
///
/// # Errors
///
/// [`FooterError::Summary`] or [`FooterError::Foreign`]: nothing of it can be used.
pub(crate) fn decode(
    bytes: &[u8],
    nonce: u64,
) -> Result<(Summary, PageIndex, Vec<FooterError>), FooterError> {
    let page = bytes
        .get(..SUMMARY_BYTES + 4)
        .filter(|page| page.starts_with(&MAGIC) && u32_at(page, 8) == FORMAT)
        .ok_or(FooterError::Summary)?;
    let (covered, crc) = page.split_at(SUMMARY_BYTES);
    if crc32c(covered) != u32_at(crc, 0) {
        return Err(FooterError::Summary);
    }
    let summary = Summary {
        segment: SegmentNumber(u32_at(page, 12)),
        nonce: u64_at(page, 16),
        frames: u64_at(page, 24),
        base_offset: u64_at(page, 32),
        end_offset: u64_at(page, 40),
        first_time_us: u64_at(page, 48),
        last_time_us: u64_at(page, 56),
        end_position: u32_at(page, 64),
    };
    if summary.nonce != nonce {
        return Err(FooterError::Foreign);
    }
    let mut left = u32_at(page, 68).min(u32::MAX / 2) as usize;
    let mut index = PageIndex::default();
    let mut damage = Vec::new();
    let mut pages = bytes.chunks(PAGE_BYTES as usize).skip(1);
    let mut number = 0;
    while left > 0 {
        let take = left.min(INDEX_ENTRIES_PER_PAGE as usize);
        let good = pages.next().filter(|page| {
            page.len() == PAGE_BYTES as usize
                && page
                    .get(4..)
                    .is_some_and(|rest| crc32c(rest) == u32_at(page, 0))
                && u32_at(page, 4) == number
        });
        match good {
            Some(page) => index.starts.extend(
                page.get(8..)
                    .unwrap_or_default()
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .take(take)
                    .map(|entry| u16::from_le_bytes(*entry)),
            ),
            None => {
                damage.push(FooterError::IndexPage(number));
                if damage.len() > 1024 {
                    return Err(FooterError::Summary);
                }
                index.starts.resize(index.starts.len() + take, NO_FRAME);
            }
        }
        left -= take;
        number += 1;
    }
    Ok((summary, index, damage))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn sample() -> (Summary, PageIndex, Vec<u32>) {
        let mut index = PageIndex::default();
        let mut starts = Vec::new();
        let mut position = 3 * PAGE_BYTES;
        for number in 0_u32..9000 {
            starts.push(position);
            index.note(position);
            // Small frames, then one that spans several pages.
            position += if number % 50 == 49 {
                5 * PAGE_BYTES + 8
            } else {
                1608
            };
        }
        let summary = Summary {
            segment: SegmentNumber(3),
            nonce: 99,
            frames: 9000,
            base_offset: 10,
            end_offset: 9010,
            first_time_us: 1,
            last_time_us: 2,
            end_position: position,
        };
        (summary, index, starts)
    }

    #[test]
    fn footer_round_trips() {
        let (summary, index, _) = sample();
        let bytes = encode(&summary, &index);
        assert_eq!(bytes.len() % PAGE_BYTES as usize, 0);
        assert_eq!(decode(&bytes, 99), Ok((summary, index, vec![])));
        assert_eq!(decode(&bytes, 98), Err(FooterError::Foreign));
    }

    #[test]
    fn a_bad_index_page_costs_that_page_only() {
        let (summary, index, starts) = sample();
        let mut bytes = encode(&summary, &index);
        assert!(
            index.starts.len() > INDEX_ENTRIES_PER_PAGE as usize,
            "two index pages"
        );
        bytes[PAGE_BYTES as usize + 100] ^= 1;
        let (_, kept, damage) = decode(&bytes, 99).unwrap();
        assert_eq!(damage, vec![FooterError::IndexPage(0)]);
        let second = INDEX_ENTRIES_PER_PAGE * PAGE_BYTES;
        let expected = starts.iter().copied().find(|start| *start >= second);
        assert_eq!(kept.next_start(0), expected);
    }

    #[test]
    fn every_frame_is_found_from_the_page_before_it() {
        let (_, index, starts) = sample();
        for (number, start) in starts.iter().enumerate() {
            let found = index.last_before(|position| position <= *start).unwrap();
            assert!(found <= *start);
            let walk = starts[..=number]
                .iter()
                .rev()
                .position(|s| *s == found)
                .unwrap();
            assert!(walk < 4, "at most a page of frames is walked, not {walk}");
        }
        assert_eq!(index.last_before(|_| false), None);
    }
}
