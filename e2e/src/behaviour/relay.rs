//! A relay in this process.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tieline_relay::{Config, DriverChoice, ListenKind, Relay};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{HttpStream, Metrics, SOON, TestCertificate, TunnelRow, admin, tls};

/// Polling interval for conditions that no event announces.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A relay on free loopback ports. Dropping it stops it at once.
#[derive(Debug)]
pub struct TestRelay {
    relay: Relay,
    config: Config,
}

/// Settings of a relay that is not started yet.
#[derive(Debug)]
#[must_use]
pub struct RelayBuilder(Config);

impl RelayBuilder {
    /// Sets the number of shards.
    pub const fn shards(mut self, shards: usize) -> Self {
        self.0.shards = shards;
        self
    }

    /// Sets the I/O driver.
    pub const fn driver(mut self, driver: DriverChoice) -> Self {
        self.0.driver = driver;
        self
    }

    /// Sets the idle timeout after which a silent link is evicted.
    pub const fn stale_timeout(mut self, timeout: Duration) -> Self {
        self.0.stale_timeout = timeout;
        self
    }

    /// Sets the timeout for a frontend's preamble.
    pub const fn preamble_timeout(mut self, timeout: Duration) -> Self {
        self.0.preamble_timeout = timeout;
        self
    }

    /// Makes the HTTP listener take TLS alone, with `certificate`.
    pub fn http_over_tls(self, certificate: &TestCertificate) -> Self {
        let files = certificate.files();
        self.config(|config| {
            config.http_listen = vec![tls::listen_address()];
            config.tls.certificates = vec![files];
        })
    }

    /// Adds a UDP address for QUIC, with `certificate`.
    pub fn quic(self, certificate: &TestCertificate) -> Self {
        let files = certificate.files();
        self.config(|config| {
            config.quic_listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
            config.tls.certificates = vec![files];
        })
    }

    /// Changes any setting.
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.0);
        self
    }

    /// Starts the relay.
    ///
    /// # Errors
    /// The relay does not start.
    pub fn start(self) -> Result<TestRelay> {
        TestRelay::run(self.0)
    }
}

impl TestRelay {
    /// Builder with default settings, except that requests for missing tunnels are answered at once, without a
    /// grace period.
    pub fn with() -> RelayBuilder {
        let mut config = Config::default();
        config.callers.offline_grace = Duration::ZERO;
        config.callers.start_grace = Duration::ZERO;
        RelayBuilder(config)
    }

    /// Starts a relay with the settings of [`TestRelay::with`].
    ///
    /// # Errors
    /// The relay does not start.
    pub fn start() -> Result<Self> {
        Self::with().start()
    }

    fn run(config: Config) -> Result<Self> {
        let relay = Relay::start(config.clone()).context("cannot start a relay")?;
        Ok(Self { relay, config })
    }

    /// Stops the relay at once, without a drain, and starts a new one on the same ports.
    ///
    /// # Errors
    /// The relay does not start again.
    pub fn restart(self) -> Result<Self> {
        self.restart_with(|_| {})
    }

    /// Restarts like [`TestRelay::restart`], with changed settings.
    ///
    /// # Errors
    /// The relay does not start again.
    pub fn restart_with(self, change: impl FnOnce(&mut Config)) -> Result<Self> {
        let Self { relay, mut config } = self;
        config.agent_listen = relay.listening(ListenKind::Agent);
        config.tcp_listen = relay.listening(ListenKind::Tcp);
        config.http_listen = relay.listening(ListenKind::Http);
        config.admin_listen = relay.admin_addresses().to_vec();
        config.quic_listen = relay.quic_addresses().to_vec();
        change(&mut config);
        drop(relay);
        Self::run(config)
    }

    /// The relay itself.
    #[must_use]
    pub const fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Drains the relay and stops it.
    pub fn stop(self) {
        self.relay.stop();
    }

    /// Address that agents dial, in the syntax of `--relay`.
    #[must_use]
    pub fn agent_url(&self) -> String {
        format!("tcp://{}", self.agent_address())
    }

    /// Address that agents dial.
    #[must_use]
    pub fn agent_address(&self) -> SocketAddr {
        self.relay.agent_addresses()[0]
    }

    /// Address of raw TCP frontends.
    #[must_use]
    pub fn tcp_address(&self) -> SocketAddr {
        self.relay.tcp_addresses()[0]
    }

    /// Address of agents and raw callers over QUIC.
    #[must_use]
    pub fn quic_address(&self) -> SocketAddr {
        self.relay.quic_addresses()[0]
    }

    /// URL that agents dial for a link over QUIC.
    #[must_use]
    pub fn quic_url(&self) -> String {
        format!("quic://{}", self.quic_address())
    }

    /// Address of HTTP frontends.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.relay.http_addresses()[0]
    }

    /// Address of the admin port.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.relay.admin_addresses()[0]
    }

    /// Opens a raw TCP frontend connection and sends the preamble for `tunnel`.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn raw(&self, tunnel: &str) -> Result<TcpStream> {
        raw(self.tcp_address(), tunnel).await
    }

    /// Opens an HTTP frontend connection.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn http(&self) -> Result<HttpStream> {
        HttpStream::connect(self.http_address()).await
    }

    /// Reads `/metrics`.
    ///
    /// # Errors
    /// The admin port does not answer.
    pub async fn metrics(&self) -> Result<Metrics> {
        admin::metrics(self.admin_address()).await
    }

    /// Posts an order to the admin port; returns the status and the JSON of the answer.
    ///
    /// # Errors
    /// There is no answer, or it is not JSON.
    pub async fn order(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        admin::post(self.admin_address(), path, body).await
    }

    /// Reads `/tunnels`.
    ///
    /// # Errors
    /// The admin port does not answer.
    pub async fn tunnels(&self) -> Result<Vec<TunnelRow>> {
        admin::tunnels(self.admin_address()).await
    }

    /// Waits until `wanted` accepts the rows of `/tunnels`, and returns them.
    ///
    /// # Errors
    /// `wanted` does not accept them within [`SOON`]; the error lists the rows.
    pub async fn tunnels_until(
        &self,
        what: &str,
        wanted: impl Fn(&[TunnelRow]) -> bool,
    ) -> Result<Vec<TunnelRow>> {
        let deadline = Instant::now() + SOON;
        loop {
            let rows = self.tunnels().await?;
            if wanted(&rows) {
                return Ok(rows);
            }
            if Instant::now() > deadline {
                bail!("not within {SOON:?}: {what}\n{rows:?}");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until `wanted` accepts the metrics, and returns them.
    ///
    /// # Errors
    /// `wanted` does not accept them within [`SOON`]; the error lists the metrics.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        until(self.admin_address(), what, wanted).await
    }
}

/// Opens a raw TCP connection to `address` and sends the preamble for `tunnel`.
pub(super) async fn raw(address: SocketAddr, tunnel: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut preamble = u16::try_from(tunnel.len())?.to_be_bytes().to_vec();
    preamble.extend_from_slice(tunnel.as_bytes());
    stream.write_all(&preamble).await?;
    Ok(stream)
}

/// Polls the metrics at `admin` until `wanted` accepts them.
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
