//! Requests that two parsers could read differently: they are refused, or passed on in one unambiguous form.

use super::*;

/// What a target receives of `request` if it answers every head, and the statuses that the
/// caller receives.
async fn seen(request: &str) -> (String, Vec<u16>) {
    let mut relay = Relay::new();
    let (mut caller, _) = relay.connect();
    let seen = Rc::new(RefCell::new(String::new()));
    let target = tokio::task::spawn_local({
        let seen = Rc::clone(&seen);
        async move {
            while let Some(mut target) = relay.opened.recv().await {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = target.io().read(&mut bytes).await {
                    let text = str::from_utf8(&bytes[..count]).unwrap().to_owned();
                    // Counts heads: in these tests only the last chunk of a body has another empty line.
                    let heads =
                        text.matches("\r\n\r\n").count() - text.matches("0\r\n\r\n").count();
                    seen.borrow_mut().push_str(&text);
                    for _ in 0..heads {
                        target.send("HTTP/1.1 204 No Content\r\n\r\n").await;
                    }
                }
            }
        }
    });
    caller.send(request).await;
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), caller.io().read_to_end(&mut bytes)).await;
    target.abort();
    let text = String::from_utf8(bytes).unwrap();
    let statuses = text
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| answer[..3].parse().unwrap());
    let seen = without_forwarded(&seen.borrow());
    (seen, statuses.collect())
}

fn head(lines: &str) -> String {
    format!("POST /w/maya/ HTTP/1.1\r\nHost: r\r\n{lines}\r\n\r\n")
}

const CHUNK: &str = "3\r\nabc\r\n0\r\n\r\n";

const SMUGGLED: &str = "GET /w/maya/smuggled HTTP/1.1\r\nHost: r\r\n\r\n";

#[test]
fn what_is_ambiguous_is_refused_and_reaches_no_target() {
    run(async {
        for (request, status) in [
            (head("Content-Length: 3\r\nContent-Length: 4") + "abc", 400),
            (head("Content-Length: 3\r\nContent-Length: 3") + "abc", 400),
            (head("Content-Length: 3, 4") + "abc", 400),
            (
                head("Content-Length: 30\r\nTransfer-Encoding: chunked") + CHUNK + SMUGGLED,
                400,
            ),
            (
                head("Transfer-Encoding: chunked\r\nContent-Length: 3") + CHUNK + SMUGGLED,
                400,
            ),
            (head("Content-Length: 3").replace("\r\n", "\n") + "abc", 400),
            (head("X: a").replace("X: a\r", "X: a") + SMUGGLED, 400),
            (head("Content-Length: +3") + "abc", 400),
            (head("Content-Length: 0x3") + "abc", 400),
            (head("Content-Length: 99999999999999999999") + "abc", 400),
            (head("Content-Length : 3") + "abc", 400),
            (head("X: a\r\n b") + SMUGGLED, 400),
            (head(" X: a") + SMUGGLED, 400),
            (head("X: a\0b") + SMUGGLED, 400),
            (head("X: a\rb: c") + SMUGGLED, 400),
            (head("Transfer-Encoding: gzip") + SMUGGLED, 400),
            (head("Transfer-Encoding: chunked, gzip") + SMUGGLED, 400),
            (head("Transfer-Encoding: gzip, chunked") + "0\r\n\r\n", 501),
            (
                head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked") + "0\r\n\r\n",
                501,
            ),
            (head("Transfer-Encoding: \x0bchunked") + "0\r\n\r\n", 400),
            (head("Host: other"), 400),
            ("POST /w/maya/ HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("GET /w/maya/ HTTP/1.1 \r\nHost: r\r\n\r\n".to_owned(), 400),
            ("GET /w/maya/ x HTTP/1.1\r\nHost: r\r\n\r\n".to_owned(), 400),
            ("GET /w/maya/ HTTP/2.0\r\nHost: r\r\n\r\n".to_owned(), 400),
            (
                "POST /w/maya/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
                400,
            ),
            (
                "CONNECT maya:80 HTTP/1.1\r\nHost: r\r\n\r\n".to_owned(),
                501,
            ),
            (head(&format!("X: {}", "x".repeat(70_000))), 431),
            (head(&"X: 1\r\n".repeat(200)), 431),
            (GET.replace("mcp", &"x".repeat(70_000)), 414),
        ] {
            let (seen, statuses) = seen(&request).await;
            let start = &request[..request.len().min(120)];
            assert_eq!(seen, "", "{start}");
            assert_eq!(statuses.first(), Some(&status), "{start}");
            let others = statuses.iter().skip(1).any(|status| *status < 400);
            assert!(!others, "{start} {statuses:?}");
        }
    });
}

#[test]
fn a_second_reading_is_refused_before_its_head_has_ended() {
    run(async {
        for lines in [
            "Content-Length: 3\r\nTransfer-Encoding:",
            "Transfer-Encoding: chunked\r\nContent-Length:",
            "Content-Length: 3\r\nContent-Length:",
            "X: a\n",
        ] {
            let request = format!("POST /w/maya/ HTTP/1.1\r\nHost: r\r\n{lines}");
            for cut in [request.len() - 1, request.len()] {
                let mut relay = Relay::new();
                let mut caller = relay.caller();
                caller.send(&request[..cut]).await;
                caller.send(&request[cut..]).await;
                let head = caller.head().await;
                assert!(head.starts_with("HTTP/1.1 400 "), "{lines:?} {head}");
                assert!(caller.rest().await.ends_with('}'));
                assert!(!relay.has_opened());
            }
        }
    });
}

#[test]
fn a_second_reading_behind_a_request_does_not_harm_that_one() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller.send(GET).await;
        let mut target = relay.target().await;
        target.head().await;
        // The relay reads ahead of hyper, to detect a disconnect of the caller.
        for piece in ["GET /w/maya/ HTTP/1.1\n", "Host: r\r\n\r\n", SMUGGLED] {
            caller.send(piece).await;
            tokio::task::yield_now().await;
        }
        target.send(OK).await;
        caller.expect(OK).await;
        assert!(caller.head().await.starts_with("HTTP/1.1 400 "));
        assert!(caller.rest().await.contains(r#""error":"bad_request""#));
        assert!(!relay.has_opened());
    });
}

