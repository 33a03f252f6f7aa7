//! The registration of a tunnel, from an agent's request to the answer.
//!
//! | step | where | function |
//! |---|---|---|
//! | 0 | the link's shard | [`Host`](super::Host) gets the frame from the link, and answers a refusal of step 1 |
//! | 1 | the link's shard | [`Agents::register`] checks the request, the token and limits |
//! | 2 | the same, if a provider decides | [`Agents::ask_provider`] asks it; [`Agents::ruled`] takes the ruling |
//! | 3 | the link's shard | [`Agents::claim_name`] adds the tunnel to its link, and sends a claim |
//! | 4 | the name's home shard | `Shard::decide_claim` decides, and sends the route to every shard, or a refusal back |
//! | 5 | every shard | `Shard::apply_route` applies the route, and confirms it; `Shard::route_applied` counts at home |
//! | 6 | the link's shard | [`Agents::grant_registration`] or [`Agents::refuse_registration`] answers the agent |
//!
//! Steps 1, 3 and 6 are here, 2 in `provider`, 4 in `shard/home`, 5 in `shard/routing` and `shard/home`.

use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::limits::TUNNELS_PER_LINK_MAX;
use tieline_wire::{
    Generation, Granted, LinkEnd, Mux, Refusal, RefusalReason, Register, RegisterAck, TunnelId,
    Withdrawal,
};
use tracing::info;

use super::super::mail::message::Message;
use super::Agents;
use crate::auth::{Admission, Identity, Permission, authorize};
use crate::clock::now_seconds;
use crate::directory::{Claim, ReleaseKind, home};
use crate::listen::proxied::Source;
use crate::registry::{Grant, LinkId, LinkRef, Renewal, TunnelEntry, TunnelInfo};

/// Registrations of one link that may wait for a provider or for the home shards of their names. Without a limit, an
/// agent that registers faster than they decide would fill the memory.
pub(super) const OPEN_REGISTRATIONS_MAX: usize = 1024;

impl Agents {
    /// Step 1: checks a registration that an agent sends over `link` from `source`, and claims its name or asks the
    /// provider. `mux` is the link's.
    ///
    /// # Errors
    /// The refusal to send back.
    pub(super) fn register(
        &self,
        link: LinkId,
        source: Source,
        mux: &mut Mux,
        register: &Register,
    ) -> Result<(), Refusal> {
        // First, because checking a token costs more.
        self.charge_registration(|limits| limits.register_from(source.address().ip()))?;
        register
            .check()
            .map_err(|error| Refusal::new(RefusalReason::RegistrationInvalid, error.to_string()))?;
        match self.permission(link, source, register)? {
            Admission::Granted(permission) => {
                self.claim_name(link, register, permission, None)?;
                mux.trust();
                Ok(())
            }
            Admission::AskProvider(name) => self.ask_provider(link, register, name),
        }
    }

    /// What the agent's token permits.
    fn permission(
        &self,
        link: LinkId,
        source: Source,
        register: &Register,
    ) -> Result<Admission, Refusal> {
        let gone = || Refusal::standard(RefusalReason::Internal);
        let registry = self.registry.borrow();
        let entry = registry.link(link).ok_or_else(gone)?;
        if entry.mux.is_left() {
            return Err(Refusal::standard(RefusalReason::ShuttingDown));
        }
        let agent = entry.agent.as_ref().ok_or_else(gone)?;
        let who = (&agent.key, &agent.machine);
        let is_local = source.is_this_machine();
        authorize(&self.kit.auth(), register, who, is_local, now_seconds())
    }

