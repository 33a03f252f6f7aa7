//! Informational responses (1xx) to a request: hyper's client discards them, however many come. They are counted, so
//! that too many end the connection, and `100 Continue` is reported to the request's body.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use http::{Request, StatusCode};

/// Most informational responses before an answer.
///
/// Covers a `102 Processing` every 20 s (RFC 2518, section 10.1) for more than an hour: 3600 s / 20 s = 180.
const INFORMATIONAL_MAX: u32 = 256;

/// Rule that an answer breaks behind more than [`INFORMATIONAL_MAX`] informational responses.
pub(crate) const TOO_MANY_INFORMATIONAL: &str =
    "more than 256 informational responses (1xx) precede it";

/// Number of informational responses to the current request of a connection. Atomic because hyper requires a callback
/// that is `Send` and `Sync`.
#[derive(Debug, Default)]
pub(crate) struct Informational(Arc<AtomicU32>);

impl Informational {
    /// Counts from 0 for the next request.
    pub(crate) fn begin(&self) {
        self.0.store(0, Relaxed);
    }

    /// Whether there were more than [`INFORMATIONAL_MAX`].
    pub(crate) fn is_exceeded(&self) -> bool {
        self.0.load(Relaxed) > INFORMATIONAL_MAX
    }

    /// Has hyper report the informational responses to `request`, which is about to be sent; `awaited` is told of
    /// `100 Continue`.
    pub(crate) fn watch<B>(&self, request: &mut Request<B>, awaited: Option<Arc<Continue>>) {
        let count = Arc::clone(&self.0);
        // Takes the place of an earlier callback: a request may be sent over several connections.
        hyper::ext::on_informational(request, move |response| {
            count.fetch_add(1, Relaxed);
            if response.status() == StatusCode::CONTINUE
                && let Some(awaited) = &awaited
            {
                awaited.give();
            }
        });
    }
}

/// The next hop's `100 Continue`. Atomic because hyper requires a callback that is `Send` and `Sync`.
#[derive(Default)]
pub(crate) struct Continue {
    given: AtomicBool,
    waker: AtomicWaker,
}

impl Continue {
    pub(crate) fn give(&self) {
        self.given.store(true, Relaxed);
        self.waker.wake();
    }

    /// Ready once it came.
    pub(crate) fn poll_given(&self, cx: &Context<'_>) -> Poll<()> {
        // Registered before the load: a signal in between wakes this task. `AtomicWaker` orders the two.
        self.waker.register(cx.waker());
        match self.given.load(Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
