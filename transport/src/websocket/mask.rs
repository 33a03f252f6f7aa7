//! Masks of frames (RFC 6455, section 5.3): applied in place, with keys that no peer can predict.

use std::cell::RefCell;
use std::io;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 4;

/// Keys drawn by one call of the system's random generator.
const KEYS: usize = 256;

thread_local! {
    /// Random keys that no frame has used yet.
    static DRAWN: RefCell<Vec<[u8; KEY_BYTES]>> = const { RefCell::new(Vec::new()) };
}

/// Masks or unmasks `bytes`, the first of them with the first byte of `key`.
pub(super) fn apply(key: [u8; KEY_BYTES], bytes: &mut [u8]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Rotates `key` so that its first byte masks the byte after the next `count` bytes.
pub(super) fn advance(key: &mut [u8; KEY_BYTES], count: usize) {
    key.rotate_left(count % KEY_BYTES);
}

/// A new key. If a target could predict keys, it could choose the bytes that appear on the network, and a cache between
/// the ends might take them for another protocol (RFC 6455, section 10.3).
///
/// # Errors
/// The system has no random bytes.
pub(super) fn new_key() -> io::Result<[u8; KEY_BYTES]> {
    DRAWN.with_borrow_mut(|keys| {
        if keys.is_empty() {
            let mut random = [0; KEYS * KEY_BYTES];
            if SystemRandom::new().fill(&mut random).is_err() {
                return Err(io::Error::other("no random bytes for a mask"));
            }
            keys.extend(random.as_chunks::<KEY_BYTES>().0);
        }
        Ok(keys.pop().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_the_same_whatever_the_pieces() {
        let plain: Vec<u8> = (0..61).collect();
        let expected: Vec<u8> = (0..61)
            .map(|at: u8| at ^ [1, 2, 3, 200][usize::from(at) % 4])
            .collect();
        for size in 1..=61 {
            let (mut bytes, mut key) = (plain.clone(), [1, 2, 3, 200]);
            for piece in bytes.chunks_mut(size) {
                apply(key, piece);
                advance(&mut key, piece.len());
            }
            assert_eq!(bytes, expected, "pieces of {size}");
        }
    }

    #[test]
    fn keys_differ() {
        let mut keys: Vec<_> = (0..2 * KEYS).map(|_| new_key().unwrap()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert!(keys.len() > 2 * KEYS - 4, "{} different keys", keys.len());
    }
}
