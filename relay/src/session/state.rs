//! State that a session's holder and the link's driver share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::inbox::{Inbox, InboxEnd};
use super::lanes::{Lane, LaneState};
use super::tunnel_sessions::CountedSession;
use crate::io::Signal;
use crate::metrics::{FrontendKind, ShardMetrics};

/// State shared by a session's holder and the link's driver.
pub(super) struct SessionState {
    pub(super) inbox: RefCell<Inbox>,
    pub(super) readable: Signal,
    pub(super) writable: Signal,
    pub(super) lane: RefCell<LaneState>,
    /// Whether the agent has reported that the target's connection stands.
    pub(super) is_opened: Cell<bool>,
    /// Whether the session's payload waits until `is_opened` is set.
    is_held_back: bool,
    /// Whether the session ended before its target received any byte.
    pub(super) is_not_sent: Cell<bool>,
    /// Whether the link was lost while the session's last bytes may not have reached the agent, which may still report.
    pub(super) is_unclear: Cell<bool>,
    /// Counts the session and its bytes while its holder has it.
    pub(super) hold: CountedSession,
}

impl SessionState {
    pub(super) fn new(hold: CountedSession, is_held_back: bool) -> Self {
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

    /// Notes that the target's connection stands.
    pub(super) fn opened(&self) {
        self.is_opened.set(true);
        self.writable.raise();
    }

    /// Whether the session's first bytes wait for the target's connection.
    pub(super) fn is_held_back(&self) -> bool {
        self.is_held_back && !self.is_opened.get()
    }

    /// Notes that the link was lost. `may_tell`: the agent may report what had arrived. Returns whether that is needed.
    pub(super) fn lost(&self, may_tell: bool) -> bool {
        let record = &self.hold.record;
        self.is_not_sent.set(!record.has_sent());
        let is_http = matches!(record.caller.kind, FrontendKind::Http);
        let is_unclear = may_tell && is_http && record.has_sent();
        self.is_unclear.set(is_unclear);
        is_unclear
    }

    /// Notes that the agent reset the session.
    pub(super) fn turned_down(&self) {
        self.is_not_sent.set(!self.is_opened.get());
    }

    /// Delivers payload; returns how many bytes the frontend's socket took at once.
    pub(super) fn deliver(&self, payload: &[u8]) -> usize {
        let taken = self.inbox.borrow_mut().deliver(payload);
        if taken < payload.len() {
            self.readable.raise();
        }
        taken
    }

    /// Notes the end of the target's direction.
    pub(super) fn end(&self, end: InboxEnd, metrics: &ShardMetrics) {
        self.inbox.borrow_mut().finish(end, &metrics.budget);
        self.readable.raise();
        if matches!(end, InboxEnd::Reset(_)) {
            self.writable.raise();
        }
    }

    /// Notes that the session's lane stands.
    pub(super) fn take_lane(&self, lane: Rc<Lane>) {
        *self.lane.borrow_mut() = LaneState::Taken(lane);
        self.readable.raise();
        self.writable.raise();
    }
}
