//! Holds a request's body back until `100 Continue`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use http::{Request, StatusCode};

/// Ready when the next hop asks for the body with `100 Continue`, or when `timeout` ends.
pub(crate) struct ContinueWait<T> {
    signal: Arc<Signal>,
    timeout: T,
}

/// The next hop's `100 Continue`. Atomic because hyper requires a callback that is `Send` and `Sync`.
#[derive(Default)]
struct Signal {
    given: AtomicBool,
    waker: AtomicWaker,
}

impl Signal {
    fn give(&self) {
        self.given.store(true, Relaxed);
        self.waker.wake();
    }
}

impl<T> ContinueWait<T> {
    /// A wait that goes in front of the body of `request`.
    pub(crate) fn new<B>(request: &mut Request<B>, timeout: T) -> Self {
        let signal = Arc::new(Signal::default());
        let giver = Arc::clone(&signal);
        hyper::ext::on_informational(request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                giver.give();
            }
        });
        Self { signal, timeout }
    }
}

impl<T: Future<Output = ()> + Unpin> Future for ContinueWait<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Registered before the load: a signal in between wakes this task. `AtomicWaker` orders the two.
        self.signal.waker.register(cx.waker());
        if self.signal.given.load(Relaxed) {
            return Poll::Ready(());
        }
        Pin::new(&mut self.timeout).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Pending, Ready, pending, ready};
    use std::sync::atomic::AtomicUsize;
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
        let mut gate: ContinueWait<Pending<()>> =
            ContinueWait::new(&mut Request::new(()), pending());
        assert!(!is_open(&mut gate, &wakes));
        gate.signal.give();
        assert_eq!(wakes.0.load(Relaxed), 1);
        assert!(is_open(&mut gate, &wakes));
    }

    #[test]
    fn without_one_the_gate_opens_in_time() {
        let mut gate: ContinueWait<Ready<()>> = ContinueWait::new(&mut Request::new(()), ready(()));
        assert!(is_open(&mut gate, &Arc::default()));
    }
}
