//! Requests of modern callers.

use super::*;

const DEBUG: &str = r#","io.modelcontextprotocol/logLevel":"debug""#;

/// Levels of log messages that a child sends, and params of such a message.
fn log(level: &str) -> String {
    notification(
        "notifications/message",
        &format!(r#"{{"level":"{level}","data":1}}"#),
    )
}

#[test]
fn a_legacy_child_sees_a_legacy_request_and_the_caller_a_modern_answer() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    let exchange = rig.modern_call(ANN, "\"a\"");
    let (child, call) = rig.written();
    assert_eq!(
        call.params(),
        Some(r#"{"name":"t","arguments":{"a":1.50},"_meta":{}}"#)
    );
    rig.answer(child, &call, r#"{"content":[]}"#);
    let answer = rig.object(exchange);
    assert_eq!(answer.id(), Some("\"a\""));
    assert_eq!(answer.result_member("resultType"), Some("\"complete\""));
    assert_eq!(answer.result_member("ttlMs"), None);
    assert_eq!(answer.result_member("content"), Some("[]"));
}

#[test]
fn lists_of_a_legacy_child_say_that_they_are_not_to_be_kept() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    let exchange = rig.modern(ANN, "1", "tools/list", "");
    let (child, list) = rig.written();
    rig.answer(child, &list, r#"{"tools":[]}"#);
    let answer = rig.object(exchange);
    assert_eq!(answer.result_member("ttlMs"), Some("0"));
    assert_eq!(answer.result_member("cacheScope"), Some("\"private\""));
}

#[test]
fn discover_is_answered_from_what_a_legacy_child_has_said() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    let exchange = rig.modern(ANN, "1", "server/discover", "");
    assert!(rig.written.is_empty());
    let answer = rig.object(exchange);
    let versions = answer.result_member("supportedVersions").unwrap();
    assert!(versions.starts_with(r#"["2026-07-28","2025-11-25""#));
    let capabilities = answer.result_member("capabilities").unwrap();
    assert!(capabilities.contains("tools") && !capabilities.contains("tasks"));
    let server = answer.result_meta("io.modelcontextprotocol/serverInfo");
    assert_eq!(server, Some(r#"{"name":"old","version":"1"}"#));
}

#[test]
fn removed_methods_are_not_found() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    for method in [
        "ping",
        "initialize",
        "logging/setLevel",
        "resources/subscribe",
        "tasks/list",
    ] {
        let exchange = rig.modern(ANN, "1", method, "");
        assert_eq!(rig.head(exchange).status, 404, "{method}");
        assert_eq!(rig.object(exchange).error_code(), Some(-32601), "{method}");
    }
    assert!(rig.written.is_empty());
}

#[test]
fn errors_of_a_legacy_child_have_the_codes_of_the_modern_era() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    let exchange = rig.modern(ANN, "1", "resources/read", r#""uri":"a:b""#);
    let (child, read) = rig.written();
    rig.refuse(child, &read, r#"{"code":-32002,"message":"no"}"#);
    assert_eq!(rig.object(exchange).error_code(), Some(-32602));
    let exchange = rig.modern(ANN, "2", "completion/complete", "");
    let (_, complete) = rig.written();
    rig.refuse(child, &complete, UNKNOWN);
    assert_eq!(rig.head(exchange).status, 404);
}

#[test]
fn a_url_that_a_legacy_child_wants_opened_is_an_input() {
    const WANTED: &str = r#"{"code":-32042,"message":"open","data":{"elicitations":[{"mode":"url","url":"https://a","message":"m"}]}}"#;
    let mut rig = Rig::new(Share::Always);
    rig.start_legacy();
    let exchange = rig.modern_call(ANN, "1");
    let (child, call) = rig.written();
    rig.refuse(child, &call, WANTED);
    let answer = rig.object(exchange);
    assert_eq!(
        (rig.head(exchange).status, answer.error_code()),
        (400, Some(-32021))
    );
    rig.capabilities = r#"{"elicitation":{"url":{}}}"#;
    let exchange = rig.modern_call(ANN, "2");
    let (_, call) = rig.written();
    rig.refuse(child, &call, WANTED);
    let answer = rig.object(exchange);
    assert_eq!(
        answer.result_member("resultType"),
        Some("\"input_required\"")
    );
    let requests = answer.result_member("inputRequests").unwrap();
    assert!(requests.contains("https://a") && requests.contains("elicitation/create"));
}

#[test]
fn the_head_and_the_metadata_are_checked() {
    let mut rig = Rig::new(Share::Auto);
    let text = |version: &str, more: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}"{more}}}}}}}"#
        )
    };
    let capable = r#","io.modelcontextprotocol/clientCapabilities":{}"#;
    let loud = format!(r#"{capable},"io.modelcontextprotocol/logLevel":"loud""#);
    let tries = [
        (
            "2026-07-28",
            "tools/call",
            text("2026-07-28", capable),
            (400, -32020),
        ),
        (
            "2026-07-29",
            "tools/list",
            text("2026-07-28", capable),
            (400, -32020),
        ),
        (
            "2027-01-01",
            "tools/list",
            text("2027-01-01", capable),
            (400, -32022),
        ),
        (
            "2026-07-28",
            "tools/list",
            text("2026-07-28", ""),
            (400, -32602),
        ),
        (
            "2026-07-28",
            "tools/list",
            text("2026-07-28", &loud),
            (200, -32602),
        ),
    ];
    for (version, method, body, (status, code)) in tries {
        let fields = [("mcp-protocol-version", version), ("mcp-method", method)];
        let exchange = rig.send(HttpMethod::Post, ANN, &fields, &body);
        assert_eq!(rig.head(exchange).status, status, "{body}");
        assert_eq!(rig.object(exchange).error_code(), Some(code), "{body}");
    }
    assert!(rig.started.is_empty());
}

#[test]
fn only_post_is_for_modern_callers() {
    let mut rig = Rig::new(Share::Auto);
    let fields = [("mcp-protocol-version", "2026-07-28")];
    for method in [HttpMethod::Get, HttpMethod::Delete] {
        let exchange = rig.send(method, ANN, &fields, "");
        assert_eq!(rig.head(exchange).status, 405);
    }
    let exchange = rig.send(
        HttpMethod::Post,
        ANN,
        &fields,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    );
    assert_eq!(rig.head(exchange).status, 400);
    let exchange = rig.send(
        HttpMethod::Post,
        ANN,
        &fields,
        r#"{"jsonrpc":"2.0","method":"n"}"#,
    );
    assert_eq!(rig.head(exchange).status, 202);
}

#[test]
fn progress_makes_the_answer_a_stream_without_event_ids() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    rig.meta = r#","progressToken":"p""#;
    let exchange = rig.modern_call(ANN, "1");
    let (child, call) = rig.written();
    assert_eq!(call.progress_token(), call.id());
    let progress = format!(r#"{{"progressToken":{},"progress":1}}"#, call.id().unwrap());
    rig.says(child, &notification("notifications/progress", &progress));
    rig.answer(child, &call, "{}");
    assert_eq!(rig.messages(exchange)[0].progress_token(), Some("\"p\""));
    assert!(rig.events(exchange).iter().all(|(id, _)| id.is_empty()));
    assert_eq!(rig.end_of(exchange), Some(Ending::Done));
}

#[test]
fn a_slow_answer_comes_in_a_stream() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    let exchange = rig.modern_call(ANN, "1");
    let (child, call) = rig.written();
    rig.pass(SECOND);
    assert!(rig.events(exchange).is_empty());
    rig.answer(child, &call, "{}");
    assert_eq!(rig.messages(exchange).len(), 1);
}

#[test]
fn a_caller_that_takes_no_stream_waits_for_the_object() {
    let mut rig = Rig::new(Share::Auto);
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"progressToken":1,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    rig.start_legacy();
    let fields = [
        ("accept", "application/json"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/list"),
    ];
    let exchange = rig.send(HttpMethod::Post, ANN, &fields, body);
    let (child, list) = rig.written();
    let progress = format!(r#"{{"progressToken":{},"progress":1}}"#, list.id().unwrap());
    rig.says(child, &notification("notifications/progress", &progress));
    rig.pass(20 * SECOND);
    rig.answer(child, &list, "{}");
    assert_eq!(rig.object(exchange).id(), Some("1"));
}

#[test]
fn a_caller_that_leaves_cancels() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    let exchange = rig.modern_call(ANN, "1");
    let (child, call) = rig.written();
    rig.leaves(exchange);
    let (_, cancelled) = rig.written();
    assert_eq!(cancelled.method(), Some("notifications/cancelled"));
    assert_eq!(cancelled.param("requestId"), call.id());
    rig.answer(child, &call, "{}");
    assert_eq!(rig.bridge.state(rig.now).unmatched, 1);
}

#[test]
fn a_log_level_is_set_once_and_only_its_request_gets_messages() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_legacy();
    rig.meta = DEBUG;
    let first = rig.modern_call(ANN, "1");
    let (_, level) = rig.written();
    assert_eq!(
        (level.method(), level.param("level")),
        (Some("logging/setLevel"), Some("\"debug\""))
    );
    assert_eq!(rig.written().1.method(), Some("tools/call"));
    rig.answer(child, &level, "{}");
    rig.says(child, &log("info"));
    assert_eq!(
        rig.messages(first)[0].method(),
        Some("notifications/message")
    );
    rig.meta = "";
    let second = rig.modern_call(ANN, "2");
    assert_eq!(rig.written().1.method(), Some("tools/call"));
    rig.says(child, &log("info"));
    assert!(rig.is_open(second));
    assert_eq!(rig.messages(first).len(), 1);
}

#[test]
fn messages_below_the_level_are_dropped() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_legacy();
    rig.meta = r#","io.modelcontextprotocol/logLevel":"error""#;
    let exchange = rig.modern_call(ANN, "1");
    rig.says(child, &log("info"));
    assert!(rig.is_open(exchange));
    rig.says(child, &log("critical"));
    assert_eq!(rig.messages(exchange).len(), 1);
}

#[test]
fn callers_and_capabilities_have_children_of_their_own() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_legacy();
    rig.modern_call(ANN, "1");
    assert_eq!(rig.written().0, child);
    rig.modern_call(BOB, "1");
    rig.capabilities = r#"{"roots":{}}"#;
    rig.modern_call(ANN, "2");
    assert_eq!(rig.started.len(), 3);
}

