//! `millstream bench`: loads on a server, measured and checked.

mod compare;
mod profile;

use std::fs;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use millstream_benches::broker::{Broker, Failure as BrokerFailure, Millstream, NotInstalled};
use millstream_benches::load::{Figure, Outcome, Progress, STAMP_BYTES, Usage};
use millstream_benches::recover::Recovery;
use millstream_benches::report::{markdown, write_results};
use millstream_benches::scenario::{Asked, Scenario, measure};
use millstream_benches::{embed, gate, load, recover};
use millstream_client::Durability;

use crate::args::{BenchArgs, BenchCommand, GateArgs, Level, RunArgs, Target};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use profile::Profiling;

/// Runs what `args` ask for.
pub(crate) fn run(args: &BenchArgs, output: Output) -> Result<(), Failure> {
    match (&args.command, &args.run) {
        (Some(BenchCommand::Gate(args)), _) => check(args, output),
        (Some(BenchCommand::Compare(args)), _) => compare::run(args, output),
        (None, Some(args)) => run_scenario(args, output),
        (None, None) => Err(Failure::new(
            Exit::Usage,
            "name a scenario, compare or gate",
        )),
    }
}

fn run_scenario(args: &RunArgs, output: Output) -> Result<(), Failure> {
    let asked = asked(args)?;
    if cfg!(debug_assertions) {
        output.remark("this build is not optimised: its figures are worth nothing");
    }
    let profiling = Profiling::begin(args)?;
    let began = Timestamp::now().to_string();
    let bar = progress(output, args.scenario);
    let outcomes = outcomes_of(args, &asked, &began, &bar);
    bar.finish_and_clear();
    let outcomes = outcomes?;
    if let Some(busy) = outcomes.first().filter(|one| one.environment.is_busy()) {
        output.remark(format_args!(
            "the machine was busy, load average {:.1}: compare within this run only",
            busy.environment.load_average
        ));
    }
    if let Some(out) = &args.out {
        write_results(out, &outcomes)
            .map_err(|error| Failure::file(out.display(), "write results to", &error))?;
        if let Some(profiling) = profiling {
            profiling.write_into(out)?;
        }
    }
    for outcome in &outcomes {
        output.line(
            outcome,
            format_args!("{}", markdown(std::slice::from_ref(outcome)).trim_end()),
        )?;
    }
    whole(&outcomes)
}

/// Fails where a message was lost, doubled, reordered or damaged.
fn whole(outcomes: &[Outcome]) -> Result<(), Failure> {
    if outcomes.iter().all(Outcome::is_whole) {
        return Ok(());
    }
    let message = "messages were lost, doubled, reordered or damaged: see the figures above";
    Err(Failure::new(Exit::Failed, message))
}

