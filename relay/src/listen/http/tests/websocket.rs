//! Requests for a WebSocket: what they become, and which are refused.

use super::*;

/// What a frontend connection became, with the bytes behind its request.
type Became = Option<(Upgraded<Shard>, Bytes)>;

const HANDSHAKE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// `Sec-WebSocket-Accept` for the key of [`HANDSHAKE`] (RFC 6455, section 1.3).
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn upgrade(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: relay.example\r\n{HANDSHAKE}{lines}\r\n")
}

fn switching(lines: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {ACCEPT}\r\n{lines}\r\n"
    )
}

/// A new caller, and the task that resolves to what the connection became.
fn connect(relay: &Relay) -> (Peer, JoinHandle<Became>) {
    let (near, far) = tokio::io::duplex(SOCKET_BYTES);
    let (gateway, settings) = (relay.shard.clone(), Rc::clone(&relay.settings));
    let end = Rc::<SessionState>::default();
    let stream = CallerStream {
        io: TokioIo::new(near),
        end: Rc::clone(&end),
    };
    let serving = serve(stream, gateway, relay.peer, settings);
    let task = tokio::task::spawn_local(async { serving.await.2 });
    let caller = Peer { io: Some(far), end };
    (caller, task)
}

fn has(head: &str, field: &str) -> bool {
    let mut lines = head.lines();
    lines.any(|line| line.eq_ignore_ascii_case(field))
}

/// Checks that `head` is a `101` for a WebSocket, with `field`.
fn assert_switched(head: &str, field: &str) {
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for field in [
        "connection: upgrade",
        "upgrade: websocket",
        &format!("sec-websocket-accept: {ACCEPT}"),
        field,
    ] {
        assert!(has(head, field), "{field} in {head}");
    }
}

/// Status and error code of the relay's own answer to `request`.
async fn refusal(relay: &Relay, request: &str) -> (u16, String, String) {
    let mut caller = relay.caller();
    caller.send(request).await;
    let head = caller.head().await;
    let body: serde_json::Value = serde_json::from_str(&caller.until("}").await).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body["error"].as_str().unwrap().to_owned(), head)
}

#[test]
fn a_handshake_passes_to_an_http_target_and_back_and_no_byte_behind_it_is_lost() {
    run(async {
        for early in ["", "GET /\" HTTP/1.1\r\n\r\n\u{0}\n", &"x".repeat(20_000)] {
            let mut relay = Relay::new();
            let (mut caller, became) = connect(&relay);
            let lines = "Sec-WebSocket-Protocol: chat, bearer.t\r\n\
                         Sec-WebSocket-Extensions: permessage-deflate\r\nOrigin: http://127.0.0.1\r\n";
            let request =
                upgrade("/w/maya/socket?a=1", lines).replace("relay.example", "127.0.0.1");
            caller.send(request + early).await;
            let mut target = relay.target().await;
            let head = target.whole_head().await;
            assert!(head.starts_with("GET /socket?a=1 HTTP/1.1\r\n"), "{head}");
            for field in [
                "host: 127.0.0.1:8765",
                "origin: http://127.0.0.1:8765",
                "connection: Upgrade",
                "upgrade: websocket",
                "sec-websocket-version: 13",
                "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
                // The relay takes no tokens here, so this one is the target's.
                "sec-websocket-protocol: chat, bearer.t",
                "sec-websocket-extensions: permessage-deflate",
                "x-forwarded-prefix: /w/maya",
            ] {
                assert!(has(&head, field), "{field} in {head}");
            }
            target
                .send(switching("Sec-WebSocket-Extensions: x\r\n") + "first")
                .await;
            let head = caller.whole_head().await;
            assert_switched(&head, "sec-websocket-extensions: x");
            assert!(!head.contains("content-length"), "{head}");
            let Some((Upgraded::Target(to), mut input)) = became.await.unwrap() else {
                panic!("the connection leads to no target");
            };
            assert_eq!(to.ahead, "first");
            // The rest is still in the caller's connection.
            let input = input.split_to(input.len().min(early.len()));
            assert!(early.as_bytes().starts_with(&input), "{}", input.len());
            assert!(target.end.relay_reset.get().is_none());
            drop(to);
            assert!(target.is_reset().await);
            let answered = relay.shard.0.answered.borrow();
            assert_eq!(answered[..], [(101, None)]);
            assert_eq!(relay.shard.0.noted.borrow()[..], [(Some(101), None)]);
        }
    });
}

