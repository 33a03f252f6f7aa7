//! Handles bytes that arrive on a link.

use bytes::Bytes;

use super::budget::Budget;
use super::input::Item;
use super::sessions::{Lookup, Session};
use super::{Event, LINK, Mux};
use crate::error::Error;
use crate::frame::{Header, Kind};
use crate::generated as structs;
use crate::ids::{Moment, SessionId};
use crate::limits::{IDLE_CREDIT_TIMEOUT, LANES_LATE_MAX, PREFACE};
use crate::message::{
    Acked, AgentHello, Decode, GoAway, Open, Opened, Register, RelayHello, Unregistered,
};
use crate::reason::{LinkEnd, SessionEnd};

impl Mux {
    /// Takes the next event off `input`; `None` when `input` is used up.
    ///
    /// # Errors
    /// The peer broke a rule: the link must be closed, with the error's reason.
    pub fn handle_input(&mut self, now: Moment, input: &mut Bytes) -> Result<Option<Event>, Error> {
        self.now = now;
        if !input.is_empty() {
            self.timers.received(now);
        }
        if self.control.len() > self.control_bytes_max() {
            return Err(Error::peer(
                LinkEnd::Overload,
                "the peer does not read its control messages",
            ));
        }
        while let Some(item) = self.decoder.next(input)? {
            if let Some(event) = self.handle_item(item)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn handle_item(&mut self, item: Item) -> Result<Option<Event>, Error> {
        let is_ping = matches!(&item, Item::Frame { kind, .. } if *kind == Kind::Ping);
        if !is_ping {
            self.timers.heard(self.now);
        }
        if matches!(&item, Item::DataHeader(_) | Item::Data { .. }) {
            self.timers.data(self.now);
        }
        match item {
            Item::Preface => {
                if let Some(hello) = self.handshake.preface() {
                    let waiting = std::mem::take(&mut self.control);
                    self.control.extend_from_slice(&PREFACE);
                    self.push_control(Kind::Hello, LINK, &hello);
                    self.control.extend_from_slice(&waiting);
                }
                Ok(None)
            }
            Item::DataHeader(header) => {
                if self.is_over_streams {
                    return Err(off_its_stream(Kind::Data));
                }
                self.data_header(header)?;
                Ok(None)
            }
            Item::Data {
                session,
                payload,
                end_of_message,
            } => Ok(self.data(session, payload, end_of_message)),
            Item::Skipped => {
                self.counters.optional_frames_dropped += 1;
                Ok(None)
            }
            Item::Frame {
                kind,
                session,
                payload,
            } => self.frame(kind, session, &payload),
        }
    }

    /// Payload whose header was charged.
    pub(super) fn data(
        &mut self,
        session: SessionId,
        payload: Bytes,
        end_of_message: bool,
    ) -> Option<Event> {
        // The session may have ended, or been reset, since the frame's header arrived.
        let live = self
            .sessions
            .live(session)
            .is_some_and(|it| !it.is_resetting());
        if !live || payload.is_empty() && !end_of_message {
            return None;
        }
        self.counters.bytes_received += payload.len() as u64;
        Some(Event::Data {
            session,
            payload,
            end_of_message,
        })
    }

    /// Charges payload before it is read.
    pub(super) fn data_header(&mut self, header: Header) -> Result<(), Error> {
        if !self.handshake.is_done() {
            return Err(Error::peer(LinkEnd::Protocol, "data before the hello"));
        }
        let session = match self.sessions.lookup(header.session) {
            Lookup::Live(session) => session,
            Lookup::Ended => {
                self.counters.frames_dropped += 1;
                return Ok(());
            }
            Lookup::NeverOpened => return Err(never_opened(header.session)),
        };
        session
            .recv
            .credit
            .charge(header.payload_len, header.end_of_message)?;
        session.recv.bytes_total += u64::from(header.payload_len);
        if session.is_resetting() {
            self.counters.frames_dropped += 1;
            return Ok(());
        }
        let moved = session.recv.lane.is_some();
        if session.recv.ended || moved || !session.opened && self.handshake.is_relay() {
            return Err(Error::peer(
                LinkEnd::Protocol,
                format!("session {} takes no data now", header.session),
            ));
        }
        let len = header.payload_len as usize;
        if session.recv.run.add(len, self.settings.bulk_run_bytes) && !session.bulky {
            session.bulky = true;
            self.bulky.push_back(header.session);
        }
        // Empty frames may add up to a grant without an event that would lead to one.
        self.list_if_due(header.session);
        Ok(())
    }

    fn frame(
        &mut self,
        kind: Kind,
        session: SessionId,
        payload: &Bytes,
    ) -> Result<Option<Event>, Error> {
        if !self.handshake.is_done() && !matches!(kind, Kind::Hello | Kind::GoAway) {
            return Err(Error::peer(
                LinkEnd::Protocol,
                format!("{kind:?} before the hello"),
            ));
        }
        if self.is_over_streams
            && matches!(
                kind,
                Kind::Finish | Kind::Reset | Kind::BulkOffer | Kind::Bulk
            )
        {
            return Err(off_its_stream(kind));
        }
        let relay = self.handshake.is_relay();
        match kind {
            Kind::Hello if relay => {
                let hello = AgentHello::decode(payload)?;
                self.handshake.agent_hello(&hello)?;
                self.timers.shaken(self.now);
                Ok(Some(Event::AgentHello(hello)))
            }
            Kind::Hello => {
                let hello = RelayHello::decode(payload)?;
                self.handshake.relay_hello(&hello)?;
                Ok(Some(Event::RelayHello(hello)))
            }
            Kind::Register if relay => {
                let register = Register::decode(payload)?;
                self.lost_left = 0;
                Ok(Some(Event::Register(register)))
            }
            Kind::Unregister if relay => {
                Ok(Some(Event::Unregister(Unregistered::decode(payload)?.0)))
            }
            Kind::RegisterAck if !relay => Ok(Some(match Acked::decode(payload)? {
                Acked::Answered(ack) => {
                    if let Ok(granted) = &ack.outcome {
                        self.granted(granted);
                    }
                    Event::RegisterAck(ack)
                }
                Acked::Withdrawn(withdrawal) => Event::Withdrawn(withdrawal),
            })),
            Kind::GoAway => {
                self.going_away = true;
                Ok(Some(Event::GoAway(GoAway::decode(payload)?)))
            }
            Kind::Lost if relay => self.lost_received(payload),
            Kind::Ping => {
                self.pong = Some(structs::Ping(fixed(payload)?).stamp());
                Ok(None)
            }
            Kind::Pong => {
                let stamp = structs::Pong(fixed(payload)?).stamp();
                Ok(self
                    .timers
                    .pong(stamp, self.now)
                    .map(|rtt| Event::Pong { rtt }))
            }
            Kind::BulkOffer if !relay => self.offer_received(session, payload),
            Kind::Bulk => self.bulk_received(session, payload),
            Kind::Open if !relay => self.open_received(session, payload),
            Kind::Opened if relay => self.opened_received(session, payload),
            Kind::Credit | Kind::CreditReturn | Kind::Finish | Kind::Reset => {
                self.session_struct(kind, session, payload)
            }
            _ => Err(Error::peer(
                LinkEnd::Protocol,
                format!("{kind:?} from the wrong side"),
            )),
        }
    }

    fn open_received(&mut self, id: SessionId, payload: &Bytes) -> Result<Option<Event>, Error> {
        if id.0 <= self.sessions.highest() {
            return Err(Error::peer(
                LinkEnd::Protocol,
                format!("session {id} opened twice"),
            ));
        }
        // The relay stops counting a session at its `Finish`, while the agent may still read its lane.
        let most = self.settings.sessions_max.saturating_add(LANES_LATE_MAX);
        if self.sessions.len() >= most as usize {
            return Err(Error::peer(
                LinkEnd::SessionLimit,
                "more sessions than the agreed limit",
            ));
        }
        let open = Open::decode(payload)?;
        let header = self.piece_cost(open.mode);
        self.sessions.insert(id, false, header, self.now);
        self.counters.sessions_opened += 1;
        Ok(Some(Event::Open { session: id, open }))
    }

    fn opened_received(&mut self, id: SessionId, payload: &Bytes) -> Result<Option<Event>, Error> {
        Opened::decode(payload)?;
        match self.sessions.lookup(id) {
            Lookup::Live(session) if session.is_resetting() => {
                self.counters.frames_dropped += 1;
                Ok(None)
            }
            Lookup::Live(session) => {
                if std::mem::replace(&mut session.opened, true) {
                    return Err(Error::peer(
                        LinkEnd::Protocol,
                        format!("session {id} opened twice"),
                    ));
                }
                Ok(Some(Event::Opened { session: id }))
            }
            Lookup::Ended => {
                self.counters.frames_dropped += 1;
                Ok(None)
            }
            Lookup::NeverOpened => Err(never_opened(id)),
        }
    }

    fn session_struct(
        &mut self,
        kind: Kind,
        id: SessionId,
        payload: &Bytes,
    ) -> Result<Option<Event>, Error> {
        let session = match self.sessions.lookup(id) {
            Lookup::Live(session) => session,
            Lookup::Ended => {
                self.counters.frames_dropped += 1;
                return Ok(None);
            }
            Lookup::NeverOpened => return Err(never_opened(id)),
        };
        match kind {
            Kind::Credit => {
                session
                    .send
                    .credit
                    .granted(structs::Credit(fixed(payload)?).bytes(), self.now)?;
                if session.send.credit.is_above_floor() && !session.send.listed_grown {
                    session.send.listed_grown = true;
                    if self.grown.is_empty() {
                        self.idle_check_at = self.now + IDLE_CREDIT_TIMEOUT;
                    }
                    self.grown.push(id);
                }
                self.wake_if_writable(id);
                Ok(None)
            }
            // The end of the peer's stream may overtake a return that was sent before it.
            Kind::CreditReturn if self.is_over_streams && session.recv.ended => {
                self.counters.frames_dropped += 1;
                Ok(None)
            }
            Kind::CreditReturn => {
                let bytes = structs::CreditReturn(fixed(payload)?).bytes();
                session.recv.credit.returned(bytes, &mut self.budget)?;
                Ok(None)
            }
            Kind::Finish => {
                let sent = structs::Finish(fixed(payload)?).bytes_total();
                if session.recv.lane.is_some() {
                    return self.lane_finished(id, sent);
                }
                let received = session.recv.bytes_total;
                if sent != received {
                    return Err(Error::peer(
                        LinkEnd::LengthMismatch,
                        format!("session {id}: {sent} bytes sent, {received} received"),
                    ));
                }
                let dropped = end_direction(id, session, &mut self.budget)?;
                self.forget_if_over(id);
                Ok(self.unless_dropped(dropped, Event::Finished { session: id }))
            }
            _ => {
                let reason = SessionEnd::from_code(structs::Reset(fixed(payload)?).reason());
                let dropped = session.is_resetting();
                self.forget(id);
                Ok(self.unless_dropped(
                    dropped,
                    Event::Reset {
                        session: id,
                        reason,
                    },
                ))
            }
        }
    }

    /// The event, or `None` and a count if this side has reset the session before.
    pub(super) fn unless_dropped(&mut self, dropped: bool, event: Event) -> Option<Event> {
        if dropped {
            self.counters.frames_dropped += 1;
            return None;
        }
        Some(event)
    }
}

/// The peer's direction of a session ended in order; true if this side has reset the session before.
pub(super) fn end_direction(
    id: SessionId,
    session: &mut Session,
    budget: &mut Budget,
) -> Result<bool, Error> {
    if std::mem::replace(&mut session.recv.ended, true) {
        return Err(Error::peer(
            LinkEnd::Protocol,
            format!("session {id} ended twice"),
        ));
    }
    session.recv.credit.settle(budget);
    Ok(session.is_resetting())
}

/// What belongs on a session's own stream came among the control frames.
fn off_its_stream(kind: Kind) -> Error {
    Error::peer(LinkEnd::Protocol, format!("{kind:?} on the control stream"))
}

pub(super) fn never_opened(id: SessionId) -> Error {
    Error::peer(
        LinkEnd::UnknownSession,
        format!("session {id} was never opened"),
    )
}

/// The bytes of a struct; the frame header has checked their number.
fn fixed<const N: usize>(payload: &Bytes) -> Result<[u8; N], Error> {
    payload[..]
        .try_into()
        .map_err(|_| Error::local(LinkEnd::Internal, "a struct has an unexpected length"))
}
