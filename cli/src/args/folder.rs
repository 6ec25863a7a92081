//! Arguments of the commands that look at a data folder and the machine it is on.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Data folder to check
    #[arg(value_name = "DIR", default_value = "millstream-data")]
    pub(crate) data: PathBuf,

    /// Check what nothing reads in service as well: quarantine, checkpoints, the pages around recovered
    /// segments, compressed payloads; and replay the journal and compare queues with their topics
    #[arg(long)]
    pub(crate) deep: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Data folder to look at; where it is not there yet, the folder it would be made in
    #[arg(long, value_name = "DIR", default_value = "millstream-data")]
    pub(crate) data: PathBuf,

    /// How often to write 4 KiB and sync them, to measure what a sync costs; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub(crate) syncs: u32,
}

/// Arguments of `quarantine`.
#[derive(Debug, Args)]
pub(crate) struct QuarantineArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: QuarantineCommand,
}

/// What can be done with what was cut off.
#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List the cuts: topic, offsets, bytes, when, and whether anything may have been acknowledged
    Ls {
        /// Data folder to look at
        #[arg(value_name = "DIR", default_value = "millstream-data")]
        data: PathBuf,
    },
    /// Print the records that can still be read in one cut, to look at or to publish again by hand
    ///
    /// Frames are followed by their own checked headers from the cut on; payload is never searched.
    Show {
        /// The cut, as `ls` names it: LOG/SEGMENT
        #[arg(value_name = "CUT")]
        cut: CutName,
        /// Data folder to look at
        #[arg(value_name = "DIR", default_value = "millstream-data")]
        data: PathBuf,
        /// Write the body of each record into a file of its own in this folder, which is made
        #[arg(long, value_name = "DIR")]
        bodies_to: Option<PathBuf>,
    },
}

/// Names a cut: the numbers of the log and of the segment that ends at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CutName {
    pub(crate) log: u32,
    pub(crate) segment: u32,
}

impl FromStr for CutName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(log, segment)| Some((log.parse().ok()?, segment.parse().ok()?)));
        match numbers {
            Some((log, segment)) => Ok(Self { log, segment }),
            None => {
                Err("a cut is written LOG/SEGMENT, two numbers, as `quarantine ls` does".to_owned())
            }
        }
    }
}

/// Arguments of `repair`.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// Data folder to repair
    #[arg(value_name = "DIR", default_value = "millstream-data")]
    pub(crate) data: PathBuf,

    /// Do it; without this, only say what would be done
    #[arg(long)]
    pub(crate) apply: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_two_numbers() {
        assert_eq!(
            "3/14".parse(),
            Ok(CutName {
                log: 3,
                segment: 14
            })
        );
        for wrong in ["", "3", "3/", "/3", "a/b", "3/4/5", "-1/2"] {
            assert!(wrong.parse::<CutName>().is_err(), "{wrong}");
        }
    }
}
