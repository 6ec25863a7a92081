//! Gathers messages into the body of one frame.

use bytes::Bytes;
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use super::layout::{COLUMN_BYTES, ColumnKind, ROOT_BYTES, VEC_BYTES, vec_ref};
use super::parts::{COLUMN_KINDS, COLUMNS, Parts, ValueBytes};
use super::view::HeaderLimits;
use super::{Message, PushError, Record};
use crate::checksum::crc32c;
use crate::frame::{FrameKind, ProducerStamp, PublisherFields};
use crate::limits::{
    BODY_BYTES_MAX, COMPRESS_BYTES_MIN, FRAME_HEADER_BYTES, RECORDS_PER_FRAME_MAX,
};

/// Bodies from this size are kept as handles and written from where they are; smaller ones are
/// gathered into the payload block, which costs less than a handle.
const LARGE_BYTES_MIN: usize = 4096;
/// A compressed payload is taken when it saves at least one part in this many.
const COMPRESS_GAIN_PARTS: usize = 8;

/// Where the bytes of a body go: a vector, or a claimed place in a segment.
pub trait Sink {
    /// Takes the next bytes. The writer said before how many will come in all.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Gathers messages into the body of one frame; reusable, and without allocation once warm.
///
/// The exact size of the body is known at every moment, so a place for it can be claimed before it
/// is written.
///
/// ```
/// use millstream_protocol::batch::{BatchBuilder, BatchView, Message};
/// let mut batch = BatchBuilder::new();
/// batch.push(&Message::new("one").key("k"))?;
/// batch.push_body(b"two")?;
/// let mut body = Vec::new();
/// batch.write_body(&mut body);
/// assert_eq!(body.len(), batch.body_bytes() as usize);
/// let fields = batch.fields();
/// let view = BatchView::check(fields.kind, fields.record_count, false, &body).unwrap();
/// assert_eq!(view.record(1).unwrap().body(), b"two");
/// # Ok::<(), millstream_protocol::batch::PushError>(())
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    record_count: u16,
    bytes_max: usize,
    /// Little-endian u32s.
    ends: Vec<u8>,
    /// The bodies that were gathered, one after the other.
    gathered: Vec<u8>,
    /// The bodies that were not, each with the gathered byte it stands before.
    large: Vec<(usize, Bytes)>,
    payload_bytes: usize,
    columns: [ColumnBuffer; COLUMNS],
    /// Whether any of the columns is present; most batches have none and pay for none.
    has_options: bool,
    compressor: Option<Compressor>,
    /// Bytes of the compressed payload when [`BatchBuilder::compress`] took it.
    compressed_bytes: Option<usize>,
}

/// The parts of one optional column; all empty while no record has the option.
#[derive(Debug, Default)]
struct ColumnBuffer {
    /// Little-endian u32s, one a record.
    ends: Vec<u8>,
    /// Little-endian u32s, two a header; they follow `ends`.
    pairs: Vec<u8>,
    /// Little-endian u64s.
    words: Vec<u8>,
    bytes: Vec<u8>,
}

