//! Unmapping large segments on a thread of its own.
//!
//! To take the pages of 64 MiB out of the page tables is a millisecond and a half, and to free them, where
//! the file has no name any more, several. Whoever drops the last slice of a segment is often an I/O thread,
//! which has other connections to look after.

use std::fs::File;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use memmap2::MmapRaw;

/// From so many bytes on it pays to hand a map over.
const LARGE_BYTES: usize = 4 << 20;
/// Maps that may wait; those behind them are let go of by whoever drops them.
const WAITING_MAX: usize = 64;

/// A map and its file, which is closed behind it.
pub(super) struct Mapping {
    pub(super) map: MmapRaw,
    pub(super) file: File,
}

/// Where large maps go; clones share the thread, which starts with the first of them.
#[derive(Clone, Default)]
pub(super) struct Unmapper {
    thread: Arc<Thread>,
}

/// `None` inside where it could not be started.
#[derive(Default)]
struct Thread(OnceLock<Option<(SyncSender<Mapping>, JoinHandle<()>)>>);

impl Unmapper {
    /// Unmaps and closes, here if that is soon done, else by and by.
    pub(super) fn unmap(&self, mapping: Mapping) {
        if mapping.map.len() < LARGE_BYTES {
            return drop(mapping);
        }
        if let Some((sender, _)) = self.thread.0.get_or_init(start) {
            // What it has no room for comes back, and is dropped here.
            drop(sender.try_send(mapping));
        }
    }
}

impl Drop for Thread {
    /// With the last segment and folder: then all is unmapped, and the disk can be taken away.
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.0.take().flatten() {
            drop(sender);
            // It cannot panic; if it did, that was told.
            drop(thread.join());
        }
    }
}

fn start() -> Option<(SyncSender<Mapping>, JoinHandle<()>)> {
    let (sender, mappings) = sync_channel(WAITING_MAX);
    let spawned = thread::Builder::new()
        .name("ms-unmap".to_owned())
        .spawn(move || mappings.into_iter().for_each(drop));
    match spawned {
        Ok(thread) => Some((sender, thread)),
        Err(error) => {
            tracing::warn!(%error, "segments are unmapped by whoever used them last");
            None
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io;

    use memmap2::MmapOptions;

    use super::*;

    fn mapping(len_bytes: usize) -> io::Result<(Mapping, String)> {
        let file = tempfile::tempfile()?;
        file.set_len(len_bytes as u64)?;
        let map = MmapOptions::new().len(len_bytes).map_raw_read_only(&file)?;
        let address = format!("{:x}-", map.as_mut_ptr() as usize);
        Ok((Mapping { map, file }, address))
    }

    fn is_mapped(address: &str) -> io::Result<bool> {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let is_it = |line: &str| line.starts_with(address) && line.contains("(deleted)");
        Ok(maps.lines().any(is_it))
    }

    #[test]
    fn large_maps_go_to_a_thread_and_small_ones_at_once() {
        let unmapper = Unmapper::default();
        let (small, address) = mapping(LARGE_BYTES / 2).unwrap();
        assert!(is_mapped(&address).unwrap());
        unmapper.unmap(small);
        assert!(!is_mapped(&address).unwrap());
        assert!(unmapper.thread.0.get().is_none(), "no thread for that");

        let (large, address) = mapping(LARGE_BYTES).unwrap();
        assert!(is_mapped(&address).unwrap());
        unmapper.unmap(large);
        assert!(unmapper.thread.0.get().is_some());
        drop(unmapper);
        assert!(!is_mapped(&address).unwrap(), "the last one waits for all");
    }
}
