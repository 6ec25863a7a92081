//! All queues and cursors of a broker: made, found, changed and ended here.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use millstream_protocol::control::{DeadLetter, QueueMode, QueueSettings, Retention};
use millstream_protocol::{Durability, Offset, Start, TopicName};
use millstream_storage::{CreateError, Log, OpenError, Store};

use super::clock::Clock;
use super::core::{Core, CoreParts};
use super::definition::{
    Change, CursorState, Definition, TopicRetention, dead_letter_queue, dead_letter_settings,
    policy,
};
use super::error::{ConsumeError, QueueError};
use super::far::FarStore;
use super::ids::IdReaders;
use super::journal::{self, JOURNAL, Journal, Owner, Writer};
use super::keeper::Keeper;
use super::moves::{Mover, SharedMarks};
use super::recovery::{Marks, Recovered, RecoveredQueue};
use super::scanner::Scanner;
use super::scheduler::{Durable, Input, Mode, Scheduler};
use super::shared::{QueueParts, QueueShared};
use super::topic::{Gate, TopicRules};
use super::upkeep::Upkeep;
use crate::broker::create_error;
use crate::error::TopicError;
use crate::producer::Producers;

/// First and largest segment of a topic that was made for its queue: what is settled goes by whole
/// segments, so they are small.
const OWN_TOPIC_SEGMENT_BYTES: (u32, u32) = (4 << 20, 16 << 20);

/// One queue, as the registry has it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) definition: Definition,
    pub(super) queue: Arc<QueueShared>,
    pub(super) gate: Arc<Gate>,
    pub(super) mover: Arc<Mutex<Mover>>,
    marks: SharedMarks,
}

impl Entry {
    /// Carries over what is on its way out of the queue; true if all has arrived.
    pub(super) fn carry_moves(&self, queues: &Arc<Queues>) -> bool {
        self.mover().run(queues, &self.queue)
    }

    /// Where copies of its moved records may be, whether or not the mover is at work.
    pub(super) fn marks(&self) -> Marks {
        self.marks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn mover(&self) -> MutexGuard<'_, Mover> {
        self.mover.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the registry's mutex guards. Held while the journal is synced: by administration, never
/// while records are published, delivered or settled.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) journal: Option<Arc<Journal>>,
    writer: Option<Writer>,
    pub(super) queues: BTreeMap<TopicName, Entry>,
    pub(super) cursors: BTreeMap<(TopicName, TopicName), CursorState>,
    /// Of topics that do not keep everything.
    pub(super) retentions: BTreeMap<TopicName, TopicRetention>,
    pub(super) next_id: u32,
    /// Why it is not known what queues and cursors there are: none is made, found or changed then.
    offline: Option<String>,
    closed: bool,
}

impl State {
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Refuses while it is not known what there is.
    pub(super) fn check_online(&self) -> Result<(), QueueError> {
        match self.offline.clone() {
            Some(reason) => Err(QueueError::Offline { reason }),
            None => Ok(()),
        }
    }

    /// How much of the topic is kept.
    pub(super) fn retention_of(&self, log: &Log) -> Retention {
        let identity = log.identity();
        let kept = self.retentions.get(&identity.name);
        // That of one that had the name before says nothing.
        let kept = kept.filter(|kept| kept.incarnation == identity.incarnation);
        kept.map_or(Retention::KEEP_ALL, |kept| kept.retention)
    }

    /// Changes that make the registry what it is.
    pub(super) fn changes(&self) -> Vec<Change> {
        let mut changes = vec![Change::NextId(self.next_id)];
        let queues = self.queues.values();
        changes.extend(queues.map(|entry| Change::Queue(entry.definition.clone())));
        changes.extend(self.cursors.values().cloned().map(Change::Cursor));
        changes.extend(self.retentions.values().cloned().map(Change::Retention));
        changes
    }
}

/// The queues and cursors of one broker.
pub(crate) struct Queues {
    pub(super) store: Arc<Store>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) clock: Arc<Clock>,
    state: Mutex<State>,
    /// By the topic's incarnation: one made again under the name begins anew.
    rules: Mutex<HashMap<[u8; 16], Arc<TopicRules>>>,
    pub(super) upkeep: Mutex<Upkeep>,
    pub(super) id_readers: Arc<IdReaders>,
    producers: Arc<Producers>,
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues").finish_non_exhaustive()
    }
}

