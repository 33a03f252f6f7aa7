//! Shared by the integration tests: an agent with a real key, and ways to talk to a mux.

#![allow(dead_code, reason = "each test uses its part")]

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use tieline_wire::{
    AgentHello, AgentKey, Error, Event, InstanceId, MachineId, Mode, Moment, Mux, Open, Transmit,
    TunnelId,
};

pub(crate) const NONCE: [u8; 32] = [7; 32];

/// An agent's hello, signed with a real key for [`NONCE`].
pub(crate) fn signed_hello() -> AgentHello {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap();
    let mut hello = AgentHello {
        version: 1,
        key: AgentKey::new(pair.public_key().as_ref().try_into().unwrap()),
        machine: MachineId::new([2; 16]),
        instance: InstanceId::new([3; 16]),
        link_index: 0,
        links: 1,
        relay_name: "relay.example:9001".into(),
        agent_version: "test/1".into(),
        signature: [0; 64],
        bound_signature: None,
    };
    let signature = pair.sign(&hello.transcript(&NONCE));
    hello.signature = signature.as_ref().try_into().unwrap();
    hello
}

pub(crate) fn open_message() -> Open {
    Open {
        tunnel: TunnelId::parse("maya").unwrap(),
        mode: Mode::Messages,
    }
}

/// Content of a test stream: one byte for each offset, so that any shift shows.
pub(crate) fn content(stream: u64, offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64)
        .map(|at| {
            let mixed = (at ^ (stream << 20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed.to_le_bytes()[7]
        })
        .collect()
}

/// All bytes that a mux has to send.
pub(crate) fn take_output(mux: &mut Mux, now: Moment) -> Vec<u8> {
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
pub(crate) fn give_input(mux: &mut Mux, now: Moment, bytes: Vec<u8>) -> Result<Vec<Event>, Error> {
    let mut input = Bytes::from(bytes);
    let mut events = Vec::new();
    while let Some(event) = mux.handle_input(now, &mut input)? {
        events.push(event);
    }
    Ok(events)
}
