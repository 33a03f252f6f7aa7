//! Message bytes, generated from a fixed seed, so that every byte of an answer can be checked.

use crate::targets::request::MARK;

/// Number of table offsets at which a message may start. A power of two.
const OFFSETS: usize = 64 * 1024;

/// Seed of the table: arbitrary but fixed, so that the bytes are the same in every run.
const SEED: u64 = 0x7469_656c_696e_6521;

/// A table of random bytes. Each message is a slice of it, chosen by connection and sequence number.
/// Nothing is generated or copied during a round, and an answer that is late, doubled, shifted or
/// from another connection does not compare equal.
#[derive(Debug)]
pub(crate) struct Pattern {
    table: Box<[u8]>,
    size: usize,
}

impl Pattern {
    /// A pattern for messages of `size` bytes.
    pub(crate) fn new(size: usize) -> Self {
        let mut table = vec![0; size + OFFSETS];
        fastrand::Rng::with_seed(SEED).fill(&mut table);
        // A connection that starts with the mark would request something other than an echo.
        for byte in table.iter_mut().filter(|byte| **byte == MARK) {
            *byte = 1;
        }
        Self {
            table: table.into_boxed_slice(),
            size,
        }
    }

    /// A pattern of letters, digits, blanks and dots, which need no escapes in JSON.
    pub(crate) fn printable(size: usize) -> Self {
        const LETTERS: &[u8; 64] =
            b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .";
        let mut pattern = Self::new(size);
        for byte in &mut pattern.table {
            *byte = LETTERS[usize::from(*byte) % LETTERS.len()];
        }
        pattern
    }

    /// Length of every message, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The message with number `sequence` of a connection.
    pub(crate) fn message(&self, connection: u64, sequence: u64) -> &[u8] {
        // Two odd constants spread neighbouring numbers; the shift takes the upper, well-mixed bits.
        let mixed = (connection.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ sequence)
            .wrapping_mul(0xd134_2543_de82_ef95);
        let offset = usize::try_from(mixed >> 40).unwrap_or(0) % OFFSETS;
        &self.table[offset..offset + self.size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_differ() {
        let pattern = Pattern::new(64);
        for connection in 0..64 {
            for sequence in 0..64 {
                let message = pattern.message(connection, sequence);
                assert_eq!(message.len(), 64);
                assert_ne!(message[0], MARK);
                assert_ne!(message, pattern.message(connection, sequence + 1));
                assert_ne!(message, pattern.message(connection + 1, sequence));
            }
        }
    }

    #[test]
    fn a_printable_message_needs_no_escapes() {
        let pattern = Pattern::printable(500);
        let text = std::str::from_utf8(pattern.message(3, 4)).unwrap();
        assert_eq!(serde_json::to_string(text).unwrap(), format!("\"{text}\""));
        assert_ne!(text.as_bytes(), pattern.message(3, 5));
    }

    #[test]
    fn the_same_request_gives_the_same_bytes_in_every_run() {
        assert_eq!(
            Pattern::new(300).message(7, 9),
            Pattern::new(300).message(7, 9)
        );
    }
}
