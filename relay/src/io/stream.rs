//! A connected byte stream of a shard, over a plain socket or over TLS, with the bytes that were read ahead of its reader.
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

use super::socket::{Socket, Unfinished};

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

    /// Accepts TLS on a plain stream of which nothing was read; `choose` returns the configuration for a client, and a
    /// permit that is held while the client's hello is answered.
    ///
    /// # Errors
    /// The socket's error, or a [`rustls::Error`]; the client was sent the alert then.
    pub(crate) async fn accept_tls<P>(
        self,
        choose: impl AsyncFnOnce(&ClientHello<'_>) -> (Arc<ServerConfig>, P),
    ) -> io::Result<Self> {
        let accepted = Tls::accept(&self.socket, choose).await;
        let tls = accepted.inspect_err(|_| {
            // A reset could destroy the alert, which tells the client what is wrong.
            self.socket.set_unfinished(Unfinished::Ends);
        })?;
        Ok(Self {
            layer: Layer::Tls(Box::new(RefCell::new(tls))),
            ..self
        })
    }

    /// What was agreed on in the handshake of TLS; `None` on a plain stream.
    pub(crate) fn agreed(&self) -> Option<Agreed> {
        match &self.layer {
            Layer::Plain => None,
            Layer::Tls(tls) => Some(tls.borrow().agreed()),
        }
    }

    /// Exporter of the TLS connection, for channel binding; `None` on a plain stream, and below TLS 1.3.
    pub(crate) fn exporter(&self) -> Option<[u8; 32]> {
        match &self.layer {
            Layer::Plain => None,
            Layer::Tls(tls) => tls.borrow().exporter(),
        }
    }

    /// Whether the bytes are encrypted on the network.
    pub(crate) const fn is_tls(&self) -> bool {
        matches!(self.layer, Layer::Tls(_))
    }

    /// Detaches the stream, for another shard.
    pub(crate) fn detach(self) -> Detached {
        Detached {
            fd: self.socket.into_fd(),
            layer: self.layer,
            ahead: self.ahead.into_inner(),
        }
    }

    /// The socket itself, where its bytes are the stream's bytes: for splice(2) and for bulk lanes. Bytes that were read
    /// ahead are not in it any more.
    pub(crate) const fn plain(&self) -> Option<&Socket> {
        match self.layer {
            Layer::Plain => Some(&self.socket),
            Layer::Tls(_) => None,
        }
    }

    /// The socket itself, for a bulk lane; `None` over TLS, or if bytes were read ahead.
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
            Layer::Tls(tls) => {
                buffer.reserve(max);
                let put = |piece: &[u8]| buffer.extend_from_slice(piece);
                tls.borrow_mut().recv(&self.socket, max, put)
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
            Layer::Tls(tls) => {
                let (max, mut filled) = (buffer.len(), 0);
                let put = |piece: &[u8]| {
                    copy(piece, &mut buffer[filled..]);
                    filled += piece.len();
                };
                tls.borrow_mut().recv(&self.socket, max, put)
            }
        }
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
    /// offered again before others.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.layer {
            Layer::Plain => self.socket.send(bytes),
            Layer::Tls(tls) => tls.borrow_mut().send(&self.socket, &[IoSlice::new(bytes)]),
        }
    }

    /// Like [`Stream::send`], for several slices.
    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.layer {
            Layer::Plain => self.socket.send_vectored(slices),
            Layer::Tls(tls) => tls.borrow_mut().send(&self.socket, slices),
        }
    }

    /// Ends the sending direction in order, after all written bytes; ready once the kernel has the end.
    pub(crate) fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.layer {
            Layer::Plain => self.socket.finish(),
            Layer::Tls(tls) => {
                ready!(tls.borrow_mut().poll_finish(&self.socket, cx));
                self.socket.finish();
            }
        }
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
        if let Layer::Tls(tls) = &self.layer {
            tls.borrow_mut().try_finish(&self.socket);
        }
        self.socket.shutdown();
    }

    /// Makes the coming close a reset (RST) instead of an end, and wakes tasks that wait to read.
    pub(crate) fn abort(&self) {
        self.socket.abort();
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
        };
        is_waiting || self.socket.unsent() > 0
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
mod tests {
    use super::*;
    use crate::io::{Chosen, choose, pair, run};

    fn streams() -> (Stream, Stream) {
        let (one, other) = pair().unwrap();
        (Stream::new(one), Stream::new(other))
    }

    /// Reads `stream` to its end, at most `max` bytes at a time.
    async fn read_all(stream: &Stream, max: usize) -> Vec<u8> {
        let mut all = BytesMut::new();
        loop {
            stream.readable().await;
            match stream.recv(&mut all, max).unwrap() {
                Received::Bytes(count) => assert!((1..=max).contains(&count)),
                Received::End => return all.to_vec(),
                Received::Nothing => {}
            }
        }
    }

    #[test]
    fn bytes_read_ahead_come_again_before_the_rest_also_on_another_runtime() {
        let (best, _) = choose(None).unwrap();
        for (driver, max) in [
            (best, 64),
            (best, 1),
            (Chosen::Epoll, 64),
            (Chosen::Epoll, 3),
        ] {
            let mut moving = None;
            run(driver, async {
                let (ours, theirs) = streams();
                assert_eq!(theirs.send(b"head and body").unwrap(), 13);
                theirs.finish().await;
                ours.readable().await;
                let (received, ahead) = ours.read_ahead(4).unwrap();
                assert_eq!((received, &ahead[..]), (Received::Bytes(4), &b"head"[..]));
                let (received, ahead) = ours.read_ahead(4).unwrap();
                assert_eq!(
                    (received, &ahead[..]),
                    (Received::Bytes(4), &b"head and"[..])
                );
                moving = Some(ours.detach());
            })
            .unwrap();
            run(driver, async {
                let stream = moving.take().unwrap().attach();
                assert!(stream.is_read_ahead());
                assert_eq!(read_all(&stream, max).await, b"head and body");
                assert!(!stream.is_read_ahead());
            })
            .unwrap();
        }
    }

    #[test]
    fn bytes_put_back_come_before_those_read_ahead() {
        run(Chosen::Epoll, async {
            let (ours, theirs) = streams();
            assert_eq!(theirs.send(b" and body").unwrap(), 9);
            theirs.finish().await;
            ours.readable().await;
            ours.read_ahead(4).unwrap();
            ours.put_back(Bytes::from_static(b"head"));
            let mut first = [MaybeUninit::uninit(); 6];
            assert_eq!(ours.recv_uninit(&mut first).unwrap(), Received::Bytes(6));
            assert_eq!(read_all(&ours, 64).await, b"nd body");
        })
        .unwrap();
    }

    #[test]
    fn only_a_stream_without_bytes_read_ahead_becomes_a_lane() {
        run(Chosen::Epoll, async {
            let (ours, theirs) = streams();
            ours.put_back(Bytes::new());
            assert!(ours.into_plain().is_some());
            theirs.put_back(Bytes::from_static(b"x"));
            assert!(theirs.into_plain().is_none());
        })
        .unwrap();
    }
}
