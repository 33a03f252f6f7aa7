//! Errors of the relay and incomplete answers, and the effect of a lost side on the other side.

use super::*;

/// The relay's own answer to a request: status, error code and the failed part.
async fn refusal(relay: &Relay, request: &str) -> (u16, String, Option<String>) {
    let mut caller = relay.caller();
    caller.send(request).await;
    own_answer(&mut caller).await
}

async fn own_answer(caller: &mut Peer) -> (u16, String, Option<String>) {
    let head = caller.head().await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(
        status == 503,
        head.contains("\r\nretry-after: 5\r\n"),
        "{head}"
    );
    assert!(
        head.contains("\r\ncontent-type: application/json\r\n"),
        "{head}"
    );
    let body: serde_json::Value = serde_json::from_str(&caller.until("}").await).unwrap();
    assert!(!body["message"].as_str().unwrap().is_empty());
    let word = |key: &str| body[key].as_str().map(str::to_owned);
    (status, word("error").unwrap(), word("down"))
}

fn expected(status: u16, word: &str, down: Option<&str>) -> (u16, String, Option<String>) {
    (status, word.to_owned(), down.map(str::to_owned))
}

#[test]
fn what_cannot_be_reached_is_told_apart() {
    run(async {
        let relay = Relay::new();
        let (agent, target) = (Some("agent"), Some("target"));
        for (opens, answer) in [
            (
                Opens::Not(SessionEnd::TunnelOffline),
                expected(503, "tunnel_offline", agent),
            ),
            (
                Opens::Not(SessionEnd::LinkLost),
                expected(503, "tunnel_offline", agent),
            ),
            (
                Opens::Not(SessionEnd::TargetRefused),
                expected(502, "target_refused", target),
            ),
            (
                Opens::Not(SessionEnd::TargetUnreachable),
                expected(502, "target_unreachable", target),
            ),
            (
                Opens::Not(SessionEnd::TargetTimeout),
                expected(504, "target_timeout", target),
            ),
            (
                Opens::Not(SessionEnd::SessionLimit),
                expected(503, "overload", None),
            ),
            (
                Opens::Not(SessionEnd::Internal),
                expected(502, "tunnel_failed", agent),
            ),
            (Opens::Never, expected(504, "target_timeout", target)),
        ] {
            relay.set("maya", opens);
            assert_eq!(refusal(&relay, GET).await, answer);
        }
        let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: r\r\n\r\n");
        for path in ["/w/houdini/", "/w/-/", "/w/m%61ya/"] {
            let answer = refusal(&relay, &request(path)).await;
            assert_eq!(answer, expected(404, "unknown_tunnel", None));
        }
        for path in ["/", "/mcp", "/w", "/w/", "/w//x"] {
            let answer = refusal(&relay, &request(path)).await;
            assert_eq!(answer, expected(404, "not_found", None));
        }
        let answered = relay.shard.0.answered.borrow();
        assert_eq!(answered.last(), Some(&(404, Some("not_found"))));
    });
}

#[test]
fn a_refusal_leaves_the_connection_open() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(post("body").replace("maya", "houdini")).await;
        own_answer(&mut caller).await;
        caller.send(GET).await;
        relay.target().await.head().await;
    });
}

#[test]
fn an_offer_of_http_2_is_ignored() {
    run(async {
        let mut relay = Relay::new();
        let upgrade = |to: &str| {
            format!(
                "GET /w/maya/ HTTP/1.1\r\nHost: r\r\nConnection: Upgrade\r\nUpgrade: {to}\r\n\r\n"
            )
        };
        let mut caller = relay.caller();
        caller.send(upgrade("h2c")).await;
        let mut target = relay.target().await;
        let head = target.head().await;
        assert_eq!(head, format!("GET / HTTP/1.1\r\nhost: {AUTHORITY}\r\n\r\n"));
        target.send(OK).await;
        caller.expect(OK).await;
    });
}

