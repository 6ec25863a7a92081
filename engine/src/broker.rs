//! The broker in-process: one folder, its topics, and the handles to them.

use std::path::Path;
use std::sync::Arc;

use millstream_protocol::control::{Retention, TopicInfo};
use millstream_protocol::{AckLevel, Durability, Start, TopicName};
use millstream_storage::{
    Appender, CloseError, CreateError, DeleteError, Level, Log, LogReader, LogRecovery, OpenError,
    Store, StoreOptions, catch_page_faults,
};

use crate::error::TopicError;
use crate::publisher::{Publisher, PublisherOptions};
use crate::queue::{Queues, check_public, is_reserved};
use crate::reader::Reader;

/// How a topic is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicOptions {
    durability: Durability,
}

impl Default for TopicOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Synced,
        }
    }
}

impl TopicOptions {
    /// Synced: an acknowledgement means that the record survives power loss.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What an acknowledgement means.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

/// How a broker is opened.
#[derive(Debug, Clone, Default)]
pub struct BrokerOptions {
    store: StoreOptions,
    catch_page_faults: bool,
}

impl BrokerOptions {
    /// The defaults: two sync workers, segments from 4 MiB to 64 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Threads that sync, so that one slow disk call does not stop all topics. 1 to 64.
    #[must_use]
    pub fn sync_workers(mut self, workers: usize) -> Self {
        self.store.sync_workers = workers.clamp(1, 64);
        self
    }

    /// Bytes of a topic's first segment; later ones grow under load.
    #[must_use]
    pub fn segment_bytes_first(mut self, bytes: u32) -> Self {
        self.store.segment_bytes_first = bytes;
        self
    }

    /// Bytes a segment grows to at most, unless a single batch needs more.
    #[must_use]
    pub fn segment_bytes_max(mut self, bytes: u32) -> Self {
        self.store.segment_bytes_max = bytes;
        self
    }

    /// Takes `SIGBUS`, which the kernel sends when a page of a mapped segment can't be written or read:
    /// the disk is full or failing, or the file was cut off. Without this the process dies of it, and
    /// every topic with it; with it that topic alone refuses publishing, and says why.
    ///
    /// Off by default, since signals belong to the whole process. Faults anywhere else go to the
    /// handler that was there before; one that is set later should do the same with ours. Stays in
    /// force when the broker is closed. A record read in place while its file is being cut off under
    /// it may show zeros.
    #[must_use]
    pub fn catch_page_faults(mut self) -> Self {
        self.catch_page_faults = true;
        self
    }

    /// Opens the folder `path`, or makes one there, and recovers what an unclean stop left.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; a folder that is not ours, is newer or is in use is left as it is.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Broker, OpenError> {
        if self.catch_page_faults {
            catch_page_faults().map_err(OpenError::Signal)?;
        }
        Broker::over(Store::open(path.as_ref(), &self.store)?)
    }
}

/// An open broker. Clones share it; it is closed by [`close`](Self::close) or when the last clone and
/// handle are gone.
#[derive(Debug, Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    queues: Arc<Queues>,
}

impl Inner {
    fn close(&self) -> Result<(), CloseError> {
        self.queues.close();
        self.store.close()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "close");
        }
    }
}

impl Broker {
    /// A broker over a store that was opened apart.
    #[cfg(test)]
    pub(crate) fn of_parts(store: Arc<Store>, queues: Arc<Queues>) -> Self {
        Self {
            inner: Arc::new(Inner { store, queues }),
        }
    }

