//! Makes text of relays, targets, tokens and other people's files safe to print: a character that could command
//! the terminal, or change what a reader sees, becomes an escape; a token is masked.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

use tieline_wire::is_hidden;

/// Prefix of the tokens that `tieline-relay token new` makes; 32 random bytes in base64url follow.
const OPAQUE_PREFIX: &str = "tieline_";
const OPAQUE_BYTES: usize = OPAQUE_PREFIX.len() + 43;

/// Prefix of a signed token: `{"` in base64url, the start of the token's JSON header.
const SIGNED_PREFIX: &str = "eyJ";

/// Shortest text that counts as a signed token; no real signed token is shorter.
const TOKEN_BYTES_MIN: usize = 20;

/// Replaces a token in printed text.
const MASK: &str = "(a token, not shown)";

/// Replaces the user name and password of a URL in printed text.
const MASK_USER: &str = "…";

/// Stands in advice for the user name and password of a URL, and is shown.
const PLACEHOLDER_USER: &str = "USER:PASSWORD";

/// Shows a value with its hidden characters escaped, on one line.
pub struct Plain<T>(pub T);

impl<T: Display> Display for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match is_hidden(c) {
                true => write!(self.0, "{}", c.escape_default())?,
                false => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Escapes the hidden characters of JSON text; the text's meaning stays the same.
pub fn escape_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            // JSON allows a hidden character only in a string, so a string escape is valid here.
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// True for text that is a token and not, for example, a file's path: signed (`eyJ….….…`), or random as relays
/// make tokens.
pub(crate) fn is_token_like(text: &str) -> bool {
    let text = text.trim();
    let text = text.strip_prefix("Bearer ").unwrap_or(text).trim_start();
    (run_of_token(text) == text.len() && token_in(text) == Some(0))
        || is_random(text)
        || is_hexadecimal(text)
}

/// True for random bytes as `openssl rand -hex` prints them.
fn is_hexadecimal(text: &str) -> bool {
    const DIGITS_MIN: usize = 32;
    text.len() >= DIGITS_MIN && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// True for one long word of base64url with letters of both cases and digits.
fn is_random(text: &str) -> bool {
    const RANDOM_BYTES_MIN: usize = 40;
    let has = |test: fn(&u8) -> bool| text.bytes().any(|byte| test(&byte));
    text.len() >= RANDOM_BYTES_MIN
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_digit)
}

/// Offset at which a token begins in `run`, a run of token bytes; the token reaches to the end of the run.
fn token_in(run: &str) -> Option<usize> {
    let begins = |prefix: &'static str| {
        let found = run.match_indices(prefix).map(|(at, _)| at);
        found.filter(|at| !run[..*at].ends_with(|c: char| c.is_ascii_alphanumeric()))
    };
    let is_signed = |at: &usize| run.len() - at >= TOKEN_BYTES_MIN && run[*at..].contains('.');
    let signed = begins(SIGNED_PREFIX).find(is_signed);
    signed.or_else(|| begins(OPAQUE_PREFIX).find(|at| run.len() - at == OPAQUE_BYTES))
}

/// Number of bytes at the start of `text` that may stand in a token.
fn run_of_token(text: &str) -> usize {
    let in_token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.bytes()
        .position(|b| !in_token(b))
        .unwrap_or(text.len())
}

/// `text` without the tokens in it, and without the user names and passwords of URLs.
pub fn masked(text: &str) -> Cow<'_, str> {
    match without_tokens(text) {
        Cow::Borrowed(text) => without_users(text),
        Cow::Owned(text) => Cow::Owned(without_users(&text).into_owned()),
    }
}

/// `text`, the given address of a relay or a target, without a user name and password.
pub fn address_without_user(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + "://".len());
    match text[start..].rfind('@') {
        Some(end) => [&text[..start], MASK_USER, &text[start + end..]].concat(),
        None => text.to_owned(),
    }
}

