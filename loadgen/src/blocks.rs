//! Byte stream of a bulk transfer: numbered blocks, so that every byte is checked by comparing large
//! pieces of memory.
//!
//! A block is an 8-byte number (stream and index, little endian) and then bytes from a shared table,
//! starting at an offset that depends on the stream. A piece that is lost, doubled, moved or from another
//! stream has a wrong number; a changed byte differs from the table. The stream ends in-band with an
//! end mark and a verdict, because some of the measured programs close both directions at the first
//! half-close.

use std::io::IoSlice;

/// Length of a block, in bytes. The table and a read buffer fit a second-level CPU cache together.
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;

const NUMBER_BYTES: usize = 8;
const BODY_BYTES: usize = BLOCK_BYTES - NUMBER_BYTES;

/// End mark: replaces the block number and starts the verdict.
const END: u64 = u64::MAX;

/// Length of an encoded verdict: end mark, bytes received, offset of the first wrong byte.
const VERDICT_BYTES: usize = 3 * NUMBER_BYTES;

/// Number of table offsets at which the block bodies of a stream may start.
const OFFSETS: usize = 4096;

/// Low bits of a block's number that hold its index; the high bits hold the stream.
const INDEX_BITS: u32 = 40;

/// Seed of the table: arbitrary but fixed, so that every process generates the same bytes.
const SEED: u64 = 0x6275_6c6b_2d62_7974;

/// Random bytes from which all streams take their block bodies.
#[derive(Debug)]
pub(crate) struct Table(Box<[u8]>);

impl Table {
    /// Generates the table; its content is the same in every process.
    pub(crate) fn new() -> Self {
        let mut bytes = vec![0; BODY_BYTES + OFFSETS].into_boxed_slice();
        fastrand::Rng::with_seed(SEED).fill(&mut bytes);
        Self(bytes)
    }

    fn body(&self, stream: u64) -> &[u8] {
        // An odd factor gives neighbouring streams offsets that are far apart.
        let at = usize::try_from(stream.wrapping_mul(1_597) % OFFSETS as u64).unwrap_or(0);
        &self.0[at..at + BODY_BYTES]
    }
}

fn number(stream: u64, index: u64) -> u64 {
    (stream << INDEX_BITS) | index
}

/// Report of a receiver on the bytes of one direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Verdict {
    /// Bytes received, the end mark not included.
    pub(crate) received: u64,
    /// Stream offset of the first byte that differs from the expected one.
    pub(crate) wrong_at: Option<u64>,
}

impl Verdict {
    fn encode(self) -> [u8; VERDICT_BYTES] {
        let mut bytes = [0; VERDICT_BYTES];
        let wrong_at = self.wrong_at.unwrap_or(u64::MAX);
        for (place, value) in
            bytes
                .chunks_exact_mut(NUMBER_BYTES)
                .zip([END, self.received, wrong_at])
        {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: [u8; VERDICT_BYTES]) -> Self {
        let field = |at: usize| {
            let mut value = [0; NUMBER_BYTES];
            value.copy_from_slice(&bytes[at * NUMBER_BYTES..][..NUMBER_BYTES]);
            u64::from_le_bytes(value)
        };
        Self {
            received: field(1),
            wrong_at: Some(field(2)).filter(|at| *at != u64::MAX),
        }
    }
}

/// Sending side of a stream: yields the bytes to write next.
#[derive(Debug)]
pub(crate) struct Outgoing {
    stream: u64,
    index: u64,
    /// Bytes of the current block that the socket has taken.
    at: usize,
    head: [u8; NUMBER_BYTES],
    sent: u64,
    end: Option<[u8; VERDICT_BYTES]>,
    /// Bytes of the end mark and verdict that the socket has taken; used only between two blocks.
    end_at: usize,
}

impl Outgoing {
    /// Begins a stream.
    pub(crate) fn new(stream: u64) -> Self {
        Self {
            stream,
            index: 0,
            at: 0,
            head: number(stream, 0).to_le_bytes(),
            sent: 0,
            end: None,
            end_at: 0,
        }
    }

