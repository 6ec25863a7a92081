//! What a command prints: data on standard output, remarks on standard error.

use std::fmt::{Arguments, Display};
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Whether standard output gets text for people or one JSON object a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Text.
    Text,
    /// JSON.
    Json,
}

impl Output {
    /// JSON when `json`.
    pub(crate) fn new(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }

    /// Whether it is JSON.
    pub(crate) fn is_json(self) -> bool {
        self == Self::Json
    }

    /// Prints `object` when the output is JSON, else `text`; either as one line, at once.
    pub(crate) fn line(self, object: &impl Serialize, text: Arguments<'_>) -> Result<(), Failure> {
        let mut line = match self {
            Self::Text => text.to_string().into_bytes(),
            Self::Json => serde_json::to_vec(object)
                .map_err(|error| Failure::stdout(io::Error::other(error)))?,
        };
        line.push(b'\n');
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(&line)
            .and_then(|()| stdout.flush())
            .map_err(Failure::stdout)
    }

    /// Prints rows under a heading, in columns; nothing at all when there are no rows.
    pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(columns(heading, rows).as_bytes())
            .map_err(Failure::stdout)
    }

    /// Says `remark` on standard error.
    pub(crate) fn remark(self, remark: impl Display) {
        #[derive(Serialize)]
        struct Remark {
            note: String,
        }
        match self {
            Self::Text => eprintln!("millstream: {remark}"),
            Self::Json => {
                if let Ok(line) = serde_json::to_string(&Remark {
                    note: remark.to_string(),
                }) {
                    eprintln!("{line}");
                }
            }
        }
    }

    /// Whether a person watches standard error, so that a progress bar is of use.
    pub(crate) fn shows_progress(self) -> bool {
        self == Self::Text && io::stderr().is_terminal()
    }
}

/// Lays out `rows` under `heading`: every column as wide as its widest cell.
fn columns(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width_of = |column: usize, name: &str| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .fold(name.chars().count(), usize::max)
    };
    let widths: Vec<usize> = heading
        .iter()
        .enumerate()
        .map(|(column, name)| width_of(column, name))
        .collect();
    let mut text = String::new();
    let mut add = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    add(&mut heading.iter().copied());
    for row in rows {
        add(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["a".to_owned(), "10".to_owned()],
            vec!["longer".to_owned(), "9".to_owned()],
        ];
        assert_eq!(
            columns(&["TOPIC", "N"], &rows),
            "TOPIC   N\na       10\nlonger  9\n"
        );
    }
}
