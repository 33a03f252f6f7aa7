//! Starts the MCP servers and runs the MCP clients of the interop tests.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::environment::{Node, Python, Surroundings};
use crate::process::Process;
use crate::trust::Trust;

/// Time limit for a server to listen, on a machine that is busy with other tests.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Time limit of one client program. The longest scenario takes about 6 s on an idle machine.
const CLIENT_LIMIT: Duration = Duration::from_secs(60);

/// The prepared environments, or the reason why one could not be prepared on this machine.
pub struct Setup {
    python: Result<Python, String>,
    node: Result<Node, String>,
    seen: Mutex<HashMap<String, Arc<Seen>>>,
    trust: Trust,
}

/// Result of a call that [`Setup::once`] makes once, or its error as text.
type Seen = OnceLock<Result<Value, String>>;

impl Setup {
    /// Prepares the Python and Node environments under `interop` in parallel. Their programs trust the authority of
    /// `trust`.
    #[must_use]
    pub fn prepare(interop: &Path, trust: Trust) -> Self {
        let surroundings = Surroundings { ca: trust.ca() };
        std::thread::scope(|scope| {
            let of_node = surroundings.clone();
            let node = scope
                .spawn(|| Node::prepare(interop, of_node).map_err(|error| format!("{error:#}")));
            let python =
                Python::prepare(interop, surroundings).map_err(|error| format!("{error:#}"));
            let node = node
                .join()
                .unwrap_or_else(|_| Err("preparation panicked".to_owned()));
            Self {
                python,
                node,
                seen: Mutex::default(),
                trust,
            }
        })
    }

    /// The certificates of relays with TLS.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Result of `look`, which runs once per key `what`: all paths are compared with one run on the direct
    /// path.
    ///
    /// # Errors
    /// `look` failed, in this call or in an earlier one with the same key.
    pub fn once(&self, what: &str, look: impl FnOnce() -> Result<Value>) -> Result<Value> {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = Arc::clone(all.entry(what.to_owned()).or_default());
        drop(all);
        let found = seen.get_or_init(|| look().map_err(|error| format!("{error:#}")));
        found.clone().map_err(|why| anyhow!("{what}: {why}"))
    }

    /// Reason why a test with these `needs` cannot run on this machine; `None` if it can.
    #[must_use]
    pub fn missing(&self, needs: Needs) -> Option<String> {
        let python = self
            .python
            .as_ref()
            .err()
            .map(|why| format!("python: {why}"));
        let node = self.node.as_ref().err().map(|why| format!("node: {why}"));
        match needs {
            Needs::Python => python,
            Needs::PythonAndNode => python.or(node),
        }
    }

    fn python(&self) -> Result<&Python> {
        self.python.as_ref().map_err(|why| anyhow!("python: {why}"))
    }

    fn node(&self) -> Result<&Node> {
        self.node.as_ref().map_err(|why| anyhow!("node: {why}"))
    }

    /// Starts npm's `server-everything` with Streamable HTTP.
    ///
    /// # Errors
    /// The server does not start.
    pub fn everything(&self) -> Result<Server> {
        let preload = ["end-with-stdin.cjs", "bind-loopback.cjs"];
        let mut command = self.node()?.program("mcp-server-everything", &preload);
        command.arg("streamableHttp");
        Server::start("server-everything", &mut command)
    }

    /// Starts npm's `supergateway`, which serves `transport` and talks to `server-everything`, its child
    /// process, over standard input and output.
    ///
    /// # Errors
    /// The server does not start.
    pub fn gateway(&self, transport: &str) -> Result<Server> {
        let node = self.node()?;
        let mut child = node.program("mcp-server-everything", &["end-with-input.cjs"]);
        child.arg("stdio");
        let words = words(&child).map(|word| format!("'{}'", word.to_string_lossy()));
        let child: Vec<_> = words.collect();
        let preload = ["end-with-stdin.cjs", "bind-loopback.cjs"];
        let mut command = node.program("supergateway", &preload);
        command.args(["--stdio", &child.join(" ")]);
        command.args(["--outputTransport", transport]);
        if transport == "streamableHttp" {
            command.arg("--stateful");
        }
        Server::start("supergateway", &mut command)
    }

    /// Starts the fixture server on the Python SDK, which serves the 2025 and 2026 protocol eras.
    ///
    /// # Errors
    /// The server does not start.
    pub fn sdk_server(&self) -> Result<Server> {
        Server::start(
            "server_2026.py",
            &mut self.python()?.script("server_2026.py"),
        )
    }

