//! Requests of HTTP/1.1 on their way to hyper's server: where each begins and ends, and whether it
//! has one reading.
//!
//! hyper takes some that others read differently, and has no setting for it: a line that ends
//! without a return, a length twice, a length beside a transfer coding. The scanner writes a null
//! over the byte that makes the second reading, and ends the head there. hyper takes a null
//! nowhere in a head or a trailer, so it answers 400 by itself and closes.
//!
//! What hyper refuses anyway ends the connection, so of that nothing needs to be known here: a
//! head counts as one that hyper takes. But for a few characters in a URL, which it writes as URLs
//! have them (`"` as `%22`): clients send them, and most servers take them.

mod chunks;
mod head;
mod intake;
#[cfg(test)]
mod tests;

use chunks::Chunks;
use head::{Framing, Head};
pub use intake::Intake;

use crate::escape::escape;

/// Ends a head, or trailers, wherever it stands in them. Without it hyper would wait for the end of
/// a head that came in pieces, before it says what is wrong with it.
const END: &[u8] = b"\r\n\r\n";

/// The rule of lines, in heads and trailers.
const BARE_LINE_FEED: &str = "a line ends in a line feed without a carriage return in front of it";

/// Follows the bytes of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scanner {
    part: Part,
    escape: Escape,
    /// Bytes of URL and method in the last whole head.
    last_target_bytes: usize,
    /// The rule that the last head or its trailers break.
    broken_rule: Option<&'static str>,
}

/// What is still to be written in place of a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Escape {
    bytes: [u8; 3],
    /// So many of them are left.
    left: usize,
}

/// What became of some bytes of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passed {
    /// So many are for hyper, the last perhaps changed.
    to_server: usize,
    /// So many are done with. The others are to be passed later, behind what is written instead.
    taken: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// A request's head, or the empty lines in front of it.
    Head(Head),
    /// A body of which so much is to come.
    Body(u64),
    Chunks(Chunks),
    /// Nothing more is read of the caller; this goes to hyper, and then the connection's end.
    Refused(&'static [u8]),
}

/// How far a part has got.
enum Step {
    /// All bytes belong to it.
    Inside,
    /// So many bytes are its last ones.
    Ended(usize),
    /// This byte makes a second reading, in a head or a trailer, against this rule.
    Doubtful(usize, &'static str),
    /// In place of this byte goes its escape.
    Escaped(usize),
    /// This byte is one that hyper refuses as it is.
    Broken(usize),
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// In front of the first request.
    const fn new() -> Self {
        Self {
            part: Part::Head(Head::new()),
            escape: Escape {
                bytes: [0; 3],
                left: 0,
            },
            last_target_bytes: 0,
            broken_rule: None,
        }
    }

    /// Looks at further bytes of the caller.
    fn pass(&mut self, bytes: &mut [u8]) -> Passed {
        let all = bytes.len();
        let passed = |to_server, taken| Passed { to_server, taken };
        let mut at = 0;
        while let Some(rest @ [_, ..]) = bytes.get(at..) {
            let step = match &mut self.part {
                Part::Head(head) => head.pass(rest),
                Part::Body(left) => skip(left, rest),
                Part::Chunks(chunks) => chunks.pass(rest),
                Part::Refused(_) => return passed(at, all),
            };
            match step {
                Step::Inside => return passed(all, all),
                Step::Ended(count) => {
                    at += count;
                    self.last_target_bytes = self.target_bytes();
                    self.part = self.part.next();
                }
                Step::Doubtful(index, rule) => {
                    bytes[at + index] = 0;
                    self.broken_rule = Some(rule);
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

    /// What is to be read now in place of the caller's bytes, up to `room` of it.
    fn instead(&mut self, room: usize) -> &[u8] {
        if let Part::Refused(end) = &mut self.part {
            let (now, later) = end.split_at(end.len().min(room));
            *end = later;
            return now;
        }
        self.escape.take(room)
    }

    /// Bytes of URL and method in the head that it is at, or was at last.
    const fn target_bytes(&self) -> usize {
        match &self.part {
            Part::Head(head) if head.target_bytes() > 0 => head.target_bytes(),
            _ => self.last_target_bytes,
        }
    }

    /// True once nothing more is read of the caller.
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
    /// What follows a part that has ended.
    const fn next(&self) -> Self {
        match self {
            Self::Head(head) => match head.framing() {
                Framing::None | Framing::Length(0) => Self::Head(Head::new()),
                Framing::Length(length) => Self::Body(length),
                Framing::Chunked => Self::Chunks(Chunks::new()),
            },
            Self::Body(_) | Self::Chunks(_) => Self::Head(Head::new()),
            Self::Refused(end) => Self::Refused(end),
        }
    }
}

/// Takes of `bytes` what is left of a run.
fn skip(left: &mut u64, bytes: &[u8]) -> Step {
    let count = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *left -= count as u64;
    if *left == 0 {
        Step::Ended(count)
    } else {
        Step::Inside
    }
}
