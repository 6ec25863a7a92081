//! Runs a load: threads that publish on schedule or as fast as they are acknowledged, threads that
//! receive, and the ledger that says what became of each message.
//!
//! *Open loop* (a rate): message n is due at n / rate, whatever became of those before it, and its
//! latency counts from then; a generator that is late makes the latency longer, not the load lighter.
//! *Closed loop* (no rate): a publisher sends while its window has room; latency counts from the send.

use std::collections::VecDeque;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::{Latency, Ledger, Parameters, Run, Stamp, Usage};
use crate::broker::{Broker, Failure, Kind, Publish, Receive};

/// Messages made and sent together in a closed loop, where batches are smaller.
const TOGETHER: usize = 64;
/// How long a receiver waits before it looks whether all is done.
const WAIT: Duration = Duration::from_millis(50);
/// Without a message for so long, what did not come is lost.
const SILENCE: Duration = Duration::from_secs(20);
/// How often an open loop looks for acknowledgements between messages.
const LOOK: Duration = Duration::from_micros(50);
/// Most messages of one publisher that a run's ledger has room for: 256 MiB of bits.
const MESSAGES_MAX: u64 = 1 << 31;
/// Batches in which messages are stored before a run.
const PRELOAD_BATCH: usize = 1000;

/// What happens in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// Publishers are timed; all is read back and checked afterwards.
    Publish,
    /// Messages are stored first; receivers are timed until they have them all.
    Receive,
    /// Both at once, for a time; publishers and receivers are counted, latency is to the receipt.
    Through,
}

/// A load.
#[derive(Debug, Clone)]
pub struct Load {
    /// What is timed.
    pub course: Course,
    /// What receivers do.
    pub kind: Kind,
    /// Topics; publisher and receiver n use topic n modulo their number.
    pub topics: usize,
    /// How much of it.
    pub parameters: Parameters,
}

/// Called now and then with the messages so far.
pub type Tell<'a> = &'a (dyn Fn(u64) + Sync);

/// What the threads of a run share.
struct Stage<'a> {
    load: &'a Load,
    began: Instant,
    /// Behind this nothing new is sent.
    end_ns: u64,
    /// What is before it is not counted.
    counted_from_ns: u64,
    /// Messages acknowledged to each publisher.
    acknowledged: Vec<AtomicU64>,
    received: AtomicU64,
    published_all: AtomicBool,
    failed: AtomicBool,
    start: Barrier,
}

/// What one thread brings back.
struct Part {
    latency: Latency,
    per_tenth: Vec<u64>,
    /// A receiver's.
    ledger: Option<Ledger>,
    /// When its last message was through.
    last_ns: u64,
}

impl Part {
    fn new() -> Self {
        Self {
            latency: Latency::new(),
            per_tenth: Vec::new(),
            ledger: None,
            last_ns: 0,
        }
    }

    fn count(&mut self, stage: &Stage<'_>, now_ns: u64, since_ns: u64, messages: u64) {
        self.last_ns = now_ns;
        if now_ns < stage.counted_from_ns || now_ns >= stage.end_ns {
            return;
        }
        if stage.load.course != Course::Receive {
            self.latency.note(now_ns.saturating_sub(since_ns), messages);
        }
        let tenth = ((now_ns - stage.counted_from_ns) / 100_000_000) as usize;
        if self.per_tenth.len() <= tenth {
            self.per_tenth.resize(tenth + 1, 0);
        }
        self.per_tenth[tenth] += messages;
    }
}

