//! The bytes of one mapped segment, and the rights to touch them.
//!
//! ```text
//! 0        4096     8192     12288                    limit      footer
//! | identity | slot 0 | slot 1 | frame | frame | … | seal |  …  | pages … |
//! ```
//! Each byte has one writer at a time, and that is a type: [`Space`] for a claimed frame,
//! [`SealSpace`] for the end, [`SlotSpace`] for the watermark slots, [`FooterSpace`] for the footer.
//! [`CommittedRun`] reads what COMMIT-1 showed to be finished; those bytes never change again.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::compiler_fence;

use millstream_protocol::limits::{FRAME_ALIGN, FRAME_HEADER_BYTES};

use super::atomic::{AtomicU64, Ordering, fence};
use super::tail::{Tail, TailClaim};
use super::{hint, mutated};
use crate::layout::{FRAMES_START, PAGE_BYTES, SEGMENT_BYTES_MAX, SLOT_POSITIONS};
use crate::memory::SegmentMemory;

/// Bytes of a commit word, at the start of each frame.
const COMMIT_WORD_BYTES: u32 = 8;
const HEADER: u32 = FRAME_HEADER_BYTES as u32;

/// What may be written of a fresh segment, apart: hold one part, and nobody else has it.
#[derive(Debug)]
pub(crate) struct RegionParts {
    pub(crate) region: Arc<Region>,
    pub(crate) slots: SlotSpace,
    pub(crate) footer: FooterSpace,
}

/// One mapped segment: its tail, its memory, its nonce.
pub(crate) struct Region {
    tail: Tail,
    base: NonNull<u8>,
    limit_bytes: u32,
    len_bytes: u32,
    nonce_half: u32,
    memory: Arc<dyn SegmentMemory>,
    /// Nobody ever held a right to write it.
    read_only: bool,
    /// Behind the frames stands what the file held in a use before.
    served_before: bool,
    #[cfg(loom)]
    shadow: shadow::Shadow,
}

// SAFETY: `base` points into `memory`, which is `Send + Sync` and lives as long; all access to the
// bytes goes through the rights described in the module documentation.
unsafe impl Send for Region {}
// SAFETY: as for `Send`; shared access is by atomics (commit words, tail) or to finished bytes.
unsafe impl Sync for Region {}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("tail", &self.tail)
            .field("limit_bytes", &self.limit_bytes)
            .field("len_bytes", &self.len_bytes)
            .finish_non_exhaustive()
    }
}

impl Region {
    /// A segment that may be claimed from: frames go from [`FRAMES_START`] to `limit_bytes`.
    ///
    /// Nobody else holds a part of `memory`, which is zeros, or `served_before`: then anything may stand in it.
    /// `head` becomes its first bytes.
    pub(crate) fn writable(
        memory: Arc<dyn SegmentMemory>,
        limit_bytes: u32,
        nonce: u64,
        head: &[u8; FRAMES_START as usize],
        served_before: bool,
    ) -> RegionParts {
        let mut region = Self::new(memory, FRAMES_START, limit_bytes, nonce);
        region.served_before = served_before;
        // SAFETY: nobody else knows the region yet.
        unsafe { region.put(0, head) };
        if served_before {
            // Where the first frame will start, and where frames end behind which no other fits.
            for (position, zeros) in [
                (FRAMES_START, &[0; COMMIT_WORD_BYTES as usize][..]),
                (limit_bytes - HEADER, &[0; 2 * HEADER as usize]),
            ] {
                // SAFETY: as above.
                unsafe { region.put(position, zeros) };
            }
            #[cfg(loom)]
            {
                // SAFETY: as above.
                let left = unsafe { region.slice(0, region.len_bytes) }.to_vec();
                region.shadow.hold(&left);
            }
        }
        let region = Arc::new(region);
        RegionParts {
            slots: SlotSpace {
                region: Arc::clone(&region),
            },
            footer: FooterSpace {
                region: Arc::clone(&region),
            },
            region,
        }
    }

    /// A segment of an earlier run: its tail is tripped, so it can only be read.
    pub(crate) fn readable(memory: Arc<dyn SegmentMemory>, limit_bytes: u32, nonce: u64) -> Self {
        let mut region = Self::new(memory, limit_bytes + 1, limit_bytes, nonce);
        region.read_only = true;
        region
    }

