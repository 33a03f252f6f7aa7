//! Admission of registrations, and the end of links and callers that a new auth snapshot no longer allows.

use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::limits::TUNNELS_PER_LINK_MAX;
use tieline_wire::{Reason, Refusal, Register, TunnelId};
use tokio::sync::oneshot;

use super::Shard;
use super::kit::{Kit, ends_what_runs};
use crate::auth::{Identity, Snapshot};
use crate::directory::Claim;
use crate::io::turn;
use crate::registry::{LinkEntry, LinkId, LinkRef, Renewal, TunnelEntry, TunnelInfo};

/// Registrations of one link that may wait for a provider or for the home shards of their names. Without a limit, an
/// agent that registers faster than they decide would fill the memory.
pub(super) const CLAIMS_MAX: usize = 1024;

/// Links and tunnels that are rechecked in one turn of the shard: some 100 us.
const RECHECK_COUNT: usize = 512;

impl Shard {
    /// Adds a tunnel to a link and claims its name at the home shard, also when a registration is repeated.
    ///
    /// # Errors
    /// A limit is reached, or the link has ended.
    pub(super) fn admit(
        self: &Rc<Self>,
        link: LinkId,
        register: &Register,
        tunnel: TunnelId,
        identity: Option<Arc<Identity>>,
        expires_at_seconds: Option<u64>,
        renewal: Option<Renewal>,
    ) -> Result<(), Refusal> {
        if let Some(identity) = &identity {
            self.may_register(|limits| limits.register_as(identity.sub()))?;
        }
        let mut registry = self.registry.borrow_mut();
        let entry = registry
            .link_mut(link)
            .ok_or_else(|| refusal(Reason::LinkLost))?;
        let known = entry.tunnels().get(&tunnel);
        let granted = known.and_then(|it| it.granted);
        let held = known.map(|it| it.held.clone());
        let is_new = held.is_none();
        let held = held.unwrap_or_default();
        if is_new && entry.tunnels().len() >= TUNNELS_PER_LINK_MAX as usize {
            return Err(refusal(Reason::TunnelLimit));
        }
        if entry.claims >= CLAIMS_MAX {
            return Err(refusal(Reason::Overload));
        }
        let agent = entry
            .agent
            .as_ref()
            .ok_or_else(|| refusal(Reason::Protocol))?;
        let info = Arc::new(described(register, identity.as_deref()));
        let claim = Claim {
            tunnel: tunnel.clone(),
            key: agent.key,
            machine: agent.machine,
            instance: agent.instance,
            link: LinkRef {
                shard: self.kit.index,
                link,
            },
            address: entry.peer.ip().to_canonical(),
            load: held.load().clone(),
            link_index: agent.link_index,
            request: register.request,
            info: Arc::clone(&info),
        };
        entry.claims += 1;
        let it = TunnelEntry {
            info,
            request: register.request,
            granted,
            expires_at_seconds,
            identity,
            renewal,
            held,
            earlier: Vec::new(),
        };
        registry.add_tunnel(link, tunnel, it);
        drop(registry);
        self.claim(claim);
        Ok(())
    }

    /// Replaces the auth snapshot and ends the links that it no longer allows; `ended` receives their number.
    pub(super) fn auth_changed(
        self: &Rc<Self>,
        snapshot: Arc<Snapshot>,
        ended: oneshot::Sender<usize>,
    ) {
        // Snapshots arrive in order, since one sender sends them all.
        *self.kit.auth.borrow_mut() = Arc::clone(&snapshot);
        let now_seconds = Kit::seconds_since_1970();
        let callers = self.callers.recheck(|identity| {
            let allowed = snapshot.still_allows(Some(identity), None, now_seconds);
            !allowed.is_err_and(ends_what_runs)
        });
        self.kit.metrics.callers_revoked.add(callers as u64);
        let shard = Rc::clone(self);
        self.kit.gate.spawn(async move {
            // The control thread may have stopped waiting.
            let _ = ended.send(shard.recheck_links(&snapshot).await);
        });
    }

    async fn recheck_links(&self, snapshot: &Snapshot) -> usize {
        let (mut total, mut after) = (0, None);
        loop {
            let now_seconds = Kit::seconds_since_1970();
            let (ended, last) = self.registry.borrow().recheck(
                after,
                RECHECK_COUNT,
                |key, identity| {
                    let allowed = snapshot.still_allows(identity, key, now_seconds);
                    // The sweep withdraws tunnels whose tokens have merely expired.
                    allowed.or_else(|reason| match ends_what_runs(reason) {
                        true => Err(reason),
                        false => Ok(()),
                    })
                },
                |entry: &LinkEntry, reason| entry.mux.close(reason),
            );
            total += ended;
            match last {
                Some(last) => after = Some(last),
                None => return total,
            }
            turn().await;
        }
    }
}

/// Description of a registered target, and of the tunnel's owner.
fn described(register: &Register, identity: Option<&Identity>) -> TunnelInfo {
    TunnelInfo {
        scheme: register.scheme,
        authority: register.authority.clone(),
        base_path: register.base_path.clone(),
        dcc: register.dcc.clone(),
        capabilities: register.capabilities.clone(),
        expose_all: register.expose_all,
        owner: identity.map(|it| Arc::clone(&it.owner)),
        shared: identity.is_some_and(|it| it.shared),
    }
}

/// A refusal with the standard message of its reason.
pub(super) fn refusal(reason: Reason) -> Refusal {
    Refusal {
        reason,
        message: reason.to_string(),
    }
}
