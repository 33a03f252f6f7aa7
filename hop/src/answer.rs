//! An answer's body on its way to the caller: each frame is passed on as it comes, and a failure on one side ends
//! the other. Only the frame in flight is kept, so a slow caller slows the next hop.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// How the end of an incomplete answer looks to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A plain close shows that the answer is incomplete.
    Visible,
    /// A plain close would look like the answer's end.
    Hidden,
}

/// Why an answer is incomplete.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The connection to the next hop ended, or what came over it is not HTTP.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// The event stream does not match its `Content-Encoding`.
    #[error(transparent)]
    Stream(#[from] io::Error),
    /// The hop has given the answer up.
    #[error("the caller took nothing of the answer for too long")]
    Stalled,
}

/// The caller's side of an answer: the connection, or the stream of HTTP/2, that the answer goes to.
pub trait Reader: 'static {
    /// Bytes of the answer as hyper holds them until they are written.
    type Piece: Buf;

    /// Hands bytes of the answer to hyper.
    fn piece(&self, bytes: Bytes) -> Self::Piece;

    /// Ready once there is memory for another piece.
    fn poll_room(&self, _cx: &Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Counts a frame that goes to the caller.
    fn passed(&self, _frame: &Frame<Bytes>) {}

    /// Number of flushes: hyper flushes after it has written all of its buffered bytes.
    fn flushes(&self) -> u64;

    /// Has hyper flush, and wakes this task afterwards.
    fn await_flush(&self, cx: &Context<'_>);

    /// Records how the end of the answer that begins would look if the answer were incomplete.
    fn begins(&self, _cut: Cut) {}

    /// Records that the answer broke off.
    fn set_cut(&self, cut: Cut);

    /// Records that hyper has the whole answer, or has dropped it.
    fn answered(&self);

    /// Whether the hop may give an answer up before hyper drops it.
    fn may_give_up(&self) -> bool {
        false
    }

    /// Keeps what drops the answer.
    fn on_give_up(&self, _give_up: impl FnOnce() + 'static) {}
}

/// The connection that an answer comes over. Dropping it closes the connection.
pub trait Lend: 'static {
    /// Gives the connection back after the whole answer.
    fn finish(self);
}

/// An event stream that is changed on its way to the caller.
pub trait EventStream: 'static {
    /// Takes bytes from the next hop, after [`EventStream::next`] has yielded those before.
    fn push(&mut self, piece: Bytes);

    /// The next bytes for the caller; `None` if more from the next hop are needed.
    ///
    /// # Errors
    /// The stream is not coded as its head says.
    fn next(&mut self) -> io::Result<Option<Bytes>>;

    /// The held-back bytes of a stream that has ended.
    fn rest(&mut self) -> Bytes;

    /// Whether bytes are held back.
    fn is_holding(&self) -> bool;

    /// Resolves with bytes for the caller while the next hop sends nothing.
    fn poll_quiet(&mut self, _cx: &mut Context<'_>) -> Poll<Bytes> {
        Poll::Pending
    }
}

/// An answer's body on its way to the caller `R`, over a connection lent as `L`.
pub struct AnswerBody<R: Reader, L: Lend, E: EventStream> {
    content: Content<L, E>,
    reader: Rc<R>,
}

type Boxed<L, E> = Box<PassedBody<L, E>>;

enum Content<L: Lend, E: EventStream> {
    /// The hop's own answer.
    Own(Option<Bytes>),
    Passed(Boxed<L, E>),
    /// An answer that may be given up, which empties the cell.
    Abandonable(Rc<RefCell<Option<Boxed<L, E>>>>),
}

impl<R: Reader, L: Lend, E: EventStream> AnswerBody<R, L, E> {
    /// Body of the hop's own answer.
    pub const fn own(body: Bytes, reader: Rc<R>) -> Self {
        Self {
            content: Content::Own(Some(body)),
            reader,
        }
    }

    /// Empties the body of the hop's own answer, and returns the length that it had, in bytes. Leaves the next hop's
    /// answer as it is, of which hyper's client reads no body after HEAD.
    pub fn empty_own(&mut self) -> usize {
        match &mut self.content {
            Content::Own(body) => body.take().map_or(0, |body| body.len()),
            Content::Passed(_) | Content::Abandonable(_) => 0,
        }
    }

    /// Body of the next hop's answer. `lease` gives the connection back at the end; `events` changes an event stream;
    /// `version` is that of the request: over HTTP/1.0, an answer of unknown length ends with the connection.
    pub fn passed(
        incoming: Incoming,
        events: Option<E>,
        lease: L,
        version: Version,
        reader: Rc<R>,
    ) -> Self {
        // The length of a changed event stream is unknown.
        let is_delimited = incoming.size_hint().exact().is_some() && events.is_none();
        let cut = match is_delimited || version != Version::HTTP_10 {
            true => Cut::Visible,
            false => Cut::Hidden,
        };
        reader.begins(cut);
        let body = Box::new(PassedBody {
            incoming,
            lease: Some(lease),
            events: events.map(Box::new),
            cut,
            trailers: None,
            failed: None,
        });
        let content = if reader.may_give_up() {
            let body = Rc::new(RefCell::new(Some(body)));
            let kept = Rc::clone(&body);
            reader.on_give_up(move || drop(kept.take()));
            Content::Abandonable(body)
        } else {
            Content::Passed(body)
        };
        Self { content, reader }
    }
}

