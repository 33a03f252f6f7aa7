//! The end of a shard: its doors close, its callers finish, its agents are told to move, and then every
//! task is dropped.
//!
//! A caller's connection may live on one shard and use a link of another. So no shard ends while any
//! shard still has a caller, until the drain deadline.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tieline_wire::Reason;
use tracing::{debug, error};

use super::Shard;
use super::mailbox::OpenMailbox;
use crate::error::ListenKind;
use crate::io::{Socket, sleep, timeout};
use crate::listen::http::DRAIN_GRACE;

/// How long the tasks of a shard get to be dropped at its end.
const REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a connection that has begun its handshake when the doors close may take to complete it:
/// above the round trip to most callers.
const DOOR_GRACE: Duration = Duration::from_millis(60);

/// When agents are told to move: callers' last requests have come by then, and no session can be
/// opened on a link afterwards.
const AGENT_GRACE: Duration = DRAIN_GRACE.saturating_add(Duration::from_millis(50));

/// How often a shard looks whether all work is done.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// How a relay stops.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// How long sessions may take to end by themselves.
    pub(crate) drain: Duration,
    /// Another process goes on with the listening sockets: they are only let go of here.
    pub(crate) hands_over: bool,
}

impl Stop {
    /// Ends everything where it stands.
    pub(super) const NOW: Self = Self {
        drain: Duration::ZERO,
        hands_over: false,
    };
}

/// Counts one caller of the relay from its arrival to its end, on whichever shard it is.
pub(crate) struct Arrived(Arc<AtomicUsize>);

impl Drop for Arrived {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shard {
    /// Notes a caller that has just connected.
    pub(super) fn arrived(&self) -> Arrived {
        self.peers.callers.fetch_add(1, Ordering::SeqCst);
        Arrived(Arc::clone(&self.peers.callers))
    }

    /// Drains: no new connections, an answer to every request that has come, a farewell to every
    /// agent, then the end of all tasks.
    pub(super) async fn stop(self: &Rc<Self>, mut mailbox: OpenMailbox, stop: Stop) {
        // Other shards drain too, and still want answers.
        let shard = Rc::clone(self);
        self.gate.spawn(async move {
            while let Ok(message) = mailbox.next().await {
                shard.handle(message);
            }
        });
        // Kept-alive callers that wait for nothing end soon, and requests wait for no agent.
        self.draining.set(true);
        self.routes.borrow_mut().wake_all();
        self.gate.nudge();
        let began = self.clock.now();
        let deadline = began + stop.drain;
        self.close_doors(stop).await;
        drop(self.accepting.take());
        let agents_at = (began + AGENT_GRACE).min(deadline);
        while self.has_callers() && self.clock.now() < agents_at {
            sleep(LOOK_PAUSE).await;
        }
        for mux in self.registry.borrow().muxes() {
            mux.drain(deadline.saturating_since(self.clock.now()));
        }
        let is_busy = || self.has_callers() || !self.registry.borrow().is_idle();
        while is_busy() && self.clock.now() < deadline {
            sleep(LOOK_PAUSE).await;
        }
        for mux in self.registry.borrow().muxes() {
            mux.close(Reason::ShuttingDown);
        }
        // Writers send the farewell before their tasks end.
        let _ = timeout(Duration::from_millis(200), self.links_gone()).await;
        self.doors.close();
        self.gate.close();
        let ended = async {
            self.gate.empty().await;
            self.doors.empty().await;
        };
        if timeout(REAP_TIMEOUT, ended).await.is_err() {
            error!(
                tasks = self.gate.running(),
                "tasks are left at the end of the shard"
            );
        }
    }

    /// Accepts what has connected already, and frees the ports.
    async fn close_doors(self: &Rc<Self>, stop: Stop) {
        let listeners = self.listeners.take();
        if stop.hands_over {
            // What waits to be accepted is the other process's: no socket may be shut.
            self.doors.close();
            self.doors.empty().await;
            return;
        }
        if !stop.drain.is_zero() {
            for (_, listener, _) in &listeners {
                if let Err(error) = listener.turn_away() {
                    debug!(%error, "callers of the last moment may be reset");
                }
            }
            sleep(DOOR_GRACE.min(stop.drain)).await;
        }
        for (kind, listener, _) in listeners {
            while let Some((socket, peer)) = listener.accept_waiting() {
                self.connected(kind, socket, peer);
            }
            listener.shut();
        }
        // The ports are free once no task holds a listener.
        self.doors.close();
        self.doors.empty().await;
    }

    /// A connection on one of the listeners.
    pub(super) fn connected(self: &Rc<Self>, kind: ListenKind, socket: Socket, peer: SocketAddr) {
        match kind {
            ListenKind::Agent => self.agent_arrived(socket, peer),
            ListenKind::Tcp => self.raw_arrived(socket, peer),
            ListenKind::Http => self.http_arrived(socket, peer),
            ListenKind::Admin => {}
        }
    }

    /// Whether any shard has a caller.
    fn has_callers(&self) -> bool {
        self.peers.callers.load(Ordering::SeqCst) > 0
    }

    async fn links_gone(&self) {
        while !self.registry.borrow().is_empty() {
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// What `first_bytes` brings within `limit`. Once the shard drains, a peer that has sent nothing
    /// gets no longer than an idle caller does.
    pub(super) async fn in_time<T>(
        &self,
        limit: Duration,
        first_bytes: impl Future<Output = T>,
    ) -> Option<T> {
        let (mut first_bytes, mut limit) = (pin!(first_bytes), pin!(sleep(limit)));
        let mut grace = None;
        poll_fn(|cx| {
            if let Poll::Ready(brought) = first_bytes.as_mut().poll(cx) {
                return Poll::Ready(Some(brought));
            }
            let mut is_over = limit.as_mut().poll(cx).is_ready();
            if self.draining.get() {
                let grace = grace.get_or_insert_with(|| Box::pin(sleep(DRAIN_GRACE)));
                is_over |= Pin::new(grace).poll(cx).is_ready();
            }
            if is_over {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }
}
