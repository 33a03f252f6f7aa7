//! Sessions on this shard's links for HTTP frontends that live on other shards. Raw frontends over QUIC on other shards come
//! as raw frontends (`shard/quic/crossing`).

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tieline_wire::{NoSession, SessionEnd};

use super::Shard;
use super::mail::message::{CrossingReply, CrossingRequest, Verdict};
use super::place::SessionPlace;
use crate::directory::TunnelSelector;
use crate::io::{Stream, timeout};
use crate::metrics::FrontendKind;
use crate::registry::TunnelInfo;
use crate::session::SessionCaller;
use crate::splice::splice;

/// Time for a route update to reach this shard after it reached another one.
const ROUTE_TIMEOUT: Duration = Duration::from_millis(500);

impl Shard {
    /// Serves one session of an HTTP frontend that lives on another shard.
    pub(super) fn crossing_arrived(
        self: &Rc<Self>,
        fd: OwnedFd,
        request: CrossingRequest,
        back: CrossingReply,
    ) {
        let reason = match self.place_crossing(&request) {
            SessionPlace::NoTarget(reason) => reason,
            placed => return self.serve_crossing(fd, placed, back),
        };
        // The frontend's shard found the tunnel, so the route update may be on its way to this shard.
        let may_come = matches!(reason, NoSession::UnknownTunnel | NoSession::TunnelOffline);
        let selector = TunnelSelector::Tunnel(request.tunnel.clone());
        let changed = || self.directory.routes_mut().waiting.changed(&selector, true);
        let changed = may_come.then(changed);
        let Some(changed) = changed.flatten() else {
            return self.serve_crossing(fd, SessionPlace::NoTarget(reason), back);
        };
        let shard = Rc::clone(self);
        self.kit.tasks.spawn(async move {
            let _ = timeout(ROUTE_TIMEOUT, changed).await;
            let placed = shard.place_crossing(&request);
            shard.serve_crossing(fd, placed, back);
        });
    }

    fn place_crossing(&self, request: &CrossingRequest) -> SessionPlace {
        let placed = self
            .callers
            .caller_from(request.identity.clone())
            .map(|caller| {
                let fit = |info: &TunnelInfo| caller.may_reach(&request.tunnel, info);
                let caller = || SessionCaller {
                    identity: caller.identity().cloned(),
                    address: request.address,
                    kind: FrontendKind::Http,
                    dcc: request.dcc.clone(),
                    ..SessionCaller::default()
                };
                self.place(&request.tunnel, request.agent, fit, caller)
            });
        placed.unwrap_or_else(SessionPlace::NoTarget)
    }

    fn serve_crossing(self: &Rc<Self>, fd: OwnedFd, placed: SessionPlace, back: CrossingReply) {
        let CrossingReply { verdict, reached } = back;
        let session = match placed {
            SessionPlace::Here(session) => session,
            // The link was lost or moved while the message was under way; the caller may try again.
            SessionPlace::NoTarget(NoSession::UnknownTunnel) | SessionPlace::Shard(_) => {
                return verdict.reset_unsent(SessionEnd::TunnelOffline);
            }
            SessionPlace::NoTarget(reason) => return verdict.reset_unsent(reason.into()),
        };
        let block = Rc::clone(&self.callers.read_block);
        let grace = self.kit.peers.config.callers.offline_grace;
        self.kit.tasks.spawn(async move {
            let stream = Rc::new(Stream::new(fd));
            // Dropped before the stream: if the task set drops this task, the caller must not mistake the stream's
            // close for an orderly end.
            let mut unfinished = Unfinished(Some(&verdict));
            let (delivery, cancelled) = (session.delivery(), || verdict.is_cancelled());
            let spliced = splice(Rc::clone(&stream), session, block, cancelled);
            let reset = spliced.await;
            unfinished.0 = None;
            match reset {
                Some(reason) if delivery.is_not_sent() => verdict.reset_unsent(reason),
                Some(reason) => verdict.reset(reason),
                None => {}
            }
            drop(unfinished);
            drop(stream);
            // The caller has read the end of the socket pair by now, and may wait for this report.
            if let Some(told) = delivery.report_of_agent()
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
            verdict.reset(SessionEnd::ShuttingDown);
        }
    }
}
