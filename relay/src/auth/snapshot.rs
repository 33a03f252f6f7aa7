//! Everything that decides about admission, as one immutable value.
//!
//! The control thread makes a new snapshot on each change and sends it to every shard, so a check takes
//! no lock and never waits.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tieline_token::{Claims, ClaimsError, Expected, KeySet, Scope};
use tieline_wire::{AgentKey, LinkEnd, NoSession, RefusalReason};

use super::identity::Identity;
use super::marked::AdminToken;
use crate::config::{
    Auth, Config, Denied, Denylist, JwksSource, JwtAuth, LISTED_CHARS_MAX, TokenHash, TokenTable,
    is_listable,
};

/// Everything that decides about admission.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// Rises with every change. A long-lived connection checks [`Snapshot::still_allows`] again when the
    /// generation differs.
    pub(crate) generation: u64,
    pub(crate) mode: Mode,
    /// Denied token ids, subjects and agent keys.
    pub(crate) denied: Arc<Denylist>,
    /// Recognizes the operators' token: it is valid on the admin port only, and targets must not see it.
    pub(crate) admin: Option<Arc<AdminToken>>,
}

/// How agents and callers prove who they are.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    Open {
        anywhere: bool,
    },
    Tokens(Arc<TokenTable>),
    Jwt(Arc<Signed>),
    /// A provider decides at registration, and again every `interval`.
    Provider {
        interval: Duration,
        grace: Duration,
    },
}

/// Keys and expected claims for checking signed tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signed {
    pub(crate) keys: KeySet,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Vec<String>,
    /// The keys come from a URL, so a fetch may bring keys that are still unknown.
    pub(crate) may_learn: bool,
    /// The keys come from a URL and were never fetched yet.
    pub(crate) is_ignorant: bool,
}

/// Why access that was granted earlier ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessEnd {
    Revoked,
    /// The token's permissions have changed.
    Changed,
    Expired,
}

impl AccessEnd {
    /// The end of an agent's links; `None` if they stay: a token that merely expired was valid when they began.
    pub(crate) const fn of_links(self) -> Option<LinkEnd> {
        match self {
            Self::Revoked => Some(LinkEnd::Revoked),
            Self::Changed => Some(LinkEnd::AuthChanged),
            Self::Expired => None,
        }
    }

    /// Why a caller gets no session; `None` if the caller may go on as with [`AccessEnd::of_links`].
    pub(crate) const fn of_callers(self) -> Option<NoSession> {
        match self {
            Self::Revoked => Some(NoSession::Revoked),
            Self::Changed => Some(NoSession::AuthChanged),
            Self::Expired => None,
        }
    }
}

impl From<AccessEnd> for RefusalReason {
    fn from(end: AccessEnd) -> Self {
        match end {
            AccessEnd::Revoked => Self::Revoked,
            AccessEnd::Changed => Self::AuthChanged,
            AccessEnd::Expired => Self::TokenExpired,
        }
    }
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenRefusal {
    /// No token was sent.
    #[error("this relay wants a token")]
    Missing,
    /// The token is invalid, and stays invalid.
    #[error("{0}")]
    Bad(String),
    /// The token has expired; a new token would be accepted.
    #[error("{0}")]
    Expired(String),
    /// The token is not valid yet.
    #[error("{0}")]
    NotYet(String),
    /// The token or its holder is on the denylist.
    #[error("access was revoked")]
    Revoked,
    /// The token is valid, but lacks this scope.
    #[error("the token's scope does not include `{}`", .0.word())]
    Scope(Scope),
    /// The token cannot be checked now; another try may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// The relay's auth mode has no tokens.
    #[error("this relay takes no tokens")]
    NoTokens,
}

impl Snapshot {
    /// The snapshot that a relay starts with.
    pub(crate) fn of(config: &Config) -> Self {
        let mode = match &config.auth {
            Auth::Open { anywhere } => Mode::Open {
                anywhere: *anywhere,
            },
            Auth::Tokens(tokens) => Mode::Tokens(Arc::new(tokens.table.clone())),
            Auth::Jwt(jwt) => Mode::Jwt(Arc::new(Signed::of(jwt))),
            Auth::Provider(provider) => Mode::Provider {
                interval: provider.interval,
                grace: provider.grace,
            },
        };
        Self {
            generation: 0,
            mode,
            denied: Arc::new(config.denylist.clone()),
            admin: config
                .admin_token
                .as_ref()
                .map(|it| Arc::new(AdminToken::of(it))),
        }
    }

    /// Adds entries to the denylist.
    pub(crate) fn deny<'a>(&mut self, more: impl Iterator<Item = &'a Denied>) {
        let mut list = Denylist::clone(&self.denied);
        more.for_each(|it| list.add(it.clone()));
        self.denied = Arc::new(list);
    }

    /// Checks whether an agent or caller admitted earlier may stay.
    pub(crate) fn still_allows(
        &self,
        identity: Option<&Identity>,
        key: Option<&AgentKey>,
        now_seconds: u64,
    ) -> Result<(), AccessEnd> {
        if self.is_denied(identity, key) {
            return Err(AccessEnd::Revoked);
        }
        let Some(identity) = identity else {
            return Ok(());
        };
        if let (Mode::Tokens(table), Some((hash, entry))) = (&self.mode, &identity.entry) {
            match table.find(hash) {
                None => return Err(AccessEnd::Revoked),
                Some(now) if now != entry => return Err(AccessEnd::Changed),
                Some(_) => {}
            }
        }
        match identity.expires_at_seconds {
            Some(end) if end <= now_seconds => Err(AccessEnd::Expired),
            _ => Ok(()),
        }
    }

