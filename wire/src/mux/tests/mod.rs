//! Tests of one link, with both of its ends in one thread, on simulated time.

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;

use super::*;
use crate::error::Error;
use crate::frame::Header;
use crate::ids::{AgentKey, Generation, InstanceId, MachineId};
use crate::limits::HEADER_BYTES;
use crate::message::{Mode, Open, Opened};
use crate::reason::{LinkEnd, RefusalReason, SessionEnd};

mod copies;
mod credit_flow;
mod handshaking;
mod lanes;
mod life;
mod lost;
mod order;
mod session_ends;
mod shared_budget;
mod streams;

const NONCE: [u8; 32] = [7; 32];

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// An agent's hello, signed with a real key for `nonce`.
fn signed_hello(nonce: &[u8; 32]) -> AgentHello {
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
    let signature = pair.sign(&hello.transcript(nonce));
    hello.signature = signature.as_ref().try_into().unwrap();
    hello
}

fn open_message() -> Open {
    Open {
        tunnel: TunnelId::parse("maya").unwrap(),
        mode: Mode::Bytes,
    }
}

/// A frame as a peer would write it.
fn raw(kind: Kind, session: u32, payload: &[u8]) -> Bytes {
    let len = u32::try_from(payload.len()).unwrap();
    let mut bytes = frame::encode(kind, SessionId(session), len, false).to_vec();
    bytes.extend_from_slice(payload);
    Bytes::from(bytes)
}

/// A control message as a peer would write it.
fn raw_message(kind: Kind, session: u32, message: &impl Message) -> Bytes {
    raw(kind, session, Encoder::new().encode(message))
}

/// All bytes that a mux has to send.
fn take_output(mux: &mut Mux, now: Moment) -> Vec<u8> {
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

/// Frames of one gathered send.
fn take_one_send(mux: &mut Mux, now: Moment) -> Vec<(Header, Vec<u8>)> {
    let mut transmit = Transmit::new();
    mux.poll_transmit(now, &mut transmit);
    let bytes: Vec<u8> = transmit
        .slices()
        .iter()
        .flat_map(|it| it.to_vec())
        .collect();
    frames(&bytes)
}

/// All events that `bytes` cause.
fn give_input(mux: &mut Mux, now: Moment, bytes: impl Into<Bytes>) -> Result<Vec<Event>, Error> {
    let mut input = bytes.into();
    let mut events = Vec::new();
    while let Some(event) = mux.handle_input(now, &mut input)? {
        events.push(event);
    }
    assert!(input.is_empty(), "input is used up");
    Ok(events)
}

/// Cuts a stream without preface into frames.
fn frames(mut bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        let header = frame::decode(*header).unwrap();
        let (payload, rest) = rest.split_at(header.payload_len as usize);
        frames.push((header, payload.to_vec()));
        bytes = rest;
    }
    frames
}

fn kinds(bytes: &[u8]) -> Vec<Kind> {
    let frames = frames(bytes);
    frames.iter().map(|(it, _)| it.kind.unwrap()).collect()
}

/// Both ends of one link, without delay between them.
struct Pair {
    relay: Mux,
    agent: Mux,
    now: Moment,
    relay_events: Vec<Event>,
    agent_events: Vec<Event>,
}

impl Pair {
    fn unconnected(settings: Settings) -> Self {
        let now = Moment::from_micros(1_000_000);
        Self {
            relay: Mux::relay(RelayHello::new(NONCE, 100), settings, now),
            agent: Mux::agent(settings, now),
            now,
            relay_events: Vec::new(),
            agent_events: Vec::new(),
        }
    }

    fn with(settings: Settings) -> Self {
        let mut pair = Self::unconnected(settings);
        pair.exchange();
        pair.agent.hello(&signed_hello(&NONCE));
        pair.exchange();
        pair.handle_timeouts();
        pair.exchange();
        pair.relay_events.clear();
        pair.agent_events.clear();
        pair
    }

    fn connected() -> Self {
        Self::with(Settings::default())
    }

    /// Moves bytes until neither side has any left.
    fn exchange(&mut self) {
        loop {
            let to_agent = take_output(&mut self.relay, self.now);
            let to_relay = take_output(&mut self.agent, self.now);
            if to_agent.is_empty() && to_relay.is_empty() {
                return;
            }
            let events = give_input(&mut self.agent, self.now, to_agent).unwrap();
            self.agent_events.extend(events);
            let events = give_input(&mut self.relay, self.now, to_relay).unwrap();
            self.relay_events.extend(events);
        }
    }

    fn handle_timeouts(&mut self) {
        self.relay.handle_timeout(self.now).unwrap();
        self.agent.handle_timeout(self.now).unwrap();
    }

    /// Advances the time, and handles every timer that falls due on the way.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self.relay.poll_timeout().min(self.agent.poll_timeout());
            self.now = self.now.max(due.min(end));
            self.handle_timeouts();
            self.exchange();
            if due >= end {
                return;
            }
        }
    }

    /// Opens a session whose target accepts the connection.
    fn session(&mut self) -> SessionId {
        let id = self.relay.open(&open_message()).unwrap();
        self.exchange();
        self.agent.opened(id);
        self.exchange();
        self.relay_events.clear();
        self.agent_events.clear();
        id
    }

    /// Sends as much as fits, and lets the other end read and consume all of it.
    fn stream_to_agent(&mut self, id: SessionId, mut left: usize) {
        while left > 0 {
            let len = self.relay.send_capacity(id).min(left);
            assert!(len > 0, "a reader that takes everything never blocks");
            self.relay.send(id, vec![1; len].into(), false).unwrap();
            left -= len;
            self.exchange();
            self.consume_at_agent(id);
            self.exchange();
        }
    }

    /// The agent's socket takes all bytes that arrived; returns their number.
    fn consume_at_agent(&mut self, id: SessionId) -> usize {
        let len = data_of(&std::mem::take(&mut self.agent_events), id).len();
        self.agent.consumed(id, len);
        len
    }
}

/// Payload bytes of one session in `events`.
fn data_of(events: &[Event], id: SessionId) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        if let Event::Data {
            session, payload, ..
        } = event
            && *session == id
        {
            bytes.extend_from_slice(payload);
        }
    }
    bytes
}

/// An acknowledgement that grants a tunnel with this heartbeat.
fn granted(heartbeat_ms: u32) -> RegisterAck {
    RegisterAck {
        request: 1,
        outcome: Ok(Granted {
            tunnel: TunnelId::parse("maya").unwrap(),
            urls: Vec::new(),
            generation: Generation(1),
            heartbeat_ms,
            expires_in_s: 0,
        }),
    }
}
