//! The listeners of a shard, with the task set of their accept loops, and the steering of raw callers. The loops
//! themselves are in `listen`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tracing::debug;

use super::task_set::TaskSet;
use crate::error::ListenKind;
use crate::io::Listener;
use crate::limits::Handshakes;
use crate::quic::Endpoint;

/// One listener of a shard.
pub(super) struct OpenListener {
    pub(super) kind: ListenKind,
    /// Whether its connections begin with TLS.
    pub(super) is_tls: bool,
    pub(super) listener: Rc<Listener>,
    /// Number of listening sockets of its address.
    pub(super) sockets: usize,
}

/// The listeners of one shard.
pub(super) struct ShardListeners {
    pub(super) listeners: RefCell<Vec<OpenListener>>,
    /// Accept loops; they end before all other tasks.
    pub(super) tasks: Rc<TaskSet>,
    /// QUIC endpoints, one per address.
    pub(super) endpoints: RefCell<Vec<Rc<Endpoint>>>,
    /// Tasks that read QUIC packets; unlike accept loops they go on until the connections have ended.
    pub(super) packets: Rc<TaskSet>,
    /// Token of a shard that accepts connections; dropped when the accept loops end.
    pub(super) accepting: Cell<Option<Arc<()>>>,
    /// Held by each task that sends a caller an overload answer because the relay has no room for it.
    pub(super) overload_answers: Rc<()>,
    /// Connections to TLS addresses that wait for the header of their trusted proxy.
    pub(super) headers: Rc<Handshakes>,
    pub(super) handshakes: Rc<Handshakes>,
}

impl ShardListeners {
    pub(super) fn new(accepting: Arc<()>) -> Self {
        Self {
            listeners: RefCell::default(),
            tasks: Rc::default(),
            endpoints: RefCell::default(),
            packets: Rc::default(),
            accepting: Cell::new(Some(accepting)),
            overload_answers: Rc::default(),
            headers: Rc::default(),
            handshakes: Rc::default(),
        }
    }

    /// Steers raw callers to the shards that are set in `shards`; false if the kernel cannot.
    pub(super) fn steer(&self, shards: &[bool]) -> bool {
        for it in self.listeners.borrow().iter() {
            if it.kind == ListenKind::Tcp
                && let Err(error) = it.listener.steer(&places(it.sockets, shards))
            {
                // Steering is an optimization: without it, callers are handed off.
                debug!(%error, "cannot steer raw callers; the kernel chooses a shard for each");
                return false;
            }
        }
        true
    }
}

/// The kernel's indices of those sockets whose shard is set in `shards`. Socket `i` belongs to shard `i` modulo
/// the number of shards: after a take-over from a relay with more shards there are more sockets than shards.
fn places(sockets: usize, shards: &[bool]) -> Vec<u32> {
    let places = (0..).zip(shards.iter().cycle()).take(sockets);
    places.filter(|(_, has)| **has).map(|it| it.0).collect()
}
