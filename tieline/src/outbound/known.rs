//! The tunnels that a relay lists for a caller, as `tieline list` prints them and `tieline init` looks them up.

use serde::Serialize;

use super::tunnels::{ListErrorKind, ListedTunnel, Problem, RelayHttp};
use crate::paint::warn;

/// A tunnel as `tieline list` prints it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    pub(crate) tunnel: String,
    pub(crate) dcc: String,
    capabilities: Vec<String>,
    pub(crate) online: bool,
    /// `None` for a target that is not an HTTP server.
    pub(crate) url: Option<String>,
}

/// Warns if the token crosses a network in clear text.
pub(crate) fn warn_of_clear_text(relay: &RelayHttp) {
    if relay.exposes_token() {
        let relay = &relay.origin;
        warn(&format!(
            "your token goes to {relay} in clear text, where the network can read it; use https://"
        ));
    }
}

/// Whether a relay lists a tunnel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The tunnel is among those that the caller may reach.
    Yes(Row),
    /// The tunnel is not among those that the caller may reach, whose names these are.
    No(Vec<String>),
    /// The relay could not be asked, for this reason.
    Unsure(String),
}

/// Asks a relay, or the `tieline connect` in front of it, whether it lists `tunnel`.
pub(crate) async fn is_known(relay: &RelayHttp, tunnel: &str) -> Known {
    match rows(relay).await {
        Ok(mut rows) => {
            let is_it = |row: &Row| row.tunnel.eq_ignore_ascii_case(tunnel);
            match rows.iter().position(is_it) {
                Some(at) => Known::Yes(rows.swap_remove(at)),
                None => Known::No(rows.into_iter().map(|row| row.tunnel).collect()),
            }
        }
        Err(problem) if problem.why == ListErrorKind::NeedsToken => Known::Unsure(format!(
            "{} answers token holders only, and an MCP client will need the token as well: without \
             --relay the entry leads through tieline connect, which adds it",
            relay.origin
        )),
        Err(problem) => Known::Unsure(problem.text),
    }
}

/// The tunnels that the caller may reach.
pub(crate) async fn rows(relay: &RelayHttp) -> Result<Vec<Row>, Problem> {
    let tunnels = relay.tunnels().await?;
    Ok(tunnels.into_iter().map(|told| row(relay, told)).collect())
}

fn row(relay: &RelayHttp, told: ListedTunnel) -> Row {
    Row {
        url: relay.url_of(&told),
        tunnel: told.tunnel_id,
        dcc: told.dcc,
        capabilities: told.capabilities,
        online: told.online,
    }
}
