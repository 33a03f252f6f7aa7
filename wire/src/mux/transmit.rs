//! Bytes to send on the link's socket: headers and payload slices, in order.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

use crate::limits::{GATHER_BYTES_MAX, GATHER_SLICES_MAX};

/// Capacity for headers and control frames that an empty list keeps, in bytes.
const INLINE_BYTES_KEPT: usize = 64 * 1024;

/// Number of slices up to which a list is sent from a small array.
const SLICES_FEW: usize = 64;

/// A gather list that a socket may take in any number of pieces.
///
/// Headers and control frames are copied into one buffer of the list; payloads stay in the memory
/// that they were read into.
#[derive(Debug, Default)]
pub struct Transmit {
    inline: Vec<u8>,
    parts: VecDeque<Part>,
    /// Bytes of the front part that are sent already.
    sent: usize,
    len: usize,
}

#[derive(Debug)]
enum Part {
    Inline { start: usize, end: usize },
    Payload(Bytes),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Inline { start, end } => end - start,
            Self::Payload(bytes) => bytes.len(),
        }
    }
}

impl Transmit {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes still to send.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if nothing is left to send.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True if more bytes would not make a send cheaper.
    pub(crate) fn has_enough(&self) -> bool {
        // A data frame adds two slices.
        self.len >= GATHER_BYTES_MAX || self.parts.len() + 2 > GATHER_SLICES_MAX
    }

    /// Passes the unsent bytes, in as many slices as one call takes, to `send`, and removes the bytes
    /// that `send` took.
    ///
    /// # Errors
    /// The error of `send`, which then has sent nothing.
    ///
    /// # Panics
    /// If `send` returns more bytes than it was given.
    pub fn send_with<E>(
        &mut self,
        send: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        // Clearing a thousand slots for a single message would cost as much as the mux does.
        let count = if self.parts.len() <= SLICES_FEW {
            send(self.fill(&mut [IoSlice::new(&[]); SLICES_FEW]))?
        } else {
            send(self.fill(&mut [IoSlice::new(&[]); GATHER_SLICES_MAX]))?
        };
        self.advance(count);
        Ok(count)
    }

    /// Puts the unsent bytes into `slices`, as far as they fit; returns the filled slices.
    fn fill<'a, 'b>(&'a self, slices: &'b mut [IoSlice<'a>]) -> &'b [IoSlice<'a>] {
        let mut filled = 0;
        let mut skip = self.sent;
        for (slot, part) in slices.iter_mut().zip(&self.parts) {
            let bytes = match part {
                Part::Inline { start, end } => &self.inline[*start..*end],
                Part::Payload(bytes) => bytes.as_ref(),
            };
            *slot = IoSlice::new(&bytes[skip..]);
            skip = 0;
            filled += 1;
        }
        &slices[..filled]
    }

    /// Slices of the list, as many as one gathered send takes.
    #[must_use]
    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = vec![IoSlice::new(&[]); self.parts.len().min(GATHER_SLICES_MAX)];
        self.fill(&mut slices);
        slices
    }

    /// Removes `count` bytes that the socket took.
    ///
    /// # Panics
    /// If `count` is more than was left, which no socket reports.
    pub fn advance(&mut self, count: usize) {
        assert!(
            count <= self.len,
            "a socket took more bytes than it was given"
        );
        self.len -= count;
        self.sent += count;
        while let Some(front) = self.parts.front() {
            if self.sent < front.len() {
                break;
            }
            self.sent -= front.len();
            self.parts.pop_front();
        }
        if self.parts.is_empty() {
            self.inline.clear();
            self.inline.shrink_to(INLINE_BYTES_KEPT);
        }
    }

    /// Removes headers and control frames that were sent, once they are half of the buffer: a driver
    /// may add to a list that is never empty.
    fn compact(&mut self) {
        let first = self.parts.iter().find_map(|part| match part {
            Part::Inline { start, .. } => Some(*start),
            Part::Payload(_) => None,
        });
        let gone = first.unwrap_or(self.inline.len());
        if gone * 2 < self.inline.len() {
            return;
        }
        self.inline.drain(..gone);
        for part in &mut self.parts {
            if let Part::Inline { start, end } = part {
                *start -= gone;
                *end -= gone;
            }
        }
    }

    /// Copies headers or control frames into the list.
    pub(crate) fn push_inline(&mut self, bytes: &[u8]) {
        if self.inline.len() + bytes.len() > self.inline.capacity() {
            self.compact();
        }
        let start = self.inline.len();
        self.inline.extend_from_slice(bytes);
        self.len += bytes.len();
        match self.parts.back_mut() {
            Some(Part::Inline { end, .. }) if *end == start => *end = self.inline.len(),
            _ => self.parts.push_back(Part::Inline {
                start,
                end: self.inline.len(),
            }),
        }
    }

    #[cfg(test)]
    pub(crate) const fn inline_bytes(&self) -> usize {
        self.inline.len()
    }

    /// Adds a payload without copying it.
    pub(crate) fn push_payload(&mut self, payload: Bytes) {
        if !payload.is_empty() {
            self.len += payload.len();
            self.parts.push_back(Part::Payload(payload));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(transmit: &Transmit) -> Vec<u8> {
        transmit
            .slices()
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn any_split_of_sends_yields_the_same_bytes() {
        for step in 1..20 {
            let mut transmit = Transmit::new();
            let mut seen = Vec::new();
            transmit.push_inline(b"head");
            transmit.push_inline(b"er1 ");
            transmit.push_payload(Bytes::from_static(b"payload one "));
            transmit.push_inline(b"header2 ");
            while !transmit.is_empty() {
                let bytes = bytes_of(&transmit);
                let take = step.min(bytes.len());
                seen.extend_from_slice(&bytes[..take]);
                transmit.advance(take);
                if seen.len() == 8 {
                    transmit.push_payload(Bytes::from_static(b"late"));
                }
            }
            let seen = String::from_utf8(seen).unwrap();
            assert!(seen.starts_with("header1 payload one header2 "), "{seen}");
        }
    }

    #[test]
    fn a_payload_is_sent_from_where_it_was_read() {
        let payload = Bytes::from(vec![7; 100]);
        let at = payload.as_ptr();
        let mut transmit = Transmit::new();
        transmit.push_inline(b"h");
        transmit.push_payload(payload);
        assert_eq!(transmit.slices()[1].as_ptr(), at);
    }
}
