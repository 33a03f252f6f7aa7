//! Runs every command of the README's `console` blocks, in order, with the programs of this build. The kernel
//! chooses the ports, so that parallel runs do not collide.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tieline_e2e::behaviour::{
    Body, Head, HttpStream, Target, programs, soon, tls, without_settings,
};
use tieline_e2e::process::Process;
use tokio::io::{AsyncRead, AsyncWrite};

const README: &str = include_str!("../../README.md");

/// Time limit for one command to end, or for a program to be ready, on a busy machine.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// A reader who types the README's commands, with this run's ports and names in place of the README's.
#[derive(Default)]
struct Reader {
    /// Pairs of a text in the README and its replacement in this run.
    typed: Vec<(String, String)>,
    running: Vec<Process>,
}

impl Reader {
    /// Replaces `text` by `with` in later commands.
    fn types(&mut self, text: &str, with: impl Into<String>) {
        self.typed.retain(|(known, _)| known != text);
        self.typed.push((text.to_owned(), with.into()));
    }

    fn typed(&self, text: &str) -> String {
        let replace = |text: String, (from, to): &(String, String)| text.replace(from, to);
        self.typed.iter().fold(text.to_owned(), replace)
    }

    /// Runs a command line in `folder`. A relay, agent or proxy keeps running until the reader is dropped.
    fn run(&mut self, line: &str, folder: &Path, programs: &Path) -> Result<()> {
        let is_relay = line.starts_with("tieline-relay --");
        let typed = match is_relay {
            // Port 0, because `typed` would insert the port of a relay that the README started before.
            true => line.replace(":9443", ":0"),
            // `init` must ask this run's `connect`: its default port may belong to another run.
            false if line.starts_with("tieline init") => {
                self.typed(&format!("{line} --relay http://localhost:51822"))
            }
            false => self.typed(line),
        };
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.args(["-c", &typed]).current_dir(folder);
        without_settings(&mut command);
        command
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("HOME", folder)
            .env("XDG_RUNTIME_DIR", folder)
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_CONFIG_HOME");
        if is_relay {
            for kind in ["AGENT", "TCP", "HTTP", "ADMIN"] {
                command.env(format!("TIELINE_RELAY_{kind}_LISTEN"), "127.0.0.1:0");
            }
        }
        if line.starts_with("tieline connect") {
            command.env("TIELINE_CONNECT_LISTEN", "127.0.0.1:0");
        }
        if line.starts_with("tieline init") {
            // `init` must not find another `connect` on this machine.
            let listen = format!("localhost:{}", self.typed("51822"));
            command.env("TIELINE_CONNECT_LISTEN", listen);
        }
        let process = Process::spawn(&typed, &mut command)?;
        if is_relay {
            let port = process.wait_for(STEP_LIMIT, |line| {
                let mut words = line.split_whitespace();
                let is_it = words.next() == Some("listening") && words.next() == Some("http");
                is_it.then(|| port_of(words.next()?))?
            })?;
            self.types("9443", port);
            process.wait_for(STEP_LIMIT, |line| line.starts_with("ready").then_some(()))?;
        } else if line.starts_with("tieline serve") {
            let tunnel = process.wait_for(STEP_LIMIT, |line| {
                let rest = line.strip_prefix("registered  ")?;
                Some(rest.split_once(' ')?.0.to_owned())
            })?;
            self.types("<tunnel>", tunnel);
        } else if line.starts_with("tieline connect") {
            let port = process.wait_for(STEP_LIMIT, |line| {
                let (_, rest) = line.split_once("url        http://")?;
                port_of(rest.split_once('/')?.0)
            })?;
            self.types("51822", port);
        } else {
            process.finish(STEP_LIMIT)?;
            return Ok(());
        }
        self.running.push(process);
        Ok(())
    }
}

/// The digits after the last colon that is followed by a digit.
fn port_of(text: &str) -> Option<String> {
    text.rsplit(':').find_map(|tail| {
        let digits: String = tail.chars().take_while(char::is_ascii_digit).collect();
        (!digits.is_empty()).then_some(digits)
    })
}

/// The README's code blocks in `language`, in order.
fn blocks(language: &str) -> impl Iterator<Item = &'static str> {
    let fence = format!("```{language}\n");
    let mut rest = README;
    std::iter::from_fn(move || {
        let (_, behind) = rest.split_once(&fence)?;
        let (block, behind) = behind.split_once("```")?;
        rest = behind;
        Some(block)
    })
}