#[test]
fn behind_any_other_answer_the_next_request_follows() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, became) = connect(&relay);
        let health = "GET /health HTTP/1.1\r\nHost: relay.example\r\n\r\n";
        caller
            .send(upgrade("/w/maya/", "") + health + &upgrade("/w/maya/2", "") + "in")
            .await;
        let mut target = relay.target().await;
        target.head().await;
        seconds(1).await;
        let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno";
        target.send(answer).await;
        caller.expect(answer).await;
        assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
        caller.expect("{\"status\":\"ok\"}").await;
        // The same connection to the target serves the second handshake.
        assert!(target.head().await.starts_with("GET /2 "));
        target.send(switching("")).await;
        assert!(caller.head().await.starts_with("HTTP/1.1 101 "));
        let (_, input) = became.await.unwrap().unwrap();
        assert_eq!(input, "in");
    });
}

#[test]
fn a_caller_that_leaves_during_the_handshake_resets_the_session() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, became) = connect(&relay);
        caller.send(upgrade("/w/maya/", "") + "early").await;
        let mut target = relay.target().await;
        target.head().await;
        caller.close();
        assert!(became.await.unwrap().is_none());
        assert!(target.is_reset().await);
    });
}

#[test]
fn an_answer_that_switches_to_another_protocol_is_a_502() {
    run(async {
        for answer in [
            switching("").replace("upgrade: websocket", "upgrade: h2c"),
            switching("").replace("connection: upgrade\r\n", ""),
        ] {
            let mut relay = Relay::new();
            let mut caller = relay.caller();
            caller.send(upgrade("/w/maya/", "")).await;
            let mut target = relay.target().await;
            target.head().await;
            target.send(answer).await;
            assert!(caller.head().await.starts_with("HTTP/1.1 502 "));
            assert!(target.is_reset().await);
        }
    });
}

