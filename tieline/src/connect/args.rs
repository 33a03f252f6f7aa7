//! Flags of `tieline connect`.

use std::path::PathBuf;

use clap::Args;

use super::Connect;
use super::error::ConnectError;
use crate::ca;
use crate::outbound::OutboundError;
use crate::proxy::ProxyArgs;

/// Default of `--listen`.
pub const DEFAULT_LISTEN: &str = "localhost:51822";

/// Flags of `tieline connect`.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// The relay for callers over HTTP: https://host, also where agents dial quic://host or tls://host; or
    /// http://host:port for its HTTP port without TLS (9080 unless its operator says otherwise)
    #[arg(long, value_name = "URL", env = "TIELINE_CONNECT_RELAY")]
    pub relay: Option<String>,
    /// Where local clients reach the proxy; localhost:PORT is 127.0.0.1 and ::1
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = DEFAULT_LISTEN,
        env = "TIELINE_CONNECT_LISTEN"
    )]
    pub listen: String,
    /// File (mode 0600) with the token to add to every request, if the relay asks for one
    #[arg(long, value_name = "FILE", env = "TIELINE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// File with certificates (PEM) to trust for an https:// relay, besides the system's
    #[arg(long, value_name = "FILE", env = "TIELINE_CA")]
    pub ca: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub proxy: ProxyArgs,
    /// Web origin whose pages may use the proxy, besides those of this machine; may be repeated
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    pub allow_origins: Vec<String>,
    /// Name by which clients may call the proxy, besides localhost and its own address, such as
    /// host.docker.internal; may be repeated
    #[arg(long = "allow-host", value_name = "NAME")]
    pub allow_hosts: Vec<String>,
    /// Allow --listen on an address that other machines reach; their programs can then use your token
    #[arg(long)]
    pub share_token_with_network: bool,
    /// Do not check at the start whether the relay answers and accepts the token
    #[arg(long)]
    pub no_look: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

impl ConnectArgs {
    /// Converts the flags to settings.
    pub(super) fn settings(&self) -> Result<Connect, ConnectError> {
        let relay = self.relay.as_deref().ok_or(OutboundError::NoRelay)?;
        let mut connect =
            Connect::new(relay)?.with_listen(&self.listen, self.share_token_with_network)?;
        for origin in &self.allow_origins {
            connect = connect.with_allowed_origin(origin)?;
        }
        for name in &self.allow_hosts {
            connect = connect.with_allowed_host(name)?;
        }
        connect.token_file = self.token_file.clone();
        connect.ca = ca::used(self.ca.clone(), connect.relay.https, &connect.relay);
        let proxies = self.proxy.named().map_err(OutboundError::from)?;
        connect.proxies = proxies.unwrap_or_default();
        connect.look = !self.no_look;
        Ok(connect)
    }
}
