//! An event stream read directly from its session, without hyper's client: while it is quiet it needs
//! almost no memory.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use hyper::rt::{Read, ReadBuf, Write};

use super::callers::Presented;
use super::chunks::{Chunks, Malformed};
use super::{Gateway, HTTP_BUFFER_BYTES_MAX};

/// Size of one read.
const READ_BYTES: usize = 16 * 1024;

/// Trailer limit: hyper's default limit for header fields.
const TRAILERS_MAX: usize = 100;

/// A chunked body on a session. Dropping it before its end resets the session.
pub(super) struct Direct<G: Gateway> {
    stream: G::Stream,
    chunks: Chunks,
    /// Bytes after the last chunk: the trailers.
    tail: Vec<u8>,
    is_malformed: bool,
    is_over: bool,
    /// Keeps the caller registered, so that a revocation ends the stream.
    _presented: Rc<Presented<G>>,
}

impl<G: Gateway> Direct<G> {
    /// Continues a body at the position `chunks`.
    pub(super) const fn new(
        stream: G::Stream,
        chunks: Chunks,
        presented: Rc<Presented<G>>,
    ) -> Self {
        Self {
            stream,
            chunks,
            tail: Vec::new(),
            is_malformed: false,
            is_over: false,
            _presented: presented,
        }
    }

    /// Whether the body is complete.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if self.is_over {
                return Poll::Ready(None);
            }
            if self.is_malformed {
                return Poll::Ready(Some(Err(malformed())));
            }
            if let Some(trailers) = self.trailers()? {
                // Ends the session in order: only a new request could follow. A failure to tell the target
                // does not matter.
                let _told = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
                self.is_over = true;
                let frame = (!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers)));
                return Poll::Ready(frame);
            }
            let data = ready!(self.poll_data(cx))?;
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    /// Reads once; empty if the read brought no data bytes.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let mut bytes = [MaybeUninit::uninit(); READ_BYTES];
        let mut read = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut self.stream).poll_read(cx, read.unfilled()))?;
        let mut rest = read.filled();
        if rest.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut data = BytesMut::new();
        loop {
            match self.chunks.next(&mut rest) {
                Ok(Some(piece)) => data.extend_from_slice(piece),
                Ok(None) => break,
                // The data in front of the error is passed on first.
                Err(Malformed) => {
                    self.is_malformed = true;
                    break;
                }
            }
        }
        self.tail.extend_from_slice(rest);
        Poll::Ready(Ok(data.freeze()))
    }

    /// The trailers, once they are complete.
    fn trailers(&self) -> io::Result<Option<HeaderMap>> {
        if !self.chunks.is_over() {
            return Ok(None);
        }
        let mut lines = [httparse::EMPTY_HEADER; TRAILERS_MAX];
        let Ok(parsed) = httparse::parse_headers(&self.tail, &mut lines) else {
            return Err(malformed());
        };
        let httparse::Status::Complete((_, lines)) = parsed else {
            let is_long = self.tail.len() >= HTTP_BUFFER_BYTES_MAX;
            return if is_long { Err(malformed()) } else { Ok(None) };
        };
        let field = |line: &httparse::Header<'_>| {
            let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(line.value).ok()?))
        };
        let fields: Option<HeaderMap> = lines.iter().map(field).collect();
        fields.map(Some).ok_or_else(malformed)
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Malformed)
}
