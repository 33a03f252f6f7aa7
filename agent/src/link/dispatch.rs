//! Reads a link into the mux, and handles the events.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tieline_wire::{
    BulkNonce, Event, LinkEnd, Moment, Mux, RegisterAck, RelayHello, SessionEnd, SessionId,
    TunnelId, Withdrawal,
};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::buffer::{READ_BYTES_MIN, ReadBuffer, TURN_BYTES_MAX};
use super::{Core, Link, News, Start};
use crate::error::Error;
use crate::link::session::{self, Session};
use crate::transport::{Reads, client_certificate_problem, server_kind};

/// Largest number of payloads in one write to a target.
const PAYLOADS_MAX: usize = 32;

/// Time limit for reading what the relay has sent before the link's socket failed.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(100);

const AGENT_VERSION: &str = concat!("tieline/", env!("CARGO_PKG_VERSION"));

/// Reads a link and handles its events.
pub(super) struct Dispatch<'a> {
    link: &'a Arc<Link>,
    /// Address of the relay for lanes; `None` over TLS and QUIC, because lanes are not encrypted.
    lane_address: Option<SocketAddr>,
    /// Exporter of the TLS or QUIC connection that the link is in.
    exporter: Option<[u8; 32]>,
    start: Start,
    /// The first bytes from the relay, to recognise another kind of server.
    first: Vec<u8>,
    /// Reason and message of the relay's `GoAway`.
    pub(super) farewell: Option<(LinkEnd, String)>,
    /// Sessions of the collected payloads, in order, each with its number of payloads.
    deliveries: Vec<(Arc<Session>, usize)>,
    /// Payloads for the sessions' targets, collected but not delivered.
    payloads: Vec<Bytes>,
    /// Bytes that each session's target took, not yet credited to the relay.
    taken: Vec<(SessionId, usize)>,
}

