//! How much of a topic is kept: by its queues, by bytes, by age.
//!
//! | topic | kept |
//! | --- | --- |
//! | with a retention | the newest bytes, or what is young enough; and what its queues have not settled |
//! | made for its queue, with none | what its queues have not settled |
//! | any other | all |
//!
//! Whole segments go, from the front; the last one never does.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use millstream_protocol::control::Retention;
use millstream_protocol::{Offset, TopicName};
use millstream_storage::{Log, is_one_segment, may_trim, newest, older_than, trim};

use super::clock::boot_us;
use super::definition::{Change, TopicRetention};
use super::error::QueueError;
use super::ids::Asking;
use super::registry::{Entry, Queues, check_public};
use crate::error::TopicError;

/// How long what is too young to go is left before it is looked at again: one part in so many of its age.
const AGE_SHARE: u64 = 10;
/// And at least and at most.
const AGE_PAUSE_US: (u64, u64) = (500_000, 60_000_000);

/// How far one topic may be trimmed.
#[derive(Debug)]
struct Floor {
    log: Arc<Log>,
    /// It was made for one of its queues.
    own_topic: bool,
    /// All its queues have settled what is below, and nobody looks for copies there.
    settled: Offset,
    /// The queues that were asked.
    queues: Vec<u32>,
    retention: Retention,
}

impl Floor {
    fn new(log: Arc<Log>) -> Self {
        Self {
            log,
            own_topic: false,
            settled: Offset(u64::MAX),
            queues: Vec::new(),
            retention: Retention::KEEP_ALL,
        }
    }

    /// Below it nobody wants anything any more. Where `wall_us` is given, what is too old by then is asked as well,
    /// which may wait for the disk.
    fn offset(&self, wall_us: Option<u64>) -> Offset {
        let Retention { bytes, age_ms } = self.retention;
        if self.own_topic && self.retention.keeps_all() {
            return self.settled;
        }
        let mut from = Offset(0);
        if bytes > 0 {
            from = newest(&self.log, bytes);
        }
        if let Some(wall_us) = wall_us {
            let since_us = wall_us.saturating_sub(age_ms.saturating_mul(1_000));
            from = from.max(older_than(&self.log, since_us, self.settled));
        }
        from.min(self.settled)
    }

    /// After how long what is old is asked again; `None` where nothing can be too old.
    fn age_pause_us(&self) -> Option<u64> {
        let Retention { age_ms, .. } = self.retention;
        let can_be = age_ms > 0 && !is_one_segment(&self.log);
        let (least_us, most_us) = AGE_PAUSE_US;
        can_be.then(|| (age_ms.saturating_mul(1_000) / AGE_SHARE).clamp(least_us, most_us))
    }
}

impl Queues {
    /// Sets how much of a topic is kept; it is on disk when this returns.
    pub(crate) fn set_retention(
        self: &Arc<Self>,
        topic: &str,
        retention: Retention,
    ) -> Result<(), TopicError> {
        let mut state = self.state();
        state.check_online().map_err(topic_error)?;
        // Under the lock: what was made again under the name meanwhile is told of its own.
        let log = self.public_log(topic)?;
        let kept = TopicRetention {
            topic: log.identity().name.clone(),
            incarnation: log.identity().incarnation,
            retention,
        };
        // One that failed may be on disk all the same: what is said again is written again.
        if state.journal.is_some() || !retention.keeps_all() {
            let committed = self.commit(&mut state, &[Change::Retention(kept.clone())]);
            committed.map_err(topic_error)?;
        }
        if retention.keeps_all() {
            state.retentions.remove(&kept.topic);
        } else {
            state.retentions.insert(kept.topic.clone(), kept);
        }
        drop(state);
        let incarnation = log.identity().incarnation;
        self.upkeep().ages_asked_us.remove(&incarnation);
        self.keeper.look_after();
        Ok(())
    }

    /// How much of a topic is kept.
    pub(crate) fn retention(&self, topic: &str) -> Result<Retention, TopicError> {
        let log = self.public_log(topic)?;
        let state = self.state();
        state.check_online().map_err(topic_error)?;
        Ok(state.retention_of(&log))
    }

    /// Forgets how much of a topic was kept that is gone.
    pub(crate) fn forget_retention(&self, log: &Log) {
        let identity = log.identity();
        let mut state = self.state();
        let kept = state.retentions.get(&identity.name);
        if kept.is_some_and(|kept| kept.incarnation == identity.incarnation) {
            state.retentions.remove(&identity.name);
        }
    }

    fn public_log(&self, topic: &str) -> Result<Arc<Log>, TopicError> {
        let name = TopicName::parse(topic)?;
        check_public(&name)?;
        self.log(&name).ok_or(TopicError::NotFound { name })
    }

