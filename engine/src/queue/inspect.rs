//! Queues checked against their topics, without opening the broker: what checkpoints and journal say,
//! and whether the topics have what it is about.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use millstream_protocol::frame::FrameKind;
use millstream_protocol::{Offset, TopicName};
use millstream_storage::{InspectedLog, Inspection, VerifyError};

use super::codec::Malformed;
use super::journal::{JOURNAL, JournalFrame, Owner, parse};
use super::moves::MOVER;
use super::recovery::{Recovered, RecoveredQueue};
use super::scheduler::Entry;

/// Problems listed one by one; more are left out.
const PROBLEMS_MAX: usize = 1000;

/// What is known of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedQueue {
    /// Its name.
    pub queue: TopicName,
    /// The topic it is over.
    pub topic: TopicName,
    /// Every record below is settled.
    pub floor: Offset,
    /// Records on their way to another queue, which the next start will carry over.
    pub moves_pending: u64,
    /// Records whose arrival elsewhere was looked for and found.
    pub moves_found: u64,
}

/// Something that does not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueProblem {
    /// A queue, a cursor or a file.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for QueueProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// What was found of all queues.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueuesReport {
    /// By name.
    pub queues: Vec<CheckedQueue>,
    /// Cursors that are kept.
    pub cursors: u64,
    /// Frames of the journal that were replayed.
    pub journal_frames: u64,
    /// Checkpoints that were read; the journal was replayed behind each.
    pub checkpoints: u64,
    /// What does not agree.
    pub problems: Vec<QueueProblem>,
}

impl QueuesReport {
    /// Whether all agrees.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn push(&mut self, place: impl fmt::Display, what: impl fmt::Display) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(QueueProblem {
                place: place.to_string(),
                what: what.to_string(),
            });
        }
    }
}

/// Replays checkpoints and journal of the data folder `path`, as the next start will, and compares
/// what they say of queues with the topics: each is there and the same, no offset lies past its end,
/// what is said to have arrived elsewhere has, and once. Changes nothing.
///
/// # Errors
///
/// When the folder as a whole can't be looked at.
pub fn verify_queues(path: &Path) -> Result<QueuesReport, VerifyError> {
    let folder = Inspection::open(path)?;
    let mut report = QueuesReport::default();
    let Some(journal) = folder.log(JOURNAL) else {
        return Ok(report);
    };
    let mut seen = Seen::default();
    let replayed = journal.frames(Offset(0), &mut |frame| {
        let header = frame.header();
        if header.fields.kind == FrameKind::Single {
            report.journal_frames += 1;
            let read = parse(header.base_offset, frame.body()).and_then(|frame| seen.note(&frame));
            if let Err(error) = read {
                report.push(
                    format_args!("journal, offset {}", header.base_offset),
                    error,
                );
            }
        }
    });
    if let Err(error) = replayed {
        report.push("journal", error);
    }
    let mut states = replay_all(&folder, &journal, &mut report);
    // The journal is kept for the older checkpoint; where it is not, there is nothing to compare.
    let reaches_back = |state: &Recovered| journal.first_offset() <= state.started_from;
    if states.len() == 2
        && states.iter().all(reaches_back)
        && let (Some(older), Some(newer)) = (states.pop(), states.first())
    {
        compare(newer, &older, &mut report);
    }
    if let Some(state) = states.first() {
        report.cursors = state.cursors.len() as u64;
        let mut queues: Vec<&RecoveredQueue> = state.queues.values().collect();
        queues.sort_by(|a, b| a.definition.name.as_str().cmp(b.definition.name.as_str()));
        for queue in queues {
            check(&folder, queue, &seen, &mut report);
        }
    }
    Ok(report)
}

/// The moves that the journal as it is kept tells of, by queue.
#[derive(Debug, Default)]
struct Seen {
    moved: BTreeMap<u32, BTreeSet<u64>>,
}

impl Seen {
    fn note(&mut self, frame: &JournalFrame<'_>) -> Result<(), Malformed> {
        let Owner::Queue(id) = frame.owner else {
            return Ok(());
        };
        let numbers = self.moved.entry(id).or_default();
        let noted = Entry::decode_all(frame.entries, |entry| {
            if let Entry::Moved { number, .. } = entry {
                numbers.insert(number);
            }
        });
        noted.map_err(|_| Malformed {
            what: "journal entries",
        })
    }
}

/// What the journal comes to behind each checkpoint it reaches back to, the newest first; by itself
/// where there is none.
fn replay_all(
    folder: &Inspection,
    journal: &InspectedLog<'_>,
    report: &mut QueuesReport,
) -> Vec<Recovered> {
    let checkpoints = folder.checkpoints().unwrap_or_else(|error| {
        report.push("checkpoints", error);
        Vec::new()
    });
    let mut states = Vec::new();
    for (file, bytes) in checkpoints {
        // What is wrong with the file itself, `verify` says.
        let Ok(bytes) = bytes else { continue };
        match Recovered::from_checkpoint(&bytes) {
            Ok(state) => {
                report.checkpoints += 1;
                states.push((file, state));
            }
            Err(error) => report.push(file, error),
        }
    }
    if states.is_empty() {
        states.push(("journal".to_owned(), Recovered::default()));
    }
    states
        .into_iter()
        .filter_map(|(file, state)| replayed(&file, state, journal, report))
        .collect()
}

