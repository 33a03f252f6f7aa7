//! Reads a link into the mux, and acts on what arrives.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tieline_wire::{AgentHello, BulkNonce, Event, Reason, RegisterAck, RelayHello, SessionId};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::yield_now;

use super::buffer::ReadBuffer;
use super::driver::{READ_BYTES_MIN, Start, TURN_BYTES_MAX, link_error, lost};
use super::{Link, News};
use crate::error::Error;
use crate::session::{self, Session};

/// Payloads that are handed to a target together.
const PAYLOADS_MAX: usize = 32;

const AGENT_VERSION: &str = concat!("tieline/", env!("CARGO_PKG_VERSION"));

/// Reads the link and acts on what arrives.
pub(super) struct Dispatch<'a> {
    link: &'a Arc<Link>,
    /// Where the link leads; lanes go there too.
    relay: SocketAddr,
    start: Start,
    /// What the relay said when it announced the link's end.
    pub(super) farewell: Option<(Reason, String)>,
    /// Consecutive payloads of one session.
    payloads: Vec<Bytes>,
}

impl<'a> Dispatch<'a> {
    pub(super) fn new(link: &'a Arc<Link>, relay: SocketAddr, start: Start) -> Self {
        Self {
            link,
            relay,
            start,
            farewell: None,
            payloads: Vec::new(),
        }
    }

    /// Runs until the link ends.
    pub(super) async fn read(&mut self, reads: &mut OwnedReadHalf) -> Result<(), Error> {
        let mut memory = ReadBuffer::default();
        let mut events = Vec::new();
        let mut turn_bytes = 0;
        loop {
            let buffer = memory.with_room(READ_BYTES_MIN);
            match reads.read_buf(buffer).await {
                Ok(0) => return Err(Error::link_lost("the relay closed the connection")),
                Ok(count) => turn_bytes += count,
                Err(error) => return Err(lost(error)),
            }
            let input = buffer.split().freeze();
            #[cfg(test)]
            crate::witness::read(reads.as_ref(), &input);
            let broken = self.parse(input, &mut events);
            self.act(&mut events)?;
            if let Some(error) = broken {
                return Err(error);
            }
            if turn_bytes >= TURN_BYTES_MAX {
                turn_bytes = 0;
                yield_now().await;
            }
        }
    }

    /// Collects the events of one read, so that targets are written without the lock.
    fn parse(&self, mut input: Bytes, events: &mut Vec<Event>) -> Option<Error> {
        let mut core = self.link.core();
        let now = self.link.now();
        let broken = loop {
            match core.mux.handle_input(now, &mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break None,
                Err(error) => break Some(link_error(error)),
            }
        };
        core.after_turn(&self.link.deadline);
        let transmit = core.mux.wants_transmit();
        drop(core);
        if transmit {
            self.link.transmit.ring();
        }
        broken
    }

    fn act(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        let mut events = events.drain(..).peekable();
        while let Some(event) = events.next() {
            match event {
                // An empty message says nothing to a byte stream, and still takes credit.
                Event::Data {
                    session, payload, ..
                } if payload.is_empty() => {
                    self.link.consumed(session, 0);
                }
                Event::Data {
                    session, payload, ..
                } => {
                    self.payloads.push(payload);
                    while self.payloads.len() < PAYLOADS_MAX
                        && let Some(Event::Data { payload, .. }) =
                            events.next_if(|next| is_data_of(next, session))
                    {
                        self.payloads.push(payload);
                    }
                    self.deliver(session);
                }
                Event::Open { session, .. } => self.open(session),
                Event::BulkOffer { session, nonce } => self.lane_offered(session, nonce),
                Event::Bulk { session } => self.with_session(session, Session::moved),
                Event::Finished { session } => self.with_session(session, Session::finish),
                Event::Reset { session, .. } => self.with_session(session, Session::abort),
                Event::RelayHello(hello) => self.introduce(&hello),
                Event::RegisterAck(ack) => self.registered(ack)?,
                Event::GoAway(away) => {
                    if self.farewell.is_none() {
                        self.farewell = Some((away.reason, away.message.clone()));
                        self.tell(News::GoingAway(away));
                    }
                }
                Event::Pong { rtt } => tracing::trace!(?rtt, "heartbeat"),
                // A relay's mux refuses to let these through to an agent.
                Event::AgentHello(_)
                | Event::Register(_)
                | Event::Unregister(_)
                | Event::Opened { .. } => {}
            }
        }
        Ok(())
    }

    fn deliver(&mut self, id: SessionId) {
        let session = self.link.core().sessions.get(&id).cloned();
        let taken = session.map_or(0, |session| session.deliver(&self.payloads));
        self.payloads.clear();
        if taken > 0 {
            self.link.consumed(id, taken);
        }
    }

    fn with_session(&self, id: SessionId, act: impl FnOnce(&Session)) {
        let session = self.link.core().sessions.get(&id).cloned();
        if let Some(session) = session {
            act(&session);
        }
    }

    fn open(&self, id: SessionId) {
        let session = Arc::new(Session::new(id));
        {
            let mut core = self.link.core();
            if core.draining {
                core.mux.reset(id, Reason::ShuttingDown);
                self.link.transmit.ring();
                return;
            }
            core.sessions.insert(id, Arc::clone(&session));
        }
        let target = self.start.target.clone();
        tokio::spawn(session::run(Arc::clone(self.link), session, target));
    }

    fn lane_offered(&self, id: SessionId, nonce: BulkNonce) {
        let session = self.link.core().sessions.get(&id).cloned();
        if let Some(session) = session
            && session.takes_lane()
        {
            tokio::spawn(session::take_offer(session, self.relay, nonce));
        }
    }

    fn introduce(&self, relay: &RelayHello) {
        let start = &self.start;
        let mut hello = AgentHello {
            // The mux let the hello through, so there is a version that both speak.
            version: relay.choose_version().unwrap_or_default(),
            key: start.identity.key(),
            machine: start.identity.machine(),
            instance: start.identity.instance(),
            link_index: start.link_index,
            links: start.links,
            relay_name: start.relay_name.clone(),
            agent_version: AGENT_VERSION.to_owned(),
            signature: [0; 64],
        };
        hello.signature = start.identity.sign(&hello.transcript(&relay.nonce));
        self.link.change(|mux| {
            mux.hello(&hello);
            mux.register(&start.register);
        });
    }

    fn registered(&self, ack: RegisterAck) -> Result<(), Error> {
        match ack.outcome {
            Ok(granted) => {
                self.link.core().tunnel = Some(granted.tunnel.clone());
                self.tell(News::Registered(granted));
                Ok(())
            }
            Err(refusal) => Err(Error::refused(refusal.reason, refusal.message)),
        }
    }

    fn tell(&self, news: News) {
        // Full only if the relay acknowledges again and again; the first word stands.
        let _ = self.start.news.try_send(news);
    }
}

fn is_data_of(event: &Event, id: SessionId) -> bool {
    matches!(event, Event::Data { session, payload, .. } if *session == id && !payload.is_empty())
}
