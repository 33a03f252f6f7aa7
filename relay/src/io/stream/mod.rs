//! A connected byte stream of a shard, over a plain socket, TLS, WebSocket, or WebSocket over TLS, with the bytes that
//! were read ahead of its reader.
//!
//! The shard that accepts a connection reads ahead to find out where the connection belongs, and may then move it; the
//! reader of the connection gets those bytes first. Everything above `io` moves bytes through this type.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustls::server::{ClientHello, ServerConfig};
use tieline_transport::{Agreed, Received, Tls};

use self::websocket::OverWebSocket;
use super::socket::{Socket, Unfinished};
use super::timer::timeout;

mod websocket;

/// Bytes that [`Stream::read_out`] reads at most: about as many as the kernels of both ends hold of what a peer sent
/// before it read that it is turned away.
const UNREAD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Largest single read of [`Stream::read_out`], in bytes.
const UNREAD_READ_BYTES: usize = 64 * 1024;

/// Time for a peer that was told of a failure to end its connection.
const FAILED_TIMEOUT: Duration = Duration::from_secs(1);

/// A connected stream of this shard. Owns no buffer but the bytes that were read ahead.
pub(crate) struct Stream {
    socket: Socket,
    layer: Layer,
    /// Bytes that came from the socket already, and that the next reads return. Boxed, because most streams have none.
    ahead: RefCell<Option<Box<Bytes>>>,
}

/// What is between the socket's bytes and the stream's.
enum Layer {
    Plain,
    Tls(Box<RefCell<Tls>>),
    WebSocket(Box<OverWebSocket>),
}

/// A stream on its way to another shard: it belongs to no runtime.
pub(crate) struct Detached {
    fd: OwnedFd,
    layer: Layer,
    ahead: Option<Box<Bytes>>,
}

