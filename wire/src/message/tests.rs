use proptest::prelude::*;

use super::decode::Unregistered;
use super::*;
use crate::limits::{
    CAPABILITIES_MAX, CAPABILITY_BYTES_MAX, LOST_SESSIONS_MAX, STRING_BYTES_MAX, TABLE_BYTES_MAX,
    TOKEN_BYTES_MAX, URL_BYTES_MAX, URLS_MAX,
};

fn round_trip<T: Message + Decode>(message: &T) -> Result<T, crate::Error> {
    read_back(message)
}

fn read_back<T: Decode>(message: &impl Message) -> Result<T, crate::Error> {
    let mut encoder = Encoder::new();
    let bytes = encoder.encode(message).to_vec();
    // A table may start at any address in a receive buffer.
    for shift in 0..9 {
        let mut moved = vec![0; shift];
        moved.extend_from_slice(&bytes);
        T::decode(&moved[shift..])?;
    }
    T::decode(&bytes)
}

fn register() -> Register {
    Register {
        request: 7,
        name: Some("maya".into()),
        label: "127.0.0.1:8765/mcp".into(),
        scheme: Scheme::Http,
        authority: "127.0.0.1:8765".into(),
        base_path: "/mcp".into(),
        dcc: "maya".into(),
        capabilities: vec!["render".into(), "scene".into()],
        token: Token::new("secret".into()),
        expose_all: true,
    }
}

fn withdrawal() -> Withdrawal {
    Withdrawal {
        request: 3,
        tunnel: TunnelId::parse("maya").unwrap(),
        refusal: Refusal::new(RefusalReason::Kicked, "by an operator"),
    }
}

fn lost(last_session: u32, sessions: Vec<(SessionId, u64)>) -> Lost {
    Lost {
        nonce: [9; 32],
        last_session: SessionId(last_session),
        sessions,
    }
}

fn hello() -> AgentHello {
    AgentHello {
        version: 1,
        key: AgentKey::new([1; 32]),
        machine: MachineId::new([2; 16]),
        instance: InstanceId::new([3; 16]),
        link_index: 1,
        links: 2,
        relay_name: "relay.example:9001".into(),
        agent_version: "tieline/0.1.0".into(),
        signature: [4; 64],
        bound_signature: None,
    }
}

#[test]
fn every_message_reads_back_as_written() {
    let relay = RelayHello::new([9; 32], 100);
    assert_eq!(round_trip(&relay).unwrap(), relay);
    let over_tls = relay.with_exporter(Some([5; 32]));
    assert_eq!(round_trip(&over_tls).unwrap(), over_tls);
    assert_eq!(round_trip(&hello()).unwrap(), hello());
    let bound = AgentHello {
        bound_signature: Some([6; 64]),
        ..hello()
    };
    assert_eq!(round_trip(&bound).unwrap(), bound);
    assert_eq!(round_trip(&register()).unwrap(), register());
    let open = Open {
        tunnel: TunnelId::parse("maya").unwrap(),
        mode: Mode::Messages,
    };
    assert_eq!(round_trip(&open).unwrap(), open);
    let away = GoAway {
        last_session: 9,
        reason: LinkEnd::ShuttingDown,
        deadline_ms: 5000,
        message: "restart".into(),
    };
    assert_eq!(round_trip(&away).unwrap(), away);
    let nonce = BulkNonce::new([8; 16]);
    let mut encoder = Encoder::new();
    assert_eq!(
        BulkNonce::decode(encoder.encode(&BulkOffer(&nonce))).unwrap(),
        nonce
    );
    let bulk = Bulk {
        bytes_total: 1 << 40,
    };
    let read = Bulk::decode(encoder.encode(&bulk)).unwrap();
    assert_eq!(read.bytes_total, bulk.bytes_total);
    for outcome in [
        Ok(Granted {
            tunnel: TunnelId::parse("maya").unwrap(),
            urls: vec!["http://127.0.0.1:9080/w/maya/mcp".into()],
            generation: Generation(1 << 40),
            heartbeat_ms: 15_000,
            expires_in_s: 3_600,
        }),
        Err(Refusal::new(
            RefusalReason::NameTaken,
            "held by another key",
        )),
        Err(Refusal::new(RefusalReason::Internal, "")),
    ] {
        let ack = RegisterAck {
            request: 3,
            outcome,
        };
        assert_eq!(read_back::<Acked>(&ack).unwrap(), Acked::Answered(ack));
    }
    for sessions in [vec![], vec![(SessionId(1), 0), (SessionId(9), u64::MAX)]] {
        let lost = lost(9, sessions);
        assert_eq!(round_trip(&lost).unwrap(), lost);
    }
    let withdrawal = withdrawal();
    let read = read_back::<Acked>(&withdrawal).unwrap();
    assert_eq!(read, Acked::Withdrawn(withdrawal));
    let mut encoder = Encoder::new();
    let id = TunnelId::parse("maya").unwrap();
    let bytes = encoder.encode(&Unregister(&id)).to_vec();
    assert_eq!(Unregistered::decode(&bytes).unwrap().0, id);
    assert!(round_trip(&Opened).is_ok());
}

