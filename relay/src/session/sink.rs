//! Where a session's payload goes.

use std::io;

use crate::io::Stream;
use crate::quic::QuicStream;

/// A frontend's stream that takes payload without waiting.
pub(crate) trait Sink {
    /// Takes as many of `bytes` as there is room for; 0 means: wait until the stream is writable.
    ///
    /// # Errors
    /// The frontend is gone.
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;
}

impl Sink for Stream {
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::send(self, bytes)
    }
}

impl Sink for QuicStream {
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::send(self, bytes)
    }
}