impl Stage<'_> {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn has_failed(&self) -> bool {
        // Relaxed: it carries nothing; whoever failed is joined.
        self.failed.load(Ordering::Relaxed)
    }

    /// Messages a stream's receiver, or a queue's receivers together, are to get from `topic`.
    fn expected(&self, topic: usize) -> u64 {
        let topics = self.load.topics;
        let of_topic = self.acknowledged.iter().skip(topic).step_by(topics);
        // Relaxed: counts; `published_all` was seen before.
        of_topic.map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Runs `load` once on fresh topics, which it removes again.
///
/// # Errors
///
/// What the broker said. Messages that are lost or doubled are no error here: see [`Run::delivered`].
pub fn run(broker: &dyn Broker, load: &Load, name: &str, tell: Tell<'_>) -> Result<Run, Failure> {
    let topics: Vec<String> = (0..load.topics).map(|n| format!("{name}-{n}")).collect();
    for topic in &topics {
        broker.create(topic, load.kind)?;
    }
    let ran = run_on(broker, load, &topics, tell);
    for topic in &topics {
        let removed = broker.remove(topic);
        if ran.is_ok() {
            removed?;
        }
    }
    ran
}

fn run_on(
    broker: &dyn Broker,
    load: &Load,
    topics: &[String],
    tell: Tell<'_>,
) -> Result<Run, Failure> {
    let asked = &load.parameters;
    let publishers = asked.publishers.max(1);
    let mut sent = vec![0; publishers];
    if load.course == Course::Receive {
        for (number, sent) in sent.iter_mut().enumerate() {
            let topic = &topics[number % topics.len()];
            let share = asked.messages / publishers as u64;
            *sent = preload(broker, topic, (number, share), asked.message_bytes)?;
        }
    }
    let timed_publishers = if load.course == Course::Receive {
        0
    } else {
        publishers
    };
    let timed_receivers = if load.course == Course::Publish {
        0
    } else {
        asked.receivers
    };
    let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
    let counted_from_ns = nanoseconds(asked.warmup_s);
    let stage = Stage {
        load,
        began: Instant::now(),
        end_ns: match load.course {
            Course::Receive => u64::MAX,
            _ => counted_from_ns + nanoseconds(asked.seconds),
        },
        counted_from_ns: if load.course == Course::Receive {
            0
        } else {
            counted_from_ns
        },
        acknowledged: sent.iter().map(|sent| AtomicU64::new(*sent)).collect(),
        received: AtomicU64::new(0),
        published_all: AtomicBool::new(load.course == Course::Receive),
        failed: AtomicBool::new(false),
        start: Barrier::new(timed_publishers + timed_receivers + 1),
    };
    let (parts, mut run) = time(
        broker,
        stage,
        (timed_publishers, timed_receivers),
        topics,
        tell,
    )?;
    if load.course == Course::Publish {
        let verified = read_back(broker, load, &parts.acknowledged, topics, tell)?;
        run.delivered = verified;
    }
    Ok(run)
}

/// What the threads brought back, put together.
struct Parts {
    acknowledged: Vec<u64>,
}

/// Stores `share` messages of publisher `number`.
fn preload(
    broker: &dyn Broker,
    topic: &str,
    (number, share): (usize, u64),
    message_bytes: usize,
) -> Result<u64, Failure> {
    let mut publisher = broker.publisher(topic, PRELOAD_BATCH)?;
    let mut maker = Maker::new(number, message_bytes);
    let (mut under_way, mut left) = (0, share);
    while left > 0 {
        let count = left.min(PRELOAD_BATCH as u64);
        publisher.send(maker.make(count as usize, 0), message_bytes)?;
        left -= count;
        under_way += count;
        while under_way > 32 * PRELOAD_BATCH as u64 {
            under_way -= publisher.acknowledged(Duration::from_secs(1))?;
        }
    }
    while under_way > 0 {
        under_way -= publisher.acknowledged(Duration::from_secs(1))?;
    }
    Ok(share)
}

/// Makes messages of one publisher, one behind the other.
struct Maker {
    producer: u32,
    sequence: u64,
    message_bytes: usize,
    bytes: Vec<u8>,
}

impl Maker {
    fn new(number: usize, message_bytes: usize) -> Self {
        Self {
            producer: u32::try_from(number).expect("publishers are few"),
            sequence: 0,
            message_bytes,
            bytes: Vec::new(),
        }
    }

    fn make(&mut self, count: usize, due_ns: u64) -> &[u8] {
        let wanted = count * self.message_bytes;
        while self.bytes.len() < wanted {
            self.bytes.push((self.bytes.len() % 251) as u8);
        }
        let bytes = &mut self.bytes[..wanted];
        for body in bytes.chunks_mut(self.message_bytes) {
            let stamp = Stamp {
                producer: self.producer,
                sequence: self.sequence,
                due_ns,
            };
            stamp.write(body);
            self.sequence += 1;
        }
        bytes
    }
}

fn time(
    broker: &dyn Broker,
    mut stage: Stage<'_>,
    (publishers, receivers): (usize, usize),
    topics: &[String],
    tell: Tell<'_>,
) -> Result<(Parts, Run), Failure> {
    // Connections are there before the clock starts.
    let asked = &stage.load.parameters;
    let (batch, kind) = (asked.batch, stage.load.kind);
    stage.began = Instant::now();
    let stage_ref = &stage;
    thread::scope(|scope| {
        let publishing: Vec<_> = (0..publishers)
            .map(|number| {
                let topic = &topics[number % topics.len()];
                scope.spawn(move || {
                    let opened = broker.publisher(topic, batch);
                    stage_ref.start.wait();
                    let done = opened.and_then(|mut one| publish(one.as_mut(), stage_ref, number));
                    note_failure(stage_ref, done)
                })
            })
            .collect();
        let receiving: Vec<_> = (0..receivers)
            .map(|number| {
                let topic = number % topics.len();
                scope.spawn(move || {
                    // What is stored would be on its way as soon as a receiver is there.
                    let early = stage_ref.load.course != Course::Receive;
                    let opened = early.then(|| broker.receiver(&topics[topic], kind));
                    stage_ref.start.wait();
                    let opened = opened.unwrap_or_else(|| broker.receiver(&topics[topic], kind));
                    let done = opened.and_then(|mut one| receive(one.as_mut(), stage_ref, topic));
                    note_failure(stage_ref, done)
                })
            })
            .collect();
        let before = broker.pid().map(Usage::of);
        let own_before = Usage::own();
        stage_ref.start.wait();
        let started_ns = stage_ref.now_ns();
        watch(stage_ref, &publishing, &receiving, tell);
        let published = join(publishing)?;
        let received = join(receiving)?;
        let mut run = put_together(stage_ref, started_ns, published, received);
        run.generator = Usage::own() - own_before;
        run.broker = broker
            .pid()
            .zip(before)
            .map(|(pid, before)| Usage::of(pid) - before);
        let acknowledged = stage_ref.acknowledged.iter();
        let acknowledged = acknowledged
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        Ok((Parts { acknowledged }, run))
    })
}

fn note_failure<T>(stage: &Stage<'_>, done: Result<T, Failure>) -> Result<T, Failure> {
    if done.is_err() {
        stage.failed.store(true, Ordering::Relaxed);
    }
    done
}

/// Waits for the publishers, then lets receivers know; tells the progress meanwhile.
fn watch<T, U>(
    stage: &Stage<'_>,
    publishing: &[ScopedJoinHandle<'_, T>],
    receiving: &[ScopedJoinHandle<'_, U>],
    tell: Tell<'_>,
) {
    let mut told = 0;
    loop {
        let published = publishing.iter().all(ScopedJoinHandle::is_finished);
        // Release: with the counts of acknowledged messages that the receivers load behind it.
        stage.published_all.store(published, Ordering::Release);
        if published && receiving.iter().all(ScopedJoinHandle::is_finished) {
            return;
        }
        let acknowledged: u64 = (0..stage.load.topics)
            .map(|topic| stage.expected(topic))
            .sum();
        let received = stage.received.load(Ordering::Relaxed);
        let now = if receiving.is_empty() {
            acknowledged
        } else {
            received
        };
        tell(now.saturating_sub(told));
        told = told.max(now);
        thread::sleep(Duration::from_millis(20));
    }
}

fn join<T>(threads: Vec<ScopedJoinHandle<'_, Result<T, Failure>>>) -> Result<Vec<T>, Failure> {
    let joined = threads.into_iter().map(|thread| {
        thread
            .join()
            .unwrap_or_else(|_| Err("a thread of the load panicked".into()))
    });
    joined.collect()
}

fn publish(publisher: &mut dyn Publish, stage: &Stage<'_>, number: usize) -> Result<Part, Failure> {
    let asked = &stage.load.parameters;
    let mut part = Part::new();
    let mut maker = Maker::new(number, asked.message_bytes);
    // Messages sent and not acknowledged: since when, and how many.
    let mut under_way: VecDeque<(u64, u64)> = VecDeque::new();
    let mut waiting = 0_u64;
    let window = asked.window.max(asked.batch) as u64;
    let mut schedule = Schedule::new(asked.rate, asked.publishers.max(1), number);
    let together = asked.batch.max(TOGETHER.min(asked.window.max(1)));
    loop {
        let now_ns = stage.now_ns();
        let over = now_ns >= stage.end_ns || stage.has_failed();
        let room = window - waiting;
        let wanted = match (over, &mut schedule) {
            (true, _) => 0,
            (false, Some(schedule)) => schedule.due(now_ns).min(room).min(together as u64),
            (false, None) => room.min(together as u64),
        };
        let count = if wanted >= asked.batch as u64 {
            wanted - wanted % asked.batch as u64
        } else {
            0
        };
        if count > 0 {
            let due_ns = schedule
                .as_mut()
                .map_or(now_ns, |schedule| schedule.take(count));
            publisher.send(maker.make(count as usize, due_ns), asked.message_bytes)?;
            under_way.push_back((due_ns, count));
            waiting += count;
        }
        if over && waiting == 0 {
            return Ok(part);
        }
        let wait = match &schedule {
            _ if over => Duration::from_secs(1),
            Some(_) => Duration::ZERO,
            None if window - waiting >= asked.batch as u64 => Duration::ZERO,
            None => Duration::from_secs(1),
        };
        let acknowledged = publisher.acknowledged(wait)?;
        note(&mut part, stage, &mut under_way, acknowledged);
        waiting -= acknowledged;
        stage.acknowledged[number].fetch_add(acknowledged, Ordering::Relaxed);
        if let Some(schedule) = &schedule
            && !over
            && count == 0
        {
            schedule.sleep(stage.now_ns(), waiting > 0);
        }
    }
}

fn note(
    part: &mut Part,
    stage: &Stage<'_>,
    under_way: &mut VecDeque<(u64, u64)>,
    acknowledged: u64,
) {
    let now_ns = stage.now_ns();
    let mut left = acknowledged;
    while let Some((since_ns, count)) = under_way.front_mut()
        && left > 0
    {
        let taken = left.min(*count);
        if stage.load.course == Course::Publish {
            part.count(stage, now_ns, *since_ns, taken);
        }
        left -= taken;
        *count -= taken;
        if *count == 0 {
            under_way.pop_front();
        }
    }
}

/// When the messages of one publisher are due.
struct Schedule {
    interval_ns: f64,
    /// Publishers take turns, so that together they are even.
    phase_ns: f64,
    sent: u64,
}

impl Schedule {
    fn new(rate: u64, publishers: usize, number: usize) -> Option<Self> {
        let interval_ns = publishers as f64 * 1e9 / rate as f64;
        (rate > 0).then(|| Self {
            interval_ns,
            phase_ns: interval_ns * number as f64 / publishers as f64,
            sent: 0,
        })
    }

    fn due_ns(&self, message: u64) -> u64 {
        (self.phase_ns + self.interval_ns * message as f64) as u64
    }

    /// How many are due and not sent.
    fn due(&self, now_ns: u64) -> u64 {
        let passed_ns = now_ns as f64 - self.phase_ns;
        if passed_ns < 0.0 {
            return 0;
        }
        ((passed_ns / self.interval_ns) as u64 + 1).saturating_sub(self.sent)
    }

    /// Takes the next `count`; gives when the first of them was due.
    fn take(&mut self, count: u64) -> u64 {
        let due_ns = self.due_ns(self.sent);
        self.sent += count;
        due_ns
    }

    fn sleep(&self, now_ns: u64, looks: bool) {
        let until = Duration::from_nanos(self.due_ns(self.sent).saturating_sub(now_ns));
        thread::sleep(if looks { until.min(LOOK) } else { until });
    }
}

fn receive(receiver: &mut dyn Receive, stage: &Stage<'_>, topic: usize) -> Result<Part, Failure> {
    let mut part = Part::new();
    let mut ledger = Ledger::new(stage.acknowledged.len(), MESSAGES_MAX);
    let mut heard = Instant::now();
    let in_queue = stage.load.kind == Kind::Queue;
    loop {
        let mut last_due = None;
        let received = receiver.receive(WAIT, &mut |body| {
            let stamp = ledger.take(body);
            // Messages that came together came at the same time: one look at the clock for those
            // that were due together.
            if let Some(stamp) = stamp {
                match &mut last_due {
                    Some((due_ns, now_ns)) if *due_ns == stamp.due_ns => {
                        part.count(stage, *now_ns, *due_ns, 1);
                    }
                    _ => {
                        let now_ns = stage.now_ns();
                        part.count(stage, now_ns, stamp.due_ns, 1);
                        last_due = Some((stamp.due_ns, now_ns));
                    }
                }
            }
        })?;
        let all = stage.received.fetch_add(received, Ordering::Relaxed) + received;
        if received > 0 {
            heard = Instant::now();
        }
        // Acquire: the counts of what was acknowledged, behind which it was set.
        let done = stage.published_all.load(Ordering::Acquire) && {
            let mine = if in_queue && stage.load.topics == 1 {
                all
            } else {
                ledger.received()
            };
            mine >= stage.expected(topic)
        };
        if done || stage.has_failed() || heard.elapsed() > SILENCE {
            receiver.finish()?;
            part.ledger = Some(ledger);
            return Ok(part);
        }
    }
}

fn put_together(
    stage: &Stage<'_>,
    started_ns: u64,
    published: Vec<Part>,
    received: Vec<Part>,
) -> Run {
    let asked = &stage.load.parameters;
    let counted = if received.is_empty() {
        &published
    } else {
        &received
    };
    let mut latency = Latency::new();
    let mut per_tenth: Vec<u64> = Vec::new();
    let mut last_ns = 0;
    for part in counted {
        latency.merge(&part.latency);
        last_ns = last_ns.max(part.last_ns);
        if per_tenth.len() < part.per_tenth.len() {
            per_tenth.resize(part.per_tenth.len(), 0);
        }
        for (all, one) in per_tenth.iter_mut().zip(&part.per_tenth) {
            *all += one;
        }
    }
    let messages: u64 = per_tenth.iter().sum();
    let seconds = match stage.load.course {
        Course::Receive => last_ns.saturating_sub(started_ns) as f64 / 1e9,
        _ => asked.seconds,
    };
    let messages_per_s = messages as f64 / seconds.max(1e-9);
    Run {
        messages_per_s,
        bytes_per_s: messages_per_s * asked.message_bytes as f64,
        messages,
        seconds,
        latency: latency.percentiles(),
        delivered: settle(stage, received),
        per_tenth,
        ..Run::default()
    }
}

/// What became of the messages that receivers were to get.
fn settle(stage: &Stage<'_>, received: Vec<Part>) -> super::Delivered {
    let acknowledged: Vec<u64> = stage
        .acknowledged
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .collect();
    let of_topic = |topic: usize| -> Vec<u64> {
        let mine = acknowledged.iter().enumerate();
        mine.map(|(number, count)| {
            if number % stage.load.topics == topic {
                *count
            } else {
                0
            }
        })
        .collect()
    };
    let mut found = super::Delivered::default();
    let mut queues: Vec<Option<Ledger>> = vec![None; stage.load.topics];
    for (number, part) in received.into_iter().enumerate() {
        let topic = number % stage.load.topics;
        let Some(ledger) = part.ledger else { continue };
        match (stage.load.kind, &mut queues[topic]) {
            (Kind::Stream, _) => found.add(&ledger.settle(&of_topic(topic))),
            (Kind::Queue, Some(all)) => all.merge(&ledger),
            (Kind::Queue, none) => *none = Some(ledger),
        }
    }
    for (topic, ledger) in queues.into_iter().enumerate() {
        if let Some(ledger) = ledger {
            let mut all = ledger.settle(&of_topic(topic));
            if stage.load.parameters.receivers > 1 {
                // Among several receivers there is no order to keep.
                all.reordered = 0;
            }
            found.add(&all);
        }
    }
    found
}

/// Reads everything back, a topic at a time, and checks it.
fn read_back(
    broker: &dyn Broker,
    load: &Load,
    acknowledged: &[u64],
    topics: &[String],
    tell: Tell<'_>,
) -> Result<super::Delivered, Failure> {
    let mut found = super::Delivered::default();
    for (topic, name) in topics.iter().enumerate() {
        let mut receiver = broker.receiver(name, load.kind)?;
        let mut ledger = Ledger::new(acknowledged.len(), MESSAGES_MAX);
        let of_topic: Vec<u64> = acknowledged
            .iter()
            .enumerate()
            .map(|(number, count)| {
                if number % topics.len() == topic {
                    *count
                } else {
                    0
                }
            })
            .collect();
        let expected: u64 = of_topic.iter().sum();
        let mut heard = Instant::now();
        while ledger.received() < expected && heard.elapsed() < SILENCE {
            let received = receiver.receive(WAIT, &mut |body| {
                ledger.take(body);
            })?;
            if received > 0 {
                heard = Instant::now();
            }
            tell(0);
        }
        found.add(&ledger.settle(&of_topic));
    }
    Ok(found)
}
