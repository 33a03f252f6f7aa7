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
    relay.settings().origins = Origins::new(vec![APP.to_owned()]);
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
        let theirs = "access-control-allow-origin: http://127.0.0.1:8765\r\nvary: accept\r\n";
        target
            .send(OK.replace("\r\n\r\n", &format!("\r\n{theirs}\r\n")))
            .await;
        let head = caller.head().await;
        let allowed = format!("\r\naccess-control-allow-origin: {APP}\r\n");
        assert!(head.contains(&allowed), "{head}");
        assert!(!head.contains("127.0.0.1:8765"), "{head}");
        assert!(
            head.contains("\r\nvary: accept\r\nvary: origin\r\n"),
            "{head}"
        );
        let exposed = head
            .lines()
            .find(|line| line.starts_with("access-control-expose-headers"));
        for name in ["Mcp-Session-Id", "WWW-Authenticate", "MCP-Protocol-Version"] {
            assert!(exposed.unwrap().contains(name), "{head}");
        }
    });
}

#[test]
fn a_listed_page_may_read_the_relays_own_answers() {
    run(async {
        let relay = relay();
        relay.set("maya", Opens::Not(Reason::TargetRefused));
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
        caller.expect(OK).await;
    });
}
