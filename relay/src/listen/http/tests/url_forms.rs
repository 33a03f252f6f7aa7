//! The forms of a tunnel's URL, and the target paths that they lead to.

use super::*;
use crate::config::PublicUrl;

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Status and error code of the relay's own answer.
async fn refused(relay: &Relay, request: &str) -> (u16, String) {
    let mut caller = relay.caller();
    caller.send(request).await;
    let head = caller.head().await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body: serde_json::Value = serde_json::from_str(&caller.until("}").await).unwrap();
    (status, body["error"].as_str().unwrap().to_owned())
}

/// The request line that the target receives.
async fn request_line(relay: &mut Relay, request: &str) -> String {
    let mut caller = relay.caller();
    caller.send(request).await;
    let mut target = relay.target().await;
    let head = target.head().await;
    target.send(OK).await;
    caller.expect(OK).await;
    head.lines().next().unwrap().to_owned()
}

#[test]
fn every_way_to_a_tunnel_leads_to_the_same_path() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().domain = Some("relay.example".to_owned());
        for (path, host) in [
            ("/w/maya/mcp?x", "relay.example"),
            ("/tunnel/maya/mcp?x", "relay.example:9080"),
            ("/dcc/maya/maya/mcp?x", "127.0.0.1"),
            ("/mcp?x", "maya.relay.example"),
            ("/mcp?x", "MAYA.relay.example.:80"),
            ("http://maya.relay.example/mcp?x", "maya.relay.example"),
            ("http://Maya.relay.example/mcp?x", "maya.RELAY.example"),
        ] {
            let line = request_line(&mut relay, &get(path, host)).await;
            assert_eq!(line, "GET /mcp?x HTTP/1.1", "{path} at {host}");
        }
        let metadata = "/.well-known/oauth-protected-resource";
        for (path, host) in [
            (format!("{metadata}/w/maya/mcp"), "relay.example"),
            (format!("{metadata}/mcp"), "maya.relay.example"),
            (format!("/w/maya{metadata}/mcp"), "relay.example"),
        ] {
            let line = request_line(&mut relay, &get(&path, host)).await;
            assert_eq!(
                line,
                format!("GET {metadata}/mcp HTTP/1.1"),
                "{path} at {host}"
            );
        }
    });
}

#[test]
fn a_foreign_host_is_misdirected_and_not_routed_by_its_first_label() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().domain = Some("relay.example".to_owned());
        for (path, host) in [
            ("/mcp", "maya.evil.example"),
            ("/w/maya/mcp", "evil.example"),
            ("/mcp", "a.maya.relay.example"),
            ("http://maya.evil.example/mcp", "maya.evil.example"),
        ] {
            let answer = refused(&relay, &get(path, host)).await;
            assert_eq!(answer, (421, "misdirected".to_owned()), "{path} at {host}");
        }
        assert!(!relay.has_opened());
    });
}

#[test]
fn the_host_of_the_public_url_is_the_relays_for_a_caller_of_this_machine_and_others_are_not() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().public_url = PublicUrl::parse("https://proxy.example").ok();
        relay.peer.source = Source::Peer("127.0.0.1:40000".parse().unwrap());
        for domain in [None, Some("relay.example".to_owned())] {
            relay.settings().domain = domain;
            let line = request_line(&mut relay, &get("/w/maya/mcp", "Proxy.example:81")).await;
            assert_eq!(line, "GET /mcp HTTP/1.1");
            for host in ["evil.example", "maya.proxy.example", "xproxy.example"] {
                let answer = refused(&relay, &get("/w/maya/mcp", host)).await;
                assert_eq!(answer, (421, "misdirected".to_owned()), "{host}");
            }
        }
    });
}

