//! Properties that hold for any message, any bytes and any order of calls.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod orders;
mod peers;

use orders::calls::{KINDS, call, make};
use orders::{START, Step, Two, connected, step};
use peers::{NONCE, give_input, signed_hello, take_output};
use proptest::prelude::*;
use tieline_wire::frame::{self, Kind};
use tieline_wire::{
    AgentHello, Event, Generation, GoAway, Granted, LinkEnd, Mode, Mux, Open, Refusal,
    RefusalReason, Register, RegisterAck, RelayHello, Scheme, SessionId, Settings, Token, TunnelId,
    Withdrawal, limits,
};

fn text(longest: usize) -> impl Strategy<Value = String> {
    prop::collection::vec("[^\\p{Cc}]", 0..longest).prop_map(|chars| chars.concat())
}

fn tunnel() -> impl Strategy<Value = TunnelId> {
    "[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?".prop_map(|name| TunnelId::parse(&name).unwrap())
}

fn refusal_reason() -> impl Strategy<Value = RefusalReason> {
    prop::sample::select(RefusalReason::ALL)
}

prop_compose! {
    fn register()(
        request: u32,
        name in prop::option::of(text(40)),
        label in text(200),
        scheme in prop::sample::select(
            &[Scheme::Tcp, Scheme::Http, Scheme::Https, Scheme::Stdio][..]
        ),
        authority in text(100),
        base_path in "(/[a-z0-9@:_~-]{1,8}){0,12}",
        dcc in text(20),
        capabilities in prop::collection::vec(text(10), 0..limits::CAPABILITIES_MAX),
        token in "[a-zA-Z0-9._-]{0,400}",
        expose_all: bool,
    ) -> Register {
        let token = Token::new(token);
        Register {
            request, name, label, scheme, authority, base_path, dcc, capabilities, token, expose_all,
        }
    }
}

fn register_ack() -> impl Strategy<Value = RegisterAck> {
    let granted = (
        tunnel(),
        prop::collection::vec(text(60), 0..5),
        any::<(u64, u32, u32)>(),
    );
    let granted = granted.prop_map(|(tunnel, urls, (generation, heartbeat_ms, expires_in_s))| {
        let generation = Generation(generation);
        Ok(Granted {
            tunnel,
            urls,
            generation,
            heartbeat_ms,
            expires_in_s,
        })
    });
    let refused = (refusal_reason(), text(100))
        .prop_map(|(reason, message)| Err(Refusal { reason, message }));
    (any::<u32>(), prop_oneof![granted, refused])
        .prop_map(|(request, outcome)| RegisterAck { request, outcome })
}

