//! Recovery of a folder whose files are not what they were.
//!
//! The first byte chooses a folder that a kill (or a clean stop) left, the rest is a list of edits to
//! its files (see `damage`). Claims:
//! - the store opens, or says in a sentence why not; it may refuse only for the manifest's sake;
//! - what is read is what was written, at its offset, in order; what is missing below the end is told
//!   as a gap of damage, unless recovery cut it and says so;
//! - nothing is missing but what the damage took: the frames of the pages it struck in a finished
//!   segment, all up to the watermark in an unfinished one, what lies behind a tear;
//! - topics whose files were not touched are whole;
//! - a record published afterwards gets an offset that none ever had;
//! - killed or closed, as the first byte says too, and opened again, the log reads the same.

mod base;

use std::sync::Arc;

use millstream_protocol::control::GapReason;
use millstream_protocol::{Start, TopicName};
use millstream_storage::{
    Appender, HeapFolder, Level, LevelWait, Log, LogId, LogReader, LogRecovery, Store, park_until,
};

use crate::Outcome;
use crate::damage::{Damage, inflict};
use crate::due::due;
use crate::folder::{MANIFEST, PAGE};
use crate::input::Input;
use base::{Base, Read, TOPICS, Written, append, bases, options, read};

const NEW_BODY: &[u8] = b"published after recovery";

/// How what was recovered ends, before it is opened again.
#[derive(Debug, Clone, Copy)]
enum End {
    Kill,
    Close,
}

/// Runs all claims over `data`.
pub fn check(data: &[u8]) -> Outcome {
    let mut input = Input::new(data);
    let bases = bases();
    let choice = usize::from(input.byte());
    let base = &bases[choice % bases.len()];
    let end = if (choice / bases.len()).is_multiple_of(2) {
        End::Kill
    } else {
        End::Close
    };
    let folder = base.snapshot.folder.duplicate();
    let anything = |name: &str| name != "lock";
    let damage = inflict(&folder, &base.snapshot, anything, &mut input);
    match Store::open_folder(Arc::new(folder.clone()), &options()) {
        Ok(store) => {
            check_open(base, &damage, store, &folder, end);
            Outcome::Accepted
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(damage.touched(MANIFEST), "refused: {error}");
            Outcome::Refused
        }
    }
}

/// Looks at what was opened, ends it, and opens it again.
fn check_open(base: &Base, damage: &Damage, store: Store, folder: &HeapFolder, end: End) {
    let sure = !damage.forged && !damage.touched(MANIFEST);
    let mut first = Vec::new();
    for topic in 0..TOPICS.len() {
        let Some(log) = log(&store, topic) else {
            assert!(!sure, "a topic is gone");
            first.push(None);
            continue;
        };
        let report = recovery(&store, topic);
        let mut found = read(&log);
        check_read(&base.written[topic], &found, sure);
        if let (Ok(found), true) = (&found, sure) {
            check_told(base, damage, &log, (topic, found), report);
        }
        if sure {
            check_complete(base, damage, topic, &log, &found);
        }
        if let Some(new) = publish(&log) {
            let written = &base.written[topic];
            let taken = written.last().is_some_and(|last| last.offset >= new.offset);
            assert!(!sure || !taken, "offset {} means two records", new.offset);
            if let Ok(found) = &mut found {
                found.records.push(new);
            }
        } else {
            assert!(log.poisoned().is_some(), "nothing can be published");
        }
        first.push(found.ok());
    }
    let folder = match end {
        End::Kill => folder.duplicate(),
        End::Close => folder.clone(),
    };
    drop(store.close());
    drop(store);
    let store = Store::open_folder(Arc::new(folder), &options());
    let store = store.expect("what opened once opens again");
    for (topic, before) in first.iter().enumerate() {
        let after = log(&store, topic).map(|log| read(&log));
        if let (Some(before), true) = (before, sure) {
            let after = after.expect("the topic is there").expect("it reads");
            assert_eq!(before.records, after.records, "the same as before");
        }
    }
}

fn log(store: &Store, topic: usize) -> Option<Arc<Log>> {
    store.log(&TopicName::parse(TOPICS[topic].0).expect("a name"))
}

