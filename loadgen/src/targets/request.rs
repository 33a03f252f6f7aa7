//! Request line with which a connection asks the target to send or receive blocks.
//!
//! Format: a zero byte, a word, a blank, the stream's number, a line feed: `\0source 3\n`. A round-trip
//! message never starts with a zero byte, so a connection without a request line gets an echo, and
//! any echo server can serve round trips.

use std::fmt;

/// First byte of a request line.
pub(crate) const MARK: u8 = 0;

/// Longest request, including mark and line feed, in bytes.
pub(crate) const REQUEST_BYTES_MAX: usize = 64;

/// First byte of the target's answer to a request.
pub(crate) const ACCEPTED: u8 = b'+';

/// Direction of the blocks, from the target's point of view.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Duty {
    /// The target receives blocks.
    Sink,
    /// The target sends blocks.
    Source,
    /// The target sends and receives blocks.
    Duplex,
}

impl Duty {
    const ALL: [Self; 3] = [Self::Sink, Self::Source, Self::Duplex];

    /// Whether the target sends blocks.
    pub(crate) fn sends(self) -> bool {
        self != Self::Sink
    }
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sink => "sink",
            Self::Source => "source",
            Self::Duplex => "duplex",
        })
    }
}

/// Encodes the request line for `duty` on stream number `stream`.
pub(crate) fn encode(duty: Duty, stream: u64) -> Vec<u8> {
    format!("{}{duty} {stream}\n", char::from(MARK)).into_bytes()
}

/// Decodes a request line that was stripped of its mark and line feed.
pub(crate) fn decode(line: &[u8]) -> Option<(Duty, u64)> {
    let (word, stream) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let duty = Duty::ALL
        .into_iter()
        .find(|duty| duty.to_string() == word)?;
    Some((duty, stream.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back() {
        for duty in Duty::ALL {
            let bytes = encode(duty, u64::MAX);
            assert!(bytes.len() <= REQUEST_BYTES_MAX);
            let [MARK, line @ .., b'\n'] = bytes.as_slice() else {
                panic!("{bytes:?}");
            };
            assert_eq!(decode(line), Some((duty, u64::MAX)));
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for line in ["", "sink", "sink x", "pour 3", "sink 3 4", "sink -1"] {
            assert_eq!(decode(line.as_bytes()), None, "{line}");
        }
    }
}
