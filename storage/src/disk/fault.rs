//! What happens when a page of a mapped segment can't be written or read: `SIGBUS` (S6).
//!
//! The kernel raises it where the disk is full behind a page that was allocated (btrfs, and xfs after a
//! reflink copy), where the file was cut off under the mapping, and where the disk can't read. Without
//! a handler it ends the process, and with it every topic. The handler
//!
//! 1. finds the mapping in [`mappings`]; a fault anywhere else goes to the handler before this one;
//! 2. says in the table that a page was lost;
//! 3. fills a page of its own with what the file has (`pread`, which sees what the page cache holds);
//!    what can't be read becomes zeros, and counts as unreadable;
//! 4. swaps it in (`mremap`), in one step for all threads, and returns: the access is made again, and
//!    lands in a page that no disk will ever see.
//!
//! From 2 on nothing that lies in the segment is acknowledged: see [`mappings`] and `lost_pages`.
//!
//! Everything here is async-signal-safe: atomics, and the system calls `mmap`, `pread`, `mremap`,
//! `munmap`, `mprotect`, `sigaction` and `raise`, none of which takes a lock of ours or of libc's.

use std::io;
use std::sync::OnceLock;

use libc::{c_int, c_void, siginfo_t};

use super::map::page_bytes;
use crate::sync::{Alone, MappedPlace};

/// What was there before, to which faults of others go.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
/// Bytes of a page of this machine, looked up before the handler may need it.
static PAGE_BYTES: OnceLock<usize> = OnceLock::new();

type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
type PlainHandler = extern "C" fn(c_int);

/// Takes `SIGBUS` for faults in mapped segments, for the whole process and for good. Later calls do
/// nothing.
///
/// # Errors
///
/// What the system said.
pub fn catch_page_faults() -> io::Result<()> {
    static CAUGHT: OnceLock<Result<(), i32>> = OnceLock::new();
    let caught = CAUGHT.get_or_init(|| {
        PAGE_BYTES.get_or_init(page_bytes);
        // First what is there, so that the handler finds it whenever it runs.
        let before = action_now().map_err(|error| error.raw_os_error().unwrap_or(0))?;
        BEFORE.get_or_init(|| before);
        let mut ours = empty_action();
        ours.sa_sigaction = on_fault as Handler as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        set_action(&ours).map_err(|error| error.raw_os_error().unwrap_or(0))
    });
    caught.map_err(io::Error::from_raw_os_error)
}

fn empty_action() -> libc::sigaction {
    // SAFETY: of integers, an integer array and a nullable function pointer, for all of which zeros
    // are values.
    unsafe { std::mem::zeroed() }
}

