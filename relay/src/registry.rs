//! This shard's links, and the tunnels that each of them serves.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::{AgentHello, Error, Generation, Moment, Scheme, TunnelId};

use crate::metrics::TunnelReport;
use crate::session::SharedMux;

/// A link's number on its shard; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// A link, from any shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinkRef {
    pub(crate) shard: usize,
    pub(crate) link: LinkId,
}

/// What an agent said of a tunnel's target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TunnelInfo {
    pub(crate) scheme: Scheme,
    pub(crate) authority: String,
    pub(crate) base_path: String,
    pub(crate) dcc: String,
    pub(crate) capabilities: Vec<String>,
}

/// A tunnel, as its link knows it.
#[derive(Debug)]
pub(crate) struct TunnelEntry {
    pub(crate) info: Arc<TunnelInfo>,
    /// The agent's number of the latest registration.
    pub(crate) request: u32,
    /// Set once the name is ours.
    pub(crate) granted: Option<Grant>,
    /// The first second since 1970 at which the agent's permission is over.
    pub(crate) expires_at_seconds: Option<u64>,
}

/// A name that a link holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) generation: Generation,
    pub(crate) since: Moment,
}

/// One link.
pub(crate) struct LinkEntry {
    pub(crate) mux: Rc<SharedMux>,
    pub(crate) peer: SocketAddr,
    /// Who the agent is, once it proved it.
    pub(crate) agent: Option<AgentHello>,
    pub(crate) tunnels: BTreeMap<TunnelId, TunnelEntry>,
    /// Claims that wait for an answer from their home; each gets one.
    pub(crate) claims: usize,
}

/// The links of one shard.
#[derive(Default)]
pub(crate) struct Registry {
    links: HashMap<LinkId, LinkEntry>,
    last: u64,
}

impl Registry {
    /// Adds a link that is about to shake hands.
    pub(crate) fn add(&mut self, mux: Rc<SharedMux>, peer: SocketAddr) -> LinkId {
        self.last += 1;
        let id = LinkId(self.last);
        self.links.insert(
            id,
            LinkEntry {
                mux,
                peer,
                agent: None,
                tunnels: BTreeMap::new(),
                claims: 0,
            },
        );
        id
    }

    pub(crate) fn remove(&mut self, id: LinkId) -> Option<LinkEntry> {
        self.links.remove(&id)
    }

    pub(crate) fn link(&self, id: LinkId) -> Option<&LinkEntry> {
        self.links.get(&id)
    }

    pub(crate) fn link_mut(&mut self, id: LinkId) -> Option<&mut LinkEntry> {
        self.links.get_mut(&id)
    }

    /// Pings where a ping is due; the links that must end, and why.
    pub(crate) fn overdue(&self, now: Moment) -> impl Iterator<Item = (&LinkEntry, Error)> {
        self.links
            .values()
            .filter_map(move |entry| Some((entry, entry.mux.tick(now).err()?)))
    }

    /// The links that hold a tunnel for longer than its token allows.
    pub(crate) fn expired(&self, now_seconds: u64) -> impl Iterator<Item = &LinkEntry> {
        self.links.values().filter(move |entry| {
            let mut ends = entry
                .tunnels
                .values()
                .filter_map(|it| it.expires_at_seconds);
            ends.any(|end| end <= now_seconds)
        })
    }

    /// Every link's mux.
    pub(crate) fn muxes(&self) -> Vec<Rc<SharedMux>> {
        self.links
            .values()
            .map(|entry| Rc::clone(&entry.mux))
            .collect()
    }

    /// True if no session runs on any link.
    pub(crate) fn is_idle(&self) -> bool {
        self.links
            .values()
            .all(|entry| entry.mux.session_count() == 0)
    }

    /// Every tunnel, as an operator sees it.
    pub(crate) fn report(&self, shard: usize, now: Moment) -> Vec<TunnelReport> {
        let ago =
            |moment| u64::try_from(now.saturating_since(moment).as_millis()).unwrap_or(u64::MAX);
        let mut reports = Vec::new();
        for entry in self.links.values() {
            let Some(agent) = &entry.agent else { continue };
            for (tunnel, it) in &entry.tunnels {
                let Some(grant) = it.granted else { continue };
                reports.push(TunnelReport {
                    tunnel_id: tunnel.as_str().to_owned(),
                    dcc: it.info.dcc.clone(),
                    capabilities: it.info.capabilities.clone(),
                    agent_version: agent.agent_version.clone(),
                    registered_at_ms_ago: ago(grant.since),
                    last_heartbeat_ms_ago: ago(entry.mux.last_received()),
                    session_count: entry.mux.session_count(),
                    generation: grant.generation.0,
                    shard,
                    links: 1,
                    target_scheme: match it.info.scheme {
                        Scheme::Tcp => "tcp",
                        Scheme::Http => "http",
                        Scheme::Https => "https",
                    },
                });
            }
        }
        reports
    }
}
