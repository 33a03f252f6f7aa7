//! Agents of `https://` relays: which transport they begin with, how their links move to QUIC once UDP gets through, what
//! is remembered of that, and URLs that force one transport.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use tempfile::TempDir;
use tieline_agent::{AgentEvent, TargetConfig};
use tieline_e2e::behaviour::studio::{order, studio, token, write_token};
use tieline_e2e::behaviour::{
    AgentBuilder, DatagramPath, Metrics, RelayBuilder, Target, TestAgent, TestCertificate,
    TestRelay, TunnelRow, at_some_pace, echo_round_trip, half_close, noise, read_to_close, soon,
    within,
};
use tieline_e2e::on_each_driver;
use tieline_relay::config::{HttpUrl, Secret};
use tieline_relay::{Auth, DriverChoice, ProviderAuth};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};

on_each_driver!(
    without_udp_an_agent_is_registered_over_a_websocket_in_time,
    a_link_moves_to_quic_without_harm,
    several_links_with_several_tunnels_move_without_harm,
    a_path_that_carries_handshakes_alone_costs_no_call,
    a_link_whose_udp_is_cut_is_back_over_a_websocket,
    calls_go_on_soon_after_udp_is_cut,
);

/// Time in which an agent is registered where QUIC does not get through. 2 s and two round trips are promised; a busy
/// machine takes its time, and an agent that waits for the end of QUIC's handshake takes 10 s.
const IN_TIME: Duration = Duration::from_secs(5);

/// Time in which a link is back over a WebSocket once its loss over QUIC was noticed.
const BACK_WITHIN: Duration = Duration::from_secs(3);

/// Time for one small call while a link is replaced: far more than it takes once the link is there.
const CALL_WITHIN: Duration = Duration::from_millis(200);

/// Pause between two small calls.
const CALL_PACE: Duration = Duration::from_millis(100);

/// Pause between two attempts over QUIC of a restless agent.
const RETRY: Duration = Duration::from_millis(100);

/// Bytes of one piece of a long session.
const PIECE_BYTES: usize = 64 * 1024;

/// Pieces of a long session, at least: 4 MiB each way.
const PIECES_MIN: u64 = 64;

/// Pause after each piece of a long session: a move takes seconds, and the machine has other tests.
const PIECE_PACE: Duration = Duration::from_millis(20);

/// Pause after each call, and between two looks at what no event announces.
const PACE: Duration = Duration::from_millis(5);

/// A relay whose agents come over TCP and UDP at one port number, with a gate for UDP before it.
struct Site {
    relay: TestRelay,
    gate: DatagramPath,
    certificate: TestCertificate,
}

impl Site {
    fn start(driver: DriverChoice) -> Result<Self> {
        Self::with(|relay| relay.driver(driver))
    }

