use super::*;
use crate::message::Token;

#[test]
fn both_sides_learn_who_the_other_is() {
    let mut pair = Pair::unconnected(Settings::default());
    pair.exchange();
    assert_eq!(
        pair.agent_events,
        [Event::RelayHello(RelayHello::new(NONCE, 100))]
    );
    assert!(!pair.agent.is_established() && !pair.relay.is_established());
    pair.agent.hello(&signed_hello(&NONCE));
    pair.exchange();
    assert_eq!(pair.relay_events, [Event::AgentHello(signed_hello(&NONCE))]);
    assert!(pair.agent.is_established() && pair.relay.is_established());
}

#[test]
fn a_handshake_survives_any_split() {
    for step in [1, 2, 3, 7, 11, 12, 13] {
        let mut pair = Pair::unconnected(Settings::default());
        let first = take_output(&mut pair.agent, pair.now);
        for piece in first.chunks(step) {
            give_input(&mut pair.relay, pair.now, piece.to_vec()).unwrap();
        }
        let answer = take_output(&mut pair.relay, pair.now);
        let mut events = Vec::new();
        for piece in answer.chunks(step) {
            events.extend(give_input(&mut pair.agent, pair.now, piece.to_vec()).unwrap());
        }
        assert_eq!(events.len(), 1);
    }
}

#[test]
fn a_registration_is_answered() {
    let mut pair = Pair::connected();
    let register = Register {
        request: 1,
        label: "127.0.0.1:8765".into(),
        token: Token::new("secret".into()),
        ..Register::default()
    };
    pair.agent.register(&register);
    pair.exchange();
    assert_eq!(pair.relay_events, [Event::Register(register)]);
    let ack = granted(15_000);
    pair.relay.register_ack(&ack);
    let withdrawal = Withdrawal {
        request: 1,
        tunnel: TunnelId::parse("maya").unwrap(),
        refusal: Refusal::new(RefusalReason::Kicked, ""),
    };
    pair.relay.withdraw(&withdrawal);
    pair.agent.unregister(&TunnelId::parse("maya").unwrap());
    pair.exchange();
    let heard = [Event::RegisterAck(ack), Event::Withdrawn(withdrawal)];
    assert_eq!(pair.agent_events, heard);
    assert_eq!(
        pair.relay_events[1],
        Event::Unregister(TunnelId::parse("maya").unwrap())
    );
}

#[test]
fn a_wrong_preface_ends_the_link_at_its_first_wrong_byte() {
    for wrong in [&b"GET / HTTP/1.1\r\n"[..], b"TLINE\r\n\x02", b"TLX"] {
        let mut pair = Pair::unconnected(Settings::default());
        let error = give_input(&mut pair.relay, pair.now, wrong.to_vec()).unwrap_err();
        assert_eq!(error.reason, LinkEnd::Preface);
        // A port scanner gets no answer.
        assert!(take_output(&mut pair.relay, pair.now).is_empty());
    }
}

#[test]
fn a_second_hello_ends_the_link() {
    let mut pair = Pair::connected();
    let hello = raw_message(Kind::Hello, 0, &signed_hello(&NONCE));
    let error = give_input(&mut pair.relay, pair.now, hello).unwrap_err();
    assert_eq!(error.reason, LinkEnd::Protocol);
    let hello = raw_message(Kind::Hello, 0, &RelayHello::new(NONCE, 1));
    let error = give_input(&mut pair.agent, pair.now, hello).unwrap_err();
    assert_eq!(error.reason, LinkEnd::Protocol);
}

fn error_of_hello(relay: RelayHello, hello: &AgentHello) -> Option<LinkEnd> {
    let mut pair = Pair::unconnected(Settings::default());
    pair.relay = Mux::relay(relay, Settings::default(), pair.now);
    pair.exchange();
    pair.agent.hello(hello);
    let bytes = take_output(&mut pair.agent, pair.now);
    let result = give_input(&mut pair.relay, pair.now, bytes);
    result.err().map(|error| error.reason)
}

