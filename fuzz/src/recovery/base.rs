//! The folders that recovery is run over: made once, by the storage itself, and left as a kill
//! leaves them.

use std::sync::{Arc, OnceLock};

use millstream_protocol::batch::BatchBuilder;
use millstream_protocol::frame::PublisherFields;
use millstream_protocol::{Durability, Offset, Start, TopicName};
use millstream_storage::{
    AppendError, Appended, Appender, BodyWriter, Chunk, HeapFolder, Level, LevelWait, Log,
    LogReader, Manifest, Store, StoreOptions, park_until,
};

use crate::folder::{Snapshot, records_of};

pub(crate) const TOPICS: [(&str, Durability); 2] =
    [("left", Durability::Synced), ("right", Durability::Stored)];

/// Bodies of these lengths fill a segment of 1 MiB with 18 frames.
const LARGE_BYTES: usize = 60_000;

/// A record as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) offset: u64,
    pub(crate) body: Vec<u8>,
}

/// A folder, and every record ever written to each of [`TOPICS`].
pub(crate) struct Base {
    pub(crate) snapshot: Snapshot,
    pub(crate) written: [Vec<Written>; 2],
}

/// All of them.
pub(crate) fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| vec![small(), rotated(), second_run(), closed(), batches()])
}

pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        sync_workers: 1,
        segment_bytes_first: 1 << 20,
        segment_bytes_max: 1 << 20,
    }
}

/// A body that says of itself which it is.
fn body(topic: usize, index: usize, len_bytes: usize) -> Vec<u8> {
    let mut body = vec![topic as u8];
    body.extend_from_slice(&(index as u32).to_le_bytes());
    let mut state = (topic as u64) << 32 | index as u64;
    body.resize_with(len_bytes.max(5), || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8
    });
    body
}

/// An open store, and what was written to it.
pub(crate) struct Run {
    pub(crate) store: Store,
    pub(crate) logs: [Arc<Log>; 2],
    appenders: [Appender; 2],
    written: [Vec<Written>; 2],
}

impl Run {
    fn new(folder: &HeapFolder, written: [Vec<Written>; 2]) -> Self {
        let store = Store::open_folder(Arc::new(folder.clone()), &options()).expect("a base opens");
        let logs = TOPICS.map(|(name, durability)| {
            let name = TopicName::parse(name).expect("a name");
            match store.log(&name) {
                Some(log) => log,
                None => store.create_log(&name, durability).expect("a topic"),
            }
        });
        let appenders = [Appender::new(&logs[0]), Appender::new(&logs[1])];
        Self {
            store,
            logs,
            appenders,
            written,
        }
    }

    /// Appends a record of so many bytes; says where it ends.
    fn put(&mut self, topic: usize, len_bytes: usize) -> Offset {
        let body = body(topic, self.written[topic].len(), len_bytes);
        let base = append(&mut self.appenders[topic], &body);
        let offset = base.0;
        self.written[topic].push(Written { offset, body });
        base + 1
    }

    /// Appends one frame of several records.
    fn put_batch(&mut self, topic: usize, records: usize) -> Offset {
        let mut builder = BatchBuilder::new();
        let first = self.written[topic].len();
        let bodies: Vec<Vec<u8>> = (first..first + records)
            .map(|index| body(topic, index, 40))
            .collect();
        for body in &bodies {
            builder.push_body(body).expect("it fits");
        }
        let fields = builder.fields();
        let appended = append_frame(&mut self.appenders[topic], &fields, |room| {
            builder.write_body(room);
        });
        let offsets = appended.base.0..;
        let written = offsets.zip(bodies);
        self.written[topic].extend(written.map(|(offset, body)| Written { offset, body }));
        appended.end
    }

    fn sync(&mut self, topic: usize, end: Offset) {
        self.appenders[topic].announce();
        let mut wait = LevelWait::new(&self.logs[topic], Level::Synced, end);
        park_until(|cx| wait.poll(cx)).expect("it is synced");
    }

    /// The folder as a kill leaves it now.
    fn killed(self, folder: &HeapFolder) -> Base {
        let snapshot = Snapshot::of(folder);
        drop(self.appenders);
        self.store.close().expect("it closes");
        Base {
            snapshot,
            written: self.written,
        }
    }
}

