//! Relay or agent as a separate process, for tests that measure its memory and descriptors.
//!
//! `child relay FLAGS...` and `child agent serve FLAGS...` take the flags of the real programs, run
//! the same libraries, and are always built with the tests. `child fleet` is the agent's example
//! `fleet`, and `child echo` is a target. Each ends when its standard input ends, so that no process
//! outlives its test.

#[path = "../../../agent/examples/fleet/fleet.rs"]
mod fleet;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tieline_relay::Relay;
use tieline_relay::cli::{Invocation, parse};
use tieline_relay::config::{self, Layer};
use tokio::runtime::Runtime;

fn main() -> Result<ExitCode> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.len() < 2 {
        bail!("usage: child relay|agent|fleet|echo FLAGS...");
    }
    let role = arguments.remove(1);
    match role.to_str() {
        Some("relay") => relay(arguments),
        Some("agent") => agent(arguments),
        Some("fleet") => match fleet::run(arguments) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => bail!("fleet: {error}"),
        },
        Some("echo") => echo(),
        _ => bail!("usage: child relay|agent|fleet|echo FLAGS..."),
    }
}

fn relay(arguments: Vec<OsString>) -> Result<ExitCode> {
    let Invocation::Serve {
        config: file,
        flags,
    } = parse(arguments)?
    else {
        bail!("child relay can only run a relay, not issue tokens");
    };
    let options = config::load(flags, Layer::default(), file.as_deref())?;
    let relay = Relay::start(options.config)?;
    let first = |addresses: &[std::net::SocketAddr]| addresses[0].to_string();
    let bound = json!({
        "agent": first(relay.agent_addresses()),
        "tcp": first(relay.tcp_addresses()),
        "http": first(relay.http_addresses()),
        "admin": first(relay.admin_addresses()),
        "quic": relay.quic_addresses().first().map(ToString::to_string),
    });
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{bound}")?;
    stdout.flush()?;
    until_stdin_ends();
    Ok(ExitCode::SUCCESS)
}

fn agent(arguments: Vec<OsString>) -> Result<ExitCode> {
    let cli = tieline::cli::Cli::read_alone(arguments)?;
    Ok(runtime()?.block_on(tieline::command::run(cli)))
}

/// Runs a target that echoes all bytes, and prints its address.
fn echo() -> Result<ExitCode> {
    runtime()?.block_on(async {
        let target = tieline_e2e::behaviour::Target::echo().await?;
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", json!({ "address": target.address() }))?;
        stdout.flush()?;
        std::future::pending().await
    })
}

/// The runtime of a process that ends with its standard input.
fn runtime() -> Result<Runtime> {
    std::thread::Builder::new().spawn(|| {
        until_stdin_ends();
        std::process::exit(0);
    })?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot build the tokio runtime")
}

fn until_stdin_ends() {
    // The parent never writes to this pipe, and a read error means the same as its end.
    let _end = io::stdin().lock().read_to_end(&mut Vec::new());
}
