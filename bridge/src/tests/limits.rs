//! Limits, and lines that are no messages.

use super::*;

#[test]
fn lines_that_are_no_messages_are_reported_and_sent_to_no_caller() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let stream = rig.listen(&session, None);
    for line in [
        "Listening on port 80",
        "[]",
        r#"{"id":1}"#,
        r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
    ] {
        rig.says(session.child, line);
    }
    assert_eq!(rig.strays.len(), 4);
    assert!(rig.messages(stream).is_empty());
    assert_eq!(rig.bridge.state(rig.now).strays, 4);
}

#[test]
fn answers_to_unknown_ids_are_dropped_and_counted() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    for id in ["99", "\"1\"", "-1"] {
        rig.says(
            session.child,
            &format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#),
        );
    }
    rig.says(
        session.child,
        &notification(
            "notifications/progress",
            r#"{"progressToken":"x","progress":1}"#,
        ),
    );
    assert_eq!(rig.bridge.state(rig.now).unmatched, 4);
}

#[test]
fn there_are_only_so_many_children() {
    let mut rig = Rig::with(Settings {
        children_max: 2,
        ..Settings::default()
    });
    let first = rig.open(ANN);
    rig.pass(10 * SECOND);
    rig.open(ANN);
    rig.pass(49 * SECOND);
    let exchange = rig.initialize(ANN, "2025-11-25");
    assert_eq!(
        (rig.head(exchange).status, rig.head(exchange).retry_after_s),
        (503, Some(10))
    );
    let exchange = rig.modern_call(ANN, "1");
    assert_eq!(rig.head(exchange).status, 503);
    rig.pass(SECOND);
    rig.initialize(ANN, "2025-11-25");
    assert_eq!(
        rig.told_to_end,
        [first.child],
        "the longest unused makes room"
    );
    assert_eq!(rig.started.len(), 3);
}

#[test]
fn a_child_with_a_call_under_way_makes_no_room() {
    let mut rig = Rig::with(Settings {
        children_max: 1,
        ..Settings::default()
    });
    let session = rig.open(ANN);
    rig.call(&session, "1");
    rig.pass(61 * SECOND);
    let exchange = rig.initialize(BOB, "2025-11-25");
    assert_eq!(rig.head(exchange).status, 503);
    assert!(rig.told_to_end.is_empty());
}

#[test]
fn only_so_many_requests_wait_for_a_child() {
    let mut rig = Rig::new(Share::Always);
    for number in 0..64 {
        let exchange = rig.modern_call(ANN, &number.to_string());
        assert!(rig.is_open(exchange));
    }
    let exchange = rig.modern_call(ANN, "64");
    assert_eq!(
        (rig.head(exchange).status, rig.head(exchange).retry_after_s),
        (503, Some(1))
    );
}

#[test]
fn only_so_many_bytes_wait_for_a_child() {
    let mut rig = Rig::new(Share::Always);
    let large = format!(
        r#""name":"t","arguments":"{}""#,
        "x".repeat(40 * 1024 * 1024)
    );
    let first = rig.modern(ANN, "1", "tools/call", &large);
    assert!(rig.is_open(first));
    let second = rig.modern(ANN, "2", "tools/call", &large);
    assert_eq!(rig.head(second).status, 503);
}

#[test]
fn only_so_many_calls_are_under_way_at_a_child() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    for number in 0..1024 {
        let exchange = rig.call(&session, &number.to_string());
        assert!(rig.is_open(exchange));
    }
    let exchange = rig.call(&session, "1024");
    assert_eq!(rig.head(exchange).status, 503);
    assert_eq!(rig.object(exchange).id(), Some("1024"));
    let (child, call) = rig.written();
    rig.answer(child, &call, "{}");
    let exchange = rig.call(&session, "1025");
    assert!(rig.is_open(exchange));
}

#[test]
fn only_so_many_sessions_are_open() {
    let mut rig = Rig::new(Share::Always);
    let first = rig.open(ANN);
    for _ in 1..1024 {
        let exchange = rig.initialize(ANN, "2025-11-25");
        assert_eq!(rig.head(exchange).status, 200);
    }
    let exchange = rig.initialize(ANN, "2025-11-25");
    assert_eq!(rig.head(exchange).status, 503);
    rig.send(
        HttpMethod::Delete,
        ANN,
        &[("mcp-session-id", &*first.key)],
        "",
    );
    let exchange = rig.initialize(ANN, "2025-11-25");
    assert_eq!(rig.head(exchange).status, 200);
}

#[test]
fn a_session_owes_only_so_many_answers() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    for number in 0..1024 {
        rig.says(
            session.child,
            &request(&number.to_string(), "roots/list", "{}"),
        );
    }
    assert!(rig.written.is_empty());
    rig.says(session.child, &request("1024", "roots/list", "{}"));
    let (_, refused) = rig.written();
    assert_eq!(
        (refused.id(), refused.error_code()),
        (Some("1024"), Some(-32603))
    );
}

#[test]
fn only_the_latest_events_are_kept() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    for number in 0..300 {
        rig.says(
            session.child,
            &notification("n", &format!(r#"{{"number":{number}}}"#)),
        );
    }
    let stream = rig.listen(&session, None);
    let told = rig.messages(stream);
    assert_eq!(told.len(), 256);
    assert_eq!(told[0].param("number"), Some("44"));
}
