//! The `millstream` command: arguments in, calls, output.
#![forbid(unsafe_code)]

mod address;
mod args;
mod base64;
mod failure;
mod output;
mod progress;
mod quantity;
mod splitter;
mod start_point;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    println!("{cli:?}");
    failure::Exit::Done.into()
}
