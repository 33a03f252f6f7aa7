//! Tests of what `tieline serve` reports once a tunnel is up, and of starts that it refuses.

use std::process::Stdio;

use tieline_wire::{Scheme, SessionEnd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::command_line::{Serve, output, tieline};
use crate::rig::{Relay, soon};

#[tokio::test]
async fn a_dead_target_is_told_once_after_its_tunnel_is_up() {
    let (relay, state) = (Relay::bind().await, tempfile::tempdir().unwrap());
    let mut serve = Serve::start(&state, &relay, &["--links", "2"]);
    let _links = [
        relay.accept_registered().await,
        relay.accept_registered().await,
    ];
    serve.saw("registered").await;
    let told = serve.saw("target").await;
    assert_eq!(told["state"], "refused");
    assert_eq!(told["target"], "127.0.0.1:1");
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("start the server"), "{message}");
    serve.signal("TERM");
    let mut rest = Vec::new();
    while let Some(line) = soon(serve.lines.next_line()).await.unwrap() {
        rest.push(line);
    }
    let again = rest
        .iter()
        .filter(|line| line.contains("\"target\",\"state"));
    assert_eq!(again.count(), 0, "{rest:?}");
    assert_eq!(serve.code().await, Some(0));
}

#[tokio::test]
async fn a_target_that_dies_is_one_event_and_its_return_another() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (relay, state) = (Relay::bind().await, tempfile::tempdir().unwrap());
    let mut command = tieline(&state);
    let to = format!("http://{address}/mcp");
    command.args([
        "serve",
        "--no-look",
        "--json",
        "--relay",
        &relay.url(),
        "--to",
        &to,
    ]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut log = child.stderr.take().unwrap();
    let mut serve = Serve::of(child);
    let mut link = relay.accept_registered().await;
    serve.saw("registered").await;
    drop(listener);
    for _ in 0..3 {
        let id = link.open().await;
        let answer = link
            .exchange(id, &[], |answer| answer.reset.is_some())
            .await;
        assert_eq!(answer.reset, Some(SessionEnd::TargetRefused));
    }
    let away = soon(serve.lines.next_line()).await.unwrap().unwrap();
    assert!(
        away.contains("\"target_away\"") && away.contains("refused"),
        "{away}"
    );
    let _again = TcpListener::bind(address).await.unwrap();
    let back = soon(serve.lines.next_line()).await.unwrap().unwrap();
    assert!(
        back.contains("\"target_back\"") && back.contains(&to),
        "{back}"
    );
    serve.signal("TERM");
    assert_eq!(serve.code().await, Some(0));
    let mut text = String::new();
    log.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "", "events only, no log lines");
}

/// Reads a whole request, with its body.
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

/// Starts an HTTP server that answers every request with `answer`; returns its origin and the requests.
async fn http(answer: &'static str) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let (tell, asked) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let request = request(&mut stream).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = tell.send(request).await;
        }
    });
    (origin, asked)
}

