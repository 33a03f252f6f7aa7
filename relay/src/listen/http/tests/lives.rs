//! Lifetimes of connections: kept, stale, slow and quiet connections.
//!
//! Long because each rule about a connection's lifetime has a test of its own.

use super::*;

/// A caller and a target after one exchange; both connections are idle.
async fn acquainted(relay: &mut Relay) -> (Peer, Peer, JoinHandle<Ended>) {
    let (mut caller, ended) = relay.connect();
    caller.send(GET).await;
    let mut target = relay.target().await;
    target.head().await;
    target.send(OK).await;
    caller.expect(OK).await;
    (caller, target, ended)
}

#[test]
fn a_relay_that_drains_finishes_an_answer_and_then_the_connection() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        relay.shard.0.draining.set(true);
        target.send(OK).await;
        assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
        caller.rest().await;
        assert_eq!(ended.await.unwrap(), Ended::Closed);
    });
}

#[test]
fn a_request_that_may_be_repeated_outlives_a_stale_connection() {
    run(async {
        for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
            let mut relay = Relay::new();
            let (mut caller, mut target, _) = acquainted(&mut relay).await;
            caller.send(GET.replace("GET", method)).await;
            let head = target.head().await;
            target.close();
            let mut second = relay.target().await;
            assert_eq!(second.head().await, head);
            second.send("HTTP/1.1 204 No Content\r\n\r\n").await;
            assert_eq!(caller.head().await, "HTTP/1.1 204 No Content\r\n\r\n");
            assert!(!relay.has_opened());
        }
    });
}

#[test]
fn a_request_that_may_have_acted_is_not_repeated() {
    run(async {
        for request in [post("x"), post(""), GET.replace("GET", "PATCH")] {
            let mut relay = Relay::new();
            let (mut caller, mut target, _) = acquainted(&mut relay).await;
            caller.send(request).await;
            target.head().await;
            target.close();
            assert!(caller.head().await.starts_with("HTTP/1.1 502 "));
            assert!(caller.until("}").await.contains("\"target_closed\""));
            assert!(!relay.has_opened());
        }
    });
}

#[test]
fn a_request_with_part_of_an_answer_is_not_repeated() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, mut target, _) = acquainted(&mut relay).await;
        caller.send(GET).await;
        target.head().await;
        target.send("HTTP/1.1 200").await;
        target.close();
        assert!(caller.head().await.starts_with("HTTP/1.1 502 "));
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_request_on_a_new_connection_is_not_repeated() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(GET).await;
        relay.target().await.head().await;
        assert!(caller.head().await.starts_with("HTTP/1.1 502 "));
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_connection_that_the_target_has_closed_is_not_used() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, mut target, _) = acquainted(&mut relay).await;
        target.close();
        seconds(1).await;
        caller.send(post("x")).await;
        let mut second = relay.target().await;
        second.until("x").await;
        second.send(OK).await;
        caller.expect(OK).await;
    });
}

#[test]
fn after_a_pause_only_a_repeatable_request_trusts_a_kept_connection() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, mut target, _) = acquainted(&mut relay).await;
        seconds(4).await;
        caller.send(GET).await;
        target.head().await;
        target.send(OK).await;
        caller.expect(OK).await;
        seconds(4).await;
        caller.send(post("x")).await;
        relay.target().await.until("x").await;
        assert!(!target.is_reset().await);
    });
}

#[test]
fn a_target_is_believed_how_long_it_keeps_a_connection() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, mut target, _) = acquainted(&mut relay).await;
        caller.send(GET).await;
        target.head().await;
        target
            .send("HTTP/1.1 204 No Content\r\nKeep-Alive: timeout=2\r\n\r\n")
            .await;
        caller.head().await;
        seconds(1).await;
        caller.send(GET).await;
        relay.target().await.head().await;
    });
}

