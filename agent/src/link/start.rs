//! What a link needs to introduce its agent.

use std::sync::Arc;

use tieline_wire::{Lost, Register, TunnelId};
use tokio::sync::mpsc;

use super::News;
use crate::identity::Identity;
use crate::targets::WatchedTarget;

/// What [`run`](super::run) needs to introduce the agent and to serve its targets.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) identity: Arc<Identity>,
    pub(crate) relay_name: String,
    pub(crate) link_index: u16,
    pub(crate) links: u16,
    /// Registration for each target, in the order of the targets, with the tunnel that it asks for.
    pub(crate) registers: Vec<(Register, TunnelId)>,
    pub(crate) targets: Arc<[WatchedTarget]>,
    /// Earlier links that were lost, to report to the relay.
    pub(crate) lost: Vec<Lost>,
    pub(crate) news: mpsc::Sender<News>,
}
