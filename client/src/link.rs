//! What the clones of a client share: the newest connection, and how to make another.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::address::Address;
use crate::client::{ConnectOptions, millis};
use crate::connection::Connection;
use crate::driver::{Driver, establish};
use crate::error::{ConnectError, ConnectionError};

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
    /// Connects for the first time; the connection is yet to be driven.
    pub(crate) async fn establish(
        address: &Address,
        options: &ConnectOptions,
        thread: Option<mpsc::Sender<()>>,
    ) -> Result<(Self, Driver), ConnectError> {
        let (connection, driver) = connect(address, options, thread.clone()).await?;
        let link = Self {
            address: address.clone(),
            options: options.clone(),
            thread,
            connecting: Semaphore::new(1),
            newest: Mutex::new(connection),
        };
        Ok((link, driver))
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
        let (connection, driver) =
            connect(&self.address, &self.options, self.thread.clone()).await?;
        tokio::spawn(driver);
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *newest, Arc::clone(&connection));
        drop(newest);
        // Its handles may be gone: then it is closed here, which takes its own lock.
        drop(old);
        Ok(connection)
    }
}

async fn connect(
    address: &Address,
    options: &ConnectOptions,
    thread: Option<mpsc::Sender<()>>,
) -> Result<(Arc<Connection>, Driver), ConnectError> {
    let (shared, driver) = match timeout(options.timeout, establish(address, options)).await {
        Ok(established) => established?,
        Err(_) => {
            let (address, ms) = (address.clone(), millis(options.timeout));
            return Err(ConnectError::TimedOut { address, ms });
        }
    };
    let connection = Arc::new(Connection::new(shared, options.request_timeout, thread));
    Ok((connection, driver))
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
