//! The error of a mux, after which its link must be closed.

use crate::reason::LinkEnd;

/// The side that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The other end of the link.
    Peer,
    /// This process.
    Local,
    /// The target behind the agent.
    Target,
}

/// Error after which a link must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({detail})")]
pub struct Error {
    /// Reason that the peer is told and that is counted.
    pub reason: LinkEnd,
    /// The side at fault.
    pub side: Side,
    /// Details for a log.
    pub detail: String,
}

impl Error {
    pub(crate) fn peer(reason: LinkEnd, detail: impl Into<String>) -> Self {
        Self {
            reason,
            side: Side::Peer,
            detail: detail.into(),
        }
    }

    pub(crate) fn local(reason: LinkEnd, detail: impl Into<String>) -> Self {
        Self {
            reason,
            side: Side::Local,
            detail: detail.into(),
        }
    }
}
