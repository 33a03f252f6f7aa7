//! TLS over a socket: a rustls connection with its buffered calls, which are all here.
//!
//! Neither direction has a queue of its own. A write is reported as taken once the kernel has all its records, so that
//! no task is needed to send a rest, and a peer that does not read is noticed as on a plain socket. A read takes from
//! the kernel about as many bytes as its reader has room for.

mod input;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, BufRead, IoSlice, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{Acceptor, ClientHello, ServerConfig};
use rustls::{
    ClientConfig, ClientConnection, Connection, HandshakeKind, NamedGroup, ProtocolVersion,
};

use self::input::{Framing, Input};
use crate::socket::{Received, Socket, poll_flushed, poll_layer_readable};

/// Ciphertext that one read takes from the kernel: a TLS record at least, or what the reader has room for.
const READ_BYTES_MIN: usize = 4 * 1024;
const READ_BYTES_MAX: usize = 256 * 1024;

/// Reads without any plaintext after which other tasks get a turn: a peer that sends a record in many small pieces must
/// not keep a thread busy.
const EMPTY_READS_MAX: usize = 16;

/// Records that one read decrypts before other tasks get a turn. Each record takes CPU time, however few bytes it has;
/// a key update takes the most. A full read of bulk data has 16 records.
const RECORDS_MAX: usize = 128;

/// Label of the exporter with which a protocol above TLS is bound to the connection (RFC 9266, section 4.2).
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// Bytes that records add to plaintext that fills one of them (RFC 8446, section 5.2; TLS 1.2 adds fewer than 32).
const RECORD_OVERHEAD_BYTES: usize = 32;

thread_local! {
    /// Ciphertext of the read that is being decrypted; empty between reads.
    static CIPHERTEXT: RefCell<BytesMut> = RefCell::default();
}

/// What both ends agreed on in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The protocol above TLS, if the client named any (ALPN, RFC 7301).
    pub application: Option<Vec<u8>>,
    /// The version of TLS.
    pub version: Option<ProtocolVersion>,
    /// The group of the key exchange; `None` for a TLS 1.2 connection that was resumed.
    pub group: Option<NamedGroup>,
    /// Whether the connection resumed an earlier one by its ticket.
    pub is_resumed: bool,
}

/// State of TLS over one socket.
pub struct Tls {
    connection: Connection,
    /// Ciphertext that rustls takes only after some plaintext was read, or in the next turn.
    undigested: BytesMut,
    framing: Framing,
    /// Whether rustls holds plaintext.
    has_plaintext: bool,
    /// Whether the peer has ended its direction with TLS's own end; the socket may stay open.
    has_ended: bool,
    /// Plaintext that was encrypted, but is not reported as taken while the kernel has not all its records.
    owed: usize,
    /// The plaintext that is owed, to check that it is offered again.
    #[cfg(debug_assertions)]
    owed_bytes: Vec<u8>,
    is_finishing: bool,
    /// Whether other tasks must get a turn before the next read.
    yields: bool,
    /// Error that a read met after the plaintext that it returned; the next read returns the error.
    failure: Option<io::Error>,
}

