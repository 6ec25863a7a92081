//! What is asked of a server about queues and cursors, without async.

use millstream_protocol::control::{
    CursorInfo, LeaseInfo, PeekedRecord, QueueInfo, QueueList, QueueSettings,
};
use millstream_protocol::{Offset, TopicName};

use super::Client;
use crate::error::{ConnectError, QueueError};
use crate::queues::{QueueOptions, Redrive};

impl Client {
    /// See [`crate::Client::reconnect`].
    ///
    /// # Errors
    ///
    /// The server cannot be reached, or not as a server is.
    pub fn reconnect(&self) -> Result<(), ConnectError> {
        self.runtime.block_on(self.client.reconnect())
    }

    /// See [`crate::Client::create_queue`].
    ///
    /// # Errors
    ///
    /// The name is none, a queue with other options has it, or the server did not answer.
    pub fn create_queue(
        &self,
        name: impl AsRef<str>,
        options: QueueOptions,
    ) -> Result<QueueInfo, QueueError> {
        self.runtime
            .block_on(self.client.create_queue(name, options))
    }

    /// See [`crate::Client::set_queue`].
    ///
    /// # Errors
    ///
    /// There is no such queue, it cannot have these settings, or the server did not answer.
    pub fn set_queue(
        &self,
        name: impl AsRef<str>,
        settings: QueueSettings,
    ) -> Result<QueueInfo, QueueError> {
        self.runtime.block_on(self.client.set_queue(name, settings))
    }

    /// See [`crate::Client::queue`].
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub fn queue(&self, name: impl AsRef<str>) -> Result<QueueInfo, QueueError> {
        self.runtime.block_on(self.client.queue(name))
    }

    /// See [`crate::Client::queues`].
    ///
    /// # Errors
    ///
    /// The server did not answer.
    pub fn queues(&self) -> Result<Vec<QueueInfo>, QueueError> {
        self.runtime.block_on(self.client.queues())
    }

    /// See [`crate::Client::queues_after`].
    ///
    /// # Errors
    ///
    /// The server did not answer.
    pub fn queues_after(&self, after: Option<&TopicName>) -> Result<QueueList, QueueError> {
        self.runtime.block_on(self.client.queues_after(after))
    }

    /// See [`crate::Client::delete_queue`].
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub fn delete_queue(&self, name: impl AsRef<str>) -> Result<u64, QueueError> {
        self.runtime.block_on(self.client.delete_queue(name))
    }

    /// See [`crate::Client::pause_queue`].
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub fn pause_queue(&self, name: impl AsRef<str>) -> Result<(), QueueError> {
        self.runtime.block_on(self.client.pause_queue(name))
    }

    /// See [`crate::Client::resume_queue`].
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub fn resume_queue(&self, name: impl AsRef<str>) -> Result<(), QueueError> {
        self.runtime.block_on(self.client.resume_queue(name))
    }

    /// See [`crate::Client::purge_queue`].
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub fn purge_queue(&self, name: impl AsRef<str>) -> Result<u64, QueueError> {
        self.runtime.block_on(self.client.purge_queue(name))
    }

    /// See [`crate::Client::redrive_queue`].
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub fn redrive_queue(
        &self,
        name: impl AsRef<str>,
        redrive: &Redrive,
    ) -> Result<u64, QueueError> {
        self.runtime
            .block_on(self.client.redrive_queue(name, redrive))
    }

    /// See [`crate::Client::peek_queue`].
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub fn peek_queue(
        &self,
        name: impl AsRef<str>,
        from: Offset,
        max: u32,
    ) -> Result<Vec<PeekedRecord>, QueueError> {
        self.runtime
            .block_on(self.client.peek_queue(name, from, max))
    }

    /// See [`crate::Client::leases`].
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub fn leases(&self, name: impl AsRef<str>, max: u32) -> Result<Vec<LeaseInfo>, QueueError> {
        self.runtime.block_on(self.client.leases(name, max))
    }

    /// See [`crate::Client::set_cursor`].
    ///
    /// # Errors
    ///
    /// There is no such topic, a name is none, or the server did not answer.
    pub fn set_cursor(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
        offset: Offset,
    ) -> Result<CursorInfo, QueueError> {
        self.runtime
            .block_on(self.client.set_cursor(topic, name, offset))
    }

    /// See [`crate::Client::cursor_info`].
    ///
    /// # Errors
    ///
    /// There is no such cursor, or the server did not answer.
    pub fn cursor_info(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
    ) -> Result<CursorInfo, QueueError> {
        self.runtime.block_on(self.client.cursor_info(topic, name))
    }

    /// See [`crate::Client::cursors`].
    ///
    /// # Errors
    ///
    /// The name is none, or the server did not answer.
    pub fn cursors(&self, topic: Option<&str>) -> Result<Vec<CursorInfo>, QueueError> {
        self.runtime.block_on(self.client.cursors(topic))
    }

    /// See [`crate::Client::delete_cursor`].
    ///
    /// # Errors
    ///
    /// There is no such cursor, or the server did not answer.
    pub fn delete_cursor(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
    ) -> Result<(), QueueError> {
        self.runtime
            .block_on(self.client.delete_cursor(topic, name))
    }
}
