//! Which tokens are accepted, with fixed times and fixed texts.

use aws_lc_rs::hmac;
use tieline_token::{
    Claims, ClaimsError, Expected, Key, KeySet, LEEWAY_SECONDS, SECRET_BYTES_MIN, Scope, issue,
    verify as verify_expecting,
};

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn key() -> Key {
    Key::hs256(SECRET).expect("long enough")
}

fn verify(token: &str, key: &Key, now: u64, issuer: Option<&str>) -> Result<Claims, ClaimsError> {
    let expected = Expected {
        issuer,
        ..Expected::default()
    };
    verify_expecting(token, &KeySet::from(key.clone()), now, &expected)
}

fn claims() -> Claims {
    Claims {
        sub: "ada".to_owned(),
        exp: NOW + 100,
        ..Claims::default()
    }
}

/// A token with raw header and claims, signed as HS256 whatever the header says.
fn forge(header: &str, claims: &str) -> String {
    let message = format!(
        "{}.{}",
        base64(header.as_bytes()),
        base64(claims.as_bytes())
    );
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, SECRET),
        message.as_bytes(),
    );
    format!("{message}.{}", base64(tag.as_ref()))
}

fn base64(bytes: &[u8]) -> String {
    data_encoding::BASE64URL_NOPAD.encode(bytes)
}

