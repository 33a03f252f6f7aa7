//! Numbers of one to eight bytes, of which the first says how many (RFC 9000, section 16).

use bytes::{Buf, Bytes};

/// Largest number that there is, plus one.
const END: u64 = 1 << 62;

/// The shortest encoding of `value`, and its length in bytes.
///
/// # Panics
/// If `value` is 2^62 or more, which no length is.
pub(super) fn encode(value: u64) -> ([u8; 8], usize) {
    assert!(value < END, "a number without an encoding");
    let (exponent, len) = match value {
        0..0x40 => (0, 1),
        0x40..0x4000 => (1, 2),
        0x4000..0x4000_0000 => (2, 4),
        _ => (3, 8),
    };
    let mut bytes = (value << (64 - 8 * len)).to_be_bytes();
    bytes[0] |= exponent << 6;
    (bytes, len)
}

/// A number on its way.
#[derive(Debug, Default)]
pub(super) struct Varint {
    value: u64,
    /// Bytes that are still to come.
    left: u8,
}

impl Varint {
    /// True before the number's first byte.
    pub(super) const fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Takes the number's bytes off `input`; returns the number once it is whole, and begins the next.
    pub(super) fn take(&mut self, input: &mut Bytes) -> Option<u64> {
        while let Some(byte) = input.first().copied() {
            input.advance(1);
            if self.is_empty() {
                self.value = u64::from(byte & 0x3f);
                self.left = 1 << (byte >> 6);
            } else {
                self.value = self.value << 8 | u64::from(byte);
            }
            self.left -= 1;
            if self.left == 0 {
                return Some(self.value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_standard_read_as_written() {
        // RFC 9000, appendix A.1.
        for (bytes, value) in [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ] {
            let mut input = Bytes::copy_from_slice(bytes);
            assert_eq!(Varint::default().take(&mut input), Some(value));
            let (encoded, len) = encode(value);
            assert_eq!(&encoded[..len], bytes);
        }
        // A longer encoding than needed.
        let mut input = Bytes::from_static(&[0x40, 0x25]);
        assert_eq!(Varint::default().take(&mut input), Some(37));
    }

    proptest! {
        #[test]
        fn numbers_come_out_as_they_went_in_wherever_the_bytes_are_cut(
            values in prop::collection::vec((0_u64..END, 0_u32..62), 1..20),
            step in 1_usize..9,
        ) {
            let values: Vec<_> = values.into_iter().map(|(value, less)| value >> less).collect();
            let mut bytes = Vec::new();
            for value in &values {
                let (encoded, len) = encode(*value);
                bytes.extend_from_slice(&encoded[..len]);
            }
            let (mut varint, mut read) = (Varint::default(), Vec::new());
            for piece in bytes.chunks(step) {
                let mut piece = Bytes::copy_from_slice(piece);
                while let Some(value) = varint.take(&mut piece) {
                    read.push(value);
                }
            }
            prop_assert_eq!(read, values);
            prop_assert!(varint.is_empty());
        }
    }
}
