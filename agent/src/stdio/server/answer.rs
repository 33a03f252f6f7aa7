//! The answer to one request, as the body of an HTTP response.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tieline_bridge::{ExchangeId, Request, ResponseHead};

use super::queue::{Broken, Pieces, Queue};
use super::room::Place;
use super::state::Shared;

/// An answer under way. If it is dropped before its end, its caller has left, which the bridge hears.
#[derive(Debug)]
pub(super) struct Answer {
    shared: Arc<Shared>,
    exchange: ExchangeId,
    queue: Arc<Queue>,
}

impl Answer {
    /// Hands a request to the bridge.
    pub(super) fn begin(shared: Arc<Shared>, request: Request, place: Place) -> Self {
        let (exchange, queue) = shared.request(request, place);
        Self {
            shared,
            exchange,
            queue,
        }
    }

    /// Waits for the head. A wait that is given up loses nothing.
    ///
    /// # Errors
    /// [`Broken`] if there will be none.
    pub(super) async fn head(&self) -> Result<ResponseHead, Broken> {
        poll_fn(|context| self.queue.poll_head(context)).await
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let is_complete = self.queue.leave();
        if !is_complete {
            self.shared.caller_left(self.exchange);
        }
    }
}

/// Body of a response.
#[derive(Debug)]
pub(super) enum AnswerBody {
    /// A text; empty once it was taken.
    Text(Bytes),
    /// What the bridge answers.
    Answer(Answer),
}

impl Body for AnswerBody {
    type Data = Pieces;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Pieces>, Broken>>> {
        match self.get_mut() {
            Self::Text(text) if text.is_empty() => Poll::Ready(None),
            Self::Text(text) => {
                let pieces = Pieces::from(std::mem::take(text));
                Poll::Ready(Some(Ok(Frame::data(pieces))))
            }
            Self::Answer(answer) => answer.queue.poll_pieces(context).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.left().and_then(|left| u64::try_from(left).ok());
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl AnswerBody {
    /// Bytes left, if all of them are there; a response then has a `Content-Length`.
    fn left(&self) -> Option<usize> {
        match self {
            Self::Text(text) => Some(text.len()),
            Self::Answer(answer) => answer.queue.left(),
        }
    }
}
