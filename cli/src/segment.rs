//! `millstream segment dump`: what one segment file says of itself, and each of its frames.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use jiff::Timestamp;
use millstream_storage::{
    DumpError, DumpedFooter, DumpedFrame, DumpedMark, DumpedSlot, SegmentDump, dump_segment,
};
use serde::Serialize;

use crate::args::{SegmentArgs, SegmentCommand};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// The file's own words, as the first line of `--json`.
#[derive(Debug, Serialize)]
struct SegmentObject {
    folder_id: String,
    incarnation: String,
    log: u32,
    segment: u32,
    nonce: String,
    len_bytes: u32,
    prepared_bytes: u32,
    seed: u32,
    slots: Vec<Option<SlotObject>>,
    footer: Option<FooterObject>,
}

#[derive(Debug, Serialize)]
struct SlotObject {
    sequence: u64,
    proven: MarkObject,
    attempted: MarkObject,
}

#[derive(Debug, Serialize)]
struct MarkObject {
    position: u32,
    offset: u64,
    sealed: bool,
}

#[derive(Debug, Serialize)]
struct FooterObject {
    position: u32,
    frames: u64,
    base_offset: u64,
    end_offset: u64,
    first_time: String,
    last_time: String,
    end_position: u32,
    damaged_pages: usize,
}

/// One frame, as a line of `--json`.
#[derive(Debug, Serialize)]
struct FrameObject {
    position: u32,
    bytes: u32,
    #[serde(flatten)]
    header: Option<HeaderObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct HeaderObject {
    kind: String,
    base_offset: u64,
    records: u16,
    body_bytes: u32,
    compressed: bool,
    time: String,
    producer: u64,
    producer_epoch: u64,
    sequence: u64,
}

/// Does what `args` say about a segment.
pub(crate) fn run(args: &SegmentArgs, output: Output) -> Result<(), Failure> {
    let SegmentCommand::Dump { file } = &args.command;
    dump(file, output)
}

fn dump(file: &Path, output: Output) -> Result<(), Failure> {
    let name = file.display();
    let mut dump = dump_segment(file).map_err(|error| match &error {
        DumpError::Io(error) => Failure::file(&name, "read", error),
        error => Failure::new(Exit::Damaged, format_args!("{name}: {error}")),
    })?;
    let mut stdout = BufWriter::new(io::stdout().lock());
    let said = if output.is_json() {
        json_line(&mut stdout, &SegmentObject::of(&dump))
    } else {
        describe(&mut stdout, &dump)
    };
    said.map_err(Failure::stdout)?;
    let mut problems: u64 = 0;
    for frame in &mut dump {
        problems += u64::from(frame.problem.is_some());
        let said = if output.is_json() {
            json_line(&mut stdout, &FrameObject::of(&frame))
        } else {
            describe_frame(&mut stdout, &frame)
        };
        said.map_err(Failure::stdout)?;
    }
    stdout.flush().map_err(Failure::stdout)?;
    if problems > 0 {
        let frames = if problems == 1 {
            "frame is"
        } else {
            "frames are"
        };
        return Err(Failure::new(
            Exit::Damaged,
            format_args!("{name}: {problems} {frames} damaged"),
        ));
    }
    Ok(())
}

fn json_line(out: &mut impl Write, object: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, object)?;
    out.write_all(b"\n")
}

/// Writes what the file says of itself, and the heading of the frames.
fn describe(out: &mut impl Write, dump: &SegmentDump) -> io::Result<()> {
    let identity = dump.identity();
    writeln!(out, "folder       {}", hex(&identity.folder_id))?;
    writeln!(out, "incarnation  {}", hex(&identity.incarnation))?;
    writeln!(out, "log          {}", identity.log.0)?;
    writeln!(out, "segment      {}", identity.segment.0)?;
    writeln!(
        out,
        "nonce        {:016x}, seed {:08x}",
        identity.nonce, identity.seed.0
    )?;
    writeln!(
        out,
        "bytes        {}, prepared with {}",
        dump.len_bytes(),
        identity.len_bytes
    )?;
    for (index, slot) in dump.slots().iter().enumerate() {
        match slot {
            None => writeln!(out, "slot {index}       empty or damaged")?,
            Some(DumpedSlot {
                sequence,
                proven,
                attempted,
            }) => writeln!(
                out,
                "slot {index}       number {sequence}, proven {}, attempted {}",
                mark(proven),
                mark(attempted)
            )?,
        }
    }
    match dump.footer() {
        None => writeln!(out, "footer       none")?,
        Some(footer) => writeln!(
            out,
            "footer       at {}: {} frames, offsets {} to {}, {} to {}, sealed at {}",
            footer.position,
            footer.frames,
            footer.base_offset,
            footer.end_offset,
            time(footer.first_time_us),
            time(footer.last_time_us),
            footer.end_position
        )?,
    }
    for damage in dump.footer().iter().flat_map(|footer| &footer.damage) {
        writeln!(out, "footer       {damage}")?;
    }
    writeln!(
        out,
        "\n{:>10}  {:>10}  {:<7} {:>12}  {:>7}  {:>9}  TIME",
        "POSITION", "BYTES", "KIND", "OFFSET", "RECORDS", "BODY"
    )
}

