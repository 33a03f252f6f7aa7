//! Tests of WebSockets through the proxy, from the handshake to the end of both directions.

use tokio::io::AsyncWriteExt;

use crate::rig::{ACCEPT, Exchange, KEY, Proxy, Relay, switching, token_file, upgrade};

/// Bytes of a long message: many more than the proxy and the sockets hold.
const LONG_BYTES: usize = 3_000_003;

/// An exchange whose WebSocket is open.
async fn opened() -> Exchange {
    let mut it = Exchange::begin(&upgrade("")).await;
    it.pass(&switching(""), "\r\n\r\n").await;
    it
}

#[tokio::test(flavor = "local")]
async fn a_handshake_passes_with_the_token_and_no_byte_behind_it_is_lost_or_changed() {
    let (_dir, token) = token_file("secret.token");
    // Bytes that the proxy would change or refuse if it took them for a request: a quote in the path, and bare line
    // feeds.
    let early = "GET /\" HTTP/1.1\n\n";
    let lines = "Origin: http://localhost:6274\r\nAuthorization: Bearer own\r\n\
                 Sec-WebSocket-Protocol: chat, binary\r\n\
                 Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let mut it = Exchange::begin_with_token(&(upgrade(lines) + early), &token).await;
    assert_eq!(it.head.start(), "GET /w/x/ws?a=1 HTTP/1.1");
    for (name, value) in [
        ("authorization", "Bearer secret.token"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-protocol", "chat, binary"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ] {
        assert_eq!(it.head.value(name), value, "{name}");
    }
    assert!(it.head.values("origin").is_empty(), "{}", it.head.text);
    let lines = "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: x; y=1\r\n";
    it.target.send(&(switching(lines) + "first")).await;
    let head = it.caller.head().await;
    assert_eq!(head.start(), "HTTP/1.1 101 Switching Protocols");
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", ACCEPT),
        ("sec-websocket-protocol", "chat"),
        ("sec-websocket-extensions", "x; y=1"),
    ] {
        assert_eq!(head.value(name), value, "{name}");
    }
    for name in ["content-length", "access-control-allow-origin"] {
        assert!(head.values(name).is_empty(), "{name}: {}", head.text);
    }
    assert_eq!(it.caller.until("first").await, "first");
    assert_eq!(it.target.until(early).await, early);
}

#[tokio::test(flavor = "local")]
async fn each_direction_of_a_websocket_ends_alone() {
    for is_callers_end_first in [true, false] {
        let it = opened().await;
        let (mut first, mut second) = match is_callers_end_first {
            true => (it.caller, it.target),
            false => (it.target, it.caller),
        };
        first.stream.shutdown().await.unwrap();
        assert_eq!(second.rest().await, (String::new(), false));
        second.send("last").await;
        second.stream.shutdown().await.unwrap();
        assert_eq!(first.rest().await, ("last".to_owned(), false));
    }
}

