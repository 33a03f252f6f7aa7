//! `tieline list`: the tunnels at a relay that this caller may reach.

use std::path::PathBuf;

use clap::Args;

use crate::outbound::OutboundError;
use crate::outbound::known::{Row, rows, warn_of_clear_text};
use crate::outbound::tunnels::{Problem, RelayHttp};
use crate::paint::{BAD, GOOD, complain, paint, print_json, say};

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

fn relay_of(args: &ListArgs) -> Result<RelayHttp, OutboundError> {
    let relay = args.relay.as_deref().ok_or(OutboundError::NoRelay)?;
    RelayHttp::at(relay, args.ca.as_deref())?.with_token_file(args.token_file.as_deref())
}
