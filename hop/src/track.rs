//! Where the exchange on a connection stands.

use std::cell::Cell;

use crate::informational::Informational;

/// Where the exchange on a connection stands; its stream and the request's body note it.
#[derive(Debug, Default)]
pub(crate) struct Track {
    /// Reads since the request began that brought bytes or the end.
    pub(crate) reads: Cell<u64>,
    /// The request's body was read to its end.
    pub(crate) request_done: Cell<bool>,
    /// The request's body is malformed or broke off.
    pub(crate) request_failed: Cell<bool>,
    /// Informational responses to the request.
    pub(crate) informational: Informational,
}

impl Track {
    /// Starts the next request.
    pub(crate) fn begin(&self, has_body: bool) {
        self.reads.set(0);
        self.request_done.set(!has_body);
        self.request_failed.set(false);
        self.informational.begin();
    }
}
