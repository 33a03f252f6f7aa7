//! What to do about a relay that refuses an agent, as a clause: for `diag`, and for the last line of `serve`.

use tieline_agent::error::Error;
use tieline_wire::{LinkEnd, RefusalReason};

const ASK_WHY: &str = "ask the relay's operator why";
const ASK: &str = "ask the relay's operator";
const MAY_PASS: &str = "this may pass: try again";

/// The text of an error that ends an agent; a refusal for good comes with its stable word, under which the manual lists
/// it, and with advice.
pub(crate) fn explained(error: &Error) -> String {
    let (word, advice) = match error {
        Error::LinkRefused { reason, .. } => (reason.word(), advice_on_end(*reason)),
        Error::Link { reason, .. } if reason.is_final() => (reason.word(), advice_on_end(*reason)),
        Error::Refused { reason, .. } if reason.is_final() => (reason.word(), advice(*reason)),
        _ => return error.to_string(),
    };
    format!("{error} ({word}); {advice}")
}

/// Advice on a refused registration.
pub(crate) const fn advice(reason: RefusalReason) -> &'static str {
    match reason {
        RefusalReason::BadToken => {
            "ask the relay's operator for a token for agents, and give it with --token-file FILE \
             (tieline token show FILE tells what it says)"
        }
        RefusalReason::TokenExpired => "put a fresh token into the file; the agent finds it there",
        RefusalReason::TokenNotYet => {
            "set the clock of this machine or of the one that issued the token, or wait: the agent \
             asks until the token is valid"
        }
        RefusalReason::DccNotAllowed => {
            "ask for a token that allows this kind of application (--dcc)"
        }
        RefusalReason::NameNotAllowed => {
            "the token allows certain names only: ask for one of those names with --to NAME=TARGET"
        }
        RefusalReason::Revoked => ASK_WHY,
        RefusalReason::NotLoopback => "the relay needs --auth to take agents from elsewhere",
        RefusalReason::NameInvalid
        | RefusalReason::NameTaken
        | RefusalReason::Superseded
        | RefusalReason::RegistrationInvalid => ASK,
        RefusalReason::ClaimTimeout
        | RefusalReason::TunnelLimit
        | RefusalReason::Overload
        | RefusalReason::ShuttingDown
        | RefusalReason::AuthUnavailable
        | RefusalReason::AuthChanged
        | RefusalReason::Kicked
        | RefusalReason::Limited
        | RefusalReason::NameBound
        | RefusalReason::Cancelled
        | RefusalReason::Internal => MAY_PASS,
    }
}

/// Advice on a link that the relay ended before each registration was answered.
pub(crate) const fn advice_on_end(reason: LinkEnd) -> &'static str {
    match reason {
        LinkEnd::Revoked => ASK_WHY,
        LinkEnd::RelayName => {
            "dial the relay's own name; through a forwarder on this machine not `localhost`, but a name in the hosts file that \
             leads to it"
        }
        LinkEnd::Unbound => {
            "the relay requires TLS 1.3 (https:// or tls://) that ends at the relay itself: dial it around proxies and TLS \
             inspection, with an agent of this version"
        }
        LinkEnd::Version => "relay and agent versions are too far apart: update the older one",
        LinkEnd::Preface | LinkEnd::Protocol | LinkEnd::FrameTooLong | LinkEnd::Table => {
            "what answers there does not speak the relay's protocol: is that its port for agents, and has it TLS (tls://) or not (tcp://)?"
        }
        LinkEnd::ClientCertificate => {
            "name the files of this agent's certificate with --client-cert and --client-key"
        }
        LinkEnd::BadSignature | LinkEnd::Superseded => ASK,
        LinkEnd::CreditOverrun
        | LinkEnd::UnknownSession
        | LinkEnd::HandshakeTimeout
        | LinkEnd::Stale
        | LinkEnd::LinkLost
        | LinkEnd::ClaimTimeout
        | LinkEnd::LinkLimit
        | LinkEnd::SessionLimit
        | LinkEnd::Overload
        | LinkEnd::ShuttingDown
        | LinkEnd::LengthMismatch
        | LinkEnd::AuthChanged
        | LinkEnd::Limited
        | LinkEnd::NoTunnel
        | LinkEnd::Internal => MAY_PASS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_good_names_its_word_and_what_to_do() {
        let reason = LinkEnd::RelayName;
        let message = reason.to_string();
        let line = explained(&Error::LinkRefused { reason, message });
        assert_eq!(line.matches(&reason.to_string()).count(), 1, "{line}");
        assert!(
            line.contains("(relay_name); dial the relay's own name"),
            "{line}"
        );
        let message = "no such key".to_owned();
        let reason = RefusalReason::BadToken;
        let line = explained(&Error::Refused { reason, message });
        assert!(
            line.contains("no such key") && line.contains("(bad_token); ask"),
            "{line}"
        );
        let reason = RefusalReason::Overload;
        let message = String::new();
        let passing = Error::Refused { reason, message };
        assert_eq!(explained(&passing), passing.to_string());
    }
}
