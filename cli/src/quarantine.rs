//! `millstream quarantine`: what recovery cut off, and what can still be read in it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use jiff::Timestamp;
use millstream_protocol::Offset;
use millstream_protocol::batch::{Checked, Record, RecordRun};
use millstream_storage::{Acknowledged, CutFrame, CutOff, QuarantinedFile, quarantine, read_cut};
use serde::Serialize;

use crate::args::{CutName, QuarantineArgs, QuarantineCommand};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::printer::{RecordObject, show_time};
use crate::verify;

/// One cut, as a line of `--json`.
#[derive(Debug, Serialize)]
struct CutObject<'a> {
    /// How `show` is told of it.
    cut: String,
    topic: &'a str,
    log: u32,
    segment: u32,
    position: Option<u32>,
    /// What was cut off had this offset and higher ones, below `next_offset`.
    first_offset: u64,
    next_offset: u64,
    cut_bytes: u64,
    why: &'static str,
    acknowledged: &'static str,
    when: Option<String>,
    copies: Vec<FileObject<'a>>,
    segments: Vec<FileObject<'a>>,
}

/// A file that belongs to no cut, as a line of `--json`.
#[derive(Debug, Serialize)]
struct OtherObject<'a> {
    other: FileObject<'a>,
}

#[derive(Debug, Serialize)]
struct FileObject<'a> {
    file: &'a str,
    bytes: u64,
    written: Option<String>,
}

/// A record or a frame without one, as a line of `--json`.
#[derive(Debug, Serialize)]
struct FoundObject<'a> {
    file: &'a str,
    position: u32,
    #[serde(flatten)]
    found: Found<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Found<'a> {
    Record(RecordObject<'a>),
    Damaged {
        first_offset: u64,
        next_offset: u64,
        reason: String,
    },
    Unknown {
        bytes: u32,
        reason: String,
    },
}

/// Lists or shows.
pub(crate) fn run(args: &QuarantineArgs, output: Output) -> Result<(), Failure> {
    match &args.command {
        QuarantineCommand::Ls { data } => list(data, output),
        QuarantineCommand::Show {
            cut,
            data,
            bodies_to,
        } => show(data, *cut, bodies_to.as_deref(), output),
    }
}

