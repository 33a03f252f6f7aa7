//! The one search for credentials of the relay in a text: which parts of it could be one, in which spelling,
//! and whether one is.
//!
//! What is found is always a token that was verified, so that nothing of a target's is taken for one. The
//! exception is a text that would take more work than a request may cost: it counts as found.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use tieline_wire::limits::TOKEN_BYTES_MAX;

use super::spelling::{
    base64_runs, from_base64, is_base64url, narrowed, sextet, unescaped, without_blanks,
};
use crate::auth::OwnTokens;
use crate::config::TOKEN_PREFIX;

/// Spellings one over another that are undone: a `Basic` in an escaped cookie of an escaped URL.
const LAYERS_MAX: u32 = 4;

/// Bytes that are looked at for one request, spellings included. A head has 64 KiB, and base 64 is read
/// from each of four places.
const WORK_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Characters of a static token that the relay made: 256 random bits in base 64 behind the prefix.
const MADE_CHARS: usize = TOKEN_PREFIX.len() + 43;

/// Shortest static token that is found, if it was made by hand.
const BY_HAND_CHARS_MIN: usize = 8;

/// Shortest signed token: `{"alg":"HS256"}`, `{"sub":"","exp":1}` and a signature of 32 bytes.
const SIGNED_CHARS_MIN: usize = 20 + 1 + 24 + 1 + 43;

/// The search in one request.
pub(super) struct Search {
    own: OwnTokens,
    /// One text is read in several spellings, and stands in several places, but is verified once.
    verified: RefCell<HashMap<String, bool>>,
    work_left: Cell<usize>,
}

/// A JOSE header (RFC 7515, 4), as far as it matters here.
#[derive(Deserialize)]
struct Header {
    alg: String,
}

impl Search {
    pub(super) fn new(own: OwnTokens) -> Self {
        Self {
            own,
            verified: RefCell::default(),
            work_left: Cell::new(WORK_BYTES_MAX),
        }
    }

    /// True if a text holds a credential of the relay in any spelling, or would take too long to read.
    pub(super) fn finds_in(&self, text: &[u8]) -> bool {
        self.finds(text, LAYERS_MAX, true)
    }

    /// `has_words` says that the text begins and ends where its writer meant it to.
    fn finds(&self, text: &[u8], layers_left: u32, has_words: bool) -> bool {
        if text.len() < self.chars_min() {
            return false;
        }
        if !self.spend(text.len()) {
            return true;
        }
        let is_plain = match self.own.are_signed() {
            true => self.holds_signed(text),
            false => self.holds_made(text) || has_words && self.holds_by_hand(text, layers_left),
        };
        is_plain || layers_left > 0 && self.finds_spelt(text, layers_left - 1, has_words)
    }

    /// The same in what the text is a spelling of.
    fn finds_spelt(&self, text: &[u8], layers_left: u32, has_words: bool) -> bool {
        let again = |text: Vec<u8>| self.finds(&text, layers_left, has_words);
        if unescaped(text).is_some_and(again) || narrowed(text).is_some_and(again) {
            return true;
        }
        let chars_min = match self.own.are_signed() {
            true => SIGNED_CHARS_MIN,
            false => MADE_CHARS,
        };
        // Where it begins is not known, as other characters may be glued to it: it is read from each of
        // the four places that make a difference.
        base64_runs(text, chars_min * 4 / 3).any(|run| {
            let readings = (0..4).filter_map(|start| from_base64(&run[start..]));
            let mut readings = readings.map(|text| self.finds(&text, layers_left, false));
            readings.any(|is_found| is_found)
        })
    }

    const fn chars_min(&self) -> usize {
        match self.own.are_signed() {
            true => SIGNED_CHARS_MIN,
            false => BY_HAND_CHARS_MIN,
        }
    }

    /// Takes some bytes of work off what is left; false if that was not enough.
    fn spend(&self, bytes: usize) -> bool {
        let left = self.work_left.get();
        self.work_left.set(left.saturating_sub(bytes));
        bytes <= left
    }

    /// True if a static token that the relay made stands in a text, whatever stands beside it.
    fn holds_made(&self, text: &[u8]) -> bool {
        let prefix = TOKEN_PREFIX.as_bytes();
        let starts = text.windows(MADE_CHARS).filter(|it| it.starts_with(prefix));
        starts
            .filter(|it| it.iter().all(|byte| is_base64url(*byte)))
            .any(|it| self.is_listed(it))
    }

