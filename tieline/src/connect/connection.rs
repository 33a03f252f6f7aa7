//! A connection to the relay: hyper's client on a stream, which the connection takes back after a switch of protocols.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::UPGRADE;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tieline_hop::{Delivery, Fault, PooledConnection};
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::HTTP_BUFFER_BYTES_MAX;
use super::caller::{Progress, RequestBody};
use super::problem::Problem;
use crate::outbound::dial::Stream;

/// Why a request got no answer.
pub(super) type Failure = tieline_hop::Failure<RequestBody, Problem>;

type Client = tieline_hop::Connection<Progress, Instant>;

/// The stream to the relay until it is taken.
type Slot = RefCell<Option<TokioIo<Box<dyn Stream>>>>;

/// A connection to the relay. Dropping it closes the connection, even during a request.
pub(super) struct Connection {
    pub(super) client: Client,
    /// The stream, while hyper has it.
    lent: Weak<Slot>,
    /// Keeps the stream when hyper lets go of it; only during a request for a WebSocket.
    held: Option<Rc<Slot>>,
}

impl Connection {
    /// Starts HTTP/1.1 on `stream`.
    pub(super) async fn start(stream: Box<dyn Stream>) -> Result<Self, Problem> {
        let slot: Rc<Slot> = Rc::new(RefCell::new(Some(TokioIo::new(stream))));
        let lent = Rc::downgrade(&slot);
        let started = Client::start(LentStream(slot), HTTP_BUFFER_BYTES_MAX, |_| {}).await;
        let (client, driving) = started.map_err(|_| Problem::relay_closed(Delivery::NotSent))?;
        spawn_local(driving);
        Ok(Self {
            client,
            lent,
            held: None,
        })
    }

    /// Sends a request and waits for the answer's head; the body may still be sent afterwards.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> {
        // Only requests for a WebSocket keep the field `Upgrade` on their way to the relay.
        if request.headers().contains_key(UPGRADE) {
            self.held = self.lent.upgrade();
        }
        let problem = |fault| match fault {
            Fault::Request(refusal) => refusal.into(),
            Fault::Malformed(rule) => Problem::relay_invalid(rule),
            Fault::Closed => Problem::relay_closed(Delivery::Sent),
        };
        self.client.send(request, problem)
    }

    /// Takes the stream back from hyper after an answer that switches protocols, with the bytes that followed the
    /// answer's head; `None` if the request did not ask for the switch.
    pub(super) async fn switched(self) -> Option<(Box<dyn Stream>, Bytes)> {
        let Self { client, held, .. } = self;
        let ahead = client.switched().await;
        let stream = held?.take()?;
        Some((stream.into_inner(), ahead))
    }

    /// Records that the connection is idle from `now` on.
    pub(super) fn begin_idle(&mut self, now: Instant) {
        self.held = None;
        self.client.begin_idle(now);
    }
}

impl PooledConnection for Connection {
    fn is_reusable(&self) -> bool {
        self.client.is_reusable()
    }

    fn release(self) {
        self.client.release();
    }
}

/// The stream to the relay as hyper reads and writes it.
struct LentStream(Rc<Slot>);

impl LentStream {
    /// Runs `act` on the stream; pending forever once the stream was taken.
    fn with<T>(&self, act: impl FnOnce(Pin<&mut TokioIo<Box<dyn Stream>>>) -> Poll<T>) -> Poll<T> {
        let mut slot = self.0.borrow_mut();
        slot.as_mut()
            .map_or(Poll::Pending, |stream| act(Pin::new(stream)))
    }
}

impl Read for LentStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, buf))
    }
}

impl Write for LentStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        let slot = self.0.borrow();
        slot.as_ref().is_some_and(Write::is_write_vectored)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write_vectored(cx, slices))
    }
}
