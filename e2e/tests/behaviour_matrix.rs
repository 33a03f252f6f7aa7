//! Any to any: each transport of links serves each kind of caller, through one relay that listens to all of them.
//!
//! What each cell expects, whatever the link:
//!
//! | caller | half-close | its target resets | the caller cancels |
//! |---|---|---|---|
//! | tcp | the answer comes behind it | reset | a reset (RST) resets the target's connection |
//! | tls | `close_notify`, and the answer comes behind it | the connection ends without `close_notify` | so does an end without `close_notify` |
//! | ws, wss | none: a Close ends both directions, and the target sees an end in order | a Close other than 1000, or none | so does an end without a Close |
//! | quic | FIN, and the answer comes behind it | `RESET_STREAM` with the code of the reason | so does the end of its connection |
//! | http, https | none: a request ends with its body, and the answer comes behind it | the answer breaks off | the target's connection ends |
//! | h2 | as https | the stream is reset | the target's connection ends |
//!
//! In each cell as many bytes as `MATRIX_MIB` says, 8 MiB by default, come back unchanged, and a caller that reads slowly
//! loses nothing.

#[path = "behaviour_matrix/raw.rs"]
mod raw;
#[path = "behaviour_matrix/streams.rs"]
mod streams;
#[path = "behaviour_matrix/targets.rs"]
mod targets;
#[path = "behaviour_matrix/web.rs"]
mod web;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tieline_agent::TargetConfig;
use tieline_e2e::behaviour::{Metrics, TestAgent, TestCertificate, TestRelay, tls, within};

use raw::RawCaller;
use targets::Targets;
use web::WebCaller;

/// Longest time of one cell.
const CELL_MAX: Duration = Duration::from_secs(120);

/// Bytes to the caller, after which it has let bytes wait that it has not read.
const UNREAD_BYTES: i64 = 100_000;

/// Payload of the echoes in MiB by default.
const ECHO_MIB: usize = 8;

/// A transport of links.
#[derive(Clone, Copy, Debug)]
enum Link {
    Tcp,
    Tls,
    Ws,
    Wss,
    Quic,
}

impl Link {
    const ALL: [Self; 5] = [Self::Tcp, Self::Tls, Self::Ws, Self::Wss, Self::Quic];

    /// The word of the transport in `/tunnels`, also the URL's scheme.
    const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Quic => "quic",
        }
    }
}

/// A relay that takes every link and every caller.
struct Front {
    relay: TestRelay,
    certificate: TestCertificate,
}

impl Front {
    fn start() -> Result<Self> {
        let certificate = TestCertificate::new("relay.test")?;
        let relay = TestRelay::with().shards(2).quic(&certificate);
        let relay = relay.config(|config| {
            // Behind the addresses without TLS.
            config.agent_listen.push(tls::listen_address());
            config.tcp_listen.push(tls::listen_address());
            config.http_listen.push(tls::listen_address());
        });
        Ok(Self {
            relay: relay.start()?,
            certificate,
        })
    }

    fn url(&self, link: Link) -> String {
        let it = self.relay.relay();
        let (agents, http) = (it.agent_addresses(), it.http_addresses());
        match link {
            Link::Tcp => format!("tcp://{}", agents[0]),
            Link::Tls => format!("tls://localhost:{}", agents[1].port()),
            Link::Ws => format!("ws://{}", http[0]),
            Link::Wss => format!("wss://localhost:{}", http[1].port()),
            Link::Quic => self.relay.quic_url(),
        }
    }

    /// Starts an agent with a link of this kind, whose tunnels are `raw-LINK` and `web-LINK`.
    async fn agent(&self, link: Link, targets: &Targets) -> Result<TestAgent> {
        let (raw, web) = (
            format!("raw-{}", link.word()),
            format!("web-{}", link.word()),
        );
        let pages = TargetConfig::new(&targets.web.to_string())?.with_name(&web)?;
        let agent = TestAgent::of(&targets.raw).named(&raw);
        let agent = match link {
            Link::Tcp | Link::Ws => agent,
            Link::Tls | Link::Wss | Link::Quic => agent.trusting(&self.certificate),
        };
        let agent = agent.config(move |config| config.with_target(pages));
        let mut agent = agent.spawn_at(&self.url(link))?;
        for _ in 0..2 {
            agent.registered().await?;
        }
        let rows = self.relay.tunnels().await?;
        for tunnel in [raw, web] {
            let row = rows.iter().find(|row| row.tunnel_id == tunnel);
            let row = row.with_context(|| format!("{tunnel} is missing: {rows:?}"))?;
            ensure!(row.transport == link.word(), "{row:?}");
        }
        Ok(agent)
    }

    /// Payload to callers so far, in bytes.
    async fn bytes_to_callers(&self) -> Result<i64> {
        let metrics = self.relay.metrics().await?;
        Ok(metrics.labelled("relay_bytes_total", "to_frontend"))
    }

    /// Waits until the relay has passed [`UNREAD_BYTES`] on since the counter was at `before`.
    async fn bytes_wait(&self, before: i64) -> Result<()> {
        let wanted = |metrics: &Metrics| {
            metrics.labelled("relay_bytes_total", "to_frontend") > before + UNREAD_BYTES
        };
        self.relay
            .until("bytes wait for the caller", wanted)
            .await?;
        Ok(())
    }
}

fn echo_bytes() -> Result<usize> {
    let mib = match std::env::var("MATRIX_MIB") {
        Ok(text) => text.parse().context("MATRIX_MIB is no number")?,
        Err(_) => ECHO_MIB,
    };
    Ok(mib << 20)
}

/// Runs all callers of one link, and says which cell failed.
async fn row(front: &Front, link: Link, len: usize) -> Result<()> {
    let mut targets = Targets::start().await?;
    let agent = front.agent(link, &targets).await?;
    for caller in RawCaller::ALL {
        let began = Instant::now();
        let name = format!("{caller:?} caller over a {link:?} link");
        let tunnel = format!("raw-{}", link.word());
        let cell = raw::cell(front, caller, &tunnel, &mut targets, len);
        within(CELL_MAX, &name, cell).await?.context(name.clone())?;
        println!("{name}: {:?}", began.elapsed());
    }
    for caller in WebCaller::ALL {
        let began = Instant::now();
        let name = format!("{caller:?} caller over a {link:?} link");
        let tunnel = format!("web-{}", link.word());
        let cell = web::cell(front, caller, &tunnel, &mut targets, len);
        within(CELL_MAX, &name, cell).await?.context(name.clone())?;
        println!("{name}: {:?}", began.elapsed());
    }
    ensure!(agent.stop().await?.is_ok(), "the {link:?} agent failed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_link_serves_any_caller() -> Result<()> {
    let front = Front::start()?;
    let len = echo_bytes()?;
    for link in Link::ALL {
        row(&front, link, len).await?;
    }
    let none = |metrics: &Metrics| metrics.get("relay_sessions") == 0;
    let metrics = front.relay.until("no session", none).await?;
    ensure!(metrics.get("relay_links_total") == 5, "{metrics}");
    ensure!(metrics.get("relay_link_evictions_total") == 0, "{metrics}");
    Ok(())
}
