//! Ids of before the start: read from their topics by a few threads, where somebody has to know them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use millstream_protocol::batch::{Checked, RecordRun};
use millstream_protocol::{Offset, Start};
use millstream_storage::{Chunk, Log, started_at};

use super::clock::{Clock, boot_us};
use super::patient::PatientReader;
use super::registry::Queues;
use super::topic::{ID_WINDOW_US, TopicRules};

/// Threads that read at once, at most: after a start any number of topics may be asked for.
const READERS: usize = 2;
/// Bytes of frames looked at together.
const LOAD_BYTES: u32 = 1 << 20;

/// Who has to know the ids of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asking {
    /// A publisher that waits.
    Publisher,
    /// Whoever trims, which has time.
    Trim,
}

/// A topic whose ids are to be read.
#[derive(Debug)]
struct Unread {
    rules: Arc<TopicRules>,
    log: Arc<Log>,
}

#[derive(Debug, Default)]
struct Lists {
    unread: VecDeque<Unread>,
    readers: usize,
    stopped: bool,
}

/// What is to be read, and by how many it is.
#[derive(Debug, Default)]
pub(super) struct IdReaders {
    lists: Mutex<Lists>,
}

impl IdReaders {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists what is to be read; true where the caller has to start one more reader for it.
    fn push(&self, unread: Unread, asking: Asking) -> bool {
        let mut lists = self.lists();
        if lists.stopped {
            drop(lists);
            unread.rules.ids().loading_failed();
            return false;
        }
        match asking {
            Asking::Publisher => lists.unread.push_front(unread),
            Asking::Trim => lists.unread.push_back(unread),
        }
        let more = lists.readers < READERS;
        lists.readers += usize::from(more);
        more
    }

    /// Has what is listed already read next.
    fn hurry(&self, rules: &Arc<TopicRules>) {
        let mut lists = self.lists();
        let mut listed = lists.unread.iter();
        let at = listed.position(|unread| Arc::ptr_eq(&unread.rules, rules));
        if let Some(unread) = at.and_then(|at| lists.unread.remove(at)) {
            lists.unread.push_front(unread);
        }
    }

    /// The next to be read; `None` ends the reader.
    fn next(&self) -> Option<Unread> {
        let mut lists = self.lists();
        let next = lists.unread.pop_front();
        lists.readers -= usize::from(next.is_none());
        next
    }

    /// Reads until nothing is listed.
    fn run(&self, clock: &Clock) {
        while let Some(Unread { rules, log }) = self.next() {
            let read = || ids_since(&log, clock.now().wall_us);
            match catch_unwind(AssertUnwindSafe(read)) {
                Ok(found) => rules.ids().loaded(&found),
                Err(_) => {
                    let topic = &log.identity().name;
                    tracing::error!(%topic, "reading the ids of before the start panicked");
                    rules.ids().loading_failed();
                }
            }
        }
    }

    /// No reader could be started: unless there is another, whoever waits asks again.
    fn reader_failed(&self) {
        let mut lists = self.lists();
        lists.readers -= 1;
        if lists.readers == 0 {
            forget(lists);
        }
    }

    /// Reads nothing more but what is being read.
    pub(super) fn stop(&self) {
        let mut lists = self.lists();
        lists.stopped = true;
        forget(lists);
    }
}

/// Takes everything off the lists. Whoever waits is woken without the lock.
fn forget(mut lists: MutexGuard<'_, Lists>) {
    let unread = std::mem::take(&mut lists.unread);
    drop(lists);
    for unread in unread {
        unread.rules.ids().loading_failed();
    }
}

impl Queues {
    /// Has the ids of before the start read in the background; see [`TopicRules::ids`].
    pub(crate) fn load_ids_soon(&self, rules: &Arc<TopicRules>, log: &Arc<Log>, asking: Asking) {
        // An own statement: the lock on the ids must not be held any more.
        let is_first = rules.ids().begin_loading();
        if !is_first {
            if asking == Asking::Publisher {
                self.id_readers.hurry(rules);
            }
            return;
        }
        let (rules, log) = (Arc::clone(rules), Arc::clone(log));
        if !self.id_readers.push(Unread { rules, log }, asking) {
            return;
        }
        let (readers, clock) = (Arc::clone(&self.id_readers), Arc::clone(&self.clock));
        let read = move || readers.run(&clock);
        #[cfg(test)]
        if millstream_storage::hand::is_working() {
            return read();
        }
        // The keeper's threads run only where there are queues.
        let started = thread::Builder::new().name("ms-ids".to_owned()).spawn(read);
        if let Err(error) = started {
            tracing::error!(%error, "cannot read the ids of before the start yet");
            self.id_readers.reader_failed();
        }
    }
}

