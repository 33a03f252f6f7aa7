//! Both ends of one link in one thread, with a copy in memory instead of two sockets.

#![allow(dead_code, reason = "each bench uses its part")]

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::{Bytes, BytesMut};
use tieline_wire::{
    AgentHello, AgentKey, Event, InstanceId, MachineId, Mode, Moment, Mux, Open, RelayHello,
    SessionId, Settings, Transmit, TunnelId,
};

pub(crate) const NONCE: [u8; 32] = [7; 32];

/// Time by which the simulated clock advances between two calls of a driver.
const TURN: Duration = Duration::from_micros(1);

/// Bytes that a driver reads at a time, as the relay does.
const READ_BYTES: usize = 256 * 1024;

/// An agent's hello, signed with a real key for [`NONCE`].
pub(crate) fn signed_hello() -> AgentHello {
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
        agent_version: "bench/1".into(),
        signature: [0; 64],
        bound_signature: None,
    };
    let signature = pair.sign(&hello.transcript(&NONCE));
    hello.signature = signature.as_ref().try_into().expect("64 bytes");
    hello
}

fn open_message() -> Open {
    Open {
        tunnel: TunnelId::parse("maya").expect("a name"),
        mode: Mode::Bytes,
    }
}

/// One end, with the buffers of its driver.
pub(crate) struct End {
    pub(crate) mux: Mux,
    transmit: Transmit,
    /// Bytes that arrived; reused as soon as no event holds a part of them.
    read: BytesMut,
}

impl End {
    fn new(mux: Mux) -> Self {
        Self {
            mux,
            transmit: Transmit::new(),
            read: BytesMut::new(),
        }
    }
}

/// A link whose hello exchange is over.
pub(crate) struct Link {
    pub(crate) relay: End,
    pub(crate) agent: End,
    pub(crate) now: Moment,
}

impl Link {
    pub(crate) fn new() -> Self {
        let now = Moment::from_micros(1_000_000);
        let settings = Settings::default();
        let hello = RelayHello::new(NONCE, settings.sessions_max);
        let mut link = Self {
            relay: End::new(Mux::relay(hello, settings, now)),
            agent: End::new(Mux::agent(settings, now)),
            now,
        };
        link.settle();
        link.agent.mux.hello(&signed_hello());
        link.settle();
        assert!(link.relay.mux.is_established() && link.agent.mux.is_established());
        // The first pings: windows grow by the round-trip time that pings measure.
        link.relay.mux.handle_timeout(link.now).expect("a new link");
        link.agent.mux.handle_timeout(link.now).expect("a new link");
        link.settle();
        assert!(link.relay.mux.rtt().is_some() && link.agent.mux.rtt().is_some());
        link
    }

    /// Opens a session whose target accepts the connection.
    pub(crate) fn open(&mut self) -> SessionId {
        let id = self.relay.mux.open(&open_message()).expect("a free slot");
        let mut opened = 0;
        self.carry_to_agent(|agent, event| {
            if let Event::Open { session, .. } = event {
                agent.opened(session);
            }
        });
        self.carry_to_relay(|_, event| {
            opened += usize::from(event == Event::Opened { session: id })
        });
        assert_eq!(opened, 1);
        id
    }

    /// Moves the relay's bytes to the agent, and passes each event to `on`.
    pub(crate) fn carry_to_agent(&mut self, on: impl FnMut(&mut Mux, Event)) {
        self.now = self.now + TURN;
        carry(&mut self.relay, &mut self.agent, self.now, on);
    }

    /// Moves the agent's bytes to the relay, and passes each event to `on`.
    pub(crate) fn carry_to_relay(&mut self, on: impl FnMut(&mut Mux, Event)) {
        self.now = self.now + TURN;
        carry(&mut self.agent, &mut self.relay, self.now, on);
    }

    /// Moves all bytes that are left on both sides, and ignores the events.
    pub(crate) fn settle(&mut self) {
        while self.relay.mux.wants_transmit() || self.agent.mux.wants_transmit() {
            self.carry_to_agent(|_, _| {});
            self.carry_to_relay(|_, _| {});
        }
    }

    /// Sends `payload` there and back on one session; returns the number of bytes that came back.
    pub(crate) fn round_trip(&mut self, id: SessionId, payload: Bytes) -> usize {
        self.relay.mux.send(id, payload, false).expect("credit");
        self.carry_to_agent(|agent, event| {
            if let Event::Data {
                session, payload, ..
            } = event
            {
                agent.consumed(session, payload.len());
                agent.send(session, payload, false).expect("credit");
            }
        });
        let mut back = 0;
        self.carry_to_relay(|relay, event| {
            if let Event::Data {
                session, payload, ..
            } = event
            {
                relay.consumed(session, payload.len());
                back += payload.len();
            }
        });
        back
    }
}

/// One turn of the driver at each end, in the order that the mux requires.
fn carry(from: &mut End, to: &mut End, now: Moment, mut on: impl FnMut(&mut Mux, Event)) {
    if now >= from.mux.poll_timeout() {
        from.mux.handle_timeout(now).expect("the peer lives");
    }
    while from.mux.poll_transmit(now, &mut from.transmit) {
        to.read.reserve(READ_BYTES);
        for slice in from.transmit.slices() {
            to.read.extend_from_slice(&slice);
        }
        from.transmit.advance(from.transmit.len());
        let mut input = to.read.split().freeze();
        while let Some(event) = to
            .mux
            .handle_input(now, &mut input)
            .expect("an honest peer")
        {
            on(&mut to.mux, event);
        }
    }
    while to.mux.poll_writable().is_some() {}
}
