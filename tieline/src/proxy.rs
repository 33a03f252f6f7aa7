//! The flag `--proxy` of the commands that dial a relay.

use clap::Args;
use tieline_agent::{Proxies, ProxyError};

/// Proxy on the way to the relay.
#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// Proxy that leads to the relay, http://host:port or socks5h://host:port, or none; by default that of HTTPS_PROXY,
    /// ALL_PROXY and NO_PROXY, else the system's
    #[arg(
        long,
        value_name = "URL",
        env = "TIELINE_PROXY",
        hide_env_values = true
    )]
    pub proxy: Option<String>,
}

impl ProxyArgs {
    /// The proxies that the flag or its variable names, if either is set.
    pub(crate) fn named(&self) -> Result<Option<Proxies>, ProxyError> {
        self.proxy.as_deref().map(Proxies::parse).transpose()
    }
}
