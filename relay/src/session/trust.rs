//! Whether a link's agent has shown that it may have a tunnel.

use super::SharedMux;

impl SharedMux {
    /// The agent has shown a good token.
    pub(crate) fn trust(&self) {
        self.state.borrow_mut().mux.trust();
    }

    /// True once the agent has.
    pub(crate) fn is_trusted(&self) -> bool {
        self.state.borrow().mux.is_trusted()
    }
}
