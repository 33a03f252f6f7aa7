//! The latest events of a legacy session, for callers that come back with `Last-Event-ID`.

use std::collections::VecDeque;

use crate::message::Line;
use crate::sse::EventId;

/// Most events that a session keeps: more than a caller misses while it connects again.
pub(crate) const REPLAY_EVENTS_MAX: usize = 256;

/// Most bytes that a session keeps: 1,024 sessions hold 1 GiB at most.
pub(crate) const REPLAY_BYTES_MAX: usize = 1024 * 1024;

/// A bounded queue of events; the oldest fall out.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    events: VecDeque<(EventId, Line)>,
    bytes: usize,
}

impl Replay {
    /// Keeps an event, unless it alone is larger than all that may be kept.
    pub(crate) fn push(&mut self, place: EventId, line: Line) {
        let len = line.len();
        if len > REPLAY_BYTES_MAX {
            return;
        }
        self.bytes += len;
        self.events.push_back((place, line));
        while self.bytes > REPLAY_BYTES_MAX || self.events.len() > REPLAY_EVENTS_MAX {
            let Some((_, oldest)) = self.events.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
        }
    }

    /// The kept events of the same stream after `last`, in order.
    pub(crate) fn after(&self, last: EventId) -> Vec<(EventId, Line)> {
        let is_later = |place: &EventId| place.stream == last.stream && place.number > last.number;
        let later = self.events.iter().filter(|(place, _)| is_later(place));
        later.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(stream: u64, number: u64) -> EventId {
        EventId { stream, number }
    }

    #[test]
    fn only_later_events_of_the_same_stream_are_replayed() {
        let mut replay = Replay::default();
        for (stream, event) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
            replay.push(place(stream, event), Line::new().with(String::from("{}")));
        }
        let events = replay.after(place(0, 1));
        let places: Vec<_> = events.into_iter().map(|(place, _)| place).collect();
        assert_eq!(places, [place(0, 2)]);
    }

    #[test]
    fn the_oldest_events_fall_out() {
        let mut replay = Replay::default();
        for event in 1..=300 {
            replay.push(place(0, event), Line::new().with(String::from("{}")));
        }
        assert_eq!(replay.after(place(0, 0)).len(), REPLAY_EVENTS_MAX);
        replay.push(
            place(0, 301),
            Line::new().with("x".repeat(REPLAY_BYTES_MAX)),
        );
        let left = replay.after(place(0, 0));
        assert_eq!(left.len(), 1);
        replay.push(
            place(0, 302),
            Line::new().with("x".repeat(REPLAY_BYTES_MAX + 1)),
        );
        assert_eq!(replay.after(place(0, 0)).len(), 1);
    }
}
