//! The relay's own error answers.

use std::time::Duration;

use super::*;
use crate::metrics::LimitKind;

#[test]
fn an_offline_tunnel_is_never_a_404_and_an_unknown_one_always_is() {
    for reason in SessionEnd::ALL {
        for delivery in [Delivery::NotSent, Delivery::Sent] {
            let problem = Problem::session(*reason, "maya", delivery);
            let unknown = *reason == SessionEnd::UnknownTunnel;
            assert_eq!(
                problem.status == StatusCode::NOT_FOUND,
                unknown,
                "{reason:?}"
            );
        }
    }
}

#[test]
fn only_a_request_that_was_not_sent_is_told_to_come_back() {
    let before = Problem::not_delivered(SessionEnd::LinkLost, "maya").into_response();
    assert_eq!(before.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(before.headers()[RETRY_AFTER], "5");
    let after = Problem::session(SessionEnd::LinkLost, "maya", Delivery::Sent).into_response();
    assert_eq!(after.status(), StatusCode::BAD_GATEWAY);
    assert!(!after.headers().contains_key(RETRY_AFTER));
}

#[test]
fn an_answer_of_the_relay_says_whether_the_target_had_the_request() {
    let answer = |problem: Problem| {
        let response = problem.into_response();
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        (response.status().as_u16(), body["request"].clone())
    };
    for reason in SessionEnd::ALL {
        for delivery in [Delivery::NotSent, Delivery::Sent] {
            let (status, request) = answer(Problem::session(*reason, "maya", delivery));
            let is_told = status != 404;
            assert_eq!(
                request == delivery.word(),
                is_told,
                "{status} for {reason:?}"
            );
        }
    }
    assert!(answer(Problem::not_found()).1.is_null());
}

#[test]
fn each_503_of_the_relays_own_says_that_nothing_was_sent() {
    let unavailable = TokenRefusal::Unavailable("no keys yet".to_owned());
    for problem in [
        Problem::stopping(),
        Problem::overload(),
        Problem::token(unavailable),
    ] {
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["request"], "not_sent", "{body}");
    }
}

#[test]
fn too_much_is_told_what_it_was_and_when_to_come_back() {
    for (ms, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (60_000, "60")] {
        let limited = Limited {
            kind: LimitKind::Bytes,
            retry_after: Duration::from_millis(ms),
        };
        let response = Problem::from(limited).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[RETRY_AFTER], seconds);
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(
            (&body["error"], &body["limit"]),
            (&"too_many_requests".into(), &"bytes".into())
        );
    }
}

#[test]
fn the_body_tells_a_dead_agent_from_a_dead_target() {
    let body = |reason| {
        let response = Problem::not_delivered(reason, "maya").into_response();
        serde_json::from_slice::<serde_json::Value>(response.body()).unwrap()
    };
    assert_eq!(body(SessionEnd::TunnelOffline)["down"], "agent");
    assert_eq!(body(SessionEnd::TunnelOffline)["error"], "tunnel_offline");
    assert_eq!(body(SessionEnd::TargetRefused)["down"], "target");
    assert_eq!(body(SessionEnd::UnknownTunnel).get("down"), None);
}
