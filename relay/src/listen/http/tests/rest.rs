//! Answers before the request's body was read: the connection stays usable, or the answer says
//! `Connection: close`.

use super::*;

/// Framing and length of a caller's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Length(usize),
    Chunked(usize),
    Expected(usize),
}

impl Body {
    /// The header fields that announce the body.
    fn fields(self) -> String {
        match self {
            Self::Length(length) => format!("Content-Length: {length}\r\n"),
            Self::Chunked(_) => "Transfer-Encoding: chunked\r\n".to_owned(),
            Self::Expected(length) => {
                format!("Content-Length: {length}\r\nExpect: 100-continue\r\n")
            }
        }
    }

    fn bytes(self) -> String {
        match self {
            Self::Length(length) | Self::Expected(length) => "x".repeat(length),
            Self::Chunked(length) => format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length)),
        }
    }
}

const BODIES: [Body; 6] = [
    Body::Length(10_000),
    Body::Length(250_000),
    Body::Length(600_000),
    Body::Chunked(10_000),
    Body::Chunked(300_000),
    Body::Expected(10_000),
];

/// Requests that the relay answers itself, with an extra header line and the status.
const REFUSED: [(&str, &str, &str); 7] = [
    ("/w/maya/mcp", "Origin: https://evil.example\r\n", "403 "),
    ("/x", "", "404 "),
    ("/w/other/mcp", "", "404 "),
    ("/w/maya/hidden", "", "404 "),
    ("/w/off/mcp", "", "503 "),
    ("/w/dead/mcp", "", "502 "),
    ("/w/maya/mcp", "Authorization: Bearer revoked\r\n", "401 "),
];

fn relay() -> Relay {
    let mut relay = Relay::new();
    *relay.shard.0.base_path.borrow_mut() = "/mcp".to_owned();
    relay.settings().takes_tokens = true;
    relay.set("off", Opens::Not(SessionEnd::TunnelOffline));
    relay.set("dead", Opens::Not(SessionEnd::TargetRefused));
    relay
}

fn length_in(head: &str) -> usize {
    let field = "\r\ncontent-length: ";
    let value = head.split_once(field).map_or("0", |(_, rest)| rest);
    value.split("\r\n").next().unwrap().parse().unwrap()
}

/// Sends `request` with a body, and reads the answer while the body is being sent; true if the answer says
/// `Connection: close`.
async fn is_last(caller: &mut Peer, request: &str, body: Body, status: &str) -> bool {
    let io = caller.io.take().unwrap();
    let (read, mut write) = tokio::io::split(io);
    let text = format!("{request}{}\r\n", body.fields());
    let writing = tokio::task::spawn_local(async move {
        write.write_all(text.as_bytes()).await.unwrap();
        if !matches!(body, Body::Expected(_)) {
            write.write_all(body.bytes().as_bytes()).await.unwrap();
        }
        write
    });
    let mut read = tokio::io::BufReader::new(read);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(read.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    let mut answer = vec![0; length_in(&head)];
    read.read_exact(&mut answer).await.unwrap();
    assert!(read.buffer().is_empty());
    // In both cases, the caller can send the rest without an error.
    let write = writing.await.unwrap();
    caller.io = Some(read.into_inner().unsplit(write));
    head.contains("\r\nconnection: close\r\n")
}

#[test]
fn a_refused_body_leaves_the_connection_usable_or_the_refusal_says_close() {
    run(async {
        for (path, field, status) in REFUSED {
            for body in BODIES {
                let relay = relay();
                let (mut caller, ended) = relay.connect();
                let request = format!("POST {path} HTTP/1.1\r\nHost: r\r\n{field}");
                let is_last = is_last(&mut caller, &request, body, status).await;
                let expected = !matches!(body, Body::Length(..256_000) | Body::Chunked(..100_000));
                assert_eq!(is_last, expected, "{path} {body:?}");
                if is_last {
                    caller.finish().await;
                    assert_eq!(caller.rest().await, "");
                } else {
                    caller.send("GET /health HTTP/1.1\r\nHost: r\r\n\r\n").await;
                    assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
                    drop(caller);
                }
                assert_eq!(ended.await.unwrap(), Ended::Closed, "{path} {body:?}");
            }
        }
    });
}

#[test]
fn an_early_answer_of_a_target_leaves_the_connection_usable_or_says_close() {
    run(async {
        for body in BODIES {
            let relay = Relay::new();
            let (mut caller, ended) = relay.connect();
            let opened = relay.opened;
            let answering = tokio::task::spawn_local(async move {
                let mut opened = opened;
                let mut target: Peer = opened.recv().await.unwrap();
                target.head().await;
                target
                    .send("HTTP/1.1 401 No\r\ncontent-length: 3\r\n\r\nno!")
                    .await;
                // The target reads nothing of the body, and keeps its connection.
                (target, opened)
            });
            let request = "POST /w/maya/mcp HTTP/1.1\r\nHost: r\r\n";
            let is_last = is_last(&mut caller, request, body, "401 ").await;
            let _held = answering.await.unwrap();
            match body {
                Body::Expected(_) | Body::Length(600_000..) | Body::Chunked(100_000..) => {
                    assert!(is_last, "{body:?}");
                }
                Body::Length(_) => assert!(!is_last, "{body:?}"),
                // The answer depends on whether the relay had already read the body's end.
                Body::Chunked(_) => {}
            }
            if is_last {
                caller.finish().await;
                assert_eq!(caller.rest().await, "");
            } else {
                caller.send("GET /health HTTP/1.1\r\nHost: r\r\n\r\n").await;
                assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
                drop(caller);
            }
            assert_eq!(ended.await.unwrap(), Ended::Closed, "{body:?}");
        }
    });
}

#[test]
fn the_head_behind_a_refused_body_has_its_own_time() {
    run(async {
        let relay = relay();
        let (mut caller, ended) = relay.connect();
        let request = "POST /x HTTP/1.1\r\nHost: r\r\nContent-Length: 4\r\n\r\n";
        caller.send(request).await;
        let head = caller.head().await;
        assert!(!head.contains("connection: close"), "{head}");
        let mut body = vec![0; length_in(&head)];
        caller.io().read_exact(&mut body).await.unwrap();
        // Slower than the deadline of a head allows.
        for byte in ["a", "b", "c", "d"] {
            seconds(4).await;
            caller.send(byte).await;
        }
        caller.send("GET /health HTTP/1.1\r\nHost: r\r\n\r\n").await;
        assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
        caller.expect("{\"status\":\"ok\"}").await;
        caller.send("GET /hea").await;
        let before = tokio::time::Instant::now();
        assert_eq!(ended.await.unwrap(), Ended::HeadTimeout);
        assert_eq!(before.elapsed(), Duration::from_secs(10));
    });
}
