//! One topic's log: where publishers, readers and the sync workers meet.
//!
//! `trim <= synced <= committed <= claimed`, all of them offsets, each only rises. *Claimed* is the
//! tail of the active segment, *committed* is found by walking (L1), *synced* is raised by whoever
//! holds the baton, behind a sync that returned success (S1).

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use millstream_protocol::{Durability, Offset, TopicName};

use crate::baton::{Baton, Round, SealedSegment, SyncFailed};
use crate::chain::{Chain, Sealed};
use crate::claim::commit_seal;
use crate::clock::{run_us, wall_us};
use crate::manifest::{Entry, LogId, ManifestError, SegmentNumber};
use crate::prefix::Prefix;
use crate::segment::{Segment, SegmentEnd};
use crate::shared::{SegmentSizes, Shared};
use crate::sync::{
    Frontier, Gate, Mark, Mutex, SealSpace, WaitKey, Waiters, lock, mutated, publish_fence,
};
use crate::walker::Walker;
use crate::work::{IDLE_PROOF, Later, OPEN_CLAIM, Preparation, STORED_SYNC};

/// A stored topic holds its publishers where this much of it is not synced (S4).
pub(crate) const STORED_UNSYNCED_BYTES_MAX: u64 = 64 << 20;
/// And where its oldest unsynced commit is this old.
const STORED_UNSYNCED_US_MAX: u64 = 1_000_000;
/// From so much on a sync is asked for: what comes while that is at work has the rest of the bound.
pub(crate) const STORED_HURRIED_BYTES: u64 = STORED_UNSYNCED_BYTES_MAX / 4;

/// How far a promise reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Inside the committed prefix: survives a crash of the process.
    Stored,
    /// Covered by a finished sync: survives power loss.
    Synced,
}

impl From<Durability> for Level {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Synced => Self::Synced,
            Durability::Stored => Self::Stored,
        }
    }
}

/// The log can promise nothing more until the broker is restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poisoned {
    /// What the disk said.
    pub reason: Arc<str>,
}

impl std::fmt::Display for Poisoned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a sync of this topic's log failed ({}); what the disk holds is unknown until the broker is restarted",
            self.reason
        )
    }
}

impl std::error::Error for Poisoned {}

/// Who a log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIdentity {
    /// Number within the folder, never used twice.
    pub id: LogId,
    /// Drawn at creation: a log deleted and made again is another one.
    pub incarnation: [u8; 16],
    /// The topic's name.
    pub name: TopicName,
    /// What an acknowledgement means here unless a publisher asks for less.
    pub durability: Durability,
}

/// The log of one topic. Shared by all its publishers and readers.
#[derive(Debug)]
pub struct Log {
    identity: LogIdentity,
    shared: Arc<Shared>,
    chain: Chain,
    /// What is below was there when the store was opened, all else was appended since.
    pub(crate) started_at: Offset,
    gate: Gate,
    poison: OnceLock<Arc<str>>,
    synced: Frontier,
    /// Bytes of frames of this run that are synced.
    synced_bytes: Frontier,
    /// What some walk found last; the truth may be ahead.
    committed: Frontier,
    /// Set while commits may be unsynced; see DIRTY-1.
    dirty: Mark,
    dirty_since_us: Frontier,
    /// A sync was asked for early, since much is unsynced.
    hurried: Mark,
    /// The first segment of this run was asked for.
    first_asked: Mark,
    /// No append time is below it, so times never go back.
    time_floor_us: Frontier,
    /// The manifest has this log's open mark (S3).
    opened: Mark,
    stored_waiters: Waiters,
    synced_waiters: Waiters,
    rotation_waiters: Waiters,
    prefix: Prefix,
    baton: Mutex<Baton>,
    /// Ends of finished segments that the manifest did not take yet.
    unnoted: Mutex<Vec<Entry>>,
    /// Sizes of its segments, where they are not the folder's.
    pub(crate) own_sizes: OnceLock<SegmentSizes>,
}

impl Log {
    pub(crate) fn new(identity: LogIdentity, shared: Arc<Shared>, chain: Chain) -> Arc<Self> {
        let started_at = chain.next_base().unwrap_or(Offset(0));
        let start = started_at.0;
        Arc::new(Self {
            identity,
            shared,
            chain,
            started_at,
            gate: Gate::open(),
            poison: OnceLock::new(),
            synced: Frontier::new(start),
            synced_bytes: Frontier::new(0),
            committed: Frontier::new(start),
            dirty: Mark::clean(),
            dirty_since_us: Frontier::new(0),
            hurried: Mark::clean(),
            first_asked: Mark::clean(),
            time_floor_us: Frontier::new(0),
            opened: Mark::clean(),
            stored_waiters: Waiters::new(),
            synced_waiters: Waiters::new(),
            rotation_waiters: Waiters::new(),
            prefix: Prefix::new(),
            baton: Mutex::new(Baton::default()),
            unnoted: Mutex::new(Vec::new()),
            own_sizes: OnceLock::new(),
        })
    }

