//! Drain of a shard: its listeners close, its callers finish, its agents are told to reconnect elsewhere, and then
//! every task is dropped.
//!
//! A caller's connection may live on one shard and use a link of another. So no shard ends while any
//! shard still has a caller, until the drain deadline.

use std::rc::Rc;
use std::time::Duration;

use tieline_wire::LinkEnd;
use tracing::{debug, error};

use super::Shard;
use super::mail::OpenMailbox;
use super::mail::message::Stop;
use crate::io::{sleep, timeout};
use crate::listen::http::DRAIN_GRACE;
use crate::listen::proxied::Source;

/// Time for a shard's tasks to be dropped at its end.
const REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for a connection to complete a handshake that it had begun when the listeners close: more than the round
/// trip to most callers.
const DOOR_GRACE: Duration = Duration::from_millis(60);

/// Time until agents are told to reconnect elsewhere: the callers' last requests have arrived by then, and a link
/// opens no sessions afterwards.
const AGENT_GRACE: Duration = DRAIN_GRACE.saturating_add(Duration::from_millis(50));

/// Interval at which a draining shard checks whether all work is done.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

impl Shard {
    /// Drains the shard: accepts nothing new, lets every request that has arrived be answered, tells every agent to
    /// go, then ends all tasks.
    pub(super) async fn stop(self: &Rc<Self>, mut mailbox: OpenMailbox, stop: Stop) {
        // Other shards drain too, and still need this shard's replies.
        let shard = Rc::clone(self);
        self.kit.tasks.spawn(async move {
            while let Ok(message) = mailbox.next().await {
                shard.handle(message);
            }
        });
        // Wakes idle kept-alive frontends, which end soon, and requests that wait for an agent.
        self.kit.draining.set(true);
        self.directory.routes_mut().waiting.wake_all();
        self.kit.tasks.nudge();
        let began = self.kit.clock.now();
        let deadline = began + stop.drain;
        self.close_doors(stop).await;
        drop(self.doors.accepting.take());
        let agents_at = (began + AGENT_GRACE).min(deadline);
        while !self.kit.peers.callers.is_empty() && self.kit.clock.now() < agents_at {
            sleep(LOOK_PAUSE).await;
        }
        self.agents
            .drain(deadline.saturating_since(self.kit.clock.now()));
        let is_busy = || !self.kit.peers.callers.is_empty() || !self.agents.is_idle();
        while is_busy() && self.kit.clock.now() < deadline {
            sleep(LOOK_PAUSE).await;
        }
        self.agents.close(LinkEnd::ShuttingDown);
        // The links' writers send the agents the reason before their tasks end.
        let _ = timeout(Duration::from_millis(200), self.links_gone()).await;
        self.end_quic(LinkEnd::ShuttingDown).await;
        self.doors.tasks.close();
        self.doors.packets.close();
        self.kit.tasks.close();
        let ended = async {
            self.kit.tasks.empty().await;
            self.doors.tasks.empty().await;
            self.doors.packets.empty().await;
        };
        if timeout(REAP_TIMEOUT, ended).await.is_err() {
            error!(
                tasks = self.kit.tasks.running(),
                "some tasks did not end with their shard"
            );
        }
    }

    /// Accepts connections that have completed their handshake, and frees the ports.
    async fn close_doors(self: &Rc<Self>, stop: Stop) {
        let listeners = self.doors.listeners.take();
        self.close_quic_doors(stop).await;
        if stop.hands_over {
            // Connections in the accept queue belong to the other process, so no socket may be shut.
            self.doors.tasks.close();
            self.doors.tasks.empty().await;
            return;
        }
        if !stop.drain.is_zero() {
            for it in &listeners {
                if let Err(error) = it.listener.turn_away() {
                    debug!(%error, "callers that connect just before the listener closes may be reset");
                }
            }
            sleep(DOOR_GRACE.min(stop.drain)).await;
        }
        for it in listeners {
            while let Some((stream, peer)) = it.listener.accept_waiting() {
                self.connected(it.kind, it.is_tls, stream, Source::Peer(peer));
            }
            it.listener.shut();
        }
        // The ports are free once no task holds a listener.
        self.doors.tasks.close();
        self.doors.tasks.empty().await;
    }

    async fn links_gone(&self) {
        while !self.agents.is_empty() {
            sleep(Duration::from_millis(2)).await;
        }
    }
}