    /// A site whose relay has what `change` sets.
    fn with(change: impl Fn(RelayBuilder) -> RelayBuilder) -> Result<Self> {
        let certificate = TestCertificate::new("relay.test")?;
        // Another program may have the UDP port with the number of the TCP port.
        for _ in 0..8 {
            let relay = change(TestRelay::with().shards(2));
            let relay = relay.http_over_tls(&certificate).quic(&certificate);
            let relay = relay.start()?;
            if let Ok(gate) = DatagramPath::start_at(relay.http_address(), relay.quic_address()) {
                return Ok(Self {
                    relay,
                    gate,
                    certificate,
                });
            }
        }
        bail!("no port number is free over TCP and UDP")
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.relay.http_address())
    }

    fn agent(&self, target: &Target) -> AgentBuilder {
        TestAgent::of(target).trusting(&self.certificate)
    }

    /// An agent that tries QUIC again after a moment.
    fn restless(&self, target: &Target) -> AgentBuilder {
        self.agent(target).config(|mut config| {
            config.quic_retry = RETRY;
            config
        })
    }

    /// Waits until each tunnel has `links` links, all of them over `transport`.
    async fn are_over(&self, transport: &str, links: usize) -> Result<()> {
        let what = format!("{links} links of each tunnel over {transport}");
        let wanted = self.relay.tunnels_until(&what, |rows| {
            let is_wanted = |row: &TunnelRow| {
                row.links == links && row.paths.iter().all(|it| it.transport == transport)
            };
            !rows.is_empty() && rows.iter().all(is_wanted)
        });
        wanted.await.map(drop)
    }

    /// One call from its beginning to its end.
    async fn call(&self, tunnel: &str, seed: u64) -> Result<()> {
        let mut caller = self.relay.raw(tunnel).await?;
        soon("the echo", echo_round_trip(&mut caller, &noise(seed, 200))).await??;
        ends(caller).await
    }

    /// Calls `tunnel` again and again, each time for `limit` at most, until a call gets through.
    async fn call_gets_through(&self, tunnel: &str, limit: Duration) -> Result<()> {
        let is_through = |call: Result<Result<()>>| matches!(call, Ok(Ok(())));
        let calling = async {
            while !is_through(within(limit, "a call", self.call(tunnel, 1)).await) {
                tokio::time::sleep(PACE).await;
            }
        };
        soon("a call that gets through", calling).await
    }

    /// Calls `tunnel` again and again, until all is over.
    async fn calls(&self, tunnel: &str, load: &Load) -> Result<()> {
        while !load.is_over() {
            let count = *load.calls.borrow();
            let call = self.call(tunnel, count).await;
            call.with_context(|| format!("call {count} of {tunnel}"))?;
            load.calls.send_modify(|count| *count += 1);
            tokio::time::sleep(PACE).await;
        }
        Ok(())
    }

    /// Lets UDP through, and checks that the tunnels move to QUIC with `links` links each: no call is lost, and sessions of
    /// the links before are whole.
    async fn moves(&self, tunnels: &[&str], links: usize) -> Result<()> {
        let load = Load::default();
        // Some for each link.
        let mut sessions = Vec::new();
        for tunnel in tunnels {
            for _ in 0..2 * links {
                let mut caller = self.relay.raw(tunnel).await?;
                soon("the echo", echo_round_trip(&mut caller, b"open")).await??;
                sessions.push(caller);
            }
        }
        let sessions = sessions.into_iter().map(|caller| goes_on(caller, &load));
        let calls = tunnels.iter().map(|tunnel| self.calls(tunnel, &load));
        let moving = async {
            self.gate.dies(false);
            self.are_over("quic", links).await?;
            let more = *load.calls.borrow() + 20;
            let mut calls = load.calls.subscribe();
            soon("more calls", calls.wait_for(|count| *count >= more)).await??;
            load.over.send_replace(true);
            anyhow::Ok(())
        };
        tokio::try_join!(try_join_all(sessions), try_join_all(calls), moving)?;

        let links = i64::try_from(links)?;
        let is_empty = |metrics: &Metrics| {
            metrics.get("relay_links") == links && metrics.get("relay_sessions") == 0
        };
        let metrics = self.relay.until("the earlier links end", is_empty).await?;
        for family in ["relay_session_resets_total", "relay_link_evictions_total"] {
            ensure!(metrics.get(family) == 0, "{metrics}");
        }
        for tunnel in tunnels {
            self.is_served_over_udp(tunnel).await?;
        }
        Ok(())
    }

    /// Checks that a session's bytes pass the gate.
    async fn is_served_over_udp(&self, tunnel: &str) -> Result<()> {
        let before = self.gate.datagrams();
        let mut caller = self.relay.raw(tunnel).await?;
        let sent = noise(1, 1024 * 1024);
        soon("the echo", echo_round_trip(&mut caller, &sent)).await??;
        ends(caller).await?;
        // Of 1452 bytes at most.
        let count = self.gate.datagrams() - before;
        ensure!(count > sent.len() / 1_500, "{count} datagrams");
        Ok(())
    }
}

/// What sessions and calls have in common while links move.
#[derive(Default)]
struct Load {
    /// Number of calls so far.
    calls: watch::Sender<u64>,
    over: watch::Sender<bool>,
}

