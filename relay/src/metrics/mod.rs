//! Counters that a shard owns, added up when somebody reads them, and what operators see.
//!
//! Each shard has a [`ShardMetrics`] of its own and is the only one to write it. So an increment
//! is a plain load and store, no locked instruction; a reader on another thread sees a value that
//! is at most a moment old.

mod report;
mod text;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI64, AtomicU64};

use serde::Serialize;
use tieline_wire::{Reason, SharedBudget};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FrontendKind {
    /// Over raw TCP.
    #[default]
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

/// What somebody wanted too much of.
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
    /// Its word in metrics and answers.
    pub(crate) const fn word(self) -> &'static str {
        text::LIMIT_KINDS[self as usize]
    }
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
    tunnels_withdrawn: ByReason,
    pub(crate) session_resets: ByReason,
    frontend_refused: ByReason,
    frontends_total: Counters<2>,
    bytes: Counters<2>,
    lane_bytes: Counters<2>,
    frames_dropped: Counters<2>,
    handoffs: Counters<3>,
    limited: Counters<6>,
    /// Bindings of names that the state folder was not told of.
    pub(crate) state_dropped: Counter,
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

    /// A link lost a tunnel, and goes on.
    pub(crate) fn tunnel_withdrawn(&self, reason: Reason) {
        self.tunnels_withdrawn.inc(reason);
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

    /// Somebody was turned away because of a limit.
    pub(crate) fn limited(&self, kind: LimitKind) {
        self.limited.0[kind as usize].inc();
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

#[cfg(test)]
mod tests;
