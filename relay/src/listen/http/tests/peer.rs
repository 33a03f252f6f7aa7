//! Scripted far ends of connections: callers and targets.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tieline_wire::SessionEnd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use crate::io::Liveness;
use crate::session::SessionEnded;

/// How a session ended, on both sides.
#[derive(Default)]
pub(super) struct SessionState {
    /// Reason of a reset by the target's side.
    pub(super) reset: Cell<Option<SessionEnd>>,
    /// Whether the relay's side ended with a reset; `None` until the relay's end is dropped.
    pub(super) relay_reset: Cell<Option<bool>>,
    pub(super) is_shut: Cell<bool>,
}

/// The relay's end of a session.
pub(super) struct Session {
    pub(super) io: DuplexStream,
    pub(super) end: Rc<SessionState>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end.relay_reset.set(Some(!self.end.is_shut.get()));
    }
}

impl Read for Session {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 8192];
        let room = buf.remaining().min(bytes.len());
        let mut read = tokio::io::ReadBuf::new(&mut bytes[..room]);
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        match self.end.reset.get() {
            Some(reason) if read.filled().is_empty() => Poll::Ready(Err(SessionEnded {
                reason,
                is_not_sent: false,
            }
            .into())),
            _ => {
                buf.put_slice(read.filled());
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl Write for Session {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end.is_shut.set(true);
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The relay's end of a caller's connection.
pub(super) struct CallerStream {
    pub(super) io: TokioIo<DuplexStream>,
    pub(super) end: Rc<SessionState>,
}

impl Liveness for CallerStream {
    fn is_broken(&self) -> bool {
        self.end.reset.get().is_some()
    }
}

impl Read for CallerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for CallerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
}

/// The far end of a connection: a caller or a target.
pub(super) struct Peer {
    pub(super) io: Option<DuplexStream>,
    pub(super) end: Rc<SessionState>,
}

impl Peer {
    pub(super) fn io(&mut self) -> &mut DuplexStream {
        self.io.as_mut().unwrap()
    }

    pub(super) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.io().write_all(text.as_ref()).await.unwrap();
    }

    /// Reads up to and including `end`.
    pub(super) async fn until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            match self.io().read_u8().await {
                Ok(byte) => bytes.push(byte),
                Err(_) => panic!("closed after {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Reads the next head, without the fields that the relay adds to every request or answer.
    pub(super) async fn head(&mut self) -> String {
        without_forwarded(&self.whole_head().await)
    }

    pub(super) async fn whole_head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads exactly `text`, ignoring the field that the relay adds to every answer.
    pub(super) async fn expect(&mut self, text: impl AsRef<[u8]>) {
        let expected = text.as_ref();
        let mut bytes = vec![0; expected.len()];
        self.io().read_exact(&mut bytes).await.unwrap();
        // The field may stand anywhere in a head, even where `text` ends.
        let is_cut = |bytes: &[u8]| {
            let start = bytes
                .iter()
                .rposition(|b| *b == b'\n')
                .map_or(0, |at| at + 1);
            let line = &bytes[start..];
            !line.is_empty() && bytes != expected && EVERY_ANSWER.as_bytes().starts_with(line)
        };
        loop {
            bytes = without(EVERY_ANSWER, &bytes);
            let left = expected.len().saturating_sub(bytes.len());
            let left = left.max(usize::from(is_cut(&bytes)));
            if left == 0 {
                break;
            }
            let from = bytes.len();
            bytes.resize(from + left, 0);
            self.io().read_exact(&mut bytes[from..]).await.unwrap();
        }
        let (read, expected) = (
            String::from_utf8_lossy(&bytes),
            String::from_utf8_lossy(expected),
        );
        assert_eq!(read, expected);
    }

    /// Reads until the end, ignoring the field that the relay adds to every answer.
    pub(super) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        self.io().read_to_end(&mut bytes).await.unwrap();
        String::from_utf8(without(EVERY_ANSWER, &bytes)).unwrap()
    }

    pub(super) async fn finish(&mut self) {
        self.io().shutdown().await.unwrap();
    }

    pub(super) fn close(&mut self) {
        self.io = None;
    }

    pub(super) fn reset(&mut self, reason: SessionEnd) {
        self.end.reset.set(Some(reason));
        self.close();
    }

    /// Waits until the relay has ended the session; true for a reset.
    pub(super) async fn is_reset(&mut self) -> bool {
        self.rest().await;
        // The relay drops the stream in the same turn in which the end is seen, or in the next turn.
        tokio::task::yield_now().await;
        self.end.relay_reset.get().unwrap()
    }

    /// Writes until the far side takes no more bytes; returns the number of bytes taken.
    pub(super) async fn flood(&mut self) -> usize {
        let chunk = [b'x'; 1024];
        let mut taken = 0;
        while let Ok(written) =
            tokio::time::timeout(Duration::from_secs(1), self.io().write(&chunk)).await
        {
            taken += written.unwrap();
        }
        taken
    }
}

/// Field in every answer of the relay: the answer depends on the page's origin.
const EVERY_ANSWER: &str = "vary: Origin\r\n";

/// Removes all copies of a line from a text.
fn without(line: &str, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for part in text.split_inclusive(|b| *b == b'\n') {
        if part != line.as_bytes() {
            out.extend_from_slice(part);
        }
    }
    out
}

pub(super) fn without_forwarded(text: &str) -> String {
    let is_forwarded = |line: &&str| {
        line.starts_with("x-forwarded-") || line.starts_with("forwarded:") || *line == EVERY_ANSWER
    };
    text.split_inclusive("\r\n")
        .filter(|line| !is_forwarded(line))
        .collect()
}
