//! This shard's links, and the tunnels that each link serves.

mod report;
mod tunnel;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Bound;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use tieline_wire::limits::FIRST_TUNNEL_TIMEOUT;
use tieline_wire::{AgentHello, AgentKey, LinkEnd, MachineId, Moment, TunnelId};
use tracing::debug;

pub(crate) use self::tunnel::{Due, Grant, Renewal, TunnelEntry, TunnelInfo};
use crate::auth::Identity;
use crate::limits::AddressCount;
use crate::quic::Connection;
use crate::session::{AgentRun, SharedMux, TunnelSessions};

/// Links of one run of an agent that are looked up at once: as many as an agent can be told to open.
const RUN_LINKS_MAX: usize = 64;

/// A link's number on its shard; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// Names a link on any shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinkRef {
    pub(crate) shard: usize,
    pub(crate) link: LinkId,
}

/// Short name of an agent, to tell apart the agents that share a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct AgentTag(pub(crate) [u8; 8]);

impl AgentTag {
    /// Hash of the key and the machine: the same key on another machine is another agent.
    pub(crate) fn of(key: &AgentKey, machine: &MachineId) -> Self {
        let text = [&key.as_bytes()[..], machine.as_bytes()].concat();
        let mut tag = Self::default();
        let len = tag.0.len();
        tag.0
            .copy_from_slice(&digest(&SHA256, &text).as_ref()[..len]);
        tag
    }
}

/// State of one link.
pub(crate) struct LinkEntry {
    pub(crate) mux: Rc<SharedMux>,
    pub(crate) peer: SocketAddr,
    /// Time of the link's arrival on this shard.
    since: Moment,
    /// Counts the link among those of its address that have no tunnel yet.
    stranger: AddressCount,
    /// The agent's hello, once its signature was verified.
    pub(crate) agent: Option<AgentHello>,
    /// The nonce that the agent signed; identifies the link in a later report by the agent.
    pub(crate) nonce: Option<[u8; 32]>,
    /// What carries the link.
    channel: Channel,
    /// Connection of a link over QUIC.
    quic: Weak<Connection>,
    /// Whether the link has ever had a tunnel.
    pub(crate) has_served: bool,
    tunnels: BTreeMap<TunnelId, TunnelEntry>,
    /// Tunnels that the agent took back while they had sessions.
    left: Vec<(TunnelId, TunnelEntry)>,
    /// A second since 1970 before which no permission of the link ends; saves looking at all tunnels.
    expires_at_seconds: Option<u64>,
    /// Registrations over the link that the provider or the name's home shard has not decided yet.
    pub(crate) open_registrations: usize,
    /// The part of `open_registrations` that the provider has not decided yet.
    pub(crate) questions: usize,
}

/// What carries a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Channel {
    /// Stable word for logs and JSON.
    pub(crate) transport: &'static str,
    /// Whether the agent's proof is bound to the link's TLS connection.
    pub(crate) is_bound: bool,
}

impl LinkEntry {
    pub(crate) const fn tunnels(&self) -> &BTreeMap<TunnelId, TunnelEntry> {
        &self.tunnels
    }

    pub(crate) fn tunnel_mut(&mut self, tunnel: &TunnelId) -> Option<&mut TunnelEntry> {
        self.tunnels.get_mut(tunnel)
    }

    /// Notes that the link got a tunnel, and no longer counts it among its address's links without one.
    pub(crate) fn serves(&mut self) {
        self.has_served = true;
        self.stranger = AddressCount::default();
    }

    /// Whether the link has got no tunnel within [`FIRST_TUNNEL_TIMEOUT`].
    fn is_useless(&self, now: Moment) -> bool {
        !self.has_served && now >= self.since + FIRST_TUNNEL_TIMEOUT
    }

    /// Sets the end of a tunnel's permission.
    pub(crate) fn extend(&mut self, tunnel: &TunnelId, expires_at_seconds: Option<u64>) {
        if let Some(it) = self.tunnels.get_mut(tunnel) {
            it.expires_at_seconds = expires_at_seconds;
        }
        let earliest = self
            .expires_at_seconds
            .into_iter()
            .chain(expires_at_seconds);
        self.expires_at_seconds = earliest.min();
    }

