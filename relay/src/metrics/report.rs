//! What operators see of tunnels and of who uses them.

use std::cmp::Ordering;
use std::net::IpAddr;

use serde::Serialize;

use super::FrontendKind;

/// What an operator sees of a tunnel.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TunnelReport {
    pub(crate) tunnel_id: String,
    pub(crate) dcc: String,
    pub(crate) capabilities: Vec<String>,
    pub(crate) agent_version: String,
    pub(crate) registered_at_ms_ago: u64,
    pub(crate) last_heartbeat_ms_ago: u64,
    pub(crate) session_count: usize,
    /// As text, because it is larger than a JSON number may be without loss (2^53).
    #[serde(serialize_with = "as_text")]
    pub(crate) generation: u64,
    /// The lowest of `shards`.
    pub(crate) shard: usize,
    /// Where its links live.
    pub(crate) shards: Vec<usize>,
    pub(crate) links: usize,
    /// How many agents share it, this one included.
    pub(crate) agents: usize,
    #[serde(skip)]
    pub(crate) tags: Vec<[u8; 8]>,
    #[serde(skip)]
    pub(crate) is_shared: bool,
    pub(crate) target_scheme: &'static str,
    /// Whether an operator turned callers away from it.
    pub(crate) paused: bool,
    /// Payload since its links came.
    pub(crate) bytes_to_target: u64,
    pub(crate) bytes_to_frontend: u64,
}

impl TunnelReport {
    /// Adds what is known of the same tunnel's other links. Those of an older generation do not
    /// count where the name is one agent's: they were superseded, and are on their way out.
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

/// Some of a shard's tunnels, in order of their names.
#[derive(Debug, Default)]
pub(crate) struct TunnelBatch {
    pub(crate) rows: Vec<TunnelReport>,
    /// The name behind which there are more.
    pub(crate) next: Option<String>,
}

fn as_text<S: serde::Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// What an operator sees of a caller's session.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CallerReport {
    /// Whose token it has, if callers must have one.
    pub(crate) sub: Option<String>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) kind: FrontendKind,
    pub(crate) since_ms_ago: u64,
    pub(crate) bytes_to_target: u64,
    pub(crate) bytes_to_frontend: u64,
    /// Where the link of the session lives.
    pub(crate) shard: usize,
}

/// One tunnel and who uses it, as one shard knows it or as all do.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct TunnelDetail {
    /// Absent where no link serves it.
    #[serde(flatten)]
    pub(crate) row: Option<TunnelReport>,
    /// Some of its callers.
    pub(crate) callers: Vec<CallerReport>,
    /// How many there are.
    pub(crate) callers_total: usize,
    /// Whose the name is, whether an agent serves it or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bound: Option<BoundReport>,
}

/// Whose a name is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BoundReport {
    /// The holder of the token that it was registered with, if there was one.
    pub(crate) sub: Option<String>,
    /// The beginning of the key of the agent that has it, or had it last.
    pub(crate) agent: String,
    /// Whether agents with other keys may have it too.
    pub(crate) shared: bool,
    /// For how long it stays bound if its agent stays away; absent while an agent serves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kept_for_seconds: Option<u64>,
}

impl TunnelDetail {
    /// Adds what another shard knows, up to `callers_max` callers in all.
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

/// What an operator's order ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) links: usize,
    pub(crate) sessions: usize,
}

impl Cut {
    /// Both together.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self {
            links: self.links + other.links,
            sessions: self.sessions + other.sessions,
        }
    }
}

/// What the audit log does without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AuditCounts {
    /// Entries that did not reach the file.
    pub(crate) dropped: u64,
    /// Refusals that the file only counts.
    pub(crate) refusals_left_out: u64,
}
