//! `tieline init`: writes a tunnel's URL into the configuration files of MCP clients.
//!
//! All files are read and merged before the first one is written, so that one file that cannot be
//! merged leaves all files unchanged.

mod args;
mod client;
mod file;
mod folder;
mod layout;
mod merge;

use std::path::{Path, PathBuf};

use serde::Serialize;
use similar::TextDiff;
use tieline_agent::Proxies;

pub use self::args::InitArgs;
use self::args::Plan;
pub use self::client::{Client, Entry, Transport};
use self::file::Found;
pub use self::merge::{MergeError, Merged, merge};
use crate::exit::{DONE, Ended};
use crate::outbound::OutboundError;
use crate::outbound::tunnels::{Listed, RelayHttp};
use crate::paint::{BAD, GOOD, complain, paint, print_json, say, say_lines, warn};

/// Variable that names the relay for the commands of callers.
const RELAY_VARIABLE: &str = "TIELINE_CONNECT_RELAY";

/// Largest number of tunnel names that a message shows.
const NAMES_SHOWN_MAX: usize = 5;

/// Unchanged lines that a diff shows around each change.
const DIFF_CONTEXT_LINES: usize = 3;

/// JSON report about one client.
#[derive(Debug, Serialize)]
struct Report<'a> {
    event: &'static str,
    client: Client,
    name: &'a str,
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl<'a> Report<'a> {
    /// A report without details.
    fn new(event: &'static str, client: Client, plan: &'a Plan) -> Self {
        Self {
            event,
            client,
            name: &plan.name,
            url: &plan.url,
            path: None,
            diff: None,
            config: None,
            message: None,
        }
    }
}

/// One client's file and the planned change.
struct Change {
    client: Client,
    path: PathBuf,
    found: Found,
    merged: Merged,
}

impl Change {
    fn event(&self, dry_run: bool) -> &'static str {
        match (&self.merged, dry_run) {
            (Merged::Unchanged, _) => "unchanged",
            (_, true) => "would_write",
            (Merged::Replaced(_), false) => "replaced",
            (Merged::Added(_), false) if self.found.text.is_none() => "created",
            (Merged::Added(_), false) => "added",
        }
    }

    fn text(&self) -> Option<&str> {
        match &self.merged {
            Merged::Unchanged => None,
            Merged::Added(text) | Merged::Replaced(text) => Some(text),
        }
    }

    fn diff(&self) -> Option<String> {
        let old = self.found.text.as_deref().unwrap_or_default();
        let diff = TextDiff::from_lines(old, self.text()?);
        let path = self.path.display().to_string();
        let before = if self.found.text.is_some() {
            path.as_str()
        } else {
            "/dev/null"
        };
        let mut unified = diff.unified_diff();
        unified.context_radius(DIFF_CONTEXT_LINES);
        Some(unified.header(before, &path).to_string())
    }
}

/// Runs `tieline init`; returns the exit code.
pub(crate) async fn run(args: &InitArgs) -> Result<u8, Ended> {
    if args.url.is_none() && args.tunnel.is_none() {
        return Err(Ended::usage(missing(args).await));
    }
    let plan = args.plan().map_err(Ended::usage)?;
    let plan = match plan.known_at.clone() {
        Some((origin, tunnel)) => expected(args, plan, &origin, &tunnel).await,
        None => Ok(plan),
    };
    write(args, &plan?)
}