impl Load {
    fn is_over(&self) -> bool {
        *self.over.borrow()
    }
}

/// Ends a call, and checks that nothing more comes.
async fn ends(mut caller: TcpStream) -> Result<()> {
    half_close(&caller)?;
    let (rest, end) = soon("the end", read_to_close(&mut caller)).await?;
    end?;
    ensure!(rest.is_empty(), "{rest:?} behind the echo");
    Ok(())
}

/// Has a session's bytes go both ways until all is over, and compares them.
async fn goes_on(mut caller: TcpStream, load: &Load) -> Result<()> {
    let mut seed = 0;
    while !load.is_over() || seed < PIECES_MIN {
        let piece = noise(seed, PIECE_BYTES);
        let echo = soon("the echo", echo_round_trip(&mut caller, &piece)).await?;
        echo.with_context(|| format!("piece {seed} of a session that was there before"))?;
        seed += 1;
        tokio::time::sleep(PIECE_PACE).await;
    }
    ends(caller).await
}

/// Waits until the file in which `folder` keeps what was observed has `word`.
async fn kept(folder: &Path, word: &str) -> Result<()> {
    let file = folder.join("transports.json");
    let written = async {
        while !fs::read_to_string(&file).is_ok_and(|text| text.contains(word)) {
            tokio::time::sleep(PACE).await;
        }
    };
    soon(&format!("{word} in {}", file.display()), written).await
}

/// Waits until a link is lost; returns what the agent says of it.
async fn lost(agent: &mut TestAgent) -> Result<String> {
    let lost = |event: &AgentEvent| match event {
        AgentEvent::Disconnected { message, .. } => Some(message.clone()),
        _ => None,
    };
    agent.saw(lost).await
}

async fn without_udp_an_agent_is_registered_over_a_websocket_in_time(
    driver: DriverChoice,
) -> Result<()> {
    let site = Site::start(driver)?;
    site.gate.dies(true);
    let echo = Target::echo().await?;
    let begun = Instant::now();
    let agent = site.agent(&echo).start_at(&site.url("https")).await?;
    let took = begun.elapsed();
    ensure!(took < IN_TIME, "{took:?}");
    site.are_over("wss", 1).await?;
    ensure!(site.gate.datagrams() > 0, "QUIC was not tried");
    site.call(agent.tunnel(), 1).await
}

async fn a_link_moves_to_quic_without_harm(driver: DriverChoice) -> Result<()> {
    let site = Site::start(driver)?;
    site.gate.dies(true);
    let echo = Target::echo().await?;
    let mut agent = site.restless(&echo).start_at(&site.url("https")).await?;
    site.are_over("wss", 1).await?;
    site.moves(&[agent.tunnel()], 1).await?;
    agent.goes_over("quic").await
}

async fn several_links_with_several_tunnels_move_without_harm(driver: DriverChoice) -> Result<()> {
    let site = Site::start(driver)?;
    site.gate.dies(true);
    let (maya, nuke) = (Target::echo().await?, Target::echo().await?);
    let other = TargetConfig::new(&nuke.to_string())?.with_name("nuke")?;
    let agent = site.restless(&maya).named("maya").links(2);
    let agent = agent.config(move |config| config.with_target(other));
    let _agent = agent.start_at(&site.url("https")).await?;
    site.are_over("wss", 2).await?;
    let rows = site.relay.tunnels_until("both tunnels", |rows| {
        rows.len() == 2 && rows.iter().all(|row| row.links == 2)
    });
    rows.await?;
    site.moves(&["maya", "nuke"], 2).await
}