#[test]
fn a_request_that_names_two_hosts_goes_to_neither() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().domain = Some("relay.example".to_owned());
        for (path, host) in [
            ("http://maya.relay.example/mcp", "relay.example"),
            ("http://maya.relay.example/mcp", "nuke.relay.example"),
            ("http://maya.evil.example/mcp", "maya.relay.example"),
            ("http://maya.relay.example:80/mcp", "maya.relay.example"),
        ] {
            let answer = refused(&relay, &get(path, host)).await;
            assert_eq!(answer, (400, "bad_request".to_owned()), "{path} at {host}");
        }
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_kind_is_no_way_to_a_tunnel_of_another_one() {
    run(async {
        let mut relay = Relay::new();
        "/mcp".clone_into(&mut relay.shard.0.base_path.borrow_mut());
        for name in ["comfy", "nobody"] {
            let path = format!("/dcc/maya/{name}/mcp");
            let answer = refused(&relay, &get(&path, "r")).await;
            assert_eq!(answer, (404, "unknown_tunnel".to_owned()), "{name}");
        }
        // A tunnel whose agent is offline may come back, so the answer is 503.
        relay.set("comfy", Opens::Not(SessionEnd::TunnelOffline));
        let answer = refused(&relay, &get("/dcc/maya/comfy/mcp", "r")).await;
        assert_eq!(answer, (503, "tunnel_offline".to_owned()));
        let answer = refused(&relay, &get("/dcc/nuke/mcp", "r")).await;
        assert_eq!(answer, (404, "unknown_tunnel".to_owned()));
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_kind_leads_to_any_tunnel_of_it() {
    run(async {
        let mut relay = Relay::new();
        for path in [
            "/dcc/maya/mcp?x",
            "/dcc/maya/mcp/a/b",
            "/dcc/maya",
            "/dcc/maya?y",
        ] {
            let rest = path.strip_prefix("/dcc/maya").unwrap();
            let slash = if rest.starts_with('/') { "" } else { "/" };
            let line = request_line(&mut relay, &get(path, "r")).await;
            assert_eq!(line, format!("GET {slash}{rest} HTTP/1.1"));
        }
    });
}

#[test]
fn what_lies_outside_the_exposed_path_reaches_no_target() {
    run(async {
        let mut relay = Relay::new();
        "/mcp".clone_into(&mut relay.shard.0.base_path.borrow_mut());
        for path in [
            "/w/maya",
            "/w/maya/",
            "/w/maya/admin",
            "/w/maya/mcpx",
            "/w/maya/mcp/../admin",
            "/w/maya/mcp/%2e%2e/admin",
            "/.well-known/oauth-protected-resource/w/maya/admin",
        ] {
            let answer = refused(&relay, &get(path, "r")).await;
            assert_eq!(answer, (404, "not_exposed".to_owned()), "{path}");
        }
        assert!(!relay.has_opened());
        for path in ["/w/maya/mcp", "/w/maya/mcp/x?y=../z"] {
            request_line(&mut relay, &get(path, "r")).await;
        }
    });
}

#[test]
fn two_hosts_on_one_connection_keep_apart() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().domain = Some("relay.example".to_owned());
        let mut caller = relay.caller();
        caller.send(get("/a", "maya.relay.example")).await;
        let mut maya = relay.target().await;
        maya.head().await;
        maya.send(OK).await;
        caller.expect(OK).await;
        caller.send(get("/b", "comfy.relay.example")).await;
        let mut comfy = relay.target().await;
        assert!(comfy.head().await.starts_with("GET /b "));
        comfy.send(OK).await;
        caller.expect(OK).await;
        caller.send(get("/c", "maya.relay.example")).await;
        assert!(maya.head().await.starts_with("GET /c "));
    });
}

#[test]
fn the_relay_says_that_it_lives_and_nothing_else() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().domain = Some("relay.example".to_owned());
        let mut caller = relay.caller();
        caller.send(get("/health", "relay.example")).await;
        assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
        caller.expect("{\"status\":\"ok\"}").await;
        let line = request_line(&mut relay, &get("/health", "maya.relay.example")).await;
        assert_eq!(line, "GET /health HTTP/1.1");
    });
}

#[test]
fn a_request_that_was_not_sent_goes_to_the_agent_that_came_back() {
    run(async {
        let mut relay = Relay::new();
        relay.set("maya", Opens::Once(SessionEnd::LinkLost, Generation(2)));
        let mut caller = relay.caller();
        caller.send(post("body")).await;
        let mut target = relay.target().await;
        target.until("body").await;
        target.send(OK).await;
        caller.expect(OK).await;
    });
}

#[test]
fn a_request_that_was_not_sent_outlives_the_loss_of_many_links_in_turn() {
    run(async {
        for (lost, status) in [(16, 200), (64, 200), (65, 503)] {
            let mut relay = Relay::new();
            let often = Opens::Often(SessionEnd::LinkLost, lost, Generation(1));
            relay.set("maya", often);
            let mut caller = relay.caller();
            caller.send(post("body")).await;
            if status == 200 {
                let mut target = relay.target().await;
                target.until("body").await;
                target.send(OK).await;
            }
            let head = caller.head().await;
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{lost}: {head}"
            );
        }
    });
}

#[test]
fn a_target_that_came_back_elsewhere_is_known_by_its_new_address() {
    run(async {
        let mut relay = Relay::new();
        relay.set("maya", Opens::Once(SessionEnd::LinkLost, Generation(2)));
        relay.shard.0.moves_to.set(Some("127.0.0.1:9999"));
        let mut caller = relay.caller();
        caller.send(GET).await;
        let mut target = relay.target().await;
        assert!(target.head().await.contains("\r\nhost: 127.0.0.1:9999\r\n"));
        let moved =
            "HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:9999/mcp/\r\ncontent-length: 0\r\n\r\n";
        target.send(moved).await;
        let head = caller.head().await;
        assert!(
            head.contains("location: http://relay.example/w/maya/mcp/\r\n"),
            "{head}"
        );
    });
}

#[test]
fn a_target_hears_who_asks_and_a_caller_cannot_pretend() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        let spoof =
            "X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nTraceparent: 00-1\r\n\r\n";
        caller.send(GET.replace("\r\n\r\n", "\r\n") + spoof).await;
        let head = relay.target().await.whole_head().await;
        for line in [
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-proto: http",
            "x-forwarded-host: relay.example",
            "traceparent: 00-1",
        ] {
            assert!(head.lines().any(|it| it == line), "{head}");
        }
        assert!(!head.contains("10.0.0.1"), "{head}");

        relay.settings().trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
        let mut caller = relay.caller();
        caller.send(GET.replace("\r\n\r\n", "\r\n") + spoof).await;
        let head = relay.target().await.whole_head().await;
        let line = "x-forwarded-for: 10.0.0.1, 192.0.2.7";
        assert!(head.lines().any(|it| it == line), "{head}");
    });
}
