//! An agent whose machine wakes up; the tests play the relay and report the sleep.

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

/// Far longer than any step takes; only a hang reaches this limit.
const PATIENCE: Duration = Duration::from_secs(30);

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
        let granted = Granted {
            urls: vec!["http://relay.test/w/maya/mcp".to_owned()],
            tunnel: TunnelId::parse("maya").unwrap(),
            generation: Generation(1),
            heartbeat_ms: 15_000,
            expires_in_s: 0,
        };
        link.mux.register_ack(&RegisterAck {
            request: register.request,
            outcome: Ok(granted),
        });
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
