//! State that all shards share: settings, limits, queues and counters that are immutable or atomic.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::arrived::CallerCount;
use super::mail::MailboxSender;
use super::mail::message::Paused;
use crate::audit::Audit;
use crate::auth::{RequestSender, Snapshot};
use crate::certificates::{Challenges, ServerConfigs};
use crate::config::Config;
use crate::directory::PublicUrls;
use crate::limits::{Limits, LiveTunnels, PerAddress};
use crate::listen;
use crate::quic::QuicKeys;
use crate::state::NoteQueue;

/// TLS handshakes of one address at a time, on all shards.
pub(crate) const ADDRESS_HANDSHAKES_MAX: u32 = 128;

/// State that all shards share.
pub(crate) struct Peers {
    pub(crate) config: Config,
    /// Auth snapshot at the start; later ones arrive as `Message::Auth`.
    pub(crate) auth: Arc<Snapshot>,
    /// Configurations of TLS at the start, `None` if no address has TLS; later ones arrive as `Message::Tls`.
    pub(crate) tls: Option<Arc<ServerConfigs>>,
    /// Answers to a CA, if the relay orders a certificate.
    pub(crate) challenges: Option<Arc<Challenges>>,
    /// The audit log.
    pub(crate) audit: Audit,
    /// Limits on requests, sessions, bytes and registrations, if any are configured.
    pub(crate) limits: Option<Arc<Limits>>,
    /// Limits per address for agents without a tunnel: open links, and open provider questions.
    pub(crate) new_links: Option<Arc<PerAddress>>,
    pub(crate) new_questions: Option<Arc<PerAddress>>,
    /// Limit per address on TLS handshakes at a time.
    pub(crate) handshakes: Option<Arc<PerAddress>>,
    /// Queue of requests to the control thread.
    pub(crate) asks: RequestSender,
    /// Sending half of each shard's mailbox.
    pub(crate) mailboxes: Arc<[MailboxSender]>,
    /// Number of links of each shard, including those in hand-off to it.
    pub(crate) loads: Vec<AtomicUsize>,
    /// Number of callers on all shards.
    pub(crate) callers: CallerCount,
    /// Number of live names on all shards.
    pub(crate) live_tunnels: Arc<AtomicUsize>,
    /// Makes the public URLs of tunnels that agents are told.
    pub(crate) public_urls: PublicUrls,
    /// Key of the marks that lead to one agent; one key for all shards, since a caller may return on any of them.
    pub(crate) mark_key: listen::http::MarkKey,
    /// Keys of QUIC; the same for all shards, since packets of a connection may come to each of them.
    pub(crate) quic: QuicKeys,
    /// Number of this relay start: seconds since 1970, or higher if an earlier start had a higher number.
    pub(crate) epoch_seconds: u64,
    /// Number of live names of each registrant, with its limit.
    pub(crate) live_of_accounts: Arc<LiveTunnels>,
    /// Queue of the state folder, which keeps bindings of names over a restart.
    pub(crate) book: NoteQueue,
    /// Tunnels paused at the start; later sets arrive as `Message::Pause`.
    pub(crate) paused: Arc<Paused>,
    /// Token held by every shard and control task that accepts connections.
    pub(crate) accepting: Arc<()>,
    /// Limit on open file descriptors of the process, if there is one.
    pub(crate) open_files_max: Option<u64>,
}
