//! Tests of what reaches the relay.

use std::time::Duration;

use tieline::connect::ConnectEvent;

use crate::rig::{Exchange, Proxy, Relay, pass, soon, token_file, write_token};

const GET: &str = "GET /w/x/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A request that waits for `100 Continue` before its body of four bytes; `sent` is sent without waiting.
fn expecting(sent: &str) -> String {
    format!(
        "POST /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
         Content-Length: 4\r\n\r\n{sent}"
    )
}

#[tokio::test(flavor = "local")]
async fn a_call_reaches_the_relay_with_the_token_and_without_what_is_local() {
    let (_dir, token) = token_file("secret.token\n");
    let request = "POST /w/maya-1/mcp?a=%20b HTTP/1.1\r\nHost: localhost:51822\r\n\
                   Authorization: Bearer own\r\nOrigin: http://localhost:6274\r\n\
                   Connection: keep-alive, X-Local\r\nX-Local: 1\r\nKeep-Alive: timeout=5\r\n\
                   Mcp-Session-Id: s-1\r\nMcp-Param-Region: eu\r\nLast-Event-ID: 7\r\n\
                   traceparent: 00-1-2-01\r\nCookie: a=b\r\nContent-Length: 2\r\n\r\n{}";
    let mut it = Exchange::begin_with_token(request, &token).await;
    let head = &it.head;
    assert_eq!(head.start(), "POST /w/maya-1/mcp?a=%20b HTTP/1.1");
    assert_eq!(head.value("host"), it.relay.address().to_string());
    assert_eq!(head.value("authorization"), "Bearer secret.token");
    assert_eq!(head.value("mcp-session-id"), "s-1");
    assert_eq!(head.value("mcp-param-region"), "eu");
    assert_eq!(head.value("last-event-id"), "7");
    assert_eq!(head.value("traceparent"), "00-1-2-01");
    assert_eq!(head.value("cookie"), "a=b");
    for name in ["origin", "x-local", "keep-alive", "connection"] {
        assert!(head.values(name).is_empty(), "{name}: {}", head.text);
    }
    assert_eq!(it.target.bytes(2).await, b"{}");
    it.target
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nMcp-Session-Id: s-2\r\n\r\n{}")
        .await;
    let head = it.caller.head().await;
    assert_eq!(head.start(), "HTTP/1.1 200 OK");
    assert_eq!(head.value("mcp-session-id"), "s-2");
}

#[tokio::test(flavor = "local")]
async fn without_a_token_file_the_callers_own_credential_passes() {
    let request = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer own\r\n\r\n";
    let it = Exchange::begin(request).await;
    assert_eq!(it.head.value("authorization"), "Bearer own");
}