struct Compressor {
    table: CompressTable,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor")
            .field("room_bytes", &self.output.len())
            .finish()
    }
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch that grows up to the limit of a frame.
    #[must_use]
    pub fn new() -> Self {
        Self::with_bytes_max(BODY_BYTES_MAX)
    }

    /// An empty batch whose body never exceeds `bytes_max`, nor the limit of a frame.
    #[must_use]
    pub fn with_bytes_max(bytes_max: usize) -> Self {
        Self {
            record_count: 0,
            bytes_max: bytes_max.min(BODY_BYTES_MAX),
            ends: Vec::new(),
            gathered: Vec::new(),
            large: Vec::new(),
            payload_bytes: 0,
            columns: Default::default(),
            has_options: false,
            compressor: None,
            compressed_bytes: None,
        }
    }

    /// The records in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.record_count as usize
    }

    /// As [`len`](Self::len): a frame counts its records in 16 bits.
    #[must_use]
    pub const fn record_count(&self) -> u16 {
        self.record_count
    }

    /// Whether it holds no record; such a batch cannot be published.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes of all bodies together, as they were pushed.
    #[must_use]
    pub const fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// What a frame with this body says of it, without a producer.
    #[must_use]
    pub fn fields(&self) -> PublisherFields {
        PublisherFields {
            kind: if self.is_single() {
                FrameKind::Single
            } else {
                FrameKind::Batch
            },
            compressed: self.compressed_bytes.is_some(),
            record_count: self.record_count,
            body_bytes: self.body_bytes(),
            producer: ProducerStamp::NONE,
        }
    }

    /// Whether any message in it has an id.
    #[must_use]
    pub fn has_ids(&self) -> bool {
        let ids = self.columns.get(ColumnKind::Id.index());
        self.has_options && ids.is_some_and(|ids| !ids.bytes.is_empty())
    }

    /// The exact number of bytes [`BatchBuilder::write_body`] will write.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "push keeps bodies to 16 MiB"
    )]
    pub fn body_bytes(&self) -> u32 {
        let payload_bytes = self.compressed_bytes.unwrap_or(self.payload_bytes);
        (self.plain_bytes() - self.payload_bytes + payload_bytes) as u32
    }

    /// Puts a message behind those already there.
    ///
    /// Copies a small body; keeps a handle to a large one.
    ///
    /// # Errors
    ///
    /// The batch is as before; see [`PushError`].
    pub fn push(&mut self, message: &Message) -> Result<(), PushError> {
        self.push_within(message, HeaderLimits::PUBLISHER)
    }

    /// Puts a message with the broker's own notes among its headers behind those already there:
    /// they may come to 40, and to 6,144 bytes.
    ///
    /// # Errors
    ///
    /// The batch is as before; see [`PushError`].
    pub fn push_noted(&mut self, message: &Message) -> Result<(), PushError> {
        self.push_within(message, HeaderLimits::NOTED)
    }

    /// Puts a record that was read behind those already there, with all its options.
    ///
    /// Copies a small body and the options; keeps a handle to a large body.
    ///
    /// # Errors
    ///
    /// The batch is as before; see [`PushError`].
    pub fn push_record(&mut self, record: &Record) -> Result<(), PushError> {
        match record.options_ref() {
            None => {
                self.admit(record.body.len(), None)?;
                self.push_payload(&record.body);
                Ok(())
            }
            Some(options) => {
                let parts = Parts::of_record(&options);
                self.push_parts(&record.body, &parts, HeaderLimits::NOTED)
            }
        }
    }

    fn push_within(&mut self, message: &Message, limits: HeaderLimits) -> Result<(), PushError> {
        if message.is_plain() {
            self.admit(message.body.len(), None)?;
            self.push_payload(&message.body);
            return Ok(());
        }
        self.push_parts(&message.body, &Parts::of_message(message), limits)
    }

    fn push_parts<'a, H>(
        &mut self,
        body: &Bytes,
        parts: &Parts<'a, H>,
        limits: HeaderLimits,
    ) -> Result<(), PushError>
    where
        H: ExactSizeIterator<Item = (&'a str, &'a [u8])> + Clone,
    {
        parts.check(limits)?;
        let values = parts.value_bytes();
        let any = values.iter().any(Option::is_some);
        self.admit(body.len(), any.then_some(&values))?;
        if any {
            self.push_options(parts, &values);
        }
        self.push_payload(body);
        Ok(())
    }

    /// Puts the body of a record in whose options are in, and counts it.
    fn push_payload(&mut self, body: &Bytes) {
        if body.len() < LARGE_BYTES_MIN {
            self.gathered.extend_from_slice(body);
        } else {
            self.large.push((self.gathered.len(), body.clone()));
        }
        self.finish_record(body.len());
    }

    /// Puts a message without options behind those already there; copies `body`.
    ///
    /// # Errors
    ///
    /// The batch is as before; see [`PushError`].
    pub fn push_body(&mut self, body: &[u8]) -> Result<(), PushError> {
        self.admit(body.len(), None)?;
        self.gathered.extend_from_slice(body);
        self.finish_record(body.len());
        Ok(())
    }

    /// Compresses the payload block with lz4 if it has 1 KiB or more and an eighth is saved.
    ///
    /// Says whether it did. A later push undoes it; costs one pass over the payload.
    pub fn compress(&mut self) -> bool {
        if self.payload_bytes < COMPRESS_BYTES_MIN || self.compressed_bytes.is_some() {
            return self.compressed_bytes.is_some();
        }
        let mut compressor = self.compressor.take().unwrap_or_else(|| Compressor {
            table: CompressTable::large(),
            input: Vec::new(),
            output: Vec::new(),
        });
        if !self.large.is_empty() {
            compressor.input.clear();
            self.write_payload(&mut compressor.input);
        }
        let Compressor {
            table,
            input,
            output,
        } = &mut compressor;
        let input = if self.large.is_empty() {
            &self.gathered
        } else {
            &*input
        };
        output.resize(get_maximum_output_size(input.len()), 0);
        let worth = self.payload_bytes - self.payload_bytes / COMPRESS_GAIN_PARTS;
        // A single has to become a batch, whose columns cost and whose expanded form must fit.
        let added = if self.is_single() {
            self.columns_bytes()
        } else {
            0
        };
        self.compressed_bytes = compress_into_with_table(input, output, table)
            .ok()
            .filter(|bytes| bytes + added <= worth)
            .filter(|_| self.payload_bytes + self.columns_bytes() <= self.bytes_max);
        self.compressor = Some(compressor);
        self.compressed_bytes.is_some()
    }

    /// Writes the body: exactly [`BatchBuilder::body_bytes`] bytes, each part straight from where
    /// it is. Allocates nothing.
    pub fn write_body(&self, out: &mut impl Sink) {
        if self.is_single() {
            return self.write_payload(out);
        }
        out.put(&self.ends);
        match (&self.compressor, self.compressed_bytes) {
            (Some(compressor), Some(bytes)) => {
                out.put(compressor.output.get(..bytes).unwrap_or_default());
            }
            _ => self.write_payload(out),
        }
        for (column, _) in self.present() {
            column.write(out);
        }
        self.write_references(out);
    }

    /// Appends the frame as a publisher sends it: header, then body.
    pub fn encode_frame(&self, producer: ProducerStamp, out: &mut Vec<u8>) {
        let start = out.len();
        let fields = PublisherFields {
            producer,
            ..self.fields()
        };
        out.reserve(FRAME_HEADER_BYTES + fields.body_bytes as usize);
        out.extend_from_slice(&[0; FRAME_HEADER_BYTES / 2]);
        out.extend_from_slice(&fields.encode());
        self.write_body(out);
        let crc = crc32c(
            out.get(start + FRAME_HEADER_BYTES / 2..)
                .unwrap_or_default(),
        );
        if let Some(place) = out.get_mut(start + 12..start + 16) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
    }

    /// Empties the batch and keeps its room.
    pub fn clear(&mut self) {
        self.record_count = 0;
        self.ends.clear();
        self.gathered.clear();
        self.large.clear();
        self.payload_bytes = 0;
        self.compressed_bytes = None;
        self.has_options = false;
        for column in &mut self.columns {
            column.clear();
        }
    }

    /// Whether the body is the payload alone.
    fn is_single(&self) -> bool {
        self.record_count == 1 && self.compressed_bytes.is_none() && !self.has_options
    }

    /// Bytes of the body with its payload as pushed.
    fn plain_bytes(&self) -> usize {
        self.payload_bytes
            + if self.is_single() {
                0
            } else {
                self.columns_bytes()
            }
    }

    /// Bytes of a columnar body without its payload.
    fn columns_bytes(&self) -> usize {
        let optional = self
            .present()
            .map(|(column, _)| COLUMN_BYTES + column.len_bytes());
        self.ends.len() + optional.sum::<usize>() + ROOT_BYTES
    }

    /// Whether one more record fits, with this many bytes of body and these values of options.
    #[inline]
    fn admit(&self, body_bytes: usize, values: Option<&ValueBytes>) -> Result<(), PushError> {
        let alone = body_bytes + values.map_or(0, |values| 4 + ROOT_BYTES + fresh_bytes(values));
        if alone > self.bytes_max {
            return Err(PushError::TooLarge {
                bytes: alone,
                bytes_max: self.bytes_max,
            });
        }
        if self.is_empty() {
            return Ok(());
        }
        let mut after = self.payload_bytes + body_bytes + self.ends.len() + 4 + ROOT_BYTES;
        if self.has_options || values.is_some() {
            after += self.options_bytes_with(values);
        }
        if self.len() == RECORDS_PER_FRAME_MAX || after > self.bytes_max {
            return Err(PushError::Full);
        }
        Ok(())
    }

    /// Bytes of the optional columns with one more record, which has these values.
    fn options_bytes_with(&self, values: Option<&ValueBytes>) -> usize {
        let columns = ColumnKind::ALL.iter().zip(&self.columns);
        let bytes = columns.map(|(kind, column)| {
            let value = values.and_then(|values| values.get(kind.index()).copied().flatten());
            let before = match (column.is_present(), value) {
                (true, _) => column.len_bytes(),
                (false, Some(_)) => entry_bytes(*kind) * self.len(),
                (false, None) => return 0,
            };
            COLUMN_BYTES + before + entry_bytes(*kind) + value.unwrap_or(0)
        });
        bytes.sum()
    }

    /// Enters the options of the next record; columns it is the first to use begin with empty
    /// entries for those before it.
    fn push_options<'a, H>(&mut self, parts: &Parts<'a, H>, values: &ValueBytes)
    where
        H: ExactSizeIterator<Item = (&'a str, &'a [u8])> + Clone,
    {
        self.has_options = true;
        let records = self.len();
        for ((kind, column), value) in ColumnKind::ALL.iter().zip(&mut self.columns).zip(values) {
            if value.is_none() {
                continue;
            }
            if !column.is_present() {
                column
                    .entries(*kind)
                    .resize(records * entry_bytes(*kind), 0);
            }
            match kind {
                ColumnKind::Key => column.push_bytes(parts.key),
                ColumnKind::Id => column.push_bytes(parts.id),
                ColumnKind::Group => column.push_bytes(parts.group),
                ColumnKind::Headers => column.push_headers(parts.headers.clone()),
                ColumnKind::DueAt => column.push_word(parts.due_at_us),
                ColumnKind::ExpiresAt => column.push_word(parts.expires_at_us),
                ColumnKind::PublishedAt => column.push_word(parts.published_at_us),
                ColumnKind::Priority => column.bytes.push(parts.priority),
            }
        }
    }

    /// Counts a record whose body and options are in.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "admit keeps a payload to 16 MiB"
    )]
    #[inline]
    fn finish_record(&mut self, body_bytes: usize) {
        self.payload_bytes += body_bytes;
        self.ends
            .extend_from_slice(&(self.payload_bytes as u32).to_le_bytes());
        self.record_count += 1;
        self.compressed_bytes = None;
        if self.has_options {
            self.fill_columns();
        }
    }

    /// Gives the last record empty entries in the columns it did not use.
    fn fill_columns(&mut self) {
        let records = self.len();
        for (kind, column) in ColumnKind::ALL.iter().zip(&mut self.columns) {
            if column.is_present() && column.entries(*kind).len() < records * entry_bytes(*kind) {
                column.push_nothing(*kind);
            }
        }
    }

    /// The columns some record has a value in.
    fn present(&self) -> impl Iterator<Item = (&ColumnBuffer, ColumnKind)> {
        let columns = if self.has_options {
            self.columns.as_slice()
        } else {
            &[]
        };
        columns
            .iter()
            .zip(COLUMN_KINDS)
            .filter(|(column, _)| column.is_present())
    }

    /// Writes the payload block as it was pushed.
    fn write_payload(&self, out: &mut impl Sink) {
        let mut from = 0;
        for (before, body) in &self.large {
            out.put(self.gathered.get(from..*before).unwrap_or_default());
            out.put(body);
            from = *before;
        }
        out.put(self.gathered.get(from..).unwrap_or_default());
    }

    /// Writes the entries of the optional columns, and the root behind them.
    fn write_references(&self, out: &mut impl Sink) {
        let payload_bytes = self.compressed_bytes.unwrap_or(self.payload_bytes);
        let payload_at = self.ends.len();
        let present = || {
            self.columns
                .iter()
                .zip(ColumnKind::ALL)
                .filter(|(c, _)| c.is_present())
        };
        let mut part_at = payload_at + payload_bytes;
        let columns_at = part_at
            + present()
                .map(|(column, _)| column.len_bytes())
                .sum::<usize>();
        let mut at = columns_at;
        for (column, kind) in self.present() {
            let ends_bytes = column.ends.len() + column.pairs.len();
            let words_at = part_at + ends_bytes;
            let bytes_at = words_at + column.words.len();
            out.put(&[kind.code()]);
            out.put(&vec_ref(at + 1, part_at, ends_bytes / 4));
            out.put(&vec_ref(
                at + 1 + VEC_BYTES,
                words_at,
                column.words.len() / 8,
            ));
            out.put(&vec_ref(
                at + 1 + 2 * VEC_BYTES,
                bytes_at,
                column.bytes.len(),
            ));
            part_at += column.len_bytes();
            at += COLUMN_BYTES;
        }
        out.put(&vec_ref(at, 0, self.len()));
        out.put(&vec_ref(at + VEC_BYTES, payload_at, payload_bytes));
        out.put(&vec_ref(
            at + 2 * VEC_BYTES,
            columns_at,
            self.present().count(),
        ));
    }
}

