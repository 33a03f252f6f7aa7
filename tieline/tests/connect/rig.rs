//! A proxy in this process, a caller that writes bytes, and a relay that reads and answers as the
//! test says.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tieline::connect::{Connect, ConnectError, ConnectEvent};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far longer than any step takes; only a hang reaches this limit.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `work`, and fails the test if it hangs.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work)
        .await
        .expect("the test must not hang")
}

/// Advances tokio's clock by `time`, for everything in this process.
pub(crate) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Writes a token to a file that only its owner can read.
pub(crate) fn write_token(path: &Path, token: &str) {
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).unwrap();
    file.write_all(token.as_bytes()).unwrap();
}

/// A file with `token`, and the file's path.
pub(crate) fn token_file(token: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    write_token(&path, token);
    (dir, path)
}

/// The key of a handshake (RFC 6455, section 1.3), and the answer to it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request for a WebSocket, with further header lines.
pub(crate) fn upgrade(lines: &str) -> String {
    format!(
        "GET /w/x/ws?a=1 HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{lines}\r\n"
    )
}

/// The answer that opens a WebSocket, with further header lines.
pub(crate) fn switching(lines: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n{lines}\r\n"
    )
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    events: mpsc::Receiver<ConnectEvent>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ConnectError>>,
}

impl Proxy {
    pub(crate) async fn start(relay: &str) -> Self {
        Self::start_with(relay, |connect| connect).await
    }

    pub(crate) async fn start_with(relay: &str, change: impl FnOnce(Connect) -> Connect) -> Self {
        let (tell, mut events) = mpsc::channel(64);
        let (stop, stopped) = oneshot::channel::<()>();
        let connect = Connect::new(relay)
            .unwrap()
            .with_listen("127.0.0.1:0", false)
            .unwrap()
            .with_event_hook(move |event| drop(tell.try_send(event.clone())));
        let connect = change(connect);
        let task = tokio::task::spawn_local(connect.run(async {
            let _ = stopped.await;
        }));
        let Some(ConnectEvent::Listening { address, .. }) = soon(events.recv()).await else {
            panic!("the proxy did not start: {:?}", task.await.unwrap());
        };
        Self {
            address,
            events,
            stop: Some(stop),
            task,
        }
    }

    /// A caller's connection.
    pub(crate) async fn caller(&self) -> Peer<TcpStream> {
        Peer::new(soon(TcpStream::connect(self.address)).await.unwrap())
    }

    pub(crate) async fn event(&mut self) -> ConnectEvent {
        soon(self.events.recv()).await.expect("the proxy has ended")
    }

    /// Asks the proxy to stop.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) async fn ended(self) -> Result<(), ConnectError> {
        soon(self.task).await.unwrap()
    }
}

/// A relay's HTTP port.
pub(crate) struct Relay {
    listener: TcpListener,
}

impl Relay {
    pub(crate) async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener }
    }

    /// A relay on a port that was bound before without a listener.
    pub(crate) fn listening(socket: TcpSocket) -> Self {
        let listener = socket.listen(16).unwrap();
        Self { listener }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The next connection of the proxy.
    pub(crate) async fn accept(&self) -> Peer<TcpStream> {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Peer::new(stream)
    }

    /// Answers the proxy's question whether tokens are needed with `status`, which may have header lines added.
    pub(crate) async fn answers_whether_it_asks(&self, status: &str) {
        let mut token_demand = self.accept().await;
        let head = token_demand.head().await;
        assert_eq!(head.start(), "GET /tunnels HTTP/1.1");
        assert!(head.values("authorization").is_empty(), "{}", head.text);
        token_demand
            .send(&format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"))
            .await;
    }

    /// Runs `work`; fails if the proxy opens another connection meanwhile.
    pub(crate) async fn is_not_dialled_during<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            _ = self.listener.accept() => panic!("the proxy has dialled once more"),
            done = soon(work) => done,
        }
    }
}

/// A proxy in front of a relay, and a caller whose request has begun to pass.
pub(crate) struct Exchange {
    pub(crate) relay: Relay,
    pub(crate) proxy: Proxy,
    pub(crate) caller: Peer<TcpStream>,
    pub(crate) target: Peer<TcpStream>,
    /// Head of the request, as the relay received it.
    pub(crate) head: Head,
}

