//! The body of a frame: one payload, or a columnar batch.
//!
//! A batch of one record without options is a *single*: the body is the payload and nothing else.
//! Any other batch is an rkyv archive (little-endian, 32-bit relative pointers, unaligned) of
//! columns:
//!
//! ```text
//! ends     u32 x n     where each record's payload ends in the payload block
//! payload  bytes       one block; lz4 when the frame's flag says so, while ends count it expanded
//! columns  0 to 8      optional ones, each once, by rising kind: see [`ColumnKind`]
//! root     24 bytes    where the three are
//! ```
//! A plain batch of n costs 4 n + 24 bytes; the i-th record is found in O(1); a run of records is
//! one slice of the payload block. Every value has one encoding: the parts lie in the order above
//! without gaps, a column is there only when some record has it, reserved bytes do not exist.
//!
//! [`BatchBuilder`] makes bodies, [`BatchView`] reads them, [`RecordRun`] gives the records of a run of
//! stored frames, owned as [`Record`]s or borrowed as [`RecordView`]s.

mod builder;
mod columns;
mod compression;
mod error;
mod layout;
mod message;
mod parts;
mod record;
mod run;
mod view;

pub use builder::{BatchBuilder, Sink};
pub use columns::Columns;
pub use compression::decompress;
pub use error::{BatchError, PushError};
pub use layout::ColumnKind;
pub use message::Message;
pub use record::{Record, RecordView};
pub(crate) use run::FrameRecords;
pub use run::{Checked, RecordRun};
pub(crate) use view::HeaderLimits;
pub use view::{BatchIter, BatchView, Headers, RecordRef};