    /// Ends the stream after the current block.
    pub(crate) fn end(&mut self, verdict: Verdict) {
        self.end.get_or_insert(verdict.encode());
    }

    /// Whether `end` was called.
    pub(crate) fn is_ending(&self) -> bool {
        self.end.is_some()
    }

    /// Bytes taken by the socket so far, without the end mark and verdict.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the socket has taken all bytes, including the end mark and verdict.
    pub(crate) fn is_finished(&self) -> bool {
        self.end_at == VERDICT_BYTES
    }

    /// Slices to write next: the rest of the block, or the rest of the verdict. Both are empty at the end.
    pub(crate) fn next<'a>(&'a self, table: &'a Table) -> [IoSlice<'a>; 2] {
        if let (Some(end), 0) = (&self.end, self.at) {
            return [IoSlice::new(&end[self.end_at..]), IoSlice::new(&[])];
        }
        let head = &self.head[self.at.min(NUMBER_BYTES)..];
        let body = &table.body(self.stream)[self.at.saturating_sub(NUMBER_BYTES)..];
        [IoSlice::new(head), IoSlice::new(body)]
    }

    /// Records that the socket took `taken` bytes of the slices from [`next`](Self::next).
    pub(crate) fn advance(&mut self, taken: usize) {
        if self.end.is_some() && self.at == 0 {
            self.end_at += taken;
            return;
        }
        self.at += taken;
        self.sent += taken as u64;
        if self.at == BLOCK_BYTES {
            self.at = 0;
            self.index += 1;
            self.head = number(self.stream, self.index).to_le_bytes();
        }
    }
}

/// Receiving side of a stream: compares received bytes with the expected ones.
#[derive(Debug)]
pub(crate) struct Incoming {
    stream: u64,
    index: u64,
    /// Bytes received of the current block, or of the verdict.
    at: usize,
    head: [u8; VERDICT_BYTES],
    received: u64,
    /// Stream offset of the first wrong byte. Set once; later bytes are not compared.
    wrong_at: Option<u64>,
    verdict: Option<Verdict>,
}

impl Incoming {
    /// Begins a stream.
    pub(crate) fn new(stream: u64) -> Self {
        Self {
            stream,
            index: 0,
            at: 0,
            head: [0; VERDICT_BYTES],
            received: 0,
            wrong_at: None,
            verdict: None,
        }
    }

    /// This side's verdict on the bytes received so far.
    pub(crate) fn own_verdict(&self) -> Verdict {
        Verdict {
            received: self.received,
            wrong_at: self.wrong_at,
        }
    }

    /// The peer's verdict, once it has been received.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Compares the next received bytes.
    pub(crate) fn check(&mut self, table: &Table, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.wrong_at.is_some() {
                return;
            }
            if self.verdict.is_some() {
                // No byte may follow the verdict.
                self.wrong_at = Some(self.received);
                return;
            }
            let taken = if self.at < NUMBER_BYTES || self.is_ending() {
                self.check_head(bytes)
            } else {
                self.check_body(table, bytes)
            };
            bytes = &bytes[taken..];
        }
    }

    fn is_ending(&self) -> bool {
        self.at >= NUMBER_BYTES && self.head[..NUMBER_BYTES] == END.to_le_bytes()
    }

    fn check_head(&mut self, bytes: &[u8]) -> usize {
        let until = if self.at < NUMBER_BYTES {
            NUMBER_BYTES
        } else {
            VERDICT_BYTES
        };
        let len = bytes.len().min(until - self.at);
        self.head[self.at..self.at + len].copy_from_slice(&bytes[..len]);
        self.at += len;
        if self.at == VERDICT_BYTES {
            self.verdict = Some(Verdict::decode(self.head));
        } else if self.at == NUMBER_BYTES && !self.is_ending() {
            let expected = number(self.stream, self.index).to_le_bytes();
            if self.head[..NUMBER_BYTES] == expected {
                self.received += NUMBER_BYTES as u64;
            } else {
                let same = same_bytes(&self.head, &expected);
                self.wrong_at = Some(self.received + same as u64);
            }
        }
        len
    }

    fn check_body(&mut self, table: &Table, bytes: &[u8]) -> usize {
        let expected = &table.body(self.stream)[self.at - NUMBER_BYTES..];
        let len = bytes.len().min(expected.len());
        if bytes[..len] != expected[..len] {
            let same = same_bytes(bytes, expected);
            self.wrong_at = Some(self.received + same as u64);
        }
        self.received += len as u64;
        self.at += len;
        if self.at == BLOCK_BYTES {
            self.at = 0;
            self.index += 1;
        }
        len
    }
}

