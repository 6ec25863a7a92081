//! `millstream work`: takes records from a queue and runs a command for each, or prints them.
//!
//! One loop on the main thread takes records, hands each to a command that runs as a task, and
//! settles what the commands say. The window is as wide as commands may run, so nothing is leased
//! that nobody works on. Acknowledgements are confirmed: what the report calls acked is settled and
//! on disk.

mod command;
mod notices;
mod tally;

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_client::{
    Client, Consumer, ConsumerOptions, Delivery, Offset, QueueInfo, RecordState, SettleError,
};
use millstream_protocol::TopicName;
use millstream_protocol::limits::{
    QUEUE_RECORDS_PER_LIST_MAX, WORK_WINDOW_BYTES_MAX, WORK_WINDOW_MESSAGES_MAX,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use crate::args::{ConnectArgs, WorkArgs};
use crate::connect::{answer_time, connect, consume_failure, queue_failure};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::printer::{Form, Printer};
use crate::stop::Stop;
use command::{Finished, Job, Orders, Verdict};
use notices::Notices;
use tally::Tally;

/// Records that are printed before they are acknowledged, at most.
const PRINTED_TOGETHER: u32 = 1000;
/// Acknowledgements that wait for their answers, at most.
const SETTLING_MAX: usize = 4096;
/// Time between two looks at a queue that may be empty, unless it is told to wait for less.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Lists of records in which a retry that is due soon is looked for.
const LISTS_MAX: usize = 64;
/// Time between two looks whether the server is there.
const CONTACT: Duration = Duration::from_secs(1);

/// Works on the queue that `args` name.
pub(crate) fn run(args: &WorkArgs, output: Output) -> Result<(), Failure> {
    let form = Form::of(&args.form, output)?;
    let given = &args.form;
    if args.exec.is_some() && (given.output.is_some() || given.null || given.bare) {
        let message = "--output, --null and --bare are for printing; --exec prints nothing";
        return Err(Failure::new(Exit::Usage, message));
    }
    let server = connect(&args.connect)?;
    server.runtime.block_on(async {
        let shift = Shift::begin(args, server.client.clone(), output).await?;
        let longest = answer_time(&args.connect);
        match &args.exec {
            Some(_) => shift.work(None, longest).await,
            None => shift.work(Some(Printer::new(form, output)), longest).await,
        }
    })
}

/// A worker from its first record to its last.
struct Shift<'a> {
    args: &'a WorkArgs,
    output: Output,
    notices: Notices,
    client: Client,
    consumer: Consumer,
    stop: Stop,
    orders: Arc<Orders>,
    kill: watch::Sender<bool>,
    running: JoinSet<Result<Finished, Failure>>,
    settling: JoinSet<(Offset, Result<(), SettleError>)>,
    tally: Tally,
    /// Deliveries taken.
    taken: u64,
    /// When something was last delivered, or a command ended.
    active: Instant,
}

/// Where printed bodies go.
type Stdout = Printer<std::io::BufWriter<std::io::StdoutLock<'static>>>;

impl<'a> Shift<'a> {
    async fn begin(args: &'a WorkArgs, client: Client, output: Output) -> Result<Self, Failure> {
        let stop = Stop::new()?;
        let notices = Notices::begin(output);
        let mut options = ConsumerOptions::new()
            .prefetch(window(args, 0))
            .name(format!("millstream work, process {}", std::process::id()));
        if let Some(lease) = args.lease {
            options = options.lease(lease);
        }
        let consumer = client
            .consumer_with(&args.queue, options)
            .await
            .map_err(|error| queue_failure(&error))?;
        let (kill, killed) = watch::channel(false);
        let orders = Orders {
            command: args.exec.clone().unwrap_or_default(),
            queue: args.queue.to_string(),
            topic: consumer.topic().to_string(),
            longest: args.exec_timeout,
            killed,
        };
        Ok(Self {
            args,
            output,
            notices,
            client,
            consumer,
            stop,
            orders: Arc::new(orders),
            kill,
            running: JoinSet::new(),
            settling: JoinSet::new(),
            tally: Tally::default(),
            taken: 0,
            active: Instant::now(),
        })
    }

    /// Works until it is told to stop or is done, finishes what it began, and reports.
    async fn work(mut self, mut printer: Option<Stdout>, longest: Duration) -> Result<(), Failure> {
        let worked = self.take_records(&mut printer).await;
        let finished = self.finish(longest).await;
        let reported = self.leave(longest).await;
        worked.and(finished).and(reported)
    }

