//! A server of shell scripts, and HTTP clients that are plain text.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tieline_bridge::Settings;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::socket::CloseMode;
use crate::stdio::Command;
use crate::stdio::server::{StdioEvent, StdioServer};

/// Longest wait for an event that does come; a test that waits longer has failed.
const SOON: Duration = Duration::from_secs(30);

/// Name of the usual caller.
pub(super) const ANN: &str = "0a";

/// A legacy server with one tool. `CALL` and `CANCEL` stand for what it does with a call and with a cancellation.
const LEGACY: &str = r#"
while read -r line; do
    id=${line#*\"id\":}; id=${id%%,*}
    token=${line#*\"progressToken\":}; token=${token%%,*}; token=${token%%\}*}
    case $line in
    *'"method":"initialize"'*)
        echo '{"jsonrpc":"2.0","id":'"$id"',"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"sh","version":"1"}}}' ;;
    *'"method":"server/discover"'*)
        echo '{"jsonrpc":"2.0","id":'"$id"',"error":{"code":-32601,"message":"method not found"}}' ;;
    *'"method":"tools/call"'*) CALL ;;
    *'"method":"notifications/cancelled"'*) CANCEL ;;
    esac
done
"#;

/// A script's answer to a call.
pub(super) const ANSWER: &str = r#"echo '{"jsonrpc":"2.0","id":'"$id"',"result":{"content":[]}}'"#;

/// A script's notification that a call goes on, by which its answer becomes a stream.
pub(super) const PROGRESS: &str = r#"echo '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":'"$token"',"progress":1}}'"#;

pub(super) async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(SOON, event).await.unwrap()
}

/// A server under test, and what it has told.
pub(super) struct Rig {
    pub(super) server: StdioServer,
    events: mpsc::Receiver<StdioEvent>,
}

impl Rig {
    /// A legacy server that does `call` with a call.
    pub(super) fn legacy(call: &str) -> Self {
        Self::script(&LEGACY.replace("CALL", call).replace("CANCEL", ":"))
    }

    /// A legacy server that does `call` with a call, and `cancel` with a cancellation.
    pub(super) fn cancelled(call: &str, cancel: &str) -> Self {
        Self::script(&LEGACY.replace("CALL", call).replace("CANCEL", cancel))
    }

    fn script(script: &str) -> Self {
        let words = shlex::try_join(["/bin/sh", "-c", script]).unwrap();
        Self::command(&words)
    }

    /// A server whose children run this command.
    pub(super) fn command(command: &str) -> Self {
        let (sender, events) = mpsc::channel(64);
        let told = move |event| {
            let _ = sender.try_send(event);
        };
        let command = Command::parse(command).unwrap();
        let server = StdioServer::new(command, Settings::default(), None, Arc::new(told));
        Self { server, events }
    }

    /// The next event.
    pub(super) async fn event(&mut self) -> StdioEvent {
        soon(self.events.recv()).await.unwrap()
    }

    /// Waits for the start of a child, and returns its process id.
    pub(super) async fn start(&mut self) -> u32 {
        match self.event().await {
            StdioEvent::Started { pid, .. } => pid.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// A connection to the server.
    pub(super) async fn client(&self) -> Client {
        let stream = self.server.connect(CloseMode::Ends).await.unwrap();
        Client(BufReader::new(stream))
    }

    /// A connection and the key of a legacy session.
    pub(super) async fn session(&self) -> (Client, String) {
        let mut client = self.client().await;
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"ann","version":"1"}}}"#;
        client.post(&[("tieline-caller", ANN)], body).await;
        let head = client.head().await;
        assert_eq!(head.status, 200);
        let text = client.body(&head).await;
        assert!(text.contains(r#""protocolVersion":"2025-11-25""#), "{text}");
        let key = head.fields["mcp-session-id"].clone();
        let body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        client.post_in(&key, body).await;
        assert_eq!(client.head().await.status, 202);
        (client, key)
    }

    /// A connection on which a tool of a legacy session was called.
    pub(super) async fn called(&self) -> Client {
        let (mut client, key) = self.session().await;
        let body = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t","_meta":{"progressToken":"p"}}}"#;
        client.post_in(&key, body).await;
        client
    }
}

/// Head of a response.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Values by names in lower case.
    pub(super) fields: HashMap<String, String>,
}

/// One end of a connection to a server.
pub(super) struct Client(BufReader<TcpStream>);

impl Client {
    /// Sends text as it is.
    pub(super) async fn send(&mut self, text: &str) {
        soon(self.0.write_all(text.as_bytes())).await.unwrap();
    }

    /// Sends a POST with these fields besides the usual ones.
    pub(super) async fn post(&mut self, fields: &[(&str, &str)], body: &str) {
        let fields = fields.iter();
        let fields = fields.map(|(name, value)| format!("{name}: {value}\r\n"));
        let fields: String = fields.collect();
        let len = body.len();
        self.send(&format!(
            "POST /mcp HTTP/1.1\r\nhost: localhost\r\naccept: application/json, text/event-stream\r\n\
             content-type: application/json\r\ncontent-length: {len}\r\n{fields}\r\n{body}"
        ))
        .await;
    }

    /// Sends a POST in a legacy session.
    pub(super) async fn post_in(&mut self, key: &str, body: &str) {
        let fields = [("tieline-caller", ANN), ("mcp-session-id", key)];
        self.post(&fields, body).await;
    }

    /// Calls a tool as a modern caller.
    pub(super) async fn modern_call(&mut self) {
        let body = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
        let fields = [
            ("tieline-caller", ANN),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "t"),
        ];
        self.post(&fields, body).await;
    }

    /// Reads the head of the next response.
    pub(super) async fn head(&mut self) -> Head {
        let first = self.line().await;
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let mut fields = HashMap::new();
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(": ") else {
                assert_eq!(line, "");
                return Head { status, fields };
            };
            fields.insert(name.to_ascii_lowercase(), value.to_owned());
        }
    }

    /// Reads a body whose length is known.
    pub(super) async fn body(&mut self, head: &Head) -> String {
        let len = head.fields["content-length"].parse().unwrap();
        let mut body = vec![0; len];
        soon(self.0.read_exact(&mut body)).await.unwrap();
        String::from_utf8(body).unwrap()
    }

    /// Reads a response whose length is known.
    pub(super) async fn response(&mut self) -> (u16, String) {
        let head = self.head().await;
        let body = self.body(&head).await;
        (head.status, body)
    }

    /// Reads one chunk of a body.
    pub(super) async fn chunk(&mut self) -> String {
        let len = self.line().await;
        let len = usize::from_str_radix(&len, 16).unwrap();
        let mut chunk = vec![0; len + 2];
        soon(self.0.read_exact(&mut chunk)).await.unwrap();
        assert!(chunk.ends_with(b"\r\n"));
        chunk.truncate(len);
        String::from_utf8(chunk).unwrap()
    }

    /// Reads to the end of the connection, whether it is an orderly one or not.
    pub(super) async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = soon(self.0.read_to_end(&mut rest)).await;
        String::from_utf8(rest).unwrap()
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        soon(self.0.read_line(&mut line)).await.unwrap();
        line.trim_end_matches("\r\n").to_owned()
    }
}
