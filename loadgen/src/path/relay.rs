//! Starts a relay and agents with their default settings, and reads the addresses of the listeners and the
//! granted tunnels from their `--json` lines.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;

use crate::instructions::counter::Counter;
use crate::interrupt::Interrupt;
use crate::path::{PathKind, Wrapped, Wrapping};
use crate::process::{Program, Running, listening_address};
use crate::socket::Certificate;

/// How long relay and agent may each take to start.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Longest accepted answer of the admin port, in bytes.
const HEALTH_BYTES_MAX: u64 = 16 * 1024;

/// Paths of the two binaries, and their arguments beyond those that every start needs.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    /// Path of `tieline-relay`.
    pub(crate) relay: PathBuf,
    /// Path of `tieline`.
    pub(crate) agent: PathBuf,
    /// Extra arguments of the relay.
    pub(crate) relay_arguments: Vec<String>,
    /// Extra arguments of `tieline serve`.
    pub(crate) agent_arguments: Vec<String>,
    /// Number of tunnels, each with its own agent.
    pub(crate) tunnels: usize,
    /// Tool that counts their instructions, for the `instructions` command only.
    pub(crate) counter: Option<Counter>,
}

impl Binaries {
    /// Arguments of the agent with this number, which publishes `target` over the relay at the URL `relay`.
    fn serve_arguments(&self, relay: &[String], target: &str, number: usize) -> Vec<String> {
        let mut arguments = vec!["serve".to_owned()];
        arguments.extend_from_slice(relay);
        arguments.extend(["--to".to_owned(), target.to_owned(), "--json".to_owned()]);
        if self.tunnels > 1 {
            // All agents share one key, so the same target would give them the same tunnel name.
            arguments.extend(["--name".to_owned(), format!("load-{number}")]);
        }
        arguments.extend(self.agent_arguments.iter().cloned());
        arguments
    }

    fn in_front(&self, name: &str, directory: &Path) -> Vec<OsString> {
        self.counter
            .map_or_else(Vec::new, |counter| counter.in_front(name, directory))
    }
}

/// A running relay with its agents, each of which published one tunnel. Field order matters: agents are
/// dropped, and so ended, before the relay.
#[derive(Debug)]
pub(crate) struct RelayPair {
    pub(crate) agents: Vec<Running>,
    pub(crate) relay: Running,
    /// Address that agents connect to.
    pub(crate) links: SocketAddr,
    /// Address that frontends connect to over raw TCP.
    pub(crate) frontend: SocketAddr,
    /// Address that frontends connect to over HTTP.
    pub(crate) http: SocketAddr,
    /// UDP address for agents and frontends over QUIC, if a hop has QUIC.
    pub(crate) quic: Option<SocketAddr>,
    /// Names of the tunnels, one per agent.
    pub(crate) tunnels: Vec<String>,
    /// Facts for the report.
    pub(crate) facts: RelayFacts,
}

/// Facts about relay and agent for the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RelayFacts {
    /// Path that this relay serves.
    pub(crate) path: PathKind,
    /// Extra arguments; if there are none, all settings are the defaults.
    pub(crate) changed: Vec<String>,
    /// Command lines of relay and agent, each followed by the default values of the other settings.
    pub(crate) settings: Vec<String>,
    /// The relay's answer to `/healthz?verbose`: driver and shards, among others.
    pub(crate) health: Option<String>,
}

impl RelayFacts {
    /// Driver of all shards; `None` if the shards differ or the relay did not report it.
    pub(crate) fn driver(&self) -> Option<String> {
        let health: Value = serde_json::from_str(self.health.as_deref()?).ok()?;
        let shards = health.get("shards")?.as_array()?;
        let driver = shards.first()?.get("driver")?;
        let is_same = |shard: &Value| shard.get("driver") == Some(driver);
        Some(driver.as_str()?.to_owned()).filter(|_| shards.iter().all(is_same))
    }

    /// Short description of relay and agent.
    pub(crate) fn described(&self) -> String {
        if self.changed.is_empty() {
            return "tieline-relay and its agent, with their defaults".to_owned();
        }
        let changed = self.changed.join(" ");
        format!("tieline-relay and its agent, with {changed} and defaults otherwise")
    }

    /// The command lines without the default values.
    pub(crate) fn commands(&self) -> Vec<String> {
        let first = |told: &String| told.lines().next().map(str::to_owned);
        self.settings.iter().filter_map(first).collect()
    }
}

