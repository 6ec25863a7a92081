//! Runs a load: threads that publish on schedule or as fast as they are acknowledged, threads that
//! receive, and the ledger that says what became of each message.
//!
//! *Open loop* (a rate): message n is due at n / rate, whatever became of those before it, and its
//! latency counts from then; a generator that is late makes the latency longer, not the load lighter.
//! *Closed loop* (no rate): a publisher sends while its window has room; latency counts from the send.

use std::sync::atomic::Ordering;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use super::part::Part;
use super::publishing::{Publishing, preload};
use super::receiving::{read_back, receive, settle};
use super::shared::{Course, Load, Progress, Shared, Tell};
use super::{Figure, Resources, Run, Usage};
use crate::broker::{Broker, Failure, Publish, Receive};
use crate::yardstick;

/// How often the resources and the progress are looked at.
const LOOK: Duration = Duration::from_millis(20);

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
    let mut stored = vec![0; load.publishers()];
    if load.course == Course::Receive {
        tell(Progress::Phase("storing"));
        let share = load.parameters.messages / load.publishers() as u64;
        for (number, stored) in stored.iter_mut().enumerate() {
            let topic = &topics[number % topics.len()];
            let window = load.parameters.window;
            *stored = preload(broker, topic, (number, share), load.sizes(), window)?;
            tell(Progress::Messages(share));
        }
    }
    let (publishers, receivers) = match load.course {
        Course::Publish => (load.publishers(), 0),
        Course::Receive => (0, load.parameters.receivers),
        Course::Through => (load.publishers(), load.parameters.receivers),
    };
    tell(Progress::Phase("measuring"));
    let shared = Shared::new(load, &stored, publishers + receivers);
    let timed = time(broker, &shared, (publishers, receivers), topics, tell)?;
    let acknowledged = shared.counts();
    let mut run = timed.run;
    if load.yardsticks {
        tell(Progress::Phase("measuring yardsticks"));
        let measured = Measured {
            load,
            topics,
            stored: &stored,
            run: &run,
        };
        let figures = yardstick::beside(broker, &measured, tell)?;
        run.figures.extend(figures);
    }
    run.delivered = if load.course == Course::Publish {
        read_back(broker, load, &acknowledged, topics, tell)?
    } else {
        settle(load, &acknowledged, timed.received)
    };
    Ok(run)
}

/// A run that was measured, for what is measured beside it while its topics are there.
pub(crate) struct Measured<'a> {
    pub(crate) load: &'a Load,
    pub(crate) topics: &'a [String],
    /// Messages stored for each publisher before.
    pub(crate) stored: &'a [u64],
    pub(crate) run: &'a Run,
}

/// Times `measured`'s load once more on `broker`, whose messages nobody checks afterwards.
pub(crate) fn time_again(
    broker: &dyn Broker,
    measured: &Measured<'_>,
    tell: Tell<'_>,
) -> Result<Run, Failure> {
    let load = measured.load;
    let (publishers, receivers) = match load.course {
        Course::Publish => (load.publishers(), 0),
        Course::Receive | Course::Through => (0, load.parameters.receivers),
    };
    let shared = Shared::new(load, measured.stored, publishers + receivers);
    let threads = (publishers, receivers);
    Ok(time(broker, &shared, threads, measured.topics, tell)?.run)
}

/// What was measured, and what the receivers' ledgers say.
struct Timed {
    run: Run,
    received: Vec<Part>,
}

fn time(
    broker: &dyn Broker,
    shared: &Shared,
    (publishers, receivers): (usize, usize),
    topics: &[String],
    tell: Tell<'_>,
) -> Result<Timed, Failure> {
    let load = &shared.load;
    let (batch, kind) = (load.parameters.batch, load.kind);
    thread::scope(|scope| {
        let publishing: Vec<_> = (0..publishers)
            .map(|number| {
                let topic = &topics[number % topics.len()];
                scope.spawn(move || {
                    // Connections are there before the clock starts.
                    let opened = broker.publisher(topic, batch);
                    shared.start.wait();
                    let run =
                        |mut one: Box<dyn Publish>| Publishing::new(shared, number).run(&mut *one);
                    shared.note_failure(opened.and_then(run))
                })
            })
            .collect();
        let receiving: Vec<_> = (0..receivers)
            .map(|number| {
                let topic = number % topics.len();
                scope.spawn(move || {
                    // What is stored would be on its way as soon as a receiver is there.
                    let open = || broker.receiver(&topics[topic], kind);
                    let opened = (load.course != Course::Receive).then(open);
                    shared.start.wait();
                    let opened = opened.unwrap_or_else(open);
                    let run = |mut one: Box<dyn Receive>| receive(&mut *one, shared, topic);
                    shared.note_failure(opened.and_then(run))
                })
            })
            .collect();
        shared.start.wait();
        let started_ns = shared.now_ns();
        let used = watch(broker, shared, &publishing, &receiving, tell);
        let published = join(publishing)?;
        let received = join(receiving)?;
        // Where receivers count, publishers only know what they could not send.
        let counted = published.iter().chain(&received);
        let mut run = put_together(shared, started_ns, counted);
        run.generator = used.generator();
        run.broker = used.broker();
        run.figures.extend(used.drift());
        Ok(Timed { run, received })
    })
}