    /// Undoes a refused registration, so that the tunnel stays as it was before; false if the tunnel cannot stay.
    pub(crate) fn refuse(&mut self, tunnel: &TunnelId, request: u32) -> bool {
        let Some(it) = self.tunnels.get_mut(tunnel) else {
            return false;
        };
        let stays = it.refuse(request);
        let expires_at_seconds = it.expires_at_seconds;
        if stays {
            self.extend(tunnel, expires_at_seconds);
        }
        stays
    }

    /// Keeps a tunnel that the agent took back while it has sessions, so that its holder is still known.
    pub(crate) fn leave(&mut self, tunnel: TunnelId, it: TunnelEntry) {
        // The scan's cost is amortized: each tunnel that stays has a session, and sessions are limited.
        if self.left.len() == self.left.capacity() {
            self.left.retain(|(_, it)| it.sessions.count() > 0);
        }
        if it.sessions.count() > 0 {
            self.left.push((tunnel, it));
        }
    }

    /// The sessions of a tunnel, including those from before the agent took it back and registered it again.
    pub(crate) fn sessions_of(&self, tunnel: &TunnelId) -> impl Iterator<Item = &TunnelSessions> {
        let left = self.left.iter().filter(move |(it, _)| it == tunnel);
        let all = self.tunnels.get(tunnel).into_iter();
        all.chain(left.map(|(_, it)| it)).map(|it| &it.sessions)
    }

    /// Token holders of the link's tunnels, including tunnels that were taken back and have sessions.
    fn holders(&self) -> impl Iterator<Item = Option<&Identity>> {
        let left = self.left.iter().map(|(_, it)| it);
        let all = self.tunnels.values().chain(left);
        all.map(|it| it.identity.as_deref())
    }

    pub(crate) fn into_tunnels(self) -> impl Iterator<Item = TunnelId> {
        self.tunnels.into_keys()
    }

    /// Up to `count` tunnels whose permissions have expired at `now_seconds`.
    fn expired(&mut self, count: usize, now_seconds: u64) -> Vec<TunnelId> {
        let is_over = |end: &u64| *end <= now_seconds;
        if !self.expires_at_seconds.as_ref().is_some_and(is_over) {
            return Vec::new();
        }
        let ends = self.tunnels.values().filter_map(|it| it.expires_at_seconds);
        // Later than before, if the earliest permission was extended or its tunnel was taken back.
        self.expires_at_seconds = ends.min();
        let over = self
            .tunnels
            .iter()
            .filter(|(_, it)| it.expires_at_seconds.as_ref().is_some_and(is_over));
        over.take(count).map(|it| it.0.clone()).collect()
    }
}

/// The links of one shard.
#[derive(Default)]
pub(crate) struct Registry {
    links: BTreeMap<LinkId, LinkEntry>,
    /// The links of each name, sorted by name so that a report can begin at any name.
    names: BTreeMap<TunnelId, Vec<LinkId>>,
    nonces: HashMap<[u8; 32], LinkId>,
    /// The links here of each run of an agent that has several links, the oldest first.
    runs: HashMap<AgentRun, Vec<LinkId>>,
    last: u64,
}

impl Registry {
    /// Adds a link that has not shaken hands yet.
    pub(crate) fn add(
        &mut self,
        mux: Rc<SharedMux>,
        (peer, since): (SocketAddr, Moment),
        stranger: AddressCount,
    ) -> LinkId {
        self.last += 1;
        let id = LinkId(self.last);
        self.links.insert(
            id,
            LinkEntry {
                mux,
                peer,
                since,
                stranger,
                agent: None,
                nonce: None,
                channel: Channel::default(),
                quic: Weak::new(),
                has_served: false,
                tunnels: BTreeMap::new(),
                left: Vec::new(),
                expires_at_seconds: None,
                open_registrations: 0,
                questions: 0,
            },
        );
        id
    }

    /// Notes that a link is over QUIC.
    pub(crate) fn runs_over(&mut self, id: LinkId, connection: &Rc<Connection>) {
        if let Some(entry) = self.links.get_mut(&id) {
            entry.quic = Rc::downgrade(connection);
        }
    }

    /// Takes the count of a link without a tunnel, when the link moves to another shard.
    pub(crate) fn take_stranger(&mut self, id: LinkId) -> AddressCount {
        let entry = self.links.get_mut(&id);
        entry.map_or_else(AddressCount::default, |it| std::mem::take(&mut it.stranger))
    }