    /// Any bytes of a segment made by [`readable`](Self::readable); nothing where they leave it.
    pub(crate) fn still_bytes(&self, position: u32, bytes: u32) -> &[u8] {
        let inside = position
            .checked_add(bytes)
            .is_some_and(|end| end <= self.len_bytes);
        if !self.read_only || !inside {
            return &[];
        }
        // SAFETY: no right to write was ever made for this region (its tail was tripped from the
        // start and its slots and footer were never handed out), and the folder's lock keeps other
        // processes out; `dirty_again` needs the region for itself.
        unsafe { self.slice(position, bytes) }
    }

    pub(crate) fn len_bytes(&self) -> u32 {
        self.len_bytes
    }

    fn new(memory: Arc<dyn SegmentMemory>, position: u32, limit_bytes: u32, nonce: u64) -> Self {
        let len_bytes = u32::try_from(memory.len_bytes()).unwrap_or(0);
        assert!(
            len_bytes <= SEGMENT_BYTES_MAX && limit_bytes + HEADER <= len_bytes,
            "a segment of {len_bytes} bytes holds its limit {limit_bytes} and a seal"
        );
        Self {
            tail: Tail::new(position, limit_bytes),
            base: memory.base(),
            limit_bytes,
            len_bytes,
            #[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
            nonce_half: nonce as u32,
            memory,
            read_only: false,
            served_before: false,
            #[cfg(loom)]
            shadow: shadow::Shadow::new(FRAMES_START, limit_bytes + HEADER),
        }
    }

    pub(crate) fn memory(&self) -> &Arc<dyn SegmentMemory> {
        &self.memory
    }

    pub(crate) fn nonce_half(&self) -> u32 {
        self.nonce_half
    }

    /// Where the last frame may end; a seal may follow.
    pub(crate) fn limit_bytes(&self) -> u32 {
        self.limit_bytes
    }

    /// Records and position claimed so far; `None` once the segment has ended.
    pub(crate) fn claimed(&self) -> Option<(u32, u32)> {
        self.tail.claimed()
    }

