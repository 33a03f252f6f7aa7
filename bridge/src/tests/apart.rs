//! Callers that share a child never see what it says to another.

use super::*;

/// Sessions of Ann and Bob at one legacy child, each with an open stream.
fn shared_by_two(rig: &mut Rig) -> (ChildId, ExchangeId, ExchangeId) {
    let ann = rig.open(ANN);
    let anns = rig.listen(&ann, None);
    let exchange = rig.initialize(BOB, "2025-11-25");
    let key = rig.head(exchange).session.unwrap();
    let fields = [("mcp-session-id", key.as_str())];
    let bobs = rig.send(HttpMethod::Get, BOB, &fields, "");
    rig.written.clear();
    (ann.child, anns, bobs)
}

fn log(text: &str) -> String {
    let params = format!(r#"{{"level":"error","data":"{text}"}}"#);
    notification("notifications/message", &params)
}

#[test]
fn two_callers_of_a_legacy_child_are_not_asked_for_each_other() {
    let mut rig = Rig::new(Share::Always);
    let (child, anns, bobs) = shared_by_two(&mut rig);
    rig.says(child, &request("7", "roots/list", "{}"));
    let (_, answer) = rig.written();
    assert_eq!(answer.id(), Some("7"));
    assert_eq!(answer.error_code(), Some(-32601));
    assert!(rig.messages(anns).is_empty() && rig.messages(bobs).is_empty());
    rig.says(child, &request("8", "ping", "{}"));
    assert_eq!(rig.written().1.result(), Some("{}"));
}

#[test]
fn what_a_child_says_of_one_caller_reaches_no_other() {
    let mut rig = Rig::new(Share::Always);
    let (child, anns, bobs) = shared_by_two(&mut rig);
    rig.says(child, &log("Bob's file is missing"));
    rig.says(child, &notification("notifications/tasks/status", "{}"));
    let updated = r#"{"uri":"file:///bob"}"#;
    rig.says(
        child,
        &notification("notifications/resources/updated", updated),
    );
    assert!(rig.messages(anns).is_empty() && rig.messages(bobs).is_empty());
    assert_eq!(rig.strays.len(), 3, "they go to the log");
}

#[test]
fn changes_of_lists_reach_all_callers() {
    let mut rig = Rig::new(Share::Always);
    let (child, anns, bobs) = shared_by_two(&mut rig);
    rig.says(
        child,
        &notification("notifications/tools/list_changed", "{}"),
    );
    assert_eq!(rig.messages(anns).len(), 1);
    assert_eq!(rig.messages(bobs).len(), 1);
}

#[test]
fn a_log_message_of_a_modern_child_is_dropped_if_it_may_be_for_two_callers() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_modern();
    let quiet = rig.modern_call(BOB, "1");
    rig.meta = r#","io.modelcontextprotocol/logLevel":"debug""#;
    let wanting = rig.modern_call(ANN, "2");
    rig.says(child, &log("first"));
    assert_eq!(
        rig.messages(wanting).len(),
        1,
        "only one has asked for them"
    );
    let other = rig.modern_call(BOB, "3");
    rig.says(child, &log("second"));
    assert_eq!(rig.messages(wanting).len(), 1);
    assert!(rig.is_open(other) && rig.is_open(quiet));
    assert_eq!(rig.strays.len(), 1);
}
