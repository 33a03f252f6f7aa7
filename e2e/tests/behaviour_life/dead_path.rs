//! A path between agent and relay that is dead in one direction, while both ends of the connection think
//! that it stands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{HttpStream, Target, TestAgent, TestRelay, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What is promised, and what a busy machine takes.
const NOTICED_MAX: Duration = Duration::from_secs(10);

/// After this long a link has been silent for longer than a relay is sure of it.
const SILENCE: Duration = Duration::from_millis(1_500);

/// A network in between. What it is told to lose, it takes and drops; connections that are made
/// afterwards work.
struct Network {
    address: String,
    losing: Arc<Losing>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Losing {
    to_agent: AtomicBool,
    to_relay: AtomicBool,
    made: AtomicUsize,
    /// Only connections up to this one are concerned.
    last: AtomicUsize,
}

impl Network {
    async fn start(relay: &TestRelay) -> Result<Self> {
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

    fn lose(&self, flag: fn(&Losing) -> &AtomicBool) {
        let made = self.losing.made.load(Ordering::SeqCst);
        self.losing.last.store(made, Ordering::SeqCst);
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
        // An end gets lost as well.
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

/// A relay, a network and an agent; and a target that counts its calls.
struct Rig {
    relay: TestRelay,
    network: Network,
    agent: TestAgent,
    calls: Arc<AtomicUsize>,
    _target: Target,
}

impl Rig {
    /// Callers wait for an agent that is away for `grace`.
    async fn start(grace: Duration) -> Result<Self> {
        let relay = TestRelay::with().shards(2);
        let relay = relay
            .config(move |config| config.http.offline_grace = grace)
            .start()?;
        let network = Network::start(&relay).await?;
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let target = Target::http_requests(move |mut http, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                http.respond("200 OK", "", b"hello").await?;
                Ok(http)
            }
        })
        .await?;
        let agent = TestAgent::of(&target).named("maya");
        let agent = agent.start_at(&network.address).await?;
        // It is about a link that has been silent for a while.
        tokio::time::sleep(SILENCE).await;
        Ok(Self {
            relay,
            network,
            agent,
            calls,
            _target: target,
        })
    }

    /// A call that must not run twice.
    async fn post(&self) -> Result<HttpStream> {
        let mut caller = self.relay.http().await?;
        let request = "POST /w/maya/ HTTP/1.1\r\nHost: relay\r\nContent-Length: 2\r\n\r\n{}";
        caller.write(request).await?;
        Ok(caller)
    }
}

#[tokio::test]
async fn a_call_over_a_path_that_takes_nothing_to_the_agent_is_not_sent_and_says_so() -> Result<()>
{
    let rig = Rig::start(Duration::from_millis(500)).await?;
    rig.network.lose(|it| &it.to_agent);
    let began = Instant::now();
    let mut caller = rig.post().await?;
    let metrics = rig
        .relay
        .until("the link is given up", |it| it.get("relay_links") == 0)
        .await?;
    ensure!(began.elapsed() < NOTICED_MAX, "{:?}", began.elapsed());
    ensure!(
        metrics.labelled("relay_link_evictions_total", "stale") == 1,
        "{metrics}"
    );
    // The agent has nothing to say, and notices later.
    let (head, body) = soon("an answer", caller.answer()).await??;
    let text = String::from_utf8_lossy(&body.bytes);
    ensure!(head.status() == 503 && text.contains("not_sent"), "{text}");
    ensure!(rig.calls.load(Ordering::SeqCst) == 0);
    Ok(())
}

#[tokio::test]
async fn a_call_over_a_path_that_takes_nothing_to_the_relay_runs_once_over_the_next_link()
-> Result<()> {
    // Longer than an agent takes to dial again, also on a busy machine.
    let mut rig = Rig::start(Duration::from_secs(60)).await?;
    let before = rig.network.losing.made.load(Ordering::SeqCst);
    rig.network.lose(|it| &it.to_relay);
    let began = Instant::now();
    let mut callers = Vec::new();
    for _ in 0..4 {
        callers.push(rig.post().await?);
    }
    rig.agent.registered().await?;
    ensure!(began.elapsed() < NOTICED_MAX, "{:?}", began.elapsed());
    ensure!(rig.network.losing.made.load(Ordering::SeqCst) > before);
    for mut caller in callers {
        let (head, body) = soon("the answer over the new link", caller.answer()).await??;
        ensure!(head.status() == 200, "{head:?} {body:?}");
    }
    ensure!(rig.calls.load(Ordering::SeqCst) == 4, "each runs once");
    Ok(())
}
