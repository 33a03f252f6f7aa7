//! What shards tell one another.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use bytes::Bytes;
use tieline_wire::{
    AgentKey, BulkNonce, Generation, InstanceId, MachineId, Reason, Refusal, TunnelId,
};
use tokio::sync::oneshot;

use super::drain::{Arrived, Stop};
use super::lost::LostLink;
use super::operator::Paused;
use crate::auth::{Identity, Question, Ruling, Snapshot};
use crate::error::ListenKind;
use crate::limits::{Pass, Place};
use crate::metrics::{Cut, TunnelBatch, TunnelDetail};
use crate::registry::{AgentTag, LinkRef, TunnelInfo};
use crate::session::Load;

/// One message into a mailbox.
pub(crate) enum Message {
    /// An agent's connection, counted until its agent has a tunnel: nothing is read from it yet, or it
    /// belongs here, as the greeting shows.
    Link {
        fd: OwnedFd,
        peer: SocketAddr,
        stranger: Place,
        greeting: Option<Box<Greeting>>,
    },
    /// A bulk lane, its hello read.
    Lane { fd: OwnedFd, nonce: BulkNonce },
    /// A raw frontend that named its tunnel, which it may reach.
    Frontend(Box<Frontend>),
    /// An HTTP caller, nothing read from it yet.
    Http {
        fd: OwnedFd,
        peer: SocketAddr,
        arrived: Arrived,
    },
    /// One session of an HTTP caller that lives on another shard.
    Crossing {
        fd: OwnedFd,
        tunnel: TunnelId,
        /// Which of the tunnel's agents it is for.
        agent: AgentTag,
        /// Who calls, if it had to say, and where from.
        identity: Option<Arc<Identity>>,
        address: Option<IpAddr>,
        /// The kind of application that it asked for, if it did.
        dcc: Option<Arc<str>>,
        verdict: Arc<Verdict>,
        /// The bytes of it that had reached the agent when the link was lost.
        reached: oneshot::Sender<u64>,
    },
    /// To a name's home: a link wants it.
    Claim(Box<Claim>),
    /// To a name's home: a link no longer serves it.
    Release {
        tunnel: TunnelId,
        link: LinkRef,
        parting: Parting,
    },
    /// From a name's home: who serves it.
    Route(Arc<RouteUpdate>),
    /// To a name's home: this shard has applied a revision.
    RouteApplied {
        tunnel: TunnelId,
        revision: u64,
        shard: usize,
    },
    /// From a name's home to a link's shard: the name works on every shard.
    Claimed {
        link: LinkRef,
        request: u32,
        tunnel: TunnelId,
        generation: Generation,
    },
    /// From a name's home to a link's shard: the link does not get the name.
    ClaimRefused {
        link: LinkRef,
        request: u32,
        tunnel: TunnelId,
        refusal: Refusal,
    },
    /// From a name's home to a link's shard: the link must end.
    Fence { link: LinkRef, reason: Reason },
    /// To every shard: an agent tells what had reached it over an earlier link.
    Lost(Arc<LostLink>),
    /// From the control thread: which tunnels are here, behind a name?
    Report {
        after: String,
        answer: oneshot::Sender<TunnelBatch>,
    },
    /// From the control thread: what is there of one tunnel, and who uses it?
    Detail {
        tunnel: TunnelId,
        answer: oneshot::Sender<TunnelDetail>,
    },
    /// From the control thread, to a name's home: unbind it, unless an agent serves it.
    Forget {
        tunnel: TunnelId,
        answer: oneshot::Sender<Forgotten>,
    },
    /// From the control thread: take a tunnel from its links, with its sessions.
    Kick {
        tunnel: TunnelId,
        answer: oneshot::Sender<Cut>,
    },
    /// From the control thread: these tunnels take no callers.
    Pause {
        tunnels: Arc<Paused>,
        answer: oneshot::Sender<Cut>,
    },
    /// From the control thread: who is let in from now on, and how many links that ends.
    Auth {
        snapshot: Arc<Snapshot>,
        ended: oneshot::Sender<usize>,
    },
    /// From the control thread: what the provider says.
    Ruled(Box<(Question, Ruling)>),
    /// Accept what comes to a socket, one of so many of its address.
    Listen {
        kind: ListenKind,
        socket: TcpListener,
        sockets: usize,
    },
    /// Accept nothing new, let sessions end for a while, then stop.
    Stop(Stop),
    /// Be a defect.
    #[cfg(test)]
    Panic,
}