impl Queues {
    /// Brings back the queues of an open store. Nothing is made for a folder without any. Where what
    /// they are can't be read they stay offline, and the topics go on without them.
    ///
    /// # Errors
    ///
    /// When a thread can't be started.
    pub(crate) fn open(store: &Arc<Store>) -> Result<Arc<Self>, OpenError> {
        let clock = Arc::new(Clock::new());
        let queues = Arc::new(Self {
            store: Arc::clone(store),
            keeper: Arc::default(),
            producers: Arc::new(Producers::open(store, &clock)),
            clock,
            state: Mutex::default(),
            rules: Mutex::default(),
            upkeep: Mutex::default(),
            id_readers: Arc::default(),
        });
        let keeper = Arc::downgrade(&queues.keeper);
        store.on_segment(move || {
            if let Some(keeper) = keeper.upgrade() {
                keeper.look_after();
            }
        });
        if let Some(log) = journal::open(store) {
            match Recovered::read(store, &log) {
                Ok(recovered) => {
                    let restored = queues.restore(&log, recovered);
                    restored.map_err(OpenError::Thread)?;
                }
                Err(error) => {
                    tracing::error!(%error, "no checkpoint can be used: queues and cursors are offline, topics are not");
                    queues.state().offline = Some(error.to_string());
                }
            }
        }
        Ok(queues)
    }

    fn restore(self: &Arc<Self>, log: &Arc<Log>, recovered: Recovered) -> std::io::Result<()> {
        let mut state = self.state();
        let journal = self.start(&mut state, log)?;
        state.next_id = recovered.next_id;
        let found = Upkeep::after_start(log.size().1, recovered.keep_from);
        *self.upkeep.lock().unwrap_or_else(PoisonError::into_inner) = found;
        state.cursors = recovered.cursors;
        state.retentions = recovered.retentions;
        let is_of_topic = |kept: &TopicRetention| {
            let log = self.store.log(&kept.topic);
            log.is_some_and(|log| log.identity().incarnation == kept.incarnation)
        };
        state
            .retentions
            .retain(|_, kept| is_of_topic(kept) && !kept.retention.keeps_all());
        for (_, queue) in recovered.queues {
            let name = queue.definition.name.clone();
            let topic = self.store.log(&queue.definition.topic);
            let topic =
                topic.filter(|log| log.identity().incarnation == queue.definition.incarnation);
            match topic {
                Some(topic) => {
                    let entry = self.build(&journal, &topic, queue);
                    state.queues.insert(name, entry);
                }
                None => {
                    tracing::error!(queue = %name, topic = %queue.definition.topic, "a queue's topic is gone, and the queue with it");
                }
            }
        }
        drop(state);
        // Moves and dead letters that a stop interrupted go on.
        self.keeper.look_after();
        Ok(())
    }

    /// Starts the threads, with the first queue or cursor.
    fn start(self: &Arc<Self>, state: &mut State, log: &Arc<Log>) -> std::io::Result<Arc<Journal>> {
        let weak = Arc::downgrade(self);
        self.keeper.start(move || {
            if let Some(queues) = Weak::upgrade(&weak) {
                queues.look_after();
            }
        })?;
        let journal = Journal::new(log);
        state.writer = Some(Writer::of(&journal, Owner::Registry));
        state.journal = Some(Arc::clone(&journal));
        state.next_id = state.next_id.max(1);
        Ok(journal)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`state`](Self::state), unless somebody has it.
    pub(super) fn try_state(&self) -> Option<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The log of a topic that users may see.
    pub(super) fn log(&self, name: &TopicName) -> Option<Arc<Log>> {
        self.store.log(name)
    }

