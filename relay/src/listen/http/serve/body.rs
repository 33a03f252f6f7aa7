//! Bodies on their way through the relay: each frame is passed on as it comes, and the end or failure
//! is recorded. Only the frame in flight is buffered, so a slow reader slows its sender.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::source::{Broken, Source};
use crate::listen::http::events::stream::Events;
use crate::listen::http::frontend::held::Piece;
use crate::listen::http::frontend::state::{Cut, State};
use crate::listen::http::gateway::Gateway;
use crate::listen::http::outbound::pool::Lease;

/// An answer's body on its way to the caller.
pub(crate) struct AnswerBody<G: Gateway> {
    content: Content<G>,
    state: Rc<State>,
}

enum Content<G: Gateway> {
    /// The relay's own answer.
    Own(Option<Bytes>),
    Target(Box<TargetBody<G>>),
    /// A target's answer for an HTTP/2 caller; emptied when its stalled stream is given up.
    Stream(Rc<RefCell<Option<Box<TargetBody<G>>>>>),
}

/// Body of a target's answer.
struct TargetBody<G: Gateway> {
    source: Source<G>,
    events: Option<Box<Events<G>>>,
    cut: Cut,
    /// Trailers that wait until the held-back bytes of the event stream have been passed on.
    trailers: Option<Box<Frame<Bytes>>>,
    /// Why the answer broke off, and the number of flushes of the caller's connection at that time.
    failed: Option<(Broken, u64)>,
}

impl<G: Gateway> AnswerBody<G> {
    /// Body of the relay's own answer.
    pub(crate) fn own(body: Bytes, state: Rc<State>) -> Self {
        Self {
            content: Content::Own(Some(body)),
            state,
        }
    }

    /// Body of a target's answer. `lease` gives the connection back at the end; `events` processes an event
    /// stream; `cut` says how an incomplete answer looks to the caller.
    pub(crate) fn target(
        incoming: Incoming,
        events: Option<Events<G>>,
        lease: Lease<G>,
        cut: Cut,
        state: Rc<State>,
    ) -> Self {
        let body = TargetBody {
            source: Source::new(incoming, lease),
            events: events.map(Box::new),
            cut,
            trailers: None,
            failed: None,
        };
        let body = Box::new(body);
        let content = match state.held().filter(|_| state.is_stream()) {
            None => Content::Target(body),
            Some(held) => {
                let body = Rc::new(RefCell::new(Some(body)));
                let kept = Rc::clone(&body);
                held.on_give_up(move || drop(kept.take()));
                Content::Stream(body)
            }
        };
        Self { content, state }
    }
}

impl<G: Gateway> Drop for AnswerBody<G> {
    fn drop(&mut self) {
        // Unwritten pieces keep the `StreamMemory` alive, and its `give_up` holds the target: drop the target now.
        if let Content::Stream(body) = &self.content {
            drop(body.take());
        }
        self.state.answered();
    }
}

impl<G: Gateway> Body for AnswerBody<G> {
    type Data = Piece;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Broken>>> {
        let Self { content, state } = &mut *self;
        let polled = match content {
            Content::Own(body) => {
                let piece = body.take().map(|body| Piece::new(body, state.held()));
                return Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))));
            }
            Content::Target(body) => {
                ready!(poll_room(state, cx));
                ready!(body.poll_frame(cx, state))
            }
            Content::Stream(body) => {
                let mut body = body.borrow_mut();
                let Some(body) = &mut *body else {
                    return Poll::Ready(Some(Err(Broken::Stalled)));
                };
                ready!(poll_room(state, cx));
                ready!(body.poll_frame(cx, state))
            }
        };
        if let Some(Ok(frame)) = &polled {
            state.passed(frame);
        }
        let piece = |bytes| Piece::new(bytes, state.held());
        Poll::Ready(polled.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(body) => body.as_ref().is_none_or(Bytes::is_empty),
            Content::Target(body) => body.is_end_stream(),
            Content::Stream(body) => body.borrow().as_ref().is_some_and(|it| it.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(body) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
            Content::Target(body) => body.size_hint(),
            Content::Stream(body) => {
                let body = body.borrow();
                body.as_ref()
                    .map_or_else(SizeHint::default, |it| it.size_hint())
            }
        }
    }
}

/// Ready once there is memory for another piece of the answer.
fn poll_room(state: &State, cx: &Context<'_>) -> Poll<()> {
    state
        .held()
        .map_or(Poll::Ready(()), |held| held.poll_room(cx))
}

impl<G: Gateway> TargetBody<G> {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        state: &State,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(*trailers)));
        }
        while self.failed.is_none() {
            match self.events.as_mut().map(|events| events.next()) {
                Some(Ok(Some(bytes))) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Err(error)) => {
                    self.failed = Some((error.into(), state.flushes()));
                    state.await_flush(cx);
                    break;
                }
                Some(Ok(None)) | None => {}
            }
            let Poll::Ready(polled) = self.source.poll_frame(cx) else {
                let Some(events) = &mut self.events else {
                    return Poll::Pending;
                };
                let comment = ready!(events.poll_quiet(cx));
                return Poll::Ready(Some(Ok(Frame::data(comment))));
            };
            match polled {
                Some(Ok(frame)) => {
                    let Some(events) = &mut self.events else {
                        return Poll::Ready(Some(Ok(frame)));
                    };
                    match frame.into_data() {
                        Ok(piece) => events.push(piece),
                        Err(trailers) => {
                            let rest = events.rest();
                            if rest.is_empty() {
                                return Poll::Ready(Some(Ok(trailers)));
                            }
                            self.trailers = Some(Box::new(trailers));
                            return Poll::Ready(Some(Ok(Frame::data(rest))));
                        }
                    }
                }
                None => return Poll::Ready(self.rest().map(Ok)),
                Some(Err(error)) => {
                    self.failed = Some((error, state.flushes()));
                    state.await_flush(cx);
                    if let Some(rest) = self.rest() {
                        return Poll::Ready(Some(Ok(rest)));
                    }
                }
            }
        }
        // hyper discards unwritten bytes when a body fails, so it gets the error only after a flush:
        // the caller receives all bytes that the target sent.
        match self
            .failed
            .take_if(|(_, flushes)| *flushes < state.flushes())
        {
            Some((error, _)) => {
                state.set_cut(self.cut);
                Poll::Ready(Some(Err(error)))
            }
            None => Poll::Pending,
        }
    }

    /// Held-back bytes of an event stream.
    fn rest(&mut self) -> Option<Frame<Bytes>> {
        let rest = self.events.as_mut()?.rest();
        (!rest.is_empty()).then(|| Frame::data(rest))
    }

    fn size_hint(&self) -> SizeHint {
        match self.events {
            Some(_) => SizeHint::default(),
            None => self.source.size_hint(),
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_holding = self.events.as_ref().is_some_and(|it| it.is_holding());
        self.source.is_end_stream() && self.trailers.is_none() && !is_holding
    }
}
