//! Ciphertext on its way to rustls, with its records counted.

use std::io;

use bytes::{Buf, BytesMut};

/// Header of a record: its last two bytes are the length of the rest (RFC 8446, section 5.1).
const HEADER_BYTES: usize = 5;

/// Position in the current record up to which rustls has taken the ciphertext.
#[derive(Default)]
pub(super) struct Framing {
    /// Bytes of the record's header so far.
    header_bytes: usize,
    /// Bytes behind the header that are still to come, once the header is whole.
    rest_bytes: usize,
}

impl Framing {
    /// Advances through `bytes` to their end, or to the end of as many records as `records` allows; lowers `records` by
    /// the number of records that ended, and returns the number of bytes.
    fn pass(&mut self, bytes: &[u8], records: &mut usize) -> usize {
        let mut passed = 0;
        while passed < bytes.len() && *records > 0 {
            if self.header_bytes < HEADER_BYTES {
                let length = self.rest_bytes << 8 | usize::from(bytes[passed]);
                self.rest_bytes = length & 0xffff;
                self.header_bytes += 1;
                passed += 1;
            } else {
                let step = self.rest_bytes.min(bytes.len() - passed);
                self.rest_bytes -= step;
                passed += step;
            }
            if self.header_bytes == HEADER_BYTES && self.rest_bytes == 0 {
                self.header_bytes = 0;
                *records -= 1;
            }
        }
        passed
    }
}

/// Ciphertext as rustls reads it. Must not be read while `bytes` is empty or `records` is 0: rustls takes a read of 0
/// bytes for the end of the connection.
pub(super) struct Input<'a> {
    pub(super) bytes: &'a mut BytesMut,
    pub(super) framing: &'a mut Framing,
    pub(super) records: &'a mut usize,
}

impl io::Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let offered = buffer.len().min(self.bytes.len());
        let count = self.framing.pass(&self.bytes[..offered], self.records);
        buffer[..count].copy_from_slice(&self.bytes[..count]);
        self.bytes.advance(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_wherever_the_bytes_are_cut() {
        let record = |len: u8| [&[23, 3, 3, 0, len][..], &vec![0; usize::from(len)][..]].concat();
        let bytes = [record(0), record(1), record(200), record(7)].concat();
        for size in 1..=bytes.len() {
            let (mut framing, mut records) = (Framing::default(), 3);
            let passed: usize = bytes
                .chunks(size)
                .map(|piece| framing.pass(piece, &mut records))
                .sum();
            assert_eq!((passed, records), (bytes.len() - record(7).len(), 0));
        }
    }
}
