//! The unread rest of a request's body after its answer: read and discarded if it is short, so that the
//! connection serves the next request; otherwise the answer says `Connection: close`.
//!
//! Without either, the caller would send its next request on a connection that is being closed
//! (RFC 9112, section 9.6).

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, Version};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tieline_hop::close_after;
use tieline_hop::headers::expects_continue;

use super::deadline::{LINGER_MAX, LINGER_PAUSE_MAX, LINGER_TURN_BYTES};
use super::state::{FrontendState, Upload};
use crate::listen::http::gateway::Gateway;

/// Longest rest that is read to keep the connection, in bytes.
const REST_BYTES_MAX: u64 = 256 * 1024;

/// How long an answer waits for the end of a body of unknown length: enough to read bytes that the caller
/// sent together with the head.
const END_WAIT_MAX: Duration = Duration::from_millis(100);

/// Decision about the rest of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnreadDecision {
    /// No decision yet: there is no answer.
    Open,
    /// The rest is read, and the connection stays open.
    Read,
    /// The connection closes after the answer.
    Closed,
}

/// The unread part of one request's body.
pub(crate) struct UnreadBody {
    /// Unread bytes; `None` if the body's length is unknown.
    left: Cell<Option<u64>>,
    /// Whether the caller waits for `100 Continue` before it sends the body; the first poll of the body asks for it.
    pub(crate) awaits_continue: Cell<bool>,
    /// Whether the whole body was read.
    pub(crate) is_done: Cell<bool>,
    decision: Cell<UnreadDecision>,
    /// The rest, if it was given up before there was an answer.
    given_up: RefCell<Option<Incoming>>,
    read: Box<dyn Fn(Incoming)>,
}

impl UnreadBody {
    /// For the body of the current request of `state`.
    pub(crate) fn new<G: Gateway>(
        parts: &Parts,
        body: &Incoming,
        gateway: &G,
        state: &Rc<FrontendState>,
    ) -> Rc<Self> {
        let is_http2 = parts.version == Version::HTTP_2;
        let read = {
            let (gateway, state, request) =
                (gateway.clone(), Rc::clone(state), state.requests.get());
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
            // Over HTTP/2 only the stream ends, never the connection.
            decision: Cell::new(if is_http2 {
                UnreadDecision::Read
            } else {
                UnreadDecision::Open
            }),
            given_up: RefCell::default(),
            read: Box::new(read),
        })
    }

    /// Counts a frame of the body that was read.
    pub(crate) fn passed(&self, frame: &Frame<Bytes>) {
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        let left = self.left.get().map(|left| left.saturating_sub(bytes));
        self.left.set(left);
    }

    /// Counts bytes that the body will return once more, for a repeated request.
    pub(crate) fn returned(&self, bytes: usize) {
        let left = self.left.get().map(|left| left + bytes as u64);
        self.left.set(left);
    }

    /// Takes the rest of the body, which will not be forwarded.
    pub(crate) fn give_up(&self, rest: Incoming) {
        match self.decision.get() {
            UnreadDecision::Open => {
                self.given_up.replace(Some(rest));
            }
            UnreadDecision::Read => (self.read)(rest),
            // hyper closes the connection after the answer and reads no further.
            UnreadDecision::Closed => {}
        }
    }

    /// Decides, now that there is an answer, whether the connection stays open; adds `Connection: close` if not.
    pub(crate) async fn settle<G: Gateway, B>(
        &self,
        answer: &mut Response<B>,
        gateway: &G,
        state: &FrontendState,
    ) {
        if self.is_done.get() || self.decision.get() != UnreadDecision::Open {
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
                state.upload.set(Upload::Open);
                let is_whole = drain(rest, gateway.clone(), END_WAIT_MAX, REST_BYTES_MAX).await;
                if is_whole {
                    state.upload.set(Upload::Done);
                }
                is_whole
            }
            (Some(false), _) | (None, None) => false,
        };
        self.decision.set(if is_read {
            UnreadDecision::Read
        } else {
            UnreadDecision::Closed
        });
        if !is_read {
            close_after(answer.headers_mut());
        }
    }
}

/// Discards the rest of a body until its end, or until a limit on time or bytes is reached; true at its
/// end.
///
/// If the rest of an HTTP/2 body were dropped at once, the stream would be reset together with its answer.
/// A caller that sends its whole body before it reads would lose the answer (RFC 9113, section 8.1).
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
        let frame = pin!(body.frame());
        match gateway.within(LINGER_PAUSE_MAX.min(left), frame).await {
            Some(None) => return true,
            Some(Some(Ok(frame))) => {
                let received = frame.data_ref().map_or(0, Bytes::len);
                turn_bytes += received;
                bytes += received as u64;
            }
            Some(Some(Err(_))) | None => return false,
        }
        if turn_bytes >= LINGER_TURN_BYTES {
            turn_bytes = 0;
            gateway.sleep(Duration::from_millis(1)).await;
        }
    }
    false
}
