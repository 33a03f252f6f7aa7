//! Tests of a link over real connections; the test plays the relay and the targets.

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tieline_wire::{Mode, Open, RelayHello, Settings, Transmit, TunnelId};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use self::witness::Connection;
use super::*;
use crate::identity::Identity;
use crate::targets::{Target, WatchedTarget};
use crate::transport::{self, Stream};

mod copies;
mod messages;
mod over_quic;
mod over_tls;
#[cfg(unix)]
mod shreds;
pub(crate) mod witness;

/// The relay's end of a running link, and the listener of the link's target.
struct Relay {
    mux: Mux,
    stream: TcpStream,
    started_at: Instant,
    targets: TcpListener,
    _state: tempfile::TempDir,
    _news: mpsc::Receiver<News>,
}

impl Relay {
    /// Starts a link; `tune` sets options on the sockets of both ends.
    async fn linked(tune: impl Fn(&SockRef<'_>)) -> Self {
        let targets = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sockets = [TcpSocket::new_v4().unwrap(), TcpSocket::new_v4().unwrap()];
        sockets.iter().for_each(|it| tune(&SockRef::from(it)));
        let [listener, agent] = sockets;
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listener.listen(1).unwrap();
        let agent = agent.connect(listener.local_addr().unwrap());
        let agent = agent.await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let (start, news) = start(&state, &targets);
        let agent = transport::Connection::Bytes(Stream::plain(agent));
        tokio::spawn(run(Arc::new(Link::over(&agent)), agent, start));
        let hello = RelayHello::new([7; 32], 1_000);
        let mut relay = Self {
            mux: Mux::relay(hello, Settings::default(), Moment::from_micros(0)),
            stream,
            started_at: Instant::now(),
            targets,
            _state: state,
            _news: news,
        };
        let registers = |event: &Event| matches!(event, Event::Register(_));
        while !relay.hears().await.iter().any(registers) {}
        relay
    }

    fn now(&self) -> Moment {
        let micros = self.started_at.elapsed().as_micros();
        Moment::from_micros(u64::try_from(micros).unwrap())
    }

    /// Takes the bytes that the mux has to send.
    fn words(&mut self) -> Bytes {
        let mut words = BytesMut::new();
        let mut out = Transmit::new();
        while self.mux.poll_transmit(self.now(), &mut out) {
            for slice in out.slices() {
                words.extend_from_slice(&slice);
            }
            out.advance(out.len());
        }
        words.freeze()
    }

    /// Sends the bytes that the mux has to send, and reads once.
    async fn hears(&mut self) -> Vec<Event> {
        self.hears_at_most(64 * 1024).await
    }

    async fn hears_at_most(&mut self, most: usize) -> Vec<Event> {
        let mut words = self.words();
        while !words.is_empty() {
            self.stream.writable().await.unwrap();
            if let Ok(count) = self.stream.try_write(&words) {
                let _ = words.split_to(count);
            }
        }
        let mut heard = BytesMut::with_capacity(most);
        let mut limited = (&mut heard).limit(most);
        assert_ne!(self.stream.read_buf(&mut limited).await.unwrap(), 0);
        let (now, mut heard) = (self.now(), heard.freeze());
        let mux = &mut self.mux;
        std::iter::from_fn(|| mux.handle_input(now, &mut heard).unwrap()).collect()
    }

    /// Opens a session; returns its id, and the target's end of its connection.
    async fn open(&mut self) -> (SessionId, TcpStream) {
        self.open_in(Mode::Bytes).await
    }

    async fn open_in(&mut self, mode: Mode) -> (SessionId, TcpStream) {
        let tunnel = tunnel();
        let open = Open { tunnel, mode };
        let id = self.mux.open(&open).unwrap();
        while self.hears().await != [Event::Opened { session: id }] {}
        let (target, _) = self.targets.accept().await.unwrap();
        target.writable().await.unwrap();
        (id, target)
    }
}

/// What a link with one target needs; `targets` is the listener of that target.
fn start(state: &tempfile::TempDir, targets: &TcpListener) -> (Start, mpsc::Receiver<News>) {
    let target = Target::parse(&targets.local_addr().unwrap().to_string()).unwrap();
    let (tell, news) = mpsc::channel(news_max(1));
    let start = Start {
        identity: Arc::new(Identity::load(state.path(), Some("test")).unwrap()),
        relay_name: "localhost".to_owned(),
        link_index: 0,
        links: 1,
        registers: vec![(Register::default(), tunnel())],
        targets: vec![WatchedTarget::new(target)].into(),
        lost: Vec::new(),
        news: tell,
    };
    (start, news)
}

fn tunnel() -> TunnelId {
    TunnelId::parse("maya").unwrap()
}

/// The agent's connection whose other end is `stream`.
fn far_end(stream: &TcpStream) -> Connection {
    (stream.peer_addr().unwrap(), stream.local_addr().unwrap())
}
