//! What reaches the relay.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tieline_agent::connect::ConnectEvent;

use crate::rig::{Proxy, Relay, pass, soon};

fn write_token(path: &Path, token: &str) {
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).unwrap();
    file.write_all(token.as_bytes()).unwrap();
}

#[tokio::test]
async fn a_call_reaches_the_relay_with_the_token_and_without_what_is_local() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    write_token(&token, "secret.token\n");
    let relay = Relay::bind().await;
    let proxy = Proxy::start_with(&relay.url(), |c| c.with_token_file(&token)).await;
    let mut caller = proxy.caller().await;
    caller
        .send(
            "POST /w/maya-1/mcp?a=%20b HTTP/1.1\r\nHost: localhost:51822\r\n\
             Authorization: Bearer own\r\nOrigin: http://localhost:6274\r\n\
             Connection: keep-alive, X-Local\r\nX-Local: 1\r\nKeep-Alive: timeout=5\r\n\
             Mcp-Session-Id: s-1\r\nMcp-Param-Region: eu\r\nLast-Event-ID: 7\r\n\
             traceparent: 00-1-2-01\r\nCookie: a=b\r\nContent-Length: 2\r\n\r\n{}",
        )
        .await;
    let mut target = relay.accept().await;
    let head = target.head().await;
    assert_eq!(head.start(), "POST /w/maya-1/mcp?a=%20b HTTP/1.1");
    assert_eq!(head.value("host"), relay.address().to_string());
    assert_eq!(head.value("authorization"), "Bearer secret.token");
    assert_eq!(head.value("mcp-session-id"), "s-1");
    assert_eq!(head.value("mcp-param-region"), "eu");
    assert_eq!(head.value("last-event-id"), "7");
    assert_eq!(head.value("traceparent"), "00-1-2-01");
    assert_eq!(head.value("cookie"), "a=b");
    for name in ["origin", "x-local", "keep-alive", "connection"] {
        assert!(head.values(name).is_empty(), "{name}: {}", head.text);
    }
    assert_eq!(target.bytes(2).await, b"{}");
    target
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nMcp-Session-Id: s-2\r\n\r\n{}")
        .await;
    let head = caller.head().await;
    assert_eq!(head.start(), "HTTP/1.1 200 OK");
    assert_eq!(head.value("mcp-session-id"), "s-2");
}

#[tokio::test]
async fn without_a_token_file_the_callers_own_credential_passes() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let mut caller = proxy.caller().await;
    caller
        .send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer own\r\n\r\n")
        .await;
    let mut target = relay.accept().await;
    assert_eq!(target.head().await.value("authorization"), "Bearer own");
}

#[tokio::test]
async fn a_token_that_the_relay_refuses_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    write_token(&token, "old");
    let relay = Relay::bind().await;
    let mut proxy = Proxy::start_with(&relay.url(), |c| c.with_token_file(&token)).await;
    let mut caller = proxy.caller().await;
    let request = "GET /w/x/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n";
    caller.send(request).await;
    let mut target = relay.accept().await;
    assert_eq!(target.head().await.value("authorization"), "Bearer old");
    write_token(&token, "new");
    target
        .send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(caller.head().await.start(), "HTTP/1.1 401 Unauthorized");
    assert_eq!(proxy.event().await, ConnectEvent::TokenReloaded);
    caller.send(request).await;
    assert_eq!(target.head().await.value("authorization"), "Bearer new");
}

#[tokio::test]
async fn a_body_reaches_the_relay_piece_by_piece_with_its_trailers() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let mut caller = proxy.caller().await;
    caller
        .send(
            "POST /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
             Trailer: X-Sum\r\nTE: trailers\r\n\r\n3\r\none\r\n",
        )
        .await;
    let mut target = relay.accept().await;
    let head = target.head().await;
    assert_eq!(head.value("te"), "trailers");
    assert_eq!(head.value("trailer"), "X-Sum");
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

