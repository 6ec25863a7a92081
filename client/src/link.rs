//! What the clones of a client share: the newest connection, and how to make another.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use crate::address::Address;
use crate::client::ConnectOptions;
use crate::connection::{Connection, Shared};
use crate::driver::Driver;
use crate::error::{ConnectError, ConnectionError};
use crate::handshake::greet;

/// The wait before a second attempt to connect; each further one is twice as long.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// The longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The newest connection of a client.
pub(crate) struct Link {
    address: Address,
    options: ConnectOptions,
    /// Keeps the thread of a blocking client running.
    thread: Option<mpsc::Sender<()>>,
    /// Whoever connects once more holds this meanwhile.
    connecting: Semaphore,
    newest: Mutex<Arc<Connection>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Of a client that has connected; its connection is yet to be carried.
    pub(crate) fn new(
        address: Address,
        options: ConnectOptions,
        shared: Arc<Shared>,
        thread: Option<mpsc::Sender<()>>,
    ) -> Self {
        let connection = Connection::new(shared, options.request_timeout, thread.clone());
        Self {
            address,
            options,
            thread,
            connecting: Semaphore::new(1),
            newest: Mutex::new(Arc::new(connection)),
        }
    }

    /// The newest connection, which may be over.
    pub(crate) fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest connection if it is not over, or else another one. Many may ask at once.
    pub(crate) async fn reconnect(&self) -> Result<Arc<Connection>, ConnectError> {
        let _connecting = self
            .connecting
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let newest = self.connection();
        let ended = newest.lock().core.ended().cloned();
        match ended {
            None => return Ok(newest),
            Some(cause @ ConnectionError::ClosedHere) => {
                let address = self.address.clone();
                return Err(ConnectError::Handshake { address, cause });
            }
            Some(_) => {}
        }
        let greeted = greet(&self.address, &self.options).await?;
        let (shared, driver) = Driver::new(greeted, self.options.poll);
        let timeout = self.options.request_timeout;
        let connection = Arc::new(Connection::new(shared, timeout, self.thread.clone()));
        let thread = self.thread.clone();
        tokio::spawn(async move {
            driver.await;
            // The thread of a blocking client stays until all was sent.
            drop(thread);
        });
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *newest, Arc::clone(&connection));
        drop(newest);
        // Its handles may be gone: then it is closed here, which takes its own lock.
        drop(old);
        Ok(connection)
    }
}

/// How long to wait between attempts: longer each time, up to a limit.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
}

impl Pauses {
    pub(crate) const fn new() -> Self {
        Self {
            next: BACKOFF_FIRST,
        }
    }

    /// The wait before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (2 * pause).min(BACKOFF_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_limit() {
        let mut pauses = Pauses::new();
        let waits: Vec<_> = (0..9).map(|_| pauses.next().as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }
}
