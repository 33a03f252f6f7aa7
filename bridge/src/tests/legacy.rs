//! Sessions of legacy callers at legacy children.

use super::*;

#[test]
fn initialize_begins_a_session_at_a_child_of_its_own() {
    let mut rig = Rig::new(Share::Auto);
    let exchange = rig.initialize(ANN, "2025-06-18");
    let (child, request) = rig.written();
    assert_eq!(
        (request.method(), request.id()),
        (Some("initialize"), Some("1"))
    );
    assert_eq!(request.param("protocolVersion"), Some("\"2025-06-18\""));
    assert!(rig.is_open(exchange));
    rig.answer(child, &request, LEGACY_RESULT);
    let answer = rig.object(exchange);
    assert_eq!(
        (answer.id(), answer.result()),
        (Some("\"i\""), Some(LEGACY_RESULT))
    );
    assert_eq!(rig.head(exchange).session.unwrap().as_str().len(), 32);
    let other = rig.open(ANN);
    assert_ne!(other.child, child);
}

#[test]
fn ids_and_tokens_are_those_of_the_caller_only_on_its_side() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let first = rig.call(&session, "\"a\"");
    let second = rig.call(&session, "7");
    let (child, call) = rig.written();
    let (_, other) = rig.written();
    assert_ne!(call.id(), other.id());
    assert_eq!(call.progress_token(), call.id());
    rig.answer(child, &other, r#"{"content":[ 1.50 ]}"#);
    assert_eq!(
        (rig.object(second).id(), rig.object(second).result()),
        (Some("7"), Some(r#"{"content":[ 1.50 ]}"#))
    );
    let progress = format!(r#"{{"progressToken":{},"progress":1}}"#, call.id().unwrap());
    rig.says(child, &notification("notifications/progress", &progress));
    rig.answer(child, &call, "{}");
    let messages = rig.messages(first);
    assert_eq!(messages[0].progress_token(), Some("\"p\""));
    assert_eq!(messages[1].id(), Some("\"a\""));
    assert_eq!(rig.end_of(first), Some(Ending::Done));
}

#[test]
fn an_answer_within_a_second_is_one_object() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let exchange = rig.call(&session, "1");
    let (child, call) = rig.written();
    rig.pass(SECOND / 2);
    rig.answer(child, &call, "{}");
    assert_eq!(rig.object(exchange).id(), Some("1"));
}

#[test]
fn a_later_answer_is_the_last_event_of_a_primed_stream() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let exchange = rig.call(&session, "1");
    let (child, call) = rig.written();
    rig.pass(SECOND);
    assert_eq!(rig.events(exchange), [("1-1".to_owned(), String::new())]);
    rig.pass(16 * SECOND);
    assert!(
        rig.answers[&exchange].body.ends_with("\n\n:\n\n"),
        "a comment after 15 s"
    );
    rig.answer(child, &call, "{}");
    let events = rig.events(exchange);
    assert_eq!(events[1].0, "1-2");
    assert_eq!(rig.end_of(exchange), Some(Ending::Done));
}

#[test]
fn earlier_versions_get_no_event_without_content() {
    let mut rig = Rig::new(Share::Auto);
    let exchange = rig.initialize(ANN, "2025-06-18");
    let (child, request) = rig.written();
    rig.answer(
        child,
        &request,
        &LEGACY_RESULT.replace("2025-11-25", "2025-06-18"),
    );
    let session = rig.opened(exchange, child);
    let exchange = rig.call(&session, "1");
    rig.pass(SECOND);
    assert!(rig.events(exchange).is_empty());
}

#[test]
fn notifications_and_responses_are_accepted() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let exchange = rig.post(
        &session,
        r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#,
    );
    assert_eq!(
        (rig.head(exchange).status, rig.end_of(exchange)),
        (202, Some(Ending::Done))
    );
    assert_eq!(
        rig.written().1.method(),
        Some("notifications/roots/list_changed")
    );
    let exchange = rig.post(&session, r#"{"jsonrpc":"2.0","id":9,"result":{}}"#);
    assert_eq!(rig.head(exchange).status, 202);
    assert!(rig.written.is_empty(), "an answer to no request is dropped");
    assert_eq!(rig.bridge.state(rig.now).unmatched, 1);
}

#[test]
fn the_end_of_the_handshake_reaches_the_child_once() {
    let mut rig = Rig::new(Share::Always);
    let first = rig.open(ANN);
    let exchange = rig.initialize(BOB, "2025-11-25");
    let second = rig.head(exchange).session.unwrap();
    assert_eq!(
        rig.object(exchange).result(),
        Some(LEGACY_RESULT),
        "from memory"
    );
    let fields = [("mcp-session-id", second.as_str())];
    let body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    rig.send(HttpMethod::Post, BOB, &fields, body);
    assert!(rig.written.is_empty());
    assert_eq!(rig.started, [first.child]);
}

#[test]
fn a_session_is_bound_to_its_caller() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let fields = [("mcp-session-id", &*session.key)];
    for method in [HttpMethod::Post, HttpMethod::Get, HttpMethod::Delete] {
        let exchange = rig.send(method, BOB, &fields, &tool("1"));
        assert_eq!(rig.head(exchange).status, 404);
    }
    assert!(rig.written.is_empty());
}