impl Tls {
    /// Accepts a TLS connection. `choose` returns the configuration for the client's hello. `may_answer` returns a
    /// permit that is held while a hello is answered, which takes most of a handshake's CPU time. A client that sent
    /// key shares only for groups that the server lacks is asked for a second hello.
    ///
    /// # Errors
    /// The socket's error, or a [`rustls::Error`]; the client was sent the alert then.
    pub async fn accept<F: Future>(
        socket: &impl Socket,
        choose: impl FnOnce(&ClientHello<'_>) -> Arc<ServerConfig>,
        may_answer: impl Fn() -> F,
    ) -> io::Result<Self> {
        let mut acceptor = Acceptor::default();
        let (mut input, mut framing) = (BytesMut::new(), Framing::default());
        // The loop waits for the socket before each read, so the number of the hello's records needs no limit.
        let mut records = usize::MAX;
        let accepted = loop {
            match acceptor.accept() {
                Ok(Some(accepted)) => break accepted,
                Ok(None) => {}
                Err((error, mut alert)) => {
                    // The connection ends now, whether or not the client gets the alert.
                    let _ = alert.write(&mut Output(socket));
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
            while input.is_empty() {
                poll_fn(|cx| socket.poll_readable(cx)).await;
                if socket.recv(&mut input, READ_BYTES_MIN)? == Received::End {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            acceptor.read_tls(&mut Input {
                bytes: &mut input,
                framing: &mut framing,
                records: &mut records,
            })?;
        };
        let config = choose(&accepted.client_hello());
        let permit = may_answer().await;
        let connection = accepted
            .into_connection(config)
            .map_err(|(error, mut alert)| {
                let _ = alert.write(&mut Output(socket));
                io::Error::new(io::ErrorKind::InvalidData, error)
            })?;
        drop(permit);
        let mut tls = Self::new(connection.into(), input, framing);
        while tls.awaits_second_hello() {
            poll_fn(|cx| tls.poll_their_turn(socket, cx)).await?;
            let permit = may_answer().await;
            tls.read_handshake(socket, &mut Left::new(0))?;
            drop(permit);
        }
        poll_fn(|cx| tls.poll_handshake(socket, cx)).await?;
        Ok(tls)
    }

    /// Opens a TLS connection to the server `name`.
    ///
    /// # Errors
    /// The socket's error, or a [`rustls::Error`]; the server was sent the alert then.
    pub async fn connect(
        socket: &impl Socket,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let connection = ClientConnection::new(config, name)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut tls = Self::new(connection.into(), BytesMut::new(), Framing::default());
        poll_fn(|cx| tls.poll_handshake(socket, cx)).await?;
        Ok(tls)
    }

    /// A connection whose handshake is not complete. `input` is ciphertext that was read and that rustls has not taken;
    /// it follows the bytes that `framing` has counted.
    fn new(connection: Connection, input: BytesMut, framing: Framing) -> Self {
        // An empty buffer would keep its memory for as long as the connection lives.
        let undigested = match input.is_empty() {
            true => BytesMut::new(),
            false => input,
        };
        Self {
            connection,
            undigested,
            framing,
            has_plaintext: false,
            has_ended: false,
            owed: 0,
            #[cfg(debug_assertions)]
            owed_bytes: Vec::new(),
            is_finishing: false,
            yields: false,
            failure: None,
        }
    }

    /// Whether the client was asked for a second hello (RFC 8446, section 4.1.4), and this end has not answered that
    /// hello yet.
    fn awaits_second_hello(&self) -> bool {
        let kind = self.connection.handshake_kind();
        kind == Some(HandshakeKind::FullWithHelloRetryRequest)
            && self.connection.negotiated_key_exchange_group().is_none()
    }

    /// Completes the handshake.
    fn poll_handshake(
        &mut self,
        socket: &impl Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut left = Left::new(0);
        loop {
            ready!(self.poll_their_turn(socket, cx))?;
            if !self.connection.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if left.records == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.read_handshake(socket, &mut left)?;
        }
    }

    /// Ready once the kernel has this end's part of the handshake, and the peer's next part can be read or is not
    /// needed.
    fn poll_their_turn(
        &mut self,
        socket: &impl Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.flush(socket)? {
            ready!(socket.poll_writable(cx));
        }
        if self.undigested.is_empty() && self.connection.is_handshaking() {
            ready!(socket.poll_readable(cx));
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what there is of the peer's part of the handshake, and answers it.
    fn read_handshake(&mut self, socket: &impl Socket, left: &mut Left) -> io::Result<()> {
        if !self.undigested.is_empty() {
            return self.digest_rest(socket, left, &mut |_| {});
        }
        match self.read(socket, left, &mut |_| {})? {
            Received::End => Err(io::ErrorKind::UnexpectedEof.into()),
            Received::Bytes(_) | Received::Nothing => Ok(()),
        }
    }

    /// What both ends agreed on in the handshake.
    pub fn agreed(&self) -> Agreed {
        let group = self.connection.negotiated_key_exchange_group();
        Agreed {
            application: self.connection.alpn_protocol().map(<[u8]>::to_vec),
            version: self.connection.protocol_version(),
            group: group.map(|group| group.name()),
            is_resumed: self.connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// The connection's exporter, for channel binding (RFC 9266): bytes that are equal at both ends of this connection,
    /// and differ from those of any other. `None` below TLS 1.3: there two connections may have the same exporter
    /// unless both ends use the extended master secret (RFC 7627), and rustls does not report whether they do.
    pub fn exporter(&self) -> Option<[u8; 32]> {
        if self.connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return None;
        }
        let exporter = self
            .connection
            .export_keying_material([0; 32], EXPORTER_LABEL, Some(&[]));
        exporter.ok()
    }

    /// The peer's own certificate, if it has shown one.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.connection.peer_certificates()?.first()
    }

    /// Ready while a read may return something.
    pub fn poll_readable(&mut self, socket: &impl Socket, cx: &mut Context<'_>) -> Poll<()> {
        let has_input = self.has_input();
        poll_layer_readable(socket, cx, &mut self.yields, has_input)
    }

    /// Whether a read needs no byte from the socket.
    pub fn has_input(&self) -> bool {
        let is_ready = self.has_plaintext || self.has_ended || self.failure.is_some();
        is_ready || !self.undigested.is_empty()
    }

    /// Gives `put` up to `max` bytes of plaintext in one piece or several, without waiting.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the connection ended without TLS's own end, which tells it from one that was
    /// cut. A call that fails has given `put` nothing: an earlier call has returned the plaintext from before the
    /// failure.
    pub fn recv(
        &mut self,
        socket: &impl Socket,
        max: usize,
        mut put: impl FnMut(&[u8]),
    ) -> io::Result<Received> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        let mut left = Left::new(max);
        match self.recv_into(socket, &mut left, &mut put) {
            Err(error) if left.room < max => {
                self.failure = Some(error);
                Ok(Received::Bytes(max - left.room))
            }
            received => received,
        }
    }

    /// Like [`Tls::recv`], but may fail after it gave plaintext to `put`.
    fn recv_into(
        &mut self,
        socket: &impl Socket,
        left: &mut Left,
        put: &mut impl FnMut(&[u8]),
    ) -> io::Result<Received> {
        let max = left.room;
        for _ in 0..EMPTY_READS_MAX {
            if self.take_plaintext(&mut left.room, put)? == Received::End {
                return Ok(Received::End);
            }
            if left.room < max || max == 0 {
                return Ok(Received::Bytes(max - left.room));
            }
            if left.records == 0 {
                break;
            }
            let received = if self.undigested.is_empty() {
                self.read(socket, left, put)?
            } else {
                self.digest_rest(socket, left, put)?;
                Received::Bytes(0)
            };
            match received {
                Received::Nothing if left.room == max => return Ok(Received::Nothing),
                Received::End => {
                    // Tells rustls that no more bytes will come.
                    self.connection.read_tls(&mut io::empty())?;
                }
                Received::Bytes(_) | Received::Nothing => {}
            }
            if left.room < max {
                return Ok(Received::Bytes(max - left.room));
            }
        }
        self.yields = true;
        Ok(Received::Nothing)
    }

    /// Reads once from the socket, and decrypts what came.
    fn read(
        &mut self,
        socket: &impl Socket,
        left: &mut Left,
        put: &mut impl FnMut(&[u8]),
    ) -> io::Result<Received> {
        CIPHERTEXT.with_borrow_mut(|input| {
            let wanted = left.room.saturating_add(RECORD_OVERHEAD_BYTES);
            let received = socket.recv(input, wanted.clamp(READ_BYTES_MIN, READ_BYTES_MAX))?;
            let digested = self.digest(socket, input, left, put);
            self.undigested.extend_from_slice(input);
            input.clear();
            digested.map(|()| received)
        })
    }

    /// Decrypts `undigested`, the ciphertext that an earlier read left over.
    fn digest_rest(
        &mut self,
        socket: &impl Socket,
        left: &mut Left,
        put: &mut impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut input = std::mem::take(&mut self.undigested);
        self.digest(socket, &mut input, left, put)?;
        if !input.is_empty() {
            self.undigested = input;
        }
        Ok(())
    }

    /// Decrypts `input`, and gives the plaintext to `put`, while room and records are `left`. What rustls does not take
    /// stays in `input`.
    fn digest(
        &mut self,
        socket: &impl Socket,
        input: &mut BytesMut,
        left: &mut Left,
        put: &mut impl FnMut(&[u8]),
    ) -> io::Result<()> {
        while !input.is_empty() {
            if left.room == 0 && self.has_plaintext {
                return Ok(());
            }
            if left.records == 0 {
                self.yields = true;
                break;
            }
            let before = input.len();
            self.connection.read_tls(&mut Input {
                bytes: &mut *input,
                framing: &mut self.framing,
                records: &mut left.records,
            })?;
            let processed = self.connection.process_new_packets();
            let state = processed.map_err(|error| {
                // The connection ends now, whether or not the peer gets the alert.
                let _ = self.flush(socket);
                io::Error::new(io::ErrorKind::InvalidData, error)
            })?;
            self.has_plaintext = state.plaintext_bytes_to_read() > 0;
            self.has_ended = state.peer_has_closed();
            if self.has_ended && input.len() == before {
                // Bytes behind the end mean nothing.
                input.clear();
            }
            self.take_plaintext(&mut left.room, put)?;
        }
        // Answers of TLS itself: what the kernel does not take now leaves with the next write.
        self.flush(socket)?;
        Ok(())
    }

    /// Gives `put` the plaintext that rustls holds, while there is `room`.
    fn take_plaintext(
        &mut self,
        room: &mut usize,
        put: &mut impl FnMut(&[u8]),
    ) -> io::Result<Received> {
        let mut reader = self.connection.reader();
        let before = *room;
        loop {
            let piece = match reader.fill_buf() {
                Ok([]) if *room == before => return Ok(Received::End),
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || *room < before => &[],
                Err(error) => return Err(error),
            };
            let count = piece.len().min(*room);
            if count == 0 {
                self.has_plaintext = !piece.is_empty();
                return Ok(Received::Bytes(before - *room));
            }
            put(&piece[..count]);
            *room -= count;
            reader.consume(count);
        }
    }

    /// Encrypts and writes; returns how many of the offered bytes the kernel has whole. After fewer than were offered,
    /// the rest must be offered again before other bytes.
    pub fn send(&mut self, socket: &impl Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.flush(socket)? {
            return Ok(0);
        }
        if self.owed == 0 {
            self.owed = self.connection.writer().write_vectored(slices)?;
            #[cfg(debug_assertions)]
            self.owed_bytes
                .extend(slices.iter().flat_map(|slice| &**slice).take(self.owed));
            if !self.flush(socket)? {
                return Ok(0);
            }
        }
        let offered = slices.iter().map(|slice| slice.len()).sum();
        let taken = self.owed.min(offered);
        self.owed -= taken;
        #[cfg(debug_assertions)]
        {
            let offered = slices.iter().flat_map(|slice| &**slice).take(taken);
            assert!(
                self.owed_bytes.drain(..taken).eq(offered.copied()),
                "other bytes offered"
            );
        }
        Ok(taken)
    }

    /// Writes records that wait; false if the kernel does not take all of them now.
    fn flush(&mut self, socket: &impl Socket) -> io::Result<bool> {
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut Output(socket))? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends TLS's own end of the sending direction; ready once the kernel has it, or the connection failed.
    pub fn poll_finish(&mut self, socket: &impl Socket, cx: &mut Context<'_>) -> Poll<()> {
        self.queue_end();
        poll_flushed(socket, cx, || self.flush(socket))
    }

    /// Sends TLS's own end of the sending direction, unless the kernel has no room for it now.
    pub fn try_finish(&mut self, socket: &impl Socket) {
        self.queue_end();
        // A peer that is gone or does not read gets no end.
        let _ = self.flush(socket);
    }

    fn queue_end(&mut self) {
        if !self.is_finishing {
            self.is_finishing = true;
            self.connection.send_close_notify();
        }
    }

    /// Whether records wait for room in the kernel.
    pub fn has_unsent(&self) -> bool {
        self.connection.wants_write()
    }
}

/// What is left of the limits of one read.
struct Left {
    /// Bytes of plaintext that its reader has room for.
    room: usize,
    /// Records to decrypt.
    records: usize,
}

impl Left {
    const fn new(room: usize) -> Self {
        Self {
            room,
            records: RECORDS_MAX,
        }
    }
}

/// Takes records from rustls; 0 bytes mean that the kernel has no room.
struct Output<'a, S>(&'a S);

impl<S: Socket> Write for Output<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
