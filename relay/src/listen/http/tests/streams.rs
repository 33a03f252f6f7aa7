//! Event streams: keep-alive comments, and mapped endpoints.

use super::*;

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                      Transfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:X}\r\n{text}\r\n", text.len())
}

/// A caller that reads a stream, and the stream's target, which has sent `head`.
async fn stream(relay: &mut Relay, head: &str) -> (Peer, Peer) {
    let mut caller = relay.caller();
    caller.send(GET).await;
    let mut target = relay.target().await;
    target.head().await;
    target.send(head).await;
    caller.head().await;
    (caller, target)
}

/// Asserts that no byte comes within `time`.
async fn is_quiet_for(caller: &mut Peer, time: Duration) {
    let read = tokio::time::timeout(time, caller.io().read_u8());
    assert!(read.await.is_err(), "the caller received a byte");
}

#[test]
fn a_quiet_stream_gets_a_comment_every_15_seconds() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, mut target) = stream(&mut relay, STREAM).await;
        for _ in 0..3 {
            is_quiet_for(&mut caller, Duration::from_millis(14_900)).await;
            caller.expect(chunk(":\n\n")).await;
        }
        target.send(chunk("data: x\n\n")).await;
        caller.expect(chunk("data: x\n\n")).await;
        is_quiet_for(&mut caller, Duration::from_millis(14_900)).await;
        caller.expect(chunk(":\n\n")).await;
    });
}

#[test]
fn comments_may_come_more_often_than_once_a_second() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().sse_keepalive = Duration::from_millis(300);
        let mut caller = relay.caller();
        caller.send(post("{}")).await;
        let mut target = relay.target().await;
        target.head().await;
        target.send(STREAM).await;
        caller.head().await;
        for _ in 0..3 {
            target.send(chunk("data: x\n\n")).await;
            caller.expect(chunk("data: x\n\n")).await;
            for _ in 0..3 {
                is_quiet_for(&mut caller, Duration::from_millis(290)).await;
                caller.expect(chunk(":\n\n")).await;
            }
        }
    });
}

#[test]
fn no_comment_comes_in_the_middle_of_an_event() {
    run(async {
        let mut relay = Relay::new();
        // A comment may come before a held-back event, but not inside a byte order mark.
        let (mut caller, mut target) = stream(&mut relay, STREAM).await;
        target.send(chunk("data: begun\n")).await;
        seconds(16).await;
        caller.expect(chunk(":\n\n")).await;
        target.send(chunk("\n")).await;
        caller.expect(chunk("data: begun\n\n")).await;
        let (mut caller, mut target) = stream(&mut relay, STREAM).await;
        target.send(b"1\r\n\xEF\r\n").await;
        is_quiet_for(&mut caller, Duration::from_secs(600)).await;
        // An answer to POST is passed on byte by byte, so the event has already begun.
        let mut caller = relay.caller();
        caller.send(post("{}")).await;
        let mut target = relay.target().await;
        target.head().await;
        target.send(STREAM).await;
        caller.head().await;
        target.send(chunk("data: begun\n")).await;
        caller.expect(chunk("data: begun\n")).await;
        is_quiet_for(&mut caller, Duration::from_secs(600)).await;
        target.send(chunk("\n")).await;
        caller.expect(chunk("\n")).await;
        seconds(16).await;
        caller.expect(chunk(":\n\n")).await;
    });
}

#[test]
fn only_event_streams_that_can_take_a_comment_get_one() {
    run(async {
        let mut relay = Relay::new();
        let head = STREAM.replace("text/event-stream", "application/json");
        let (mut caller, _target) = stream(&mut relay, &head).await;
        is_quiet_for(&mut caller, Duration::from_secs(3600)).await;
        relay.settings().sse_keepalive = Duration::ZERO;
        let (mut caller, _target) = stream(&mut relay, STREAM).await;
        is_quiet_for(&mut caller, Duration::from_secs(3600)).await;
    });
}

#[test]
fn an_endpoint_of_the_older_transport_is_mapped_to_the_tunnel() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, mut target) = stream(&mut relay, STREAM).await;
        target
            .send(chunk("event: endpoint\ndata: /messages/"))
            .await;
        seconds(20).await;
        caller.expect(chunk(":\n\n")).await;
        target.send(chunk("?session_id=1\n\n")).await;
        let mapped = "event: endpoint\ndata: /w/maya/messages/?session_id=1\n\n";
        caller.expect(chunk(mapped)).await;
        target.send(chunk("event: endpoint\ndata: ?x\n\n")).await;
        caller
            .expect(chunk("event: endpoint\ndata: /w/maya/mcp?x\n\n"))
            .await;
    });
}

#[test]
fn what_was_held_back_arrives_when_the_stream_ends_in_any_way() {
    run(async {
        let held = "event: endpoint\ndata: /m";
        let mut relay = Relay::new();
        let (mut caller, mut target) = stream(&mut relay, STREAM).await;
        target.send(chunk(held) + "0\r\n\r\n").await;
        caller.expect(chunk(held) + "0\r\n\r\n").await;

        let (mut caller, mut target) = stream(&mut relay, STREAM).await;
        target.send(chunk(held) + "0\r\nx-sum: 1\r\n\r\n").await;
        caller.expect(chunk(held)).await;

        let (mut caller, mut target) = stream(&mut relay, STREAM).await;
        target.send(chunk(held)).await;
        target.close();
        assert_eq!(caller.rest().await, chunk(held));
    });
}

#[test]
fn last_event_id_and_retry_pass() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller
            .send(GET.replace("\r\n\r\n", "\r\nLast-Event-ID: 7\r\n\r\n"))
            .await;
        let mut target = relay.target().await;
        assert!(target.head().await.contains("\r\nlast-event-id: 7\r\n"));
        target
            .send(STREAM.to_owned() + &chunk("retry: 500\nid: 8\ndata:\n\n"))
            .await;
        caller.head().await;
        caller.expect(chunk("retry: 500\nid: 8\ndata:\n\n")).await;
    });
}

