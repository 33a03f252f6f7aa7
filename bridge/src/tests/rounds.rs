//! Input that a legacy child asks of modern callers.

use super::*;

const ELICITATION: &str = r#"{"elicitation":{}}"#;

/// A call of Ann whose child, a legacy one, has asked for input; returns the child, the call and the state for the
/// caller.
fn parked(rig: &mut Rig) -> (ChildId, Message, String) {
    rig.capabilities = ELICITATION;
    let child = rig.start_legacy();
    let exchange = rig.modern_call(ANN, "1");
    let (_, call) = rig.written();
    rig.says(
        child,
        &request("\"q\"", "elicitation/create", r#"{"message":"m"}"#),
    );
    (child, call, state(rig, exchange))
}

/// The raw state in an answer that asks for input.
fn state(rig: &Rig, exchange: ExchangeId) -> String {
    let answer = rig.object(exchange);
    assert_eq!(
        answer.result_member("resultType"),
        Some("\"input_required\"")
    );
    answer.result_member("requestState").unwrap().to_owned()
}

/// Repeats the call with an answer and this raw state.
fn again(rig: &mut Rig, caller: &str, arguments: &str, state: &str) -> ExchangeId {
    let params = format!(
        r#""name":"t","arguments":{arguments},"inputResponses":{{"input":{{"action":"accept"}}}},"requestState":{state}"#
    );
    rig.modern(caller, "2", "tools/call", &params)
}

#[test]
fn a_request_of_the_child_becomes_the_result_and_its_answer_comes_with_the_repetition() {
    let mut rig = Rig::new(Share::Auto);
    rig.capabilities = ELICITATION;
    let child = rig.start_legacy();
    let exchange = rig.modern_call(ANN, "1");
    let (_, call) = rig.written();
    rig.says(
        child,
        &request("\"q\"", "elicitation/create", r#"{"message":"m"}"#),
    );
    let answer = rig.object(exchange);
    assert_eq!(answer.id(), Some("1"));
    let requests = r#"{"input":{"method":"elicitation/create","params":{"message":"m"}}}"#;
    assert_eq!(answer.result_member("inputRequests"), Some(requests));
    let state = state(&rig, exchange);
    assert_eq!(rig.bridge.state(rig.now).parked, 1);
    let exchange = again(&mut rig, ANN, r#"{"a":1.50}"#, &state);
    let (_, input) = rig.written();
    assert_eq!(
        (input.id(), input.result()),
        (Some("\"q\""), Some(r#"{"action":"accept"}"#))
    );
    assert!(rig.written.is_empty(), "the call itself is not made again");
    rig.answer(child, &call, r#"{"content":[]}"#);
    let answer = rig.object(exchange);
    assert_eq!(
        (answer.id(), answer.result_member("content")),
        (Some("2"), Some("[]"))
    );
}

#[test]
fn wrong_foreign_and_spent_states_are_refused() {
    let mut rig = Rig::new(Share::Always);
    let (_, _, state) = parked(&mut rig);
    let arguments = r#"{"a":1.50}"#;
    let forged = state.replace(|digit: char| digit.is_ascii_alphanumeric(), "1");
    for (caller, arguments, state) in [
        (ANN, arguments, "\"x\""),
        (ANN, arguments, &*forged),
        (BOB, arguments, &*state),
        (ANN, r#"{"a":2}"#, &*state),
    ] {
        let exchange = again(&mut rig, caller, arguments, state);
        assert_eq!(rig.object(exchange).error_code(), Some(-32602));
    }
    assert!(rig.written.is_empty());
    again(&mut rig, ANN, arguments, &state);
    assert_eq!(rig.written().1.id(), Some("\"q\""));
    let exchange = again(&mut rig, ANN, arguments, &state);
    assert_eq!(
        rig.object(exchange).error_code(),
        Some(-32602),
        "a state counts once"
    );
}

#[test]
fn a_repetition_without_the_answer_is_asked_again() {
    let mut rig = Rig::new(Share::Auto);
    let (_, _, first) = parked(&mut rig);
    let params = format!(r#""name":"t","arguments":{{"a":1.50}},"requestState":{first}"#);
    let exchange = rig.modern(ANN, "2", "tools/call", &params);
    let second = state(&rig, exchange);
    assert_ne!(first, second);
    again(&mut rig, ANN, r#"{"a":1.50}"#, &second);
    assert_eq!(rig.written().1.id(), Some("\"q\""));
}

#[test]
fn requests_of_one_call_are_asked_one_after_the_other() {
    let mut rig = Rig::new(Share::Auto);
    let (child, call, first) = parked(&mut rig);
    rig.says(
        child,
        &request("\"r\"", "elicitation/create", r#"{"message":"n"}"#),
    );
    let exchange = again(&mut rig, ANN, r#"{"a":1.50}"#, &first);
    let second = state(&rig, exchange);
    let exchange = again(&mut rig, ANN, r#"{"a":1.50}"#, &second);
    assert_eq!(
        (rig.written().1.id(), rig.written().1.id()),
        (Some("\"q\""), Some("\"r\""))
    );
    rig.says(
        child,
        &request("\"s\"", "elicitation/create", r#"{"message":"o"}"#),
    );
    let third = state(&rig, exchange);
    let exchange = again(&mut rig, ANN, r#"{"a":1.50}"#, &third);
    rig.answer(child, &call, "{}");
    assert_eq!(
        rig.object(exchange).result_member("resultType"),
        Some("\"complete\"")
    );
}

#[test]
fn an_answer_that_comes_without_input_waits_for_the_caller() {
    let mut rig = Rig::new(Share::Auto);
    let (child, call, state) = parked(&mut rig);
    rig.says(
        child,
        &notification("notifications/cancelled", r#"{"requestId":"q"}"#),
    );
    rig.answer(child, &call, r#"{"content":[]}"#);
    let exchange = again(&mut rig, ANN, r#"{"a":1.50}"#, &state);
    assert_eq!(rig.object(exchange).result_member("content"), Some("[]"));
    assert_eq!(rig.bridge.state(rig.now).calls, 0);
}

#[test]
fn a_caller_that_does_not_come_back_loses_its_call() {
    let mut rig = Rig::new(Share::Auto);
    let (_, call, state) = parked(&mut rig);
    rig.pass(599 * SECOND);
    assert!(rig.written.is_empty());
    rig.pass(SECOND);
    let (_, refused) = rig.written();
    assert_eq!(
        (refused.id(), refused.error().is_some()),
        (Some("\"q\""), true)
    );
    assert_eq!(rig.written().1.param("requestId"), call.id());
    let exchange = again(&mut rig, ANN, r#"{"a":1.50}"#, &state);
    assert_eq!(rig.object(exchange).error_code(), Some(-32602));
}

#[test]
fn a_client_without_the_capability_is_not_asked() {
    let mut rig = Rig::new(Share::Auto);
    let child = rig.start_legacy();
    let exchange = rig.modern_call(ANN, "1");
    rig.written();
    for method in ["elicitation/create", "sampling/createMessage", "roots/list"] {
        rig.says(child, &request("7", method, "{}"));
        let (_, refused) = rig.written();
        assert_eq!(
            (refused.id(), refused.error_code()),
            (Some("7"), Some(-32601)),
            "{method}"
        );
    }
    assert!(rig.is_open(exchange));
}

#[test]
fn a_request_during_no_call_that_takes_input_is_refused() {
    let mut rig = Rig::new(Share::Auto);
    rig.capabilities = ELICITATION;
    let child = rig.start_legacy();
    rig.modern(ANN, "1", "tools/list", "");
    rig.written();
    rig.says(child, &request("7", "elicitation/create", "{}"));
    assert_eq!(rig.written().1.error_code(), Some(-32601));
}

#[test]
fn only_so_many_calls_wait_for_input() {
    let mut rig = Rig::new(Share::Auto);
    rig.capabilities = ELICITATION;
    let child = rig.start_legacy();
    for number in 1..=33 {
        rig.modern_call(ANN, &number.to_string());
        rig.written();
        rig.says(
            child,
            &request(&number.to_string(), "elicitation/create", "{}"),
        );
    }
    assert_eq!(rig.bridge.state(rig.now).parked, 32);
    let (_, refused) = rig.written();
    assert_eq!(
        (refused.id(), refused.error_code()),
        (Some("33"), Some(-32603))
    );
}
