//! Timers: sleeping, and limiting how long a future may take.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

use super::runtime::Runtime;

/// 30 years: replaces a deadline too far away for the clock to represent.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Deadline of a waiter, and a number that tells waiters with the same deadline apart.
type Key = (Instant, u64);

/// Waiting tasks by deadline.
#[derive(Default)]
pub(super) struct Timers {
    waiters: BTreeMap<Key, Waker>,
    last: u64,
}

impl Timers {
    fn add(&mut self, at: Instant, waker: Waker) -> Key {
        self.last += 1;
        let key = (at, self.last);
        self.waiters.insert(key, waker);
        key
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiters.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the waker of one task whose deadline has passed.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Waker> {
        let first = self.waiters.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

/// A future that is ready once its time has passed.
pub(crate) struct Sleep {
    runtime: Rc<Runtime>,
    at: Instant,
    /// Key in [`Timers`], once it was polled.
    key: Option<Key>,
}

/// Waits for `duration`.
pub(crate) fn sleep(duration: Duration) -> Sleep {
    let now = Instant::now();
    Sleep {
        runtime: Runtime::current(),
        at: now.checked_add(duration).unwrap_or_else(|| now + FOR_EVER),
        key: None,
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Some(key) = this.key {
            match this.runtime.timers.borrow_mut().waiters.get_mut(&key) {
                Some(waker) => waker.clone_from(cx.waker()),
                None => return Poll::Ready(()),
            }
        } else {
            let mut timers = this.runtime.timers.borrow_mut();
            this.key = Some(timers.add(this.at, cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            // Dropped after the borrow ends: dropping the last waker of a task drops the task.
            let waker = self.runtime.timers.borrow_mut().waiters.remove(&key);
            drop(waker);
        }
    }
}

/// The time was over before the future was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

pin_project! {
    /// A future with a time limit.
    pub(crate) struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

/// Gives `future` at most `duration`; an error if it is not ready by then.
pub(crate) fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    let sleep = sleep(duration);
    Timeout { future, sleep }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.future.poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => Pin::new(this.sleep).poll(cx).map(|()| Err(Elapsed)),
        }
    }
}
