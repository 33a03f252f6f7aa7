//! Request bodies on their way to the relay, and how far the request on a connection is.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use super::caller::State;

/// A request's body on its way to the relay.
pub(super) type RequestBody = tieline_hop::RequestBody<Progress>;

/// Records a request body's progress for the caller's connection and the relay's.
pub(super) struct Progress {
    pub(super) state: Rc<State>,
    pub(super) track: Option<Rc<Track>>,
}

impl tieline_hop::Progress for Progress {
    type Timeout = Pin<Box<dyn Future<Output = ()>>>;

    fn asked(&self, _is_pending: bool) {
        self.state.uploading();
    }

    fn done(&self) {
        self.state.uploaded();
        if let Some(track) = &self.track {
            track.set_request_done(true);
        }
    }

    fn failed(&self) {
        if let Some(track) = &self.track {
            track.set_request_failed(true);
        }
    }
}

/// State of one connection and of the request on it.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// Reads since the request began that returned bytes or end-of-file.
    pub(super) reads: Cell<u64>,
    pub(super) request_done: Cell<bool>,
    pub(super) request_failed: Cell<bool>,
}

impl Track {
    pub(super) fn set_request_done(&self, done: bool) {
        self.request_done.set(done);
    }

    pub(super) fn set_request_failed(&self, failed: bool) {
        self.request_failed.set(failed);
    }
}
