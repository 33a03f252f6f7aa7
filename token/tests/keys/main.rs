//! Which key verifies which token: vectors of the RFCs, key files, key sets, and tokens that try to
//! choose their own key.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod panics;

use aws_lc_rs::{hmac, signature};
use data_encoding::BASE64URL_NOPAD;
use tieline_token::{
    Claims, ClaimsError, Expected, JWKS_BYTES_MAX, JWKS_KEYS_MAX, Jwks, Key, KeySet, issue, verify,
};

const NOW: u64 = 1_800_000_000;

/// Made with `openssl genrsa 2048`; the tokens below are made with `openssl dgst` and `pkeyutl`.
const RSA_PEM: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAqo2UNt/zHfPUjLIWwp1u
VEIOOI0Xoh9p81Ou+Z9P67hhdGdFVCz6HSFrJYDYy6/+8R1m2a6vX/oHE12708wh
YRp3PsZv8uuQtljzJqUepXHvCpboR/hi6zAZWmugIlWqYxY3rY7BvN2qd5Aitis3
1IklC1x9sZ81aYr2bgi69hKeE4ZXJlRieIzDA4HndzxTN2eSBzsf1kilER7ndwgC
5j/uI+ykjpdo4b8CUJvHtUN7rssxg1efDXyI42kl5/eWFLcze2M0PrST5v2ELYiV
2adSg1Px27MI7nJVo/xc/BO0XveII5THgXfJbIRdzacca7J8+1WuRU5fE5fh8kff
rwIDAQAB
-----END PUBLIC KEY-----
";
const EC_PEM: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEsGEcSbqDJkFtwYN46JnxxMb8/SRL
FdhIqCW2byL5bRUUt3V3zXC6DeLoXr+n58qc+DpxTP5764dTEtR9EwGKOw==
-----END PUBLIC KEY-----
";
const ED_PEM: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAPQqW0JgBq+sXC1fs/8FHqUq1X5XwEvpA3Gls7qHdoUg=
-----END PUBLIC KEY-----
";
const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEiLCJleHAiOjE4MDAwMDAxMDB9.nkuH3RYwqbAF-dh4lGkXddrEFpWvLA4NT8QMDlZouYilbfZ8l9PELeeI8GaIknfrSLwCmReVWMZlWAI4crOTdnm4WOA3ZA3jPUYJ5RY7nLFlQDlwjpsztYknjnX6S-bsIXVYUTkqRALFd6vY0Q4TlAlFQouDyR0t67r_9ETRYugSDoQDvzG395-q8IKtGzgOVbcZ6m4eeknrs_Y-5aT985Gltan5h96LnMdlnytUyEWiw656RxxW6fubz_5IAoSjtAtJWI6h1wIFCbAYxqxOETD70IfGCQr9uxOTXAIm-n7GkLB6bY8xJ0uhT7eiizQFBXfESRdmmpwnYCVzTfBKig";
const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZGEiLCJleHAiOjE4MDAwMDAxMDB9.0FhYyl5lu4PACp3cv9pBOufqxrVFLnj8i72s6NNf9Z4sHT6uPJ_tk4-hcf71JCrQTKf5j0eWOu5tuVpsAo4StA";
const EDDSA: &str = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEiLCJleHAiOjE4MDAwMDAxMDB9.a-tC53HMIO4sG7Y8oMI93xqVD0xZ_I0nZMezvLer0iG2z1GKRwELw5r4LSM8Bmxqiu39Nebe6p0QNaKtptUfBA";