fn describe_frame(out: &mut impl Write, frame: &DumpedFrame) -> io::Result<()> {
    let FrameObject {
        position,
        bytes,
        header,
        problem,
    } = FrameObject::of(frame);
    write!(out, "{position:>10}  {bytes:>10}  ")?;
    match header {
        Some(header) => write!(
            out,
            "{:<7} {:>12}  {:>7}  {:>9}  {}{}",
            header.kind,
            header.base_offset,
            header.records,
            header.body_bytes,
            header.time,
            if header.compressed { "  lz4" } else { "" }
        )?,
        None => write!(out, "unreadable header")?,
    }
    match problem {
        Some(problem) => writeln!(out, "  DAMAGED: {problem}"),
        None => writeln!(out),
    }
}

impl SegmentObject {
    fn of(dump: &SegmentDump) -> Self {
        let identity = dump.identity();
        Self {
            folder_id: hex(&identity.folder_id),
            incarnation: hex(&identity.incarnation),
            log: identity.log.0,
            segment: identity.segment.0,
            nonce: format!("{:016x}", identity.nonce),
            len_bytes: dump.len_bytes(),
            prepared_bytes: identity.len_bytes,
            seed: identity.seed.0,
            slots: dump
                .slots()
                .iter()
                .map(|slot| slot.as_ref().map(SlotObject::of))
                .collect(),
            footer: dump.footer().map(FooterObject::of),
        }
    }
}

impl SlotObject {
    fn of(slot: &DumpedSlot) -> Self {
        Self {
            sequence: slot.sequence,
            proven: MarkObject::of(&slot.proven),
            attempted: MarkObject::of(&slot.attempted),
        }
    }
}

impl MarkObject {
    const fn of(mark: &DumpedMark) -> Self {
        Self {
            position: mark.position,
            offset: mark.offset.0,
            sealed: mark.sealed,
        }
    }
}

impl FooterObject {
    fn of(footer: &DumpedFooter) -> Self {
        Self {
            position: footer.position,
            frames: footer.frames,
            base_offset: footer.base_offset.0,
            end_offset: footer.end_offset.0,
            first_time: time(footer.first_time_us),
            last_time: time(footer.last_time_us),
            end_position: footer.end_position,
            damaged_pages: footer.damage.len(),
        }
    }
}

impl FrameObject {
    fn of(frame: &DumpedFrame) -> Self {
        let header = frame.header.map(|header| HeaderObject {
            kind: format!("{:?}", header.fields.kind).to_ascii_lowercase(),
            base_offset: header.base_offset.0,
            records: header.fields.record_count,
            body_bytes: header.fields.body_bytes,
            compressed: header.fields.compressed,
            time: time(header.append_time_us),
            producer: header.fields.producer.id,
            producer_epoch: header.fields.producer.epoch,
            sequence: header.fields.producer.sequence,
        });
        Self {
            position: frame.position,
            bytes: frame.commit.frame_bytes,
            header,
            problem: frame.problem.as_ref().map(ToString::to_string),
        }
    }
}

fn mark(mark: &DumpedMark) -> String {
    let sealed = if mark.sealed { " (sealed)" } else { "" };
    format!("byte {} offset {}{sealed}", mark.position, mark.offset)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time in microseconds of the Unix epoch, in RFC 3339.
fn time(micros: u64) -> String {
    let micros = i64::try_from(micros).unwrap_or(i64::MAX);
    format!(
        "{:.6}",
        Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
    )
}
