//! The relay's own credentials, told from those of targets.

use std::cell::Cell;
use std::sync::Arc;

use super::marked::AdminToken;
use super::snapshot::{Mode, Signed, Snapshot};
use crate::config::{TokenHash, TokenTable};

/// Signatures that are checked for one request: each takes up to 0.1 ms, and a caller chooses how many
/// texts look like tokens.
const CHECKS_MAX: u32 = 8;

/// What tells a credential of the relay from others, for one request.
#[derive(Debug)]
pub(crate) struct OwnTokens {
    kind: Kind,
    admin: Option<Arc<AdminToken>>,
    now_seconds: u64,
    checks_left: Cell<u32>,
    is_unsure: Cell<bool>,
}

#[derive(Debug)]
enum Kind {
    /// The relay cannot tell its agents' and callers' tokens from others, or has none.
    Unknown,
    Listed(Arc<TokenTable>),
    Signed(Arc<Signed>),
}

impl OwnTokens {
    /// What the relay knows at `now_seconds` since 1970; nothing in a mode in which it cannot tell its
    /// tokens from others, and operators need none either.
    pub(crate) fn of(snapshot: &Snapshot, now_seconds: u64) -> Option<Self> {
        let kind = match &snapshot.mode {
            Mode::Open { .. } | Mode::Provider { .. } => Kind::Unknown,
            Mode::Tokens(table) => Kind::Listed(Arc::clone(table)),
            Mode::Jwt(signed) => Kind::Signed(Arc::clone(signed)),
        };
        if matches!(kind, Kind::Unknown) && snapshot.admin.is_none() {
            return None;
        }
        Some(Self {
            kind,
            admin: snapshot.admin.clone(),
            now_seconds,
            checks_left: Cell::new(CHECKS_MAX),
            is_unsure: Cell::new(false),
        })
    }

    /// True if they are JSON Web Tokens.
    pub(crate) const fn are_signed(&self) -> bool {
        matches!(self.kind, Kind::Signed(_))
    }

    /// True if they are those of the file.
    pub(crate) const fn are_listed(&self) -> bool {
        matches!(self.kind, Kind::Listed(_))
    }

    /// True for a token of the file, or one that is signed for this relay, also if its time is over or to
    /// come, or if it is denied. What would need one more signature than are checked counts as one.
    pub(crate) fn include(&self, token: &str) -> bool {
        match &self.kind {
            Kind::Unknown => false,
            Kind::Listed(table) => table.find(&TokenHash::of(token)).is_some(),
            Kind::Signed(signed) => {
                let is_last = self.checks_left.get() == 0;
                let is_ours = signed.is_ours(token, self.now_seconds, &self.checks_left);
                self.is_unsure
                    .set(self.is_unsure.get() || is_ours && is_last);
                is_ours
            }
        }
    }

    /// True once something counted as the relay's because all signatures were used up.
    pub(crate) const fn are_unsure(&self) -> bool {
        self.is_unsure.get()
    }

    /// How many characters the operators' token has.
    pub(crate) fn admin_chars(&self) -> Option<usize> {
        self.admin.as_ref().map(|admin| admin.exact.len())
    }

    /// True if the operators' token stands in a text.
    pub(crate) fn admin_stands_in(&self, text: &[u8]) -> bool {
        let admin = self.admin.as_ref();
        admin.is_some_and(|admin| admin.exact.stands_in(text))
    }

    /// The same for the name of a field, which is in lower case.
    pub(crate) fn admin_stands_in_name(&self, name: &[u8]) -> bool {
        let admin = self.admin.as_ref();
        admin.is_some_and(|admin| admin.lower.stands_in(name))
    }

    /// How many characters a signature of `algorithm` may have in a token of the relay.
    pub(crate) fn signature_chars(&self, algorithm: &str) -> Vec<usize> {
        let Kind::Signed(signed) = &self.kind else {
            return Vec::new();
        };
        let mut bytes = signed.keys.signature_bytes(algorithm);
        if signed.may_learn {
            // Of keys that the relay may have to fetch first; RSA's have mostly 2048, 3072 or 4096 bits.
            bytes.extend(match algorithm {
                "HS256" => &[32][..],
                "RS256" => &[256, 384, 512],
                "ES256" | "EdDSA" => &[64],
                _ => &[],
            });
        }
        let chars = |bytes: usize| (bytes * 4).div_ceil(3);
        bytes.into_iter().map(chars).collect()
    }
}
