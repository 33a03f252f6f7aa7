//! A link without sockets, for tests: the relay's shared mux, and an agent's mux at the other end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::{Bytes, BytesMut};
use tieline_wire::{
    AgentHello, AgentKey, BulkNonce, Event, InstanceId, MachineId, Moment, Mux, RelayHello,
    SessionId, Settings, Transmit, TunnelId,
};

use super::super::{Lanes, ProbedLinks, Session, SessionCaller, SharedMux, TunnelSessions};
use crate::clock::Clock;
use crate::io::turn;
use crate::metrics::ShardMetrics;

/// A link whose agent's mux the test drives.
pub(crate) struct Link {
    pub(crate) relay: Rc<SharedMux>,
    pub(crate) agent: Mux,
    clock: Clock,
    metrics: Arc<ShardMetrics>,
    pub(super) lanes: Rc<Lanes>,
    pub(super) probed: Rc<ProbedLinks>,
    pub(crate) sessions: TunnelSessions,
}

impl Link {
    pub(crate) fn established() -> Self {
        let clock = Clock::start();
        let (now, settings) = (clock.now(), Settings::default());
        let metrics = Arc::new(ShardMetrics::default());
        let lanes = Lanes::new(0, Arc::clone(&metrics));
        let probed = Rc::new(ProbedLinks::default());
        let relay = Mux::relay(RelayHello::new([7; 32], 10), settings, now);
        let mut link = Self {
            relay: SharedMux::new(
                relay,
                clock,
                Arc::clone(&metrics),
                Rc::clone(&lanes),
                Rc::clone(&probed),
            ),
            agent: Mux::agent(settings, now),
            clock,
            metrics,
            lanes,
            probed,
            sessions: TunnelSessions::default(),
        };
        for _ in 0..2 {
            link.pump_up();
            for event in link.pump_down() {
                if let Event::RelayHello(relay) = event {
                    link.agent.hello(&signed(&relay));
                }
            }
        }
        link
    }

    pub(crate) fn open(&self) -> Session {
        self.open_for(SessionCaller::default())
    }

    pub(crate) fn open_for(&self, caller: SessionCaller) -> Session {
        let maya = TunnelId::parse("maya").unwrap();
        self.relay.open(&maya, &self.sessions, caller).unwrap()
    }

    pub(super) fn offer(&self, session: &Session) -> Option<BulkNonce> {
        self.lanes.offer(session.shared(), self.clock.now())
    }

    /// Bytes charged to the shard's budget.
    pub(super) fn charged(&self) -> u64 {
        self.metrics.budget.windows()
    }

    /// Open sessions in the metrics.
    pub(crate) fn counted(&self) -> i64 {
        self.metrics.sessions.read()
    }

    /// Resets in the metrics, summed over all reasons.
    pub(super) fn resets(&self) -> u64 {
        self.metrics.sessions_reset()
    }

    /// Opens sessions whose target connections stand, in the order of opening.
    pub(crate) fn open_to_targets(&mut self, count: usize) -> Vec<(Session, SessionId)> {
        let sessions: Vec<_> = (0..count).map(|_| self.open()).collect();
        let mut opened = Vec::new();
        for event in self.pump_down() {
            if let Event::Open { session, .. } = event {
                self.agent.opened(session);
                opened.push(session);
            }
        }
        self.pump_up();
        sessions.into_iter().zip(opened).collect()
    }

    /// The link's clock.
    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Bytes that the agent's mux sends now.
    pub(crate) fn agent_says(&mut self) -> Bytes {
        let mut sent = BytesMut::new();
        let mut out = Transmit::new();
        while self.agent.poll_transmit(self.clock.now(), &mut out) {
            sent.extend_from_slice(&bytes(&out));
            out.advance(out.len());
        }
        sent.freeze()
    }

    /// Events that the agent's mux produces from `input`.
    pub(crate) fn agent_hears(&mut self, mut input: Bytes) -> Vec<Event> {
        let now = self.clock.now();
        std::iter::from_fn(|| self.agent.handle_input(now, &mut input).unwrap()).collect()
    }

    /// Moves the agent's bytes to the relay's mux.
    pub(crate) fn pump_up(&mut self) {
        let mut sent = self.agent_says();
        self.relay.receive(&mut sent, |_, _| {}).unwrap();
    }

    /// Moves the relay's bytes to the agent's mux; returns the events there.
    pub(crate) fn pump_down(&mut self) -> Vec<Event> {
        let mut out = Transmit::new();
        self.relay.transmit(&mut out);
        self.agent_hears(bytes(&out))
    }
}

/// Polls `future` until it waits, and drops it there.
pub(crate) async fn drop_while_it_waits(future: impl Future) {
    let mut future = Box::pin(future);
    for _ in 0..3 {
        let mut turn = pin!(turn());
        poll_fn(|cx| {
            assert!(future.as_mut().poll(cx).is_pending(), "the future ended");
            turn.as_mut().poll(cx)
        })
        .await;
    }
}

fn bytes(transmit: &Transmit) -> Bytes {
    let slices = transmit.slices();
    slices.iter().flat_map(|slice| slice.to_vec()).collect()
}

/// A signed hello of an agent.
pub(crate) fn agent_hello() -> AgentHello {
    signed(&RelayHello::new([7; 32], 10))
}

fn signed(relay: &RelayHello) -> AgentHello {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    let mut hello = AgentHello {
        version: relay.choose_version().unwrap(),
        key: AgentKey::new(pair.public_key().as_ref().try_into().unwrap()),
        machine: MachineId::new([2; 16]),
        instance: InstanceId::new([3; 16]),
        link_index: 0,
        links: 1,
        relay_name: "localhost".to_owned(),
        agent_version: String::new(),
        signature: [0; 64],
        bound_signature: None,
    };
    let signature = pair.sign(&hello.transcript(&relay.nonce));
    hello.signature = signature.as_ref().try_into().unwrap();
    hello
}
