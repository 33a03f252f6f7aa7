//! Ends of children, restarts, idle children and the end of the bridge.

use super::*;

/// Minutes after which a session or a child that is not used ends.
const IDLE: Duration = Duration::from_secs(30 * 60);

#[test]
fn calls_under_way_fail_with_the_end_and_the_last_words_of_the_child() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let fresh = rig.call(&session, "1");
    let slow = rig.call(&session, "2");
    let stream = rig.listen(&session, None);
    rig.written.clear();
    rig.says(
        session.child,
        &notification(
            "notifications/progress",
            r#"{"progressToken":3,"progress":1}"#,
        ),
    );
    rig.ends(session.child);
    let answer = rig.object(fresh);
    assert_eq!(
        (rig.head(fresh).status, answer.id(), answer.error_code()),
        (200, Some("1"), Some(-32603))
    );
    let text = answer.error_member("message").unwrap();
    assert!(text.contains("exit status 3: out of cheese"), "{text}");
    assert_eq!(rig.messages(slow)[1].id(), Some("2"));
    assert_eq!(rig.end_of(slow), Some(Ending::Done));
    assert_eq!(rig.end_of(stream), Some(Ending::Done));
    let exchange = rig.call(&session, "3");
    assert_eq!(rig.head(exchange).status, 404, "its sessions are gone");
}

#[test]
fn modern_calls_fail_alike_and_the_next_one_starts_a_child() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_legacy();
    let exchange = rig.modern_call(ANN, "1");
    rig.written.clear();
    rig.pass(20 * SECOND);
    rig.ends(child);
    let answer = rig.messages(exchange).remove(0);
    assert_eq!(
        (answer.id(), answer.error_code()),
        (Some("1"), Some(-32603))
    );
    rig.modern_call(ANN, "2");
    assert_eq!(rig.started.len(), 2);
    let state = rig.bridge.state(rig.now);
    assert_eq!((state.starts, state.ends), (2, 1));
    assert_eq!(
        state.last_end.as_deref(),
        Some("exit status 3: out of cheese")
    );
}

#[test]
fn requests_that_wait_for_a_child_hear_of_its_end() {
    let mut rig = Rig::new(Share::Auto);
    let first = rig.initialize(ANN, "2025-11-25");
    let (child, _) = rig.written();
    rig.ends(child);
    assert_eq!(rig.head(first).status, 503);
    assert_eq!(rig.object(first).id(), Some("\"i\""));
}

#[test]
fn a_child_that_ends_at_once_is_not_started_in_a_loop() {
    let mut rig = Rig::new(Share::Auto);
    rig.initialize(ANN, "2025-11-25");
    rig.ends(rig.started[0]);
    let exchange = rig.initialize(ANN, "2025-11-25");
    assert_eq!(
        (rig.head(exchange).status, rig.head(exchange).retry_after_s),
        (503, Some(1))
    );
    assert_eq!(rig.started.len(), 1);
    rig.pass(SECOND / 2);
    rig.initialize(ANN, "2025-11-25");
    assert_eq!(rig.started.len(), 2);
}

#[test]
fn five_such_ends_in_a_minute_make_the_target_fail_for_a_minute() {
    let mut rig = Rig::new(Share::Auto);
    for turn in 0..5 {
        rig.initialize(ANN, "2025-11-25");
        rig.ends(rig.started[turn]);
        if turn < 4 {
            rig.pass(9 * SECOND);
        }
    }
    assert_eq!(rig.bridge.state(rig.now).failed_since, Some(rig.now));
    rig.pass(59 * SECOND);
    let exchange = rig.initialize(ANN, "2025-11-25");
    assert_eq!(rig.head(exchange).status, 503);
    let text = rig
        .object(exchange)
        .error_member("message")
        .map(str::to_owned);
    assert!(text.is_some_and(|text| text.contains("out of cheese")));
    rig.pass(SECOND);
    rig.initialize(ANN, "2025-11-25");
    assert_eq!(rig.started.len(), 6);
}

#[test]
fn a_session_that_is_not_used_ends_with_its_child() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    rig.pass(IDLE - SECOND);
    rig.post(&session, &notification("n", "{}"));
    rig.pass(IDLE - SECOND);
    assert!(rig.told_to_end.is_empty());
    rig.pass(2 * SECOND);
    assert_eq!(rig.told_to_end, [session.child]);
    let state = rig.bridge.state(rig.now);
    assert_eq!((state.children, state.sessions), (0, 0));
}

#[test]
fn an_open_stream_keeps_its_session() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    rig.listen(&session, None);
    rig.pass(3 * IDLE);
    assert!(rig.told_to_end.is_empty());
}

#[test]
fn an_idle_child_ends_and_its_end_is_no_failure() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_legacy();
    rig.pass(IDLE + SECOND);
    assert_eq!(rig.told_to_end, [child]);
    rig.ends(child);
    assert_eq!(rig.bridge.state(rig.now).ends, 0);
    rig.modern_call(ANN, "1");
    assert_eq!(rig.started.len(), 2);
}

#[test]
fn a_child_with_a_call_under_way_is_not_idle() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    rig.modern_call(ANN, "1");
    rig.pass(3 * IDLE);
    assert!(rig.told_to_end.is_empty());
}

#[test]
fn lines_of_a_child_that_was_told_to_end_are_ignored() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    rig.send(
        HttpMethod::Delete,
        ANN,
        &[("mcp-session-id", &*session.key)],
        "",
    );
    rig.says(session.child, "bye");
    assert!(rig.strays.is_empty());
}

#[test]
fn a_caller_that_leaves_while_a_child_starts_is_forgotten() {
    let mut rig = Rig::new(Share::Auto);
    let exchange = rig.initialize(ANN, "2025-11-25");
    let (child, request) = rig.written();
    rig.leaves(exchange);
    rig.answer(child, &request, LEGACY_RESULT);
    assert!(
        rig.is_open(exchange),
        "no output for a caller that has left"
    );
    assert_eq!(rig.told_to_end, [child]);
}

#[test]
fn a_stop_ends_the_children_and_breaks_streams_off() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let fresh = rig.call(&session, "1");
    let listener = rig.listen(&session, None);
    let slow = rig.call(&session, "2");
    rig.pass(SECOND / 2);
    let waiting = rig.initialize(BOB, "2025-11-25");
    rig.leaves(fresh);
    rig.pass(SECOND / 2);
    rig.bridge.stop(rig.now);
    rig.drain();
    assert_eq!(rig.end_of(slow), Some(Ending::Broken));
    assert_eq!(rig.end_of(listener), Some(Ending::Done));
    assert_eq!(rig.head(waiting).status, 503);
    assert_eq!(rig.told_to_end, rig.started);
    let exchange = rig.initialize(ANN, "2025-11-25");
    assert_eq!(rig.head(exchange).status, 503);
    rig.ends(session.child);
}

#[test]
fn a_stop_ends_subscriptions_in_order() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    let params = r#""notifications":{"toolsListChanged":true}"#;
    let exchange = rig.modern(ANN, "1", "subscriptions/listen", params);
    rig.bridge.stop(rig.now);
    rig.drain();
    assert_eq!(rig.messages(exchange).len(), 2);
    assert_eq!(rig.end_of(exchange), Some(Ending::Done));
}
