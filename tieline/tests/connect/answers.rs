//! Tests of what reaches the caller.

use std::time::Duration;

use tieline::connect::ConnectEvent;
use tokio::net::TcpSocket;

use crate::rig::{Exchange, Proxy, Relay, pass};

const REQUEST: &str = "GET /w/x/mcp HTTP/1.1\r\nHost: localhost:51822\r\n\r\n";

#[tokio::test(flavor = "local")]
async fn every_event_of_a_stream_leaves_at_once() {
    let mut it = Exchange::begin(REQUEST).await;
    it.target
        .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    assert_eq!(
        it.caller.head().await.value("content-type"),
        "text/event-stream"
    );
    for number in 0..5 {
        let event = format!("9\r\ndata: {number}\n\n\r\n");
        it.target.send(&event).await;
        // The next event is sent only after this one has arrived.
        assert_eq!(it.caller.until("\n\n\r\n").await, event);
    }
}

#[tokio::test(flavor = "local")]
async fn answers_without_a_body_keep_their_headers_and_the_connection() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let mut caller = proxy.caller().await;
    let mut target = None;
    for (method, answer, kept) in [
        ("HEAD", "200 OK\r\ncontent-length: 5", "content-length: 5"),
        ("DELETE", "204 No Content", ""),
        ("GET", "304 Not Modified\r\netag: \"1\"", "etag: \"1\""),
        (
            "POST",
            "202 Accepted\r\ncontent-length: 0",
            "content-length: 0",
        ),
    ] {
        caller
            .send(&format!(
                "{method} /w/x/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"
            ))
            .await;
        if target.is_none() {
            target = Some(relay.accept().await);
        }
        let target = target.as_mut().unwrap();
        assert!(target.head().await.start().starts_with(method));
        target.send(&format!("HTTP/1.1 {answer}\r\n\r\n")).await;
        let head = caller.head().await;
        let status = answer.lines().next().unwrap();
        assert_eq!(head.start(), format!("HTTP/1.1 {status}"));
        assert!(head.text.contains(kept), "{}", head.text);
        assert!(head.values("transfer-encoding").is_empty(), "{}", head.text);
    }
}

#[tokio::test(flavor = "local")]
async fn urls_of_the_relay_become_urls_of_the_proxy() {
    let mut it = Exchange::begin(REQUEST).await;
    let own = it.relay.url();
    it.target
        .send(&format!(
            "HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nLocation: {own}/w/x/mcp/\r\n\
             Content-Location: /w/x/mcp/\r\nSet-Cookie: a=b; Path=/w/x\r\n\
             WWW-Authenticate: Bearer resource_metadata=\"{own}/.well-known/x\"\r\n\r\n"
        ))
        .await;
    let head = it.caller.head().await;
    assert_eq!(head.value("location"), "http://localhost:51822/w/x/mcp/");
    assert_eq!(head.value("content-location"), "/w/x/mcp/");
    assert_eq!(head.value("set-cookie"), "a=b; Path=/w/x");
    assert_eq!(
        head.value("www-authenticate"),
        "Bearer resource_metadata=\"http://localhost:51822/.well-known/x\""
    );
}

#[tokio::test(flavor = "local")]
async fn a_request_that_was_sent_before_the_relay_went_away_is_told_as_sent() {
    let relay = Relay::bind().await;
    let proxy = Proxy::start(&relay.url()).await;
    let mut caller = proxy.caller().await;
    caller.send(REQUEST).await;
    let mut target = relay.accept().await;
    target.head().await;
    target
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    caller.until("ok").await;
    caller.send(REQUEST).await;
    target.head().await;
    drop(relay);
    drop(target);
    let (head, body) = caller.json().await;
    assert_eq!(head.start(), "HTTP/1.1 502 Bad Gateway");
    assert_eq!(body["error"], "relay_unreachable");
    assert_eq!(body["request"], "sent");
}

#[tokio::test(flavor = "local")]
async fn a_relay_that_is_not_there_is_named_with_the_cause() {
    // A bound port that refuses connections; a free port could belong to another test by now.
    let taken = TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = taken.local_addr().unwrap();
    let proxy = Proxy::start(&format!("http://{address}")).await;
    let mut caller = proxy.caller().await;
    for _ in 0..2 {
        caller.send(REQUEST).await;
        let (head, body) = caller.json().await;
        assert_eq!(head.start(), "HTTP/1.1 502 Bad Gateway");
        assert_eq!(head.value("content-type"), "application/json");
        assert_eq!(body["error"], "relay_unreachable");
        let message = body["message"].as_str().unwrap();
        assert!(
            message.contains(&address.to_string()) && message.contains("refused"),
            "{message}"
        );
    }
}

