//! Relays with QUIC of which one takes the other's place: in a take-over, and after a relay that was killed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quinn_proto::{ConnectionError, VarInt};
use tieline_e2e::behaviour::{
    Addresses, AgentBuilder, QuicCaller, RelayProgram, Target, TestAgent, TestCertificate, soon,
};
use tieline_wire::LinkEnd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::successor::Home;

/// Stale timeout of relays that are killed. An agent sends a heartbeat each third of it, and gives a silent relay up after
/// the whole.
const STALE: Duration = Duration::from_secs(24);

/// A state folder and a certificate, which the relays have one after the other.
struct Site {
    home: Home,
    certificate: TestCertificate,
}

impl Site {
    fn new() -> Result<Self> {
        Ok(Self {
            home: Home::new()?,
            certificate: TestCertificate::new("relay.test")?,
        })
    }

    /// Starts a relay with QUIC at the address `quic`.
    fn start(&self, addresses: Addresses, quic: SocketAddr, more: &[&str]) -> Result<RelayProgram> {
        let (files, quic) = (self.certificate.files(), quic.to_string());
        let cert = files.cert.to_str().context("a path in UTF-8")?;
        let key = files.key.to_str().context("a path in UTF-8")?;
        let flags = ["--quic-listen", &quic, "--tls-cert", cert, "--tls-key", key];
        self.home.start(addresses, &[&flags, more].concat())
    }

    /// Starts the first relay.
    fn first(&self, more: &[&str]) -> Result<RelayProgram> {
        self.start(
            Addresses::any(),
            SocketAddr::from(([127, 0, 0, 1], 0)),
            more,
        )
    }

    fn agent(&self, target: &Target) -> AgentBuilder {
        TestAgent::of(target).trusting(&self.certificate)
    }

    /// A caller over QUIC that has had an answer of the agent's echo.
    async fn caller(&self, relay: SocketAddr, agent: &TestAgent) -> Result<QuicCaller> {
        let caller = QuicCaller::connect(relay, &self.certificate, "tieline").await?;
        let mut stream = caller.raw(agent.tunnel()).await?;
        stream.write_all(b"some").await?;
        soon("the echo", stream.read_exact(&mut [0; 4])).await??;
        Ok(caller)
    }

    /// Callers enough to come to each socket of each shard.
    async fn serves(&self, relay: SocketAddr, agent: &TestAgent) -> Result<()> {
        for _ in 0..12 {
            self.caller(relay, agent).await?;
        }
        Ok(())
    }
}

/// The number of shards, and of sockets that are read, grows in one take-over and shrinks in the other.
#[tokio::test(flavor = "multi_thread")]
async fn agents_and_callers_over_quic_are_told_of_a_take_over_and_come_to_the_new_relay()
-> Result<()> {
    let site = Site::new()?;
    let target = Target::echo().await?;
    let mut old = site.first(&["--shards", "2"])?;
    let address = old.quic_address()?;
    let agent = site.agent(&target).links(2);
    let mut agent = agent.start_at(&format!("quic://{address}")).await?;
    // The second link's; the start waits for the first one's.
    agent.registered().await?;
    for shards in ["3", "1"] {
        let caller = site.caller(address, &agent).await?;
        let new = site.start(old.addresses, address, &["--shards", shards, "--take-over"])?;
        ensure!(new.quic_address()? == address);
        match caller.lost().await? {
            ConnectionError::ApplicationClosed(close) => {
                let code = VarInt::from(LinkEnd::ShuttingDown.code());
                ensure!(close.error_code == code, "{close:?}");
            }
            other => bail!("{other}"),
        }
        for _ in 0..2 {
            agent.registered().await?;
        }
        site.serves(address, &agent).await?;
        let ended = old.ended()?;
        ensure!(ended.status.code() == Some(0), "{}", ended.quote);
        old = new;
    }
    Ok(())
}

/// The next relay has the keys in the state folder, so it knows the connections of the one before as such, and answers an
/// agent's next packet with a stateless reset.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_over_quic_hears_of_a_killed_relay_from_the_next_one() -> Result<()> {
    let site = Site::new()?;
    let target = Target::echo().await?;
    let stale = format!("{}s", STALE.as_secs());
    let more = |shards| ["--shards", shards, "--stale-timeout", &stale];
    let mut relay = site.first(&more("2"))?;
    let address = relay.quic_address()?;
    let agent = site.agent(&target);
    let mut agent = agent.start_at(&format!("quic://{address}")).await?;
    for shards in ["3", "1"] {
        // What the agent hears here is the last of this relay.
        drop(site.caller(address, &agent).await?);
        let addresses = relay.addresses;
        drop(relay);
        let killed = Instant::now();
        relay = site.start(addresses, address, &more(shards))?;
        agent.registered().await?;
        let took = killed.elapsed();
        ensure!(took < STALE * 2 / 3, "back after {took:?}");
        site.serves(address, &agent).await?;
    }
    Ok(())
}