#[test]
fn sessions_of_a_lost_link_rise_and_are_as_many_as_their_counts() {
    let sessions = |ids: &[u32]| ids.iter().map(|id| (SessionId(*id), 1)).collect();
    let many: Vec<u32> = (1..).take(LOST_SESSIONS_MAX + 1).collect();
    assert!(round_trip(&lost(u32::MAX, sessions(&many[1..]))).is_ok());
    for wrong in [&many[..], &[2, 1], &[2, 2], &[0, 1], &[1, 3_000]] {
        let error = round_trip(&lost(2_000, sessions(wrong))).unwrap_err();
        assert_eq!(error.reason, LinkEnd::Table, "{wrong:?}");
    }
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    for (nonce, ids, counts) in [(32, 1, 2), (32, 2, 1), (32, 0, 1), (31, 1, 1), (33, 1, 1)] {
        builder.reset();
        let args = crate::generated::LostArgs {
            nonce: Some(builder.create_vector(&vec![9_u8; nonce])),
            last_session: 9,
            sessions: Some(builder.create_vector(&[1_u32, 2][..ids])),
            received: Some(builder.create_vector(&[1_u64, 2][..counts])),
        };
        let root = crate::generated::Lost::create(&mut builder, &args);
        builder.finish_minimal(root);
        let error = Lost::decode(builder.finished_data()).unwrap_err();
        assert_eq!(error.reason, LinkEnd::Table);
    }
}

#[test]
fn a_lost_link_tells_of_what_was_open_and_of_what_was_never_seen() {
    let lost = lost(5, vec![(SessionId(2), 100), (SessionId(4), 0)]);
    let told = [1, 2, 3, 4, 5, 6].map(|id| lost.received(SessionId(id)));
    assert_eq!(told, [None, Some(100), None, Some(0), None, Some(0)]);
}

#[test]
fn fields_past_their_bounds_are_refused() {
    let long = "x".repeat(STRING_BYTES_MAX + 1);
    for wrong in [
        Register {
            label: long.clone(),
            ..register()
        },
        Register {
            authority: "a\r\nb".into(),
            ..register()
        },
        Register {
            name: Some(long),
            ..register()
        },
        Register {
            token: Token::new("x".repeat(TOKEN_BYTES_MAX + 1)),
            ..register()
        },
        Register {
            capabilities: vec!["c".into(); CAPABILITIES_MAX + 1],
            ..register()
        },
        Register {
            capabilities: vec!["c".repeat(CAPABILITY_BYTES_MAX + 1)],
            ..register()
        },
    ] {
        assert_eq!(round_trip(&wrong).unwrap_err().reason, LinkEnd::Table);
    }
}

#[test]
fn every_scheme_reads_back_and_another_one_is_refused() {
    let with = |scheme| Register {
        scheme,
        ..register()
    };
    for scheme in [Scheme::Tcp, Scheme::Http, Scheme::Https, Scheme::Stdio] {
        assert_eq!(round_trip(&with(scheme)).unwrap(), with(scheme));
    }
    let encoded = |scheme| Encoder::new().encode(&with(scheme)).to_vec();
    let (https, mut bytes) = (encoded(Scheme::Https), encoded(Scheme::Stdio));
    let mut pairs = https.iter().zip(&bytes);
    let at = pairs.position(|(one, other)| one != other).unwrap();
    assert_eq!((https[at], bytes[at]), (2, 3));
    bytes[at] = 4;
    let refused = Register::decode(&bytes).unwrap_err();
    assert_eq!(refused.reason, LinkEnd::Table);
}

