//! Counters owned by a shard and summed when read, and the reports that operators see.
//!
//! Each shard has its own [`ShardMetrics`] and is the only writer. So an increment is a plain load and store
//! without a locked instruction, and a reader on another thread sees a value that is at most a moment
//! old.

mod report;
mod text;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI64, AtomicU64};

use serde::Serialize;
use tieline_wire::{
    CallerRefusal, Eviction, LinkRefusal, RefusalReason, SessionEnd, SharedBudget, WithdrawalReason,
};

pub(crate) use self::report::{
    AuditCounts, BoundReport, CallerReport, Cut, TunnelBatch, TunnelDetail, TunnelReport,
};
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
        // One writer: no other change can come between the load and the store.
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

    /// Subtracts one; for the owning shard only.
    pub(crate) fn dec(&self) {
        self.add(-1);
    }

    /// Replaces the part of the sum that was counted as `before` by `now`; for the owning shard only.
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

/// One counter per value of a label.
#[derive(Debug)]
pub(crate) struct Counters<const N: usize>([Counter; N]);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// Direction of payload.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    /// From a frontend to its target.
    ToTarget,
    /// From a target to its frontend.
    ToFrontend,
}

/// Kind of a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FrontendKind {
    /// Raw TCP.
    #[default]
    Tcp,
    /// HTTP.
    Http,
}

/// Kind of connection that moved to another shard.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HandoffKind {
    /// An agent's connection.
    Link,
    /// A caller's connection.
    Frontend,
    /// A bulk lane.
    Lane,
}

/// Kind of limit that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitKind {
    Registrations,
    Sessions,
    Requests,
    Bytes,
    Tunnels,
    Links,
}

impl LimitKind {
    /// The kind's word in metrics and answers.
    pub(crate) const fn word(self) -> &'static str {
        text::LIMIT_KINDS[self as usize]
    }
}

/// Why a frame was dropped although the link goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DropKind {
    /// The frame's session had ended.
    EndedSession,
    /// The frame's kind is unknown, and marked optional.
    Optional,
}

/// Classes of HTTP status: 1xx to 5xx.
const HTTP_CLASSES: usize = 5;

/// Metrics of one shard, the only writer; aligned so that they share no cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ShardMetrics {
    /// Open links of the shard.
    pub(crate) links: Gauge,
    /// Tunnels whose home is this shard, however many links serve each.
    pub(crate) tunnels: Gauge,
    /// Open sessions of the shard.
    pub(crate) sessions: Gauge,
    /// Connected frontends of the shard.
    pub(crate) frontends: Gauge,
    /// Open bulk lanes of the shard.
    pub(crate) lanes: Gauge,
    /// Budget of bytes that the sessions of the shard may buffer.
    pub(crate) budget: Arc<SharedBudget>,
    /// Links that completed their handshake.
    pub(crate) links_total: Counter,
    pub(crate) callers_revoked: Counter,
    /// Sessions opened.
    pub(crate) sessions_total: Counter,
    /// Lanes offered to agents.
    pub(crate) lane_offers_total: Counter,
    /// Lanes established.
    pub(crate) lanes_total: Counter,
    /// Messages that found a mailbox full.
    pub(crate) mailbox_full: Counter,
    /// Sessions whose frontend and link are on different shards.
    pub(crate) crossings: Counter,
    /// Times that the shard polled instead of sleeping.
    pub(crate) spin_passes: Counter,
    /// Route updates applied.
    pub(crate) route_updates: Counter,
    link_evictions: Counters<{ Eviction::ALL.len() }>,
    link_refused: Counters<{ LinkRefusal::ALL.len() }>,
    registrations_refused: Counters<{ RefusalReason::ALL.len() }>,
    tunnels_withdrawn: Counters<{ WithdrawalReason::ALL.len() }>,
    session_resets: Counters<{ SessionEnd::ALL.len() }>,
    frontend_refused: Counters<{ CallerRefusal::ALL.len() }>,
    frontends_total: Counters<2>,
    bytes: Counters<2>,
    lane_bytes: Counters<2>,
    frames_dropped: Counters<2>,
    handoffs: Counters<3>,
    limited: Counters<6>,
    /// Name bindings that were not written to the state folder.
    pub(crate) state_dropped: Counter,
    http_requests: Counters<HTTP_CLASSES>,
}

impl ShardMetrics {
    /// Metrics of a shard whose sessions may buffer `budget_bytes` per direction.
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self {
            budget: Arc::new(SharedBudget::new(budget_bytes)),
            ..Self::default()
        }
    }

    /// Counts an established link that the relay removed.
    pub(crate) fn link_evicted(&self, reason: Eviction) {
        self.link_evictions.0[reason.index()].inc();
    }

    /// Counts a connection on an agent listener that did not become a link.
    pub(crate) fn link_refused(&self, reason: LinkRefusal) {
        self.link_refused.0[reason.index()].inc();
    }

    /// Counts a refused registration.
    pub(crate) fn registration_refused(&self, reason: RefusalReason) {
        self.registrations_refused.0[reason.index()].inc();
    }

    /// Counts a tunnel that a link lost while it goes on.
    pub(crate) fn tunnel_withdrawn(&self, reason: WithdrawalReason) {
        self.tunnels_withdrawn.0[reason.index()].inc();
    }

    /// Counts a session aborted by either side.
    pub(crate) fn session_reset(&self, reason: SessionEnd) {
        self.session_resets.0[reason.index()].inc();
    }

    /// Sessions aborted, for any reason.
    #[cfg(test)]
    pub(crate) fn sessions_reset(&self) -> u64 {
        self.session_resets.0.iter().map(Counter::read).sum()
    }

    /// Counts a frontend that connected.
    pub(crate) fn frontend_accepted(&self, kind: FrontendKind) {
        self.frontends_total.0[kind as usize].inc();
    }

    /// Counts a refused frontend, or a refused request of one.
    pub(crate) fn frontend_refused(&self, reason: CallerRefusal) {
        self.frontend_refused.0[reason.index()].inc();
    }

    /// Counts payload bytes passed on.
    pub(crate) fn bytes_moved(&self, direction: Direction, count: usize) {
        self.bytes.0[direction as usize].add(count as u64);
    }

    /// Counts payload bytes passed on over a lane, also as payload in general.
    pub(crate) fn lane_bytes_moved(&self, direction: Direction, count: usize) {
        self.bytes_moved(direction, count);
        self.lane_bytes.0[direction as usize].add(count as u64);
    }

    /// Counts frames dropped on a link that goes on.
    pub(crate) fn frames_dropped(&self, kind: DropKind, count: u64) {
        self.frames_dropped.0[kind as usize].add(count);
    }

    /// Counts a connection that moved to another shard.
    pub(crate) fn handed_off(&self, kind: HandoffKind) {
        self.handoffs.0[kind as usize].inc();
    }

    /// Counts a refusal because of a limit.
    pub(crate) fn limited(&self, kind: LimitKind) {
        self.limited.0[kind as usize].inc();
    }

    /// Counts an HTTP request answered with `status`.
    pub(crate) fn http_answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, HTTP_CLASSES) - 1;
        self.http_requests.0[class].inc();
    }
}

/// Status of a shard, as operators see it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ShardStatus {
    /// Number of the shard.
    pub(crate) shard: usize,
    /// Driver in use: `uring` or `epoll`.
    pub(crate) driver: &'static str,
    /// Why the driver is not `io_uring`, if so.
    pub(crate) driver_reason: Option<String>,
}

#[cfg(test)]
mod tests;