    /// The producers of all topics.
    pub(crate) const fn producers(&self) -> &Arc<Producers> {
        &self.producers
    }

    /// What publishers to a topic look at.
    pub(crate) fn rules(&self, topic: &Log) -> Arc<TopicRules> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = rules
            .entry(topic.identity().incarnation)
            .or_insert_with(|| Arc::new(TopicRules::new()));
        Arc::clone(rules)
    }

    /// Forgets what publishers to a topic that is deleted looked at.
    pub(crate) fn forget_rules(&self, topic: &Log) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.remove(&topic.identity().incarnation);
        drop(rules);
        self.producers.forget(topic);
    }

    fn build(
        self: &Arc<Self>,
        journal: &Arc<Journal>,
        topic: &Arc<Log>,
        recovered: RecoveredQueue,
    ) -> Entry {
        let RecoveredQueue {
            definition,
            durable,
            marks,
            ..
        } = recovered;
        if definition.own_topic {
            let (first_bytes, largest_bytes) = OWN_TOPIC_SEGMENT_BYTES;
            millstream_storage::set_segment_sizes(topic, first_bytes, largest_bytes);
        }
        let mode = definition.scheduler_mode();
        let mut scheduler = Scheduler::new(mode, policy(&definition.settings), &durable);
        if definition.paused {
            scheduler.step(self.clock.now(), Input::Pause, &mut Vec::new());
        }
        let gate = Arc::new(Gate::new(&definition.name, &definition.settings));
        // Limits hold from the first record on, also while the queue can't get on with its rounds.
        gate.update(topic, &scheduler.counts(), scheduler.next_scan());
        self.rules(topic).add_gate(&gate);
        let scanner = Scanner::new(
            topic,
            definition.name.as_str(),
            mode == Mode::Grouped,
            scheduler.next_scan(),
        );
        let core = Core::new(CoreParts {
            scheduler,
            scanner,
            writer: Writer::of(journal, Owner::Queue(definition.id)),
            far: FarStore::new(&self.store),
            gate: Arc::clone(&gate),
            paused: definition.paused,
        });
        let queue = QueueShared::new(QueueParts {
            id: definition.id,
            name: definition.name.clone(),
            topic: Arc::clone(topic),
            boot_epoch: self.store.boot_epoch(),
            keeper: Arc::clone(&self.keeper),
            clock: Arc::clone(&self.clock),
            core,
        });
        // Limits, delays and ages are looked after from the start.
        queue.knock();
        let mover = Mover::new(journal, definition.id, topic, marks);
        Entry {
            marks: mover.marks(),
            mover: Arc::new(Mutex::new(mover)),
            definition,
            queue,
            gate,
        }
    }

    /// Writes changes to the journal; they are on disk when this returns.
    pub(super) fn commit(
        self: &Arc<Self>,
        state: &mut State,
        changes: &[Change],
    ) -> Result<(), QueueError> {
        if state.closed {
            return Err(TopicError::Closed.into());
        }
        state.check_online()?;
        if state.journal.is_none() {
            let log = journal::create(&self.store)?;
            self.start(state, &log).map_err(|error| {
                QueueError::Topic(TopicError::Storage {
                    message: format!("cannot start a thread: {error}"),
                })
            })?;
        }
        let writer = state.writer.as_mut().ok_or(TopicError::Closed)?;
        let out = writer.begin();
        for change in changes {
            change.encode(out);
        }
        writer.write_synced().map_err(|error| {
            // It may be replaced.
            self.keeper.look_after();
            QueueError::Journal {
                reason: error.to_string(),
            }
        })
    }

    /// The queue of this name.
    pub(super) fn entry(&self, name: &TopicName) -> Result<Entry, QueueError> {
        let state = self.state();
        state.check_online()?;
        let entry = state.queues.get(name).cloned();
        entry.ok_or_else(|| QueueError::NotFound { name: name.clone() })
    }

    /// Whether it is known what queues and cursors there are.
    pub(super) fn check_online(&self) -> Result<(), QueueError> {
        self.state().check_online()
    }

    /// All queues, by name.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.state().queues.values().cloned().collect()
    }

    /// The topic behind the queue called `name`.
    pub(super) fn topic_of(&self, name: &str) -> Option<TopicName> {
        let state = self.state();
        let entry = state.queues.get(name)?;
        Some(entry.definition.topic.clone())
    }

    /// Queues over `topic`.
    ///
    /// # Errors
    ///
    /// [`QueueError::Offline`].
    pub(crate) fn queues_of(&self, topic: &TopicName) -> Result<Vec<TopicName>, QueueError> {
        let state = self.state();
        state.check_online()?;
        let over = state
            .queues
            .values()
            .filter(|entry| entry.definition.topic == *topic);
        Ok(over.map(|entry| entry.definition.name.clone()).collect())
    }

    /// Makes a queue, its topic if it is to have its own, and the queue of its dead letters.
    pub(super) fn create(self: &Arc<Self>, wanted: &NewQueue) -> Result<Entry, QueueError> {
        check_settings(&wanted.name, &wanted.settings)?;
        let mut state = self.state();
        state.check_online()?;
        // What is there may have been deleted: the journal failed before it could say.
        let failed = state.journal.as_ref();
        let failed = failed.and_then(|journal| journal.log().poisoned());
        if let Some(poisoned) = failed {
            let reason = poisoned.to_string();
            return Err(QueueError::Journal { reason });
        }
        let entry = match state.queues.get(&wanted.name) {
            Some(entry) => wanted.same_as(entry)?,
            None => self.create_new(&mut state, wanted)?,
        };
        // Also for one that is there: a stop may have come between the two.
        self.create_dead_letter_queue(&mut state, &entry.definition)?;
        Ok(entry)
    }

    fn create_new(
        self: &Arc<Self>,
        state: &mut State,
        wanted: &NewQueue,
    ) -> Result<Entry, QueueError> {
        check_public(&wanted.name)?;
        let (topic, own_topic) = match &wanted.topic {
            Some(topic) => {
                let log = self.store.log(topic).filter(|_| !is_reserved(topic));
                let name = topic.clone();
                (log.ok_or(TopicError::NotFound { name })?, false)
            }
            None => self.own_topic(state, &wanted.name)?,
        };
        let start = match wanted.start {
            Start::Earliest => topic.first_offset(),
            Start::Latest => topic.high_watermark(),
            Start::Offset(offset) => offset.max(topic.first_offset()),
            Start::Time(time_us) => start_at(&topic, time_us),
        };
        let definition = Definition {
            id: state.next_id.max(1),
            name: wanted.name.clone(),
            topic: topic.identity().name.clone(),
            incarnation: topic.identity().incarnation,
            own_topic,
            mode: wanted.mode,
            start,
            paused: false,
            settings: wanted.settings.clone(),
        };
        self.commit(state, &[Change::Queue(definition.clone())])?;
        state.next_id = definition.id + 1;
        let journal = state.journal.clone().ok_or(TopicError::Closed)?;
        let recovered = RecoveredQueue::new(definition, Durable::new(start));
        let entry = self.build(&journal, &topic, recovered);
        state.queues.insert(wanted.name.clone(), entry.clone());
        Ok(entry)
    }

    /// A topic of the queue's own name: made, or taken over when nobody used it yet.
    fn own_topic(&self, state: &State, name: &TopicName) -> Result<(Arc<Log>, bool), QueueError> {
        match self.store.create_log(name, Durability::Synced) {
            Ok(log) => Ok((log, true)),
            Err(CreateError::Exists(log)) => {
                let queued = state
                    .queues
                    .values()
                    .any(|entry| entry.definition.topic == *name);
                // Also one that a stop left between making the topic and making the queue.
                let unused = log.size().1 == 0 && !queued;
                Ok((log, unused))
            }
            Err(error) => Err(create_error(error).into()),
        }
    }

    fn create_dead_letter_queue(
        self: &Arc<Self>,
        state: &mut State,
        definition: &Definition,
    ) -> Result<(), QueueError> {
        match definition.dead_letter_queue() {
            Some(name) => self.create_dead_letters(state, &name).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Makes the queue `name` for dead letters if it is not there; gives its topic.
    fn create_dead_letters(
        self: &Arc<Self>,
        state: &mut State,
        name: &TopicName,
    ) -> Result<TopicName, QueueError> {
        if let Some(entry) = state.queues.get(name) {
            return Ok(entry.definition.topic.clone());
        }
        let wanted = NewQueue {
            name: name.clone(),
            topic: None,
            mode: QueueMode::Plain,
            start: Start::Earliest,
            settings: dead_letter_settings(),
        };
        let entry = self.create_new(state, &wanted)?;
        Ok(entry.definition.topic)
    }

    /// The topic that dead letters of the queue go to; its queue is made again if it was deleted.
    pub(super) fn dead_letter_topic(
        self: &Arc<Self>,
        name: &TopicName,
    ) -> Result<TopicName, QueueError> {
        let entry = self.entry(name)?;
        // A policy that was changed to keep none left this one to keep.
        let letters = entry.definition.dead_letter_queue();
        let letters = letters.or_else(|| dead_letter_queue(name, &QueueSettings::default()));
        let letters = letters.ok_or_else(|| QueueError::NotFound { name: name.clone() })?;
        let mut state = self.state();
        self.create_dead_letters(&mut state, &letters)
    }

    /// Gives a queue other settings.
    pub(super) fn set(
        self: &Arc<Self>,
        name: &TopicName,
        settings: &QueueSettings,
    ) -> Result<Entry, QueueError> {
        check_settings(name, settings)?;
        let changed = self.change(name, |definition| {
            definition.settings = settings.clone();
        })?;
        changed.gate.set(settings);
        self.rules(&changed.queue.topic).refresh();
        let policy = policy(settings);
        changed
            .queue
            .ask(move |core, now| core.step(now, Input::SetPolicy(policy)))?;
        let mut state = self.state();
        self.create_dead_letter_queue(&mut state, &changed.definition)?;
        Ok(changed)
    }

    /// Pauses or resumes a queue.
    pub(super) fn pause(
        self: &Arc<Self>,
        name: &TopicName,
        paused: bool,
    ) -> Result<(), QueueError> {
        let changed = self.change(name, |definition| definition.paused = paused)?;
        changed.queue.ask(move |core, now| {
            core.paused = paused;
            core.step(now, if paused { Input::Pause } else { Input::Resume });
        })
    }

    fn change(
        self: &Arc<Self>,
        name: &TopicName,
        change: impl FnOnce(&mut Definition),
    ) -> Result<Entry, QueueError> {
        let mut state = self.state();
        let entry = state.queues.get(name).cloned();
        let mut entry = entry.ok_or_else(|| QueueError::NotFound { name: name.clone() })?;
        change(&mut entry.definition);
        self.commit(&mut state, &[Change::Queue(entry.definition.clone())])?;
        state.queues.insert(name.clone(), entry.clone());
        Ok(entry)
    }

    /// Deletes a queue, and its topic if that was made with it and no other queue is over it.
    ///
    /// What is on its way out of it, as a dead letter or back to its queue, arrives before.
    pub(super) fn delete(self: &Arc<Self>, name: &TopicName) -> Result<u64, QueueError> {
        let leaving = self.entry(name)?;
        if !leaving.carry_moves(self) {
            return Err(QueueError::Journal {
                reason: "records on their way to another queue have not arrived".to_owned(),
            });
        }
        let mut state = self.state();
        let entry = state.queues.get(name).cloned();
        let entry = entry.ok_or_else(|| QueueError::NotFound { name: name.clone() })?;
        self.commit(&mut state, &[Change::QueueDeleted(entry.definition.id)])?;
        state.queues.remove(name);
        let topic = entry.definition.topic.clone();
        let shared = state
            .queues
            .values()
            .any(|other| other.definition.topic == topic);
        drop(state);
        let waker = Arc::clone(&entry.queue);
        let unsettled = entry.queue.look(move |core, _| {
            let unsettled = core.counts().unsettled_scanned + core.unscanned(&waker);
            core.close(&ConsumeError::QueueGone);
            unsettled
        })?;
        self.rules(&entry.queue.topic).remove_gate(&entry.gate);
        // What it held may go.
        self.keeper.look_after();
        if entry.definition.own_topic && !shared {
            // Records go with the last queue that was to work on them.
            let deleted = self.store.delete_log(&topic);
            if deleted.is_ok() {
                self.forget_rules(&entry.queue.topic);
                self.forget_retention(&entry.queue.topic);
            }
            deleted.map_err(|error| QueueError::TopicLeft {
                name: name.clone(),
                reason: error.to_string(),
            })?;
        }
        Ok(unsettled)
    }

    /// Gives back all leases, writes what is settled, and ends the threads.
    pub(crate) fn close(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.closed {
                return;
            }
            state.closed = true;
        }
        for entry in self.entries() {
            let queue = Arc::clone(&entry.queue);
            let wound_up = entry.queue.look(move |core, now| core.wind_up(&queue, now));
            if let Err(error) = wound_up {
                tracing::error!(%error, "a queue could not be wound up");
            }
        }
        self.keeper.stop();
        self.state().queues.clear();
        self.producers.close();
    }
}

