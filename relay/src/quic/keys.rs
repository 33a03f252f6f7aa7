//! The keys of QUIC, which are made from one secret. All shards have the same, and with a state folder a restarted
//! relay, too: so it can tell a client that its connection is gone (stateless reset, RFC 9000, section 10.3).

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac};

use crate::io::SteeringKey;

/// Keys of QUIC.
#[derive(Clone)]
pub(crate) struct QuicKeys {
    /// Makes the keys of stateless resets, one for each address.
    reset: Arc<hmac::Key>,
    /// Encrypts the tokens with which clients prove their address.
    pub(super) token: Arc<hkdf::Prk>,
    /// Steers packets to their shard.
    steering: SteeringKey,
    /// Makes the last byte of a connection ID, by which the relay knows its own.
    pub(super) check: SteeringKey,
}

impl QuicKeys {
    /// The keys from `secret`, which is random.
    pub(crate) fn of(secret: &[u8; 32]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let key = |purpose: &str| hmac::sign(&secret, purpose.as_bytes());
        let steering = |purpose: &str| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&key(purpose).as_ref()[..16]);
            SteeringKey::new(bytes)
        };
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]);
        Self {
            reset: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key("reset").as_ref())),
            token: Arc::new(salt.extract(key("token").as_ref())),
            steering: steering("steering"),
            check: steering("check"),
        }
    }

    /// Makes the tokens of stateless resets at the address `bound`. Each address has a key of its own: it does not know the
    /// connections of the others, and answers their packets with a reset, which must not be one that ends them (RFC 9000,
    /// section 21.11).
    pub(super) fn reset_at(&self, bound: SocketAddr) -> Arc<hmac::Key> {
        let key = hmac::sign(&self.reset, bound.to_string().as_bytes());
        Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()))
    }

    /// The key by which packets are steered to their shard.
    pub(crate) const fn steering(&self) -> SteeringKey {
        self.steering
    }
}

impl fmt::Debug for QuicKeys {
    /// Shows nothing: keys are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicKeys(..)")
    }
}