#[tokio::test]
async fn a_body_waits_until_the_relay_says_continue() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let mut caller = proxy.caller().await;
    caller
        .send(
            "POST /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
             Content-Length: 4\r\n\r\n",
        )
        .await;
    let mut target = relay.accept().await;
    assert_eq!(target.head().await.value("expect"), "100-continue");
    target.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(caller.head().await.start(), "HTTP/1.1 100 Continue");
    caller.send("body").await;
    assert_eq!(target.bytes(4).await, b"body");
}

#[tokio::test]
async fn a_relay_that_knows_no_continue_gets_the_body_all_the_same() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let mut caller = proxy.caller().await;
    caller
        .send(
            "POST /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
             Content-Length: 4\r\n\r\nbody",
        )
        .await;
    let mut target = relay.accept().await;
    target.head().await;
    pass(Duration::from_secs(1)).await;
    assert_eq!(target.bytes(4).await, b"body");
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_not_trusted_with_what_must_not_be_repeated() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for (method, is_kept) in [("GET", true), ("POST", false)] {
        let relay = Relay::bind().await;
        let proxy = Proxy::start(&relay.url()).await;
        let mut caller = proxy.caller().await;
        let request = format!("{method} /w/x/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n");
        caller.send(&request).await;
        let mut target = relay.accept().await;
        target.head().await;
        target.send(answer).await;
        caller.until("ok").await;
        pass(Duration::from_secs(30)).await;
        caller.send(&request).await;
        if !is_kept {
            target = relay.accept().await;
        }
        assert!(target.head().await.start().starts_with(method));
    }
}

#[tokio::test]
async fn a_relay_that_does_not_want_the_body_is_not_sent_it() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let mut caller = proxy.caller().await;
    caller
        .send(
            "POST /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
             Content-Length: 4\r\n\r\n",
        )
        .await;
    let mut target = relay.accept().await;
    target.head().await;
    target
        .send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(
        caller.head().await.start(),
        "HTTP/1.1 413 Payload Too Large"
    );
}

#[tokio::test]
async fn a_slow_relay_slows_the_caller() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let mut caller = proxy.caller().await;
    caller
        .send("POST /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
        .await;
    let mut target = relay.accept().await;
    target.head().await;
    // Far more than the sockets of both sides hold together, and far less than the body.
    let piece = vec![b'x'; 1 << 20];
    let stuck = async {
        loop {
            let write = tokio::io::AsyncWriteExt::write_all(&mut caller.stream, &piece);
            let patience = Duration::from_millis(500);
            if tokio::time::timeout(patience, write).await.is_err() {
                break;
            }
        }
    };
    soon(stuck).await;
}

#[tokio::test]
async fn a_connection_is_used_again_by_another_caller() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let request = "GET /w/x/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let mut caller = proxy.caller().await;
    caller.send(request).await;
    let mut target = relay.accept().await;
    target.head().await;
    target.send(answer).await;
    caller.until("ok").await;
    let mut second = proxy.caller().await;
    second.send(request).await;
    relay
        .is_not_dialled_during(async {
            target.head().await;
            target.send(answer).await;
            second.until("ok").await;
        })
        .await;
}

#[tokio::test]
async fn a_stale_connection_is_replaced_unseen_for_what_can_be_repeated() {
    for (method, is_repeated) in [("GET", true), ("POST", false)] {
        let relay = Relay::bind().await;
        let proxy = Proxy::start(&relay.url()).await;
        let mut caller = proxy.caller().await;
        let request = format!("{method} /w/x/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n");
        caller.send(&request).await;
        let mut target = relay.accept().await;
        target.head().await;
        target
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        caller.until("ok").await;
        caller.send(&request).await;
        target.head().await;
        // As if it had closed just before the request came.
        drop(target);
        if is_repeated {
            let mut target = relay.accept().await;
            assert!(target.head().await.start().starts_with(method));
            target
                .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
                .await;
            caller.until("no").await;
        } else {
            let (head, body) = caller.json().await;
            assert_eq!(head.start(), "HTTP/1.1 502 Bad Gateway");
            assert_eq!(body["error"], "relay_closed");
        }
    }
}
