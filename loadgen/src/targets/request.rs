//! Request line with which a connection asks the target to send or receive blocks.
//!
//! Format: a zero byte, a word, a blank, the stream's number, a line feed: `\0source 3\n`. A source may have a rate in
//! kbit/s as well: `\0source 3 5000\n`. A round-trip message never starts with a zero byte, so a connection without a
//! request line gets an echo, and any echo server can serve round trips.

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

/// What a connection asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Request {
    pub(crate) duty: Duty,
    /// Number of the stream.
    pub(crate) stream: u64,
    /// Rate of a source in kbit/s; `None` if it sends as fast as it can.
    pub(crate) pace_kbit: Option<u32>,
}

impl Request {
    /// Encodes the request line.
    pub(crate) fn encode(self) -> Vec<u8> {
        let Self { duty, stream, .. } = self;
        let pace = self.pace_kbit.map(|kbit| format!(" {kbit}"));
        let pace = pace.unwrap_or_default();
        format!("{}{duty} {stream}{pace}\n", char::from(MARK)).into_bytes()
    }

    /// Decodes a request line that was stripped of its mark and line feed.
    pub(crate) fn decode(line: &[u8]) -> Option<Self> {
        let (word, rest) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        let duty = Duty::ALL
            .into_iter()
            .find(|duty| duty.to_string() == word)?;
        let (stream, pace_kbit) = match rest.split_once(' ') {
            Some((stream, kbit)) if duty == Duty::Source => {
                let kbit: u32 = kbit.parse().ok()?;
                (stream, Some(kbit).filter(|kbit| *kbit > 0))
            }
            _ => (rest, None),
        };
        Some(Self {
            duty,
            stream: stream.parse().ok()?,
            pace_kbit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back() {
        let unpaced = Duty::ALL.map(|duty| (duty, None));
        for (duty, pace_kbit) in unpaced.into_iter().chain([(Duty::Source, Some(u32::MAX))]) {
            let request = Request {
                duty,
                stream: u64::MAX,
                pace_kbit,
            };
            let bytes = request.encode();
            assert!(bytes.len() <= REQUEST_BYTES_MAX);
            let [MARK, line @ .., b'\n'] = bytes.as_slice() else {
                panic!("{bytes:?}");
            };
            assert_eq!(Request::decode(line), Some(request));
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for line in [
            "",
            "sink",
            "sink x",
            "pour 3",
            "sink 3 4",
            "sink -1",
            "source 3 x",
            "source 3 4 5",
        ] {
            assert_eq!(Request::decode(line.as_bytes()), None, "{line}");
        }
    }
}
