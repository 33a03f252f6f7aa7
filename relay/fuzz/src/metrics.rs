//! The reasons of dropped packets that `packet.rs` tells.

/// As in the relay's metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuicDrop {
    Malformed,
    Version,
    ShortInitial,
}
