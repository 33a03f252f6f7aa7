//! Moves the bytes of one direction between two tokio sockets with the fewest system calls.
//!
//! The bare forwarder is the baseline of every ratio, so it must be fast: one `recv` and one `send` per
//! piece, one hot buffer for all connections, no wake-up between the two calls.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes per read.
pub(crate) const READ_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice());
}

/// One direction of a connection, with the rest of a write that the socket did not take at once.
#[derive(Debug, Default)]
pub(crate) struct Pump {
    pending: Vec<u8>,
    written: usize,
    end_read: bool,
    finished: bool,
}

impl Pump {
    /// Moves available bytes. Ready when the end of `from` has been passed on to `to`.
    pub(crate) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            // tokio's task budget ends this loop, so a socket that is always ready cannot starve others.
            loop {
                ready!(self.poll_pending(cx, to))?;
                if self.end_read {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.finished = true;
                    return Poll::Ready(Ok(()));
                }
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
                let piece = buffer.filled();
                if piece.is_empty() {
                    self.end_read = true;
                    continue;
                }
                let taken = match Pin::new(&mut *to).poll_write(cx, piece)? {
                    Poll::Ready(taken) => taken,
                    Poll::Pending => 0,
                };
                self.pending.extend_from_slice(&piece[taken..]);
            }
        })
    }

    fn poll_pending<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while self.written < self.pending.len() {
            let rest = &self.pending[self.written..];
            match ready!(Pin::new(&mut *to).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.written += taken,
            }
        }
        if !self.pending.is_empty() {
            // Free the buffer: a connection that stalled once must not hold it for the rest of its life.
            self.pending = Vec::new();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }
}
