//! Which paths of a target callers may request.

use super::url::split_well_known;

/// Rounds of percent-decoding; a path that still changes after them is treated as an attack.
const DECODINGS_MAX: usize = 4;

/// True if `path`, with or without a query, is `base` or below it, or is metadata about such a path. A slash
/// at the end of `base` makes no difference.
///
/// A path with `.` or `..` segments, even encoded, is never exposed, wherever it would lead: the target may
/// decode it differently.
pub(crate) fn is_exposed(base: &str, path: &str) -> bool {
    let base = base.trim_end_matches('/');
    if base.is_empty() {
        return true;
    }
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    if climbs(path) {
        return false;
    }
    let (well_known, path) = split_well_known(path);
    match path.strip_prefix(base) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => !well_known.is_empty() && matches!(path, "" | "/"),
    }
}

/// True if any server could read a `.` or `..` segment in the path.
pub(crate) fn climbs(path: &str) -> bool {
    if path.bytes().all(is_itself) {
        return path.split('/').any(|segment| matches!(segment, "." | ".."));
    }
    climbs_in_a_spelling(path)
}

/// Bytes that no server decodes; almost every path consists of these alone.
const fn is_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_' | b'~')
}

fn climbs_in_a_spelling(path: &str) -> bool {
    let mut path = path.as_bytes().to_vec();
    for _ in 0..DECODINGS_MAX {
        if has_dots(&String::from_utf8_lossy(&path)) || has_dots(&lenient(&path)) {
            return true;
        }
        match unescaped(&path) {
            Some(next) => path = next,
            None => return false,
        }
    }
    true
}

/// True if a segment is `.` or `..` after removal of the characters that servers ignore.
fn has_dots(text: &str) -> bool {
    let text: String = text.chars().map(folded).collect();
    let is_dots = |segment: &str| {
        // Some servers treat text after a semicolon as a parameter (RFC 3986, section 3.3), Windows
        // treats text after a colon as a stream, and an encoded `?` or `#` ends a path parsed twice.
        let name = segment
            .split([';', ':', '?', '#'])
            .next()
            .unwrap_or_default();
        matches!(name, "." | "..")
    };
    text.split('/').any(|segment| {
        // In C programs a NUL ends a name; other programs leave it out.
        let ended = segment.split('\0').next().unwrap_or_default();
        is_dots(ended) || is_dots(&segment.replace('\0', ""))
    })
}

/// What a character may become in a file name: lookalikes become dots and slashes by Unicode normalisation
/// (NFKC) or conversion to an old code page; blanks and invisible characters are trimmed.
fn folded(c: char) -> &'static str {
    match c {
        '/' | '\\' => "/",
        // Fraction, division, full-width and small slashes; the yen and won signs are the backslash of
        // old Japanese and Korean code pages.
        '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{29f5}' | '\u{29f8}' | '\u{fe68}'
        | '\u{ff0f}' | '\u{ff3c}' | '\u{a5}' | '\u{20a9}' => "/",
        '.' | '\u{2024}' | '\u{fe52}' | '\u{ff0e}' | '\u{3002}' | '\u{ff61}' => ".",
        '\u{2025}' | '\u{fe30}' => "..",
        '\0' => "\0",
        ';' => ";",
        ':' => ":",
        '?' => "?",
        '#' => "#",
        // `+` is a blank in forms, and in some servers' paths.
        '+' => "",
        c if c.is_whitespace() || c.is_control() => "",
        // Soft hyphen, zero-width characters, direction marks, byte order mark, and the replacement
        // character for invalid UTF-8.
        '\u{ad}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fffd}' => "",
        // Any other character cannot be part of a dot segment.
        _ => "x",
    }
}

/// The path as lenient UTF-8 decoders read it: they accept overlong sequences (RFC 3629, section 10), so that
/// two or more bytes can be a dot.
fn lenient(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((lead, behind)) = rest.split_first() {
        let ones = lead.leading_ones() as usize;
        let (mut value, count) = match ones {
            2..=6 => (u32::from(lead & (0x7f >> ones)), ones - 1),
            _ => (u32::from(*lead), 0),
        };
        let count = count.min(behind.len());
        for byte in &behind[..count] {
            value = value << 6 | u32::from(byte & 0x3f);
        }
        out.push(char::from_u32(value).unwrap_or('\u{fffd}'));
        rest = &behind[count..];
    }
    out
}

/// A text after one round of percent-decoding, as lenient as the most lenient server; `None` if there is nothing to
/// decode.
pub(crate) fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let start = text.iter().position(|byte| *byte == b'%')?;
    let mut out = Vec::with_capacity(text.len());
    out.extend_from_slice(&text[..start]);
    let mut rest = &text[start..];
    while let Some((byte, behind)) = rest.split_first() {
        let length = (*byte == b'%').then(|| escaped(behind, &mut out)).flatten();
        if length.is_none() {
            out.push(*byte);
        }
        rest = &behind[length.unwrap_or(0)..];
    }
    (out.len() < text.len()).then_some(out)
}

