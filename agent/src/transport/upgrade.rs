//! The WebSocket handshake with a relay (RFC 6455, section 4), and what answers in a relay's place.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde_json::Value;
use tieline_transport::websocket::Role;
use tieline_transport::websocket::handshake::{SUBPROTOCOL_AGENT, accept_value, new_key};
use tokio::time::{Instant, timeout, timeout_at};

use super::head::{Head, INTERIM_MAX, NoHead, shown};
use super::server_kind;
use super::stream::Stream;
use super::url::RelayUrl;
use super::wire::Wire;
use crate::address::HostPort;

/// Path at which a relay takes agents.
const PATH: &str = "/agent";

/// Bytes that one read of the answer takes.
const READ_BYTES: usize = 4 * 1024;

/// Limit on the bytes of an answer's body that are read for its message.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// Longest wait for an answer's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the relay's URL opens no WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// What is wrong, and what to do.
    pub(super) problem: String,
    /// True if the relay itself says that it is busy.
    pub(super) is_busy: bool,
}

impl From<String> for Refused {
    fn from(problem: String) -> Self {
        Self {
            problem,
            is_busy: false,
        }
    }
}

/// Opens a WebSocket for a link over `wire`.
///
/// # Errors
/// What answers in place of the relay, or what the relay says.
pub(super) async fn upgrade(
    wire: Wire,
    relay: &RelayUrl,
    deadline: Instant,
) -> Result<Stream, Refused> {
    let asked = timeout_at(deadline, ask(&wire, relay)).await;
    let input = asked.unwrap_or_else(|_| {
        let problem =
            "no answer in time; is this the relay's address, and does its HTTP port take agents?";
        Err(problem.to_owned().into())
    })?;
    Ok(Stream::over_websocket(wire, Role::Client, input))
}

/// Sends the request and reads its answer; returns the bytes after the head.
async fn ask(wire: &Wire, relay: &RelayUrl) -> Result<BytesMut, Refused> {
    let key = new_key();
    let request = request(&relay.authority(), &key);
    let written = wire.write_all(request.as_bytes()).await;
    written.map_err(|error| broken(&error))?;
    let mut input = BytesMut::new();
    for _ in 0..=INTERIM_MAX {
        let head = read_head(wire, &mut input, relay).await?;
        if head.is_interim() {
            continue;
        }
        if head.status == 101 {
            check(&head, &key)?;
            return Ok(input);
        }
        let body = body(wire, &head, input).await;
        return Err(judge(&head, &body, relay));
    }
    Err("it sends interim answers (1xx) without end"
        .to_owned()
        .into())
}

/// Reads the head of an answer; bytes after the head stay in `input`.
async fn read_head(wire: &Wire, input: &mut BytesMut, relay: &RelayUrl) -> Result<Head, Refused> {
    loop {
        match Head::parse(&input[..]) {
            Ok(Some((head, len))) => {
                input.advance(len);
                return Ok(head);
            }
            Ok(None) => {}
            Err(NoHead::NotHttp) => return Err(server_kind::no_http(&input[..], relay).into()),
            Err(NoHead::TooLong) => {
                return Err("the head of its answer is too long".to_owned().into());
            }
        }
        let before = input.len();
        match wire.read(input, READ_BYTES).await {
            Ok(0) if before == 0 => return Err(server_kind::closed(relay).into()),
            Ok(0) => {
                return Err("the server closed the connection in mid-answer"
                    .to_owned()
                    .into());
            }
            Ok(_) => {}
            Err(error) => return Err(broken(&error)),
        }
    }
}

fn broken(error: &io::Error) -> Refused {
    format!("the connection failed: {error}").into()
}