/// Keys and tokens of RFC 7515, A.1 to A.3, and RFC 8037, A.4.
const RFC_KEYS: &str = r#"{"keys":[
{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"},
{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"},
{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const RFC_PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

fn set(keys: &str) -> KeySet {
    let read = Jwks::read(keys.as_bytes()).unwrap();
    assert_eq!(read.skipped, [], "{keys}");
    read.keys
}

fn pem(text: &str) -> Key {
    Key::from_pem(text.as_bytes()).unwrap()
}

fn check(token: &str, keys: &KeySet) -> Result<Claims, ClaimsError> {
    verify(token, keys, NOW, &Expected::default())
}

/// The first two parts of a token.
fn message(header: &str, claims: &str) -> String {
    let [header, claims] = [header, claims].map(|part| BASE64URL_NOPAD.encode(part.as_bytes()));
    format!("{header}.{claims}")
}

/// A token that is signed as HS256, whatever its header says.
fn with_secret(secret: &[u8], header: &str) -> String {
    let message = message(header, r#"{"sub":"ada","exp":1800000100}"#);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))
}

#[test]
fn the_vectors_of_the_rfcs_are_verified() {
    let vectors = [
        format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{RFC_PAYLOAD}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
        format!("eyJhbGciOiJSUzI1NiJ9.{RFC_PAYLOAD}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"),
        format!("eyJhbGciOiJFUzI1NiJ9.{RFC_PAYLOAD}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"),
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg".to_owned(),
    ];
    let keys = set(RFC_KEYS);
    for vector in &vectors {
        // Not tokens for a relay, as they have no `sub`; claims are checked after the signature.
        let outcome = check(vector, &keys);
        assert!(
            matches!(outcome, Err(ClaimsError::Malformed(_))),
            "{outcome:?}"
        );
        let (message, tag) = vector.rsplit_once('.').unwrap();
        let mut tag = BASE64URL_NOPAD.decode(tag.as_bytes()).unwrap();
        tag[7] ^= 1;
        let changed = format!("{message}.{}", BASE64URL_NOPAD.encode(&tag));
        assert_eq!(check(&changed, &keys), Err(ClaimsError::Signature));
    }
}

#[test]
fn each_kind_of_key_in_a_file_verifies_its_own_tokens_only() {
    let keys = [
        ("RS256", RSA_PEM, RS256),
        ("ES256", EC_PEM, ES256),
        ("EdDSA", ED_PEM, EDDSA),
    ];
    for (algorithm, text, _) in keys {
        let key = pem(text);
        assert_eq!(key.algorithm(), algorithm);
        for (other, _, token) in keys {
            let outcome = check(token, &key.clone().into()).map(|claims| claims.sub);
            let wanted = if other == algorithm {
                Ok("ada".to_owned())
            } else {
                Err(ClaimsError::Algorithm)
            };
            assert_eq!(outcome, wanted, "{other} with a key for {algorithm}");
        }
        let issued = issue(&Claims::default(), &key);
        assert!(issued.is_err(), "{algorithm}");
    }
    let with_breaks = ED_PEM.replace('\n', "\r\n");
    assert!(Key::from_pem(format!("a comment\n{with_breaks}").as_bytes()).is_ok());
}

#[test]
fn a_token_cannot_choose_how_it_is_checked() {
    let der = |text: &str| {
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        data_encoding::BASE64.decode(body.as_bytes()).unwrap()
    };
    for text in [RSA_PEM, EC_PEM, ED_PEM] {
        let keys = KeySet::from(pem(text));
        // Public data of a key, used as if it were a secret.
        for secret in [text.as_bytes(), text.trim_end().as_bytes(), &der(text)] {
            for header in [
                r#"{"alg":"HS256"}"#,
                r#"{"alg":"HS256","kid":"x"}"#,
                r#"{"alg":"HS384"}"#,
            ] {
                let outcome = check(&with_secret(secret, header), &keys);
                assert_eq!(outcome, Err(ClaimsError::Algorithm), "{header}");
            }
            for alg in ["RS256", "ES256", "EdDSA"] {
                let token = with_secret(secret, &format!(r#"{{"alg":"{alg}"}}"#));
                assert!(check(&token, &keys).is_err(), "{alg}");
            }
        }
        for alg in [
            "none", "None", "", "RS384", "RS512", "PS256", "ES384", "ES256K", "Ed25519",
        ] {
            let token = message(
                &format!(r#"{{"alg":"{alg}"}}"#),
                r#"{"sub":"ada","exp":1800000100}"#,
            );
            for tag in ["", "AAAA"] {
                let outcome = check(&format!("{token}.{tag}"), &keys);
                assert_eq!(outcome, Err(ClaimsError::Algorithm), "{alg}");
            }
        }
    }
    // A token can neither bring its own key nor point at one.
    let own = r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},"jku":"http://evil.example/"}"#;
    let keys = KeySet::from(Key::hs256(&[7; 32]).unwrap());
    assert_eq!(
        check(&with_secret(&[0; 32], own), &keys),
        Err(ClaimsError::Signature)
    );
    // An operator who configures a public key as a secret would publish the secret.
    for text in [RSA_PEM, EC_PEM, ED_PEM] {
        assert!(matches!(
            Key::hs256(text.as_bytes()),
            Err(ClaimsError::Key(_))
        ));
    }
}

#[test]
fn a_signature_of_zeros_verifies_nothing() {
    for (text, token, bytes) in [
        (EC_PEM, ES256, 64),
        (ED_PEM, EDDSA, 64),
        (RSA_PEM, RS256, 256),
    ] {
        let (message, _) = token.rsplit_once('.').unwrap();
        for tag in [vec![0; bytes], vec![]] {
            let token = format!("{message}.{}", BASE64URL_NOPAD.encode(&tag));
            let outcome = check(&token, &pem(text).into());
            assert_eq!(outcome, Err(ClaimsError::Signature));
        }
    }
}

#[test]
fn what_is_no_public_key_is_named() {
    let small = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDb2u+DnUhoCeVQ2rXV18R0+bHY
2L5q/gqXNwU9Aje2g51mC3jaX8rdOVZz0ksU1vu/Ps/BdOwYKWNESyCo3+6nzYIi
I34Yd26EUVRMBefNIOKJBy2hNgixA9iBKvA6rDuov98+Ex30kn+gxw3WrupIlXWU
8FjvtwQf87SLmIx+hQIDAQAB
-----END PUBLIC KEY-----";
    let p_384 = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEH2UDu+G0AZOvZRhauaIRgY1yvOiyO6VG
0lFptyaa/uJKba83vbFWAKJxwkiqHRhvQ2BTDUZfn1Prbl6p+qJiGiOcVdy4a7HE
CYgoTUCVHmiSbCtzpblVZMqEH0Jyzjt3
-----END PUBLIC KEY-----";
    let ed448 = "-----BEGIN PUBLIC KEY-----
MEMwBQYDK2VxAzoAEpuFurDk7UFCd6OBriB1y1ABYoDl6uzNcsQ4vgBJdgAYlbeA
mWugK5wCTQA8x21k5MHjaU+K6AkA
-----END PUBLIC KEY-----";
    let two = format!("{EC_PEM}{ED_PEM}");
    for (text, wanted) in [
        ("", "no whole block"),
        ("ssh-ed25519 AAAA", "no whole block"),
        (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END CERTIFICATE-----",
            "no whole block",
        ),
        (
            "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
            "openssl x509",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----",
            "private key",
        ),
        (
            "-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----",
            "private key",
        ),
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----",
            "openssl pkey -pubout",
        ),
        (
            "-----BEGIN RSA PUBLIC KEY-----\n-----END RSA PUBLIC KEY-----",
            "openssl rsa -RSAPublicKey_in",
        ),
        (
            "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----",
            "base 64",
        ),
        (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
            "SubjectPublicKeyInfo",
        ),
        (&ED_PEM.replace("oUg=", "oQ=="), "SubjectPublicKeyInfo"),
        (small, "1024 bits"),
        (p_384, "P-256"),
        (ed448, "nor an Ed25519 key"),
        (&two, "more than one"),
    ] {
        let error = Key::from_pem(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn a_key_set_gives_what_can_be_used_and_says_why_not_the_rest() {
    let ed = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;
    let ec = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU""#;
    for (key, wanted) in [
        (format!(r#"{{{ed},"use":"enc"}}"#), "its use is \"enc\""),
        (format!(r#"{{{ed},"key_ops":["sign"]}}"#), "`verify`"),
        (format!(r#"{{{ed},"alg":"ES256"}}"#), "its alg is \"ES256\""),
        (format!(r#"{{{ed},"d":"AA"}}"#), "a private key"),
        (format!(r#"{{{ec},"y":"AA"}}"#), "32 bytes"),
        (format!("{{{ec}}}"), "it has no y"),
        (
            r#"{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}"#.into(),
            "its crv is \"P-384\"",
        ),
        (
            r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#.into(),
            "its crv is \"X25519\"",
        ),
        (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#.into(), "17 bits"),
        (
            r#"{"kty":"RSA","n":"?","e":"AQAB"}"#.into(),
            "its n is not base 64",
        ),
        (r#"{"kty":"oct","k":"AAAA"}"#.into(), "too short"),
        (
            r#"{"kty":"AKP","alg":"ML-DSA-44"}"#.into(),
            "its kty is \"AKP\"",
        ),
        ("{}".into(), "not of the form"),
        ("7".into(), "not of the form"),
        (r#"{"kty":"OKP","kid":7}"#.into(), "not of the form"),
    ] {
        let read = Jwks::read(format!(r#"{{"keys":[{{{ed}}},{key}]}}"#).as_bytes()).unwrap();
        assert_eq!((read.keys.len(), read.skipped.len()), (1, 1), "{key}");
        let message = read.skipped[0].to_string();
        assert!(
            message.starts_with("key 2: ") && message.contains(wanted),
            "{key}: {message}"
        );
    }
    let usable = format!(
        r#"{{"keys":[{{{ed},"use":"sig","alg":"EdDSA","key_ops":["verify"],"x5c":[]}},
        {{{ed},"alg":"Ed25519"}}],"more":1}}"#
    );
    assert_eq!(set(&usable).len(), 2);
    let many = vec!["{}"; JWKS_KEYS_MAX + 2].join(",");
    let read = Jwks::read(format!(r#"{{"keys":[{many}]}}"#).as_bytes()).unwrap();
    assert_eq!(read.skipped.len(), JWKS_KEYS_MAX + 1);
    let long = " ".repeat(JWKS_BYTES_MAX) + r#"{"keys":[]}"#;
    for bad in ["", "[]", "{}", r#"{"keys":{}}"#, &long] {
        assert!(Jwks::read(bad.as_bytes()).is_err(), "{bad:.20}");
    }
}

/// An Ed25519 key pair, and its entry in a key set.
fn signer(seed: u8) -> (signature::Ed25519KeyPair, String) {
    let pair = signature::Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let public = signature::KeyPair::public_key(&pair).as_ref();
    let x = BASE64URL_NOPAD.encode(public);
    (pair, format!(r#""kty":"OKP","crv":"Ed25519","x":"{x}""#))
}

fn signed(pair: &signature::Ed25519KeyPair, header: &str) -> String {
    let message = message(header, r#"{"sub":"ada","exp":1800000100}"#);
    let tag = pair.sign(message.as_bytes());
    format!("{message}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))
}

#[test]
fn a_key_is_found_by_its_name_or_else_by_trying() {
    let ((one, one_key), (two, two_key)) = (signer(1), signer(2));
    let keys = set(&format!(
        r#"{{"keys":[{{{one_key},"kid":"one"}},{{{two_key},"kid":"two"}}]}}"#
    ));
    let named = |id: &str| format!(r#"{{"alg":"EdDSA","kid":"{id}"}}"#);
    assert!(check(&signed(&one, &named("one")), &keys).is_ok());
    assert!(check(&signed(&two, &named("two")), &keys).is_ok());
    assert!(check(&signed(&two, r#"{"alg":"EdDSA"}"#), &keys).is_ok());
    assert_eq!(
        check(&signed(&one, &named("two")), &keys),
        Err(ClaimsError::Signature)
    );
    assert_eq!(
        check(&signed(&one, &named("three")), &keys),
        Err(ClaimsError::UnknownKey)
    );
    // A key from a file has no name, so the name that a token gives it does not matter.
    let file = set(&format!(r#"{{"keys":[{{{one_key}}}]}}"#));
    assert!(check(&signed(&one, &named("any")), &file).is_ok());
    assert_eq!(
        check(&signed(&two, &named("any")), &file),
        Err(ClaimsError::Signature)
    );
    let mut both = file;
    both.extend(keys.clone());
    assert!(check(&signed(&one, &named("three")), &both).is_ok());
    assert_eq!(
        check(&signed(&two, &named("three")), &both),
        Err(ClaimsError::UnknownKey)
    );
    assert_eq!(
        check(&signed(&one, r#"{"alg":"EdDSA"}"#), &KeySet::default()),
        Err(ClaimsError::Algorithm)
    );
}

#[test]
fn a_rotation_tells_old_keys_from_replaced_ones() {
    let ((_, one), (_, two), (_, three)) = (signer(1), signer(2), signer(3));
    let old = set(&format!(
        r#"{{"keys":[{{{one},"kid":"one"}},{{{two},"kid":"two"}},{{{two}}}]}}"#
    ));
    let left = |newer: &str| old.without(&set(newer)).len();
    assert_eq!(left(r#"{"keys":[]}"#), 3);
    assert_eq!(left(&format!(r#"{{"keys":[{{{one},"kid":"1"}}]}}"#)), 2);
    assert_eq!(left(&format!(r#"{{"keys":[{{{three},"kid":"one"}}]}}"#)), 2);
    assert_eq!(left(&format!(r#"{{"keys":[{{{two}}}]}}"#)), 1);
}
