//! Credentials in every spelling and place, and texts that only resemble credentials.
//! Long because each spelling that some server decodes stands here.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use aws_lc_rs::hmac;
use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL_NOPAD};
use proptest::prelude::*;
use tieline_token::Key;

use super::search::WORK_MAX;
use super::*;
use crate::auth::{OwnTokens, Snapshot};
use crate::config::{
    Auth, Config, HttpUrl, JwksSource, JwtAuth, Secret, TokenHash, TokensAuth, read_tokens,
};

const NOW: u64 = 1_800_000_000;
const SECRET: [u8; 32] = [7; 32];
const MADE: &str = "tieline_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const BY_HAND: &str = "s3cret.of-ada~1";
const WITH_SLASH: &str = "4f/9Q+zz.kT=";
const LOWER: &str = "0123456789abcdef0123456789abcdef";
const BASE64_SLASH: &str = "Zm9vYmFyYmF6/cXV4eHl6enk0NTY3ODkwMTIzNDU2Nz4=";
const ALL_MARKS: &str = "q1w/e2r+t3.y4-u5_i6~o7p";
const ADMIN_NAME: &str = "Adm1n-Token-Of-A-Studio";
const ADMIN: &str = "Adm1n;token&with=odd/marks!";

/// A search at a relay whose token file has the static tokens above.
fn listed() -> Search {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    let tokens = [MADE, BY_HAND, WITH_SLASH, LOWER, BASE64_SLASH, ALL_MARKS];
    let entries = tokens.map(|token| {
        let hash = TokenHash::of(token);
        format!("[[token]]\nsub = \"ada\"\nhash = \"{hash}\"\n")
    });
    fs::write(&path, entries.concat()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let table = read_tokens(&path).unwrap();
    knowing(Auth::Tokens(TokensAuth { file: None, table }))
}

/// A search at a relay with signed tokens and the secret above.
fn signed() -> Search {
    knowing(Auth::Jwt(JwtAuth {
        keys: Key::hs256(&SECRET).unwrap().into(),
        ..JwtAuth::default()
    }))
}

/// A search at a relay with the operator token above, which cannot tell tokens of agents from other texts.
fn operated() -> Search {
    knowing(Auth::Open { anywhere: false })
}

fn knowing(auth: Auth) -> Search {
    let config = Config {
        auth,
        admin_token: Some(Secret::new(ADMIN.to_owned())),
        ..Config::default()
    };
    Search::new(OwnTokens::of(&Snapshot::of(&config), NOW).unwrap())
}

fn jwt(header: &str, secret: &[u8], exp: u64) -> String {
    let payload = format!(r#"{{"sub":"ada","exp":{exp}}}"#);
    let text = [header, &payload].map(|part| BASE64URL_NOPAD.encode(part.as_bytes()));
    let text = text.join(".");
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, text.as_bytes());
    format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
}

fn jwts() -> Vec<String> {
    let plain = r#"{"typ":"JWT","alg":"HS256"}"#;
    vec![
        jwt(plain, &SECRET, NOW + 60),
        jwt(plain, &SECRET, 1),
        jwt("  {\"alg\":\"HS256\"}", &SECRET, NOW + 60),
        jwt("\n\t{ \"alg\" : \"HS256\" }", &SECRET, NOW + 60),
        jwt("{\r\n\"alg\":\"HS256\"}", &SECRET, NOW + 60),
    ]
}

/// The fields of a request that remain after the search.
fn left(search: &Search, lines: &[(&'static str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    from_fields(search, &mut headers);
    let all = headers.iter();
    all.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect()
}

fn escaped(text: &[u8], is_escaped: impl Fn(u8) -> bool) -> Vec<u8> {
    let escape = |byte: &u8| match is_escaped(*byte) {
        true => format!("%{byte:02x}").into_bytes(),
        false => vec![*byte],
    };
    text.iter().flat_map(escape).collect()
}

/// A UTF-16 text with a byte order mark, big-endian or little-endian.
fn wide(text: &str, is_big: bool) -> Vec<u8> {
    let units = ['\u{feff}'].into_iter().chain(text.chars());
    let pair = |c| match is_big {
        true => (c as u16).to_be_bytes(),
        false => (c as u16).to_le_bytes(),
    };
    units.flat_map(pair).collect()
}

/// `Basic` values in spellings that some servers decode.
fn basics(token: &str) -> Vec<Vec<u8>> {
    let pairs: [Vec<u8>; 8] = [
        format!("ada:{token}").into(),
        format!("{token}:").into(),
        format!(":{token}").into(),
        [b"\xff\xfe\xe9:", token.as_bytes()].concat(),
        wide(&format!("ada:{token}"), false),
        wide(&format!("ada:{token}"), true),
        token.into(),
        escaped(format!("ada:{token}").as_bytes(), |byte| {
            !byte.is_ascii_alphabetic()
        }),
    ];
    let spell = |pair: &Vec<u8>| {
        let padded = BASE64.encode(pair);
        let mut loose = BASE64_NOPAD.encode(pair);
        // If the length is not a multiple of 3, the last character has unused bits.
        if !pair.len().is_multiple_of(3) {
            let last = loose.pop().unwrap();
            loose.push((last as u8 + 1) as char);
        }
        let (start, end) = padded.split_at(7);
        [
            format!("Basic {padded}"),
            format!("basic\t {loose}"),
            format!("Basic {}", BASE64URL_NOPAD.encode(pair)),
            format!("Basic {start} \t{end}"),
            format!("Basic {padded}===="),
            padded.clone(),
            format!("\"{padded}\""),
        ]
    };
    let all = pairs.iter().flat_map(spell);
    all.map(String::into_bytes).collect()
}

/// A token alone, in the encodings of URLs and cookies.
fn escapes(token: &str) -> Vec<Vec<u8>> {
    let once = escaped(token.as_bytes(), |byte| !byte.is_ascii_alphanumeric());
    let all = escaped(token.as_bytes(), |_| true);
    let twice = escaped(&once, |byte| byte == b'%');
    let thrice = escaped(&twice, |byte| byte == b'%');
    let wide = |text: &[u8]| text.iter().map(|byte| format!("%u00{byte:02X}")).collect();
    let with_u: String = wide(token.as_bytes());
    vec![token.into(), once, all, twice, thrice, with_u.into()]
}

/// Texts around a token that is found anywhere by its shape.
fn glued(token: &str) -> Vec<Vec<u8>> {
    let texts = [
        format!("key_{token}"),
        format!("{token}-x"),
        format!("{token}_x"),
        format!("{token}.x"),
        format!("x.{token}"),
        format!("{token}{token}"),
        format!("eyJ{token}eyJ"),
        format!("Bearer tok={token}"),
        format!("Bearer theirs, Bearer {token}"),
        format!("{{\"token\":\"{token}\"}}"),
        format!("http://r/w/maya/{token}/?x=1"),
        format!("http://r/w/maya?access_token={token}&x=1"),
        BASE64.encode(format!("https://ada:{token}@r/").as_bytes()),
        format!("x{}", BASE64_NOPAD.encode(format!("{token}!").as_bytes())),
        BASE64.encode(BASE64.encode(token.as_bytes()).as_bytes()),
    ];
    texts.map(String::into_bytes).to_vec()
}

#[test]
fn a_credential_of_ours_is_taken_out_of_every_field_in_every_spelling() {
    let kinds = [
        (listed(), vec![MADE.to_owned(), BY_HAND.to_owned()]),
        (signed(), jwts()),
    ];
    for (search, tokens) in &kinds {
        for token in tokens {
            let is_by_hand = token == BY_HAND;
            let with_scheme = |value: Vec<u8>| [b"Bearer  ", &value[..]].concat();
            let alone = escapes(token);
            let mut values = [basics(token), alone.clone()].concat();
            values.extend(alone.into_iter().map(with_scheme));
            values.push(format!("Bearer \"{token}\"").into());
            if !is_by_hand {
                values.extend(glued(token));
            }
            for value in &values {
                let names = ["authorization", "proxy-authorization", "x-basic", "referer"];
                for name in names {
                    let shown = String::from_utf8_lossy(value);
                    assert_eq!(
                        left(search, &[(name, value)]),
                        [],
                        "{token}: {name}: {shown}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_operators_token_is_taken_out_in_every_mode_wherever_it_stands() {
    for search in [operated(), listed(), signed()] {
        let with_scheme = |value: Vec<u8>| [b"Bearer ", &value[..]].concat();
        let alone = escapes(ADMIN);
        let mut values = [basics(ADMIN), glued(ADMIN), alone.clone()].concat();
        values.extend(alone.into_iter().map(with_scheme));
        for value in &values {
            let shown = String::from_utf8_lossy(value);
            assert_eq!(left(&search, &[("x-any", value)]), [], "{shown}");
            assert!(search.finds_in(value), "{shown}");
        }
        let cookies = format!("a=1; t={}; b=2", BASE64.encode(ADMIN.as_bytes()));
        let expected = [("cookie".to_owned(), b"a=1; b=2".to_vec())];
        assert_eq!(left(&search, &[("cookie", cookies.as_bytes())]), expected);
        // No part of this cookie holds the token, but the joined parts do.
        let cookies = format!("a=1; t={ADMIN}; b=2");
        let none = left(&search, &[("cookie", cookies.as_bytes())]);
        assert_eq!(none, [], "{cookies}");
        let other = ADMIN.replace('1', "2");
        let expected = [("x-any".to_owned(), other.clone().into_bytes())];
        assert_eq!(left(&search, &[("x-any", other.as_bytes())]), expected);
    }
}

#[test]
fn a_token_made_by_hand_is_found_between_all_marks_that_no_token_has() {
    let search = listed();
    for token in [BY_HAND, WITH_SLASH, LOWER, BASE64_SLASH, ALL_MARKS] {
        let mut texts = vec![
            format!("/mcp/{token}"),
            format!("/{token}/mcp"),
            format!("/a/{token}/b/c"),
        ];
        for mark in "/:@()[]{}<>\"',;=& \t|?#!$*^`\\".chars() {
            texts.push(format!("{mark}{token}"));
            texts.push(format!("x{mark}{token}{mark}y"));
            texts.push(format!("{token}{mark}"));
        }
        for alphabet in [BASE64, BASE64_NOPAD, BASE64URL_NOPAD] {
            let text = alphabet.encode(token.as_bytes());
            texts.push(format!("/{text}"));
            texts.push(format!("/mcp/{text}/x"));
            texts.push(format!("Token {text}"));
            texts.push(alphabet.encode(format!("{token}:").as_bytes()));
        }
        let escapes = texts.iter().map(|text| escaped(text.as_bytes(), |_| true));
        for text in texts
            .iter()
            .map(|it| it.clone().into_bytes())
            .chain(escapes)
        {
            assert!(search.finds_in(&text), "{}", String::from_utf8_lossy(&text));
        }
    }
    for text in [
        format!("{LOWER}."),
        format!("x_{LOWER}"),
        format!("key-{LOWER}"),
        format!("{LOWER}-x"),
    ] {
        assert!(search.finds_in(text.as_bytes()), "{text}");
    }
}

#[test]
fn a_token_with_marks_of_its_own_is_found_beside_such_marks() {
    let many = "a-b.c_d~e+f".repeat(20);
    for token in [LOWER, BASE64_SLASH, ALL_MARKS] {
        for mark in "-._~+/".chars() {
            for text in [
                format!("key{mark}{token}"),
                format!("{token}{mark}x"),
                format!("a{mark}{token}{mark}b"),
                format!("/mcp/key{mark}{token}/x"),
                format!("Bearer a/{token}{mark}x, c"),
                format!("{many}{mark}{token}"),
                format!("{token}{mark}{many}"),
                format!("{many}/a/b {many}{mark}{token}, {many}"),
            ] {
                let lines = [("x-api-key", text.as_bytes())];
                assert_eq!(left(&listed(), &lines), [], "{text}");
                let escaped = escaped(text.as_bytes(), |byte| !byte.is_ascii_alphanumeric());
                assert!(listed().finds_in(&escaped), "{text}");
            }
        }
        for other in [token.replace('u', "v"), token.replace('2', "3")] {
            let text = format!("a-{other}-b");
            assert!(
                other == token || !listed().finds_in(text.as_bytes()),
                "{text}"
            );
        }
    }
}

#[test]
fn a_field_whose_name_is_a_token_is_dropped() {
    let lines = [
        MADE.to_ascii_lowercase(),
        format!("x-{}", MADE.to_ascii_lowercase()),
        LOWER.to_owned(),
        format!("x-{LOWER}-y"),
        format!("x%2d{LOWER}"),
        ADMIN_NAME.to_ascii_lowercase(),
    ];
    let snapshot = Config {
        admin_token: Some(Secret::new(ADMIN_NAME.to_owned())),
        ..Config::default()
    };
    let operated = Search::new(OwnTokens::of(&Snapshot::of(&snapshot), NOW).unwrap());
    for line in &lines {
        assert!(
            listed().finds_in_name(line) || operated.finds_in_name(line),
            "{line}"
        );
    }
    let headers = |name: &str| {
        let mut headers = HeaderMap::new();
        headers.append(
            HeaderName::try_from(name).unwrap(),
            HeaderValue::from_static("1"),
        );
        from_fields(&listed(), &mut headers);
        headers.len()
    };
    assert_eq!(headers(LOWER), 0);
    assert_eq!(headers("mcp-protocol-version"), 1);
    assert_eq!(headers("tieline_of_another_kind_of_name"), 1);
}

#[test]
fn cookies_and_queries_lose_the_part_that_holds_our_credential() {
    let kinds = [
        (listed(), vec![MADE.to_owned(), BY_HAND.to_owned()]),
        (signed(), jwts()),
    ];
    for (search, tokens) in &kinds {
        for token in tokens {
            let twice = escaped(&basics(token)[0], |byte| !byte.is_ascii_alphanumeric());
            for spelt in escapes(token).into_iter().chain([twice]) {
                let spelt = String::from_utf8(spelt).unwrap();
                let cookies = format!("a=1; t={spelt}; b=%20");
                let expected = [("cookie".to_owned(), b"a=1; b=%20".to_vec())];
                assert_eq!(
                    left(search, &[("cookie", cookies.as_bytes())]),
                    expected,
                    "{cookies}"
                );
                for (query, expected) in [
                    (format!("/mcp?a=1&t={spelt}&b=%20"), "/mcp?a=1&b=%20"),
                    (format!("/mcp?{spelt}"), "/mcp"),
                    (format!("/mcp?x={spelt}&&="), "/mcp?&="),
                ] {
                    let path = PathAndQuery::try_from(&query[..]).unwrap();
                    assert_eq!(from_query(search, path).as_str(), expected, "{query}");
                }
            }
        }
    }
}

#[test]
fn what_is_the_targets_passes_untouched() {
    let others = jwt(r#"{"alg":"HS256"}"#, &[9; 32], NOW + 60);
    let basic = format!(
        "Basic {}",
        BASE64.encode(format!("ada:{others}").as_bytes())
    );
    let twice = format!("key_{others}{others}-x");
    let theirs: [(&str, &[u8]); 9] = [
        ("authorization", basic.as_bytes()),
        ("x-a", others.as_bytes()),
        ("x-a", twice.as_bytes()),
        (
            "x-api-key",
            b"tieline_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB",
        ),
        ("cookie", b"a=1;b=eyJh.b.c; c"),
        ("cookie", b"caf\xe9=1"),
        ("accept", b"text/event-stream, application/json"),
        (
            "user-agent",
            b"node tieline_agent/1.0 (s3cret.of-ada) %zz %e2%82 100%",
        ),
        ("x-long", &[b'w'; 9000]),
    ];
    let owned = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
    let mut expected: Vec<_> = theirs.into_iter().map(owned).collect();
    expected.sort();
    for search in [listed(), signed()] {
        let mut passed = left(&search, &theirs);
        passed.sort();
        assert_eq!(passed, expected);
        for path in [
            "/mcp?access_token=theirs&&=",
            "/mcp?",
            "/s3cret/tieline_x?q=%252e",
        ] {
            let path = PathAndQuery::from_static(path);
            assert!(!search.finds_in(path.path().as_bytes()), "{path}");
            assert_eq!(from_query(&search, path.clone()), path);
        }
    }
}

#[test]
fn a_token_that_claims_to_be_ours_is_dropped_while_its_key_may_yet_be_fetched() {
    let search = knowing(Auth::Jwt(JwtAuth {
        jwks: Some(JwksSource::Url(HttpUrl::parse("http://keys/").unwrap())),
        issuer: Some("studio".to_owned()),
        ..JwtAuth::default()
    }));
    let of = |issuer: &str| {
        let payload = format!(r#"{{"iss":"{issuer}","sub":"ada","exp":{NOW}}}"#);
        let text = [r#"{"alg":"RS256","kid":"7"}"#, &payload];
        let text = text.map(|part| BASE64URL_NOPAD.encode(part.as_bytes()));
        format!("{}.{}-x", text.join("."), BASE64URL_NOPAD.encode(&[7; 256]))
    };
    assert!(search.finds_in(of("studio").as_bytes()));
    assert!(!search.finds_in(of("another").as_bytes()));
}

#[test]
fn of_several_values_only_ours_is_dropped() {
    let ours = format!("Bearer {MADE}");
    let lines: [(&str, &[u8]); 2] = [
        ("authorization", b"Basic dTpw"),
        ("authorization", ours.as_bytes()),
    ];
    let expected = [("authorization".to_owned(), b"Basic dTpw".to_vec())];
    assert_eq!(left(&listed(), &lines), expected);
}

#[test]
fn a_credential_that_no_part_holds_is_not_left_in_the_whole() {
    let (start, end) = MADE.split_at(20);
    let split = BASE64.encode(format!("{start}{end}").as_bytes());
    let (one, two) = split.split_at(30);
    let query = format!("/mcp?{one}%26&{two}");
    let path = PathAndQuery::try_from(&query[..]).unwrap();
    // No server joins these two parts again.
    assert_eq!(from_query(&listed(), path).as_str(), query);
}

#[test]
fn what_takes_too_long_to_read_is_dropped() {
    let search = signed();
    let payload = BASE64URL_NOPAD.encode(br#"{"sub":"ada","exp":1800000001}"#);
    // Each `{"` could begin a header, but none does.
    let header = BASE64URL_NOPAD.encode(&br#"{" "#.repeat(3000));
    let value = format!("{header}.{payload}.{}", "A".repeat(43));
    let lines: Vec<_> = (0..6).map(|_| ("x-any", value.as_bytes())).collect();
    assert!(left(&search, &lines).len() < lines.len());
    // More texts with the shape of a signed token than the limit of checked signatures.
    let search = signed();
    let unsigned: Vec<_> = (0..20)
        .map(|n| jwt(r#"{"alg":"HS256"}"#, &[9; 32], NOW + n))
        .collect();
    let lines: Vec<_> = unsigned.iter().map(|it| ("x-any", it.as_bytes())).collect();
    assert_eq!(left(&search, &lines).len(), 8);
}

#[test]
fn the_work_for_one_request_is_bounded_and_an_ordinary_one_takes_little_of_it() {
    let texts = "tieline_|tieline_x/|a/|/|-|aaaaaaaa/|abcdefgh |abcdefghij;|QUFBQUFBQUFBQUFB,\
                 |eyJ|eyJh.|ICAg|ewog|%252525|=|.|a ";
    for text in texts.split('|').map(|it| it.repeat(60_000 / it.len())) {
        for search in [listed(), signed(), operated()] {
            for _ in 0..3 {
                search.finds_in(text.as_bytes());
            }
            // With the work limit reached, every further text counts as a hit.
            let is_spent = search.work_left() == 0;
            assert_eq!(is_spent, search.is_unsure(), "{}", &text[..8]);
        }
    }
    let ids = "550e8400-e29b-41d4-a716-446655440000.";
    let agent =
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0";
    let cookie = format!(
        "sid={}; ids={}",
        "aGVsbG8gd29ybGQ".repeat(10),
        ids.repeat(20)
    );
    let bearer = format!("Bearer {}", jwt(r#"{"alg":"HS256"}"#, &[9; 32], NOW + 60));
    for search in [listed(), signed(), operated()] {
        for text in [
            "/mcp",
            agent,
            ids,
            "application/json, text/event-stream",
            &cookie,
            &bearer,
        ] {
            assert!(!search.finds_in(text.as_bytes()), "{text}");
        }
        let work = WORK_MAX - search.work_left();
        assert!(work < WORK_MAX / 5, "{work}");
    }
    // Parts that are too long for a token: the work per part must not include the parts behind it.
    let search = listed();
    assert!(!search.finds_in(format!("{}/", "a".repeat(258)).repeat(230).as_bytes()));
    assert!(!search.is_unsure());
    // A header of this size fits into each of 100 HTTP/2 streams: the run must not be hashed once per part.
    let search = listed();
    assert!(!search.finds_in("tieline_".repeat(475).as_bytes()));
    assert!(WORK_MAX - search.work_left() < 64 * 1024);
}

#[test]
fn an_audit_entry_holds_no_token_in_any_spelling() {
    let own = |auth: Auth| {
        let config = Config {
            auth,
            admin_token: Some(Secret::new(ADMIN.to_owned())),
            ..Config::default()
        };
        OwnTokens::of(&Snapshot::of(&config), NOW).unwrap()
    };
    let escaped = String::from_utf8(escaped(ADMIN.as_bytes(), |byte| byte == b'/')).unwrap();
    for (path, left) in [
        (format!("/w/bobt/{escaped}"), "/w/bobt/[token]"),
        (format!("/w/bobt/x{escaped}y/mcp"), "/w/bobt/[token]/mcp"),
        (format!("/w/bobt/{ADMIN}"), "/[token]"),
        ("/w/bobt/mcp".to_owned(), "/w/bobt/mcp"),
    ] {
        let mut call = Call::new(Method::GET, &path);
        hide_tokens(own(Auth::Open { anywhere: false }), &mut call);
        let entry = call.answered(None, Some(400), Some("token_in_url"));
        let entry = serde_json::to_value(entry).unwrap();
        assert_eq!(entry["path"], left, "{path}");
        assert_eq!(entry["method"], "GET");
    }
}

#[test]
fn what_is_not_checked_to_its_end_is_told_so() {
    let of = |count: u64| {
        let search = signed();
        let tokens = (0..count).map(|n| jwt(r#"{"alg":"HS256"}"#, &[9; 32], NOW + n));
        let path = tokens.collect::<Vec<_>>().join("/");
        (search.finds_in(path.as_bytes()), search.is_unsure())
    };
    assert_eq!(of(8), (false, false));
    assert_eq!(of(9), (true, true));
    let search = signed();
    assert!(search.finds_in(jwts()[0].as_bytes()) && !search.is_unsure());
}

/// Random texts, many of which resemble a token.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let wrong = jwt(r#"{"alg":"HS256"}"#, &[9; 32], NOW + 60);
    let words = [
        "tieline_",
        "tieline_B",
        ".",
        "eyJ",
        "%",
        "%2e",
        "%25",
        "=",
        "&",
        ";",
        ":",
        " ",
        "Basic ",
        "ewog",
        "ICAg",
        "A",
        &wrong,
        &wrong[..wrong.len() - 1],
    ];
    let words = words.map(|word| word.as_bytes().to_vec());
    let word = prop::sample::select(words.to_vec());
    let noise = prop::collection::vec(any::<u8>(), 0..40);
    let base64 = noise
        .clone()
        .prop_map(|bytes| BASE64.encode(&bytes).into_bytes());
    let piece = prop_oneof![3 => word, 1 => noise, 1 => base64];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn nothing_panics_and_what_holds_no_credential_stays(text in pieces()) {
        for search in [listed(), signed()] {
            prop_assert!(!search.finds_in(&text), "{}", String::from_utf8_lossy(&text));
        }
    }

    #[test]
    fn a_credential_is_found_between_whatever_stands_around_it(
        before in "[ -~]{0,20}",
        behind in "[ -~]{0,20}",
        layers in prop::collection::vec(0_u8..3, 0..3),
        which in 0_usize..5,
    ) {
        let spell = |text: Vec<u8>| {
            layers.iter().fold(text, |text, layer| match layer {
                0 => escaped(&text, |byte| !byte.is_ascii_alphanumeric()),
                1 => BASE64.encode(&text).into_bytes(),
                _ => BASE64URL_NOPAD.encode(&text).into_bytes(),
            })
        };
        let around = |token: &str| spell(format!("{before}{token}{behind}").into());
        let jwt = &jwts()[which];
        // A percent sign next to a token could form an escape with it.
        let is_apart = !before.contains('%') && !behind.contains('%');
        prop_assume!(is_apart);
        prop_assert!(listed().finds_in(&around(MADE)));
        prop_assert!(signed().finds_in(&around(jwt)));
    }
}
