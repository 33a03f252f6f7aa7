//! Follows what hyper's client reads from and writes to a target, so that an event stream can continue
//! without hyper.
//!
//! hyper keeps about 24 KiB per connection as long as it lives, and an event stream may be quiet for
//! hours.

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

/// Header field limit of an answer that is inspected.
const HEADERS_MAX: usize = 64;

/// State of one connection and of its current request.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// Number of reads since the request began that returned bytes or the end.
    reads: Cell<u64>,
    reason: Cell<Option<Reason>>,
    /// The session ended before its target received a byte.
    is_not_sent: Cell<bool>,
    request_done: Cell<bool>,
    request_failed: Cell<bool>,
    /// Whether some of the request was written (`is_begun`), and all of it (`is_sent`).
    is_begun: Cell<bool>,
    is_sent: Cell<bool>,
    /// Bytes written to the session in total, and when the current request began.
    written: Cell<u64>,
    began_at: Cell<u64>,
    answer: Cell<Answer>,
}

/// Part of the answer that hyper has read.
#[derive(Clone, Copy, Debug, Default)]
enum Answer {
    #[default]
    Nothing,
    /// The head of an event stream, and `data` bytes of its body.
    Events { chunks: Chunks, data: u64 },
    /// Any other answer, or an answer that hyper has to finish.
    Other,
}

impl Track {
    /// Starts the next request.
    pub(super) fn begin(&self, has_body: bool) {
        self.reads.set(0);
        self.request_done.set(!has_body);
        self.request_failed.set(false);
        self.is_begun.set(false);
        self.is_sent.set(false);
        self.began_at.set(self.written.get());
        self.answer.set(Answer::Nothing);
    }

    /// Whether no byte of the request is among the first `bytes` of the session.
    pub(super) fn is_behind(&self, bytes: u64) -> bool {
        bytes <= self.began_at.get()
    }

    /// Records the outcome of a write to the session.
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

    /// Why the session ended, if the session gave a reason.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.reason.get()
    }

    /// Whether the target may have received the request.
    pub(super) fn delivery(&self) -> Delivery {
        match self.is_not_sent.get() {
            true => Delivery::NotSent,
            false => Delivery::Sent,
        }
    }

    /// Records that the request's body was read to its end.
    pub(super) fn request_done(&self) {
        self.request_done.set(true);
    }

    pub(super) fn is_request_done(&self) -> bool {
        self.request_done.get()
    }

    /// Records that the request's body is malformed or incomplete.
    pub(super) fn request_failed(&self) {
        self.request_failed.set(true);
    }

    pub(super) fn is_request_failed(&self) -> bool {
        self.request_failed.get()
    }

    /// Follows bytes of the answer that hyper reads.
    fn follow(&self, bytes: &[u8]) {
        let answer = match self.answer.get() {
            Answer::Nothing => event_stream(bytes).map(|body| after(Chunks::default(), 0, body)),
            Answer::Events { chunks, data } => Some(after(chunks, data, bytes)),
            Answer::Other => None,
        };
        // An empty read is the end of the session, which hyper handles.
        let goes_on = answer.filter(|_| !bytes.is_empty());
        self.answer.set(goes_on.unwrap_or(Answer::Other));
    }

    /// Position in an event stream, if hyper has sent the whole request and has delivered all data that it
    /// read; `passed` counts the delivered data.
    pub(super) fn settled(&self, passed: u64) -> Option<Chunks> {
        match self.answer.get() {
            Answer::Events { chunks, data } if data == passed && self.is_sent.get() => Some(chunks),
            _ => None,
        }
    }
}

/// The body after the head of a chunked event stream. `None` if the head comes in several reads: such a
/// stream stays with hyper.
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

/// The stream to a target, shared by hyper and the task that waits for the answer.
pub(super) struct Line<S>(Rc<RefCell<Option<S>>>);

impl<S> Line<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Rc::new(RefCell::new(Some(stream))))
    }

    /// The part that hyper reads and writes.
    pub(super) fn tap(&self, track: &Rc<Track>, held: &Rc<Held>) -> Tap<S> {
        Tap {
            stream: Rc::clone(&self.0),
            track: Rc::clone(track),
            held: Rc::clone(held),
        }
    }

    /// Takes the stream away from hyper; drop hyper's connection afterwards.
    pub(super) fn take(&self) -> Option<S> {
        self.0.take()
    }
}

/// The stream to a target as hyper reads and writes it.
pub(super) struct Tap<S> {
    stream: Rc<RefCell<Option<S>>>,
    track: Rc<Track>,
    /// Limits the size of one read: hyper grows its buffer only after a read has filled it.
    held: Rc<Held>,
}

impl<S> Tap<S> {
    /// Runs `act` on the stream; pending forever once the stream was taken.
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
        // hyper flushes only after it has written all of its buffered bytes. It buffers a request's last
        // bytes before it reports the request as done, and its first bytes before the first write.
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
