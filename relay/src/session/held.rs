//! Counts sessions by who holds them.

use std::cell::Cell;
use std::rc::Rc;

/// How many of the sessions that were opened with it somebody still holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Rc<Cell<usize>>);

impl Held {
    pub(crate) fn count(&self) -> usize {
        self.0.get()
    }

    pub(super) fn hold(&self) -> Hold {
        self.0.set(self.0.get() + 1);
        Hold(self.clone())
    }
}

/// One of them.
pub(super) struct Hold(Held);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}
