//! A connection to the next hop: hyper's client over a stream, one request and its answer at a time.
//!
//! The hop that opens it spawns the task that drives it. A connection that its owner drops is closed at once, even
//! during a request; one that its owner releases ends in order. After `101 Switching Protocols` hyper lets go of the
//! stream, and the owner takes it over.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Sub;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};

use crate::body::{Progress, RequestBody};
use crate::failure::{Failure, Fault, reusable_for};
use crate::headers::kept_alive_for;
use crate::informational::TOO_MANY_INFORMATIONAL;
use crate::pool::PooledConnection;
use crate::reporting::ReportingStream;
use crate::track::Track;

/// A connection to the next hop; `T` is a point in time on the hop's clock.
pub struct Connection<P: Progress, T> {
    sender: SendRequest<RequestBody<P>>,
    track: Rc<Track>,
    owner: Owner,
    idle_since: Option<T>,
    /// Idle timeout that the next hop announced.
    kept_alive_for: Option<Duration>,
}

impl<P: Progress + 'static, T: Copy + Sub<Output = Duration>> Connection<P, T> {
    /// Starts hyper's client on `stream`, with heads and buffers of at most `buffer_bytes_max`; returns the
    /// connection and the task that drives it. `failed` gets the errors of the stream.
    ///
    /// # Errors
    /// hyper cannot start.
    pub async fn start<S, N>(
        stream: S,
        buffer_bytes_max: usize,
        failed: N,
    ) -> Result<(Self, impl Future<Output = ()> + use<P, S, N, T>), hyper::Error>
    where
        S: Read + Write + Unpin + 'static,
        N: FnMut(&io::Error) + Unpin + 'static,
    {
        let track = Rc::new(Track::default());
        let stream = ReportingStream::new(stream, Rc::clone(&track), failed);
        let (sender, mut driver) = http1::Builder::new()
            // hyper joins the lines of a folded field, as a proxy should (RFC 9112, section 5.2).
            .allow_obsolete_multiline_headers_in_responses(true)
            .max_header_size(buffer_bytes_max)
            .max_buf_size(buffer_bytes_max)
            .handshake(stream)
            .await?;
        let owner = Owner::default();
        let ownership = Rc::clone(&owner.0);
        let driving = async move {
            if drive(&mut driver, &ownership).await {
                ownership.end_drive(driver.into_parts().read_buf);
            }
        };
        let connection = Self {
            sender,
            track,
            owner,
            idle_since: None,
            kept_alive_for: None,
        };
        Ok((connection, driving))
    }

    /// Sends a request and waits for the answer's head; the body may still be sent afterwards. `problem` says what the
    /// caller is told about a fault.
    ///
    /// Not an `async fn`, whose future would hold the request although hyper has it.
    ///
    /// # Errors
    /// There is no answer that can be passed on.
    pub fn send<E>(
        &mut self,
        mut request: Request<RequestBody<P>>,
        problem: impl FnOnce(Fault) -> E,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure<RequestBody<P>, E>>> {
        self.track.begin(!request.body().is_end_stream());
        request.body_mut().track_with(Rc::clone(&self.track));
        let awaited = request.body().continue_signal();
        self.track.informational.watch(&mut request, awaited);
        let sent = self.sender.try_send_request(request);
        async move {
            match sent.await {
                // They came in one read with the answer.
                Ok(_) if self.track.informational.is_exceeded() => {
                    let fault = Fault::Malformed(TOO_MANY_INFORMATIONAL);
                    Err(Failure::Broken(problem(fault)))
                }
                Ok(answer) => {
                    self.kept_alive_for = kept_alive_for(answer.headers());
                    Ok(answer)
                }
                Err(error) => Err(Failure::of(error, &self.track, problem)),
            }
        }
    }

    /// Waits until hyper has let go of the stream behind an answer that switches protocols; returns the bytes that it
    /// read behind the answer's head. The stream itself belongs to the hop, which must keep a handle to it.
    pub async fn switched(self) -> Bytes {
        poll_fn(|cx| self.owner.0.poll_rest(cx)).await
    }

    /// Whether the next hop has closed the connection.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether a request can be sent at once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether the connection was idle at `now` for less than `limit`, and less than the next hop announced.
    #[must_use]
    pub fn is_fresh(&self, now: T, limit: Duration) -> bool {
        let idle = self.idle_since.map_or(Duration::ZERO, |since| now - since);
        idle < reusable_for(self.kept_alive_for, limit)
    }

    /// Records that the connection is idle from `now` on.
    pub fn begin_idle(&mut self, now: T) {
        self.idle_since = Some(now);
    }
}

