//! Shared by the fuzz targets: the two ends of a link, and ways to talk to one.

pub mod operations;

use std::sync::LazyLock;

use bytes::Bytes;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use tieline_wire::{
    AgentHello, AgentKey, Error, Event, InstanceId, MachineId, Mode, Moment, Mux, Open, RelayHello,
    Settings, Transmit, TunnelId,
};

pub const START: Moment = Moment::from_micros(1_000_000);

pub const NONCE: [u8; 32] = [7; 32];

pub static HELLO: LazyLock<AgentHello> = LazyLock::new(|| {
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

pub fn settings() -> Settings {
    Settings {
        budget_bytes: 1 << 20,
        sessions_max: 8,
        ..Settings::default()
    }
}

pub fn relay_hello() -> RelayHello {
    RelayHello::new(NONCE, 8)
}

pub fn open_message() -> Open {
    Open {
        tunnel: TunnelId::parse("maya").expect("a name"),
        mode: Mode::Messages,
    }
}

/// The relay and the agent of a new link, before either has sent anything.
pub fn strangers() -> [Mux; 2] {
    [
        Mux::relay(relay_hello(), settings(), START),
        Mux::agent(settings(), START),
    ]
}

/// The relay and the agent of a link whose handshake is over.
pub fn acquainted() -> [Mux; 2] {
    let [mut relay, mut agent] = strangers();
    let pass = |from: &mut Mux, to: &mut Mux| {
        let bytes = take_output(from, START);
        give_input(to, START, bytes).expect("an honest peer");
    };
    pass(&mut agent, &mut relay);
    pass(&mut relay, &mut agent);
    agent.hello(&HELLO);
    pass(&mut agent, &mut relay);
    [relay, agent]
}

/// All bytes that a mux has to send.
pub fn take_output(mux: &mut Mux, now: Moment) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut transmit = Transmit::new();
    while mux.poll_transmit(now, &mut transmit) {
        for slice in transmit.slices() {
            bytes.extend_from_slice(&slice);
        }
        transmit.advance(transmit.len());
    }
    bytes
}

/// All events that `bytes` cause.
pub fn give_input(
    mux: &mut Mux,
    now: Moment,
    bytes: impl Into<Bytes>,
) -> Result<Vec<Event>, Error> {
    let mut input = bytes.into();
    let mut events = Vec::new();
    while let Some(event) = mux.handle_input(now, &mut input)? {
        events.push(event);
    }
    Ok(events)
}

/// Reads a script of operations; past its end every number is 0.
pub struct Script<'a>(pub &'a [u8]);

impl<'a> Script<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    pub fn number(&mut self) -> u32 {
        let mut number = [0; 4];
        let bytes = self.bytes(4);
        number[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(number)
    }
}
