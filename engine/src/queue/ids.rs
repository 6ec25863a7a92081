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

/// Threads that read at once, at most: after a start any number of topics may be asked for. One is left to
/// publishers.
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
    publishers: VecDeque<Unread>,
    trims: VecDeque<Unread>,
    /// Readers that were started and have not ended.
    readers: usize,
    /// Those of them that read for a trim.
    trimming: usize,
}

impl Lists {
    /// Takes what was to be read for a trim alone.
    fn take_trim(&mut self, rules: &Arc<TopicRules>) -> Option<Unread> {
        let mut trims = self.trims.iter();
        let at = trims.position(|unread| Arc::ptr_eq(&unread.rules, rules))?;
        self.trims.remove(at)
    }
}

/// What is to be read, and by how many it is. Its lock is taken before that of any ids.
#[derive(Debug, Default)]
pub(super) struct IdReaders {
    lists: Mutex<Lists>,
}

impl IdReaders {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists what is to be read, unless it is listed or read; true where the caller has to start one more
    /// reader for it.
    fn ask(&self, rules: &Arc<TopicRules>, log: &Arc<Log>, asking: Asking) -> bool {
        let mut lists = self.lists();
        // Not within the condition: the lock on the ids must not be held any more.
        let is_first = rules.ids().begin_loading();
        let unread = match asking {
            _ if is_first => Some(Unread {
                rules: Arc::clone(rules),
                log: Arc::clone(log),
            }),
            Asking::Publisher => lists.take_trim(rules),
            Asking::Trim => None,
        };
        let Some(unread) = unread else {
            return false;
        };
        match asking {
            Asking::Publisher => lists.publishers.push_back(unread),
            Asking::Trim => lists.trims.push_back(unread),
        }
        let more = lists.readers < READERS;
        lists.readers += usize::from(more);
        more
    }

    /// The next to be read by one who read for `before`; `None` ends that reader.
    fn next(&self, before: Option<Asking>) -> Option<(Unread, Asking)> {
        let mut lists = self.lists();
        lists.trimming -= usize::from(before == Some(Asking::Trim));
        if let Some(unread) = lists.publishers.pop_front() {
            return Some((unread, Asking::Publisher));
        }
        if lists.trimming + 1 < READERS
            && let Some(unread) = lists.trims.pop_front()
        {
            lists.trimming += 1;
            return Some((unread, Asking::Trim));
        }
        lists.readers -= 1;
        None
    }

    /// Reads until nothing is listed; `at` is for whom it reads.
    fn run(&self, clock: &Clock, at: &mut Option<Asking>) {
        while let Some((Unread { rules, log }, asking)) = self.next(at.take()) {
            *at = Some(asking);
            let found = ids_since(&log, clock.now().wall_us);
            rules.ids().loaded(&found);
        }
    }

    /// The same in a thread of its own, which goes on with the next where one panics.
    fn run_guarded(&self, clock: &Clock) {
        let mut at = None;
        while catch_unwind(AssertUnwindSafe(|| self.run(clock, &mut at))).is_err() {
            tracing::error!(
                "reading the ids of before the start panicked: publishers with ids to that topic wait for the next one"
            );
        }
    }

    /// No reader could be started: unless there is another, whoever waits asks again.
    fn reader_failed(&self) {
        let mut lists = self.lists();
        lists.readers -= 1;
        if lists.readers > 0 {
            return;
        }
        let mut unread = std::mem::take(&mut lists.publishers);
        unread.append(&mut lists.trims);
        drop(lists);
        for unread in unread {
            unread.rules.ids().loading_failed();
        }
    }
}