#[test]
fn a_target_that_ends_before_the_head_is_told() {
    run(async {
        let gone = Some("target");
        for (part, reset, answer) in [
            ("", None, expected(502, "target_closed", gone)),
            ("HTTP/1.1 200 O", None, expected(502, "target_closed", gone)),
            (
                "",
                Some(SessionEnd::TargetReset),
                expected(502, "target_closed", gone),
            ),
            (
                "",
                Some(SessionEnd::TargetRefused),
                expected(502, "target_refused", gone),
            ),
            (
                "",
                Some(SessionEnd::LinkLost),
                expected(502, "tunnel_failed", Some("agent")),
            ),
            (
                "SSH-2.0-OpenSSH_9.6\r\n",
                None,
                expected(502, "target_invalid", gone),
            ),
        ] {
            let mut relay = Relay::new();
            let mut caller = relay.caller();
            caller.send(post("x")).await;
            let mut target = relay.target().await;
            target.head().await;
            target.send(part).await;
            match reset {
                Some(reason) => target.reset(reason),
                None => target.close(),
            }
            assert_eq!(own_answer(&mut caller).await, answer);
        }
    });
}

#[test]
fn a_target_that_sends_informational_responses_without_end_is_reset() {
    run(async {
        for status in ["100 Continue", "103 Early Hints"] {
            let mut relay = Relay::new();
            let mut caller = relay.caller();
            caller.send(GET).await;
            let mut target = relay.target().await;
            target.head().await;
            let informational = format!("HTTP/1.1 {status}\r\n\r\n");
            for _ in 0..100_000 {
                if target
                    .io()
                    .write_all(informational.as_bytes())
                    .await
                    .is_err()
                {
                    break;
                }
            }
            let answer = own_answer(&mut caller).await;
            assert_eq!(answer, expected(502, "target_invalid", Some("target")));
            assert!(target.is_reset().await);
        }
    });
}

#[test]
fn an_answer_may_have_256_informational_responses_in_front_of_it() {
    run(async {
        let informational = |count| "HTTP/1.1 102 Processing\r\n\r\n".repeat(count);
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(GET).await;
        let mut target = relay.target().await;
        // Each request on the connection is counted alone.
        for _ in 0..2 {
            target.head().await;
            target.send(informational(256) + OK).await;
            caller.expect(OK).await;
            caller.send(GET).await;
        }
        target.head().await;
        target.send(informational(257) + OK).await;
        let answer = own_answer(&mut caller).await;
        assert_eq!(answer, expected(502, "target_invalid", Some("target")));
        assert!(target.is_reset().await);
    });
}

#[test]
fn an_answer_that_cannot_be_passed_on_is_a_502() {
    run(async {
        for answer in [
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        ] {
            let mut relay = Relay::new();
            let head = relay.answer_to(GET, answer, "\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        }
    });
}

#[test]
fn an_answer_that_breaks_off_is_aborted_and_never_completed() {
    run(async {
        for (head, part) in [
            ("content-length: 9", "half"),
            ("transfer-encoding: chunked", "4\r\nhalf\r\n"),
        ] {
            let mut relay = Relay::new();
            let (mut caller, ended) = relay.connect();
            caller.send(GET).await;
            let mut target = relay.target().await;
            target.head().await;
            let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{part}");
            target.send(&answer).await;
            target.close();
            assert_eq!(caller.rest().await, answer);
            assert_eq!(ended.await.unwrap(), Ended::Aborted);
        }
    });
}

#[test]
fn an_answer_without_a_length_that_breaks_off_asks_for_a_reset() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller.send("GET /w/maya/ HTTP/1.0\r\n\r\n").await;
        let mut target = relay.target().await;
        target.head().await;
        target
            .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .await;
        target.close();
        assert_eq!(caller.rest().await, "HTTP/1.0 200 OK\r\n\r\nhalf");
        let ended = ended.await.unwrap();
        assert!(ended == Ended::Truncated && ended.is_reset());
    });
}