/// The ids of records appended within the window, with the boot time of that.
fn ids_since(log: &Arc<Log>, wall_us: u64) -> Vec<(u64, Vec<u8>, Offset)> {
    let mut found = Vec::new();
    let now_us = boot_us();
    let since_us = wall_us.saturating_sub(ID_WINDOW_US);
    let mut reader = PatientReader::new(log, Start::Time(since_us));
    // Those that came since are noted by who publishes them.
    let end = started_at(log);
    while reader.next_offset() < end {
        let Ok(chunk) = reader.next(LOAD_BYTES) else {
            break;
        };
        let Chunk::Frames(slice) = chunk else {
            continue;
        };
        let (place, first) = (slice.place(), slice.first_offset());
        let frames = bytes::Bytes::from_owner(slice);
        for record in RecordRun::new(frames, place, Checked::Yes, first).flatten() {
            let Some(id) = record.options_ref().and_then(|options| options.id()) else {
                continue;
            };
            let age_us = wall_us.saturating_sub(record.append_time_us());
            if age_us <= ID_WINDOW_US {
                let at_us = now_us.saturating_sub(age_us);
                found.push((at_us, id.to_vec(), record.offset()));
            }
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use millstream_protocol::{Durability, TopicName};
    use millstream_storage::{Store, crash::CrashFolder};

    use super::super::nth::hands::Hands;
    use super::*;

    fn unread(store: &Store, name: &str) -> Unread {
        let name = TopicName::parse(name).unwrap();
        let unread = Unread {
            rules: Arc::new(TopicRules::new()),
            log: store.create_log(&name, Durability::Synced).unwrap(),
        };
        assert!(unread.rules.ids().begin_loading());
        unread
    }

    fn name_of(unread: &Unread) -> &str {
        unread.log.identity().name.as_str()
    }

    #[test]
    fn few_read_however_many_topics_are_asked_for_and_publishers_go_first() {
        let folder = Arc::new(CrashFolder::new());
        let store = Store::open_by_hand(folder, &millstream_storage::StoreOptions::default());
        let store = store.unwrap();
        let readers = IdReaders::default();
        let mut last = None;
        for number in 0..10 {
            let unread = unread(&store, &format!("topic-{number}"));
            last = Some(Arc::clone(&unread.rules));
            assert_eq!(readers.push(unread, Asking::Trim), number < READERS);
        }
        assert!(!readers.push(unread(&store, "published"), Asking::Publisher));
        let last = last.unwrap();
        readers.hurry(&last);
        let order: Vec<String> = std::iter::from_fn(|| readers.next())
            .map(|unread| name_of(&unread).to_owned())
            .collect();
        assert_eq!(order[..3], ["topic-9", "published", "topic-0"]);
        assert_eq!(order.len(), 11);
        // One of the readers has ended, and another may be started.
        assert_eq!(readers.lists().readers, READERS - 1);
        assert!(readers.push(unread(&store, "later"), Asking::Trim));

        // Where none can be started at all, whoever waits asks again.
        readers.reader_failed();
        assert!(!last.ids().begin_loading(), "it is being read");
        let rules = Arc::clone(&readers.lists().unread[0].rules);
        readers.reader_failed();
        assert!(rules.ids().begin_loading());
        assert!(readers.lists().unread.is_empty());

        readers.stop();
        let late = unread(&store, "late");
        let rules = Arc::clone(&late.rules);
        assert!(!readers.push(late, Asking::Publisher));
        assert!(rules.ids().begin_loading());
    }

    #[test]
    fn a_reader_ends_with_what_is_listed_and_tells_who_waits() {
        let folder = Arc::new(CrashFolder::new());
        let store = Store::open_by_hand(folder, &millstream_storage::StoreOptions::default());
        let store = Arc::new(store.unwrap());
        // Instead of the threads that a read waits for.
        let hands = Hands::new();
        hands.set_store(&store);
        let readers = IdReaders::default();
        let (first, second) = (unread(&store, "first"), unread(&store, "second"));
        let rules = [Arc::clone(&first.rules), Arc::clone(&second.rules)];
        assert!(readers.push(first, Asking::Trim));
        readers.push(second, Asking::Trim);
        readers.run(&Clock::new());
        assert!(rules.iter().all(|rules| rules.ids().is_loaded()));
        assert_eq!(readers.lists().readers, READERS - 1);
    }
}