#[test]
fn the_longest_head_of_an_answer_does_not_depend_on_how_it_comes() {
    run(async {
        let (start, end) = ("HTTP/1.1 200 OK\r\nX: ", "\r\nContent-Length: 0\r\n\r\n");
        for (over, status) in [(0, " 200 "), (1, " 502 ")] {
            let len = HTTP_BUFFER_BYTES_MAX + over - start.len() - end.len();
            let head = format!("{start}{}{end}", "x".repeat(len));
            for piece in [head.len(), 1000] {
                let mut relay = Relay::new();
                let mut caller = relay.caller();
                caller.send(GET).await;
                let mut target = relay.target().await;
                target.head().await;
                for bytes in head.as_bytes().chunks(piece) {
                    // The relay may refuse an answer that is too long before its end.
                    let _refused = target.io().write_all(bytes).await;
                }
                let head = caller.head().await;
                assert!(head[..16].contains(status), "{piece} {}", &head[..16]);
            }
        }
    });
}

#[test]
fn connection_cannot_strip_what_frames_a_message() {
    run(async {
        let lines = "Connection: Content-Length, Host\r\nContent-Length: 3";
        let (seen, statuses) = seen(&(head(lines) + "abc" + SMUGGLED)).await;
        assert!(seen.contains(&format!("host: {AUTHORITY}\r\n")), "{seen}");
        assert!(seen.contains("content-length: 3\r\n"), "{seen}");
        assert!(
            seen.contains("\r\n\r\nabcGET /smuggled HTTP/1.1\r\n"),
            "{seen}"
        );
        assert_eq!(statuses, [204, 204]);
    });
}

#[test]
fn a_malformed_chunk_aborts_the_request_at_the_target() {
    run(async {
        for chunk in [
            "zz\r\n",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "3;a\nb\r\nabc\r\n",
            "-1\r\n",
        ] {
            let mut relay = Relay::new();
            let mut caller = relay.caller();
            caller.send(head("Transfer-Encoding: chunked")).await;
            let mut target = relay.target().await;
            target.head().await;
            caller.send(chunk).await;
            let seen = target.rest().await;
            assert!(!seen.ends_with("0\r\n\r\n"), "{chunk:?} {seen}");
            assert!(
                caller.head().await.starts_with("HTTP/1.1 400 "),
                "{chunk:?}"
            );
        }
    });
}

#[test]
fn nothing_is_read_behind_a_coding_that_others_may_read_in_another_way() {
    run(async {
        let hidden = "GET /w/maya/hidden HTTP/1.1\r\nHost: r\r\n\r\n";
        for coding in ["gzip, chunked", "chunked, chunked", "identity, chunked"] {
            let request = head(&format!("Transfer-Encoding: {coding}")) + "0\r\n\r\n" + hidden;
            assert_eq!(seen(&request).await, (String::new(), vec![501]), "{coding}");
        }
    });
}

#[test]
fn neither_side_speaks_for_a_proxy() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller
            .send(
                "GET /w/maya/mcp HTTP/1.1\r\nHost: relay.example\r\nX_Forwarded_For: 10.0.0.1\r\n\
                 Proxy: http://evil.example\r\nX-Original-URL: /admin\r\nx_custom: kept\r\n\r\n",
            )
            .await;
        let mut target = relay.target().await;
        assert_eq!(
            target.head().await,
            "GET /mcp HTTP/1.1\r\nhost: 127.0.0.1:8765\r\nx_custom: kept\r\n\r\n"
        );
        target
            .send(
                "HTTP/1.1 200 OK\r\nx-accel-redirect: /secret\r\nx-sendfile: /etc/passwd\r\n\
                 x-accel-buffering: no\r\ncontent-length: 0\r\n\r\n",
            )
            .await;
        let expected = "HTTP/1.1 200 OK\r\nx-accel-buffering: no\r\ncontent-length: 0\r\n\r\n";
        caller.expect(expected).await;
    });
}
