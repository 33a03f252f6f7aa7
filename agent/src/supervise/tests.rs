//! An agent whose machine wakes up, or whose relay has two transports; the tests play the relay and report the sleep.

use std::time::Duration;

use bytes::BytesMut;
use tempfile::TempDir;
use tieline_wire::{
    Event, Generation, Granted, Moment, Mux, RegisterAck, RelayHello, Settings, Transmit, TunnelId,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::*;
use crate::transport::tests::Server;
use crate::transport::tests::quic_relay::QuicRelay;

/// Far longer than any step takes; only a hang reaches this limit.
const PATIENCE: Duration = Duration::from_secs(30);

/// The answer that grants a tunnel.
fn granted(request: u32) -> RegisterAck {
    let granted = Granted {
        urls: vec!["http://relay.test/w/maya/mcp".to_owned()],
        tunnel: TunnelId::parse("maya").unwrap(),
        generation: Generation(1),
        heartbeat_ms: 15_000,
        expires_in_s: 0,
    };
    RegisterAck {
        request,
        outcome: Ok(granted),
    }
}

/// The relay's end of a link.
struct RelayLink {
    stream: TcpStream,
    mux: Mux,
    started_at: Instant,
}

impl RelayLink {
    /// The next agent's link, with its registration granted.
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let hello = RelayHello::new([7; 32], 1_000);
        let mut link = Self {
            stream,
            mux: Mux::relay(hello, Settings::default(), Moment::from_micros(0)),
            started_at: Instant::now(),
        };
        let register = loop {
            let events = timeout(PATIENCE, link.turn()).await.unwrap();
            let mut registers = events.into_iter().filter_map(|event| match event {
                Event::Register(register) => Some(register),
                _ => None,
            });
            if let Some(register) = registers.next() {
                break register;
            }
        };
        link.mux.register_ack(&granted(register.request));
        link.flush().await;
        link
    }

    fn now(&self) -> Moment {
        let micros = self.started_at.elapsed().as_micros();
        Moment::from_micros(u64::try_from(micros).unwrap())
    }

    async fn flush(&mut self) {
        let mut out = Transmit::new();
        while self.mux.poll_transmit(self.now(), &mut out) {
            while !out.is_empty() {
                let count = self.stream.write_vectored(&out.slices()).await.unwrap();
                out.advance(count);
            }
        }
    }

    /// Sends what the mux has to send, and reads once.
    async fn turn(&mut self) -> Vec<Event> {
        self.flush().await;
        let mut heard = BytesMut::with_capacity(64 * 1024);
        let count = self.stream.read_buf(&mut heard).await.unwrap();
        assert_ne!(count, 0, "the agent closed the link");
        let (now, mut heard) = (self.now(), heard.freeze());
        let mux = &mut self.mux;
        std::iter::from_fn(|| mux.handle_input(now, &mut heard).unwrap()).collect()
    }
}

/// An agent with a link to a relay that the test plays.
struct Laptop {
    network: NetworkWatch,
    listener: TcpListener,
    /// Reasons for which links ended.
    ends: mpsc::Receiver<&'static str>,
    _agent: JoinSet<Result<(), Error>>,
    _state: TempDir,
}

impl Laptop {
    async fn linked() -> (Self, RelayLink) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = format!("tcp://{}", listener.local_addr().unwrap());
        let state = tempfile::tempdir().unwrap();
        let (registered, mut up) = mpsc::channel(8);
        let (ended, ends) = mpsc::channel(8);
        let mut config = Config::new(&relay, "http://127.0.0.1:1/mcp")
            .unwrap()
            .with_name("maya")
            .unwrap()
            .with_machine("test")
            .with_state_dir(state.path())
            .with_event_hook(move |event| match event {
                AgentEvent::Registered { .. } => drop(registered.try_send(())),
                AgentEvent::Disconnected { reason, .. } => drop(ended.try_send(*reason)),
                _ => {}
            });
        config.status_socket = false;
        let network = NetworkWatch::default();
        let mut agent = JoinSet::new();
        agent.spawn(run_in(
            network.clone(),
            config,
            false,
            std::future::pending(),
        ));
        let link = RelayLink::accept(&listener).await;
        timeout(PATIENCE, up.recv()).await.unwrap().unwrap();
        let laptop = Self {
            network,
            listener,
            ends,
            _agent: agent,
            _state: state,
        };
        (laptop, link)
    }
}

#[tokio::test]
async fn a_link_that_died_in_a_sleep_is_back_within_five_seconds_of_waking() {
    let (mut laptop, silent) = Laptop::linked().await;
    let woken_at = Instant::now();
    laptop.network.slept(Duration::from_secs(20));
    let _link = RelayLink::accept(&laptop.listener).await;
    // A sleep is noticed within 1 s.
    let took = woken_at.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(laptop.ends.recv().await, Some("stale"));
    drop(silent);
}

#[tokio::test]
async fn a_link_that_answers_after_a_sleep_is_kept() {
    let (laptop, mut link) = Laptop::linked().await;
    laptop.network.slept(Duration::from_secs(20));
    let redialled = timeout(Duration::from_secs(3), laptop.listener.accept());
    let mut redialled = pin!(redialled);
    loop {
        tokio::select! {
            _ = link.turn() => {}
            redialled = &mut redialled => {
                assert!(redialled.is_err(), "a new link was dialled");
                return;
            }
        }
    }
}

#[tokio::test]
async fn an_https_relay_is_reached_over_quic_where_that_gets_through_and_that_is_remembered() {
    // Takes connections over TCP, and says nothing on them.
    let server = Server::relay().await;
    let mut relay = QuicRelay::beside(&server).await;
    let state = tempfile::tempdir().unwrap();
    let port = server.listener.local_addr().unwrap().port();
    let (registered, mut up) = mpsc::channel(8);
    let relay_url = format!("https://localhost:{port}");
    let mut config = Config::new(&relay_url, "http://127.0.0.1:1/mcp")
        .unwrap()
        .with_name("maya")
        .unwrap()
        .with_ca(&server.ca)
        .with_machine("test")
        .with_state_dir(state.path())
        .with_event_hook(move |event| {
            if matches!(event, AgentEvent::Registered { .. }) {
                let _ = registered.try_send(());
            }
        });
    config.status_socket = false;
    let mut agent = JoinSet::new();
    let network = NetworkWatch::default();
    agent.spawn(run_in(network, config, false, std::future::pending()));
    relay
        .until("the registration", |relay| {
            let mut registers = relay.take_events().into_iter().filter_map(|it| match it {
                Event::Register(register) => Some(register.request),
                _ => None,
            });
            let request = registers.next();
            if let Some(request) = request {
                relay.mux().register_ack(&granted(request));
            }
            request.is_some()
        })
        .await;
    tokio::select! {
        up = timeout(PATIENCE, up.recv()) => up.unwrap().unwrap(),
        () = relay.serve() => unreachable!("the relay serves for ever"),
    }
    // Written by a task that nothing waits for.
    let path = state.path().join("transports.json");
    let kept = async {
        while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains("works")) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, kept).await.unwrap();
}
