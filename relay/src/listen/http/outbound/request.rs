//! A request on its way to the target: how far its body is, and what is kept to send it again: its head, the bytes of
//! its body if they are few, and the part of the body still to come.
//!
//! A request is sent again if it is repeatable, or if the relay or (after a lost link) the agent knows that no target
//! received it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tieline_hop::copy_head;

use crate::listen::http::frontend::state::{FrontendState, Upload};
use crate::listen::http::frontend::unread_body::UnreadBody;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::policy::credentials::keep_trailers_back;

/// Longest kept part of a body, in bytes: about what a session may carry before its target is connected,
/// and many times the size of a usual tool call.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// A request's body on its way to the target.
pub(crate) type RequestBody = tieline_hop::RequestBody<Progress>;

/// Removes the relay's credentials from trailers.
type KeepBack = Box<dyn Fn(&mut HeaderMap)>;

/// Records the progress of a request's body.
pub(crate) struct Progress {
    pub(crate) state: Rc<FrontendState>,
    /// The first bytes of the body, kept while the request may have to be sent again.
    pub(crate) kept: Option<Keeping>,
    /// The part of the body that was not read.
    pub(crate) rest: Option<Rc<UnreadBody>>,
    keep_back: Option<KeepBack>,
}

impl Progress {
    pub(crate) fn new(state: &Rc<FrontendState>) -> Self {
        Self {
            state: Rc::clone(state),
            kept: None,
            rest: None,
            keep_back: None,
        }
    }

    /// Removes the relay's credentials from the trailers after the body.
    pub(crate) fn guard<G: Gateway>(&mut self, gateway: &G) {
        let gateway = gateway.clone();
        let keep_back = move |trailers: &mut HeaderMap| keep_trailers_back(&gateway, trailers);
        self.keep_back = Some(Box::new(keep_back));
    }
}

impl tieline_hop::Progress for Progress {
    type Timeout = Pin<Box<dyn Future<Output = ()>>>;

    fn asked(&self, is_pending: bool) {
        self.state.upload.set(Upload::Open);
        self.state.upload_wanted.set(is_pending);
        if let Some(rest) = &self.rest {
            rest.awaits_continue.set(false);
        }
    }

    fn passed(&self, frame: &mut Frame<Bytes>) {
        if let (Some(trailers), Some(keep_back)) = (frame.trailers_mut(), &self.keep_back) {
            keep_back(trailers);
        }
        self.state.count(frame);
        if let Some(kept) = &self.kept {
            kept.passed(frame);
        }
        if let Some(rest) = &self.rest {
            rest.passed(frame);
        }
    }

    fn done(&self) {
        self.state.upload.set(Upload::Done);
        if let Some(kept) = &self.kept {
            kept.0.is_whole.set(true);
        }
        if let Some(rest) = &self.rest {
            rest.is_done.set(true);
        }
    }

    fn left(&mut self, rest: Incoming) {
        let onward = Self {
            rest: self.rest.take(),
            keep_back: self.keep_back.take(),
            ..Self::new(&self.state)
        };
        match self.kept.take() {
            // In case the request is sent again.
            Some(kept) => *kept.0.left.borrow_mut() = Some((rest, onward)),
            None => {
                if let Some(it) = onward.rest {
                    it.give_up(rest);
                }
            }
        }
    }
}

/// Bytes of a request's body that were passed on.
#[derive(Default)]
pub(crate) struct KeptBody {
    bytes: RefCell<BytesMut>,
    is_whole: Cell<bool>,
    is_too_long: Cell<bool>,
    /// Rest of the body that was not passed on, with its progress record.
    left: RefCell<Option<(Incoming, Progress)>>,
    /// Task that waits until hyper drops the body.
    waiter: Cell<Option<Waker>>,
}

/// The body's handle on its kept bytes; dropping it wakes the waiting task.
pub(crate) struct Keeping(Rc<KeptBody>);

impl Drop for Keeping {
    fn drop(&mut self) {
        if let Some(waiter) = self.0.waiter.take() {
            waiter.wake();
        }
    }
}

impl Drop for KeptBody {
    fn drop(&mut self) {
        if let Some((rest, progress)) = self.left.take()
            && let Some(it) = progress.rest
        {
            it.give_up(rest);
        }
    }
}

impl Keeping {
    /// Keeps a frame of the body that is passed on.
    fn passed(&self, frame: &Frame<Bytes>) {
        let mut bytes = self.0.bytes.borrow_mut();
        match frame.data_ref() {
            Some(data) if bytes.len() + data.len() <= KEPT_BYTES_MAX => {
                bytes.extend_from_slice(data);
            }
            // Trailers are rare, and are not kept.
            _ => {
                self.0.is_too_long.set(true);
                *bytes = BytesMut::new();
            }
        }
    }
}

/// Head and kept body of a request that may be sent again.
pub(crate) struct RepeatableRequest {
    head: Parts,
    kept: Rc<KeptBody>,
}

impl RepeatableRequest {
    /// Copies the head of `request`, and keeps its body from now on.
    pub(crate) fn of(request: &mut Request<RequestBody>) -> Self {
        let kept = Rc::new(KeptBody::default());
        kept.is_whole.set(request.body().is_end_stream());
        request.body_mut().progress_mut().kept = Some(Keeping(Rc::clone(&kept)));
        Self {
            head: copy_head(request),
            kept,
        }
    }

    /// Whether the whole body was passed on and kept.
    pub(crate) fn is_whole(&self) -> bool {
        self.kept.is_whole.get() && !self.kept.is_too_long.get()
    }

    /// The same request, unless its body is too long to be kept. Drop its connection first: the connection's
    /// task then drops the body.
    pub(crate) async fn into_request(
        self,
        state: &Rc<FrontendState>,
    ) -> Option<Request<RequestBody>> {
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
