//! The messages between shards, and from the control thread to a shard.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use tieline_wire::{
    BulkNonce, CallerRefusal, Generation, LinkEnd, Lost, Refusal, SessionEnd, TunnelId,
};
use tokio::sync::oneshot;

use super::super::arrived::Arrived;
use crate::auth::{Identity, Question, Ruling, Snapshot};
use crate::certificates::ServerConfigs;
use crate::directory::{Claim, Forgotten, ReleaseKind, RouteUpdate};
use crate::error::ListenKind;
use crate::io::{Detached, PacketSteering};
use crate::limits::{AddressCount, RatePass};
use crate::listen::proxied::Source;
use crate::metrics::{Cut, FrontendKind, TunnelBatch, TunnelDetail};
use crate::quic::Strays;
use crate::registry::{AgentTag, LinkId, LinkRef};
use crate::session::AgentRun;

/// One message to a shard's mailbox.
pub(crate) enum Message {
    /// An agent's link, whose handshake is read here. `stranger` counts the connection until its agent has a tunnel.
    /// `nonce` is what another shard asked the agent to sign, before the link moved here.
    Link {
        stream: Detached,
        source: Source,
        stranger: AddressCount,
        nonce: Option<Box<[u8; 32]>>,
    },
    /// A bulk lane whose hello was read.
    Lane { stream: Detached, nonce: BulkNonce },
    /// A raw frontend that named a tunnel which its caller may reach; with the caller's identity, if callers need a
    /// token.
    Frontend {
        /// Before the stream, so that a message that is dropped says so before its stream closes.
        raw: Box<RawFrontend>,
        stream: Detached,
        identity: Option<Arc<Identity>>,
    },
    /// An HTTP frontend, of which only the first bytes were read ahead.
    Http {
        stream: Detached,
        source: Source,
        arrived: Arrived,
    },
    /// A session of an HTTP frontend on another shard, over a socket pair.
    Crossing {
        fd: OwnedFd,
        request: CrossingRequest,
        back: CrossingReply,
    },
    /// To a name's home shard: a link claims the name.
    Claim(Box<Claim>),
    /// To a name's home shard: a link no longer serves the name.
    Release {
        tunnel: TunnelId,
        link: LinkRef,
        kind: ReleaseKind,
    },
    /// From a name's home shard: the agents and links that serve the name now.
    Route(Arc<RouteUpdate>),
    /// To a name's home shard: this shard has applied a revision of the name's route.
    RouteApplied {
        tunnel: TunnelId,
        revision: u64,
        shard: usize,
    },
    /// From a name's home shard to a link's shard: every shard has the name's route, or the link does not get the name.
    ClaimAnswered {
        link: LinkId,
        request: u32,
        tunnel: TunnelId,
        outcome: Result<Generation, Refusal>,
    },
    /// From a name's home shard to a link's shard: the link must end.
    Fence { link: LinkId, reason: LinkEnd },
    /// To every shard: an agent reports what had reached it over an earlier link.
    Lost(Arc<LostLink>),
    /// To every shard: a link of this run of an agent is silent, and the agent's other links may be dead too.
    Doubt(AgentRun),
    /// From the control thread: report some tunnels of this shard, in order, whose names follow `after`.
    Report {
        after: String,
        answer: oneshot::Sender<TunnelBatch>,
    },
    /// From the control thread: describe one tunnel and its callers.
    Detail {
        tunnel: TunnelId,
        answer: oneshot::Sender<TunnelDetail>,
    },
    /// From the control thread, to a name's home shard: unbind the name unless an agent serves it.
    Forget {
        tunnel: TunnelId,
        answer: oneshot::Sender<Forgotten>,
    },
    /// From the control thread: withdraw a tunnel from its links and reset its sessions.
    Kick {
        tunnel: TunnelId,
        answer: oneshot::Sender<Cut>,
    },
    /// From the control thread: the full set of paused tunnels.
    Pause {
        tunnels: Arc<Paused>,
        answer: oneshot::Sender<Cut>,
    },
    /// From the control thread: a new auth snapshot; `ended` receives the number of links that it ends.
    Auth {
        snapshot: Arc<Snapshot>,
        ended: oneshot::Sender<usize>,
    },
    /// From the control thread: the configurations of TLS with new certificates.
    Tls(Arc<ServerConfigs>),
    /// From the control thread: the provider's ruling on a question of this shard.
    Ruled(Box<(Question, Ruling)>),
    /// Accept connections on `socket`, one of `sockets` listening sockets of its address. `is_tls` tells whether they
    /// begin with TLS.
    Listen {
        kind: ListenKind,
        is_tls: bool,
        socket: TcpListener,
        sockets: usize,
    },
    /// A socket, or packets, of QUIC.
    Quic(QuicMessage),
    /// Accept nothing new, let sessions end until the drain deadline, then stop.
    Stop(Stop),
    /// Panic, as a defect would.
    #[cfg(test)]
    Panic,
}

