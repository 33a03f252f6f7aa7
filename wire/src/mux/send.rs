//! Calls with which a driver opens sessions, sends, ends them, and reports consumed bytes.

use bytes::Bytes;

use super::handshake::Handshake;
use super::lane::SendLane;
use super::sessions::{Chunk, End};
use super::{Mux, OpenError, SendError};
use crate::frame::Kind;
use crate::ids::SessionId;
use crate::limits::{DATA_BYTES_SENT_MAX, SESSION_IDS_MAX};
use crate::message::{Open, Opened};
use crate::reason::SessionEnd;

impl Mux {
    /// Relay: opens a session. Payload may follow at once, up to [`Mux::send_capacity`].
    ///
    /// # Errors
    /// [`OpenError`] if the link accepts no more sessions.
    pub fn open(&mut self, open: &Open) -> Result<SessionId, OpenError> {
        let highest = self.sessions.highest();
        let ready = matches!(self.handshake, Handshake::RelayDone);
        if self.going_away || highest >= SESSION_IDS_MAX || !ready {
            return Err(OpenError::Closing);
        }
        if self.sessions.len() >= self.settings.sessions_max as usize {
            return Err(OpenError::Full);
        }
        let id = SessionId(highest + 1);
        let header = self.piece_cost(open.mode);
        self.sessions.insert(id, true, header, self.now);
        self.counters.sessions_opened += 1;
        self.push_control(Kind::Open, id, open);
        Ok(id)
    }

    /// Agent: the session's target accepted the connection; payload may be sent from now on.
    pub fn opened(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.live_mut(id)
            && !session.send.may_start
            && !session.is_resetting()
        {
            session.send.may_start = true;
            self.push_control(Kind::Opened, id, &Opened);
            self.wake_if_writable(id);
        }
    }

    /// Payload bytes that [`Mux::send`] accepts now. If it is 0, [`Mux::poll_writable`] returns the
    /// session once it accepts some.
    pub fn send_capacity(&mut self, id: SessionId) -> usize {
        let Some(session) = self.sessions.live_mut(id) else {
            return 0;
        };
        let capacity = session.send.capacity(&self.budget);
        session.send.blocked = capacity == 0;
        capacity
    }

    /// Queues payload without copying it, all or none.
    ///
    /// # Errors
    /// [`SendError::Short`] beyond the capacity; [`SendError::Closed`] if the direction is over.
    pub fn send(
        &mut self,
        id: SessionId,
        mut payload: Bytes,
        end_of_message: bool,
    ) -> Result<(), SendError> {
        let session = self.sessions.live_mut(id).ok_or(SendError::Closed)?;
        let send = &mut session.send;
        if send.end.is_some() || send.lane != SendLane::Link {
            return Err(SendError::Closed);
        }
        if payload.is_empty() && !end_of_message {
            return Ok(());
        }
        let fits = if payload.is_empty() {
            send.takes_empty(&self.budget)
        } else {
            payload.len() <= send.capacity(&self.budget)
        };
        if !fits {
            return Err(SendError::Short);
        }
        if send.run.add(payload.len(), self.settings.bulk_run_bytes) && !session.bulky {
            session.bulky = true;
            self.bulky.push_back(id);
        }
        loop {
            let piece = payload.split_to(payload.len().min(DATA_BYTES_SENT_MAX));
            let last = payload.is_empty();
            let chunk = Chunk {
                payload: piece,
                end_of_message: end_of_message && last,
            };
            self.budget.queue(chunk.cost());
            send.push(chunk, self.now);
            if last {
                break;
            }
        }
        self.schedule.add(id, send);
        Ok(())
    }

    /// Ends the sending direction in order, behind the queued bytes.
    pub fn finish(&mut self, id: SessionId) {
        self.end(id, End::Finish);
    }

    /// Aborts the session, behind the queued bytes. Bytes that the peer still sends are dropped.
    pub fn reset(&mut self, id: SessionId, reason: SessionEnd) {
        self.end(id, End::Reset(reason));
    }

    fn end(&mut self, id: SessionId, end: End) {
        let Some(session) = self.sessions.live_mut(id) else {
            return;
        };
        match (session.send.end, end) {
            (None, _) => {}
            // A reset may follow a finish that was sent or still waits.
            (Some(End::Finish), End::Reset(_)) => session.send.ended = false,
            _ => return,
        }
        session.send.end = Some(end);
        self.schedule.add(id, &mut session.send);
    }

    /// The receiving socket took `len` payload bytes of a session: the sender gets credit back. `len` is 0
    /// for an empty message.
    pub fn consumed(&mut self, id: SessionId, len: usize) {
        let Some(session) = self.sessions.live_mut(id) else {
            return;
        };
        session.recv.credit.consume(len);
        if session.recv.ended || session.recv.lane.is_some() {
            session.recv.credit.settle(&mut self.budget);
        } else {
            self.list_if_due(id);
        }
    }

    /// Plans a grant, if it is large enough to justify a frame.
    pub(super) fn list_if_due(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.live_mut(id)
            && session.recv.credit.is_due()
            && !session.recv.listed_due
        {
            session.recv.listed_due = true;
            self.due.push_back(id);
        }
    }

    /// Lists a session that had no capacity and has some now.
    pub(super) fn wake_if_writable(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.live_mut(id)
            && session.send.blocked
            && session.send.capacity(&self.budget) > 0
        {
            session.send.blocked = false;
            if !session.send.listed_writable {
                session.send.listed_writable = true;
                self.writable.push_back(id);
            }
        }
    }

    /// Returns a session that had no capacity and has some now.
    pub fn poll_writable(&mut self) -> Option<SessionId> {
        while let Some(id) = self.writable.pop_front() {
            let Some(session) = self.sessions.live_mut(id) else {
                continue;
            };
            session.send.listed_writable = false;
            // The session may have been filled again, or have ended, since it was listed.
            session.send.blocked = session.send.capacity(&self.budget) == 0;
            if !session.send.blocked {
                return Some(id);
            }
        }
        None
    }
}
