//! An agent in this process, on its own thread and runtime.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;
use tieline_agent::{AgentEvent, Config, Error, run_with_reconnect};
use tokio::sync::{mpsc, oneshot};

use super::{Target, TestCertificate, TestRelay, soon};

/// Capacity of the event queue; events that do not fit are dropped.
const EVENTS_MAX: usize = 4096;

/// Result of an agent that has ended.
pub type Outcome = Result<(), Error>;

/// Drain timeout of test agents: shorter than the time a test waits for the agent's end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of an agent that is not started yet.
#[must_use]
pub struct AgentBuilder {
    target: String,
    changes: Vec<Change>,
    state_dir: Option<PathBuf>,
}

type Change = Box<dyn FnOnce(Config) -> Config + Send>;

impl AgentBuilder {
    /// Sets the tunnel name to request.
    ///
    /// # Panics
    /// `name` is not a valid tunnel name.
    pub fn named(self, name: &str) -> Self {
        let name = name.to_owned();
        self.config(move |config| config.with_name(&name).expect("a valid tunnel name"))
    }

    /// Keeps key and state in `dir`, which several agents may share.
    pub fn state_dir(mut self, dir: &Path) -> Self {
        self.state_dir = Some(dir.to_owned());
        self
    }

    /// Sets the number of links.
    pub fn links(self, links: u16) -> Self {
        self.config(move |config| config.with_links(links))
    }

    /// Trusts `certificate`.
    pub fn trusting(self, certificate: &TestCertificate) -> Self {
        let ca = certificate.cert();
        self.config(move |config| config.with_ca(ca))
    }

    /// Changes any setting.
    pub fn config(mut self, change: impl FnOnce(Config) -> Config + Send + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Starts the agent and waits until its tunnel is up.
    ///
    /// # Errors
    /// The tunnel is not up in time, or the agent ends first.
    pub async fn start(self, relay: &TestRelay) -> Result<TestAgent> {
        self.start_at(&relay.agent_url()).await
    }

    /// Starts the agent at the relay with this URL and waits until its tunnel is up.
    ///
    /// # Errors
    /// The tunnel is not up in time, or the agent ends first.
    pub async fn start_at(self, relay: &str) -> Result<TestAgent> {
        let mut agent = self.spawn_at(relay)?;
        agent.registered().await?;
        Ok(agent)
    }

    /// Starts the agent and does not wait for its tunnel.
    ///
    /// # Errors
    /// The settings are invalid, or the thread cannot be started.
    pub fn spawn(self, relay: &TestRelay) -> Result<TestAgent> {
        self.spawn_at(&relay.agent_url())
    }

    /// Starts the agent at the relay with this URL and does not wait for its tunnel.
    ///
    /// # Errors
    /// The settings are invalid, or the thread cannot be started.
    pub fn spawn_at(self, relay: &str) -> Result<TestAgent> {
        let (state_dir, kept) = match self.state_dir {
            Some(dir) => (dir, None),
            None => {
                let dir = TempDir::new()?;
                (dir.path().to_owned(), Some(dir))
            }
        };
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let mut config = Config::new(relay, &self.target)?
            .with_state_dir(state_dir)
            .with_event_hook(move |event: &AgentEvent| {
                // A full queue means that the test reads no more events.
                let _heard = tell.try_send(event.clone());
            });
        config.status_socket = false;
        // Tests of the drain override this timeout.
        config.drain_timeout = DRAIN_TIMEOUT;
        let config = self
            .changes
            .into_iter()
            .fold(config, |config, change| change(config));
        TestAgent::run(config, events, kept.map(Arc::new))
    }
}

/// A running agent. Dropping it kills the agent: its sockets close without GOAWAY.
#[derive(Debug)]
pub struct TestAgent {
    events: mpsc::Receiver<AgentEvent>,
    granted: Option<Granted>,
    stop: Option<oneshot::Sender<()>>,
    kill: Option<oneshot::Sender<()>>,
    outcome: oneshot::Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
    state: Option<Arc<TempDir>>,
}

#[derive(Debug)]
struct Granted {
    tunnel: String,
    url: String,
    generation: u64,
}

impl TestAgent {
    /// Builder of an agent that publishes `target`.
    pub fn of(target: &Target) -> AgentBuilder {
        Self::to(&target.to_string())
    }

    /// Builder of an agent that publishes `target`, in the syntax of `--to`.
    pub fn to(target: &str) -> AgentBuilder {
        AgentBuilder {
            target: target.to_owned(),
            changes: Vec::new(),
            state_dir: None,
        }
    }

