//! How a connection tells the target what it is for.
//!
//! A zero byte, a word, the stream's number, a line feed: `\0source 3\n`. A message of a round trip
//! never begins with a zero byte, so a connection that just talks is answered with an echo and
//! needs no request; any echo server will do for those.

use std::fmt;

/// What a connection that asks for something begins with.
pub(crate) const MARK: u8 = 0;

/// Longest request, mark and line feed included.
pub(crate) const REQUEST_BYTES_MAX: usize = 64;

/// What the target answers, before anything else.
pub(crate) const ACCEPTED: u8 = b'+';

/// Which way blocks flow, seen from the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Duty {
    /// The target receives.
    Sink,
    /// The target sends.
    Source,
    /// Both at once.
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

/// The request for this duty.
pub(crate) fn encode(duty: Duty, stream: u64) -> Vec<u8> {
    format!("{}{duty} {stream}\n", char::from(MARK)).into_bytes()
}

/// Reads a request without its mark and its line feed.
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
