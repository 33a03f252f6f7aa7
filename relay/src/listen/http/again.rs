//! A request that is sent once more, because its target never had it, as is known here or as the agent says
//! after its link was lost: its head, and its body as far as it was taken, if that is short, with what is still
//! to come.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::Request;
use http::request::Parts;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tieline_hop::copy_head;
use tieline_wire::Reason;

use super::body::{Progress, RequestBody};
use super::state::State;

/// Longest body that is kept, in bytes: about what a session may carry before its target is connected,
/// and many times a usual call of a tool.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// A request's body as far as it went by.
#[derive(Default)]
pub(super) struct Kept {
    bytes: RefCell<BytesMut>,
    is_whole: Cell<bool>,
    is_too_long: Cell<bool>,
    /// What did not go by, and how it fares from here on.
    left: RefCell<Option<(Incoming, Progress)>>,
    /// The task that waits until the body is let go.
    waiter: Cell<Option<Waker>>,
}

/// The body's own hold on what is kept of it.
pub(super) struct Keeping(Rc<Kept>);

impl Drop for Keeping {
    fn drop(&mut self) {
        if let Some(waiter) = self.0.waiter.take() {
            waiter.wake();
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some((rest, progress)) = self.left.take()
            && let Some(it) = progress.rest
        {
            it.give_up(rest);
        }
    }
}

impl Keeping {
    /// A piece of the body goes by.
    pub(super) fn passed(&self, frame: &Frame<Bytes>) {
        let mut bytes = self.0.bytes.borrow_mut();
        match frame.data_ref() {
            Some(data) if bytes.len() + data.len() <= KEPT_BYTES_MAX => {
                bytes.extend_from_slice(data);
            }
            // Trailers are rare, and not kept.
            _ => {
                self.0.is_too_long.set(true);
                *bytes = BytesMut::new();
            }
        }
    }

    /// That was all of it.
    pub(super) fn done(&self) {
        self.0.is_whole.set(true);
    }

    /// The rest does not go by, unless the request is sent again: it fares like `progress` then.
    pub(super) fn left(&self, rest: Incoming, progress: Progress) {
        *self.0.left.borrow_mut() = Some((rest, progress));
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
        request.body_mut().progress_mut().kept = Some(Keeping(Rc::clone(&kept)));
        Self {
            head: copy_head(request),
            kept,
        }
    }

    /// Whether all of the request was taken, and can be sent again.
    pub(super) fn is_whole(&self) -> bool {
        self.kept.is_whole.get() && !self.kept.is_too_long.get()
    }

    /// The same request, unless too much of its body went by. The connection that it was sent over is to be
    /// dropped before: its task lets go of the body then.
    pub(super) async fn into_request(self, state: &Rc<State>) -> Option<Request<RequestBody>> {
        let Self { head, kept } = self;
        poll_fn(|cx| {
            let is_let_go = Rc::strong_count(&kept) == 1;
            if is_let_go || kept.is_whole.get() || kept.is_too_long.get() {
                return Poll::Ready(());
            }
            kept.waiter.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
        if kept.is_too_long.get() {
            return None;
        }
        let left = kept.left.take();
        if left.is_none() && !kept.is_whole.get() {
            return None;
        }
        let bytes = kept.bytes.take().freeze();
        let (rest, progress) = left.unzip();
        let progress = progress.unwrap_or_else(|| Progress::new(state));
        if let Some(it) = &progress.rest {
            it.returned(bytes.len());
        }
        let body = RequestBody::again(bytes, rest, progress);
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

/// Reasons for which a target took no connection, while another agent's may.
pub(crate) const fn is_of_target(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::TargetRefused | Reason::TargetUnreachable | Reason::TargetTimeout
    )
}

/// What a reset by the agent says about it: a tunnel that it has given back is away, and known here.
pub(super) const fn of_agent(reason: Reason) -> Reason {
    match reason {
        Reason::UnknownTunnel => Reason::TunnelOffline,
        reason => reason,
    }
}
