//! A request's body on its way to the next hop: passed on frame by frame, with its end and its
//! failure noted. Nothing is kept here but the one frame in flight, so a slow reader slows its sender.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::gate::Gate;

/// What a hop notes of a request's body.
pub trait Progress: Unpin {
    /// Ends the wait for `100 Continue`.
    type Timeout: Future<Output = ()> + Unpin;

    /// The next hop asked for more; `is_pending` says that the caller has sent no more yet.
    fn asked(&self, is_pending: bool);

    /// A piece of it goes on, as this leaves it.
    fn passed(&self, _frame: &mut Frame<Bytes>) {}

    /// The body was taken to its end.
    fn done(&self);

    /// The body is malformed or broke off.
    fn failed(&self);

    /// Nothing more of the body is wanted, and this was not read.
    fn left(&mut self, _rest: Incoming) {}
}

/// A request's body on its way to the next hop.
pub struct RequestBody<P: Progress> {
    source: Source,
    gate: Option<Gate<P::Timeout>>,
    progress: P,
}

/// Where a request's body comes from.
enum Source {
    /// The caller.
    Incoming(Incoming),
    /// What the caller sent before, as one piece; empty once that is passed on.
    Again(Bytes),
}

impl<P: Progress> RequestBody<P> {
    /// Passes `incoming` on; nothing for a request that is repeated.
    pub fn new(incoming: Option<Incoming>, progress: P) -> Self {
        let source = incoming.map_or_else(|| Source::Again(Bytes::new()), Source::Incoming);
        Self {
            source,
            gate: None,
            progress,
        }
    }

    /// Passes a whole body on that the caller sent before, for a request that is repeated.
    pub const fn again(body: Bytes, progress: P) -> Self {
        Self {
            source: Source::Again(body),
            gate: None,
            progress,
        }
    }

    /// Where it is noted how the body fares.
    pub const fn progress_mut(&mut self) -> &mut P {
        &mut self.progress
    }
}

impl<P: Progress> Drop for RequestBody<P> {
    fn drop(&mut self) {
        let none = Source::Again(Bytes::new());
        if let Source::Incoming(rest) = std::mem::replace(&mut self.source, none)
            && !rest.is_end_stream()
        {
            self.progress.left(rest);
        }
    }
}

/// Makes `request` wait for `100 Continue`, until `timeout` at the latest, which is first polled
/// when the body is first asked for.
///
/// The caller's own `100 Continue` is sent by hyper as soon as its body is first read.
pub fn await_continue<P: Progress>(request: &mut Request<RequestBody<P>>, timeout: P::Timeout) {
    let gate = Gate::new(request, timeout);
    request.body_mut().gate = Some(gate);
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
        let incoming = match &mut this.source {
            Source::Incoming(incoming) => incoming,
            Source::Again(body) if body.is_empty() => return Poll::Ready(None),
            Source::Again(body) => {
                let mut frame = Frame::data(std::mem::take(body));
                this.progress.passed(&mut frame);
                this.progress.done();
                return Poll::Ready(Some(Ok(frame)));
            }
        };
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        this.progress.asked(polled.is_pending());
        let mut frame = ready!(polled);
        if let Some(Ok(frame)) = &mut frame {
            this.progress.passed(frame);
        }
        // hyper asks for no more than the length that was announced; over HTTP/2 the end itself may come
        // later.
        let is_whole = incoming.is_end_stream() || incoming.size_hint().exact() == Some(0);
        match &frame {
            Some(Ok(frame)) if !frame.is_trailers() && !is_whole => {}
            Some(Err(_)) => this.progress.failed(),
            _ => this.progress.done(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Incoming(incoming) => incoming.is_end_stream(),
            Source::Again(body) => body.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Incoming(incoming) => incoming.size_hint(),
            Source::Again(body) => SizeHint::with_exact(body.len() as u64),
        }
    }
}