async fn a_path_that_carries_handshakes_alone_costs_no_call(driver: DriverChoice) -> Result<()> {
    let site = Site::start(driver)?;
    site.gate.carries_handshakes_alone(true);
    let echo = Target::echo().await?;
    let begun = Instant::now();
    let agent = site.restless(&echo).start_at(&site.url("https")).await?;
    let took = begun.elapsed();
    ensure!(took < IN_TIME, "{took:?}");
    site.are_over("wss", 1).await?;
    let load = Load::default();
    let trying = async {
        // Each attempt has an address of its own: the second is over when the third begins.
        let begins = async {
            while site.gate.ways() < 3 {
                tokio::time::sleep(PACE).await;
            }
        };
        soon("two more attempts over QUIC", begins).await?;
        load.over.send_replace(true);
        anyhow::Ok(())
    };
    tokio::try_join!(site.calls(agent.tunnel(), &load), trying)?;
    site.are_over("wss", 1).await?;
    kept(agent.state_path(), "dead").await
}

async fn a_link_whose_udp_is_cut_is_back_over_a_websocket(driver: DriverChoice) -> Result<()> {
    let stale_timeouts = [Duration::from_secs(1), Duration::from_secs(5)];
    at_some_pace(&stale_timeouts, async |stale| cut(driver, stale).await).await
}

async fn cut(driver: DriverChoice, stale: Duration) -> Result<()> {
    let site = Site::with(|relay| relay.driver(driver).stale_timeout(stale))?;
    let echo = Target::echo().await?;
    let mut agent = site.agent(&echo).start_at(&site.url("https")).await?;
    site.are_over("quic", 1).await?;
    site.is_served_over_udp(agent.tunnel()).await?;
    site.gate.dies(true);
    lost(&mut agent).await?;
    let noticed_at = Instant::now();
    agent.registered().await?;
    let took = noticed_at.elapsed();
    ensure!(took < BACK_WITHIN, "{took:?}");
    site.are_over("wss", 1).await?;
    site.call(agent.tunnel(), 1).await
}

async fn calls_go_on_soon_after_udp_is_cut(driver: DriverChoice) -> Result<()> {
    // 3 s are promised. The link's own ping would take 4 s.
    let limits = [Duration::from_secs(3), Duration::from_millis(3_900)];
    at_some_pace(&limits, async |limit| cut_under_calls(driver, limit).await).await
}

async fn cut_under_calls(driver: DriverChoice, limit: Duration) -> Result<()> {
    let site = Site::start(driver)?;
    let echo = Target::echo().await?;
    let agent = site.agent(&echo).start_at(&site.url("https")).await?;
    site.are_over("quic", 1).await?;
    for seed in 0..10 {
        site.call(agent.tunnel(), seed).await?;
        tokio::time::sleep(CALL_PACE).await;
    }
    site.gate.dies(true);
    let cut_at = Instant::now();
    site.call_gets_through(agent.tunnel(), CALL_WITHIN).await?;
    let took = cut_at.elapsed();
    ensure!(took < limit, "{took:?}");
    site.are_over("wss", 1).await
}

#[tokio::test]
async fn a_moment_without_udp_harms_no_session_where_tcp_gets_nowhere() -> Result<()> {
    // The agent doubts its link after 1.25 s.
    const GAP: Duration = Duration::from_millis(1_500);
    let site = Site::start(DriverChoice::Auto)?;
    let echo = Target::echo().await?;
    // Connections to it stay without an answer.
    let stuck = TcpListener::bind("127.0.0.1:0").await?;
    let address = stuck.local_addr()?;
    let gate = DatagramPath::start_at(address, site.relay.quic_address())?;
    let url = format!("https://{address}");
    let agent = site.agent(&echo).start_at(&url).await?;
    site.are_over("quic", 1).await?;
    let mut caller = site.relay.raw(agent.tunnel()).await?;
    soon("the echo", echo_round_trip(&mut caller, b"before")).await??;
    gate.dies(true);
    let going_on = async {
        let echo = echo_round_trip(&mut caller, b"within").await;
        echo.context("a session over the link")
    };
    let cut = async {
        tokio::time::sleep(GAP).await;
        gate.dies(false);
        anyhow::Ok(())
    };
    soon("the echo", async { tokio::try_join!(going_on, cut) }).await??;
    ends(caller).await?;
    site.are_over("quic", 1).await?;
    let metrics = site.relay.metrics().await?;
    ensure!(metrics.get("relay_links_total") == 1, "{metrics}");
    Ok(())
}

