//! `tieline list`: the tunnels at a relay that this caller may reach.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::connect::ConnectError;
use crate::connect::tunnels::{CallerSide, Obstacle, Problem, Told};
use crate::paint::{BAD, GOOD, complain, paint, print_json, say, warn};

const DONE: u8 = 0;
const FAILED: u8 = 1;

/// Flags of `tieline list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// URL of the relay's HTTP port: http://host:port (port 9080 unless the relay's operator says otherwise),
    /// or https://host of a web server in front of it, or that of a running tieline connect
    #[arg(long, value_name = "URL", env = "TIELINE_CONNECT_RELAY")]
    pub relay: Option<String>,
    /// File (mode 0600) with the token for the relay
    #[arg(long, value_name = "FILE", env = "TIELINE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// File with the certificates (PEM) to verify an https:// relay with, instead of the system's; the relay
    /// itself has no TLS yet, so this is for a web server in front of it
    #[arg(long, value_name = "FILE", env = "TIELINE_CA")]
    pub ca: Option<PathBuf>,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// A tunnel as `tieline list` prints it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    pub(crate) tunnel: String,
    dcc: String,
    capabilities: Vec<String>,
    pub(crate) online: bool,
    /// `None` for a target that is not an HTTP server.
    pub(crate) url: Option<String>,
}

/// Runs `tieline list`; returns the exit code.
pub(crate) async fn run(args: ListArgs) -> u8 {
    let relay = match relay_of(&args) {
        Ok(relay) => relay,
        Err(error) => {
            complain(&error);
            return error.exit_code();
        }
    };
    warn_of_clear_text(&relay);
    let rows = match rows(&relay).await {
        Ok(rows) => rows,
        Err(Problem { text, .. }) => {
            complain(&text);
            return FAILED;
        }
    };
    if args.json {
        rows.iter().for_each(print_json);
        return DONE;
    }
    if rows.is_empty() {
        complain(&format!(
            "{}: no tunnel that you may reach is up there; start tieline serve beside the MCP server, or \
             ask whether your token reaches it (tieline token show FILE)",
            relay.origin
        ));
    }
    let width = |text: fn(&Row) -> &str| rows.iter().map(|row| text(row).len()).max();
    let names = width(|row| &row.tunnel).unwrap_or_default();
    let kinds = width(|row| &row.dcc).unwrap_or_default();
    for row in &rows {
        let state = match row.online {
            true => paint(GOOD, "online "),
            false => paint(BAD, "offline"),
        };
        let url = row.url.as_deref().unwrap_or("raw TCP");
        say(&format!(
            "{:names$}  {state}  {:kinds$}  {url}",
            row.tunnel, row.dcc
        ));
    }
    DONE
}

fn relay_of(args: &ListArgs) -> Result<CallerSide, ConnectError> {
    let relay = args.relay.as_deref().ok_or(ConnectError::NoRelay)?;
    CallerSide::at(relay, args.ca.as_deref())?.with_token_file(args.token_file.as_deref())
}

/// Warns if the token crosses a network in clear text.
pub(crate) fn warn_of_clear_text(relay: &CallerSide) {
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
pub(crate) async fn is_known(relay: &CallerSide, tunnel: &str) -> Known {
    match rows(relay).await {
        Ok(mut rows) => {
            let is_it = |row: &Row| row.tunnel.eq_ignore_ascii_case(tunnel);
            match rows.iter().position(is_it) {
                Some(at) => Known::Yes(rows.swap_remove(at)),
                None => Known::No(rows.into_iter().map(|row| row.tunnel).collect()),
            }
        }
        Err(problem) if problem.obstacle == Obstacle::NeedsToken => Known::Unsure(format!(
            "{} answers token holders only, and an MCP client will need the token as well: without \
             --relay the entry leads through tieline connect, which adds it",
            relay.origin
        )),
        Err(problem) => Known::Unsure(problem.text),
    }
}

/// The tunnels that the caller may reach.
pub(crate) async fn rows(relay: &CallerSide) -> Result<Vec<Row>, Problem> {
    let tunnels = relay.tunnels().await?;
    Ok(tunnels.into_iter().map(|told| row(relay, told)).collect())
}

fn row(relay: &CallerSide, told: Told) -> Row {
    Row {
        url: relay.url_of(&told),
        tunnel: told.tunnel_id,
        dcc: told.dcc,
        capabilities: told.capabilities,
        online: told.online,
    }
}
