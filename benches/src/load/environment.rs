//! Where a result was measured: without this it means little.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The machine, its system and how busy it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// When the run began, RFC 3339.
    pub began: String,
    /// Version of Millstream's load generator.
    pub version: String,
    /// Whether it was built with optimisation; results of other builds are worth nothing.
    pub optimised: bool,
    /// Kernel release.
    pub kernel: String,
    /// Model of the processor.
    pub processor: String,
    /// Processors this process may use.
    pub processors: usize,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// File system of the data folder.
    pub file_system: String,
    /// Load average over a minute when the run began: see [`Environment::is_busy`].
    pub load_average: f64,
}

impl Environment {
    /// As it is now, with data in `folder`.
    #[must_use]
    pub fn now(began: String, folder: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            began,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            optimised: !cfg!(debug_assertions),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: value_of(&read("/proc/cpuinfo"), "model name").to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: value_of(&read("/proc/meminfo"), "MemTotal")
                .split_whitespace()
                .next()
                .and_then(|number| number.parse::<u64>().ok())
                .unwrap_or(0)
                * 1024,
            file_system: file_system(&read("/proc/self/mountinfo"), folder),
            load_average: load
                .split_whitespace()
                .next()
                .and_then(|number| number.parse().ok())
                .unwrap_or(0.0),
        }
    }
}

impl Environment {
    /// Whether somebody else was at work when the run began.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.load_average > self.processors as f64 / 2.0
    }
}

fn value_of<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':'))
        .map_or("", |(_, value)| value.trim())
}

/// The type of the file system that `folder` is on: that of the longest mount point above it.
fn file_system(mounts: &str, folder: &Path) -> String {
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let above = mounts.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        let kind = source.split(' ').next()?;
        folder.starts_with(point).then_some((point.len(), kind))
    });
    // The last of equals: it covers those before it.
    let (_, kind) = above.max_by_key(|(length, _)| *length).unwrap_or((0, ""));
    kind.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /proc rw - proc proc rw\n";
        assert_eq!(file_system(mounts, Path::new("/proc/self/task")), "proc");
        assert_eq!(file_system(mounts, Path::new("/no/such/place")), "ext4");
    }
}