/// Message for missing --tunnel and --url: how to choose a tunnel, and the names of tunnels if a relay
/// lists them.
async fn missing(args: &InitArgs) -> String {
    let how = "give --tunnel NAME or --url URL (tieline serve prints both)";
    // Without --relay: the relay of the variable is asked if tieline connect gives no list.
    let variable = std::env::var(RELAY_VARIABLE).unwrap_or_default();
    let variable = (args.relay.is_none() && !variable.is_empty()).then_some(variable);
    let mut why = String::new();
    for (origin, with_token) in [
        Some((args.relay(), args.relay.is_some())),
        variable.map(|it| (it, true)),
    ]
    .into_iter()
    .flatten()
    {
        let token_file = args.token_file.as_deref().filter(|_| with_token);
        let relay = match asked(&origin, args.ca.as_deref(), token_file, !with_token) {
            Ok(relay) => relay,
            Err(error) => return format!("{how}; {error}"),
        };
        match relay.tunnels().await {
            Ok(tunnels) if tunnels.is_empty() => {
                why = format!("{origin} lists no tunnel that you may reach")
            }
            Ok(tunnels) => {
                let names: Vec<_> = tunnels.into_iter().map(|it| it.tunnel_id).collect();
                return format!("{how}; {origin} lists {}", listed(&names));
            }
            Err(problem) => why = problem.text,
        }
    }
    format!(
        "{how}; tieline list --relay URL --token-file FILE shows the tunnels that you may reach ({why})"
    )
}

/// The relay at `origin`, or the `tieline connect` there, for a caller with this token; warns if the token crosses a
/// network in clear text.
fn asked(
    origin: &str,
    ca: Option<&Path>,
    token_file: Option<&Path>,
    is_connect: bool,
) -> Result<RelayHttp, OutboundError> {
    let relay = RelayHttp::at_own_url(origin, ca, &Proxies::System)?.for_one_run();
    let mut relay = relay.with_token_file(token_file)?;
    relay.is_connect = is_connect;
    relay.warn_of_clear_text();
    Ok(relay)
}

/// The plan with the URL that the relay knows for the tunnel; an error if MCP clients cannot use the tunnel.
async fn expected(args: &InitArgs, plan: Plan, origin: &str, tunnel: &str) -> Result<Plan, Ended> {
    let (ca, token_file) = (args.ca.as_deref(), args.token_to_ask());
    let relay = asked(origin, ca, token_file, args.is_by_connect());
    let relay = relay.map_err(|error| Ended::new(error.exit_code(), error))?;
    match relay.knows(tunnel).await {
        Listed::Yes(it) => match it.url {
            Some(url) => Ok(args.with_url(plan, url)),
            None if args.force => {
                warn(&format!(
                    "tunnel {tunnel} carries raw TCP: this entry works only if its target speaks HTTP"
                ));
                Ok(plan)
            }
            None => Err(Ended::failed(raw(tunnel, relay.origin.https))),
        },
        Listed::No(others) => {
            let problem = unknown(origin, tunnel, &others);
            if !args.force {
                let problem = format!("{problem}; --force writes the entry anyway");
                return Err(Ended::failed(problem));
            }
            warn(&problem);
            Ok(plan)
        }
        Listed::Unsure(why) => {
            let assumed = match args.tunnel.is_some() && args.path.is_none() {
                true => ", and its path is assumed to be /mcp (--path sets another)",
                false => "",
            };
            warn(&format!(
                "not checked whether there is a tunnel {tunnel}{assumed}: {why} (--offline skips this check)"
            ));
            Ok(plan)
        }
    }
}

/// Message for a tunnel that MCP clients cannot use; if the relay `is_encrypted`, the ways with encryption come first.
fn raw(tunnel: &str, is_encrypted: bool) -> String {
    let ways = match is_encrypted {
        true => format!(
            "by a WebSocket to wss://HOST/tunnel/{tunnel}, at the relay's port with TLS (ALPN `tieline`) by sending \
             the tunnel's name first or, without encryption, in the same way at its port for raw TCP (9002 unless \
             its operator says otherwise)"
        ),
        false => format!(
            "at the relay's port for raw TCP (9002 unless its operator says otherwise) by sending the tunnel's name \
             first, or by a WebSocket to wss://HOST/tunnel/{tunnel} (ws:// without TLS)"
        ),
    };
    format!(
        "tunnel {tunnel} carries raw TCP and not HTTP, so an MCP client has no entry for it, and nothing was \
         written: a program reaches it {ways}, see \"Callers\" in docs/OPERATIONS.md; \
         if its target is an MCP server over HTTP, publish it with --to http://host:port/path (--force writes an entry anyway)"
    )
}

