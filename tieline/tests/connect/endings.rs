//! Tests that the end of one side reaches the other side at once, as the same kind of end.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::rig::{Exchange, soon};

/// Longest time until the relay must know that a caller has left.
const AT_ONCE: Duration = Duration::from_millis(100);

const GET: &str = "GET /w/x/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n";
const STREAM: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";

/// Time from a caller's leaving until the relay sees the proxy leave.
async fn leaving(request: &str, answer: &str) -> Duration {
    let mut it = Exchange::begin(request).await;
    if !answer.is_empty() {
        it.pass(answer, "one\r\n").await;
    }
    let left_at = Instant::now();
    drop(it.caller);
    it.target.gone().await;
    left_at.elapsed()
}

#[tokio::test(flavor = "local")]
async fn a_caller_that_leaves_is_gone_at_the_relay_at_once() {
    let pipelined = format!("{GET}{GET}");
    let expecting = "POST /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
                     Content-Length: 4\r\n\r\n";
    let upload = "POST /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab";
    for (what, request, answer) in [
        ("before the answer", GET, ""),
        ("in a stream", GET, STREAM),
        ("with more requests sent", pipelined.as_str(), STREAM),
        ("while it waits to continue", expecting, ""),
        ("in its body", upload, ""),
    ] {
        // A busy machine may delay some runs; a wait in the proxy would show in every run.
        let mut took = Duration::MAX;
        for _ in 0..5 {
            took = took.min(leaving(request, answer).await);
        }
        assert!(took < AT_ONCE, "{what}: {took:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn an_answer_that_breaks_off_does_so_for_the_caller() {
    for answer in [STREAM, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none"] {
        let mut it = Exchange::begin(GET).await;
        it.target.send(answer).await;
        drop(it.target);
        let (text, _) = it.caller.rest().await;
        assert!(text.contains("one"), "{text}");
        assert!(!text.ends_with("0\r\n\r\n"), "{text}");
    }
}

#[tokio::test(flavor = "local")]
async fn a_caller_that_knows_no_chunks_sees_a_reset_where_an_answer_breaks_off() {
    let request = "GET /w/x/mcp HTTP/1.0\r\nHost: localhost\r\n\r\n";
    let mut it = Exchange::begin(request).await;
    it.pass(STREAM, "one").await;
    drop(it.target);
    assert!(it.caller.rest().await.1, "a close would look like the end");
}

#[tokio::test(flavor = "local")]
async fn an_early_answer_arrives_though_the_body_goes_on() {
    let request = "POST /w/x/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n";
    let mut it = Exchange::begin(request).await;
    it.target
        .send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        .await;
    it.caller.send(&"x".repeat(100_000)).await;
    let answer = it.caller.until("big").await;
    assert!(answer.contains("413"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test(flavor = "local")]
async fn a_refusal_in_front_of_a_body_says_that_it_is_the_last_answer() {
    let it = Exchange::begin(GET).await;
    let mut caller = it.proxy.caller().await;
    let request = "POST /w/x/mcp HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 100000\r\n\r\n";
    caller.send(request).await;
    let answer = caller.until("}").await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    caller.send(&"x".repeat(100_000)).await;
}

#[tokio::test(flavor = "local")]
async fn a_proxy_that_stops_lets_what_runs_finish() {
    let mut it = Exchange::begin(GET).await;
    let idle = it.proxy.caller().await;
    it.pass(STREAM, "one\r\n").await;
    let address = it.proxy.address;
    it.proxy.stop();
    // From now on the proxy accepts no new callers.
    soon(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    it.target.send("3\r\ntwo\r\n0\r\n\r\n").await;
    assert!(it.caller.rest().await.0.ends_with("two\r\n0\r\n\r\n"));
    it.proxy.ended().await.unwrap();
    drop(idle);
}

#[tokio::test(flavor = "local")]
async fn a_proxy_that_stops_does_not_wait_for_an_endless_stream() {
    let mut it = Exchange::begin(GET).await;
    it.pass(STREAM, "one\r\n").await;
    it.proxy.stop();
    it.proxy.ended().await.unwrap();
    assert!(!it.caller.rest().await.0.ends_with("0\r\n\r\n"));
    it.target.gone().await;
}
