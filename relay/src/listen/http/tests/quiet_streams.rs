//! Event streams with pauses: no byte is lost, the stream ends for the caller as it ends at the target, and the
//! target's connection serves the next request.

use super::*;

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTrailer: X-Sum\r\n\
                      Transfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:X}\r\n{text}\r\n", text.len())
}

/// Sends a request; returns the caller, and the target after the request's head.
async fn requested(relay: &mut Relay, request: &str) -> (Peer, Peer, JoinHandle<Ended>) {
    let (mut caller, ended) = relay.connect();
    caller.send(request).await;
    let mut target = relay.target().await;
    target.head().await;
    (caller, target, ended)
}

/// As [`requested`], after the first event of a stream and a pause.
async fn paused(relay: &mut Relay, request: &str) -> (Peer, Peer, JoinHandle<Ended>) {
    let (mut caller, mut target, ended) = requested(relay, request).await;
    target.send(STREAM.to_owned() + &chunk("data: 1\n\n")).await;
    caller.head().await;
    caller.expect(chunk("data: 1\n\n")).await;
    seconds(2).await;
    (caller, target, ended)
}

/// Whether the caller's next request goes to the same connection of the target.
async fn is_used_again(relay: &mut Relay, caller: &mut Peer, target: &mut Peer) -> bool {
    caller.send(GET).await;
    seconds(1).await;
    let mut new = relay.opened.try_recv().ok();
    let is_used_again = new.is_none();
    let target = new.as_mut().unwrap_or(target);
    target.head().await;
    target.send(OK).await;
    caller.expect(OK).await;
    is_used_again
}

/// The data that a caller reads up to the last chunk.
async fn data(caller: &mut Peer) -> String {
    let mut data = Vec::new();
    loop {
        let line = caller.until("\r\n").await;
        let len = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut piece = vec![0; len];
        caller.io().read_exact(&mut piece).await.unwrap();
        caller.expect("\r\n").await;
        if len == 0 {
            return String::from_utf8(data).unwrap();
        }
        data.extend_from_slice(&piece);
    }
}

#[test]
fn a_stream_that_paused_goes_on_to_its_end_and_so_does_the_caller() {
    run(async {
        let mut relay = Relay::new();
        for request in [GET, &post("{}")] {
            let (mut caller, mut target, _) = paused(&mut relay, request).await;
            for piece in ["7\r\nda", "ta: 2\r", "\n2\r\n\n\n\r\n0\r\n\r"] {
                target.send(piece).await;
                seconds(1).await;
            }
            target.send("\n").await;
            assert_eq!(data(&mut caller).await, "data: 2\n\n");
            assert!(is_used_again(&mut relay, &mut caller, &mut target).await);
        }
    });
}

#[test]
fn an_answer_that_has_its_events_at_once_leaves_its_connection_to_the_next_one() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, mut target, _) = requested(&mut relay, &post("{}")).await;
        target.send(STREAM).await;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(900)).await;
            target.send(chunk("data: 1\n\n")).await;
        }
        target.send("0\r\n\r\n").await;
        caller.head().await;
        assert_eq!(data(&mut caller).await, "data: 1\n\n".repeat(10));
        assert!(is_used_again(&mut relay, &mut caller, &mut target).await);
    });
}

#[test]
fn trailers_come_behind_a_stream_that_paused() {
    run(async {
        let mut relay = Relay::new();
        let request = GET.replace("Host", "TE: trailers\r\nHost");
        let (mut caller, mut target, _) = paused(&mut relay, &request).await;
        target.send(chunk("data: 2\n\n") + "0\r\nX-S").await;
        seconds(1).await;
        target.send("um: 7\r\n\r\n").await;
        let end = "0\r\nx-sum: 7\r\n\r\n";
        caller.expect(chunk("data: 2\n\n") + end).await;
    });
}

#[test]
fn a_caller_sees_that_a_stream_that_paused_broke_off() {
    run(async {
        let mut relay = Relay::new();
        for end in ["", "9\r\ndata", "x", "0\r\nno trailer\r\n\r\n"] {
            let (mut caller, mut target, ended) = paused(&mut relay, GET).await;
            target.send(chunk("data: 2\n\n") + end).await;
            seconds(1).await;
            target.close();
            let rest = caller.rest().await;
            assert!(rest.contains("data: 2\n\n"), "{end:?}: {rest:?}");
            assert!(!rest.ends_with("0\r\n\r\n"), "{end:?}: {rest:?}");
            assert_eq!(ended.await.unwrap(), Ended::Aborted, "{end:?}");
        }
        let (mut caller, mut target, ended) = paused(&mut relay, GET).await;
        target.reset(SessionEnd::LinkLost);
        assert_eq!(caller.rest().await, "");
        assert_eq!(ended.await.unwrap(), Ended::Aborted);
    });
}

