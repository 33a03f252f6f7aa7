//! `Expect: 100-continue`, and answers before the end of the request's body.

use super::*;

const EXPECTING: &str = "POST /w/maya/ HTTP/1.1\r\nHost: r\r\nExpect: 100-continue\r\n\
                         Content-Length: 2\r\n\r\n";

#[test]
fn a_caller_that_waits_for_100_is_told_when_the_target_says_so() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(EXPECTING).await;
        let mut target = relay.target().await;
        assert!(target.head().await.contains("\r\nexpect: 100-continue\r\n"));
        let before = tokio::time::Instant::now();
        target.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        caller.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(before.elapsed(), Duration::ZERO);
        caller.send("hi").await;
        target.expect("hi").await;
        target.send(OK).await;
        caller.expect(OK).await;
    });
}

#[test]
fn a_target_that_refuses_before_100_never_gets_the_body() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(EXPECTING).await;
        let mut target = relay.target().await;
        target.head().await;
        let refusal = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
        target.send(refusal).await;
        // The next bytes could be the body or another request.
        assert!(caller.head().await.contains("\r\nconnection: close\r\n"));
        assert!(target.is_reset().await);
        caller.finish().await;
        assert_eq!(caller.rest().await, "");
    });
}

#[test]
fn a_body_that_the_target_did_not_want_does_not_reach_its_next_request() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(EXPECTING.to_owned() + "hi").await;
        let mut target = relay.target().await;
        target.head().await;
        let refusal = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
        target.send(refusal).await;
        assert!(caller.head().await.contains("\r\nconnection: close\r\n"));
        let before = tokio::time::Instant::now();
        assert!(target.is_reset().await);
        assert_eq!(before.elapsed(), Duration::ZERO);
        caller.send(GET).await;
        caller.finish().await;
        assert_eq!(caller.rest().await, "");
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_target_that_knows_no_100_gets_the_body_after_a_while() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(EXPECTING).await;
        let mut target = relay.target().await;
        target.head().await;
        caller.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
        caller.send("hi").await;
        target.expect("hi").await;
    });
}

#[test]
fn a_target_may_answer_before_it_has_read_the_body() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller
            .send("POST /w/maya/ HTTP/1.1\r\nHost: r\r\nContent-Length: 9999999\r\n\r\n")
            .await;
        let mut target = relay.target().await;
        target.head().await;
        let refusal = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nno!";
        target.send(refusal).await;
        target.close();
        assert!(caller.head().await.contains("\r\nconnection: close\r\n"));
        caller.expect("no!").await;
        // The caller keeps sending for a while; a reset would destroy the answer.
        for _ in 0..100 {
            caller.send("x".repeat(10_000)).await;
        }
        caller.finish().await;
        assert_eq!(caller.rest().await, "");
        assert_eq!(ended.await.unwrap(), Ended::Closed);
    });
}

#[test]
fn an_early_answer_survives_the_failing_upload() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller
            .send("POST /w/maya/ HTTP/1.1\r\nHost: r\r\nContent-Length: 9999999\r\n\r\n")
            .await;
        let mut target = relay.target().await;
        target.head().await;
        // The relay's writes to the target fail from here on, while the answer is still in flight.
        let body = "x".repeat(50_000);
        target
            .send(format!(
                "HTTP/1.1 413 No\r\ncontent-length: 50000\r\n\r\n{body}"
            ))
            .await;
        target.close();
        caller.send("x".repeat(60_000)).await;
        caller.send("x".repeat(60_000)).await;
        caller.head().await;
        caller.expect(body).await;
    });
}

#[test]
fn a_caller_that_uploads_for_ever_is_not_listened_to_for_ever() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller
            .send("POST /x HTTP/1.1\r\nHost: r\r\nContent-Length: 99999999\r\n\r\n")
            .await;
        caller.head().await;
        let before = tokio::time::Instant::now();
        while caller.io().write_all(b"more").await.is_ok() {
            seconds(1).await;
        }
        assert_eq!(ended.await.unwrap(), Ended::Closed);
        assert!(before.elapsed() <= Duration::from_secs(32));
        assert!(!relay.has_opened());
    });
}