/// Head and body that a caller of `/w/maya/sse` receives for the target's `head` and `body`.
async fn mapped(relay: &mut Relay, head: &str, body: &[u8]) -> (String, String) {
    let mut caller = relay.caller();
    caller.send(GET.replace("/mcp", "/sse")).await;
    let mut target = relay.target().await;
    target.head().await;
    target.send(head).await;
    target.send(body).await;
    target.close();
    let head = caller.head().await;
    let rest = caller.rest().await;
    let chunks = rest.split("\r\n").skip(1).step_by(2);
    (head, chunks.collect())
}

#[test]
fn an_endpoint_is_mapped_whatever_its_target_writes() {
    run(async {
        let mut relay = Relay::new();
        let expected = "data: /w/maya/messages?s=1\n";
        for url in [
            "/messages?s=1",
            "messages?s=1",
            "http://127.0.0.1:8765/messages?s=1",
            "http://relay.example/messages?s=1",
            "http://relay.example/w/maya/messages?s=1",
            "//relay.example/messages?s=1",
        ] {
            for event in [
                format!("id: 7\nevent: endpoint\ndata: {url}\n\n"),
                format!("data: {url}\nevent: endpoint\n\n"),
                format!("event: ping\ndata: 1\n\nevent: endpoint\ndata: {url}\n\n"),
                format!("\u{FEFF}event: endpoint\ndata: {url}\n\n"),
            ] {
                let body = chunk_of(event.as_bytes());
                let (_, body) = mapped(&mut relay, STREAM, &body).await;
                assert!(body.contains(expected), "{event:?} {body:?}");
            }
        }
    });
}

fn chunk_of(bytes: &[u8]) -> Vec<u8> {
    [
        format!("{:X}\r\n", bytes.len()).as_bytes(),
        bytes,
        b"\r\n0\r\n\r\n",
    ]
    .concat()
}

#[test]
fn a_stream_that_is_compressed_or_has_a_length_is_mapped_too() {
    run(async {
        let mut relay = Relay::new();
        let event = "id: 7\nevent: endpoint\ndata: ?s=1\n\n";
        let expected = "id: 7\nevent: endpoint\ndata: /w/maya/sse?s=1\n\n";
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n",
            event.len()
        );
        let (head, body) = mapped(&mut relay, &head, event.as_bytes()).await;
        assert!(!head.contains("content-length"), "{head}");
        assert_eq!(body, expected);
        let coded = [0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03];
        let stored = u16::try_from(event.len()).unwrap();
        let mut coded = coded.to_vec();
        // One stored block (RFC 1951, section 3.2.4), without the checksum at the end.
        coded.push(0);
        coded.extend_from_slice(&stored.to_le_bytes());
        coded.extend_from_slice(&(!stored).to_le_bytes());
        coded.extend_from_slice(event.as_bytes());
        let head = STREAM.replace("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n");
        let (head, body) = mapped(&mut relay, &head, &chunk_of(&coded)).await;
        assert!(!head.contains("content-encoding"), "{head}");
        assert_eq!(body, expected);
        let head = STREAM.replace("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n");
        let (_, body) = mapped(&mut relay, &head, &chunk_of(event.as_bytes())).await;
        assert_eq!(body, "");
    });
}

#[test]
fn head_says_of_a_stream_what_get_says() {
    run(async {
        for fields in [
            "Content-Encoding: gzip",
            "Content-Length: 7",
            "ETag: \"1\"\r\nContent-Encoding: gzip",
        ] {
            let mut relay = Relay::new();
            let head = STREAM.replace("Transfer-Encoding: chunked", "X: y");
            let head = head.replace("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"));
            let answer = relay
                .answer_to(&GET.replace("GET", "HEAD"), &head, "\r\n\r\n")
                .await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            for gone in ["content-encoding", "content-length", "etag"] {
                assert!(!answer.contains(gone), "{answer}");
            }
        }
        // A coding that makes a GET fail is left as it is.
        let mut relay = Relay::new();
        let head = STREAM.replace("\r\n\r\n", "\r\nContent-Encoding: br\r\n\r\n");
        let answer = relay
            .answer_to(&GET.replace("GET", "HEAD"), &head, "\r\n\r\n")
            .await;
        assert!(answer.contains("content-encoding: br"), "{answer}");
    });
}

#[test]
fn a_stream_in_which_no_endpoint_can_be_found_is_refused_by_name() {
    run(async {
        for coding in ["br", "zstd", "gzip, br", "x"] {
            let coded = format!("\r\nContent-Encoding: {coding}\r\n\r\n");
            let head = STREAM.replace("\r\n\r\n", &coded);
            let mut relay = Relay::new();
            let answer = relay.answer_to(GET, &head, "}").await;
            assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
            assert!(answer.contains("target_invalid"), "{answer}");
            assert!(
                answer.contains("event stream has a Content-Encoding"),
                "{answer}"
            );
            // An answer to POST names no endpoint, and its caller can decode it.
            let call = GET.replace("GET", "POST");
            let answer = relay.answer_to(&call, &head, "\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    });
}

#[test]
fn who_asks_for_a_stream_asks_the_target_for_a_plain_one() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        let fields = "\r\nAccept: text/event-stream\r\nAccept-Encoding: gzip, br\r\n\r\n";
        caller.send(GET.replace("\r\n\r\n", fields)).await;
        let head = relay.target().await.head().await;
        assert!(head.contains("\r\naccept-encoding: identity\r\n"), "{head}");
    });
}
