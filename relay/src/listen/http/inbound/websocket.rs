//! Fields of a WebSocket's handshake (RFC 6455, section 4): the key, the subprotocols, and the caller's token, which
//! browsers cannot send in `Authorization`.

use data_encoding::BASE64;
use http::header::{
    AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION,
};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use tieline_hop::headers::{bearer, subprotocols};
use tieline_transport::websocket::handshake::{SUBPROTOCOL_BEARER, accept_value};

use super::exposure::unescaped;

/// Version of the protocol (RFC 6455, section 4.1).
const VERSION: &[u8] = b"13";

/// Length of the decoded key, in bytes (RFC 6455, section 4.1).
const KEY_BYTES: usize = 16;

/// Field of a query that carries a token (RFC 6750, section 2.3), with its equals sign.
const TOKEN_FIELD: &str = "access_token=";

/// What is wrong with a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHandshake {
    /// The caller does not speak the version of RFC 6455.
    Version,
    /// The key is missing or is not 16 bytes in base64.
    Key,
}

/// Value of `Sec-WebSocket-Accept` in the answer to a handshake.
pub(crate) fn accept(headers: &HeaderMap) -> Result<HeaderValue, BadHandshake> {
    let version = only(headers, &SEC_WEBSOCKET_VERSION).ok_or(BadHandshake::Version)?;
    if version != VERSION {
        return Err(BadHandshake::Version);
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY).ok_or(BadHandshake::Key)?;
    let decoded = BASE64.decode(key).map_err(|_| BadHandshake::Key)?;
    if decoded.len() != KEY_BYTES {
        return Err(BadHandshake::Key);
    }
    HeaderValue::try_from(accept_value(key)).map_err(|_| BadHandshake::Key)
}

/// Whether the caller offers this subprotocol.
pub(crate) fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    subprotocols(headers).any(|it| it == protocol)
}

/// The first subprotocol that the caller offers and that is not a token.
pub(crate) fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut protocols = subprotocols(headers).filter(|it| !is_token(it));
    protocols
        .next()
        .and_then(|it| HeaderValue::from_str(it).ok())
}

/// Takes the caller's token out of the request: from the subprotocols, or else from the query. `None` if neither has a
/// token, or if `Authorization` has one; then the query stays as it is, and the subprotocols still lose theirs.
pub(crate) fn take_token(parts: &mut Parts) -> Option<String> {
    let from_protocols = take_from_protocols(&mut parts.headers);
    let field = parts.headers.get(AUTHORIZATION);
    let field = field.and_then(|value| value.to_str().ok());
    if field.and_then(bearer).is_some() {
        return None;
    }
    from_protocols.or_else(|| take_from_query(&mut parts.uri))
}

fn take_from_protocols(headers: &mut HeaderMap) -> Option<String> {
    let found = subprotocols(headers).find_map(|it| it.strip_prefix(SUBPROTOCOL_BEARER));
    let token = found?.to_owned();
    let others: Vec<_> = subprotocols(headers).filter(|it| !is_token(it)).collect();
    let others = others.join(", ");
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if !others.is_empty()
        && let Ok(others) = HeaderValue::try_from(others)
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
    }
    Some(token)
}

fn take_from_query(uri: &mut Uri) -> Option<String> {
    let path = uri.path_and_query()?;
    let query = path.query()?;
    let mut fields = query.split('&');
    let value = fields.find_map(|field| field.strip_prefix(TOKEN_FIELD))?;
    let value = value.as_bytes();
    let token = String::from_utf8(unescaped(value).unwrap_or_else(|| value.to_vec())).ok()?;
    let others = query.split('&');
    let others: Vec<_> = others.filter(|it| !it.starts_with(TOKEN_FIELD)).collect();
    let text = match others.is_empty() {
        true => path.path().to_owned(),
        false => [path.path(), "?", &others.join("&")].concat(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).ok()?);
    *uri = Uri::from_parts(parts).ok()?;
    Some(token)
}

