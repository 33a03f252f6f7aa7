//! Whether a link's agent was permitted a tunnel.

use super::SharedMux;

impl SharedMux {
    /// Notes that the agent was permitted a tunnel.
    pub(crate) fn trust(&self) {
        self.state.borrow_mut().mux.trust();
    }

    /// Whether the agent was permitted a tunnel.
    pub(crate) fn is_trusted(&self) -> bool {
        self.state.borrow().mux.is_trusted()
    }
}
