//! The question to an authorization provider about a tunnel, and the meaning of its answer.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tieline_token::{Claims, matches_pattern};
use tieline_wire::{Refusal, RefusalReason, Register, TunnelId};

use super::identity::Identity;

/// Longest part of a provider's refusal text that is passed on to the agent, in characters.
const REASON_CHARS_MAX: usize = 200;

/// A shard's question: may this link have this tunnel?
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) shard: usize,
    /// The link's number on its shard.
    pub(crate) link: u64,
    /// The tunnel's name, requested or derived.
    pub(crate) tunnel: TunnelId,
    pub(crate) register: Arc<Register>,
    /// True if the link has the tunnel already.
    pub(crate) is_renewal: bool,
    /// Permit of the shard's limit on open questions; released when the question is dropped.
    #[expect(dead_code, reason = "dropping it releases the permit")]
    pub(crate) place: Option<Arc<dyn Any + Send + Sync>>,
    pub(crate) asked_at: Instant,
}

/// The provider's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    Allowed {
        /// Owner that the provider named, if any.
        identity: Option<Arc<Identity>>,
        expires_at_seconds: Option<u64>,
    },
    /// The provider refused; the agent must not ask again with this token.
    Denied(Refusal),
    /// The provider gave no usable answer, for this reason; the agent may try again.
    Unavailable(String),
}

/// Request body sent to the provider.
#[derive(Serialize)]
struct ProviderRequest<'a> {
    token: &'a str,
    subdomain: &'a str,
}

/// Response body that allows the tunnel.
#[derive(Deserialize)]
struct Yes {
    subdomains: Vec<String>,
    owner: Option<String>,
    dcc: Option<Vec<String>>,
    expires_in: Option<u64>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    shared: bool,
}

/// Response body that refuses the tunnel.
#[derive(Deserialize)]
struct No {
    error: String,
}

impl Question {
    /// The request body as JSON.
    pub(crate) fn body(&self) -> Vec<u8> {
        let asked = ProviderRequest {
            token: self.register.token.reveal(),
            subdomain: self.tunnel.as_str(),
        };
        // Serializing two strings cannot fail.
        serde_json::to_vec(&asked).unwrap_or_default()
    }

    /// The decision that a response with `status` and `body` stands for, at `now_seconds` since 1970.
    pub(crate) fn ruling(&self, status: u16, body: &[u8], now_seconds: u64) -> Ruling {
        match status {
            200 => match serde_json::from_slice::<Yes>(body) {
                Ok(yes) => self.weigh(yes, now_seconds),
                Err(_) => Ruling::Unavailable("the answer cannot be parsed".to_owned()),
            },
            401 | 403 => {
                // A proxy in front of the provider may answer 401 or 403 with a page of its own; only the
                // provider's `error` may end tunnels.
                let Ok(No { error }) = serde_json::from_slice(body) else {
                    let text = format!("the answer has status {status} and no `error`");
                    return Ruling::Unavailable(text);
                };
                let printable = error.chars().filter(|c| !c.is_control());
                let text: String = printable.take(REASON_CHARS_MAX).collect();
                Ruling::Denied(Refusal::new(RefusalReason::BadToken, text))
            }
            _ => Ruling::Unavailable(format!("the answer has status {status}")),
        }
    }

    fn weigh(&self, yes: Yes, now_seconds: u64) -> Ruling {
        let owner = yes.owner.filter(|owner| !owner.is_empty());
        let expires_at_seconds = yes.expires_in.map(|it| now_seconds.saturating_add(it));
        let claims = Claims {
            // A tunnel without an owner has no groups.
            groups: owner.as_ref().map_or_else(Vec::new, |_| yes.groups),
            shared: owner.is_some() && yes.shared,
            sub: owner.clone().unwrap_or_else(|| "nobody".to_owned()),
            allowed_dcc: yes.dcc,
            tunnels: Some(yes.subdomains),
            ..Claims::default()
        };
        if let Err(error) = claims.check_form() {
            return Ruling::Unavailable(format!("the answer is not acceptable: {error}"));
        }
        let patterns = claims.tunnels.iter().flatten();
        let name = self.tunnel.as_str();
        if !patterns.into_iter().any(|it| matches_pattern(it, name)) {
            let text = format!("the provider does not allow a tunnel called {name}");
            return Ruling::Denied(Refusal::new(RefusalReason::NameNotAllowed, text));
        }
        if let Err(refusal) = super::permit_dcc(&claims, &self.register) {
            return Ruling::Denied(refusal);
        }
        let identity = Identity {
            expires_at_seconds,
            ..Identity::signed(claims)
        };
        Ruling::Allowed {
            identity: owner.map(|_| Arc::new(identity)),
            expires_at_seconds,
        }
    }
}
