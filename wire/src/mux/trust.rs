//! Limit on the control bytes that wait for a peer: lower before an agent has shown a valid token.

use super::Mux;
use crate::limits::STRANGER_CONTROL_BYTES_MAX;

/// Control bytes that may wait for a trusted peer that does not read: ten thousand acknowledgements.
const CONTROL_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Mux {
    /// Relay: the agent has proved that it may have a tunnel.
    pub const fn trust(&mut self) {
        self.is_trusted = true;
    }

    /// True at an agent's end, and at the relay once [`Mux::trust`] was called.
    #[must_use]
    pub const fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Control bytes that may wait until the peer reads.
    pub(super) const fn control_bytes_max(&self) -> usize {
        if self.is_trusted {
            CONTROL_BYTES_MAX
        } else {
            STRANGER_CONTROL_BYTES_MAX
        }
    }
}