/// The commands of a `console` block, without prompts and with continued lines joined.
fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| line.strip_prefix("$ "));
    lines.map(str::to_owned).collect()
}

/// Sends a POST to the server in `entry` of a client's configuration, with its headers; returns the body. A server with
/// TLS must have the certificate that the README made in `folder`.
async fn ask(entry: &Value, folder: &Path) -> Result<String> {
    let url = entry["url"].as_str().context("the entry has no url")?;
    let (scheme, rest) = url.split_once("://").with_context(|| url.to_owned())?;
    let (host, path) = rest
        .split_once('/')
        .with_context(|| format!("{url}: not a URL with a path"))?;
    let headers = entry["headers"].as_object().into_iter().flatten();
    let headers: String = headers
        .filter_map(|(name, value)| Some(format!("{name}: {}\r\n", value.as_str()?)))
        .collect();
    let address: SocketAddr = host.replace("localhost", "127.0.0.1").parse()?;
    let request =
        format!("POST /{path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: 0\r\n\r\n");
    let (head, body) = match scheme {
        "https" => {
            let config = tls::client(&folder.join("relay.pem"), Some("http/1.1"))?;
            let stream = tls::connect(address, Arc::new(config), "localhost").await?;
            answer(HttpStream::new(stream), request).await?
        }
        _ => answer(HttpStream::connect(address).await?, request).await?,
    };
    let body = String::from_utf8(body.bytes)?;
    ensure!(head.status() == 200, "{}: {body}", head.first);
    Ok(body)
}

/// Sends `request`; returns the answer.
async fn answer<S>(mut stream: HttpStream<S>, request: String) -> Result<(Head, Body)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write(request).await?;
    stream.answer().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_readme_works_as_it_is_typed() -> Result<()> {
    let programs = programs()?;
    let folder = TempDir::new()?;
    let target = Target::http_requests(|mut http, head| async move {
        // The relay must not forward the caller's credentials to the target.
        let status = match head.header("authorization") {
            Some(_) => "400 Bad Request",
            None => "200 OK",
        };
        http.body(&head).await?;
        http.respond(status, "", b"the server's answer").await?;
        Ok(http)
    })
    .await?;
    let mut reader = Reader::default();
    reader.types("127.0.0.1:8765", target.address().to_string());
    reader.types("127.0.0.1:8188", target.address().to_string());
    let mut is_configured = 0;
    for line in blocks("console").flat_map(commands) {
        match line.split_once(' ').map_or(line.as_str(), |it| it.0) {
            // Not run here: `cargo test` is this run, `cargo run … demo` is a CI job, `cargo build` is `programs`.
            "cargo" | "export" => {}
            _ => tokio::task::block_in_place(|| reader.run(&line, folder.path(), &programs))
                .with_context(|| line.clone())?,
        }
        // The README's client configuration must work as soon as the agent has registered.
        if line.starts_with("tieline serve") && is_configured == 0 {
            let token = fs::read_to_string(folder.path().join("ada.token"))?;
            reader.types("<token>", token.trim());
            for block in blocks("json") {
                let all: Value = serde_json::from_str(&reader.typed(block))?;
                let entry = &all["mcpServers"]["maya"];
                let answer = soon("the target's answer", ask(entry, folder.path())).await??;
                ensure!(answer == "the server's answer", "{answer}");
                is_configured += 1;
            }
        }
        if line.starts_with("tieline init") {
            let written = fs::read_to_string(folder.path().join(".mcp.json"))?;
            let all: Value = serde_json::from_str(&reader.typed(&written))?;
            let Some(entry) = all["mcpServers"]
                .as_object()
                .and_then(|all| all.values().next())
            else {
                bail!("init wrote no server entry: {written}");
            };
            let answer = soon("the target's answer", ask(entry, folder.path())).await??;
            ensure!(answer == "the server's answer", "{answer}");
            is_configured += 1;
        }
    }
    ensure!(
        is_configured == 2,
        "{is_configured} client configurations of the README worked, not 2"
    );
    ensure!(
        reader.running.len() >= 4,
        "the README starts only {} programs",
        reader.running.len()
    );
    Ok(())
}