#[tokio::test(flavor = "local")]
async fn what_breaks_off_on_one_side_is_a_reset_on_the_other() {
    for (is_callers, has_ended) in [(true, false), (true, true), (false, false), (false, true)] {
        let it = opened().await;
        let (mut broken, mut other) = match is_callers {
            true => (it.caller, it.target),
            false => (it.target, it.caller),
        };
        broken.send("half").await;
        assert_eq!(other.until("half").await, "half");
        if has_ended {
            other.stream.shutdown().await.unwrap();
            assert_eq!(broken.rest().await, (String::new(), false));
        }
        broken.stream.set_zero_linger().unwrap();
        drop(broken);
        let (text, is_reset) = other.rest().await;
        assert!(is_reset, "an orderly end behind {text:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn more_bytes_than_the_proxy_holds_pass_both_ways() {
    let mut it = opened().await;
    let mut long = String::new();
    for number in 0.. {
        long += &number.to_string();
        if long.len() > LONG_BYTES {
            break;
        }
    }
    let (caller, target) = (&mut it.caller, &mut it.target);
    let ((), bytes) = tokio::join!(caller.send(&long), target.bytes(long.len()));
    assert!(bytes == long.as_bytes());
    let ((), bytes) = tokio::join!(target.send(&long), caller.bytes(long.len()));
    assert!(bytes == long.as_bytes());
}

#[tokio::test(flavor = "local")]
async fn behind_any_other_answer_the_connection_goes_on() {
    for status in [
        "401 Unauthorized",
        "404 Not Found",
        "503 Service Unavailable",
    ] {
        let next = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
        let mut it = Exchange::begin(&(upgrade("") + next)).await;
        let answer = format!("HTTP/1.1 {status}\r\nX-Why: y\r\nContent-Length: 2\r\n\r\nno");
        it.target.send(&answer).await;
        let head = it.caller.head().await;
        assert_eq!(head.start(), format!("HTTP/1.1 {status}"));
        assert_eq!(head.value("x-why"), "y");
        assert_eq!(it.caller.bytes(2).await, b"no");
        let (_, body) = it.caller.json().await;
        assert_eq!(body["error"], "host_refused");
        // The connection to the relay serves the next handshake, and no request behind it.
        it.caller.send(&upgrade("")).await;
        it.relay.is_not_dialled_during(it.target.head()).await;
        it.pass(&switching(""), "\r\n\r\n").await;
        let mut second = it.proxy.caller().await;
        second.send(&upgrade("")).await;
        it.relay.accept().await.head().await;
    }
}

#[tokio::test(flavor = "local")]
async fn a_page_of_another_site_opens_no_websocket() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    for lines in [
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: http://localhost\r\nOrigin: https://evil.example\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
    ] {
        let mut caller = proxy.caller().await;
        caller.send(&upgrade(lines)).await;
        let (head, body) = relay.is_not_dialled_during(caller.json()).await;
        assert_eq!(head.start(), "HTTP/1.1 403 Forbidden", "{lines}");
        assert_eq!(body["error"], "origin_refused");
    }
    let mut caller = proxy.caller().await;
    let rebound = upgrade("").replace("Host: localhost", "Host: evil.example");
    caller.send(&rebound).await;
    let (head, body) = relay.is_not_dialled_during(caller.json()).await;
    assert_eq!(head.start(), "HTTP/1.1 421 Misdirected Request");
    assert_eq!(body["error"], "host_refused");
}

#[tokio::test(flavor = "local")]
async fn what_is_no_clean_handshake_of_a_caller_does_not_reach_the_relay() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let whole = upgrade("");
    for (request, word) in [
        (whole.replace("GET ", "POST "), "upgrade_unsupported"),
        (whole.replace("HTTP/1.1", "HTTP/1.0"), "upgrade_unsupported"),
        (
            upgrade("Content-Length: 2\r\n") + "ab",
            "upgrade_unsupported",
        ),
        (
            upgrade("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
            "upgrade_unsupported",
        ),
        (
            whole.replace("keep-alive, Upgrade", "keep-alive"),
            "bad_request",
        ),
        (
            upgrade("Sec-WebSocket-Protocol: x, tieline.v1\r\n").replace("/w/x/ws", "/agent"),
            "link_refused",
        ),
    ] {
        let mut caller = proxy.caller().await;
        caller.send(&request).await;
        let (_, body) = relay.is_not_dialled_during(caller.json()).await;
        assert_eq!(body["error"], word, "{request}");
    }
}

#[tokio::test(flavor = "local")]
async fn an_answer_that_switches_to_another_protocol_is_not_passed_on() {
    for answer in [
        switching("").replace("Upgrade: websocket", "Upgrade: h2c"),
        switching("").replace("Connection: Upgrade\r\n", ""),
    ] {
        let mut it = Exchange::begin(&upgrade("")).await;
        it.target.send(&answer).await;
        let (head, body) = it.caller.json().await;
        assert_eq!(head.start(), "HTTP/1.1 502 Bad Gateway");
        assert_eq!(body["error"], "relay_invalid");
        it.target.gone().await;
    }
}

#[tokio::test(flavor = "local")]
async fn a_caller_that_leaves_during_the_handshake_is_gone_at_the_relay() {
    let mut it = Exchange::begin(&(upgrade("") + "early")).await;
    drop(it.caller);
    it.target.gone().await;
}

#[tokio::test(flavor = "local")]
async fn a_proxy_that_stops_resets_open_websockets() {
    let mut it = opened().await;
    it.proxy.stop();
    // Bytes still pass until the drain is over.
    it.caller.send("more").await;
    assert_eq!(it.target.until("more").await, "more");
    it.proxy.ended().await.unwrap();
    assert!(it.caller.rest().await.1);
    assert!(it.target.rest().await.1);
}