    /// Takes records until there is a reason to end.
    async fn take_records(&mut self, printer: &mut Option<Stdout>) -> Result<(), Failure> {
        let away = away(
            self.client.clone(),
            self.args.queue.clone(),
            &self.args.connect,
        );
        tokio::pin!(away);
        let mut look_at = self.args.wait.map(|wait| self.active + wait);
        loop {
            if self.is_full() && self.running.is_empty() && self.settling.is_empty() {
                return Ok(());
            }
            let takes = !self.is_full()
                && self.running.len() < self.args.concurrency.get() as usize
                && self.settling.len() < SETTLING_MAX;
            tokio::select! {
                biased;
                () = self.stop.told() => return Ok(()),
                Some(finished) = self.running.join_next() => self.finished(finished)?,
                Some(settled) = self.settling.join_next() => self.settled(settled),
                next = self.consumer.next(), if takes => match next {
                    None => return Ok(()),
                    Some(Err(error)) => return Err(consume_failure(&error)),
                    Some(Ok(delivery)) => self.delivered(delivery, printer)?,
                },
                failure = &mut away => return Err(failure),
                () = until(look_at), if self.running.is_empty() => {
                    if self.nothing_is_left().await {
                        return Ok(());
                    }
                    look_at = self.look_again();
                    continue;
                }
            }
            look_at = self.args.wait.map(|wait| self.active + wait);
        }
    }

    /// Whether as many deliveries were taken as it was told to take.
    fn is_full(&self) -> bool {
        self.args
            .count
            .is_some_and(|count| self.taken >= count.get())
    }

    fn look_again(&self) -> Option<Instant> {
        let wait = self.args.wait?;
        Some(Instant::now() + wait.min(LOOK_AGAIN))
    }

    /// Hands a delivery to a command, or prints it together with what else is here.
    fn delivered(
        &mut self,
        delivery: Delivery,
        printer: &mut Option<Stdout>,
    ) -> Result<(), Failure> {
        self.active = Instant::now();
        self.taken += 1;
        let Some(printer) = printer else {
            let job = Job::new(delivery, self.consumer.lease(), Arc::clone(&self.orders));
            self.running.spawn(job.run());
            return Ok(());
        };
        // Dropped on failure: they come again.
        let mut printed = Vec::new();
        printer.delivery(&delivery)?;
        printed.push(delivery);
        while printed.len() < PRINTED_TOGETHER as usize && !self.is_full() {
            let Some(Ok(delivery)) = self.consumer.try_next() else {
                break;
            };
            self.taken += 1;
            printer.delivery(&delivery)?;
            printed.push(delivery);
        }
        printer.flush()?;
        self.narrow();
        for delivery in printed {
            self.settle(delivery, Verdict::Ack);
        }
        Ok(())
    }

    /// Settles what a command is done with.
    fn finished(
        &mut self,
        finished: Result<Result<Finished, Failure>, tokio::task::JoinError>,
    ) -> Result<(), Failure> {
        self.active = Instant::now();
        let finished = finished.map_err(|error| Failure::new(Exit::Failed, error))?;
        let Finished { delivery, verdict } = finished?;
        self.narrow();
        self.settle(delivery, verdict);
        Ok(())
    }

    fn settle(&mut self, delivery: Delivery, verdict: Verdict) {
        let offset = delivery.offset();
        match verdict {
            Verdict::Ack => {
                self.settling
                    .spawn(async move { (offset, delivery.ack_confirmed().await) });
            }
            Verdict::Release => {
                self.tally.released += 1;
                delivery.release();
            }
            Verdict::Retry => {
                self.tally.retried += 1;
                delivery.retry();
            }
            Verdict::Reject(reason) => {
                self.tally.rejected += 1;
                delivery.reject(reason);
            }
        }
    }

    fn settled(
        &mut self,
        settled: Result<(Offset, Result<(), SettleError>), tokio::task::JoinError>,
    ) {
        match settled {
            Ok((_, Ok(()))) => self.tally.acked += 1,
            Ok((offset, Err(SettleError::Unknown))) => {
                self.tally.unknown += 1;
                let queue = &self.args.queue;
                self.output.remark(format_args!(
                    "{queue}, offset {offset}: the connection was lost before the acknowledgement \
                     was confirmed; the record may come again"
                ));
            }
            Ok((offset, Err(_))) => self.lost(offset),
            Err(_) => self.tally.unknown += 1,
        }
    }

    fn lost(&mut self, offset: Offset) {
        self.tally.lost += 1;
        let queue = &self.args.queue;
        self.output.remark(format_args!(
            "{queue}, offset {offset}: settled too late, which changed nothing: the lease had \
             ended and the record is or was another worker's"
        ));
    }

