//! Flags of `tieline init`, and the plan that results from them: a URL, a name, the clients.
//! Long because each flag stands with its meaning and its tests.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use http::Uri;
use tieline_wire::TunnelId;

use super::client::{Client, Transport};
use crate::connect::DEFAULT_LISTEN;
use crate::outbound::RelayOrigin;
use tieline_agent::plain::address_without_user;

/// Path of most MCP servers, assumed if the relay cannot be asked for a tunnel's path.
const DEFAULT_PATH: &str = "/mcp";

/// Longest name of an entry, in bytes; clients build names of tools from it.
const NAME_BYTES_MAX: usize = 64;

/// Flags of `tieline init`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct InitArgs {
    /// The MCP server's URL, as `tieline serve` prints it
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Name of the tunnel, instead of a URL; without --relay the tunnel is reached through tieline connect.
    /// tieline list shows the tunnels
    #[arg(long, value_name = "NAME", conflicts_with = "url")]
    pub tunnel: Option<String>,
    /// The relay of --tunnel: https://host, also where agents dial quic://host or tls://host; or http://host:port
    #[arg(long, value_name = "URL", conflicts_with = "url")]
    pub relay: Option<String>,
    /// Where tieline connect listens on this machine: its address, or the URL that it prints
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = DEFAULT_LISTEN,
        env = "TIELINE_CONNECT_LISTEN"
    )]
    pub connect: String,
    /// Reach the tunnel through tieline connect on this machine, so that no secret is written
    #[arg(long, conflicts_with_all = ["relay", "url"])]
    pub via_connect: bool,
    /// File (mode 0600) with the token for asking the relay about the tunnel; a file that the variable names is
    /// used with --relay only. The token is not written into any file
    #[arg(long, value_name = "FILE", env = "TIELINE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// File with certificates (PEM) to trust when an https:// relay is asked, besides the system's. An MCP client
    /// has settings of its own for this
    #[arg(long, value_name = "FILE", env = "TIELINE_CA")]
    pub ca: Option<PathBuf>,
    /// Path of the MCP server behind --tunnel; by default the one that the relay knows, else /mcp
    #[arg(long, conflicts_with = "url")]
    pub path: Option<String>,
    /// The MCP server's transport; by default sse, the older one, for a path that ends in /sse, else http
    #[arg(long)]
    pub transport: Option<Transport>,
    /// Name of the entry; by default the tunnel's
    #[arg(long)]
    pub name: Option<String>,
    /// Clients to set up; by default those that have files in the project's folder, else claude-code
    #[arg(long = "client", value_name = "CLIENT", value_delimiter = ',')]
    pub clients: Vec<Client>,
    /// The project's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Show what would change and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Replace an entry of the same name that differs (its headers stay); write also where a link
    /// leads out of the project, and for a tunnel that the relay does not know
    #[arg(long)]
    pub force: bool,
    /// Do not ask the relay whether it knows the tunnel
    #[arg(long)]
    pub offline: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// The entry to write, and the clients to write it for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) url: String,
    pub(super) transport: Transport,
    /// Origin of the relay or proxy to ask about the tunnel, and the tunnel's name there.
    pub(super) known_at: Option<(String, String)>,
    pub(super) name: String,
    pub(super) clients: Vec<Client>,
}

