//! Public keys in PEM (RFC 7468): SubjectPublicKeyInfo of an RSA, P-256 or Ed25519 key.

use jsonwebtoken::{Algorithm, DecodingKey};
use rustls_pki_types::pem::{self, PemObject, SectionKind};

use super::error::ClaimsError;
use super::{ed25519, es256, rs256};

/// Longest PEM text that is read, in bytes: an RSA key of 8192 bits has 1.5 KiB.
const PEM_BYTES_MAX: usize = 64 * 1024;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT: u8 = 0x06;

/// Object identifier of RSA keys: 1.2.840.113549.1.1.1 (RFC 3279, 2.3.1).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// Object identifier of elliptic-curve keys: 1.2.840.10045.2.1 (RFC 5480, 2.1.1).
const ELLIPTIC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// Object identifier of the curve P-256: 1.2.840.10045.3.1.7 (RFC 5480, 2.1.1.1).
const P_256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// Object identifier of Ed25519 keys: 1.3.101.112 (RFC 8410, 3).
const EDWARDS_25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Reads the one public key in `text`, and the algorithm that it is for.
pub(super) fn read(text: &[u8]) -> Result<(Algorithm, DecodingKey), ClaimsError> {
    let wrong = |text: &str| ClaimsError::Key(text.to_owned());
    if text.len() > PEM_BYTES_MAX {
        return Err(wrong("longer than 64 KiB"));
    }
    let mut blocks = <(SectionKind, Vec<u8>)>::pem_slice_iter(text);
    let (kind, der) = match blocks.next() {
        Some(Ok(block)) => block,
        Some(Err(pem::Error::Base64Decode(_))) => return Err(wrong("its base 64 is broken")),
        Some(Err(_)) | None => {
            return Err(wrong(
                "no whole block of `-----BEGIN PUBLIC KEY-----`; `openssl pkey -pubout` prints one, also from \
                 an encrypted private key, and `openssl rsa -RSAPublicKey_in -pubout` from `RSA PUBLIC KEY`",
            ));
        }
    };
    match kind {
        SectionKind::PublicKey => {}
        SectionKind::Certificate => {
            return Err(wrong(
                "a certificate; `openssl x509 -pubkey -noout` prints its key",
            ));
        }
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
            return Err(wrong(
                "a private key, which no relay needs; `openssl pkey -pubout` prints its public half",
            ));
        }
        _ => return Err(wrong("a PEM block that is not a `PUBLIC KEY`")),
    }
    if blocks.next().is_some() {
        return Err(wrong(
            "more than one PEM block; a JWKS may hold several keys",
        ));
    }
    public_key(&der).unwrap_or_else(|| Err(wrong("its content is not a SubjectPublicKeyInfo")))
}

/// `None` if `der` is not a SubjectPublicKeyInfo; an error if its key is not supported.
fn public_key(der: &[u8]) -> Option<Result<(Algorithm, DecodingKey), ClaimsError>> {
    let (info, []) = element(der, SEQUENCE)? else {
        return None;
    };
    let (algorithm, rest) = element(info, SEQUENCE)?;
    let ([0, key @ ..], []) = element(rest, BIT_STRING)? else {
        return None;
    };
    let (object, parameters) = element(algorithm, OBJECT)?;
    let read = match object {
        RSA => {
            let (numbers, _) = element(key, SEQUENCE)?;
            let (modulus, rest) = element(numbers, INTEGER)?;
            let (exponent, _) = element(rest, INTEGER)?;
            rs256::key(modulus, exponent).map(|key| (Algorithm::RS256, key))
        }
        ELLIPTIC if element(parameters, OBJECT).is_some_and(|(curve, _)| curve == P_256) => {
            es256::key(key).map(|key| (Algorithm::ES256, key))
        }
        ELLIPTIC => Err(ClaimsError::Key("not on the curve P-256".to_owned())),
        EDWARDS_25519 => ed25519::key(key).map(|key| (Algorithm::EdDSA, key)),
        _ => Err(ClaimsError::Key(
            "neither an RSA nor a P-256 nor an Ed25519 key".to_owned(),
        )),
    };
    Some(read)
}

/// Content of the DER element with `tag`, and the bytes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (len, rest) = match first {
        ..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => {
            let (len, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        }
        // Longer than any supported key.
        _ => return None,
    };
    rest.split_at_checked(len)
}
