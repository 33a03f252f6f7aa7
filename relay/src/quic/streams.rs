//! The streams that a caller opens on its connection, and the dispatch of the connection's events to them.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use quinn_proto::{ConnectionError, Dir, Event, StreamEvent, StreamId};
use tracing::debug;

use super::connection::Connection;
use super::stream::QuicStream;
use super::stream_states::{StreamState, StreamStates};
use super::windows::Windows;

/// Accepts the streams of one caller's connection.
pub(crate) struct Streams {
    states: Rc<StreamStates>,
    has_new: Cell<bool>,
}

impl Streams {
    /// Lets the caller have up to `streams_max` streams at a time, and windows for their sessions out of `windows`.
    pub(crate) fn new(connection: Rc<Connection>, streams_max: u32, windows: Rc<Windows>) -> Self {
        Self {
            states: StreamStates::new(connection, streams_max, windows),
            // The first may have come with the end of the handshake.
            has_new: Cell::new(true),
        }
    }

    /// Waits for the next stream; `None` once the connection is lost. Streams hear of events only while a task waits here.
    pub(crate) async fn next(&self) -> Option<QuicStream> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<QuicStream>> {
        let connection = &self.states.connection;
        loop {
            // All new streams first: the next events may be about them.
            if self.has_new.get() {
                let accepted = connection.with(|proto, _| proto.streams().accept(Dir::Bi));
                if let Some(id) = accepted {
                    let stream = QuicStream::new(Rc::clone(&self.states), id);
                    return Poll::Ready(Some(stream));
                }
                self.has_new.set(false);
            }
            match ready!(connection.poll_event(cx)) {
                Event::Stream(event) => self.take(event),
                Event::ConnectionLost { reason } => {
                    if let ConnectionError::TransportError(error) = reason {
                        connection.metrics.quic_broken.inc();
                        debug!(peer = %connection.peer(), %error, "a QUIC caller broke a rule");
                    }
                    self.states.fail();
                    return Poll::Ready(None);
                }
                _ => {}
            }
        }
    }

    /// Passes an event on to its stream.
    fn take(&self, event: StreamEvent) {
        match event {
            StreamEvent::Opened { .. } => self.has_new.set(true),
            StreamEvent::Readable { id } => self.tell(id, StreamState::readable),
            StreamEvent::Writable { id } => self.tell(id, StreamState::writable),
            StreamEvent::Stopped { id, .. } => self.tell(id, StreamState::fail),
            StreamEvent::Finished { id } => self.tell(id, StreamState::delivered),
            // The relay opens no streams.
            StreamEvent::Available { .. } => {}
        }
    }

    fn tell(&self, id: StreamId, what: impl FnOnce(&StreamState)) {
        if let Some(state) = self.states.find(id) {
            what(&state);
        }
    }

    /// Whether no stream is in use.
    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }
}
