//! What the client says of a worker's connection and its settles, as remarks.
//!
//! The client answers only acknowledgements one by one; of other settles that came too late it tells
//! in its log. That log is printed here, a line for each, and the late ones are counted.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

use crate::output::Output;

/// Settles other than acknowledgements that came too late.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Late {
    pub(super) retries: u64,
    pub(super) rejections: u64,
}

/// Prints the client's warnings.
#[derive(Debug, Clone)]
pub(super) struct Notices {
    output: Output,
    late: Arc<Mutex<Late>>,
}

impl Notices {
    /// From now on they are printed.
    pub(super) fn begin(output: Output) -> Self {
        let notices = Self {
            output,
            late: Arc::default(),
        };
        // There is one for the whole process; it stays the first.
        let subscriber = Registry::default().with(notices.clone());
        let _ = tracing::subscriber::set_global_default(subscriber);
        notices
    }

    /// What came too late so far.
    pub(super) fn late(&self) -> MutexGuard<'_, Late> {
        // Every change is one addition.
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Notices {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || !metadata.target().starts_with("millstream_client") {
            return;
        }
        let mut notice = Notice::default();
        event.record(&mut notice);
        match notice.verb.as_str() {
            // Answered one by one.
            "Ack" => return,
            "Retry" | "RetryAfter" => self.late().retries += 1,
            "Reject" => self.late().rejections += 1,
            _ => {}
        }
        self.output.remark(notice);
    }
}

/// The fields of one warning.
#[derive(Debug, Default)]
struct Notice {
    queue: String,
    offset: String,
    verb: String,
    message: String,
}

impl Visit for Notice {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let place = match field.name() {
            "queue" => &mut self.queue,
            "offset" => &mut self.offset,
            "verb" => &mut self.verb,
            "message" => &mut self.message,
            _ => return,
        };
        *place = format!("{value:?}");
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.offset.is_empty() {
            write!(f, "{}, offset {}: ", self.queue, self.offset)?;
        }
        f.write_str(&self.message)?;
        if !self.verb.is_empty() {
            write!(f, " ({})", self.verb.to_lowercase())?;
        }
        Ok(())
    }
}
