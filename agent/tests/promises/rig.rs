//! A relay that does what a test says, and an agent whose events a test reads.
//!
//! Long because the tests' relay, link and agent depend on each other.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tempfile::TempDir;
use tieline_agent::{AgentEvent, Config, Error, run_standing_by, run_with_reconnect};
use tieline_wire::{
    AgentHello, Event, Generation, Granted, Lost, Mode, Moment, Mux, Open, Refusal, RefusalReason,
    Register, RegisterAck, RelayHello, SessionEnd, SessionId, Settings, Transmit, TunnelId,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// Far longer than any step takes; only a hang reaches this limit.
const PATIENCE: Duration = Duration::from_secs(30);

/// Largest number of events that a test may leave unread.
const EVENTS_MAX: usize = 1024;

/// Waits for `work`, and fails the test if it hangs.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work)
        .await
        .expect("the test must not hang")
}

/// A relay's listener for agents.
pub(crate) struct Relay {
    pub(crate) listener: TcpListener,
    pub(crate) settings: Settings,
    pub(crate) heartbeat_ms: u32,
}

impl Relay {
    pub(crate) async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            listener,
            settings: Settings::default(),
            heartbeat_ms: 15_000,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("tcp://{}", self.listener.local_addr().unwrap())
    }

    /// The next agent's connection, before any frame.
    pub(crate) async fn accept_socket(&self) -> TcpStream {
        soon(self.listener.accept()).await.unwrap().0
    }

    /// The next agent's link, after the hello exchange and its registration.
    pub(crate) async fn accept(&self) -> Link {
        let stream = self.accept_socket().await;
        stream.set_nodelay(true).unwrap();
        let hello = RelayHello::new([7; 32], 1_000);
        let mut link = Link {
            stream,
            mux: Mux::relay(hello, self.settings, Moment::from_micros(0)),
            started_at: Instant::now(),
            events: VecDeque::new(),
            hello: None,
            register: None,
            lost: Vec::new(),
            heartbeat_ms: self.heartbeat_ms,
        };
        match link.event().await {
            Event::AgentHello(hello) => link.hello = Some(hello),
            other => panic!("a hello was due, not {other:?}"),
        }
        match link.event().await {
            Event::Register(register) => {
                // A real relay checks this first.
                assert_eq!(register.check(), Ok(()), "{register:?}");
                link.register = Some(register);
            }
            other => panic!("a registration was due, not {other:?}"),
        }
        link
    }

    /// The next agent's link, with its registration granted.
    pub(crate) async fn accept_registered(&self) -> Link {
        let mut link = self.accept().await;
        link.grant().await;
        link
    }

    /// True if no agent dials for a while.
    pub(crate) async fn stays_alone(&self) -> bool {
        // Longer than the longest wait of the quick phase.
        timeout(Duration::from_millis(2_500), self.listener.accept())
            .await
            .is_err()
    }
}

/// The relay's end of a link.
pub(crate) struct Link {
    stream: TcpStream,
    pub(crate) mux: Mux,
    started_at: Instant,
    events: VecDeque<Event>,
    hello: Option<AgentHello>,
    register: Option<Register>,
    /// What the agent has reported about sessions of earlier links.
    pub(crate) lost: Vec<Lost>,
    heartbeat_ms: u32,
}

impl Link {
    pub(crate) fn hello(&self) -> &AgentHello {
        self.hello.as_ref().unwrap()
    }

    pub(crate) fn register(&self) -> &Register {
        self.register.as_ref().unwrap()
    }

    pub(crate) fn tunnel(&self) -> TunnelId {
        let hello = self.hello();
        TunnelId::derive(&hello.key, &hello.machine, &self.register().label)
    }

    /// Accepts the registration.
    pub(crate) async fn grant(&mut self) {
        let url = format!("http://relay.test/w/{}/mcp", self.tunnel());
        self.grant_at(url).await;
    }