    /// Opens the folder `path` with the defaults.
    ///
    /// # Errors
    ///
    /// As [`BrokerOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        BrokerOptions::new().open(path)
    }

    /// A broker over what is open, with the queues in it.
    pub(crate) fn over(store: Store) -> Result<Self, OpenError> {
        let store = Arc::new(store);
        let queues = Queues::open(&store)?;
        Ok(Self {
            inner: Arc::new(Inner { store, queues }),
        })
    }

    /// The folder's id, drawn when it was made.
    #[must_use]
    pub fn folder_id(&self) -> [u8; 16] {
        self.inner.store.folder_id()
    }

    /// Rises with each start; no start repeats one.
    #[must_use]
    pub fn boot_epoch(&self) -> u32 {
        self.inner.store.boot_epoch()
    }

    /// What recovery found in topics that were open at an unclean stop.
    #[must_use]
    pub fn recovery(&self) -> &[LogRecovery] {
        self.inner.store.recoveries()
    }

    /// Makes a topic. One that is there with the same options is not an error.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub fn create_topic(
        &self,
        name: impl AsRef<str>,
        options: TopicOptions,
    ) -> Result<TopicInfo, TopicError> {
        let name = TopicName::parse(name.as_ref())?;
        check_public(&name)?;
        let log = match self.inner.store.create_log(&name, options.durability) {
            Err(CreateError::Exists(log)) if log.identity().durability != options.durability => {
                return Err(TopicError::Exists {
                    name,
                    durability: log.identity().durability,
                });
            }
            Ok(log) | Err(CreateError::Exists(log)) => log,
            Err(error) => return Err(create_error(error)),
        };
        Ok(info(&log))
    }

    /// All topics, by name.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicInfo> {
        let logs = self.inner.store.logs();
        logs.iter()
            .filter(|log| !is_reserved(&log.identity().name))
            .map(info)
            .collect()
    }

    /// One topic.
    ///
    /// # Errors
    ///
    /// [`TopicError::Name`] or [`TopicError::NotFound`].
    pub fn topic(&self, name: impl AsRef<str>) -> Result<TopicInfo, TopicError> {
        Ok(info(&self.log(name.as_ref())?))
    }

    /// Deletes a topic and its files. Slices that readers hold stay valid.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub fn delete_topic(&self, name: impl AsRef<str>) -> Result<(), TopicError> {
        let name = TopicName::parse(name.as_ref())?;
        check_public(&name)?;
        let queues = self.inner.queues.queues_of(&name);
        let queues = queues.map_err(|error| TopicError::Storage {
            message: error.to_string(),
        })?;
        if !queues.is_empty() {
            return Err(TopicError::InUse { name, queues });
        }
        let log = self.inner.store.log(&name);
        match self.inner.store.delete_log(&name) {
            Ok(()) => {
                if let Some(log) = &log {
                    self.inner.queues.forget_rules(log);
                    self.inner.queues.forget_retention(log);
                }
                Ok(())
            }
            Err(DeleteError::NotFound) => Err(TopicError::NotFound { name }),
            Err(error) => Err(TopicError::Storage {
                message: error.to_string(),
            }),
        }
    }

    /// Sets how much of a topic is kept; it is on disk when this returns, and holds for what is there as well.
    /// What goes does so in the background, in whole segments and from the front; the last segment stays, and so
    /// does what a queue over the topic has not settled, or what came with an id that is still remembered.
    /// Readers further back get a [`Gap`](crate::Gap). A topic that was made for its queue keeps what that has
    /// not settled, whatever is said here.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub fn set_retention(
        &self,
        topic: impl AsRef<str>,
        retention: Retention,
    ) -> Result<(), TopicError> {
        self.inner.queues.set_retention(topic.as_ref(), retention)
    }

    /// How much of a topic is kept.
    ///
    /// # Errors
    ///
    /// [`TopicError::Name`] or [`TopicError::NotFound`]; [`TopicError::Storage`] while the journal, which says
    /// it, can't be used.
    pub fn retention(&self, topic: impl AsRef<str>) -> Result<Retention, TopicError> {
        self.inner.queues.retention(topic.as_ref())
    }

    /// A publisher to `topic`, which is made, synced, if it is not there.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub fn publisher(&self, topic: impl AsRef<str>) -> Result<Publisher, TopicError> {
        self.publisher_with(topic, PublisherOptions::new())
    }

    /// A publisher with options of its own. With a producer this waits for the disk.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub fn publisher_with(
        &self,
        topic: impl AsRef<str>,
        options: PublisherOptions,
    ) -> Result<Publisher, TopicError> {
        let log = match self.log(topic.as_ref()) {
            Err(TopicError::NotFound { name }) if options.create => {
                match self.inner.store.create_log(&name, Durability::Synced) {
                    Ok(log) | Err(CreateError::Exists(log)) => log,
                    Err(error) => return Err(create_error(error)),
                }
            }
            found => found?,
        };
        let level = match options.ack {
            AckLevel::Topic => log.identity().durability.into(),
            AckLevel::Stored => Level::Stored,
            AckLevel::Synced => Level::Synced,
        };
        let queues = &self.inner.queues;
        let publisher = Publisher::new(level, Appender::new(&log), queues);
        let Some(name) = &options.producer else {
            return Ok(publisher);
        };
        let (name, resume) = (TopicName::parse(name)?, options.resume());
        let producing = queues.producers().produce(&log, &name, level, resume)?;
        Ok(publisher.with_producer(producing))
    }

    /// A reader of `topic` from `start`.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub fn reader(&self, topic: impl AsRef<str>, start: Start) -> Result<Reader, TopicError> {
        let log = self.log(topic.as_ref())?;
        Ok(Reader::new(LogReader::new(&log, start)))
    }

    /// Seals and syncs every topic and marks the folder clean; publishing fails from then on.
    ///
    /// # Errors
    ///
    /// Topics that could not be synced; the next open recovers them.
    pub fn close(&self) -> Result<(), CloseError> {
        self.inner.close()
    }

    fn log(&self, name: &str) -> Result<Arc<Log>, TopicError> {
        let name = TopicName::parse(name)?;
        check_public(&name)?;
        self.inner
            .store
            .log(&name)
            .ok_or(TopicError::NotFound { name })
    }

    pub(crate) fn queues_of_broker(&self) -> &Arc<Queues> {
        &self.inner.queues
    }
}

pub(crate) fn create_error(error: CreateError) -> TopicError {
    match error {
        CreateError::Closed => TopicError::Closed,
        error if error.is_storage_full() => TopicError::StorageFull {
            message: error.to_string(),
        },
        error => TopicError::Storage {
            message: error.to_string(),
        },
    }
}

fn info(log: &Arc<Log>) -> TopicInfo {
    let (segments, bytes) = log.size();
    let identity = log.identity();
    TopicInfo {
        name: identity.name.clone(),
        incarnation: identity.incarnation,
        durability: identity.durability,
        first_offset: log.first_offset(),
        next_offset: log.high_watermark(),
        synced_offset: log.synced(),
        bytes,
        segments,
        poisoned: log.poisoned().map(|poisoned| poisoned.reason.to_string()),
    }
}
