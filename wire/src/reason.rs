//! Reasons: why a registration is refused, a link or a session ends, a caller is turned away.
//!
//! One table holds the code, the word, the finality and the sentence of each reason. Each type below is the part of the
//! table that can occur in one place. Three types travel in frames: [`RefusalReason`] in `RegisterAck`, [`LinkEnd`] in
//! `GoAway`, [`SessionEnd`] in `Reset`. The others are the relay's own, and stand here so that each word has one
//! definition.
//!
//! Long because the conversions between the types name every variant.

use std::fmt;

macro_rules! table {
    ($($name:ident = $code:literal, $word:literal, $finality:ident, $sentence:literal;)*) => {
        /// One row of the table of reasons.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        enum Reason {
            $($name = $code,)*
        }

        impl Reason {
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$name,)*];

            const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            const fn is_final(self) -> bool {
                match self {
                    $(Self::$name => table!(@ $finality),)*
                }
            }

            const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$name => $sentence,)*
                }
            }
        }
    };
    (@ retry) => { false };
    (@ last) => { true };
}

// 0 is not a reason: it stands for success.
table! {
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
    RelayName = 11, "relay_name", last, "the agent dialled a name that is not this relay's, or a loopback name from another machine";
    RegistrationInvalid = 12, "registration_invalid", last, "a value of the registration is not valid in a URL, a header or a list";
    Unbound = 13, "unbound", last, "the agent's proof is not bound to a TLS connection that ends at this relay";
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
    ClientCertificate = 58, "client_certificate", retry, "the relay asks agents for a certificate of their own";
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
    Internal = 127, "internal", retry, "an internal or unknown error";
}