fn is_token(protocol: &str) -> bool {
    protocol.starts_with(SUBPROTOCOL_BEARER)
}

/// The value of a header field; `None` if the field is missing or repeated.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let is_only = values.next().is_none();
    is_only.then(|| first.as_bytes().trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(uri: &str, lines: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::new(());
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in lines {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request.into_parts().0
    }

    /// The example of RFC 6455, section 1.3.
    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const VERSION_13: (&str, &str) = ("sec-websocket-version", "13");

    #[test]
    fn the_key_of_the_standard_is_accepted_and_others_only_if_they_are_keys() {
        let accepted = |lines: &[(&'static str, &str)]| accept(&parts("/", lines).headers);
        let value = accepted(&[KEY, VERSION_13]).unwrap();
        assert_eq!(value, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for (lines, expected) in [
            (&[KEY][..], BadHandshake::Version),
            (
                &[KEY, ("sec-websocket-version", "8")],
                BadHandshake::Version,
            ),
            (&[KEY, VERSION_13, VERSION_13], BadHandshake::Version),
            (&[VERSION_13], BadHandshake::Key),
            (&[VERSION_13, KEY, KEY], BadHandshake::Key),
            (
                &[VERSION_13, ("sec-websocket-key", "c2hvcnQ=")],
                BadHandshake::Key,
            ),
            (&[VERSION_13, ("sec-websocket-key", "")], BadHandshake::Key),
        ] {
            assert_eq!(accepted(lines), Err(expected), "{lines:?}");
        }
    }

    #[test]
    fn a_token_is_taken_from_one_place_and_stays_in_no_subprotocol() {
        let protocols = "chat, bearer.a.b-c , x";
        for (uri, lines, token, left) in [
            (
                "/w/x",
                &[("sec-websocket-protocol", protocols)][..],
                Some("a.b-c"),
                "/w/x",
            ),
            (
                "/w/x?access_token=q",
                &[("sec-websocket-protocol", protocols)],
                Some("a.b-c"),
                "/w/x?access_token=q",
            ),
            ("/w/x?access_token=a%2Bb", &[], Some("a+b"), "/w/x"),
            (
                "/w/x?a=1&access_token=q&b&access_token=r",
                &[],
                Some("q"),
                "/w/x?a=1&b",
            ),
            (
                "http://h/w/x?access_token=q",
                &[],
                Some("q"),
                "http://h/w/x",
            ),
            (
                "/w/x?access_token=q",
                &[("authorization", "Bearer t")],
                None,
                "/w/x?access_token=q",
            ),
            (
                "/w/x?access_token=q",
                &[("authorization", "Basic t")],
                Some("q"),
                "/w/x",
            ),
            (
                "/w/x?my_access_token=q",
                &[],
                None,
                "/w/x?my_access_token=q",
            ),
        ] {
            let mut parts = parts(uri, lines);
            assert_eq!(take_token(&mut parts).as_deref(), token, "{uri} {lines:?}");
            assert_eq!(parts.uri.to_string(), left, "{lines:?}");
            if lines.contains(&("sec-websocket-protocol", protocols)) {
                assert_eq!(parts.headers[SEC_WEBSOCKET_PROTOCOL], "chat, x");
            }
        }
    }

    #[test]
    fn a_token_is_no_subprotocol_to_choose() {
        let first =
            |value| first_protocol(&parts("/", &[("sec-websocket-protocol", value)]).headers);
        assert_eq!(first("bearer.t, binary, chat").unwrap(), "binary");
        assert_eq!(first("bearer.t"), None);
        let two = [
            ("sec-websocket-protocol", "a,b"),
            ("sec-websocket-protocol", "c"),
        ];
        let headers = parts("/", &two).headers;
        assert!(offers(&headers, "b") && offers(&headers, "c") && !offers(&headers, "A"));
    }
}