impl RelayPair {
    /// Starts relay and agents and waits for the registrations. `target` is the value of the agents' `--to`.
    ///
    /// A path with TLS needs a certificate.
    pub(crate) fn start(
        path: PathKind,
        binaries: &Binaries,
        target: &str,
        cores: (Option<usize>, Option<usize>),
        (directory, certificate): (&Path, Option<&Certificate>),
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let driver = (path == PathKind::RelayEpoll).then(|| "--driver=epoll".to_owned());
        let name = path.to_string();
        let suffix = name.strip_prefix("relay").unwrap_or_default();
        let hops = Hops {
            wrapped: path.wrapped(),
            certificate,
        };
        let place = StartFiles {
            binaries,
            directory,
            environment: own_home(&directory.join(format!("agent{suffix}-home")))?,
        };
        let mut arguments = hops.relay_arguments()?;
        let relay_arguments = || binaries.relay_arguments.iter().chain(&driver).cloned();
        arguments.extend(relay_arguments());
        let mut settings = vec![told(&binaries.relay, &[], &arguments)];
        let mut relay = place.start(name.clone(), &binaries.relay, &arguments, cores.0)?;
        let listeners = Listeners::of(&mut relay, hops.wrapped.has_quic(), interrupt)?;

        let (mut agents, mut tunnels) = (Vec::new(), Vec::new());
        for number in 0..binaries.tunnels {
            let at = hops.relay_url(&listeners)?;
            let arguments = binaries.serve_arguments(&at, target, number);
            if number == 0 {
                settings.push(told(&binaries.agent, &["serve"], &arguments));
            }
            let name = format!("agent{suffix}-{number}");
            let mut agent = place.start(name, &binaries.agent, &arguments, cores.1)?;
            tunnels.push(agent.wait_for(
                "a registration",
                START_PATIENCE,
                interrupt,
                registered,
            )?);
            agents.push(agent);
        }
        Ok(Self {
            agents,
            relay,
            links: listeners.links,
            frontend: listeners.frontend,
            http: listeners.http,
            quic: listeners.quic,
            tunnels,
            facts: RelayFacts {
                path,
                changed: relay_arguments()
                    .chain(binaries.agent_arguments.iter().cloned())
                    .collect(),
                settings,
                health: health(listeners.admin),
            },
        })
    }
}

/// What wraps the hops of a relay path.
struct Hops<'a> {
    wrapped: Wrapped,
    certificate: Option<&'a Certificate>,
}

impl Hops<'_> {
    fn certificate(&self) -> anyhow::Result<&Certificate> {
        self.certificate.context("no certificate was made")
    }

    /// Arguments of the relay: its listeners, with TLS where callers or agents need it.
    fn relay_arguments(&self) -> anyhow::Result<Vec<String>> {
        let Wrapped { caller, link } = self.wrapped;
        let listeners = [
            ("agent", link == Wrapping::Tls),
            ("tcp", caller == Wrapping::Tls),
            ("http", [caller, link].contains(&Wrapping::WebSocketTls)),
            ("admin", false),
        ];
        let mut arguments = vec!["--json".to_owned()];
        for (listener, is_tls) in listeners {
            let scheme = if is_tls { "tls://" } else { "" };
            arguments.push(format!("--{listener}-listen"));
            arguments.push(format!("{scheme}127.0.0.1:0"));
        }
        if self.wrapped.has_quic() {
            arguments.push("--quic-listen=127.0.0.1:0".to_owned());
        }
        if self.wrapped.has_tls() {
            let Certificate { cert, key, .. } = self.certificate()?;
            arguments.push(format!("--tls-cert={}", cert.display()));
            arguments.push(format!("--tls-key={}", key.display()));
        }
        Ok(arguments)
    }

    /// Arguments with which an agent dials the relay.
    fn relay_url(&self, relay: &Listeners) -> anyhow::Result<Vec<String>> {
        let Listeners {
            links, http, quic, ..
        } = relay;
        let url = match self.wrapped.link {
            Wrapping::Quic => format!("quic://{}", quic.context("the relay has no QUIC")?),
            Wrapping::Tls => format!("tls://{links}"),
            Wrapping::WebSocket => format!("ws://{http}/agent"),
            Wrapping::WebSocketTls => format!("wss://{http}/agent"),
            Wrapping::Plain | Wrapping::PassedWebSocket => format!("tcp://{links}"),
        };
        let mut arguments = vec!["--relay".to_owned(), url];
        if self.wrapped.link.is_tls() {
            let cert = self.certificate()?.cert.display();
            arguments.push(format!("--ca={cert}"));
        }
        Ok(arguments)
    }
}

/// Binaries, folder and environment for starting relay and agents.
struct StartFiles<'a> {
    binaries: &'a Binaries,
    /// Folder of this run, for logs.
    directory: &'a Path,
    environment: Vec<(String, OsString)>,
}

impl StartFiles<'_> {
    fn start(
        &self,
        name: String,
        path: &Path,
        arguments: &[String],
        core: Option<usize>,
    ) -> anyhow::Result<Running> {
        let program = Program {
            in_front: self.binaries.in_front(&name, self.directory),
            name,
            path: path.to_owned(),
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: self.environment.clone(),
            cores: core.into_iter().collect(),
        };
        Running::start(&program, self.directory)
    }
}

/// Variables that place the agent's key and state in the folder `home`, so that those of the user stay untouched.
fn own_home(home: &Path) -> anyhow::Result<Vec<(String, OsString)>> {
    std::fs::create_dir_all(home).context("cannot create the agent's home directory")?;
    let names = [
        "HOME",
        "XDG_CONFIG_HOME",
        "XDG_STATE_HOME",
        "XDG_DATA_HOME",
        "XDG_RUNTIME_DIR",
    ];
    Ok(names.map(|name| (name.to_owned(), home.into())).into())
}

