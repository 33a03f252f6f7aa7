//! Holds a request's body back until `100 Continue`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::informational::Continue;

/// Ready when the next hop asks for the body with `100 Continue`, or when `timeout` ends.
pub(crate) struct ContinueWait<T> {
    signal: Arc<Continue>,
    timeout: T,
}

impl<T> ContinueWait<T> {
    /// A wait that goes in front of a request's body.
    pub(crate) fn new(timeout: T) -> Self {
        let signal = Arc::default();
        Self { signal, timeout }
    }

    /// What ends the wait.
    pub(crate) fn signal(&self) -> Arc<Continue> {
        Arc::clone(&self.signal)
    }
}

impl<T: Future<Output = ()> + Unpin> Future for ContinueWait<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.signal.poll_given(cx).is_ready() {
            return Poll::Ready(());
        }
        Pin::new(&mut self.timeout).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Pending, Ready, pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn is_open<T: Future<Output = ()> + Unpin>(
        gate: &mut ContinueWait<T>,
        wakes: &Arc<Wakes>,
    ) -> bool {
        let waker = Waker::from(Arc::clone(wakes));
        Pin::new(gate)
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
    }

    #[test]
    fn a_continue_opens_the_gate_and_wakes_who_waits() {
        let wakes = Arc::default();
        let mut gate: ContinueWait<Pending<()>> = ContinueWait::new(pending());
        assert!(!is_open(&mut gate, &wakes));
        gate.signal().give();
        assert_eq!(wakes.0.load(Relaxed), 1);
        assert!(is_open(&mut gate, &wakes));
    }

    #[test]
    fn without_one_the_gate_opens_in_time() {
        let mut gate: ContinueWait<Ready<()>> = ContinueWait::new(ready(()));
        assert!(is_open(&mut gate, &Arc::default()));
    }
}