#[tokio::test]
async fn an_mcp_server_and_what_callers_need_are_told() {
    const MCP: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: s1\r\n\
        connection: close\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"serverInfo\":\
        {\"name\":\"maya\\u001b[2J\",\"version\":\"1\"}}}";
    const DENIED: &str = "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\n\r\n\
        {\"error\":\"unauthorized\",\"message\":\"no token\"}";
    let (target, mut asked) = http(MCP).await;
    let (public, mut questions) = http(DENIED).await;
    let (relay, state) = (Relay::bind().await, tempfile::tempdir().unwrap());
    let mut command = tieline(&state);
    let to = format!("{target}/mcp");
    command.args(["serve", "--relay", &relay.url(), "--to", &to]);
    let mut serve = Serve::of(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut link = relay.accept().await;
    let tunnel = link.tunnel();
    link.grant_at(format!("{public}/w/{tunnel}/mcp")).await;
    let mut lines = Vec::new();
    for _ in 0..3 {
        lines.push(soon(serve.lines.next_line()).await.unwrap().unwrap());
    }
    assert!(lines[0].starts_with("registered  "), "{lines:?}");
    let seen = format!("target      maya\\u{{1b}}[2J 1 answers at {to}");
    assert_eq!(lines[1], seen);
    let words = format!("tieline connect --relay {public} --token-file FILE");
    assert!(lines[2].contains(&words), "{lines:?}");
    assert!(
        lines[2].contains(&format!("tieline init --tunnel {tunnel}")),
        "{lines:?}"
    );
    let first = soon(asked.recv()).await.unwrap();
    assert!(
        first.starts_with("POST /mcp ") && first.contains("initialize"),
        "{first}"
    );
    let last = soon(asked.recv()).await.unwrap();
    assert!(
        last.starts_with("DELETE /mcp ") && last.contains("s1"),
        "{last}"
    );
    let question = soon(questions.recv()).await.unwrap();
    let path = format!("GET /w/{tunnel}/tieline-look-");
    assert!(question.starts_with(&path), "{question}");
    assert!(!question.contains("authorization"), "{question}");
    serve.signal("TERM");
    assert_eq!(serve.code().await, Some(0));
    assert!(asked.try_recv().is_err() && questions.try_recv().is_err());
}

#[tokio::test]
async fn a_state_folder_of_others_is_refused_with_the_remedy() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let state = tempfile::tempdir().unwrap();
    let serve = async || {
        let mut command = tieline(&state);
        let flags = [
            "serve",
            "--relay",
            "tcp://127.0.0.1:1",
            "--to",
            "1",
            "--once",
        ];
        let output = output(command.args(flags)).await;
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let chmod = |mode| {
        std::fs::set_permissions(state.path(), PermissionsExt::from_mode(mode)).unwrap();
    };
    chmod(0o777);
    let (code, text) = serve().await;
    assert!(code == Some(1) && text.contains("chmod go-w"), "{text}");
    chmod(0o700);
    let (_, text) = serve().await;
    assert!(text.contains("cannot reach the relay"), "{text}");
    let key = state.path().join("agent-key");
    let moved = state.path().join("moved");
    std::fs::rename(&key, &moved).unwrap();
    symlink(&moved, &key).unwrap();
    let (code, text) = serve().await;
    assert!(
        code == Some(1) && text.contains("not a regular file"),
        "{text}"
    );
}

#[tokio::test]
async fn a_program_is_published_without_being_started() {
    let (relay, state) = (Relay::bind().await, tempfile::tempdir().unwrap());
    let mut command = tieline(&state);
    command.args(["serve", "--json", "--relay", &relay.url()]);
    command.args(["--env", "KEY=hunter2", "--", "sh", "-c", "touch started"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut log = child.stderr.take().unwrap();
    let mut serve = Serve::of(child);
    let link = relay.accept_registered().await;
    let register = link.register();
    assert_eq!(register.scheme, Scheme::Stdio);
    assert_eq!(register.base_path, "/mcp");
    assert!(register.label.starts_with("sh-"), "{}", register.label);
    serve.saw("registered").await;
    let told = serve.saw("target").await;
    assert_eq!(told["state"], "on_demand");
    assert_eq!(told["target"], "stdio:sh -c 'touch started'");
    for flags in [&["--json"][..], &["--json", "--logs"], &["--logs"]] {
        let status = output(tieline(&state).arg("status").args(flags)).await;
        assert_eq!(status.status.code(), Some(0));
        let text = String::from_utf8(status.stdout).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        if flags[0] == "--json" {
            let status: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(status["tunnels"][0]["stdio"]["starts"], 0);
        } else {
            assert!(text.contains("no process"), "{text}");
            assert!(text.contains("(nothing)"), "{text}");
        }
    }
    serve.signal("TERM");
    assert_eq!(serve.code().await, Some(0));
    drop(link);
    assert!(!state.path().join("started").exists());
    let mut text = String::new();
    log.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "", "no warning, and no value of a variable");
}

#[tokio::test]
async fn the_guard_ends_with_its_input_and_help_does_not_show_it() {
    let state = tempfile::tempdir().unwrap();
    let guard = output(tieline(&state).arg("__guard")).await;
    assert_eq!(guard.status.code(), Some(0));
    assert!(guard.stdout.is_empty() && guard.stderr.is_empty());
    let help = output(tieline(&state).arg("--help")).await;
    assert!(!String::from_utf8(help.stdout).unwrap().contains("guard"));
}
