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

use rustls::{NamedGroup, ProtocolVersion};
use serde::Serialize;
use tieline_transport::Agreed;
use tieline_wire::{
    CallerRefusal, Eviction, LinkRefusal, RefusalReason, SessionEnd, SharedBudget, WithdrawalReason,
};

pub(crate) use self::report::{
    AcmeReport, AuditCounts, BoundReport, CallerReport, Cut, PathReport, ShownCertificate,
    TlsReport, TunnelBatch, TunnelDetail, TunnelReport,
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
    /// Payload for a TCP target, over WebSocket.
    #[serde(rename = "websocket")]
    WebSocket,
    /// A stream of a QUIC connection.
    Quic,
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
        LIMIT_KINDS[self as usize]
    }
}

/// Why the handshake of TLS on an accepted connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsFailure {
    /// The first bytes are not TLS.
    NotTls,
    /// Client and relay have no protocol above TLS in common.
    Alpn,
    /// Client and relay have no version, cipher suite or group in common.
    Incompatible,
    /// The client ended the handshake with an alert: it does not accept the certificate, for example.
    ClientRefused,
    /// The relay has no certificate yet, or no open challenge for a CA that checks a name.
    NoCertificate,
    /// An agent showed no certificate of its own, and must have one.
    NoClientCertificate,
    /// An agent's own certificate is not one that the relay accepts.
    BadClientCertificate,
    /// The client broke the rules of TLS.
    Protocol,
    /// The connection closed before the end of the handshake.
    Closed,
    /// The handshake took too long.
    Timeout,
    /// Too many handshakes at a time.
    Overload,
}

impl TlsFailure {
    /// The failure's word in metrics and logs.
    pub(crate) const fn word(self) -> &'static str {
        TLS_FAILURES[self as usize]
    }
}

/// Why a QUIC packet was dropped, or answered without a connection. A connection that begins and fails is counted as a
/// [`TlsFailure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuicDrop {
    /// The packet is too short for a connection ID, or breaks another rule of every version.
    Malformed,
    /// A version that the relay does not have; the client is told those that it has.
    Version,
    /// A first packet in a datagram shorter than 1200 bytes, which could make the relay send more than it got.
    ShortInitial,
    /// A first packet with an invalid token or connection ID, or damaged.
    BadInitial,
    /// A packet of a connection that the shard does not have; its sender gets a stateless reset, unless many do.
    UnknownConnection,
    /// Too many first packets wait for their handshake, or there are too many connections.
    Overload,
    /// The relay stops, and begins no connection.
    Closing,
    /// A packet for another shard that has too many of them already.
    StrayLost,
    /// The socket could not be read.
    SocketFailed,
    /// A datagram that was not sent: more than three times what came from its address, which no one has proved.
    Unproved,
}

/// Why a frame was dropped although the link goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DropKind {
    /// The frame's session had ended.
    EndedSession,
    /// The frame's kind is unknown, and marked optional.
    Optional,
}

const TRANSPORTS: [&str; 5] = ["tcp", "tls", "ws", "wss", "quic"];
const DIRECTIONS: [&str; 2] = ["to_target", "to_frontend"];
const FRONTEND_KINDS: [&str; 4] = ["tcp", "http", "websocket", "quic"];
const HANDOFF_KINDS: [&str; 3] = ["link", "frontend", "lane"];
const DROP_KINDS: [&str; 2] = ["ended_session", "optional"];
const LIMIT_KINDS: [&str; 6] = [
    "registrations",
    "sessions",
    "requests",
    "bytes",
    "tunnels",
    "links",
];
const TLS_VERSIONS: [&str; 2] = ["1.2", "1.3"];
const TLS_GROUPS: [&str; 4] = ["x25519", "x25519mlkem768", "secp256r1", "other"];
const TLS_FAILURES: [&str; 11] = [
    "not_tls",
    "alpn",
    "incompatible",
    "client_refused",
    "no_certificate",
    "no_client_certificate",
    "bad_client_certificate",
    "protocol",
    "closed",
    "timeout",
    "overload",
];
const QUIC_DROPS: [&str; 10] = [
    "malformed",
    "version",
    "short_initial",
    "bad_initial",
    "unknown_connection",
    "overload",
    "closing",
    "stray_lost",
    "socket_failed",
    "unproved",
];
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Reads the value of a family from the metrics of one shard.
type Pick<T> = fn(&ShardMetrics) -> &T;

