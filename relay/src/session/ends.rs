//! What a session's holder and the link's driver share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::held::Hold;
use super::inbox::{Inbox, InboxEnd};
use super::lanes::{Lane, Seat};
use crate::io::Signal;
use crate::metrics::{FrontendKind, ShardMetrics};

/// Where the link's driver and a session's holder meet.
pub(super) struct Ends {
    pub(super) inbox: RefCell<Inbox>,
    pub(super) readable: Signal,
    pub(super) writable: Signal,
    pub(super) lane: RefCell<Seat>,
    /// The target's connection stood.
    pub(super) is_opened: Cell<bool>,
    /// Nothing is sent before that.
    is_held_back: bool,
    /// The session ended before its target had a byte of it.
    pub(super) is_not_sent: Cell<bool>,
    /// The link was lost, and the session's last bytes may not have reached the agent, which may yet
    /// say so.
    is_unclear: Cell<bool>,
    /// Counts the session, and what goes over it, for as long as its holder has it.
    pub(super) hold: Hold,
}

impl Ends {
    pub(super) fn new(hold: Hold, is_held_back: bool) -> Self {
        Self {
            inbox: RefCell::default(),
            readable: Signal::default(),
            writable: Signal::default(),
            lane: RefCell::default(),
            is_opened: Cell::new(false),
            is_held_back,
            is_not_sent: Cell::new(false),
            is_unclear: Cell::new(false),
            hold,
        }
    }

    /// The target's connection stands.
    pub(super) fn opened(&self) {
        self.is_opened.set(true);
        self.writable.raise();
    }

    /// Whether the session's first bytes wait for its target's connection.
    pub(super) fn is_held_back(&self) -> bool {
        self.is_held_back && !self.is_opened.get()
    }

    /// The link is gone, and the agent `may_tell` what had reached it; whether that is wanted.
    pub(super) fn lost(&self, may_tell: bool) -> bool {
        let visit = self.hold.visit();
        self.is_not_sent.set(!visit.has_sent());
        let is_http = matches!(visit.visitor.kind, FrontendKind::Http);
        self.is_unclear.set(may_tell && is_http && visit.has_sent());
        self.is_unclear.get()
    }

    /// Whether the agent alone knows what had reached it.
    pub(super) fn is_unclear(&self) -> bool {
        self.is_unclear.get()
    }

    /// The agent resets the session.
    pub(super) fn turned_down(&self) {
        self.is_not_sent.set(!self.is_opened.get());
    }

    /// Takes payload in; returns how much of it the last socket took at once.
    pub(super) fn deliver(&self, payload: &[u8]) -> usize {
        let taken = self.inbox.borrow_mut().deliver(payload);
        if taken < payload.len() {
            self.readable.raise();
        }
        taken
    }

    /// The target's direction is over.
    pub(super) fn end(&self, end: InboxEnd, metrics: &ShardMetrics) {
        self.inbox.borrow_mut().finish(end, &metrics.budget);
        self.readable.raise();
        if matches!(end, InboxEnd::Reset(_)) {
            self.writable.raise();
        }
    }

    /// The session's lane stands.
    pub(super) fn seat(&self, lane: Rc<Lane>) {
        *self.lane.borrow_mut() = Seat::Taken(lane);
        self.readable.raise();
        self.writable.raise();
    }
}
