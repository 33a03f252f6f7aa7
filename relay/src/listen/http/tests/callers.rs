//! Callers with tokens.

use super::*;

fn relay() -> Relay {
    let mut relay = Relay::new();
    relay.settings().takes_tokens = true;
    relay.shard.0.wants_tokens.set(true);
    relay.settings().target_authorization = Some("x-target-authorization".parse().unwrap());
    relay
}

fn with(lines: &str) -> String {
    GET.replace("\r\n\r\n", &format!("\r\n{lines}\r\n\r\n"))
}

#[test]
fn a_caller_without_a_good_token_is_told_how_to_come_back() {
    run(async {
        let mut relay = relay();
        for (lines, status, challenge, word) in [
            ("X: 1", 401, Some("Bearer"), "unauthorized"),
            (
                "Authorization: Basic dTpw",
                401,
                Some("Bearer"),
                "unauthorized",
            ),
            (
                "Authorization: Bearer revoked",
                401,
                Some("Bearer error=\"invalid_token\""),
                "invalid_token",
            ),
            (
                "Authorization: Bearer an agent's",
                403,
                Some("Bearer error=\"insufficient_scope\""),
                "insufficient_scope",
            ),
            ("Authorization: Bearer early", 503, None, "auth_unavailable"),
        ] {
            // The answer does not reveal whether the tunnel exists.
            for tunnel in ["maya", "nobody"] {
                let mut caller = relay.caller();
                caller.send(with(lines).replace("maya", tunnel)).await;
                let head = caller.head().await;
                assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
                let found = head
                    .lines()
                    .find_map(|it| it.strip_prefix("www-authenticate: "));
                assert_eq!(found, challenge, "{lines}");
                let body: serde_json::Value =
                    serde_json::from_str(&caller.until("}").await).unwrap();
                assert_eq!(body["error"], word);
            }
        }
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_tunnel_that_is_not_the_callers_looks_like_none() {
    run(async {
        let mut relay = relay();
        let mut answers = Vec::new();
        for tunnel in ["comfy", "there-is-none"] {
            let mut caller = relay.caller();
            let request =
                with("Authorization: Bearer maya").replace("/w/maya", &format!("/w/{tunnel}"));
            caller.send(request).await;
            let answer = caller.head().await + &caller.until("}").await;
            answers.push(answer.replace(tunnel, ""));
        }
        assert!(answers[0].starts_with("HTTP/1.1 404 "));
        // Equal except for the content length, which depends on the tunnel's name.
        let without_length = |text: &String| {
            let lines = text.lines().filter(|it| !it.starts_with("content-length"));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(without_length(&answers[0]), without_length(&answers[1]));
        assert!(!relay.has_opened());
    });
}

#[test]
fn the_callers_token_stays_here_and_the_targets_own_goes_on() {
    run(async {
        let mut relay = relay();
        let mut caller = relay.caller();
        caller.send(with("Authorization: Bearer maya")).await;
        let mut target = relay.target().await;
        assert!(!target.head().await.contains("authorization"));
        target.send(OK).await;
        caller.expect(OK).await;
        caller
            .send(with(
                "Authorization: Bearer maya\r\nX-Target-Authorization: Bearer t",
            ))
            .await;
        let head = target.head().await;
        assert!(head.contains("\r\nauthorization: Bearer t\r\n"), "{head}");
        assert!(!head.contains("x-target"), "{head}");
    });
}

#[test]
fn without_tokens_of_its_own_the_relay_passes_the_targets() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(with("Authorization: Bearer t")).await;
        let head = relay.target().await.head().await;
        assert!(head.contains("\r\nauthorization: Bearer t\r\n"), "{head}");
    });
}

#[test]
fn a_token_is_looked_at_once_for_a_connection() {
    run(async {
        let mut relay = relay();
        let mut caller = relay.caller();
        caller.send(with("Authorization: Bearer maya")).await;
        let mut target = relay.target().await;
        for _ in 0..3 {
            target.head().await;
            target.send(OK).await;
            caller.expect(OK).await;
            caller.send(with("Authorization: Bearer maya")).await;
        }
        assert_eq!(relay.shard.0.admitted.get(), 1);
        target.head().await;
        target.send(OK).await;
        caller.expect(OK).await;
        // Another token belongs to another caller.
        let request = with("Authorization: Bearer comfy").replace("/w/maya", "/w/comfy");
        caller.send(request).await;
        relay.target().await.head().await;
        assert_eq!(relay.shard.0.admitted.get(), 2);
    });
}

#[test]
fn a_caller_whose_access_is_revoked_is_cut_off_in_the_middle_of_a_stream() {
    run(async {
        let mut relay = relay();
        let (mut caller, ended) = relay.connect();
        caller.send(with("Authorization: Bearer maya")).await;
        let mut target = relay.target().await;
        target.head().await;
        target
            .send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            .await;
        caller.head().await;
        relay.shard.0.revoke("another caller");
        seconds(1).await;
        assert!(!ended.is_finished());
        relay.shard.0.revoke("maya");
        assert!(target.is_reset().await);
        let ended = ended.await.unwrap();
        assert_eq!(ended, Ended::Revoked);
        assert!(ended.is_reset());
        // A new connection is refused.
        let mut caller = relay.caller();
        caller.send(with("Authorization: Bearer revoked")).await;
        assert!(caller.head().await.starts_with("HTTP/1.1 401 "));
    });
}

#[test]
fn two_callers_of_one_connection_never_share_a_session() {
    run(async {
        let mut relay = relay();
        relay.shard.0.wants_tokens.set(false);
        let mut caller = relay.caller();
        caller.send(with("Authorization: Bearer maya")).await;
        let mut first = relay.target().await;
        first.head().await;
        first.send(OK).await;
        caller.expect(OK).await;
        // A caller without a token is another caller.
        caller.send(GET).await;
        relay.target().await.head().await;
    });
}

#[test]
fn a_preflight_needs_no_token() {
    run(async {
        let mut relay = relay();
        relay.settings().origins = Origins(vec!["*".to_owned()]);
        let mut caller = relay.caller();
        let lines = "Origin: https://app.example\r\nAccess-Control-Request-Method: POST";
        caller.send(with(lines).replace("GET", "OPTIONS")).await;
        assert!(caller.head().await.starts_with("HTTP/1.1 204 "));
    });
}

#[test]
fn a_caller_may_see_what_it_may_reach_and_nobody_else_sees_anything() {
    run(async {
        let relay = relay();
        let list = |after: &str, lines: &str| {
            format!("GET /tunnels{after} HTTP/1.1\r\nHost: r\r\n{lines}\r\n")
        };
        let token = "Authorization: Bearer maya\r\n";
        for (after, names) in [("", vec!["maya"]), ("?after=maya", vec![])] {
            let mut caller = relay.caller();
            caller.send(list(after, token)).await;
            let head = caller.head().await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            let body: serde_json::Value =
                serde_json::from_str(&caller.until("null}").await).unwrap();
            let listed: Vec<_> = body["tunnels"].as_array().unwrap().iter().collect();
            let listed: Vec<_> = listed
                .iter()
                .map(|it| it["tunnel_id"].as_str().unwrap())
                .collect();
            assert_eq!(listed, names);
        }
        let mut caller = relay.caller();
        caller.send(list("", "")).await;
        assert!(caller.head().await.starts_with("HTTP/1.1 401 "));

        // Without tokens, only callers on this machine may list tunnels.
        let mut open = Relay::new();
        for (address, status) in [("192.0.2.7:1", 404), ("127.0.0.1:1", 200)] {
            open.peer.source = Source::Peer(address.parse().unwrap());
            let mut caller = open.caller();
            caller
                .send(list("", "").replace("Host: r", "Host: localhost"))
                .await;
            let head = caller.head().await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        }
        // Any sign of an undeclared proxy ends this right: behind it, all callers look local.
        for request in [
            list("", "X-Forwarded-For: 192.0.2.7\r\n").replace("Host: r", "Host: localhost"),
            list("", "Via: 1.1 caddy\r\n").replace("Host: r", "Host: localhost"),
            list("", "CF-Connecting-IP: 192.0.2.7\r\n").replace("Host: r", "Host: localhost"),
            list("", "CDN_Loop: edge\r\n").replace("Host: r", "Host: localhost"),
            list("", ""),
        ] {
            let mut caller = open.caller();
            caller.send(request).await;
            assert!(caller.head().await.starts_with("HTTP/1.1 404 "));
        }
    });
}

#[test]
fn head_is_get_without_a_body_at_the_relays_own_addresses() {
    run(async {
        let mut open = Relay::new();
        open.peer.source = Source::Peer("127.0.0.1:1".parse().unwrap());
        for (path, status) in [
            ("/health", 200),
            ("/tunnels", 200),
            ("/tunnels?after=maya", 200),
            ("/agent", 426),
            ("/other", 404),
        ] {
            let mut answers = Vec::new();
            for method in ["GET", "HEAD"] {
                let mut caller = open.caller();
                let fields = "Host: localhost\r\nConnection: close\r\n";
                caller
                    .send(format!("{method} {path} HTTP/1.1\r\n{fields}\r\n"))
                    .await;
                let head = caller.whole_head().await;
                // hyper may add its own fields in another order.
                let mut lines: Vec<_> = head.lines().map(str::to_owned).collect();
                lines.sort_unstable();
                answers.push((lines, caller.rest().await));
            }
            let start = format!("HTTP/1.1 {status} ");
            let has_status = answers[0].0.iter().any(|line| line.starts_with(&start));
            assert!(has_status, "{path}: {answers:?}");
            assert_eq!(answers[0].0, answers[1].0, "{path}");
            assert!(!answers[0].1.is_empty(), "{path}");
            assert_eq!(answers[1].1, "", "{path}");
        }
    });
}

#[test]
fn a_caller_who_is_refused_has_no_name_looked_up_and_one_answer_for_all() {
    run(async {
        let mut relay = relay();
        relay.settings().domain = Some("relay.example".to_owned());
        let mut answers = Vec::new();
        for token in ["", "Authorization: Bearer revoked\r\n"] {
            for (path, host) in [
                ("/w/maya/mcp", "relay.example"),
                ("/w/nome/mcp", "relay.example"),
                ("/dcc/maya/mcp", "relay.example"),
                ("/dcc/maya/maya/mcp", "relay.example"),
                ("/dcc/nome/nome/mcp", "relay.example"),
                ("/mcp", "maya.relay.example"),
                ("/mcp", "nome.relay.example"),
                ("/tunnels", "relay.example"),
            ] {
                let mut caller = relay.caller();
                let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{token}\r\n");
                caller.send(request).await;
                let answer = caller.until("}").await;
                assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
                answers.push((token, answer));
            }
        }
        answers.dedup();
        assert_eq!(answers.len(), 2, "{answers:?}");
        assert_eq!(relay.shard.0.looked_up.get(), 0);
        assert_eq!(relay.shard.0.admitted.get(), 16);
    });
}
