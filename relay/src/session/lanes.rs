//! Bulk lanes of one shard: offers to agents, open lanes, and their limit.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tieline_wire::limits::LANE_PREFACE;
use tieline_wire::{BulkNonce, Moment};

use super::SessionState;
use crate::io::{Pipe, Pipes, Socket, Stream};
use crate::metrics::ShardMetrics;

/// Lanes of one shard, on offer or open. Each takes a socket and two pipes: five descriptors, and half a mebibyte of
/// pipe buffers when both are full.
const LANES_MAX: usize = 64;

/// Time for an agent to dial a lane that it was offered.
const OFFER_TIMEOUT: Duration = Duration::from_secs(10);

/// The lanes of one shard.
pub(crate) struct Lanes {
    shard: u16,
    offers: RefCell<HashMap<BulkNonce, Offer>>,
    open: Cell<usize>,
    pipes: Pipes,
    random: SystemRandom,
    metrics: Arc<ShardMetrics>,
}

struct Offer {
    shared: Weak<SessionState>,
    until: Moment,
}

/// A connection that carries one session's bytes and nothing else.
pub(crate) struct Lane {
    pub(crate) socket: Socket,
    /// Pipe towards the target; taken by the task that moves the bytes.
    pub(crate) up: Cell<Option<Pipe>>,
    /// Pipe towards the frontend.
    pub(crate) down: Cell<Option<Pipe>>,
    lanes: Rc<Lanes>,
}

impl Lanes {
    pub(crate) fn new(shard: usize, metrics: Arc<ShardMetrics>) -> Rc<Self> {
        Rc::new(Self {
            // The configuration allows far fewer shards than a u16 holds.
            shard: u16::try_from(shard).unwrap_or(u16::MAX),
            offers: RefCell::default(),
            open: Cell::new(0),
            pipes: Pipes::default(),
            random: SystemRandom::new(),
            metrics,
        })
    }

    /// Reserves a lane for a session; returns the nonce that the agent must present, or `None` at the limit.
    pub(super) fn offer(&self, shared: &Rc<SessionState>, now: Moment) -> Option<BulkNonce> {
        let mut offers = self.offers.borrow_mut();
        if self.open.get() + offers.len() >= LANES_MAX {
            offers.retain(|_, offer| offer.until > now && offer.shared.strong_count() > 0);
        }
        if self.open.get() + offers.len() >= LANES_MAX {
            return None;
        }
        // The first two bytes name the session's shard; the other fourteen are random, so that no peer can guess them.
        let mut nonce = [0; 16];
        self.random.fill(&mut nonce).ok()?;
        nonce[..2].copy_from_slice(&self.shard.to_le_bytes());
        let nonce = BulkNonce::new(nonce);
        let offer = Offer {
            shared: Rc::downgrade(shared),
            until: now + OFFER_TIMEOUT,
        };
        offers.insert(nonce, offer);
        self.metrics.lane_offers_total.inc();
        Some(nonce)
    }

    /// Gives an agent's connection to the session that it was offered for; false if there is no valid offer with this
    /// nonce. The connection closes then, and the session goes on over its link.
    pub(crate) fn arrived(self: &Rc<Self>, stream: Stream, nonce: &BulkNonce, now: Moment) -> bool {
        let offer = self.offers.borrow_mut().remove(nonce);
        let Some(shared) = offer
            .filter(|offer| offer.until > now)
            .and_then(|offer| offer.shared.upgrade())
        else {
            return false;
        };
        match stream.into_plain().map(|socket| self.open(socket)) {
            Some(Ok(lane)) => {
                shared.take_lane(Rc::new(lane));
                true
            }
            Some(Err(_)) | None => false,
        }
    }

    fn open(self: &Rc<Self>, socket: Socket) -> io::Result<Lane> {
        let (up, down) = (self.pipes.take()?, self.pipes.take()?);
        socket.set_nonblocking()?;
        // A target may pause for longer than the time for which a caller may leave data unacknowledged.
        socket.remove_send_timeout();
        // The send buffer of a new connection has room for eight bytes.
        if socket.send(&LANE_PREFACE)? != LANE_PREFACE.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.open.set(self.open.get() + 1);
        self.metrics.lanes.inc();
        self.metrics.lanes_total.inc();
        Ok(Lane {
            socket,
            up: Cell::new(Some(up)),
            down: Cell::new(Some(down)),
            lanes: Rc::clone(self),
        })
    }
}

impl Lane {
    /// Returns a pipe of a direction that is over to the pool.
    pub(crate) fn put(&self, pipe: Pipe) {
        self.lanes.pipes.put(pipe);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        for pipe in [self.up.take(), self.down.take()].into_iter().flatten() {
            self.put(pipe);
        }
        self.lanes.open.set(self.lanes.open.get() - 1);
        self.lanes.metrics.lanes.dec();
    }
}

/// The shard that made a nonce.
pub(crate) fn shard_of(nonce: &BulkNonce) -> usize {
    let [low, high, ..] = *nonce.as_bytes();
    usize::from(u16::from_le_bytes([low, high]))
}

/// Whether a session uses a lane.
#[derive(Default)]
pub(super) enum LaneState {
    /// The session's holder cannot use a lane.
    #[default]
    Unwanted,
    Wanted,
    Taken(Rc<Lane>),
}