#[test]
fn trailers_without_end_break_a_stream_off() {
    run(async {
        let mut relay = Relay::new();
        let (_caller, mut target, ended) = paused(&mut relay, GET).await;
        target.send("0\r\n").await;
        let mut sent = 0;
        while target.io().write_all(b"x-sum: 7\r\n").await.is_ok() {
            sent += 10;
        }
        assert!(sent < 2 * SOCKET_BYTES, "{sent}");
        assert_eq!(ended.await.unwrap(), Ended::Aborted);
    });
}

#[test]
fn a_caller_that_leaves_a_quiet_stream_ends_its_session_at_once() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, mut target, ended) = paused(&mut relay, GET).await;
        let before = tokio::time::Instant::now();
        caller.close();
        assert!(target.is_reset().await);
        assert_eq!(ended.await.unwrap(), Ended::CallerGone);
        assert_eq!(before.elapsed(), Duration::ZERO);
    });
}

#[test]
fn a_caller_that_may_stay_no_longer_loses_a_quiet_stream() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().takes_tokens = true;
        relay.shard.0.wants_tokens.set(true);
        let request = GET.replace("Host", "Authorization: Bearer maya\r\nHost");
        let (mut caller, mut target, ended) = paused(&mut relay, &request).await;
        relay.shard.0.revoke("maya");
        assert!(target.is_reset().await);
        assert_eq!(ended.await.unwrap(), Ended::Revoked);
        assert_eq!(caller.rest().await, "");
    });
}

#[test]
fn a_request_that_is_still_on_its_way_arrives_whole_beside_a_quiet_stream() {
    run(async {
        let mut relay = Relay::new();
        // More bytes than the target's socket holds: the rest waits while the answer pauses.
        let body = "x".repeat(SOCKET_BYTES + 10_000);
        let (mut caller, mut target, _) = requested(&mut relay, &post(&body)).await;
        target.send(STREAM.to_owned() + &chunk("data: 1\n\n")).await;
        caller.head().await;
        seconds(5).await;
        target.expect(&body).await;
        target.send("0\r\n\r\n").await;
        assert_eq!(data(&mut caller).await, "data: 1\n\n");

        let whole = post("hello");
        let (begun, rest) = whole.split_at(whole.len() - 3);
        let (mut caller, mut target, _) = requested(&mut relay, begun).await;
        target.send(STREAM.to_owned() + &chunk("data: 1\n\n")).await;
        caller.head().await;
        seconds(5).await;
        caller.send(rest).await;
        target.expect("hello").await;
        target.send("0\r\n\r\n").await;
        assert_eq!(data(&mut caller).await, "data: 1\n\n");
    });
}

#[test]
fn no_byte_of_a_stream_is_lost_wherever_it_pauses() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().sse_keepalive = Duration::ZERO;
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let request = [GET, &post("{}")][random.usize(..2)].to_owned();
            let (mut caller, mut target, _) = requested(&mut relay, &request).await;
            let (mut sent, mut wire) = (String::new(), STREAM.to_owned());
            for event in 0..random.usize(..20) {
                let text = format!("data: {event}{}\n\n", "y".repeat(random.usize(..3000)));
                let (begun, rest) = text.split_at(random.usize(1..text.len()));
                wire += &(chunk(begun) + &chunk(rest));
                sent += &text;
            }
            wire += "0\r\n\r\n";
            let reading = tokio::task::spawn_local(async move {
                caller.head().await;
                (data(&mut caller).await, caller)
            });
            let mut left = wire.as_str();
            while !left.is_empty() {
                let (piece, rest) = left.split_at(random.usize(1..=left.len().min(4000)));
                target.send(piece).await;
                let pause = [0, 1, 500, 1500][random.usize(..4)];
                tokio::time::sleep(Duration::from_millis(pause)).await;
                left = rest;
            }
            let (read, mut caller) = reading.await.unwrap();
            assert!(
                read == sent,
                "seed {seed}: {} of {}",
                read.len(),
                sent.len()
            );
            assert!(is_used_again(&mut relay, &mut caller, &mut target).await);
        }
    });
}
