//! Relay or agent as a process of its own, for tests that count its memory and descriptors.
//!
//! `child relay FLAGS...` and `child agent serve FLAGS...` take the flags of the real programs, run
//! the same libraries, and are always built with the tests. `child fleet` is the agent's example of
//! that name, and `child echo` a target. They end when their standard input does, so that none
//! outlives its test.

#[path = "../../../agent/examples/fleet/fleet.rs"]
mod fleet;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tieline_relay::cli::{Invocation, Layer, parse};
use tieline_relay::{Relay, config};

fn main() -> Result<ExitCode> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.len() < 2 {
        bail!("child relay|agent|fleet|echo FLAGS...");
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
        _ => bail!("child relay|agent|fleet|echo FLAGS..."),
    }
}

fn relay(arguments: Vec<OsString>) -> Result<ExitCode> {
    let Invocation::Serve {
        config: file,
        flags,
    } = parse(arguments)?
    else {
        bail!("child relay only serves");
    };
    let options = config::load(flags, Layer::default(), file.as_deref())?;
    let relay = Relay::start(options.config)?;
    let first = |addresses: &[std::net::SocketAddr]| addresses[0].to_string();
    let bound = json!({
        "agent": first(relay.agent_addresses()),
        "tcp": first(relay.tcp_addresses()),
        "http": first(relay.http_addresses()),
        "admin": first(relay.admin_addresses()),
    });
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{bound}")?;
    stdout.flush()?;
    until_stdin_ends();
    Ok(ExitCode::SUCCESS)
}

fn agent(arguments: Vec<OsString>) -> Result<ExitCode> {
    let cli = tieline_agent::cli::Cli::read_alone(arguments)?;
    std::thread::Builder::new().spawn(|| {
        until_stdin_ends();
        std::process::exit(0);
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    Ok(runtime.block_on(tieline_agent::command::run(cli)))
}

/// Sends back what it gets, on a port of the kernel's choice.
fn echo() -> Result<ExitCode> {
    std::thread::Builder::new().spawn(|| {
        until_stdin_ends();
        std::process::exit(0);
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(async {
        let target = tieline_e2e::behaviour::Target::echo().await?;
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", json!({ "address": target.address() }))?;
        stdout.flush()?;
        std::future::pending().await
    })
}

fn until_stdin_ends() {
    // Nothing is ever sent, and a failure is an end as well.
    let _end = io::stdin().lock().read_to_end(&mut Vec::new());
}
