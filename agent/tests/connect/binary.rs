//! The binary: lines, signals, exit codes.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::rig::{Peer, Relay, soon};

fn tieline(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tieline"));
    command
        .arg("connect")
        .args(args)
        .env_remove("TIELINE_TOKEN_FILE")
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
        line.expect("it has ended")
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
    let mut running = Running::start(&["--relay", &url, "--listen", "127.0.0.1:0", "--json"]);
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
        (&["--relay", "relay.example"][..], "scheme"),
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
    let mut running =
        Running::start(&["--relay", &relay.url(), "--listen", "127.0.0.1:0", "--json"]);
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
    // It has heard the first one once it takes no more callers.
    soon(async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    running.interrupt();
    let last = soon(running.lines.next_line()).await.unwrap();
    assert_eq!(last, None, "in order, it would have said that it stopped");
    assert_eq!(soon(running.child.wait()).await.unwrap().code(), Some(0));
    target.gone().await;
}
