//! Records that borrow their run are those that own a slice of it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod raw;

use bytes::Bytes;
use millstream_protocol::Offset;
use millstream_protocol::batch::{
    BatchBuilder, Checked, Message, Record, RecordRef, RecordRun, RecordView,
};
use millstream_protocol::frame::{FrameError, FrameKind, FramePlace, PublisherFields};
use raw::{NONCE_HALF, POSITION, SEED, stored};

const PLACE: FramePlace = FramePlace {
    seed: SEED,
    nonce_half: NONCE_HALF,
    position: POSITION,
};

/// All that can be asked of a record.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    offset: Offset,
    append_time_us: u64,
    body: Vec<u8>,
    key: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    options: Option<String>,
}

fn owned(header: (&str, &[u8])) -> (String, Vec<u8>) {
    (header.0.to_owned(), header.1.to_owned())
}

fn options(record: RecordRef<'_>) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?} {} {}",
        (record.key(), record.id(), record.group()),
        record.headers(),
        record.due_at_us(),
        record.expires_at_us(),
        record.published_at_us(),
        record.priority(),
        record.body_bytes(),
    )
}

fn of_record(record: &Record) -> Seen {
    Seen {
        offset: record.offset(),
        append_time_us: record.append_time_us(),
        body: record.as_bytes().to_vec(),
        key: record.key().map(|key| key.to_vec()),
        headers: record.headers().map(owned).collect(),
        options: record.options_ref().map(options),
    }
}

fn of_view(record: &RecordView<'_>) -> Seen {
    let seen = Seen {
        offset: record.offset(),
        append_time_us: record.append_time_us(),
        body: record.as_bytes().to_vec(),
        key: record.key().map(<[u8]>::to_vec),
        headers: record.headers().map(owned).collect(),
        options: record.options_ref().map(options),
    };
    assert_eq!(of_record(&record.to_record()), seen);
    seen
}

type Given = Vec<Result<Seen, FrameError>>;

fn as_records(run: &mut RecordRun) -> Given {
    let records = run.map(|record| record.map(|record| of_record(&record)));
    records.collect()
}

fn as_views(run: &mut RecordRun) -> Given {
    let mut given = Vec::new();
    while let Some(record) = run.next_view() {
        given.push(record.map(|record| of_view(&record)));
    }
    given
}

/// Every other one in the one way, those between in the other.
fn mixed(run: &mut RecordRun) -> Given {
    let mut given = Vec::new();
    loop {
        let record = match given.len() % 2 {
            0 => run.next().map(|record| record.map(|r| of_record(&r))),
            _ => run.next_view().map(|record| record.map(|r| of_view(&r))),
        };
        match record {
            Some(record) => given.push(record),
            None => return given,
        }
    }
}

/// Frames as they lie one behind the other.
struct Frames {
    bytes: Vec<u8>,
    next: u64,
}

impl Frames {
    const FIRST: Offset = Offset(1000);

    fn new() -> Self {
        Self {
            bytes: Vec::new(),
            next: Self::FIRST.0,
        }
    }

    fn put(&mut self, fields: PublisherFields, body: &[u8]) {
        let position = POSITION + u32::try_from(self.bytes.len()).unwrap();
        self.bytes.extend(stored(fields, body, self.next, position));
        self.next += u64::from(fields.record_count);
    }

    fn put_batch(&mut self, messages: &[Message], compress: bool) {
        self.put_changed(messages, compress, |_| ());
    }

    fn put_changed(
        &mut self,
        messages: &[Message],
        compress: bool,
        change: impl FnOnce(&mut [u8]),
    ) {
        let mut batch = BatchBuilder::new();
        for message in messages {
            batch.push(message).unwrap();
        }
        assert_eq!(batch.compress(), compress, "as its messages let it");
        let mut body = Vec::new();
        batch.write_body(&mut body);
        change(&mut body);
        self.put(batch.fields(), &body);
    }

    fn put_void(&mut self, records: u16) {
        let fields = PublisherFields {
            kind: FrameKind::Void,
            record_count: records,
            ..PublisherFields::single(24)
        };
        self.put(fields, &[0xee; 24]);
    }

    fn run(&self, checked: Checked, from: Offset) -> RecordRun {
        let bytes = Bytes::copy_from_slice(&self.bytes);
        RecordRun::new(bytes, PLACE, checked, from)
    }
}

fn plain(body: &'static str) -> Message {
    Message::new(body)
}

fn with_options(body: Vec<u8>) -> Message {
    Message::new(body)
        .key("k")
        .id("i")
        .group("g")
        .header("name", "value")
        .header("other", "")
        .due_at_us(1)
        .expires_at_us(2)
        .published_at_us(3)
        .priority(4)
}

/// Every shape of a frame.
fn frames() -> Frames {
    let large = || Message::new(vec![7; 3000]);
    let mut frames = Frames::new();
    frames.put_batch(&[plain("single")], false);
    frames.put_batch(&[plain("")], false);
    frames.put_batch(&[plain("a"), plain(""), plain("ccc")], false);
    frames.put_void(3);
    frames.put_batch(&[with_options(b"one".to_vec())], false);
    frames.put_batch(&[plain("x"), with_options(Vec::new()), plain("z")], false);
    frames.put_batch(&[large(), plain(""), large()], true);
    frames.put_batch(&[large(), with_options(vec![9; 500]), plain("last")], true);
    frames.put_batch(&[plain("end")], false);
    frames
}

