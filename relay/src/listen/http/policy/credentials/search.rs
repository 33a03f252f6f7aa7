//! Search for the relay's credentials in a text and in its decoded spellings.
//!
//! Every hit is a verified token, so that a target's own credentials are never taken for the relay's. Two
//! exceptions count as hits without verification: a text whose search would exceed the work limit of a
//! request, and a field name with the shape of a token in lower case.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::iter;

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use tieline_wire::limits::TOKEN_BYTES_MAX;

use super::spelling::{any_text, base64_readings, from_base64, is_base64url, narrowed, sextet};
use crate::auth::OwnTokens;
use crate::config::{LISTED_CHARS_MAX, TOKEN_PREFIX, is_token_char};
use crate::listen::http::inbound::exposure::unescaped;

/// Nested encodings that are decoded, such as a `Basic` value in an escaped cookie in an escaped URL.
const LAYERS_MAX: u32 = 4;

/// Work limit of one request, in bytes that are read, including decoded text; each block of a hash counts as
/// [`HASH_BLOCK_WORK`]. It limits the time per request to about 1 ms. A head may have 64 KiB, and base64 is
/// decoded at four offsets.
pub(super) const WORK_MAX: usize = 256 * 1024;

/// Work of hashing one 64-byte block, table look-up included.
const HASH_BLOCK_WORK: usize = 64;

/// Work of parsing a JOSE header, in addition to its length.
const HEADER_WORK: usize = 64;

/// Length of a static token that the relay generated: the prefix, and 256 random bits in base64.
const MADE_CHARS: usize = TOKEN_PREFIX.len() + 43;

/// Shortest handmade static token that is found.
const BY_HAND_CHARS_MIN: usize = 8;

/// Shortest handmade token that is found in a field name, or next to a mark (such as `-`) with other text:
/// common names and hyphenated words are shorter.
const GLUED_CHARS_MIN: usize = 16;

/// Marks in a text of token characters up to which every two of them may delimit a handmade token. With more
/// marks the pairs would use up the work limit: random base64 of 60 KiB has 2,000 marks.
const FEW_MARKS: usize = 12;

/// Shortest signed token: `{"alg":"HS256"}`, `{"sub":"","exp":1}` and a signature of 32 bytes.
const SIGNED_CHARS_MIN: usize = 20 + 1 + 24 + 1 + 43;

/// Search for credentials in one request.
pub(super) struct Search {
    own: OwnTokens,
    /// Shortest text that can hold a credential.
    chars_min: usize,
    /// Results of verification: a text may occur in several spellings and places, but is verified once.
    verified: RefCell<HashMap<String, bool>>,
    work_left: Cell<usize>,
    is_spent: Cell<bool>,
}