    /// Notes that an agent has proved its key, on a link with this nonce that came over `channel`.
    pub(crate) fn introduce(
        &mut self,
        id: LinkId,
        hello: AgentHello,
        nonce: [u8; 32],
        channel: Channel,
    ) {
        if let Some(entry) = self.links.get_mut(&id) {
            entry.channel = channel;
            if let Some(run) = run_with_siblings(&hello) {
                entry.mux.has_siblings(run);
                self.runs.entry(run).or_default().push(id);
            }
            entry.agent = Some(hello);
            entry.nonce = Some(nonce);
            self.nonces.insert(nonce, id);
        }
    }

    pub(crate) fn link_of_nonce(&self, nonce: &[u8; 32]) -> Option<&LinkEntry> {
        self.nonces.get(nonce).and_then(|id| self.links.get(id))
    }

    pub(crate) fn remove(&mut self, id: LinkId) -> Option<LinkEntry> {
        let entry = self.links.remove(&id)?;
        if let Some(nonce) = &entry.nonce {
            self.nonces.remove(nonce);
        }
        if let Some(run) = entry.agent.as_ref().and_then(run_with_siblings)
            && let Some(links) = self.runs.get_mut(&run)
        {
            links.retain(|it| *it != id);
            if links.is_empty() {
                self.runs.remove(&run);
            }
        }
        for tunnel in entry.tunnels.keys() {
            unlist(&mut self.names, tunnel, id);
        }
        Some(entry)
    }

    pub(crate) fn link(&self, id: LinkId) -> Option<&LinkEntry> {
        self.links.get(&id)
    }

    pub(crate) fn link_mut(&mut self, id: LinkId) -> Option<&mut LinkEntry> {
        self.links.get_mut(&id)
    }

    /// Adds a tunnel to a link. An earlier registration of the tunnel is kept, and counts again if this one is refused.
    pub(crate) fn add_tunnel(&mut self, id: LinkId, tunnel: TunnelId, mut it: TunnelEntry) {
        let Some(entry) = self.links.get_mut(&id) else {
            return;
        };
        if let Some(end) = it.expires_at_seconds {
            let earliest = entry.expires_at_seconds.map_or(end, |now| now.min(end));
            entry.expires_at_seconds = Some(earliest);
        }
        match entry.tunnels.remove(&tunnel) {
            Some(before) => it.follow(before),
            None => self.names.entry(tunnel.clone()).or_default().push(id),
        }
        entry.tunnels.insert(tunnel, it);
    }

    /// Removes a tunnel of a link.
    pub(crate) fn remove_tunnel(&mut self, id: LinkId, tunnel: &TunnelId) -> Option<TunnelEntry> {
        let it = self.links.get_mut(&id)?.tunnels.remove(tunnel)?;
        unlist(&mut self.names, tunnel, id);
        Some(it)
    }

    /// Sweeps links from `from` on: sends due pings and calls `end` for those that are overdue. Returns tunnels whose
    /// permissions have expired, for the caller to withdraw, and the link to go on with. Stops after `count` links and
    /// such tunnels.
    pub(crate) fn sweep(
        &mut self,
        from: Option<LinkId>,
        count: usize,
        now: Moment,
        now_seconds: u64,
        end: impl Fn(&LinkEntry, LinkEnd),
    ) -> (Vec<(LinkId, TunnelId)>, Option<LinkId>) {
        let start = from.map_or(Bound::Unbounded, Bound::Included);
        let (mut expired, mut seen) = (Vec::new(), 0);
        for (id, entry) in self.links.range_mut((start, Bound::Unbounded)) {
            if seen >= count {
                return (expired, Some(*id));
            }
            seen += 1;
            if let Err(error) = entry.mux.tick(now) {
                debug!(%error, "link overdue");
                end(entry, error.reason);
            } else if entry.mux.closing().is_none() && entry.is_useless(now) {
                end(entry, LinkEnd::NoTunnel);
            } else if entry.mux.closing().is_none() {
                let over = entry.expired(count, now_seconds);
                let has_more = over.len() == count;
                seen += over.len();
                expired.extend(over.into_iter().map(|tunnel| (*id, tunnel)));
                if has_more {
                    return (expired, Some(*id));
                }
            }
        }
        (expired, None)
    }

