//! `millstream queue redrive`: dead letters sent back to the queues they died in.
//!
//! Which queue is meant is decided here: one that others send their dead letters to is redriven
//! itself; of any other the dead-letter queue is, and of that only what died in the named one. It
//! goes in portions, so that no request takes long, and at most as far as there were dead letters
//! at the start: what dies again meanwhile stays.

use std::time::Duration;

use millstream_client::{DeadLetter, QueueInfo, Redrive};
use millstream_protocol::TopicName;
use serde::Serialize;

use super::{describe, object::dead_letter_queue};
use crate::args::RedriveArgs;
use crate::connect::{Connected, answer_time, connect_waiting, queue_failure};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Records of one request, unless a rate makes them fewer.
const PORTION: u64 = 1000;
/// An answer takes at least this long to be given up, since a portion takes its time.
const ANSWER_TIME_MIN: Duration = Duration::from_secs(120);

#[derive(Debug, Serialize)]
struct RedrivenObject<'a> {
    /// The queue that held the dead letters.
    queue: &'a str,
    /// The queue that those had to have died in.
    source: Option<&'a str>,
    redriven: u64,
}

/// What is redriven.
#[derive(Debug)]
struct Target {
    queue: TopicName,
    source: Option<TopicName>,
}

pub(super) fn run(args: &RedriveArgs, output: Output) -> Result<(), Failure> {
    let longest = answer_time(&args.connect).max(ANSWER_TIME_MIN);
    let server = connect_waiting(&args.connect, longest)?;
    let named = describe(&server, &args.queue)?;
    let queues = server
        .runtime
        .block_on(server.client.queues())
        .map_err(|error| queue_failure(&error))?;
    let Target { queue, source } = target(&named, &queues, args.source.as_ref())?;
    let letters = describe(&server, &queue)?;
    let there = letters.ready + letters.leased + letters.delayed;
    let most = args.max.map_or(there, |max| there.min(max.get()));
    let mut redrive = Redrive::all();
    if let Some(rate) = args.rate {
        redrive = redrive.per_second(rate.get());
    }
    if let Some(reason) = &args.reason {
        redrive = redrive.reason(reason);
    }
    if let Some(source) = &source {
        redrive = redrive.source(source.clone());
    }
    if let Some(key) = &args.key {
        redrive = redrive.key(key);
    }
    let portion = args
        .rate
        .map_or(PORTION, |rate| PORTION.min(rate.get().into()));
    let redriven = in_portions(&server, &queue, &redrive, (most, portion))?;
    let object = RedrivenObject {
        queue: queue.as_str(),
        source: source.as_ref().map(TopicName::as_str),
        redriven,
    };
    let to = match &source {
        None => "the queues they died in".to_owned(),
        Some(source) => source.to_string(),
    };
    output.line(
        &object,
        format_args!("{queue}: {redriven} sent back to {to}"),
    )
}

/// Sends back as many as there are, `most` in all and `portion` with each request.
fn in_portions(
    server: &Connected,
    queue: &TopicName,
    redrive: &Redrive,
    (most, portion): (u64, u64),
) -> Result<u64, Failure> {
    let mut redriven = 0;
    while redriven < most {
        let asked = portion.min(most - redriven);
        let wanted = redrive.clone().records_max(asked);
        let request = server.client.redrive_queue(queue, &wanted);
        let sent = server.runtime.block_on(request);
        let sent = sent.map_err(|error| queue_failure(&error))?;
        redriven += sent;
        if sent < asked {
            break;
        }
    }
    Ok(redriven)
}

/// The queue whose records go back when `named` is named.
fn target(
    named: &QueueInfo,
    queues: &[QueueInfo],
    source: Option<&TopicName>,
) -> Result<Target, Failure> {
    let letters = |queue: &QueueInfo| dead_letter_queue(queue);
    let is_for_others = queues.iter().any(|queue| {
        queue.name != named.name && letters(queue).as_deref() == Some(named.name.as_str())
    });
    if is_for_others || matches!(named.settings.dead_letter, DeadLetter::Nowhere) {
        let queue = named.name.clone();
        let source = source.cloned();
        return Ok(Target { queue, source });
    }
    if let Some(source) = source.filter(|source| **source != named.name) {
        let message = format!(
            "--source {source}: {} is no dead-letter queue, so its redrive is of what died in it",
            named.name
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    let queue = letters(named).unwrap_or_default();
    let queue = TopicName::parse(&queue)
        .map_err(|error| Failure::new(Exit::Failed, format_args!("{queue}: {error}")))?;
    let source = Some(named.name.clone());
    Ok(Target { queue, source })
}
