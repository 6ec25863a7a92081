//! Where this process spends its processor time while a scenario runs, as a flame graph.
//!
//! Samples are taken by the crate pprof, of all threads, a thousand a second of processor time or as often as
//! the kernel's tick lets. It is in builds with the feature `profile` alone: nobody else needs it and what it
//! brings along.

use std::path::Path;

use crate::args::{Profile, RunArgs};
use crate::failure::{Exit, Failure};
use millstream_benches::scenario::Scenario;

/// Name of the flame graph in the folder of the results.
#[cfg(feature = "profile")]
const FLAME_GRAPH: &str = "profile.svg";
/// Samples a second.
#[cfg(feature = "profile")]
const SAMPLES_PER_S: i32 = 997;

/// A profile that is being taken.
#[cfg(feature = "profile")]
pub(super) struct Profiling {
    guard: pprof::ProfilerGuard<'static>,
}

/// No profile is ever taken.
#[cfg(not(feature = "profile"))]
pub(super) enum Profiling {}

impl Profiling {
    /// Begins to take the profile that was asked for, if one was.
    ///
    /// # Errors
    ///
    /// What is measured runs in another process, there is no folder for the result, or this build has no
    /// profiler.
    pub(super) fn begin(args: &RunArgs) -> Result<Option<Self>, Failure> {
        let Some(Profile::Cpu) = args.profile else {
            return Ok(None);
        };
        let usage = |message: &str| Failure::new(Exit::Usage, message);
        if args.scenario != Scenario::Embed {
            let message = "--profile is for embed, which runs in this process: for a server use `perf record -g -p PID`";
            return Err(usage(message));
        }
        if args.out.is_none() {
            return Err(usage(
                "--profile writes profile.svg into the folder of --out: name one",
            ));
        }
        Self::start().map(Some)
    }

    #[cfg(feature = "profile")]
    fn start() -> Result<Self, Failure> {
        let guard = pprof::ProfilerGuardBuilder::default()
            .frequency(SAMPLES_PER_S)
            // Unwinding may not begin in what it uses itself.
            .blocklist(&["libc", "libgcc", "pthread", "vdso"])
            .build();
        let guard = guard.map_err(|error| {
            Failure::new(
                Exit::Failed,
                format_args!("cannot start to profile: {error}"),
            )
        })?;
        Ok(Self { guard })
    }

    #[cfg(not(feature = "profile"))]
    fn start() -> Result<Self, Failure> {
        let message =
            "this build has no profiler: build it with `cargo build --release --features profile`";
        Err(Failure::new(Exit::Usage, message))
    }

    /// Writes the flame graph of what was sampled into `folder`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    #[cfg(feature = "profile")]
    pub(super) fn write_into(&self, folder: &Path) -> Result<(), Failure> {
        let path = folder.join(FLAME_GRAPH);
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(
                Exit::Failed,
                format_args!("cannot write the flame graph {}: {error}", path.display()),
            )
        };
        let report = self
            .guard
            .report()
            .build()
            .map_err(|error| failed(&error))?;
        let file = std::fs::File::create(&path).map_err(|error| failed(&error))?;
        report.flamegraph(file).map_err(|error| failed(&error))
    }

    #[cfg(not(feature = "profile"))]
    pub(super) fn write_into(&self, _folder: &Path) -> Result<(), Failure> {
        match *self {}
    }
}