#[test]
fn unknown_and_missing_sessions_are_refused() {
    let mut rig = Rig::new(Share::Auto);
    let unknown = "0".repeat(32);
    for key in [&*unknown, "x"] {
        let exchange = rig.send(
            HttpMethod::Post,
            ANN,
            &[("mcp-session-id", key)],
            &tool("1"),
        );
        assert_eq!(rig.head(exchange).status, 404);
        assert_eq!(rig.object(exchange).id(), Some("1"));
    }
    for (method, body) in [
        (HttpMethod::Post, &*tool("1")),
        (HttpMethod::Get, ""),
        (HttpMethod::Delete, ""),
    ] {
        let exchange = rig.send(method, ANN, &[], body);
        assert_eq!(rig.head(exchange).status, 400);
    }
    assert!(rig.started.is_empty());
}

#[test]
fn other_methods_types_and_batches_are_refused() {
    let mut rig = Rig::new(Share::Auto);
    let exchange = rig.send(HttpMethod::Other, ANN, &[], "");
    assert_eq!(rig.head(exchange).status, 405);
    assert_eq!(rig.head(exchange).allow, Some("GET, POST, DELETE"));
    let exchange = rig.send(
        HttpMethod::Post,
        ANN,
        &[("content-type", "text/plain")],
        &tool("1"),
    );
    assert_eq!(rig.head(exchange).status, 415);
    let exchange = rig.send(
        HttpMethod::Post,
        ANN,
        &[("accept", "text/html")],
        &tool("1"),
    );
    assert_eq!(rig.head(exchange).status, 406);
    let exchange = rig.send(HttpMethod::Post, ANN, &[], &format!("[{}]", tool("1")));
    assert_eq!(
        (rig.head(exchange).status, rig.object(exchange).error_code()),
        (400, Some(-32600))
    );
    let exchange = rig.send(HttpMethod::Post, ANN, &[], "{");
    assert_eq!(
        (rig.head(exchange).status, rig.object(exchange).error_code()),
        (400, Some(-32700))
    );
}

#[test]
fn a_version_that_the_bridge_does_not_know_is_refused() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let fields = [
        ("mcp-session-id", &*session.key),
        ("mcp-protocol-version", "1900-01-01"),
    ];
    let exchange = rig.send(HttpMethod::Post, ANN, &fields, &tool("1"));
    assert_eq!(rig.head(exchange).status, 400);
}