/// Makes a type of some rows of the table, in ascending order of their codes. `=> Other` says that `Other` has all of
/// these rows, and makes the conversion; `in frames` adds the codes of the wire.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident $(=> $other:ident)* : $rows:tt $(in $frames:ident)?) => {
        reasons!(@type [$(#[$doc])*] $name $rows);
        $(reasons!(@into $name $other $rows);)*
        $(reasons!(@$frames $name);)?
    };
    (@type [$(#[$doc:meta])*] $name:ident { $($row:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        #[expect(missing_docs, reason = "each row of the table has its sentence")]
        pub enum $name {
            $($row = Reason::$row as u16,)*
        }

        impl $name {
            /// Every reason of this type, in the order of [`Self::index`].
            pub const ALL: &'static [Self] = &[$(Self::$row,)*];

            const fn row(self) -> Reason {
                match self {
                    $(Self::$row => Reason::$row,)*
                }
            }

            /// Stable word for metrics, logs and JSON.
            #[must_use]
            pub const fn word(self) -> &'static str {
                self.row().word()
            }

            /// True if a retry cannot help.
            #[must_use]
            pub const fn is_final(self) -> bool {
                self.row().is_final()
            }

            /// The reason's index in [`Self::ALL`], for tables of counters.
            #[must_use]
            pub fn index(self) -> usize {
                // `ALL` holds every variant in ascending order, as a test proves.
                Self::ALL.binary_search(&self).unwrap_or(0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.row().sentence())
            }
        }
    };
    (@into $name:ident $other:ident { $($row:ident,)* }) => {
        impl From<$name> for $other {
            fn from(reason: $name) -> Self {
                match reason {
                    $($name::$row => Self::$row,)*
                }
            }
        }
    };
    (@frames $name:ident) => {
        impl $name {
            /// The reason's code on the wire; codes are stable.
            #[must_use]
            pub const fn code(self) -> u16 {
                self as u16
            }

            /// The reason with a code from the wire: `Internal` for a code that this type does not have.
            #[must_use]
            pub fn from_code(code: u16) -> Self {
                let mut all = Self::ALL.iter().copied();
                all.find(|reason| reason.code() == code).unwrap_or(Self::Internal)
            }
        }
    };
}

reasons! {
    /// Why the relay refuses a tunnel to an agent, or takes the tunnel back.
    RefusalReason: {
        BadToken,
        DccNotAllowed,
        NameNotAllowed,
        NameInvalid,
        NameTaken,
        Superseded,
        Revoked,
        NotLoopback,
        RegistrationInvalid,
        TokenExpired,
        ClaimTimeout,
        TunnelLimit,
        Overload,
        ShuttingDown,
        AuthUnavailable,
        AuthChanged,
        Kicked,
        Limited,
        NameBound,
        TokenNotYet,
        Cancelled,
        Internal,
    } in frames
}

reasons! {
    /// Why the relay takes back a tunnel from a link that goes on.
    WithdrawalReason => RefusalReason => SessionEnd: {
        Revoked,
        TokenExpired,
        AuthUnavailable,
        AuthChanged,
        Kicked,
    }
}

reasons! {
    /// Why a link ends, or does not begin.
    LinkEnd: {
        BadSignature,
        Superseded,
        Version,
        Revoked,
        RelayName,
        Unbound,
        Protocol,
        Preface,
        FrameTooLong,
        Table,
        CreditOverrun,
        UnknownSession,
        HandshakeTimeout,
        Stale,
        LinkLost,
        ClaimTimeout,
        LinkLimit,
        SessionLimit,
        Overload,
        ShuttingDown,
        LengthMismatch,
        AuthChanged,
        Limited,
        NoTunnel,
        ClientCertificate,
        Internal,
    } in frames
}

reasons! {
    /// Why a connection on an agent listener did not become a link or a lane, as the relay counts it.
    LinkRefusal: {
        BadSignature,
        Version,
        Revoked,
        RelayName,
        Unbound,
        Protocol,
        Preface,
        FrameTooLong,
        Table,
        HandshakeTimeout,
        LinkLost,
        Overload,
        ShuttingDown,
        LaneRefused,
        Limited,
        Internal,
    }
}

reasons! {
    /// Why the relay removed a link whose agent is known.
    Eviction: {
        Superseded,
        Revoked,
        Protocol,
        FrameTooLong,
        Table,
        CreditOverrun,
        UnknownSession,
        Stale,
        Overload,
        ShuttingDown,
        LengthMismatch,
        AuthChanged,
        NoTunnel,
        Internal,
    }
}

reasons! {
    /// Why a session was reset, or could not be opened.
    SessionEnd: {
        NameTaken,
        Superseded,
        Revoked,
        Protocol,
        LinkLost,
        TokenExpired,
        ClaimTimeout,
        TunnelLimit,
        SessionLimit,
        Overload,
        ShuttingDown,
        LengthMismatch,
        LaneLost,
        AuthUnavailable,
        AuthChanged,
        Kicked,
        Limited,
        NameBound,
        TargetRefused,
        TargetUnreachable,
        TargetTimeout,
        TargetReset,
        FrontendGone,
        FrontendReset,
        Cancelled,
        UnknownTunnel,
        TunnelOffline,
        TunnelPaused,
        Internal,
    } in frames
}

reasons! {
    /// Why a caller gets no session.
    NoSession => SessionEnd => CallerRefusal: {
        Revoked,
        SessionLimit,
        AuthChanged,
        TargetRefused,
        TargetUnreachable,
        TargetTimeout,
        UnknownTunnel,
        TunnelOffline,
        TunnelPaused,
    }
}

reasons! {
    /// Why a caller is turned away.
    CallerRefusal: {
        BadToken,
        Revoked,
        TokenExpired,
        SessionLimit,
        Overload,
        AuthUnavailable,
        AuthChanged,
        Limited,
        TokenNotYet,
        TargetRefused,
        TargetUnreachable,
        TargetTimeout,
        UnknownTunnel,
        Preamble,
        TunnelOffline,
        TunnelPaused,
    }
}

impl LinkEnd {
    /// How the relay counts the end of a link whose agent is known; `None` if the relay did not remove the link.
    #[must_use]
    pub const fn eviction(self) -> Option<Eviction> {
        Some(match self {
            Self::LinkLost => return None,
            Self::Superseded => Eviction::Superseded,
            Self::Revoked => Eviction::Revoked,
            Self::Protocol => Eviction::Protocol,
            Self::FrameTooLong => Eviction::FrameTooLong,
            Self::Table => Eviction::Table,
            Self::CreditOverrun => Eviction::CreditOverrun,
            Self::UnknownSession => Eviction::UnknownSession,
            Self::Stale => Eviction::Stale,
            Self::Overload => Eviction::Overload,
            Self::ShuttingDown => Eviction::ShuttingDown,
            Self::LengthMismatch => Eviction::LengthMismatch,
            Self::AuthChanged => Eviction::AuthChanged,
            Self::NoTunnel => Eviction::NoTunnel,
            // Ends of a handshake, and ends that agents alone decide on.
            Self::BadSignature
            | Self::Version
            | Self::RelayName
            | Self::Unbound
            | Self::Preface
            | Self::HandshakeTimeout
            | Self::Limited
            | Self::ClientCertificate
            | Self::ClaimTimeout
            | Self::LinkLimit
            | Self::SessionLimit
            | Self::Internal => Eviction::Internal,
        })
    }

    /// How the relay counts the end of a connection whose agent is unknown.
    #[must_use]
    pub const fn refusal(self) -> LinkRefusal {
        match self {
            Self::BadSignature => LinkRefusal::BadSignature,
            Self::Version => LinkRefusal::Version,
            Self::Revoked => LinkRefusal::Revoked,
            Self::RelayName => LinkRefusal::RelayName,
            Self::Unbound => LinkRefusal::Unbound,
            Self::Protocol => LinkRefusal::Protocol,
            Self::Preface => LinkRefusal::Preface,
            Self::FrameTooLong => LinkRefusal::FrameTooLong,
            Self::Table => LinkRefusal::Table,
            Self::HandshakeTimeout => LinkRefusal::HandshakeTimeout,
            Self::LinkLost => LinkRefusal::LinkLost,
            Self::Overload => LinkRefusal::Overload,
            Self::ShuttingDown => LinkRefusal::ShuttingDown,
            Self::Limited => LinkRefusal::Limited,
            // Ends that need an agent's hello, its sessions or its tunnels, ends that agents alone decide on, and a missing
            // certificate, which is counted as a failed handshake.
            Self::Superseded
            | Self::ClientCertificate
            | Self::CreditOverrun
            | Self::UnknownSession
            | Self::Stale
            | Self::LengthMismatch
            | Self::AuthChanged
            | Self::NoTunnel
            | Self::ClaimTimeout
            | Self::LinkLimit
            | Self::SessionLimit
            | Self::Internal => LinkRefusal::Internal,
        }
    }

    /// The reason for the sessions that end with the link. An end that says only how the link failed is `LinkLost` for
    /// them: another link may carry the next session.
    #[must_use]
    pub const fn of_sessions(self) -> SessionEnd {
        match self {
            Self::Superseded => SessionEnd::Superseded,
            Self::ShuttingDown => SessionEnd::ShuttingDown,
            Self::BadSignature
            | Self::Version
            | Self::Revoked
            | Self::RelayName
            | Self::Unbound
            | Self::Protocol
            | Self::Preface
            | Self::FrameTooLong
            | Self::Table
            | Self::CreditOverrun
            | Self::UnknownSession
            | Self::HandshakeTimeout
            | Self::Stale
            | Self::LinkLost
            | Self::ClaimTimeout
            | Self::LinkLimit
            | Self::SessionLimit
            | Self::Overload
            | Self::LengthMismatch
            | Self::AuthChanged
            | Self::Limited
            | Self::NoTunnel
            | Self::ClientCertificate
            | Self::Internal => SessionEnd::LinkLost,
        }
    }
}

impl SessionEnd {
    /// The reason for callers if the target took no connection; another agent's target may take it.
    #[must_use]
    pub const fn no_target(self) -> Option<NoSession> {
        match self {
            Self::TargetRefused => Some(NoSession::TargetRefused),
            Self::TargetUnreachable => Some(NoSession::TargetUnreachable),
            Self::TargetTimeout => Some(NoSession::TargetTimeout),
            _ => None,
        }
    }
}

/// How the sessions of a tunnel end that its link loses with a refused claim.
impl From<RefusalReason> for SessionEnd {
    fn from(reason: RefusalReason) -> Self {
        match reason {
            RefusalReason::NameTaken => Self::NameTaken,
            RefusalReason::NameBound => Self::NameBound,
            RefusalReason::Superseded => Self::Superseded,
            RefusalReason::ClaimTimeout => Self::ClaimTimeout,
            RefusalReason::Cancelled => Self::Cancelled,
            RefusalReason::TunnelLimit => Self::TunnelLimit,
            RefusalReason::Limited => Self::Limited,
            RefusalReason::Revoked => Self::Revoked,
            RefusalReason::TokenExpired => Self::TokenExpired,
            RefusalReason::AuthUnavailable => Self::AuthUnavailable,
            RefusalReason::AuthChanged => Self::AuthChanged,
            RefusalReason::Kicked => Self::Kicked,
            RefusalReason::Overload => Self::Overload,
            RefusalReason::ShuttingDown => Self::ShuttingDown,
            // Refusals from before a claim, which take no tunnel from the link.
            RefusalReason::BadToken
            | RefusalReason::DccNotAllowed
            | RefusalReason::NameNotAllowed
            | RefusalReason::NameInvalid
            | RefusalReason::NotLoopback
            | RefusalReason::RegistrationInvalid
            | RefusalReason::TokenNotYet
            | RefusalReason::Internal => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Code and word of each reason of a type, for comparisons between types.
    macro_rules! rows {
        ($($name:ident),*) => {
            [$((stringify!($name), $name::ALL.iter().map(|it| it.row() as u16).collect::<Vec<_>>())),*]
        };
    }

    #[test]
    fn every_reason_has_its_place_in_its_type() {
        let types = rows!(
            RefusalReason,
            WithdrawalReason,
            LinkEnd,
            LinkRefusal,
            Eviction,
            SessionEnd,
            NoSession,
            CallerRefusal
        );
        let mut used = BTreeSet::new();
        for (name, rows) in types {
            assert!(rows.is_sorted_by(|one, next| one < next), "{name}");
            used.extend(rows);
        }
        let all = Reason::ALL.iter().map(|reason| *reason as u16);
        assert_eq!(used, all.collect(), "a row that no type has");
        for (index, reason) in LinkEnd::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }

    #[test]
    fn words_are_plain_and_unique() {
        let words: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        assert!(words.iter().all(|word| word.bytes().all(is_plain)));
    }

    #[test]
    fn every_reason_survives_its_code() {
        for reason in RefusalReason::ALL {
            assert_eq!(RefusalReason::from_code(reason.code()), *reason);
        }
        for reason in LinkEnd::ALL {
            assert_eq!(LinkEnd::from_code(reason.code()), *reason);
        }
        for reason in SessionEnd::ALL {
            assert_eq!(SessionEnd::from_code(reason.code()), *reason);
        }
    }

    #[test]
    fn an_unknown_code_and_one_of_another_frame_are_internal() {
        for code in [0, 9999, LinkEnd::Preface.code()] {
            assert_eq!(RefusalReason::from_code(code), RefusalReason::Internal);
            assert_eq!(SessionEnd::from_code(code), SessionEnd::Internal);
        }
        let refused = RefusalReason::NameTaken.code();
        assert_eq!(LinkEnd::from_code(refused), LinkEnd::Internal);
    }

    #[test]
    fn the_end_of_a_link_is_counted_by_its_word() {
        for reason in LinkEnd::ALL {
            let is_eviction = Eviction::ALL.iter().any(|it| it.word() == reason.word());
            let is_refusal = LinkRefusal::ALL.iter().any(|it| it.word() == reason.word());
            let expected = |is_known| if is_known { reason.word() } else { "internal" };
            assert_eq!(reason.refusal().word(), expected(is_refusal));
            match reason.eviction() {
                Some(eviction) => assert_eq!(eviction.word(), expected(is_eviction)),
                None => assert_eq!(*reason, LinkEnd::LinkLost),
            }
        }
    }

    #[test]
    fn a_link_that_is_left_on_purpose_ends_its_sessions_with_the_same_word() {
        for reason in LinkEnd::ALL {
            let word = match reason {
                LinkEnd::Superseded | LinkEnd::ShuttingDown => reason.word(),
                _ => "link_lost",
            };
            assert_eq!(reason.of_sessions().word(), word);
        }
    }

    #[test]
    fn what_ends_a_tunnel_ends_its_sessions_with_the_same_word() {
        for reason in RefusalReason::ALL {
            let end = SessionEnd::from(*reason);
            let known = SessionEnd::ALL.iter().find(|it| it.word() == reason.word());
            assert_eq!(end, known.copied().unwrap_or(SessionEnd::Internal));
        }
        for reason in WithdrawalReason::ALL {
            let refusal = RefusalReason::from(*reason);
            let words = [refusal.word(), SessionEnd::from(*reason).word()];
            assert_eq!(words, [reason.word(); 2]);
            assert_eq!(SessionEnd::from(refusal), SessionEnd::from(*reason));
        }
        let targets = SessionEnd::ALL
            .iter()
            .filter_map(|end| Some((end, end.no_target()?)));
        assert_eq!(targets.clone().count(), 3);
        for (end, reason) in targets {
            assert_eq!(SessionEnd::from(reason), *end);
        }
        for reason in NoSession::ALL {
            let end = SessionEnd::from(*reason);
            let words = [end.word(), CallerRefusal::from(*reason).word()];
            assert_eq!(words, [reason.word(); 2]);
        }
    }
}
