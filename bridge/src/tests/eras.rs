//! How the era of a child is found out, and callers of the other era.

use super::*;

#[test]
fn a_modern_request_begins_with_discover_then_initialize() {
    let mut rig = Rig::new(Share::Auto);
    rig.capabilities = r#"{"roots":{}}"#;
    let exchange = rig.modern_call(ANN, "1");
    let (child, discover) = rig.written();
    assert_eq!(discover.method(), Some("server/discover"));
    assert!(
        discover
            .meta("io.modelcontextprotocol/protocolVersion")
            .is_some()
    );
    rig.refuse(child, &discover, UNKNOWN);
    let (_, initialize) = rig.written();
    assert_eq!(initialize.method(), Some("initialize"));
    assert_eq!(initialize.param("protocolVersion"), Some("\"2025-11-25\""));
    assert_eq!(initialize.param("capabilities"), Some(r#"{"roots":{}}"#));
    rig.answer(child, &initialize, LEGACY_RESULT);
    assert_eq!(rig.written().1.method(), Some("notifications/initialized"));
    let (_, call) = rig.written();
    rig.answer(child, &call, "{}");
    assert_eq!(rig.head(exchange).status, 200);
    assert_eq!(rig.bridge.state(rig.now).era, Some(crate::Era::Legacy));
}

#[test]
fn a_child_that_leaves_discover_unanswered_is_initialized_after_three_seconds() {
    let mut rig = Rig::new(Share::Auto);
    rig.modern_call(ANN, "1");
    rig.written();
    rig.pass(2 * SECOND);
    assert!(rig.written.is_empty());
    rig.pass(SECOND);
    assert_eq!(rig.written().1.method(), Some("initialize"));
}

#[test]
fn the_era_is_kept_for_the_next_child() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    rig.modern_call(BOB, "1");
    assert_eq!(rig.written().1.method(), Some("initialize"));
}

#[test]
fn a_child_that_answers_nothing_is_ended_after_thirty_seconds() {
    let mut rig = Rig::new(Share::Auto);
    let exchange = rig.initialize(ANN, "2025-11-25");
    let (child, _) = rig.written();
    rig.pass(29 * SECOND);
    assert!(rig.is_open(exchange));
    rig.pass(SECOND);
    assert_eq!(rig.told_to_end, [child]);
    assert_eq!(rig.head(exchange).status, 503);
    let message = rig
        .object(exchange)
        .error_member("message")
        .map(str::to_owned);
    assert!(message.is_some_and(|text| text.contains("30 s")));
}

#[test]
fn a_legacy_caller_of_a_modern_child_gets_a_session_of_the_bridge() {
    let mut rig = Rig::new(Share::Auto);
    let exchange = rig.initialize(ANN, "2025-06-18");
    let (child, initialize) = rig.written();
    rig.refuse(child, &initialize, UNKNOWN);
    let (_, discover) = rig.written();
    assert_eq!(discover.method(), Some("server/discover"));
    rig.answer(child, &discover, MODERN_RESULT);
    let answer = rig.object(exchange);
    assert_eq!(
        answer.result_member("protocolVersion"),
        Some("\"2025-06-18\"")
    );
    assert_eq!(
        answer.result_member("serverInfo"),
        Some(r#"{"name":"new","version":"2"}"#)
    );
    let other = rig.initialize(BOB, "2024-10-07");
    let answer = rig.object(other);
    assert_eq!(
        answer.result_member("protocolVersion"),
        Some("\"2025-11-25\"")
    );
    assert_eq!(rig.started, [child], "a modern child serves all");
}

#[test]
fn a_child_that_refuses_both_gives_the_caller_its_error() {
    let mut rig = Rig::new(Share::Auto);
    let exchange = rig.initialize(ANN, "2025-11-25");
    let (child, initialize) = rig.written();
    let error = r#"{"code":-32000,"message":"no licence"}"#;
    rig.refuse(child, &initialize, error);
    let (_, discover) = rig.written();
    rig.refuse(child, &discover, UNKNOWN);
    assert_eq!(rig.object(exchange).error(), Some(error));
    assert_eq!(rig.head(exchange).session, None);
    assert_eq!(rig.told_to_end, [child]);
}

/// A session of Ann at a modern child.
fn session_at_modern_child(rig: &mut Rig) -> Opened {
    let child = rig.start_modern();
    let exchange = rig.initialize(ANN, "2025-11-25");
    let session = rig.head(exchange).session.unwrap();
    Opened {
        key: session.as_str().to_owned(),
        child,
    }
}

#[test]
fn calls_of_a_session_carry_the_metadata_of_its_client() {
    let mut rig = Rig::new(Share::Auto);
    let session = session_at_modern_child(&mut rig);
    let exchange = rig.call(&session, "5");
    let (child, call) = rig.written();
    assert_eq!(
        call.meta("io.modelcontextprotocol/protocolVersion"),
        Some("\"2026-07-28\"")
    );
    assert_eq!(
        call.meta("io.modelcontextprotocol/clientCapabilities"),
        Some(r#"{"roots":{}}"#)
    );
    let info = call.meta("io.modelcontextprotocol/clientInfo");
    assert_eq!(info, Some(r#"{"name":"ann","version":"1"}"#));
    assert_eq!(call.progress_token(), call.id());
    rig.answer(child, &call, r#"{"resultType":"complete","content":[]}"#);
    assert_eq!(
        rig.object(exchange).result(),
        Some(r#"{"resultType":"complete","content":[]}"#)
    );
}

#[test]
fn the_bridge_answers_what_the_modern_era_has_no_request_for() {
    let mut rig = Rig::new(Share::Auto);
    let session = session_at_modern_child(&mut rig);
    let ping = rig.post(&session, &request("1", "ping", "{}"));
    assert_eq!(rig.object(ping).result(), Some("{}"));
    let level = rig.post(
        &session,
        &request("2", "logging/setLevel", r#"{"level":"info"}"#),
    );
    assert_eq!(rig.object(level).result(), Some("{}"));
    let wrong = rig.post(
        &session,
        &request("3", "logging/setLevel", r#"{"level":"loud"}"#),
    );
    assert_eq!(rig.object(wrong).error_code(), Some(-32602));
    rig.post(
        &session,
        &notification("notifications/roots/list_changed", "{}"),
    );
    assert!(rig.written.is_empty());
    rig.call(&session, "4");
    let (_, call) = rig.written();
    assert_eq!(
        call.meta("io.modelcontextprotocol/logLevel"),
        Some("\"info\"")
    );
}

#[test]
fn input_that_a_modern_child_needs_is_asked_of_the_session() {
    let mut rig = Rig::new(Share::Auto);
    let session = session_at_modern_child(&mut rig);
    let exchange = rig.call(&session, "5");
    let (child, call) = rig.written();
    rig.answer(
        child,
        &call,
        r#"{"resultType":"input_required","inputRequests":{"x":{"method":"roots/list"},"y":{"method":"elicitation/create","params":{"message":"m"}}},"requestState":"s"}"#,
    );
    let asked = rig.messages(exchange);
    assert_eq!(
        (asked[0].method(), asked[1].method()),
        (Some("roots/list"), Some("elicitation/create"))
    );
    assert_eq!(asked[1].params(), Some(r#"{"message":"m"}"#));
    for (request, result) in asked
        .iter()
        .zip([r#"{"roots":[]}"#, r#"{"action":"accept"}"#])
    {
        assert!(
            rig.written.is_empty(),
            "the call is repeated with all inputs"
        );
        let id = request.id().unwrap();
        rig.post(
            &session,
            &format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
        );
    }
    let (_, again) = rig.written();
    assert_eq!(
        (again.method(), again.param("name")),
        (Some("tools/call"), Some("\"t\""))
    );
    assert_eq!(
        again.param("inputResponses"),
        Some(r#"{"x":{"roots":[]},"y":{"action":"accept"}}"#)
    );
    assert_eq!(again.param("requestState"), Some("\"s\""));
    assert_ne!(again.id(), call.id());
    rig.answer(child, &again, r#"{"resultType":"complete"}"#);
    assert_eq!(rig.messages(exchange)[2].id(), Some("5"));
    assert_eq!(rig.end_of(exchange), Some(Ending::Done));
}

#[test]
fn an_error_of_the_caller_ends_the_call_that_needs_input() {
    let mut rig = Rig::new(Share::Auto);
    let session = session_at_modern_child(&mut rig);
    let exchange = rig.call(&session, "5");
    let (child, call) = rig.written();
    let asks = r#"{"resultType":"input_required","inputRequests":{"x":{"method":"roots/list"}}}"#;
    rig.answer(child, &call, asks);
    rig.post(
        &session,
        &format!(r#"{{"jsonrpc":"2.0","id":1,"error":{UNKNOWN}}}"#),
    );
    let answer = rig.messages(exchange).remove(1);
    assert_eq!((answer.id(), answer.error()), (Some("5"), Some(UNKNOWN)));
}

#[test]
fn a_child_that_always_asks_again_is_given_up() {
    let mut rig = Rig::new(Share::Auto);
    let session = session_at_modern_child(&mut rig);
    let exchange = rig.call(&session, "5");
    let mut repetitions = 0;
    while rig.is_open(exchange) {
        let (child, call) = rig.written();
        repetitions += 1;
        rig.answer(
            child,
            &call,
            r#"{"resultType":"input_required","requestState":"s"}"#,
        );
    }
    assert_eq!(repetitions, 33);
    assert!(rig.object(exchange).error().is_some());
}

#[test]
fn a_session_hears_of_changes_at_a_modern_child() {
    let mut rig = Rig::new(Share::Auto);
    let session = session_at_modern_child(&mut rig);
    let stream = rig.listen(&session, None);
    rig.post(&session, &notification("notifications/initialized", "{}"));
    let (child, listen) = rig.written();
    assert_eq!(listen.method(), Some("subscriptions/listen"));
    assert_eq!(
        listen.param("notifications"),
        Some(r#"{"toolsListChanged":true}"#)
    );
    let meta = format!(
        r#""_meta":{{"io.modelcontextprotocol/subscriptionId":{}}}"#,
        listen.id().unwrap()
    );
    rig.says(
        child,
        &notification(
            "notifications/subscriptions/acknowledged",
            &format!("{{{meta}}}"),
        ),
    );
    rig.says(
        child,
        &notification("notifications/tools/list_changed", &format!("{{{meta}}}")),
    );
    let told = rig.messages(stream);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].method(), Some("notifications/tools/list_changed"));
    assert_eq!(told[0].meta("io.modelcontextprotocol/subscriptionId"), None);
    let exchange = rig.post(
        &session,
        &request("1", "resources/subscribe", r#"{"uri":"a:b"}"#),
    );
    assert_eq!(rig.object(exchange).result(), Some("{}"));
    let (_, wider) = rig.written();
    let filter = r#"{"toolsListChanged":true,"resourceSubscriptions":["a:b"]}"#;
    assert_eq!(wider.param("notifications"), Some(filter));
    assert_eq!(rig.written().1.param("requestId"), listen.id());
}

#[test]
fn a_call_that_needs_input_of_a_caller_without_events_fails() {
    let mut rig = Rig::new(Share::Auto);
    let session = session_at_modern_child(&mut rig);
    let fields = [
        ("mcp-session-id", &*session.key),
        ("accept", "application/json"),
    ];
    let exchange = rig.send(HttpMethod::Post, ANN, &fields, &tool("5"));
    let (child, call) = rig.written();
    let result = r#"{"resultType":"input_required","inputRequests":{"x":{"method":"roots/list"}},"requestState":"s"}"#;
    rig.answer(child, &call, result);
    assert_eq!(rig.object(exchange).error_code(), Some(-32603));
}
