//! A link over TLS: its end, and the lanes that it does not take.

use tieline_wire::BulkNonce;
use tieline_wire::limits::PREFACE;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::*;
use crate::error::Error;
use crate::transport::tests::Server;
use crate::transport::{Reads, Writes};

/// The relay's end of a link over TLS.
struct SecureRelay {
    mux: Mux,
    reads: Reads,
    writes: Writes,
    started_at: Instant,
}

impl SecureRelay {
    fn now(&self) -> Moment {
        let micros = self.started_at.elapsed().as_micros();
        Moment::from_micros(u64::try_from(micros).unwrap())
    }

    /// Sends the bytes that the mux has to send, and reads once.
    async fn hears(&mut self) -> Vec<Event> {
        let mut out = Transmit::new();
        while self.mux.poll_transmit(self.now(), &mut out) {
            while !out.is_empty() {
                let count = self.writes.send_vectored(&out.slices()).await.unwrap();
                out.advance(count);
            }
        }
        let mut heard = BytesMut::with_capacity(64 * 1024);
        assert_ne!(self.reads.read(&mut heard).await.unwrap(), 0);
        let (now, mut heard) = (self.now(), heard.freeze());
        let mux = &mut self.mux;
        std::iter::from_fn(|| mux.handle_input(now, &mut heard).unwrap()).collect()
    }
}

/// A link over TLS that runs in a task of its own, and what it needs.
struct Running {
    link: Arc<Link>,
    task: JoinHandle<Result<(), Error>>,
    /// The relay's end.
    relay: Stream,
    server: Server,
    targets: TcpListener,
    _state: tempfile::TempDir,
    _news: mpsc::Receiver<News>,
}

impl Running {
    async fn start() -> Self {
        let server = Server::relay().await;
        let (agent, relay) = server.connected().await;
        let targets = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let (start, news) = start(&state, &targets);
        let agent = transport::Connection::Bytes(agent);
        let link = Arc::new(Link::over(&agent));
        Self {
            task: tokio::spawn(run(Arc::clone(&link), agent, start)),
            link,
            relay,
            server,
            targets,
            _state: state,
            _news: news,
        }
    }
}

#[tokio::test]
async fn a_link_that_is_closed_ends_with_tls_own_end() {
    let running = Running::start().await;
    running.link.close(Instant::now(), None);
    let (mut reads, writes) = running.relay.split();
    let mut heard = BytesMut::new();
    // A cut would be an error.
    while reads.read(&mut heard).await.unwrap() > 0 {}
    assert!(heard.starts_with(&PREFACE));
    drop((reads, writes));
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_link_whose_relay_answers_nothing_is_reset_when_it_is_given_up() {
    let running = Running::start().await;
    let (mut reads, _writes) = running.relay.split();
    let mut heard = BytesMut::new();
    assert_ne!(reads.read(&mut heard).await.unwrap(), 0);
    running.link.fell_silent();
    running.task.abort();
    let end = loop {
        match reads.read(&mut heard).await {
            Ok(count) => assert_ne!(count, 0, "the link ended in order"),
            Err(error) => break error,
        }
    };
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_lane_that_is_offered_over_tls_is_not_dialled() {
    let running = Running::start().await;
    let (reads, writes) = running.relay.split();
    let hello = RelayHello::new([7; 32], 1_000);
    let mut relay = SecureRelay {
        mux: Mux::relay(hello, Settings::default(), Moment::from_micros(0)),
        reads,
        writes,
        started_at: Instant::now(),
    };
    let registers = |event: &Event| matches!(event, Event::Register(_));
    while !relay.hears().await.iter().any(registers) {}
    let open = Open {
        tunnel: tunnel(),
        mode: Mode::Bytes,
    };
    let id = relay.mux.open(&open).unwrap();
    while relay.hears().await != [Event::Opened { session: id }] {}
    let (mut target, _) = running.targets.accept().await.unwrap();

    // The target's answer to the byte behind the offer shows that the offer was read.
    relay.mux.offer_bulk(id, &BulkNonce::new([7; 16]));
    relay.mux.send(id, Bytes::from_static(b"x"), false).unwrap();
    let answering = async {
        let mut byte = [0];
        target.read_exact(&mut byte).await.unwrap();
        target.write_all(&byte).await.unwrap();
    };
    let is_answer = |event: &Event| matches!(event, Event::Data { .. });
    let hearing = async { while !relay.hears().await.iter().any(is_answer) {} };
    tokio::join!(answering, hearing);
    let dialled =
        std::future::poll_fn(|cx| Poll::Ready(running.server.listener.poll_accept(cx).is_ready()));
    assert!(!dialled.await, "a lane was dialled");
}
