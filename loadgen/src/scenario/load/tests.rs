use super::*;

#[test]
fn a_scenario_reads_back_its_own_name() {
    for name in [
        "1x256",
        "512x1024",
        "16x256@3000",
        "bulk-up-1",
        "bulk-down-8",
        "bulk-both-2",
        "connect-16",
        "idle-2000",
        "fanout-1000x64",
        "mixed-16x256@3000",
        "mixed-50x256@250+3000",
        "calls-64",
        "events-8@100",
        "streams-2000",
        "handshakes-x25519-16",
        "handshakes-x25519mlkem768-1",
        "handshakes-resumed-8",
    ] {
        assert_eq!(
            name.parse::<Scenario>().map(|scenario| scenario.name()),
            Ok(name.to_owned())
        );
    }
}

#[test]
fn a_wrong_scenario_says_what_is_expected() {
    for text in [
        "",
        "64",
        "x",
        "64x",
        "ax256",
        "64x256@",
        "64x256@fast",
        "bulk",
        "bulk-1",
        "bulk-in-1",
        "idle-",
        "idle-x",
        "fanout-2x2@2",
        "mixed-2x2",
        "mixed-2x2+9",
        "mixed-2x2@2+fast",
        "pour-3",
        "calls-64@9",
        "events-8",
        "streams-",
        "handshakes-16",
        "handshakes-p256-16",
    ] {
        assert_eq!(
            text.parse::<Scenario>(),
            Err(ScenarioError::Shape(text.to_owned()))
        );
    }
}

#[test]
fn limits_are_named() {
    for (text, error) in [
        ("0x1", ScenarioError::Connections(0)),
        ("1x0", ScenarioError::Size(0)),
        ("1x1@0", ScenarioError::Rate),
        ("mixed-1x1@0", ScenarioError::Rate),
        ("mixed-1x1@9+0", ScenarioError::Rate),
        ("bulk-up-0", ScenarioError::Connections(0)),
        ("bulk-up-2000", ScenarioError::Streams(2000)),
        ("idle-30000", ScenarioError::Connections(30_000)),
        ("calls-0", ScenarioError::Connections(0)),
        ("events-8@0", ScenarioError::Rate),
    ] {
        assert_eq!(text.parse::<Scenario>(), Err(error));
    }
}

#[test]
fn loads_over_http_are_told_from_others() {
    let of = |name: &str| name.parse::<Scenario>().unwrap();
    for name in ["calls-1", "events-8@100", "streams-9"] {
        assert!(of(name).is_http(), "{name}");
    }
    assert!(!of("1x256").is_http() && !of("idle-9").is_http());
    assert!(of("streams-9").grows_memory() && of("idle-9").grows_memory());
    assert!(!of("calls-9").grows_memory());
}