fn recovery(store: &Store, topic: usize) -> Option<&LogRecovery> {
    let name = TOPICS[topic].0;
    let mut reports = store.recoveries().iter();
    reports.find(|report| report.topic.as_str() == name)
}

/// Only what was written is read, in order.
fn check_read(written: &[Written], found: &Result<Read, String>, sure: bool) {
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            assert!(!sure, "{error}");
            return;
        }
    };
    let mut next = 0;
    for record in &found.records {
        assert!(record.offset >= next, "record {} comes back", record.offset);
        next = record.offset + 1;
        if sure {
            let at = written.binary_search_by_key(&record.offset, |written| written.offset);
            let at = at.unwrap_or_else(|_| panic!("record {} is invented", record.offset));
            assert_eq!(written[at].body, record.body, "record {}", record.offset);
        } else {
            let known = written.iter().any(|written| written.body == record.body);
            assert!(known, "record {} has an invented body", record.offset);
        }
    }
}

/// What is missing is told: by a gap, by the report of a cut, or by a log that takes nothing more.
fn check_told(
    base: &Base,
    damage: &Damage,
    log: &Log,
    (topic, found): (usize, &Read),
    report: Option<&LogRecovery>,
) {
    let end = report.map_or(u64::MAX, |report| report.end_offset.0);
    let written = base.written[topic].iter().map(|written| written.offset);
    for offset in written.filter(|offset| !contains(found, *offset)) {
        if offset >= end {
            let doubted = report.is_some_and(|report| report.possibly_acknowledged);
            let promised = was_promised(base, damage, log.identity().id, offset);
            assert!(
                doubted || !promised,
                "record {offset} is cut without a word"
            );
            continue;
        }
        let mut gaps = found.gaps.iter();
        let gap = gaps.find(|gap| (gap.first_offset.0..gap.next_offset.0).contains(&offset));
        match gap {
            Some(gap) => assert_eq!(gap.reason, GapReason::Damaged, "record {offset}: {gap:?}"),
            None => assert!(
                log.poisoned().is_some(),
                "record {offset} is missing without a word"
            ),
        }
    }
}

/// Whether somebody may have been told that this record is on disk, and the slots still say so.
fn was_promised(base: &Base, damage: &Damage, log: LogId, offset: u64) -> bool {
    base.snapshot.of_log(log).any(|file| {
        let mut frames = file.frames.iter();
        let frame = frames.find(|frame| frame.offsets().contains(&offset));
        // Slots that vanished without a trace look as before the first sync.
        let slots = PAGE..3 * PAGE;
        let tell = damage.is_whole(file, slots.clone()) || !damage.is_blank_in(file, slots);
        tell && frame.is_some_and(|frame| frame.end() <= file.attempted)
    })
}

fn contains(found: &Read, offset: u64) -> bool {
    let records = &found.records;
    records
        .binary_search_by_key(&offset, |record| record.offset)
        .is_ok()
}

/// Everything the damage can't have taken is there.
fn check_complete(
    base: &Base,
    damage: &Damage,
    topic: usize,
    log: &Arc<Log>,
    found: &Result<Read, String>,
) {
    let found = found.as_ref().expect("looked at before");
    let due = due(base.snapshot.of_log(log.identity().id), damage);
    for offset in due {
        assert!(
            contains(found, offset),
            "record {offset} of {topic} is gone"
        );
    }
}

/// Publishes one record; `None` where the log takes none.
fn publish(log: &Arc<Log>) -> Option<Written> {
    if log.poisoned().is_some() {
        return None;
    }
    let mut appender = Appender::new(log);
    let offset = append(&mut appender, NEW_BODY);
    appender.announce();
    let mut wait = LevelWait::new(log, Level::Synced, offset + 1);
    park_until(|cx| wait.poll(cx)).expect("it is synced");
    let mut reader = LogReader::new(log, Start::Offset(offset));
    park_until(|cx| reader.poll_next(1 << 20, cx)).expect("it can be read");
    let body = NEW_BODY.to_vec();
    Some(Written {
        offset: offset.0,
        body,
    })
}