#[test]
fn the_longest_messages_that_are_accepted_fit_a_frame() {
    let text = "x".repeat(STRING_BYTES_MAX);
    let register = Register {
        request: 1,
        name: Some(text.clone()),
        label: text.clone(),
        scheme: Scheme::Https,
        authority: text.clone(),
        base_path: format!("/{}", &text[1..]),
        dcc: text.clone(),
        capabilities: vec!["c".repeat(CAPABILITY_BYTES_MAX); CAPABILITIES_MAX],
        token: Token::new("t".repeat(TOKEN_BYTES_MAX)),
        expose_all: true,
    };
    assert_eq!(round_trip(&register).unwrap(), register);
    assert!(Encoder::new().encode(&register).len() <= TABLE_BYTES_MAX as usize);
    let ack = RegisterAck {
        request: 1,
        outcome: Ok(Granted {
            tunnel: TunnelId::parse(&"t".repeat(63)).unwrap(),
            urls: vec!["u".repeat(URL_BYTES_MAX); URLS_MAX],
            generation: Generation(u64::MAX),
            heartbeat_ms: 1,
            expires_in_s: u32::MAX,
        }),
    };
    assert_eq!(
        read_back::<Acked>(&ack).unwrap(),
        Acked::Answered(ack.clone())
    );
    assert!(Encoder::new().encode(&ack).len() <= TABLE_BYTES_MAX as usize);
}

#[test]
fn a_token_is_never_shown() {
    assert!(!format!("{:?}", register()).contains("secret"));
}

#[test]
fn a_signature_is_good_for_one_nonce_one_relay_and_one_instance() {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    let pair = Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap();
    let mut signed = hello();
    signed.key = AgentKey::new(pair.public_key().as_ref().try_into().unwrap());
    let signature = pair.sign(&signed.transcript(&[1; 32]));
    signed.signature = signature.as_ref().try_into().unwrap();
    assert_eq!(signed.verify(&[1; 32]), Ok(()));
    assert_eq!(signed.verify(&[2; 32]), Err(LinkEnd::BadSignature));
    let elsewhere = AgentHello {
        relay_name: "other:1".into(),
        ..signed.clone()
    };
    assert_eq!(elsewhere.verify(&[1; 32]), Err(LinkEnd::BadSignature));
    let other_run = AgentHello {
        instance: InstanceId::new([9; 16]),
        ..signed
    };
    assert_eq!(other_run.verify(&[1; 32]), Err(LinkEnd::BadSignature));
}

#[test]
fn a_bound_signature_is_good_for_one_end_of_one_tls_connection() {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    let pair = Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap();
    let sign = |transcript: Vec<u8>| -> [u8; 64] {
        let signature = pair.sign(&transcript);
        signature.as_ref().try_into().unwrap()
    };
    let (nonce, own, other) = ([1; 32], [2; 32], [3; 32]);
    let mut signed = hello();
    signed.key = AgentKey::new(pair.public_key().as_ref().try_into().unwrap());
    signed.signature = sign(signed.transcript(&nonce));
    assert_eq!(signed.binding(&nonce, Some(&own)), ChannelBinding::None);
    signed.bound_signature = Some(sign(signed.bound_transcript(&nonce, &own)));
    assert_eq!(signed.binding(&nonce, Some(&own)), ChannelBinding::Bound);
    assert_eq!(signed.binding(&nonce, Some(&other)), ChannelBinding::Other);
    assert_eq!(signed.binding(&nonce, None), ChannelBinding::None);
    assert_eq!(signed.binding(&other, Some(&own)), ChannelBinding::Other);
    // Neither signature passes for the other.
    let swapped = AgentHello {
        signature: signed.bound_signature.unwrap(),
        bound_signature: Some(signed.signature),
        ..signed.clone()
    };
    assert_eq!(swapped.verify(&nonce), Err(LinkEnd::BadSignature));
    assert_eq!(swapped.binding(&nonce, Some(&own)), ChannelBinding::Other);
    // An agent without the second signature, and one with it, prove their key all the same.
    assert_eq!(signed.verify(&nonce), Ok(()));
    signed.bound_signature = None;
    assert_eq!(signed.verify(&nonce), Ok(()));
}