impl InitArgs {
    /// Turns the flags into a plan; for wrong flags, returns a one-line message.
    pub(super) fn plan(&self) -> Result<Plan, String> {
        if !self.dir.is_dir() {
            return Err(format!(
                "dir {}: there is no such folder; give the project's folder with --dir",
                self.dir.display()
            ));
        }
        let mut known_at = None;
        let (url, default_name) = match (&self.url, &self.tunnel) {
            (Some(url), _) => {
                let host = host_of(url).ok_or_else(|| match url.contains("://") {
                    false => format!(
                        "url {:?}: its scheme is missing: http://{0} or https://{0}",
                        address_without_user(url)
                    ),
                    true => format!(
                        "url {:?}: not a usable URL (expected, for example, \
                         https://relay/w/<tunnel>/mcp, without a user name and password)",
                        address_without_user(url)
                    ),
                })?;
                let named = named_in(url);
                if let Some((origin, tunnel, _)) = &named {
                    known_at = tunnel.clone().map(|tunnel| (origin.clone(), tunnel));
                }
                let name = named.map(|(_, _, name)| name).filter(|it| !it.is_empty());
                (url.clone(), name.unwrap_or(host))
            }
            (None, Some(tunnel)) => {
                let (base, id) = self.place_of(tunnel)?;
                let path = self.path.as_deref().unwrap_or(DEFAULT_PATH);
                let url = format!("{base}/w/{id}{path}");
                known_at = Some((base, id));
                (url, tunnel.clone())
            }
            (None, None) => {
                return Err("give --tunnel NAME or --url URL".to_owned());
            }
        };
        let name = match &self.name {
            Some(name) => {
                if !is_name(name) {
                    return Err(format!(
                        "name {name:?}: clients accept only letters, digits, - and _, at most {NAME_BYTES_MAX}"
                    ));
                }
                name.clone()
            }
            None => name_from(&default_name),
        };
        Ok(Plan {
            transport: self.transport_of(&url),
            url,
            known_at: known_at.filter(|_| !self.offline),
            name,
            clients: self.clients(),
        })
    }

    /// `plan` with the URL that the relay knows for the tunnel, unless a flag gives the URL or the path.
    pub(super) fn with_url(&self, plan: Plan, url: String) -> Plan {
        if self.url.is_some() || self.path.is_some() {
            return plan;
        }
        Plan {
            transport: self.transport_of(&url),
            url,
            ..plan
        }
    }

    /// The transport of --transport, else by the path: servers of the older transport end in /sse by convention.
    fn transport_of(&self, url: &str) -> Transport {
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let by_path = match path.trim_end_matches('/').ends_with("/sse") {
            true => Transport::Sse,
            false => Transport::Http,
        };
        self.transport.unwrap_or(by_path)
    }

    /// Origin to ask for tunnels: --relay, or tieline connect on this machine.
    pub(super) fn relay(&self) -> String {
        self.relay.clone().unwrap_or_else(|| {
            // --connect takes an address or a URL; an unspecified address becomes localhost.
            let connect = self.connect.trim_end_matches('/');
            let connect = connect.strip_prefix("http://").unwrap_or(connect);
            let any = connect.strip_prefix("0.0.0.0:");
            let any = any.or_else(|| connect.strip_prefix("[::]:"));
            match any {
                Some(port) => format!("http://localhost:{port}"),
                None => format!("http://{connect}"),
            }
        })
    }

    /// Token file for asking about tunnels. A file named by the variable is used for --relay only: a --url may
    /// come from any source.
    pub(super) fn token_to_ask(&self) -> Option<&Path> {
        let file = self.token_file.as_deref()?;
        let is_typed =
            std::env::var_os("TIELINE_TOKEN_FILE").is_none_or(|it| it != file.as_os_str());
        (self.relay.is_some() || (self.url.is_some() && is_typed)).then_some(file)
    }

    /// Whether the tunnel is reached through tieline connect.
    pub(super) const fn is_by_connect(&self) -> bool {
        self.relay.is_none() && self.url.is_none()
    }

    /// Origin of the relay or of tieline connect, and the tunnel's name in normal form.
    fn place_of(&self, tunnel: &str) -> Result<(String, String), String> {
        let id = TunnelId::parse(tunnel).map_err(|error| format!("tunnel {tunnel:?}: {error}"))?;
        if let Some(path) = &self.path
            && (!path.starts_with('/') || path.parse::<Uri>().is_err())
        {
            return Err(format!(
                "path {path:?}: a path begins with a slash and has no blanks (for example /mcp)"
            ));
        }
        let base = RelayOrigin::parse(&self.relay()).map_err(|error| error.to_string())?;
        Ok((base.to_string(), id.as_str().to_owned()))
    }

