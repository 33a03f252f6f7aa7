//! Requests as the target receives them, and answers as the caller receives them.

use super::*;

#[test]
fn a_request_reaches_the_target_under_the_targets_own_name() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller
            .send(
                "POST /w/maya/mcp?a=%20b HTTP/1.1\r\nHost: relay.example\r\n\
                 Mcp-Param-X: 1\r\nAuthorization: Bearer t\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
                 Content-Length: 2\r\n\r\nhi",
            )
            .await;
        let mut target = relay.target().await;
        assert_eq!(
            target.head().await,
            "POST /mcp?a=%20b HTTP/1.1\r\nhost: 127.0.0.1:8765\r\nmcp-param-x: 1\r\n\
             authorization: Bearer t\r\ncontent-length: 2\r\n\r\n"
        );
        target.expect("hi").await;
    });
}

#[test]
fn the_path_passes_byte_by_byte() {
    run(async {
        for (url, path) in [
            ("/w/maya", "/"),
            ("/w/maya?x", "/?x"),
            ("/w/maya/", "/"),
            ("/w/Maya//a/../b%2F;c?d=/w/e", "//a/../b%2F;c?d=/w/e"),
            ("http://r/w/maya/x?y", "/x?y"),
        ] {
            let mut relay = Relay::new();
            relay
                .caller()
                .send(format!("GET {url} HTTP/1.1\r\nHost: r\r\n\r\n"))
                .await;
            let mut caller = relay.caller();
            caller
                .send(format!("GET {url} HTTP/1.1\r\nHost: r\r\n\r\n"))
                .await;
            let mut target = relay.target().await;
            assert!(
                target
                    .head()
                    .await
                    .starts_with(&format!("GET {path} HTTP/1.1\r\n"))
            );
        }
    });
}

#[test]
fn an_answer_passes_with_status_reason_headers_and_encoded_bytes() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        let body = [0x1f, 0x8b, 0x08, 0x00, 0xff];
        target
            .send("HTTP/1.1 299 Quite Fine\r\nServer: x\r\nContent-Encoding: gzip\r\n")
            .await;
        target
            .send("Keep-Alive: timeout=5\r\nContent-Length: 5\r\n\r\n")
            .await;
        target.send(body).await;
        caller
            .expect(
                "HTTP/1.1 299 Quite Fine\r\nserver: x\r\ncontent-encoding: gzip\r\n\
                 content-length: 5\r\n\r\n",
            )
            .await;
        caller.expect(body).await;
        assert_eq!(*relay.shard.0.answered.borrow(), [(299, None)]);
    });
}

#[test]
fn a_chunked_request_arrives_byte_exact_and_as_it_comes() {
    run(async {
        for method in ["POST", "GET"] {
            let mut relay = Relay::new();
            let mut caller = relay.caller();
            caller
                .send(format!(
                    "{method} /w/maya/ HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n"
                ))
                .await;
            let mut target = relay.target().await;
            assert!(
                target
                    .head()
                    .await
                    .ends_with("\r\ntransfer-encoding: chunked\r\n\r\n")
            );
            for payload in ["first", "second"] {
                let chunk = format!("{:X}\r\n{payload}\r\n", payload.len());
                caller.send(&chunk).await;
                target.expect(&chunk).await;
            }
            caller.send("0\r\n\r\n").await;
            target.expect("0\r\n\r\n").await;
            target.send(OK).await;
            caller.expect(OK).await;
        }
    });
}

#[test]
fn every_event_of_a_stream_leaves_at_once() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
        target.send(head).await;
        target.send("transfer-encoding: chunked\r\n\r\n").await;
        let before = tokio::time::Instant::now();
        caller.expect(head).await;
        caller.expect("transfer-encoding: chunked\r\n\r\n").await;
        for event in ["data: 1\n\n", "data: 2\n\n", ": still here\n\n"] {
            let chunk = format!("{:X}\r\n{event}\r\n", event.len());
            target.send(&chunk).await;
            caller.expect(&chunk).await;
        }
        assert_eq!(before.elapsed(), Duration::ZERO);
        target.send("0\r\n\r\n").await;
        caller.expect("0\r\n\r\n").await;
    });
}

#[test]
fn trailers_pass_both_ways() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller
            .send(
                "POST /w/maya/ HTTP/1.1\r\nHost: r\r\nTE: trailers, deflate\r\nConnection: TE\r\n\
                 Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n",
            )
            .await;
        let mut target = relay.target().await;
        let head = target.head().await;
        for line in ["trailer: X-Sum", "te: trailers", "connection: te"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
        }
        target.expect("2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n").await;
        target
            .send(
                "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nok\r\n0\r\nX-Sum: 8\r\n\r\n",
            )
            .await;
        caller.head().await;
        caller.expect("2\r\nok\r\n0\r\nx-sum: 8\r\n\r\n").await;
    });
}

#[test]
fn a_redirect_and_a_cookie_never_name_the_private_address() {
    run(async {
        let mut relay = Relay::new();
        let answer = "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:8765/mcp/\r\n\
                      Set-Cookie: s=1; Path=/\r\nContent-Length: 0\r\n\r\n";
        let head = relay.answer_to(GET, answer, "\r\n\r\n").await;
        assert!(
            head.contains("location: http://relay.example/w/maya/mcp/\r\n"),
            "{head}"
        );
        assert!(head.contains("set-cookie: s=1; Path=/w/maya\r\n"), "{head}");
        assert!(!head.contains("8765"), "{head}");
    });
}

