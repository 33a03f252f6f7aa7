//! What a worker needs of a connection, whatever is said over it.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use crate::path::Path;
use crate::pattern::Pattern;
use crate::scenario::failure::ConnectionError;

/// How long to wait for a TCP connection, and for the first bytes to be taken.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The socket, what is due on it and what was answered.
#[derive(Debug)]
pub(super) struct Seat {
    /// Its number in the scenario; it decides which bytes are sent.
    pub(super) id: u64,
    /// The socket, non-blocking.
    pub(super) stream: TcpStream,
    /// When the request under way was due; used in a closed loop, where there is one at most.
    pub(super) due_ns: u64,
    /// Whether the socket took less than was sent, so that we wait for it to take more.
    pub(super) is_full: bool,
    /// Requests that are due: every one below this number may be sent.
    pub(super) due: u64,
    /// Answers that came.
    pub(super) answered: u64,
}

impl Seat {
    /// Connects, turns the delay of small writes off, sends `first`.
    pub(super) fn open(path: &Path, id: u64, first: &[u8]) -> Result<Self, ConnectionError> {
        let connect = || {
            let mut stream = TcpStream::connect_timeout(&path.address, CONNECT_TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
            io::Write::write_all(&mut stream, first)?;
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

    /// The socket failed.
    pub(super) fn broken(&self, source: io::Error) -> ConnectionError {
        ConnectionError::Broken {
            answered: self.answered,
            source,
        }
    }
}

/// Requests and answers over one connection; every byte of an answer is checked.
pub(super) trait Dialogue {
    /// The connection.
    fn seat(&self) -> &Seat;

    /// The same, to change what is due.
    fn seat_mut(&mut self) -> &mut Seat;

    /// Sends what is due. Answers whether everything that may be sent now went out; if not, the
    /// socket is full.
    fn flush(&mut self, pattern: &Pattern) -> Result<bool, ConnectionError>;

    /// Reads once. Returns how many answers became complete.
    fn receive(&mut self, pattern: &Pattern, buffer: &mut [u8]) -> Result<u64, ConnectionError>;

    /// Whether a request that had to wait for the end of the answer before it may be sent now.
    fn has_turn(&self) -> bool {
        false
    }
}