/// The needed part of a JOSE header (RFC 7515, section 4).
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

    /// True if a text holds a credential of the relay in any spelling, or if the work limit is reached.
    pub(super) fn finds_in(&self, text: &[u8]) -> bool {
        self.finds(text, LAYERS_MAX)
    }

    /// True if the name of a field holds a credential. Field names are in lower case, so a generated token can be
    /// recognized only by its shape.
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

    /// True if a text counted as a hit without verification.
    pub(super) const fn is_unsure(&self) -> bool {
        self.is_spent.get() || self.own.are_unsure()
    }

    /// Unused part of the work limit.
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

    /// True if a decoded form of the text holds a credential.
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

    /// Subtracts from the rest of the work limit; false if the rest was too small.
    fn spend(&self, work: usize) -> bool {
        let left = self.work_left.get();
        self.work_left.set(left.saturating_sub(work));
        let is_enough = work <= left;
        self.is_spent.set(self.is_spent.get() || !is_enough);
        is_enough
    }

    /// True if a text holds a generated static token, with any text around it.
    fn holds_made(&self, text: &[u8]) -> bool {
        made_shapes(text)
            .filter(|it| it.iter().all(|byte| is_base64url(*byte)))
            .any(|it| self.is_listed(it))
    }

    /// True if a text holds a handmade static token as a word. Such a token has no shape of its own, so only
    /// the characters around it delimit it: characters that tokens never have, `/`, and, directly before or
    /// behind the token, `-`, `.`, `_`, `~` and `+`. The token itself may have these, too.
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

    /// True if a run of `len` token characters, with the `=` that follow it, holds a handmade token.
    fn holds_in_run(&self, padded: &[u8], len: usize) -> bool {
        let slashes = |text: &[u8]| {
            let all = text.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            all.map(|(at, _)| at).collect::<Vec<_>>()
        };
        let mut start = 0;
        // The work for each part is limited, however long the parts after it are.
        let is_part = padded[..len].split(|byte| *byte == b'/').any(|part| {
            let (rest, padded) = (&padded[start..len], &padded[start..]);
            start += part.len() + 1;
            let near = &rest[..rest.len().min(LISTED_CHARS_MAX + 1)];
            if !self.spend(near.len() / 4) {
                return true;
            }
            let mut ends = slashes(near);
            ends.extend(run_ends(padded, rest.len()));
            ends.iter().any(|end| self.is_listed(&padded[..*end]))
        });
        is_part || self.holds_beside_marks(padded, len)
    }

    /// True if a handmade token stands before, between or behind marks of a run.
    fn holds_beside_marks(&self, padded: &[u8], len: usize) -> bool {
        if len <= GLUED_CHARS_MIN {
            return false;
        }
        if !self.spend(len / 4) {
            return true;
        }
        let marks = (0..len).filter(|at| is_mark(&padded[*at]));
        let few: Vec<usize> = marks.take(FEW_MARKS + 1).collect();
        if few.len() <= FEW_MARKS {
            return self.holds_between(padded, len, &few);
        }
        let mut start = 0;
        let mut parts = padded[..len].split(|byte| *byte == b'/').map(|part| {
            let begin = start;
            start += part.len() + 1;
            (begin, part.len())
        });
        let mut words = padded[..len].split(is_mark);
        words.any(|word| self.is_glued(word))
            || self.holds_at_edge(padded, len)
            || padded[..len].contains(&b'/')
                && parts.any(|(begin, chars)| {
                    let is_last = begin + chars == len;
                    let end = if is_last { padded.len() } else { begin + chars };
                    self.holds_at_edge(&padded[begin..end], chars)
                })
    }

    /// True if a handmade token stands between two of the `marks` of a run, or between one and an edge.
    fn holds_between(&self, padded: &[u8], len: usize, marks: &[usize]) -> bool {
        let starts = iter::once(0).chain(marks.iter().map(|at| at + 1));
        starts.into_iter().any(|start| {
            let ends = marks.iter().copied().filter(|at| *at > start);
            let is_part = |end: usize| {
                (start == 0 || padded[start - 1] == b'/') && (end >= len || padded[end] == b'/')
            };
            // Whole path segments were compared before.
            let mut ends = ends.chain(run_ends(padded, len)).filter(|it| !is_part(*it));
            ends.any(|end| self.is_glued(&padded[start..end]))
        })
    }

    /// True if a handmade token ends at a mark and begins where the text does, or the other way round.
    fn holds_at_edge(&self, padded: &[u8], len: usize) -> bool {
        let front = len.min(LISTED_CHARS_MAX + 1);
        let back = front.max(len.saturating_sub(LISTED_CHARS_MAX + 1));
        let mut marks = (0..front).chain(back..len);
        marks.any(|at| {
            if !is_mark(&padded[at]) {
                return false;
            }
            let mut ends = run_ends(padded, len);
            self.is_glued(&padded[..at]) || ends.any(|end| self.is_glued(&padded[at + 1..end]))
        })
    }

    /// True if the whole word is a static token that is long enough to stand beside marks.
    fn is_glued(&self, word: &[u8]) -> bool {
        word.len() >= GLUED_CHARS_MIN && self.is_listed(word)
    }

    /// True if the whole word is a static token.
    fn is_listed(&self, word: &[u8]) -> bool {
        if !(BY_HAND_CHARS_MIN..=LISTED_CHARS_MAX).contains(&word.len()) {
            return false;
        }
        // SHA-256 works on blocks of 64 bytes, and pads a text by at least 9 bytes.
        if !self.spend((word.len() + 9).div_ceil(64) * HASH_BLOCK_WORK) {
            return true;
        }
        std::str::from_utf8(word).is_ok_and(|text| self.own.include(text))
    }

    /// True if a text holds a signed token, with any text around it. The payload is all text between two
    /// adjacent dots; the header may start, and the signature may end, within the text next to it.
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
                // Re-encoded, because a lenient server accepts spellings that the strict verifier does not.
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

/// True for a token character that may also stand directly before or behind a token.
const fn is_mark(byte: &u8) -> bool {
    !byte.is_ascii_alphanumeric()
}

/// Where a token may end that reaches the end of a run of `len` token characters: a following `=` may belong to
/// the token or not.
fn run_ends(padded: &[u8], len: usize) -> impl Iterator<Item = usize> {
    len..=padded.len().min(len + 2)
}

/// Parts of a text with the prefix and length of a generated static token.
fn made_shapes(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let prefix = TOKEN_PREFIX.as_bytes();
    let windows = text.windows(MADE_CHARS);
    windows.filter(move |it| it.starts_with(prefix))
}

/// True if a base64 text decodes to the beginning of a JSON object, with or without white space in front.
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

/// The base64 characters at the end of a text, at most as many as a token may have.
fn last_run(text: &[u8]) -> &[u8] {
    let text = &text[text.len().saturating_sub(TOKEN_BYTES_MAX)..];
    let end = text.iter().rposition(|byte| !is_base64url(*byte));
    &text[end.map_or(0, |at| at + 1)..]
}

/// The base64 characters at the beginning of a text, at most as many as a token may have.
fn first_run(text: &[u8]) -> &[u8] {
    let text = &text[..text.len().min(TOKEN_BYTES_MAX)];
    let end = text.iter().position(|byte| !is_base64url(*byte));
    &text[..end.unwrap_or(text.len())]
}
