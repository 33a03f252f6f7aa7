//! The part of a connection that a worker needs, independent of the protocol.

use std::io;
use std::time::Duration;

use crate::path::Path;
use crate::pattern::Pattern;
use crate::scenario::failure::ConnectionError;
use crate::socket::Socket;

/// Timeout for connecting and for writing the first bytes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A socket with its counters of due requests and received answers.
#[derive(Debug)]
pub(super) struct Seat {
    /// Number of the connection in the scenario; it determines the bytes that are sent.
    pub(super) id: u64,
    /// The socket, non-blocking.
    pub(super) stream: Socket,
    /// Due time of the request in flight; used in a closed loop, which has at most one per connection.
    pub(super) due_ns: u64,
    /// Whether the socket is full, so that a writable event is awaited.
    pub(super) is_full: bool,
    /// Number of due requests; every request below this number may be sent.
    pub(super) due: u64,
    /// Number of complete answers.
    pub(super) answered: u64,
}

impl Seat {
    /// Connects, completes the handshakes of a wrapped path, and sends `first`.
    pub(super) fn open(path: &Path, id: u64, first: &[u8]) -> Result<Self, ConnectionError> {
        let connect = || {
            let page = path.page(id);
            let mut stream = Socket::open(path.address, &path.wrap, page, CONNECT_TIMEOUT)?;
            stream.write_all(first)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        Ok(Self {
            id,
            stream: connect().map_err(ConnectionError::Connect)?,
            due_ns: 0,
            is_full: false,
            due: 0,
            answered: 0,
        })
    }

    /// Requests that are due and not answered.
    pub(super) fn waiting(&self) -> u64 {
        self.due - self.answered
    }

    /// Error for a socket that failed.
    pub(super) fn broken(&self, source: io::Error) -> ConnectionError {
        ConnectionError::Broken {
            answered: self.answered,
            source,
        }
    }
}

/// Requests and answers over one connection; every answer byte is checked.
pub(super) trait Dialogue {
    /// State that all protocols share.
    fn seat(&self) -> &Seat;

    /// Mutable state that all protocols share.
    fn seat_mut(&mut self) -> &mut Seat;

    /// Sends due requests. Returns whether everything that may be sent now was sent; if not, the
    /// socket is full.
    fn flush(&mut self, pattern: &Pattern) -> Result<bool, ConnectionError>;

    /// Reads once. Returns how many answers this completed.
    fn receive(&mut self, pattern: &Pattern, buffer: &mut [u8]) -> Result<u64, ConnectionError>;

    /// Whether a request that waited for the end of the previous answer may be sent now.
    fn has_turn(&self) -> bool {
        false
    }
}
