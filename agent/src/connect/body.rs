//! Bodies on their way through: passed on frame by frame, with the end and the failure of each
//! noted. Nothing is kept but the one frame in flight, so a slow reader slows its sender.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::caller::State;
use super::pool::{Lease, Track};

/// A request's body on its way to the relay.
pub(super) type RequestBody = tieline_hop::RequestBody<Progress>;

/// How a request's body fares.
pub(super) struct Progress {
    pub(super) state: Arc<State>,
    pub(super) track: Option<Arc<Track>>,
}

impl tieline_hop::Progress for Progress {
    type Timeout = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn asked(&self, _is_pending: bool) {
        self.state.uploading();
    }

    fn done(&self) {
        self.state.uploaded();
        if let Some(track) = &self.track {
            track.set_request_done(true);
        }
    }

    fn failed(&self) {
        if let Some(track) = &self.track {
            track.set_request_failed(true);
        }
    }
}

/// An answer's body on its way to the caller.
pub(super) struct AnswerBody {
    content: Content,
    state: Arc<State>,
}

enum Content {
    /// The proxy's own answer.
    Own(Option<Bytes>),
    Relay(RelayBody),
}

/// What the relay answers, and the connection that it comes from.
struct RelayBody {
    incoming: Incoming,
    lease: Option<Lease>,
    /// True if the caller could take a plain close for the answer's end.
    is_cut_hidden: bool,
    /// Why the answer broke off, and how often the caller's connection was flushed before.
    failed: Option<(hyper::Error, u64)>,
}

impl AnswerBody {
    /// The proxy's own words.
    pub(super) fn own(body: Bytes, state: Arc<State>) -> Self {
        Self {
            content: Content::Own(Some(body)),
            state,
        }
    }

    /// The relay's, with the connection to give back at the end.
    pub(super) fn relay(
        incoming: Incoming,
        lease: Lease,
        is_cut_hidden: bool,
        state: Arc<State>,
    ) -> Self {
        let body = RelayBody {
            incoming,
            lease: Some(lease),
            is_cut_hidden,
            failed: None,
        };
        Self {
            content: Content::Relay(body),
            state,
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.state.answered();
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        match &mut this.content {
            Content::Own(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Content::Relay(body) => body.poll_frame(cx, &this.state),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(body) => body.as_ref().is_none_or(Bytes::is_empty),
            Content::Relay(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(body) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
            Content::Relay(body) => body.incoming.size_hint(),
        }
    }
}

impl RelayBody {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        state: &State,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.failed.is_none() {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if frame.is_trailers() || self.incoming.is_end_stream() {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                None => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    self.lease = None;
                    self.failed = Some((error, state.flushes()));
                    // Once: hyper flushes after this turn, and is to come back then.
                    cx.waker().wake_by_ref();
                }
            }
        }
        // hyper throws away what it has not written yet when a body fails, so it learns of that
        // only after a flush: the caller gets all that the relay sent.
        let flushes = state.flushes();
        match self.failed.take_if(|(_, before)| *before < flushes) {
            Some((error, _)) => {
                if self.is_cut_hidden {
                    state.set_cut_hidden();
                }
                Poll::Ready(Some(Err(error)))
            }
            None => Poll::Pending,
        }
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }
}

impl Drop for RelayBody {
    fn drop(&mut self) {
        // hyper does not ask for the end of a body whose length it knows.
        if self.failed.is_none() && self.incoming.is_end_stream() {
            self.finish();
        }
    }
}