    /// Whether a denial names the token, its holder or the key.
    pub(crate) fn is_denied(&self, identity: Option<&Identity>, key: Option<&AgentKey>) -> bool {
        let jti = identity.and_then(|it| it.jti.as_deref());
        self.denied.names(jti, identity.map(Identity::sub), key)
    }

    /// Checks `token` for `scope`; returns its holder's identity and its claims.
    pub(super) fn verify(
        &self,
        token: &str,
        scope: Scope,
        now_seconds: u64,
    ) -> Result<(Identity, Claims), TokenRefusal> {
        let (identity, claims) = match &self.mode {
            Mode::Open { .. } | Mode::Provider { .. } => return Err(TokenRefusal::NoTokens),
            _ if token.is_empty() => return Err(TokenRefusal::Missing),
            Mode::Tokens(table) => find(table, token, now_seconds)?,
            Mode::Jwt(signed) => signed.verify(token, now_seconds)?,
        };
        if !claims.allows_scope(scope) {
            return Err(TokenRefusal::Scope(scope));
        }
        if self.is_denied(Some(&identity), None) {
            return Err(TokenRefusal::Revoked);
        }
        Ok((identity, claims))
    }
}

/// Identity of the caller that presents `token`.
///
/// # Errors
/// [`TokenRefusal`] if the token is not accepted.
pub(crate) fn verify_caller(
    snapshot: &Snapshot,
    token: &str,
    now_seconds: u64,
) -> Result<Identity, TokenRefusal> {
    snapshot
        .verify(token, Scope::Caller, now_seconds)
        .map(|(identity, _)| identity)
}

fn find(
    table: &TokenTable,
    token: &str,
    now_seconds: u64,
) -> Result<(Identity, Claims), TokenRefusal> {
    // Tokens with other characters could not be found in the requests that callers send to targets.
    if !is_listable(token) {
        return Err(TokenRefusal::Bad(format!(
            "a static token has at most {LISTED_CHARS_MAX} characters, of A-Z a-z 0-9 - . _ ~ + / and = \
             at its end; `tieline-relay token new` makes one"
        )));
    }
    let hash = TokenHash::of(token);
    let entry = table
        .find(&hash)
        .ok_or_else(|| TokenRefusal::Bad("this relay does not know the token".to_owned()))?;
    if entry
        .expires_at_seconds
        .is_some_and(|end| end <= now_seconds)
    {
        return Err(TokenRefusal::Expired("the token has expired".to_owned()));
    }
    Ok((Identity::of_entry(hash, entry), entry.claims.clone()))
}

impl Signed {
    fn of(jwt: &JwtAuth) -> Self {
        let more = match &jwt.jwks {
            Some(JwksSource::File { keys, .. }) => keys.clone(),
            Some(JwksSource::Url(_)) | None => KeySet::default(),
        };
        Self {
            is_ignorant: matches!(jwt.jwks, Some(JwksSource::Url(_))),
            ..Self::with(jwt, more)
        }
    }

    /// Checks with `more` keys in addition to the configured keys.
    pub(crate) fn with(jwt: &JwtAuth, more: KeySet) -> Self {
        let mut keys = jwt.keys.clone();
        keys.extend(more);
        Self {
            keys,
            issuer: jwt.issuer.clone(),
            audience: jwt.audience.clone(),
            may_learn: matches!(jwt.jwks, Some(JwksSource::Url(_))),
            is_ignorant: false,
        }
    }

    fn expected(&self) -> Expected<'_> {
        Expected {
            issuer: self.issuer.as_deref(),
            audience: &self.audience,
        }
    }

    /// True if `token` is signed for this relay, whether or not it has expired. Each check takes one off
    /// `checks_left`; at 0, a token that claims to be for this relay counts as one. So does such a token
    /// signed with a key that the relay may still fetch.
    pub(super) fn is_ours(&self, token: &str, now_seconds: u64, checks_left: &Cell<u32>) -> bool {
        let expected = self.expected();
        if !expected.is_claimed_by(token) {
            return false;
        }
        let left = checks_left.get();
        checks_left.set(left.saturating_sub(1));
        let is_named = self.issuer.is_some() || !self.audience.is_empty();
        left == 0
            || match tieline_token::verify(token, &self.keys, now_seconds, &expected) {
                Ok(_) | Err(ClaimsError::Expired { .. } | ClaimsError::NotYet { .. }) => true,
                Err(ClaimsError::UnknownKey) => self.is_ignorant || self.may_learn && is_named,
                Err(ClaimsError::Algorithm | ClaimsError::Signature) => self.is_ignorant,
                Err(_) => false,
            }
    }

    fn verify(&self, token: &str, now_seconds: u64) -> Result<(Identity, Claims), TokenRefusal> {
        match tieline_token::verify(token, &self.keys, now_seconds, &self.expected()) {
            Ok(claims) => Ok((Identity::signed(claims.clone()), claims)),
            Err(error @ ClaimsError::Expired { .. }) => {
                Err(TokenRefusal::Expired(error.to_string()))
            }
            Err(error @ ClaimsError::NotYet { .. }) => Err(TokenRefusal::NotYet(error.to_string())),
            Err(error @ ClaimsError::UnknownKey) if self.may_learn => {
                Err(TokenRefusal::Unavailable(error.to_string()))
            }
            Err(ClaimsError::Algorithm | ClaimsError::Signature) if self.is_ignorant => {
                let text = "the relay has not been able to fetch its keys yet";
                Err(TokenRefusal::Unavailable(text.to_owned()))
            }
            Err(error) => Err(TokenRefusal::Bad(error.to_string())),
        }
    }
}
