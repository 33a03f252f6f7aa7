//! `tieline list`: the tunnels at a relay that this caller may reach.

use std::path::PathBuf;

use clap::Args;

use crate::ca;
use crate::exit::{DONE, Ended};
use crate::outbound::tunnels::{ListedTunnel, RelayHttp};
use crate::outbound::{OutboundError, RelayOrigin};
use crate::paint::{BAD, GOOD, complain, paint, print_json, say};
use crate::proxy::ProxyArgs;

/// Flags of `tieline list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// URL of the relay for callers over HTTP: https://host, also where agents dial quic://host or tls://host; or
    /// http://host:port for its HTTP port without TLS (9080 unless its operator says otherwise), or that of a running
    /// tieline connect
    #[arg(long, value_name = "URL", env = "TIELINE_CONNECT_RELAY")]
    pub relay: Option<String>,
    /// File (mode 0600) with the token for the relay
    #[arg(long, value_name = "FILE", env = "TIELINE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// File with certificates (PEM) to trust for an https:// relay, besides the system's
    #[arg(long, value_name = "FILE", env = "TIELINE_CA")]
    pub ca: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub proxy: ProxyArgs,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// Runs `tieline list`; returns the exit code.
pub(crate) async fn run(args: ListArgs) -> Result<u8, Ended> {
    let relay = relay_of(&args).map_err(|error| Ended::new(error.exit_code(), error))?;
    relay.warn_of_clear_text();
    let tunnels = relay.tunnels().await;
    let tunnels = tunnels.map_err(|problem| Ended::failed(problem.text))?;
    if args.json {
        tunnels.iter().for_each(print_json);
        return Ok(DONE);
    }
    if tunnels.is_empty() {
        complain(&format!(
            "{}: no tunnel that you may reach is up there; start tieline serve beside the MCP server, or \
             ask whether your token reaches it (tieline token show FILE)",
            relay.origin
        ));
    }
    let width = |text: fn(&ListedTunnel) -> &str| tunnels.iter().map(|it| text(it).len()).max();
    let names = width(|it| &it.tunnel_id).unwrap_or_default();
    let kinds = width(|it| &it.dcc).unwrap_or_default();
    for tunnel in &tunnels {
        let state = match tunnel.online {
            true => paint(GOOD, "online "),
            false => paint(BAD, "offline"),
        };
        let url = tunnel.url.as_deref().unwrap_or("raw TCP");
        say(&format!(
            "{:names$}  {state}  {:kinds$}  {url}",
            tunnel.tunnel_id, tunnel.dcc
        ));
    }
    Ok(DONE)
}

fn relay_of(args: &ListArgs) -> Result<RelayHttp, OutboundError> {
    let relay = args.relay.as_deref().ok_or(OutboundError::NoRelay)?;
    let origin = RelayOrigin::parse(relay)?;
    let ca = ca::used(args.ca.clone(), origin.https, &origin);
    let proxies = args.proxy.named()?.unwrap_or_default();
    let relay = RelayHttp::at(relay, ca.as_deref(), &proxies)?;
    let relay = relay.for_one_run();
    relay.with_token_file(args.token_file.as_deref())
}