/// A command line, followed by the default values from the program's help that it does not override:
/// together the settings in effect.
fn told(binary: &Path, command: &[&str], arguments: &[String]) -> String {
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    let output = Command::new(binary)
        .args(command)
        .arg("--help")
        .stdin(Stdio::null())
        .output();
    let help = output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    let mut text = format!("{name} {}", arguments.join(" "));
    for (flag, value) in defaults(&help) {
        if !arguments
            .iter()
            .any(|argument| argument == flag || argument.starts_with(&format!("{flag}=")))
        {
            text.push_str(&format!("\n  {flag} {value} (default)"));
        }
    }
    text
}

/// Flags with a default value in a help text, as (flag, value).
fn defaults(help: &str) -> impl Iterator<Item = (&str, &str)> {
    help.lines().filter_map(|line| {
        let flag = line
            .split_whitespace()
            .find(|word| word.starts_with("--"))?;
        let (_, value) = line.split_once("[default: ")?;
        Some((flag, value.split_once(']')?.0))
    })
}

/// Addresses of a relay's listeners.
struct Listeners {
    links: SocketAddr,
    frontend: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
    quic: Option<SocketAddr>,
}

impl Listeners {
    /// Waits for the addresses, which come in any order.
    fn of(relay: &mut Running, has_quic: bool, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let all = ["agent", "tcp", "http", "admin", "quic"];
        let kinds = if has_quic { &all[..] } else { &all[..4] };
        let mut found = vec![None; kinds.len()];
        while let Some(missing) = found.iter().position(Option::is_none) {
            let what = format!("the address of its {} listener", kinds[missing]);
            let (index, address) = relay.wait_for(&what, START_PATIENCE, interrupt, |line| {
                kinds.iter().enumerate().find_map(|(index, kind)| {
                    listening_address(line, kind).map(|address| (index, address))
                })
            })?;
            found[index] = Some(address);
        }
        let [
            Some(links),
            Some(frontend),
            Some(http),
            Some(admin),
            quic @ ..,
        ] = &found[..]
        else {
            bail!("the relay did not report all of its listeners");
        };
        Ok(Self {
            links: *links,
            frontend: *frontend,
            http: *http,
            admin: *admin,
            quic: quic.first().copied().flatten(),
        })
    }
}

/// Tunnel name in the agent's `registered` line.
fn registered(line: &Value) -> Option<String> {
    if line.get("event").and_then(Value::as_str) != Some("registered") {
        return None;
    }
    let tunnel = line.get("tunnel").or_else(|| line.get("tunnel_id"))?;
    Some(tunnel.as_str()?.to_owned())
}

/// Body of the relay's `/healthz?verbose`, for the report. `None` if the relay does not answer; that
/// does not prevent the measurement.
fn health(admin: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let request =
        format!("GET /healthz?verbose HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream
        .take(HEALTH_BYTES_MAX)
        .read_to_string(&mut answer)
        .ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200")
        .then(|| body.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_read_from_the_help() {
        let help = "Options:\n      --shards <N>  Threads [default: one per core]\n  \
                    -h, --help  Print help\n      --log <F>  What [default: info]\n";
        let found: Vec<_> = defaults(help).collect();
        assert_eq!(found, [("--shards", "one per core"), ("--log", "info")]);
    }

    #[test]
    fn facts_tell_driver_and_what_is_no_default() {
        let with = |health: &str, changed: &[&str]| RelayFacts {
            path: PathKind::Relay,
            changed: changed.iter().map(|&word| word.to_owned()).collect(),
            settings: vec!["tieline-relay --json\n  --driver auto (default)".to_owned()],
            health: Some(health.to_owned()),
        };
        let facts = with(r#"{"shards":[{"driver":"uring"},{"driver":"uring"}]}"#, &[]);
        assert_eq!(facts.driver().as_deref(), Some("uring"));
        assert_eq!(facts.commands(), ["tieline-relay --json"]);
        assert!(facts.described().ends_with("with their defaults"));
        let facts = with(
            r#"{"shards":[{"driver":"uring"},{"driver":"epoll"}]}"#,
            &["--driver=epoll"],
        );
        assert_eq!(facts.driver(), None);
        assert!(facts.described().contains("with --driver=epoll and"));
    }

    #[test]
    fn the_registered_line_names_the_tunnel() {
        let url = "http://127.0.0.1:9080/w/maya-1";
        let line = json!({"event": "registered", "tunnel": "maya-1", "url": url});
        assert_eq!(registered(&line), Some("maya-1".to_owned()));
        let line = json!({"event": "registered", "tunnel_id": "maya-2"});
        assert_eq!(registered(&line), Some("maya-2".to_owned()));
        assert_eq!(
            registered(&json!({"event": "connecting", "tunnel": "maya-1"})),
            None
        );
    }
}
