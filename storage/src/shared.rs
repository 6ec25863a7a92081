//! What all logs of one open folder share: the folder, its manifest, the work lists.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use millstream_protocol::Offset;

use crate::folder::Folder;
use crate::log::Log;
use crate::manifest::{Entry, Manifest, ManifestError};
use crate::sync::Mark;
use crate::work::Work;

/// Sizes a store is opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentSizes {
    pub(crate) first_bytes: u32,
    pub(crate) largest_bytes: u32,
}

/// Whom to tell when the manifest knows one more segment, or the end of one.
#[derive(Default)]
pub(crate) struct SegmentBell(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl SegmentBell {
    /// The first call holds.
    pub(crate) fn set(&self, ring: impl Fn() + Send + Sync + 'static) {
        // The first call holds.
        let _ = self.0.set(Box::new(ring));
    }

    pub(crate) fn ring(&self) {
        if let Some(ring) = self.0.get() {
            ring();
        }
    }
}

impl fmt::Debug for SegmentBell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentBell").finish_non_exhaustive()
    }
}

/// Shared by every log of a folder.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) folder: Arc<dyn Folder>,
    pub(crate) folder_id: [u8; 16],
    pub(crate) sizes: SegmentSizes,
    pub(crate) work: Work,
    /// Room that was set aside is in use, and to be set aside again.
    pub(crate) reserve_released: Mark,
    pub(crate) segment_bell: SegmentBell,
    manifest: Mutex<Manifest>,
}

impl Shared {
    pub(crate) fn new(
        folder: Arc<dyn Folder>,
        folder_id: [u8; 16],
        sizes: SegmentSizes,
        manifest: Manifest,
    ) -> Self {
        Self {
            folder,
            folder_id,
            sizes,
            work: Work::default(),
            reserve_released: Mark::clean(),
            segment_bell: SegmentBell::default(),
            manifest: Mutex::new(manifest),
        }
    }

    /// The manifest. Held while it is synced, so never from a publish or a read.
    pub(crate) fn manifest(&self) -> MutexGuard<'_, Manifest> {
        match self.manifest.lock() {
            Ok(manifest) => manifest,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Writes `entries` to the manifest; they are on disk when this returns `Ok`. A manifest that failed
    /// is replaced first: what is in memory is all there is to say (S7).
    pub(crate) fn commit(&self, entries: &[Entry]) -> Result<(), ManifestError> {
        let mut manifest = self.manifest();
        if let Some(reason) = manifest.poison() {
            tracing::warn!(%reason, "the manifest failed before: it is written anew");
            manifest.replace()?;
        }
        manifest.commit(entries)
    }

    /// No offset that `log` was given reaches this one.
    pub(crate) fn ceiling_in(&self, manifest: &Manifest, log: &Log) -> Offset {
        let state = manifest.state().logs.get(&log.identity().id);
        let ceiling = state.map_or(0, |state| state.offset_ceiling);
        // Of a log that no segment was made for since it was closed.
        Offset(ceiling).max(log.committed())
    }
}