/// Length of the common prefix of two slices.
fn same_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes `blocks` blocks and a verdict, taking at most `piece` bytes at a time.
    fn stream(table: &Table, id: u64, blocks: usize, piece: usize) -> Vec<u8> {
        let mut outgoing = Outgoing::new(id);
        let mut wire = Vec::new();
        while !outgoing.is_finished() {
            if outgoing.sent() > ((blocks - 1) * BLOCK_BYTES) as u64 {
                outgoing.end(Verdict {
                    received: 7,
                    wrong_at: None,
                });
            }
            let bytes: Vec<u8> = outgoing
                .next(table)
                .iter()
                .flat_map(|slice| slice.to_vec())
                .take(piece)
                .collect();
            outgoing.advance(bytes.len());
            wire.extend(bytes);
        }
        wire
    }

    fn received(table: &Table, id: u64, wire: &[u8], piece: usize) -> Incoming {
        let mut incoming = Incoming::new(id);
        wire.chunks(piece)
            .for_each(|bytes| incoming.check(table, bytes));
        incoming
    }

    #[test]
    fn a_stream_is_accepted_in_any_pieces_and_ends_with_the_verdict() {
        let table = Table::new();
        for (out, piece) in [(usize::MAX, usize::MAX), (1 << 16, 7), (5, 100_003)] {
            let wire = stream(&table, 3, 3, out);
            let incoming = received(&table, 3, &wire, piece.min(wire.len()));
            let verdict = Verdict {
                received: 7,
                wrong_at: None,
            };
            assert_eq!(incoming.verdict(), Some(verdict));
            assert_eq!(
                incoming.own_verdict(),
                Verdict {
                    received: 3 * BLOCK_BYTES as u64,
                    wrong_at: None
                }
            );
        }
    }

    #[test]
    fn one_changed_byte_is_found_wherever_it_is() {
        let table = Table::new();
        let wire = stream(&table, 3, 3, usize::MAX);
        for at in [
            0,
            7,
            8,
            300,
            BLOCK_BYTES - 1,
            BLOCK_BYTES,
            2 * BLOCK_BYTES + 9,
        ] {
            let mut changed = wire.clone();
            changed[at] ^= 0x10;
            let incoming = received(&table, 3, &changed, 50_000);
            assert_eq!(incoming.own_verdict().wrong_at, Some(at as u64));
        }
    }

    #[test]
    fn a_lost_doubled_or_foreign_block_is_found() {
        let table = Table::new();
        let wire = stream(&table, 3, 3, usize::MAX);
        let (first, rest) = wire.split_at(BLOCK_BYTES);
        for changed in [rest.to_vec(), [first, &wire].concat()] {
            let incoming = received(&table, 3, &changed, 50_000);
            assert!(incoming.own_verdict().wrong_at.is_some());
        }
        let foreign = received(&table, 4, &wire, 50_000);
        assert!(foreign.own_verdict().wrong_at.is_some());
    }

    #[test]
    fn bytes_behind_the_end_are_wrong() {
        let table = Table::new();
        let mut wire = stream(&table, 3, 1, usize::MAX);
        wire.push(0);
        let incoming = received(&table, 3, &wire, 50_000);
        assert_eq!(incoming.own_verdict().wrong_at, Some(BLOCK_BYTES as u64));
    }
}
