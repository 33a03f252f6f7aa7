//! Scans HTTP/1.1 requests on their way to hyper's server: finds where each begins and ends, and has
//! hyper refuse ambiguous ones, which servers read differently.
//!
//! hyper accepts some ambiguous requests, and has no setting against them: a line that ends without a
//! carriage return, a repeated Content-Length, a Content-Length beside a Transfer-Encoding. The scanner
//! overwrites the ambiguous byte with a NUL and ends the head there. hyper accepts a NUL nowhere in a
//! head or a trailer, so it answers 400 and closes.
//!
//! Requests that hyper refuses anyway end the connection, so the scanner treats every other head as one
//! that hyper accepts. Bytes behind a request to upgrade wait, unscanned, until the answer shows whether they are the
//! next request. The scanner also escapes a few characters in URLs (`"` as `%22`): clients send them, most
//! servers accept them, and hyper refuses them.

mod chunks;
mod head;
mod intake;
#[cfg(test)]
mod tests;
mod unserved;

use chunks::Chunks;
pub use head::RequestLine;
use head::{Framing, Head};
pub use intake::Intake;
use unserved::Unserved;

use crate::escape::escape;

/// Written behind the NUL to end a head or trailers. Without it hyper would wait for the end of a head
/// that came in pieces before it answers 400.
const END: &[u8] = b"\r\n\r\n";

/// The broken rule: lines of heads and trailers end in a carriage return and a line feed.
const BARE_LINE_FEED: &str = "a line ends in a line feed without a carriage return in front of it";

/// State of the scan of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scanner {
    part: Part,
    escape: Escape,
    /// Request lines of the heads that were scanned to their ends, or refused.
    unserved: Unserved,
    /// The rule that the last head or its trailers broke.
    broken_rule: Option<&'static str>,
    /// Whether bytes behind a request to upgrade wait for its answer.
    holds_upgrades: bool,
}

/// Escape that is still to be written in place of a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Escape {
    bytes: [u8; 3],
    /// How many of `bytes` are still to be written.
    left: usize,
}

/// How far [`Scanner::pass`] got in the caller's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passed {
    /// Leading bytes that go to hyper; the last one may have been overwritten.
    to_server: usize,
    /// Leading bytes that are done with. The others are passed again, after [`Scanner::instead`] is read.
    taken: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// A request's head, or the empty lines in front of it.
    Head(Head),
    /// A body with this many bytes still to come.
    Body(u64),
    Chunks(Chunks),
    /// A request to upgrade was passed: further bytes may belong to another protocol.
    Held,
    /// The request is refused, and further bytes of the caller are dropped. hyper gets these bytes, then the end.
    Refused(&'static [u8]),
}

/// Outcome of a part's look at some bytes.
enum Step {
    /// The part continues beyond these bytes.
    Inside,
    /// The part ends after this many bytes.
    Ended(usize),
    /// The byte at this index, in a head or a trailer, makes the request ambiguous; carries the broken rule.
    Doubtful(usize, &'static str),
    /// The byte at this index is to be replaced by its escape.
    Escaped(usize),
    /// The byte at this index is one that hyper refuses.
    Broken(usize),
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// State before the first request.
    const fn new() -> Self {
        Self {
            part: Part::Head(Head::new()),
            escape: Escape {
                bytes: [0; 3],
                left: 0,
            },
            unserved: Unserved::new(),
            broken_rule: None,
            holds_upgrades: false,
        }
    }

    /// Scans the next bytes from the caller.
    fn pass(&mut self, bytes: &mut [u8]) -> Passed {
        let all = bytes.len();
        let passed = |to_server, taken| Passed { to_server, taken };
        let mut at = 0;
        while let Some(rest @ [_, ..]) = bytes.get(at..) {
            let step = match &mut self.part {
                Part::Head(head) => head.pass(rest),
                Part::Body(left) => skip(left, rest),
                Part::Chunks(chunks) => chunks.pass(rest),
                Part::Held => return passed(at, at),
                Part::Refused(_) => return passed(at, all),
            };
            match step {
                Step::Inside => return passed(all, all),
                Step::Ended(count) => {
                    at += count;
                    self.end_head();
                    self.part = self.part.next(self.holds_upgrades);
                }
                Step::Doubtful(index, rule) => {
                    bytes[at + index] = 0;
                    self.broken_rule = Some(rule);
                    self.end_head();
                    self.part = Part::Refused(END);
                    return passed(at + index + 1, all);
                }
                Step::Escaped(index) => {
                    self.escape = Escape::of(bytes[at + index]);
                    return passed(at + index, at + index + 1);
                }
                Step::Broken(index) => {
                    self.part = Part::Refused(&[]);
                    return passed(at + index + 1, all);
                }
            }
        }
        passed(at, all)
    }

    /// Up to `room` bytes that hyper gets in place of the caller's.
    fn instead(&mut self, room: usize) -> &[u8] {
        if let Part::Refused(end) = &mut self.part {
            let (now, later) = end.split_at(end.len().min(room));
            *end = later;
            return now;
        }
        self.escape.take(room)
    }

    /// Keeps the request line, if the part that ends is a head.
    fn end_head(&mut self) {
        if let Part::Head(head) = &self.part {
            self.unserved.push(head.request_line());
        }
    }

    /// Request line of the head with this number, counted from 0 on; `None` if it is not known.
    fn request_line(&self, number: u64) -> Option<RequestLine> {
        match &self.part {
            Part::Head(head) if number == self.unserved.next_number() => Some(head.request_line()),
            _ => self.unserved.line(number),
        }
    }

    /// True while further bytes of the caller wait for the answer to a request to upgrade.
    const fn is_held(&self) -> bool {
        matches!(self.part, Part::Held)
    }

    /// Scans on: the connection stays HTTP.
    fn go_on(&mut self) {
        if self.is_held() {
            self.part = Part::Head(Head::new());
        }
    }

    /// True once further bytes of the caller are dropped.
    const fn is_refused(&self) -> bool {
        matches!(self.part, Part::Refused(_))
    }
}

impl Escape {
    fn of(byte: u8) -> Self {
        Self {
            bytes: escape(byte),
            left: 3,
        }
    }

    fn take(&mut self, room: usize) -> &[u8] {
        let start = self.bytes.len() - self.left;
        let count = self.left.min(room);
        self.left -= count;
        &self.bytes[start..start + count]
    }
}

impl Part {
    /// The part that follows a part that has ended.
    const fn next(&self, holds_upgrades: bool) -> Self {
        match self {
            Self::Head(head) if holds_upgrades && head.is_upgrade() => Self::Held,
            Self::Head(head) => match head.framing() {
                Framing::None | Framing::Length(0) => Self::Head(Head::new()),
                Framing::Length(length) => Self::Body(length),
                Framing::Chunked => Self::Chunks(Chunks::new()),
            },
            Self::Body(_) | Self::Chunks(_) => Self::Head(Head::new()),
            Self::Held => Self::Held,
            Self::Refused(end) => Self::Refused(end),
        }
    }
}

/// Skips up to `left` bytes and subtracts them from `left`.
fn skip(left: &mut u64, bytes: &[u8]) -> Step {
    let count = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *left -= count as u64;
    if *left == 0 {
        Step::Ended(count)
    } else {
        Step::Inside
    }
}