/// A label, and its values in the order of the counters.
type Label = (&'static str, &'static [&'static str]);

/// Words of the reasons of one type, in the order of the counters.
macro_rules! words {
    ($reason:ident) => {{
        const WORDS: [&str; $reason::ALL.len()] = {
            let mut words = [""; $reason::ALL.len()];
            let mut at = 0;
            while at < words.len() {
                words[at] = $reason::ALL[at].word();
                at += 1;
            }
            words
        };
        &WORDS
    }};
}

/// Makes [`ShardMetrics`], and the lists of families that `text` shows. A row has a field, the family's name, and its
/// help text, which documents the field too.
///
/// | rows of | form | field |
/// |---|---|---|
/// | `gauges`, `counters` | `field: name, help;` | one value |
/// | `by_reason` | `field by Reason: name, help;` | a counter for each reason; the method `field(reason)` counts |
/// | `by_label` | `field by label WORDS: name, help;` | a counter for each word; its method is written below |
///
/// So `link_evicted by Eviction: "relay_link_evictions_total", "Links removed by the relay.";` makes the field
/// `link_evicted: Counters<..>`, the method `link_evicted(&self, reason: Eviction)`, and one row of [`BY_LABEL`], which
/// shows `relay_link_evictions_total{reason="stale"} 3` and the other reasons.
macro_rules! shard_metrics {
    (
        gauges { $($(#[$gauge_doc:meta])* $gauge:ident: $gauge_name:literal, $gauge_help:literal;)* }
        counters { $($(#[$counter_doc:meta])* $counter:ident: $counter_name:literal, $counter_help:literal;)* }
        by_reason { $($(#[$ended_doc:meta])* $ended:ident by $reason:ident: $ended_name:literal, $ended_help:literal;)* }
        by_label { $($list:ident by $label:literal $words:ident: $list_name:literal, $list_help:literal;)* }
    ) => {
        /// Metrics of one shard, the only writer; aligned so that they share no cache line.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct ShardMetrics {
            /// Budget of bytes that the sessions of the shard may buffer.
            pub(crate) budget: Arc<SharedBudget>,
            $(#[doc = $gauge_help] $(#[$gauge_doc])* pub(crate) $gauge: Gauge,)*
            $(#[doc = $counter_help] $(#[$counter_doc])* pub(crate) $counter: Counter,)*
            $(#[doc = $ended_help] $ended: Counters<{ $reason::ALL.len() }>,)*
            $(#[doc = $list_help] $list: Counters<{ $words.len() }>,)*
        }

        impl ShardMetrics {
            $($(#[$ended_doc])* pub(crate) fn $ended(&self, reason: $reason) {
                self.$ended.0[reason.index()].inc();
            })*
        }

        /// Gauges: name, help text, value.
        const GAUGES: &[(&str, &str, Pick<Gauge>)] = &[
            $(($gauge_name, $gauge_help, |m| &m.$gauge),)*
        ];

        /// Counters without a label: name, help text, value.
        const COUNTERS: &[(&str, &str, Pick<Counter>)] = &[
            $(($counter_name, $counter_help, |m| &m.$counter),)*
        ];

        /// Counters with one value per value of a label: name, help text, label, values.
        const BY_LABEL: &[(&str, &str, Label, Pick<[Counter]>)] = &[
            $(($ended_name, $ended_help, ("reason", words!($reason)), |m| &m.$ended.0),)*
            $(($list_name, $list_help, ($label, &$words), |m| &m.$list.0),)*
        ];
    };
}

shard_metrics! {
    gauges {
        links: "relay_links", "Links of agents.";
        /// A tunnel counts at its home shard, however many links serve it.
        tunnels: "relay_tunnels", "Registered tunnels.";
        sessions: "relay_sessions", "Open sessions.";
        frontends: "relay_frontends", "Connected frontends.";
        lanes: "relay_lanes", "Open bulk lanes.";
        /// Includes connections whose handshake is not over, and closed ones whose last packets may still arrive.
        quic_connections: "relay_quic_connections", "QUIC connections.";
    }
    counters {
        callers_revoked: "relay_callers_revoked_total", "Callers cut off because their access was revoked.";
        /// A link is established with the end of its handshake.
        links_total: "relay_links_total", "Links established.";
        sessions_total: "relay_sessions_total", "Sessions opened.";
        lane_offers_total: "relay_lane_offers_total", "Bulk lanes offered.";
        lanes_total: "relay_lanes_total", "Bulk lanes established.";
        mailbox_full: "relay_mailbox_full_total", "Messages that found a mailbox full.";
        /// Frontend and link of such a session are on different shards.
        crossings: "relay_crossings_total", "Sessions that cross shards.";
        spin_passes: "relay_spin_passes_total", "Times that a shard polled instead of sleeping.";
        state_dropped: "relay_state_dropped_total", "Name bindings that were not written to the state folder.";
        tls_resumed: "relay_tls_resumed_total", "TLS handshakes that resumed an earlier connection.";
        quic_packets: "relay_quic_packets_total", "QUIC datagrams received.";
        quic_handshakes: "relay_quic_handshakes_total", "QUIC handshakes completed.";
        quic_retries: "relay_quic_retries_total", "Clients that had to prove their address before a QUIC handshake.";
        /// Counted from time to time.
        quic_sent: "relay_quic_sent_total", "QUIC packets sent.";
        /// Those that look for the largest datagram are left out: they are meant to get lost.
        quic_lost: "relay_quic_lost_total", "QUIC packets sent and lost.";
        /// The kernel steers by the connection ID; such a packet came to another shard all the same.
        quic_strays: "relay_quic_strays_total", "QUIC packets passed on to the shard of their connection.";
        /// `quinn_proto` itself has no such limit.
        quic_id_floods: "relay_quic_id_floods_total", "QUIC connections closed because their peer used up connection IDs too fast.";
        /// Of callers alone: a link that ends so is an eviction with reason `protocol`.
        quic_broken: "relay_quic_broken_total", "Callers' QUIC connections closed because they broke a rule of QUIC.";
        /// The room of all callers over QUIC on a shard is bounded.
        quic_windows_short: "relay_quic_windows_short_total", "Sessions over QUIC whose caller got no whole window.";
        /// A connection that goes back, because its peer did not answer at the new address, has moved again.
        quic_moves: "relay_quic_moves_total", "Changes of a QUIC connection's address.";
        route_updates: "relay_route_updates_total", "Route updates applied.";
    }
    by_reason {
        /// Counts an established link that the relay removed.
        link_evicted by Eviction: "relay_link_evictions_total", "Links removed by the relay.";
        /// Counts a connection on an agent listener that did not become a link.
        link_refused by LinkRefusal: "relay_link_refused_total", "Agents' connections that did not become a link.";
        /// Counts a refused registration.
        registration_refused by RefusalReason: "relay_registration_refused_total", "Registrations refused.";
        /// Counts a tunnel that a link lost while it goes on.
        tunnel_withdrawn by WithdrawalReason: "relay_tunnels_withdrawn_total", "Tunnels taken from links that go on.";
        /// Counts a session aborted by either side.
        session_reset by SessionEnd: "relay_session_resets_total", "Sessions aborted.";
        /// Counts a refused frontend, or a refused request of one.
        frontend_refused by CallerRefusal: "relay_frontend_refused_total", "Frontends refused.";
    }
    by_label {
        links_by_transport by "transport" TRANSPORTS: "relay_link_transports_total", "Links established, by transport.";
        frontends_total by "kind" FRONTEND_KINDS: "relay_frontends_total", "Frontends accepted.";
        bytes by "direction" DIRECTIONS: "relay_bytes_total", "Payload passed on, in bytes.";
        lane_bytes by "direction" DIRECTIONS: "relay_lane_bytes_total", "Payload passed on over bulk lanes, in bytes.";
        frames_dropped by "kind" DROP_KINDS: "relay_frames_dropped_total", "Frames dropped on links that go on.";
        handoffs by "kind" HANDOFF_KINDS: "relay_handoffs_total", "Connections moved to another shard.";
        limited by "limit" LIMIT_KINDS: "relay_limited_total", "Refusals because of a limit.";
        tls_handshakes by "version" TLS_VERSIONS: "relay_tls_handshakes_total", "TLS handshakes completed.";
        tls_groups by "group" TLS_GROUPS: "relay_tls_key_exchanges_total", "Key exchanges of TLS handshakes, by group.";
        tls_failures by "reason" TLS_FAILURES: "relay_tls_failures_total", "TLS handshakes that failed.";
        quic_dropped by "reason" QUIC_DROPS: "relay_quic_dropped_total", "QUIC packets dropped, or answered without a connection.";
        http_requests by "status" STATUS_CLASSES: "relay_http_requests_total", "HTTP requests answered.";
    }
}

impl ShardMetrics {
    /// Metrics of a shard whose sessions may buffer `budget_bytes` per direction.
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self {
            budget: Arc::new(SharedBudget::new(budget_bytes)),
            ..Self::default()
        }
    }

    /// Sessions aborted, for any reason.
    #[cfg(test)]
    pub(crate) fn sessions_reset(&self) -> u64 {
        self.session_reset.0.iter().map(Counter::read).sum()
    }

    /// Counts a link that was established over `transport`, one of [`TRANSPORTS`].
    pub(crate) fn link_established(&self, transport: &str) {
        self.links_total.inc();
        if let Some(index) = TRANSPORTS.iter().position(|it| *it == transport) {
            self.links_by_transport.0[index].inc();
        }
    }

    /// Counts a frontend that connected.
    pub(crate) fn frontend_accepted(&self, kind: FrontendKind) {
        self.frontends_total.0[kind as usize].inc();
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

    /// Counts a completed TLS handshake.
    pub(crate) fn tls_accepted(&self, agreed: &Agreed) {
        match agreed.version {
            Some(ProtocolVersion::TLSv1_2) => self.tls_handshakes.0[0].inc(),
            Some(ProtocolVersion::TLSv1_3) => self.tls_handshakes.0[1].inc(),
            _ => {}
        }
        if agreed.is_resumed {
            self.tls_resumed.inc();
        }
        let group = match agreed.group {
            Some(NamedGroup::X25519) => 0,
            Some(NamedGroup::X25519MLKEM768) => 1,
            Some(NamedGroup::secp256r1) => 2,
            Some(_) => 3,
            None => return,
        };
        self.tls_groups.0[group].inc();
    }

    /// Counts a TLS handshake that failed.
    pub(crate) fn tls_failed(&self, failure: TlsFailure) {
        self.tls_failures.0[failure as usize].inc();
    }

    /// Counts QUIC packets that no connection got.
    pub(crate) fn quic_dropped(&self, reason: QuicDrop, count: u64) {
        self.quic_dropped.0[reason as usize].add(count);
    }

    /// Counts an HTTP request answered with `status`.
    pub(crate) fn http_answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, STATUS_CLASSES.len()) - 1;
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
