//! Identity of a token's holder, agent or caller, and the tunnels that the identity may reach.

use std::sync::Arc;

use tieline_token::{Claims, matches_pattern};
use tieline_wire::TunnelId;

use crate::config::{TokenEntry, TokenHash};

/// Owner of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Subject of the token that registered the tunnel.
    pub(crate) sub: String,
    /// Groups named in that token.
    pub(crate) groups: Vec<String>,
}

impl Owner {
    /// True if both have the same subject or share a group.
    pub(crate) fn is_close_to(&self, other: &Self) -> bool {
        self.sub == other.sub || self.groups.iter().any(|group| other.groups.contains(group))
    }
}

/// Identity of a token's holder, as the token states it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Subject and groups; becomes the owner of tunnels that the holder registers.
    pub(crate) owner: Arc<Owner>,
    /// Name patterns of other owners' tunnels that a caller may reach.
    pub(crate) reach: Vec<String>,
    /// The token's id (`jti`), if it has one.
    pub(crate) jti: Option<String>,
    /// Whether the holder's agents may share a tunnel's name with other agents.
    pub(crate) shared: bool,
    /// Expiry: the first second since 1970 at which the identity is no longer valid.
    pub(crate) expires_at_seconds: Option<u64>,
    /// The entry of the tokens file for a static token; the identity ends when that entry changes.
    pub(crate) entry: Option<(TokenHash, Arc<TokenEntry>)>,
}

impl Identity {
    /// Identity of a signed token's holder.
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

    /// Identity of a static token's holder.
    pub(super) fn of_entry(hash: TokenHash, entry: &Arc<TokenEntry>) -> Self {
        Self {
            expires_at_seconds: entry.expires_at_seconds,
            entry: Some((hash, Arc::clone(entry))),
            ..Self::signed(entry.claims.clone())
        }
    }

    /// Subject of the holder.
    pub(crate) fn sub(&self) -> &str {
        &self.owner.sub
    }
}

/// Whether `caller` may use a tunnel of `owner`: same subject, a shared group, or a name pattern in the
/// caller's token. A tunnel without an owner is reached by name pattern only.
pub(crate) fn may_reach(caller: &Identity, tunnel: &TunnelId, owner: Option<&Owner>) -> bool {
    owner.is_some_and(|owner| caller.owner.is_close_to(owner))
        || caller
            .reach
            .iter()
            .any(|pattern| matches_pattern(pattern, tunnel.as_str()))
}
