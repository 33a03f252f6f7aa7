//! One end of the link: a mux, with writers and readers of its sessions.

use std::collections::BTreeMap;
use std::time::Duration;

use tieline_wire::{Event, LinkEnd, Moment, Mux, SessionEnd, SessionId, Transmit};

use super::Random;
use super::pipe::Pipe;
use crate::peers::{content, signed_hello};

/// One end of one session: what it writes, and how it reads.
pub(crate) struct Flow {
    pub(crate) stream: u64,
    pub(crate) total: u64,
    pub(crate) sent: u64,
    pub(crate) resets_at_end: bool,
    /// When the session is reset, whatever its state.
    pub(crate) reset_at: Option<Moment>,
    pub(crate) we_reset: bool,
    pub(crate) end_queued: bool,
    pub(crate) received: u64,
    pub(crate) pending: u64,
    pub(crate) finished: bool,
    /// The peer's reset arrived.
    pub(crate) was_reset: bool,
    /// Bytes that the reader takes at a time; `rest`: its pause between two reads.
    pub(crate) bite: u64,
    pub(crate) rest: Duration,
    pub(crate) reads_at: Moment,
}

impl Flow {
    pub(crate) fn new(random: &mut Random, stream: u64, now: Moment) -> Self {
        let total = match random.below(20) {
            0..5 => 0,
            5..10 => random.below(200),
            10..15 => random.below(20_000),
            15..19 => random.below(400_000),
            _ => random.below(4_000_000),
        };
        // Small bites come with short rests, so that every run ends soon.
        let (bite, rest) = match random.below(4) {
            0 => (4000, random.millis(40)),
            1 => (u64::MAX, random.millis(4000)),
            _ => (u64::MAX, Duration::ZERO),
        };
        let reset_at = random.percent(15).then(|| now + random.millis(3000));
        Self {
            stream,
            total,
            sent: 0,
            resets_at_end: random.percent(15),
            reset_at,
            we_reset: false,
            end_queued: false,
            received: 0,
            pending: 0,
            finished: false,
            was_reset: false,
            bite,
            rest,
            reads_at: now + rest,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.we_reset || self.was_reset || self.end_queued && self.finished && self.pending == 0
    }
}

pub(crate) struct End {
    pub(crate) mux: Mux,
    pub(crate) is_relay: bool,
    pub(crate) transmit: Transmit,
    pub(crate) flows: BTreeMap<SessionId, Flow>,
    pub(crate) error: Option<(Moment, LinkEnd)>,
}

impl End {
    pub(crate) fn new(mux: Mux, is_relay: bool) -> Self {
        Self {
            mux,
            is_relay,
            transmit: Transmit::new(),
            flows: BTreeMap::new(),
            error: None,
        }
    }

    pub(crate) fn stream_of(&self, id: SessionId) -> u64 {
        u64::from(id.0) * 2 + u64::from(self.is_relay)
    }

    pub(crate) fn event(&mut self, event: Event, now: Moment, random: &mut Random) {
        match event {
            Event::RelayHello(_) => self.mux.hello(&signed_hello()),
            Event::Open { session, .. } => {
                let flow = Flow::new(random, self.stream_of(session), now);
                self.flows.insert(session, flow);
                if random.percent(10) {
                    self.reset(session, SessionEnd::TargetRefused);
                } else {
                    self.mux.opened(session);
                    self.write(session, random);
                }
            }
            Event::Data {
                session, payload, ..
            } => {
                let stream = self.stream_of(session) ^ 1;
                let flow = self.flows.get_mut(&session).unwrap();
                assert!(!flow.finished && !flow.was_reset && !flow.we_reset);
                let expected = content(stream, flow.received, payload.len());
                assert!(payload == expected, "session {session}: wrong bytes");
                flow.received += payload.len() as u64;
                flow.pending += payload.len() as u64;
                if payload.is_empty() {
                    self.mux.consumed(session, 0);
                }
            }
            Event::Finished { session } => {
                self.flows.get_mut(&session).unwrap().finished = true;
            }
            Event::Reset { session, .. } => {
                self.flows.get_mut(&session).unwrap().was_reset = true;
            }
            _ => {}
        }
    }