    /// Grants the registration under this URL.
    pub(crate) async fn grant_at(&mut self, url: String) {
        let granted = Granted {
            urls: vec![url],
            tunnel: self.tunnel(),
            generation: Generation(41),
            heartbeat_ms: self.heartbeat_ms,
            expires_in_s: 0,
        };
        self.answer(Ok(granted)).await;
    }

    /// Refuses the registration.
    pub(crate) async fn refuse(&mut self, reason: RefusalReason) {
        self.answer(Err(Refusal::new(reason, "says the test")))
            .await;
    }

    async fn answer(&mut self, outcome: Result<Granted, Refusal>) {
        let request = self.register().request;
        self.mux.register_ack(&RegisterAck { request, outcome });
        self.flush().await;
    }

    pub(crate) async fn open(&mut self) -> SessionId {
        let id = self
            .mux
            .open(&Open {
                tunnel: self.tunnel(),
                mode: Mode::Bytes,
            })
            .unwrap();
        self.flush().await;
        id
    }

    /// Sends everything that the mux has queued.
    pub(crate) async fn flush(&mut self) {
        let mut out = Transmit::new();
        while self.mux.poll_transmit(self.now(), &mut out) {
            while !out.is_empty() {
                // If the agent is gone, the next read shows it.
                let Ok(count) = self.stream.write_vectored(&out.slices()).await else {
                    return;
                };
                out.advance(count);
            }
        }
    }

    /// The next event; fails the test if the link ends instead.
    pub(crate) async fn event(&mut self) -> Event {
        soon(self.try_event())
            .await
            .expect("the agent closed the link")
    }

    /// The next event, or `None` if the agent closes the link. Reports about earlier links go to `lost`.
    pub(crate) async fn try_event(&mut self) -> Option<Event> {
        loop {
            match self.events.pop_front() {
                Some(Event::Lost(lost)) => {
                    self.lost.push(lost);
                    continue;
                }
                Some(event) => return Some(event),
                None => {}
            }
            if !self.turn().await {
                return None;
            }
        }
    }

    /// Sends, then reads once; false if the agent closed the link.
    async fn turn(&mut self) -> bool {
        self.flush().await;
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        let deadline = Duration::from_micros(self.mux.poll_timeout().as_micros());
        tokio::select! {
            read = self.stream.read_buf(&mut buffer) => {
                if !matches!(read, Ok(count) if count > 0) {
                    return false;
                }
            }
            () = sleep_until(self.started_at + deadline) => {
                self.mux.handle_timeout(self.now()).unwrap();
            }
        }
        let mut input = buffer.freeze();
        while let Some(event) = self.mux.handle_input(self.now(), &mut input).unwrap() {
            // Heartbeats may come at any time.
            if !matches!(event, Event::Pong { .. }) {
                self.events.push_back(event);
            }
        }
        true
    }

    /// Sends `bytes` on a session and collects the answer until `enough` returns true.
    pub(crate) async fn exchange(
        &mut self,
        id: SessionId,
        bytes: &[u8],
        enough: impl Fn(&Answer) -> bool,
    ) -> Answer {
        let mut left = bytes;
        let mut answer = Answer::default();
        loop {
            while !left.is_empty() {
                let count = self.mux.send_capacity(id).min(left.len());
                if count == 0 {
                    break;
                }
                self.mux
                    .send(id, Bytes::copy_from_slice(&left[..count]), false)
                    .unwrap();
                left = &left[count..];
                self.flush().await;
            }
            if left.is_empty() && enough(&answer) {
                return answer;
            }
            let Some(event) = self.events.pop_front() else {
                // Credit brings no event, but allows more to be sent.
                assert!(soon(self.turn()).await, "the agent closed the link");
                continue;
            };
            match event {
                Event::Opened { session } if session == id => answer.opened = true,
                Event::Data {
                    session, payload, ..
                } if session == id => {
                    self.mux.consumed(id, payload.len());
                    answer.bytes.extend_from_slice(&payload);
                }
                Event::Finished { session } if session == id => answer.finished = true,
                Event::Reset { session, reason } if session == id => {
                    answer.reset = Some(reason);
                    return answer;
                }
                other => panic!("{other:?} is not about session {id}"),
            }
        }
    }

