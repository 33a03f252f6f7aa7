//! Reports on tunnels and their callers, as operators see them.

use std::cmp::Ordering;
use std::net::IpAddr;

use serde::Serialize;

use super::FrontendKind;

/// Links whose paths are shown of one tunnel: as many as one agent may have.
pub(crate) const PATHS_MAX: usize = 64;

/// The path of one link, as the relay has measured it; absent are numbers that its transport does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct PathReport {
    pub(crate) shard: usize,
    pub(crate) transport: &'static str,
    /// Round trip in milliseconds: smoothed over QUIC, else that of the last ping.
    pub(crate) rtt_ms: Option<f64>,
    /// Share of the relay's packets that were lost.
    pub(crate) loss_percent: Option<f64>,
    /// Bytes of the largest datagram that gets to the agent, as far as it is known.
    pub(crate) mtu: Option<u16>,
}

/// A tunnel, as operators see it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TunnelReport {
    pub(crate) tunnel_id: String,
    pub(crate) dcc: String,
    pub(crate) capabilities: Vec<String>,
    pub(crate) agent_version: String,
    pub(crate) registered_at_ms_ago: u64,
    pub(crate) last_heartbeat_ms_ago: u64,
    pub(crate) session_count: usize,
    /// Serialized as text: a JSON number holds integers only up to 2^53 without loss.
    #[serde(serialize_with = "as_text")]
    pub(crate) generation: u64,
    /// The lowest of `shards`.
    pub(crate) shard: usize,
    /// Shards that have links of the tunnel.
    pub(crate) shards: Vec<usize>,
    pub(crate) links: usize,
    /// Number of agents that share the tunnel.
    pub(crate) agents: usize,
    #[serde(skip)]
    pub(crate) tags: Vec<[u8; 8]>,
    #[serde(skip)]
    pub(crate) is_shared: bool,
    pub(crate) target_scheme: &'static str,
    /// What carries the tunnel's links: `tcp`, `tls`, `ws`, `wss` or `quic`; `mixed` if they differ. `tls` and `wss` only where
    /// this relay ends TLS.
    pub(crate) transport: &'static str,
    /// Whether on all of the tunnel's links the agent's proof is bound to the TLS connection.
    pub(crate) channel_bound: bool,
    /// The paths of some of the tunnel's links, at most [`PATHS_MAX`].
    pub(crate) paths: Vec<PathReport>,
    /// Whether an operator paused the tunnel.
    pub(crate) paused: bool,
    /// Payload since the tunnel's links were established.
    pub(crate) bytes_to_target: u64,
    pub(crate) bytes_to_frontend: u64,
}

impl TunnelReport {
    /// Adds the report on the same tunnel's links on another shard. Unless agents share the name, links of an older
    /// generation are left out: they were superseded, and are ending.
    pub(crate) fn join(&mut self, other: Self) {
        let is_shared = self.is_shared && other.is_shared;
        let (mut other, newer) = match other.generation.cmp(&self.generation) {
            Ordering::Less if !is_shared => return,
            Ordering::Greater => (std::mem::replace(self, other), true),
            Ordering::Less | Ordering::Equal => (other, false),
        };
        if newer && !is_shared {
            return;
        }
        if self.transport != other.transport {
            self.transport = "mixed";
        }
        self.channel_bound &= other.channel_bound;
        let room = PATHS_MAX.saturating_sub(self.paths.len());
        self.paths.extend(other.paths.into_iter().take(room));
        self.paths.sort_by_key(|path| path.shard);
        self.links += other.links;
        self.session_count += other.session_count;
        self.paused |= other.paused;
        self.bytes_to_target += other.bytes_to_target;
        self.bytes_to_frontend += other.bytes_to_frontend;
        self.registered_at_ms_ago = self.registered_at_ms_ago.max(other.registered_at_ms_ago);
        self.last_heartbeat_ms_ago = self.last_heartbeat_ms_ago.min(other.last_heartbeat_ms_ago);
        self.shards.append(&mut other.shards);
        self.shards.sort_unstable();
        self.shards.dedup();
        self.shard = self.shard.min(other.shard);
        self.tags.append(&mut other.tags);
        self.tags.sort_unstable();
        self.tags.dedup();
        self.agents = self.tags.len();
    }
}

