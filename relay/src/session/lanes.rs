//! Bulk lanes of one shard: which are on offer, and how many there may be.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tieline_wire::limits::LANE_PREFACE;
use tieline_wire::{BulkNonce, Moment};

use super::Ends;
use crate::io::{Pipe, Pipes, Socket};
use crate::metrics::ShardMetrics;

/// Lanes of one shard, on offer or open. Each has a socket and two pipes: five descriptors, and
/// half a mebibyte of pipes when both are full.
const LANES_MAX: usize = 64;

/// How long an agent may take to dial.
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
    ends: Weak<Ends>,
    until: Moment,
}

/// A connection that carries one session's bytes and nothing else.
pub(crate) struct Lane {
    pub(crate) socket: Socket,
    /// Towards the target; taken by who moves the bytes.
    pub(crate) up: Cell<Option<Pipe>>,
    /// Towards the frontend.
    pub(crate) down: Cell<Option<Pipe>>,
    lanes: Rc<Lanes>,
}

impl Lanes {
    pub(crate) fn new(shard: usize, metrics: Arc<ShardMetrics>) -> Rc<Self> {
        Rc::new(Self {
            // The configuration allows far fewer shards than this holds.
            shard: u16::try_from(shard).unwrap_or(u16::MAX),
            offers: RefCell::default(),
            open: Cell::new(0),
            pipes: Pipes::default(),
            random: SystemRandom::new(),
            metrics,
        })
    }

    /// Makes room for a lane of a session; what its agent must show. `None` if there are enough.
    pub(super) fn offer(&self, ends: &Rc<Ends>, now: Moment) -> Option<BulkNonce> {
        let mut offers = self.offers.borrow_mut();
        if self.open.get() + offers.len() >= LANES_MAX {
            offers.retain(|_, offer| offer.until > now && offer.ends.strong_count() > 0);
        }
        if self.open.get() + offers.len() >= LANES_MAX {
            return None;
        }
        // The first two bytes say where the session lives; nobody can guess the other fourteen.
        let mut nonce = [0; 16];
        self.random.fill(&mut nonce).ok()?;
        nonce[..2].copy_from_slice(&self.shard.to_le_bytes());
        let nonce = BulkNonce::new(nonce);
        let offer = Offer {
            ends: Rc::downgrade(ends),
            until: now + OFFER_TIMEOUT,
        };
        offers.insert(nonce, offer);
        self.metrics.lane_offers_total.inc();
        Some(nonce)
    }

    /// Gives an agent's connection to the session that it was offered for; false if there is no
    /// such offer, or not any more. The connection then closes, and the agent goes on as before.
    pub(crate) fn arrived(self: &Rc<Self>, socket: Socket, nonce: &BulkNonce, now: Moment) -> bool {
        let offer = self.offers.borrow_mut().remove(nonce);
        let Some(ends) = offer
            .filter(|offer| offer.until > now)
            .and_then(|offer| offer.ends.upgrade())
        else {
            return false;
        };
        match self.open(socket) {
            Ok(lane) => {
                ends.seat(Rc::new(lane));
                true
            }
            Err(_) => false,
        }
    }

    fn open(self: &Rc<Self>, socket: Socket) -> io::Result<Lane> {
        let (up, down) = (self.pipes.take()?, self.pipes.take()?);
        socket.set_nonblocking()?;
        // A target may pause for longer than a caller that does not read is kept.
        socket.wait_for_ever();
        // A new connection takes eight bytes at once.
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
    /// Takes back a pipe of a direction that is over.
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

/// The shard that a nonce was made on.
pub(crate) fn shard_of(nonce: &BulkNonce) -> usize {
    let [low, high, ..] = *nonce.as_bytes();
    usize::from(u16::from_le_bytes([low, high]))
}

/// Whether a session goes over a lane.
#[derive(Default)]
pub(super) enum Seat {
    /// Whoever holds the session cannot use one.
    #[default]
    Unwanted,
    Wanted,
    Taken(Rc<Lane>),
}