    /// Claims room for a frame of `bytes` bytes (a multiple of eight) with `records` records.
    #[inline]
    pub(crate) fn claim(&self, bytes: u32, records: u32) -> ClaimOutcome<'_> {
        debug_assert!(bytes >= HEADER && (bytes as usize).is_multiple_of(FRAME_ALIGN));
        self.outcome(self.tail.claim(bytes, records), bytes)
    }

    /// Ends the segment where it stands, if nobody did.
    pub(crate) fn trip(&self) -> ClaimOutcome<'_> {
        self.outcome(self.tail.trip(), HEADER)
    }

    #[inline]
    fn outcome(&self, claim: TailClaim, bytes: u32) -> ClaimOutcome<'_> {
        if self.served_before {
            self.take_over(claim, bytes);
        }
        match claim {
            TailClaim::Claimed { position, record } => ClaimOutcome::Space(Space {
                region: self,
                position,
                bytes,
                record,
            }),
            TailClaim::Crossed { position, record } => ClaimOutcome::Crossed(SealSpace {
                space: Space {
                    region: self,
                    position,
                    bytes: HEADER,
                    record,
                },
            }),
            TailClaim::Tripped => ClaimOutcome::Tripped,
        }
    }

    /// Claims the header behind a claimed frame, where that ends at `position` and nobody else claimed there.
    pub(crate) fn claim_header(&self, position: u32) -> Option<Space<'_>> {
        let record = self.tail.claim_at(position, HEADER)?;
        Some(Space {
            region: self,
            position,
            bytes: HEADER,
            record,
        })
    }

    /// Takes away what a use before left where the caller, who made `claim`, will commit: whoever claimed the frame in
    /// front may wait for it (L7).
    #[inline]
    fn take_over(&self, claim: TailClaim, bytes: u32) {
        if let TailClaim::Claimed { position, .. } | TailClaim::Crossed { position, .. } = claim
            && !mutated!(FormerStays)
        {
            // Relaxed: no walk comes here before the frame in front is committed, and its publisher does not commit
            // it on sight of what would read as a commit here and is none.
            self.commit_word(position).store(0, Ordering::Relaxed);
            if !mutated!(FormerFence) {
                // Before any byte of the header that is to stand here: FORMER-1.
                fence(Ordering::Release);
            }
        }
        if let TailClaim::Claimed { position, .. } = claim
            && position / PAGE_BYTES != (position + bytes) / PAGE_BYTES
        {
            // What stands behind is looked at next. A page that is stored to first is brought in with all those the
            // kernel keeps with it; after a look each takes a fault of its own. An exchange is a store to the
            // processor, and changes nothing here; of an `or` with 0 the compiler makes a load.
            let word = self.commit_word(position + bytes);
            let _ = word.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Whether behind a frame that the caller claimed and that ends at `position` something stands that a walk would
    /// take for a commit: one, or what a use before left.
    #[inline]
    pub(crate) fn may_read_on(&self, position: u32) -> bool {
        self.served_before && !mutated!(NoLookBehind) && self.reads_as_commit(position)
    }

    fn reads_as_commit(&self, position: u32) -> bool {
        let word = self.commit_word(position).load(Ordering::Acquire); // COMMIT-1
        (word >> 32) == u64::from(self.nonce_half)
    }

    /// The header at `position` as the file has it; none where it can't be read. Its bytes may change meanwhile.
    #[cold]
    pub(crate) fn read_header(&self, position: u32) -> Option<[u8; FRAME_HEADER_BYTES]> {
        let mut header = [0; FRAME_HEADER_BYTES];
        let read = self.memory.read_at(position as usize, &mut header);
        #[cfg(loom)]
        if !self.shadow.is_written(position) {
            return Some([0; FRAME_HEADER_BYTES]);
        }
        // What is looked at from here on is not older than what was read: FORMER-1.
        fence(Ordering::Acquire);
        read.is_ok().then_some(header)
    }

    /// The address of the byte at `position`.
    fn at(&self, position: u32) -> NonNull<u8> {
        assert!(position <= self.len_bytes, "position inside the segment");
        // SAFETY: the assertion keeps the result inside (or one past) the `len_bytes` bytes that
        // `memory` promises from `base`.
        unsafe { self.base.add(position as usize) }
    }

    /// The bytes from `position`; empty where they would leave the segment.
    ///
    /// # Safety
    ///
    /// Nobody writes these bytes while the slice lives.
    unsafe fn slice(&self, position: u32, bytes: u32) -> &[u8] {
        assert!(bytes <= self.len_bytes && position <= self.len_bytes - bytes);
        // SAFETY: inside the mapping by the assertion, initialised because files and heap blocks
        // are, and not written meanwhile as the caller promises.
        unsafe { std::slice::from_raw_parts(self.at(position).as_ptr(), bytes as usize) }
    }

    /// The bytes from `position`, to write.
    ///
    /// # Safety
    ///
    /// Nobody else reads or writes these bytes while the slice lives.
    #[allow(
        clippy::mut_from_ref,
        reason = "the caller holds the right to the bytes"
    )]
    unsafe fn slice_mut(&self, position: u32, bytes: u32) -> &mut [u8] {
        assert!(bytes <= self.len_bytes && position <= self.len_bytes - bytes);
        // SAFETY: inside the mapping by the assertion, initialised because files and heap blocks
        // are, and the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.at(position).as_ptr(), bytes as usize) }
    }

    /// Puts `bytes` at `position`, by a write to the file where that can be: the first store to pages that the
    /// kernel keeps as one maps all of them, and the next sync write-protects them one by one.
    ///
    /// # Safety
    ///
    /// Nobody else reads or writes these bytes meanwhile.
    unsafe fn put(&self, position: u32, bytes: &[u8]) {
        // SAFETY: as the caller says.
        if unsafe { self.memory.write(position as usize, bytes) } {
            return;
        }
        let len_bytes = u32::try_from(bytes.len()).expect("less than a segment");
        // SAFETY: as above.
        unsafe { self.slice_mut(position, len_bytes) }.copy_from_slice(bytes);
    }

    #[cfg(not(loom))]
    fn commit_word(&self, position: u32) -> &AtomicU64 {
        debug_assert!(position.is_multiple_of(8) && position + 8 <= self.len_bytes);
        let word = self.at(position).cast::<u64>().as_ptr();
        // SAFETY: aligned (positions are multiples of eight from a page-aligned base), inside the
        // mapping, alive as long as `self`; only atomics touch a commit word until it is committed,
        // and nobody writes it afterwards.
        unsafe { AtomicU64::from_ptr(word) }
    }

    #[cfg(loom)]
    fn commit_word(&self, position: u32) -> &AtomicU64 {
        self.shadow.word(position)
    }

    /// Puts the commit word into the heap bytes too, where a model's frame checks look for it.
    #[cfg(loom)]
    fn mirror(&self, position: u32, word: u64) {
        self.shadow.note_written(position);
        // SAFETY: the caller is the frame's only writer and has not committed it yet.
        unsafe { self.slice_mut(position, COMMIT_WORD_BYTES) }.copy_from_slice(&word.to_le_bytes());
    }

    /// Writes every page of `[start, end)` again with its own bytes, so that the next sync stores
    /// it whatever the page cache believes (FAULTS: a failed write leaves clean pages behind).
    pub(crate) fn dirty_again(region: &mut Arc<Self>, start: u32, end: u32) {
        let region = Arc::get_mut(region).expect("recovery holds the segment alone");
        let mut position = start - start % PAGE_BYTES;
        while position < end.min(region.len_bytes) {
            let byte = region.at(position).as_ptr();
            // SAFETY: inside the mapping; `get_mut` shows that nobody else can reach the bytes.
            let value = unsafe { byte.read_volatile() };
            // SAFETY: as above. Volatile, so that a store of the value just read is still made.
            unsafe { byte.write_volatile(value) };
            #[cfg(any(test, feature = "testing"))]
            region.memory.stored_again(position as usize);
            position += PAGE_BYTES;
        }
    }
}