const BOTH: [Checked; 2] = [Checked::Yes, Checked::No];

#[test]
fn views_are_the_records_of_every_shape_from_every_offset() {
    let frames = frames();
    for checked in BOTH {
        for from in 0..frames.next + 2 - Frames::FIRST.0 {
            let run = || frames.run(checked, Frames::FIRST + from);
            let (mut first, mut second) = (run(), run());
            let given = as_views(&mut first);
            assert_eq!(given, as_records(&mut second));
            assert_eq!(first.next_offset(), second.next_offset());
            let left = (frames.next - Frames::FIRST.0).saturating_sub(from);
            let void = (8_u64.saturating_sub(from)).min(3);
            assert_eq!(given.len() as u64, left - void);
        }
    }
}

#[test]
fn what_is_given_in_one_way_is_not_given_in_the_other() {
    let frames = frames();
    for checked in BOTH {
        let given = mixed(&mut frames.run(checked, Offset(0)));
        assert_eq!(given, as_records(&mut frames.run(checked, Offset(0))));
        assert_eq!(given.len(), 16);
    }
}

#[test]
fn views_go_on_where_was_skipped_to() {
    let frames = frames();
    for taken in 0..16 {
        for ahead in 0..20 {
            let (mut run, mut other) = (
                frames.run(Checked::No, Offset(0)),
                frames.run(Checked::No, Offset(0)),
            );
            for _ in 0..taken {
                run.next_view().unwrap().unwrap();
                other.next().unwrap().unwrap();
            }
            let to = run.next_offset() + ahead;
            run.skip_to(to);
            other.skip_to(to);
            assert_eq!(as_views(&mut run), as_records(&mut other));
        }
    }
}

#[test]
fn what_was_found_is_given_next_and_once() {
    let frames = frames();
    let wanted = as_records(&mut frames.run(Checked::No, Offset(0)));
    let mut run = frames.run(Checked::No, Offset(0));
    assert!(run.take_found().is_none(), "nothing was looked for");
    for (number, wanted) in wanted.into_iter().enumerate() {
        let wanted = wanted.unwrap();
        assert_eq!(run.find_next(), Ok(Some(wanted.offset)));
        assert_eq!(run.find_next(), Ok(Some(wanted.offset)));
        assert_eq!(run.next_offset(), wanted.offset, "it was not given");
        let given = match number % 3 {
            0 => of_view(&run.take_found().unwrap()),
            1 => of_view(&run.next_view().unwrap().unwrap()),
            _ => of_record(&run.next().unwrap().unwrap()),
        };
        assert_eq!(given, wanted);
        assert_eq!(run.next_offset(), wanted.offset + 1);
    }
    assert_eq!(run.find_next(), Ok(None));
    assert!(run.take_found().is_none());
}

#[test]
fn what_was_found_may_be_skipped() {
    let frames = frames();
    let mut run = frames.run(Checked::No, Offset(0));
    let single = run.find_next().unwrap().unwrap();
    run.skip_to(single + 1);
    assert_eq!(run.next_view().unwrap().unwrap().offset(), single + 1);
    let batch = run.find_next().unwrap().unwrap();
    run.skip_to(batch + 2);
    assert_eq!(run.next_view().unwrap().unwrap().as_bytes(), b"ccc");
}

#[test]
fn errors_come_between_views_as_between_records() {
    let large = || Message::new(vec![7; 3000]);
    let mut frames = Frames::new();
    frames.put_batch(&[plain("a"), plain("b")], false);
    // Its columns are sound, its payload block is no lz4.
    frames.put_changed(&[large(), large(), large()], true, |body| {
        body[12..40].fill(0xff);
    });
    frames.put_batch(&[plain("c")], false);
    let damaged_at = frames.bytes.len() + 64;
    frames.put_batch(&[plain("damaged")], false);
    frames.put_batch(&[plain("behind")], false);
    frames.bytes[damaged_at] ^= 1;

    let run = || frames.run(Checked::No, Offset(0));
    let given = as_views(&mut run());
    assert_eq!(given, as_records(&mut run()));
    assert_eq!(given, mixed(&mut run()));
    let mut run = run();
    let mut found = Vec::new();
    loop {
        match run.find_next() {
            Ok(None) => break,
            Ok(Some(_)) => found.push(run.take_found().map(|r| of_view(&r)).ok_or(None)),
            Err(error) => found.push(Err(Some(error))),
        }
    }
    let wanted: Vec<_> = given.into_iter().map(|r| r.map_err(Some)).collect();
    assert_eq!(found, wanted);
    let bodies = found.iter().map(|record| match record {
        Ok(record) => str::from_utf8(&record.body).unwrap(),
        Err(Some(FrameError::Batch(_))) => "passed over",
        Err(_) => "ended",
    });
    assert!(bodies.eq(["a", "b", "passed over", "c", "ended"]));
}
