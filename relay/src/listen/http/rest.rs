//! What is left of a request's body when its answer is there: read and thrown away where that is cheap, so
//! that the connection serves the next request; else the answer says `Connection: close`.
//!
//! A caller that was told neither would write its next request into a connection that is being closed
//! (RFC 9112, section 9.6).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, Version};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tieline_hop::headers::expects_continue;

use super::Gateway;
use super::deadline::{LINGER_MAX, LINGER_PAUSE_MAX, LINGER_TURN_BYTES};
use super::state::{State, Upload};

/// Longest rest that is read for the sake of the connection, in bytes.
const REST_BYTES_MAX: u64 = 256 * 1024;

/// How long an answer waits for the end of a body whose length is not known. What a caller has sent
/// together with its head is read within that time.
const END_WAIT_MAX: Duration = Duration::from_millis(100);

/// What becomes of a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not decided: there is no answer yet.
    Open,
    /// It is read, and the connection goes on.
    Read,
    /// The connection ends behind the answer.
    Closed,
}

/// The body of one request, as far as it was not taken.
pub(super) struct Rest {
    /// Bytes that were not taken; `None` if only the end will tell.
    left: Cell<Option<u64>>,
    /// Whether its caller sends nothing before it is asked to.
    awaits_continue: Cell<bool>,
    is_done: Cell<bool>,
    fate: Cell<Fate>,
    /// What was given up before there was an answer.
    given_up: RefCell<Option<Incoming>>,
    read: Box<dyn Fn(Incoming)>,
}

impl Rest {
    /// The body of the request that `state` is at.
    pub(super) fn new<G: Gateway>(
        parts: &Parts,
        body: &Incoming,
        gateway: &G,
        state: &Rc<State>,
    ) -> Rc<Self> {
        let is_http2 = parts.version == Version::HTTP_2;
        let read = {
            let (gateway, state, request) = (gateway.clone(), Rc::clone(state), state.request());
            move |rest| {
                let (asker, state) = (gateway.clone(), Rc::clone(&state));
                gateway.spawn(async move {
                    if drain(rest, asker, LINGER_MAX, u64::MAX).await {
                        state.passed_over(request);
                    }
                });
            }
        };
        Rc::new(Self {
            left: Cell::new(body.size_hint().exact()),
            awaits_continue: Cell::new(!is_http2 && expects_continue(&parts.headers)),
            is_done: Cell::new(body.is_end_stream()),
            // There a stream ends, and no connection.
            fate: Cell::new(if is_http2 { Fate::Read } else { Fate::Open }),
            given_up: RefCell::default(),
            read: Box::new(read),
        })
    }

    /// The body is asked for.
    pub(super) fn asked(&self) {
        self.awaits_continue.set(false);
    }

    /// A piece of it was taken.
    pub(super) fn passed(&self, frame: &Frame<Bytes>) {
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        let left = self.left.get().map(|left| left.saturating_sub(bytes));
        self.left.set(left);
    }

    /// So many bytes of it are taken once more.
    pub(super) fn returned(&self, bytes: usize) {
        let left = self.left.get().map(|left| left + bytes as u64);
        self.left.set(left);
    }

    /// All of it was taken.
    pub(super) fn done(&self) {
        self.is_done.set(true);
    }

    /// Nothing more of it is wanted.
    pub(super) fn give_up(&self, rest: Incoming) {
        match self.fate.get() {
            Fate::Open => {
                self.given_up.replace(Some(rest));
            }
            Fate::Read => (self.read)(rest),
            // hyper then reads no further.
            Fate::Closed => {}
        }
    }

    /// There is an answer: decides whether it is the connection's last, and says so in it.
    pub(super) async fn settle<G: Gateway, B>(
        &self,
        answer: &mut Response<B>,
        gateway: &G,
        state: &State,
    ) {
        if self.is_done.get() || self.fate.get() != Fate::Open {
            return;
        }
        let given_up = self.given_up.take();
        let fits = self.left.get().map(|left| left <= REST_BYTES_MAX);
        let is_read = match (fits, given_up) {
            _ if self.awaits_continue.get() => false,
            (Some(true), rest) => {
                if let Some(rest) = rest {
                    (self.read)(rest);
                }
                true
            }
            (None, Some(rest)) => {
                state.set_upload(Upload::Open);
                let is_whole = drain(rest, gateway.clone(), END_WAIT_MAX, REST_BYTES_MAX).await;
                if is_whole {
                    state.set_upload(Upload::Done);
                }
                is_whole
            }
            (Some(false), _) | (None, None) => false,
        };
        self.fate
            .set(if is_read { Fate::Read } else { Fate::Closed });
        if !is_read {
            super::close_after(answer.headers_mut());
        }
    }
}

/// Throws the rest of a request's body away, until it ends, or has had its time or its `bytes_max`; true if
/// it ended.
///
/// A stream of HTTP/2 whose rest is dropped at once would be reset in the moment of its answer, and callers
/// who send their body first and read then would lose that (RFC 9113, section 8.1, lets them go on).
async fn drain<G: Gateway>(
    mut body: Incoming,
    gateway: G,
    time_max: Duration,
    bytes_max: u64,
) -> bool {
    let deadline = gateway.now() + time_max;
    let (mut turn_bytes, mut bytes) = (0, 0);
    while bytes <= bytes_max && !gateway.is_draining() {
        let left = deadline.saturating_duration_since(gateway.now());
        if left.is_zero() {
            return false;
        }
        let mut pause = pin!(gateway.sleep(LINGER_PAUSE_MAX.min(left)));
        let received = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                Poll::Ready(Some(Some(bytes)))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(None)),
            Poll::Pending => pause.as_mut().poll(cx).map(|()| Some(None)),
        });
        match received.await {
            None => return true,
            Some(None) => return false,
            Some(Some(received)) => {
                turn_bytes += received;
                bytes += received as u64;
            }
        }
        if turn_bytes >= LINGER_TURN_BYTES {
            turn_bytes = 0;
            gateway.sleep(Duration::from_millis(1)).await;
        }
    }
    false
}