fn list(data: &Path, output: Output) -> Result<(), Failure> {
    let found = quarantine(data).map_err(|error| verify::failure(data, &error))?;
    if output.is_json() {
        for cut in &found.cuts {
            output.line(&CutObject::of(cut), format_args!(""))?;
        }
        for other in &found.others {
            let other = FileObject::of(other);
            output.line(&OtherObject { other }, format_args!(""))?;
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = found.cuts.iter().map(row).collect();
    Output::table(
        &[
            "CUT",
            "TOPIC",
            "POSITION",
            "OFFSETS",
            "BYTES",
            "WHEN",
            "ACKNOWLEDGED",
        ],
        &rows,
    )?;
    let others: Vec<Vec<String>> = found
        .others
        .iter()
        .map(|other| vec![other.file.clone(), other.len_bytes.to_string()])
        .collect();
    Output::table(&["OTHER FILE", "BYTES"], &others)
}

fn row(cut: &CutOff) -> Vec<String> {
    let object = CutObject::of(cut);
    vec![
        object.cut,
        cut.topic.clone(),
        cut.position
            .map_or_else(|| "-".to_owned(), |at| at.to_string()),
        format!("{} to {}", cut.end_offset, cut.next_offset),
        cut.cut_bytes.to_string(),
        object.when.unwrap_or_else(|| "-".to_owned()),
        object.acknowledged.to_owned(),
    ]
}

fn show(
    data: &Path,
    name: CutName,
    bodies_to: Option<&Path>,
    output: Output,
) -> Result<(), Failure> {
    let found = quarantine(data).map_err(|error| verify::failure(data, &error))?;
    let is_meant = |cut: &&CutOff| (cut.log.0, cut.segment.0) == (name.log, name.segment);
    let Some(cut) = found.cuts.iter().find(is_meant) else {
        let message = format!("no cut {}/{}; see `quarantine ls`", name.log, name.segment);
        return Err(Failure::new(Exit::NotFound, message));
    };
    if let Some(folder) = bodies_to {
        fs::create_dir_all(folder)
            .map_err(|error| Failure::file(folder.display(), "make", &error))?;
    }
    let mut shown = Ok(());
    read_cut(data, cut, &mut |file, position, frame| {
        if shown.is_ok() {
            shown = show_frame((file, position), frame, bodies_to, output);
        }
    })
    .map_err(|error| verify::failure(data, &error))?;
    shown
}

fn show_frame(
    (file, position): (&str, u32),
    frame: CutFrame<'_>,
    bodies_to: Option<&Path>,
    output: Output,
) -> Result<(), Failure> {
    let line = |found: Found<'_>, text: std::fmt::Arguments<'_>| {
        let object = FoundObject {
            file,
            position,
            found,
        };
        output.line(&object, text)
    };
    match frame {
        CutFrame::Good { bytes, place, .. } => {
            let bytes = Bytes::copy_from_slice(bytes);
            for record in RecordRun::new(bytes, place, Checked::No, Offset(0)) {
                let record = match record {
                    Ok(record) => record,
                    Err(error) => {
                        let reason = error.to_string();
                        let text = format!("{file} at {position}: can't be expanded: {reason}");
                        line(Found::Unknown { bytes: 0, reason }, format_args!("{text}"))?;
                        continue;
                    }
                };
                if let Some(folder) = bodies_to {
                    write_body(folder, &record)?;
                }
                line(
                    Found::Record(RecordObject::of(&record, None)),
                    format_args!(
                        "{file} at {position}: record {}, {}, {} bytes: {}",
                        record.offset(),
                        show_time(record.append_time_us()),
                        record.as_bytes().len(),
                        preview(record.as_bytes())
                    ),
                )?;
            }
            Ok(())
        }
        CutFrame::Damaged { header, error } => {
            let (first, next) = (header.base_offset, header.next_offset());
            line(
                Found::Damaged {
                    first_offset: first.0,
                    next_offset: next.0,
                    reason: error.to_string(),
                },
                format_args!(
                    "{file} at {position}: records {first} up to {next} are damaged: {error}"
                ),
            )
        }
        CutFrame::Unknown { bytes, reason } => {
            let text =
                format!("{file} at {position}: {bytes} bytes without a known frame: {reason}");
            line(Found::Unknown { bytes, reason }, format_args!("{text}"))
        }
    }
}

/// The beginning of a body, on one line.
fn preview(body: &[u8]) -> String {
    const CHARS: usize = 60;
    let text = String::from_utf8_lossy(body);
    let short: String = text
        .chars()
        .take(CHARS)
        .flat_map(char::escape_debug)
        .collect();
    let more = if text.chars().nth(CHARS).is_some() {
        "…"
    } else {
        ""
    };
    format!("{short}{more}")
}

/// Writes a body into a file named by its offset, and never over another.
fn write_body(folder: &Path, record: &Record) -> Result<(), Failure> {
    let path = folder.join(format!("{:020}", record.offset().0));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(record.as_bytes()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::new(
            Exit::Conflict,
            format_args!("{} is there already, and is left alone", path.display()),
        ),
        _ => Failure::file(path.display(), "write", &error),
    })
}

impl<'a> CutObject<'a> {
    fn of(cut: &'a CutOff) -> Self {
        let written = cut.copies.iter().filter_map(|copy| copy.written).max();
        Self {
            cut: format!("{}/{}", cut.log.0, cut.segment.0),
            topic: &cut.topic,
            log: cut.log.0,
            segment: cut.segment.0,
            position: cut.position,
            first_offset: cut.end_offset.0,
            next_offset: cut.next_offset.0,
            cut_bytes: cut.cut_bytes,
            why: match cut.acknowledged {
                Acknowledged::Never => "a write that no sync had begun to cover",
                Acknowledged::Possibly | Acknowledged::Released => {
                    "no good frame where the last sync was to cover one"
                }
            },
            acknowledged: match cut.acknowledged {
                Acknowledged::Never => "never",
                Acknowledged::Possibly => "possibly",
                Acknowledged::Released => "possibly, released",
            },
            when: written.and_then(time),
            copies: cut.copies.iter().map(FileObject::of).collect(),
            segments: cut.segments.iter().map(FileObject::of).collect(),
        }
    }
}

impl<'a> FileObject<'a> {
    fn of(file: &'a QuarantinedFile) -> Self {
        Self {
            file: &file.file,
            bytes: file.len_bytes,
            written: file.written.and_then(time),
        }
    }
}

fn time(time: SystemTime) -> Option<String> {
    Some(format!("{:.0}", Timestamp::try_from(time).ok()?))
}
