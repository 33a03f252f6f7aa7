//! Requests of HTTP/1.1 on their way to hyper's server: where each begins and ends, and whether it
//! has one reading.
//!
//! hyper takes some that others read differently, and has no setting for it: a line that ends
//! without a return, a length twice, a length beside a transfer coding. The scanner writes a null
//! over the byte that makes the second reading, and ends the head there. hyper takes a null
//! nowhere in a head or a trailer, so it answers 400 by itself and closes.
//!
//! What hyper refuses anyway ends the connection, so of that nothing needs to be known here: a
//! head counts as one that hyper takes.

mod chunks;
mod head;
#[cfg(test)]
mod tests;

use hyper::rt::ReadBufCursor;

use chunks::Chunks;
use head::{Framing, Head};

/// Ends a head, or trailers, wherever it stands in them. Without it hyper would wait for the end of
/// a head that came in pieces, before it says what is wrong with it.
const END: &[u8] = b"\r\n\r\n";

/// Follows the bytes of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanner(Part);

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
    /// This byte makes a second reading, in a head or a trailer.
    Doubtful(usize),
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
    #[must_use]
    pub const fn new() -> Self {
        Self(Part::Head(Head::new()))
    }

    /// Looks at further bytes of the caller. So many of them are for hyper, the last perhaps
    /// changed; the rest is for nobody.
    pub fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while let Some(rest @ [_, ..]) = bytes.get(at..) {
            let step = match &mut self.0 {
                Part::Head(head) => head.pass(rest),
                Part::Body(left) => skip(left, rest),
                Part::Chunks(chunks) => chunks.pass(rest),
                Part::Refused(_) => return at,
            };
            match step {
                Step::Inside => return bytes.len(),
                Step::Ended(count) => {
                    at += count;
                    self.0 = self.0.next();
                }
                Step::Doubtful(index) => {
                    bytes[at + index] = 0;
                    self.0 = Part::Refused(END);
                    return at + index + 1;
                }
                Step::Broken(index) => {
                    self.0 = Part::Refused(&[]);
                    return at + index + 1;
                }
            }
        }
        at
    }

    /// Once the caller is refused, reads in its place, and says so.
    pub fn read_instead(&mut self, buf: &mut ReadBufCursor<'_>) -> bool {
        let Part::Refused(end) = &mut self.0 else {
            return false;
        };
        let (now, later) = end.split_at(end.len().min(buf.remaining()));
        buf.put_slice(now);
        *end = later;
        true
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
