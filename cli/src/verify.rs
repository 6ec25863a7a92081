//! `millstream verify`: every byte of a data folder checked, and nothing changed.

use std::path::Path;

use millstream::{CheckedQueue, QueuesReport, verify_queues};
use millstream_storage::{
    LockError, ManifestError, Problem, TopicReport, VerifyError, VerifyReport, verify, verify_deep,
};
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::progress::Progress;

/// What was found, as `--json` prints it.
#[derive(Debug, Serialize)]
struct ReportObject<'a> {
    sound: bool,
    folder_id: String,
    boot_epoch: u32,
    records: u64,
    bytes: u64,
    topics: Vec<TopicObject<'a>>,
    /// Files that the manifest does not name.
    unnamed: &'a [String],
    manifest_torn_bytes: u64,
    problems: Vec<ProblemObject<'a>>,
    problems_left_out: u64,
    /// With `--deep`.
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<QueuesObject<'a>>,
}

/// Queues, compared with their topics.
#[derive(Debug, Serialize)]
struct QueuesObject<'a> {
    sound: bool,
    queues: Vec<QueueObject<'a>>,
    cursors: u64,
    journal_frames: u64,
    checkpoints: u64,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct QueueObject<'a> {
    queue: &'a str,
    topic: &'a str,
    floor: u64,
    moves_pending: u64,
    moves_found: u64,
}

#[derive(Debug, Serialize)]
struct TopicObject<'a> {
    topic: &'a str,
    durability: String,
    segments: u32,
    quarantined: u32,
    frames: u64,
    records: u64,
    bytes: u64,
    first_offset: u64,
    end_offset: u64,
    next_offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unclean: Option<UncleanObject>,
}

#[derive(Debug, Serialize)]
struct UncleanObject {
    kept_records: u64,
    cut_bytes: u64,
    unused_segments: u32,
}

#[derive(Debug, Serialize)]
struct ProblemObject<'a> {
    file: &'a str,
    topic: Option<&'a str>,
    position: Option<u64>,
    first_offset: Option<u64>,
    next_offset: Option<u64>,
    fault: String,
}

/// Checks the folder and says what was found.
pub(crate) fn run(args: &VerifyArgs, output: Output) -> Result<(), Failure> {
    let mut progress: Option<(Progress, u64)> = None;
    let check = if args.deep { verify_deep } else { verify };
    let report = check(&args.data, &mut |step| {
        let (bar, done) =
            progress.get_or_insert_with(|| (Progress::start(output, Some(step.bytes_total)), 0));
        bar.add_bytes(step.bytes_done.saturating_sub(*done));
        *done = step.bytes_done;
    });
    if let Some((bar, _)) = &progress {
        bar.clear();
    }
    let report = report.map_err(|error| failure(&args.data, &error))?;
    let queues = match args.deep {
        true => Some(verify_queues(&args.data).map_err(|error| failure(&args.data, &error))?),
        false => None,
    };
    let object = ReportObject::of(&report, queues.as_ref());
    let text = queues.as_ref().map(describe).unwrap_or_default();
    output.line(&object, format_args!("{text}{report}"))?;
    if object.sound {
        Ok(())
    } else {
        Err(Failure::said(Exit::Damaged))
    }
}

/// What is said of queues, above the report.
fn describe(report: &QueuesReport) -> String {
    let mut text = String::new();
    for queue in &report.queues {
        text += &format!(
            "queue {:?} over {:?}: all below {} settled, {} moves pending, {} found where they went\n",
            queue.queue.as_str(),
            queue.topic.as_str(),
            queue.floor,
            queue.moves_pending,
            queue.moves_found
        );
    }
    for problem in &report.problems {
        text += &format!("{problem}\n");
    }
    text += &format!(
        "queues: {} problems; {} journal frames behind {} checkpoints\n",
        report.problems.len(),
        report.journal_frames,
        report.checkpoints
    );
    text
}

/// Why a folder could not be looked at.
pub(crate) fn failure(data: &Path, error: &VerifyError) -> Failure {
    let exit = match error {
        error if error.is_damage() => Exit::Damaged,
        VerifyError::Lock(LockError::InUse { .. }) => Exit::Conflict,
        VerifyError::Lock(LockError::Missing { .. })
        | VerifyError::Manifest(ManifestError::Missing) => Exit::NotFound,
        _ => Exit::Failed,
    };
    match error {
        VerifyError::Lock(error) => Failure::new(exit, error),
        error => Failure::new(
            exit,
            format_args!("cannot check {}: {error}", data.display()),
        ),
    }
}

impl<'a> ReportObject<'a> {
    fn of(report: &'a VerifyReport, queues: Option<&'a QueuesReport>) -> Self {
        Self {
            sound: report.is_sound() && queues.is_none_or(QueuesReport::is_sound),
            folder_id: report
                .folder_id
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            boot_epoch: report.boot_epoch,
            records: report.records(),
            bytes: report.bytes(),
            topics: report.topics.iter().map(TopicObject::of).collect(),
            unnamed: &report.unnamed,
            manifest_torn_bytes: report.manifest.torn_bytes,
            problems: report.problems.iter().map(ProblemObject::of).collect(),
            problems_left_out: report.problems_left_out,
            queues: queues.map(QueuesObject::of),
        }
    }
}

impl<'a> QueuesObject<'a> {
    fn of(report: &'a QueuesReport) -> Self {
        Self {
            sound: report.is_sound(),
            queues: report.queues.iter().map(QueueObject::of).collect(),
            cursors: report.cursors,
            journal_frames: report.journal_frames,
            checkpoints: report.checkpoints,
            problems: report.problems.iter().map(ToString::to_string).collect(),
        }
    }
}

impl<'a> QueueObject<'a> {
    fn of(queue: &'a CheckedQueue) -> Self {
        Self {
            queue: queue.queue.as_str(),
            topic: queue.topic.as_str(),
            floor: queue.floor.0,
            moves_pending: queue.moves_pending,
            moves_found: queue.moves_found,
        }
    }
}

impl<'a> TopicObject<'a> {
    fn of(topic: &'a TopicReport) -> Self {
        Self {
            topic: &topic.name,
            durability: topic.durability.to_string(),
            segments: topic.segments,
            quarantined: topic.quarantined,
            frames: topic.frames,
            records: topic.records,
            bytes: topic.bytes,
            first_offset: topic.first_offset.0,
            end_offset: topic.end_offset.0,
            next_offset: topic.next_offset.0,
            unclean: topic.unclean.map(|unclean| UncleanObject {
                kept_records: unclean.kept_records,
                cut_bytes: unclean.cut_bytes,
                unused_segments: unclean.unused_segments,
            }),
        }
    }
}

impl<'a> ProblemObject<'a> {
    fn of(problem: &'a Problem) -> Self {
        Self {
            file: &problem.file,
            topic: problem.topic.as_deref(),
            position: problem.position,
            first_offset: problem.offsets.map(|(first, _)| first.0),
            next_offset: problem.offsets.map(|(_, next)| next.0),
            fault: problem.fault.to_string(),
        }
    }
}