#[test]
fn an_answer_without_a_body_has_none() {
    run(async {
        for (method, answer, passed) in [
            (
                "HEAD",
                "200 OK\r\ncontent-length: 99",
                "200 OK\r\ncontent-length: 99",
            ),
            ("HEAD", "200 OK\r\ntransfer-encoding: chunked", "200 OK"),
            ("DELETE", "204 No Content", "204 No Content"),
            (
                "GET",
                "304 Not Modified\r\netag: \"1\"",
                "304 Not Modified\r\netag: \"1\"",
            ),
            (
                "OPTIONS",
                "204 No Content\r\nallow: GET",
                "204 No Content\r\nallow: GET",
            ),
        ] {
            let mut relay = Relay::new();
            let mut caller = relay.caller();
            let request = format!("{method} /w/maya/ HTTP/1.1\r\nHost: r\r\n\r\n");
            caller.send(&request).await;
            let mut target = relay.target().await;
            assert!(target.head().await.starts_with(method));
            target.send(format!("HTTP/1.1 {answer}\r\n\r\n")).await;
            assert_eq!(caller.head().await, format!("HTTP/1.1 {passed}\r\n\r\n"));
            // Both connections serve the next request.
            caller.send(GET).await;
            target.head().await;
            target.send(OK).await;
            caller.expect(OK).await;
            assert!(!relay.has_opened());
        }
    });
}

#[test]
fn a_caller_of_http_1_0_is_served() {
    run(async {
        let mut relay = Relay::new();
        let (mut caller, ended) = relay.connect();
        caller.send("GET /w/maya/ HTTP/1.0\r\n\r\n").await;
        let mut target = relay.target().await;
        let head = target.head().await;
        assert_eq!(head, format!("GET / HTTP/1.1\r\nhost: {AUTHORITY}\r\n\r\n"));
        target
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        target.send("2\r\nok\r\n0\r\n\r\n").await;
        assert_eq!(caller.rest().await, "HTTP/1.0 200 OK\r\n\r\nok");
        assert_eq!(ended.await.unwrap(), Ended::Closed);
    });
}

#[test]
fn a_target_of_http_1_0_is_understood() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        target.send("HTTP/1.0 200 OK\r\n\r\nto the end").await;
        caller
            .expect("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        caller.expect("A\r\nto the end\r\n").await;
        target.finish().await;
        caller.expect("0\r\n\r\n").await;
    });
}

#[test]
fn connections_stay_open_on_both_sides() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(post("1")).await;
        let mut target = relay.target().await;
        for _ in 0..3 {
            target.head().await;
            target.expect("1").await;
            target.send(OK).await;
            caller.expect(OK).await;
            caller.send(post("1")).await;
        }
        target.head().await;
        assert!(!relay.has_opened());
    });
}

#[test]
fn two_tunnels_on_one_connection_keep_apart() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        let ask = |tunnel: &str| format!("GET /w/{tunnel}/ HTTP/1.1\r\nHost: r\r\n\r\n");
        let mut targets = Vec::new();
        for tunnel in ["maya", "comfy"] {
            caller.send(ask(tunnel)).await;
            targets.push(relay.target().await);
            targets.last_mut().unwrap().head().await;
            let answer = OK.replace("ok", &tunnel[..2]);
            targets.last_mut().unwrap().send(&answer).await;
            caller.expect(&answer).await;
        }
        for (tunnel, target) in ["maya", "comfy"].iter().zip(&mut targets) {
            caller.send(ask(tunnel)).await;
            target.head().await;
            target.send(OK).await;
            caller.expect(OK).await;
        }
        assert!(!relay.has_opened());
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(post("a") + &post("b")).await;
        let mut target = relay.target().await;
        for body in ["a", "b"] {
            target.head().await;
            target.expect(body).await;
            target.send(OK.replace("ok", &body.repeat(2))).await;
        }
        caller
            .expect(OK.replace("ok", "aa") + &OK.replace("ok", "bb"))
            .await;
    });
}

#[test]
fn an_answer_to_a_slow_request_waits_as_long_as_the_target_does() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        seconds(3600).await;
        target.send(OK).await;
        caller.expect(OK).await;
    });
}

#[test]
fn a_big_body_passes_both_ways_unchanged() {
    run(async {
        let size = 4 * 1024 * 1024;
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        let chunk: Vec<u8> = (0..=255).cycle().take(size).collect();
        let head = format!("POST /w/maya/ HTTP/1.1\r\nHost: r\r\nContent-Length: {size}\r\n\r\n");
        let (sent, mut target) = (chunk.clone(), None);
        let upload = async {
            caller.send(head).await;
            caller.send(&sent).await;
        };
        let download = async {
            let target = target.insert(relay.target().await);
            target.head().await;
            let mut received = vec![0; size];
            target.io().read_exact(&mut received).await.unwrap();
            assert!(received == sent);
        };
        tokio::join!(upload, download);
        let target = target.as_mut().unwrap();
        let answer = async {
            target
                .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            target.send(format!("{size:x}\r\n")).await;
            target.send(&chunk).await;
            target.send("\r\n0\r\n\r\n").await;
        };
        let read = async {
            caller.head().await;
            let mut received = Vec::new();
            loop {
                let length = caller.until("\r\n").await;
                let length = usize::from_str_radix(length.trim_end(), 16).unwrap();
                let mut bytes = vec![0; length];
                caller.io().read_exact(&mut bytes).await.unwrap();
                caller.expect("\r\n").await;
                received.extend(bytes);
                if length == 0 {
                    break;
                }
            }
            assert!(received == chunk);
        };
        tokio::join!(answer, read);
    });
}
