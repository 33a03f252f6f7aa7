//! The cryptography behind tokens: `ring` as a provider for `jsonwebtoken`.

use std::sync::Once;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

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
            PublicKey::boxed(Algorithm::ES256, &ECDSA_P256_SHA256_FIXED, key)
        }
        (Algorithm::EdDSA, AlgorithmFamily::Ed) => {
            PublicKey::boxed(Algorithm::EdDSA, &ED25519, key)
        }
        _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
    },
    // Needed only to make JSON Web Keys from private keys, which this crate does not do.
    key_utils: KeyUtils::new_unimplemented(),
};

/// A public key in the form that `ring` takes.
struct PublicKey {
    algorithm: Algorithm,
    key: UnparsedPublicKey<Vec<u8>>,
}

impl PublicKey {
    fn boxed(
        algorithm: Algorithm,
        verifies: &'static dyn VerificationAlgorithm,
        key: &DecodingKey,
    ) -> Result<Box<dyn JwtVerifier>, Error> {
        let key = UnparsedPublicKey::new(verifies, key.try_get_as_bytes()?.to_vec());
        Ok(Box::new(Self { algorithm, key }))
    }
}

impl signature::Verifier<Vec<u8>> for PublicKey {
    fn verify(&self, message: &[u8], tag: &Vec<u8>) -> Result<(), signature::Error> {
        let outcome = self.key.verify(message, tag);
        outcome.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for PublicKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// Gives `jsonwebtoken` its cryptography, once per process.
pub(super) fn install_provider() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // A program that embeds this crate may have installed its own, which knows these algorithms too.
        let _ = PROVIDER.install_default();
    });
}