fn asked(args: &RunArgs) -> Result<Asked, Failure> {
    let is_peer = args.target != Target::Millstream;
    if is_peer && (args.server.is_some() || !args.serve.is_empty() || args.poll.is_some()) {
        let message =
            "--server, --serve and --poll are of millstream: another broker is started as it is";
        return Err(Failure::new(Exit::Usage, message));
    }
    let has_server = !matches!(args.scenario, Scenario::Embed | Scenario::Recover);
    if args.poll.is_some() && !has_server {
        let message =
            "--poll is of scenarios with clients: embed has none, and recover measures starts";
        return Err(Failure::new(Exit::Usage, message));
    }
    let is_read_back = matches!(
        args.scenario,
        Scenario::Publish
            | Scenario::Ack
            | Scenario::Sizes
            | Scenario::Connections
            | Scenario::Waiting
    );
    let is_crowd = matches!(args.scenario, Scenario::Connections | Scenario::Waiting);
    if is_crowd && (args.rate.is_some() || args.poll.is_some()) {
        let message = "connections and waiting take no --rate and no --poll: their publishers go as fast as they are acknowledged, and sleep";
        return Err(Failure::new(Exit::Usage, message));
    }
    if args.scenario == Scenario::Waiting && (args.window.is_some() || args.batch.is_some()) {
        let message =
            "waiting takes no --window and no --batch: each publisher waits for each message";
        return Err(Failure::new(Exit::Usage, message));
    }
    if args.retention_bytes.is_some() && (is_peer || !is_read_back) {
        let message = "--retention-bytes is of millstream, and of scenarios that publish first and read afterwards: pub, ack, sizes, connections, waiting";
        return Err(Failure::new(Exit::Usage, message));
    }
    if !is_peer && args.peer_program.is_some() {
        let message = "--peer-program is of another broker: name it by --target";
        return Err(Failure::new(Exit::Usage, message));
    }
    if args.size.is_some_and(|size| size.get() < STAMP_BYTES) {
        let message = format!(
            "--size: a message is at least {STAMP_BYTES} bytes, for the stamp it is checked by"
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    if !args.scratch.is_dir() {
        let message = format!("--scratch: {} is no folder", args.scratch.display());
        return Err(Failure::new(Exit::NotFound, message));
    }
    let count = |number: &Option<std::num::NonZeroUsize>| number.map(std::num::NonZeroUsize::get);
    Ok(Asked {
        message_bytes: count(&args.size),
        batch: count(&args.batch),
        window: count(&args.window),
        publishers: count(&args.publishers),
        receivers: count(&args.receivers),
        rate: count(&args.rate).map(|rate| rate as u64),
        messages: args.messages,
        seconds: args.duration.map(|duration| duration.as_secs_f64()),
        warmup_s: args.warmup.map(|duration| duration.as_secs_f64()),
        yardsticks: args.yardsticks,
    })
}

fn outcomes_of(
    args: &RunArgs,
    asked: &Asked,
    began: &str,
    bar: &ProgressBar,
) -> Result<Vec<Outcome>, Failure> {
    outcomes(args, asked, began, bar).map_err(|error| {
        let exit = match error.downcast_ref::<NotInstalled>() {
            Some(_) => Exit::NotFound,
            None => Exit::Failed,
        };
        Failure::new(exit, error)
    })
}

fn outcomes(
    args: &RunArgs,
    asked: &Asked,
    began: &str,
    bar: &ProgressBar,
) -> Result<Vec<Outcome>, BrokerFailure> {
    let tell = |progress: Progress| match progress {
        Progress::Messages(messages) => bar.inc(messages),
        Progress::Phase(phase) => {
            bar.set_message(format!("{}: {phase}", args.scenario.name()));
            bar.set_position(0);
            bar.reset_eta();
        }
    };
    let repeats = args.repeat.get();
    let context: load::Context<'_> = (began, &args.scratch, &tell);
    match args.scenario {
        Scenario::Embed => return embed::measure(args.part.as_deref(), repeats, context),
        Scenario::Recover => return recover::measure(&recovery(args, asked)?, repeats, context),
        _ => {}
    }
    let broker = broker(args)?;
    let fresh = as_started(broker.as_ref());
    let loads: Vec<load::Load> = args.scenario.loads(asked);
    let mut outcomes = measure(broker.as_ref(), args.scenario, &loads, repeats, context)?;
    for run in outcomes.iter_mut().flat_map(|outcome| &mut outcome.runs) {
        run.figures.extend_from_slice(&fresh);
    }
    Ok(outcomes)
}

/// How long the broker took to be ready and what memory it has then: figures of each run.
fn as_started(broker: &dyn Broker) -> Vec<Figure> {
    let (Some(took), Some(pid)) = (broker.took(), broker.pid()) else {
        return Vec::new();
    };
    let fresh = Usage::of(pid, None) - Usage::default();
    vec![
        Figure::new("ready_after_ms", took.as_secs_f64() * 1e3),
        Figure::new(
            "fresh_rss_anonymous_bytes",
            fresh.rss_anonymous_bytes as f64,
        ),
        Figure::new("fresh_rss_file_bytes", fresh.rss_file_bytes as f64),
    ]
}

/// The server's program: this one, unless another is compared with it.
fn program(args: &RunArgs) -> std::io::Result<PathBuf> {
    args.program.clone().map_or_else(std::env::current_exe, Ok)
}

const fn durability(args: &RunArgs) -> Durability {
    match args.ack {
        Level::Stored => Durability::Stored,
        Level::Synced => Durability::Synced,
    }
}

fn recovery(args: &RunArgs, asked: &Asked) -> Result<Recovery, BrokerFailure> {
    Ok(Recovery {
        program: program(args)?,
        arguments: args.serve.clone(),
        durability: durability(args),
        message_bytes: asked.message_bytes.unwrap_or(1000),
        messages: asked.messages.unwrap_or(1_000_000),
    })
}

/// What is measured, started where nobody else did.
fn broker(args: &RunArgs) -> Result<Box<dyn Broker>, BrokerFailure> {
    if let Target::Peer(peer) = args.target {
        return peer.start(args.peer_program.as_deref(), &args.scratch);
    }
    let durability = durability(args);
    let mut arguments = args.serve.clone();
    if let Some(time) = args.poll {
        arguments.extend([
            "--poll".to_owned(),
            format!("{}us", time.as_micros().max(1)),
        ]);
    }
    let broker = match &args.server {
        Some(address) => Millstream::at(address.clone(), durability),
        None => Millstream::start(&program(args)?, &arguments, &args.scratch, durability)?,
    };
    let broker = match args.poll {
        Some(time) => broker.clients_poll(time),
        None => broker,
    };
    Ok(Box::new(match args.retention_bytes {
        Some(bytes) => broker.keeping(bytes.get() as u64),
        None => broker,
    }))
}

/// Messages so far, where a person watches.
fn progress(output: Output, scenario: Scenario) -> ProgressBar {
    if !output.shows_progress() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} {msg}  {human_pos} messages  {per_sec}  {elapsed}")
    {
        bar.set_style(style);
    }
    bar.set_message(scenario.name());
    bar
}

fn check(args: &GateArgs, output: Output) -> Result<(), Failure> {
    let outcomes = read(&args.result)?;
    for condition in &args.conditions {
        let condition: gate::Condition = condition
            .parse()
            .map_err(|error| Failure::new(Exit::Usage, error))?;
        let mut about = outcomes
            .iter()
            .filter(|one| condition.is_about(one))
            .peekable();
        if about.peek().is_none() {
            let message = format!("{condition}: nothing in the result is called so");
            return Err(Failure::new(Exit::Usage, message));
        }
        for outcome in about {
            match condition.check(outcome) {
                Ok(()) => output.line(&condition, format_args!("{condition}: holds"))?,
                Err(found) => {
                    let message = format!("{condition} does not hold: {found}");
                    return Err(Failure::new(Exit::Gate, message));
                }
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<Outcome>, Failure> {
    let text =
        fs::read_to_string(path).map_err(|error| Failure::file(path.display(), "read", &error))?;
    let outcomes: Vec<Outcome> = serde_json::from_str(&text).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format_args!("{} is no result: {error}", path.display()),
        )
    })?;
    let newer = outcomes
        .iter()
        .find(|outcome| outcome.schema > load::SCHEMA);
    match newer {
        None => Ok(outcomes),
        Some(newer) => Err(Failure::new(
            Exit::Failed,
            format_args!(
                "{} has schema {}, this program knows {}",
                path.display(),
                newer.schema,
                load::SCHEMA
            ),
        )),
    }
}
