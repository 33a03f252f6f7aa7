//! What a layer needs of the socket below it.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;

/// Result of a read that does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// This many bytes.
    Bytes(usize),
    /// The peer ended its direction.
    End,
    /// No bytes yet: wait until the socket is readable.
    Nothing,
}

/// A connected socket; no call but the polls waits.
pub trait Socket {
    /// Appends up to `max` bytes to `buffer`.
    ///
    /// # Errors
    /// The connection failed.
    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received>;

    /// Writes what the kernel takes at once, and returns how many bytes that were; 0 means: wait until the socket is
    /// writable.
    ///
    /// # Errors
    /// The connection failed.
    fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ready while a read may return something.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ready while a write may take something.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Ready while a layer above `socket` may read something: it `has_input` already, or the socket has. A layer that `yields`
/// gives other tasks a turn first.
pub(crate) fn poll_layer_readable(
    socket: &impl Socket,
    cx: &mut Context<'_>,
    yields: &mut bool,
    has_input: bool,
) -> Poll<()> {
    if std::mem::take(yields) {
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    if has_input {
        return Poll::Ready(());
    }
    socket.poll_readable(cx)
}

/// Ready once `flush` returns that the kernel has all, or the connection failed: a peer that is gone gets no end.
pub(crate) fn poll_flushed(
    socket: &impl Socket,
    cx: &mut Context<'_>,
    mut flush: impl FnMut() -> io::Result<bool>,
) -> Poll<()> {
    while let Ok(false) = flush() {
        ready!(socket.poll_writable(cx));
    }
    Poll::Ready(())
}