/// A raw frontend that named its tunnel.
pub(crate) struct Frontend {
    pub(crate) fd: OwnedFd,
    pub(crate) tunnel: TunnelId,
    /// What it sent behind that.
    pub(crate) early: Bytes,
    /// Where it comes from, and how it was let in.
    pub(crate) peer: SocketAddr,
    pub(crate) pass: Pass,
    pub(crate) arrived: Arrived,
    /// Who it is, if it had to say.
    pub(crate) identity: Option<Arc<Identity>>,
    /// Agents of the tunnel whose targets took no connection for it.
    pub(crate) tried: Vec<AgentTag>,
}

/// The beginning of a link, to be read again on the shard where it goes on.
#[derive(Debug, Default)]
pub(crate) struct Greeting {
    /// What the relay asked the agent to sign.
    pub(crate) nonce: [u8; 32],
    /// All that the agent has said, from its preface on.
    pub(crate) said: Bytes,
}

impl Message {
    /// The name whose route this updates.
    pub(super) fn route_update(&self) -> Option<TunnelId> {
        match self {
            Self::Route(update) => Some(update.tunnel.clone()),
            _ => None,
        }
    }
}

/// A link asks for a name.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) tunnel: TunnelId,
    pub(crate) key: AgentKey,
    pub(crate) machine: MachineId,
    pub(crate) instance: InstanceId,
    pub(crate) link: LinkRef,
    /// Where the link comes from.
    pub(crate) address: IpAddr,
    /// Its sessions on that link.
    pub(crate) load: Load,
    /// Which of the agent's links this is: the latest one of a number counts.
    pub(crate) link_index: u16,
    /// The agent's number of the registration.
    pub(crate) request: u32,
    pub(crate) info: Arc<TunnelInfo>,
}

/// How a link parts with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parting {
    /// The agent is away, and the name stays bound.
    Away,
    /// The agent took back this one tunnel: what only this agent can ever have again is forgotten.
    TakenBack,
    /// What the relay is told of the agent's holder has changed: the same key may come back for
    /// another holder.
    HolderChanged,
}

/// What became of an order to unbind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgotten {
    /// It is free.
    Free,
    /// An agent serves it.
    Live,
    /// It was not bound.
    Unknown,
}

/// The whole route of a name, as its home decided.
#[derive(Clone, Debug)]
pub(crate) struct RouteUpdate {
    pub(crate) tunnel: TunnelId,
    /// Rises with every change; a shard ignores what is not higher than what it has.
    pub(crate) revision: u64,
    /// Nobody while its agents are away; several if they share it.
    pub(crate) agents: Vec<ServingAgent>,
    /// What was last said of it.
    pub(crate) info: Arc<TunnelInfo>,
    /// Agents that served it before the relay started, and may be on their way back.
    pub(crate) expected: Vec<AgentTag>,
    /// The name is forgotten.
    pub(crate) forget: bool,
}

/// An agent that serves a name.
#[derive(Clone, Debug)]
pub(crate) struct ServingAgent {
    pub(crate) tag: AgentTag,
    /// Rises when another instance takes over; never that of another agent.
    pub(crate) generation: Generation,
    pub(crate) info: Arc<TunnelInfo>,
    /// At least one.
    pub(crate) links: Vec<ServingLink>,
}

/// A link by which an agent serves a name.
#[derive(Clone, Debug)]
pub(crate) struct ServingLink {
    pub(crate) at: LinkRef,
    /// The name's sessions on it.
    pub(crate) load: Load,
}

/// What the two shards of a crossing session tell one another beside its bytes.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Code of the reason that the session was reset for.
    reset: AtomicU16,
    not_sent: AtomicBool,
    cancelled: AtomicBool,
}

impl Verdict {
    /// The session was reset; said before its socket closes.
    pub(crate) fn reset(&self, reason: Reason) {
        self.reset.store(reason.code(), Ordering::Release);
    }

    /// The same, where the target had no byte of it.
    pub(crate) fn reset_unsent(&self, reason: Reason) {
        self.not_sent.store(true, Ordering::Release);
        self.reset(reason);
    }

    /// Whether it is known that the target had no byte of a session that was reset.
    pub(crate) fn is_not_sent(&self) -> bool {
        self.not_sent.load(Ordering::Acquire)
    }

    /// Why the session was reset, if it was.
    pub(crate) fn reset_reason(&self) -> Option<Reason> {
        match self.reset.load(Ordering::Acquire) {
            0 => None,
            code => Some(Reason::from_code(code)),
        }
    }

    /// The caller gave up; said before its socket closes.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether the end of the caller's direction is a cancel.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}
