//! A secret that a shard can find in a text without holding the secret itself.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use crate::config::{Secret, TokenHash};

/// The operators' token in both forms that a caller may send: exact, or as a header field's name.
#[derive(Clone, Debug)]
pub(crate) struct AdminToken {
    pub(crate) exact: Marked,
    /// In lower case, as in a header field's name.
    pub(crate) lower: Marked,
}

impl AdminToken {
    pub(crate) fn of(secret: &Secret) -> Self {
        let text = secret.reveal();
        Self {
            exact: Marked::of(text),
            lower: Marked::of(&text.to_ascii_lowercase()),
        }
    }
}

/// Length, fingerprint and hash of one secret.
///
/// The fingerprint is a Rabin-Karp rolling hash with a random base: one pass over the text, whose time depends on
/// the text's length only. On a match of the fingerprint, the hash decides.
#[derive(Clone)]
pub(crate) struct Marked {
    hash: TokenHash,
    len: usize,
    base: u64,
    /// `base` to the power of `len - 1`: weight of the first byte of a window.
    first: u64,
    fingerprint: u64,
}

impl Marked {
    fn of(secret: &str) -> Self {
        let base = RandomState::new().hash_one(0_u8) | 1;
        let steps = secret.len().saturating_sub(1);
        let first = (0..steps).fold(1, |power: u64, _| power.wrapping_mul(base));
        Self {
            hash: TokenHash::of(secret),
            len: secret.len(),
            base,
            first,
            fingerprint: fingerprint(base, secret.as_bytes()),
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// True if `text` contains the secret at any place.
    pub(crate) fn stands_in(&self, text: &[u8]) -> bool {
        let Some(window) = text.get(..self.len) else {
            return false;
        };
        let mut at = fingerprint(self.base, window);
        let mut is_found = at == self.fingerprint && self.is(window);
        for (gone, window) in text.iter().zip(text.windows(self.len).skip(1)) {
            let (Some(come), false) = (window.last(), is_found) else {
                break;
            };
            let left = at.wrapping_sub(u64::from(*gone).wrapping_mul(self.first));
            at = left.wrapping_mul(self.base).wrapping_add((*come).into());
            is_found = at == self.fingerprint && self.is(window);
        }
        is_found
    }

    fn is(&self, text: &[u8]) -> bool {
        let text = std::str::from_utf8(text);
        text.is_ok_and(|text| TokenHash::of(text).is(&self.hash))
    }
}

fn fingerprint(base: u64, text: &[u8]) -> u64 {
    let add = |sum: u64, byte: &u8| sum.wrapping_mul(base).wrapping_add((*byte).into());
    text.iter().fold(0, add)
}

impl fmt::Debug for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Marked(masked)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_secret_is_found_at_every_place_and_nothing_else_is() {
        let secret = "Adm1n/token%with;=signs";
        let marked = Marked::of(secret);
        for before in 0..40 {
            let text = format!("{}{secret}x", "A".repeat(before));
            assert!(marked.stands_in(text.as_bytes()), "{before}");
            let cut = &text[..text.len() - 2];
            assert!(!marked.stands_in(cut.as_bytes()), "{before}");
        }
        for other in ["", "A", &secret.to_lowercase(), &secret.replace('1', "2")] {
            assert!(!marked.stands_in(other.as_bytes()), "{other}");
        }
        assert!(!format!("{marked:?}").contains("Adm1n"));
    }
}