#[test]
fn messages_of_no_call_take_the_get_stream_else_the_latest_call() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let call = rig.call(&session, "1");
    rig.says(session.child, &notification("n/1", "{}"));
    let stream = rig.listen(&session, None);
    rig.says(session.child, &notification("n/2", "{}"));
    assert_eq!(rig.messages(call)[0].method(), Some("n/1"));
    assert_eq!(rig.messages(stream)[0].method(), Some("n/2"));
    assert_eq!(rig.messages(call).len(), 1);
}

#[test]
fn messages_of_no_call_wait_for_a_get() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    rig.says(session.child, &notification("n/1", "{}"));
    let first = rig.listen(&session, None);
    assert_eq!(rig.messages(first)[0].method(), Some("n/1"));
    let second = rig.listen(&session, None);
    assert_eq!(
        rig.end_of(first),
        Some(Ending::Done),
        "a second GET takes the place of the first"
    );
    assert!(rig.messages(second).is_empty(), "a message goes out once");
}

#[test]
fn a_get_goes_on_after_the_last_event_of_its_stream() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let first = rig.listen(&session, None);
    rig.says(session.child, &notification("n/1", "{}"));
    rig.says(session.child, &notification("n/2", "{}"));
    let last = rig.events(first)[1].0.clone();
    rig.leaves(first);
    rig.says(session.child, &notification("n/3", "{}"));
    let second = rig.listen(&session, Some(&last));
    let methods: Vec<_> = rig
        .messages(second)
        .iter()
        .map(|it| it.method().map(str::to_owned))
        .collect();
    assert_eq!(methods, [Some("n/2".to_owned()), Some("n/3".to_owned())]);
    let third = rig.listen(&session, Some("77-1"));
    assert!(
        rig.messages(third).is_empty(),
        "unknown events: only what comes from now on"
    );
}

#[test]
fn an_answer_waits_for_a_caller_whose_connection_broke() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let call = rig.call(&session, "1");
    let (child, message) = rig.written();
    rig.pass(SECOND);
    let last = rig.events(call)[0].0.clone();
    rig.leaves(call);
    assert!(
        rig.written.is_empty(),
        "a caller that leaves does not cancel"
    );
    rig.answer(child, &message, "{}");
    let stream = rig.listen(&session, Some(&last));
    assert_eq!(rig.messages(stream)[0].id(), Some("1"));
    assert_eq!(rig.end_of(stream), Some(Ending::Done));
}

#[test]
fn a_call_goes_on_with_the_connection_of_a_get() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let call = rig.call(&session, "1");
    let (child, message) = rig.written();
    rig.pass(SECOND);
    let last = rig.events(call)[0].0.clone();
    rig.leaves(call);
    let stream = rig.listen(&session, Some(&last));
    assert_eq!(rig.end_of(stream), None);
    rig.answer(child, &message, "{}");
    assert_eq!(rig.messages(stream)[0].id(), Some("1"));
    assert_eq!(rig.end_of(stream), Some(Ending::Done));
}