#[tokio::test(flavor = "local")]
async fn a_dead_relay_is_told_once_and_that_it_is_back_as_well() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let mut proxy = Proxy::start(&format!("http://{address}")).await;
    let mut caller = proxy.caller().await;
    for _ in 0..3 {
        caller.send(REQUEST).await;
        caller.json().await;
    }
    let relay = Relay::listening(socket);
    caller.send(REQUEST).await;
    let mut target = relay.accept().await;
    target.head().await;
    target
        .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    caller.head().await;
    let first = proxy.event().await;
    assert!(
        matches!(&first, ConnectEvent::RelayAway { message } if message.contains("refused")),
        "{first:?}"
    );
    assert_eq!(proxy.event().await, ConnectEvent::RelayBack);
}

#[tokio::test(flavor = "local")]
async fn the_reason_phrase_arrives_as_it_was_sent() {
    for phrase in ["Try Again", "Fine"] {
        let mut it = Exchange::begin(REQUEST).await;
        let answer = format!("HTTP/1.1 200 {phrase}\r\nContent-Length: 0\r\n\r\n");
        it.target.send(&answer).await;
        let start = it.caller.head().await.start().to_owned();
        assert_eq!(start, format!("HTTP/1.1 200 {phrase}"));
    }
}

#[tokio::test(flavor = "local")]
async fn trailers_that_are_announced_arrive() {
    let mut it = Exchange::begin(
        "GET /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
    )
    .await;
    it.target
        .send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
             1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n",
        )
        .await;
    assert_eq!(it.caller.head().await.value("trailer"), "X-Sum");
    let rest = it.caller.until("\r\n\r\n").await;
    assert!(rest.to_lowercase().ends_with("x-sum: 7\r\n\r\n"), "{rest}");
}

#[tokio::test(flavor = "local")]
async fn a_question_about_the_server_as_a_whole_stays_one() {
    let it = Exchange::begin("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(it.head.start(), "OPTIONS * HTTP/1.1");
}

#[tokio::test(flavor = "local")]
async fn what_is_not_http_is_no_answer() {
    let mut it = Exchange::begin(REQUEST).await;
    it.target.send("220 mail.example ESMTP\r\n").await;
    let (_, body) = it.caller.json().await;
    assert_eq!(body["error"], "relay_invalid");
}

#[tokio::test(flavor = "local")]
async fn a_stream_may_be_silent_for_a_day() {
    let mut it = Exchange::begin(REQUEST).await;
    pass(Duration::from_secs(3_600)).await;
    it.target
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    it.caller.head().await;
    pass(Duration::from_secs(24 * 3_600)).await;
    it.target.send("1\r\na\r\n").await;
    assert_eq!(it.caller.until("a\r\n").await, "1\r\na\r\n");
}

#[tokio::test(flavor = "local")]
async fn an_endpoint_that_names_the_relay_leads_through_the_proxy() {
    const STREAM: &str = "GET /w/x/sse HTTP/1.1\r\nHost: localhost:51822\r\n\
        Accept: text/event-stream\r\nReferer: http://localhost:51822/w/x/tree\r\n\r\n";
    let mut exchange = Exchange::begin(STREAM).await;
    let relay = exchange.relay.url();
    assert_eq!(exchange.head.value("accept-encoding"), "identity");
    assert_eq!(exchange.head.value("referer"), format!("{relay}/w/x/tree"));
    let event = format!("id: 7\nevent: endpoint\ndata: {relay}/w/x/m?s=1\n\n");
    let length = event.len();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
    let answer = format!("{head}Transfer-Encoding: chunked\r\n\r\n{length:X}\r\n{event}\r\n");
    let mapped = "id: 7\nevent: endpoint\ndata: /w/x/m?s=1\n\n\r\n";
    exchange.pass(&answer, mapped).await;
    exchange.pass("2\r\n: \r\n", ": \r\n").await;
    // The stream is cut in the middle of an event that is held back.
    exchange.target.send("6\r\ndata: \r\n0\r\n\r\n").await;
    exchange.caller.until("data: \r\n0\r\n\r\n").await;

    let mut exchange = Exchange::begin(STREAM).await;
    let relay = exchange.relay.url();
    let event = format!("data: {relay}/w/x/m\nevent: endpoint\n\n");
    let answer = format!("{head}Content-Length: {}\r\n\r\n{event}", event.len());
    exchange
        .pass(&answer, "data: /w/x/m\nevent: endpoint\n\n\r\n0\r\n\r\n")
        .await;
}
