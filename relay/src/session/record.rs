//! A session's caller, its start, and the bytes that it moved.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tieline_wire::{Mode, Moment, SessionId, TunnelId};

use crate::audit::{Audit, Entry, Kind};
use crate::auth::Identity;
use crate::limits::RatePass;
use crate::metrics::{Direction, FrontendKind};

/// The caller that a session is opened for.
#[derive(Debug, Default)]
pub(crate) struct SessionCaller {
    /// The caller's identity, if callers need a token.
    pub(crate) identity: Option<Arc<Identity>>,
    /// The caller's address.
    pub(crate) address: Option<IpAddr>,
    /// The kind of frontend the caller came by.
    pub(crate) kind: FrontendKind,
    /// Whether the caller sends messages, whose ends the target may need.
    pub(crate) mode: Mode,
    /// The kind of application that the caller asked for, if the tunnel was found by it.
    pub(crate) dcc: Option<Arc<str>>,
    /// Rate-limit pass of the caller, where it counts for the whole session.
    pub(crate) pass: RatePass,
    /// Where the session's beginning and end are noted, if there is an audit log.
    pub(crate) audit: Option<Box<SessionAudit>>,
}

/// An audit log, and what its entries about a session contain.
#[derive(Debug)]
pub(crate) struct SessionAudit {
    pub(crate) audit: Audit,
    pub(crate) tunnel: TunnelId,
    pub(crate) peer: SocketAddr,
    /// Bytes that the entries leave out, because the session moved them for HTTP requests: to the target, and to the
    /// frontend.
    pub(crate) before: (u64, u64),
}

impl SessionAudit {
    fn began(&self, identity: Option<&Identity>) {
        self.note(identity, Entry::new(Kind::Session));
    }

    /// Notes the end of the session, which has moved these bytes: to the target, and to the frontend.
    pub(crate) fn ended(&self, identity: Option<&Identity>, bytes: (u64, u64)) {
        let to_target = bytes.0.saturating_sub(self.before.0);
        let to_frontend = bytes.1.saturating_sub(self.before.1);
        let entry = Entry::new(Kind::SessionEnded).bytes(to_target, to_frontend);
        self.note(identity, entry);
    }

    fn note(&self, identity: Option<&Identity>, entry: Entry) {
        let entry = entry.of(identity).from(self.peer);
        self.audit.note(|| entry.tunnel(self.tunnel.clone()));
    }
}

/// One session with a holder.
#[derive(Debug)]
pub(crate) struct SessionRecord {
    /// The session's number on its link.
    pub(super) id: SessionId,
    /// Start of the session.
    pub(crate) since: Moment,
    /// The caller that the session was opened for.
    pub(crate) caller: SessionCaller,
    /// Rate-limit pass that counts the payload.
    pub(super) pass: RefCell<RatePass>,
    /// Audit log that records the session's end; empty if none does.
    pub(super) audit: OnceCell<Box<SessionAudit>>,
    to_target: Cell<u64>,
    to_frontend: Cell<u64>,
}

impl SessionRecord {
    pub(super) fn new(id: SessionId, since: Moment, mut caller: SessionCaller) -> Self {
        Self {
            id,
            since,
            pass: RefCell::new(std::mem::take(&mut caller.pass)),
            audit: caller
                .audit
                .take()
                .map_or_else(OnceCell::new, OnceCell::from),
            caller,
            to_target: Cell::new(0),
            to_frontend: Cell::new(0),
        }
    }

    /// Whether any payload was sent towards the target.
    pub(super) fn has_sent(&self) -> bool {
        self.to_target.get() > 0
    }

    /// Counts payload bytes.
    pub(super) fn moved(&self, direction: Direction, count: usize) {
        let sum = match direction {
            Direction::ToTarget => &self.to_target,
            Direction::ToFrontend => &self.to_frontend,
        };
        sum.set(sum.get() + count as u64);
        self.pass.borrow().moved(count as u64);
    }

    /// Payload bytes so far: to the target, and to the frontend.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.to_target.get(), self.to_frontend.get())
    }

    pub(super) fn began(&self) {
        if let Some(audit) = self.audit.get() {
            audit.began(self.caller.identity.as_deref());
        }
    }

    pub(super) fn ended(&self) {
        if let Some(audit) = self.audit.get() {
            audit.ended(self.caller.identity.as_deref(), self.bytes());
        }
    }
}
