//! Lines that wait for one child, from the moment at which the bridge starts it until they are written.
//!
//! Lines of requests are paid: their [`Place`] goes with them. The others, which answer a child or cancel its work,
//! have a limit of their own, beyond which the child counts as one that does not read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tieline_bridge::{Line, MESSAGE_BYTES_MAX};
use tokio::sync::Notify;

use super::room::Place;

/// Most bytes of unpaid lines: requests that waited for the start of their child, which are 64 MiB at most, and half as
/// many again.
const UNPAID_BYTES_MAX: usize = MESSAGE_BYTES_MAX + MESSAGE_BYTES_MAX / 2;

/// Bytes that an unpaid line counts for besides its text, so that many short ones are limited, too.
const LINE_COST: usize = 256;

/// The queue of lines for one child.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    inside: Mutex<Inside>,
    /// Wakes the writer.
    news: Notify,
    /// Wakes the child's task when no line will follow.
    ending: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    lines: VecDeque<Entry>,
    /// Bytes of unpaid lines.
    unpaid: usize,
    end: Option<End>,
}

/// One line, with the place of the request that it comes from.
#[derive(Debug)]
pub(super) struct Entry {
    /// The line.
    pub(super) line: Line,
    /// What the line takes of the room for requests; to be dropped once the line is written.
    pub(super) place: Option<Arc<Place>>,
}

/// Why no line will follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The bridge wants the child to end. Lines that were given before are still there.
    Asked,
    /// The child does not read.
    Overrun,
    /// The child is of no use any more.
    Shut,
}

impl Inbox {
    /// Appends a line, unless there is an end.
    pub(super) fn push(&self, line: Line, place: Option<Arc<Place>>) {
        let mut inside = self.inside();
        if inside.end.is_some() {
            return;
        }
        if place.is_none() {
            inside.unpaid += line.len() + LINE_COST;
        }
        if inside.unpaid > UNPAID_BYTES_MAX {
            drop(inside);
            return self.finish(End::Overrun);
        }
        inside.lines.push_back(Entry { line, place });
        self.news.notify_one();
    }

    /// Lets no line follow, because the bridge wants the child to end.
    pub(super) fn close(&self) {
        self.finish(End::Asked);
    }

    /// Lets no line follow, and drops those that are there.
    pub(super) fn shut(&self) {
        self.finish(End::Shut);
    }

    /// The next line; `None` if none will follow. For one task at a time; a wait that is given up loses nothing.
    pub(super) async fn next(&self) -> Option<Entry> {
        loop {
            {
                let mut inside = self.inside();
                if let Some(entry) = inside.lines.pop_front() {
                    if entry.place.is_none() {
                        inside.unpaid -= entry.line.len() + LINE_COST;
                    }
                    return Some(entry);
                }
                if inside.end.is_some() {
                    return None;
                }
            }
            self.news.notified().await;
        }
    }

    /// Waits until no line will follow. For one task at a time.
    pub(super) async fn ended(&self) -> End {
        loop {
            if let Some(end) = self.end() {
                return end;
            }
            self.ending.notified().await;
        }
    }

    /// Why no line will follow, if none will.
    pub(super) fn end(&self) -> Option<End> {
        self.inside().end
    }

    /// The first end counts, but each later one that drops lines drops them.
    fn finish(&self, end: End) {
        let mut inside = self.inside();
        inside.end.get_or_insert(end);
        if end != End::Asked {
            inside.lines.clear();
            inside.unpaid = 0;
        }
        self.news.notify_one();
        self.ending.notify_one();
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::stdio::server::room::Room;

    fn text(entry: Option<Entry>) -> Option<String> {
        entry.map(|entry| entry.line.to_string())
    }

    #[tokio::test]
    async fn lines_come_in_order_and_those_before_the_end_are_written() {
        let inbox = Inbox::default();
        inbox.push(Line::from("one"), None);
        inbox.push(Line::from("two"), None);
        inbox.close();
        inbox.push(Line::from("three"), None);
        assert_eq!(inbox.ended().await, End::Asked);
        assert_eq!(text(inbox.next().await).as_deref(), Some("one"));
        assert_eq!(text(inbox.next().await).as_deref(), Some("two"));
        assert_eq!(text(inbox.next().await), None);
    }

    #[tokio::test]
    async fn a_line_that_comes_later_wakes_the_writer() {
        let inbox = Inbox::default();
        let push = async { inbox.push(Line::from("one"), None) };
        let (entry, ()) = tokio::join!(inbox.next(), push);
        assert_eq!(text(entry).as_deref(), Some("one"));
    }

    #[tokio::test]
    async fn a_child_that_does_not_read_is_found_out_by_unpaid_lines() {
        let inbox = Inbox::default();
        let longest = Line::from(Bytes::from(vec![b'x'; MESSAGE_BYTES_MAX]));
        let place = Arc::new(Room::new().place());
        for _ in 0..3 {
            inbox.push(longest.clone(), Some(Arc::clone(&place)));
        }
        inbox.push(longest.clone(), None);
        assert_eq!(inbox.end(), None);
        inbox.push(longest, None);
        assert_eq!(inbox.ended().await, End::Overrun);
        assert!(inbox.next().await.is_none());
        assert_eq!(Arc::strong_count(&place), 1);
    }

    #[tokio::test]
    async fn many_short_lines_are_too_many_as_well() {
        let inbox = Inbox::default();
        for _ in 0..=UNPAID_BYTES_MAX / LINE_COST {
            inbox.push(Line::new(), None);
        }
        assert_eq!(inbox.end(), Some(End::Overrun));
    }

    #[tokio::test]
    async fn a_child_of_no_use_keeps_no_lines() {
        let inbox = Inbox::default();
        inbox.push(Line::from("one"), None);
        inbox.close();
        inbox.shut();
        assert_eq!(inbox.end(), Some(End::Asked));
        assert!(inbox.next().await.is_none());
    }
}
