//! One stream of a caller, read and written without waiting, like a socket.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use quinn_proto::{ReadError, StreamId, VarInt, WriteError};
use tieline_transport::Received;
use tieline_transport::quic::Unacknowledged;
use tieline_wire::SessionEnd;

use super::stream_states::{StreamState, StreamStates};
use crate::io::timeout;

/// Largest piece that QUIC is given at once, in bytes: it keeps each piece until all of it is acknowledged.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// One stream that a caller opened. Dropping it resets the direction towards the caller unless it was finished, and stops
/// the other one unless it was read to its end.
pub(crate) struct QuicStream {
    streams: Rc<StreamStates>,
    id: StreamId,
    state: Rc<StreamState>,
    /// Bytes that were put back, which the next reads return.
    ahead: RefCell<Bytes>,
    /// The last byte of each piece that the caller has not acknowledged.
    unacknowledged: Unacknowledged,
    /// The caller's direction was read to its end.
    is_read: Cell<bool>,
    /// The direction towards the caller was finished.
    is_finished: Cell<bool>,
    /// Both directions are over.
    is_over: Cell<bool>,
    /// The caller has a window for the stream's session.
    is_wide: Cell<bool>,
    /// Code of the reason that the caller is told if the stream does not end in order.
    code: Cell<u16>,
}

impl QuicStream {
    /// A stream that the caller has just opened.
    pub(super) fn new(streams: Rc<StreamStates>, id: StreamId) -> Self {
        Self {
            state: streams.begin(id),
            streams,
            id,
            ahead: RefCell::default(),
            unacknowledged: Unacknowledged::default(),
            is_read: Cell::new(false),
            is_finished: Cell::new(false),
            is_over: Cell::new(false),
            is_wide: Cell::new(false),
            code: Cell::new(SessionEnd::ShuttingDown.code()),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut quinn_proto::Connection) -> T) -> T {
        self.streams.connection.with(|proto, _| act(proto))
    }

    /// Ready while a read may return something.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.ahead.borrow().is_empty() {
            true => self.state.poll_readable(cx),
            false => Poll::Ready(()),
        }
    }

    /// Ready while a write may take something.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.state.poll_writable(cx)
    }

    /// Appends up to `max` bytes to `buffer`, without waiting: as much of what has arrived as fits, because QUIC keeps it in
    /// pieces of one packet each.
    pub(crate) fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        let mut ahead = self.ahead.borrow_mut();
        if !ahead.is_empty() {
            let count = ahead.len().min(max);
            buffer.extend_from_slice(&ahead[..count]);
            ahead.advance(count);
            return Ok(Received::Bytes(count));
        }
        if self.state.is_broken() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.is_read.get() {
            return Ok(Received::End);
        }
        let before = buffer.len();
        let end = self.with(|proto| read(proto, self.id, buffer, max));
        let count = buffer.len() - before;
        match end {
            ReadEnd::Full => {}
            ReadEnd::Blocked => self.state.found_empty(),
            // QUIC tells it once; behind bytes, the next read returns it.
            ReadEnd::Finished => self.is_read.set(true),
            ReadEnd::Reset => {
                self.is_read.set(true);
                self.state.fail();
            }
        }
        match end {
            _ if count > 0 => Ok(Received::Bytes(count)),
            ReadEnd::Full | ReadEnd::Blocked => Ok(Received::Nothing),
            ReadEnd::Finished => Ok(Received::End),
            ReadEnd::Reset => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// Makes the next reads return `bytes`, which were read before.
    pub(crate) fn put_back(&self, bytes: Bytes) {
        let mut ahead = self.ahead.borrow_mut();
        *ahead = match ahead.is_empty() {
            true => bytes,
            false => [&*bytes, &**ahead].concat().into(),
        };
    }

    /// Gives QUIC what the caller allows now, as a copy; 0 means: wait until the stream is writable.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.state.is_broken() || self.is_over.get() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut taken = 0;
        while taken < bytes.len() && !self.state.is_full() {
            let left = &bytes[taken..];
            let piece = &left[..left.len().min(PIECE_BYTES_MAX)];
            let (count, end) =
                self.with(|proto| write(proto, self.id, piece, &self.unacknowledged));
            taken += count;
            match end {
                Ok(()) => {}
                Err(WriteError::Blocked) => self.state.found_full(),
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    self.state.fail();
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
        }
        Ok(taken)
    }

    /// Ends the direction towards the caller in order, behind all written bytes.
    pub(crate) fn finish(&self) {
        self.is_finished.set(true);
        // Fails only if the caller wants no more of the direction, which `is_broken` tells.
        let _ = self.with(|proto| proto.send_stream(self.id).finish());
    }

    /// Whether the caller reset the stream, wants no more of it, or is gone.
    pub(crate) fn is_broken(&self) -> bool {
        let is_reset = || {
            let reset = self.with(|proto| proto.recv_stream(self.id).received_reset());
            matches!(reset, Ok(Some(_)))
        };
        if !self.state.is_broken() && !self.is_read.get() && is_reset() {
            self.is_read.set(true);
            self.state.fail();
        }
        self.state.is_broken()
    }

    /// Whether the caller has not acknowledged all bytes: a reset would discard the rest of them.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unacknowledged.bytes() > 0 && !self.state.is_broken()
    }

    /// Waits until the caller has acknowledged a direction towards it that was finished, and returns at once if it was not. The
    /// wait ends, too, once the caller is gone, or has not acknowledged all of another piece for `patience`.
    pub(crate) async fn delivered(&self, patience: Duration) {
        let is_awaited = self.is_finished.get() && !self.is_over.get();
        let mut left = usize::MAX;
        while is_awaited && self.unacknowledged.bytes() < left {
            left = self.unacknowledged.bytes();
            let delivered = poll_fn(|cx| self.state.poll_delivered(cx));
            if timeout(patience, delivered).await.is_ok() {
                return;
            }
        }
    }

    /// Bytes of memory that QUIC is known to keep for the stream.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.unacknowledged.bytes()
    }

    /// Sets the code of the reason that the caller is told if the stream does not end in order.
    pub(crate) fn set_code(&self, code: u16) {
        self.code.set(code);
    }

    /// Ends both directions now, as far as they are not over.
    pub(crate) fn cut(&self) {
        if self.is_over.replace(true) {
            return;
        }
        // A caller that broke the stream off itself reads no reason of the relay's into it.
        let code = match self.state.is_broken() {
            true => SessionEnd::FrontendReset.code(),
            false => self.code.get(),
        };
        let code = VarInt::from(code);
        let (is_finished, is_read) = (self.is_finished.get(), self.is_read.get());
        if is_finished && is_read {
            return;
        }
        self.with(|proto| {
            // Both fail only if the direction is over.
            if !is_finished {
                let _ = proto.send_stream(self.id).reset(code);
            }
            if !is_read {
                let _ = proto.recv_stream(self.id).stop(code);
            }
        });
    }

    /// Gives the caller a window for the stream's session, once that is permitted.
    pub(crate) fn widen(&self) {
        if !self.is_wide.replace(true) {
            self.streams.session_begins();
        }
    }
}