#[test]
fn requests_of_the_child_are_answered_by_post() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let stream = rig.listen(&session, None);
    rig.says(session.child, &request("\"q\"", "roots/list", "{}"));
    let asked = rig.messages(stream).remove(0);
    assert_eq!(
        (asked.method(), asked.id()),
        (Some("roots/list"), Some("1"))
    );
    rig.post(
        &session,
        r#"{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}"#,
    );
    let (_, answer) = rig.written();
    assert_eq!(
        (answer.id(), answer.result()),
        (Some("\"q\""), Some(r#"{"roots":[]}"#))
    );
    rig.post(&session, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    assert!(rig.written.is_empty(), "an answer counts once");
}

#[test]
fn a_request_that_the_child_takes_back_is_cancelled_by_the_callers_id() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let stream = rig.listen(&session, None);
    rig.says(session.child, &request("\"q\"", "roots/list", "{}"));
    rig.says(
        session.child,
        &notification("notifications/cancelled", r#"{"requestId":"q"}"#),
    );
    assert_eq!(rig.messages(stream)[1].param("requestId"), Some("1"));
}

#[test]
fn a_ping_is_answered_though_no_caller_listens() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    rig.says(session.child, &request("5", "ping", "{}"));
    assert_eq!(rig.written().1.result(), Some("{}"));
    let stream = rig.listen(&session, None);
    rig.says(session.child, &request("6", "ping", "{}"));
    assert_eq!(rig.messages(stream)[0].method(), Some("ping"));
}

#[test]
fn a_cancellation_names_the_call_as_the_child_does() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let call = rig.call(&session, "\"a\"");
    let (_, message) = rig.written();
    rig.post(
        &session,
        &notification("notifications/cancelled", r#"{"requestId":"b"}"#),
    );
    assert!(rig.written.is_empty(), "only calls of the session count");
    rig.post(
        &session,
        &notification("notifications/cancelled", r#"{"requestId":"a"}"#),
    );
    assert_eq!(rig.written().1.param("requestId"), message.id());
    assert!(rig.object(call).error().is_some());
}

#[test]
fn calls_of_one_session_cannot_be_cancelled_by_another() {
    let mut rig = Rig::new(Share::Always);
    let session = rig.open(ANN);
    rig.call(&session, "1");
    let exchange = rig.initialize(BOB, "2025-11-25");
    let other = rig.head(exchange).session.unwrap();
    rig.written.clear();
    let body = notification("notifications/cancelled", r#"{"requestId":1}"#);
    rig.send(
        HttpMethod::Post,
        BOB,
        &[("mcp-session-id", other.as_str())],
        &body,
    );
    assert!(rig.written.is_empty());
}

#[test]
fn a_delete_ends_the_session_and_its_child() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let stream = rig.listen(&session, None);
    let call = rig.call(&session, "1");
    let fields = [("mcp-session-id", &*session.key)];
    let exchange = rig.send(HttpMethod::Delete, ANN, &fields, "");
    assert_eq!(rig.head(exchange).status, 204);
    assert_eq!(rig.told_to_end, [session.child]);
    assert_eq!(rig.end_of(stream), Some(Ending::Done));
    assert_eq!(rig.object(call).error_code(), Some(-32603));
    let exchange = rig.call(&session, "2");
    assert_eq!(rig.head(exchange).status, 404);
}

#[test]
fn the_end_of_one_session_leaves_a_shared_child_alone() {
    let mut rig = Rig::new(Share::Always);
    let session = rig.open(ANN);
    rig.initialize(BOB, "2025-11-25");
    rig.call(&session, "1");
    let (_, call) = rig.written();
    rig.send(
        HttpMethod::Delete,
        ANN,
        &[("mcp-session-id", &*session.key)],
        "",
    );
    assert!(rig.told_to_end.is_empty());
    let (_, cancelled) = rig.written();
    assert_eq!(cancelled.param("requestId"), call.id());
}

#[test]
fn a_callers_sessions_share_its_child() {
    let mut rig = Rig::new(Share::Caller);
    let session = rig.open(ANN);
    rig.initialize(ANN, "2025-11-25");
    assert_eq!(rig.started, [session.child]);
    rig.initialize(BOB, "2025-11-25");
    assert_eq!(rig.started.len(), 2);
}

#[test]
fn a_caller_that_takes_no_events_is_not_asked() {
    let mut rig = Rig::new(Share::Auto);
    let session = rig.open(ANN);
    let fields = [
        ("mcp-session-id", &*session.key),
        ("accept", "application/json"),
    ];
    let exchange = rig.send(HttpMethod::Post, ANN, &fields, &tool("1"));
    let (child, call) = rig.written();
    rig.says(child, &request("7", "roots/list", "{}"));
    let (_, refusal) = rig.written();
    assert_eq!(
        (refusal.id(), refusal.error_code()),
        (Some("7"), Some(-32601))
    );
    rig.answer(child, &call, "{}");
    assert_eq!(rig.object(exchange).id(), Some("1"));
}
