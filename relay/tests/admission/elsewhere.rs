//! Tests of tokens that other servers decide about: a key set behind a URL, and a provider.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::BASE64URL_NOPAD;
use tieline_relay::config::{JwksSource, Secret};
use tieline_relay::{Auth, JwtAuth, ProviderAuth, Relay};
use tieline_wire::{RefusalReason, TunnelId};

use crate::agent::{Agent, SOON, post};
use crate::server::Server;
use crate::start;

fn provider(server: &Server, interval: Duration, grace: Duration) -> Relay {
    let secret = Secret::new("the-relay-itself".to_owned());
    start(|config| {
        config.auth = Auth::Provider(ProviderAuth {
            interval,
            grace,
            ..ProviderAuth::new(server.url(), secret)
        });
    })
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const YES: Option<(u16, &str)> = Some((200, r#"{"subdomains":["*"],"owner":"ada"}"#));

#[test]
fn a_provider_decides_about_the_name_that_is_routed_on() {
    let server = Server::start(Some((200, r#"{"subdomains":["maya-*"]}"#)));
    let relay = provider(&server, HOUR, HOUR);
    let mut agent = Agent::dial(&relay, 1);
    let granted = agent.register(Some("Maya-1"), "s3cret").unwrap();
    assert_eq!(granted.tunnel.as_str(), "maya-1");
    let asked = server.asked();
    assert!(
        asked.starts_with("POST /api/verify HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(
        asked
            .to_ascii_lowercase()
            .contains("x-relay-secret: the-relay-itself\r\n")
    );
    assert!(
        asked.ends_with(r#"{"token":"s3cret","subdomain":"maya-1"}"#),
        "{asked}"
    );

    // Without a requested name the relay asks about the derived one.
    let mut other = Agent::dial(&relay, 2);
    assert_eq!(other.refused(None, "s3cret"), RefusalReason::NameNotAllowed);
    let asked = server.asked();
    let name = asked.rsplit('"').nth(1).unwrap();
    assert!(TunnelId::parse(name).unwrap().looks_derived(), "{asked}");
    server.replies(YES);
    assert_eq!(
        other.register(None, "s3cret").unwrap().tunnel.as_str(),
        name
    );

    for (reply, reason) in [
        ((401, r#"{"error":"who?"}"#), RefusalReason::BadToken),
        ((403, r#"{"error":"gone home"}"#), RefusalReason::BadToken),
        // An answer of a proxy in front of the provider.
        ((401, ""), RefusalReason::AuthUnavailable),
        ((500, ""), RefusalReason::AuthUnavailable),
        ((200, "{"), RefusalReason::AuthUnavailable),
    ] {
        server.replies(Some(reply));
        assert_eq!(other.refused(Some("maya-2"), "s3cret"), reason, "{reply:?}");
    }
    // Without a token the provider is not asked.
    assert_eq!(other.refused(Some("maya-2"), ""), RefusalReason::BadToken);
}

#[test]
fn a_silent_provider_holds_nobody_else_up() {
    let server = Server::start(None);
    let relay = provider(&server, HOUR, HOUR);
    let mut waiting = Agent::dial(&relay, 1);
    let patient = std::thread::spawn(move || waiting.refused(Some("maya-1"), "s3cret"));
    server.asked();
    server.replies(YES);
    Agent::dial(&relay, 2)
        .register(Some("maya-2"), "s3cret")
        .unwrap();
    let (status, _) = post(relay.admin_addresses()[0], "/revoke", r#"{"sub":"ada"}"#);
    assert_eq!(status, 200);
    assert_eq!(patient.join().unwrap(), RefusalReason::AuthUnavailable);
}

#[test]
fn a_no_to_a_tunnel_that_lives_ends_it_and_silence_does_so_after_a_grace() {
    let server = Server::start(YES);
    let relay = provider(&server, SECOND, HOUR);
    let mut agent = Agent::dial(&relay, 1);
    agent.register(Some("maya-1"), "s3cret").unwrap();
    agent.until(|| server.asked_already());
    agent.until(|| server.asked_already());
    // A provider that gives no answer changes nothing; a refusal ends the tunnel.
    server.replies(Some((503, "")));
    agent.until(|| server.asked_already());
    agent.until(|| server.asked_already());
    agent
        .register(Some("maya-1"), "s3cret")
        .expect_err("new registrations are refused meanwhile");
    server.replies(Some((403, r#"{"error":"gone"}"#)));
    let refusal = agent.withdrawn("maya-1");
    assert_eq!(
        (refusal.reason, &*refusal.message),
        (RefusalReason::Revoked, "gone")
    );
    // The link stays open, for its other tunnels and for another registration.
    server.replies(YES);
    agent.register(Some("maya-1"), "s3cret").unwrap();

    server.replies(YES);
    let relay = provider(&server, SECOND, Duration::ZERO);
    let mut agent = Agent::dial(&relay, 1);
    agent.register(Some("maya-1"), "s3cret").unwrap();
    server.replies(Some((503, "")));
    assert_eq!(
        agent.withdrawn("maya-1").reason,
        RefusalReason::AuthUnavailable
    );

    server.replies(YES);
    let relay = provider(&server, SECOND, HOUR);
    let mut agent = Agent::dial(&relay, 1);
    agent.register(Some("maya-1"), "s3cret").unwrap();
    server.replies(Some((200, r#"{"subdomains":["*"],"owner":"bob"}"#)));
    assert_eq!(agent.withdrawn("maya-1").reason, RefusalReason::AuthChanged);
}

#[test]
fn a_permission_that_is_over_costs_its_tunnel_and_no_other() {
    let server = Server::start(Some((200, r#"{"subdomains":["*"],"expires_in":2}"#)));
    let relay = provider(&server, HOUR, HOUR);
    let mut agent = Agent::dial(&relay, 1);
    let granted = agent.register(Some("maya-1"), "s3cret").unwrap();
    assert!((1..=2).contains(&granted.expires_in_s), "{granted:?}");
    server.replies(YES);
    let granted = agent.register(Some("maya-2"), "s3cret").unwrap();
    assert_eq!(granted.expires_in_s, 0);
    assert_eq!(
        agent.withdrawn("maya-1").reason,
        RefusalReason::TokenExpired
    );
    for name in ["maya-2", "maya-1"] {
        agent.register(Some(name), "s3cret").unwrap();
    }
}

#[test]
fn an_agent_that_stops_sharing_a_name_does_not_keep_it_from_the_others() {
    let shared = Some((200, r#"{"subdomains":["*"],"owner":"ada","shared":true}"#));
    let server = Server::start(shared);
    let relay = provider(&server, HOUR, HOUR);
    let [mut first, mut second] = [1, 2].map(|seed| Agent::dial(&relay, seed));
    first.register(Some("pool"), "s3cret").unwrap();
    let mut caller = TcpStream::connect(relay.tcp_addresses()[0]).unwrap();
    caller.set_read_timeout(Some(SOON)).unwrap();
    caller.write_all(b"\0\x04pool").unwrap();
    first.opened();
    second.register(Some("pool"), "s3cret").unwrap();
    server.replies(YES);
    assert_eq!(
        first.refused(Some("pool"), "s3cret"),
        RefusalReason::NameTaken
    );
    assert_eq!(first.withdrawn("pool").reason, RefusalReason::NameTaken);
    // A session that went on would be out of reach for operators and revocations.
    let end = caller.read_to_end(&mut Vec::new());
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    second.register(Some("pool"), "s3cret").unwrap();
    // NameBound rather than NameTaken: the agent that has the name has the same owner, and may leave.
    assert_eq!(
        first.refused(Some("pool"), "s3cret"),
        RefusalReason::NameBound
    );
}

/// A token signed by the key of `seed` with key id `id`, and the key set that contains the key.
fn signed(seed: u8, id: &str) -> (String, String) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let header = format!(r#"{{"alg":"EdDSA","kid":"{id}"}}"#);
    let claims = r#"{"sub":"ada","exp":4000000000}"#;
    let [header, claims] =
        [header.as_str(), claims].map(|it| BASE64URL_NOPAD.encode(it.as_bytes()));
    let message = format!("{header}.{claims}");
    let tag = BASE64URL_NOPAD.encode(pair.sign(message.as_bytes()).as_ref());
    let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
    let set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{id}","x":"{x}"}}]}}"#);
    (format!("{message}.{tag}"), set)
}

#[test]
fn a_relay_starts_without_its_keys_and_learns_them() {
    let (token, set) = signed(1, "one");
    let server = Server::start(Some((500, "")));
    let relay = start(|config| {
        config.auth = Auth::Jwt(JwtAuth {
            jwks: Some(JwksSource::Url(server.url())),
            ..JwtAuth::default()
        });
    });
    server.asked();
    let mut agent = Agent::dial(&relay, 1);
    assert_eq!(agent.refused(None, &token), RefusalReason::AuthUnavailable);
    server.replies(Some((200, &set)));
    let deadline = std::time::Instant::now() + SOON;
    while agent.register(None, &token).is_err() {
        assert!(std::time::Instant::now() < deadline);
    }
    // An unknown key is worth a retry, a wrong signature is not.
    let (unknown, _) = signed(2, "two");
    let (forged, _) = signed(2, "one");
    let mut other = Agent::dial(&relay, 2);
    assert_eq!(
        other.refused(None, &unknown),
        RefusalReason::AuthUnavailable
    );
    assert_eq!(other.refused(None, &forged), RefusalReason::BadToken);
}