    fn clients(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        let all = Client::value_variants().iter().copied();
        let used = all.filter(|client| client.is_used_in(&self.dir));
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
    // A secret in a URL would be written into a file that people share.
    let is_plain = !authority.as_str().contains('@') && !authority.host().is_empty();
    (is_web && is_plain).then(|| authority.host().to_owned())
}

/// Parts of a URL: the relay's origin, the tunnel's name if the relay can be asked about it, and a name
/// for the entry.
fn named_in(url: &str) -> Option<(String, Option<String>, String)> {
    let uri: Uri = url.parse().ok()?;
    let origin = format!("{}://{}", uri.scheme_str()?, uri.authority()?);
    let segments: Vec<_> = uri.path().split('/').filter(|it| !it.is_empty()).collect();
    let is_end = |it: &str| matches!(it, "mcp" | "sse");
    let at = segments
        .iter()
        .position(|it| matches!(*it, "w" | "tunnel" | "dcc"));
    match at.map(|at| (at, &segments[at..])) {
        Some((at, ["w" | "tunnel", tunnel, ..])) => {
            // If a proxy adds a path prefix, the relay's list of tunnels is not at the root.
            let known = (at == 0).then(|| (*tunnel).to_owned());
            Some((origin, known, (*tunnel).to_owned()))
        }
        Some((_, ["dcc", kind, rest @ ..])) => {
            let named = rest.first().filter(|it| !is_end(it));
            let words: Vec<_> = [kind].into_iter().chain(named).copied().collect();
            Some((origin, None, words.join("-")))
        }
        _ => {
            let words = segments.into_iter().filter(|it| !is_end(it));
            let words: Vec<_> = uri.host().into_iter().chain(words).collect();
            Some((origin, None, words.join("-")))
        }
    }
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(plain)
}

/// Makes a name that clients accept; a text that loses letters gets a digest, so that names stay distinct.
fn name_from(text: &str) -> String {
    const MARK_BYTES: usize = 4;
    const REST_CHARS_MAX: usize = NAME_BYTES_MAX - 1 - 2 * MARK_BYTES;
    let plain = plain_name(text);
    // Lost letters, or an end that is cut off, may be the only difference between two texts.
    let is_lossy = text.len() > NAME_BYTES_MAX || !text.is_ascii() || text.contains('%');
    if !is_lossy && !plain.is_empty() {
        return plain;
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let mark = data_encoding::HEXLOWER.encode(&digest.as_ref()[..MARK_BYTES]);
    let rest: String = plain.chars().take(REST_CHARS_MAX).collect();
    match rest.trim_matches('-') {
        "" => format!("tunnel-{mark}"),
        rest => format!("{rest}-{mark}"),
    }
}

/// `text` with a dash for each character that clients do not accept.
fn plain_name(text: &str) -> String {
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
    use clap::{CommandFactory, FromArgMatches, Parser};

    use super::*;
    use crate::cli::environment::without_variables;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: InitArgs,
    }

    fn args(flags: &[&str]) -> Result<InitArgs, String> {
        let line = ["init"].iter().chain(flags);
        let command = without_variables(Line::command());
        let line = command.try_get_matches_from(line);
        let line = line.and_then(|line| Line::from_arg_matches(&line));
        line.map(|it| it.args).map_err(|error| error.to_string())
    }

    fn plan(flags: &[&str]) -> Result<Plan, String> {
        args(flags)?.plan()
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
        for (address, host) in [
            ("127.0.0.1:6000", "127.0.0.1:6000"),
            ("0.0.0.0:6000", "localhost:6000"),
            ("[::]:6000", "localhost:6000"),
            ("http://localhost:6000", "localhost:6000"),
            ("http://localhost:6000/", "localhost:6000"),
        ] {
            let there = pair(&format!("http://{host}/w/maya-1/mcp"), "maya-1");
            assert_eq!(url(&["--tunnel", "maya-1", "--connect", address]), there);
        }
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
    fn each_url_has_a_name_of_its_own_and_none_is_empty() {
        let mut names = std::collections::HashSet::new();
        for (given, name) in [
            ("http://r/w/x/mcp", "x"),
            ("http://r/tunnel/y/mcp", "y"),
            ("http://r/relay/w/z/mcp", "z"),
            ("http://r/dcc/maya/mcp", "maya"),
            ("http://r/dcc/maya/x/mcp", "maya-x"),
            ("http://r/dcc/nuke/x", "nuke-x"),
            ("https://mcp.r.example/", "mcp-r-example"),
            ("https://mcp.r.example/a/mcp", "mcp-r-example-a"),
        ] {
            let (_, own) = url(&["--url", given]);
            assert_eq!(own, name, "{given}");
            assert!(names.insert(own), "{given}");
        }
        for given in [
            "\u{43c}\u{430}\u{439}\u{44f}",
            "\u{43d}\u{44e}\u{43a}-1",
            "\u{43d}\u{44e}\u{43b}-1",
            "---",
            "%D0%BC",
        ] {
            let own = name_from(given);
            assert!(
                is_name(&own) && own.trim_matches('-') == own,
                "{given}: {own}"
            );
            assert!(names.insert(own), "{given}");
        }
        let long = |end: &str| name_from(&("x".repeat(80) + end));
        assert!(is_name(&long("a")) && long("a") != long("b"));
    }

    #[test]
    fn the_relay_is_asked_where_it_can_be() {
        let at = |flags: &[&str]| plan(flags).unwrap().known_at;
        let pair = |origin: &str, tunnel: &str| Some((origin.to_owned(), tunnel.to_owned()));
        assert_eq!(
            at(&["--tunnel", "Maya"]),
            pair("http://localhost:51822", "maya")
        );
        assert_eq!(
            at(&["--url", "https://r:1/w/x/mcp"]),
            pair("https://r:1", "x")
        );
        for flags in [
            &["--tunnel", "x", "--offline"][..],
            &["--url", "https://r/dcc/maya/mcp"],
            &["--url", "https://r/relay/w/x/mcp"],
            &["--url", "https://r/mcp"],
        ] {
            assert_eq!(at(flags), None, "{flags:?}");
        }
    }

    #[test]
    fn what_the_relay_knows_is_taken_unless_a_flag_says_otherwise() {
        let of = |flags: &[&str], known: &str| {
            let args = args(flags).unwrap();
            let plan = args.with_url(args.plan().unwrap(), known.to_owned());
            (plan.url, plan.transport)
        };
        let sse = "http://localhost:51822/w/x/sse";
        assert_eq!(
            of(&["--tunnel", "x"], sse),
            (sse.to_owned(), Transport::Sse)
        );
        let root = "http://x.r.example/";
        assert_eq!(
            of(&["--tunnel", "x"], root),
            (root.to_owned(), Transport::Http)
        );
        assert_eq!(
            of(&["--tunnel", "x", "--path", "/own"], sse),
            ("http://localhost:51822/w/x/own".to_owned(), Transport::Http)
        );
        assert_eq!(
            of(&["--tunnel", "x", "--transport", "http"], sse).1,
            Transport::Http
        );
        let url = "http://r/w/x/events/";
        assert_eq!(
            of(&["--url", url, "--transport", "sse"], sse),
            (url.to_owned(), Transport::Sse)
        );
        assert_eq!(
            plan(&["--url", "http://r/w/x/sse/?a"]).unwrap().transport,
            Transport::Sse
        );
    }

    #[test]
    fn wrong_flags_are_named() {
        for (flags, word) in [
            (&[][..], "--url"),
            (&["--url", "r.example/mcp"], "r.example"),
            (
                &["--url", "localhost:23080/w/x"],
                "its scheme is missing: http://localhost:23080/w/x",
            ),
            (&["--url", "u:secret@r:1/w/x"], "scheme"),
            (&["--url", "ftp://r.example/mcp"], "ftp"),
            (&["--url", "https://u:secret@r.example/mcp"], "password"),
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
            assert!(!error.contains("secret"), "{error}");
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
