//! Wakes the thread that carries a connection out of its sleep in the socket.

use std::io::{self, Read, Write};
use std::mem;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;

/// What the thread that carries the connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attention {
    /// It looks at what was woken before it sleeps.
    Awake,
    /// It was woken and has not looked since.
    Woken,
    /// It sleeps, and is to be rung for.
    Asleep,
    /// It was rung for: a byte waits.
    Rung,
}

/// Rung by whoever wakes the thread; costs a system call only while that sleeps.
#[derive(Debug)]
pub(super) struct Bell {
    attention: Mutex<Attention>,
    /// Readable once it was rung for.
    near: UnixStream,
    far: UnixStream,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        Ok(Self {
            attention: Mutex::new(Attention::Awake),
            near,
            far,
        })
    }

    /// What is readable once the sleeping thread was woken.
    pub(super) const fn socket(&self) -> &UnixStream {
        &self.near
    }

    /// Forgets what it was woken for, all of which the caller looks at from here on.
    pub(super) fn attend(&self) {
        let before = mem::replace(&mut *self.lock(), Attention::Awake);
        if before == Attention::Rung {
            // Written under the lock, so it is there.
            let _ = (&self.near).read(&mut [0]);
        }
    }

    /// Whether the thread was woken since it attended.
    pub(super) fn is_woken(&self) -> bool {
        matches!(*self.lock(), Attention::Woken | Attention::Rung)
    }

    /// Has it rung for from here on; false where the thread was woken already and may not sleep.
    pub(super) fn fall_asleep(&self) -> bool {
        let mut attention = self.lock();
        let may_sleep = *attention == Attention::Awake;
        if may_sleep {
            *attention = Attention::Asleep;
        }
        may_sleep
    }

    /// The thread sleeps no longer: it looks at what is woken from here on, and need not be rung for.
    pub(super) fn wake_up(&self) {
        let mut attention = self.lock();
        if *attention == Attention::Asleep {
            *attention = Attention::Awake;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Attention> {
        self.attention
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut attention = self.lock();
        *attention = match *attention {
            Attention::Awake | Attention::Woken => Attention::Woken,
            Attention::Asleep => {
                // One byte for each sleep has room.
                let _ = (&self.far).write(&[1]);
                Attention::Rung
            }
            Attention::Rung => Attention::Rung,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(bell: &Bell) -> bool {
        (&bell.near).read(&mut [0]).is_ok()
    }

    #[test]
    fn it_rings_only_for_who_sleeps() {
        let bell = Arc::new(Bell::new().unwrap());
        bell.wake_by_ref();
        assert!(!rings(&bell), "nobody sleeps");
        assert!(bell.is_woken() && !bell.fall_asleep());
        bell.attend();
        assert!(!bell.is_woken() && bell.fall_asleep());
        bell.wake_by_ref();
        bell.wake_by_ref();
        assert!(bell.is_woken());
        bell.attend();
        assert!(!rings(&bell), "it was attended to");
        assert!(bell.fall_asleep());
        bell.wake_by_ref();
        assert!(rings(&bell));
        assert!(!rings(&bell), "once for each sleep");
    }

    #[test]
    fn who_wakes_up_by_himself_is_not_rung_for() {
        let bell = Arc::new(Bell::new().unwrap());
        assert!(bell.fall_asleep());
        bell.wake_up();
        bell.wake_by_ref();
        assert!(!rings(&bell) && bell.is_woken());
        bell.attend();
        assert!(bell.fall_asleep());
        bell.wake_by_ref();
        bell.wake_up();
        assert!(bell.is_woken(), "it was rung for while it slept");
        bell.attend();
        assert!(!rings(&bell), "it was attended to");
    }
}
