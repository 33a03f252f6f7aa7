//! Requests in clear text, where those are redirected.

use super::*;
use crate::certificates::Challenges;
use crate::config::PublicUrl;

fn relay() -> Relay {
    let mut relay = Relay::new();
    relay.settings().domain = Some("relay.example".to_owned());
    relay.settings().redirect = PublicUrl::parse("https://relay.example").ok();
    relay
}

async fn head_of(relay: &Relay, method: &str, path: &str, lines: &str) -> String {
    let mut caller = relay.caller();
    let request = format!("{method} {path} HTTP/1.1\r\n{lines}\r\n");
    caller.send(&request).await;
    caller.head().await
}

#[test]
fn a_request_in_clear_text_is_redirected_and_reaches_nothing() {
    run(async {
        let mut relay = relay();
        relay.shard.0.wants_tokens.set(true);
        relay.settings().takes_tokens = true;
        let post =
            "Host: relay.example:80\r\nContent-Length: 2\r\nAuthorization: Bearer secret\r\n\r\n{}";
        for (method, path, lines, wanted) in [
            (
                "GET",
                "/w/maya/mcp?a=b",
                "Host: relay.example\r\n",
                "/w/maya/mcp?a=b",
            ),
            ("POST", "/w/maya/mcp", post, "/w/maya/mcp"),
            ("GET", "/tunnels", "Host: relay.example\r\n", "/tunnels"),
            ("GET", "/nothing", "Host: 192.0.2.1\r\n", "/nothing"),
            (
                "GET",
                "/w/maya/",
                "Host: relay.example\r\nUpgrade: h2c\r\n",
                "/w/maya/",
            ),
        ] {
            let head = head_of(&relay, method, path, lines).await;
            assert!(head.starts_with("HTTP/1.1 308 "), "{path}: {head}");
            let location = format!("\r\nlocation: https://relay.example{wanted}\r\n");
            assert!(head.contains(&location), "{path}: {head}");
        }
        let own = head_of(&relay, "GET", "/mcp", "Host: maya.relay.example\r\n").await;
        assert!(
            own.contains("\r\nlocation: https://maya.relay.example/mcp\r\n"),
            "{own}"
        );
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_websocket_in_clear_text_is_refused_before_its_token_is_read() {
    run(async {
        let mut relay = relay();
        relay.shard.0.wants_tokens.set(true);
        relay.settings().takes_tokens = true;
        let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tieline.v1, bearer.t\r\n";
        for (path, host, wanted) in [
            (
                "/w/maya/socket?access_token=secret",
                "relay.example:80",
                "wss://relay.example ",
            ),
            ("/tunnel/maya", "192.0.2.1", "wss://relay.example "),
            ("/socket", "maya.relay.example", "wss://maya.relay.example "),
            ("/agent", "relay.example", "wss://relay.example "),
        ] {
            let mut caller = relay.caller();
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{handshake}\r\n");
            caller.send(&request).await;
            let head = caller.head().await;
            assert!(head.starts_with("HTTP/1.1 403 "), "{path}: {head}");
            assert!(!head.contains("location"), "{path}: {head}");
            let body = caller.until("}").await;
            assert!(body.contains("\"https_required\""), "{path}: {body}");
            assert!(body.contains(wanted), "{path}: {body}");
            assert!(!body.contains("secret"), "{path}: {body}");
        }
        assert!(!relay.has_opened());
        let foreign = format!("Host: evil.example\r\n{handshake}");
        let head = head_of(&relay, "GET", "/agent", &foreign).await;
        assert!(head.starts_with("HTTP/1.1 421 "), "{head}");
        relay.peer.https = true;
        let encrypted = format!("Host: relay.example\r\n{handshake}");
        let head = head_of(&relay, "GET", "/agent", &encrypted).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    });
}

#[test]
fn a_foreign_host_is_not_redirected() {
    run(async {
        let relay = relay();
        let head = head_of(&relay, "GET", "/", "Host: evil.example\r\n").await;
        assert!(head.starts_with("HTTP/1.1 421 "), "{head}");
        assert!(!head.contains("location"), "{head}");
    });
}

#[test]
fn health_and_encrypted_requests_are_served() {
    run(async {
        let mut relay = relay();
        let host = "Host: relay.example\r\n";
        let head = head_of(&relay, "GET", "/health", host).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        relay.peer.https = true;
        let head = head_of(&relay, "GET", "/nothing", host).await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    });
}

#[test]
fn a_ca_that_checks_a_name_is_answered_and_not_redirected() {
    run(async {
        let mut relay = relay();
        let challenges = Arc::<Challenges>::default();
        relay.settings().challenges = Some(Arc::clone(&challenges));
        let path = "/.well-known/acme-challenge/token";
        let open = challenges.open_text("token", "answer");
        // A CA knows the relay's domain as little as its tokens.
        for host in ["Host: relay.example\r\n", "Host: other.example\r\n"] {
            let head = head_of(&relay, "GET", path, host).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
        drop(open);
        let head = head_of(&relay, "GET", path, "Host: relay.example\r\n").await;
        assert!(head.starts_with("HTTP/1.1 308 "), "{head}");
    });
}