fn unknown(origin: &str, tunnel: &str, others: &[String]) -> String {
    let there = match others.len() {
        0 => "it lists none".to_owned(),
        _ => format!("it lists {}", listed(others)),
    };
    format!("{origin} lists no tunnel {tunnel} ({there})")
}

/// Joins tunnel names; of many, the first few.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_SHOWN_MAX).map(String::as_str);
    let shown = shown.collect::<Vec<_>>().join(", ");
    match names.len() {
        count if count > NAMES_SHOWN_MAX => format!("{count}, such as {shown}"),
        _ => shown,
    }
}

/// Writes or shows the entry for each client of the plan; returns the exit code.
fn write(args: &InitArgs, plan: &Plan) -> Result<u8, Ended> {
    let Some(changes) = changes(args, plan) else {
        return Err(Ended::failed("nothing was written"));
    };
    for change in &changes {
        if let (Some(text), false) = (change.text(), args.dry_run)
            && let Err(error) = change.found.write(text)
        {
            let problem = format!("{}: {error}", change.path.display());
            return Err(Ended::failed(problem));
        }
        show(args, plan, change);
    }
    if plan.clients.contains(&Client::ClaudeDesktop) {
        show_block(args, plan);
    }
    Ok(DONE)
}

/// The planned changes of all clients that have a file; `None` if one file cannot be merged, after a message about it.
fn changes(args: &InitArgs, plan: &Plan) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    let mut failed = false;
    for &client in &plan.clients {
        let Some(path) = client.file(&args.dir) else {
            continue;
        };
        match prepare(client, &path, plan, args) {
            Ok((found, merged)) => changes.push(Change {
                client,
                path,
                found,
                merged,
            }),
            Err(message) => {
                failed = true;
                complain(&format!("{}: {message}", path.display()));
                if args.json {
                    print_json(&Report {
                        path: Some(&path),
                        message: Some(message),
                        ..Report::new("failed", client, plan)
                    });
                }
            }
        }
    }
    (!failed).then_some(changes)
}

/// Prints what was done with one client's file, or would be done.
fn show(args: &InitArgs, plan: &Plan, change: &Change) {
    let event = change.event(args.dry_run);
    let diff = change.diff().filter(|_| args.dry_run);
    if args.json {
        print_json(&Report {
            path: Some(&change.path),
            diff,
            ..Report::new(event, change.client, plan)
        });
    } else if let Some(diff) = diff {
        say_lines(&coloured(&diff));
    } else {
        let event = paint(GOOD, format_args!("{event:<9}"));
        say(&format!(
            "{event}  {}  {} -> {}",
            change.path.display(),
            plan.name,
            plan.url
        ));
    }
}

/// Prints the entry for Claude Desktop, whose file people edit themselves.
fn show_block(args: &InitArgs, plan: &Plan) {
    let block = Client::ClaudeDesktop
        .entry(&plan.url, plan.transport)
        .block(Client::ClaudeDesktop.list(), &plan.name);
    if args.json {
        print_json(&Report {
            config: serde_json::from_str(&block).ok(),
            ..Report::new("block", Client::ClaudeDesktop, plan)
        });
    } else {
        say(&"For Claude Desktop: Settings, Developer, Edit Config; then restart it.");
        say_lines(&block);
    }
}

fn prepare(
    client: Client,
    path: &Path,
    plan: &Plan,
    args: &InitArgs,
) -> Result<(Found, Merged), String> {
    let found = Found::read(path, &args.dir, args.force).map_err(|error| error.to_string())?;
    let text = found.text.as_deref().unwrap_or_default();
    let entry = client.entry(&plan.url, plan.transport);
    let merged = merge(text, client.list(), &plan.name, &entry, args.force)
        .map_err(|error| error.to_string())?;
    Ok((found, merged))
}

fn coloured(diff: &str) -> String {
    let colour = |line: &str| match line.as_bytes().first() {
        Some(b'+') => paint(GOOD, line),
        Some(b'-') => paint(BAD, line),
        _ => line.to_owned(),
    };
    // Each line break comes after the colour's end, so that a terminal does not colour the next line.
    let lines: Vec<_> = diff.lines().map(colour).collect();
    lines.join("\n")
}