impl<R: Reader, L: Lend, E: EventStream> Drop for AnswerBody<R, L, E> {
    fn drop(&mut self) {
        // Unwritten pieces may keep what gives the answer up, and with it the body: drop the body now.
        let body = match std::mem::replace(&mut self.content, Content::Own(None)) {
            Content::Own(_) => None,
            Content::Passed(body) => Some(body),
            Content::Abandonable(body) => body.take(),
        };
        // hyper has dropped the rest of the answer, because the caller has ended its direction or is gone.
        if let Some(body) = body
            && body.lease.is_some()
            && body.cut == Cut::Hidden
        {
            self.reader.set_cut(Cut::Hidden);
        }
        self.reader.answered();
    }
}

impl<R: Reader, L: Lend, E: EventStream> Body for AnswerBody<R, L, E> {
    type Data = R::Piece;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Piece>, Broken>>> {
        let Self { content, reader } = &mut *self;
        let polled = match content {
            Content::Own(body) => {
                let piece = body.take().map(|body| reader.piece(body));
                return Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))));
            }
            Content::Passed(body) => {
                ready!(reader.poll_room(cx));
                ready!(body.poll_frame(cx, &**reader))
            }
            Content::Abandonable(body) => {
                let mut body = body.borrow_mut();
                let Some(body) = &mut *body else {
                    return Poll::Ready(Some(Err(Broken::Stalled)));
                };
                ready!(reader.poll_room(cx));
                ready!(body.poll_frame(cx, &**reader))
            }
        };
        if let Some(Ok(frame)) = &polled {
            reader.passed(frame);
        }
        let piece = |bytes| reader.piece(bytes);
        Poll::Ready(polled.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(body) => body.as_ref().is_none_or(Bytes::is_empty),
            Content::Passed(body) => body.is_end_stream(),
            Content::Abandonable(body) => {
                body.borrow().as_ref().is_some_and(|it| it.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(body) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
            Content::Passed(body) => body.size_hint(),
            Content::Abandonable(body) => {
                let body = body.borrow();
                body.as_ref()
                    .map_or_else(SizeHint::default, |it| it.size_hint())
            }
        }
    }
}

/// Body of the next hop's answer.
struct PassedBody<L: Lend, E: EventStream> {
    incoming: Incoming,
    /// Ends with the body.
    lease: Option<L>,
    events: Option<Box<E>>,
    cut: Cut,
    /// Trailers that wait until the held-back bytes of the event stream have been passed on.
    trailers: Option<Box<Frame<Bytes>>>,
    /// Why the answer broke off, and the number of flushes of the caller's connection at that time.
    failed: Option<(Broken, u64)>,
}

impl<L: Lend, E: EventStream> PassedBody<L, E> {
    fn poll_frame<R: Reader>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &R,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(*trailers)));
        }
        while self.failed.is_none() {
            match self.events.as_mut().map(|events| events.next()) {
                Some(Ok(Some(bytes))) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Err(error)) => {
                    self.fail(error.into(), cx, reader);
                    break;
                }
                Some(Ok(None)) | None => {}
            }
            let Poll::Ready(polled) = Pin::new(&mut self.incoming).poll_frame(cx) else {
                let Some(events) = &mut self.events else {
                    return Poll::Pending;
                };
                let comment = ready!(events.poll_quiet(cx));
                return Poll::Ready(Some(Ok(Frame::data(comment))));
            };
            match polled {
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
                    self.fail(error.into(), cx, reader);
                    if let Some(rest) = self.rest() {
                        return Poll::Ready(Some(Ok(rest)));
                    }
                }
            }
        }
        // hyper discards unwritten bytes when a body fails, so it gets the error only after a flush: the caller
        // receives all bytes that the next hop sent.
        let flushes = reader.flushes();
        match self.failed.take_if(|(_, before)| *before < flushes) {
            Some((error, _)) => {
                reader.set_cut(self.cut);
                Poll::Ready(Some(Err(error)))
            }
            None => Poll::Pending,
        }
    }

    fn fail(&mut self, error: Broken, cx: &Context<'_>, reader: &impl Reader) {
        self.lease = None;
        self.failed = Some((error, reader.flushes()));
        reader.await_flush(cx);
    }

    /// What of a frame goes on at once; bytes of an event stream are changed first.
    fn pass(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let Some(events) = &mut self.events else {
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

    /// Held-back bytes of an event stream.
    fn rest(&mut self) -> Option<Frame<Bytes>> {
        let rest = self.events.as_mut()?.rest();
        (!rest.is_empty()).then(|| Frame::data(rest))
    }

    fn size_hint(&self) -> SizeHint {
        match self.events {
            Some(_) => SizeHint::default(),
            None => self.incoming.size_hint(),
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_holding = self.events.as_ref().is_some_and(|it| it.is_holding());
        self.incoming.is_end_stream() && self.trailers.is_none() && !is_holding
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }
}

impl<L: Lend, E: EventStream> Drop for PassedBody<L, E> {
    fn drop(&mut self) {
        // hyper does not poll for the end of a body of known length.
        if self.incoming.is_end_stream() {
            self.finish();
        }
    }
}
