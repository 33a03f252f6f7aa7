//! What the proxy reports while it runs: to a program as JSON, to a person as lines.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

/// Something that happened to the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConnectEvent {
    /// Callers can come.
    Listening {
        /// The bound address; the first of several.
        address: SocketAddr,
        /// All of them: `localhost` has one in each family.
        addresses: Vec<SocketAddr>,
        /// What stands in front of `/w/<tunnel>/…` in a client's configuration.
        url: String,
        /// The relay.
        relay: String,
        /// Whether requests get a token added.
        token: bool,
    },
    /// What one look at the relay found at the start.
    Relay {
        /// What was seen, in one word.
        state: &'static str,
        /// Callers are let in.
        is_good: bool,
        /// What was seen, in a sentence that says what to do about it.
        message: String,
    },
    /// The token file has another token, which is used from now on.
    TokenReloaded,
    /// The token file cannot be used any more; the last good token stays in use.
    TokenKept {
        /// Why, in a sentence.
        message: String,
    },
    /// The relay gives callers no answer; told once until it does.
    RelayAway {
        /// Why, in a sentence.
        message: String,
    },
    /// The relay answers again.
    RelayBack,
    /// The relay does not let callers in with this token, or without one; told once until it does.
    TokenRefused {
        /// In one word, as the relay has it.
        reason: &'static str,
        /// It was shown the token of the file.
        has_token: bool,
    },
    /// The relay lets callers in again.
    TokenTaken,
    /// The token goes to another machine without encryption; told once, at the start.
    TokenInClear {
        /// The relay.
        relay: String,
    },
    /// Others on the network can use the token through the proxy; told once, at the start.
    TokenShared {
        /// Where they reach it.
        address: SocketAddr,
    },
    /// The proxy was asked to stop and has.
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

/// Addresses as people read them.
pub(super) fn list(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    addresses.join(" and ")
}

/// A function that is told every event. It must not block.
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
        let said = |reason, has_token| ConnectEvent::TokenRefused { reason, has_token }.to_string();
        assert!(said("unauthorized", false).contains("--token-file FILE"));
        assert!(said("insufficient_scope", true).contains("one with the scope caller"));
        assert!(said("invalid_token", true).contains("tieline token show FILE"));
    }
}
