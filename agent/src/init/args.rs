//! Flags of `tieline init`, and what they come to: a URL, a name, the clients.

use std::path::PathBuf;

use clap::Args;
use http::Uri;
use tieline_wire::TunnelId;

use super::client::Client;
use crate::connect::{DEFAULT_LISTEN, RelayOrigin};

/// Longest name of an entry; clients make the names of tools from it.
const NAME_BYTES_MAX: usize = 64;

/// Flags of `tieline init`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct InitArgs {
    /// The MCP server's URL, as `tieline serve` prints it
    #[arg(long, value_name = "URL", required_unless_present = "tunnel")]
    pub url: Option<String>,
    /// The tunnel, instead of a URL; without --relay it is reached through tieline connect
    #[arg(long, value_name = "NAME", conflicts_with = "url")]
    pub tunnel: Option<String>,
    /// The relay of --tunnel: https://host or http://host:port
    #[arg(long, value_name = "URL", conflicts_with = "url")]
    pub relay: Option<String>,
    /// Reach the tunnel through tieline connect on this machine, so that no secret is written
    #[arg(long, conflicts_with_all = ["relay", "url"])]
    pub via_connect: bool,
    /// Path of the MCP server behind --tunnel
    #[arg(long, default_value = "/mcp", conflicts_with = "url")]
    pub path: String,
    /// Name of the entry; by default the tunnel's
    #[arg(long)]
    pub name: Option<String>,
    /// Clients to set up; by default those that the folder shows, else claude-code
    #[arg(long = "client", value_name = "CLIENT", value_delimiter = ',')]
    pub clients: Vec<Client>,
    /// The project's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Show what would change and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Replace an entry of the same name that differs
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// What is to be written where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) url: String,
    pub(super) name: String,
    pub(super) clients: Vec<Client>,
}

impl InitArgs {
    /// What the flags come to; else one line that says what is wrong.
    pub(super) fn plan(&self) -> Result<Plan, String> {
        if !self.dir.is_dir() {
            return Err(format!("dir {}: no folder", self.dir.display()));
        }
        let (url, default_name) = match (&self.url, &self.tunnel) {
            (Some(url), _) => {
                let host = host_of(url).ok_or_else(|| {
                    format!("url {url:?}: no URL (expected such as https://relay/w/<tunnel>/mcp)")
                })?;
                (url.clone(), tunnel_in(url).unwrap_or(host))
            }
            (None, Some(tunnel)) => (self.url_of(tunnel)?, tunnel.clone()),
            (None, None) => return Err("--url or --tunnel is missing".to_owned()),
        };
        let name = match &self.name {
            Some(name) => {
                if !is_name(name) {
                    return Err(format!(
                        "name {name:?}: clients take letters, digits, - and _, at most {NAME_BYTES_MAX}"
                    ));
                }
                name.clone()
            }
            None => name_from(&default_name),
        };
        Ok(Plan {
            url,
            name,
            clients: self.clients(),
        })
    }

    fn url_of(&self, tunnel: &str) -> Result<String, String> {
        let id = TunnelId::parse(tunnel).map_err(|error| format!("tunnel {tunnel:?}: {error}"))?;
        if !self.path.starts_with('/') || self.path.parse::<Uri>().is_err() {
            return Err(format!(
                "path {:?}: no path (expected such as /mcp)",
                self.path
            ));
        }
        let base = match &self.relay {
            Some(relay) => RelayOrigin::parse(relay)
                .map_err(|error| error.to_string())?
                .to_string(),
            None => {
                let port = DEFAULT_LISTEN.rsplit(':').next().unwrap_or_default();
                format!("http://localhost:{port}")
            }
        };
        Ok(format!("{base}/w/{}{}", id.as_str(), self.path))
    }

    fn clients(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        let used = Client::ALL
            .into_iter()
            .filter(|client| client.is_used_in(&self.dir));
        let asked = self.clients.iter().copied();
        for client in asked.chain(used.filter(|_| self.clients.is_empty())) {
            if !clients.contains(&client) {
                clients.push(client);
            }
        }
        if clients.is_empty() {
            clients.push(Client::ClaudeCode);
        }
        clients
    }
}

