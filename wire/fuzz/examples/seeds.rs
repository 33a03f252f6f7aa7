//! Writes the seed corpus from real encodings: `cargo run --example seeds` in this folder.

use std::fs;
use std::io;
use std::path::Path;

use tieline_wire::{
    Generation, GoAway, Granted, LinkEnd, Lost, Mux, Refusal, RefusalReason, Register, RegisterAck,
    Scheme, SessionEnd, SessionId, Token, TunnelId,
};
use tieline_wire_fuzz::operations::{
    self, CONSUMED, DELIVER, FINISH, HONEST, HOSTILE_TO_AGENT, HOSTILE_TO_RELAY, INPUT, OPEN,
    OPENED, OUTPUT, SEND, STRANGER_TO_RELAY, at,
};
use tieline_wire_fuzz::{
    HELLO, START, acquainted, give_input, open_message, strangers, take_output,
};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in [
        ("frame_decode", sessions()),
        ("message_verify", tables()),
        ("mux_operations", scripts()),
    ] {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// Byte streams of one link: three from the relay, and one from the agent.
fn sessions() -> Seeds {
    let [mut relay, mut agent] = acquainted();
    relay.handle_timeout(START).expect("a new link");
    relay.register_ack(&granted());
    let id = relay.open(&open_message()).expect("a new link");
    relay.send(id, "question".into(), true).expect("credit");
    let first = take_output(&mut relay, START);
    give_input(&mut agent, START, first.clone()).expect("an honest peer");
    agent.opened(id);
    agent.send(id, vec![1; 9000].into(), false).expect("credit");
    let answer = take_output(&mut agent, START);
    give_input(&mut relay, START, answer.clone()).expect("an honest peer");
    relay.consumed(id, 9000);
    relay.finish(id);
    let second = take_output(&mut relay, START);
    relay.reset(id, SessionEnd::FrontendReset);
    let last = take_output(&mut relay, START);
    let reply = [&answer[..400], &[0; 8]].concat();
    let whole = [first.clone(), second, last].concat();
    let mut skipped = first.clone();
    // An optional frame of an unknown kind, with four bytes of payload.
    skipped.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0, 99, 0x80, 0, 0, 1, 2, 3, 4]);
    vec![
        ("open", first),
        ("whole", whole),
        ("skipped", skipped),
        ("reply", reply),
    ]
}

fn granted() -> RegisterAck {
    RegisterAck {
        request: 1,
        outcome: Ok(Granted {
            tunnel: TunnelId::parse("maya").expect("a name"),
            urls: vec!["http://127.0.0.1:9080/w/maya/mcp".into()],
            generation: Generation(1 << 40),
            heartbeat_ms: 15_000,
            expires_in_s: 3_600,
        }),
    }
}

/// The payload of the only frame that `write` makes, after the number of its reader in `READERS`.
fn table(reader: u8, from: &mut Mux, write: impl FnOnce(&mut Mux)) -> Vec<u8> {
    write(from);
    let bytes = take_output(from, START);
    [&[reader], &bytes[12..]].concat()
}

fn tables() -> Seeds {
    let [mut relay, mut agent] = strangers();
    let preface = take_output(&mut agent, START);
    give_input(&mut relay, START, preface).expect("an honest peer");
    let hello = take_output(&mut relay, START);
    let relay_hello = [&[1], &hello[8 + 12..]].concat();
    give_input(&mut agent, START, hello).expect("an honest peer");
    let agent_hello = table(0, &mut agent, |mux| mux.hello(&HELLO));

    let [mut relay, mut agent] = acquainted();
    let register = Register {
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
    };
    let refusal = RegisterAck {
        request: 7,
        outcome: Err(Refusal::new(
            RefusalReason::NameTaken,
            "held by another key",
        )),
    };
    let away = GoAway {
        last_session: 9,
        reason: LinkEnd::ShuttingDown,
        deadline_ms: 5000,
        message: "restart".into(),
    };
    let lost = Lost {
        nonce: [7; 32],
        last_session: SessionId(9),
        sessions: vec![(SessionId(2), 100), (SessionId(9), 1 << 40)],
    };
    let tunnel = TunnelId::parse("maya").expect("a name");
    relay.open(&open_message()).expect("a new link");
    let open = take_output(&mut relay, START);
    give_input(&mut agent, START, open.clone()).expect("an honest peer");
    let open = [&[5], &open[12..]].concat();
    vec![
        ("agent_hello", agent_hello),
        ("relay_hello", relay_hello),
        ("open", open),
        (
            "opened",
            table(6, &mut agent, |mux| mux.opened(SessionId(1))),
        ),
        (
            "register",
            table(2, &mut agent, |mux| mux.register(&register)),
        ),
        (
            "unregister",
            table(4, &mut agent, |mux| mux.unregister(&tunnel)),
        ),
        (
            "granted",
            table(3, &mut relay, |mux| mux.register_ack(&granted())),
        ),
        (
            "refused",
            table(3, &mut relay, |mux| mux.register_ack(&refusal)),
        ),
        ("lost", table(10, &mut agent, |mux| mux.tell_lost(&lost))),
        ("go_away", table(7, &mut relay, |mux| mux.go_away(&away))),
    ]
}

/// Scripts of `mux_operations`: a first byte that picks the mux, then operations.
fn scripts() -> Seeds {
    let mut seeds = vec![("honest", honest())];
    for (name, mode, stream) in [
        ("hostile_to_agent", HOSTILE_TO_AGENT, &sessions()[1].1),
        ("hostile_to_relay", HOSTILE_TO_RELAY, &sessions()[3].1),
    ] {
        let mut script = vec![mode];
        if mode == HOSTILE_TO_RELAY {
            script.extend([OPEN, 0]);
        }
        for piece in stream.chunks(200) {
            script.extend(input(piece));
        }
        seeds.push((name, script));
    }
    let preface = input(b"TLINE\r\n\x01");
    let preface = [&[STRANGER_TO_RELAY], &preface[..], &[OUTPUT, 0]].concat();
    seeds.push(("preface", preface));
    for (name, script) in &seeds {
        let outcome = operations::run(script);
        assert_eq!(outcome.errors, 0, "{name}: {outcome:?}");
        let bytes = match *name {
            "preface" => 0,
            "honest" => 20_000,
            "hostile_to_agent" => b"question".len(),
            _ => 1,
        };
        assert!(outcome.bytes >= bytes, "{name}: {outcome:?}");
    }
    seeds
}

/// Both ends write, read, consume and finish.
fn honest() -> Vec<u8> {
    let id = 1;
    let number = |number: u32| number.to_le_bytes();
    let mut script = vec![HONEST, at(0, OPEN), id];
    for (from, to) in [(0, 1), (1, 0)] {
        if from == 1 {
            script.extend([at(from, OPENED), id]);
        }
        script.extend([at(from, SEND), id]);
        script.extend(number(10_000));
        let mut pass_on = |then: &[u8]| {
            script.extend([at(from, OUTPUT), id, at(to, DELIVER), id]);
            script.extend(number(0xffff));
            script.extend(then);
        };
        let consumed = [&[at(to, CONSUMED), id], &number(0xffff)[..]].concat();
        pass_on(&[&consumed[..], &[at(from, FINISH), id]].concat());
        pass_on(&[]);
    }
    script
}

/// The operation that gives up to 256 bytes to the mux.
fn input(bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len() - 1).expect("at most 256 bytes");
    [&[INPUT, 0, len], bytes].concat()
}