impl Drop for QuicStream {
    fn drop(&mut self) {
        self.cut();
        self.streams.forget(self.id);
        if self.is_wide.get() {
            self.streams.session_ends();
        }
    }
}

/// Why a read stopped.
#[derive(Clone, Copy, Debug)]
enum ReadEnd {
    /// The buffer has as much as it may.
    Full,
    Blocked,
    Finished,
    Reset,
}

/// Appends up to `max` bytes of what has arrived on a stream.
fn read(
    proto: &mut quinn_proto::Connection,
    id: StreamId,
    buffer: &mut BytesMut,
    max: usize,
) -> ReadEnd {
    let mut stream = proto.recv_stream(id);
    let Ok(mut chunks) = stream.read(true) else {
        return ReadEnd::Reset;
    };
    let mut left = max;
    let end = loop {
        if left == 0 {
            break ReadEnd::Full;
        }
        match chunks.next(left) {
            Ok(Some(chunk)) => {
                buffer.extend_from_slice(&chunk.bytes);
                left -= chunk.bytes.len();
            }
            Ok(None) => break ReadEnd::Finished,
            Err(ReadError::Blocked) => break ReadEnd::Blocked,
            Err(ReadError::Reset(_)) => break ReadEnd::Reset,
        }
    };
    // The connection's driver sends after each turn anyway.
    let _ = chunks.finalize();
    end
}

/// Writes as much of `piece` as QUIC takes; returns how much that is, and why it is not all.
///
/// QUIC copies all but the last byte, into memory for just the bytes that it takes. A part of a larger copy would keep all of
/// it until the part is acknowledged, and a caller may allow byte after byte and acknowledge none. The last byte tells that
/// the piece has arrived: QUIC drops bytes in their order.
fn write(
    proto: &mut quinn_proto::Connection,
    id: StreamId,
    piece: &[u8],
    unacknowledged: &Unacknowledged,
) -> (usize, Result<(), WriteError>) {
    let Some((last, before)) = piece.split_last() else {
        return (0, Ok(()));
    };
    let mut stream = proto.send_stream(id);
    let mut taken = 0;
    // Room is reported only behind a write that was refused, not behind one that was taken in part.
    while taken < before.len() {
        match stream.write(&before[taken..]) {
            Ok(count) => taken += count,
            Err(error) => return (taken, Err(error)),
        }
    }
    let mut last = [unacknowledged.count(Bytes::copy_from_slice(&[*last]))];
    match stream.write_chunks(&mut last) {
        Ok(written) => (taken + written.bytes, Ok(())),
        Err(error) => (taken, Err(error)),
    }
}