#[test]
fn a_request_that_is_no_clean_handshake_reaches_no_target() {
    run(async {
        let mut relay = Relay::new();
        let whole = upgrade("/w/maya/", "");
        for (request, status) in [
            (whole.replace("GET ", "POST "), 501),
            (whole.replace("GET ", "OPTIONS "), 501),
            (whole.replace("HTTP/1.1", "HTTP/1.0"), 501),
            (upgrade("/w/maya/", "Content-Length: 2\r\n") + "ab", 501),
            (
                upgrade("/w/maya/", "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
                501,
            ),
            (whole.replace("keep-alive, Upgrade", "keep-alive"), 400),
        ] {
            let (refused, word, head) = refusal(&relay, &request).await;
            assert_eq!(refused, status, "{request}");
            let expected = ["bad_request", "upgrade_unsupported"];
            assert_eq!(word, expected[usize::from(status == 501)], "{request}");
            assert_eq!(head.contains("connection: close"), status == 501, "{head}");
        }
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_target_of_bytes_takes_a_websocket_at_its_tunnels_own_url() {
    run(async {
        let mut relay = Relay::new();
        relay.shard.0.is_tcp.set(true);
        for path in ["/w/maya", "/w/maya/", "/tunnel/maya?x", "/tunnel/maya/?x"] {
            let (mut caller, became) = connect(&relay);
            let lines = "Sec-WebSocket-Protocol: bearer.t, binary, chat\r\n";
            caller.send(upgrade(path, lines) + "\u{2}in").await;
            let head = caller.whole_head().await;
            assert_switched(&head, "sec-websocket-protocol: binary");
            let Some((
                Upgraded::Caller {
                    tunnel, address, ..
                },
                input,
            )) = became.await.unwrap()
            else {
                panic!("{path} leads to no payload");
            };
            assert_eq!((tunnel.as_str(), &input[..]), ("maya", &b"\x02in"[..]));
            assert_eq!(address, relay.peer.source.address().ip());
        }
        assert!(!relay.has_opened());
        // Another path is one of the target's own.
        let mut caller = relay.caller();
        caller.send(upgrade("/w/maya/x", "")).await;
        assert!(relay.target().await.head().await.starts_with("GET /x "));
    });
}

#[test]
fn a_handshake_that_lost_its_upgrade_reaches_no_target_of_bytes() {
    run(async {
        let mut relay = Relay::new();
        relay.shard.0.is_tcp.set(true);
        let stripped = |path: &str| {
            let request = upgrade(path, "");
            request.replace(
                "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
                "",
            )
        };
        for path in ["/w/maya", "/tunnel/maya/?x"] {
            let (status, word, _) = refusal(&relay, &stripped(path)).await;
            assert_eq!((status, &word[..]), (426, "upgrade_required"), "{path}");
        }
        assert!(!relay.has_opened());
        let mut caller = relay.caller();
        caller.send(stripped("/w/maya/x")).await;
        assert!(relay.target().await.head().await.starts_with("GET /x "));
    });
}

#[test]
fn every_check_of_a_caller_comes_before_the_101() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().takes_tokens = true;
        relay.shard.0.wants_tokens.set(true);
        relay.shard.0.is_tcp.set(true);
        relay.set("off", Opens::Not(SessionEnd::TunnelOffline));
        let bearer = |token: &str| format!("Sec-WebSocket-Protocol: bearer.{token}\r\n");
        let origin = "Origin: https://evil.example\r\n".to_owned();
        let version = upgrade("/w/maya/", &bearer("maya")).replace("Version: 13", "Version: 8");
        let key = upgrade("/w/maya/", &bearer("maya")).replace("dGhl", "");
        for (request, status, word) in [
            (upgrade("/w/maya/", ""), 401, "unauthorized"),
            (
                upgrade("/w/maya/", &bearer("revoked")),
                401,
                "invalid_token",
            ),
            (
                upgrade("/w/maya?access_token=revoked", ""),
                401,
                "invalid_token",
            ),
            (upgrade("/w/comfy/", &bearer("maya")), 404, "unknown_tunnel"),
            (upgrade("/w/off/", &bearer("off")), 503, "tunnel_offline"),
            (
                upgrade("/w/maya/", &(origin + &bearer("maya"))),
                403,
                "origin_not_allowed",
            ),
            (version, 426, "upgrade_required"),
            (key, 400, "bad_request"),
        ] {
            let (refused, found, head) = refusal(&relay, &request).await;
            assert_eq!((refused, &found[..]), (status, word), "{request}");
            assert_eq!(has(&head, "sec-websocket-version: 13"), status == 426);
        }
        relay.shard.0.draining.set(true);
        let (refused, found, head) = refusal(&relay, &upgrade("/w/maya/", &bearer("maya"))).await;
        assert_eq!((refused, &found[..]), (503, "relay_stopping"));
        assert!(has(&head, "retry-after: 1"), "{head}");
        assert!(!relay.has_opened());
    });
}

#[test]
fn a_browsers_token_lets_it_in_and_reaches_no_target() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().takes_tokens = true;
        relay.shard.0.wants_tokens.set(true);
        for (path, lines, protocol) in [
            (
                "/w/maya/s",
                "Sec-WebSocket-Protocol: bearer.maya, chat\r\n",
                Some("chat"),
            ),
            ("/w/maya/s", "Sec-WebSocket-Protocol: bearer.maya\r\n", None),
            ("/w/maya/s?access_token=maya", "", None),
            ("/w/maya/s?access_token=m%61ya", "", None),
        ] {
            let (mut caller, _became) = connect(&relay);
            caller.send(upgrade(path, lines)).await;
            let head = relay.target().await.whole_head().await;
            assert!(head.starts_with("GET /s HTTP/1.1\r\n"), "{head}");
            assert!(
                !head.contains("bearer") && !head.contains("access_token"),
                "{head}"
            );
            let sent = head
                .lines()
                .find_map(|it| it.strip_prefix("sec-websocket-protocol: "));
            assert_eq!(sent, protocol, "{head}");
        }
        // In other requests, a token in the query authenticates no caller.
        let request = "GET /w/maya/s?access_token=maya HTTP/1.1\r\nHost: relay.example\r\n\r\n";
        assert_eq!(refusal(&relay, request).await.0, 401);
    });
}