fn action_now() -> io::Result<libc::sigaction> {
    let mut before = empty_action();
    // SAFETY: the kernel writes one `sigaction` to where it lies; nothing is set.
    let answer = unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) };
    if answer == 0 {
        Ok(before)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn set_action(action: &libc::sigaction) -> io::Result<()> {
    // SAFETY: `action` is whole; its handler is either ours, which is async-signal-safe, or one that
    // was in force before.
    let answer = unsafe { libc::sigaction(libc::SIGBUS, action, std::ptr::null_mut()) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the address of this thread's own error number, which always exists.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above; nobody else reads or writes it.
    let errno = unsafe { place.read() };
    // SAFETY: the kernel hands a handler with SA_SIGINFO a whole `siginfo_t`.
    let code = unsafe { (*info).si_code };
    // Sent by a process (0 and below) it is no fault and has no address.
    let mended = code > 0 && mend(address_of(info));
    // SAFETY: as above: what we interrupted must find it as it was.
    unsafe { place.write(errno) };
    if !mended {
        pass_on(signal, info, context, code);
    }
}

fn address_of(info: *const siginfo_t) -> usize {
    // SAFETY: the kernel hands a handler with SA_SIGINFO a whole `siginfo_t`.
    let info = unsafe { info.read() };
    // SAFETY: for a fault the kernel fills in the address; the caller looked at the code.
    let address = unsafe { info.si_addr() };
    address as usize
}

/// Puts a page of ours where `address` lies, if that is in a mapped segment.
fn mend(address: usize) -> bool {
    let (Some(place), Some(page_bytes)) = (MappedPlace::holding(address), PAGE_BYTES.get()) else {
        return false;
    };
    let page = address - address % page_bytes;
    let alone = place.enter();
    let Some(exchanged) = Exchanged::of(&alone, place.addresses().len(), *page_bytes) else {
        return false;
    };
    let index = (page - place.addresses().start) / page_bytes;
    if exchanged.has(index) {
        // Another thread met the same page first.
        return true;
    }
    place.note_fault();
    exchange(place, page, *page_bytes, index, &exchanged)
}

/// Steps 3 and 4. Behind the end of the file all pages go at once.
fn exchange(
    place: &MappedPlace,
    page: usize,
    page_bytes: usize,
    index: usize,
    exchanged: &Exchanged,
) -> bool {
    let Some(fresh) = anonymous(page_bytes) else {
        return false;
    };
    let position = page - place.addresses().start;
    let wanted = page_bytes.min(place.addresses().end - page);
    let read = fill(place.descriptor(), fresh, wanted, position);
    if read < wanted {
        place.note_unreadable();
    }
    let past_end = read == 0 && is_past_end(place.descriptor(), position);
    let len_bytes = if past_end {
        (place.addresses().end - page).next_multiple_of(page_bytes)
    } else {
        page_bytes
    };
    let swapped = if past_end {
        unmap(fresh, page_bytes);
        zeros_at(page, len_bytes)
    } else {
        swap_in(fresh, page, page_bytes)
    };
    if swapped && !place.is_writable() {
        // SAFETY: these pages are ours since a moment ago; a mapping for reading stays one.
        unsafe { libc::mprotect(page as *mut c_void, len_bytes, libc::PROT_READ) };
    }
    if swapped {
        for behind in 0..len_bytes / page_bytes {
            exchanged.set(index + behind);
        }
    }
    swapped
}

/// A bit for each page of a mapping, in memory that the handler maps for itself.
struct Exchanged {
    bits: *mut u8,
}

impl Exchanged {
    fn of(alone: &Alone<'_>, len_bytes: usize, page_bytes: usize) -> Option<Self> {
        let mut address = alone.exchanged();
        if address == 0 {
            address = anonymous(bits_bytes(len_bytes, page_bytes))? as usize;
            alone.set_exchanged(address);
        }
        Some(Self {
            bits: address as *mut u8,
        })
    }

    fn has(&self, index: usize) -> bool {
        let byte = self.bits.wrapping_add(index / 8);
        // SAFETY: `index` is a page of the mapping, and the map has a bit for each; the handler that
        // holds the place alone is the only one that looks at it.
        let bits = unsafe { byte.read() };
        bits >> (index % 8) & 1 == 1
    }

    fn set(&self, index: usize) {
        let byte = self.bits.wrapping_add(index / 8);
        // SAFETY: as in `has`.
        let bits = unsafe { byte.read() };
        // SAFETY: as in `has`.
        unsafe { byte.write(bits | 1 << (index % 8)) };
    }
}

fn bits_bytes(len_bytes: usize, page_bytes: usize) -> usize {
    len_bytes.div_ceil(page_bytes).div_ceil(8).max(1)
}

/// Gives back the map of exchanged pages at `address` of a mapping of `len_bytes` bytes that is going.
pub(super) fn forget_exchanged(address: usize, len_bytes: usize) {
    if address != 0 {
        unmap(
            address as *mut u8,
            bits_bytes(len_bytes, *PAGE_BYTES.get_or_init(page_bytes)),
        );
    }
}

/// Fresh zeroed pages. Shared, though with nobody: `unmap_before_sync` would empty private ones.
fn anonymous(len_bytes: usize) -> Option<*mut u8> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: asks for new pages anywhere; no address of ours is given.
    let pages = unsafe { libc::mmap(std::ptr::null_mut(), len_bytes, prot, flags, -1, 0) };
    (pages != libc::MAP_FAILED).then_some(pages.cast())
}

fn unmap(pages: *mut u8, len_bytes: usize) {
    // SAFETY: pages that `anonymous` made and that nobody else knows of.
    unsafe { libc::munmap(pages.cast(), len_bytes) };
}

/// Reads up to `wanted` bytes of the file at `position` into `fresh`; how many it got.
fn fill(descriptor: c_int, fresh: *mut u8, wanted: usize, position: usize) -> usize {
    let mut read = 0;
    while read < wanted {
        let into = fresh.wrapping_add(read).cast();
        let at = i64::try_from(position + read).unwrap_or(i64::MAX);
        // SAFETY: `fresh` has a page, and `wanted` is at most that; nobody else knows it yet.
        let answer = unsafe { libc::pread64(descriptor, into, wanted - read, at) };
        match usize::try_from(answer) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    read
}

/// Whether the file ends at or before `position`.
fn is_past_end(descriptor: c_int, position: usize) -> bool {
    let mut byte = 0_u8;
    let at = i64::try_from(position).unwrap_or(i64::MAX);
    // SAFETY: one byte is read into one byte.
    let answer = unsafe { libc::pread64(descriptor, (&raw mut byte).cast(), 1, at) };
    answer == 0
}

/// Moves the page `fresh` to `page`, in place of what is there.
fn swap_in(fresh: *mut u8, page: usize, page_bytes: usize) -> bool {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let to = page as *mut c_void;
    // SAFETY: `page` lies in a mapping of ours that somebody is touching, so it stays mapped; those
    // who share it find other bytes there only where the file's could not be had.
    let moved = unsafe { libc::mremap(fresh.cast(), page_bytes, page_bytes, flags, to) };
    if moved == libc::MAP_FAILED {
        unmap(fresh, page_bytes);
        return false;
    }
    true
}

/// Puts zeroed pages of ours at `page`, in place of what is there.
fn zeros_at(page: usize, len_bytes: usize) -> bool {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: as in `swap_in`; the file has no bytes there at all.
    let pages = unsafe { libc::mmap(page as *mut c_void, len_bytes, prot, flags, -1, 0) };
    pages != libc::MAP_FAILED
}

/// Does with the signal what would have been done without us.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void, code: c_int) {
    let Some(before) = BEFORE.get() else {
        return;
    };
    match before.sa_sigaction {
        libc::SIG_IGN if code <= 0 => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            let mut default = empty_action();
            default.sa_sigaction = libc::SIG_DFL;
            // A fault happens again as soon as we return, and then ends the process; what was sent
            // is sent again. Nothing could be told of an error here.
            if set_action(&default).is_ok() && code <= 0 {
                // SAFETY: raises a signal in this thread, which is blocked until we return.
                unsafe { libc::raise(signal) };
            }
        }
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: whoever set it with SA_SIGINFO gave a function of this type.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: whoever set it without SA_SIGINFO gave a function of this type.
            let handler = unsafe { std::mem::transmute::<usize, PlainHandler>(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use millstream_protocol::Offset;

    use super::*;
    use crate::disk::DiskFolder;
    use crate::folder::{Access, Folder};
    use crate::layout::Identity;
    use crate::manifest::{LogId, SegmentNumber};
    use crate::segment::{Origin, Standby, TryClaim};

    /// As on a file system that must copy a shared block to write to it and has no room for the copy.
    #[test]
    fn s6_a_page_that_can_be_read_keeps_its_bytes_when_it_is_exchanged() {
        let root = tempfile::tempdir().unwrap();
        let page_bytes = *PAGE_BYTES.get_or_init(page_bytes);
        let bytes: Vec<u8> = (0..=250).cycle().take(3 * page_bytes).collect();
        std::fs::write(root.path().join("a.seg"), &bytes).unwrap();
        let folder = DiskFolder::open_or_create(root.path()).unwrap();
        let memory = folder.open_segment("a.seg", Access::ReadWrite).unwrap();
        let base = memory.base().as_ptr();
        assert!(mend(base as usize + page_bytes + 5));
        // SAFETY: the mapping is `3 * page_bytes` long and nobody writes to it.
        let mapped = unsafe { std::slice::from_raw_parts(base, bytes.len()) };
        assert!(mapped == bytes, "what could be read is what is there");
        // Unmapping what is about to be synced changes no byte, of ours neither.
        memory.unmap_before_sync(0..bytes.len());
        assert!(mapped == bytes, "what was there is there");
        // Of the page alone: it is no longer the file's.
        let file = File::options().write(true).open(root.path().join("a.seg"));
        file.unwrap()
            .write_all_at(&vec![255; bytes.len()], 0)
            .unwrap();
        // SAFETY: as above; the file's pages changed under the first slice, which is not used again.
        let mapped = unsafe { std::slice::from_raw_parts(base, bytes.len()) };
        let changed = mapped
            .chunks(page_bytes)
            .map(|page| page.first() == Some(&255));
        assert_eq!(changed.collect::<Vec<_>>(), [true, false, true]);
        let lost = memory.lost_pages().expect("a page was lost");
        assert!(lost.to_string().contains("a.seg"), "{lost}");
    }

    /// What the file says of a page that is not the file's any more is not waited for.
    #[test]
    fn s6_who_looks_behind_his_frame_does_not_wait_for_a_page_that_was_exchanged() {
        let root = tempfile::tempdir().unwrap();
        let len_bytes = 256 << 10;
        std::fs::write(root.path().join("1.seg"), vec![0; len_bytes]).unwrap();
        let folder = DiskFolder::open_or_create(root.path()).unwrap();
        let memory = folder.open_segment("1.seg", Access::ReadWrite).unwrap();
        let identity = Identity {
            folder_id: [1; 16],
            incarnation: [2; 16],
            log: LogId(1),
            segment: SegmentNumber(1),
            nonce: 3,
            len_bytes: len_bytes as u32,
        };
        let origin = Origin::Reused { former_nonce: 7 };
        let segment = Standby::new(Arc::clone(&memory), identity, origin).activate(Offset(0), 0);
        let publish = || match segment.try_claim(64, 1, 1) {
            // Void, and a commit as any other.
            TryClaim::Claim(claim) => claim.position(),
            other => panic!("{other:?}"),
        };
        let first = publish();
        PAGE_BYTES.get_or_init(page_bytes);
        assert!(mend(memory.base().as_ptr() as usize + first as usize));
        let second = publish();
        segment.clear_behind(second, 1);
        assert_eq!(publish(), second + 64);
    }
}