#[test]
fn a_signature_for_another_nonce_is_refused() {
    let relay = RelayHello::new(NONCE, 1);
    assert_eq!(error_of_hello(relay.clone(), &signed_hello(&NONCE)), None);
    assert_eq!(
        error_of_hello(relay, &signed_hello(&[8; 32])),
        Some(LinkEnd::BadSignature)
    );
}

#[test]
fn a_version_outside_what_the_relay_offered_is_refused() {
    for version in [0, 2, u16::MAX] {
        let hello = AgentHello {
            version,
            ..signed_hello(&NONCE)
        };
        let relay = RelayHello::new(NONCE, 1);
        assert_eq!(error_of_hello(relay, &hello), Some(LinkEnd::Version));
    }
}

#[test]
fn an_agent_may_choose_any_version_that_the_relay_offered() {
    let relay = RelayHello {
        version_min: 1,
        version_max: 9,
        ..RelayHello::new(NONCE, 1)
    };
    assert_eq!(error_of_hello(relay, &signed_hello(&NONCE)), None);
}

#[test]
fn an_agent_that_finds_no_common_version_says_so() {
    let mut pair = Pair::unconnected(Settings::default());
    let mut bytes = PREFACE.to_vec();
    let hello = RelayHello {
        version_min: 2,
        version_max: 3,
        ..RelayHello::new(NONCE, 1)
    };
    bytes.extend_from_slice(&raw_message(Kind::Hello, 0, &hello));
    let error = give_input(&mut pair.agent, pair.now, bytes).unwrap_err();
    assert_eq!(error.reason, LinkEnd::Version);
}

#[test]
fn nothing_but_a_hello_or_a_good_bye_comes_first() {
    let register = raw_message(Kind::Register, 0, &Register::default());
    for bytes in [
        register,
        raw(Kind::Ping, 0, &[0; 8]),
        raw(Kind::Data, 1, b"x"),
        raw(Kind::Credit, 1, &[0; 4]),
    ] {
        let mut pair = Pair::unconnected(Settings::default());
        give_input(&mut pair.relay, pair.now, PREFACE.to_vec()).unwrap();
        let error = give_input(&mut pair.relay, pair.now, bytes).unwrap_err();
        assert_eq!(error.reason, LinkEnd::Protocol);
    }
}

#[test]
fn an_agent_says_nothing_before_its_hello_however_late_that_is() {
    let mut pair = Pair::unconnected(Settings::default());
    pair.exchange();
    pair.now = pair.now + millis(100);
    pair.handle_timeouts();
    assert!(take_output(&mut pair.agent, pair.now).is_empty());
    pair.agent.hello(&signed_hello(&NONCE));
    pair.exchange();
    assert!(pair.relay.is_established());
}

#[test]
fn a_relay_that_goes_away_before_the_preface_stays_silent() {
    let mut pair = Pair::unconnected(Settings::default());
    pair.relay.go_away(&GoAway {
        last_session: 0,
        reason: LinkEnd::ShuttingDown,
        deadline_ms: 0,
        message: String::new(),
    });
    pair.exchange();
    assert!(matches!(pair.agent_events[0], Event::RelayHello(_)));
    assert!(matches!(pair.agent_events[1], Event::GoAway(_)));
}

#[test]
fn free_text_of_ours_never_breaks_the_peers_rules() {
    let mut pair = Pair::connected();
    let message = format!("first line\nsecond {}", "ä".repeat(2000));
    let refusal = Refusal::new(RefusalReason::BadToken, message.clone());
    pair.relay.refuse_registration(1, refusal);
    pair.relay.go_away(&GoAway {
        last_session: 0,
        reason: LinkEnd::ShuttingDown,
        deadline_ms: 0,
        message,
    });
    pair.exchange();
    assert_eq!(pair.agent_events.len(), 2);
    let Event::RegisterAck(ack) = &pair.agent_events[0] else {
        panic!("no acknowledgement");
    };
    let refusal = ack.outcome.as_ref().unwrap_err();
    assert!(refusal.message.starts_with("first line second ä"));
}