fn request(authority: &str, key: &str) -> String {
    format!(
        "GET {PATH} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: tieline/{}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL_AGENT}\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// Checks an answer that switches protocols.
fn check(head: &Head, key: &str) -> Result<(), Refused> {
    let problem = if head
        .value("upgrade")
        .is_none_or(|it| !it.eq_ignore_ascii_case("websocket"))
        || !head.lists("connection", "upgrade")
    {
        "its answer switches to something other than a WebSocket"
    } else if head.value("sec-websocket-accept") != Some(&*accept_value(key.as_bytes())) {
        "its answer belongs to another request (Sec-WebSocket-Accept): a proxy or cache may answer in its place"
    } else if head.value("sec-websocket-protocol") != Some(SUBPROTOCOL_AGENT) {
        "a server with WebSockets of its own answers there, but not a Tieline relay"
    } else if head
        .values("sec-websocket-extensions")
        .any(|it| !it.is_empty())
    {
        "its answer uses an extension of WebSockets that was not asked for"
    } else {
        return Ok(());
    };
    Err(problem.to_owned().into())
}

/// The body of an answer, as much of it as comes within [`BODY_TIMEOUT`].
async fn body(wire: &Wire, head: &Head, mut input: BytesMut) -> BytesMut {
    let length = head.value("content-length");
    let length = length.and_then(|text| text.parse().ok());
    let length = length.unwrap_or(BODY_BYTES_MAX).min(BODY_BYTES_MAX);
    let reading = async {
        while input.len() < length {
            match wire.read(&mut input, READ_BYTES).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    };
    let _ = timeout(BODY_TIMEOUT, reading).await;
    input
}

/// Explains an answer other than 101.
fn judge(head: &Head, body: &[u8], relay: &RelayUrl) -> Refused {
    let status = head.status_line();
    let value: Value = serde_json::from_slice(object_in(body)).unwrap_or_default();
    let message = value["message"].as_str().map(shown);
    let type_of = head.value("content-type").unwrap_or_default();
    let is_page = type_of.to_ascii_lowercase().starts_with("text/html")
        || body.trim_ascii_start().starts_with(b"<");
    let problem = match (head.status, message) {
        (300..=399, _) => redirected(head.value("location"), relay),
        (511, _) => login_page(None),
        (200..=299, _) if is_page => login_page(None),
        (200..=299, _) => "an HTTP server answers there, but not a Tieline relay".to_owned(),
        (404, _) => "an HTTP server answers there, but not a Tieline relay (or one too old to take agents over \
                     WebSocket: dial tls:// or tcp:// and its port for agents)"
            .to_owned(),
        (_, Some(message)) => {
            return Refused {
                problem: format!("it answers {status}: {message}"),
                is_busy: matches!(head.status, 429 | 503),
            };
        }
        (400, None) if !relay.transport().is_encrypted() => format!(
            "it answers {status}; dial wss://{} if it has TLS there",
            relay.address()
        ),
        (401 | 403 | 407, None) => format!(
            "it answers {status}: a server in front of the relay wants a login or refuses; ask its operator to let \
             {PATH} through"
        ),
        (500.., None) => format!(
            "it answers {status} and gives no reason: a server in front of the relay may not reach it"
        ),
        (_, None) => format!("it answers {status}: does a server in front of the relay pass WebSockets on?"),
    };
    problem.into()
}

/// The JSON object in `body`, without the chunk lengths around it; empty if the body has none.
fn object_in(body: &[u8]) -> &[u8] {
    let begin = body.iter().position(|byte| *byte == b'{');
    let end = body.iter().rposition(|byte| *byte == b'}');
    match (begin, end) {
        (Some(begin), Some(end)) if begin < end => &body[begin..=end],
        _ => &[],
    }
}

/// What a redirect to `location` means.
fn redirected(location: Option<&str>, relay: &RelayUrl) -> String {
    let Some((scheme, rest)) = location.and_then(|it| it.split_once("://")) else {
        return login_page(None);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    let authority = authority.rsplit_once('@').map_or(authority, |(_, it)| it);
    let Ok(address) = HostPort::parse(authority, Some(443)) else {
        return login_page(None);
    };
    let is_own = address.host() == relay.address().host();
    if is_own && scheme.eq_ignore_ascii_case("https") && !relay.transport().is_encrypted() {
        return format!("the server there leads to TLS: dial https://{address}");
    }
    login_page(Some(&address.host()))
}

fn login_page(host: Option<&str>) -> String {
    let host = host.map(|host| format!(" and leads to {host}"));
    format!(
        "a login page (captive portal) answers in place of the relay{}: log in with a browser first",
        host.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn head(text: &str) -> Head {
        let whole = format!("HTTP/1.1 {text}\r\n\r\n").replace("; ", "\r\n");
        Head::parse(whole.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn only_the_answer_to_this_request_opens_a_websocket() {
        // The example of RFC 6455, section 1.3.
        let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        let good = format!(
            "101 Switching Protocols; upgrade: WebSocket; Connection: keep-alive, Upgrade; {accept}; \
             Sec-WebSocket-Protocol: tieline.v1"
        );
        assert_eq!(check(&head(&good), KEY), Ok(()));
        for (from, to, words) in [
            ("WebSocket", "h2c", "something other"),
            ("keep-alive, Upgrade", "keep-alive", "something other"),
            ("s3pPLM", "x3pPLM", "another request"),
            (accept, "a: b", "another request"),
            ("tieline.v1", "chat", "not a Tieline relay"),
            (
                "; Sec-WebSocket-Protocol: tieline.v1",
                "",
                "not a Tieline relay",
            ),
            (
                "tieline.v1",
                "tieline.v1; Sec-WebSocket-Extensions: permessage-deflate",
                "extension",
            ),
        ] {
            let refused = check(&head(&good.replacen(from, to, 1)), KEY).unwrap_err();
            assert!(refused.problem.contains(words), "{to}: {refused:?}");
        }
    }

    #[test]
    fn what_answers_in_place_of_a_relay_is_told_with_what_to_do() {
        let (plain, secure) = ("ws://relay.example:9080", "https://relay.example");
        let html = "<!doctype html><title>Welcome to the hotel</title>";
        let json = r#"{"error":"overloaded","message":"too many agents"}"#;
        for (relay, answer, body, words) in [
            (
                plain,
                "302 Found; Location: http://portal.hotel/login?u=x",
                "",
                "leads to portal.hotel: log in",
            ),
            (
                plain,
                "302 Found; Location: https://a:secret@portal.hotel:8443/",
                "",
                "leads to portal.hotel: log in",
            ),
            (
                plain,
                "302 Found; Location: /login",
                html,
                "relay: log in with a browser",
            ),
            (plain, "307 Moved", "", "log in with a browser"),
            (
                plain,
                "301 Moved; Location: https://relay.example/agent",
                "",
                "dial https://relay.example:443",
            ),
            (
                secure,
                "301 Moved; Location: https://relay.example/login",
                "",
                "leads to relay.example: log in",
            ),
            (
                secure,
                "200 OK; Content-Type: text/html;charset=utf-8",
                "",
                "captive portal",
            ),
            (secure, "200 OK", html, "captive portal"),
            (
                secure,
                "200 OK; Content-Type: application/json",
                "{}",
                "not a Tieline relay",
            ),
            (
                secure,
                "511 Network Authentication Required",
                "",
                "captive portal",
            ),
            (secure, "404 Not Found", json, "too old"),
            (
                secure,
                "403 Forbidden",
                json,
                "403 Forbidden: too many agents",
            ),
            (secure, "403 Forbidden", html, "let /agent through"),
            (
                secure,
                "407 Proxy Authentication Required",
                json,
                "too many agents",
            ),
            (
                secure,
                "502 Bad Gateway",
                html,
                "502 Bad Gateway and gives no reason",
            ),
            (
                plain,
                "400 Bad Request",
                html,
                "dial wss://relay.example:9080",
            ),
            (secure, "426 Upgrade Required", "", "pass WebSockets on"),
        ] {
            let relay = RelayUrl::parse(relay).unwrap();
            let Refused { problem, is_busy } = judge(&head(answer), body.as_bytes(), &relay);
            assert!(problem.contains(words), "{answer}: {problem}");
            assert!(!problem.contains("secret"), "{problem}");
            assert!(!is_busy, "{answer}");
        }
        let relay = RelayUrl::parse(secure).unwrap();
        let chunked = format!("{:x}\r\n{json}\r\n0\r\n\r\n", json.len());
        for (answer, body, expected) in [
            ("503 Service Unavailable", json, true),
            (
                "503 Service Unavailable; Transfer-Encoding: chunked",
                chunked.as_str(),
                true,
            ),
            ("429 Too Many Requests", json, true),
            // A proxy in front of a relay that restarts.
            ("503 Service Unavailable", html, false),
        ] {
            let refused = judge(&head(answer), body.as_bytes(), &relay);
            assert_eq!(refused.is_busy, expected, "{answer}: {refused:?}");
        }
    }

    #[test]
    fn the_request_is_the_handshake_of_an_agent() {
        let text = request("relay:9080", KEY);
        assert!(
            text.starts_with("GET /agent HTTP/1.1\r\nHost: relay:9080\r\n"),
            "{text}"
        );
        assert!(
            text.contains("\r\nSec-WebSocket-Protocol: tieline.v1\r\n\r\n"),
            "{text}"
        );
        assert!(
            text.contains(&format!("\r\nSec-WebSocket-Key: {KEY}\r\n")),
            "{text}"
        );
    }
}