/// A batch of a shard's tunnels, in order of their names.
#[derive(Debug, Default)]
pub(crate) struct TunnelBatch {
    pub(crate) rows: Vec<TunnelReport>,
    /// Name after which the shard has more tunnels.
    pub(crate) next: Option<String>,
}

fn as_text<S: serde::Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// A caller's session, as operators see it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CallerReport {
    /// Holder of the caller's token, if it has one.
    pub(crate) sub: Option<String>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) kind: FrontendKind,
    pub(crate) since_ms_ago: u64,
    pub(crate) bytes_to_target: u64,
    pub(crate) bytes_to_frontend: u64,
    /// Shard of the session's link.
    pub(crate) shard: usize,
}

/// One tunnel and its callers, on one shard or on all.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct TunnelDetail {
    /// Absent if no link serves the tunnel.
    #[serde(flatten)]
    pub(crate) row: Option<TunnelReport>,
    /// Some of the tunnel's callers.
    pub(crate) callers: Vec<CallerReport>,
    /// Number of all callers.
    pub(crate) callers_total: usize,
    /// Owner of the name, whether or not an agent serves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bound: Option<BoundReport>,
}

/// Owner of a bound name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BoundReport {
    /// Holder of the token that registered the name, if there was one.
    pub(crate) sub: Option<String>,
    /// Beginning of the key of the agent that has the name, or had it last.
    pub(crate) agent: String,
    /// Whether agents with other keys may share the name.
    pub(crate) shared: bool,
    /// Time that the name stays bound while its agent is away; absent while an agent serves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kept_for_seconds: Option<u64>,
}

impl TunnelDetail {
    /// Adds another shard's detail, up to `callers_max` callers in all.
    pub(crate) fn join(&mut self, other: Self, callers_max: usize) {
        match (&mut self.row, other.row) {
            (Some(row), Some(other)) => row.join(other),
            (none, other) => *none = none.take().or(other),
        }
        let room = callers_max.saturating_sub(self.callers.len());
        self.callers.extend(other.callers.into_iter().take(room));
        self.callers_total += other.callers_total;
        self.bound = self.bound.take().or(other.bound);
    }
}

/// Numbers of links and sessions that an operator's order ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) links: usize,
    pub(crate) sessions: usize,
}

impl Cut {
    /// Sum of both.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self {
            links: self.links + other.links,
            sessions: self.sessions + other.sessions,
        }
    }
}

/// Numbers of entries that the audit log does not contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AuditCounts {
    /// Entries that did not reach the file.
    pub(crate) dropped: u64,
    /// Refusals that the file only counts.
    pub(crate) refusals_left_out: u64,
}

/// A certificate, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ShownCertificate {
    pub(crate) names: Vec<String>,
    /// Last second of its validity, since 1970.
    pub(crate) end_epoch_seconds: i64,
}

/// State of the certificate that the relay orders by itself, as operators see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct AcmeReport {
    pub(crate) domains: Vec<String>,
    /// Second since 1970 at which the next order begins: the present one while an order runs, and the end of the pause
    /// after a failure. Absent until the relay serves.
    pub(crate) renewal_epoch_seconds: Option<i64>,
    /// Whether an order runs.
    #[serde(skip)]
    pub(crate) is_ordering: bool,
    /// Orders that brought a certificate.
    pub(crate) orders_issued: u64,
    pub(crate) orders_failed: u64,
    /// Why the last order failed, unless one has succeeded since.
    pub(crate) last_failure: Option<String>,
    /// TXT records that the CA looks for, as lines of a zone file, if the operator has to put them into DNS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) dns_records: Vec<String>,
}

/// State of the relay's certificates, as operators see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsReport {
    pub(crate) certificates: Vec<ShownCertificate>,
    /// Absent if the relay orders no certificate.
    pub(crate) acme: Option<AcmeReport>,
}
