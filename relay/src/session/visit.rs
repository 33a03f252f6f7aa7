//! Whose a session is, since when, and what went over it.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tieline_wire::{Moment, SessionId, TunnelId};

use crate::audit::{Audit, Entry, Kind};
use crate::auth::Identity;
use crate::limits::Pass;
use crate::metrics::{Direction, FrontendKind};

/// For whom a session is opened.
#[derive(Debug, Default)]
pub(crate) struct Visitor {
    /// Who it is, if callers must say so.
    pub(crate) identity: Option<Arc<Identity>>,
    /// Where from.
    pub(crate) address: Option<IpAddr>,
    /// How.
    pub(crate) kind: FrontendKind,
    /// The kind of application that the caller asked for, if that is how it found the tunnel.
    pub(crate) dcc: Option<Arc<str>>,
    /// As what they were let in, where that is counted for the whole session.
    pub(crate) pass: Pass,
    /// Where its beginning and its end are noted, if they are.
    pub(crate) noted: Option<Box<Noted>>,
}

/// Where a session is noted, and as what.
#[derive(Debug)]
pub(crate) struct Noted {
    pub(crate) audit: Audit,
    pub(crate) tunnel: TunnelId,
    pub(crate) peer: SocketAddr,
}

/// One session that somebody holds.
#[derive(Debug)]
pub(crate) struct Visit {
    /// Its number on its link.
    pub(super) id: SessionId,
    /// Since when.
    pub(crate) since: Moment,
    /// Whose it is.
    pub(crate) visitor: Visitor,
    /// What its payload is counted for.
    pass: RefCell<Pass>,
    to_target: Cell<u64>,
    to_frontend: Cell<u64>,
}

impl Visit {
    pub(super) fn new(id: SessionId, since: Moment, mut visitor: Visitor) -> Self {
        Self {
            id,
            since,
            pass: RefCell::new(std::mem::take(&mut visitor.pass)),
            visitor,
            to_target: Cell::new(0),
            to_frontend: Cell::new(0),
        }
    }

    /// Whether anything was sent towards the target.
    pub(super) fn has_sent(&self) -> bool {
        self.to_target.get() > 0
    }

    /// Payload went over it.
    pub(super) fn moved(&self, direction: Direction, count: usize) {
        let sum = match direction {
            Direction::ToTarget => &self.to_target,
            Direction::ToFrontend => &self.to_frontend,
        };
        sum.set(sum.get() + count as u64);
        self.pass.borrow().moved(count as u64);
    }

    /// Takes back what the session is counted for, so that another one is.
    pub(super) fn take_pass(&self) -> Pass {
        self.pass.take()
    }

    /// Payload so far: to the target, and to the frontend.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.to_target.get(), self.to_frontend.get())
    }

    pub(super) fn began(&self) {
        self.note(|| self.entry(Kind::Session));
    }

    pub(super) fn ended(&self) {
        self.note(|| {
            let (to_target, to_frontend) = self.bytes();
            self.entry(Kind::SessionEnded).bytes(to_target, to_frontend)
        });
    }

    fn note(&self, entry: impl FnOnce() -> Entry) {
        if let Some(noted) = &self.visitor.noted {
            let whose = |it: Entry| it.from(noted.peer).tunnel(noted.tunnel.clone());
            noted.audit.note(|| whose(entry()));
        }
    }

    fn entry(&self, kind: Kind) -> Entry {
        Entry::new(kind).of(self.visitor.identity.as_deref())
    }
}
