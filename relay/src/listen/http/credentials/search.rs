//! The one search for credentials of the relay in a text: which parts of it could be one, in which spelling,
//! and whether one is.
//!
//! What is found is always a token that was verified, so that nothing of a target's is taken for one. The
//! exceptions are a text that would take more work than a request may cost, and the name of a field that is a
//! token in lower case: these count as found.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use tieline_wire::limits::TOKEN_BYTES_MAX;

use super::spelling::{
    any_text, base64_readings, from_base64, is_base64url, narrowed, sextet, unescaped,
};
use crate::auth::OwnTokens;
use crate::config::{LISTED_CHARS_MAX, TOKEN_PREFIX, is_token_char};

/// Spellings one over another that are undone: a `Basic` in an escaped cookie of an escaped URL.
const LAYERS_MAX: u32 = 4;

/// Work for one request, in bytes that are looked at, spellings included; a hash counts as
/// [`HASH_BLOCK_WORK`] for each of its blocks. It bounds a request's time to about 1 ms. A head has 64 KiB,
/// and base 64 is read from each of four places.
pub(super) const WORK_MAX: usize = 256 * 1024;

/// What 64 hashed bytes and the look into the table count.
const HASH_BLOCK_WORK: usize = 64;

/// What it counts beside its length to read a text as a JOSE header.
const HEADER_WORK: usize = 64;

/// Characters of a static token that the relay made: 256 random bits in base 64 behind the prefix.
const MADE_CHARS: usize = TOKEN_PREFIX.len() + 43;

/// Shortest static token that is found, if it was made by hand.
const BY_HAND_CHARS_MIN: usize = 8;

/// Shortest one that is found in the name of a field, or where a mark and other characters are glued to it:
/// common names and words between hyphens are shorter.
const GLUED_CHARS_MIN: usize = 16;

/// Shortest signed token: `{"alg":"HS256"}`, `{"sub":"","exp":1}` and a signature of 32 bytes.
const SIGNED_CHARS_MIN: usize = 20 + 1 + 24 + 1 + 43;

/// The search in one request.
pub(super) struct Search {
    own: OwnTokens,
    /// The shortest text that is looked at.
    chars_min: usize,
    /// One text is read in several spellings, and stands in several places, but is verified once.
    verified: RefCell<HashMap<String, bool>>,
    work_left: Cell<usize>,
    is_spent: Cell<bool>,
}

/// A JOSE header (RFC 7515, 4), as far as it matters here.
#[derive(Deserialize)]
struct Header {
    alg: String,
}

impl Search {
    pub(super) fn new(own: OwnTokens) -> Self {
        let kind_min = match (own.are_signed(), own.are_listed()) {
            (true, _) => SIGNED_CHARS_MIN,
            (_, true) => BY_HAND_CHARS_MIN,
            _ => usize::MAX,
        };
        Self {
            chars_min: kind_min.min(own.admin_chars().unwrap_or(usize::MAX)),
            own,
            verified: RefCell::default(),
            work_left: Cell::new(WORK_MAX),
            is_spent: Cell::new(false),
        }
    }

    /// True if a text holds a credential of the relay in any spelling, or would take too long to read.
    pub(super) fn finds_in(&self, text: &[u8]) -> bool {
        self.finds(text, LAYERS_MAX)
    }

    /// The same for the name of a field. It is in lower case, which of a token that the relay made leaves
    /// only the shape.
    pub(super) fn finds_in_name(&self, name: &str) -> bool {
        let name = name.as_bytes();
        if name.len() < GLUED_CHARS_MIN {
            return false;
        }
        let is_whole = |it: &[u8]| it.iter().all(|byte| is_base64url(*byte));
        let is_found = |name: &[u8]| {
            self.finds(name, 0)
                || self.own.admin_stands_in_name(name)
                || self.own.are_listed() && made_shapes(name).any(is_whole)
        };
        is_found(name) || unescaped(name).is_some_and(|name| is_found(&name))
    }

    /// True if something counted as found without having been looked at.
    pub(super) const fn is_unsure(&self) -> bool {
        self.is_spent.get() || self.own.are_unsure()
    }

    /// What is left of the request's work.
    #[cfg(test)]
    pub(super) const fn work_left(&self) -> usize {
        self.work_left.get()
    }