    /// Step 3: adds a permitted tunnel to its link and claims its name at the home shard, also when a registration is
    /// repeated.
    ///
    /// # Errors
    /// A limit is reached, or the link has ended.
    pub(super) fn claim_name(
        &self,
        link: LinkId,
        register: &Register,
        permission: Permission,
        renewal: Option<Renewal>,
    ) -> Result<(), Refusal> {
        let Permission {
            identity,
            name: tunnel,
            expires_at_seconds,
        } = permission;
        if let Some(identity) = &identity {
            self.charge_registration(|limits| limits.register_as(identity.sub()))?;
        }
        let gone = || Refusal::standard(RefusalReason::Internal);
        let mut registry = self.registry.borrow_mut();
        let entry = registry.link_mut(link).ok_or_else(gone)?;
        let known = entry.tunnels().get(&tunnel);
        let granted = known.and_then(|it| it.granted);
        let sessions = known.map(|it| it.sessions.clone());
        let is_new = sessions.is_none();
        let sessions = sessions.unwrap_or_default();
        if is_new && entry.tunnels().len() >= TUNNELS_PER_LINK_MAX as usize {
            return Err(Refusal::standard(RefusalReason::TunnelLimit));
        }
        if entry.open_registrations >= OPEN_REGISTRATIONS_MAX {
            return Err(Refusal::standard(RefusalReason::Overload));
        }
        let agent = entry.agent.as_ref().ok_or_else(gone)?;
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
            load: sessions.load().clone(),
            link_index: agent.link_index,
            request: register.request,
            info: Arc::clone(&info),
        };
        entry.open_registrations += 1;
        let it = TunnelEntry {
            info,
            request: register.request,
            granted,
            expires_at_seconds,
            identity,
            renewal,
            sessions,
            earlier: Vec::new(),
        };
        registry.add_tunnel(link, tunnel, it);
        drop(registry);
        let home = home(&claim.tunnel, self.kit.mail.shards());
        self.kit.mail.post(home, Message::Claim(Box::new(claim)));
        Ok(())
    }

    /// Step 6: every shard routes to the link. Acknowledges the registration.
    pub(in crate::shard) fn grant_registration(
        &self,
        link: LinkId,
        request: u32,
        tunnel: TunnelId,
        generation: Generation,
    ) {
        let now = self.kit.clock.now();
        let mut registry = self.registry.borrow_mut();
        let known = registry.link_mut(link).map(|entry| {
            entry.open_registrations = entry.open_registrations.saturating_sub(1);
            let mux = Rc::clone(&entry.mux);
            let dialled = entry.agent.as_ref().map(|it| it.relay_name.clone());
            (entry.tunnel_mut(&tunnel), mux, dialled)
        });
        let (it, mux, dialled) = match known {
            Some((Some(it), mux, dialled)) => (it, mux, dialled),
            gone => {
                let mux = gone.map(|(_, mux, _)| mux);
                drop(registry);
                // The link ended, or lost the tunnel; the home shard must stop routing to it.
                self.release(tunnel, link, ReleaseKind::Away);
                if let Some(mux) = mux {
                    let refusal = Refusal::standard(RefusalReason::Cancelled);
                    mux.with_mux(|mux| mux.refuse_registration(request, refusal));
                }
                return;
            }
        };
        let first = it.granted.is_none();
        it.grant(Grant {
            request,
            generation,
            since: it.granted.map_or(now, |before| before.since),
        });
        let base_path = it.info.base_path.clone();
        let expires_in_s = it.expires_in_s(now_seconds());
        if first && let Some(entry) = registry.link_mut(link) {
            entry.serves();
            self.note_registered(entry, &tunnel);
        }
        drop(registry);
        if first && self.may_log() {
            info!(%tunnel, link = link.0, generation = generation.0, "tunnel registered");
        }
        let public = &self.kit.peers.public_urls;
        let urls = public.of_tunnel(&tunnel, &base_path, dialled.as_deref());
        let heartbeat = self.kit.peers.config.stale_timeout / 3;
        let granted = Granted {
            tunnel,
            urls,
            generation,
            heartbeat_ms: u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX),
            expires_in_s,
        };
        mux.with_mux(|mux| {
            mux.register_ack(&RegisterAck {
                request,
                outcome: Ok(granted),
            })
        });
    }

    /// Step 6: the home shard refused the claim. Refuses the registration.
    pub(in crate::shard) fn refuse_registration(
        &self,
        link: LinkId,
        request: u32,
        tunnel: &TunnelId,
        refusal: Refusal,
    ) {
        let reason = refusal.reason;
        self.note_registration_refused(link, Some(tunnel), reason);
        let mut registry = self.registry.borrow_mut();
        let Some(entry) = registry.link_mut(link) else {
            return;
        };
        entry.open_registrations = entry.open_registrations.saturating_sub(1);
        let mux = Rc::clone(&entry.mux);
        // The claim of a later registration may still be granted, and needs the entry.
        let latest = entry.tunnels().get(tunnel).map(|it| it.request);
        // A refused token of another holder does not affect the link's hold on the name. Any other refusal means
        // that the home shard no longer routes to the link, or that the link's own permission changed.
        let may_stay = matches!(reason, RefusalReason::NameTaken | RefusalReason::NameBound);
        let stays = (may_stay || latest != Some(request)) && entry.refuse(tunnel, request);
        let lost = match stays {
            true => None,
            false => registry.remove_tunnel(link, tunnel),
        };
        drop(registry);
        let mut withdrawal = None;
        if let Some((it, grant)) = lost.and_then(|it| it.granted.map(|grant| (it, grant))) {
            // The earlier grant is not renewed: the home shard must stop routing to the link, and the tunnel's sessions
            // would be beyond the reach of operators and revocations.
            mux.cut(&it.sessions, reason.into());
            self.release(tunnel.clone(), link, ReleaseKind::Away);
            // After this kind of refusal alone the agent would assume that it keeps the earlier grant.
            withdrawal = may_stay.then(|| Withdrawal {
                request: grant.request,
                tunnel: tunnel.clone(),
                refusal: refusal.clone(),
            });
        }
        self.kit.metrics.registration_refused(reason);
        if self.may_log() {
            info!(%tunnel, link = link.0, reason = reason.word(), "tunnel refused");
        }
        mux.with_mux(|mux| {
            mux.refuse_registration(request, refusal);
            if let Some(withdrawal) = withdrawal {
                mux.withdraw(&withdrawal);
            }
        });
    }

    /// Counts and logs a registration that was refused before its name was claimed.
    pub(super) fn note_early_refusal(
        &self,
        link: LinkId,
        tunnel: Option<&TunnelId>,
        reason: RefusalReason,
    ) {
        self.kit.metrics.registration_refused(reason);
        self.note_registration_refused(link, tunnel, reason);
        if self.may_log() {
            let tunnel = tunnel.map(tracing::field::display);
            info!(
                link = link.0,
                tunnel,
                reason = reason.word(),
                "registration refused"
            );
        }
    }

    /// Tells a name's home shard that a link no longer serves the name.
    pub(super) fn release(&self, tunnel: TunnelId, link: LinkId, kind: ReleaseKind) {
        let shard = self.kit.index;
        let link = LinkRef { shard, link };
        let home = home(&tunnel, self.kit.mail.shards());
        let release = Message::Release { tunnel, link, kind };
        self.kit.mail.post(home, release);
    }

    /// Ends a link whose names another instance holds now.
    pub(in crate::shard) fn fence(&self, link: LinkId, reason: LinkEnd) {
        let registry = self.registry.borrow();
        // A link that is closing already keeps its first reason.
        if let Some(entry) = registry.link(link)
            && entry.mux.closing().is_none()
        {
            entry.mux.close(reason);
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