    /// Starts the fixture server with the tools and resources that npm's `conformance` requires.
    ///
    /// # Errors
    /// The server does not start.
    pub fn conformance_server(&self) -> Result<Server> {
        let script = "server_conformance.py";
        Server::start(script, &mut self.python()?.script(script))
    }

    /// Starts a server that is its own OAuth authorization server. Its public URL is `url`, or by default
    /// its own address.
    ///
    /// # Errors
    /// The server does not start.
    pub fn login_server(&self, url: Option<&str>) -> Result<Server> {
        let script = "server_login.py";
        Server::start(script, self.python()?.script(script).args(url))
    }

    /// Logs in at `url` with the Python SDK and returns the client's report.
    ///
    /// # Errors
    /// The client failed, or took too long.
    pub fn login_python(&self, url: &str) -> Result<Value> {
        let script = "client_login.py";
        report(script, self.python()?.script(script).arg(url))
    }

    /// Logs in at `url` with the TypeScript SDK and returns the client's report.
    ///
    /// # Errors
    /// The client failed, or took too long.
    pub fn login_typescript(&self, url: &str) -> Result<Value> {
        let script = "client_login.mjs";
        report(
            script,
            self.node()?
                .script(script, &["resolve-test-names.cjs"])
                .arg(url),
        )
    }

    /// Runs every scenario of npm's `conformance` that `revision` requires of a server against `url`; the exit code
    /// does not count failures in the `excused` scenarios. Returns the exit code, the output, and the checks that the
    /// suite wrote for each scenario.
    ///
    /// # Errors
    /// The suite took too long, or wrote no checks.
    pub fn conformance(&self, url: &str, revision: &str, excused: &[&str]) -> Result<Value> {
        let directory = TempDir::new()?;
        let preload = ["end-with-stdin.cjs", "resolve-test-names.cjs"];
        let mut command = self.node()?.program("conformance", &preload);
        command.args(["server", "--url", url, "--requirements", revision]);
        command.args(["--output-dir", "kept"]);
        if !excused.is_empty() {
            let list = format!("server:\n  - {}\n", excused.join("\n  - "));
            fs::write(directory.path().join("excused.yml"), list)?;
            command.args(["--expected-failures", "excused.yml"]);
        }
        command.current_dir(directory.path());
        let ended = Process::spawn("conformance", &mut command)?.ended(CLIENT_LIMIT)?;
        let mut checks = serde_json::Map::new();
        let kept = directory.path().join("kept");
        for entry in fs::read_dir(&kept).with_context(|| ended.quote.clone())? {
            let entry = entry?;
            let text = fs::read(entry.path().join("checks.json"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            checks.insert(name, serde_json::from_slice(&text)?);
        }
        Ok(json!({ "code": ended.status.code(), "printed": ended.stdout, "checks": checks }))
    }

    /// Runs a scenario of a client script against `url` and returns its report.
    ///
    /// # Errors
    /// The client failed, or took too long.
    pub fn client(&self, client: Client, scenario: &str, url: &str) -> Result<Value> {
        let script = client.script();
        let mut command = self.python()?.script(script);
        command.args([scenario, url]);
        let printed =
            Process::spawn(&format!("{script} {scenario}"), &mut command)?.finish(CLIENT_LIMIT)?;
        serde_json::from_str(&printed).with_context(|| format!("{script} printed {printed:?}"))
    }

    /// Runs a scenario of the Python SDK in the 2025 protocol era through `bridge`, and returns its report.
    /// The SDK talks to the bridge over standard input and output; the bridge adds `headers` to each
    /// HTTP request that it sends to `url`.
    ///
    /// # Errors
    /// The client or the bridge failed, or took too long.
    pub fn bridged(
        &self,
        bridge: Bridge,
        scenario: &str,
        url: &str,
        headers: &[&str],
    ) -> Result<Value> {
        let script = "client_stdio.py";
        // mcp-remote keeps credentials in the home directory; the test must not use the user's.
        let home = TempDir::new()?;
        let preload = ["end-with-input.cjs", "resolve-test-names.cjs"];
        let mut inner = self.node()?.program(bridge.program(), &preload);
        match bridge {
            Bridge::McpRemote => {
                inner.args([url, "--allow-http", "--transport", "http-only", "--silent"])
            }
            Bridge::Gateway => inner.args(["--streamableHttp", url, "--logLevel", "none"]),
            Bridge::GatewaySse => inner.args(["--sse", url, "--logLevel", "none"]),
        };
        for header in headers {
            inner.args(["--header", header]);
        }
        let mut command = self.python()?.script(script);
        command.arg(scenario).args(words(&inner));
        command.env("HOME", home.path());
        let name = format!("{script} {scenario} {}", bridge.program());
        let printed = Process::spawn(&name, &mut command)?.finish(CLIENT_LIMIT)?;
        serde_json::from_str(&printed).with_context(|| format!("{script} printed {printed:?}"))
    }

    /// Runs the command line of npm's inspector against `url` and returns its output.
    ///
    /// # Errors
    /// The inspector failed, or took too long.
    pub fn inspector(&self, url: &str, arguments: &[&str]) -> Result<String> {
        // The inspector keeps settings and credentials in the home directory; the test must not use the user's.
        let home = TempDir::new()?;
        let preload = ["end-with-stdin.cjs", "resolve-test-names.cjs"];
        let mut command = self.node()?.program("mcp-inspector", &preload);
        command.args([
            "--cli",
            url,
            "--transport",
            "http",
            "--format",
            "json",
            "--quiet",
        ]);
        command.args(arguments).env("HOME", home.path());
        Process::spawn("mcp-inspector", &mut command)?.finish(CLIENT_LIMIT)
    }
}

/// Runs a client script and parses the JSON report that it prints.
pub(crate) fn report(script: &str, command: &mut Command) -> Result<Value> {
    let printed = Process::spawn(script, command)?.finish(CLIENT_LIMIT)?;
    serde_json::from_str(&printed).with_context(|| format!("{script} printed {printed:?}"))
}

/// Environments that a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Python with the MCP SDK.
    Python,
    /// Python with the MCP SDK, and Node with the npm packages.
    PythonAndNode,
}

/// A client script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The Python SDK in the 2025 protocol era.
    Era2025,
    /// The Python SDK in the 2026-07-28 protocol era.
    Era2026,
    /// Plain HTTP requests, without an SDK.
    Http,
}

