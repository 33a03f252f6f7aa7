//! The task of a link: it serves an agent's connection, and passes the link on to another shard.

use std::rc::Rc;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tieline_wire::{LinkEnd, LinkRefusal};
use tracing::{Instrument, info, info_span};

use super::Shard;
use super::agents::Host;
use super::mail::message::Message;
use crate::io::Stream;
use crate::limits::AddressCount;
use crate::link::{self, Left, NOTSENT_BYTES};
use crate::listen::proxied::Source;
use crate::quic::Connection;
use crate::registry::LinkId;

impl Shard {
    /// Serves a link. `moved` is the nonce that the agent was asked to sign by the shard which the link comes from.
    pub(super) fn serve_link(
        self: &Rc<Self>,
        stream: Stream,
        (source, stranger): (Source, AddressCount),
        moved: Option<[u8; 32]>,
    ) {
        let Some(nonce) = moved.or_else(new_nonce) else {
            self.link_gone(self.kit.index);
            self.kit.metrics.link_refused(LinkRefusal::Internal);
            return;
        };
        let mux = self.agents.new_mux(nonce, &stream);
        stream.tune_link(self.kit.peers.config.stale_timeout, NOTSENT_BYTES);
        let id = self.agents.link_arrived(&mux, source.address(), stranger);
        let host = Host {
            agents: Rc::clone(&self.agents),
            id,
            source,
            transport: transport(&stream),
            exporter: stream.exporter(),
            nonce,
        };
        let guard = LinkGuard::new(self, id);
        let shard = Rc::clone(self);
        if moved.is_some() {
            mux.skip_greeting();
        }
        let span = info_span!("link", id = id.0, peer = %source.address());
        self.kit.tasks.spawn(
            async move {
                // The guard's drop runs even if the task set drops this task.
                let mut guard = guard;
                let (may_move, block) = (moved.is_none(), &host.agents.link_block);
                match link::run(stream, may_move, &mux, &host, block).await {
                    Left::Ended(reason) => guard.end = Some(reason),
                    Left::Moved { to, stream } => {
                        // Counted there first: otherwise callers would be steered as if no shard had a link.
                        shard.link_expected(to);
                        guard.end = None;
                        let message = Message::Link {
                            stream,
                            source,
                            stranger: shard.agents.take_stranger(id),
                            nonce: Some(Box::new(nonce)),
                        };
                        drop(guard);
                        shard.move_link(to, message).await;
                    }
                }
            }
            .instrument(span),
        );
    }

    /// Serves a link over QUIC. It stays on the shard that has its connection, however many links that shard has.
    pub(super) fn serve_quic_link(self: &Rc<Self>, connection: Rc<Connection>) {
        let source = Source::Peer(connection.peer());
        let Ok(stranger) = self.agents.count_new_link(source.address()) else {
            return self.refuse_quic_link(&connection, LinkEnd::Limited);
        };
        let Some(nonce) = new_nonce() else {
            return self.refuse_quic_link(&connection, LinkEnd::Internal);
        };
        self.link_expected(self.kit.index);
        let exporter = connection.exporter();
        let mux = self.agents.new_mux_over_quic(nonce, exporter);
        let id = self.agents.link_arrived(&mux, source.address(), stranger);
        self.agents.link_over_quic(id, &connection);
        let host = Host {
            agents: Rc::clone(&self.agents),
            id,
            source,
            transport: "quic",
            exporter,
            nonce,
        };
        let guard = LinkGuard::new(self, id);
        let span = info_span!("link", id = id.0, peer = %source.address());
        self.kit.tasks.spawn(
            async move {
                let mut guard = guard;
                guard.end = Some(link::over_quic::run(&connection, &mux, &host).await);
            }
            .instrument(span),
        );
    }

    /// Refuses an agent's connection; the close tells the reason.
    fn refuse_quic_link(&self, connection: &Connection, reason: LinkEnd) {
        self.kit.metrics.link_refused(reason.refusal());
        if self.agents.may_log() {
            let peer = connection.peer();
            info!(%peer, reason = reason.word(), "link refused: {reason}");
        }
        connection.end(reason);
    }
}

/// A nonce for an agent to sign; `None` without random numbers: a signed hello could be replayed then.
fn new_nonce() -> Option<[u8; 32]> {
    let mut nonce = [0; 32];
    SystemRandom::new().fill(&mut nonce).ok()?;
    Some(nonce)
}

/// The word for what carries a link over TCP; `wss` and `tls` are used only where this relay ends TLS.
fn transport(stream: &Stream) -> &'static str {
    match (stream.is_websocket(), stream.is_tls()) {
        (false, false) => "tcp",
        (false, true) => "tls",
        (true, false) => "ws",
        (true, true) => "wss",
    }
}

/// Removes a link from its shard when its task ends or is dropped.
struct LinkGuard {
    shard: Rc<Shard>,
    id: LinkId,
    /// Reason of the link's end; `None` if the link moves to another shard.
    end: Option<LinkEnd>,
}

impl LinkGuard {
    fn new(shard: &Rc<Shard>, id: LinkId) -> Self {
        Self {
            shard: Rc::clone(shard),
            id,
            end: Some(LinkEnd::ShuttingDown),
        }
    }
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        let shard = &self.shard;
        let is_counted = match self.end {
            Some(reason) => shard.agents.link_ended(self.id, reason),
            None => {
                shard.agents.link_left(self.id);
                true
            }
        };
        if is_counted {
            shard.link_gone(shard.kit.index);
        }
    }
}
