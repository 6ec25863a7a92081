//! What a worker did, as it is told at the end.

use serde::Serialize;

use crate::failure::Failure;
use crate::output::Output;

/// Counts of deliveries.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    /// Settled for good, and on disk.
    pub(super) acked: u64,
    /// To come again.
    pub(super) retried: u64,
    /// Made dead letters.
    pub(super) rejected: u64,
    /// Given back uncounted.
    pub(super) released: u64,
    /// Settled too late, which changed nothing.
    pub(super) lost: u64,
    /// Settled, and the connection was lost before the answer came.
    pub(super) unknown: u64,
    /// How often the server was connected to once more.
    pub(super) reconnects: u64,
}

impl Tally {
    /// Prints them. Standard output has bodies when there is no command: then even JSON goes to
    /// standard error.
    pub(super) fn report(&self, has_command: bool, output: Output) -> Result<(), Failure> {
        match output {
            Output::Json if has_command => output.line(self, format_args!("")),
            Output::Json => {
                if let Ok(line) = serde_json::to_string(self) {
                    eprintln!("{line}");
                }
                Ok(())
            }
            Output::Text => {
                eprintln!("millstream: {}", self.text());
                Ok(())
            }
        }
    }

    fn text(&self) -> String {
        let mut text = format!("acked {}", self.acked);
        for (name, count) in [
            ("retried", self.retried),
            ("rejected", self.rejected),
            ("released", self.released),
            ("settled too late", self.lost),
            ("not confirmed", self.unknown),
            ("reconnected", self.reconnects),
        ] {
            if count > 0 {
                text.push_str(&format!(", {name} {count}"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_told() {
        let tally = Tally {
            acked: 3,
            lost: 1,
            ..Tally::default()
        };
        assert_eq!(tally.text(), "acked 3, settled too late 1");
    }
}
