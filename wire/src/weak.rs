//! Weak Ed25519 public keys, whose signatures prove nothing.

use crate::ids::AgentKey;

/// The y coordinates of Ed25519's points of small order (RFC 8032, 5.1: their orders divide the
/// cofactor 8), as libsodium's `ge25519_has_small_order` lists them: little endian, without the sign
/// bit, and with the unreduced encodings of 0 and 1.
const SMALL_ORDER: [[u8; 32]; 7] = [
    coordinate(0x00, 0x00, 0x00),
    coordinate(0x01, 0x00, 0x00),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
    coordinate(0xec, 0xff, 0x7f),
    coordinate(0xed, 0xff, 0x7f),
    coordinate(0xee, 0xff, 0x7f),
];

const fn coordinate(first: u8, between: u8, last: u8) -> [u8; 32] {
    let mut bytes = [between; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

impl AgentKey {
    /// True for a weak key: signatures that fit it can be made without a secret.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        let mut y = *self.as_bytes();
        y[31] &= 0x7f;
        SMALL_ORDER.contains(&y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_small_order_are_weak_in_every_encoding() {
        // p = 2^255 - 19 ends in 0xed; the order of 0 is 4, of 1 it is 1, of p - 1 it is 2.
        for y in [
            coordinate(0, 0, 0),
            coordinate(1, 0, 0),
            coordinate(0xec, 0xff, 0x7f),
            coordinate(0xee, 0xff, 0x7f),
        ] {
            let mut signed = y;
            signed[31] |= 0x80;
            assert!(AgentKey::new(y).is_weak() && AgentKey::new(signed).is_weak());
        }
        assert!(!AgentKey::new(coordinate(2, 0, 0)).is_weak());
        assert!(!AgentKey::new([9; 32]).is_weak());
    }
}
