//! Servers with prepared answers, and the result of a look at each.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::*;

type Heads = Arc<Mutex<Vec<String>>>;

/// Reads a whole request with its body.
async fn request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    loop {
        let len = stream.read_buf(&mut text).await.unwrap();
        let so_far = String::from_utf8_lossy(&text).into_owned();
        let whole = so_far.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let field = |line: &str| line.strip_prefix("content-length: ")?.parse().ok();
            body.len() >= head.lines().find_map(field).unwrap_or(0)
        });
        if whole || len == 0 {
            return so_far;
        }
    }
}

/// Starts a server with one answer for each connection; also returns the requests, and a count of ended streams.
async fn server(answers: &'static [&str]) -> (String, Heads, Arc<Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heads = Heads::default();
    let seen = Arc::clone(&heads);
    let ended = Arc::new(Semaphore::new(0));
    let streams = Arc::clone(&ended);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = request(&mut stream).await;
            seen.lock().unwrap().push(request);
            stream.write_all(answer.as_bytes()).await.unwrap();
            if answer.contains("event-stream") {
                // Keeps the stream open until the other side ends it.
                let ended = Arc::clone(&streams);
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 1]).await;
                    ended.add_permits(1);
                });
            }
        }
    });
    (address, heads, ended)
}

async fn seen(path: &str, answers: &'static [&str]) -> (Sight, Vec<String>) {
    let (address, heads, _) = server(answers).await;
    let target = Target::parse(&format!("http://{address}{path}")).unwrap();
    let sight = look(&target).await;
    let heads = heads.lock().unwrap().clone();
    (sight, heads)
}

const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","serverInfo":{"name":"maya","version":"1.2"}}}"#;

fn ok(head: &str, body: &str) -> &'static str {
    let length = body.len();
    Box::leak(
        format!("HTTP/1.1 200 OK\r\n{head}content-length: {length}\r\n\r\n{body}").into_boxed_str(),
    )
}