    pub(crate) fn reset(&mut self, id: SessionId, reason: SessionEnd) {
        self.mux.reset(id, reason);
        self.flows.get_mut(&id).unwrap().we_reset = true;
    }

    /// Writes as much as the session takes; for the rest, the mux must report it as writable.
    pub(crate) fn write(&mut self, id: SessionId, random: &mut Random) {
        let flow = self.flows.get_mut(&id).unwrap();
        while flow.sent < flow.total && !flow.we_reset && !flow.was_reset {
            let capacity = self.mux.send_capacity(id) as u64;
            if capacity == 0 {
                return;
            }
            let most = random.pick(&[1, 100, 5000, 70_000, 400_000]);
            let len = capacity.min(flow.total - flow.sent).min(most);
            let bytes = content(flow.stream, flow.sent, usize::try_from(len).unwrap());
            let end_of_message = random.percent(20);
            self.mux.send(id, bytes.into(), end_of_message).unwrap();
            flow.sent += len;
        }
        if flow.we_reset || flow.was_reset || flow.end_queued {
            return;
        }
        flow.end_queued = true;
        if flow.resets_at_end {
            self.reset(id, SessionEnd::Cancelled);
        } else {
            self.mux.finish(id);
        }
    }

    /// Runs the readers and resets that are due; true if any did something.
    pub(crate) fn act(&mut self, now: Moment) -> bool {
        let mut acted = false;
        let ids: Vec<_> = self.flows.keys().copied().collect();
        for id in ids {
            let flow = self.flows.get_mut(&id).unwrap();
            if flow.pending > 0 && flow.reads_at <= now && !flow.we_reset {
                let len = flow.pending.min(flow.bite);
                flow.pending -= len;
                flow.reads_at = now + flow.rest;
                self.mux.consumed(id, usize::try_from(len).unwrap());
                acted = true;
            }
            if flow.reset_at.is_some_and(|at| at <= now) {
                flow.reset_at = None;
                if !flow.is_done() {
                    self.reset(id, SessionEnd::FrontendReset);
                    acted = true;
                }
            }
        }
        acted
    }

    pub(crate) fn next_action(&self) -> Option<Moment> {
        let waiting = self.flows.values().filter(|flow| !flow.is_done());
        waiting
            .flat_map(|flow| {
                let reads = (flow.pending > 0).then_some(flow.reads_at);
                reads.into_iter().chain(flow.reset_at)
            })
            .min()
    }

    /// Moves bytes into the socket; true if any were moved.
    pub(crate) fn transmit(&mut self, now: Moment, pipe: &mut Pipe, random: &mut Random) -> bool {
        let mut moved = false;
        loop {
            if self.transmit.is_empty() || random.percent(20) {
                self.mux.poll_transmit(now, &mut self.transmit);
            }
            let mut most = self.transmit.len().min(pipe.room(now));
            if most == 0 {
                return moved;
            }
            if random.percent(30) {
                most = 1 + usize::try_from(random.below(most as u64)).unwrap();
            }
            let mut bytes = Vec::with_capacity(most);
            for slice in self.transmit.slices() {
                let part = slice.len().min(most - bytes.len());
                bytes.extend_from_slice(&slice[..part]);
            }
            self.transmit.advance(bytes.len());
            pipe.push(now, bytes);
            moved = true;
        }
    }

    /// Grows with everything that happens except heartbeats.
    pub(crate) fn progress(&self) -> u64 {
        let of = |flow: &Flow| 1 + 2 * flow.received - flow.pending + u64::from(flow.is_done());
        self.flows.values().map(of).sum()
    }

    pub(crate) fn unread(&self) -> u64 {
        let live = self.flows.iter().filter(|(id, _)| self.mux.is_live(**id));
        live.map(|(_, flow)| flow.pending).sum()
    }
}
