//! Events of the proxy: as JSON for programs, as lines for people.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

/// An event of the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConnectEvent {
    /// The proxy accepts callers.
    Listening {
        /// The bound address; the first if there are several.
        address: SocketAddr,
        /// All bound addresses: `localhost` has one in each address family.
        addresses: Vec<SocketAddr>,
        /// Base URL of the proxy; a client's configuration adds `/w/<tunnel>/…`.
        url: String,
        /// Origin of the relay.
        relay: String,
        /// Whether the proxy has a token to add to requests.
        token: bool,
    },
    /// Result of the check of the relay at the start.
    Relay {
        /// Result as a stable code: `ok`, or what is wrong.
        state: &'static str,
        /// True if the relay accepts callers.
        is_good: bool,
        /// Result as a sentence, with a remedy if something is wrong.
        message: String,
    },
    /// The token file has a new token, which is used from now on.
    TokenReloaded,
    /// The token file became unusable; the last good token stays in use.
    TokenKept {
        /// What is wrong with the file, in a sentence.
        message: String,
    },
    /// The relay does not answer callers' requests; reported once until it answers again.
    RelayAway {
        /// Why the relay does not answer, in a sentence.
        message: String,
    },
    /// The relay answers again.
    RelayBack,
    /// The relay refuses callers with this token, or without one; reported once until it accepts them.
    TokenRefused {
        /// The relay's error code.
        reason: &'static str,
        /// True if the refused request carried the token of the file.
        has_token: bool,
    },
    /// The relay accepts callers again.
    TokenTaken,
    /// The token crosses a network without encryption; reported once, at the start.
    TokenInClear {
        /// Origin of the relay.
        relay: String,
    },
    /// Programs on the network can use the token through the proxy; reported once, at the start.
    TokenShared {
        /// Address at which the network reaches the proxy.
        address: SocketAddr,
    },
    /// The proxy has stopped as it was asked to.
    Stopped,
}

impl fmt::Display for ConnectEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening {
                addresses, relay, ..
            } => {
                write!(f, "listening on {} for {relay}", list(addresses))
            }
            Self::Relay {
                is_good: true,
                message,
                ..
            } => write!(f, "relay      {message}"),
            Self::Relay { message, .. } => f.write_str(message),
            Self::TokenReloaded => f.write_str("token reloaded"),
            Self::TokenKept { message } => {
                write!(f, "{message}; the token that was read before stays in use")
            }
            Self::RelayAway { message } => {
                write!(f, "callers get no answer from the relay: {message}")
            }
            Self::RelayBack => f.write_str("the relay answers again"),
            Self::TokenRefused {
                has_token: false, ..
            } => f.write_str(
                "the relay asks callers for a token: give its file with --token-file FILE",
            ),
            Self::TokenRefused {
                reason: "insufficient_scope",
                ..
            } => f.write_str(
                "the relay refuses the token (insufficient_scope): it is not for callers; ask the relay's \
                 operator for one with the scope caller, and put it into the file",
            ),
            Self::TokenRefused { reason, .. } => write!(
                f,
                "the relay refuses the token ({reason}): tieline token show FILE tells when it ends; a new \
                 one in its file is used at once"
            ),
            Self::TokenTaken => f.write_str("the relay lets callers in again"),
            Self::TokenInClear { relay } => write!(
                f,
                "your token goes to {relay} in clear text, where the network can read it; use https://"
            ),
            Self::TokenShared { address } => write!(
                f,
                "any program on the network that reaches {address} can use the tunnels that your token \
                 opens, as you; without --listen the proxy is for this machine alone"
            ),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// Joins addresses for people: `A and B`.
pub(super) fn list(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    addresses.join(" and ")
}

/// Callback that receives every event and must not block.
#[derive(Clone)]
pub(super) struct Hook(Arc<dyn Fn(&ConnectEvent) + Send + Sync>);

impl Hook {
    pub(super) fn new(hook: impl Fn(&ConnectEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(super) fn tell(&self, event: &ConnectEvent) {
        (self.0)(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_the_token_has_its_own_remedy() {
        let text = |reason, has_token| ConnectEvent::TokenRefused { reason, has_token }.to_string();
        assert!(text("unauthorized", false).contains("--token-file FILE"));
        assert!(text("insufficient_scope", true).contains("one with the scope caller"));
        assert!(text("invalid_token", true).contains("tieline token show FILE"));
    }
}
