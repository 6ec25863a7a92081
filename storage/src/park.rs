//! Waiting in the caller's own thread: poll, park until woken, poll again. No runtime.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

/// Calls `poll` until it is ready, parking this thread in between. Allocates once per thread.
pub fn park_until<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    WAKER.with(|waker| {
        let mut cx = Context::from_waker(waker);
        loop {
            match poll(&mut cx) {
                Poll::Ready(output) => return output,
                Poll::Pending => wait(),
            }
        }
    })
}

fn wait() {
    #[cfg(all(any(test, feature = "testing"), not(loom)))]
    if crate::hand::work_instead() {
        return;
    }
    thread::park();
}
