//! What a splice needs of a frontend's stream, which is a socket's or one of QUIC.

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tieline_wire::SessionEnd;

use super::close;
use crate::io::{Received, Socket, Stream};
use crate::quic::QuicStream;
use crate::session::Sink;

/// A frontend's stream: that of a raw caller, or one end of the socket pair of a session that crosses shards.
pub(crate) trait Frontend: Sink + 'static {
    /// Ready while a read may return something.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ready while a write may take something.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Appends up to `max` bytes to `buffer`, without waiting; a read that fails appends none.
    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received>;

    /// Makes the next reads return `bytes`, which were read before.
    fn put_back(&self, bytes: Bytes);

    /// Ends the direction towards the frontend in order; ready once that needs no more of this task.
    fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Has the frontend told `reason` with the end of the session, where its protocol has a place for that.
    fn tell(&self, reason: SessionEnd);

    /// Gives the frontend time to read the reason, if it is told now.
    fn fail(&self) -> impl Future<Output = ()>;

    /// Makes the end of the direction towards the frontend one that does not look complete.
    fn cut(&self);

    /// Whether the frontend has reset its connection or is gone.
    fn is_broken(&self) -> bool;

    /// Whether bytes that were taken have not left for the frontend yet.
    fn has_unsent(&self) -> bool;

    /// Whether the next read returns bytes that were read before.
    fn is_read_ahead(&self) -> bool {
        false
    }

    /// Whether one direction can end while the other goes on.
    fn has_half_close(&self) -> bool {
        true
    }

    /// Whether the last read reached the end of a message.
    fn ended_message(&self) -> bool {
        false
    }

    /// Whether an end that a read returned is an orderly one.
    fn peer_finished(&self) -> bool {
        true
    }

    /// The socket itself, where its bytes are the stream's bytes.
    fn plain(&self) -> Option<&Socket> {
        None
    }

    /// Waits until a read may return something.
    fn readable(&self) -> impl Future<Output = ()> {
        poll_fn(|cx| self.poll_readable(cx))
    }

    /// Waits until a write may take something.
    fn writable(&self) -> impl Future<Output = ()> {
        poll_fn(|cx| self.poll_writable(cx))
    }
}

impl Frontend for Stream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_readable(self, cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_writable(self, cx)
    }

    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        Self::recv(self, buffer, max)
    }

    fn put_back(&self, bytes: Bytes) {
        Self::put_back(self, bytes);
    }

    fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_finish(self, cx)
    }

    fn tell(&self, reason: SessionEnd) {
        self.close(close::code(reason), reason.word());
    }

    fn fail(&self) -> impl Future<Output = ()> {
        Self::fail(self)
    }

    fn cut(&self) {
        Self::cut(self);
    }

    fn is_broken(&self) -> bool {
        Self::is_broken(self)
    }

    fn has_unsent(&self) -> bool {
        Self::has_unsent(self)
    }

    fn is_read_ahead(&self) -> bool {
        Self::is_read_ahead(self)
    }

    fn has_half_close(&self) -> bool {
        Self::has_half_close(self)
    }

    fn ended_message(&self) -> bool {
        Self::ended_message(self)
    }

    fn peer_finished(&self) -> bool {
        Self::peer_finished(self)
    }

    fn plain(&self) -> Option<&Socket> {
        Self::plain(self)
    }
}

impl Frontend for QuicStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_readable(self, cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_writable(self, cx)
    }

    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        Self::recv(self, buffer, max)
    }

    fn put_back(&self, bytes: Bytes) {
        Self::put_back(self, bytes);
    }

    fn poll_finish(&self, _: &mut Context<'_>) -> Poll<()> {
        self.finish();
        Poll::Ready(())
    }

    fn tell(&self, reason: SessionEnd) {
        self.set_code(reason.code());
    }

    async fn fail(&self) {}

    fn cut(&self) {
        Self::cut(self);
    }

    fn is_broken(&self) -> bool {
        Self::is_broken(self)
    }

    fn has_unsent(&self) -> bool {
        Self::has_unsent(self)
    }
}
