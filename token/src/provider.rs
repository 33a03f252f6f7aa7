//! The cryptography behind tokens: `ring` as a provider for `jsonwebtoken`.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, AlgorithmFamily};

use super::ed25519::Ed25519;
use super::es256::Es256;
use super::hs256::Hs256;
use super::rs256::Rs256;

static PROVIDER: CryptoProvider = CryptoProvider {
    // The relay signs only with its secret; tokens with private keys are signed elsewhere.
    signer_factory: |algorithm, key| match (algorithm, key.family()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac) => Ok(Box::new(Hs256::new(key.as_bytes()))),
        _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
    },
    verifier_factory: |algorithm, key| match (algorithm, key.family()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac) => {
            Ok(Box::new(Hs256::new(key.try_get_as_bytes()?)))
        }
        (Algorithm::RS256, AlgorithmFamily::Rsa) => Ok(Box::new(Rs256::new(key)?)),
        (Algorithm::ES256, AlgorithmFamily::Ec) => {
            Ok(Box::new(Es256::new(key.try_get_as_bytes()?)))
        }
        (Algorithm::EdDSA, AlgorithmFamily::Ed) => {
            Ok(Box::new(Ed25519::new(key.try_get_as_bytes()?)))
        }
        _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
    },
    // Needed only to make JSON Web Keys from private keys, which this crate does not do.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Gives `jsonwebtoken` its cryptography, once per process.
pub(super) fn install_provider() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // A program that embeds this crate may have installed its own, which knows these algorithms too.
        let _ = PROVIDER.install_default();
    });
}
