//! Sessions of this shard's links for HTTP connections that live on other shards.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tieline_wire::{Reason, TunnelId};

use super::Shard;
use super::frontends::Place;
use super::message::Verdict;
use super::routes::Choice;
use crate::auth::Identity;
use crate::io::Socket;
use crate::metrics::FrontendKind;
use crate::registry::{AgentTag, TunnelInfo};
use crate::session::Visitor;
use crate::splice::splice;

impl Shard {
    /// One session of an HTTP connection that lives on another shard.
    pub(super) fn crossing_arrived(
        self: &Rc<Self>,
        fd: OwnedFd,
        tunnel: TunnelId,
        agent: AgentTag,
        (identity, address): (Option<Arc<Identity>>, Option<IpAddr>),
        verdict: Arc<Verdict>,
    ) {
        let placed = self.caller_from(identity).map(|caller| {
            let fit = |info: &TunnelInfo| caller.may_reach(&tunnel, info);
            let visitor = || Visitor {
                identity: caller.identity(),
                address,
                kind: FrontendKind::Http,
                ..Visitor::default()
            };
            self.place(&tunnel, Choice::Agent(agent), fit, visitor)
        });
        let session = match placed.unwrap_or_else(Place::Nowhere) {
            Place::Here(session) => session,
            // The shard that it came from knew it: word of the route is on its way here.
            Place::Nowhere(Reason::UnknownTunnel) => {
                return verdict.reset_unsent(Reason::TunnelOffline);
            }
            // It moved on while the message was under way; the caller may ask again.
            Place::Shard(_) => return verdict.reset_unsent(Reason::TunnelOffline),
            Place::Nowhere(reason) => return verdict.reset_unsent(reason),
        };
        let block = Rc::clone(&self.read_block);
        self.gate.spawn(async move {
            let socket = Rc::new(Socket::new(fd));
            // Dropped before the socket: if the gate ends this task, the caller must not take the
            // end for an orderly one.
            let mut unfinished = Unfinished(Some(&verdict));
            let (fate, cancelled) = (session.fate(), || verdict.is_cancelled());
            let spliced = splice(Rc::clone(&socket), session, Bytes::new(), block, cancelled);
            let reset = spliced.await;
            unfinished.0 = None;
            match reset {
                Some(reason) if fate.is_not_sent() => verdict.reset_unsent(reason),
                Some(reason) => verdict.reset(reason),
                None => {}
            }
        });
    }
}

/// Says that a crossing session broke off, unless it came to its end.
struct Unfinished<'a>(Option<&'a Verdict>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(verdict) = self.0 {
            verdict.reset(Reason::ShuttingDown);
        }
    }
}