    fn finds(&self, text: &[u8], layers_left: u32) -> bool {
        if text.len() < self.chars_min {
            return false;
        }
        if !self.spend(text.len()) {
            return true;
        }
        let is_plain = self.own.admin_stands_in(text)
            || self.own.are_signed() && self.holds_signed(text)
            || self.own.are_listed() && (self.holds_made(text) || self.holds_by_hand(text));
        is_plain || layers_left > 0 && self.finds_spelt(text, layers_left - 1)
    }

    /// The same in what the text is a spelling of.
    fn finds_spelt(&self, text: &[u8], layers_left: u32) -> bool {
        let again = |text: Vec<u8>| self.finds(&text, layers_left);
        if unescaped(text).is_some_and(again) || narrowed(text).is_some_and(again) {
            return true;
        }
        base64_readings(text, self.chars_min.div_ceil(3) * 4 - 2, |reading| {
            if !self.spend(reading.len() / 2) {
                return true;
            }
            let read = from_base64(reading).unwrap_or_default();
            any_text(&read, self.chars_min, |text| self.finds(text, layers_left))
        })
    }

    /// Takes some work off what is left; false if that was not enough.
    fn spend(&self, work: usize) -> bool {
        let left = self.work_left.get();
        self.work_left.set(left.saturating_sub(work));
        let is_enough = work <= left;
        self.is_spent.set(self.is_spent.get() || !is_enough);
        is_enough
    }

    /// True if a static token that the relay made stands in a text, whatever stands beside it.
    fn holds_made(&self, text: &[u8]) -> bool {
        made_shapes(text)
            .filter(|it| it.iter().all(|byte| is_base64url(*byte)))
            .any(|it| self.is_listed(it))
    }

    /// True if a static token that was made by hand is a word of a text. Nothing tells where such a token
    /// ends but the characters around it: those that no token has, `/`, and, for what begins or ends with a
    /// token, `-`, `.`, `_`, `~` and `+`.
    fn holds_by_hand(&self, text: &[u8]) -> bool {
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let len = rest.iter().take_while(|byte| is_token_char(**byte)).count();
            let padding = rest[len..].iter().take_while(|byte| **byte == b'=').count();
            if len + padding >= BY_HAND_CHARS_MIN && self.holds_in_run(&rest[..len + padding], len)
            {
                return true;
            }
            at += len + padding.max(1);
        }
        false
    }

    /// The same for a run of `len` characters of tokens with the `=` that follow it.
    fn holds_in_run(&self, padded: &[u8], len: usize) -> bool {
        let slashes = |text: &[u8]| {
            let all = text.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            all.map(|(at, _)| at).collect::<Vec<_>>()
        };
        let mut start = 0;
        // Each part is looked at once, however long the parts behind it are.
        padded[..len].split(|byte| *byte == b'/').any(|part| {
            let (rest, padded) = (&padded[start..len], &padded[start..]);
            let is_last = part.len() == rest.len();
            start += part.len() + 1;
            let near = &rest[..rest.len().min(LISTED_CHARS_MAX + 1)];
            if !self.spend(near.len() / 4) {
                return true;
            }
            let mut ends = slashes(near);
            ends.push(rest.len());
            // An `=` may be the token's own, or what stands behind it.
            ends.extend((rest.len() + 1..=padded.len()).take(2));
            let whole = if is_last { padded } else { part };
            ends.iter().any(|end| self.is_listed(&padded[..*end]))
                || self.holds_glued(whole, part.len())
        })
    }

    /// The same for what stands behind or in front of a mark within a part of a path.
    fn holds_glued(&self, padded: &[u8], len: usize) -> bool {
        if !self.spend(len / 4) {
            return true;
        }
        let is_mark = |byte: &u8| !byte.is_ascii_alphanumeric();
        let marks = (0..len).filter(|at| is_mark(&padded[*at]));
        let mut marks = marks
            .filter(|at| *at <= LISTED_CHARS_MAX || padded.len() - *at <= LISTED_CHARS_MAX + 1);
        let is_listed = |word: &[u8]| word.len() >= GLUED_CHARS_MIN && self.is_listed(word);
        let words = padded[..len].split(is_mark);
        let mut words = words.filter(|word| word.len() < len);
        let is_in_front_or_behind = marks.any(|at| {
            is_listed(&padded[..at])
                || is_listed(&padded[at + 1..])
                || padded.len() > len && is_listed(&padded[at + 1..len])
        });
        is_in_front_or_behind || words.any(is_listed)
    }

    /// True if a text is a static token.
    fn is_listed(&self, word: &[u8]) -> bool {
        if !(BY_HAND_CHARS_MIN..=LISTED_CHARS_MAX).contains(&word.len()) {
            return false;
        }
        // SHA-256 has blocks of 64 bytes, and adds at least 9 to a text.
        if !self.spend((word.len() + 9).div_ceil(64) * HASH_BLOCK_WORK) {
            return true;
        }
        std::str::from_utf8(word).is_ok_and(|text| self.own.include(text))
    }

    /// True if a signed token stands in a text, whatever stands beside it. What lies between its two dots
    /// is the payload as a whole; what is glued to the header or to the signature is tried without.
    fn holds_signed(&self, text: &[u8]) -> bool {
        let dots = text.iter().enumerate().filter(|(_, byte)| **byte == b'.');
        let dots: Vec<usize> = dots.map(|(at, _)| at).collect();
        dots.windows(2).any(|pair| {
            let payload = unpadded(&text[pair[0] + 1..pair[1]]);
            begins_object(payload)
                && payload.iter().all(|byte| is_base64url(*byte))
                && self.is_signed(
                    last_run(unpadded(&text[..pair[0]])),
                    payload,
                    first_run(&text[pair[1] + 1..]),
                )
        })
    }

    fn is_signed(&self, before: &[u8], payload: &[u8], behind: &[u8]) -> bool {
        let starts = (0..before.len()).filter(|start| begins_object(&before[*start..]));
        for header in starts.map(|start| &before[start..]) {
            if !self.spend(header.len() + HEADER_WORK) {
                return true;
            }
            let json = from_base64(header).unwrap_or_default();
            let Ok(Header { alg }) = serde_json::from_slice(&json) else {
                continue;
            };
            for chars in self.own.signature_chars(&alg) {
                let signature = behind.get(..chars).and_then(from_base64);
                let Some(signature) = signature else {
                    continue;
                };
                // What a lenient reader takes for it, in the one spelling that a strict one takes.
                let signature = BASE64URL_NOPAD.encode(&signature);
                let token = [header, payload, signature.as_bytes()].join(&b'.');
                if self.is_verified(&token) {
                    return true;
                }
            }
        }
        false
    }

    fn is_verified(&self, token: &[u8]) -> bool {
        let Ok(token) = std::str::from_utf8(token) else {
            return false;
        };
        if let Some(known) = self.verified.borrow().get(token) {
            return *known;
        }
        let verdict = self.own.include(token);
        self.verified.borrow_mut().insert(token.to_owned(), verdict);
        verdict
    }
}

