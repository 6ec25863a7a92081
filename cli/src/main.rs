//! The `millstream` command: arguments in, calls, output.
#![forbid(unsafe_code)]

mod address;
mod args;
mod backoff;
mod base64;
mod bench;
mod connect;
mod cursor;
mod doctor;
mod failure;
mod feed;
mod output;
mod printer;
mod progress;
mod publish;
mod quantity;
mod quarantine;
mod queue;
mod repair;
mod segment;
mod sender;
mod serve;
mod splitter;
mod start_point;
mod stop;
mod tail;
mod topic;
mod verify;
mod work;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command, CompletionsArgs};
use failure::{Exit, Failure};
use output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    let exit = match run(&cli.command, output) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            failure.report(output.is_json());
            failure.exit()
        }
    };
    exit.into()
}

fn run(command: &Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve::run(args, output),
        Command::Pub(args) => publish::run(args, output),
        Command::Tail(args) => tail::run(args, output),
        Command::Topic(args) => topic::run(args, output),
        Command::Queue(args) => queue::run(args, output),
        Command::Work(args) => work::run(args, output),
        Command::Cursor(args) => cursor::run(args, output),
        Command::Verify(args) => verify::run(args, output),
        Command::Doctor(args) => doctor::run(args, output),
        Command::Quarantine(args) => quarantine::run(args, output),
        Command::Repair(args) => repair::run(args, output),
        Command::Segment(args) => segment::run(args, output),
        Command::Bench(args) => bench::run(args, output),
        Command::Completions(args) => completions(args),
    }
}

fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "millstream", &mut script);
    io::Write::write_all(&mut io::stdout(), &script).map_err(Failure::stdout)
}
