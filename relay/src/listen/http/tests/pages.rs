//! Web pages as callers.

use super::*;

fn from_page(method: &str, origin: &str, lines: &str) -> String {
    format!(
        "{method} /w/maya/mcp HTTP/1.1\r\nHost: 127.0.0.1:9080\r\nOrigin: {origin}\r\n{lines}\r\n"
    )
}

const APP: &str = "https://app.example";

fn relay() -> Relay {
    let mut relay = Relay::new();
    relay.settings().origins = Origins(vec![APP.to_owned()]);
    relay
}

#[test]
fn a_page_that_is_not_listed_reaches_no_target() {
    run(async {
        let mut relay = relay();
        for origin in ["https://evil.example", "null", "http://127.0.0.1:9999"] {
            let mut caller = relay.caller();
            caller.send(from_page("GET", origin, "")).await;
            let head = caller.head().await;
            assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
            assert!(!head.contains("access-control"), "{head}");
            assert!(caller.until("}").await.contains("origin_not_allowed"));
        }
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_listed_page_may_read_the_answer_and_the_target_sees_its_own_address() {
    run(async {
        let mut relay = relay();
        let mut caller = relay.caller();
        caller.send(from_page("GET", APP, "")).await;
        let mut target = relay.target().await;
        let head = target.head().await;
        assert!(
            head.contains("\r\norigin: http://127.0.0.1:8765\r\n"),
            "{head}"
        );
        let theirs = "access-control-allow-origin: http://127.0.0.1:8765\r\nvary: accept\r\n\
                      access-control-expose-headers: x-total\r\n\
                      access-control-allow-credentials: true\r\n";
        target
            .send(OK.replace("\r\n\r\n", &format!("\r\n{theirs}\r\n")))
            .await;
        let head = caller.head().await;
        let allowed = format!("\r\naccess-control-allow-origin: {APP}\r\n");
        assert!(head.contains(&allowed), "{head}");
        assert!(!head.contains("127.0.0.1:8765"), "{head}");
        assert!(head.contains("\r\nvary: Origin, accept\r\n"), "{head}");
        let exposed = head
            .lines()
            .find(|line| line.starts_with("access-control-expose-headers"));
        assert!(!head.contains("credentials"), "{head}");
        for name in ["Mcp-Session-Id", "WWW-Authenticate", "x-total"] {
            assert!(exposed.unwrap().contains(name), "{head}");
        }
    });
}

#[test]
fn a_listed_page_may_read_the_relays_own_answers() {
    run(async {
        let relay = relay();
        relay.set("maya", Opens::Not(SessionEnd::TargetRefused));
        let mut caller = relay.caller();
        caller.send(from_page("GET", APP, "")).await;
        let head = caller.head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert!(
            head.contains(&format!("access-control-allow-origin: {APP}")),
            "{head}"
        );
    });
}

#[test]
fn a_preflight_is_answered_by_the_relay_whatever_the_tunnel() {
    run(async {
        let mut relay = relay();
        let lines = "Access-Control-Request-Method: POST\r\n\
                     Access-Control-Request-Headers: authorization, mcp-session-id\r\n";
        for tunnel in ["maya", "nobody"] {
            let mut caller = relay.caller();
            caller
                .send(from_page("OPTIONS", APP, lines).replace("maya", tunnel))
                .await;
            let head = caller.head().await;
            assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
            assert!(
                head.contains(&format!("access-control-allow-origin: {APP}")),
                "{head}"
            );
            assert!(head.contains("mcp-session-id"), "{head}");
        }
        let mut caller = relay.caller();
        caller
            .send(from_page("OPTIONS", "https://evil.example", lines))
            .await;
        assert!(caller.head().await.starts_with("HTTP/1.1 403 "));
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_page_of_the_relay_itself_needs_no_listing() {
    run(async {
        let mut relay = relay();
        let mut caller = relay.caller();
        caller
            .send(from_page("GET", "http://127.0.0.1:9080", ""))
            .await;
        let mut target = relay.target().await;
        target.head().await;
        target.send(OK).await;
        let head = caller.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(!head.contains("access-control"), "{head}");
    });
}

#[test]
fn what_a_target_says_of_pages_reaches_no_page() {
    run(async {
        let mut relay = relay();
        let theirs = "HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\n\
                      access-control-allow-headers: *\r\ncontent-length: 0\r\n\r\n";
        let head = relay.answer_to(GET, theirs, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(!head.contains("access-control"), "{head}");
        // A cache must not give a page an answer that was made for another page.
        assert!(head.contains("\r\nvary: Origin\r\n"), "{head}");
    });
}

#[test]
fn a_page_of_another_site_asks_nothing_blindly_of_a_relay_on_its_own_machine() {
    run(async {
        let mut relay = Relay::new();
        let get = |path: &str, lines: &str| {
            format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:9080\r\n{lines}\r\n")
        };
        let picture = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n";
        let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n";
        for address in ["127.0.0.1:40000", "192.0.2.7:40000"] {
            relay.peer.source = Source::Peer(address.parse().unwrap());
            for path in ["/w/maya/mcp", "/tunnels"] {
                let mut caller = relay.caller();
                caller.send(get(path, picture)).await;
                let head = caller.head().await;
                assert!(head.starts_with("HTTP/1.1 403 "), "{address} {path} {head}");
                assert!(caller.until("}").await.contains("origin_not_allowed"));
            }
        }
        assert!(!relay.has_opened());
        // Remote callers may follow a link. A relay that takes tokens does not refuse their other requests of
        // this kind, since those carry no token.
        let mut caller = relay.caller();
        caller.send(get("/w/maya/mcp", link)).await;
        relay.target().await;
        relay.settings().takes_tokens = true;
        let mut caller = relay.caller();
        caller.send(get("/w/maya/mcp", picture)).await;
        relay.target().await;
    });
}
