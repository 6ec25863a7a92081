//! A recovery that is repeated changes nothing that the first one left.

use std::collections::BTreeMap;

use millstream_protocol::checksum::crc32c;

use super::disk::End;
use super::folder::CrashFolder;
use super::life::{Life, covered};
use crate::folder::Folder;
use crate::layout::segment_name;
use crate::manifest::{Manifest, State};
use crate::recovery::QUARANTINE;
use crate::store::Store;

/// What a folder says and holds: its manifest but for the count of starts, and a checksum of each
/// segment that this names and of all that was set aside.
///
/// Behind a power loss only what a segment's end covers counts: behind it lies what a failed sync
/// left in the page cache alone, which nobody reads. And of what was set aside, what start number
/// `start` did: a kill may have left copies of earlier ones half made.
fn image(folder: &CrashFolder, end: End, start: u32) -> (State, BTreeMap<String, u32>) {
    let (mut state, _) = Manifest::inspect(folder).unwrap();
    let made_then = format!("-boot-{start}.cut");
    state.boot_epoch = 0;
    state.boot_id = [0; 16];
    let mut sums = BTreeMap::new();
    for (id, log) in &state.logs {
        for (number, segment) in &log.segments {
            if segment.quarantined && end == End::PowerLoss {
                // Kept for a person to look at, and never served.
                continue;
            }
            let name = segment_name(*id, *number);
            let bytes = folder.read_file(&name).unwrap();
            let covered = match (end, &segment.end) {
                (End::PowerLoss, Some(end)) => covered(&bytes, end),
                _ => &bytes,
            };
            sums.insert(name, crc32c(covered));
        }
    }
    for name in folder.list(QUARANTINE).unwrap_or_default() {
        if end == End::PowerLoss && !name.ends_with(&made_then) {
            continue;
        }
        let name = format!("{QUARANTINE}/{name}");
        let crc = crc32c(&folder.read_file(&name).unwrap());
        sums.insert(name, crc);
    }
    (state, sums)
}

impl Life {
    /// Strikes right after a start, and starts again.
    pub(super) fn start_again(&mut self) {
        let end = self.some_end();
        let start = self.store.as_ref().map_or(0, Store::boot_epoch);
        let before = image(&self.folder, end, start);
        self.strike_now(end);
        self.let_go();
        self.crashed();
        let store = self.open().expect("it was opened before");
        let after = image(&self.folder, end, start);
        assert_eq!(before.0, after.0, "the manifest says something else");
        for (name, crc) in &before.1 {
            let same = after.1.get(name) == Some(crc);
            assert!(same, "a second recovery, after a {end:?}, changed {name}");
        }
        let more = after.1.keys().find(|name| !before.1.contains_key(*name));
        assert_eq!(more, None, "a second recovery, after a {end:?}, made it");
        self.tally.again += 1;
        self.take_up(store);
    }
}
