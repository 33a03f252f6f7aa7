//! Tests of the binary: output, signals, exit codes.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::rig::{Peer, Relay, soon};

fn tieline(args: &[&str]) -> Command {
    let mut command = Command::from(crate::program::tieline());
    command
        .arg("connect")
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn output(args: &[&str]) -> Output {
    soon(tieline(args).output()).await.unwrap()
}

struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut child = tieline(args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = soon(self.lines.next_line()).await.unwrap();
        line.expect("tieline has ended")
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    fn interrupt(&self) {
        let pid = self.child.id().unwrap().to_string();
        let killed = std::process::Command::new("kill")
            .args(["-s", "INT", &pid])
            .status();
        assert!(killed.unwrap().success());
    }
}

#[tokio::test]
async fn programs_read_one_object_a_line() {
    let relay = Relay::bind().await;
    let url = relay.url();
    let mut running = Running::start(&[
        "--relay",
        &url,
        "--no-look",
        "--listen",
        "127.0.0.1:0",
        "--json",
    ]);
    let listening = running.json().await;
    assert_eq!(listening["event"], "listening");
    assert_eq!(listening["relay"], url);
    let address = listening["address"].as_str().unwrap();
    let (_, port) = address.rsplit_once(':').unwrap();
    assert_eq!(listening["url"], format!("http://127.0.0.1:{port}"));
    tokio::net::TcpStream::connect(address).await.unwrap();
    running.interrupt();
    assert_eq!(running.json().await["event"], "stopped");
    assert_eq!(soon(running.child.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn people_read_where_to_point_a_client_without_colours_in_a_pipe() {
    let relay = Relay::bind().await;
    let mut running = Running::start(&["--relay", &relay.url(), "--listen", "127.0.0.1:0"]);
    assert!(running.line().await.starts_with("listening  127.0.0.1:"));
    let url = running.line().await;
    assert!(url.starts_with("url        http://127.0.0.1:"), "{url}");
    assert!(url.ends_with("/w/<tunnel>/mcp"), "{url}");
}

#[tokio::test]
async fn usage_errors_are_one_line_and_code_2() {
    for (args, word) in [
        (&[][..], "--relay http://host:9080"),
        (&["--relay", "relay.example"], "scheme"),
        (&["--relay", "tcp://relay.example:1"], "HTTP port"),
        (&["--relay", "https://relay.example/w/x"], "path"),
        (&["--relay", "http://r", "--listen", "51822"], "51822"),
        (
            &["--relay", "http://r", "--listen", "0.0.0.0:0"],
            "--share-token-with-network",
        ),
        (
            &["--relay", "http://r", "--token-file", "/nonexistent"],
            "/nonexistent",
        ),
        (
            &["--relay", "https://r", "--ca", "/nonexistent"],
            "/nonexistent",
        ),
        (&["--relay", "http://r", "--ca", "/nonexistent"], "--ca"),
        (
            &["--relay", "http://r", "--allow-origin", "*"],
            "allow-origin",
        ),
    ] {
        let output = output(args).await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(word), "{text}");
    }
}

#[tokio::test]
async fn a_taken_port_is_one_line_and_code_1() {
    let relay = Relay::bind().await;
    let address = relay.address().to_string();
    let output = output(&["--relay", "http://r", "--listen", &address]).await;
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("taken") && text.lines().count() == 1,
        "{text}"
    );
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let relay = Relay::bind().await;
    let mut running = Running::start(&[
        "--relay",
        &relay.url(),
        "--no-look",
        "--listen",
        "127.0.0.1:0",
        "--json",
    ]);
    let listening = running.json().await;
    let address = listening["address"].as_str().unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut caller = Peer::new(stream);
    caller
        .send("GET /w/x/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let mut target = relay.accept().await;
    target.head().await;
    running.interrupt();
    // The first signal has arrived once the proxy accepts no more callers.
    soon(async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    running.interrupt();
    let last = soon(running.lines.next_line()).await.unwrap();
    assert_eq!(last, None, "an orderly stop would have printed an event");
    assert_eq!(soon(running.child.wait()).await.unwrap().code(), Some(0));
    target.gone().await;
}

#[tokio::test]
async fn a_look_at_the_start_tells_what_is_wrong_before_the_first_call() {
    for (answer, state, words) in [
        (
            "200 OK\r\n\r\n{\"tunnels\":[],\"next\":null}",
            "ok",
            "asks callers for no token",
        ),
        (
            "200 OK\r\n\r\n{\"tunnels\":[],\"total\":0,\"next\":null}",
            "admin_port",
            "9080",
        ),
        (
            "401 U\r\nWWW-Authenticate: Bearer\r\n\r\n{\"error\":\"unauthorized\",\"message\":\"wants a token\"}",
            "unauthorized",
            "--token-file FILE",
        ),
        ("", "no_relay", "ports for agents (9001)"),
    ] {
        let relay = Relay::bind().await;
        let url = relay.url();
        let flags = ["--relay", &url, "--listen", "127.0.0.1:0", "--json"];
        let mut running = Running::start(&flags);
        assert_eq!(running.json().await["event"], "listening");
        for _ in 0..2 {
            let mut token_demand = relay.accept().await;
            let head = token_demand.head().await;
            assert!(head.start().starts_with("GET /tunnels"), "{}", head.text);
            assert!(head.values("authorization").is_empty(), "{}", head.text);
            if !answer.is_empty() {
                token_demand.send(&format!("HTTP/1.1 {answer}")).await;
            }
        }
        let seen = running.json().await;
        assert_eq!(
            (&seen["event"], &seen["state"]),
            (&"relay".into(), &state.into()),
            "{seen}"
        );
        assert!(seen["message"].as_str().unwrap().contains(words), "{seen}");
        running.interrupt();
        assert_eq!(running.json().await["event"], "stopped");
    }
}

#[tokio::test]
async fn a_proxy_that_others_reach_says_that_they_can_use_the_token() {
    let (_dir, file) = token_file();
    let flags = [
        "--relay",
        "http://127.0.0.1:1",
        "--no-look",
        "--listen",
        "0.0.0.0:0",
        "--share-token-with-network",
    ];
    for (more, is_told) in [(&["--token-file", &file][..], true), (&[], false)] {
        let mut command = tieline(&[&flags[..], more].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let errors = child.stderr.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut running = Running { child, lines };
        assert!(running.line().await.starts_with("listening  0.0.0.0:"));
        running.line().await;
        running.interrupt();
        assert_eq!(running.line().await, "stopped");
        let mut text = String::new();
        soon(BufReader::new(errors).read_to_string(&mut text))
            .await
            .unwrap();
        let words = "any program on the network that reaches 0.0.0.0:";
        assert_eq!(text.contains(words), is_told, "{text}");
    }
}

/// A file with the token `secret`, and its path.
fn token_file() -> (tempfile::TempDir, String) {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "secret").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let path = file.to_str().unwrap().to_owned();
    (dir, path)
}

#[tokio::test]
async fn a_token_that_is_refused_at_the_look_is_not_told_again_at_the_first_call() {
    const BAD: &str = "HTTP/1.1 401 U\r\nWWW-Authenticate: Bearer error=\"invalid_token\"\r\n\
        Cache-Control: no-store\r\nContent-Length: 49\r\n\r\n\
        {\"error\":\"invalid_token\",\"message\":\"it is over\"} ";
    let (_dir, file) = token_file();
    let relay = Relay::bind().await;
    let url = relay.url();
    let mut running = Running::start(&[
        "--relay",
        &url,
        "--listen",
        "127.0.0.1:0",
        "--json",
        "--token-file",
        &file,
    ]);
    let listening = running.json().await;
    relay
        .answers_whether_it_asks("401 U\r\nWWW-Authenticate: Bearer")
        .await;
    let mut token_demand = relay.accept().await;
    let head = token_demand.head().await;
    assert_eq!(head.values("authorization"), ["Bearer secret"]);
    token_demand.send(BAD).await;
    let seen = running.json().await;
    assert_eq!(seen["state"], "invalid_token", "{seen}");
    let address = listening["address"].as_str().unwrap();
    let mut caller = Peer::new(tokio::net::TcpStream::connect(address).await.unwrap());
    caller
        .send("GET /w/x/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let mut target = relay.accept().await;
    target.head().await;
    target.send(BAD).await;
    assert!(caller.head().await.start().contains("401"));
    running.interrupt();
    assert_eq!(
        running.json().await["event"],
        "stopped",
        "no event in between"
    );
}
