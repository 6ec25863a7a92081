//! The log of one topic: memory-mapped segments that are appended to without a lock, synced in
//! groups, and recovered after any stop.
//!
//! - [`Store`]: an open data folder with its [`Log`]s and the threads that serve them;
//! - [`Appender`]: claims, fills and commits frames, and learns how far they are durable;
//! - [`LogReader`]: reads whole frames from any offset, straight from the map;
//! - [`SegmentMemory`] and [`Folder`]: the two seams to the disk, each with a twin on the heap;
//! - [`Manifest`]: what the folder holds, and where each log ends.
//!
//! `docs/STORAGE.md` draws the files byte by byte and states what recovery does.

mod appender;
mod baton;
mod blocks;
mod chain;
mod checkpoints;
mod claim;
mod clock;
mod cold;
#[cfg(all(any(test, feature = "testing"), not(loom)))]
#[doc(hidden)]
pub mod crash;
mod disk;
mod dump;
mod folder;
mod footer;
#[cfg(all(any(test, feature = "testing"), not(loom)))]
#[doc(hidden)]
pub mod hand;
mod heap;
mod inspect;
mod layout;
mod lock;
mod log;
mod lost_pages;
pub mod manifest;
mod memory;
#[cfg(all(test, loom))]
mod models;
mod park;
mod prefix;
mod prepare;
mod quarantine;
mod reader;
mod recovery;
mod repair;
mod replacing;
mod reserve;
mod retention;
#[cfg(all(test, not(loom)))]
mod rot;
#[cfg(all(test, not(loom)))]
mod rules;
mod scratch;
mod segment;
mod shared;
mod slice;
mod slot;
mod spares;
mod still;
mod store;
mod sync;
mod verdict;
mod verify;
mod walker;
mod work;

pub use appender::{AppendError, Appended, Appender, BodyWriter, LevelWait};
pub use checkpoints::Checkpoints;
pub use cold::older_than;
pub use disk::{DiskFolder, catch_page_faults};
pub use dump::{
    DumpError, DumpedFooter, DumpedFrame, DumpedIdentity, DumpedMark, DumpedSlot, FrameProblem,
    SegmentDump, dump_segment,
};
pub use folder::{Access, AppendFile, Blocks, FileError, Folder, NAME_PART_BYTES_MAX};
pub use footer::FooterError;
pub use heap::{Failure, HeapFolder, Operation};
pub use inspect::{InspectedLog, Inspection};
pub use layout::IdentityError;
pub use lock::{FolderLock, LOCK_FILE, LockError};
pub use log::{Level, Log, LogIdentity, Poisoned};
pub use manifest::{LogId, Manifest, ManifestError, SegmentNumber};
pub use memory::SegmentMemory;
pub use park::park_until;
pub use quarantine::{
    Acknowledged, CutFrame, CutOff, Quarantine, QuarantinedFile, quarantine, read_cut,
};
pub use reader::{Chunk, LogReader, ReadError};
pub use recovery::LogRecovery;
pub use repair::{RepairAction, RepairError, RepairPlan, Unrepairable, plan_repair, repair};
pub use retention::{
    TrimError, Trimmed, claimed_end, is_one_segment, may_trim, newest, records_between,
    set_segment_sizes, started_at, trim,
};
pub use scratch::ScratchFile;
pub use slice::FrameSlice;
pub use store::{CloseError, CreateError, DeleteError, OpenError, Store, StoreOptions};
pub use sync::{Baton, Counter, Flag, Handed, Held, Lane, Mailbox, Put, Ring, Tray, TrayBusy};
pub use verify::{
    Fault, PROBLEMS_MAX, Problem, TopicReport, Unclean, VerifyError, VerifyProgress, VerifyReport,
    verify, verify_deep,
};
