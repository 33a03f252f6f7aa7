//! Why a frontend connection ended.

/// Why a frontend connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The connection ended in order.
    Closed,
    /// The caller closed or reset the connection before an answer was complete.
    CallerGone,
    /// The caller did not send valid HTTP; it got an error answer if possible.
    Malformed,
    /// No complete request head arrived in time.
    HeadTimeout,
    /// No further request arrived in time.
    IdleTimeout,
    /// The caller neither took the answer nor sent the body in time.
    Stalled,
    /// The caller's access was revoked.
    Revoked,
    /// The target broke off its answer, and the framing shows the caller that the answer is incomplete.
    Aborted,
    /// The target broke off its answer, and only a reset shows the caller that the answer is incomplete.
    Truncated,
}

impl Ended {
    /// Stable name for counters and logs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::CallerGone => "caller_gone",
            Self::Malformed => "malformed",
            Self::HeadTimeout => "head_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Stalled => "stalled",
            Self::Revoked => "revoked",
            Self::Aborted => "aborted",
            Self::Truncated => "truncated",
        }
    }

    /// True if the connection must be reset: a close would look like the end of the answer, or would
    /// keep bytes in memory for a caller that does not take them.
    pub(crate) fn is_reset(self) -> bool {
        matches!(self, Self::Stalled | Self::Revoked | Self::Truncated)
    }
}
