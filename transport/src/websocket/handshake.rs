//! Values of the opening handshake (RFC 6455, section 4): no I/O, no headers.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use data_encoding::BASE64;

/// Subprotocol of an agent's link.
pub const SUBPROTOCOL_AGENT: &str = "tieline.v1";

/// Beginning of the subprotocol with which a browser sends a token, since it can set no header: `bearer.<token>`.
pub const SUBPROTOCOL_BEARER: &str = "bearer.";

/// What a server adds to the client's key before it hashes it (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `Sec-WebSocket-Accept` for the client's `Sec-WebSocket-Key`.
#[must_use]
pub fn accept_value(key: &[u8]) -> String {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    BASE64.encode(context.finish().as_ref())
}

/// A new `Sec-WebSocket-Key`.
#[must_use]
pub fn new_key() -> String {
    let mut key = [0; 16];
    // A key without randomness does no harm: it only shows that the server understood the request, and does not answer
    // 101 to anything.
    let _ = SystemRandom::new().fill(&mut key);
    BASE64.encode(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfc() {
        let answer = accept_value(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_has_sixteen_random_bytes() {
        let keys = [new_key(), new_key()];
        assert_ne!(keys[0], keys[1]);
        for key in keys {
            assert_eq!(BASE64.decode(key.as_bytes()).unwrap().len(), 16);
        }
    }
}