/// The parts of a text that are as long as a static token that the relay made, and begin like one.
fn made_shapes(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let prefix = TOKEN_PREFIX.as_bytes();
    let windows = text.windows(MADE_CHARS);
    windows.filter(move |it| it.starts_with(prefix))
}

/// True if a text in base 64 begins as a JSON object does, perhaps with white space.
fn begins_object(text: &[u8]) -> bool {
    let (Some(first), Some(second), Some(third)) = (
        text.first().copied().and_then(sextet),
        text.get(1).copied().and_then(sextet),
        text.get(2).copied().and_then(sextet),
    ) else {
        return false;
    };
    let (first, next) = (first << 2 | second >> 4, second << 4 | third >> 2);
    let is_blank = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    match first {
        b'{' => next == b'"' || is_blank(next),
        _ => is_blank(first) && (next == b'{' || is_blank(next)),
    }
}

fn unpadded(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b'=');
    &text[..end.map_or(0, |at| at + 1)]
}

/// The characters of base 64 at the end of a text, as many as a token may have.
fn last_run(text: &[u8]) -> &[u8] {
    let text = &text[text.len().saturating_sub(TOKEN_BYTES_MAX)..];
    let end = text.iter().rposition(|byte| !is_base64url(*byte));
    &text[end.map_or(0, |at| at + 1)..]
}

/// The characters of base 64 at the beginning of a text, as many as a token may have.
fn first_run(text: &[u8]) -> &[u8] {
    let text = &text[..text.len().min(TOKEN_BYTES_MAX)];
    let end = text.iter().position(|byte| !is_base64url(*byte));
    &text[..end.unwrap_or(text.len())]
}