fn host_of(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority()?;
    // A secret in a URL would be written into a file that is shared.
    let is_plain = !authority.as_str().contains('@') && !authority.host().is_empty();
    (is_web && is_plain).then(|| authority.host().to_owned())
}

/// The tunnel that a URL names.
fn tunnel_in(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("/w/")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_owned())
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(plain)
}

/// A name that clients take, made from one that they may not.
fn name_from(text: &str) -> String {
    let plain = |c: char| {
        if is_name(c.encode_utf8(&mut [0; 4])) {
            c
        } else {
            '-'
        }
    };
    let name: String = text.chars().take(NAME_BYTES_MAX).map(plain).collect();
    name.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: InitArgs,
    }

    fn plan(flags: &[&str]) -> Result<Plan, String> {
        let line = ["init"].iter().chain(flags);
        let line = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        line.args.plan()
    }

    fn url(flags: &[&str]) -> (String, String) {
        let plan = plan(flags).unwrap();
        (plan.url, plan.name)
    }

    #[test]
    fn a_tunnel_is_reached_through_the_proxy_unless_a_relay_is_named() {
        let pair = |url: &str, name: &str| (url.to_owned(), name.to_owned());
        let local = pair("http://localhost:51822/w/maya-1/mcp", "maya-1");
        assert_eq!(url(&["--tunnel", "maya-1"]), local);
        assert_eq!(url(&["--tunnel", "maya-1", "--via-connect"]), local);
        assert_eq!(
            url(&[
                "--tunnel",
                "Maya-1",
                "--relay",
                "https://r.example/",
                "--path",
                "/x"
            ]),
            pair("https://r.example/w/maya-1/x", "Maya-1")
        );
        assert_eq!(
            url(&["--url", "http://r:9080/w/blender/mcp?x"]),
            pair("http://r:9080/w/blender/mcp?x", "blender")
        );
        assert_eq!(
            url(&["--url", "https://mcp.r.example/"]),
            pair("https://mcp.r.example/", "mcp-r-example")
        );
    }

    #[test]
    fn wrong_flags_are_named() {
        for (flags, word) in [
            (&[][..], "--url"),
            (&["--url", "r.example/mcp"], "r.example"),
            (&["--url", "ftp://r.example/mcp"], "ftp"),
            (&["--url", "https://u:secret@r.example/mcp"], "url"),
            (&["--url", "https://r/mcp", "--tunnel", "x"], "--tunnel"),
            (
                &["--url", "https://r/mcp", "--relay", "https://r"],
                "--relay",
            ),
            (&["--tunnel", "a b"], "a b"),
            (&["--tunnel", "x", "--path", "mcp"], "path"),
            (&["--tunnel", "x", "--relay", "tcp://r:1"], "tcp"),
            (&["--tunnel", "x", "--name", "a b"], "a b"),
            (&["--tunnel", "x", "--client", "emacs"], "emacs"),
            (&["--tunnel", "x", "--dir", "/nonexistent"], "/nonexistent"),
        ] {
            let error = plan(flags).unwrap_err();
            assert!(error.contains(word), "{flags:?}: {error}");
        }
    }

    #[test]
    fn clients_are_those_that_the_folder_shows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let clients = || plan(&["--tunnel", "x", "--dir", path]).unwrap().clients;
        assert_eq!(clients(), [Client::ClaudeCode]);
        std::fs::create_dir(dir.path().join(".vscode")).unwrap();
        std::fs::create_dir(dir.path().join(".cursor")).unwrap();
        assert_eq!(clients(), [Client::Cursor, Client::Vscode]);
        let flags = ["--tunnel", "x", "--client", "vscode,claude-desktop,vscode"];
        assert_eq!(
            plan(&flags).unwrap().clients,
            [Client::Vscode, Client::ClaudeDesktop]
        );
    }
}
