//! Why a link or a session ended: the codes that peers see, and the error of a mux.

use std::fmt;

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
    pub reason: Reason,
    /// The side at fault.
    pub side: Side,
    /// Details for a log.
    pub detail: String,
}

impl Error {
    pub(crate) fn peer(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            side: Side::Peer,
            detail: detail.into(),
        }
    }

    pub(crate) fn local(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            side: Side::Local,
            detail: detail.into(),
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $word:literal, $finality:ident, $sentence:literal;)*) => {
        /// Why a registration was refused, a link closed or a session reset.
        ///
        /// Codes are stable; a code that this build does not know reads as [`Reason::Internal`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Reason {
            $($(#[$doc])* #[doc = $sentence] $name = $code,)*
        }

        impl Reason {
            /// Every reason, in the order of [`Reason::index`].
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason with a code from the wire.
            #[must_use]
            pub const fn from_code(code: u16) -> Self {
                match code {
                    $($code => Self::$name,)*
                    _ => Self::Internal,
                }
            }

            /// Stable word for metrics and JSON.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// True if a retry cannot help.
            #[must_use]
            pub const fn is_final(self) -> bool {
                match self {
                    $(Self::$name => reasons!(@ $finality),)*
                }
            }
        }

        impl fmt::Display for Reason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $sentence,)*
                })
            }
        }
    };
    (@ retry) => { false };
    (@ last) => { true };
}

reasons! {
    // Registration, final.
    BadSignature = 1, "bad_signature", last, "the agent's signature does not fit its key";
    BadToken = 2, "bad_token", last, "the token is not valid here";
    DccNotAllowed = 3, "dcc_not_allowed", last, "the token does not allow this kind of application";
    NameNotAllowed = 4, "name_not_allowed", last, "the token does not allow this tunnel name";
    NameInvalid = 5, "name_invalid", last, "the requested name is not a valid tunnel name";
    NameTaken = 6, "name_taken", last, "another agent's key holds this tunnel name";
    Superseded = 7, "superseded", last, "a newer run of the same agent took over";
    Version = 8, "version", last, "no protocol version that both sides speak";
    Revoked = 9, "revoked", last, "access was revoked";
    NotLoopback = 10, "not_loopback", last, "without authentication only local agents are accepted";
    RelayName = 11, "relay_name", last, "the agent dialled a name that is not this relay's";
    RegistrationInvalid = 12, "registration_invalid", last, "a value of the registration is not valid in a URL, a header or a list";
    // Registration and link, worth a retry.
    Protocol = 32, "protocol", retry, "the peer broke the protocol";
    Preface = 33, "preface", retry, "the peer does not speak this protocol";
    FrameTooLong = 34, "frame_too_long", retry, "a frame is longer than allowed";
    Table = 35, "table", retry, "a control message failed verification";
    CreditOverrun = 36, "credit_overrun", retry, "a peer sent more than it had credit for";
    UnknownSession = 37, "unknown_session", retry, "a frame names a session that was never opened";
    HandshakeTimeout = 38, "handshake_timeout", retry, "the handshake took too long";
    Stale = 39, "stale", retry, "nothing was heard from the peer for too long";
    LinkLost = 40, "link_lost", retry, "the link was lost";
    TokenExpired = 41, "token_expired", retry, "the token has expired";
    ClaimTimeout = 42, "claim_timeout", retry, "the name could not be claimed in time";
    TunnelLimit = 43, "tunnel_limit", retry, "the relay's tunnel limit is reached";
    LinkLimit = 44, "link_limit", retry, "the relay's link limit is reached";
    SessionLimit = 45, "session_limit", retry, "the link's session limit is reached";
    Overload = 46, "overload", retry, "too busy or out of resources";
    ShuttingDown = 47, "shutting_down", retry, "the peer is shutting down";
    LengthMismatch = 48, "length_mismatch", retry, "the number of bytes received differs from the number sent";
    LaneLost = 49, "lane_lost", retry, "the session's bulk lane broke";
    LaneRefused = 50, "lane_refused", retry, "no bulk lane was offered to this connection";
    AuthUnavailable = 51, "auth_unavailable", retry, "the relay cannot check permissions at the moment";
    AuthChanged = 52, "auth_changed", retry, "the token's permissions have changed";
    Kicked = 53, "kicked", retry, "an operator ended the tunnel";
    Limited = 54, "limited", retry, "a limit of the relay is exceeded";
    NameBound = 55, "name_bound", retry, "the tunnel name is bound to an agent with another key";
    TokenNotYet = 56, "token_not_yet", retry, "the token is not valid yet";
    NoTunnel = 57, "no_tunnel", retry, "the link did not get a tunnel in time";
    // Sessions.
    TargetRefused = 64, "target_refused", retry, "the target refused the connection";
    TargetUnreachable = 65, "target_unreachable", retry, "the target cannot be reached";
    TargetTimeout = 66, "target_timeout", retry, "the target did not answer in time";
    TargetReset = 67, "target_reset", retry, "the target reset the connection";
    FrontendGone = 68, "frontend_gone", retry, "the caller went away";
    FrontendReset = 69, "frontend_reset", retry, "the caller reset the connection";
    Cancelled = 70, "cancelled", retry, "the caller cancelled";
    UnknownTunnel = 71, "unknown_tunnel", retry, "there is no such tunnel";
    Preamble = 72, "preamble", retry, "the caller's preamble, which names a tunnel, is late or malformed";
    TunnelOffline = 73, "tunnel_offline", retry, "the tunnel's agent is not connected";
    TunnelPaused = 74, "tunnel_paused", retry, "an operator paused the tunnel";
    // 0 is not a reason: it stands for success.
    Internal = 127, "internal", retry, "an internal or unknown error";
}

impl Reason {
    /// The reason's code on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The reason's index in [`Reason::ALL`], for tables of counters.
    #[must_use]
    pub fn index(self) -> usize {
        // `ALL` holds every variant in ascending order, as a test proves.
        Self::ALL.binary_search(&self).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_its_code_and_has_its_place() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(Reason::from_code(reason.code()), *reason);
            assert_eq!(reason.index(), index);
            assert!(
                reason
                    .word()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_')
            );
        }
    }

    #[test]
    fn an_unknown_code_is_internal() {
        assert_eq!(Reason::from_code(9999), Reason::Internal);
    }
}
