//! A relay in this process.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tieline_relay::{Config, DriverChoice, Relay};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{HttpStream, Metrics, SOON, TunnelRow, admin};

/// How often a condition is looked at that no event announces.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A relay that runs on loopback ports of the kernel's choice; dropping it stops it at once.
#[derive(Debug)]
pub struct TestRelay {
    relay: Relay,
    config: Config,
}

/// A relay to be.
#[derive(Debug)]
#[must_use]
pub struct RelayBuilder(Config);

impl RelayBuilder {
    /// Sets the number of shards.
    pub const fn shards(mut self, shards: usize) -> Self {
        self.0.shards = shards;
        self
    }

    /// Sets how shards talk to the kernel.
    pub const fn driver(mut self, driver: DriverChoice) -> Self {
        self.0.driver = driver;
        self
    }

    /// Sets after how long a silent link is evicted.
    pub const fn stale_timeout(mut self, timeout: Duration) -> Self {
        self.0.stale_timeout = timeout;
        self
    }

    /// Sets by when a frontend must have named its tunnel.
    pub const fn preamble_timeout(mut self, timeout: Duration) -> Self {
        self.0.preamble_timeout = timeout;
        self
    }

    /// Changes any setting.
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.0);
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(self) -> Result<TestRelay> {
        TestRelay::run(self.0)
    }
}

impl TestRelay {
    /// A relay with the standard settings, to be changed, except that what is missing is said at
    /// once and not waited for.
    pub fn with() -> RelayBuilder {
        let mut config = Config::default();
        config.http.offline_grace = Duration::ZERO;
        config.http.start_grace = Duration::ZERO;
        RelayBuilder(config)
    }

    /// A relay as [`TestRelay::with`] has it.
    ///
    /// # Errors
    /// It does not start.
    pub fn start() -> Result<Self> {
        Self::with().start()
    }

    fn run(config: Config) -> Result<Self> {
        let relay = Relay::start(config.clone()).context("cannot start a relay")?;
        Ok(Self { relay, config })
    }

    /// Ends it without a goodbye and starts another one on the same ports.
    ///
    /// # Errors
    /// It does not start again.
    pub fn restart(self) -> Result<Self> {
        let Self { relay, mut config } = self;
        config.agent_listen = relay.agent_addresses().to_vec();
        config.tcp_listen = relay.tcp_addresses().to_vec();
        config.http_listen = relay.http_addresses().to_vec();
        config.admin_listen = relay.admin_addresses().to_vec();
        drop(relay);
        Self::run(config)
    }

    /// The relay itself.
    #[must_use]
    pub const fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Lets sessions end and stops.
    pub fn stop(self) {
        self.relay.stop();
    }

    /// Where an agent dials, as its `--relay`.
    #[must_use]
    pub fn agent_url(&self) -> String {
        format!("tcp://{}", self.agent_address())
    }

    /// Where agents dial.
    #[must_use]
    pub fn agent_address(&self) -> SocketAddr {
        self.relay.agent_addresses()[0]
    }

    /// Where raw TCP frontends connect.
    #[must_use]
    pub fn tcp_address(&self) -> SocketAddr {
        self.relay.tcp_addresses()[0]
    }

    /// Where HTTP frontends connect.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.relay.http_addresses()[0]
    }

    /// Where operators ask.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.relay.admin_addresses()[0]
    }

    /// A raw TCP frontend that has named its tunnel.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn raw(&self, tunnel: &str) -> Result<TcpStream> {
        raw(self.tcp_address(), tunnel).await
    }

    /// An HTTP frontend.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn http(&self) -> Result<HttpStream> {
        HttpStream::connect(self.http_address()).await
    }

    /// What `/metrics` says.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self) -> Result<Metrics> {
        admin::metrics(self.admin_address()).await
    }

    /// What `/tunnels` says.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn tunnels(&self) -> Result<Vec<TunnelRow>> {
        admin::tunnels(self.admin_address()).await
    }

    /// Waits until `/metrics` looks as `wanted`, and returns it.
    ///
    /// # Errors
    /// It does not within [`SOON`]; the error quotes it.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        until(self.admin_address(), what, wanted).await
    }
}

/// A raw TCP connection to `address` that has named its tunnel.
pub(super) async fn raw(address: SocketAddr, tunnel: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut preamble = u16::try_from(tunnel.len())?.to_be_bytes().to_vec();
    preamble.extend_from_slice(tunnel.as_bytes());
    stream.write_all(&preamble).await?;
    Ok(stream)
}

/// Waits until the metrics at `admin` look as `wanted`.
pub(super) async fn until(
    admin: SocketAddr,
    what: &str,
    wanted: impl Fn(&Metrics) -> bool,
) -> Result<Metrics> {
    let deadline = Instant::now() + SOON;
    loop {
        let metrics = admin::metrics(admin).await?;
        if wanted(&metrics) {
            return Ok(metrics);
        }
        if Instant::now() > deadline {
            bail!("not within {SOON:?}: {what}\n{metrics}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
