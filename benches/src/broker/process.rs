//! A broker started for a benchmark, in a folder of its own, and stopped with it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::Failure;

/// A child process and its folder; both go away with it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    folder: TempDir,
    /// The line it said when it was ready.
    ready: String,
}

impl Process {
    /// Starts `command`, which `prepare` completes with what goes into the folder, and waits until it
    /// prints a line in which `is_ready` finds what it looks for.
    ///
    /// # Errors
    ///
    /// It can't be started, or ended before it was ready.
    pub fn start(
        parent: &Path,
        prepare: impl FnOnce(&Path) -> Command,
        is_ready: impl Fn(&str) -> bool,
    ) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("millstream-bench-")
            .tempdir_in(parent)?;
        let mut command = prepare(folder.path());
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        let output = child.stdout.take().ok_or("a pipe was asked for")?;
        let mut lines = BufReader::new(output);
        let mut ready = String::new();
        loop {
            ready.clear();
            if lines.read_line(&mut ready)? == 0 {
                let status = child.wait()?;
                return Err(format!("{name} ended before it was ready: {status}").into());
            }
            if is_ready(&ready) {
                break;
            }
        }
        // Whatever it says later must not stop it.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(Self {
            child,
            folder,
            ready,
        })
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The line that told it was ready.
    #[must_use]
    pub fn ready_line(&self) -> &str {
        self.ready.trim()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; its data goes anyway.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