/// A message about QUIC.
pub(crate) enum QuicMessage {
    /// Read `socket`, one of those of the address with number `address`, whose packets are divided by `steering`.
    Listen {
        address: usize,
        socket: UdpSocket,
        steering: PacketSteering,
    },
    /// Packets of this shard's connections that came to another shard.
    Strays(Box<Strays>),
}

/// A raw frontend that named its tunnel, apart from its stream and its authenticated caller, which belong to one shard.
pub(crate) struct RawFrontend {
    pub(crate) tunnel: TunnelId,
    /// Whether the caller came over TCP, WebSocket or QUIC.
    pub(crate) kind: FrontendKind,
    /// The caller's address.
    pub(crate) peer: SocketAddr,
    pub(crate) pass: RatePass,
    pub(crate) arrived: Arrived,
    /// Agents of the tunnel whose targets refused a connection for this frontend.
    pub(crate) tried: Vec<AgentTag>,
    /// What the shard of a caller over QUIC is told, if the frontend's stream is a socket pair to that shard.
    pub(crate) crossing: Option<OpenVerdict>,
}

/// A request for a session: its caller, and the agent it is for.
pub(crate) struct CrossingRequest {
    pub(crate) tunnel: TunnelId,
    /// The agent of the tunnel that the session is for.
    pub(crate) agent: AgentTag,
    /// The caller's identity, if callers need a token, and its address.
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) address: Option<IpAddr>,
    /// The kind of application in the request's URL, if it names one.
    pub(crate) dcc: Option<Arc<str>>,
}

/// Channel from a crossing session's shard to the frontend's shard, beside the session's bytes.
pub(crate) struct CrossingReply {
    pub(crate) verdict: Arc<Verdict>,
    /// Sends the number of payload bytes that had reached the agent when the link was lost.
    pub(crate) reached: oneshot::Sender<u64>,
}

/// Tunnels whose callers are turned away.
pub(crate) type Paused = HashSet<TunnelId>;

/// An agent's report on an earlier link of the same run.
#[derive(Debug)]
pub(crate) struct LostLink {
    /// The run of the agent, which its signed hello proves.
    pub(crate) agent: AgentRun,
    pub(crate) lost: Lost,
}

/// Parameters of a relay's stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// Time for sessions to end by themselves.
    pub(crate) drain: Duration,
    /// Another process keeps the listening sockets open, so they must not be shut here.
    pub(crate) hands_over: bool,
}

impl Stop {
    /// Ends all sessions at once.
    pub(crate) const NOW: Self = Self {
        drain: Duration::ZERO,
        hands_over: false,
    };
}

/// What the two shards of a crossing session tell each other out of band.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Code of the reset's reason; 0 while the session is not reset.
    reset: AtomicU16,
    not_sent: AtomicBool,
    cancelled: AtomicBool,
}

impl Verdict {
    /// Records that the session was reset; called before its socket closes.
    pub(crate) fn reset(&self, reason: SessionEnd) {
        self.reset.store(reason.code(), Ordering::Release);
    }

    /// Records that the session was reset before its target received any byte.
    pub(crate) fn reset_unsent(&self, reason: SessionEnd) {
        self.not_sent.store(true, Ordering::Release);
        self.reset(reason);
    }

    /// Whether the target is known to have received no byte of the session that was reset.
    pub(crate) fn is_not_sent(&self) -> bool {
        self.not_sent.load(Ordering::Acquire)
    }

    /// The reason of the session's reset, if it was reset.
    pub(crate) fn reset_reason(&self) -> Option<SessionEnd> {
        match self.reset.load(Ordering::Acquire) {
            0 => None,
            code => Some(SessionEnd::from_code(code)),
        }
    }

    /// Records that the caller cancelled; called before its socket closes.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether the end of the caller's direction means that the caller cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

/// A verdict that is not settled, at the shard that serves the session: dropping it records a reset. It must be dropped
/// before its socket.
pub(crate) struct OpenVerdict {
    verdict: Arc<Verdict>,
    is_settled: bool,
}

impl OpenVerdict {
    pub(crate) const fn new(verdict: Arc<Verdict>) -> Self {
        Self {
            verdict,
            is_settled: false,
        }
    }

    /// The verdict itself.
    pub(crate) const fn verdict(&self) -> &Arc<Verdict> {
        &self.verdict
    }

    /// Records that the caller is turned away.
    pub(crate) fn refuse(mut self, reason: CallerRefusal) {
        self.verdict.reset.store(reason as u16, Ordering::Release);
        self.is_settled = true;
    }

    /// Records that the session was reset, or that it ended in order if there is no reason.
    pub(crate) fn settle(&mut self, reason: Option<SessionEnd>) {
        if let Some(reason) = reason {
            self.verdict.reset(reason);
        }
        self.is_settled = true;
    }
}

impl Drop for OpenVerdict {
    fn drop(&mut self) {
        if !self.is_settled {
            self.verdict.reset(SessionEnd::ShuttingDown);
        }
    }
}
