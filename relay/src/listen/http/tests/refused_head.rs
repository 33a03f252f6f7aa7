//! Heads that hyper refuses, and heads that hyper accepts only after the scanner has rewritten them.

use super::*;

#[test]
fn a_head_that_cannot_be_read_is_refused_in_json_and_noted() {
    run(async {
        let long = format!("GET /w/maya/ HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(70_000));
        let long_url = format!(
            "GET /w/maya/{} HTTP/1.1\r\nHost: r\r\n\r\n",
            "x".repeat(70_000)
        );
        let long_method = "X".repeat(70_000);
        for (request, status, word) in [
            (
                "GET /w/maya/ HTTP/1.1\r\nbad name: x\r\n\r\n",
                400,
                "bad_request",
            ),
            (
                "GET /w/maya/\u{7f} HTTP/1.1\r\nHost: r\r\n\r\n",
                400,
                "bad_request",
            ),
            ("G\"T / HTTP/1.1\r\n\r\n", 400, "bad_request"),
            ("GET / HTTP/9.9\r\n\r\n", 400, "bad_request"),
            ("GET / HTTP/1.1\nHost: r\n\n", 400, "bad_request"),
            (&long, 431, "head_too_large"),
            (&long_url, 414, "uri_too_long"),
            (&long_method, 414, "uri_too_long"),
        ] {
            let before = "GET /health HTTP/1.1\r\nHost: r\r\n\r\n";
            for start in ["", before] {
                let relay = Relay::new();
                let (mut caller, ended) = relay.connect();
                caller.send(format!("{start}{request}")).await;
                if !start.is_empty() {
                    assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
                    caller.until("}").await;
                }
                let head = caller.whole_head().await;
                let about = &request[..request.len().min(40)];
                assert!(
                    head.starts_with(&format!("HTTP/1.1 {status} ")),
                    "{about} {head}"
                );
                assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
                assert!(head.contains("\r\nvary: Origin\r\n"), "{head}");
                let body = caller.rest().await;
                let refusal: serde_json::Value = serde_json::from_str(&body).unwrap();
                assert_eq!(refusal["error"], word);
                assert!(!refusal["message"].as_str().unwrap().is_empty());
                assert_eq!(ended.await.unwrap(), Ended::Malformed);
                let shard = &relay.shard.0;
                assert_eq!(shard.answered.borrow().last(), Some(&(status, Some(word))));
                assert_eq!(*shard.noted.borrow(), [(Some(status), Some(word))]);
            }
        }
    });
}

#[test]
fn a_refused_head_request_gets_the_head_of_the_answer_to_get() {
    run(async {
        let long = format!(" / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(70_000));
        let long_url = format!(" /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
        for rest in [
            " / HTTP/1.1\r\nHost: r\r\nbad name: x\r\n\r\n",
            " / HTTP/1.1\nHost: r\n\n",
            " / HTTP/9.9\r\n\r\n",
            &long,
            &long_url,
        ] {
            let mut answers = Vec::new();
            for method in ["GET", "HEAD"] {
                let relay = Relay::new();
                let mut caller = relay.caller();
                caller.send(format!("{method}{rest}")).await;
                answers.push((caller.whole_head().await, caller.rest().await));
            }
            let about = &rest[..rest.len().min(40)];
            assert_eq!(answers[0].0, answers[1].0, "{about}");
            assert!(answers[0].1.contains("\"error\""), "{about}");
            assert_eq!(answers[1].1, "", "{about}");
        }
    });
}

#[test]
fn the_method_of_the_refused_head_decides_whatever_comes_in_front_of_it_and_behind_it() {
    run(async {
        let health = |method: &str| format!("{method} /health HTTP/1.1\r\nHost: r\r\n\r\n");
        let fields = "X: 1\r\n".repeat(101);
        for rest in [
            " / HTTP/1.1\r\nHost: r\r\nbad name: x\r\n\r\n",
            " / HTTP/9.9\r\n\r\n",
            " /\u{7f} HTTP/1.1\r\nHost: r\r\n\r\n",
            &format!(" / HTTP/1.1\r\n{fields}\r\n"),
        ] {
            for (refused, other) in [("GET", "HEAD"), ("HEAD", "GET")] {
                for in_front in [0, 1, 3, 200] {
                    let start = health(other).repeat(in_front);
                    let behind = health(other).repeat(3);
                    let mut caller = Relay::new().caller();
                    let request = format!("{start}\r\n{refused}{rest}{behind}");
                    caller.send(request).await;
                    let answers = caller.rest().await;
                    let at = answers.find("HTTP/1.1 4").unwrap();
                    let (head, body) = answers[at..].split_once("\r\n\r\n").unwrap();
                    let about = format!("{in_front} {refused}{rest}: {answers}");
                    assert_eq!(answers[..at].matches("HTTP/1.1 200 ").count(), in_front);
                    assert!(head.contains("connection: close"), "{about}");
                    // Behind many requests the method may be unknown; the answer then has neither length nor body.
                    let is_known = head.contains("\r\ncontent-length: ");
                    assert!(is_known || in_front == 200, "{about}");
                    let has_body = body.contains("\"error\"");
                    assert_eq!(has_body, is_known && refused == "GET", "{about}");
                    assert!(has_body || body.is_empty(), "{about}");
                }
            }
        }
    });
}

#[test]
fn the_rule_that_a_head_breaks_is_told() {
    run(async {
        for (lines, rule) in [
            ("Host: r\nX: y\r\n", "a line feed without"),
            ("Host: r\r\nX: y\r\n z\r\n", "is folded"),
            ("Host : r\r\n", "a blank or another invalid character"),
            (
                "Host: r\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
                "more than one Content-Length",
            ),
            (
                "Host: r\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                "Content-Length and a Transfer-Encoding",
            ),
        ] {
            let relay = Relay::new();
            let mut caller = relay.caller();
            let request = format!("POST /w/maya/ HTTP/1.1\r\n{lines}\r\n");
            caller.send(request).await;
            assert!(caller.head().await.starts_with("HTTP/1.1 400 "), "{lines}");
            let body = caller.rest().await;
            assert!(body.contains(rule), "{lines}: {body}");
        }
    });
}

#[test]
fn a_targets_answer_that_looks_like_a_refusal_of_hyper_is_passed_on() {
    run(async {
        for status in ["400 Bad Request", "431 Request Header Fields Too Large"] {
            let mut relay = Relay::new();
            let mut caller = relay.caller();
            caller
                .send(GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
                .await;
            let mut target = relay.target().await;
            target.head().await;
            target
                .send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"))
                .await;
            let answer = caller.rest().await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{answer}"
            );
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        }
        // A body that ends like an answer of hyper, on a connection that stays open.
        let text = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        for _ in 0..2 {
            caller.send(GET).await;
        }
        let mut target = relay.target().await;
        for _ in 0..2 {
            target.head().await;
            target.send(&answer).await;
            caller.expect(&answer).await;
        }
    });
}

#[test]
fn what_urls_do_not_have_reaches_the_target_escaped() {
    run(async {
        let mut relay = Relay::new();
        let mut caller = relay.caller();
        caller
            .send("GET /w/maya/q?f={\"a\":1}&g=<b>|\u{e9} HTTP/1.1\r\nHost: r\r\n\r\n")
            .await;
        let head = relay.target().await.head().await;
        let expected = "GET /q?f={%22a%22:1}&g=%3Cb%3E|%C3%A9 HTTP/1.1\r\n";
        assert!(head.starts_with(expected), "{head}");
    });
}

#[test]
fn which_rule_a_targets_answer_breaks_is_told() {
    run(async {
        let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(70_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: 1\r\n".repeat(101));
        for (answer, rule) in [
            (long.as_str(), "64 KiB"),
            (&many, "100 fields"),
            (
                "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
                "a line of its head",
            ),
            ("HTTP/1.1 2x0 OK\r\n\r\n", "status"),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
                "Content-Length",
            ),
            ("SSH-2.0-OpenSSH_9.6\r\n", "does not begin as HTTP/1.1"),
        ] {
            let mut relay = Relay::new();
            let mut caller = relay.caller();
            caller.send(GET).await;
            let mut target = relay.target().await;
            target.head().await;
            // The relay may refuse an answer that is too long before its end.
            let _refused = target.io().write_all(answer.as_bytes()).await;
            let head = caller.head().await;
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
            let body = caller.until("}").await;
            assert!(
                body.contains("target_invalid") && body.contains(rule),
                "{body}"
            );
        }
    });
}

#[test]
fn a_folded_line_of_a_target_becomes_one() {
    run(async {
        let folded = "HTTP/1.1 200 OK\r\nx: a\r\n \t b\r\ncontent-length: 0\r\n\r\n";
        let head = Relay::new().answer_to(GET, folded, "\r\n\r\n").await;
        assert_eq!(
            head,
            "HTTP/1.1 200 OK\r\nx: a b\r\nvary: Origin\r\ncontent-length: 0\r\n\r\n"
        );
    });
}