    pub(crate) async fn finish(&mut self, id: SessionId) {
        self.mux.finish(id);
        self.flush().await;
    }

    pub(crate) async fn reset(&mut self, id: SessionId, reason: SessionEnd) {
        self.mux.reset(id, reason);
        self.flush().await;
    }

    /// Reads events until `found` returns a value.
    pub(crate) async fn find<T>(&mut self, mut found: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(value) = found(self.event().await) {
                return value;
            }
        }
    }

    fn now(&self) -> Moment {
        Moment::from_micros(u64::try_from(self.started_at.elapsed().as_micros()).unwrap())
    }
}

/// What the relay received on a session.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) opened: bool,
    pub(crate) bytes: Vec<u8>,
    pub(crate) finished: bool,
    pub(crate) reset: Option<SessionEnd>,
}

/// A running agent.
pub(crate) struct Agent {
    pub(crate) events: mpsc::Receiver<AgentEvent>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
    pub(crate) state: TempDir,
}

impl Agent {
    pub(crate) fn start(relay: &Relay, target: &str) -> Self {
        Self::start_with(relay, target, |config| config)
    }

    pub(crate) fn start_with(
        relay: &Relay,
        target: &str,
        change: impl FnOnce(Config) -> Config,
    ) -> Self {
        Self::launch(relay, target, change, false)
    }

    /// Starts an agent that waits for the end of a newer run instead of ending.
    #[cfg(unix)]
    pub(crate) fn standing_by(
        relay: &Relay,
        target: &str,
        change: impl FnOnce(Config) -> Config,
    ) -> Self {
        Self::launch(relay, target, change, true)
    }

    fn launch(
        relay: &Relay,
        target: &str,
        change: impl FnOnce(Config) -> Config,
        stands_by: bool,
    ) -> Self {
        let state = tempfile::tempdir().unwrap();
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let (stop, stopped) = oneshot::channel::<()>();
        let config = Config::new(&relay.url(), target)
            .unwrap()
            .with_state_dir(state.path())
            .with_machine("test")
            .with_event_hook(move |event| drop(tell.try_send(event.clone())));
        let config = change(config);
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            if stands_by {
                run_standing_by(config, stopped).await
            } else {
                run_with_reconnect(config, stopped).await
            }
        });
        Self {
            events,
            stop: Some(stop),
            task,
            state,
        }
    }

    /// Asks the agent to stop.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Ends the agent without a farewell.
    #[cfg(unix)]
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    /// Waits for the agent's end; returns its result.
    pub(crate) async fn ended(self) -> Result<(), Error> {
        // The sender is kept until the end, since dropping the sender asks the agent to stop.
        let ended = soon(self.task).await.unwrap();
        drop(self.stop);
        ended
    }

    /// Waits for an event for which `found` returns a value.
    pub(crate) async fn saw<T>(&mut self, mut found: impl FnMut(&AgentEvent) -> Option<T>) -> T {
        loop {
            let event = soon(self.events.recv()).await.expect("the agent has ended");
            if let Some(value) = found(&event) {
                return value;
            }
        }
    }

    pub(crate) async fn saw_registered(&mut self) {
        self.saw(|event| matches!(event, AgentEvent::Registered { .. }).then_some(()))
            .await;
    }

    /// Waits for a link's end; returns the reason.
    pub(crate) async fn saw_disconnected(&mut self) -> &'static str {
        self.saw(|event| match event {
            AgentEvent::Disconnected { reason, .. } => Some(*reason),
            _ => None,
        })
        .await
    }
}
