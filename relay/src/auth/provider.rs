//! What a provider is asked about an agent, and what its answer means.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tieline_wire::claims::{Claims, matches_pattern};
use tieline_wire::{Reason, Refusal, Register, TunnelId};

use super::identity::Identity;
use super::refusal;

/// Longest reason of a provider that an agent hears, in characters.
const REASON_CHARS_MAX: usize = 200;

/// A tunnel that a shard wants a provider's word on.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) shard: usize,
    /// The link's number on its shard.
    pub(crate) link: u64,
    /// The name, requested or derived, as it is to be routed on.
    pub(crate) tunnel: TunnelId,
    pub(crate) register: Arc<Register>,
    /// Whether the link has the tunnel already.
    pub(crate) is_renewal: bool,
    /// What its shard counts it by until it is answered.
    #[expect(dead_code, reason = "its drop is what counts")]
    pub(crate) place: Option<Arc<dyn Any + Send + Sync>>,
    pub(crate) asked_at: Instant,
}

/// What a provider says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    Allowed {
        /// Nobody if it names no owner.
        identity: Option<Arc<Identity>>,
        expires_at_seconds: Option<u64>,
    },
    /// It says no, for good.
    Denied(Refusal),
    /// It says nothing that can be understood, for this reason.
    Unavailable(String),
}

/// The body of a question.
#[derive(Serialize)]
struct Asked<'a> {
    token: &'a str,
    subdomain: &'a str,
}

/// A yes.
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

/// A no.
#[derive(Deserialize)]
struct No {
    error: String,
}

impl Question {
    /// What to send.
    pub(crate) fn body(&self) -> Vec<u8> {
        let asked = Asked {
            token: self.register.token.reveal(),
            subdomain: self.tunnel.as_str(),
        };
        // Two texts cannot fail.
        serde_json::to_vec(&asked).unwrap_or_default()
    }

    /// What the answer with `status` and `body` means at `now_seconds` since 1970.
    pub(crate) fn ruling(&self, status: u16, body: &[u8], now_seconds: u64) -> Ruling {
        match status {
            200 => match serde_json::from_slice::<Yes>(body) {
                Ok(yes) => self.weigh(yes, now_seconds),
                Err(_) => Ruling::Unavailable("its answer is not understood".to_owned()),
            },
            401 | 403 => {
                // Whatever stands in front of a provider says no in its own words, which are
                // nothing to end tunnels for.
                let Ok(No { error }) = serde_json::from_slice(body) else {
                    let text = format!("it answers with status {status} and without an `error`");
                    return Ruling::Unavailable(text);
                };
                let printable = error.chars().filter(|c| !c.is_control());
                let text = printable.take(REASON_CHARS_MAX).collect();
                Ruling::Denied(refusal(Reason::BadToken, text))
            }
            _ => Ruling::Unavailable(format!("it answers with status {status}")),
        }
    }

    fn weigh(&self, yes: Yes, now_seconds: u64) -> Ruling {
        let owner = yes.owner.filter(|owner| !owner.is_empty());
        let expires_at_seconds = yes.expires_in.map(|it| now_seconds.saturating_add(it));
        let claims = Claims {
            // A tunnel of nobody is of no group either.
            groups: owner.as_ref().map_or_else(Vec::new, |_| yes.groups),
            shared: owner.is_some() && yes.shared,
            sub: owner.clone().unwrap_or_else(|| "nobody".to_owned()),
            allowed_dcc: yes.dcc,
            tunnels: Some(yes.subdomains),
            ..Claims::default()
        };
        if let Err(error) = claims.check_form() {
            return Ruling::Unavailable(format!("its answer is not acceptable: {error}"));
        }
        let patterns = claims.tunnels.iter().flatten();
        let name = self.tunnel.as_str();
        if !patterns.into_iter().any(|it| matches_pattern(it, name)) {
            let text = format!("the provider does not allow a tunnel called {name}");
            return Ruling::Denied(refusal(Reason::NameNotAllowed, text));
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