    fn run(
        config: Config,
        events: mpsc::Receiver<AgentEvent>,
        state: Option<Arc<TempDir>>,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (kill, killed) = oneshot::channel::<()>();
        let (tell, outcome) = oneshot::channel();
        let run = move || {
            runtime.block_on(async move {
                let shutdown = async move {
                    if stopped.await.is_err() {
                        // The sender was dropped, so the agent will be killed, not stopped.
                        std::future::pending().await
                    }
                };
                tokio::select! {
                    // The receiver may be gone.
                    outcome = run_with_reconnect(config, shutdown) => drop(tell.send(outcome)),
                    _ = killed => {}
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("agent".to_owned())
            .spawn(run)?;
        Ok(Self {
            events,
            granted: None,
            stop: Some(stop),
            kill: Some(kill),
            outcome,
            thread: Some(thread),
            state,
        })
    }

    /// Waits for the next event that `wanted` accepts; skips other events.
    ///
    /// # Errors
    /// No such event arrives in time, or the agent ends.
    pub async fn saw<T>(&mut self, wanted: impl Fn(&AgentEvent) -> Option<T>) -> Result<T> {
        let mut passed = Vec::new();
        let found = soon("an event from the agent", async {
            while let Some(event) = self.events.recv().await {
                if let Some(found) = wanted(&event) {
                    return Some(found);
                }
                passed.push(event.to_string());
            }
            None
        });
        match found.await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => {
                let outcome = (&mut self.outcome).await;
                bail!("the agent has ended after the events {passed:?}: {outcome:?}")
            }
            Err(error) => Err(error.context(format!("the agent reported {passed:?}"))),
        }
    }

    /// Waits until the agent tells that a link has changed to the transport `wanted`.
    ///
    /// # Errors
    /// No such event comes in time, or the agent ends.
    pub async fn goes_over(&mut self, wanted: &str) -> Result<()> {
        self.saw(|event| match event {
            AgentEvent::TransportChanged { transport, .. } => (*transport == wanted).then_some(()),
            _ => None,
        })
        .await
    }

    /// Waits until the tunnel is registered, or registered again; returns its generation.
    ///
    /// # Errors
    /// The tunnel is not registered in time, or the agent ends.
    pub async fn registered(&mut self) -> Result<u64> {
        let granted = self
            .saw(|event| match event {
                AgentEvent::Registered {
                    tunnel,
                    url,
                    generation,
                    ..
                } => Some(Granted {
                    tunnel: tunnel.clone(),
                    url: url.clone(),
                    generation: *generation,
                }),
                _ => None,
            })
            .await?;
        let generation = granted.generation;
        self.granted = Some(granted);
        Ok(generation)
    }

    fn granted(&self) -> &Granted {
        self.granted.as_ref().expect("registered before")
    }

    /// The tunnel's name.
    ///
    /// # Panics
    /// `registered` was not awaited.
    #[must_use]
    pub fn tunnel(&self) -> &str {
        &self.granted().tunnel
    }

    /// The tunnel's public URL.
    ///
    /// # Panics
    /// `registered` was not awaited.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.granted().url
    }

    /// The generation that was granted last.
    ///
    /// # Panics
    /// `registered` was not awaited.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.granted().generation
    }

    /// Path at the relay's HTTP front that leads to `rest` at the target.
    #[must_use]
    pub fn path(&self, rest: &str) -> String {
        format!("/w/{}{rest}", self.tunnel())
    }

    /// Folder of key and state, if it is the agent's own temporary folder.
    ///
    /// # Panics
    /// The test has set a folder with [`AgentBuilder::state_dir`].
    #[must_use]
    pub fn state_path(&self) -> &Path {
        self.state
            .as_ref()
            .expect("the agent's own temporary folder")
            .path()
    }

    /// Stops the agent in order and waits for its end.
    ///
    /// # Errors
    /// The agent does not end in time.
    pub async fn stop(mut self) -> Result<Outcome> {
        if let Some(stop) = self.stop.take() {
            // Sending fails if the agent has already ended.
            let _ended = stop.send(());
        }
        self.ended().await
    }

    /// Waits until the agent ends by itself.
    ///
    /// # Errors
    /// The agent does not end in time.
    pub async fn ended(mut self) -> Result<Outcome> {
        soon("the agent's end", &mut self.outcome)
            .await?
            .map_err(|_| anyhow!("the agent panicked"))
    }

    /// Kills the agent: its sockets close without GOAWAY.
    ///
    /// # Errors
    /// The agent's thread panicked.
    pub fn kill(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        drop(self.kill.take());
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        thread.join().ok().context("the agent panicked")
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}
