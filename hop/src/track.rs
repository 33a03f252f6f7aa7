//! Where the exchange on a connection stands.

use std::cell::Cell;

/// Where the exchange on a connection stands; its stream and the request's body note it.
#[derive(Debug, Default)]
pub(crate) struct Track {
    /// Reads since the request began that brought bytes or the end.
    reads: Cell<u64>,
    request_done: Cell<bool>,
    request_failed: Cell<bool>,
}

impl Track {
    /// Starts the next request.
    pub(crate) fn begin(&self, has_body: bool) {
        self.reads.set(0);
        self.request_done.set(!has_body);
        self.request_failed.set(false);
    }

    /// Counts a read.
    pub(crate) fn read(&self) {
        self.reads.set(self.reads.get() + 1);
    }

    /// Records that the request's body was read to its end.
    pub(crate) fn request_done(&self) {
        self.request_done.set(true);
    }

    /// Records that the request's body is malformed or broke off.
    pub(crate) fn request_failed(&self) {
        self.request_failed.set(true);
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads.get()
    }

    pub(crate) fn is_request_done(&self) -> bool {
        self.request_done.get()
    }

    pub(crate) fn is_request_failed(&self) -> bool {
        self.request_failed.get()
    }
}
