//! Why a command did not do what it was asked: an exit code and a sentence.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use serde::Serialize;

/// What the exit code of the process says; the numbers are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    /// All was done.
    Done = 0,
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// A topic, file or folder is not there.
    NotFound = 3,
    /// The server cannot be reached, or the connection was lost.
    CannotConnect = 5,
    /// The server did not answer in time.
    TimedOut = 6,
    /// Something exists already or is in use.
    Conflict = 7,
    /// Data is damaged.
    Damaged = 8,
    /// A result of a benchmark is not as asserted.
    Gate = 9,
    /// The machine or the folder is not fit to serve.
    Unfit = 10,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command's failure, ready to be shown.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// Empty when there is nothing left to say.
    message: String,
}

#[derive(Serialize)]
struct FailureObject<'a> {
    error: FailureFields<'a>,
}

#[derive(Serialize)]
struct FailureFields<'a> {
    kind: Exit,
    exit: u8,
    message: &'a str,
}

impl Failure {
    /// A failure that ends the process with `exit` and says `message`.
    pub(crate) fn new(exit: Exit, message: impl Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
        }
    }

    /// A failure whose report is printed already.
    pub(crate) fn said(exit: Exit) -> Self {
        Self {
            exit,
            message: String::new(),
        }
    }

    /// A failed write to standard output. A reader that closed its end has all it wants: that is
    /// no failure.
    pub(crate) fn stdout(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::said(Exit::Done);
        }
        Self::new(
            Exit::Failed,
            format_args!("cannot write to standard output: {error}"),
        )
    }

    /// A failed operation on the file or folder called `name`.
    pub(crate) fn file(name: impl Display, doing: &str, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        Self::new(exit, format_args!("cannot {doing} {name}: {error}"))
    }

    /// The exit code this ends the process with.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The sentence it says; empty when it is said already.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Prints it to standard error, as an object when `json`.
    pub(crate) fn report(&self, json: bool) {
        if self.message.is_empty() {
            return;
        }
        if json {
            let object = FailureObject {
                error: FailureFields {
                    kind: self.exit,
                    exit: self.exit as u8,
                    message: &self.message,
                },
            };
            if let Ok(line) = serde_json::to_string(&object) {
                eprintln!("{line}");
            }
        } else {
            eprintln!("millstream: {}", self.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::stdout(io::ErrorKind::BrokenPipe.into());
        assert_eq!(failure.exit(), Exit::Done);
        assert_eq!(failure.message(), "");
    }

    #[test]
    fn a_missing_file_is_told_from_others() {
        let missing = Failure::file("a", "read", &io::ErrorKind::NotFound.into());
        assert_eq!(missing.exit(), Exit::NotFound);
        let refused = Failure::file("a", "read", &io::ErrorKind::PermissionDenied.into());
        assert_eq!(refused.exit(), Exit::Failed);
        assert!(refused.message().starts_with("cannot read a: "));
    }
}
