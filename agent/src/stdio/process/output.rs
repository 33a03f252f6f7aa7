//! A child's standard output, as pieces of bytes.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::process::ChildStdout;

/// Room for one read, in bytes: what a pipe of Linux holds.
const READ_BYTES: usize = 64 * 1024;

/// Largest piece that is copied out of the memory for reads: a small message that waits for long would hold all of that
/// memory.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// The reading end of a child's standard output.
#[derive(Debug)]
pub(crate) struct Output {
    pipe: ChildStdout,
    /// Empty between reads.
    memory: BytesMut,
}

impl Output {
    pub(super) fn new(pipe: ChildStdout) -> Self {
        Self {
            pipe,
            memory: BytesMut::new(),
        }
    }

    /// Waits for the next bytes; `None` once no process has the pipe's other end any more. The child may live on
    /// without it. The child waits while nothing is read here. A wait that is given up loses nothing.
    ///
    /// # Errors
    /// The system's error, after which no more bytes come.
    pub(crate) async fn read(&mut self) -> io::Result<Option<Bytes>> {
        if self.memory.capacity() < READ_BYTES / 2 {
            // Takes the same memory again once all pieces of it are gone.
            self.memory.reserve(READ_BYTES);
        }
        Ok(match self.pipe.read_buf(&mut self.memory).await? {
            0 => None,
            1..=COPIED_BYTES_MAX => {
                let piece = Bytes::copy_from_slice(&self.memory);
                self.memory.clear();
                Some(piece)
            }
            _ => Some(self.memory.split().freeze()),
        })
    }
}
