//! Autobahn's test suite (PyPI `autobahntestsuite`) as a WebSocket client, and the server that it tests.
//!
//! The suite needs CPython 2.7. Its client runs one case after another, each on a connection of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use crate::environment::{AutobahnPython, Python, Python2, Surroundings};
use crate::interop::Server;
use crate::process::Process;
use crate::trust::Trust;

/// Time limit of one run. A run takes about 7 s on an idle machine.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// Name of the tested server in a report.
const SERVER: &str = "server";

/// How the cases of one run ended, by number, such as `1.1.1`. A case is missing if it got no connection.
pub type Report = BTreeMap<String, Verdict>;

/// How one case ended, in the words of the suite.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Whether the server's messages were right, such as `OK`, `NON-STRICT` or `FAILED`.
    pub behavior: String,
    /// Whether the connection ended as it should, such as `OK` or `WRONG CODE`.
    pub behavior_close: String,
}

impl Verdict {
    /// Whether the suite has no objection. Some cases only inform.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let is_good = |word: &str| matches!(word, "OK" | "INFORMATIONAL");
        is_good(&self.behavior) && is_good(&self.behavior_close)
    }
}

/// The prepared suite.
pub struct Autobahn {
    python: Python,
    suite: AutobahnPython,
    trust: Trust,
    direct: OnceLock<Result<Report, String>>,
}

impl Autobahn {
    /// Prepares the environments of server and suite under `interop`. Relays with TLS have their certificate from
    /// `trust`.
    ///
    /// # Errors
    /// This machine has no CPython 2.7 that runs, or an environment could not be prepared.
    pub fn prepare(interop: &Path, trust: Trust) -> Result<Self> {
        let python2 = Python2::find()?;
        let surroundings = Surroundings { ca: trust.ca() };
        let python = Python::prepare(interop, surroundings.clone()).context("python")?;
        let suite = AutobahnPython::prepare(interop, &python2, &python, surroundings)?;
        Ok(Self {
            python,
            suite,
            trust,
            direct: OnceLock::new(),
        })
    }

    /// The certificates of relays with TLS.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Starts the WebSocket server that echoes messages.
    ///
    /// # Errors
    /// The server does not start.
    pub fn server(&self) -> Result<Server> {
        let script = "server_websocket.py";
        Server::start(script, &mut self.python.script(script))
    }

    /// Runs the cases that fit a pattern of `cases` and none of `excluded` against the server at `url`, a `ws://` or
    /// `wss://` URL.
    ///
    /// # Errors
    /// The suite failed, or took too long.
    pub fn run(&self, url: &str, cases: &[&str], excluded: &[&str]) -> Result<Report> {
        let directory = TempDir::new()?;
        let spec = json!({
            "outdir": "reports",
            "servers": [{ "agent": SERVER, "url": url, "options": { "version": 18 } }],
            "cases": cases,
            "exclude-cases": excluded,
            "exclude-agent-cases": {},
        });
        fs::write(directory.path().join("spec.json"), spec.to_string())?;
        // The client does not watch its standard input, but it ends soon after the servers of a killed test run.
        let mut command = self.suite.wstest();
        command.args(["--mode", "fuzzingclient", "--spec", "spec.json"]);
        command.current_dir(directory.path());
        let printed = Process::spawn("wstest", &mut command)?.finish(RUN_LIMIT)?;
        let index = fs::read(directory.path().join("reports/index.json"))
            .with_context(|| format!("wstest wrote no report:\n{printed}"))?;
        let mut servers: BTreeMap<String, Report> = serde_json::from_slice(&index)?;
        let report = servers.remove(SERVER);
        report.with_context(|| format!("wstest got no connection to {url}:\n{printed}"))
    }

    /// Result of `look`, which runs once: all tunnels are compared with one run without a tunnel.
    ///
    /// # Errors
    /// `look` failed, in this call or in an earlier one.
    pub fn direct(&self, look: impl FnOnce() -> Result<Report>) -> Result<&Report> {
        let seen = self
            .direct
            .get_or_init(|| look().map_err(|error| format!("{error:#}")));
        seen.as_ref()
            .map_err(|why| anyhow!("without a tunnel: {why}"))
    }
}