/// Resources when the counting began, a fifth later, and when it ended.
#[derive(Default)]
pub(super) struct Used {
    generator: Vec<Usage>,
    broker: Vec<Usage>,
}

impl Used {
    fn look(&mut self, broker: &dyn Broker) {
        let folder = broker.folder();
        self.generator.push(Usage::own(folder));
        if let Some(pid) = broker.pid() {
            self.broker.push(Usage::of(pid, folder));
        }
    }

    fn between(usages: &[Usage]) -> Option<Resources> {
        Some(*usages.last()? - *usages.first()?)
    }

    pub(super) fn generator(&self) -> Resources {
        Self::between(&self.generator).unwrap_or_default()
    }

    pub(super) fn broker(&self) -> Option<Resources> {
        Self::between(&self.broker)
    }

    /// By how much the broker's memory grew after the first fifth of a long run.
    pub(super) fn drift(&self) -> Option<Figure> {
        let [_, early, .., late] = self.broker.as_slice() else {
            return None;
        };
        let anonymous = |usage: &Usage| usage.anonymous_bytes() as f64;
        let ratio = anonymous(late) / anonymous(early).max(1.0);
        Some(Figure::new("rss_anonymous_drift", ratio))
    }
}

/// Looks at the resources when it is time, waits for the publishers and lets receivers know, and
/// tells the progress meanwhile.
pub(super) fn watch<T, U>(
    broker: &dyn Broker,
    shared: &Shared,
    publishing: &[ScopedJoinHandle<'_, T>],
    receiving: &[ScopedJoinHandle<'_, U>],
    tell: Tell<'_>,
) -> Used {
    let whole_ns = shared.end_ns - shared.counted_from_ns;
    let mut looks = match shared.load.course {
        Course::Receive => vec![0, u64::MAX],
        _ if whole_ns >= 10_000_000_000 => vec![0, whole_ns / 5, whole_ns],
        _ => vec![0, whole_ns],
    };
    looks.reverse();
    let mut used = Used::default();
    let mut told = 0;
    loop {
        let published = publishing.iter().all(ScopedJoinHandle::is_finished);
        // Release: with the counts of acknowledged messages that the receivers load behind it.
        shared.published_all.store(published, Ordering::Release);
        let all = published && receiving.iter().all(ScopedJoinHandle::is_finished);
        let passed_ns = shared.now_ns().checked_sub(shared.counted_from_ns);
        while let Some(next_ns) = looks.last()
            && (all || passed_ns.is_some_and(|passed_ns| passed_ns >= *next_ns))
        {
            used.look(broker);
            looks.pop();
        }
        if all {
            return used;
        }
        // Relaxed: a count.
        let received = shared.received.load(Ordering::Relaxed);
        let now = if receiving.is_empty() {
            shared.counts().iter().sum()
        } else {
            received
        };
        tell(Progress::Messages(now.saturating_sub(told)));
        told = told.max(now);
        thread::sleep(LOOK);
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

pub(super) fn put_together<'a>(
    shared: &Shared,
    started_ns: u64,
    counted: impl IntoIterator<Item = &'a Part>,
) -> Run {
    let mut all = Part::new(shared);
    for part in counted {
        all.merge(part);
    }
    let messages: u64 = all.per_tenth.iter().sum();
    let seconds = match shared.load.course {
        Course::Receive => all.last_ns.saturating_sub(started_ns) as f64 / 1e9,
        _ => shared.load.parameters.seconds,
    };
    let throughput_drift = all.throughput_drift(seconds);
    let mut run = Run {
        messages_per_s: messages as f64 / seconds.max(1e-9),
        bytes_per_s: all.bytes as f64 / seconds.max(1e-9),
        messages,
        seconds,
        per_tenth: all.per_tenth,
        ..Run::default()
    };
    run.set_latency(&all.latency);
    if let Some([first, last]) = all.ends {
        let ratio = last.percentiles().p99_ns as f64 / first.percentiles().p99_ns.max(1) as f64;
        run.figures
            .push(Figure::new("messages_per_s_drift", throughput_drift));
        run.figures.push(Figure::new("p99_drift", ratio));
    }
    run
}

#[cfg(test)]
mod tests;
