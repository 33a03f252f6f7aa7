//! Who somebody is, and whose tunnels that lets them reach; the same for agents and callers.

use std::sync::Arc;

use tieline_wire::TunnelId;
use tieline_wire::claims::{Claims, matches_pattern};

use crate::config::{TokenEntry, TokenHash};

/// Whom a tunnel belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The holder of the token that it was registered with.
    pub(crate) sub: String,
    /// The groups of that token.
    pub(crate) groups: Vec<String>,
}

impl Owner {
    #[allow(dead_code, reason = "see `may_reach`")]
    /// Whether both are of one holder, or of one group.
    pub(crate) fn is_close_to(&self, other: &Self) -> bool {
        self.sub == other.sub || self.groups.iter().any(|group| other.groups.contains(group))
    }
}

/// Who a token says that its holder is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Name and groups; tunnels of this holder belong to them.
    pub(crate) owner: Arc<Owner>,
    /// Patterns of tunnels of others that a caller may reach.
    pub(crate) reach: Vec<String>,
    /// The token's number, if it has one.
    pub(crate) jti: Option<String>,
    /// Whether its agents may share a name with others.
    pub(crate) shared: bool,
    /// The first second since 1970 at which it is over.
    pub(crate) expires_at_seconds: Option<u64>,
    /// The entry of the tokens' file that it comes from; it is over when that changes.
    pub(crate) entry: Option<(TokenHash, Arc<TokenEntry>)>,
}

impl Identity {
    /// The holder of a signed token.
    pub(super) fn signed(claims: Claims) -> Self {
        Self {
            expires_at_seconds: Some(claims.expires_at_seconds()),
            owner: Arc::new(Owner {
                sub: claims.sub,
                groups: claims.groups,
            }),
            reach: claims.reach,
            jti: claims.jti,
            shared: claims.shared,
            entry: None,
        }
    }

    /// The holder of a static token.
    pub(super) fn of_entry(hash: TokenHash, entry: &Arc<TokenEntry>) -> Self {
        Self {
            expires_at_seconds: entry.expires_at_seconds,
            entry: Some((hash, Arc::clone(entry))),
            ..Self::signed(entry.claims.clone())
        }
    }

    /// Name of the holder.
    pub(crate) fn sub(&self) -> &str {
        &self.owner.sub
    }
}

/// Whether `caller` may use a tunnel of `owner`: one of its own or of a group of both, or one that
/// its token names. A tunnel of nobody is reached by name only.
#[allow(dead_code, reason = "what the fronts ask about callers")]
pub(crate) fn may_reach(caller: &Identity, tunnel: &TunnelId, owner: Option<&Owner>) -> bool {
    owner.is_some_and(|owner| caller.owner.is_close_to(owner))
        || caller
            .reach
            .iter()
            .any(|pattern| matches_pattern(pattern, tunnel.as_str()))
}
