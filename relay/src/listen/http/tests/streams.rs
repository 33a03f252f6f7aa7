//! Event streams: what the relay adds to them, and what not.

use super::*;

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                      Transfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:X}\r\n{text}\r\n", text.len())
}

/// A caller that reads a stream, and its target, which has sent the head.
async fn stream(relay: &mut Relay, head: &str) -> (Peer, Peer) {
    let mut caller = relay.caller();
    caller.send(GET).await;
    let mut target = relay.target().await;
    target.head().await;
    target.send(head).await;
    caller.head().await;
    (caller, target)
}

/// Nothing comes for so long.
async fn is_quiet_for(caller: &mut Peer, time: Duration) {
    let read = tokio::time::timeout(time, caller.io().read_u8());
    assert!(read.await.is_err(), "something came");
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
        let (mut caller, mut target) = stream(&mut relay, STREAM).await;
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
        for head in [
            STREAM.replace("text/event-stream", "application/json"),
            STREAM.replace("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n"),
            STREAM.replace("Transfer-Encoding: chunked", "Content-Length: 10"),
        ] {
            let (mut caller, _target) = stream(&mut relay, &head).await;
            is_quiet_for(&mut caller, Duration::from_secs(3600)).await;
        }
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
        target.send(chunk("?session_id=1\n\n")).await;
        let mapped = "event: endpoint\ndata: /w/maya/messages/?session_id=1\n\n";
        caller.expect(chunk(mapped)).await;
        target.send(chunk("event: endpoint\ndata: /x\n\n")).await;
        caller.expect(chunk("event: endpoint\ndata: /x\n\n")).await;
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
