//! `docs/PROTOCOL.md` matches the code: its worked example is what two muxes send, and its tables list
//! every reason and every limit.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod peers;

use std::collections::BTreeMap;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use peers::{give_input, take_output};
use tieline_wire::{
    AgentHello, AgentKey, CallerRefusal, Generation, Granted, InstanceId, LinkEnd, LinkRefusal,
    MachineId, Mode, Moment, Mux, Open, RefusalReason, Register, RegisterAck, RelayHello, Scheme,
    SessionEnd, Settings, Token, TunnelId, limits,
};

const DOCUMENT: &str = include_str!("../../docs/PROTOCOL.md");
const REMEDIES: &str = include_str!("../../docs/TROUBLESHOOTING.md");

fn hex(bytes: &[u8]) -> String {
    let lines: Vec<_> = bytes
        .chunks(16)
        .map(|line| {
            line.iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    lines.join("\n")
}

/// The bytes of every fenced block with this label, in order.
fn blocks(label: &str) -> Vec<String> {
    let fence = format!("```{label}\n");
    let blocks = DOCUMENT.split(&fence).skip(1);
    blocks
        .map(|rest| {
            let block = rest.split("```").next().unwrap();
            let words = block.lines().flat_map(|line| {
                line.split('#')
                    .next()
                    .unwrap_or_default()
                    .split_whitespace()
            });
            let bytes: Vec<u8> = words
                .map(|it| u8::from_str_radix(it, 16).unwrap())
                .collect();
            hex(&bytes)
        })
        .collect()
}

/// The signed transcript of the worked example, and its conversation: sender and bytes, in order.
fn conversation() -> (Vec<u8>, Vec<(&'static str, Vec<u8>)>) {
    let now = Moment::from_micros(1_000_000);
    let nonce: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).unwrap());
    let pair = Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap();
    let mut hello = AgentHello {
        version: 1,
        key: AgentKey::new(pair.public_key().as_ref().try_into().unwrap()),
        machine: MachineId::new([0x22; 16]),
        instance: InstanceId::new([0x33; 16]),
        link_index: 0,
        links: 1,
        relay_name: "relay:9001".into(),
        agent_version: "agent/1".into(),
        signature: [0; 64],
        bound_signature: None,
    };
    let transcript = hello.transcript(&nonce);
    hello.signature = pair.sign(&transcript).as_ref().try_into().unwrap();
    let relay_hello = RelayHello {
        relay_version: "relay/1".into(),
        ..RelayHello::new(nonce, 1000)
    };
    let mut relay = Mux::relay(relay_hello, Settings::default(), now);
    let mut agent = Mux::agent(Settings::default(), now);
    let tunnel = TunnelId::parse("maya").unwrap();

    let mut outputs = Vec::new();
    let agent_says = |agent: &mut Mux, relay: &mut Mux| {
        let bytes = take_output(agent, now);
        give_input(relay, now, bytes.clone()).unwrap();
        bytes
    };
    outputs.push(("hex agent", agent_says(&mut agent, &mut relay)));
    let relay_says = |relay: &mut Mux, agent: &mut Mux| {
        let bytes = take_output(relay, now);
        give_input(agent, now, bytes.clone()).unwrap();
        bytes
    };
    outputs.push(("hex relay", relay_says(&mut relay, &mut agent)));
    agent.hello(&hello);
    outputs.push(("hex agent", agent_says(&mut agent, &mut relay)));
    agent.register(&Register {
        request: 1,
        name: None,
        label: "127.0.0.1:8765/mcp".into(),
        scheme: Scheme::Http,
        authority: "127.0.0.1:8765".into(),
        base_path: "/mcp".into(),
        dcc: "maya".into(),
        capabilities: Vec::new(),
        token: Token::default(),
        expose_all: false,
    });
    outputs.push(("hex agent", agent_says(&mut agent, &mut relay)));
    relay.register_ack(&RegisterAck {
        request: 1,
        outcome: Ok(Granted {
            tunnel: tunnel.clone(),
            urls: vec!["http://relay/w/maya/mcp".into()],
            generation: Generation(0x0102_0304),
            heartbeat_ms: 15_000,
            expires_in_s: 3_600,
        }),
    });
    outputs.push(("hex relay", relay_says(&mut relay, &mut agent)));
    agent.handle_timeout(now).unwrap();
    outputs.push(("hex agent", agent_says(&mut agent, &mut relay)));
    outputs.push(("hex relay", relay_says(&mut relay, &mut agent)));
    let open = Open {
        tunnel,
        mode: Mode::Bytes,
    };
    let id = relay.open(&open).unwrap();
    relay.send(id, "ping".into(), false).unwrap();
    outputs.push(("hex relay", relay_says(&mut relay, &mut agent)));
    agent.opened(id);
    agent.send(id, "pong!".into(), false).unwrap();
    outputs.push(("hex agent", agent_says(&mut agent, &mut relay)));
    relay.finish(id);
    outputs.push(("hex relay", relay_says(&mut relay, &mut agent)));
    agent.finish(id);
    outputs.push(("hex agent", agent_says(&mut agent, &mut relay)));
    assert_eq!((relay.session_count(), agent.session_count()), (0, 0));
    let id = relay.open(&open).unwrap();
    relay_says(&mut relay, &mut agent);
    agent.reset(id, SessionEnd::TargetRefused);
    outputs.push(("hex agent", agent_says(&mut agent, &mut relay)));
    (transcript, outputs)
}

#[test]
fn the_worked_example_is_what_two_muxes_say() {
    let (transcript, outputs) = conversation();
    assert_eq!(blocks("hex transcript"), [hex(&transcript)]);
    for label in ["hex agent", "hex relay"] {
        let expected: Vec<_> = outputs
            .iter()
            .filter(|(who, _)| *who == label)
            .map(|(_, bytes)| hex(bytes))
            .collect();
        let written = blocks(label);
        assert_eq!(written.len(), expected.len(), "{label}");
        for (written, expected) in written.iter().zip(&expected) {
            assert_eq!(written, expected, "{label}");
        }
    }
}

/// Code, word, finality and places of each reason, as a row of the table in the document begins.
fn reasons() -> Vec<String> {
    let mut rows: BTreeMap<u16, (&str, bool, Vec<&str>)> = BTreeMap::new();
    let refusals = RefusalReason::ALL
        .iter()
        .map(|it| (it.code(), it.word(), it.is_final(), "tunnel"));
    let ends = LinkEnd::ALL
        .iter()
        .map(|it| (it.code(), it.word(), it.is_final(), "link"));
    let resets = SessionEnd::ALL
        .iter()
        .map(|it| (it.code(), it.word(), it.is_final(), "session"));
    for (code, word, is_final, place) in refusals.chain(ends).chain(resets) {
        let row = rows.entry(code).or_insert((word, is_final, Vec::new()));
        assert_eq!((row.0, row.1), (word, is_final));
        row.2.push(place);
    }
    let row = |(code, (word, is_final, places)): (u16, (&str, bool, Vec<&str>))| {
        let finality = if is_final { "final" } else { "retry" };
        format!("| {code} | `{word}` | {finality} | {} |", places.join(", "))
    };
    rows.into_iter().map(row).collect()
}

/// Words that only the relay's own counters and logs have.
fn words_of_the_relay() -> impl Iterator<Item = &'static str> {
    let callers = CallerRefusal::ALL.iter().map(|it| it.word());
    callers.chain(LinkRefusal::ALL.iter().map(|it| it.word()))
}