    /// Who this log is.
    #[must_use]
    pub fn identity(&self) -> &LogIdentity {
        &self.identity
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn chain(&self) -> &Chain {
        &self.chain
    }

    pub(crate) fn gate_flags(&self) -> u32 {
        self.gate.flags()
    }

    /// Writes the ends of finished segments to the manifest, with those an earlier call could not;
    /// the log lets go of the segments the manifest knows.
    pub(crate) fn note_ends(&self, end: Option<Entry>) -> Result<(), ManifestError> {
        let mut unnoted = lock(&self.unnoted);
        unnoted.extend(end);
        if unnoted.is_empty() {
            return Ok(());
        }
        self.shared.commit(&unnoted)?;
        for entry in unnoted.drain(..) {
            if let Entry::Sealed {
                segment,
                footer_bytes,
                ..
            } = entry
            {
                self.chain.finish(segment, footer_bytes);
            }
        }
        drop(unnoted);
        self.shared.segment_bell.ring();
        Ok(())
    }

    pub(crate) fn opened(&self) -> &Mark {
        &self.opened
    }

    /// Why the log refuses to promise more, if it does.
    #[must_use]
    pub fn poisoned(&self) -> Option<Poisoned> {
        self.poison.get().map(|reason| Poisoned {
            reason: Arc::clone(reason),
        })
    }

    /// The offset of the oldest record kept.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        self.chain.first_offset()
    }

    /// Everything below this offset survives power loss.
    #[must_use]
    pub fn synced(&self) -> Offset {
        Offset(self.synced.get())
    }

    /// The end of the unbroken prefix of committed frames (L1). Walks what is new since the last look.
    #[must_use]
    pub fn committed(&self) -> Offset {
        Offset(self.walk_prefix())
    }

