//! The near end: a relay, callers, and the checks.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tieline_e2e::behaviour::{
    Addresses, PathRow, RelayProgram, SOON, echo_round_trip, noise, within,
};

use crate::far::Far;
use crate::{moves, mtu, transports, windows};

/// Variables for both ends: a folder that they share, the load generator, and the relay's certificate.
pub(crate) const FOLDER: &str = "EMULATED_FOLDER";
pub(crate) const LOADGEN: &str = "EMULATED_LOADGEN";
pub(crate) const CERT: &str = "EMULATED_CERT";
pub(crate) const KEY: &str = "EMULATED_KEY";

/// Variable with the near end's address, which the path sets at both ends.
const NEAR: &str = "EMULATED_NEAR";

/// Name of the tunnel.
pub(crate) const TUNNEL: &str = "far";

/// Ports of the relay on the path: agents over TCP, agents over TLS, and HTTPS with QUIC. The namespace is the test's
/// own, so they are free.
const TCP_PORT: u16 = 9001;
const TLS_PORT: u16 = 9444;
const WEB_PORT: u16 = 9443;

/// Runs the check that `words` name, with its arguments.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match *words {
            ["bulk", direction, scheme, carrier] => windows::fills(direction, scheme, carrier),
            ["registers", scheme, limit_ms, transport] => {
                transports::registers(scheme, limit_ms.parse()?, transport).await
            }
            ["mtu"] => mtu::recovers().await,
            ["moves"] => moves::moves().await,
            ["blocked"] => moves::is_blocked().await,
            _ => bail!("no check {words:?}"),
        }
    })
}

/// Value of a variable that the test has set.
pub(crate) fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

/// The folder that both ends share.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(variable(FOLDER)?.into())
}

/// The near end's address with `port`.
fn near(port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(variable(NEAR)?.parse()?, port))
}

/// A relay, and what gives orders to the far end.
pub(crate) struct Near {
    pub(crate) relay: RelayProgram,
    pub(crate) far: Far,
}

impl Near {
    /// Starts a relay with `flags`, with listeners for agents on the path and for callers on loopback.
    pub(crate) fn start(flags: &[&str]) -> Result<Self> {
        let addresses = Addresses {
            agent: near(TCP_PORT)?,
            ..Addresses::any()
        };
        let (cert, key) = (variable(CERT)?, variable(KEY)?);
        let own = [
            "--open-anywhere".to_owned(),
            format!("--agent-listen=tls://{}", near(TLS_PORT)?),
            format!("--http-listen=tls://{}", near(WEB_PORT)?),
            format!("--quic-listen={}", near(WEB_PORT)?),
            format!("--tls-cert={cert}"),
            format!("--tls-key={key}"),
        ];
        let own = own.iter().map(String::as_str);
        let flags: Vec<&str> = own.chain(flags.iter().copied()).collect();
        Ok(Self {
            relay: RelayProgram::start(&[], addresses, &flags)?,
            far: Far::find()?,
        })
    }

    /// Has an agent started that dials the relay with `scheme`; returns the time until it was registered.
    pub(crate) fn agent(&mut self, scheme: &str) -> Result<Duration> {
        let port = match scheme {
            "tcp" => TCP_PORT,
            "tls" => TLS_PORT,
            _ => WEB_PORT,
        };
        self.far.agent(&format!("{scheme}://{}", near(port)?))
    }

    /// The tunnel's links.
    pub(crate) async fn paths(&self) -> Result<Vec<PathRow>> {
        let rows = self.relay.tunnels().await?;
        Ok(rows.into_iter().flat_map(|row| row.paths).collect())
    }

    /// Sends `len` bytes to the target over a session of their own, and checks that they come back.
    pub(crate) async fn echo(&self, len: usize) -> Result<Duration> {
        let mut stream = self.relay.raw(TUNNEL).await?;
        within(SOON, "an echo", echo_round_trip(&mut stream, &message(len))).await?
    }

    /// Checks that the agent still has its first link, and that no session was lost.
    pub(crate) async fn has_first_link(&self) -> Result<()> {
        let metrics = self.relay.metrics().await?;
        ensure!(metrics.get("relay_links_total") == 1, "{metrics}");
        ensure!(metrics.get("relay_link_evictions_total") == 0, "{metrics}");
        ensure!(metrics.get("relay_session_resets_total") == 0, "{metrics}");
        Ok(())
    }
}

/// `len` bytes for the target to echo. It would take a first byte of zero for a request.
pub(crate) fn message(len: usize) -> Vec<u8> {
    let mut bytes = noise(7, len);
    if let Some(first) = bytes.first_mut() {
        *first = b'e';
    }
    bytes
}

/// Milliseconds, for what is printed.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
