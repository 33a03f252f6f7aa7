//! Bodies on their way through: passed on frame by frame, with the end and the failure of each
//! noted. Nothing is kept but the one frame in flight, so a slow reader slows its sender.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::caller::State;
use super::pool::{Lease, Track};

/// A request's body on its way to the relay.
pub(super) struct RequestBody {
    /// `None` for the empty body of a repeated request.
    incoming: Option<Incoming>,
    /// Holds the body back until the relay asks for it.
    gate: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    state: Arc<State>,
    track: Option<Arc<Track>>,
}

impl RequestBody {
    pub(super) fn new(incoming: Option<Incoming>, state: Arc<State>) -> Self {
        Self {
            incoming,
            gate: None,
            state,
            track: None,
        }
    }

    /// Notes from now on in `track` how the body fares.
    pub(super) fn attach(&mut self, track: Arc<Track>) {
        if self.is_end_stream() {
            track.request_done();
        }
        self.track = Some(track);
    }

    fn done(&self) {
        self.state.uploaded();
        if let Some(track) = &self.track {
            track.request_done();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        if let Some(gate) = &mut this.gate {
            ready!(gate.as_mut().poll(cx));
            this.gate = None;
        }
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        this.state.uploading();
        match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if frame.is_trailers() || incoming.is_end_stream() {
                    this.done();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                if let Some(track) = &this.track {
                    track.request_failed();
                }
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.done();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Makes `request` wait for `100 Continue`, or for so long that the relay seems not to know of
/// that. The time counts from when the body is first asked for.
///
/// The caller's own `100 Continue` is sent by hyper as soon as its body is first read.
pub(super) fn await_continue(request: &mut Request<RequestBody>, patience: Duration) {
    let given = Arc::new(Notify::new());
    let giver = Arc::clone(&given);
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            giver.notify_one();
        }
    });
    request.body_mut().gate = Some(Box::pin(async move {
        let _ = timeout(patience, given.notified()).await;
    }));
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
