//! A link that was dialled and started, with all that its slot needs to run it.

use std::net::IpAddr;
use std::sync::Arc;

use tieline_wire::{Lost, Register};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Agent;
use crate::error::Error;
use crate::link::{self, Link, News, Start};
use crate::transport::Connection;

/// A link that was dialled and started.
pub(super) struct Dialled {
    pub(super) link: Arc<Link>,
    /// The link's task; in a set, so that dropping it aborts the task.
    pub(super) task: JoinSet<Result<(), Error>>,
    pub(super) heard: mpsc::Receiver<News>,
    /// News that were taken from `heard` before the slot runs the link, in their order; at most [`link::news_max`].
    pub(super) early: Vec<News>,
    /// Nonces of the lost links that the link reports.
    pub(super) reported: Vec<[u8; 32]>,
    /// This machine's address that the link cannot do without.
    pub(super) address: Option<IpAddr>,
}

impl Dialled {
    /// Starts the link with `index` over `connection`: it introduces the agent, reports the links that were `lost`, and
    /// registers all targets with `registers`.
    pub(super) fn start(
        agent: &Arc<Agent>,
        index: u16,
        connection: Connection,
        registers: Vec<Register>,
        lost: Vec<Lost>,
    ) -> Self {
        let config = &agent.config;
        let tunnels = config.targets.iter().map(|it| it.tunnel(&agent.identity));
        let address = connection.fixed_address();
        let link = Arc::new(Link::over(&connection));
        let reported = lost.iter().map(|it| it.nonce).collect();
        let (news, heard) = mpsc::channel(link::news_max(config.targets.len()));
        let start = Start {
            identity: Arc::clone(&agent.identity),
            relay_name: config.relay.name(),
            link_index: index,
            links: config.links,
            registers: registers.into_iter().zip(tunnels).collect(),
            targets: Arc::clone(&agent.targets),
            lost,
            news,
        };
        let mut task = JoinSet::new();
        task.spawn(link::run(Arc::clone(&link), connection, start));
        Self {
            link,
            task,
            heard,
            early: Vec::new(),
            reported,
            address,
        }
    }

    /// Targets whose tunnels the early news grant.
    pub(super) fn granted(&self) -> Vec<usize> {
        let granted = |news: &News| match news {
            News::Registered { target, .. } => Some(*target),
            _ => None,
        };
        self.early.iter().filter_map(granted).collect()
    }
}