#[test]
fn every_reason_is_documented_with_its_code_finality_and_places() {
    let rows = reasons();
    for row in &rows {
        assert!(DOCUMENT.contains(row), "{row}");
    }
    for word in words_of_the_relay() {
        let is_in_frames = rows.iter().any(|row| row.contains(&format!("`{word}`")));
        let row = format!("| `{word}` | retry | – |");
        assert!(is_in_frames || DOCUMENT.contains(&row), "{row}");
    }
}

#[test]
fn every_reason_has_a_remedy() {
    let rows = reasons();
    let words = rows
        .iter()
        .filter_map(|row| row.split('`').nth(1))
        .map(str::to_owned);
    let own = words_of_the_relay().map(str::to_owned);
    for word in words.chain(own) {
        let word = format!("`{word}`");
        assert!(REMEDIES.contains(&word), "TROUBLESHOOTING.md lacks {word}");
    }
}

#[test]
fn every_reserved_name_is_documented() {
    for name in tieline_wire::RESERVED_NAMES {
        assert!(DOCUMENT.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_limit_is_documented_with_its_number() {
    let seconds = |duration: std::time::Duration| duration.as_secs();
    for (name, number) in [
        ("VERSION_MIN", u64::from(limits::VERSION_MIN)),
        ("VERSION_MAX", u64::from(limits::VERSION_MAX)),
        ("DATA_BYTES_MAX", u64::from(limits::DATA_BYTES_MAX)),
        ("DATA_BYTES_SENT_MAX", limits::DATA_BYTES_SENT_MAX as u64),
        ("TABLE_BYTES_MAX", u64::from(limits::TABLE_BYTES_MAX)),
        ("TABLE_DEPTH_MAX", limits::TABLE_DEPTH_MAX as u64),
        ("TABLES_MAX", limits::TABLES_MAX as u64),
        (
            "SESSION_CREDIT_BYTES",
            u64::from(limits::SESSION_CREDIT_BYTES),
        ),
        (
            "SESSION_WINDOW_BYTES_MAX",
            u64::from(limits::SESSION_WINDOW_BYTES_MAX),
        ),
        ("LINK_BUDGET_BYTES", limits::LINK_BUDGET_BYTES),
        (
            "SESSION_QUEUE_BYTES_MAX",
            limits::SESSION_QUEUE_BYTES_MAX as u64,
        ),
        ("LINK_QUEUE_BYTES_MAX", limits::LINK_QUEUE_BYTES_MAX as u64),
        ("SESSIONS_MAX", u64::from(limits::SESSIONS_MAX)),
        ("LOST_LINKS_MAX", limits::LOST_LINKS_MAX as u64),
        ("LOST_SESSIONS_MAX", limits::LOST_SESSIONS_MAX as u64),
        ("SESSION_IDS_MAX", u64::from(limits::SESSION_IDS_MAX)),
        (
            "TUNNELS_PER_LINK_MAX",
            u64::from(limits::TUNNELS_PER_LINK_MAX),
        ),
        ("HANDSHAKE_TIMEOUT", seconds(limits::HANDSHAKE_TIMEOUT)),
        ("STALE_TIMEOUT", seconds(limits::STALE_TIMEOUT)),
        ("IDLE_CREDIT_TIMEOUT", seconds(limits::IDLE_CREDIT_TIMEOUT)),
        ("STRING_BYTES_MAX", limits::STRING_BYTES_MAX as u64),
        ("TOKEN_BYTES_MAX", limits::TOKEN_BYTES_MAX as u64),
        ("CAPABILITIES_MAX", limits::CAPABILITIES_MAX as u64),
        ("CAPABILITY_BYTES_MAX", limits::CAPABILITY_BYTES_MAX as u64),
        ("URLS_MAX", limits::URLS_MAX as u64),
        ("URL_BYTES_MAX", limits::URL_BYTES_MAX as u64),
        ("TUNNEL_ID_BYTES_MAX", limits::TUNNEL_ID_BYTES_MAX as u64),
    ] {
        let row = format!("| `{name}` | {number} |");
        assert!(DOCUMENT.contains(&row), "{row}");
    }
}
