//! Tells the relay's own credentials from those meant for targets.

use std::cell::Cell;
use std::sync::Arc;

use super::marked::AdminToken;
use super::snapshot::{Mode, Snapshot};
use crate::config::TokenHash;

/// Signatures checked per request. One check takes up to 0.1 ms, and the caller chooses how many texts
/// look like tokens.
const CHECKS_MAX: u32 = 8;

/// Recognizes the relay's own credentials within one request.
#[derive(Debug)]
pub(crate) struct OwnTokens {
    mode: Mode,
    admin: Option<Arc<AdminToken>>,
    now_seconds: u64,
    checks_left: Cell<u32>,
    is_unsure: Cell<bool>,
}

impl OwnTokens {
    /// The recognizer for `snapshot` at `now_seconds` since 1970; `None` if there is nothing to recognize:
    /// the mode has no recognizable tokens and no operators' token is set.
    pub(crate) fn of(snapshot: &Snapshot, now_seconds: u64) -> Option<Self> {
        let has_tokens = matches!(snapshot.mode, Mode::Tokens(_) | Mode::Jwt(_));
        (has_tokens || snapshot.admin.is_some()).then(|| Self {
            mode: snapshot.mode.clone(),
            admin: snapshot.admin.clone(),
            now_seconds,
            checks_left: Cell::new(CHECKS_MAX),
            is_unsure: Cell::new(false),
        })
    }

    /// True if the tokens of agents and callers are JSON Web Tokens.
    pub(crate) const fn are_signed(&self) -> bool {
        matches!(self.mode, Mode::Jwt(_))
    }

    /// True if the tokens of agents and callers are listed in a file.
    pub(crate) const fn are_listed(&self) -> bool {
        matches!(self.mode, Mode::Tokens(_))
    }

    /// True for a token that is listed, or signed for this relay, even if it is expired, not valid yet or denied.
    /// Once [`CHECKS_MAX`] signatures were checked, a token that claims to be for this relay counts as its own.
    pub(crate) fn include(&self, token: &str) -> bool {
        match &self.mode {
            Mode::Open { .. } | Mode::Provider { .. } => false,
            Mode::Tokens(table) => table.find(&TokenHash::of(token)).is_some(),
            Mode::Jwt(signed) => {
                let is_last = self.checks_left.get() == 0;
                let is_ours = signed.is_ours(token, self.now_seconds, &self.checks_left);
                self.is_unsure
                    .set(self.is_unsure.get() || is_ours && is_last);
                is_ours
            }
        }
    }

    /// True once a token counted as the relay's without a check, because all checks were used up.
    pub(crate) const fn are_unsure(&self) -> bool {
        self.is_unsure.get()
    }

    /// Length of the operators' token in characters, if one is set.
    pub(crate) fn admin_chars(&self) -> Option<usize> {
        self.admin.as_ref().map(|admin| admin.exact.len())
    }

    /// True if `text` contains the operators' token.
    pub(crate) fn admin_stands_in(&self, text: &[u8]) -> bool {
        let admin = self.admin.as_ref();
        admin.is_some_and(|admin| admin.exact.stands_in(text))
    }

    /// True if a header field's name contains the operators' token; such names are in lower case.
    pub(crate) fn admin_stands_in_name(&self, name: &[u8]) -> bool {
        let admin = self.admin.as_ref();
        admin.is_some_and(|admin| admin.lower.stands_in(name))
    }

    /// Possible lengths of a signature by `algorithm` in a token of the relay, in characters.
    pub(crate) fn signature_chars(&self, algorithm: &str) -> Vec<usize> {
        let Mode::Jwt(signed) = &self.mode else {
            return Vec::new();
        };
        let mut bytes = signed.keys.signature_bytes(algorithm);
        if signed.may_learn {
            // Keys that the relay may have yet to fetch; RSA keys mostly have 2048, 3072 or 4096 bits.
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
