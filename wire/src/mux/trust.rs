//! How much a peer may have the mux hold for it: a stranger less than an agent with a good token.

use super::Mux;
use crate::limits::STRANGER_CONTROL_BYTES_MAX;

/// Control bytes that may wait for a peer that does not read: ten thousand acknowledgements.
const CONTROL_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Mux {
    /// Relay: the agent has shown that it may have a tunnel.
    pub const fn trust(&mut self) {
        self.is_trusted = true;
    }

    /// True for an agent's end, and at the relay once [`Mux::trust`] was called.
    #[must_use]
    pub const fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Control bytes that may wait for the peer to read.
    pub(super) const fn control_bytes_max(&self) -> usize {
        if self.is_trusted {
            CONTROL_BYTES_MAX
        } else {
            STRANGER_CONTROL_BYTES_MAX
        }
    }
}
