//! A rig of relay, agent and recording target, with a network between relay and agent that can lose the bytes of
//! one direction.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use tieline_e2e::behaviour::{HttpStream, Target, TestAgent, TestRelay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Message for a poisoned lock.
const SOUND: &str = "nothing panics under this lock";

/// A TCP forwarder that can drop the bytes of one direction. Connections made after the loss starts
/// work, unless the loss is for good.
pub(super) struct Network {
    pub(super) address: String,
    losing: Arc<Losing>,
    server: JoinHandle<()>,
}

#[derive(Default)]
pub(super) struct Losing {
    pub(super) to_agent: AtomicBool,
    pub(super) to_relay: AtomicBool,
    made: AtomicUsize,
    /// Number of the last connection that loses bytes.
    last: AtomicUsize,
}

impl Network {
    pub(super) async fn start(relay: &TestRelay) -> Result<Self> {
        let relay = relay.agent_url().trim_start_matches("tcp://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("tcp://{}", listener.local_addr()?);
        let losing = Arc::new(Losing::default());
        let shared = Arc::clone(&losing);
        let server = tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                let Ok(relay) = TcpStream::connect(&relay).await else {
                    continue;
                };
                let nth = shared.made.fetch_add(1, Ordering::SeqCst) + 1;
                let (from_agent, to_agent) = agent.into_split();
                let (from_relay, to_relay) = relay.into_split();
                let loses = |flag: fn(&Losing) -> &AtomicBool| {
                    let losing = Arc::clone(&shared);
                    move || {
                        nth <= losing.last.load(Ordering::SeqCst)
                            && flag(&losing).load(Ordering::SeqCst)
                    }
                };
                tokio::spawn(carry(from_relay, to_agent, loses(|it| &it.to_agent)));
                tokio::spawn(carry(from_agent, to_relay, loses(|it| &it.to_relay)));
            }
        });
        Ok(Self {
            address,
            losing,
            server,
        })
    }

    /// Number of connections made so far.
    pub(super) fn made(&self) -> usize {
        self.losing.made.load(Ordering::SeqCst)
    }

    /// Makes the present connections lose the direction in `flag` from now on.
    pub(super) fn lose(&self, flag: fn(&Losing) -> &AtomicBool) {
        let made = self.losing.made.load(Ordering::SeqCst);
        self.losing.last.store(made, Ordering::SeqCst);
        flag(&self.losing).store(true, Ordering::SeqCst);
    }

    /// Makes all connections lose the direction in `flag` from now on, later ones too.
    pub(super) fn lose_for_good(&self, flag: fn(&Losing) -> &AtomicBool) {
        self.losing.last.store(usize::MAX, Ordering::SeqCst);
        flag(&self.losing).store(true, Ordering::SeqCst);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, loses: impl Fn() -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        // A lost direction also loses the end of its stream.
        if loses() {
            if count == 0 {
                return std::future::pending().await;
            }
            continue;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// A relay, a network, an agent, and a target that records its calls.
pub(super) struct Rig {
    pub(super) relay: TestRelay,
    pub(super) network: Network,
    pub(super) agent: TestAgent,
    runs: Arc<Mutex<Vec<String>>>,
    _target: Target,
}

impl Rig {
    /// Starts the rig; callers wait up to `grace` for an absent agent.
    pub(super) async fn start(grace: Duration) -> Result<Self> {
        Self::with_links(1, grace).await
    }

    /// Starts the rig with an agent that has `links` links.
    pub(super) async fn with_links(links: u16, grace: Duration) -> Result<Self> {
        let relay = TestRelay::with().shards(2);
        let relay = relay
            .config(move |config| config.callers.offline_grace = grace)
            .start()?;
        let network = Network::start(&relay).await?;
        let runs: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&runs);
        let target = Target::http_requests(move |mut http, head| {
            let noted = Arc::clone(&noted);
            async move {
                http.body(&head).await?;
                noted.lock().expect(SOUND).push(head.request().1.to_owned());
                http.respond("200 OK", "", b"hello").await?;
                Ok(http)
            }
        })
        .await?;
        let agent = TestAgent::of(&target).named("maya").links(links);
        let agent = agent.start_at(&network.address).await?;
        relay
            .until("all links", |it| it.get("relay_links") == i64::from(links))
            .await?;
        Ok(Self {
            relay,
            network,
            agent,
            runs,
            _target: target,
        })
    }

    /// Paths of the calls that the target has processed.
    pub(super) fn runs(&self) -> Vec<String> {
        self.runs.lock().expect(SOUND).clone()
    }

    /// Opens a caller connection and sends a call that must not run twice.
    pub(super) async fn post(&self, call: &str) -> Result<HttpStream> {
        let mut caller = self.relay.http().await?;
        post(&mut caller, call).await?;
        Ok(caller)
    }
}

/// Sends a call that must not run twice.
pub(super) async fn post(caller: &mut HttpStream, call: &str) -> Result<()> {
    let line = format!("POST /w/maya/{call} HTTP/1.1\r\n");
    let rest = "Host: relay\r\nContent-Length: 2\r\n\r\n{}";
    caller.write(line + rest).await
}
