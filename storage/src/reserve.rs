//! Room set aside in the data folder: for a start on a full disk, and for settling on one (S7).
//!
//! The file `reserve` is empty and has blocks allocated behind its end. Giving them back is removing it:
//! at a start, once the manifest showed that the folder is ours, so that recovery has room; and when the
//! broker's own logs need a segment and the disk has none. It is made again when there is room.

use std::io;

use crate::folder::Folder;

/// Name of the file.
pub(crate) const RESERVE_FILE: &str = "reserve";
/// Two of the largest segments of the journal. Less is taken where there is no more.
const RESERVE_BYTES: u64 = 8 << 20;
/// Less than this is of no use to anybody.
const RESERVE_BYTES_MIN: u64 = 1 << 20;

/// Gives the room back; true if there was any. A file of the name that holds something is not ours.
pub(crate) fn release(folder: &dyn Folder) -> bool {
    let ours = folder.len(RESERVE_FILE).is_ok_and(|len| len == 0);
    ours && folder.remove(RESERVE_FILE).is_ok()
}

/// Sets room aside, as much as there is. That there is none is no failure: it is tried again.
pub(crate) fn keep(folder: &dyn Folder) {
    if let Err(error) = try_keep(folder) {
        tracing::warn!(%error, "no room is set aside for a full disk");
    }
}

fn try_keep(folder: &dyn Folder) -> io::Result<()> {
    match folder.create_file(RESERVE_FILE, &[]) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut file = folder.append_file(RESERVE_FILE)?;
    let mut bytes = RESERVE_BYTES;
    loop {
        match file.reserve(bytes) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                bytes /= 2;
                if bytes < RESERVE_BYTES_MIN {
                    return Err(error);
                }
            }
            done => return done,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::disk::DiskFolder;

    #[test]
    fn what_is_set_aside_is_given_back_and_what_others_put_there_is_not() {
        let place = tempfile::tempdir().unwrap();
        let folder = DiskFolder::open(place.path()).unwrap();
        assert!(!release(&folder), "there is none yet");
        keep(&folder);
        let blocks = || {
            use std::os::unix::fs::MetadataExt;
            let metadata = std::fs::metadata(place.path().join(RESERVE_FILE));
            metadata.map_or(0, |metadata| metadata.blocks() * 512)
        };
        assert!(blocks() >= RESERVE_BYTES, "{}", blocks());
        keep(&folder);
        assert!(release(&folder) && blocks() == 0);
        std::fs::write(place.path().join(RESERVE_FILE), "mine").unwrap();
        assert!(!release(&folder));
        assert!(blocks() > 0);
    }
}
