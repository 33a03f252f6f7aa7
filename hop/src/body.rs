//! A request's body on its way to the next hop: passed on frame by frame; its end and its failure are
//! reported. Only the frame in flight is kept, so a slow reader slows its sender.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::continue_wait::ContinueWait;
use crate::informational::Continue;
use crate::track::Track;

/// Events of a request's body that a hop records.
pub trait Progress: Unpin {
    /// Future that ends the wait for `100 Continue`.
    type Timeout: Future<Output = ()> + Unpin;

    /// The next hop polled for more; `is_pending`: the caller has not sent more yet.
    fn asked(&self, is_pending: bool);

    /// A frame is about to go on, in the form in which this method leaves it.
    fn passed(&self, _frame: &mut Frame<Bytes>) {}

    /// The body was read to its end.
    fn done(&self);

    /// The next hop wants no more of the body; takes the unread rest.
    fn left(&mut self, _rest: Incoming) {}
}

/// A request's body on its way to the next hop.
pub struct RequestBody<P: Progress> {
    /// Bytes of a retried request that the caller sent before the retry; empty once passed on.
    before: Bytes,
    /// The rest of the body, which the caller has yet to send.
    incoming: Option<Incoming>,
    gate: Option<ContinueWait<P::Timeout>>,
    /// The connection that the request is sent on.
    track: Option<Rc<Track>>,
    progress: P,
}

impl<P: Progress> RequestBody<P> {
    /// Body that passes `incoming` on; an empty body if `None`.
    pub const fn new(incoming: Option<Incoming>, progress: P) -> Self {
        Self::again(Bytes::new(), incoming, progress)
    }

    /// Body of a retried request: the bytes that the caller sent `before`, then the rest that is still
    /// `incoming`.
    pub const fn again(before: Bytes, incoming: Option<Incoming>, progress: P) -> Self {
        Self {
            before,
            incoming,
            gate: None,
            track: None,
            progress,
        }
    }

    /// Reports the end of the body, or its failure, to a connection from now on.
    pub(crate) fn track_with(&mut self, track: Rc<Track>) {
        self.track = Some(track);
    }

    /// What `100 Continue` is reported to, if the body waits for it.
    pub(crate) fn continue_signal(&self) -> Option<Arc<Continue>> {
        self.gate.as_ref().map(ContinueWait::signal)
    }

    fn done(&self) {
        if let Some(track) = &self.track {
            track.request_done.set(true);
        }
        self.progress.done();
    }

    /// The hop's record of this body's progress.
    pub const fn progress_mut(&mut self) -> &mut P {
        &mut self.progress
    }
}

impl<P: Progress> Drop for RequestBody<P> {
    fn drop(&mut self) {
        if let Some(rest) = self.incoming.take_if(|rest| !rest.is_end_stream()) {
            self.progress.left(rest);
        }
    }
}

/// Makes `request` hold its body back until `100 Continue`, or until `timeout`, which is first polled
/// when hyper first polls the body.
///
/// hyper sends the caller's own `100 Continue` as soon as the caller's body is first read.
pub fn await_continue<P: Progress>(request: &mut Request<RequestBody<P>>, timeout: P::Timeout) {
    request.body_mut().gate = Some(ContinueWait::new(timeout));
}

impl<P: Progress> Body for RequestBody<P> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        if let Some(gate) = &mut this.gate {
            ready!(Pin::new(gate).poll(cx));
            this.gate = None;
        }
        if !this.before.is_empty() {
            let mut frame = Frame::data(std::mem::take(&mut this.before));
            this.progress.passed(&mut frame);
            if this.incoming.is_none() {
                this.done();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        this.progress.asked(polled.is_pending());
        let mut frame = ready!(polled);
        if let Some(Ok(frame)) = &mut frame {
            this.progress.passed(frame);
        }
        // hyper does not poll beyond the announced length; over HTTP/2 the end of the stream may come later.
        let is_whole = incoming.is_end_stream() || incoming.size_hint().exact() == Some(0);
        match &frame {
            Some(Ok(frame)) if !frame.is_trailers() && !is_whole => {}
            Some(Err(_)) => {
                if let Some(track) = &this.track {
                    track.request_failed.set(true);
                }
            }
            _ => this.done(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let is_over = self.incoming.as_ref().is_none_or(Body::is_end_stream);
        is_over && self.before.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let before = self.before.len() as u64;
        let Some(incoming) = &self.incoming else {
            return SizeHint::with_exact(before);
        };
        let mut hint = incoming.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + before);
        }
        hint.set_lower(hint.lower() + before);
        hint
    }
}
