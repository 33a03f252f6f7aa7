//! Two ends driven by steps in any order, and one end driven by calls in any order.

pub(crate) mod calls;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use tieline_wire::{Event, Moment, Mux, RelayHello, SessionEnd, SessionId, Settings};

use crate::peers::{NONCE, content, give_input, open_message, signed_hello, take_output};

pub(crate) const START: Moment = Moment::from_micros(1_000_000);

/// A relay and an agent whose handshake is over.
pub(crate) fn connected(settings: Settings) -> (Mux, Mux) {
    let mut relay = Mux::relay(RelayHello::new(NONCE, 100), settings, START);
    let mut agent = Mux::agent(settings, START);
    let bytes = take_output(&mut agent, START);
    give_input(&mut relay, START, bytes).unwrap();
    let bytes = take_output(&mut relay, START);
    give_input(&mut agent, START, bytes).unwrap();
    agent.hello(&signed_hello());
    let bytes = take_output(&mut agent, START);
    give_input(&mut relay, START, bytes).unwrap();
    (relay, agent)
}

/// One step at one end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Open,
    Opened(u8),
    Send(u8, usize, bool),
    Finish(u8),
    Reset(u8),
    Consume(u8, usize),
    /// The direction to the peer moves to the session's lane.
    Move(u8),
    LaneSend(u8, u64),
    LaneDeliver(u8, u64),
    Transmit,
    Deliver(usize),
    Pass(u64),
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Open),
        1 => any::<u8>().prop_map(Step::Opened),
        6 => (any::<u8>(), 0..100_000_usize, any::<bool>())
            .prop_map(|(which, len, end)| Step::Send(which, len, end)),
        1 => any::<u8>().prop_map(Step::Finish),
        1 => any::<u8>().prop_map(Step::Reset),
        4 => (any::<u8>(), 0..200_000_usize).prop_map(|(which, len)| Step::Consume(which, len)),
        1 => any::<u8>().prop_map(Step::Move),
        2 => (any::<u8>(), 0..1_000_000_u64).prop_map(|(which, len)| Step::LaneSend(which, len)),
        2 => (any::<u8>(), 0..1_000_000_u64)
            .prop_map(|(which, len)| Step::LaneDeliver(which, len)),
        5 => Just(Step::Transmit),
        5 => (0..100_000_usize).prop_map(Step::Deliver),
        1 => (0..400_000_u64).prop_map(Step::Pass),
    ]
}

#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) sent: u64,
    pub(crate) finished: bool,
    pub(crate) received: u64,
    pub(crate) consumed: u64,
    pub(crate) lane: Lane,
}

/// The part of a stream that is on a lane; only its length is modelled.
#[derive(Default)]
pub(crate) struct Lane {
    /// The sender moved its direction to the lane.
    moved: bool,
    /// The receiver knows of the move.
    open: bool,
    on_the_way: u64,
    arrived: u64,
    /// The sender ended the lane; `ended`: the receiver has seen the end.
    shut: bool,
    ended: bool,
}

/// A mux, the bytes on their way to it, and the streams that it sends.
pub(crate) struct Peer {
    pub(crate) mux: Mux,
    pub(crate) incoming: VecDeque<u8>,
    /// Streams by session: the bytes that this end sent, and those that the other end received.
    pub(crate) streams: BTreeMap<SessionId, Stream>,
}

pub(crate) struct Two {
    pub(crate) peers: [Peer; 2],
    pub(crate) now: Moment,
}

impl Two {
    pub(crate) fn new(settings: Settings) -> Self {
        let (relay, agent) = connected(settings);
        let peer = |mux| Peer {
            mux,
            incoming: VecDeque::new(),
            streams: BTreeMap::new(),
        };
        Self {
            peers: [peer(relay), peer(agent)],
            now: START,
        }
    }

    pub(crate) fn session(&self, which: u8) -> SessionId {
        let known = self.peers[0].streams.len().max(1);
        SessionId(1 + u32::try_from(usize::from(which) % known).unwrap())
    }