#[test]
fn an_agents_link_needs_no_token_and_comes_from_no_page() {
    run(async {
        let mut relay = Relay::new();
        relay.shard.0.wants_tokens.set(true);
        relay.settings().takes_tokens = true;
        let v1 = "Sec-WebSocket-Protocol: x, tieline.v1\r\n";
        let (mut caller, became) = connect(&relay);
        caller.send(upgrade("/agent", v1) + "hello").await;
        let head = caller.whole_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(has(&head, "sec-websocket-protocol: tieline.v1"), "{head}");
        let Some((Upgraded::Link { .. }, input)) = became.await.unwrap() else {
            panic!("the connection is no link");
        };
        assert_eq!(input, "hello");
        assert!(relay.shard.0.noted.borrow().is_empty());

        let plain = "GET /agent HTTP/1.1\r\nHost: relay.example\r\n\r\n".to_owned();
        let origin = "Origin: http://127.0.0.1\r\n";
        let page =
            upgrade("/agent", &(v1.to_owned() + origin)).replace("relay.example", "127.0.0.1");
        for (request, status) in [
            (plain, 426),
            (
                upgrade("/agent", v1).replace("Version: 13", "Version: 7"),
                426,
            ),
            (upgrade("/agent", ""), 400),
            (
                upgrade("/agent", "Sec-WebSocket-Protocol: tieline.v2\r\n"),
                400,
            ),
            (page, 403),
        ] {
            assert_eq!(refusal(&relay, &request).await.0, status, "{request}");
        }
        assert_eq!(relay.shard.0.admitted.get(), 0);
    });
}

#[test]
fn a_relay_for_agents_of_its_machine_takes_none_from_a_proxy_that_it_does_not_know() {
    run(async {
        let mut relay = Relay::new();
        relay.peer.source = Source::Peer("127.0.0.1:40000".parse().unwrap());
        relay.settings().trusts_this_machine = true;
        let v1 = "Sec-WebSocket-Protocol: tieline.v1\r\n";
        let forwarded = "X-Forwarded-For: 192.0.2.9\r\n".to_owned() + v1;
        let request = |lines: &str| upgrade("/agent", lines).replace("relay.example", "127.0.0.1");
        assert_eq!(
            refusal(&relay, &request(&forwarded)).await.1,
            "unknown_proxy"
        );
        let (mut caller, became) = connect(&relay);
        caller.send(request(v1)).await;
        assert!(caller.head().await.starts_with("HTTP/1.1 101 "));
        assert!(became.await.unwrap().is_some());
    });
}

#[test]
fn a_trusted_proxy_that_does_not_tell_an_agents_address_makes_no_agent_local() {
    run(async {
        let mut relay = Relay::new();
        relay.peer.source = Source::Peer("127.0.0.1:40000".parse().unwrap());
        relay.settings().trusts_this_machine = true;
        relay.settings().trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        let v1 = "Sec-WebSocket-Protocol: tieline.v1\r\n";
        let request = |lines: &str| upgrade("/agent", &(lines.to_owned() + v1));
        for lines in ["", "X-Forwarded-For: 127.0.0.1\r\n"] {
            let (status, word, _) = refusal(&relay, &request(lines)).await;
            assert_eq!((status, &*word), (403, "unknown_proxy"), "{lines:?}");
        }
        let (mut caller, became) = connect(&relay);
        caller.send(request("X-Forwarded-For: 192.0.2.9\r\n")).await;
        assert!(caller.head().await.starts_with("HTTP/1.1 101 "));
        let Some((Upgraded::Link { source }, _)) = became.await.unwrap() else {
            panic!("the connection is no link");
        };
        assert_eq!(source.address().ip().to_string(), "192.0.2.9");
    });
}

#[test]
fn a_header_in_front_of_a_connection_makes_no_agent_local() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().trusts_this_machine = true;
        let here = "127.0.0.1:40000".parse().unwrap();
        let v1 = "Sec-WebSocket-Protocol: tieline.v1\r\n";
        for trusted in ["127.0.0.1/32", "10.0.0.1/32"] {
            relay.settings().trusted_proxies = vec![trusted.parse().unwrap()];
            for source in [Source::Hidden(here), Source::Announced(here)] {
                relay.peer.source = source;
                let (status, word, _) = refusal(&relay, &upgrade("/agent", v1)).await;
                assert_eq!((status, &*word), (403, "unknown_proxy"), "{source:?}");
            }
        }
    });
}

#[test]
fn a_revoked_caller_gets_no_101() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().takes_tokens = true;
        let (mut caller, became) = connect(&relay);
        caller
            .send(upgrade("/w/maya/", "Authorization: Bearer maya\r\n"))
            .await;
        let mut target = relay.target().await;
        target.head().await;
        relay.shard.0.revoke("maya");
        assert!(became.await.unwrap().is_none());
        assert!(target.is_reset().await);
    });
}
