//! No key file, key set or token makes a reader panic.

use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;
use tieline_token::{Jwks, Key};

use super::{EC_PEM, ED_PEM, EDDSA, ES256, RFC_KEYS, RS256, RSA_PEM, check, set};

proptest! {
    #[test]
    fn no_key_file_makes_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Key::from_pem(&bytes);
        let _ = Jwks::read(&bytes);
        let body = data_encoding::BASE64.encode(&bytes);
        let text = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
        let _ = Key::from_pem(text.as_bytes());
    }

    #[test]
    fn no_change_to_a_key_file_makes_the_reader_panic(
        text in prop::sample::select(&[RSA_PEM, EC_PEM, ED_PEM][..]),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let mut der = data_encoding::BASE64.decode(body.as_bytes()).expect("a valid PEM constant");
        let at = at.index(der.len());
        der[at] = byte;
        der.truncate(cut.index(der.len()) + 1);
        let body = data_encoding::BASE64.encode(&der);
        let text = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
        if let Ok(key) = Key::from_pem(text.as_bytes()) {
            for token in [RS256, ES256, EDDSA] {
                let _ = check(token, &key.clone().into());
            }
        }
    }

    #[test]
    fn no_key_in_a_set_makes_the_reader_or_a_check_panic(
        kty in prop::sample::select(&["RSA", "EC", "OKP", "oct", "x"][..]),
        crv in prop::sample::select(&["P-256", "Ed25519", ""][..]),
        values in prop::collection::vec("[A-Za-z0-9_=?-]{0,90}", 5),
    ) {
        let [n, e, x, y, k] = &values[..] else { unreachable!("the strategy makes five values") };
        let text = format!(
            r#"{{"keys":[{{"kty":"{kty}","crv":"{crv}","n":"{n}","e":"{e}","x":"{x}","y":"{y}","k":"{k}"}}]}}"#
        );
        let read = Jwks::read(text.as_bytes()).expect("a key set");
        for token in [RS256, ES256, EDDSA] {
            let _ = check(token, &read.keys);
        }
    }

    #[test]
    fn no_token_makes_the_check_panic(token in "[A-Za-z0-9_.-]{0,120}", header in "\\PC{0,60}") {
        let keys = set(RFC_KEYS);
        let _ = check(&token, &keys);
        let _ = check(&format!("{}.{token}", BASE64URL_NOPAD.encode(header.as_bytes())), &keys);
    }
}
