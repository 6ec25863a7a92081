//! Making the next segment ready, and finishing the last one: what two threads do for a log.

use std::io;
use std::sync::Arc;

use millstream_protocol::limits::FRAME_HEADER_BYTES;

use crate::baton::SealedSegment;
use crate::blocks::Plan;
use crate::chain::{PrepareFailure, Wanted};
use crate::clock::run_us;
use crate::footer;
use crate::layout::{
    Identity, PAGE_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, footer_pages, footer_position,
    log_dir, segment_name,
};
use crate::log::Log;
use crate::manifest::{Entry, ManifestError};
use crate::memory::SegmentMemory;
use crate::reserve;
use crate::retention;
use crate::segment::{Origin, Standby};
use crate::shared::SegmentSizes;
use crate::spares::Spare;
use crate::work::{Later, SPARES_KEPT};

/// A segment is this many times as large as the one before it, up to the largest.
const GROWTH: u32 = 4;

impl Log {
    /// Makes the next segment ready: file, identity, folder entry and manifest line are on disk
    /// before any publisher hears of it.
    pub(crate) fn prepare_standby(self: &Arc<Self>) {
        let plan = Plan::new(self.identity().durability, self.sizes().first_bytes);
        let standby = loop {
            let Some(wanted) = self.chain().to_prepare(&plan) else {
                return;
            };
            match self.make_standby(&wanted) {
                // Queues settle on a full disk, with what was set aside for that.
                Err(error)
                    if error.kind() == io::ErrorKind::StorageFull
                        && self.identity().name.as_str().starts_with('$')
                        && reserve::release(self.shared().folder.as_ref()) =>
                {
                    self.shared().reserve_released.set();
                }
                // A kill between making a file and naming it leaves one that nobody may touch (S7);
                // each attempt takes the next number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    tracing::warn!(topic = %self.identity().name, %error, "a number is passed over");
                }
                standby => break standby,
            }
        };
        if standby.is_ok() && self.shared().reserve_released.take() {
            reserve::keep(self.shared().folder.as_ref());
        }
        let made = standby.and_then(|standby| {
            self.chain().install(standby).map_err(|unused| {
                self.discard(&unused);
                io::Error::other("the log was closed meanwhile")
            })
        });
        if let Err(error) = made {
            tracing::warn!(topic = %self.identity().name, %error, "cannot prepare a segment");
            self.chain().failed(PrepareFailure {
                kind: error.kind(),
                message: error.to_string(),
                at_us: run_us(),
            });
        }
        self.rotation_waiters().wake_all();
        // What is before it may be finished since an earlier run.
        self.shared().segment_bell.ring();
    }

    fn make_standby(&self, wanted: &Wanted) -> io::Result<Standby> {
        let id = self.identity().id;
        let shared = self.shared();
        let name = segment_name(id, wanted.number);
        let (memory, len_bytes, origin) = self.make_memory(&name, wanted)?;
        let made = || -> io::Result<Standby> {
            let standby = Standby::new(
                Arc::clone(&memory),
                Identity {
                    folder_id: shared.folder_id,
                    incarnation: self.identity().incarnation,
                    log: id,
                    segment: wanted.number,
                    nonce: nonce_for(origin, random)?,
                    len_bytes,
                },
                origin,
            );
            memory.sync()?;
            shared.folder.sync_dir(&log_dir(id))?;
            let prepared = Entry::SegmentPrepared {
                log: id,
                segment: wanted.number,
                nonce: standby.identity.nonce,
                len_bytes: u64::from(len_bytes),
                offset_ceiling: wanted.base_floor.0 + u64::from(len_bytes / 4),
            };
            let first = [Entry::Opened { log: id }, prepared.clone()];
            let entries = if self.opened().is_set() {
                first.get(1..).unwrap_or_default()
            } else {
                &first
            };
            shared.commit(entries).map_err(manifest_failed)?;
            self.opened().set();
            Ok(standby)
        };
        made().inspect_err(|error| {
            // If the manifest may name the file after all, it must be there at the next start.
            let named = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<ManifestError>())
                .is_some_and(ManifestError::is_unknown);
            if named {
                return;
            }
            if let Err(error) = shared.folder.remove(&name) {
                tracing::warn!(%name, %error, "cannot remove an unused segment");
            }
        })
    }

    /// The folder's sizes, or the log's own where those are smaller.
    fn sizes(&self) -> SegmentSizes {
        let folder = self.shared().sizes;
        self.own_sizes.get().map_or(folder, |own| SegmentSizes {
            first_bytes: own.first_bytes.min(folder.first_bytes),
            largest_bytes: own.largest_bytes.min(folder.largest_bytes),
        })
    }

    /// The file: one that served before, where there is one, or a new one, smaller than it would be where the disk
    /// has no room for that.
    fn make_memory(
        &self,
        name: &str,
        wanted: &Wanted,
    ) -> io::Result<(Arc<dyn SegmentMemory>, u32, Origin)> {
        let (least_bytes, mut len_bytes) = self.len_bytes(wanted);
        if let Some((memory, origin)) = self.reuse(name, len_bytes)? {
            return Ok((memory, len_bytes, origin));
        }
        loop {
            match self
                .shared()
                .folder
                .create_segment(name, len_bytes as usize, wanted.blocks)
            {
                // What is kept for other lengths has room.
                Err(error)
                    if error.kind() == io::ErrorKind::StorageFull && self.chain().has_spares() =>
                {
                    self.remove_spares(self.chain().take_spares());
                }
                Err(error)
                    if error.kind() == io::ErrorKind::StorageFull && len_bytes > least_bytes =>
                {
                    len_bytes = (len_bytes / GROWTH)
                        .next_multiple_of(PAGE_BYTES)
                        .max(least_bytes);
                }
                made => {
                    let blocks = wanted.blocks;
                    return Ok((made?, len_bytes, Origin::Made { blocks }));
                }
            }
        }
    }

    /// Takes a file into use again whose pages are in memory and whose blocks are there (L7).
    fn reuse(
        &self,
        name: &str,
        len_bytes: u32,
    ) -> io::Result<Option<(Arc<dyn SegmentMemory>, Origin)>> {
        let Some(spare) = self.chain().take_spare(len_bytes) else {
            return Ok(None);
        };
        let folder = self.shared().folder.as_ref();
        let former = segment_name(self.identity().id, spare.number);
        match folder.reuse_segment(&former, name, len_bytes as usize) {
            Ok(Some(memory)) => {
                self.chain().note_reuse(true);
                let former_nonce = spare.nonce;
                return Ok(Some((memory, Origin::Reused { former_nonce })));
            }
            // The number is taken: the next attempt has another.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                retention::remove(folder, &former);
                return Err(error);
            }
            Err(error) => tracing::warn!(%former, %error, "making a new segment instead"),
            Ok(None) => self.chain().note_reuse(false),
        }
        retention::remove(folder, &former);
        Ok(None)
    }

    /// Removes the files that were kept to serve again and that nobody took for a while.
    pub(crate) fn release_unneeded(self: &Arc<Self>) {
        let (unneeded, has_others) = self.chain().take_unneeded();
        self.remove_spares(unneeded);
        if has_others {
            self.release_unneeded_later();
        }
    }

    /// Has [`release_unneeded`](Self::release_unneeded) called.
    pub(crate) fn release_unneeded_later(self: &Arc<Self>) {
        self.shared()
            .work
            .sync_later(self, SPARES_KEPT, Later::Spares);
    }

    /// Removes files that were kept to serve again.
    pub(crate) fn remove_spares(&self, spares: Vec<Spare>) {
        for spare in spares {
            let name = segment_name(self.identity().id, spare.number);
            retention::remove(self.shared().folder.as_ref(), &name);
        }
    }

    /// Bytes that the next segment must have, and those it is to have.
    fn len_bytes(&self, wanted: &Wanted) -> (u32, u32) {
        let sizes = self.sizes();
        let grown = if wanted.last_bytes == 0 {
            sizes.first_bytes
        } else {
            wanted.last_bytes.saturating_mul(GROWTH)
        };
        // Twice the need, and the pages that hold no frames.
        let need = wanted
            .need_bytes
            .saturating_mul(2)
            .saturating_add((8 + footer_pages(wanted.need_bytes)) * PAGE_BYTES);
        // A store's smallest is less only where a test says so.
        let smallest_bytes = SEGMENT_BYTES_MIN.min(self.shared().sizes.first_bytes);
        let bounded = |bytes: u32| {
            let bytes = bytes.clamp(smallest_bytes, SEGMENT_BYTES_MAX);
            bytes.next_multiple_of(PAGE_BYTES)
        };
        (
            bounded(need),
            bounded(grown.min(sizes.largest_bytes).max(need)),
        )
    }

    /// Removes a standby that nobody will write to.
    pub(crate) fn discard(&self, standby: &Standby) {
        let id = self.identity().id;
        let segment = standby.identity.segment;
        let dropped = Entry::SegmentDropped { log: id, segment };
        if let Err(error) = self.shared().commit(&[dropped]) {
            tracing::warn!(%error, "cannot note an unused segment in the manifest");
            return;
        }
        let name = segment_name(id, segment);
        if let Err(error) = self.shared().folder.remove(&name) {
            tracing::warn!(%name, %error, "cannot remove an unused segment");
        }
    }

    /// Writes the footer of a sealed segment, whose claims are all committed or void, syncs it and
    /// tells the manifest (S5). Then the log no longer keeps the segment mapped.
    pub(crate) fn finish_segment(self: &Arc<Self>, sealed: SealedSegment) {
        let SealedSegment {
            segment,
            mut footer,
            summary,
            index,
        } = sealed;
        let pages = footer::encode(&summary, &index);
        let position = footer_position(summary.end_position);
        // And zeros from the seal on: what stands there may be of an earlier use of the file.
        let seal_end = summary.end_position + FRAME_HEADER_BYTES as u32;
        let mut bytes = vec![0; (position - seal_end) as usize];
        bytes.extend_from_slice(&pages);
        footer.write(seal_end, &bytes);
        let memory = segment.region().memory();
        let synced = self.sync_under_baton(|| {
            memory.shrink(seal_end as usize + bytes.len())?;
            memory.sync()
        });
        if synced.is_err() {
            return;
        }
        let footer_bytes = u32::try_from(pages.len()).unwrap_or(u32::MAX);
        let entry = Entry::Sealed {
            log: self.identity().id,
            segment: summary.segment,
            base_offset: summary.base_offset,
            end_offset: summary.end_offset,
            end_position: summary.end_position,
            footer_bytes,
        };
        if let Err(error) = self.note_ends(Some(entry)) {
            // Tried again with the next segment's end, and at a clean stop.
            tracing::error!(%error, "cannot note a sealed segment in the manifest");
        }
    }
}

