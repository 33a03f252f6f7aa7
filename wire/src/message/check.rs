//! Checks the texts of a registration, which reach `Host` headers, URLs, lists and terminals.

use super::Register;
use crate::limits::{DCC_BYTES_MAX, HOST_BYTES_MAX};

/// Characters of an invalid value that an error shows.
const SHOWN_CHARS: usize = 64;

/// A text of a registration that is not valid in its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {shown:?}: {rule}")]
pub struct FieldError {
    /// Name of the field, for people.
    pub field: &'static str,
    /// Beginning of the invalid value.
    pub shown: String,
    /// Rule that the value breaks.
    pub rule: &'static str,
}

impl Register {
    /// Checks all texts but the name, which has its own error, and the token.
    ///
    /// # Errors
    /// The first field whose value is not valid in a `Host` header, a URL or a list.
    pub fn check(&self) -> Result<(), FieldError> {
        const PLAIN: &str = "it must not have control characters or invisible characters";
        let rules = [
            (
                "the target's address",
                &self.authority,
                is_authority(&self.authority),
                "it must be HOST or HOST:PORT; HOST is a name of letters a-z, digits, '-', '.' and '_', an IPv4 \
                 address, or an IPv6 address in brackets",
            ),
            (
                "the target's path",
                &self.base_path,
                Self::is_base_path(&self.base_path),
                "it must begin with '/', have no segment '.' or '..', and be printable ASCII with all other \
                 characters as %XX",
            ),
            (
                "the kind of application (dcc)",
                &self.dcc,
                is_segment(&self.dcc),
                "it is part of URLs, so it may have at most 64 letters a-z, digits, '-', '.', '_' and '~'",
            ),
            ("the label", &self.label, is_plain(&self.label), PLAIN),
        ];
        let words = self.capabilities.iter();
        let words = words.map(|word| ("a capability", word, is_plain(word), PLAIN));
        match rules.into_iter().chain(words).find(|(_, _, fits, _)| !fits) {
            None => Ok(()),
            Some((field, value, _, rule)) => Err(FieldError {
                field,
                shown: value.chars().take(SHOWN_CHARS).collect(),
                rule,
            }),
        }
    }

    /// True if `path` can follow a host in a URL without changing the host or path that the URL names. It is
    /// empty, or begins with `/` and holds printable ASCII: no character that ends a path or that some parsers
    /// read as `/`, no `%` without two hex digits, and no segment `.` or `..`.
    #[must_use]
    pub fn is_base_path(path: &str) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\\\"<>^`{|}".contains(&byte);
        let is_dots = |segment: &str| {
            let segment = segment.to_ascii_lowercase().replace("%2e", ".");
            matches!(segment.as_str(), "." | "..")
        };
        let is_coded = |behind: &str| {
            let digits = behind.as_bytes().get(..2);
            digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        };
        (path.is_empty() || path.starts_with('/'))
            && path.bytes().all(is_plain)
            && path.split('%').skip(1).all(is_coded)
            && !path.split('/').any(is_dots)
    }
}

/// True if `text` can be a `Host` header and follow `http://`: a host with an optional port.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, rest)) if is_ipv6(address) => ("", rest),
            _ => return false,
        },
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            if host.is_empty() {
                return false;
            }
            (host, port)
        }
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_port = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number && digits.parse::<u16>().is_ok_and(|port| port > 0)
    };
    host.len() <= HOST_BYTES_MAX
        && host.bytes().all(is_host)
        && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// True if `text` is an IPv6 address without a zone (RFC 4291, section 2.2).
fn is_ipv6(text: &str) -> bool {
    let (head, tail) = text.split_once("::").unwrap_or((text, ""));
    let is_short = head.len() < text.len();
    let count = groups(head, !is_short).zip(groups(tail, true));
    count.is_some_and(|(head, tail)| match is_short {
        true => head + tail < 8,
        false => head == 8,
    })
}