impl Exchange {
    pub(crate) async fn begin(request: &str) -> Self {
        Self::begin_with(request, |connect| connect).await
    }

    /// Begins an exchange with a token file, at a relay that asks for tokens.
    pub(crate) async fn begin_with_token(request: &str, file: &Path) -> Self {
        let challenge = "401 Unauthorized\r\nWWW-Authenticate: Bearer";
        Self::begin_at(request, Some(challenge), |c| c.with_token_file(file)).await
    }

    pub(crate) async fn begin_with(request: &str, change: impl FnOnce(Connect) -> Connect) -> Self {
        Self::begin_at(request, None, change).await
    }

    /// Begins an exchange; a relay with a `challenge` gives it when the proxy asks whether tokens are needed.
    async fn begin_at(
        request: &str,
        challenge: Option<&str>,
        change: impl FnOnce(Connect) -> Connect,
    ) -> Self {
        let relay = Relay::bind().await;
        let proxy = Proxy::start_with(&relay.url(), change).await;
        let mut caller = proxy.caller().await;
        caller.send(request).await;
        if let Some(challenge) = challenge {
            relay.answers_whether_it_asks(challenge).await;
        }
        let mut target = relay.accept().await;
        let head = target.head().await;
        Self {
            relay,
            proxy,
            caller,
            target,
            head,
        }
    }

    /// The relay sends `answer`, and the caller reads up to `end`.
    pub(crate) async fn pass(&mut self, answer: &str, end: &str) {
        self.target.send(answer).await;
        self.caller.until(end).await;
    }
}

/// One end of a connection, with bytes that were read but not asked for yet.
pub(crate) struct Peer<S> {
    pub(crate) stream: S,
    read: Vec<u8>,
}

/// The head of a request or an answer.
pub(crate) struct Head {
    pub(crate) text: String,
}

impl Head {
    /// The request line or the status line.
    pub(crate) fn start(&self) -> &str {
        self.text.lines().next().unwrap()
    }

    /// All values of a header.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// The only value of a header.
    pub(crate) fn value(&self, name: &str) -> &str {
        let values = self.values(name);
        assert_eq!(values.len(), 1, "{name}: {}", self.text);
        values[0]
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        soon(self.stream.write_all(text.as_bytes())).await.unwrap();
        soon(self.stream.flush()).await.unwrap();
    }

    /// Reads once; false at the end of the stream.
    async fn fill(&mut self) -> bool {
        let mut bytes = vec![0; 64 * 1024];
        match soon(self.stream.read(&mut bytes)).await {
            Ok(count) => {
                self.read.extend_from_slice(&bytes[..count]);
                count > 0
            }
            Err(_) => false,
        }
    }

    /// Everything up to and including `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            let found = self
                .read
                .windows(end.len())
                .position(|window| window == end.as_bytes());
            if let Some(place) = found {
                let taken = self.read.drain(..place + end.len()).collect();
                return String::from_utf8(taken).unwrap();
            }
            let before = String::from_utf8_lossy(&self.read).into_owned();
            assert!(
                self.fill().await,
                "the stream ended before {end:?}: {before:?}"
            );
        }
    }

    /// The next head.
    pub(crate) async fn head(&mut self) -> Head {
        let text = self.until("\r\n\r\n").await;
        Head { text }
    }

    /// `count` bytes of a body.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.fill().await, "the stream ended too early");
        }
        self.read.drain(..count).collect()
    }

    /// An answer with a length: its head and its body as JSON.
    pub(crate) async fn json(&mut self) -> (Head, Value) {
        let head = self.head().await;
        let length = head.value("content-length").parse().unwrap();
        let body = self.bytes(length).await;
        (head, serde_json::from_slice(&body).unwrap())
    }

    /// All that comes until the other side closes or resets; true for a reset.
    pub(crate) async fn rest(&mut self) -> (String, bool) {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            match soon(self.stream.read(&mut bytes)).await {
                Ok(0) => break,
                Ok(count) => self.read.extend_from_slice(&bytes[..count]),
                Err(_) => return (self.text(), true),
            }
        }
        (self.text(), false)
    }

    fn text(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }

    /// Waits until the other side is gone, whether by a close or by a reset.
    pub(crate) async fn gone(&mut self) {
        while self.fill().await {}
    }
}
