//! The audience of a token, and the limits on its size.

use aws_lc_rs::hmac;
use tieline_token::{
    CLAIM_BYTES_MAX, CLAIM_ENTRIES_MAX, Claims, ClaimsError, Expected, Key, issue, verify,
};

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn key() -> Key {
    Key::hs256(SECRET).expect("long enough")
}

fn claims() -> Claims {
    Claims {
        sub: "ada".to_owned(),
        exp: NOW + 100,
        ..Claims::default()
    }
}

/// A signed token with raw claims.
fn forge(claims: &str) -> String {
    let [header, claims] = [r#"{"alg":"HS256"}"#, claims]
        .map(|part| data_encoding::BASE64URL_NOPAD.encode(part.as_bytes()));
    let message = format!("{header}.{claims}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let tag = hmac::sign(&key, message.as_bytes());
    format!(
        "{message}.{}",
        data_encoding::BASE64URL_NOPAD.encode(tag.as_ref())
    )
}

fn verify_json(claims: &str) -> Result<Claims, ClaimsError> {
    verify(&forge(claims), &key().into(), NOW, &Expected::default())
}

fn is_malformed(outcome: &Result<Claims, ClaimsError>) -> bool {
    matches!(outcome, Err(ClaimsError::Malformed(_)))
}

#[test]
fn a_relay_with_a_name_wants_to_be_meant() {
    let ours = ["relay-1".to_owned(), "relay".to_owned()];
    let expected = Expected {
        audience: &ours,
        ..Expected::default()
    };
    let at = |audience: &str| {
        let json = format!(r#"{{"sub":"ada","exp":1800000100{audience}}}"#);
        let token = forge(&json);
        verify(&token, &key().into(), NOW, &expected)
    };
    for good in [r#","aud":"relay""#, r#","aud":["bank","relay-1"]"#] {
        assert!(at(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        r#","aud":"Relay""#,
        r#","aud":[]"#,
        r#","aud":["bank"]"#,
    ] {
        assert_eq!(at(bad), Err(ClaimsError::Audience), "{bad}");
    }
    assert!(is_malformed(&at(r#","aud":null"#)));
    assert_eq!(
        verify_json(r#"{"sub":"ada","exp":1800000100,"aud":[]}"#),
        Err(ClaimsError::Audience)
    );

    for audience in [&ours[..1], &ours] {
        let meant = Claims {
            aud: Some(audience.to_vec()),
            ..claims()
        };
        let token = issue(&meant, &key()).unwrap();
        let read = verify(&token, &key().into(), NOW, &expected);
        assert_eq!(read, Ok(meant));
    }
}

#[test]
fn no_claim_is_larger_than_can_be_kept_beside_a_tunnel() {
    let long = "x".repeat(CLAIM_BYTES_MAX + 1);
    let many = vec!["x"; CLAIM_ENTRIES_MAX + 1];
    let many = format!("{many:?}");
    for claim in ["groups", "reach", "tunnels", "allowed_dcc", "scope", "aud"] {
        for value in [&many, &format!("[{long:?}]")] {
            let json = format!(r#"{{"sub":"ada","exp":1800000100,{claim:?}:{value}}}"#);
            assert!(is_malformed(&verify_json(&json)), "{claim}");
        }
    }
    for json in [
        format!(r#"{{"sub":{long:?},"exp":1800000100}}"#),
        format!(r#"{{"sub":"ada","exp":1800000100,"jti":{long:?}}}"#),
        r#"{"sub":"ada","exp":1800000100,"groups":[""]}"#.to_owned(),
        r#"{"sub":"ada","exp":1800000100,"groups":"lighting"}"#.to_owned(),
        r#"{"sub":"ada","exp":1800000100,"groups":null}"#.to_owned(),
        r#"{"sub":"ada","exp":1800000100,"shared":"yes"}"#.to_owned(),
    ] {
        assert!(is_malformed(&verify_json(&json)), "{json:.60}");
    }
    let issued = issue(
        &Claims {
            groups: vec![long],
            ..claims()
        },
        &key(),
    );
    assert!(matches!(issued, Err(ClaimsError::Malformed(_))));
}