#[test]
fn a_target_that_closes_after_its_answer_is_not_asked_again() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        for _ in 0..2 {
            caller.send(GET).await;
            let mut target = relay.target().await;
            target.head().await;
            target
                .send(OK.replace("content", "connection: close\r\ncontent"))
                .await;
            // The caller's connection stays open.
            caller.expect(OK).await;
            assert!(!target.is_reset().await);
        }
    });
}

#[test]
fn two_callers_never_share_a_connection() {
    run(async {
        let mut relay = Relay::new();
        let mut first = relay.caller();
        first.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        target.send(OK).await;
        first.expect(OK).await;
        relay.caller().send(GET).await;
        let mut second = relay.caller();
        second.send(GET).await;
        relay.target().await.head().await;
    });
}

#[test]
fn a_new_generation_gets_a_new_connection() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(GET).await;
        let mut old = relay.target().await;
        old.head().await;
        old.send(OK).await;
        caller.expect(OK).await;
        relay.set("maya", Opens::To(Generation(2)));
        caller.send(GET).await;
        relay.target().await.head().await;
        assert!(!old.is_reset().await);
    });
}

#[test]
fn a_frontend_connection_keeps_few_idle_ones() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        let mut targets = Vec::new();
        for tunnel in ["a", "b", "c", "d", "e"] {
            relay.set(tunnel, Opens::To(Generation(1)));
            caller.send(GET.replace("maya", tunnel)).await;
            let mut target = relay.target().await;
            target.head().await;
            target.send(OK).await;
            caller.expect(OK).await;
            targets.push(target);
        }
        assert!(!targets[0].is_reset().await);
        assert!(
            targets[1..]
                .iter()
                .all(|target| target.end.relay_reset.get().is_none())
        );
    });
}

#[test]
fn a_slow_caller_slows_the_target() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        target
            .send("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n")
            .await;
        // At most two sockets and one buffer in each of hyper's halves are full.
        let taken = target.flood().await;
        assert!(
            taken < 2 * SOCKET_BYTES + 4 * HTTP_BUFFER_BYTES_MAX,
            "{taken}"
        );
        caller.head().await;
        let mut bytes = vec![0; 10 * SOCKET_BYTES];
        let (read, _) = tokio::join!(caller.io().read_exact(&mut bytes), target.flood());
        read.unwrap();
    });
}

#[test]
fn a_slow_target_slows_the_caller() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller
            .send("POST /w/maya/ HTTP/1.1\r\nHost: r\r\nContent-Length: 9999999\r\n\r\n")
            .await;
        let mut target = relay.target().await;
        let taken = caller.flood().await;
        assert!(
            taken < 2 * SOCKET_BYTES + 4 * HTTP_BUFFER_BYTES_MAX,
            "{taken}"
        );
        target.head().await;
        let mut bytes = vec![0; 10 * SOCKET_BYTES];
        let (read, _) = tokio::join!(target.io().read_exact(&mut bytes), caller.flood());
        read.unwrap();
    });
}

/// Seconds until the relay ends the connection.
async fn lifetime(caller: &mut Peer, ended: JoinHandle<Ended>) -> (u64, Ended) {
    let before = tokio::time::Instant::now();
    let mut bytes = Vec::new();
    let (read, ended) = tokio::join!(caller.io().read_to_end(&mut bytes), ended);
    read.unwrap();
    (before.elapsed().as_secs(), ended.unwrap())
}

#[test]
fn a_head_must_come_in_time() {
    run(async {
        let mut relay = Relay::new();
        for part in ["", "GET /w/ma", "\r\n"] {
            let (mut caller, ended) = relay.connect();
            caller.send(part).await;
            assert_eq!(lifetime(&mut caller, ended).await, (10, Ended::HeadTimeout));
        }
        let (mut caller, _target, ended) = acquainted(&mut relay).await;
        seconds(60).await;
        caller.send("GET /w/ma").await;
        assert_eq!(lifetime(&mut caller, ended).await, (10, Ended::HeadTimeout));
    });
}