impl ColumnBuffer {
    const fn is_present(&self) -> bool {
        !(self.ends.is_empty() && self.words.is_empty() && self.bytes.is_empty())
    }

    const fn len_bytes(&self) -> usize {
        self.ends.len() + self.pairs.len() + self.words.len() + self.bytes.len()
    }

    /// The part that has one entry a record.
    const fn entries(&mut self, kind: ColumnKind) -> &mut Vec<u8> {
        match kind {
            ColumnKind::Key | ColumnKind::Headers | ColumnKind::Id | ColumnKind::Group => {
                &mut self.ends
            }
            ColumnKind::DueAt | ColumnKind::ExpiresAt | ColumnKind::PublishedAt => &mut self.words,
            ColumnKind::Priority => &mut self.bytes,
        }
    }

    /// An entry for a record without the option: where the one before ends, or zero.
    fn push_nothing(&mut self, kind: ColumnKind) {
        match kind {
            ColumnKind::Key | ColumnKind::Id | ColumnKind::Group => self.push_bytes(&[]),
            ColumnKind::Headers => self.push_headers(std::iter::empty()),
            ColumnKind::DueAt | ColumnKind::ExpiresAt | ColumnKind::PublishedAt => {
                self.push_word(0);
            }
            ColumnKind::Priority => self.bytes.push(0),
        }
    }