/// The error with its kind, so that a full disk is told as such.
fn manifest_failed(error: ManifestError) -> io::Error {
    io::Error::new(error.io_kind(), error)
}

/// A nonce no earlier use of a file can have had: random, and in the half that commit words carry neither zero, so that
/// zeros never read as a frame, nor that of the use before, whose frames would.
fn nonce_for(origin: Origin, mut draw: impl FnMut() -> io::Result<u64>) -> io::Result<u64> {
    const HALF: u64 = u32::MAX as u64;
    let former_half = match origin {
        Origin::Made { .. } => 0,
        Origin::Reused { former_nonce } => former_nonce & HALF,
    };
    loop {
        let nonce = draw()?;
        if ![0, former_half].contains(&(nonce & HALF)) {
            return Ok(nonce);
        }
    }
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    loop {
        let flags = rustix::rand::GetRandomFlags::empty();
        if rustix::rand::getrandom(&mut bytes, flags)? == bytes.len() {
            return Ok(u64::from_le_bytes(bytes));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn l7_no_nonce_is_drawn_that_reads_as_zeros_or_as_the_use_before() {
        let drawn = [7 << 32, (7 << 32) | 5, (8 << 32) | 6];
        let draw = || {
            let mut drawn = drawn.into_iter();
            move || Ok(drawn.next().unwrap())
        };
        let made = Origin::Made {
            blocks: crate::folder::Blocks::Reserved,
        };
        let reused = Origin::Reused {
            former_nonce: (9 << 32) | 5,
        };
        assert_eq!(nonce_for(made, draw()).unwrap(), drawn[1]);
        assert_eq!(nonce_for(reused, draw()).unwrap(), drawn[2]);
    }
}
