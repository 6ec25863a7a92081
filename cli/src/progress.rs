//! Progress of long work, drawn on standard error when a person watches.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// Redraws a second, at most: drawing must cost nothing beside the work.
const REDRAWS_PER_SECOND: u8 = 10;

/// A bar over bytes, a running figure when the end is unknown, or nothing at all. Clones are one bar.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Begins at nothing of `bytes_total`.
    pub(crate) fn start(output: Output, bytes_total: Option<u64>) -> Self {
        if !output.shows_progress() {
            return Self(None);
        }
        let target = ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND);
        let (bar, template) = match bytes_total {
            Some(bytes) => (
                ProgressBar::with_draw_target(Some(bytes), target),
                "{bar:32} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {msg}",
            ),
            None => (
                ProgressBar::with_draw_target(None, target),
                "{spinner} {bytes}  {binary_bytes_per_sec}  {msg}",
            ),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self(Some(bar))
    }

    /// Counts `bytes` more as done.
    pub(crate) fn add_bytes(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }

    /// Takes the bar off the screen.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