#[test]
fn a_reset_is_not_an_end_of_an_answer_that_ends_with_the_connection() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        target.send("HTTP/1.0 200 OK\r\n\r\nhalf").await;
        target.reset(SessionEnd::LinkLost);
        assert!(caller.rest().await.ends_with("\r\n4\r\nhalf\r\n"));
        assert_eq!(ended.await.unwrap(), Ended::Aborted);
    });
}

#[test]
fn what_a_target_sent_before_it_broke_off_reaches_a_slow_caller() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\n";
        target.send(head).await;
        let sent = target.flood().await;
        target.close();
        seconds(5).await;
        assert_eq!(caller.rest().await.len(), head.len() + sent);
        assert_eq!(ended.await.unwrap(), Ended::Aborted);
    });
}

/// Closes a caller in the middle of an exchange; its target must learn of it at once.
async fn caller_goes(mut caller: Peer, ended: JoinHandle<Ended>, mut target: Peer) {
    let before = tokio::time::Instant::now();
    caller.close();
    assert!(target.is_reset().await);
    assert_eq!(ended.await.unwrap(), Ended::CallerGone);
    assert!(before.elapsed() < Duration::from_millis(100));
}

#[test]
fn a_caller_that_goes_before_the_head_is_noticed_at_once() {
    run(async {
        let chunked = "POST /w/maya/ HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (request, more) in [
            (GET.to_owned(), ""),
            (post("whole"), ""),
            (post("whole") + GET, ""),
            (chunked.to_owned(), "4\r\nhalf\r\n"),
            (chunked.to_owned(), "4\r\nha"),
            (
                GET.replace(
                    "\r\n\r\n",
                    "\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
                ),
                "",
            ),
        ] {
            let mut relay = Relay::new();
            let (mut caller, ended) = relay.connect();
            caller.send(&request).await;
            caller.send(more).await;
            let mut target = relay.target().await;
            target.head().await;
            caller_goes(caller, ended, target).await;
        }
    });
}

#[test]
fn a_caller_that_goes_during_a_quiet_stream_is_noticed_at_once() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller.send(post("x")).await;
        let mut target = relay.target().await;
        target.until("x").await;
        target
            .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n:\r\n")
            .await;
        caller.until(":\r\n").await;
        seconds(3600).await;
        caller_goes(caller, ended, target).await;
    });
}

#[test]
fn a_caller_that_half_closes_has_given_up_its_request() {
    run(async {
        for request in [GET.to_owned(), post("hi")] {
            let mut relay = Relay::new();
            let (mut caller, ended) = relay.connect();
            caller.send(&request).await;
            let mut target = relay.target().await;
            target.head().await;
            caller.finish().await;
            // A half-close looks like a disconnect, so the target's session is reset at once.
            assert!(target.is_reset().await);
            assert_eq!(caller.rest().await, "");
            assert_eq!(ended.await.unwrap(), Ended::CallerGone);
        }
    });
}

#[test]
fn a_caller_that_goes_while_the_session_opens_is_noticed() {
    run(async {
        let relay = Relay::new();
        relay.set("maya", Opens::Never);
        let (mut caller, ended) = relay.connect();
        caller.send(post("x")).await;
        tokio::task::yield_now().await;
        let before = tokio::time::Instant::now();
        caller.close();
        assert_eq!(ended.await.unwrap(), Ended::CallerGone);
        assert!(before.elapsed() < Duration::from_millis(100));
    });
}

#[test]
fn a_caller_that_stops_reading_and_goes_is_noticed() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        target
            .send("HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\n")
            .await;
        target.flood().await;
        caller_goes(caller, ended, target).await;
    });
}

#[test]
fn an_idle_connection_ends_in_order_with_its_caller() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        target.send(OK).await;
        caller.expect(OK).await;
        caller.close();
        assert!(!target.is_reset().await);
        assert_eq!(ended.await.unwrap(), Ended::Closed);
    });
}