    /// Has no more delivered than is still to be taken. Before a settle makes room for another.
    fn narrow(&mut self) {
        if self.args.count.is_some() {
            let at_work = self.running.len() as u64;
            let done = self.taken - at_work.min(self.taken);
            self.consumer
                .set_window(window(self.args, done), WORK_WINDOW_BYTES_MAX);
        }
    }

    /// Whether nothing is leased to anybody and no retry is due within the time to wait. What
    /// cannot be told is taken for no.
    async fn nothing_is_left(&self) -> bool {
        let Some(wait) = self.args.wait else {
            return false;
        };
        match self.client.queue(&self.args.queue).await {
            Ok(info) if info.leased > 0 => false,
            Ok(info) if info.delayed > 0 => !self.is_due_within(wait, &info).await,
            Ok(_) => true,
            Err(_) => false,
        }
    }

    /// Whether a delayed record is due soon.
    async fn is_due_within(&self, wait: Duration, info: &QueueInfo) -> bool {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let soon_us = u64::try_from((now + wait).as_micros()).unwrap_or(u64::MAX);
        let mut from = info.floor;
        for _ in 0..LISTS_MAX {
            let page =
                self.client
                    .peek_queue(&self.args.queue, from, QUEUE_RECORDS_PER_LIST_MAX as u32);
            let Ok(page) = page.await else {
                return true;
            };
            let soon = |state: RecordState, due_us: u64| {
                state == RecordState::Delayed && due_us <= soon_us
            };
            if page.iter().any(|record| soon(record.state, record.due_us)) {
                return true;
            }
            match page.last() {
                Some(last) => from = last.offset + 1,
                None => return false,
            }
        }
        false
    }

    /// Takes nothing more, and waits for the commands that run and for the answers to what was
    /// settled. A second signal kills the commands.
    async fn finish(&mut self, longest: Duration) -> Result<(), Failure> {
        self.consumer.set_window(0, 0);
        while let Some(Ok(delivery)) = self.consumer.try_next() {
            self.tally.released += 1;
            delivery.release();
        }
        let mut outcome = Ok(());
        while !self.running.is_empty() {
            tokio::select! {
                biased;
                () = self.stop.told() => {
                    // Nobody listens when the last command has just ended.
                    let _ = self.kill.send(true);
                }
                Some(finished) = self.running.join_next() => {
                    outcome = outcome.and(self.finished(finished));
                }
            }
        }
        let answers = async {
            while let Some(settled) = self.settling.join_next().await {
                self.settled(settled);
            }
        };
        if timeout(longest, answers).await.is_err() {
            self.tally.unknown += self.settling.len() as u64;
        }
        outcome
    }

    /// Gives the rest back, sees that the server has heard of it, and reports.
    async fn leave(self, longest: Duration) -> Result<(), Failure> {
        let Self {
            args,
            output,
            notices,
            client,
            consumer,
            mut tally,
            ..
        } = self;
        // Answered after all that was sent before it.
        let _ = timeout(longest, client.queue(&args.queue)).await;
        let late = *notices.late();
        let counts = consumer.counts();
        tally.retried = tally.retried.saturating_sub(late.retries);
        tally.rejected = tally.rejected.saturating_sub(late.rejections);
        tally.lost = counts.lost.max(tally.lost);
        tally.reconnects = counts.reconnects;
        drop(consumer);
        // Answered after all that was sent before it.
        let _ = timeout(longest, client.queue(&args.queue)).await;
        let _ = timeout(longest, client.close()).await;
        tally.report(args.exec.is_some(), output)
    }
}

/// How many records may be with this worker once `done` deliveries are done with.
fn window(args: &WorkArgs, done: u64) -> u32 {
    let at_once = match args.exec {
        Some(_) => args.concurrency.get().min(WORK_WINDOW_MESSAGES_MAX),
        None => PRINTED_TOGETHER,
    };
    match args.count {
        None => at_once,
        Some(count) => {
            let left = count.get().saturating_sub(done);
            u32::try_from(left).map_or(at_once, |left| left.min(at_once))
        }
    }
}

/// Ends at `time`, if that is ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}

/// Ends once the server was not there for as long as `args` allow.
async fn away(client: Client, queue: TopicName, args: &ConnectArgs) -> Failure {
    let Some(longest) = args.timeout else {
        return pending().await;
    };
    let mut heard = Instant::now();
    loop {
        sleep(CONTACT.min(longest)).await;
        match client.queue(&queue).await {
            Err(error) if error.code().is_none() => {
                if heard.elapsed() >= longest {
                    return Failure::new(Exit::CannotConnect, error);
                }
            }
            _ => heard = Instant::now(),
        }
    }
}
