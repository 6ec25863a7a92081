//! Puts archives together as an input says, right ones and wrong ones.
//!
//! ```text
//! input   records | a step for each end | slip | columns | of each: kind, ends, words, bytes
//! part    count | a step for each end; a byte for each word; the bytes themselves
//! step    0 to 249: the end rises by as much; 250 to 255: it falls by 1 to 6
//! slip    253: the payload is a byte longer than its last end; 254: shorter; 255: a byte before it
//! ```
//! What the input does not say is 0.

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn next(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn ends(&mut self, count: u8) -> Vec<u32> {
        let mut end = 0_u32;
        let mut step = || {
            let step = u32::from(self.next());
            end = if step < 250 {
                end + step
            } else {
                end.saturating_sub(step - 249)
            };
            end
        };
        (0..count).map(|_| step()).collect()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// Where a vector lies, and its elements.
#[derive(Clone, Copy)]
struct Placed {
    at: usize,
    count: usize,
}

#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn ends(&mut self, ends: &[u32]) -> Placed {
        let at = self.0.len();
        self.0.extend(ends.iter().flat_map(|end| end.to_le_bytes()));
        Placed {
            at,
            count: ends.len(),
        }
    }

    fn words(&mut self, words: &[u8]) -> Placed {
        let at = self.0.len();
        self.0
            .extend(words.iter().flat_map(|word| u64::from(*word).to_le_bytes()));
        Placed {
            at,
            count: words.len(),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Placed {
        let at = self.0.len();
        self.0.extend_from_slice(bytes);
        Placed {
            at,
            count: bytes.len(),
        }
    }

    fn refer(&mut self, to: Placed) {
        let pointer = to.at as i32 - self.0.len() as i32;
        self.0.extend_from_slice(&pointer.to_le_bytes());
        self.0.extend_from_slice(&(to.count as u32).to_le_bytes());
    }
}

/// The record count and the body an input describes.
pub(super) fn assemble(input: &[u8]) -> (u16, Vec<u8>) {
    let mut input = Input(input);
    let mut archive = Archive::default();
    let records = input.next();
    let ends = input.ends(records);
    let ends_placed = archive.ends(&ends);
    let last = ends.last().map_or(0, |end| *end as usize);
    let slip = input.next();
    let payload_bytes = match slip {
        253 => last + 1,
        254 => last.saturating_sub(1),
        _ => last,
    };
    if slip == 255 {
        archive.bytes(&[0]);
    }
    let payload = archive.bytes(&vec![b'p'; payload_bytes]);
    let mut columns = Vec::new();
    for _ in 0..input.next() % 10 {
        let kind = input.next();
        let ends_count = input.next();
        let ends = input.ends(ends_count);
        let words_count = usize::from(input.next());
        let words = input.bytes(words_count);
        let bytes_count = usize::from(input.next());
        let bytes = input.bytes(bytes_count);
        columns.push((
            kind,
            archive.ends(&ends),
            archive.words(&words),
            archive.bytes(&bytes),
        ));
    }
    let columns_placed = Placed {
        at: archive.0.len(),
        count: columns.len(),
    };
    for (kind, ends, words, bytes) in columns {
        archive.0.push(kind);
        archive.refer(ends);
        archive.refer(words);
        archive.refer(bytes);
    }
    archive.refer(ends_placed);
    archive.refer(payload);
    archive.refer(columns_placed);
    (u16::from(records), archive.0)
}