fn verify_json(claims: &str) -> Result<Claims, ClaimsError> {
    verify(
        &forge(r#"{"alg":"HS256","typ":"JWT"}"#, claims),
        &key(),
        NOW,
        None,
    )
}

fn is_malformed(outcome: &Result<Claims, ClaimsError>) -> bool {
    matches!(outcome, Err(ClaimsError::Malformed(_)))
}

#[test]
fn an_issued_token_comes_back_whole() {
    let claims = Claims {
        sub: "ada".to_owned(),
        exp: NOW + 1,
        iss: Some("studio".to_owned()),
        nbf: Some(NOW),
        iat: Some(NOW),
        jti: Some("1".to_owned()),
        allowed_dcc: Some(vec!["maya".to_owned()]),
        tunnels: Some(vec!["maya-*".to_owned()]),
        scope: Some(vec!["agent".to_owned(), "caller".to_owned()]),
        aud: None,
        groups: vec!["lighting".to_owned()],
        reach: vec!["farm-*".to_owned()],
        shared: true,
    };
    let token = issue(&claims, &key()).unwrap();
    assert_eq!(verify(&token, &key(), NOW, Some("studio")), Ok(claims));
}

#[test]
fn a_token_made_elsewhere_is_read() {
    // Made with Python's hmac module, without a JWT library.
    let token = concat!(
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.",
        "eyJzdWIiOiJhZGEiLCJleHAiOjE4MDAwMDAxMDAsInNjb3BlIjoiYWdlbnQifQ.",
        "0hVFWoni0BAe36qkNO7eSFPu4-e7g31abJ0_8YZduo4"
    );
    let read = verify(token, &key(), NOW, None).unwrap();
    assert_eq!((read.sub.as_str(), read.exp), ("ada", NOW + 100));
    assert_eq!(read.scope, Some(vec!["agent".to_owned()]));
}

#[test]
fn another_secret_and_a_changed_token_are_refused() {
    let token = issue(&claims(), &key()).unwrap();
    let other = Key::hs256(&[7; 32]).unwrap();
    assert_eq!(
        verify(&token, &other, NOW, None),
        Err(ClaimsError::Signature)
    );

    let (message, tag) = token.rsplit_once('.').unwrap();
    let header = message.split_once('.').unwrap().0;
    let changed = format!(
        "{header}.{}.{tag}",
        base64(br#"{"sub":"eve","exp":99999999999}"#)
    );
    assert_eq!(
        verify(&changed, &key(), NOW, None),
        Err(ClaimsError::Signature)
    );
    assert_eq!(
        verify(&format!("{message}."), &key(), NOW, None),
        Err(ClaimsError::Signature)
    );
}

#[test]
fn other_algorithms_are_refused_even_when_the_signature_fits() {
    let good = r#"{"sub":"ada","exp":1800000100}"#;
    for alg in [
        "none", "None", "HS384", "HS512", "RS256", "ES256", "EdDSA", "hs256", "",
    ] {
        let token = forge(&format!(r#"{{"alg":"{alg}"}}"#), good);
        assert_eq!(
            verify(&token, &key(), NOW, None),
            Err(ClaimsError::Algorithm),
            "{alg}"
        );
    }
    let unsigned = format!(
        "{}.{}.",
        base64(br#"{"alg":"none"}"#),
        base64(good.as_bytes())
    );
    assert_eq!(
        verify(&unsigned, &key(), NOW, None),
        Err(ClaimsError::Algorithm)
    );
    let critical = forge(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, good);
    assert!(is_malformed(&verify(&critical, &key(), NOW, None)));
}

#[test]
fn what_is_no_token_is_malformed() {
    for text in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "\u{1F512}",
        &"x".repeat(20_000),
    ] {
        assert!(is_malformed(&verify(text, &key(), NOW, None)), "{text:.20}");
    }
    for json in [
        "",
        "[]",
        "{}",
        r#"{"sub":"ada"}"#,
        r#"{"exp":1800000100}"#,
        r#"{"sub":"","exp":1800000100}"#,
        r#"{"sub":1,"exp":1800000100}"#,
        r#"{"sub":"ada","exp":"1800000100"}"#,
        r#"{"sub":"ada","exp":1,"exp":1800000100}"#,
        r#"{"sub":"ada","exp":1800000100,"nbf":"never"}"#,
        r#"{"sub":"ada","exp":1800000100,"tunnels":"maya"}"#,
        r#"{"sub":"ada","exp":1800000100,"tunnels":null}"#,
        r#"{"sub":"ada","exp":1800000100,"allowed_dcc":null}"#,
        r#"{"sub":"ada","exp":1800000100,"scope":null}"#,
    ] {
        assert!(is_malformed(&verify_json(json)), "{json}");
    }
}

#[test]
fn expiry_and_start_have_a_leeway() {
    let at = |now| verify(&issue(&claims(), &key()).unwrap(), &key(), now, None);
    let exp = NOW + 100;
    assert!(at(exp).is_ok());
    assert!(at(exp + LEEWAY_SECONDS - 1).is_ok());
    assert_eq!(
        at(exp + LEEWAY_SECONDS),
        Err(ClaimsError::Expired {
            ago_seconds: LEEWAY_SECONDS
        })
    );
    assert_eq!(claims().expires_at_seconds(), exp + LEEWAY_SECONDS);

    let later = Claims {
        nbf: Some(NOW),
        ..claims()
    };
    let at = |now| verify(&issue(&later, &key()).unwrap(), &key(), now, None);
    assert!(at(NOW - LEEWAY_SECONDS).is_ok());
    assert_eq!(
        at(NOW - LEEWAY_SECONDS - 1),
        Err(ClaimsError::NotYet {
            ahead_seconds: LEEWAY_SECONDS + 1
        })
    );
    assert!(matches!(
        at(0),
        Err(ClaimsError::NotYet { ahead_seconds: NOW })
    ));
}

#[test]
fn a_huge_expiry_does_not_overflow() {
    for exp in [
        "18446744073709551615",
        "18446744073709551616",
        "1e300",
        "1800000100.5",
    ] {
        let read = verify_json(&format!(r#"{{"sub":"ada","exp":{exp}}}"#));
        let read = read.unwrap_or_else(|error| panic!("{exp}: {error}"));
        assert!(read.expires_at_seconds() > NOW, "{exp}");
    }
    for exp in ["-1", "-1e300", "0", "0.5"] {
        let read = verify_json(&format!(r#"{{"sub":"ada","exp":{exp}}}"#));
        assert!(matches!(read, Err(ClaimsError::Expired { .. })), "{exp}");
    }
    let huge = Claims {
        nbf: Some(u64::MAX),
        ..claims()
    };
    let token = issue(&huge, &key()).unwrap();
    assert!(matches!(
        verify(&token, &key(), u64::MAX - 1, None),
        Err(ClaimsError::Expired { .. })
    ));
    assert!(matches!(
        verify(&token, &key(), 0, None),
        Err(ClaimsError::NotYet { .. })
    ));
}

#[test]
fn issuer_and_audience_are_checked() {
    let wrong = ClaimsError::Issuer {
        expected: "studio".to_owned(),
    };
    let without = issue(&claims(), &key()).unwrap();
    assert_eq!(
        verify(&without, &key(), NOW, Some("studio")),
        Err(wrong.clone())
    );
    let other = issue(
        &Claims {
            iss: Some("Studio".to_owned()),
            ..claims()
        },
        &key(),
    )
    .unwrap();
    assert_eq!(verify(&other, &key(), NOW, Some("studio")), Err(wrong));
    assert!(verify(&other, &key(), NOW, None).is_ok());
    assert_eq!(
        verify_json(r#"{"sub":"ada","exp":1800000100,"aud":"bank"}"#),
        Err(ClaimsError::Audience)
    );
}

#[test]
fn a_missing_permission_allows_all_and_an_empty_one_nothing() {
    let any = claims();
    assert!(any.allows_dcc("maya") && any.allows_dcc("") && any.allows_tunnel("x"));
    assert!(any.allows_scope(Scope::Agent) && any.allows_scope(Scope::Caller));
    assert!(!any.allows_scope(Scope::Admin));

    let none = Claims {
        allowed_dcc: Some(vec![]),
        tunnels: Some(vec![]),
        scope: Some(vec![]),
        ..claims()
    };
    assert!(!none.allows_dcc("maya") && !none.allows_dcc("") && !none.allows_tunnel("x"));
    assert!(Scope::ALL.iter().all(|scope| !none.allows_scope(*scope)));
}

#[test]
fn a_tunnel_pattern_is_a_glob() {
    let allows = |pattern: &str, name: &str| {
        Claims {
            tunnels: Some(vec![pattern.to_owned()]),
            ..claims()
        }
        .allows_tunnel(name)
    };
    for (pattern, name) in [
        ("maya-1", "maya-1"),
        ("Maya-1", "maya-1"),
        ("maya-*", "maya-"),
        ("maya-*", "maya-1"),
        ("*", ""),
        ("*", "anything"),
        ("*-render-*", "farm-render-7"),
        ("a*b*c", "aXbXbXc"),
        ("**a", "bba"),
    ] {
        assert!(allows(pattern, name), "{pattern} {name}");
    }
    for (pattern, name) in [
        ("maya-1", "maya-12"),
        ("maya-*", "maya"),
        ("maya-*", "xmaya-1"),
        ("", "x"),
        ("a*b*c", "aXbXcX"),
        ("?", "x"),
        ("[a-z]", "b"),
    ] {
        assert!(!allows(pattern, name), "{pattern} {name}");
    }
    // Takes forever if each star retries all stars before it.
    assert!(!allows(&"*a".repeat(2_000), &"a".repeat(63)));
}

#[test]
fn a_scope_may_be_text_or_a_list() {
    for scope in [r#""agent openid""#, r#"["agent","openid"]"#] {
        let read = verify_json(&format!(
            r#"{{"sub":"ada","exp":1800000100,"scope":{scope}}}"#
        ))
        .unwrap();
        assert!(read.allows_scope(Scope::Agent));
        assert!(!read.allows_scope(Scope::Caller));
    }
}

#[test]
fn a_short_secret_is_refused_and_no_secret_is_shown() {
    let short = Key::hs256(&[0; SECRET_BYTES_MIN - 1]);
    assert_eq!(short.err(), Some(ClaimsError::ShortSecret(31)));
    assert_eq!(format!("{:?}", key()), "Key(masked)");
}
