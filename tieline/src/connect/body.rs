//! Answer bodies on their way through the proxy: passed on frame by frame, with the end and any failure recorded.
//! The proxy holds only the frame in flight, so a slow reader slows its sender.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tieline_hop::events::Events;

use super::caller::State;
use super::pool::Lease;
use super::rewrite::Endpoint;

/// An answer's body on its way to the caller.
pub(super) struct AnswerBody {
    content: Content,
    state: Arc<State>,
}

enum Content {
    /// Body of an answer by the proxy itself.
    Own(Option<Bytes>),
    Relay(RelayBody),
}

/// Body of a relay's answer, and the connection that it arrives on.
struct RelayBody {
    incoming: Incoming,
    /// Finds and maps endpoint URLs in an event stream; `None` for other bodies.
    events: Option<Box<(Events, Endpoint)>>,
    /// Trailers to send after event-stream bytes that were held back.
    trailers: Option<Box<Frame<Bytes>>>,
    lease: Option<Lease>,
    /// True if the caller could take a plain close of its connection for the answer's end.
    is_cut_hidden: bool,
    /// Why the answer broke off, and the flush count of the caller's connection at that time.
    failed: Option<(Broken, u64)>,
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The relay's connection ended, or what it sent is not HTTP.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// The event stream does not match its `Content-Encoding`.
    #[error(transparent)]
    Coding(#[from] io::Error),
}

impl AnswerBody {
    /// Body of the proxy's own answer.
    pub(super) fn own(body: Bytes, state: Arc<State>) -> Self {
        Self {
            content: Content::Own(Some(body)),
            state,
        }
    }

    /// Body of the relay's answer. `lease` returns the relay's connection to the pool at the end.
    pub(super) fn relay(
        incoming: Incoming,
        events: Option<(Events, Endpoint)>,
        lease: Lease,
        is_cut_hidden: bool,
        state: Arc<State>,
    ) -> Self {
        let body = RelayBody {
            incoming,
            events: events.map(Box::new),
            trailers: None,
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
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        match &mut this.content {
            Content::Own(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Content::Relay(body) => body.poll_frame(cx, &this.state),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(body) => body.as_ref().is_none_or(Bytes::is_empty),
            Content::Relay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(body) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
            Content::Relay(body) if body.events.is_some() => SizeHint::default(),
            Content::Relay(body) => body.incoming.size_hint(),
        }
    }
}

impl RelayBody {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        state: &State,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(*trailers)));
        }
        while self.failed.is_none() {
            match self.next_of_stream() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) => {}
                Err(error) => {
                    self.fail(error.into(), cx, state);
                    break;
                }
            }
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if frame.is_trailers() || self.incoming.is_end_stream() {
                        self.finish();
                    }
                    if let Some(frame) = self.pass(frame) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
                None => {
                    self.finish();
                    return Poll::Ready(self.rest().map(Ok));
                }
                Some(Err(error)) => {
                    self.fail(error.into(), cx, state);
                    if let Some(rest) = self.rest() {
                        return Poll::Ready(Some(Ok(rest)));
                    }
                }
            }
        }
        // When a body fails, hyper discards bytes that it has not written yet. hyper learns of the failure
        // only after a flush, so that the caller gets all that the relay sent.
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

    fn fail(&mut self, error: Broken, cx: &Context<'_>, state: &State) {
        self.lease = None;
        self.failed = Some((error, state.flushes()));
        // Wake once: hyper flushes after this turn, and must then poll again.
        cx.waker().wake_by_ref();
    }

    /// The next event-stream bytes that are ready for the caller.
    fn next_of_stream(&mut self) -> io::Result<Option<Bytes>> {
        match self.events.as_deref_mut() {
            Some((events, endpoint)) => events.next(|url| endpoint.path(url)),
            None => Ok(None),
        }
    }

    /// Returns what can go to the caller at once; event-stream data goes to the parser instead.
    fn pass(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let Some((events, _)) = self.events.as_deref_mut() else {
            return Some(frame);
        };
        match frame.into_data() {
            Ok(piece) => {
                events.push(piece);
                None
            }
            Err(trailers) => {
                let rest = events.rest();
                if rest.is_empty() {
                    return Some(trailers);
                }
                self.trailers = Some(Box::new(trailers));
                Some(Frame::data(rest))
            }
        }
    }

    /// Returns the bytes that the parser still holds back when an event stream has ended.
    fn rest(&mut self) -> Option<Frame<Bytes>> {
        let rest = self.events.as_deref_mut()?.0.rest();
        (!rest.is_empty()).then(|| Frame::data(rest))
    }

    fn is_end_stream(&self) -> bool {
        let is_holding = self.events.as_ref().is_some_and(|it| it.0.is_holding());
        self.incoming.is_end_stream() && self.trailers.is_none() && !is_holding
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }
}

impl Drop for RelayBody {
    fn drop(&mut self) {
        // hyper does not poll for the end of a body whose length it knows.
        if self.failed.is_none() && self.incoming.is_end_stream() {
            self.finish();
        }
    }
}