/// `text` without the user names and passwords in front of the `@` in URLs.
fn without_users(text: &str) -> Cow<'_, str> {
    const MARK: &str = "://";
    let mut out = String::new();
    let mut copied = 0;
    for (at, _) in text.match_indices(MARK) {
        let start = at + MARK.len();
        let rest = &text[start..];
        let is_end = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'');
        let authority = &rest[..rest.find(is_end).unwrap_or(rest.len())];
        if let Some(end) = authority.rfind('@')
            && &authority[..end] != PLACEHOLDER_USER
        {
            out.push_str(&text[copied..start]);
            out.push_str(MASK_USER);
            copied = start + end;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// `text` without the tokens in it.
fn without_tokens(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let run = run_of_token(rest);
        if let Some(start) = token_in(&rest[..run]) {
            out.push_str(&text[copied..at + start]);
            out.push_str(MASK);
            copied = at + run;
        }
        let next = rest[run..].chars().next().map_or(0, char::len_utf8);
        at += run + next;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl";

    #[test]
    fn what_could_command_a_terminal_is_shown_as_an_escape() {
        let plain = |text: &str| Plain(text).to_string();
        assert_eq!(
            plain("a\u{1b}[2Jb\u{e9}\n\u{9b}2J"),
            "a\\u{1b}[2Jb\u{e9}\\n\\u{9b}2J"
        );
        assert_eq!(plain("\t\r"), "\t\\r");
        assert_eq!(
            plain("\u{202e}exe\u{2066}\u{200b}"),
            "\\u{202e}exe\\u{2066}\\u{200b}"
        );
        assert_eq!(plain("\u{e0041}\u{feff}"), "\\u{e0041}\\u{feff}");
        assert_eq!(
            plain("maya-1 \u{65e5}\u{672c} \\"),
            "maya-1 \u{65e5}\u{672c} \\"
        );
    }

    #[test]
    fn json_stays_json_and_means_the_same() {
        let value = serde_json::json!({ "a": "\u{1b}[2J\u{9b}\u{202e}\u{e0041}\"\u{e9}" });
        let text = escape_json(&value.to_string());
        assert!(!text.chars().any(is_hidden), "{text}");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, value);
    }

    #[test]
    fn tokens_are_told_from_paths() {
        let random = "q7XbT0yJm2cRkPz4VwNd8LsHf3GaUe6YoI1CtBxQ5Kv";
        let opaque = format!("tieline_{random}");
        let digits = "0123456789abcdef0123456789abcdef";
        for token in [
            SIGNED,
            &format!("Bearer {SIGNED}\n"),
            random,
            &opaque,
            digits,
        ] {
            assert!(is_token_like(token), "{token}");
        }
        for path in [
            "ada.token",
            "/home/ada/secrets/maya-seat-12.production.token",
            "./eyJ.token",
            "tieline_token_of_the_maya_seat.txt",
            "C:\\Users\\ada\\AppData\\Local\\tieline\\token",
            "a-rather-long-file-name-for-a-token-of-maya.txt",
            "",
        ] {
            assert!(!is_token_like(path), "{path}");
        }
    }

    #[test]
    fn a_token_within_a_line_is_not_shown() {
        assert_eq!(
            masked(&format!("file \"{SIGNED}\": no such file")),
            "file \"(a token, not shown)\": no such file"
        );
        for before in [
            "TIELINE_TOKEN_FILE=",
            "Bearer ",
            "token-",
            "\u{1b}[33m\u{1b}[",
        ] {
            let shown = masked(&format!("{before}{SIGNED} after")).into_owned();
            assert_eq!(shown, format!("{before}{MASK} after"));
        }
        let opaque = format!(
            "env: X=tieline_{}]",
            "aB3-".repeat(11).trim_end_matches('-')
        );
        assert_eq!(masked(&opaque), format!("env: X={MASK}]"));
        for text in ["eyJ", "http://r/w/eyJ.x/mcp", "\u{e9}\u{65e5} plain", ""] {
            assert_eq!(masked(text), text);
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        for (text, shown) in [
            ("x tcp://u:pw@h:1/x y", "x tcp://…@h:1/x y"),
            ("http://u:p@w@h", "http://…@h"),
            (
                "a http://tok@h, b https://u:pw@i",
                "a http://…@h, b https://…@i",
            ),
            (
                "write http://USER:PASSWORD@HOST:PORT, not http://u:USER:PASSWORD@h",
                "write http://USER:PASSWORD@HOST:PORT, not http://…@h",
            ),
            ("http://h/@scope/x", "http://h/@scope/x"),
            ("ada@studio.example", "ada@studio.example"),
        ] {
            assert_eq!(masked(text), shown, "{text}");
        }
        for (text, shown) in [
            ("tcp://u:p/w@h:1", "tcp://…@h:1"),
            ("u:pw@h:9001", "…@h:9001"),
            ("tcp://h:1", "tcp://h:1"),
        ] {
            assert_eq!(address_without_user(text), shown);
        }
    }
}