    /// Calls `end` for each link behind `after` whose agent, or a holder of one of its tunnels, `check` rejects. Stops
    /// after `count` links and tunnels. Returns how many links it ended, and the last link looked at, if more follow.
    pub(crate) fn recheck(
        &self,
        after: Option<LinkId>,
        count: usize,
        check: impl Fn(Option<&AgentKey>, Option<&Identity>) -> Result<(), LinkEnd>,
        end: impl Fn(&LinkEntry, LinkEnd),
    ) -> (usize, Option<LinkId>) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut links = self.links.range((start, Bound::Unbounded));
        let (mut ended, mut seen, mut last) = (0, 0, None);
        for (id, entry) in links.by_ref() {
            last = Some(*id);
            seen += 1 + entry.tunnels.len() + entry.left.len();
            if let Some(agent) = &entry.agent {
                let verdict = check(Some(&agent.key), None).and_then(|()| {
                    let mut holders = entry.holders();
                    holders.try_for_each(|holder| check(None, holder))
                });
                if let Err(reason) = verdict
                    && entry.mux.closing().is_none()
                {
                    end(entry, reason);
                    ended += 1;
                }
            }
            if seen >= count {
                break;
            }
        }
        (ended, last.filter(|_| links.next().is_some()))
    }

    /// The tunnels behind link `after` whose permissions are due for renewal at `now`, and the last link looked at, if
    /// more follow. Stops after `count` links and tunnels; the returned tunnels are not due again until they get a new
    /// time.
    pub(crate) fn renewals(
        &mut self,
        after: Option<LinkId>,
        count: usize,
        now: Moment,
    ) -> (Vec<Due>, Option<LinkId>) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut links = self.links.range_mut((start, Bound::Unbounded));
        let (mut due, mut seen, mut last) = (Vec::new(), 0, None);
        for (id, entry) in links.by_ref() {
            last = Some(*id);
            seen += 1 + entry.tunnels.len();
            for (tunnel, it) in &mut entry.tunnels {
                let Some(renewal) = &mut it.renewal else {
                    continue;
                };
                if renewal.next_at.is_some_and(|at| at <= now) {
                    renewal.next_at = None;
                    due.push(Due {
                        link: *id,
                        tunnel: tunnel.clone(),
                        register: Arc::clone(&renewal.register),
                    });
                }
            }
            if seen >= count {
                break;
            }
        }
        (due, last.filter(|_| links.next().is_some()))
    }

    /// Sets when a tunnel's permission is to be renewed.
    pub(crate) fn renew_at(&mut self, id: LinkId, tunnel: &TunnelId, at: Moment) {
        let entry = self.links.get_mut(&id);
        let it = entry.and_then(|entry| entry.tunnels.get_mut(tunnel));
        if let Some(renewal) = it.and_then(|it| it.renewal.as_mut()) {
            renewal.next_at = Some(at);
        }
    }

    /// The mux of every link.
    pub(crate) fn muxes(&self) -> Vec<Rc<SharedMux>> {
        self.links
            .values()
            .map(|entry| Rc::clone(&entry.mux))
            .collect()
    }

    /// Whether the shard has no link.
    pub(crate) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Whether no link has a session.
    pub(crate) fn is_idle(&self) -> bool {
        self.links
            .values()
            .all(|entry| entry.mux.session_count() == 0)
    }

    /// The latest [`RUN_LINKS_MAX`] links of a run of an agent that has several links.
    pub(crate) fn links_of_run(&self, run: &AgentRun) -> impl Iterator<Item = &LinkEntry> {
        let ids = self.runs.get(run).into_iter().flatten().rev();
        let ids = ids.take(RUN_LINKS_MAX);
        ids.filter_map(|id| self.links.get(id))
    }

    /// The links that serve `tunnel`.
    pub(crate) fn links_of(&self, tunnel: &TunnelId) -> impl Iterator<Item = (LinkId, &LinkEntry)> {
        let ids = self.names.get(tunnel).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.links.get(id)?)))
    }
}

/// The run of an agent that has several links; a link alone has no other links to ask about.
fn run_with_siblings(hello: &AgentHello) -> Option<AgentRun> {
    (hello.links > 1).then_some((hello.key, hello.instance))
}

fn unlist(names: &mut BTreeMap<TunnelId, Vec<LinkId>>, tunnel: &TunnelId, link: LinkId) {
    if let Some(links) = names.get_mut(tunnel) {
        links.retain(|it| *it != link);
        if links.is_empty() {
            names.remove(tunnel);
        }
    }
}

#[cfg(test)]
mod tests;
