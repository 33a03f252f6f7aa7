//! Sessions on this shard's links for HTTP frontends that live on other shards.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tieline_wire::Reason;

use super::Shard;
use super::frontends::Place;
use super::message::{Back, Verdict, Wish};
use super::routes::Choice;
use crate::io::{Socket, timeout};
use crate::listen::http::Aim;
use crate::metrics::FrontendKind;
use crate::registry::TunnelInfo;
use crate::session::Visitor;
use crate::splice::splice;

/// Time for a route update to reach this shard after it reached another one.
const ROUTE_TIMEOUT: Duration = Duration::from_millis(500);

impl Shard {
    /// Serves one session of an HTTP frontend that lives on another shard.
    pub(super) fn crossing_arrived(self: &Rc<Self>, fd: OwnedFd, wish: Wish, back: Back) {
        let reason = match self.place_crossing(&wish) {
            Place::Nowhere(reason) => reason,
            placed => return self.serve_crossing(fd, placed, back),
        };
        // The frontend's shard found the tunnel, so the route update may be on its way to this shard.
        let may_come = matches!(reason, Reason::UnknownTunnel | Reason::TunnelOffline);
        let aim = Aim::Tunnel(wish.tunnel.clone());
        let changed = may_come.then(|| self.routes.borrow_mut().changed(&aim, true));
        let Some(changed) = changed.flatten() else {
            return self.serve_crossing(fd, Place::Nowhere(reason), back);
        };
        let shard = Rc::clone(self);
        self.gate.spawn(async move {
            let _ = timeout(ROUTE_TIMEOUT, changed).await;
            let placed = shard.place_crossing(&wish);
            shard.serve_crossing(fd, placed, back);
        });
    }

    fn place_crossing(&self, wish: &Wish) -> Place {
        let placed = self.caller_from(wish.identity.clone()).map(|caller| {
            let fit = |info: &TunnelInfo| caller.may_reach(&wish.tunnel, info);
            let visitor = || Visitor {
                identity: caller.identity(),
                address: wish.address,
                kind: FrontendKind::Http,
                dcc: wish.dcc.clone(),
                ..Visitor::default()
            };
            self.place(&wish.tunnel, Choice::Agent(wish.agent), fit, visitor)
        });
        placed.unwrap_or_else(Place::Nowhere)
    }

    fn serve_crossing(self: &Rc<Self>, fd: OwnedFd, placed: Place, back: Back) {
        let Back { verdict, reached } = back;
        let session = match placed {
            Place::Here(session) => session,
            // The link was lost or moved while the message was under way; the caller may try again.
            Place::Nowhere(Reason::UnknownTunnel) | Place::Shard(_) => {
                return verdict.reset_unsent(Reason::TunnelOffline);
            }
            Place::Nowhere(reason) => return verdict.reset_unsent(reason),
        };
        let block = Rc::clone(&self.read_block);
        let grace = self.peers.config.http.offline_grace;
        self.gate.spawn(async move {
            let socket = Rc::new(Socket::new(fd));
            // Dropped before the socket: if the gate drops this task, the caller must not mistake the socket's close
            // for an orderly end.
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
            drop(unfinished);
            drop(socket);
            // The caller has read the end of the socket pair by now, and may wait for this report.
            if let Some(told) = fate.told()
                && let Ok(Ok(bytes)) = timeout(grace, told).await
            {
                let _ = reached.send(bytes);
            }
        });
    }
}

/// Marks a crossing session as reset on drop, unless it ended in order.
struct Unfinished<'a>(Option<&'a Verdict>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(verdict) = self.0 {
            verdict.reset(Reason::ShuttingDown);
        }
    }
}