#[tokio::test(flavor = "local")]
async fn a_relay_that_asks_for_no_token_gets_none() {
    let (_dir, token) = token_file("secret.token");
    for answer in [
        "404 Not Found",
        "200 OK",
        "401 Unauthorized\r\nWWW-Authenticate: Basic",
        "503 Busy",
    ] {
        let relay = Relay::bind().await;
        let proxy = Proxy::start_with(&relay.url(), |c| c.with_token_file(&token)).await;
        let mut caller = proxy.caller().await;
        caller
            .send("GET /w/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic own\r\n\r\n")
            .await;
        relay.answers_whether_it_asks(answer).await;
        let mut target = relay.accept().await;
        let head = target.head().await;
        assert_eq!(head.value("authorization"), "Basic own", "{answer}");
        // A later challenge from a server in the relay's place gets no token either.
        target
            .send("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert_eq!(caller.head().await.start(), "HTTP/1.1 401 Unauthorized");
    }
}

#[tokio::test(flavor = "local")]
async fn a_relay_is_asked_once_and_again_after_a_refusal() {
    let (_dir, token) = token_file("secret.token");
    let mut it = Exchange::begin_with_token(GET, &token).await;
    it.pass("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", "\r\n\r\n1")
        .await;
    it.caller.send(GET).await;
    let head = it.relay.is_not_dialled_during(it.target.head()).await;
    assert_eq!(head.value("authorization"), "Bearer secret.token");
    it.target
        .send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        .await;
    it.caller.head().await;
    pass(Duration::from_secs(2)).await;
    it.caller.send(GET).await;
    it.relay.answers_whether_it_asks("404 Not Found").await;
    assert!(it.target.head().await.values("authorization").is_empty());
}

#[tokio::test(flavor = "local")]
async fn a_token_that_the_relay_refuses_is_read_again() {
    let (_dir, token) = token_file("old");
    let mut it = Exchange::begin_with_token(GET, &token).await;
    assert_eq!(it.head.value("authorization"), "Bearer old");
    write_token(&token, "new");
    it.target
        .send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(it.caller.head().await.start(), "HTTP/1.1 401 Unauthorized");
    assert_eq!(it.proxy.event().await, ConnectEvent::TokenReloaded);
    it.caller.send(GET).await;
    let head = it.target.head().await;
    assert_eq!(head.value("authorization"), "Bearer new");
}

#[tokio::test(flavor = "local")]
async fn a_body_reaches_the_relay_piece_by_piece_with_its_trailers() {
    let request = "POST /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
                   Trailer: X-Sum\r\nTE: trailers\r\n\r\n3\r\none\r\n";
    let mut it = Exchange::begin(request).await;
    assert_eq!(it.head.value("te"), "trailers");
    assert_eq!(it.head.value("trailer"), "X-Sum");
    let (caller, target) = (&mut it.caller, &mut it.target);
    assert_eq!(target.until("\r\none\r\n").await, "3\r\none\r\n");
    caller.send("3\r\ntwo\r\n").await;
    assert_eq!(target.until("two\r\n").await, "3\r\ntwo\r\n");
    // An answer may begin while the request goes on.
    target
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Done\r\n\r\n1\r\na\r\n")
        .await;
    assert_eq!(caller.head().await.value("trailer"), "X-Done");
    assert_eq!(caller.until("a\r\n").await, "1\r\na\r\n");
    caller.send("0\r\nX-Sum: 6\r\n\r\n").await;
    assert_eq!(
        target.until("\r\n\r\n").await.to_lowercase(),
        "0\r\nx-sum: 6\r\n\r\n"
    );
    target.send("0\r\nX-Done: yes\r\n\r\n").await;
    assert_eq!(
        caller.until("\r\n\r\n").await.to_lowercase(),
        "0\r\nx-done: yes\r\n\r\n"
    );
}

#[tokio::test(flavor = "local")]
async fn a_body_waits_until_the_relay_says_continue() {
    let mut it = Exchange::begin(&expecting("")).await;
    assert_eq!(it.head.value("expect"), "100-continue");
    it.target.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(it.caller.head().await.start(), "HTTP/1.1 100 Continue");
    it.caller.send("body").await;
    assert_eq!(it.target.bytes(4).await, b"body");
}

#[tokio::test(flavor = "local")]
async fn a_relay_that_knows_no_continue_gets_the_body_all_the_same() {
    let mut it = Exchange::begin(&expecting("body")).await;
    pass(Duration::from_secs(1)).await;
    assert_eq!(it.target.bytes(4).await, b"body");
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_was_idle_for_long_is_not_trusted_with_what_must_not_be_repeated() {
    for (method, is_kept) in [("GET", true), ("POST", false)] {
        let request = GET.replacen("GET", method, 1);
        let mut it = Exchange::begin(&request).await;
        it.pass(OK, "ok").await;
        pass(Duration::from_secs(30)).await;
        it.caller.send(&request).await;
        if !is_kept {
            it.target = it.relay.accept().await;
        }
        assert!(it.target.head().await.start().starts_with(method));
    }
}

#[tokio::test(flavor = "local")]
async fn a_relay_that_does_not_want_the_body_is_not_sent_it() {
    let mut it = Exchange::begin(&expecting("")).await;
    it.target
        .send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        .await;
    let head = it.caller.head().await;
    assert_eq!(head.start(), "HTTP/1.1 413 Content Too Large");
}

#[tokio::test(flavor = "local")]
async fn a_slow_relay_slows_the_caller() {
    let request = "POST /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n";
    let mut it = Exchange::begin(request).await;
    // The writes must block long before the body of 1 GB is sent.
    let piece = vec![b'x'; 1 << 20];
    let stuck = async {
        loop {
            let write = tokio::io::AsyncWriteExt::write_all(&mut it.caller.stream, &piece);
            let patience = Duration::from_millis(500);
            if tokio::time::timeout(patience, write).await.is_err() {
                break;
            }
        }
    };
    soon(stuck).await;
}

#[tokio::test(flavor = "local")]
async fn a_connection_is_used_again_by_another_caller() {
    let mut it = Exchange::begin(GET).await;
    it.pass(OK, "ok").await;
    let mut second = it.proxy.caller().await;
    second.send(GET).await;
    it.relay
        .is_not_dialled_during(async {
            it.target.head().await;
            it.target.send(OK).await;
            second.until("ok").await;
        })
        .await;
}

#[tokio::test(flavor = "local")]
async fn a_stale_connection_is_replaced_unseen_for_what_can_be_repeated() {
    for (method, is_repeated) in [("GET", true), ("POST", false)] {
        let request = GET.replacen("GET", method, 1);
        let mut it = Exchange::begin(&request).await;
        it.pass(OK, "ok").await;
        it.caller.send(&request).await;
        it.target.head().await;
        // As if the relay had closed the connection just before the request came.
        drop(it.target);
        if is_repeated {
            let mut target = it.relay.accept().await;
            assert!(target.head().await.start().starts_with(method));
            target.send(&OK.replace("ok", "no")).await;
            it.caller.until("no").await;
        } else {
            let (head, body) = it.caller.json().await;
            assert_eq!(head.start(), "HTTP/1.1 502 Bad Gateway");
            assert_eq!(body["error"], "relay_closed");
        }
    }
}