/// Bytes of a frame up to which the lines behind it are asked for.
const SMALL_BYTES: u32 = 256;

/// What became of a claim.
#[derive(Debug)]
pub(crate) enum ClaimOutcome<'a> {
    /// Room for the frame.
    Space(Space<'a>),
    /// The caller ended the segment and must seal it.
    Crossed(SealSpace<'a>),
    /// The segment has ended; take the next.
    Tripped,
}

/// The sole right to write one claimed frame and to commit it.
#[derive(Debug)]
pub(crate) struct Space<'a> {
    region: &'a Region,
    position: u32,
    bytes: u32,
    record: u32,
}

impl Space<'_> {
    pub(crate) fn position(&self) -> u32 {
        self.position
    }

    /// Where the frame ends.
    pub(crate) fn end(&self) -> u32 {
        self.position + self.bytes
    }

    /// Has the lines come that the next claims are to write, if this one is small: else they come by themselves
    /// while it is filled, or somebody else fills them by then.
    #[inline]
    pub(crate) fn write_behind_soon(&self) {
        if self.bytes <= SMALL_BYTES {
            hint::write_behind_soon(self.region.at(self.end()).as_ptr());
        }
    }

    /// Number of the frame's first record within the segment.
    pub(crate) fn record(&self) -> u32 {
        self.record
    }

    /// The frame behind its commit word: header bytes 8 to 64, body, padding.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        #[cfg(loom)]
        self.region.shadow.write(self.position);
        // SAFETY: the tail gave this range to this `Space` alone; readers stay out until `commit`,
        // which consumes it.
        unsafe {
            self.region.slice_mut(
                self.position + COMMIT_WORD_BYTES,
                self.bytes - COMMIT_WORD_BYTES,
            )
        }
    }

    /// Writes `bytes` to the file, `skip` bytes behind the start of the frame; gives whether it did.
    /// Where not, all of them must be stored by [`bytes_mut`](Self::bytes_mut).
    pub(crate) fn write(&mut self, skip: u32, bytes: &[u8]) -> bool {
        let ends_inside = bytes.len() + skip as usize <= self.bytes as usize;
        assert!(skip >= COMMIT_WORD_BYTES && ends_inside, "inside the frame");
        #[cfg(loom)]
        self.region.shadow.write(self.position);
        let position = (self.position + skip) as usize;
        // SAFETY: as for `bytes_mut`: the tail gave this range to this `Space` alone, readers stay out
        // until `commit`, and `&mut self` shows that none of its slices lives.
        unsafe { self.region.memory.write(position, bytes) }
    }

    /// Publishes the frame. All bytes must have been written.
    #[inline]
    pub(crate) fn commit(self) {
        let word = u64::from(self.bytes) | (u64::from(self.region.nonce_half) << 32);
        #[cfg(loom)]
        self.region.mirror(self.position, word);
        let order = if mutated!(CommitRelease) {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        // Little-endian on disk and on every machine this runs on (see `layout`).
        self.region.commit_word(self.position).store(word, order); // COMMIT-1
    }
}

/// The sole right to write the seal of a segment.
#[derive(Debug)]
pub(crate) struct SealSpace<'a> {
    space: Space<'a>,
}