fn replayed(
    file: &str,
    mut state: Recovered,
    journal: &InspectedLog<'_>,
    report: &mut QueuesReport,
) -> Option<Recovered> {
    let from = state.needed_from();
    state.started_from = from;
    let mut failed = None;
    let read = journal.frames(from, &mut |frame| {
        let header = frame.header();
        if header.fields.kind == FrameKind::Single && header.base_offset >= from {
            let applied =
                parse(header.base_offset, frame.body()).and_then(|frame| state.apply(&frame));
            failed = failed.take().or(applied.err());
        }
    });
    if let Some(error) = failed {
        report.push(file, error);
    }
    // That it can't be read was reported.
    read.ok()?;
    Some(state)
}

/// Two checkpoints and what follows each must come to the same.
fn compare(newer: &Recovered, older: &Recovered, report: &mut QueuesReport) {
    for (id, queue) in &newer.queues {
        let name = &queue.definition.name;
        match older.queues.get(id) {
            None => report.push(
                name,
                "the older checkpoint and the journal do not lead to this queue",
            ),
            Some(other) if other.definition != queue.definition => {
                report.push(
                    name,
                    "it is defined otherwise by the older checkpoint and the journal",
                );
            }
            Some(other) if !other.durable.settles_as(&queue.durable) => report.push(
                name,
                "the older checkpoint and the journal come to other settled records",
            ),
            Some(_) => {}
        }
    }
    if older.queues.len() > newer.queues.len() {
        report.push(
            "queues",
            "the older checkpoint and the journal come to more queues",
        );
    }
    if older.cursors != newer.cursors {
        report.push(
            "cursors",
            "the older checkpoint and the journal come to others",
        );
    }
}

fn check(folder: &Inspection, queue: &RecoveredQueue, seen: &Seen, report: &mut QueuesReport) {
    let definition = &queue.definition;
    let name = &definition.name;
    let found = |moves_found| CheckedQueue {
        queue: name.clone(),
        topic: definition.topic.clone(),
        floor: queue.durable.floor(),
        moves_pending: queue.durable.pending_moves().count() as u64,
        moves_found,
    };
    let topic = folder
        .log(definition.topic.as_str())
        .filter(|topic| topic.incarnation() == definition.incarnation);
    let Some(topic) = topic else {
        let what = format!(
            "its topic {:?} is not there, or was made anew",
            definition.topic.as_str()
        );
        report.push(name, what);
        report.queues.push(found(0));
        return;
    };
    let end = topic.offsets_end();
    if let Some(highest) = queue
        .durable
        .highest_offset()
        .filter(|highest| *highest >= end)
    {
        report.push(
            name,
            format_args!("it knows of record {highest}, and its topic ends at {end}"),
        );
    }
    if queue.durable.floor() > end {
        report.push(
            name,
            format_args!(
                "all below {} is settled, and its topic ends at {end}",
                queue.durable.floor()
            ),
        );
    }
    let moves_found = arrived(folder, queue, seen, report);
    report.queues.push(found(moves_found));
}

/// Looks for the copies of moved records. Gives how many that are called applied were found.
fn arrived(
    folder: &Inspection,
    queue: &RecoveredQueue,
    seen: &Seen,
    report: &mut QueuesReport,
) -> u64 {
    let id = queue.definition.id;
    let name = &queue.definition.name;
    let mut copies: BTreeMap<u64, u64> = BTreeMap::new();
    // A topic that was trimmed or deleted since has not all that arrived there.
    let mut all_there = true;
    for topic in queue.marks.keys() {
        let Some(log) = folder.log(topic.as_str()) else {
            all_there = false;
            continue;
        };
        all_there &= !log.was_trimmed();
        let read = log.frames(Offset(0), &mut |frame| {
            let producer = frame.header().fields.producer;
            if producer.id == MOVER | u64::from(id) {
                *copies.entry(producer.sequence).or_default() += 1;
            }
        });
        if let Err(error) = read {
            all_there = false;
            report.push(name, error);
        }
    }
    for (number, times) in &copies {
        if *times > 1 {
            report.push(
                name,
                format_args!("its move {number} arrived {times} times"),
            );
        }
        if *number >= queue.durable.next_move() {
            report.push(
                name,
                format_args!("a move {number} arrived that it never made"),
            );
        }
    }
    let pending: BTreeSet<u64> = queue.durable.pending_moves().collect();
    let applied = seen.moved.get(&id).into_iter().flatten();
    let applied = applied.filter(|number| !pending.contains(number));
    let mut found = 0;
    for number in applied {
        if copies.contains_key(number) {
            found += 1;
        } else if all_there {
            report.push(
                name,
                format_args!("its move {number} is called applied, and no topic has the record"),
            );
        }
    }
    found
}