/// Appends one record.
pub(crate) fn append(appender: &mut Appender, body: &[u8]) -> Offset {
    let fields = PublisherFields::single(body.len() as u32);
    append_frame(appender, &fields, |room| room.put(body)).base
}

/// Appends a frame, waiting for a segment where none is ready.
fn append_frame(
    appender: &mut Appender,
    fields: &PublisherFields,
    fill: impl Fn(&mut BodyWriter<'_>),
) -> Appended {
    loop {
        match appender.try_append_with(fields, &fill) {
            Ok(appended) => return appended,
            Err(AppendError::Rotating) => {
                appender.announce();
                park_until(|cx| appender.poll_room(cx));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// All records of a log from its first on, and the gaps between them.
pub(crate) fn read(log: &Arc<Log>) -> Result<Read, String> {
    let mut read = Read::default();
    let mut reader = LogReader::new(log, Start::Earliest);
    while reader.next_offset() < log.high_watermark() {
        match park_until(|cx| reader.poll_next(1 << 20, cx)) {
            Ok(Chunk::Gap(gap)) => read.gaps.push(gap),
            Ok(Chunk::Frames(slice)) => {
                let records = records_of(&slice)?.into_iter();
                let written = records.map(|(offset, body)| Written { offset, body });
                read.records.extend(written);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(read)
}

/// What a reader was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) records: Vec<Written>,
    pub(crate) gaps: Vec<millstream_protocol::control::Gap>,
}

/// A few small frames of each topic, the last ones not synced.
fn small() -> Base {
    let folder = HeapFolder::new();
    let mut run = Run::new(&folder, Default::default());
    for topic in [0, 1] {
        for len_bytes in [5, 6, 100, 4_000, 9_000] {
            let end = run.put(topic, len_bytes);
            run.sync(topic, end);
        }
        for len_bytes in [13, 5_000, 200] {
            run.put(topic, len_bytes);
        }
    }
    run.killed(&folder)
}

/// A segment that was sealed and has its footer, one after it, and one ready behind it.
fn rotated() -> Base {
    let folder = HeapFolder::new();
    let mut run = Run::new(&folder, Default::default());
    fill(&mut run, &folder);
    run.killed(&folder)
}

fn fill(run: &mut Run, folder: &HeapFolder) {
    let mut end = Offset(0);
    for index in 0..30 {
        end = run.put(0, if index % 3 == 2 { 300 } else { LARGE_BYTES });
    }
    run.sync(0, end);
    let is_finished = || {
        let (state, _) = Manifest::inspect(folder).expect("the manifest is whole");
        let segments = &state.log_named(TOPICS[0].0).expect("the topic").1.segments;
        segments.values().any(|segment| segment.end.is_some())
    };
    while !is_finished() {
        std::thread::yield_now();
    }
    run.put(0, 700);
    let end = run.put(1, 50);
    run.sync(1, end);
}

/// What a second run adds behind what recovery cut, and where offsets jumped.
fn second_run() -> Base {
    let first = rotated();
    let folder = first.snapshot.folder.duplicate();
    let mut run = Run::new(&folder, first.written);
    for topic in [0, 1] {
        for _ in 0..3 {
            let end = run.put(topic, 900);
            run.sync(topic, end);
        }
        run.put(topic, 20);
    }
    run.killed(&folder)
}

/// Closed in good order: every segment is sealed.
fn closed() -> Base {
    let folder = HeapFolder::new();
    let mut run = Run::new(&folder, Default::default());
    fill(&mut run, &folder);
    run.put(0, 3_000);
    run.store.close().expect("it closes");
    let written = run.written;
    Base {
        snapshot: Snapshot::of(&folder),
        written,
    }
}

/// Frames of several records.
fn batches() -> Base {
    let folder = HeapFolder::new();
    let mut run = Run::new(&folder, Default::default());
    for topic in [0, 1] {
        for records in [2, 90, 7] {
            let end = run.put_batch(topic, records);
            run.sync(topic, end);
        }
        run.put_batch(topic, 3);
        run.put(topic, 11);
    }
    run.killed(&folder)
}