proptest! {
    #[test]
    fn a_header_reads_back_as_written(
        kind in prop::sample::select(&KINDS[..]),
        session in 1..=u32::MAX,
        len in 0..=limits::DATA_BYTES_MAX,
        end_of_message: bool,
    ) {
        let of_link = matches!(
            kind,
            Kind::Ping | Kind::Pong | Kind::Hello | Kind::Register | Kind::RegisterAck
                | Kind::Unregister | Kind::GoAway
        );
        let session = SessionId(if of_link { 0 } else { session });
        let payload_len = match kind {
            Kind::Ping | Kind::Pong | Kind::Finish => 8,
            Kind::Credit | Kind::CreditReturn => 4,
            Kind::Reset => 2,
            _ => len,
        };
        let end_of_message = end_of_message && kind == Kind::Data;
        let bytes = frame::encode(kind, session, payload_len, end_of_message);
        prop_assert_eq!(bytes.len(), limits::HEADER_BYTES);
        let header = frame::decode(bytes).unwrap();
        let expected = frame::Header { payload_len, session, kind: Some(kind), end_of_message };
        prop_assert_eq!(header, expected);
    }

    #[test]
    fn a_header_that_is_accepted_means_one_thing(bytes: [u8; 12]) {
        if let Ok(header) = frame::decode(bytes) {
            prop_assert!(header.payload_len <= limits::TABLE_BYTES_MAX);
            if let Some(kind) = header.kind {
                let mut again = frame::encode(
                    kind, header.session, header.payload_len, header.end_of_message,
                );
                again[9] |= bytes[9] & frame::OPTIONAL;
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn what_a_relay_says_arrives_as_said(
        relay_version in text(100),
        sessions_max: u32,
        nonce: [u8; 32],
    ) {
        let hello = RelayHello { relay_version, ..RelayHello::new(nonce, sessions_max) };
        let mut relay = Mux::relay(hello.clone(), Settings::default(), START);
        let mut agent = Mux::agent(Settings::default(), START);
        let bytes = take_output(&mut agent, START);
        give_input(&mut relay, START, bytes).unwrap();
        let events = give_input(&mut agent, START, take_output(&mut relay, START)).unwrap();
        prop_assert_eq!(events, [Event::RelayHello(hello)]);
    }

    #[test]
    fn a_hello_without_its_key_is_refused(agent_version in text(100), links: u16, at in 0_usize..64) {
        // A change to the signature, and a change to the signed content.
        let mut changed = signed_hello();
        changed.signature[at] ^= 1;
        let renamed = AgentHello { agent_version, links, ..signed_hello() };
        prop_assert_eq!(changed.verify(&NONCE), Err(LinkEnd::BadSignature));
        if renamed != signed_hello() {
            prop_assert_eq!(renamed.verify(&NONCE), Err(LinkEnd::BadSignature));
        }
    }

    #[test]
    fn control_messages_arrive_as_sent_in_order(
        register in register(),
        ack in register_ack(),
        tunnel in tunnel(),
        messages: bool,
        reason in refusal_reason(),
        message in text(100),
        away in (any::<(u32, u32)>(), prop::sample::select(LinkEnd::ALL), text(100)),
    ) {
        let (mut relay, mut agent) = connected(Settings::default());
        agent.register(&register);
        agent.unregister(&tunnel);
        let events = give_input(&mut relay, START, take_output(&mut agent, START)).unwrap();
        prop_assert_eq!(events, [Event::Register(register), Event::Unregister(tunnel.clone())]);

        let refusal = Refusal { reason, message };
        let (request, of) = (ack.request, tunnel.clone());
        let withdrawal = Withdrawal { request, tunnel: of, refusal };
        relay.register_ack(&ack);
        relay.withdraw(&withdrawal);
        let open = Open { tunnel, mode: if messages { Mode::Messages } else { Mode::Bytes } };
        let session = relay.open(&open).unwrap();
        let ((last_session, deadline_ms), reason, message) = away;
        let away = GoAway { last_session, reason, deadline_ms, message };
        relay.go_away(&away);
        let events = give_input(&mut agent, START, take_output(&mut relay, START)).unwrap();
        let expected = [
            Event::RegisterAck(ack),
            Event::Withdrawn(withdrawal),
            Event::Open { session, open },
            Event::GoAway(away),
        ];
        prop_assert_eq!(events, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn bytes_out_are_a_prefix_of_bytes_in_and_credit_is_never_overrun(
        steps in prop::collection::vec((0_usize..2, step()), 0..120),
        budget_bytes in prop::sample::select(&[0, 50_000, 1 << 20, 64 << 20][..]),
    ) {
        let settings = Settings { budget_bytes, sessions_max: 8, ..Settings::default() };
        let mut two = Two::new(settings);
        two.step(0, Step::Open);
        for (side, step) in steps {
            two.step(side, step);
        }
        two.settle();
        for peer in &two.peers {
            prop_assert_eq!(peer.mux.session_count(), 0, "both ends of every session finished");
            for stream in peer.streams.values().filter(|it| it.finished) {
                prop_assert_eq!(stream.received, stream.sent);
            }
        }
    }
}

proptest! {
    #[test]
    fn no_order_of_calls_and_no_input_panics(
        calls in prop::collection::vec(call(), 0..80),
        which in 0..4_u8,
    ) {
        let (relay, agent) = connected(Settings::default());
        let mut mux = match which {
            0 => relay,
            1 => agent,
            2 => Mux::relay(RelayHello::new(NONCE, 1), Settings::default(), START),
            _ => Mux::agent(Settings::default(), START),
        };
        let mut now = START;
        for call in calls {
            make(&mut mux, &mut now, call);
        }
    }
}