#[test]
fn one_child_serves_all_if_it_may() {
    let mut rig = Rig::new(Share::Always);
    rig.start_legacy();
    rig.modern_call(BOB, "1");
    rig.capabilities = r#"{"roots":{}}"#;
    rig.modern_call(ANN, "2");
    assert_eq!(rig.started.len(), 1);
}

#[test]
fn a_modern_child_serves_all_and_sees_the_metadata() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_modern();
    rig.meta = r#","progressToken":"p""#;
    let exchange = rig.modern_call(BOB, "\"b\"");
    let (found, call) = rig.written();
    assert_eq!((found, rig.started.len()), (child, 1));
    assert_eq!(
        call.meta("io.modelcontextprotocol/protocolVersion"),
        Some("\"2026-07-28\"")
    );
    assert_eq!(call.progress_token(), call.id());
    rig.answer(child, &call, r#"{"resultType":"complete","content":[]}"#);
    let answer = rig.object(exchange);
    assert_eq!(
        answer.result(),
        Some(r#"{"resultType":"complete","content":[]}"#)
    );
}

#[test]
fn log_messages_never_take_the_stream_of_a_subscription() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_modern();
    rig.meta = DEBUG;
    let exchange = rig.modern_call(ANN, "1");
    let params = r#""notifications":{"toolsListChanged":true}"#;
    let listener = rig.modern(ANN, "2", "subscriptions/listen", params);
    rig.says(child, &log("info"));
    assert_eq!(rig.messages(exchange).len(), 1);
    assert!(rig.is_open(listener));
}

#[test]
fn callers_keep_apart_at_modern_children_too_if_they_must() {
    let mut rig = Rig::new(Share::Never);
    rig.start_modern();
    rig.modern_call(BOB, "1");
    assert_eq!(rig.started.len(), 2);
}

#[test]
fn input_that_a_modern_child_asks_for_passes_both_ways() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_modern();
    let exchange = rig.modern_call(ANN, "1");
    let (_, call) = rig.written();
    let asks = r#"{"resultType":"input_required","requestState":"s"}"#;
    rig.answer(child, &call, asks);
    assert_eq!(rig.object(exchange).result(), Some(asks));
    rig.modern(
        ANN,
        "2",
        "tools/call",
        r#""name":"t","inputResponses":{},"requestState":"1.1.s""#,
    );
    let (_, again) = rig.written();
    assert_eq!(again.param("requestState"), Some("\"1.1.s\""));
}
