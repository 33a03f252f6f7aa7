//! The stream of a bulk transfer: numbered blocks, so that every byte can be checked by comparing
//! large pieces of memory.
//!
//! A block is an 8-byte number (stream and position, little endian) and then bytes from a table at
//! a place that depends on the stream. A piece that is lost, doubled, moved or from another stream
//! differs in the number; a changed byte differs from the table. The stream ends in-band with an
//! end mark and a verdict, because some programs on the way end both directions at the first
//! half-close.

use std::io::IoSlice;

/// Length of a block. Table and read buffer fit a second-level cache together.
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;

const NUMBER_BYTES: usize = 8;
const BODY_BYTES: usize = BLOCK_BYTES - NUMBER_BYTES;

/// Number that stands in place of a block's and begins the verdict.
const END: u64 = u64::MAX;

/// End mark, bytes received, place of the first wrong byte.
const VERDICT_BYTES: usize = 3 * NUMBER_BYTES;

/// Number of different places in the table at which a stream's bodies may begin.
const OFFSETS: usize = 4096;

/// Bits of a block's number that count blocks; the others hold the stream.
const INDEX_BITS: u32 = 40;

/// Any fixed number: the bytes are the same in every run and in every process.
const SEED: u64 = 0x6275_6c6b_2d62_7974;

/// The random bytes that all streams share.
#[derive(Debug)]
pub(crate) struct Table(Box<[u8]>);

impl Table {
    /// The table; it is the same in every process.
    pub(crate) fn new() -> Self {
        let mut bytes = vec![0; BODY_BYTES + OFFSETS].into_boxed_slice();
        fastrand::Rng::with_seed(SEED).fill(&mut bytes);
        Self(bytes)
    }

    fn body(&self, stream: u64) -> &[u8] {
        // An odd factor spreads neighbours over the table.
        let at = usize::try_from(stream.wrapping_mul(1_597) % OFFSETS as u64).unwrap_or(0);
        &self.0[at..at + BODY_BYTES]
    }
}

fn number(stream: u64, index: u64) -> u64 {
    (stream << INDEX_BITS) | index
}

/// What one side says about the bytes that it got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Verdict {
    /// Bytes received, the end mark not included.
    pub(crate) received: u64,
    /// Place of the first byte that differs from what was to be sent.
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

/// The sending side of a stream: what comes next.
#[derive(Debug)]
pub(crate) struct Outgoing {
    stream: u64,
    index: u64,
    /// Bytes of the block under way that were taken.
    at: usize,
    head: [u8; NUMBER_BYTES],
    sent: u64,
    end: Option<[u8; VERDICT_BYTES]>,
    /// Bytes of the end mark that were taken; counts only at the border of a block.
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

    /// Ends the stream after the block under way.
    pub(crate) fn end(&mut self, verdict: Verdict) {
        self.end.get_or_insert(verdict.encode());
    }

    /// Whether the stream was told to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.end.is_some()
    }

    /// Bytes taken so far, the end mark not included.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether everything was taken, the end mark included.
    pub(crate) fn is_finished(&self) -> bool {
        self.end_at == VERDICT_BYTES
    }

    /// What to write next: the rest of a block, or of the end mark. Both are empty at the end.
    pub(crate) fn next<'a>(&'a self, table: &'a Table) -> [IoSlice<'a>; 2] {
        if let (Some(end), 0) = (&self.end, self.at) {
            return [IoSlice::new(&end[self.end_at..]), IoSlice::new(&[])];
        }
        let head = &self.head[self.at.min(NUMBER_BYTES)..];
        let body = &table.body(self.stream)[self.at.saturating_sub(NUMBER_BYTES)..];
        [IoSlice::new(head), IoSlice::new(body)]
    }

    /// The socket took this many of those bytes.
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

/// The receiving side of a stream: compares what comes with what must come.
#[derive(Debug)]
pub(crate) struct Incoming {
    stream: u64,
    index: u64,
    /// Bytes of the block under way, or of the end mark, that came.
    at: usize,
    head: [u8; VERDICT_BYTES],
    received: u64,
    /// Set once: nothing is compared after the first difference.
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

    /// What is known about the bytes that came.
    pub(crate) fn own_verdict(&self) -> Verdict {
        Verdict {
            received: self.received,
            wrong_at: self.wrong_at,
        }
    }

    /// The other side's verdict, once the end mark has come.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Compares the next bytes.
    pub(crate) fn check(&mut self, table: &Table, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.wrong_at.is_some() {
                return;
            }
            if self.verdict.is_some() {
                // Nothing may follow the end.
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

/// Length of the part that two slices begin with alike.
fn same_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `blocks` blocks and an end, taken in pieces of at most `piece` bytes.
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
