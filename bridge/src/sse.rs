//! Events of a stream (text/event-stream), in the form that callers of MCP read.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::message::Line;

/// Content type of a stream of events.
pub(crate) const CONTENT_TYPE: &str = "text/event-stream";

/// Place of an event: its stream in the session, and its number in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EventId {
    /// Number of the stream.
    pub(crate) stream: u64,
    /// Number of the event in its stream.
    pub(crate) number: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}-{}", self.stream, self.number)
    }
}

impl FromStr for EventId {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, EventIdError> {
        let read = |text: &str| text.parse().map_err(|_| EventIdError::Foreign);
        let (stream, number) = text.split_once('-').ok_or(EventIdError::Foreign)?;
        Ok(Self {
            stream: read(stream)?,
            number: read(number)?,
        })
    }
}

/// Why a text is not the id of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum EventIdError {
    /// The bridge has not made it.
    #[error("the event id is not one of this server")]
    Foreign,
}

/// An event that carries a message. One `data` field holds it, because a message has no CR and no LF.
pub(crate) fn event(id: Option<EventId>, message: &Line) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(message.pieces().len() + 2);
    pieces.push(match id {
        Some(id) => Bytes::from(format!("id: {id}\ndata: ")),
        None => Bytes::from_static(b"data: "),
    });
    pieces.extend_from_slice(message.pieces());
    pieces.push(Bytes::from_static(b"\n\n"));
    pieces
}

/// An event with empty data, for its id: a caller whose connection breaks can come back with it.
pub(crate) fn prime(id: EventId, retry: Option<Duration>) -> Bytes {
    let retry = retry.map_or(String::new(), |wait| {
        format!("retry: {}\n", wait.as_millis())
    });
    Bytes::from(format!("id: {id}\n{retry}data: \n\n"))
}

/// A comment, which keeps a quiet connection open and means nothing to the caller.
pub(crate) const fn keep_alive() -> Bytes {
    Bytes::from_static(b":\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: EventId = EventId {
        stream: 3,
        number: 17,
    };

    #[test]
    fn an_event_carries_a_message_without_a_copy() {
        let message = Line::new().with("{").with("}");
        let pieces = event(Some(ID), &message);
        assert_eq!(pieces.concat(), b"id: 3-17\ndata: {}\n\n");
        assert_eq!(pieces[1].as_ptr(), message.pieces()[0].as_ptr());
        assert_eq!(event(None, &message).concat(), b"data: {}\n\n");
    }

    #[test]
    fn an_event_without_a_message_has_empty_data() {
        assert_eq!(prime(ID, None), "id: 3-17\ndata: \n\n");
        let wait = Some(Duration::from_secs(2));
        assert_eq!(prime(ID, wait), "id: 3-17\nretry: 2000\ndata: \n\n");
        assert_eq!(keep_alive(), ":\n\n");
    }

    #[test]
    fn an_event_id_reads_as_it_is_written() {
        assert_eq!("3-17".parse(), Ok(ID));
        assert_eq!(ID.to_string(), "3-17");
        for foreign in [
            "",
            "-",
            "3",
            "3-",
            "-17",
            "3-17-1",
            "3-x",
            "3-99999999999999999999",
        ] {
            assert_eq!(
                foreign.parse::<EventId>(),
                Err(EventIdError::Foreign),
                "{foreign}"
            );
        }
    }
}