/// Number of 16-bit groups in a part of an IPv6 address, `None` if it is invalid. The last two may be an
/// IPv4 address if the part `ends` the address.
fn groups(text: &str, ends: bool) -> Option<usize> {
    if text.is_empty() {
        return Some(0);
    }
    let (front, last) = text.rsplit_once(':').unwrap_or(("", text));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_byte = |part: &str| is_digits(part) && part.parse::<u8>().is_ok();
    let is_ipv4 = ends && last.split('.').count() == 4 && last.split('.').all(is_byte);
    let is_hex = |part: &str| {
        (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let is_alone = front.is_empty() && last.len() == text.len();
    let count = match is_alone {
        true => 0,
        false if front.split(':').all(is_hex) => front.split(':').count(),
        false => return None,
    };
    match (is_ipv4, is_hex(last)) {
        (true, _) => Some(count + 2),
        (false, true) => Some(count + 1),
        (false, false) => None,
    }
}

/// True if `text` is empty, or can be a segment of a URL's path as it is.
fn is_segment(text: &str) -> bool {
    // The unreserved characters (RFC 3986, section 2.3).
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.len() <= DCC_BYTES_MAX && text.bytes().all(is_unreserved) && !matches!(text, "." | "..")
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(|c| c == '\t' || is_hidden(c))
}

/// True for an invisible character: controls (among them the escape character and its 8-bit
/// relatives), marks that reorder text, zero-width blanks, line and paragraph separators, tags, and
/// code points that are not characters. A tab is not one: it only moves the text after it, and files
/// are indented with it.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fdd0}'..='\u{fdef}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Register)) -> Result<(), FieldError> {
        let mut register = Register {
            label: "maya-8765/mcp".to_owned(),
            authority: "127.0.0.1:8765".to_owned(),
            base_path: "/mcp".to_owned(),
            dcc: "maya".to_owned(),
            capabilities: vec!["mcp".to_owned()],
            ..Register::default()
        };
        change(&mut register);
        register.check()
    }

    #[test]
    fn an_address_is_what_a_host_header_may_be() {
        let long = "a".repeat(HOST_BYTES_MAX);
        for good in [
            "127.0.0.1:8765",
            "localhost",
            "Render_01.farm:80",
            "studio.example.",
            "[::1]:80",
            "[2001:db8::1]",
            "[::ffff:127.0.0.1]:65535",
            &long,
        ] {
            assert_eq!(with(|it| it.authority = good.to_owned()), Ok(()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b:1",
            " a:1",
            "a:1 ",
            "user@host:1",
            "user:word@host",
            "host:1/path",
            "host:1?x",
            "host:1#x",
            "host\\x",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:1:2",
            "::1",
            "[::1",
            "[::1]80",
            "[::1]:",
            "[fe80::1%eth0]:80",
            "[x]:1",
            "[]",
            "a\r\nX: y",
            "a\tb",
            "stra\u{df}e.example",
            "a\u{202e}b",
            "a\u{200b}",
            "%61",
            "a,b",
            "<a>",
            &format!("{long}a"),
        ] {
            let error = with(|it| it.authority = bad.to_owned()).unwrap_err();
            assert_eq!(error.field, "the target's address", "{bad}");
        }
    }

    #[test]
    fn an_ipv6_address_is_told_from_what_looks_like_one() {
        for good in [
            "::",
            "::1",
            "1::",
            "fe80::1:2",
            "1:2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7::",
            "::ffff:192.0.2.1",
            "1:2:3:4:5:6:192.0.2.1",
            "2001:DB8::a",
        ] {
            assert!(is_ipv6(good), "{good}");
        }
        for bad in [
            "",
            ":",
            ":::",
            "1",
            "1:2",
            ":1",
            "1:",
            "::1::",
            "1:2:3:4:5:6:7:8:9",
            "1:2:3:4:5:6:7:8::",
            "12345::",
            "g::",
            "::1.2.3",
            "::256.1.1.1",
            "::+1.2.3.4",
            "1.2.3.4::",
            "1.2.3.4",
            "::1%1",
            "1:2:3:4:5:6:7:192.0.2.1",
        ] {
            assert!(!is_ipv6(bad), "{bad}");
        }
    }

    #[test]
    fn a_base_path_cannot_lead_to_another_host_or_path() {
        for path in [
            "",
            "/",
            "/mcp",
            "/a/b-c_d.e~",
            "/a..b/...",
            "/%20/@x:1",
            "//x",
        ] {
            assert_eq!(with(|it| it.base_path = path.to_owned()), Ok(()), "{path}");
        }
        for path in [
            "@evil.example/mcp",
            ".evil.example/mcp",
            ":1@evil.example/",
            "mcp",
            "?x=",
            "#x",
            "\\evil.example",
            "/a\\b",
            "/mcp http://evil.example/",
            "/<script>",
            "/\u{202e}",
            "/../ada/mcp",
            "/a/..",
            "/./a",
            "/%2e%2E/ada",
            "/.%2e/ada",
            "/a?b",
            "/a#b",
            "/%",
            "/%4",
            "/%u002e%u002e/a",
            "/%zz",
            "/a\nb",
        ] {
            let error = with(|it| it.base_path = path.to_owned()).unwrap_err();
            assert_eq!(error.field, "the target's path", "{path}");
        }
    }

    #[test]
    fn a_kind_is_a_segment_of_a_url() {
        let long = "m".repeat(DCC_BYTES_MAX);
        for dcc in ["", "maya", "3dsmax", "Unreal_5.4", "a-b~c", &long] {
            assert_eq!(with(|it| it.dcc = dcc.to_owned()), Ok(()), "{dcc}");
        }
        let longer = format!("{long}m");
        for dcc in [
            "unreal engine",
            " ",
            "a/b",
            "a?b",
            "a#b",
            "a%20b",
            ".",
            "..",
            "h\u{f6}he",
            "a\nb",
            "a\u{202e}",
            "a:b@c",
            &longer,
        ] {
            let error = with(|it| it.dcc = dcc.to_owned()).unwrap_err();
            assert_eq!(error.field, "the kind of application (dcc)", "{dcc}");
        }
    }

    #[test]
    fn labels_and_capabilities_hide_nothing() {
        for text in ["", "seat 4", "K\u{fc}che", "a/b:c"] {
            assert_eq!(with(|it| it.label = text.to_owned()), Ok(()), "{text}");
            assert_eq!(with(|it| it.capabilities.push(text.to_owned())), Ok(()));
        }
        for text in [
            "a\tb",
            "a\r\nb",
            "\u{1b}[2J",
            "a\u{202e}b",
            "a\u{200b}b",
            "\u{2028}",
            "\u{feff}",
        ] {
            assert!(with(|it| it.label = text.to_owned()).is_err(), "{text:?}");
            let error = with(|it| it.capabilities.push(text.to_owned())).unwrap_err();
            // The error shows these characters as escapes, since it reaches terminals.
            assert!(!error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn an_error_shows_the_beginning_of_a_long_value() {
        let error = with(|it| it.authority = " ".repeat(1000)).unwrap_err();
        assert!(error.to_string().len() < 400, "{error}");
    }
}
