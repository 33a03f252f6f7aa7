//! `tieline init`: writes a tunnel's URL into the configuration files of MCP clients.
//!
//! All files are read and merged before the first is written, so that a file that cannot be
//! merged leaves every other one as it is.

mod args;
mod client;
mod file;
mod layout;
mod merge;

use std::path::{Path, PathBuf};

use serde::Serialize;
use similar::TextDiff;

pub use self::args::InitArgs;
use self::args::Plan;
pub use self::client::{Client, Entry};
use self::file::Found;
pub use self::merge::{MergeError, Merged, merge};
use crate::list::{Known, is_known};
use crate::paint::{BAD, GOOD, complain, paint, print_json, say, say_lines, warn};

const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// Names that are shown of a relay's other tunnels.
const NAMES_SHOWN_MAX: usize = 5;

/// Lines of a diff that are shown around a change.
const DIFF_CONTEXT_LINES: usize = 3;

/// What a program is told, one object for each client.
#[derive(Debug, Serialize)]
struct Report<'a> {
    event: &'static str,
    client: &'static str,
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

/// One file and what is to become of it.
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
pub(crate) async fn run(args: &InitArgs) -> u8 {
    let plan = match args.plan() {
        Ok(plan) => plan,
        Err(problem) => {
            complain(&problem);
            return USAGE;
        }
    };
    if let Some((origin, tunnel)) = &plan.known_at
        && !is_expected(origin, tunnel, args.force).await
    {
        return FAILED;
    }
    write(args, &plan)
}

/// Whether to go on with a tunnel, as far as the relay tells.
async fn is_expected(origin: &str, tunnel: &str, force: bool) -> bool {
    match is_known(origin, tunnel).await {
        Known::Yes => true,
        Known::No(others) => {
            let problem = unknown(origin, tunnel, &others);
            match force {
                true => warn(&problem),
                false => complain(&format!("{problem}; --force writes it all the same")),
            }
            force
        }
        Known::Unsure(why) => {
            warn(&format!(
                "not checked whether there is a tunnel {tunnel}: {why} (--offline does not ask)"
            ));
            true
        }
    }
}

fn unknown(origin: &str, tunnel: &str, others: &[String]) -> String {
    let shown = others.iter().take(NAMES_SHOWN_MAX).map(String::as_str);
    let shown = shown.collect::<Vec<_>>().join(", ");
    let there = match others.len() {
        0 => "it lists none".to_owned(),
        count if count > NAMES_SHOWN_MAX => format!("it lists {count}, such as {shown}"),
        _ => format!("it lists {shown}"),
    };
    format!("{origin} lists no tunnel {tunnel} ({there})")
}

/// Puts the entry where the plan says.
fn write(args: &InitArgs, plan: &Plan) -> u8 {
    let (name, url) = (plan.name.as_str(), plan.url.as_str());
    let report = |event, client: Client| Report {
        event,
        client: client.word(),
        name,
        url,
        path: None,
        diff: None,
        config: None,
        message: None,
    };
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
                    let path = Some(path.as_path());
                    let message = Some(message);
                    print_json(&Report {
                        path,
                        message,
                        ..report("failed", client)
                    });
                }
            }
        }
    }
    if failed {
        complain(&"nothing was written");
        return FAILED;
    }
    for change in &changes {
        if let (Some(text), false) = (change.text(), args.dry_run)
            && let Err(error) = change.found.write(text)
        {
            complain(&format!("{}: {error}", change.path.display()));
            return FAILED;
        }
        let event = change.event(args.dry_run);
        let diff = change.diff().filter(|_| args.dry_run);
        if args.json {
            let path = Some(change.path.as_path());
            print_json(&Report {
                path,
                diff,
                ..report(event, change.client)
            });
        } else if let Some(diff) = diff {
            say_lines(&coloured(&diff));
        } else {
            let event = paint(GOOD, format_args!("{event:<9}"));
            say(&format!(
                "{event}  {}  {name} -> {url}",
                change.path.display()
            ));
        }
    }
    if plan.clients.contains(&Client::ClaudeDesktop) {
        let block = Client::ClaudeDesktop
            .entry(url)
            .block(Client::ClaudeDesktop.list(), name);
        if args.json {
            let config = serde_json::from_str(&block).ok();
            print_json(&Report {
                config,
                ..report("block", Client::ClaudeDesktop)
            });
        } else {
            say(&"For Claude Desktop: Settings, Developer, Edit Config; then restart it.");
            say_lines(&block);
        }
    }
    DONE
}

fn prepare(
    client: Client,
    path: &Path,
    plan: &Plan,
    args: &InitArgs,
) -> Result<(Found, Merged), String> {
    let found = Found::read(path, &args.dir, args.force).map_err(|error| error.to_string())?;
    let text = found.text.as_deref().unwrap_or_default();
    let entry = client.entry(&plan.url);
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
    // Behind the colour, so that a terminal does not go on in it on the next line.
    let lines: Vec<_> = diff.lines().map(colour).collect();
    lines.join("\n")
}