#[test]
fn an_agent_knows_the_other_end_of_its_tls_connection_by_the_exporter() {
    let relay = |exporter| RelayHello::new([9; 32], 1).with_exporter(exporter);
    let (own, other) = (Some([2; 32]), Some([3; 32]));
    assert!(relay(own).is_other_end_of(own));
    assert!(!relay(own).is_other_end_of(other));
    assert!(!relay(own).is_other_end_of(None));
    assert!(!relay(None).is_other_end_of(own));
    assert!(!relay(None).is_other_end_of(None));
}

#[test]
fn an_exporter_and_a_bound_signature_have_their_lengths() {
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    for (exporter, signature, is_good) in [
        (32, 64, true),
        (31, 64, false),
        (33, 64, false),
        (0, 64, false),
        (32, 63, false),
        (32, 65, false),
        (32, 0, false),
    ] {
        builder.reset();
        let args = crate::generated::HelloArgs {
            version_min: 1,
            version_max: 1,
            nonce: Some(builder.create_vector(&[9_u8; 32])),
            key: Some(builder.create_vector(&[1_u8; 32])),
            machine: Some(builder.create_vector(&[2_u8; 16])),
            instance: Some(builder.create_vector(&[3_u8; 16])),
            signature: Some(builder.create_vector(&[4_u8; 64])),
            exporter: Some(builder.create_vector(&vec![5_u8; exporter])),
            bound_signature: Some(builder.create_vector(&vec![6_u8; signature])),
            ..Default::default()
        };
        let root = crate::generated::Hello::create(&mut builder, &args);
        builder.finish_minimal(root);
        let (relay, agent) = (
            RelayHello::decode(builder.finished_data()),
            AgentHello::decode(builder.finished_data()),
        );
        // Each side reads its own fields only.
        assert_eq!(relay.is_ok(), exporter == 32, "{exporter}");
        assert_eq!(agent.is_ok(), signature == 64, "{signature}");
        assert_eq!(relay.is_ok() && agent.is_ok(), is_good);
    }
}

#[test]
fn a_key_for_which_anybody_can_sign_is_refused() {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    // With the neutral element as the key, the signature R = [0]B, S = 0 fits every message.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut forged = [0; 64];
    forged[0] = 1;
    let mut hello = hello();
    hello.key = AgentKey::new(neutral);
    hello.signature = forged;
    let text = hello.transcript(&[1; 32]);
    let ring = UnparsedPublicKey::new(&ED25519, neutral).verify(&text, &forged);
    assert!(ring.is_ok(), "ring refuses weak keys: remove our check");
    assert_eq!(hello.verify(&[1; 32]), Err(LinkEnd::BadSignature));
}

#[test]
fn the_highest_common_version_is_chosen() {
    let hello = |min, max| RelayHello {
        version_min: min,
        version_max: max,
        ..RelayHello::new([0; 32], 1)
    };
    assert_eq!(hello(1, 1).choose_version(), Some(1));
    assert_eq!(hello(1, 9).choose_version(), Some(1));
    assert_eq!(hello(2, 9).choose_version(), None);
}

proptest! {
    #[test]
    fn any_text_within_bounds_round_trips(
        label in "[^\\p{Cc}]{0,200}",
        dcc in "[a-z]{0,20}",
        words in prop::collection::vec("[a-z]{0,12}", 0..20),
        request: u32,
    ) {
        let message = Register { label, dcc, capabilities: words, request, ..register() };
        prop_assert_eq!(round_trip(&message).unwrap(), message);
    }

    #[test]
    fn no_bytes_panic_a_decoder(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = RelayHello::decode(&bytes);
        let _ = AgentHello::decode(&bytes);
        let _ = Register::decode(&bytes);
        let _ = Acked::decode(&bytes);
        let _ = Open::decode(&bytes);
        let _ = GoAway::decode(&bytes);
        let _ = Unregistered::decode(&bytes);
        let _ = Lost::decode(&bytes);
    }

    #[test]
    fn no_damage_to_a_message_panics_a_decoder(at in 0_usize..200, byte: u8, cut in 0_usize..300) {
        let mut encoder = Encoder::new();
        let mut bytes = encoder.encode(&register()).to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(cut.max(1));
        let _ = Register::decode(&bytes);
        let _ = Acked::decode(&bytes);
        let told = (1..30).map(|id| (SessionId(id), 1 << id)).collect();
        let mut bytes = encoder.encode(&lost(40, told)).to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(cut.max(1));
        let _ = Lost::decode(&bytes);
    }
}
