//! What hyper's client reads and writes of a connection to a target, and how far it has come: so
//! that an event stream can go on without it.
//!
//! hyper keeps some 24 KiB for a connection as long as it lives, and an event stream lives for
//! hours in which nothing comes.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use tieline_hop::Delivery;
use tieline_wire::Reason;

use super::SessionEnded;
use super::chunks::Chunks;
use super::held::Held;
use crate::io::poll_read_through;

/// Header lines of an answer that is looked at.
const HEADERS_MAX: usize = 64;

/// What is known about one connection and the request on it.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// Reads that brought bytes or the end, since the request began.
    reads: Cell<u64>,
    reason: Cell<Option<Reason>>,
    /// The session ended before its target had a byte of it.
    is_not_sent: Cell<bool>,
    request_done: Cell<bool>,
    request_failed: Cell<bool>,
    /// Some of the request was written; all of it was.
    is_begun: Cell<bool>,
    is_sent: Cell<bool>,
    /// Bytes that were written to the session, and how many of them were so when the request began.
    written: Cell<u64>,
    began_at: Cell<u64>,
    answer: Cell<Answer>,
}

/// What hyper has read of the answer.
#[derive(Clone, Copy, Debug, Default)]
enum Answer {
    #[default]
    Nothing,
    /// The head of an event stream, and so much of its body.
    Events { chunks: Chunks, data: u64 },
    /// Something that is hyper's affair.
    Other,
}

impl Track {
    /// The next request begins.
    pub(super) fn begin(&self, has_body: bool) {
        self.reads.set(0);
        self.request_done.set(!has_body);
        self.request_failed.set(false);
        self.is_begun.set(false);
        self.is_sent.set(false);
        self.began_at.set(self.written.get());
        self.answer.set(Answer::Nothing);
    }

    /// Whether none of the request is among the first so many `bytes` of the session.
    pub(super) fn is_behind(&self, bytes: u64) -> bool {
        bytes <= self.began_at.get()
    }

    /// hyper writes, and so many bytes of that were taken.
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(outcome) = polled {
            self.is_begun.set(true);
            let count = outcome.as_ref().map_or(0, |count| *count as u64);
            self.written.set(self.written.get() + count);
        }
    }

    pub(super) fn note(&self, noted: Result<(), &io::Error>) {
        match noted {
            Ok(()) => self.reads.set(self.reads.get() + 1),
            Err(error) => {
                if let Some(ended) = SessionEnded::of(error) {
                    self.reason.set(Some(ended.reason));
                    self.is_not_sent.set(ended.is_not_sent);
                }
            }
        }
    }

    pub(super) fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Why the session ended, if it said so.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.reason.get()
    }

    /// Whether the target may have had the request.
    pub(super) fn delivery(&self) -> Delivery {
        match self.is_not_sent.get() {
            true => Delivery::NotSent,
            false => Delivery::Sent,
        }
    }

    /// The request's body was taken to its end.
    pub(super) fn request_done(&self) {
        self.request_done.set(true);
    }

    pub(super) fn is_request_done(&self) -> bool {
        self.request_done.get()
    }

    /// The request's body is malformed or broke off.
    pub(super) fn request_failed(&self) {
        self.request_failed.set(true);
    }

    pub(super) fn is_request_failed(&self) -> bool {
        self.request_failed.get()
    }

    /// hyper reads these bytes.
    fn follow(&self, bytes: &[u8]) {
        let answer = match self.answer.get() {
            Answer::Nothing => event_stream(bytes).map(|body| after(Chunks::default(), 0, body)),
            Answer::Events { chunks, data } => Some(after(chunks, data, bytes)),
            Answer::Other => None,
        };
        // Its end is hyper's to judge.
        let goes_on = answer.filter(|_| !bytes.is_empty());
        self.answer.set(goes_on.unwrap_or(Answer::Other));
    }

    /// Where in an event stream hyper is, if it holds nothing: neither of the request nor of the
    /// answer, of which it has given out so many bytes of data.
    pub(super) fn settled(&self, passed: u64) -> Option<Chunks> {
        match self.answer.get() {
            Answer::Events { chunks, data } if data == passed && self.is_sent.get() => Some(chunks),
            _ => None,
        }
    }
}