#[tokio::test]
async fn an_mcp_server_is_called_by_its_name_and_its_session_is_ended() {
    let answers = vec![
        ok(
            "content-type: application/json\r\nmcp-session-id: s1\r\n",
            RESULT,
        ),
        ok("", ""),
    ];
    let (sight, heads) = seen("/mcp", answers.leak()).await;
    assert_eq!((sight.state, sight.is_good()), ("mcp", true));
    assert!(
        sight.message.starts_with("maya 1.2 answers at http://"),
        "{sight:?}"
    );
    assert!(sight.message.ends_with("(MCP 2025-06-18)"), "{sight:?}");
    assert!(heads[0].starts_with("POST /mcp HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads[0].contains("user-agent: tieline/"), "{heads:?}");
    assert!(
        heads[1].starts_with("DELETE /mcp HTTP/1.1\r\n"),
        "{heads:?}"
    );
    assert!(heads[1].contains("mcp-session-id: s1\r\n"), "{heads:?}");
    assert_eq!(heads.len(), 2);
}

#[tokio::test]
async fn an_event_stream_is_read_up_to_the_answer() {
    let stream = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\ndata: \"result\":{}}\n\n";
    let (sight, heads) = seen("/mcp", vec![stream].leak()).await;
    assert_eq!((sight.state, heads.len()), ("mcp", 1), "{sight:?}");
    assert!(
        sight.message.starts_with("an MCP server answers"),
        "{sight:?}"
    );
}

#[tokio::test]
async fn a_server_without_sessions_is_discovered() {
    let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no such method"}}"#;
    let found = r#"{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28"],"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"new"}}}}"#;
    let answers = vec![ok("", error), ok("", found)];
    let (sight, heads) = seen("/mcp", answers.leak()).await;
    assert_eq!(sight.server.as_deref(), Some("new"));
    assert!(
        heads[1].contains("mcp-method: server/discover\r\n"),
        "{heads:?}"
    );
}

#[tokio::test]
async fn what_is_not_mcp_is_told_with_what_to_do() {
    const MISSING: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    const DENIED: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
    for (path, answer, state, words) in [
        ("", &[MISSING, MISSING][..], "not_mcp", "/mcp?"),
        (
            "/mpc",
            &[MISSING, MISSING],
            "not_mcp",
            "(404 at /mpc): is the path right?",
        ),
        (
            "/mcp",
            &[DENIED],
            "unauthorized",
            "needs authorization (401)",
        ),
        (
            "/mcp",
            &["SSH-2.0-x\r\n"],
            "not_http",
            "does not speak HTTP",
        ),
        ("/socket", &[""], "not_http", "WebSocket alone works"),
    ] {
        let (sight, heads) = seen(path, answer).await;
        assert_eq!(
            (sight.state, heads.len()),
            (state, answer.len()),
            "{sight:?}"
        );
        assert!(sight.message.contains(words), "{sight:?}");
    }
}

#[tokio::test]
async fn the_older_transport_is_known_by_its_first_event_and_its_stream_is_ended() {
    const REFUSED: [&str; 3] = [
        "HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
    ];
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n";
    for (refused, events) in REFUSED.into_iter().zip([
        "event: endpoint\ndata: /messages?id=1\n\n",
        ": hello\r\n\r\nid: 1\r\ndata: /messages\r\nevent:endpoint\r\n\r\n",
        "\u{feff}event: endpoint\rdata: x\r\r",
    ]) {
        let stream: &'static str = format!("{head}{events}").leak();
        let (address, heads, ended) = server(vec![refused, stream].leak()).await;
        let target = Target::parse(&format!("http://{address}/sse")).unwrap();
        let sight = look(&target).await;
        assert_eq!(
            (sight.state, sight.is_good()),
            ("mcp_sse", true),
            "{sight:?}"
        );
        assert!(sight.message.contains("older transport (SSE)"), "{sight:?}");
        let asked = heads.lock().unwrap().clone();
        assert!(asked[1].starts_with("GET /sse HTTP/1.1\r\n"), "{asked:?}");
        assert!(
            asked[1].contains("accept: text/event-stream\r\n"),
            "{asked:?}"
        );
        let _one = ended.acquire().await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_without_that_event_is_left_and_the_first_answer_counts() {
    let missing = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    let stream = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: tick\n\n";
    let (address, _, ended) = server(vec![missing, stream].leak()).await;
    let sight = look(&Target::parse(&format!("http://{address}/x")).unwrap()).await;
    assert_eq!(sight.state, "not_mcp");
    assert!(sight.message.contains("404 at /x"), "{sight:?}");
    let _one = ended.acquire().await.unwrap();
}

#[tokio::test]
async fn a_slash_at_the_end_is_followed_once() {
    let moved = "HTTP/1.1 307 Moved\r\nlocation: /mcp/\r\ncontent-length: 0\r\n\r\n";
    let (sight, heads) = seen("/mcp", vec![moved, ok("", RESULT)].leak()).await;
    assert_eq!(sight.state, "mcp");
    assert!(heads[1].starts_with("POST /mcp/ "), "{heads:?}");
    let (sight, heads) = seen("/mcp", vec![moved, moved].leak()).await;
    assert_eq!(
        (sight.state, heads.len()),
        ("not_mcp", 2),
        "the GET after them finds no server"
    );
}

#[tokio::test]
async fn a_closed_port_and_a_raw_one_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let raw = Target::parse(&address.to_string()).unwrap();
    let sight = look(&raw).await;
    assert_eq!(sight.state, "open");
    drop(listener);
    for text in [address.to_string(), format!("http://{address}/mcp")] {
        let sight = look(&Target::parse(&text).unwrap()).await;
        assert_eq!((sight.state, sight.is_good()), ("refused", false));
        assert!(sight.message.contains("start the server"), "{sight:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_target_is_not_waited_for_for_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sight = look(&Target::parse(&format!("http://{address}/mcp")).unwrap()).await;
    assert_eq!(sight.state, "timeout");
}

#[test]
fn a_program_is_told_to_start_on_demand_or_what_is_missing() {
    let own = std::env::current_exe().unwrap();
    let words = [own.display().to_string()];
    let target = || TargetConfig::of(Target::of_command(&words).unwrap());
    let found = target().program().unwrap();
    let sight = of_program(&target(), found);
    assert_eq!(sight.state, "on_demand");
    assert!(sight.is_good() && sight.is_mcp() && !sight.is_older());
    assert!(
        sight.message.contains("is started when a caller needs it"),
        "{}",
        sight.message
    );
    let options = tieline_agent::StdioOptions::default();
    let options = options.with_inherited("TIELINE_TEST_ABSENT").unwrap();
    let target = target().with_stdio(options);
    let sight = of_program(&target, target.program().unwrap());
    assert!(
        sight
            .message
            .contains("TIELINE_TEST_ABSENT, which is not set"),
        "{}",
        sight.message
    );
    let absent = TargetConfig::new("stdio:tieline-absent --now").unwrap();
    let sight = of_program(&absent, absent.program().unwrap());
    assert!(!sight.is_good() && !sight.is_mcp());
    assert!(
        sight.message.contains("PATH has no program tieline-absent"),
        "{}",
        sight.message
    );
}
