//! Request bodies on their way to the relay.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use super::caller::State;

/// A request's body on its way to the relay.
pub(super) type RequestBody = tieline_hop::RequestBody<Progress>;

/// Records a request body's progress for the caller's connection.
pub(super) struct Progress {
    pub(super) state: Rc<State>,
}

impl tieline_hop::Progress for Progress {
    type Timeout = Pin<Box<dyn Future<Output = ()>>>;

    fn asked(&self, _is_pending: bool) {
        self.state.uploading();
    }

    fn done(&self) {
        self.state.uploaded();
    }
}
