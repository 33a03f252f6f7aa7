//! What an agent learns from a session's stream over QUIC.

use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use tieline_transport::quic::SessionInput;
use tieline_wire::{
    AgentHello, AgentKey, Event, InstanceId, LinkEnd, MachineId, Mode, Moment, Mux, Open, Output,
    RelayHello, SessionEnd, SessionId, Settings, TunnelId,
};

const NOW: Moment = Moment::from_micros(1_000_000);
const NONCE: [u8; 32] = [7; 32];

/// What an agent learns.
#[derive(Debug, PartialEq, Eq)]
pub enum Learnt {
    /// Payload without a border.
    Bytes(Vec<u8>),
    /// The end of a message.
    Border,
    /// The end of the stream, where it may end or not.
    End(bool),
    /// What the relay did wrong.
    Error(LinkEnd),
}

static HELLO: LazyLock<AgentHello> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[5; 32]).expect("a seed of 32 bytes");
    let key = pair.public_key().as_ref().try_into();
    let mut hello = AgentHello {
        version: 1,
        key: AgentKey::new(key.expect("a key of 32 bytes")),
        machine: MachineId::new([2; 16]),
        instance: InstanceId::new([3; 16]),
        link_index: 0,
        links: 1,
        relay_name: "relay.example:9001".into(),
        agent_version: "fuzz/1".into(),
        signature: [0; 64],
        bound_signature: None,
    };
    let signature = pair.sign(&hello.transcript(&NONCE));
    hello.signature = signature.as_ref().try_into().expect("64 bytes");
    hello
});

/// Control frames of a mux.
#[derive(Default)]
struct Frames(Vec<u8>);

impl Output for Frames {
    fn takes_control(&self) -> bool {
        true
    }

    fn is_full(&self) -> bool {
        true
    }

    fn takes(&self, _: SessionId) -> bool {
        false
    }

    fn control(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn data(&mut self, _: SessionId, _: Bytes, _: bool) {}

    fn finish(&mut self, _: SessionId, _: u64) {}

    fn reset(&mut self, _: SessionId, _: SessionEnd) {}
}

/// Gives `to` the control frames of `from`.
fn pass(from: &mut Mux, to: &mut Mux) {
    let mut frames = Frames::default();
    from.poll_streams(NOW, &mut frames);
    let mut input = Bytes::from(frames.0);
    while to
        .handle_input(NOW, &mut input)
        .expect("an honest peer")
        .is_some()
    {}
}

/// The agent's end of a link with one session.
fn agent(mode: Mode) -> (Mux, SessionId) {
    let settings = Settings::default();
    let mut relay = Mux::relay(RelayHello::new(NONCE, 8), settings, NOW).over_streams();
    let mut agent = Mux::agent(settings, NOW).over_streams();
    pass(&mut agent, &mut relay);
    pass(&mut relay, &mut agent);
    agent.hello(&HELLO);
    pass(&mut agent, &mut relay);
    let tunnel = TunnelId::parse("maya").expect("a name");
    let id = relay.open(&Open { tunnel, mode }).expect("a new link");
    pass(&mut relay, &mut agent);
    (agent, id)
}

/// What an agent learns of `input` on the stream of a session, which comes in chunks of `chunk` bytes.
pub fn learnt(mode: Mode, input: &[u8], chunk: usize) -> Vec<Learnt> {
    let (mut mux, id) = agent(mode);
    let mut session = SessionInput::of_relay();
    let mut learnt = Vec::new();
    for bytes in input.chunks(chunk) {
        let mut bytes = Bytes::copy_from_slice(bytes);
        loop {
            match session.next(NOW, id, &mut bytes, &mut mux) {
                Ok(Some(Event::Data {
                    payload,
                    end_of_message,
                    ..
                })) => note(&mut learnt, &payload, end_of_message),
                Ok(Some(event)) => panic!("{event:?} on a session's stream"),
                Ok(None) => break,
                Err(error) => {
                    learnt.push(Learnt::Error(error.reason));
                    return learnt;
                }
            }
        }
        assert!(bytes.is_empty(), "bytes were left");
    }
    learnt.push(Learnt::End(session.may_end()));
    learnt
}

fn note(learnt: &mut Vec<Learnt>, payload: &[u8], end_of_message: bool) {
    match learnt.last_mut() {
        Some(Learnt::Bytes(before)) => before.extend_from_slice(payload),
        _ if !payload.is_empty() => learnt.push(Learnt::Bytes(payload.to_vec())),
        _ => {}
    }
    if end_of_message {
        learnt.push(Learnt::Border);
    }
}