impl Queues {
    /// Has the ids of before the start read in the background; see [`TopicRules::ids`].
    pub(crate) fn load_ids_soon(&self, rules: &Arc<TopicRules>, log: &Arc<Log>, asking: Asking) {
        if !self.id_readers.ask(rules, log, asking) {
            return;
        }
        #[cfg(test)]
        if millstream_storage::hand::is_working() {
            return self.id_readers.run(&self.clock, &mut None);
        }
        let (readers, clock) = (Arc::clone(&self.id_readers), Arc::clone(&self.clock));
        // The keeper's threads run only where there are queues.
        let started = thread::Builder::new()
            .name("ms-ids".to_owned())
            .spawn(move || readers.run_guarded(&clock));
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
    use millstream_storage::crash::CrashFolder;
    use millstream_storage::{Store, StoreOptions};

    use super::super::nth::hands::Hands;
    use super::*;

    struct Topics {
        store: Arc<Store>,
        readers: IdReaders,
    }

    impl Topics {
        fn new() -> Self {
            let folder = Arc::new(CrashFolder::new());
            let store = Store::open_by_hand(folder, &StoreOptions::default());
            Self {
                store: Arc::new(store.unwrap()),
                readers: IdReaders::default(),
            }
        }

        /// Asks for the ids of a new topic; whether a reader is to be started.
        fn ask(&self, name: &str, asking: Asking) -> (bool, Arc<TopicRules>) {
            let name = TopicName::parse(name).unwrap();
            let log = self.store.create_log(&name, Durability::Synced).unwrap();
            let rules = Arc::new(TopicRules::new());
            (self.readers.ask(&rules, &log, asking), rules)
        }

        fn again(&self, name: &str, rules: &Arc<TopicRules>) -> bool {
            let log = self.store.log(&TopicName::parse(name).unwrap()).unwrap();
            self.readers.ask(rules, &log, Asking::Publisher)
        }

        fn next(&self, before: Option<Asking>) -> Option<String> {
            let (unread, _) = self.readers.next(before)?;
            Some(unread.log.identity().name.as_str().to_owned())
        }
    }

    #[test]
    fn few_read_however_many_topics_are_asked_for_and_publishers_wait_for_no_trim() {
        let topics = Topics::new();
        let mut listed = Vec::new();
        for number in 0..10 {
            let (more, rules) = topics.ask(&format!("trim-{number}"), Asking::Trim);
            assert_eq!(more, number < READERS);
            listed.push(rules);
        }
        // The first takes one to trim, and the second leaves the rest to it.
        assert_eq!(topics.next(None).unwrap(), "trim-0");
        assert_eq!(topics.next(None), None);
        assert!(topics.again("trim-9", &listed[9]), "the other may be slow");
        let (more, _) = topics.ask("published", Asking::Publisher);
        assert!(!more);
        assert!(!topics.again("trim-8", &listed[8]));
        assert!(!topics.again("trim-0", &listed[0]), "it is being read");
        let publisher = Some(Asking::Publisher);
        assert_eq!(topics.next(None).unwrap(), "trim-9");
        assert_eq!(topics.next(Some(Asking::Trim)).unwrap(), "published");
        assert_eq!(topics.next(publisher).unwrap(), "trim-8");
        assert_eq!(topics.next(publisher).unwrap(), "trim-1");
        assert_eq!(topics.next(publisher), None, "one trims");
        let (more, _) = topics.ask("later", Asking::Publisher);
        assert!(more);
        assert_eq!(topics.next(None).unwrap(), "later");
        assert_eq!(topics.next(publisher), None);
        for number in 2..8 {
            let next = topics.next(Some(Asking::Trim)).unwrap();
            assert_eq!(next, format!("trim-{number}"));
        }
        assert_eq!(topics.next(Some(Asking::Trim)), None);
        assert_eq!(topics.readers.lists().readers, 0);
    }

    #[test]
    fn where_no_reader_can_be_started_whoever_waits_asks_again() {
        let topics = Topics::new();
        let (more, rules) = topics.ask("one", Asking::Publisher);
        assert!(more);
        let (more, other) = topics.ask("other", Asking::Trim);
        assert!(more);
        topics.readers.reader_failed();
        assert!(!rules.ids().begin_loading(), "another reads it");
        topics.readers.reader_failed();
        assert!(rules.ids().begin_loading() && other.ids().begin_loading());
        assert_eq!(topics.readers.lists().readers, 0);
    }

    #[test]
    fn a_reader_ends_with_what_is_listed_and_tells_who_waits() {
        let topics = Topics::new();
        // Instead of the threads that a read waits for.
        let hands = Hands::new();
        hands.set_store(&topics.store);
        let (_, first) = topics.ask("first", Asking::Trim);
        let (_, second) = topics.ask("second", Asking::Publisher);
        for _ in 0..2 {
            topics.readers.run(&Clock::new(), &mut None);
        }
        assert!(first.ids().is_loaded() && second.ids().is_loaded());
        assert_eq!(topics.readers.lists().readers, 0);
    }
}
