//! WebSocket between a stream and its socket, above TLS if there is TLS.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tieline_transport::websocket::{Role, WebSocket, code};
use tieline_transport::{Received, Tls};

use super::append;
use crate::io::socket::Socket;

/// The WebSocket of one stream, and the TLS below it.
pub(super) struct OverWebSocket {
    tls: Option<Box<RefCell<Tls>>>,
    websocket: RefCell<WebSocket>,
}

/// The layer below a WebSocket: the plain socket, or TLS over it.
struct Wire<'a> {
    socket: &'a Socket,
    tls: Option<&'a RefCell<Tls>>,
}

impl OverWebSocket {
    /// The server's end; `input` is what the client sent after the handshake's head.
    pub(super) fn new(tls: Option<Box<RefCell<Tls>>>, input: Bytes) -> Self {
        let websocket = WebSocket::with_input(Role::Server, BytesMut::from(&input[..]));
        Self {
            tls,
            websocket: RefCell::new(websocket),
        }
    }

    pub(super) fn tls(&self) -> Option<&RefCell<Tls>> {
        self.tls.as_deref()
    }

    fn wire<'a>(&'a self, socket: &'a Socket) -> Wire<'a> {
        Wire {
            socket,
            tls: self.tls(),
        }
    }

    pub(super) fn poll_readable(&self, socket: &Socket, cx: &mut Context<'_>) -> Poll<()> {
        let mut websocket = self.websocket.borrow_mut();
        websocket.poll_readable(&self.wire(socket), cx)
    }

    pub(super) fn recv(
        &self,
        socket: &Socket,
        max: usize,
        put: impl FnMut(&[u8]),
    ) -> io::Result<Received> {
        let mut websocket = self.websocket.borrow_mut();
        websocket.recv(&self.wire(socket), max, put)
    }

    /// Ready while the layer below may have bytes.
    pub(super) fn poll_below_readable(&self, socket: &Socket, cx: &mut Context<'_>) -> Poll<()> {
        tieline_transport::Socket::poll_readable(&self.wire(socket), cx)
    }

    /// Reads from the layer below, whose bytes are not decoded any more.
    pub(super) fn recv_below(
        &self,
        socket: &Socket,
        buffer: &mut BytesMut,
        max: usize,
    ) -> io::Result<Received> {
        tieline_transport::Socket::recv(&self.wire(socket), buffer, max)
    }

    pub(super) fn ended_message(&self) -> bool {
        self.websocket.borrow().ended_message()
    }

    /// Whether the peer's Close frame ended its direction in order.
    pub(super) fn peer_finished(&self) -> bool {
        self.websocket.borrow().peer_finished()
    }

    pub(super) fn send(&self, socket: &Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut websocket = self.websocket.borrow_mut();
        websocket.send(&self.wire(socket), slices)
    }

    /// Ends the sending direction of WebSocket, and then that of TLS.
    pub(super) fn poll_finish(&self, socket: &Socket, cx: &mut Context<'_>) -> Poll<()> {
        let mut websocket = self.websocket.borrow_mut();
        ready!(websocket.poll_finish(&self.wire(socket), cx));
        match &self.tls {
            Some(tls) => tls.borrow_mut().poll_finish(socket, cx),
            None => Poll::Ready(()),
        }
    }

    /// Ends both layers as far as that needs no wait. The Close frame has code 1001 (going away) and not 1000, because
    /// the relay may not have sent everything.
    pub(super) fn shutdown(&self, socket: &Socket) {
        self.try_close(socket, code::GOING_AWAY, "");
        self.try_finish_tls(socket);
    }

    /// Ends both layers with the report of a failure, unless another Close frame was sent; false if the kernel does not
    /// take the Close frame, because a message is not sent whole or there is no room.
    pub(super) fn fail(&self, socket: &Socket) -> bool {
        self.try_close(socket, code::INTERNAL, "");
        let is_closed = self.websocket.borrow().is_closed();
        if is_closed {
            self.try_finish_tls(socket);
        }
        is_closed
    }

    pub(super) fn try_close(&self, socket: &Socket, code: u16, reason: &str) {
        let mut websocket = self.websocket.borrow_mut();
        websocket.try_close(&self.wire(socket), code, reason);
    }

    fn try_finish_tls(&self, socket: &Socket) {
        if let Some(tls) = &self.tls {
            tls.borrow_mut().try_finish(socket);
        }
    }

    pub(super) fn ping(&self, socket: &Socket) {
        self.websocket.borrow_mut().ping(&self.wire(socket));
    }

    pub(super) fn frames_received(&self) -> u64 {
        self.websocket.borrow().frames_received()
    }

    /// Whether a read needs no byte from the socket.
    pub(super) fn has_input(&self) -> bool {
        let is_below = |tls: &RefCell<Tls>| tls.borrow().has_input();
        self.websocket.borrow().has_input() || self.tls().is_some_and(is_below)
    }

    pub(super) fn has_unsent(&self) -> bool {
        let is_below = |tls: &RefCell<Tls>| tls.borrow().has_unsent();
        self.websocket.borrow().has_unsent() || self.tls().is_some_and(is_below)
    }
}

impl tieline_transport::Socket for Wire<'_> {
    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        match self.tls {
            None => self.socket.recv(buffer, max),
            Some(tls) => append(buffer, max, |put| {
                tls.borrow_mut().recv(self.socket, max, put)
            }),
        }
    }

    fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.tls {
            None => self.socket.send_vectored(slices),
            Some(tls) => tls.borrow_mut().send(self.socket, slices),
        }
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.tls {
            None => self.socket.poll_readable(cx),
            Some(tls) => tls.borrow_mut().poll_readable(self.socket, cx),
        }
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_writable(cx)
    }
}