#[test]
fn a_head_that_trickles_in_has_no_more_time() {
    run(async {
        let relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        let before = tokio::time::Instant::now();
        for byte in "GET /w/maya/ HTTP/1.1\r\nHost: r\r\n".bytes() {
            if caller.io().write_all(&[byte]).await.is_err() {
                break;
            }
            seconds(1).await;
        }
        assert_eq!(before.elapsed().as_secs(), 11);
        assert_eq!(ended.await.unwrap(), Ended::HeadTimeout);
    });
}

#[test]
fn an_idle_connection_is_kept_for_two_minutes() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, mut target, ended) = acquainted(&mut relay).await;
        for _ in 0..3 {
            seconds(55).await;
            caller.send(GET).await;
            target.head().await;
            target.send(OK).await;
            caller.expect(OK).await;
        }
        assert_eq!(
            lifetime(&mut caller, ended).await,
            (120, Ended::IdleTimeout)
        );
        assert!(!target.is_reset().await);
    });
}

#[test]
fn a_quiet_stream_lives_on() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        target
            .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        caller.head().await;
        for _ in 0..5 {
            seconds(3600).await;
            target.send("1\r\n:\r\n").await;
            caller.expect("1\r\n:\r\n").await;
        }
    });
}

#[test]
fn a_caller_that_takes_nothing_for_long_is_dropped() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        target
            .send("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n")
            .await;
        target.flood().await;
        seconds(200).await;
        let mut some = vec![0; 100_000];
        caller.io().read_exact(&mut some).await.unwrap();
        target.flood().await;
        let before = tokio::time::Instant::now();
        let ended = ended.await.unwrap();
        assert!(ended == Ended::Stalled && ended.is_reset());
        assert!(before.elapsed() > Duration::from_secs(290));
        assert!(target.end.relay_reset.get().unwrap());
    });
}

#[test]
fn a_caller_that_stops_in_the_middle_of_its_body_is_dropped() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller
            .send("POST /w/maya/ HTTP/1.1\r\nHost: r\r\nContent-Length: 99\r\n\r\nhalf")
            .await;
        let mut target = relay.target().await;
        target.until("half").await;
        assert_eq!(lifetime(&mut caller, ended).await, (300, Ended::Stalled));
        assert!(target.is_reset().await);
    });
}

#[test]
fn a_caller_that_is_gone_while_the_target_takes_nothing_ends_its_session() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, mut ended) = relay.connect();
        caller
            .send("POST /w/maya/ HTTP/1.1\r\nHost: r\r\nContent-Length: 5242880\r\n\r\n")
            .await;
        let mut target = relay.target().await;
        target.head().await;
        // All buffers on the way to the target fill up.
        caller.flood().await;
        let minute = Duration::from_secs(60);
        assert!(tokio::time::timeout(minute, &mut ended).await.is_err());
        caller.reset(SessionEnd::FrontendReset);
        assert_eq!(ended.await.unwrap(), Ended::CallerGone);
        assert!(target.is_reset().await);
    });
}

#[test]
fn a_body_that_stays_open_beside_its_answer_may_be_quiet() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        let chunked = "Transfer-Encoding: chunked";
        caller
            .send(format!(
                "POST /w/maya/ HTTP/1.1\r\nHost: r\r\n{chunked}\r\n\r\n"
            ))
            .await;
        let mut target = relay.target().await;
        target.head().await;
        target
            .send(format!("HTTP/1.1 200 OK\r\n{chunked}\r\n\r\n"))
            .await;
        caller.head().await;
        for chunk in ["2\r\nhi\r\n", "0\r\n\r\n"] {
            seconds(3600).await;
            caller.send(chunk).await;
            target.expect(chunk).await;
            target.send(chunk).await;
            caller.expect(chunk).await;
        }
    });
}
