//! WebSocket (RFC 6455) over a socket, after its opening handshake: binary messages in both directions, presented as a
//! byte stream whose reader can ask where messages end.
//!
//! Neither direction has a queue of its own. A write is reported as taken once the kernel has its bytes, and one write
//! makes one message (a client's of at most 64 KiB); a read takes from the kernel about as many bytes as its reader has
//! room for. So no message is ever held whole, and a peer's messages and frames may have any length. What waits here is
//! bounded: the bytes of one read, one pong, one ping and one Close frame. Extensions and text messages are not
//! accepted.
//!
//! | file | what it does |
//! |---|---|
//! | `decoder` | frames of the peer: ends of messages, payload, control frames, and every rule that a peer can break |
//! | `encoder` | frames to the peer: the open data frame, and the control frames that are due |
//! | `mask` | masks, and their keys |
//! | `handshake` | values of the opening handshake |
//! | `violation` | what a peer can do wrong |

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::BytesMut;

use self::decoder::{ControlFrame, Decoder, EXTRA_BYTES, Stop};
use self::encoder::Encoder;
pub use self::violation::Violation;
use crate::socket::{Received, Socket, poll_flushed, poll_layer_readable};

mod decoder;
mod encoder;
pub mod handshake;
mod mask;
#[cfg(test)]
mod tests;
mod violation;

/// Payload that one read takes from the kernel at most, in bytes.
const READ_BYTES_MAX: usize = 256 * 1024;

/// Reads without any payload after which other tasks get a turn.
const EMPTY_READS_MAX: usize = 16;

/// Calls of [`WebSocket::recv`] after which other tasks get a turn: each returns one message at most, and messages of
/// one byte must not keep a thread busy.
const READS_A_TURN: u8 = 64;

thread_local! {
    /// Buffer for the read that is being decoded; its content is not used after that read.
    static INPUT: RefCell<BytesMut> = RefCell::default();
}

/// Which end of a connection this is: clients mask what they send (RFC 6455, section 5.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The end that asked for the connection.
    Client,
    /// The end that accepted it.
    Server,
}

/// Codes of Close frames (RFC 6455, section 7.4, and IANA's registry).
pub mod code {
    /// The sender has sent everything.
    pub const NORMAL: u16 = 1000;
    /// The sender goes away: a server that stops, or a browser that leaves its page.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// The peer sent a kind of message that is not accepted.
    pub const UNSUPPORTED: u16 = 1003;
    /// The peer sent text that is not UTF-8.
    pub const INVALID: u16 = 1007;
    /// The peer may not do what it asked for.
    pub const POLICY: u16 = 1008;
    /// A message is too long.
    pub const TOO_BIG: u16 = 1009;
    /// The sender failed, or something that it depends on.
    pub const INTERNAL: u16 = 1011;
    /// The sender is too busy, or something that it depends on is not there at present.
    pub const TRY_AGAIN: u16 = 1013;
}

/// State of WebSocket over one socket.
pub struct WebSocket {
    decoder: Decoder,
    encoder: Encoder,
    /// Bytes that were read and not decoded: the reader had no room for them, or they are the beginning of a frame.
    undigested: BytesMut,
    /// Whether `undigested` cannot be decoded before more bytes come.
    is_starved: bool,
    /// Whether the bytes of the last read ended a message.
    ended_message: bool,
    end: Option<End>,
    /// Whether other tasks must get a turn before the next read.
    yields: bool,
    /// Reads since other tasks had a turn.
    reads: u8,
}

/// How the peer's direction ended.
enum End {
    /// A Close frame, with its code and its reason if it has them.
    Closed(Option<(u16, String)>),
    Broken(Violation),
}

