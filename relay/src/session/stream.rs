//! A session as a polled byte stream, for the HTTP front.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use tieline_wire::SessionEnd;
use tokio::sync::oneshot;

use super::{Incoming, Session};

/// Cause of a read or write error of a session that was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session was reset: {reason}")]
pub(crate) struct SessionEnded {
    pub(crate) reason: SessionEnd,
    /// Whether the target is known to have received no byte of the session.
    pub(crate) is_not_sent: bool,
}

impl SessionEnded {
    /// The cause of an error of a [`SessionStream`], if the session was reset.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        error
            .get_ref()
            .and_then(|cause| cause.downcast_ref::<Self>())
            .copied()
    }
}

impl From<SessionEnded> for io::Error {
    fn from(ended: SessionEnded) -> Self {
        Self::new(io::ErrorKind::ConnectionReset, ended)
    }
}

/// Reads and writes one session. Each read and write copies, since hyper keeps its own buffers.
///
/// Dropping the stream ends the session in order after a shutdown, and resets it otherwise.
pub(crate) struct SessionStream {
    /// `None` once the session was taken.
    session: Option<Session>,
    shut_down: bool,
}

impl SessionStream {
    pub(crate) const fn new(session: Session) -> Self {
        Self {
            session: Some(session),
            shut_down: false,
        }
    }

    /// Receives the number of bytes that had reached the agent when the link was lost, if the agent may report it.
    pub(crate) fn report_of_agent(&self) -> Option<oneshot::Receiver<u64>> {
        self.session.as_ref()?.delivery().report_of_agent()
    }

    /// The session itself, which goes on without HTTP.
    pub(crate) fn into_session(mut self) -> Option<Session> {
        self.session.take()
    }
}

/// The error for a session that was reset.
fn reset_error(session: &Session, reason: SessionEnd) -> io::Error {
    let is_not_sent = session.delivery().is_not_sent();
    let ended = SessionEnded {
        reason,
        is_not_sent,
    };
    ended.into()
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        match &self.session {
            Some(session) if self.shut_down => session.leave(),
            Some(session) => session.reset(SessionEnd::Cancelled),
            None => {}
        }
    }
}

impl Read for SessionStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(session) = &self.session else {
            return Poll::Ready(Ok(()));
        };
        match ready!(session.poll_incoming(cx)) {
            Incoming::Bytes => {
                let taken: Result<usize, Infallible> = session.take(|bytes| {
                    let len = bytes.len().min(buffer.remaining());
                    buffer.put_slice(&bytes[..len]);
                    Ok(len)
                });
                Poll::Ready(taken.map(|_| ()).map_err(|never| match never {}))
            }
            // The HTTP front never asks for a lane.
            Incoming::Finished | Incoming::Lane(_) => Poll::Ready(Ok(())),
            Incoming::Reset(reason) => Poll::Ready(Err(reset_error(session, reason))),
        }
    }
}

impl Write for SessionStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Some(session) = &self.session else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let failed = |reason| reset_error(session, reason);
        let capacity = ready!(session.poll_capacity(cx)).map_err(failed)?;
        let len = bytes.len().min(capacity);
        session
            .send(Bytes::copy_from_slice(&bytes[..len]), false)
            .map_err(failed)?;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut_down = true;
        if let Some(session) = &self.session {
            session.finish();
        }
        Poll::Ready(Ok(()))
    }
}