#[tokio::test]
async fn one_lost_link_does_not_speak_against_quic_and_three_in_a_row_do() -> Result<()> {
    // A ping has followed the registration by then, and was answered: without an answer, a WebSocket would take over.
    const ANSWERED_AFTER: Duration = Duration::from_secs(2);
    // Links that are lost within 2 s of each other count as one.
    let stale = Duration::from_secs(4);
    let site = Site::with(|relay| relay.stale_timeout(stale))?;
    let echo = Target::echo().await?;
    let mut agent = site.agent(&echo).start_at(&site.url("https")).await?;
    site.are_over("quic", 1).await?;
    for transport in ["quic", "quic", "wss"] {
        tokio::time::sleep(ANSWERED_AFTER).await;
        site.gate.dies(true);
        lost(&mut agent).await?;
        // The path is whole again before the next dial.
        site.gate.dies(false);
        agent.registered().await?;
        site.are_over(transport, 1).await?;
    }
    kept(agent.state_path(), "dead").await
}

#[tokio::test]
async fn the_next_run_begins_with_what_worked() -> Result<()> {
    let site = Site::start(DriverChoice::Auto)?;
    let home = TempDir::new()?;
    let echo = Target::echo().await?;
    let url = site.url("https");
    let run = || {
        let agent = site.agent(&echo).state_dir(home.path());
        agent.start_at(&url)
    };
    site.gate.carries_handshakes_alone(true);
    let first = run().await?;
    site.are_over("wss", 1).await?;
    kept(home.path(), "dead").await?;
    ensure!(first.stop().await?.is_ok());

    site.gate.carries_handshakes_alone(false);
    let before = site.gate.datagrams();
    let second = run().await?;
    site.are_over("wss", 1).await?;
    site.call(second.tunnel(), 1).await?;
    ensure!(site.gate.datagrams() == before, "QUIC was tried again");
    Ok(())
}

#[tokio::test]
async fn a_damaged_memory_is_replaced() -> Result<()> {
    let site = Site::start(DriverChoice::Auto)?;
    let home = TempDir::new()?;
    let file = home.path().join("transports.json");
    fs::write(&file, "[{")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let echo = Target::echo().await?;
    let agent = site.agent(&echo).state_dir(home.path());
    let agent = agent.start_at(&site.url("https")).await?;
    site.are_over("quic", 1).await?;
    kept(home.path(), "works").await?;
    site.is_served_over_udp(agent.tunnel()).await
}

#[tokio::test]
async fn a_scheme_forces_its_transport() -> Result<()> {
    let site = Site::start(DriverChoice::Auto)?;
    let echo = Target::echo().await?;
    let agent = site.restless(&echo).start_at(&site.url("wss")).await?;
    // Far longer than the pause between two attempts over QUIC.
    for seed in 0..100 {
        site.call(agent.tunnel(), seed).await?;
        tokio::time::sleep(PACE).await;
    }
    site.are_over("wss", 1).await?;
    ensure!(site.gate.datagrams() == 0, "QUIC was tried");
    ensure!(agent.stop().await?.is_ok());

    site.gate.dies(true);
    let before = site.relay.metrics().await?.get("relay_links_total");
    let mut agent = site.agent(&echo).spawn_at(&site.url("quic"))?;
    let message = lost(&mut agent).await?;
    for words in ["nothing answers over UDP", "https://"] {
        ensure!(message.contains(words), "{message}");
    }
    let after = site.relay.metrics().await?.get("relay_links_total");
    ensure!(after == before, "it has come over TCP");
    Ok(())
}

/// A site whose relay asks a provider about tokens; the provider grants every name once `pause` is over.
async fn asking<F>(pause: impl Fn() -> F + Clone + Send + Sync + 'static) -> Result<(Site, Target)>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let provider = Target::http_requests(move |mut http, head| {
        let pause = pause();
        async move {
            http.body(&head).await?;
            pause.await?;
            let granted = br#"{"subdomains":["*"],"owner":"ada"}"#;
            http.respond("200 OK", "", granted).await?;
            Ok(http)
        }
    });
    let provider = provider.await?;
    let url = HttpUrl::parse(&provider.to_string()).context("a URL")?;
    let secret = Secret::new("the-relay-itself".to_owned());
    let auth = Auth::Provider(ProviderAuth::new(url, secret));
    let site = Site::with(|relay| relay.config(|config| config.auth = auth.clone()))?;
    Ok((site, provider))
}

