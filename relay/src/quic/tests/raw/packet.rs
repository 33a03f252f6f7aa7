//! Packets of QUIC as bytes: numbers, protection, and the fields that come one after another (RFC 9000, RFC 9001).

use rustls::quic::{DirectionalKeys, HeaderProtectionKey};

/// Bytes of a packet's number, always the most there may be.
const NUMBER_BYTES: usize = 4;

/// Bytes of the encrypted payload from which the mask of a header is made.
const SAMPLE_BYTES: usize = 16;

/// The bit of a short header that turns with each update of the keys (RFC 9001, section 6).
pub(super) const KEY_PHASE: u8 = 4;

/// Bytes that encryption adds.
pub(super) const TAG_BYTES: usize = 16;

/// A number of one to eight bytes.
pub(in crate::quic::tests) fn varint(value: u64) -> Vec<u8> {
    let (len, mark) = match value {
        0..0x40 => (1, 0),
        0x40..0x4000 => (2, 0x40),
        0x4000..0x4000_0000 => (4, 0x80),
        _ => (8, 0xc0),
    };
    let mut bytes = value.to_be_bytes()[8 - len..].to_vec();
    bytes[0] |= mark;
    bytes
}

/// Fields that are still to be read. What the relay sends is well-formed, so everything else panics.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    pub(super) fn number(&mut self) -> u64 {
        let first = self.byte();
        let rest = self.take((1 << (first >> 6)) - 1);
        let start = u64::from(first & 0x3f);
        rest.iter()
            .fold(start, |it, byte| it << 8 | u64::from(*byte))
    }

    pub(super) fn len(&mut self) -> usize {
        usize::try_from(self.number()).unwrap()
    }

    /// An ID behind its length.
    pub(super) fn id(&mut self) -> &'a [u8] {
        let len = self.byte();
        self.take(len.into())
    }
}

/// Length of a packet with a long or short `header`, whose length field is left out of it, and a payload of `len` bytes.
pub(super) fn whole_len(header: &[u8], len: usize) -> usize {
    let length_field = usize::from(header[0] >> 7) * 2;
    header.len() + length_field + NUMBER_BYTES + len + TAG_BYTES
}

/// The packet with `header` up to its length field, which is added to long ones, and `payload`.
pub(super) fn seal(
    keys: &DirectionalKeys,
    number: u64,
    mut header: Vec<u8>,
    mut payload: Vec<u8>,
) -> Vec<u8> {
    // Both bits say that the number has four bytes.
    header[0] |= 3;
    if header[0] & 0x80 != 0 {
        let rest = u16::try_from(NUMBER_BYTES + payload.len() + TAG_BYTES).unwrap();
        header.extend((0x4000 | rest).to_be_bytes());
    }
    let number_at = header.len();
    header.extend(u32::try_from(number).unwrap().to_be_bytes());
    let sealed = keys.packet.encrypt_in_place(number, &header, &mut payload);
    let mut packet = [&header[..], &payload, sealed.unwrap().as_ref()].concat();
    let (head, rest) = packet.split_at_mut(number_at + NUMBER_BYTES);
    let (first, head) = head.split_first_mut().unwrap();
    let number = &mut head[number_at - 1..];
    keys.header
        .encrypt_in_place(&rest[..SAMPLE_BYTES], first, number)
        .unwrap();
    packet
}

/// Takes the mask off the header of `packet`, whose number is at `number_at` and probably `expected`; returns the number
/// and the length of the header, or `None` if the packet is too short.
pub(super) fn unmask(
    key: &dyn HeaderProtectionKey,
    packet: &mut [u8],
    number_at: usize,
    expected: u64,
) -> Option<(u64, usize)> {
    if packet.len() < number_at + NUMBER_BYTES + SAMPLE_BYTES {
        return None;
    }
    let (head, rest) = packet.split_at_mut(number_at + NUMBER_BYTES);
    let (first, head) = head.split_first_mut()?;
    let field = &mut head[number_at - 1..];
    let sample = &rest[..SAMPLE_BYTES];
    key.decrypt_in_place(sample, first, field).ok()?;
    let len = usize::from(*first & 3) + 1;
    Some((expand(&field[..len], expected), number_at + len))
}

/// The number that ends with `short`, and is nearest to `expected` (RFC 9000, appendix A.3).
fn expand(short: &[u8], expected: u64) -> u64 {
    let window = 1_u64 << (8 * short.len());
    let end = short.iter().fold(0, |it, byte| it << 8 | u64::from(*byte));
    let near = expected & !(window - 1) | end;
    if near + window / 2 <= expected {
        near + window
    } else if near > expected + window / 2 && near >= window {
        near - window
    } else {
        near
    }
}