impl Client {
    fn script(self) -> &'static str {
        match self {
            Self::Era2025 => "client_2025.py",
            Self::Era2026 => "client_2026.py",
            Self::Http => "client_http.py",
        }
    }
}

/// Program that a client starts as its stdio server, and that forwards to an HTTP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridge {
    /// npm's `mcp-remote`.
    McpRemote,
    /// npm's `supergateway`, over Streamable HTTP.
    Gateway,
    /// npm's `supergateway`, over the older HTTP+SSE transport with two endpoints.
    GatewaySse,
}

impl Bridge {
    const fn program(self) -> &'static str {
        match self {
            Self::McpRemote => "mcp-remote",
            Self::Gateway | Self::GatewaySse => "supergateway",
        }
    }
}

/// The program and the arguments of a command.
fn words(command: &Command) -> impl Iterator<Item = &OsStr> {
    std::iter::once(command.get_program()).chain(command.get_args())
}

/// A running MCP server. Dropping it kills the process.
pub struct Server {
    process: Process,
    url: String,
    port: u16,
}

impl Server {
    /// Starts a server that prints its port as `told_server.py` does.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let process = Process::spawn(name, command)?;
        let told = process.wait_for(START_LIMIT, |line| event(line, "listening"))?;
        let port = told["port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok());
        let port = port.with_context(|| format!("{name} reported no port: {told}"))?;
        Ok(Self {
            process,
            url: format!("http://127.0.0.1:{port}/mcp"),
            port,
        })
    }

    /// URL of the server's MCP endpoint.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// URL of the server's root, without a path.
    #[must_use]
    pub fn root(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Port of the server's listener on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until the server has printed an event named `wanted`, and returns the event.
    ///
    /// # Errors
    /// `limit` passed, or the server's output ended, before that event.
    pub fn wait_for_event(&self, limit: Duration, wanted: &str) -> Result<Value> {
        self.process.wait_for(limit, |line| event(line, wanted))
    }

    /// The first `count` HTTP requests that the server has reported on its standard output.
    ///
    /// # Errors
    /// The server reported fewer than `count` requests within `limit`.
    pub fn requests(&self, limit: Duration, count: usize) -> Result<Vec<Value>> {
        let mut requests = Vec::new();
        self.process.wait_for(limit, |line| {
            requests.extend(event(line, "request"));
            (requests.len() >= count).then_some(())
        })?;
        Ok(requests)
    }
}

pub(crate) fn event(line: &str, wanted: &str) -> Option<Value> {
    let told: Value = serde_json::from_str(line).ok()?;
    (told["event"] == wanted).then_some(told)
}