impl Stream {
    /// Attaches a connected socket to this shard.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            socket: Socket::new(fd),
            layer: Layer::Plain,
            ahead: RefCell::default(),
        }
    }

    /// Accepts TLS on a plain stream of which nothing was read; `choose` returns the configuration for a client, and
    /// `may_answer` a permit that is held while a hello of the client is answered.
    ///
    /// # Errors
    /// The socket's error, or a [`rustls::Error`]; the client was sent the alert then.
    pub(crate) async fn accept_tls<F: Future>(
        self,
        choose: impl FnOnce(&ClientHello<'_>) -> Arc<ServerConfig>,
        may_answer: impl Fn() -> F,
    ) -> io::Result<Self> {
        let accepted = Tls::accept(&self.socket, choose, may_answer).await;
        let tls = accepted.inspect_err(|_| {
            // A reset could destroy the alert, which tells the client what is wrong.
            self.socket.set_unfinished(Unfinished::Ends);
        })?;
        Ok(Self {
            layer: Layer::Tls(Box::new(RefCell::new(tls))),
            ..self
        })
    }

    /// Goes on over WebSocket, as the server, after the opening handshake; `input` is what the client sent after the
    /// handshake's head.
    pub(crate) fn over_websocket(self, input: Bytes) -> Self {
        let tls = match self.layer {
            Layer::Plain => None,
            Layer::Tls(tls) => Some(tls),
            // A stream that is over WebSocket already stays as it is.
            Layer::WebSocket(_) => return self,
        };
        let behind = self.ahead.into_inner().map(|behind| *behind);
        let input = joined(input, behind.unwrap_or_default());
        Self {
            socket: self.socket,
            layer: Layer::WebSocket(Box::new(OverWebSocket::new(tls, input))),
            ahead: RefCell::default(),
        }
    }

    /// The WebSocket of the stream, if it is over one.
    fn websocket(&self) -> Option<&OverWebSocket> {
        match &self.layer {
            Layer::Plain | Layer::Tls(_) => None,
            Layer::WebSocket(websocket) => Some(websocket),
        }
    }

    /// Whether the stream's bytes are those of WebSocket messages.
    pub(crate) const fn is_websocket(&self) -> bool {
        matches!(self.layer, Layer::WebSocket(_))
    }

    /// Whether one direction can end while the other goes on. Over WebSocket, each end ends both directions.
    pub(crate) const fn has_half_close(&self) -> bool {
        !self.is_websocket()
    }

    fn tls(&self) -> Option<&RefCell<Tls>> {
        match &self.layer {
            Layer::Plain => None,
            Layer::Tls(tls) => Some(tls),
            Layer::WebSocket(websocket) => websocket.tls(),
        }
    }

    /// What was agreed on in the handshake of TLS; `None` on a stream without it.
    pub(crate) fn agreed(&self) -> Option<Agreed> {
        self.tls().map(|tls| tls.borrow().agreed())
    }

    /// Exporter of the TLS connection, for channel binding; `None` on a stream without TLS, and below TLS 1.3.
    pub(crate) fn exporter(&self) -> Option<[u8; 32]> {
        self.tls()?.borrow().exporter()
    }

    /// Whether the peer has shown a certificate of its own in the handshake of TLS, which was checked then.
    pub(crate) fn has_peer_certificate(&self) -> bool {
        self.tls()
            .is_some_and(|tls| tls.borrow().peer_certificate().is_some())
    }

    /// Whether the bytes are encrypted on the network.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls().is_some()
    }

    /// Detaches the stream, for another shard.
    pub(crate) fn detach(self) -> Detached {
        Detached {
            fd: self.socket.into_fd(),
            layer: self.layer,
            ahead: self.ahead.into_inner(),
        }
    }

    /// The socket itself, where its bytes are the stream's bytes: for splice(2) and for bulk lanes. Bytes that were
    /// read ahead are not in it any more.
    pub(crate) const fn plain(&self) -> Option<&Socket> {
        match self.layer {
            Layer::Plain => Some(&self.socket),
            Layer::Tls(_) | Layer::WebSocket(_) => None,
        }
    }

    /// The socket itself, for a bulk lane; `None` over TLS or WebSocket, or if bytes were read ahead.
    pub(crate) fn into_plain(self) -> Option<Socket> {
        match (self.layer, self.ahead.into_inner()) {
            (Layer::Plain, None) => Some(self.socket),
            _ => None,
        }
    }

    /// Ready while a read may return something.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_read_ahead() {
            return Poll::Ready(());
        }
        match &self.layer {
            Layer::Plain => self.socket.poll_readable(cx),
            Layer::Tls(tls) => tls.borrow_mut().poll_readable(&self.socket, cx),
            Layer::WebSocket(websocket) => websocket.poll_readable(&self.socket, cx),
        }
    }

    /// Ready while a write may take something.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_writable(cx)
    }

    /// Waits until a read may return something.
    pub(crate) async fn readable(&self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    /// Waits until a write may take something.
    pub(crate) async fn writable(&self) {
        poll_fn(|cx| self.poll_writable(cx)).await;
    }

    /// Whether the next read returns bytes that were read ahead.
    pub(crate) fn is_read_ahead(&self) -> bool {
        self.ahead.borrow().is_some()
    }

    /// Reads up to `max` bytes without waiting, and keeps them for the next reads. Returns all bytes read ahead so far,
    /// behind what the read found.
    pub(crate) fn read_ahead(&self, max: usize) -> io::Result<(Received, Bytes)> {
        let mut ahead = self.ahead.borrow_mut();
        let mut buffer = BytesMut::new();
        let received = self.receive(&mut buffer, max)?;
        if !buffer.is_empty() {
            let before = ahead.take().map(|before| *before);
            let all = joined(before.unwrap_or_default(), buffer.freeze());
            *ahead = Some(Box::new(all));
        }
        Ok((received, ahead.as_deref().cloned().unwrap_or_default()))
    }

    /// Makes the next reads return `bytes`, which were read before, and behind them what is still unread.
    pub(crate) fn put_back(&self, bytes: Bytes) {
        let mut ahead = self.ahead.borrow_mut();
        let behind = ahead.take().map(|behind| *behind);
        let all = joined(bytes, behind.unwrap_or_default());
        *ahead = (!all.is_empty()).then(|| Box::new(all));
    }

    /// Appends up to `max` bytes to `buffer`, without waiting. A read that fails appends none, so that connections can
    /// share a buffer.
    pub(crate) fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        if self.is_read_ahead() {
            let bytes = self.take_ahead(max);
            buffer.extend_from_slice(&bytes);
            return Ok(Received::Bytes(bytes.len()));
        }
        self.receive(buffer, max)
    }

    fn receive(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        match &self.layer {
            Layer::Plain => self.socket.recv(buffer, max),
            Layer::Tls(tls) => append(buffer, max, |put| {
                tls.borrow_mut().recv(&self.socket, max, put)
            }),
            Layer::WebSocket(websocket) => {
                append(buffer, max, |put| websocket.recv(&self.socket, max, put))
            }
        }
    }

    /// Reads what a peer that is turned away still sends, until it ends its direction. A close in front of unread bytes is
    /// a reset, which could destroy what the peer was told. What comes over a WebSocket is not decoded. A turn reads a
    /// few pieces at most, as from any socket (`readiness`).
    pub(crate) async fn read_out(&self) {
        let mut left = UNREAD_BYTES_MAX;
        while left > 0 {
            // The buffer lives only while bytes are in it: all callers of a link that is lost wait here together.
            let received = match &self.layer {
                Layer::WebSocket(websocket) => {
                    poll_fn(|cx| websocket.poll_below_readable(&self.socket, cx)).await;
                    websocket.recv_below(&self.socket, &mut BytesMut::new(), UNREAD_READ_BYTES)
                }
                Layer::Plain | Layer::Tls(_) => {
                    self.readable().await;
                    self.recv(&mut BytesMut::new(), UNREAD_READ_BYTES)
                }
            };
            match received {
                Ok(Received::Bytes(count)) => left = left.saturating_sub(count),
                Ok(Received::Nothing) => {}
                Ok(Received::End) | Err(_) => return,
            }
        }
    }

    /// Reads into uninitialised memory, without waiting.
    pub(crate) fn recv_uninit(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Received> {
        if self.is_read_ahead() {
            let bytes = self.take_ahead(buffer.len());
            copy(&bytes, buffer);
            return Ok(Received::Bytes(bytes.len()));
        }
        match &self.layer {
            Layer::Plain => self.socket.recv_uninit(buffer),
            Layer::Tls(tls) => fill(buffer, |max, put| {
                tls.borrow_mut().recv(&self.socket, max, put)
            }),
            Layer::WebSocket(websocket) => {
                fill(buffer, |max, put| websocket.recv(&self.socket, max, put))
            }
        }
    }

    /// Whether the last read reached the end of a message; only a WebSocket has messages. An empty message is a read of
    /// 0 bytes.
    pub(crate) fn ended_message(&self) -> bool {
        self.websocket().is_some_and(OverWebSocket::ended_message)
    }

    /// Whether an end that a read returned is an orderly one. On a WebSocket, a read also returns an end for a Close
    /// frame whose code says that the peer stopped early; on other streams an end that is not orderly is an error.
    pub(crate) fn peer_finished(&self) -> bool {
        self.websocket().is_none_or(OverWebSocket::peer_finished)
    }

    /// Removes up to `max` of the bytes that were read ahead.
    #[cold]
    fn take_ahead(&self, max: usize) -> Bytes {
        let mut ahead = self.ahead.borrow_mut();
        match ahead.as_deref_mut() {
            Some(bytes) if bytes.len() > max => bytes.split_to(max),
            _ => ahead.take().map(|bytes| *bytes).unwrap_or_default(),
        }
    }

    /// Writes what the kernel takes at once; 0 means: wait until the stream is writable. Bytes that were not taken are
    /// offered again before others. Over WebSocket, what is offered becomes one message.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.layer {
            Layer::Plain => self.socket.send(bytes),
            Layer::Tls(tls) => tls.borrow_mut().send(&self.socket, &[IoSlice::new(bytes)]),
            Layer::WebSocket(websocket) => websocket.send(&self.socket, &[IoSlice::new(bytes)]),
        }
    }

    /// Like [`Stream::send`], for several slices.
    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.layer {
            Layer::Plain => self.socket.send_vectored(slices),
            Layer::Tls(tls) => tls.borrow_mut().send(&self.socket, slices),
            Layer::WebSocket(websocket) => websocket.send(&self.socket, slices),
        }
    }

    /// Ends the sending direction in order, after all written bytes; ready once the kernel has the end. Over WebSocket,
    /// the peer is asked to end its direction as well.
    pub(crate) fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.layer {
            Layer::Plain => {}
            Layer::Tls(tls) => ready!(tls.borrow_mut().poll_finish(&self.socket, cx)),
            Layer::WebSocket(websocket) => ready!(websocket.poll_finish(&self.socket, cx)),
        }
        self.socket.finish();
        Poll::Ready(())
    }

    /// Ends the sending direction in order, after all written bytes.
    pub(crate) async fn finish(&self) {
        poll_fn(|cx| self.poll_finish(cx)).await;
    }

    /// Sets what the peer sees if the stream is closed without [`Stream::finish`].
    pub(crate) fn set_unfinished(&self, unfinished: Unfinished) {
        self.socket.set_unfinished(unfinished);
    }

    /// Ends both directions, in order as far as that needs no wait; wakes the tasks that wait on the stream.
    pub(crate) fn shutdown(&self) {
        match &self.layer {
            Layer::Plain => {}
            Layer::Tls(tls) => tls.borrow_mut().try_finish(&self.socket),
            Layer::WebSocket(websocket) => websocket.shutdown(&self.socket),
        }
        self.socket.shutdown();
    }

    /// Makes the coming close a reset (RST) instead of an end, and wakes tasks that wait to read. A WebSocket ends with
    /// a Close frame that reports a failure instead, unless one was sent or a message is not sent whole.
    pub(crate) fn abort(&self) {
        if self.tell_failure() {
            self.socket.shutdown();
        } else {
            self.socket.abort();
        }
    }

    /// Like [`Stream::abort`], but a WebSocket is reset too, without a Close frame: for a peer that answers nothing, and
    /// would not acknowledge that frame either.
    pub(crate) fn reset(&self) {
        self.socket.abort();
    }

    /// Like [`Stream::abort`], but a WebSocket's tasks are not woken, and its peer may go on to send until the close.
    pub(crate) fn cut(&self) {
        if !self.tell_failure() {
            self.socket.abort();
        }
    }

    /// Tells a WebSocket's peer of the failure, as [`Stream::cut`] does, and gives the peer time to read why and to end
    /// its connection. Does nothing on other streams, or if no Close frame can be sent: then the close is yet to be
    /// made a reset.
    pub(crate) async fn fail(&self) {
        if self.tell_failure() {
            let _ = timeout(FAILED_TIMEOUT, self.read_out()).await;
        }
    }

    /// Ends the sending direction of a WebSocket with a Close frame that reports a failure, unless one was sent; false if
    /// the stream is no WebSocket, a message is not sent whole, or the kernel has no room for the Close frame.
    fn tell_failure(&self) -> bool {
        let is_told = self.websocket().is_some_and(|it| it.fail(&self.socket));
        if is_told {
            self.socket.finish();
        }
        is_told
    }

    /// Sends a Close frame with `code` and `reason` over a WebSocket, unless one was sent, a message is not sent whole
    /// or the kernel has no room for it now. Nothing on other streams.
    pub(crate) fn close(&self, code: u16, reason: &str) {
        if let Some(websocket) = self.websocket() {
            websocket.try_close(&self.socket, code, reason);
        }
    }

    /// Sends a ping over a WebSocket, unless one has no answer yet. Nothing on other streams.
    pub(crate) fn ping(&self) {
        if let Some(websocket) = self.websocket() {
            websocket.ping(&self.socket);
        }
    }

    /// A number that changes with each frame, and each piece of a frame, that came over a WebSocket; 0 on other
    /// streams.
    pub(crate) fn frames_received(&self) -> u64 {
        self.websocket().map_or(0, OverWebSocket::frames_received)
    }

    /// Whether bytes, an end or an error wait to be read: then the peer is not silent, though the stream may not be
    /// read at present.
    pub(crate) fn is_unread(&self) -> bool {
        let has_input = match &self.layer {
            Layer::Plain => false,
            Layer::Tls(tls) => tls.borrow().has_input(),
            Layer::WebSocket(websocket) => websocket.has_input(),
        };
        let has_bytes = || !matches!(self.socket.peek(&mut [0]), Ok(Received::Nothing));
        has_input || self.is_read_ahead() || has_bytes()
    }

    /// True once the peer has reset the connection, or the kernel has given it up.
    pub(crate) fn is_broken(&self) -> bool {
        self.socket.is_broken()
    }

    /// Whether bytes that were taken have not left for the peer yet.
    pub(crate) fn has_unsent(&self) -> bool {
        let is_waiting = match &self.layer {
            Layer::Plain => false,
            Layer::Tls(tls) => tls.borrow().has_unsent(),
            Layer::WebSocket(websocket) => websocket.has_unsent(),
        };
        is_waiting || self.socket.unsent() > 0
    }

    /// How far the socket's bytes have come, see [`Socket::acked_and_unacked`].
    pub(crate) fn acked_and_unacked(&self) -> (u64, u64) {
        self.socket.acked_and_unacked()
    }

    /// Sets options of a link, see [`Socket::tune_link`].
    pub(crate) fn tune_link(&self, user_timeout: Duration, notsent_bytes: u32) {
        self.socket.tune_link(user_timeout, notsent_bytes);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Detached {
    /// Attaches the stream to this shard.
    pub(crate) fn attach(self) -> Stream {
        Stream {
            socket: Socket::new(self.fd),
            layer: self.layer,
            ahead: RefCell::new(self.ahead),
        }
    }
}

/// Appends up to `max` bytes to `buffer`, in the pieces that `recv` puts.
fn append(
    buffer: &mut BytesMut,
    max: usize,
    recv: impl FnOnce(&mut dyn FnMut(&[u8])) -> io::Result<Received>,
) -> io::Result<Received> {
    buffer.reserve(max);
    let before = buffer.len();
    let received = recv(&mut |piece: &[u8]| buffer.extend_from_slice(piece));
    if received.is_err() {
        // Connections may share the buffer: bytes from before a broken record must not reach the next reader.
        buffer.truncate(before);
    }
    received
}

/// Copies to `buffer` what `recv` puts; `recv` gets the buffer's length as its limit.
fn fill(
    buffer: &mut [MaybeUninit<u8>],
    recv: impl FnOnce(usize, &mut dyn FnMut(&[u8])) -> io::Result<Received>,
) -> io::Result<Received> {
    let (max, mut filled) = (buffer.len(), 0);
    recv(max, &mut |piece: &[u8]| {
        copy(piece, &mut buffer[filled..]);
        filled += piece.len();
    })
}

/// Copies `bytes` to the beginning of `buffer`.
fn copy(bytes: &[u8], buffer: &mut [MaybeUninit<u8>]) {
    for (place, byte) in buffer.iter_mut().zip(bytes) {
        place.write(*byte);
    }
}

/// `first` and, behind it, `then`; copies only if both have bytes.
fn joined(first: Bytes, then: Bytes) -> Bytes {
    if first.is_empty() {
        return then;
    }
    if then.is_empty() {
        return first;
    }
    let len = first.len() + then.len();
    first.chain(then).copy_to_bytes(len)
}

#[cfg(test)]
mod tests;