    pub(crate) fn step(&mut self, side: usize, step: Step) {
        let now = self.now;
        match step {
            Step::Open => {
                if let Ok(id) = self.peers[0].mux.open(&open_message()) {
                    for peer in &mut self.peers {
                        peer.streams.insert(id, Stream::default());
                    }
                }
            }
            Step::Opened(which) => {
                let id = self.session(which);
                self.peers[1].mux.opened(id);
            }
            Step::Send(which, len, end_of_message) => {
                let id = self.session(which);
                let peer = &mut self.peers[side];
                let len = len.min(peer.mux.send_capacity(id));
                let Some(stream) = peer.streams.get_mut(&id) else {
                    return;
                };
                let bytes = content(u64::from(id.0) * 2 + side as u64, stream.sent, len);
                let taken = peer.mux.send(id, bytes.into(), end_of_message);
                if taken.is_ok() {
                    stream.sent += len as u64;
                } else {
                    assert_eq!(len, 0, "bytes within capacity are taken");
                }
            }
            Step::Finish(which) => {
                let id = self.session(which);
                if let Some(stream) = self.peers[side].streams.get_mut(&id) {
                    stream.lane.shut = true;
                }
                self.peers[side].mux.finish(id);
            }
            Step::Reset(which) => {
                let id = self.session(which);
                self.peers[side].mux.reset(id, SessionEnd::Cancelled);
            }
            Step::Consume(which, len) => {
                let id = self.session(which);
                if let Some(stream) = self.peers[1 - side].streams.get_mut(&id) {
                    let len = (stream.received - stream.consumed).min(len as u64);
                    stream.consumed += len;
                    let len = usize::try_from(len).unwrap();
                    self.peers[side].mux.consumed(id, len);
                }
            }
            Step::Move(which) => {
                let id = self.session(which);
                let peer = &mut self.peers[side];
                if peer.mux.move_to_lane(id) {
                    peer.streams.get_mut(&id).unwrap().lane.moved = true;
                }
            }
            Step::LaneSend(which, len) => {
                let id = self.session(which);
                let peer = &mut self.peers[side];
                if let Some(stream) = peer.streams.get_mut(&id)
                    && stream.lane.moved
                    && !stream.lane.shut
                {
                    stream.lane.on_the_way += len;
                    stream.sent += len;
                    peer.mux.lane_sent(self.now, id, len);
                }
            }
            Step::LaneDeliver(which, most) => {
                let id = self.session(which);
                let Some(stream) = self.peers[1 - side].streams.get_mut(&id) else {
                    return;
                };
                let lane = &mut stream.lane;
                // A reader takes the link's bytes before the lane's.
                if !lane.open || lane.ended || stream.consumed < stream.received - lane.arrived {
                    return;
                }
                let len = most.min(lane.on_the_way);
                lane.on_the_way -= len;
                lane.arrived += len;
                stream.received += len;
                stream.consumed += len;
                if lane.shut && lane.on_the_way == 0 {
                    lane.ended = true;
                    let arrived = lane.arrived;
                    if let Some(event) = self.peers[side].mux.lane_ended(id, arrived) {
                        self.event(side, event);
                    }
                }
            }
            Step::Transmit => {
                let bytes = take_output(&mut self.peers[side].mux, now);
                self.peers[1 - side].incoming.extend(bytes);
            }
            Step::Deliver(len) => {
                let peer = &mut self.peers[side];
                let len = len.min(peer.incoming.len());
                let bytes = peer.incoming.drain(..len).collect();
                let events = give_input(&mut peer.mux, now, bytes).expect("an honest peer");
                for event in events {
                    self.event(side, event);
                }
            }
            Step::Pass(micros) => {
                self.now = now + Duration::from_micros(micros);
                self.peers[side].mux.handle_timeout(self.now).unwrap();
            }
        }
    }

    pub(crate) fn event(&mut self, side: usize, event: Event) {
        let from = &mut self.peers[1 - side];
        match event {
            Event::Data {
                session, payload, ..
            } => {
                let stream = from.streams.get_mut(&session).unwrap();
                let name = u64::from(session.0) * 2 + (1 - side) as u64;
                assert_eq!(payload, content(name, stream.received, payload.len()));
                stream.received += payload.len() as u64;
                assert!(stream.received <= stream.sent && !stream.finished);
            }
            Event::Bulk { session } => {
                let lane = &mut from.streams.get_mut(&session).unwrap().lane;
                assert!(lane.moved && !lane.open);
                lane.open = true;
            }
            Event::Finished { session } => {
                let stream = from.streams.get_mut(&session).unwrap();
                stream.finished = true;
                assert_eq!(stream.received, stream.sent);
            }
            _ => {}
        }
    }

    /// Lets both readers take everything and both ends finish, until nothing moves.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            for side in 0..2 {
                self.step(side, Step::Transmit);
            }
            for side in 0..2 {
                moved |= !self.peers[side].incoming.is_empty();
                self.step(side, Step::Deliver(usize::MAX));
                for which in 0..self.peers[0].streams.len() {
                    let which = u8::try_from(which).unwrap();
                    self.step(side, Step::Opened(which));
                    self.step(side, Step::Consume(which, usize::MAX));
                    self.step(side, Step::LaneDeliver(which, u64::MAX));
                    self.step(side, Step::Finish(which));
                }
            }
            if !moved && self.peers.iter().all(|it| !it.mux.wants_transmit()) {
                return;
            }
        }
        panic!("the two ends never stop sending");
    }
}
