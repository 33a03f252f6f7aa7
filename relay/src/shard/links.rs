//! The task of a link: it serves an agent's connection, and passes the link on to another shard.

use std::rc::Rc;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tieline_wire::{LinkEnd, LinkRefusal};
use tracing::{Instrument, info_span};

use super::Shard;
use super::agents::Host;
use super::mail::message::Message;
use crate::io::Stream;
use crate::limits::AddressCount;
use crate::link::{self, Left, NOTSENT_BYTES};
use crate::listen::proxied::Source;
use crate::registry::LinkId;

impl Shard {
    /// Serves a link. `moved` is the nonce that the agent was asked to sign by the shard which the link comes from.
    pub(super) fn serve_link(
        self: &Rc<Self>,
        stream: Stream,
        (source, stranger): (Source, AddressCount),
        moved: Option<[u8; 32]>,
    ) {
        let mut nonce = moved.unwrap_or_default();
        if moved.is_none() && SystemRandom::new().fill(&mut nonce).is_err() {
            // Without a random nonce a signed hello could be replayed.
            self.link_gone(self.kit.index);
            self.kit.metrics.link_refused(LinkRefusal::Internal);
            return;
        }
        let peer = source.address();
        let mux = self.agents.new_mux(nonce, &stream);
        let id = self.agents.link_arrived(&mux, peer, stranger);
        stream.tune_link(self.kit.peers.config.stale_timeout, NOTSENT_BYTES);
        let host = Host {
            agents: Rc::clone(&self.agents),
            id,
            source,
            transport: transport(&stream),
            exporter: stream.exporter(),
            nonce,
        };
        let span = info_span!("link", id = id.0, %peer);
        let guard = LinkGuard {
            shard: Rc::clone(self),
            id,
            end: Some(LinkEnd::ShuttingDown),
        };
        let shard = Rc::clone(self);
        if moved.is_some() {
            mux.skip_greeting();
        }
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
}

/// The word for what carries a link; `wss` and `tls` are used only where this relay ends TLS.
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
