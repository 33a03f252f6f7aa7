//! Counters that a shard owns, added up when somebody reads them, and what operators see.
//!
//! Each shard has a [`ShardMetrics`] of its own and is the only one to write it. So an increment
//! is a plain load and store, no locked instruction; a reader on another thread sees a value that
//! is at most a moment old.

mod text;

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI64, AtomicU64};

use serde::Serialize;
use tieline_wire::{Reason, SharedBudget};

pub(crate) use self::text::render;

/// A number that only rises.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds one; for the owning shard only.
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    /// Adds `count`; for the owning shard only.
    pub(crate) fn add(&self, count: u64) {
        // One writer: nothing can come between the load and the store.
        let sum = self.0.load(Relaxed).wrapping_add(count);
        self.0.store(sum, Relaxed);
    }

    /// The number, from any thread.
    pub(crate) fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    /// Adds one; for the owning shard only.
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    /// Takes one away; for the owning shard only.
    pub(crate) fn dec(&self) {
        self.add(-1);
    }

    /// Counts `now` of what was counted as `before`; for the owning shard only.
    pub(crate) fn replace(&self, before: usize, now: usize) {
        let as_count = |it| i64::try_from(it).unwrap_or(i64::MAX);
        self.add(as_count(now) - as_count(before));
    }

    fn add(&self, count: i64) {
        let sum = self.0.load(Relaxed).wrapping_add(count);
        self.0.store(sum, Relaxed);
    }

    /// The number, from any thread.
    pub(crate) fn read(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// One counter for each value of a label.
#[derive(Debug)]
pub(crate) struct Counters<const N: usize>([Counter; N]);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// One counter for each [`Reason`].
pub(crate) type ByReason = Counters<{ Reason::ALL.len() }>;

impl ByReason {
    /// Counts `reason`; for the owning shard only.
    pub(crate) fn inc(&self, reason: Reason) {
        self.0[reason.index()].inc();
    }

    /// How often `reason` was counted, from any thread.
    #[cfg(test)]
    pub(crate) fn read(&self, reason: Reason) -> u64 {
        self.0[reason.index()].read()
    }
}

/// The two ways of payload.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    /// From a frontend to its target.
    ToTarget,
    /// From a target to its frontend.
    ToFrontend,
}

/// How a frontend came.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FrontendKind {
    /// Over raw TCP.
    Tcp,
    /// Over HTTP.
    Http,
}

/// What moved from one shard to another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HandoffKind {
    /// An agent's connection.
    Link,
    /// A caller's connection.
    Frontend,
    /// A bulk lane.
    Lane,
}

/// Why a frame of a sound link was dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DropKind {
    /// Its session had ended.
    EndedSession,
    /// Its kind is unknown and marked optional.
    Optional,
}

/// Classes of HTTP status: 1xx to 5xx.
const HTTP_CLASSES: usize = 5;

/// What one shard counts. It alone writes; it has cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ShardMetrics {
    /// Links that live here.
    pub(crate) links: Gauge,
    /// Tunnels whose home is here, however many links serve them.
    pub(crate) tunnels: Gauge,
    /// Sessions that live here.
    pub(crate) sessions: Gauge,
    /// Frontends that live here.
    pub(crate) frontends: Gauge,
    /// Bulk lanes that live here.
    pub(crate) lanes: Gauge,
    /// What its links' sessions may hold.
    pub(crate) budget: Arc<SharedBudget>,
    /// Links that completed their handshake.
    pub(crate) links_total: Counter,
    pub(crate) callers_revoked: Counter,
    /// Sessions opened.
    pub(crate) sessions_total: Counter,
    /// Lanes offered to agents.
    pub(crate) lane_offers_total: Counter,
    /// Lanes that came to stand.
    pub(crate) lanes_total: Counter,
    /// Messages that found a mailbox full.
    pub(crate) mailbox_full: Counter,
    /// Sessions whose frontend and link are on different shards.
    pub(crate) crossings: Counter,
    /// Times that it polled instead of sleeping.
    pub(crate) spin_passes: Counter,
    /// Route updates applied.
    pub(crate) route_updates: Counter,
    link_evictions: ByReason,
    link_refused: ByReason,
    registrations_refused: ByReason,
    pub(crate) session_resets: ByReason,
    frontend_refused: ByReason,
    frontends_total: Counters<2>,
    bytes: Counters<2>,
    lane_bytes: Counters<2>,
    frames_dropped: Counters<2>,
    handoffs: Counters<3>,
    http_requests: Counters<HTTP_CLASSES>,
}

impl ShardMetrics {
    /// Those of a shard whose sessions may hold `budget_bytes` in each direction.
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self {
            budget: Arc::new(SharedBudget::new(budget_bytes)),
            ..Self::default()
        }
    }

    /// The relay removed a link that had been established.
    pub(crate) fn link_evicted(&self, reason: Reason) {
        self.link_evictions.inc(reason);
    }

    /// A connection on an agent listener did not become a link.
    pub(crate) fn link_refused(&self, reason: Reason) {
        self.link_refused.inc(reason);
    }

    /// An agent was denied a tunnel.
    pub(crate) fn registration_refused(&self, reason: Reason) {
        self.registrations_refused.inc(reason);
    }

    /// A session was aborted, by whichever side.
    pub(crate) fn session_reset(&self, reason: Reason) {
        self.session_resets.inc(reason);
    }

    /// A frontend connected.
    pub(crate) fn frontend_accepted(&self, kind: FrontendKind) {
        self.frontends_total.0[kind as usize].inc();
    }

    /// A frontend, or one of its requests, was turned away.
    pub(crate) fn frontend_refused(&self, reason: Reason) {
        self.frontend_refused.inc(reason);
    }

    /// Payload was passed on.
    pub(crate) fn bytes_moved(&self, direction: Direction, count: usize) {
        self.bytes.0[direction as usize].add(count as u64);
    }

    /// Payload was passed on over a lane.
    pub(crate) fn lane_bytes_moved(&self, direction: Direction, count: usize) {
        self.bytes_moved(direction, count);
        self.lane_bytes.0[direction as usize].add(count as u64);
    }

    /// Frames of a sound link were dropped.
    pub(crate) fn frames_dropped(&self, kind: DropKind, count: u64) {
        self.frames_dropped.0[kind as usize].add(count);
    }

    /// A connection left for another shard.
    pub(crate) fn handed_off(&self, kind: HandoffKind) {
        self.handoffs.0[kind as usize].inc();
    }

    /// An HTTP request was answered with `status`.
    pub(crate) fn http_answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, HTTP_CLASSES) - 1;
        self.http_requests.0[class].inc();
    }
}

/// What an operator sees of a shard.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ShardStatus {
    /// Its number.
    pub(crate) shard: usize,
    /// How it talks to the kernel: `uring` or `epoll`.
    pub(crate) driver: &'static str,
    /// Why not `io_uring`, if it is not.
    pub(crate) driver_reason: Option<String>,
}

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

#[cfg(test)]
mod tests;