/// The body behind the head of an event stream in chunks. One whose head comes in pieces is no
/// loss: it is hyper's then.
fn event_stream(answer: &[u8]) -> Option<&[u8]> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(len)) = head.parse(answer) else {
        return None;
    };
    let is = |name: &str, fits: fn(&[u8]) -> bool| {
        let mut named = head.headers.iter();
        let mut named = named
            .by_ref()
            .filter(|it| it.name.eq_ignore_ascii_case(name));
        named.next().is_some_and(|it| fits(it.value)) && named.next().is_none()
    };
    let is_events = head.version == Some(1)
        && is("transfer-encoding", |it| {
            it.eq_ignore_ascii_case(b"chunked")
        })
        && is("content-type", |it| {
            let media = it.split(|byte| *byte == b';').next();
            media.is_some_and(|it| it.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
        });
    is_events.then(|| &answer[len..])
}

fn after(mut chunks: Chunks, mut data: u64, mut bytes: &[u8]) -> Answer {
    loop {
        match chunks.next(&mut bytes) {
            Ok(Some(piece)) => data += piece.len() as u64,
            Ok(None) if !chunks.is_over() => return Answer::Events { chunks, data },
            Ok(None) | Err(_) => return Answer::Other,
        }
    }
}

/// The stream to a target, held by hyper and by whoever waits for its answer.
pub(super) struct Line<S>(Rc<RefCell<Option<S>>>);

impl<S> Line<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Rc::new(RefCell::new(Some(stream))))
    }

    /// What hyper is given of it.
    pub(super) fn tap(&self, track: &Rc<Track>, held: &Rc<Held>) -> Tap<S> {
        Tap {
            stream: Rc::clone(&self.0),
            track: Rc::clone(track),
            held: Rc::clone(held),
        }
    }

    /// Takes the stream away from hyper, which is to be dropped then.
    pub(super) fn take(&self) -> Option<S> {
        self.0.take()
    }
}

/// The stream to a target as hyper reads and writes it.
pub(super) struct Tap<S> {
    stream: Rc<RefCell<Option<S>>>,
    track: Rc<Track>,
    /// Says how much one read may bring: hyper makes its buffer no longer than what reads fill.
    held: Rc<Held>,
}

impl<S> Tap<S> {
    /// Once the stream is taken there is nothing more to be had.
    fn with<T>(&self, act: impl FnOnce(&mut S) -> Poll<T>) -> Poll<T> {
        self.stream.borrow_mut().as_mut().map_or(Poll::Pending, act)
    }
}

impl<S: Read + Unpin> Read for Tap<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let max = self.held.read_bytes_max();
        if matches!(self.track.answer.get(), Answer::Other) {
            let pass = |bytes: &mut [u8]| bytes.len();
            return self.with(|stream| poll_read_through(stream, cx, &mut buf, max, pass));
        }
        let follow = |bytes: &mut [u8]| {
            self.track.follow(bytes);
            bytes.len()
        };
        let polled = self.with(|stream| poll_read_through(stream, cx, &mut buf, max, follow));
        if matches!(polled, Poll::Ready(Err(_))) {
            self.track.follow(&[]);
        }
        polled
    }
}

impl<S: Write + Unpin> Write for Tap<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.with(|stream| Pin::new(stream).poll_write(cx, bytes));
        self.track.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream
            .borrow()
            .as_ref()
            .is_some_and(Write::is_write_vectored)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = self.with(|stream| Pin::new(stream).poll_write_vectored(cx, slices));
        self.track.wrote(&polled);
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.with(|stream| Pin::new(stream).poll_flush(cx));
        // hyper flushes only after it has written all that it had; a request's end it has before
        // it hears of that, and its beginning once something was written.
        let track = &self.track;
        if polled.is_ready() && track.is_begun.get() && track.request_done.get() {
            track.is_sent.set(true);
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| Pin::new(stream).poll_shutdown(cx))
    }
}
