//! Another log in the place of `$producers` when that failed (S7).
//!
//! ```text
//!  $producers fails ─▶ all that was told goes to $producers.new ─▶ a new $producers, empty
//!                   ─▶ all that was told goes there ─▶ $producers.new is deleted
//! ```
//! Each step is on disk before the next begins, so one of the two logs says all at any moment. A start
//! reads what there is of both, the spare one first: the other is as old, or newer.

use std::sync::Arc;

use millstream_protocol::Durability;
use millstream_storage::{CreateError, DeleteError, Log};

use super::{PRODUCERS, ProducerError, Producers, SPARE, Snapshot, Spare, State, log_name};
use crate::queue::{Owner, Writer};

impl Producers {
    /// Takes another log into use if the one there is failed, and goes on where a stop interrupted
    /// that; true if there is another now.
    ///
    /// # Errors
    ///
    /// The disk has no room, or takes no other log either. It may be tried again.
    pub(super) fn replace_failed(&self, state: &mut State) -> Result<bool, ProducerError> {
        let failed = state.log.clone().filter(|log| log.poisoned().is_some());
        let nothing_to_do = failed.is_none() && state.spare == Spare::None;
        if nothing_to_do || state.unread.is_some() {
            return Ok(false);
        }
        if let Some(old) = &failed {
            match state.spare {
                Spare::None => {
                    self.fill_spare(state)?;
                    state.spare = Spare::Full;
                }
                Spare::Full => {}
                // Only both together say all, until a start finds one of them well.
                Spare::Found => return Ok(false),
            }
            let log = self.store.replace_log(old).map_err(create_error)?;
            state.start(&log);
        }
        let told = self.told(state);
        let writer = state.writer.as_mut();
        let writer = writer.ok_or_else(|| storage("there is no log of producers"))?;
        Self::write_to(writer, &told)?;
        state.last_snapshot = Snapshot::default();
        self.drop_spare()?;
        state.spare = Spare::None;
        if failed.is_some() {
            tracing::warn!("the log of producers failed and was replaced: nothing of it is lost");
        }
        Ok(true)
    }

    /// Puts all that was told into the spare log.
    fn fill_spare(&self, state: &State) -> Result<(), ProducerError> {
        // One may be left of an attempt that failed.
        self.drop_spare()?;
        let created = self.store.create_log(&log_name(SPARE)?, Durability::Synced);
        let spare: Arc<Log> = created.map_err(create_error)?;
        let mut writer = Writer::new(&spare, Owner::Producers);
        Self::write_to(&mut writer, &self.told(state))
    }

    fn drop_spare(&self) -> Result<(), ProducerError> {
        match self.store.delete_log(&log_name(SPARE)?) {
            Ok(()) | Err(DeleteError::NotFound) => Ok(()),
            Err(error) => Err(storage(format!("{SPARE}: {error}"))),
        }
    }
}

fn storage(message: impl Into<String>) -> ProducerError {
    let message = message.into();
    ProducerError::Storage { message }
}

fn create_error(error: CreateError) -> ProducerError {
    let message = format!("{PRODUCERS} failed, and no other takes its place: {error}");
    if error.is_storage_full() {
        ProducerError::Full { message }
    } else {
        ProducerError::Storage { message }
    }
}