impl<P: Progress + 'static, T: 'static> PooledConnection for Connection<P, T> {
    fn is_reusable(&self) -> bool {
        self.track.request_done.get() && !self.sender.is_closed()
    }

    fn release(self) {
        if self.sender.is_ready() {
            self.owner.release();
        }
    }
}

/// A connection's owner: dropping it ends the task that drives the connection.
#[derive(Default)]
struct Owner(Rc<Ownership>);

#[derive(Default)]
struct Ownership {
    end: Cell<Option<OwnerEnd>>,
    waker: RefCell<Option<Waker>>,
    /// Bytes that hyper had read and not used when it let go of the stream.
    rest: RefCell<Option<Bytes>>,
    /// Task that waits for `rest`.
    waiter: RefCell<Option<Waker>>,
}

/// How the owner of a connection let it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnerEnd {
    Dropped,
    Released,
}

impl Owner {
    fn release(self) {
        self.0.end.set(Some(OwnerEnd::Released));
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let Ownership { end, waker, .. } = &*self.0;
        end.set(end.get().or(Some(OwnerEnd::Dropped)));
        if let Some(waker) = waker.take() {
            waker.wake();
        }
    }
}

impl Ownership {
    fn poll_end(&self, cx: &Context<'_>) -> Poll<OwnerEnd> {
        if let Some(end) = self.end.get() {
            return Poll::Ready(end);
        }
        let mut waker = self.waker.borrow_mut();
        let known = waker.get_or_insert_with(|| cx.waker().clone());
        known.clone_from(cx.waker());
        Poll::Pending
    }

    /// Keeps the bytes that hyper had read when it let go of the stream.
    fn end_drive(&self, rest: Bytes) {
        self.rest.replace(Some(rest));
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    fn poll_rest(&self, cx: &Context<'_>) -> Poll<Bytes> {
        if let Some(rest) = self.rest.take() {
            return Poll::Ready(rest);
        }
        self.waiter.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

/// Drives a connection until it ends, or until its owner drops it; true if it ended by itself.
async fn drive(driver: impl Future, owned: &Ownership) -> bool {
    let mut driver = pin!(driver);
    let mut is_owned = true;
    poll_fn(|cx| {
        if is_owned && let Poll::Ready(end) = owned.poll_end(cx) {
            is_owned = false;
            if end == OwnerEnd::Dropped {
                return Poll::Ready(false);
            }
        }
        driver.as_mut().poll(cx).map(|_| true)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn is_over(task: impl Future) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        pin!(task).poll(&mut cx).is_ready()
    }

    #[test]
    fn a_connection_is_dropped_with_its_owner_and_lives_on_when_released() {
        let [dropped, released, holds] = [(); 3].map(|()| Owner::default());
        let [of_dropped, of_released, held] =
            [&dropped, &released, &holds].map(|owner| Rc::clone(&owner.0));
        drop(dropped);
        assert!(is_over(drive(pending::<()>(), &of_dropped)));
        released.release();
        assert!(!is_over(drive(pending::<()>(), &of_released)));
        assert!(!is_over(drive(pending::<()>(), &held)));
        assert!(is_over(drive(ready(()), &held)));
    }
}
