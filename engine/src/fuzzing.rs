//! What the fuzz targets reach into the engine for.

use std::sync::Arc;

use millstream_storage::{Folder, OpenError, Store, StoreOptions};

use crate::Broker;

/// Runs the program that `data` spells against the scheduler and its model. False if it is empty.
///
/// # Panics
///
/// When the two differ.
#[must_use]
pub fn scheduler(data: &[u8]) -> bool {
    crate::queue::scheduler::tests::fuzz(data)
}

/// Opens a broker over any folder, which nobody else uses.
///
/// # Errors
///
/// See [`OpenError`].
pub fn open_folder(folder: Arc<dyn Folder>, options: &StoreOptions) -> Result<Broker, OpenError> {
    Broker::over(Store::open_folder(folder, options)?)
}

/// Writes a checkpoint of all queues, as the upkeep does when the journal has grown.
///
/// # Errors
///
/// What the disk said.
pub fn checkpoint(broker: &Broker) -> std::io::Result<()> {
    broker.queues_of_broker().checkpoint_now()
}