    fn push_bytes(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        push_count(&mut self.ends, self.bytes.len());
    }

    fn push_headers<'a>(&mut self, headers: impl Iterator<Item = (&'a str, &'a [u8])>) {
        for (name, value) in headers {
            self.bytes.extend_from_slice(name.as_bytes());
            push_count(&mut self.pairs, self.bytes.len());
            self.bytes.extend_from_slice(value);
            push_count(&mut self.pairs, self.bytes.len());
        }
        push_count(&mut self.ends, self.pairs.len() / 8);
    }

    fn push_word(&mut self, word: u64) {
        self.words.extend_from_slice(&word.to_le_bytes());
    }

    fn write(&self, out: &mut impl Sink) {
        out.put(&self.ends);
        out.put(&self.pairs);
        out.put(&self.words);
        out.put(&self.bytes);
    }

    fn clear(&mut self) {
        self.ends.clear();
        self.pairs.clear();
        self.words.clear();
        self.bytes.clear();
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "admit keeps a body to 16 MiB"
)]
fn push_count(ends: &mut Vec<u8>, count: usize) {
    ends.extend_from_slice(&(count as u32).to_le_bytes());
}

/// Bytes of the columns for one record in a batch of its own.
fn fresh_bytes(values: &ValueBytes) -> usize {
    let values = ColumnKind::ALL.iter().zip(values);
    values
        .filter_map(|(kind, value)| value.map(|bytes| COLUMN_BYTES + entry_bytes(*kind) + bytes))
        .sum()
}

/// Bytes every record has in a column of this kind, with or without the option.
const fn entry_bytes(kind: ColumnKind) -> usize {
    match kind {
        ColumnKind::Key | ColumnKind::Headers | ColumnKind::Id | ColumnKind::Group => 4,
        ColumnKind::DueAt | ColumnKind::ExpiresAt | ColumnKind::PublishedAt => 8,
        ColumnKind::Priority => 1,
    }
}
