//! A request that is sent once more, because its target never had it, as is known here or as the agent says
//! after its link was lost: its head, and its body as far as
//! that is short.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::Request;
use http::request::Parts;
use http_body::{Body, Frame};
use tieline_hop::copy_head;
use tieline_wire::Reason;

use super::body::{Progress, RequestBody};
use super::state::State;

/// Longest body that is kept, in bytes: about what a session may carry before its target is connected,
/// and many times a usual call of a tool.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// A request's body as far as it went by.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: RefCell<BytesMut>,
    is_whole: Cell<bool>,
    is_too_long: Cell<bool>,
}

impl Kept {
    /// A piece of the body goes by.
    pub(super) fn passed(&self, frame: &Frame<Bytes>) {
        let mut bytes = self.bytes.borrow_mut();
        match frame.data_ref() {
            Some(data) if bytes.len() + data.len() <= KEPT_BYTES_MAX => {
                bytes.extend_from_slice(data);
            }
            // Trailers are rare, and not kept.
            _ => {
                self.is_too_long.set(true);
                *bytes = BytesMut::new();
            }
        }
    }

    /// That was all of it.
    pub(super) fn done(&self) {
        self.is_whole.set(true);
    }
}

/// What is needed to send a request again.
pub(super) struct Again {
    head: Parts,
    kept: Rc<Kept>,
}

impl Again {
    /// Keeps of `request` what is needed, from now on.
    pub(super) fn of(request: &mut Request<RequestBody>) -> Self {
        let kept = Rc::new(Kept::default());
        kept.is_whole.set(request.body().is_end_stream());
        request.body_mut().progress_mut().kept = Some(Rc::clone(&kept));
        Self {
            head: copy_head(request),
            kept,
        }
    }

    /// Whether the request can be sent again.
    pub(super) fn is_whole(&self) -> bool {
        self.kept.is_whole.get() && !self.kept.is_too_long.get()
    }

    /// The same request, unless its body was too long or has not come in full.
    pub(super) fn into_request(self, state: &Rc<State>) -> Option<Request<RequestBody>> {
        if !self.is_whole() {
            return None;
        }
        let Self { head, kept } = self;
        let progress = Progress::new(state);
        let body = RequestBody::again(kept.bytes.take().freeze(), progress);
        Some(Request::from_parts(head, body))
    }
}

/// Reasons for which a session was not opened, and that pass when the agent comes back.
pub(super) fn is_away(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::TunnelOffline
            | Reason::Kicked
            | Reason::LinkLost
            | Reason::Stale
            | Reason::Superseded
            | Reason::ShuttingDown
    )
}

/// What a reset by the agent says about it: a tunnel that it has given back is away, and known here.
pub(super) const fn of_agent(reason: Reason) -> Reason {
    match reason {
        Reason::UnknownTunnel => Reason::TunnelOffline,
        reason => reason,
    }
}