    /// True if a static token that was made by hand is a word of a text. Nothing tells where such a token
    /// ends but the characters around it.
    fn holds_by_hand(&self, text: &[u8], layers_left: u32) -> bool {
        let ends_piece = |byte: &u8| b"&;,".contains(byte);
        let mut pieces = text.split(ends_piece);
        let is_divided = text.iter().any(ends_piece);
        if self.is_word(text, layers_left)
            || is_divided && pieces.any(|piece| self.is_word(piece, layers_left))
        {
            return true;
        }
        let ends_run = |byte: &u8| !byte.is_ascii_alphanumeric() && !b"-._~+/".contains(byte);
        let mut runs = text.split(ends_run);
        runs.any(|run| {
            let is_path = run.contains(&b'/');
            let mut segments = run.split(|byte| *byte == b'/');
            self.is_listed(run)
                || is_path && segments.any(|it| self.is_listed(it))
                || self.holds_prefixed(run)
        })
    }

    /// True if a static token that was made by hand and begins as those of the relay is the rest of a text.
    fn holds_prefixed(&self, run: &[u8]) -> bool {
        let prefix = TOKEN_PREFIX.as_bytes();
        let starts = (0..run.len()).filter(|start| run[*start..].starts_with(prefix));
        starts.map(|start| &run[start..]).any(|rest| {
            self.spend(rest.len()) && self.is_listed(rest) || self.is_listed(first_run(rest))
        })
    }

    /// True if a text is a static token: as it stands, behind a scheme or a name, quoted, or as the user or
    /// password of RFC 7617; in base 64, in a form's spelling, or escaped.
    fn is_word(&self, text: &[u8], layers_left: u32) -> bool {
        let text = text.trim_ascii();
        if text.len() < BY_HAND_CHARS_MIN {
            return false;
        }
        let behind = |delimiter: fn(&u8) -> bool| {
            let at = text.iter().position(delimiter);
            at.map_or(text, |at| text[at + 1..].trim_ascii())
        };
        let user_end = text.iter().position(|byte| *byte == b':');
        let words = [
            text,
            behind(u8::is_ascii_whitespace),
            behind(|byte| *byte == b'='),
            behind(|byte| *byte == b':'),
            &text[..user_end.unwrap_or(text.len())],
        ];
        words.iter().enumerate().any(|(at, word)| {
            // Without such a delimiter it is the text again.
            (at == 0 || word.len() < text.len()) && self.is_listed_in_a_spelling(word, layers_left)
        })
    }

    fn is_listed_in_a_spelling(&self, word: &[u8], layers_left: u32) -> bool {
        if self.is_listed(word) {
            return true;
        }
        let unquoted = word
            .strip_prefix(b"\"")
            .and_then(|it| it.strip_suffix(b"\""));
        let word = unquoted.map_or(word, <[u8]>::trim_ascii);
        if unquoted.is_some() && self.is_listed(word) {
            return true;
        }
        if word.contains(&b'+') {
            let as_blank = |byte: &u8| if *byte == b'+' { b' ' } else { *byte };
            let blanks: Vec<u8> = word.iter().map(as_blank).collect();
            let plain = unescaped(&blanks).unwrap_or(blanks);
            if self.is_listed(&plain) {
                return true;
            }
        }
        let Some(layers_left) = layers_left.checked_sub(1) else {
            return false;
        };
        let again = |text: Vec<u8>| self.is_word(&text, layers_left);
        if unescaped(word).is_some_and(again) {
            return true;
        }
        let is_base64 = |byte: &u8| sextet(*byte).is_some() || b"= \t\r\n".contains(byte);
        if word.len() * 3 / 4 < BY_HAND_CHARS_MIN || !word.iter().all(is_base64) {
            return false;
        }
        let Some(text) = from_base64(&without_blanks(word)) else {
            return false;
        };
        let text = narrowed(&text).unwrap_or(text);
        // Words that only look like base 64 are not worth a hash of what they would mean.
        let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
        (text.contains(&b':') || text.iter().filter(|byte| !is_text(byte)).count() <= 2)
            && self.spend(text.len())
            && self.is_word(strip_mark(&text), layers_left)
    }

    fn is_listed(&self, word: &[u8]) -> bool {
        let text = std::str::from_utf8(word).ok();
        text.filter(|text| text.len() >= BY_HAND_CHARS_MIN)
            .is_some_and(|text| self.own.include(text))
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
            if !self.spend(header.len()) {
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

/// True if a text in base 64 begins as a JSON object does, perhaps with white space.
fn begins_object(text: &[u8]) -> bool {
    let Some(start) = text.get(..4).and_then(from_base64) else {
        return false;
    };
    let is_blank = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    match start[..] {
        [b'{', next, ..] => next == b'"' || is_blank(next),
        [first, next, ..] => is_blank(first) && (next == b'{' || is_blank(next)),
        _ => false,
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

/// A text without the mark of its byte order.
fn strip_mark(text: &[u8]) -> &[u8] {
    let marks: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"];
    let mut rests = marks.iter().filter_map(|mark| text.strip_prefix(*mark));
    rests.next().unwrap_or(text)
}
