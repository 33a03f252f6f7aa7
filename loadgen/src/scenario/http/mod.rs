//! Requests over HTTP/1.1 on a kept connection: the next request is sent after the end of the answer.

mod answer;
mod turn;

use std::io::ErrorKind;

use crate::exchange::RequestKind;
use crate::path::Path;
use crate::pattern::Pattern;
use crate::scenario::failure::ConnectionError;
use crate::scenario::seat::{Dialogue, Seat};
use turn::Turn;

/// A connection that repeats one kind of request.
#[derive(Debug)]
pub(super) struct HttpConnection {
    seat: Seat,
    ask: RequestKind,
    host: String,
    page: String,
    turn: Turn,
    /// Number of requests started.
    begun: u64,
}

impl HttpConnection {
    /// Connects to the path; sends nothing yet.
    pub(super) fn open(path: &Path, id: u64, ask: RequestKind) -> Result<Self, ConnectionError> {
        Ok(Self {
            seat: Seat::open(path, id, &[])?,
            ask,
            host: path.address.to_string(),
            page: path.page(id).to_owned(),
            turn: Turn::none(),
            begun: 0,
        })
    }

    /// Expects one more event on this stream.
    pub(super) fn expect_event(&mut self, pattern: &Pattern) {
        self.seat.due += 1;
        self.turn.add_event(self.seat.id, pattern);
    }

    /// Answers received so far: events of a stream, first events of reports, or whole answers of calls.
    fn complete(&self) -> u64 {
        let before = self.begun.saturating_sub(1);
        match self.ask {
            RequestKind::Stream => self.turn.events() as u64,
            RequestKind::Report => before + u64::from(self.turn.events() > 0),
            RequestKind::Call | RequestKind::Publish => before + u64::from(self.turn.is_over()),
        }
    }
}

impl Dialogue for HttpConnection {
    fn seat(&self) -> &Seat {
        &self.seat
    }

    fn seat_mut(&mut self) -> &mut Seat {
        &mut self.seat
    }

    fn flush(&mut self, pattern: &Pattern) -> Result<bool, ConnectionError> {
        if self.has_turn() {
            let at = (self.host.as_str(), self.page.as_str());
            let numbers = (self.seat.id, self.begun);
            self.turn.begin(self.ask, at, numbers, pattern);
            self.begun += 1;
        }
        self.turn.send(&mut self.seat)
    }

    fn receive(&mut self, _: &Pattern, buffer: &mut [u8]) -> Result<u64, ConnectionError> {
        let answered = self.seat.answered;
        match self.seat.stream.read(buffer) {
            Ok(0) => {
                let missing = self.turn.missing();
                return Err(ConnectionError::Closed { answered, missing });
            }
            Ok(len) => self.turn.check(&buffer[..len], answered)?,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(self.seat.broken(error)),
        }
        self.seat.answered = self.complete();
        Ok(self.seat.answered - answered)
    }

    fn has_turn(&self) -> bool {
        self.turn.is_over() && self.begun < self.seat.due
    }
}
