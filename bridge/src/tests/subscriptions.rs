//! Modern callers that listen to changes.

use super::*;

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Has a caller listen with this raw filter.
fn listen(rig: &mut Rig, caller: &str, id: &str, filter: &str) -> ExchangeId {
    let params = format!(r#""notifications":{filter}"#);
    rig.modern(caller, id, "subscriptions/listen", &params)
}

#[test]
fn a_subscription_is_acknowledged_as_far_as_a_legacy_child_can_give_it() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    let filter =
        r#"{"toolsListChanged":true,"promptsListChanged":true,"resourceSubscriptions":["a:b"]}"#;
    let exchange = listen(&mut rig, ANN, "\"s\"", filter);
    let told = rig.messages(exchange).remove(0);
    assert_eq!(
        told.method(),
        Some("notifications/subscriptions/acknowledged")
    );
    assert_eq!(told.meta(SUBSCRIPTION), Some("\"s\""));
    let given = r#"{"toolsListChanged":true,"resourceSubscriptions":["a:b"]}"#;
    assert_eq!(told.param("notifications"), Some(given));
    let (_, subscribe) = rig.written();
    assert_eq!(
        (subscribe.method(), subscribe.param("uri")),
        (Some("resources/subscribe"), Some("\"a:b\""))
    );
    assert_eq!(rig.end_of(exchange), None);
}

#[test]
fn only_what_was_asked_for_is_told_with_the_id_of_the_subscription() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_legacy();
    let exchange = listen(
        &mut rig,
        ANN,
        "9",
        r#"{"toolsListChanged":true,"resourceSubscriptions":["a:"]}"#,
    );
    rig.says(
        child,
        &notification("notifications/tools/list_changed", "{}"),
    );
    rig.says(
        child,
        &notification("notifications/resources/list_changed", "{}"),
    );
    rig.says(
        child,
        &notification("notifications/resources/updated", r#"{"uri":"a:b"}"#),
    );
    rig.says(
        child,
        &notification("notifications/resources/updated", r#"{"uri":"c:d"}"#),
    );
    let told = rig.messages(exchange);
    let methods: Vec<_> = told.iter().filter_map(|message| message.method()).collect();
    assert_eq!(
        methods[1..],
        [
            "notifications/tools/list_changed",
            "notifications/resources/updated"
        ]
    );
    assert!(
        told.iter()
            .all(|message| message.meta(SUBSCRIPTION) == Some("9"))
    );
    assert_eq!(told[2].param("uri"), Some("\"a:b\""));
}

#[test]
fn a_resource_is_subscribed_once_for_all_and_until_the_last_leaves() {
    let mut rig = Rig::new(Share::Always);
    rig.start_legacy();
    let filter = r#"{"resourceSubscriptions":["a:b"]}"#;
    let first = listen(&mut rig, ANN, "1", filter);
    let second = listen(&mut rig, BOB, "1", filter);
    assert_eq!(rig.written().1.method(), Some("resources/subscribe"));
    rig.leaves(first);
    assert!(rig.written.is_empty());
    rig.leaves(second);
    let (_, unsubscribe) = rig.written();
    assert_eq!(
        (unsubscribe.method(), unsubscribe.param("uri")),
        (Some("resources/unsubscribe"), Some("\"a:b\""))
    );
}

#[test]
fn a_session_that_unsubscribes_leaves_the_others_subscribed() {
    let mut rig = Rig::new(Share::Always);
    rig.start_legacy();
    listen(&mut rig, BOB, "1", r#"{"resourceSubscriptions":["a:b"]}"#);
    rig.written();
    let exchange = rig.initialize(ANN, "2025-11-25");
    let session = Opened {
        key: rig.head(exchange).session.unwrap().as_str().to_owned(),
        child: rig.started[0],
    };
    rig.post(
        &session,
        &request("1", "resources/subscribe", r#"{"uri":"a:b"}"#),
    );
    assert_eq!(rig.written().1.method(), Some("resources/subscribe"));
    let exchange = rig.post(
        &session,
        &request("2", "resources/unsubscribe", r#"{"uri":"a:b"}"#),
    );
    assert!(rig.written.is_empty());
    assert_eq!(rig.object(exchange).result(), Some("{}"));
}

#[test]
fn the_end_of_the_child_ends_a_subscription_in_order() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_legacy();
    let exchange = listen(&mut rig, ANN, "9", r#"{"toolsListChanged":true}"#);
    rig.ends(child);
    let end = rig.messages(exchange).remove(1);
    assert_eq!(
        (end.id(), end.result_meta(SUBSCRIPTION)),
        (Some("9"), Some("9"))
    );
    assert_eq!(end.result_member("resultType"), Some("\"complete\""));
    assert_eq!(rig.end_of(exchange), Some(Ending::Done));
}

#[test]
fn a_subscription_without_a_filter_is_refused() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    let exchange = rig.modern(ANN, "1", "subscriptions/listen", "");
    assert_eq!(rig.object(exchange).error_code(), Some(-32602));
    let exchange = listen(&mut rig, ANN, "1", r#"{"resourceSubscriptions":[1]}"#);
    assert_eq!(rig.object(exchange).error_code(), Some(-32602));
}

#[test]
fn subscriptions_at_a_modern_child_have_the_ids_of_their_callers() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_modern();
    let first = listen(&mut rig, ANN, "1", r#"{"toolsListChanged":true}"#);
    let second = listen(&mut rig, BOB, "1", r#"{"toolsListChanged":true}"#);
    let (_, of_first) = rig.written();
    let (_, of_second) = rig.written();
    for request in [&of_second, &of_first] {
        let params = format!(
            r#"{{"_meta":{{"{SUBSCRIPTION}":{}}}}}"#,
            request.id().unwrap()
        );
        rig.says(
            child,
            &notification("notifications/subscriptions/acknowledged", &params),
        );
    }
    for exchange in [first, second] {
        let told = rig.messages(exchange);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].meta(SUBSCRIPTION), Some("1"));
    }
    let id = of_first.id().unwrap();
    let result = format!(r#"{{"resultType":"complete","_meta":{{"{SUBSCRIPTION}":{id}}}}}"#);
    rig.answer(child, &of_first, &result);
    let end = rig.messages(first).remove(1);
    assert_eq!(
        (end.id(), end.result_meta(SUBSCRIPTION)),
        (Some("1"), Some("1"))
    );
    rig.leaves(second);
    assert_eq!(rig.written().1.param("requestId"), of_second.id());
}

#[test]
fn a_subscription_that_a_modern_child_takes_down_ends_in_order() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_modern();
    let exchange = listen(&mut rig, ANN, "1", r#"{"toolsListChanged":true}"#);
    let (_, request) = rig.written();
    let params = format!(r#"{{"requestId":{}}}"#, request.id().unwrap());
    rig.pass(SECOND);
    rig.says(child, &notification("notifications/cancelled", &params));
    assert_eq!(
        rig.messages(exchange)[0].result_meta(SUBSCRIPTION),
        Some("1")
    );
    assert_eq!(rig.end_of(exchange), Some(Ending::Done));
}

#[test]
fn a_quiet_subscription_is_kept_open_with_comments() {
    let mut rig = Rig::new(Share::Auto);
    rig.start_legacy();
    let exchange = listen(&mut rig, ANN, "1", r#"{"toolsListChanged":true}"#);
    rig.pass(31 * SECOND);
    assert!(rig.answers[&exchange].body.ends_with(":\n\n:\n\n"));
}