    /// The first offset that readers may not see yet, by the topic's durability.
    ///
    /// Readers of a poisoned stored log stop at what is synced (S4).
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        match self.identity.durability {
            Durability::Stored if self.gate.flags() & Gate::POISONED == 0 => {
                let committed = self.committed();
                // Behind the walk (FAULT-1).
                if self.has_lost_pages() {
                    self.synced()
                } else {
                    committed
                }
            }
            _ => self.synced(),
        }
    }

    /// Number of segments kept, and bytes of frames in them.
    #[must_use]
    pub fn size(&self) -> (u32, u64) {
        self.chain.size()
    }

    /// A time for a frame about to be claimed; never below an earlier one's.
    pub(crate) fn append_time_us(&self) -> u64 {
        self.time_floor_us.raise_lazily(wall_us())
    }

    /// Seals `segment`, whose end `seal` is, and brings the next one in.
    pub(crate) fn seal(self: &Arc<Self>, segment: &Segment, seal: SealSpace<'_>, need_bytes: u32) {
        let position = seal.position();
        let offset = commit_seal(segment, seal, self.append_time_us());
        segment.note_sealed();
        let end = SegmentEnd { position, offset };
        match self.chain.sealed(segment.number(), end, need_bytes) {
            Sealed::Continued => self.rotation_waiters.wake_all(),
            Sealed::Starved => self.ask_standby(),
        }
        self.announce();
    }

    pub(crate) fn ask_standby(self: &Arc<Self>) {
        self.shared
            .work
            .prepare(Preparation::Standby(Arc::clone(self)));
    }

    /// Tells whoever must know that something was committed, voided or sealed (L6).
    ///
    /// Once per publish call or loop turn, not per record: a fence and three loads when nobody waits
    /// and the log is marked already. Returns whether anybody waited.
    pub(crate) fn announce(self: &Arc<Self>) -> bool {
        publish_fence();
        if self.dirty.set() {
            self.dirty_since_us.raise(run_us());
            match self.identity.durability {
                Durability::Synced => self.shared.work.sync_soon(self),
                Durability::Stored => self.shared.work.sync_later(self, STORED_SYNC, Later::Bound),
            }
        }
        let waited = self.stored_waiters.any();
        if waited {
            let committed = self.walk_prefix();
            self.stored_waiters.wake(committed);
        }
        waited
    }

    /// As `announce`, for a publisher that is about to block until its records are synced: it leads
    /// the sync itself unless somebody is at it, so that nobody has to be woken.
    pub(crate) fn announce_and_lead(self: &Arc<Self>) {
        publish_fence();
        if self.dirty.set() {
            self.dirty_since_us.raise(run_us());
        }
        if self.stored_waiters.any() {
            let committed = self.walk_prefix();
            self.stored_waiters.wake(committed);
        }
        if self.shared.work.lead(self) {
            self.sync_listed();
            self.shared.work.done(self);
        } else {
            self.shared.work.sync_soon(self);
        }
    }

    /// Asks for a sync now, for a waiter that wants `synced` on a stored log.
    pub(crate) fn hurry(self: &Arc<Self>) {
        if self.identity.durability == Durability::Stored && self.dirty.is_set() {
            self.shared.work.sync_soon(self);
        }
    }

    /// Holds publishers of a stored log whose disk falls behind the bound (S4); `active` is the
    /// segment they append to.
    #[inline]
    pub(crate) fn keep_bound(self: &Arc<Self>, active: &Segment) {
        if self.identity.durability == Durability::Synced || !self.dirty.is_set() {
            return;
        }
        let claimed_bytes = active.base_bytes() + u64::from(active.claimed_bytes());
        let unsynced_bytes = claimed_bytes.saturating_sub(self.synced_bytes.get());
        let age_us = run_us().saturating_sub(self.dirty_since_us.get());
        if unsynced_bytes > STORED_UNSYNCED_BYTES_MAX || age_us > STORED_UNSYNCED_US_MAX {
            self.gate.shut(Gate::HELD);
            self.shared.work.sync_soon(self);
        } else if unsynced_bytes > STORED_HURRIED_BYTES && self.hurried.set() {
            self.shared.work.sync_soon(self);
        }
    }

    /// Asks for the first segment of this run, once.
    pub(crate) fn ask_first(self: &Arc<Self>) {
        if self.first_asked.set() {
            self.ask_standby();
        }
    }

    /// Walks from where the last walk ended to the end of the committed prefix.
    fn walk_prefix(&self) -> u64 {
        self.prefix.walk(&self.chain, &self.committed)
    }

    /// Brings an appender's walker to the end of what is committed. All who come this way walk over each
    /// frame once together, and wait for one another.
    pub(crate) fn catch_up(&self, walker: &mut Option<Walker>) {
        self.prefix.catch_up(walker, (&self.chain, &self.committed));
    }

    /// How far `level` reaches now.
    #[must_use]
    pub fn reached(&self, level: Level) -> Offset {
        match level {
            Level::Stored => self.committed(),
            Level::Synced => self.synced(),
        }
    }

    /// True once everything below `end` is `level`; costs one load where it was seen before.
    #[must_use]
    pub fn has_reached(&self, level: Level, end: Offset) -> bool {
        if mutated!(AckOwnCommit) {
            return true;
        }
        match level {
            Level::Stored => {
                let committed = self.committed.get() >= end.0 || self.walk_prefix() >= end.0;
                // Behind the walk (FAULT-1).
                committed && (!self.has_lost_pages() || self.synced.get() >= end.0)
            }
            Level::Synced => self.synced.get() >= end.0,
        }
    }

    pub(crate) fn waiters(&self, level: Level) -> &Waiters {
        match level {
            Level::Stored => &self.stored_waiters,
            Level::Synced => &self.synced_waiters,
        }
    }

    /// Asks for `waker` to be woken once everything below `end` is `level`, or never will be.
    ///
    /// True if it is so already; then nothing was registered.
    pub(crate) fn wait(&self, level: Level, key: WaitKey, end: Offset, waker: &Waker) -> bool {
        self.waiters(level).register(key, end.0, waker, || {
            self.has_reached(level, end) || self.gate.flags() & (Gate::POISONED | Gate::CLOSED) != 0
        })
    }

    pub(crate) fn wait_key(&self, level: Level) -> WaitKey {
        self.waiters(level).key()
    }

    pub(crate) fn stop_waiting(&self, level: Level, key: WaitKey) {
        self.waiters(level).withdraw(key);
    }

    pub(crate) fn rotation_waiters(&self) -> &Waiters {
        &self.rotation_waiters
    }

    /// Syncs what is committed; called by a worker that took this log from the list.
    pub(crate) fn sync_listed(self: &Arc<Self>) {
        let mut baton = lock(&self.baton);
        if !mutated!(ClearLate) {
            self.dirty.clear();
        }
        self.hurried.clear();
        for sealed in self.sync_rounds(&mut baton) {
            self.shared
                .work
                .prepare(Preparation::Footer(Arc::clone(self), sealed));
        }
        if mutated!(ClearLate) {
            self.dirty.clear();
        }
        if self.gate.reopen(Gate::HELD) {
            self.rotation_waiters.wake_all();
        }
        if let Some((segment, position)) = baton.open_claim() {
            self.shared
                .work
                .sync_later(self, OPEN_CLAIM, Later::OpenClaim(segment, position));
        }
        if baton.owes_proof() && !self.is_poisoned() {
            self.shared.work.sync_later(self, IDLE_PROOF, Later::Proof);
        }
    }

    /// States the last sync's proof on disk, unless there is something new to sync anyway.
    pub(crate) fn prove_idle(self: &Arc<Self>) {
        if self.dirty.is_set() {
            return;
        }
        let mut baton = lock(&self.baton);
        if self.is_poisoned() {
            return;
        }
        if let Err(SyncFailed(error)) = baton.prove(|| self.is_poisoned()) {
            drop(baton);
            self.poison(&error);
        }
    }

    /// Names the claim in front of which the prefix ended a second ago, if it still does.
    pub(crate) fn name_open_claim(&self, segment: SegmentNumber, position: u32) {
        if lock(&self.baton).open_claim() == Some((segment, position)) {
            tracing::warn!(
                topic = %self.identity.name, segment = segment.0, position,
                "a claim has been open for a second: no record behind it is acknowledged or read"
            );
        }
    }

    fn is_poisoned(&self) -> bool {
        self.gate.flags() & Gate::POISONED != 0
    }

    /// Syncs round by round until nothing committed is left; gives the segments whose end it proved.
    fn sync_rounds(&self, baton: &mut Baton) -> Vec<SealedSegment> {
        let mut finished = Vec::new();
        while !self.is_poisoned() {
            if !baton.in_segment() {
                match self.chain.live_behind(baton.done()) {
                    Some(segment) => baton.enter(segment),
                    None => break,
                }
            }
            match baton.sync_committed(|| self.is_poisoned()) {
                Ok(None) => break,
                Ok(Some(Round::Even { offset, bytes })) => {
                    self.raise_synced(offset, bytes);
                    break;
                }
                Ok(Some(Round::Sealed {
                    offset,
                    bytes,
                    sealed,
                })) => {
                    self.raise_synced(offset, bytes);
                    finished.push(sealed);
                }
                Err(SyncFailed(error)) => self.poison(&error),
            }
        }
        finished
    }

    fn raise_synced(&self, offset: Offset, bytes: u64) {
        self.synced_bytes.raise(bytes);
        // `synced <= committed`: whoever walks later finds finished segments gone from the chain.
        self.committed.raise(offset.0);
        self.synced.raise(offset.0);
        publish_fence();
        if self.synced_waiters.any() {
            self.synced_waiters.wake(offset.0);
        }
    }

    /// Runs `sync` under the baton, for files of this log that are synced outside a round (S1).
    pub(crate) fn sync_under_baton(
        &self,
        sync: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<(), Poisoned> {
        let baton = lock(&self.baton);
        if let Some(poisoned) = self.poisoned() {
            return Err(poisoned);
        }
        let done = sync();
        drop(baton);
        match done {
            Ok(()) => Ok(()),
            Err(error) => {
                self.poison(&error);
                Err(Poisoned {
                    reason: error.to_string().into(),
                })
            }
        }
    }

    /// Gives up every promise: waiters are told, publishers refused. Never undone in this run.
    pub(crate) fn poison(&self, error: &std::io::Error) {
        let reason: Arc<str> = error.to_string().into();
        tracing::error!(topic = %self.identity.name, %reason, "sync failed: the topic refuses publishing");
        // The first reason stays.
        let _ = self.poison.set(reason);
        self.gate.shut(Gate::POISONED);
        self.wake_everyone();
    }

    /// Refuses further claims; who waits is told.
    pub(crate) fn shut_for(&self, reason: u32) {
        self.gate.shut(reason);
    }

    pub(crate) fn wake_everyone(&self) {
        publish_fence();
        self.stored_waiters.wake_all();
        self.synced_waiters.wake_all();
        self.rotation_waiters.wake_all();
    }

    /// Syncs and finishes everything, behind a seal, for a log that was shut.
    pub(crate) fn sync_to_end(self: &Arc<Self>) {
        let sealed = {
            let mut baton = lock(&self.baton);
            self.dirty.clear();
            self.sync_rounds(&mut baton)
        };
        for sealed in sealed {
            self.finish_segment(sealed);
        }
    }

    /// Ready once everything below `end` is committed or the log is poisoned, also while it closes.
    pub(crate) fn poll_committed(
        &self,
        key: WaitKey,
        end: Offset,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let done = || self.has_reached(Level::Stored, end) || self.is_poisoned();
        if self.stored_waiters.register(key, end.0, cx.waker(), done) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
