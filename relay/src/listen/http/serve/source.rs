//! Source of an answer's body: hyper's client, whose connection is given back at the end of the body.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::listen::http::gateway::Gateway;
use crate::listen::http::outbound::pool::Lease;

/// Why an answer is incomplete.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error(transparent)]
    Stream(#[from] io::Error),
    #[error("the caller took nothing of the answer for too long")]
    Stalled,
}

/// Source of an answer's frames.
pub(super) struct Source<G: Gateway> {
    incoming: Incoming,
    /// The connection's lease, which ends with the body.
    lease: Option<Lease<G>>,
}

impl<G: Gateway> Source<G> {
    pub(crate) const fn new(incoming: Incoming, lease: Lease<G>) -> Self {
        let lease = Some(lease);
        Self { incoming, lease }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        let is_last = match &polled {
            Some(Ok(frame)) => frame.is_trailers() || self.incoming.is_end_stream(),
            None => true,
            Some(Err(_)) => {
                self.lease = None;
                false
            }
        };
        if is_last {
            self.finish();
        }
        Poll::Ready(polled.map(|frame| frame.map_err(Broken::from)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }
}

impl<G: Gateway> Drop for Source<G> {
    fn drop(&mut self) {
        // hyper does not poll for the end of a body of known length.
        if self.incoming.is_end_stream() {
            self.finish();
        }
    }
}
