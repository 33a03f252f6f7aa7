//! Characters that URLs must not contain but that clients send: which ones, and their percent-escapes.

use bytes::{BufMut, Bytes, BytesMut};
use http::Uri;
use http::uri::PathAndQuery;

/// True for a byte that is invalid in URLs (RFC 3986, section 2), but that clients send and most servers
/// accept, and that hyper refuses. Of bytes beyond ASCII, hyper refuses those that are not UTF-8.
pub(crate) const fn is_escaped(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`' | 0x80..)
}

/// Percent-escape of a byte.
pub(crate) fn escape(byte: u8) -> [u8; 3] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |half: u8| DIGITS[usize::from(half)];
    [b'%', digit(byte >> 4), digit(byte & 0xf)]
}

/// Escapes in a request's path and query the bytes that [`Intake`](crate::Intake) escapes over HTTP/1.1.
/// Needed over HTTP/2, where hyper parses the URL itself.
pub fn escape_path(uri: &mut Uri) {
    let Some(path) = uri.path_and_query().map(PathAndQuery::as_str) else {
        return;
    };
    if !path.bytes().any(is_escaped) {
        return;
    }
    let mut text = BytesMut::with_capacity(path.len() * 3);
    for byte in path.bytes() {
        match is_escaped(byte) {
            true => text.put_slice(&escape(byte)),
            false => text.put_u8(byte),
        }
    }
    let escaped = PathAndQuery::from_maybe_shared(Bytes::from(text));
    let mut parts = std::mem::take(uri).into_parts();
    // A path that is too long once escaped stays as it is.
    if let Ok(escaped) = escaped {
        parts.path_and_query = Some(escaped);
    }
    // Cannot fail: the parts come from a valid URL, and the path is still valid.
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_query_are_escaped_and_nothing_else_is() {
        for (uri, expected) in [
            ("/a?b=c", "/a?b=c"),
            ("/\u{fc}?q=\u{fc}|{}", "/%C3%BC?q=%C3%BC|{}"),
            ("http://r:1/\"a\"?q=`", "http://r:1/%22a%22?q=%60"),
            ("http://r/%C3%BC?%22", "http://r/%C3%BC?%22"),
            ("*", "*"),
        ] {
            let mut uri: Uri = uri.parse().unwrap();
            escape_path(&mut uri);
            assert_eq!(uri.to_string(), expected);
        }
    }
}