    /// Drops segments that nobody wants any more, and that no queue still needs (R1).
    pub(super) fn trim_topics(self: &Arc<Self>, entries: &[Entry]) {
        let mut floors: BTreeMap<TopicName, Floor> = BTreeMap::new();
        for (log, retention) in self.limited_topics() {
            let floor = Floor::new(log);
            let topic = floor.log.identity().name.clone();
            floors.insert(topic, Floor { retention, ..floor });
        }
        for entry in entries {
            // One that can't say keeps everything.
            let settled = entry.queue.look(|core, _| core.synced_floor());
            let settled = settled.unwrap_or(Offset(0));
            let definition = &entry.definition;
            let known = floors.entry(definition.topic.clone());
            let known = known.or_insert_with(|| Floor::new(Arc::clone(&entry.queue.topic)));
            known.own_topic |= definition.own_topic;
            known.settled = known.settled.min(settled);
            known.queues.push(definition.id);
        }
        for entry in entries {
            let mover = entry.mover();
            for (topic, offset) in mover.unapplied() {
                if let Some(floor) = floors.get_mut(&topic) {
                    floor.settled = floor.settled.min(offset);
                }
            }
        }
        let believed_us = self.clock.believed_us();
        for (topic, floor) in &floors {
            let may_go = floor.own_topic || !floor.retention.keeps_all();
            if !may_go || floor.settled <= floor.log.first_offset() {
                continue;
            }
            let asks_age = self.asks_age(floor, boot_us());
            let wanted = floor.offset(believed_us.filter(|_| asks_age));
            if !self.trim_topic(topic, floor, wanted) {
                // What was found to be old is asked for anew with the rest.
                let incarnation = floor.log.identity().incarnation;
                self.upkeep().ages_asked_us.remove(&incarnation);
            }
        }
        let mut upkeep = self.upkeep();
        if upkeep.ages_asked_us.len() > floors.len() {
            let logs = floors.values().map(|floor| floor.log.identity());
            let there: HashSet<[u8; 16]> = logs.map(|log| log.incarnation).collect();
            upkeep
                .ages_asked_us
                .retain(|topic, _| there.contains(topic));
        }
    }

    /// Whether it is time to ask what of the topic is too old; has the keeper look when it is next.
    fn asks_age(&self, floor: &Floor, boot_us: u64) -> bool {
        let Some(pause_us) = floor.age_pause_us() else {
            return false;
        };
        let mut upkeep = self.upkeep();
        let topic = floor.log.identity().incarnation;
        let next_us = upkeep.ages_asked_us.entry(topic).or_insert(0);
        let is_time = *next_us <= boot_us;
        if is_time {
            *next_us = boot_us + pause_us;
        }
        self.keeper.look_at(*next_us);
        is_time
    }

    /// Topics that do not keep everything.
    fn limited_topics(&self) -> Vec<(Arc<Log>, Retention)> {
        let state = self.state();
        let kept = state.retentions.values();
        let of_log = |kept: &TopicRetention| {
            let log = self.log(&kept.topic)?;
            let is_it = log.identity().incarnation == kept.incarnation;
            is_it.then_some((log, kept.retention))
        };
        kept.filter_map(of_log).collect()
    }

    /// Drops what is below `wanted`; false where that is to be looked for again.
    fn trim_topic(self: &Arc<Self>, topic: &TopicName, floor: &Floor, wanted: Offset) -> bool {
        let log = &floor.log;
        if !may_trim(log, wanted) {
            return true;
        }
        let rules = self.rules(log);
        if !rules.ids().is_loaded() {
            // Which ids must not be forgotten is not known yet.
            self.load_ids_soon(&rules, log, Asking::Trim);
            self.keeper.look_again();
            return false;
        }
        let held = rules.ids().hold_from(boot_us());
        let before = held.map_or(wanted, |held| held.min(wanted));
        // Of a stored topic more may be published than is synced; that stays (R1).
        let before = before.min(log.synced());
        if before < wanted {
            // Nobody tells when an id is forgotten.
            self.keeper.look_at(boot_us() + AGE_PAUSE_US.1);
        }
        // No queue begins over the topic, and none goes with it, while it is trimmed.
        let state = self.state();
        let over = state
            .queues
            .values()
            .filter(|entry| entry.definition.topic == *topic);
        let mut now: Vec<u32> = over.map(|entry| entry.definition.id).collect();
        now.sort_unstable();
        let mut then = floor.queues.clone();
        then.sort_unstable();
        if now != then {
            self.keeper.look_again();
            return false;
        }
        if !may_trim(log, before) {
            return true;
        }
        let told = self.producers().before_trim(log, before);
        let trimmed = told.map_err(|error| error.to_string()).and_then(|()| {
            let trimmed = trim(log, before);
            trimmed.map_err(|error| error.to_string())
        });
        drop(state);
        match trimmed {
            Ok(trimmed) => {
                if trimmed.segments > 0 {
                    tracing::debug!(%topic, segments = trimmed.segments, bytes = trimmed.bytes, "dropped segments");
                }
                // Nobody else has us look again: on a full disk nothing more is published or settled.
                if trimmed.unfinished {
                    self.keeper.look_again();
                }
                !trimmed.unfinished
            }
            Err(error) => {
                self.keeper.try_again();
                tracing::warn!(%topic, %error, "cannot drop segments");
                false
            }
        }
    }
}

fn topic_error(error: QueueError) -> TopicError {
    match error {
        QueueError::Topic(error) => error,
        error => TopicError::Storage {
            message: error.to_string(),
        },
    }
}