/// A queue to be made.
#[derive(Debug, Clone)]
pub(super) struct NewQueue {
    pub(super) name: TopicName,
    pub(super) topic: Option<TopicName>,
    pub(super) mode: QueueMode,
    pub(super) start: Start,
    pub(super) settings: QueueSettings,
}

impl NewQueue {
    /// The queue that is there, if it is as wanted.
    fn same_as(&self, entry: &Entry) -> Result<Entry, QueueError> {
        let there = &entry.definition;
        let topic = self.topic.as_ref();
        let difference = if topic.is_some_and(|topic| *topic != there.topic) {
            "topic"
        } else if self.mode != there.mode {
            "mode"
        } else if self.settings != there.settings {
            "setting; `queue set` changes them"
        } else {
            return Ok(entry.clone());
        };
        Err(QueueError::Exists {
            name: self.name.clone(),
            difference,
        })
    }
}

/// Refuses settings that contradict themselves or the queue's name.
fn check_settings(name: &TopicName, settings: &QueueSettings) -> Result<(), QueueError> {
    settings.check()?;
    match &settings.dead_letter {
        DeadLetter::Own if dead_letter_queue(name, settings).is_none() => {
            Err(QueueError::DeadLetterQueue {
                name: name.clone(),
                problem: "the name of its own would be too long; name another",
            })
        }
        DeadLetter::Queue(queue) if queue == name => Err(QueueError::DeadLetterQueue {
            name: name.clone(),
            problem: "it can't be the queue itself",
        }),
        _ => Ok(()),
    }
}

/// Whether the name is the broker's own.
pub(crate) fn is_reserved(name: &TopicName) -> bool {
    name.as_str()
        .starts_with(|first| JOURNAL.starts_with(first))
}

/// Refuses names that are the broker's own.
pub(crate) fn check_public(name: &TopicName) -> Result<(), TopicError> {
    if is_reserved(name) {
        return Err(TopicError::Reserved { name: name.clone() });
    }
    Ok(())
}

/// The first offset appended at `time_us` or later.
fn start_at(topic: &Arc<Log>, time_us: u64) -> Offset {
    let mut reader = millstream_storage::LogReader::new(topic, Start::Time(time_us));
    millstream_storage::park_until(|cx| reader.poll_start(cx))
}