impl<'a> Dispatch<'a> {
    /// `connection` is what the link's connection told of itself: the address for lanes, and the exporter.
    pub(super) fn new(
        link: &'a Arc<Link>,
        connection: (Option<SocketAddr>, Option<[u8; 32]>),
        start: Start,
    ) -> Self {
        let (lane_address, exporter) = connection;
        Self {
            link,
            lane_address,
            exporter,
            start,
            first: Vec::new(),
            farewell: None,
            deliveries: Vec::new(),
            payloads: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// Reads a stream of bytes until the link ends.
    pub(super) async fn read(&mut self, reads: &mut Reads) -> Result<(), Error> {
        let mut memory = ReadBuffer::default();
        let mut turn_bytes = 0;
        loop {
            let buffer = memory.with_room(READ_BYTES_MIN);
            match reads.read(buffer).await {
                Ok(0) => return Err(Error::link_lost("the relay closed the connection")),
                Ok(count) => turn_bytes += count,
                Err(error) => return Err(self.lost_by(error)),
            }
            let mut input = buffer.split().freeze();
            if self.first.is_empty() {
                let first = &input[..input.len().min(server_kind::FIRST_BYTES_MAX)];
                self.first.extend_from_slice(first);
            }
            #[cfg(test)]
            crate::link::tests::witness::read(reads.socket(), &input);
            self.turn(|now, mux| mux.handle_input(now, &mut input))?;
            if turn_bytes >= TURN_BYTES_MAX {
                turn_bytes = 0;
                yield_now().await;
            }
        }
    }

    /// Handles all that has arrived; `next` takes one event at a time from what did.
    ///
    /// # Errors
    /// The relay broke a rule, or the link was given up.
    pub(super) fn turn(
        &mut self,
        mut next: impl FnMut(Moment, &mut Mux) -> Result<Option<Event>, tieline_wire::Error>,
    ) -> Result<(), Error> {
        loop {
            let event = self.collect(&mut next);
            self.deliver();
            match event? {
                Some(event) => self.act(event),
                None => return Ok(()),
            }
        }
    }

    /// Error for a read that failed. Over TLS 1.3 it may be the end of the handshake: the relay refuses the agent's own
    /// certificate.
    pub(super) fn lost_by(&self, error: io::Error) -> Error {
        match client_certificate_problem(&error) {
            Some(problem) => Error::Tls {
                relay: self.start.relay_name.clone(),
                problem,
            },
            None => Error::lost_by(error),
        }
    }

    /// The error of a link that ended with `error`: what a refused handshake left unread tells more, if nothing else came.
    pub(super) async fn last_words(&mut self, reads: &mut Reads, error: Error) -> Error {
        if self.exporter.is_none() || !self.first.is_empty() || matches!(error, Error::Tls { .. }) {
            return error;
        }
        match timeout(LAST_WORDS_TIMEOUT, self.read(reads)).await {
            Ok(Err(told @ Error::Tls { .. })) => told,
            _ => error,
        }
    }

    /// Adds to a link's error what kind of server answered, if it was not a relay.
    pub(super) fn explained(&self, mut error: Error) -> Error {
        if let Error::Link { reason, detail, .. } = &mut error
            && (*reason == LinkEnd::Preface || self.first.is_empty())
        {
            let who = server_kind::describe(&self.first, &self.start.relay_name);
            *detail = match *reason {
                LinkEnd::Preface => who,
                _ => format!("{detail}: {who}"),
            };
        }
        error
    }

    /// Collects payloads up to the next event of another kind, so that targets are written to without the lock.
    fn collect(
        &mut self,
        next: &mut impl FnMut(Moment, &mut Mux) -> Result<Option<Event>, tieline_wire::Error>,
    ) -> Result<Option<Event>, Error> {
        let now = self.link.now();
        let mut core = self.link.core();
        if core.is_lost {
            return Err(Error::link_lost("the link was given up"));
        }
        let event = loop {
            match next(now, &mut core.mux) {
                Ok(Some(Event::Data {
                    session, payload, ..
                })) => self.collect_payload(&mut core, session, payload),
                Ok(event) => break Ok(event),
                Err(error) => break Err(Error::of_link(error)),
            }
        };
        core.after_turn(&self.link.deadline);
        let transmit = core.mux.wants_transmit();
        drop(core);
        if transmit {
            self.link.transmit.ring();
        }
        event
    }

    fn collect_payload(&mut self, core: &mut Core, id: SessionId, payload: Bytes) {
        // An empty payload has no bytes for the target, but still takes credit.
        if payload.is_empty() {
            core.mux.consumed(id, 0);
            return;
        }
        match self.deliveries.last_mut() {
            Some((session, count)) if session.id == id && *count < PAYLOADS_MAX => *count += 1,
            _ => match core.sessions.get(&id) {
                Some(session) => self.deliveries.push((Arc::clone(session), 1)),
                None => return,
            },
        }
        self.payloads.push(payload);
    }

    /// Writes the collected payloads to their targets, and returns credit for the bytes taken.
    fn deliver(&mut self) {
        let mut payloads = &self.payloads[..];
        for (session, count) in self.deliveries.drain(..) {
            let (own, rest) = payloads.split_at(count);
            payloads = rest;
            let taken = session.deliver(own);
            if taken > 0 {
                self.taken.push((session.id, taken));
            }
        }
        self.payloads.clear();
        if !self.taken.is_empty() {
            self.link.change(|mux| {
                for (id, count) in self.taken.drain(..) {
                    mux.consumed(id, count);
                }
            });
        }
    }

    fn act(&mut self, event: Event) {
        match event {
            Event::Open { session, open } => self.open(session, &open.tunnel),
            Event::BulkOffer { session, nonce } => self.lane_offered(session, nonce),
            Event::Bulk { session } => self.with_session(session, Session::moved),
            Event::Finished { session } => self.with_session(session, Session::finish),
            Event::Reset { session, .. } => self.with_session(session, Session::abort),
            Event::RelayHello(hello) => self.introduce(&hello),
            Event::RegisterAck(ack) => self.answered(ack),
            Event::Withdrawn(withdrawal) => self.withdrawn(withdrawal),
            Event::GoAway(away) => {
                if self.farewell.is_none() {
                    self.farewell = Some((away.reason, away.message.clone()));
                    self.tell(News::GoingAway(away));
                }
            }
            Event::Pong { rtt } => tracing::trace!(?rtt, "heartbeat"),
            // Payloads were collected before; an agent's mux never reports the other events.
            Event::Data { .. }
            | Event::AgentHello(_)
            | Event::Register(_)
            | Event::Unregister(_)
            | Event::Lost(_)
            | Event::Opened { .. } => {}
        }
    }

    fn with_session(&self, id: SessionId, act: impl FnOnce(&Session)) {
        let session = self.link.core().sessions.get(&id).cloned();
        if let Some(session) = session {
            act(&session);
        }
    }

    fn open(&self, id: SessionId, tunnel: &TunnelId) {
        let session = Arc::new(Session::new(id));
        let target = {
            let mut core = self.link.core();
            if core.draining {
                core.mux.reset(id, SessionEnd::ShuttingDown);
                self.link.transmit.ring();
                return;
            }
            let Some(target) = core.tunnels.target_of(tunnel) else {
                core.mux.reset(id, SessionEnd::UnknownTunnel);
                self.link.transmit.ring();
                return;
            };
            core.sessions.insert(id, Arc::clone(&session));
            target
        };
        let target = self.start.targets[target].clone();
        tokio::spawn(session::run(Arc::clone(self.link), session, target));
    }

    fn lane_offered(&self, id: SessionId, nonce: BulkNonce) {
        let Some(relay) = self.lane_address else {
            // The relay sees no TLS, so another server in front of it ends TLS.
            tracing::debug!(session = %id, "a bulk lane is not dialled for a link over TLS");
            return;
        };
        let session = self.link.core().sessions.get(&id).cloned();
        if let Some(session) = session
            && session.takes_lane()
        {
            tokio::spawn(session::take_offer(session, relay, nonce));
        }
    }

    fn introduce(&mut self, relay: &RelayHello) {
        let start = &self.start;
        let (relay_name, link) = (start.relay_name.clone(), (start.link_index, start.links));
        let exporter = self.exporter.as_ref();
        let identity = &start.identity;
        let hello = identity.hello(relay, relay_name, AGENT_VERSION, link, exporter);
        let is_bound = relay.is_other_end_of(self.exporter);
        if relay.exporter.is_some() && !is_bound {
            tracing::debug!("something between this agent and the relay ends TLS");
        }
        let lost = std::mem::take(&mut self.start.lost);
        let mut core = self.link.core();
        core.nonce = Some(relay.nonce);
        core.is_bound = is_bound;
        drop(core);
        self.link.change(|mux| {
            mux.hello(&hello);
            lost.iter().for_each(|lost| mux.tell_lost(lost));
        });
        let registers = std::mem::take(&mut self.start.registers);
        let (registers, tunnels): (Vec<_>, Vec<_>) = registers.into_iter().unzip();
        self.link.core().tunnels.expect(&tunnels);
        for (target, register) in registers.into_iter().enumerate() {
            self.link.register(target, register);
        }
    }

    fn answered(&self, ack: RegisterAck) {
        let mut core = self.link.core();
        let Some(target) = core.tunnels.answered(ack.request) else {
            return;
        };
        let news = match ack.outcome {
            Ok(granted) => {
                core.tunnels.granted(target, &granted.tunnel);
                News::Registered { target, granted }
            }
            Err(refusal) => News::Refused { target, refusal },
        };
        drop(core);
        self.tell(news);
    }

    /// Forgets a tunnel that the relay took back; the relay itself resets the tunnel's sessions.
    fn withdrawn(&self, withdrawal: Withdrawal) {
        let Withdrawal {
            tunnel, refusal, ..
        } = withdrawal;
        let target = self.link.core().tunnels.withdrawn(&tunnel);
        if let Some(target) = target {
            self.tell(News::Withdrawn { target, refusal });
        }
    }

    fn tell(&self, news: News) {
        // Never full: each registration has at most one answer, registrations are limited, and only a granted
        // tunnel is taken back; see `news_max`.
        let _ = self.start.news.try_send(news);
    }
}
