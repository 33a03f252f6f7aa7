//! `tieline demo`: relay, agent and a small MCP server in one process, joined by real sockets and real frames.

mod client;
mod rpc;
mod server;

use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};
use tieline_relay::{Config as RelayConfig, Relay};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::client::Client;
use self::server::Server;
use crate::paint::{print_json, say, say_lines};
use tieline_agent::config::Config;
use tieline_agent::error::Error;
use tieline_agent::event::AgentEvent;
use tieline_agent::run_with_reconnect;

/// Time limit for the tunnel to come up; relay and agent run on this machine.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that callers' sessions get to end when the demo stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Message that the demo's `tools/call` asks the server to send back.
const ECHOED: &str = "hello through the tunnel";

/// Starts all parts and makes the calls; with `once`, ends then, otherwise serves until `shutdown`.
pub(crate) async fn run(
    once: bool,
    json: bool,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let mut demo = Demo::start().await?;
    let result = tokio::select! {
        result = show(&demo.server, &demo.relay, &mut demo.url, once, json) => result,
        ended = &mut demo.agent => Err(why_ended(ended)),
        () = shutdown => Ok(()),
    };
    demo.stop().await;
    result
}

fn why_ended(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Err(error)) => anyhow!(error).context("the agent ended"),
        Ok(Ok(())) | Err(_) => anyhow!("the agent ended"),
    }
}

/// All running parts of the demo.
struct Demo {
    server: Server,
    relay: Relay,
    agent: JoinHandle<Result<(), Error>>,
    stop_agent: oneshot::Sender<()>,
    url: watch::Receiver<Option<String>>,
    _state: StateDir,
}

impl Demo {
    async fn start() -> anyhow::Result<Self> {
        let server = Server::start()
            .await
            .context("cannot start the MCP server")?;
        let relay_config = RelayConfig {
            drain_timeout: DRAIN_TIMEOUT,
            ..RelayConfig::default()
        };
        // `Relay::start` blocks until the relay's threads run.
        let relay = tokio::task::spawn_blocking(move || Relay::start(relay_config))
            .await?
            .context("cannot start the relay")?;
        let address = only(relay.agent_addresses()).context("the relay has no agent listener")?;
        let state = StateDir::make().context("cannot make a directory for the agent's key")?;
        let (tell, url) = watch::channel(None);
        let config = Config::new(&format!("tcp://{address}"), &server.url())?
            .with_label("demo")
            .with_state_dir(&state.0)
            .with_drain_timeout(DRAIN_TIMEOUT)
            .with_event_hook(move |event| {
                if let AgentEvent::Registered { url, .. } = event {
                    tell.send_replace(Some(url.clone()));
                }
            });
        let (stop_agent, stopped) = oneshot::channel();
        let agent = tokio::spawn(run_with_reconnect(config, async {
            let _ = stopped.await;
        }));
        Ok(Self {
            server,
            relay,
            agent,
            stop_agent,
            url,
            _state: state,
        })
    }

    async fn stop(self) {
        let Self {
            server,
            relay,
            mut agent,
            stop_agent,
            ..
        } = self;
        let _ = stop_agent.send(());
        if !agent.is_finished() {
            let _ = (&mut agent).await;
        }
        let _ = tokio::task::spawn_blocking(move || relay.stop()).await;
        drop(server);
    }
}

/// Makes the calls and prints how to use the URL; without `once`, the URL stays up.
async fn show(
    server: &Server,
    relay: &Relay,
    url: &mut watch::Receiver<Option<String>>,
    once: bool,
    json: bool,
) -> anyhow::Result<()> {
    let url = timeout(REGISTER_TIMEOUT, url.wait_for(Option::is_some))
        .await
        .context("the tunnel did not come up")??
        .clone()
        .unwrap_or_default();
    let report = Report { json };
    report.path(&server.url(), relay, &url);
    check(&url, &report).await?;
    report.ready(&url, once);
    if once {
        Ok(())
    } else {
        std::future::pending().await
    }
}

/// Makes the two calls over the public URL, and checks the answers.
async fn check(url: &str, report: &Report) -> anyhow::Result<()> {
    let mut client = within(Client::connect(url)).await?;
    let listed = report.timed(&mut client, "tools/list", json!({})).await?;
    let tools: Vec<_> = listed["tools"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|tool| tool["name"].as_str())
        .collect();
    if tools != rpc::TOOLS {
        bail!("tools/list answered {listed}");
    }
    let arguments = json!({"name": "echo", "arguments": {"message": ECHOED}});
    let called = report.timed(&mut client, "tools/call", arguments).await?;
    if called["content"][0]["text"] != ECHOED || called["isError"] == true {
        bail!("tools/call answered {called}");
    }
    Ok(())
}

async fn within<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(CALL_TIMEOUT, work)
        .await
        .context("no answer in time")?
}

fn only(addresses: &[SocketAddr]) -> anyhow::Result<SocketAddr> {
    addresses.first().copied().context("no address is bound")
}

/// Prints the demo's progress and result.
struct Report {
    json: bool,
}

impl Report {
    /// Prints the path that the calls take.
    fn path(&self, server: &str, relay: &Relay, url: &str) {
        if self.json {
            return;
        }
        let driver = relay.driver().driver;
        say(&format!("MCP server   {server}"));
        if let Some(address) = relay.agent_addresses().first() {
            say(&format!(
                "agent        dials tcp://{address}, serves {server}"
            ));
        }
        say_lines(&format!("relay        {driver}, publishes {url}\n"));
    }

    /// Makes a call, and prints its result and latency.
    async fn timed(
        &self,
        client: &mut Client,
        method: &str,
        params: Value,
    ) -> anyhow::Result<Value> {
        let started = Instant::now();
        let result = within(client.call(method, params.clone()))
            .await
            .with_context(|| format!("{method} through the tunnel"))?;
        let ms = (started.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        if self.json {
            print_json(&json!({
                "event": "call", "method": method, "params": params, "ms": ms, "result": result,
            }));
        } else {
            say(&format!("{method:<12} {ms:.2} ms  {}", summary(&result)));
        }
        Ok(result)
    }

    /// Prints how to use the URL.
    fn ready(&self, url: &str, once: bool) {
        let servers = json!({"mcpServers": {"tieline-demo": {"type": "http", "url": url}}});
        if self.json {
            print_json(&json!({
                "event": "ready", "url": url, "mcpServers": servers["mcpServers"],
            }));
        } else if once {
            say_lines(&"\nboth calls went through the tunnel");
        } else {
            say_lines(&format!(
                "\nMCP URL      {url}\n\n{servers:#}\n\nCtrl-C ends the demo"
            ));
        }
    }
}

/// Shortens a result to a few words.
fn summary(result: &Value) -> String {
    if let Some(tools) = result["tools"].as_array() {
        let names: Vec<_> = tools
            .iter()
            .filter_map(|tool| tool["name"].as_str())
            .collect();
        return format!("tools: {}", names.join(", "));
    }
    result["content"][0]["text"]
        .as_str()
        .map_or_else(|| result.to_string(), |text| format!("{text:?}"))
}

/// Temporary directory for the demo's own key, removed at the end.
struct StateDir(PathBuf);

impl StateDir {
    fn make() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!(
            "tieline-demo-{}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        );
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(Path::new(&self.0));
    }
}
