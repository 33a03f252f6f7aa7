//! Maps URLs in an answer's headers. Everything works on bytes, because header values need not be
//! UTF-8. A mapping returns `None` for a URL that stays.

use bytes::Bytes;
use http::header::{Entry, HeaderName};
use http::{HeaderMap, HeaderValue};

/// The parameter of a challenge that points to the resource's metadata (RFC 9728, section 5.1).
const RESOURCE_METADATA: &[u8] = b"resource_metadata";

/// Applies `map` to every value of a header field; a value for which `map` returns `None` stays.
pub fn values(headers: &mut HeaderMap, name: HeaderName, map: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let Entry::Occupied(mut values) = headers.entry(name) else {
        return;
    };
    for value in values.iter_mut() {
        let Some(mapped) = map(value.as_bytes()) else {
            continue;
        };
        // Cannot fail: the value is assembled from parts of header values and of URLs.
        if let Ok(mapped) = HeaderValue::from_maybe_shared(Bytes::from(mapped)) {
            *value = mapped;
        }
    }
}

/// Port of a URL that does not name one.
#[must_use]
pub const fn default_port(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

/// Splits `https://` (true) or `http://` (false) off a URL.
#[must_use]
pub fn split_scheme(value: &[u8]) -> Option<(bool, &[u8])> {
    [(true, &b"https://"[..]), (false, b"http://")]
        .into_iter()
        .find_map(|(https, scheme)| {
            let (start, rest) = value.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some((https, rest))
        })
}

/// Splits a URL behind its authority; `rest` is the URL without its scheme and `//`.
#[must_use]
pub fn split_authority(rest: &[u8]) -> (&[u8], &[u8]) {
    // Browsers read a backslash as a slash (WHATWG URL, "authority state").
    let end = rest.iter().position(|b| b"/?#\\".contains(b));
    rest.split_at(end.unwrap_or(rest.len()))
}

/// A challenge with `map` applied to its `resource_metadata` URL; `None` if nothing changed.
pub fn metadata(value: &[u8], map: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut rest = value;
    let mut mapped = Vec::new();
    let mut changed = false;
    // Every second part is quoted text. A URL cannot contain a quoted pair, so the text between quotes
    // is used as it is.
    while let Some(start) = rest.iter().position(|b| *b == b'"') {
        let (before, quoted) = rest.split_at(start + 1);
        let end = closing_quote(quoted)?;
        let (inside, after) = quoted.split_at(end);
        mapped.extend_from_slice(before);
        match names_metadata(before).then(|| map(inside)).flatten() {
            Some(url) => {
                mapped.extend_from_slice(&url);
                changed = true;
            }
            None => mapped.extend_from_slice(inside),
        }
        mapped.push(b'"');
        rest = &after[1..];
    }
    mapped.extend_from_slice(rest);
    changed.then_some(mapped)
}

/// A list of links (RFC 8288, section 3) with `map` applied to each target; `None` if nothing changed.
pub fn links(value: &[u8], map: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut rest = value;
    let mut mapped = Vec::new();
    let mut changed = false;
    while let Some(at) = rest.iter().position(|b| b"<\"".contains(b)) {
        let (before, behind) = rest.split_at(at + 1);
        mapped.extend_from_slice(before);
        let end = match rest[at] {
            b'"' => closing_quote(behind)?,
            _ => behind.iter().position(|b| *b == b'>')?,
        };
        let (inside, after) = behind.split_at(end);
        let url = (rest[at] == b'<')
            .then(|| map(inside.trim_ascii()))
            .flatten();
        changed |= url.is_some();
        mapped.extend_from_slice(url.as_deref().unwrap_or(inside));
        mapped.push(after[0]);
        rest = &after[1..];
    }
    mapped.extend_from_slice(rest);
    changed.then_some(mapped)
}

fn closing_quote(quoted: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match quoted.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// True if `before` ends in `resource_metadata="`.
fn names_metadata(before: &[u8]) -> bool {
    let name = before
        .strip_suffix(b"\"")
        .unwrap_or(before)
        .trim_ascii_end();
    let Some(name) = name.strip_suffix(b"=") else {
        return false;
    };
    let name = name.trim_ascii_end();
    let start = name
        .iter()
        .rposition(|b| b", \t".contains(b))
        .map_or(0, |at| at + 1);
    name[start..].eq_ignore_ascii_case(RESOURCE_METADATA)
}

/// Maps the URL of a `Refresh`: `5; url=http://a/`, with or without quotes (WHATWG HTML, "shared declarative
/// refresh steps"). `None` if nothing changed.
pub fn refresh(value: &[u8], map: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let time_end = value.iter().position(|b| b";, \t".contains(b))?;
    let behind = value[time_end..].iter();
    let mut start = time_end + behind.take_while(|b| b";, \t".contains(b)).count();
    if let Some((word, rest)) = value[start..].split_at_checked(3)
        && word.eq_ignore_ascii_case(b"url")
        && let Some(url) = rest.trim_ascii_start().strip_prefix(b"=")
    {
        start = value.len() - url.trim_ascii_start().len();
    }
    let quote = value.get(start).filter(|b| matches!(b, b'"' | b'\''));
    start += usize::from(quote.is_some());
    let length = value[start..].iter().position(|b| Some(b) == quote);
    let end = length.map_or(value.len(), |length| start + length);
    let url = map(value[start..end].trim_ascii())?;
    Some([&value[..start], &url, &value[end..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_refresh_is_mapped_however_it_is_written() {
        let map = |url: &[u8]| url.starts_with(b"/").then(|| [b"/p", url].concat());
        let mapped = |value: &str| {
            let mapped = refresh(value.as_bytes(), map);
            mapped.map(|mapped| String::from_utf8(mapped).unwrap())
        };
        for (value, expected) in [
            ("0;url=/a", "0;url=/p/a"),
            ("5; URL = \"/a\" x", "5; URL = \"/p/a\" x"),
            ("1.5, url='/a'", "1.5, url='/p/a'"),
            ("0 /a", "0 /p/a"),
        ] {
            assert_eq!(mapped(value).as_deref(), Some(expected), "{value}");
        }
        for value in [
            "5",
            "",
            "5; url=http://a/",
            "5;",
            "5; url",
            "5; ur",
            "5; url=\"",
        ] {
            assert_eq!(mapped(value), None, "{value}");
        }
    }

    #[test]
    fn only_the_url_of_metadata_is_mapped_in_a_challenge() {
        let ours = |url: &[u8]| (url == b"https://a/x").then(|| b"http://b/x".to_vec());
        let value = br#"Bearer realm="https://a/x", error="a \"b\"", Resource_Metadata = "https://a/x", scope="x""#;
        let mapped = metadata(value, ours).unwrap();
        assert_eq!(
            String::from_utf8(mapped).unwrap(),
            r#"Bearer realm="https://a/x", error="a \"b\"", Resource_Metadata = "http://b/x", scope="x""#
        );
        for value in [
            &br#"Bearer resource_metadata="https://other/x""#[..],
            br#"Bearer x_resource_metadata="https://a/x""#,
            br#"Bearer error="resource_metadata=\"https://a/x\"""#,
            br#"Bearer resource_metadata="https://a/x"#,
            b"Basic",
            b"",
        ] {
            assert_eq!(metadata(value, ours), None);
        }
    }

    #[test]
    fn only_the_targets_of_links_are_mapped() {
        let map = |url: &[u8]| url.starts_with(b"/").then(|| [b"/p", url].concat());
        let value = br#"</a>; rel="x, </b>; \"y", < /c >;rel=next , <http://a/d>"#;
        assert_eq!(
            String::from_utf8(links(value, map).unwrap()).unwrap(),
            r#"</p/a>; rel="x, </b>; \"y", </p/c>;rel=next , <http://a/d>"#
        );
        for value in [&b"<http://a>; rel=x"[..], b"</a", b"\"</a>", b""] {
            assert_eq!(links(value, map), None);
        }
    }

    #[test]
    fn every_value_of_a_header_is_mapped() {
        let mut headers = HeaderMap::new();
        for value in ["a", "b", "a"] {
            headers.append("x", HeaderValue::from_static(value));
        }
        values(&mut headers, HeaderName::from_static("x"), |value| {
            (value == b"a").then(|| b"c".to_vec())
        });
        let all: Vec<_> = headers.get_all("x").iter().collect();
        assert_eq!(all, ["c", "b", "c"]);
    }

    #[test]
    fn an_authority_ends_where_browsers_end_it() {
        for (rest, authority) in [("a/b", "a"), ("a\\@b/", "a"), ("a?b/", "a"), ("a", "a")] {
            let (start, path) = split_authority(rest.as_bytes());
            assert_eq!(start, authority.as_bytes());
            assert_eq!([start, path].concat(), rest.as_bytes());
        }
    }
}
