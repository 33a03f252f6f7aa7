//! Credentials of the relay never reach a target, in any part of a request except its body.

use tieline_token::Key;

use super::*;
use crate::auth::issue_token;
use crate::cli::TokenOrder;
use crate::config::{Auth, Config, JwtAuth};

/// A relay that recognizes its own tokens, and such a token.
fn relay_with_a_token() -> (Relay, String) {
    let relay = Relay::new();
    let key = || Key::hs256(&[7; 32]).unwrap();
    let order = TokenOrder {
        subject: "ada".to_owned(),
        ..TokenOrder::default()
    };
    let token = issue_token(order, &key(), "1".to_owned(), NOW_SECONDS, 60).unwrap();
    let config = Config {
        auth: Auth::Jwt(JwtAuth {
            keys: key().into(),
            ..JwtAuth::default()
        }),
        ..Config::default()
    };
    *relay.shard.0.known.borrow_mut() = Some(Snapshot::of(&config));
    (relay, token)
}

#[test]
fn a_referer_with_a_token_of_ours_stays_here_also_if_it_is_the_tunnels_own() {
    run(async {
        let (mut relay, token) = relay_with_a_token();
        for page in ["http://r/w/maya/page", "http://elsewhere/"] {
            let mut caller = relay.caller();
            let referer = format!("Referer: {page}?access_token={token}&x=1\r\n");
            caller
                .send(format!("GET /w/maya/ HTTP/1.1\r\nHost: r\r\n{referer}\r\n"))
                .await;
            let head = relay.target().await.head().await.to_ascii_lowercase();
            assert!(!head.contains("referer"), "{head}");
        }
        let mut caller = relay.caller();
        let referer = "Referer: http://r/w/maya/page?x=1\r\n";
        caller
            .send(format!("GET /w/maya/ HTTP/1.1\r\nHost: r\r\n{referer}\r\n"))
            .await;
        let head = relay.target().await.head().await;
        assert!(head.contains("/page?x=1\r\n"), "{head}");
    });
}

#[test]
fn a_trailer_with_a_token_of_ours_is_dropped_and_others_pass() {
    run(async {
        let (mut relay, token) = relay_with_a_token();
        let mut caller = relay.caller();
        caller
            .send(format!(
                "POST /w/maya/ HTTP/1.1\r\nHost: r\r\nTE: trailers\r\nConnection: TE\r\n\
                 Trailer: X-Sum, X-Key\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nhi\r\n0\r\nX-Sum: 7\r\nX-Key: {token}\r\n\r\n"
            ))
            .await;
        let mut target = relay.target().await;
        target.head().await;
        target.expect("2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n").await;
    });
}

#[test]
fn a_method_with_a_token_of_ours_is_refused_and_another_one_passes() {
    run(async {
        let (mut relay, token) = relay_with_a_token();
        for method in [&*token, &format!("GET-{token}")] {
            let mut caller = relay.caller();
            caller
                .send(format!("{method} /w/maya/ HTTP/1.1\r\nHost: r\r\n\r\n"))
                .await;
            let head = caller.head().await;
            assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
            assert!(!head.contains(&token), "{head}");
        }
        let mut caller = relay.caller();
        caller
            .send("VERSION-CONTROL-OF-A-KIND /w/maya/ HTTP/1.1\r\nHost: r\r\n\r\n")
            .await;
        let head = relay.target().await.head().await;
        assert!(head.starts_with("VERSION-CONTROL-OF-A-KIND "), "{head}");
    });
}

#[test]
fn a_url_with_a_token_of_ours_leads_nowhere_and_is_not_repeated() {
    run(async {
        let (relay, token) = relay_with_a_token();
        for (path, host) in [(&*token, "r"), ("mcp", &*token)] {
            let mut caller = relay.caller();
            caller
                .send(format!(
                    "GET /w/maya/{path} HTTP/1.1\r\nHost: {host}\r\n\r\n"
                ))
                .await;
            let head = caller.head().await;
            assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
            assert!(!head.contains(&token), "{head}");
        }
    });
}