/// Decodes the escape after a percent sign into `out`; returns its length.
fn escaped(behind: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let number = |digits: &[u8]| {
        let digits = str::from_utf8(digits).ok()?;
        let is_hex = digits.bytes().all(|it| it.is_ascii_hexdigit());
        is_hex.then(|| u32::from_str_radix(digits, 16).ok())?
    };
    if let [b'u' | b'U', digits @ ..] = behind {
        // `%uXXXX` of IIS and of JavaScript's `escape`.
        let value = char::from_u32(number(digits.get(..4)?)?)?;
        out.extend_from_slice(value.encode_utf8(&mut [0; 4]).as_bytes());
        return Some(5);
    }
    out.push(u8::try_from(number(behind.get(..2)?)?).ok()?);
    Some(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_lies_under_the_base_is_exposed_and_nothing_beside_it() {
        for path in [
            "/mcp",
            "/mcp/",
            "/mcp/a/b",
            "/mcp?x=/../",
            "/mcp/%C3%A4",
            "/mcp/...",
            "/mcp/100%",
            "/mcp/%u00",
            "/mcp/.well-known",
            "/mcp/a..b/..c",
            "/mcp/a%20b+c",
            "/mcp/file.%20txt",
            "/mcp/%E2%82%AC/x:y",
            "/mcp/%E6%97%A5%E6%9C%AC.txt",
            "/.well-known/oauth-protected-resource",
            "/.well-known/oauth-protected-resource/mcp",
            "/.well-known/openid-configuration/?x",
        ] {
            assert!(is_exposed("/mcp", path), "{path}");
            assert!(is_exposed("/mcp/", path), "{path}");
        }
        for path in [
            "/",
            "",
            "/mcpx",
            "/MCP",
            "/admin",
            "/.well-known/x",
            "/.well-known/oauth-protected-resource/admin",
        ] {
            assert!(!is_exposed("/mcp", path), "{path}");
            assert!(!is_exposed("/mcp/", path), "{path}");
        }
        assert!(is_exposed("", "/anything/../at/all"));
    }

    #[test]
    fn no_spelling_of_dots_leads_out() {
        for path in [
            "/mcp/..",
            "/mcp/../admin",
            "/mcp/./x",
            "/mcp/%2e%2E/admin",
            "/mcp/.%2e/admin",
            "/mcp/%2e%2e%2fadmin",
            "/mcp/..%5cadmin",
            "/mcp\\..\\admin",
            "/mcp/%252e%252e/admin",
            "/mcp/%25252e%25252e/admin",
            "/mcp/..;x=1/admin",
            "/mcp/%2525252525252e./x",
            // NUL, blanks and invisible characters.
            "/mcp/..%00/x",
            "/mcp/..%00x/admin",
            "/mcp/%00../admin",
            "/mcp/.%00./admin",
            "/mcp/..%20/admin",
            "/mcp/%20../admin",
            "/mcp/..%09/admin",
            "/mcp/.%0d%0a./admin",
            "/mcp/..+/admin",
            "/mcp/..%c2%a0/admin",
            "/mcp/%e2%80%8b../admin",
            "/mcp/%ef%bb%bf../admin",
            "/mcp/..%ff/admin",
            "/mcp/%e9../admin",
            "/mcp/%e9/../admin",
            "/mcp/%7f..",
            // Other spellings of a dot or a slash.
            "/mcp/%u002e%u002e/admin",
            "/mcp/%U002E./admin",
            "/mcp/..%u2215admin",
            "/mcp/%uff0e%uff0e/admin",
            "/mcp/%u2025/admin",
            "/mcp/%c0%ae%c0%ae/admin",
            "/mcp/.%c0%ae/admin",
            "/mcp/%c0%2e./admin",
            "/mcp/%e0%80%ae./admin",
            "/mcp/%f0%80%80%ae./admin",
            "/mcp/%f8%80%80%80%ae./admin",
            "/mcp/..%c0%afadmin",
            "/mcp/..%c1%9cadmin",
            "/mcp/%ef%bc%8e%ef%bc%8e/admin",
            "/mcp/..%ef%bc%8fadmin",
            "/mcp/\u{ff0e}\u{ff0e}/admin",
            "/mcp/%25c0%25ae./admin",
            "/mcp/%25u002e./admin",
            "/mcp/%2%65./admin",
            "/mcp/%%32%65./admin",
            // Suffixes that servers cut off.
            "/mcp/..;/admin",
            "/mcp/..%3bx/admin",
            "/mcp/..::$INDEX_ALLOCATION/admin",
            "/mcp/..%3f/admin",
            "/mcp/..%23/admin",
        ] {
            assert!(!is_exposed("/mcp", path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_plain_path_is_judged_as_any_other(path in "(/|\\.|a|-|_|~|0){0,12}") {
            prop_assert_eq!(climbs(&path), climbs_in_a_spelling(&path));
        }

        #[test]
        fn no_path_makes_it_panic(path in "\\PC{0,40}", base in "(/[a-z]{1,5})?") {
            let _ = is_exposed(&base, &path);
        }
    }
}