/// `agent` with the name `maya` and a token in `home`.
fn bearing(agent: AgentBuilder, home: &TempDir) -> Result<AgentBuilder> {
    let file = home.path().join("token");
    write_token(&file, "opaque")?;
    let agent = agent.named("maya");
    Ok(agent.config(move |config| config.with_token_file(file)))
}

#[tokio::test]
async fn a_relay_that_takes_its_time_does_not_speak_against_quic() -> Result<()> {
    // Longer than a link has without the relay's hello, once another transport gets through.
    const SLOW: Duration = Duration::from_secs(2);
    let slow = || async {
        tokio::time::sleep(SLOW).await;
        anyhow::Ok(())
    };
    let (site, _provider) = asking(slow).await?;
    let (echo, home) = (Target::echo().await?, TempDir::new()?);
    let agent = bearing(site.agent(&echo), &home)?;
    let agent = agent.start_at(&site.url("https")).await?;
    site.are_over("quic", 1).await?;
    site.call("maya", 1).await?;
    kept(agent.state_path(), "works").await
}

#[tokio::test]
async fn a_lost_answer_leaves_the_tunnel_with_the_link_before() -> Result<()> {
    let (tell, mut asked) = mpsc::channel(8);
    let answers = Arc::new(Semaphore::new(0));
    let may_answer = Arc::clone(&answers);
    let (site, _provider) = asking(move || {
        let (tell, may_answer) = (tell.clone(), Arc::clone(&may_answer));
        async move {
            tell.send(()).await?;
            may_answer.acquire().await?.forget();
            Ok(())
        }
    })
    .await?;
    site.gate.dies(true);
    let (echo, home) = (Target::echo().await?, TempDir::new()?);
    let agent = bearing(site.restless(&echo), &home)?;
    let mut agent = agent.spawn_at(&site.url("https"))?;
    soon("a question", asked.recv()).await?;
    answers.add_permits(1);
    agent.registered().await?;
    site.are_over("wss", 1).await?;

    // A link over QUIC registers, and its path dies before the relay's answer.
    site.gate.dies(false);
    soon("the question for QUIC", asked.recv()).await?;
    site.gate.dies(true);
    answers.add_permits(1);
    // The link over the WebSocket asks again, at the latest after the 20 s that a registration over QUIC may take: if a ping
    // behind it was answered before the path died, nothing shows sooner that the answer is lost.
    within(Duration::from_secs(40), "another question", asked.recv()).await?;
    answers.add_permits(1);
    site.call_gets_through("maya", Duration::from_secs(1))
        .await?;
    site.are_over("wss", 1).await
}

#[tokio::test]
async fn a_token_that_is_refused_over_quic_is_not_tried_over_a_websocket() -> Result<()> {
    let auth = studio()?;
    let site = Site::with(|relay| relay.config(|config| config.auth = auth.clone()))?;
    let echo = Target::echo().await?;
    let home = TempDir::new()?;
    let file = home.path().join("token");
    write_token(&file, &token(order(), &[8; 32], 0)?)?;
    let agent = site.agent(&echo);
    let agent = agent.config(move |config| config.with_token_file(file));
    let refused = agent.spawn_at(&site.url("https"))?;
    let error = refused.ended().await?.err();
    let error = error.context("the token was taken")?;
    ensure!(error.exit_code() == 3, "{error:?}");
    let metrics = site.relay.metrics().await?;
    ensure!(
        metrics.get("relay_registration_refused_total") == 1,
        "{metrics}"
    );
    ensure!(metrics.get("relay_links_total") == 1, "{metrics}");
    Ok(())
}