impl SealSpace<'_> {
    /// Where the segment ends: the position of the seal.
    pub(crate) fn position(&self) -> u32 {
        self.space.position
    }

    /// Records the segment holds.
    pub(crate) fn records(&self) -> u32 {
        self.space.record
    }

    /// Writes `header` (bytes 8 to 64) and publishes the seal.
    pub(crate) fn commit(mut self, header: &[u8; 56]) {
        self.space.bytes_mut().copy_from_slice(header);
        self.space.commit();
    }
}

/// The right to write the two watermark slots; held under the log's sync baton.
#[derive(Debug)]
pub(crate) struct SlotSpace {
    region: Arc<Region>,
}

impl SlotSpace {
    /// Puts `slot` at the start of slot page `index` (0 or 1): by a write to the file, which no kill cuts
    /// within a page; a store through the map is a fault at each sync, since that write-protects the page.
    pub(crate) fn write(&mut self, index: usize, slot: &[u8]) {
        let position = if index.is_multiple_of(2) {
            SLOT_POSITIONS[0]
        } else {
            SLOT_POSITIONS[1]
        };
        let bytes = u32::try_from(slot.len()).expect("a slot is smaller than a page");
        assert!(bytes <= PAGE_BYTES);
        // SAFETY: the slot pages are written through this value alone (`&mut self`) and read only
        // from the file when the segment is opened.
        if unsafe { self.region.memory.write(position as usize, slot) } {
            return;
        }
        // SAFETY: as above.
        let place = unsafe { self.region.slice_mut(position, bytes) };
        let (Some(word), Some(place_word)) = (slot.first_chunk::<8>(), place.first_chunk_mut())
        else {
            return;
        };
        // Whenever it is killed in between, the first word says that the rest is not to be taken for a
        // slot that rotted. The compiler keeps the order of volatile stores and fences.
        let place_word: *mut [u8; 8] = place_word;
        // SAFETY: derived from a valid reference to these eight bytes, which nobody else uses.
        unsafe { place_word.write_volatile([0; 8]) };
        compiler_fence(Ordering::SeqCst);
        if let (Some(rest), Some(bytes)) = (place.get_mut(8..), slot.get(8..)) {
            rest.copy_from_slice(bytes);
        }
        compiler_fence(Ordering::SeqCst);
        if let Some(place_word) = place.first_chunk_mut::<8>() {
            // SAFETY: a valid reference.
            unsafe { std::ptr::from_mut(place_word).write_volatile(*word) };
        }
    }
}

/// The right to write behind a sealed segment's end.
#[derive(Debug)]
pub(crate) struct FooterSpace {
    region: Arc<Region>,
}

impl FooterSpace {
    /// Stores `footer` at `position`, which must lie behind the seal.
    ///
    /// # Panics
    ///
    /// If the segment has not ended.
    pub(crate) fn write(&mut self, position: u32, footer: &[u8]) {
        assert!(self.region.claimed().is_none(), "the segment has ended");
        // SAFETY: the tail is tripped, so no claim reaches behind the seal, and `position` lies
        // behind it; this value alone writes there (`&mut self`), and nobody reads it in this run.
        unsafe { self.region.put(position, footer) };
    }
}

/// What [`CommittedRun::extend_if`] found at the run's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extend {
    /// A committed frame of this many bytes; the run now covers it.
    Taken(u32),
    /// A committed frame that the caller did not accept.
    Refused,
    /// No committed frame: the end, for now.
    Nothing,
}

/// Consecutive committed frames of one segment; keeps the mapping alive.
#[derive(Clone)]
pub(crate) struct CommittedRun {
    region: Arc<Region>,
    start: u32,
    end: u32,
}

impl fmt::Debug for CommittedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommittedRun({}..{})", self.start, self.end)
    }
}

impl CommittedRun {
    /// An empty run at `position`, where a frame starts or will start.
    pub(crate) fn at(region: &Arc<Region>, position: u32) -> Self {
        Self {
            region: Arc::clone(region),
            start: position,
            end: position,
        }
    }

    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    pub(crate) fn start(&self) -> u32 {
        self.start
    }

    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// Stands, empty, behind the frame of `bytes` bytes at its end, which this thread committed.
    #[inline]
    pub(crate) fn skip_own(&mut self, bytes: u32) {
        self.end += bytes;
        self.start = self.end;
    }

