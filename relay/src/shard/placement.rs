//! Which shard a link lives on: first the one with the fewest, then, for one of several links of an
//! agent, the one that its hello shows.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use tieline_wire::limits::HANDSHAKE_TIMEOUT;
use tieline_wire::{AgentHello, Reason};

use super::Shard;
use super::message::{Greeting, Message};
use crate::io::{Socket, timeout};
use crate::listen::agent::{Opening, opening};
use crate::metrics::HandoffKind;
use crate::registry::LinkId;

impl Shard {
    /// A connection on an agent listener: its first bytes say what it is for.
    pub(super) fn agent_arrived(self: &Rc<Self>, socket: Socket, peer: SocketAddr) {
        let shard = Rc::clone(self);
        self.gate.spawn(async move {
            match timeout(HANDSHAKE_TIMEOUT, opening(&socket)).await {
                Ok(Some(Opening::Link)) => shard.place_link(socket, peer).await,
                Ok(Some(Opening::Lane(nonce))) => shard.place_lane(socket, nonce).await,
                Ok(None) => shard.metrics.link_refused(Reason::LinkLost),
                Err(_) => shard.metrics.link_refused(Reason::HandshakeTimeout),
            }
        });
    }

    /// A link goes to the shard with the fewest.
    async fn place_link(self: &Rc<Self>, socket: Socket, peer: SocketAddr) {
        let to = self.least_loaded();
        self.peers.loads[to].fetch_add(1, Ordering::Relaxed);
        if to == self.index {
            self.serve_link(socket, peer, None);
            return;
        }
        let fd = socket.into_fd();
        self.move_link(to, Message::Link { fd, peer }).await;
    }

    /// Hands a link over to a shard that counts it already.
    pub(super) async fn move_link(&self, to: usize, message: Message) {
        if self.hand_off(to, message).await {
            self.metrics.handed_off(HandoffKind::Link);
        } else {
            self.peers.loads[to].fetch_sub(1, Ordering::Relaxed);
            self.metrics.link_refused(Reason::Overload);
        }
    }

    /// A link that another shard placed here, and how it began there.
    pub(super) fn link_moved_here(
        self: &Rc<Self>,
        fd: OwnedFd,
        peer: SocketAddr,
        greeting: Option<Greeting>,
    ) {
        match Socket::new(fd) {
            Ok(socket) => self.serve_link(socket, peer, greeting),
            Err(_) => {
                self.peers.loads[self.index].fetch_sub(1, Ordering::Relaxed);
                self.metrics.link_refused(Reason::Internal);
            }
        }
    }

    /// A link goes on elsewhere: here it was never one.
    pub(super) fn link_left(&self, id: LinkId) {
        self.registry.borrow_mut().remove(id);
        self.peers.loads[self.index].fetch_sub(1, Ordering::Relaxed);
        self.metrics.links.dec();
    }

    /// The shard with the fewest links; a tie goes to this one, then to the lowest number.
    fn least_loaded(&self) -> usize {
        let load = |shard: usize| self.peers.loads[shard].load(Ordering::Relaxed);
        (0..self.peers.loads.len())
            .min_by_key(|shard| (load(*shard), *shard != self.index))
            .unwrap_or(self.index)
    }
}

/// The shard of a link that is one of several: they go round the shards, so that a busy agent has
/// as many cores as links. The first is at an agent's own place, or all would begin at one.
pub(super) fn shard_of(hello: &AgentHello, shards: usize) -> Option<usize> {
    if hello.links < 2 {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (hello.key, hello.instance).hash(&mut hasher);
    let place = hasher.finish().wrapping_add(u64::from(hello.link_index));
    // The remainder is below `shards`, a usize.
    usize::try_from(place % shards as u64).ok()
}

#[cfg(test)]
mod tests {
    use tieline_wire::{InstanceId, MachineId};

    use super::*;

    fn hello(instance: u8, link_index: u16, links: u16) -> AgentHello {
        AgentHello {
            instance: InstanceId::new([instance; 16]),
            machine: MachineId::new([0; 16]),
            link_index,
            links,
            ..crate::session::rig::agent_hello()
        }
    }

    #[test]
    fn links_of_one_agent_go_round_the_shards_and_agents_begin_anywhere() {
        let mut first = [0; 4];
        for instance in 0..100 {
            let place = |index| shard_of(&hello(instance, index, 6), 4).unwrap();
            for index in 0..5 {
                assert_eq!((place(index) + 1) % 4, place(index + 1));
            }
            first[place(0)] += 1;
        }
        assert!(first.iter().all(|count| *count > 5), "{first:?}");
        assert_eq!(shard_of(&hello(0, 0, 1), 4), None);
    }
}