impl WebSocket {
    /// The state of a connection whose opening handshake is complete.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self::with_input(role, BytesMut::new())
    }

    /// Like [`WebSocket::new`]; `input` is what the peer sent after the handshake's head.
    #[must_use]
    pub fn with_input(role: Role, input: BytesMut) -> Self {
        Self {
            decoder: Decoder::new(role),
            encoder: Encoder::new(role),
            undigested: input,
            is_starved: false,
            ended_message: false,
            end: None,
            yields: false,
            reads: 0,
        }
    }

    /// Ready while a read may return something.
    pub fn poll_readable(&mut self, socket: &impl Socket, cx: &mut Context<'_>) -> Poll<()> {
        let has_input = self.has_input();
        poll_layer_readable(socket, cx, &mut self.yields, has_input)
    }

    /// Whether a read needs no byte from the socket.
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.end.is_some() || !self.undigested.is_empty() && !self.is_starved
    }

    /// Gives `put` up to `max` bytes of payload in one piece or several, without waiting; stops at the end of a
    /// message. An empty message is [`Received::Bytes`] of 0 with [`WebSocket::ended_message`]. A Close frame of the
    /// peer gets an answer, and is [`Received::End`].
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the connection ended without a Close frame; a [`Violation`], of which a
    /// Close frame tells the peer unless a data frame to it is open; and the errors of the socket.
    pub fn recv(
        &mut self,
        socket: &impl Socket,
        max: usize,
        mut put: impl FnMut(&[u8]),
    ) -> io::Result<Received> {
        (self.ended_message, self.yields) = (false, false);
        if max == 0 {
            return Ok(Received::Bytes(0));
        }
        let mut room = max;
        let received = self.decode(socket, &mut room, &mut put);
        self.reads += 1;
        if self.reads == READS_A_TURN {
            self.reads = 0;
            // Without a pause if the peer's end came with this read: the reader must learn of it from its next read.
            self.yields |= self.end.is_none();
        }
        // Sends the answers to pings and Close frames. The next write sends what the kernel does not take now, and
        // returns an error of this send again.
        let _ = self.encoder.flush(socket);
        if room < max || self.ended_message {
            return Ok(Received::Bytes(max - room));
        }
        received
    }

    /// Decodes until there is something for the reader, the socket has no more bytes, or other tasks must get a turn.
    fn decode(
        &mut self,
        socket: &impl Socket,
        room: &mut usize,
        put: &mut impl FnMut(&[u8]),
    ) -> io::Result<Received> {
        let max = *room;
        for _ in 0..EMPTY_READS_MAX {
            match self.end {
                Some(End::Closed(_)) => return Ok(Received::End),
                Some(End::Broken(violation)) => return Err(violation.into()),
                None => {}
            }
            let received = if self.has_input() {
                let mut input = std::mem::take(&mut self.undigested);
                self.digest(&mut input, room, put);
                if !input.is_empty() {
                    self.undigested = input;
                }
                Received::Bytes(0)
            } else {
                self.read(socket, room, put)?
            };
            if *room < max || self.ended_message || self.yields {
                return Ok(Received::Nothing);
            }
            match received {
                Received::Nothing => return Ok(Received::Nothing),
                Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Received::Bytes(_) => {}
            }
        }
        // Without a pause if the peer's end came with the last read.
        self.yields = self.end.is_none();
        Ok(Received::Nothing)
    }

    /// Reads once from the socket, and decodes what came.
    fn read(
        &mut self,
        socket: &impl Socket,
        room: &mut usize,
        put: &mut impl FnMut(&[u8]),
    ) -> io::Result<Received> {
        INPUT.with_borrow_mut(|input| {
            input.clear();
            input.extend_from_slice(&self.undigested);
            let received = socket.recv(input, (*room).min(READ_BYTES_MAX) + EXTRA_BYTES)?;
            if let Received::Bytes(_) = received {
                self.digest(input, room, put);
                self.undigested = BytesMut::from(&input[..]);
            }
            Ok(received)
        })
    }

    /// Decodes `input`; what is not decoded stays in it.
    fn digest(&mut self, input: &mut BytesMut, room: &mut usize, put: &mut impl FnMut(&[u8])) {
        self.is_starved = false;
        loop {
            match self.decoder.digest(input, room, put) {
                Ok(Stop::Starved) => self.is_starved = true,
                Ok(Stop::Full) => {}
                Ok(Stop::Border) => self.ended_message = true,
                Ok(Stop::Empty) => self.yields = true,
                Ok(Stop::Control(ControlFrame::Ping(payload))) => {
                    self.encoder.answer(payload);
                    continue;
                }
                Ok(Stop::Control(ControlFrame::Pong)) => {
                    self.encoder.answered();
                    continue;
                }
                Ok(Stop::Control(ControlFrame::Close(said))) => {
                    let code = said.as_ref().map(|(code, _)| *code);
                    self.encoder.close(code, "");
                    self.end = Some(End::Closed(said));
                }
                Err(violation) => {
                    self.encoder.close(Some(violation.code()), violation.word());
                    self.end = Some(End::Broken(violation));
                }
            }
            break;
        }
        if self.end.is_some() {
            // Bytes after a Close frame or a violation are discarded.
            input.clear();
        }
    }

    /// Whether the bytes of the last [`WebSocket::recv`] ended a message.
    #[must_use]
    pub const fn ended_message(&self) -> bool {
        self.ended_message
    }

    /// A number that changes with each frame, and each piece of a frame's payload, that comes from the peer.
    #[must_use]
    pub const fn frames_received(&self) -> u64 {
        self.decoder.heard
    }

    /// Code and reason of the peer's Close frame, once it came; `None` also if the frame has no code.
    #[must_use]
    pub fn peer_close(&self) -> Option<(u16, &str)> {
        match &self.end {
            Some(End::Closed(Some((code, reason)))) => Some((*code, reason)),
            _ => None,
        }
    }

    /// Whether the peer ended its direction in order: by a Close frame of [`code::NORMAL`] or without a code, and not
    /// within a message. Any other code says that the peer stopped before it had sent everything.
    #[must_use]
    pub const fn peer_finished(&self) -> bool {
        match &self.end {
            Some(End::Closed(None | Some((code::NORMAL, _)))) => !self.decoder.is_in_message(),
            _ => false,
        }
    }

    /// Sends one binary message, and returns how many of its bytes the kernel has. If that is fewer than were offered,
    /// the rest must be offered again before other bytes: it continues the message, or becomes the next one.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] after a Close frame of either end; and the errors of the socket.
    pub fn send(&mut self, socket: &impl Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.encoder.send(socket, slices)
    }

    /// Sends a ping, after the open data frame if there is one, unless an earlier ping has no answer yet.
    pub fn ping(&mut self, socket: &impl Socket) {
        self.encoder.ping();
        // The connection's reader and writer get the error from their own calls.
        let _ = self.encoder.flush(socket);
    }

    /// Sends a Close frame, unless one was sent; ready once the kernel has it, or the connection failed. While a data
    /// frame is open, no Close frame can be sent: then ready at once, and the peer sees a message that broke off.
    pub fn poll_close(
        &mut self,
        socket: &impl Socket,
        cx: &mut Context<'_>,
        code: u16,
        reason: &str,
    ) -> Poll<()> {
        if self.encoder.is_frame_open() {
            return Poll::Ready(());
        }
        self.encoder.close(Some(code), reason);
        poll_flushed(socket, cx, || self.encoder.flush(socket))
    }

    /// Sends a Close frame, unless one was sent, a frame is open or the kernel has no room for it now.
    pub fn try_close(&mut self, socket: &impl Socket, code: u16, reason: &str) {
        if !self.encoder.is_frame_open() {
            self.encoder.close(Some(code), reason);
            // If the connection failed or the peer does not read, the Close frame is not sent.
            let _ = self.encoder.flush(socket);
        }
    }

    /// Ends the sending direction, and with it the connection, in order: [`WebSocket::poll_close`] with
    /// [`code::NORMAL`].
    pub fn poll_finish(&mut self, socket: &impl Socket, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_close(socket, cx, code::NORMAL, "")
    }

    /// Whether the kernel has a Close frame, so that ending the socket ends the WebSocket in order.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.encoder.is_closed()
    }

    /// Whether control frames wait for room in the kernel.
    #[must_use]
    pub const fn has_unsent(&self) -> bool {
        self.encoder.has_unsent()
    }
}