    /// Stands, empty, behind `other`, a run of the same segment.
    pub(crate) fn skip_to_end_of(&mut self, other: &Self) {
        debug_assert!(Arc::ptr_eq(&self.region, &other.region), "one segment");
        self.end = other.end;
        self.start = self.end;
    }

    /// Forgets the frames walked so far; the run is empty at its end.
    pub(crate) fn restart(&mut self) {
        self.start = self.end;
    }

    /// The frames, whole.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `extend_if` saw each frame in the range committed (COMMIT-1), and a committed
        // frame is never written again; `region` keeps the mapping.
        unsafe { self.region.slice(self.start, self.end - self.start) }
    }

    /// Takes the frame at the run's end into the run if it is committed and `accept` says so.
    ///
    /// `accept` sees the whole frame, commit word included.
    #[inline]
    pub(crate) fn extend_if(&mut self, accept: impl FnOnce(&[u8]) -> bool) -> Extend {
        let region = &*self.region;
        let room = (region.limit_bytes + HEADER).saturating_sub(self.end);
        if room < HEADER {
            return Extend::Nothing;
        }
        let order = if mutated!(CommitAcquire) {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        let word = region.commit_word(self.end).load(order); // COMMIT-1
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the low half is the length"
        )]
        let bytes = word as u32;
        let ours = (word >> 32) == u64::from(region.nonce_half);
        if !ours || bytes < HEADER || bytes > room || !(bytes as usize).is_multiple_of(FRAME_ALIGN)
        {
            return Extend::Nothing;
        }
        #[cfg(loom)]
        region.shadow.read(self.end);
        // SAFETY: the commit word was seen (COMMIT-1), so the frame is finished and never written
        // again; the checks above keep it inside the segment.
        let frame = unsafe { region.slice(self.end, bytes) };
        if !accept(frame) {
            return Extend::Refused;
        }
        self.end += bytes;
        Extend::Taken(bytes)
    }
}

#[cfg(loom)]
mod shadow {
    //! loom's view of a segment: an atomic for each commit word and a race detector for each frame.
    //! The bytes themselves stay in the heap twin. Frames in models start at multiples of 64.

    use loom::cell::UnsafeCell;
    use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    const STEP: u32 = 64;

    pub(super) struct Shadow {
        start: u32,
        words: Vec<AtomicU64>,
        frames: Vec<UnsafeCell<()>>,
        /// Headers that a read of the file finds, which a model can't tell from the bytes.
        written: Vec<AtomicBool>,
    }

    impl Shadow {
        pub(super) fn new(start: u32, end: u32) -> Self {
            // A real segment would need too many; models use the smallest that holds their frames.
            let count = ((end.saturating_sub(start)) / STEP).min(128);
            Self {
                start,
                words: (0..count).map(|_| AtomicU64::new(0)).collect(),
                frames: (0..count).map(|_| UnsafeCell::new(())).collect(),
                written: (0..count).map(|_| AtomicBool::new(false)).collect(),
            }
        }

        /// Has the commit words of `segment`, which a use before left.
        pub(super) fn hold(&mut self, segment: &[u8]) {
            for (number, word) in self.words.iter_mut().enumerate() {
                let at = self.start as usize + number * STEP as usize;
                let bytes = segment.get(at..).and_then(<[u8]>::first_chunk);
                *word = AtomicU64::new(bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes)));
            }
        }

        fn at(&self, position: u32) -> usize {
            let from_start = position - self.start;
            assert!(
                from_start.is_multiple_of(STEP),
                "a model's frames start at multiples of 64"
            );
            (from_start / STEP) as usize
        }

        pub(super) fn word(&self, position: u32) -> &AtomicU64 {
            &self.words[self.at(position)]
        }

        /// The header at `position` is written. Relaxed, as its bytes are.
        pub(super) fn note_written(&self, position: u32) {
            self.written[self.at(position)].store(true, Ordering::Relaxed);
        }

        pub(super) fn is_written(&self, position: u32) -> bool {
            self.written[self.at(position)].load(Ordering::Relaxed)
        }

        /// Tells loom that the frame at `position` is being written.
        pub(super) fn write(&self, position: u32) {
            self.frames[self.at(position)].with_mut(|_| ());
        }

        /// Tells loom that the frame at `position` is being read.
        pub(super) fn read(&self, position: u32) {
            self.frames[self.at(position)].with(|_| ());
        }
    }
}
