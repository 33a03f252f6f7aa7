//! The mux of a link whose sessions have streams of their own, as over QUIC.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn_proto::Connection;
use tieline_transport::quic::LinkStreams;
use tieline_wire::{Error, Event, Moment, Mux, SessionId};

use super::SharedMux;

/// Payload of one session that is put together before the frontend's stream gets it, in bytes: packets bring it in pieces of
/// one packet each, and a write costs a system call.
const RUN_BYTES_MAX: usize = 64 * 1024;

impl SharedMux {
    /// Takes what has arrived on `streams` of `connection`, as [`SharedMux::receive`] takes bytes. Sets the writer's signal in
    /// any case: streams may take bytes that waited.
    ///
    /// # Errors
    /// The peer broke the protocol, and the link must end.
    pub(crate) fn receive_streams(
        &self,
        streams: &mut LinkStreams,
        connection: &mut Connection,
        mut act: impl FnMut(&mut Mux, Event),
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        self.writer.set();
        let mut run = None::<Run>;
        loop {
            let mut next = streams.poll_event(now, connection, &mut state.mux);
            if let Ok(Some(Event::Data {
                session, payload, ..
            })) = &mut next
            {
                let payload = std::mem::take(payload);
                let before = Run::join(&mut run, *session, payload);
                if let Some((session, payload)) = before {
                    self.deliver(state, session, &payload);
                }
                continue;
            }
            if let Some((session, payload)) = run.take().map(Run::into_parts) {
                self.deliver(state, session, &payload);
            }
            match next? {
                Some(event) => self.take(state, event, now, &mut act),
                None => break,
            }
        }
        self.received(state);
        Ok(())
    }

    /// Puts what is to be sent now on `streams` of `connection`.
    pub(crate) fn transmit_streams(&self, streams: &mut LinkStreams, connection: &mut Connection) {
        let mut state = self.state.borrow_mut();
        streams.transmit(self.clock.now(), connection, &mut state.mux);
        self.transmitted(&mut state);
    }

    /// Time that is left until `moment`.
    pub(crate) fn time_until(&self, moment: Moment) -> Duration {
        moment.saturating_since(self.clock.now())
    }
}

/// Payload of one session that came in a row.
struct Run {
    session: SessionId,
    /// The first piece, as long as it is the only one: it is not copied then.
    first: Bytes,
    all: BytesMut,
}

impl Run {
    /// Adds payload to `run`, and returns the session and payload of an earlier run that it does not belong to.
    fn join(
        run: &mut Option<Self>,
        session: SessionId,
        payload: Bytes,
    ) -> Option<(SessionId, Bytes)> {
        if let Some(run) = run
            && run.session == session
            && !payload.is_empty()
            && run.len() > 0
            && run.len() + payload.len() <= RUN_BYTES_MAX
        {
            let first = std::mem::take(&mut run.first);
            run.all.extend_from_slice(&first);
            run.all.extend_from_slice(&payload);
            return None;
        }
        let next = Self {
            session,
            first: payload,
            all: BytesMut::new(),
        };
        run.replace(next).map(Self::into_parts)
    }

    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    fn into_parts(self) -> (SessionId, Bytes) {
        let payload = match self.all.is_empty() {
            true => self.first,
            false => self.all.freeze(),
        };
        (self.session, payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_of_one_session_in_a_row_is_put_together() {
        let (one, two) = (SessionId(1), SessionId(2));
        let mut run = None;
        let whole = Bytes::from_static(b"hello, ");
        let at = whole.as_ptr();
        assert_eq!(Run::join(&mut run, one, whole), None);
        // A piece that stays alone is not copied.
        let before = Run::join(&mut run, two, Bytes::from_static(b"a")).unwrap();
        assert_eq!(before, (one, Bytes::from_static(b"hello, ")));
        assert_eq!(before.1.as_ptr(), at);
        assert_eq!(Run::join(&mut run, two, Bytes::from_static(b"b")), None);
        assert_eq!(Run::join(&mut run, two, Bytes::from_static(b"c")), None);
        // An empty message counts for itself.
        let before = Run::join(&mut run, two, Bytes::new()).unwrap();
        assert_eq!(before, (two, Bytes::from_static(b"abc")));
        let before = Run::join(&mut run, two, Bytes::from_static(b"d")).unwrap();
        assert_eq!(before, (two, Bytes::new()));
        let long = Bytes::from(vec![7; RUN_BYTES_MAX]);
        let before = Run::join(&mut run, two, long.clone()).unwrap();
        assert_eq!(before, (two, Bytes::from_static(b"d")));
        assert_eq!(run.map(Run::into_parts), Some((two, long)));
    }
}
