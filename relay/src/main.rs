//! `tieline-relay`: arguments, logging, signals and the exit code; the rest is the library's.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use tieline_relay::cli::{self, Invocation, Layer, TokenOrder};
use tieline_relay::config::{self, Options};
use tieline_relay::error::{ConfigError, EXIT_FAILED, EXIT_USAGE, ListenKind, StartError};
use tieline_relay::{Relay, ShardLost, issue_token, new_token};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

mod supervisor;

fn main() -> ExitCode {
    let outcome = match cli::parse(std::env::args_os()) {
        Ok(Invocation::Serve { config, flags }) => serve(config, flags),
        Ok(Invocation::IssueToken(order)) => issue(order),
        Ok(Invocation::NewToken(order)) => new(order),
        Err(error) => {
            // Help goes to stdout, and wrong usage to stderr with its own code.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE));
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (code, text) = judge(&error);
            let _ = writeln!(io::stderr(), "tieline-relay: {text}");
            ExitCode::from(code)
        }
    }
}

/// The exit code for an error, and its line; our own errors tell their cause themselves.
fn judge(error: &anyhow::Error) -> (u8, String) {
    match error.downcast_ref::<StartError>() {
        Some(error) => (error.exit_code(), error.to_string()),
        None if error.is::<ConfigError>() => (EXIT_USAGE, error.to_string()),
        None => (EXIT_FAILED, format!("{error:#}")),
    }
}

fn serve(config: Option<PathBuf>, flags: Layer) -> anyhow::Result<()> {
    let environment = cli::environment(std::env::vars_os())?;
    let named = |value: OsString| (!value.is_empty()).then(|| PathBuf::from(value));
    let file = config.or_else(|| std::env::var_os(cli::CONFIG_VARIABLE).and_then(named));
    let Options { config, log, json } = config::load(flags, environment, file.as_deref())?;
    start_logging(log)?;

    let (sender, happened) = mpsc::sync_channel(2);
    watch_signals(sender.clone()).context("cannot watch for signals")?;
    let shards = config.shards;
    let lost = sender.clone();
    let taken = sender.clone();
    let relay = Relay::start_succeeded(
        config,
        move |shard| {
            // One is enough to stop for.
            let _ = lost.try_send(Happened::Lost(shard));
        },
        move || drop(taken.send(Happened::Taken)),
    )?;
    for (kind, addresses) in [
        (ListenKind::Agent, relay.agent_addresses()),
        (ListenKind::Tcp, relay.tcp_addresses()),
        (ListenKind::Http, relay.http_addresses()),
        (ListenKind::Admin, relay.admin_addresses()),
    ] {
        for address in addresses {
            let address = address.to_string();
            let event = json!({ "event": "listening", "kind": kind.word(), "address": address });
            say(
                json,
                &format!("listening  {:<5}  {address}", kind.word()),
                &event,
            );
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    let driver = relay.driver().driver;
    let event = json!({ "event": "ready", "version": version, "shards": shards, "driver": driver });
    let text = format!("ready      tieline-relay {version}, shards: {shards}, driver: {driver}");
    say(json, &text, &event);
    supervisor::ready();

    let mut hands_over = false;
    let first = loop {
        match happened.recv() {
            Ok(Happened::Reload) => relay.reload(),
            Ok(Happened::Upgrade) => supervisor::start_successor(),
            other => break other,
        }
    };
    let mut lost = match first {
        Ok(Happened::Signal(signal)) => {
            let event = json!({ "event": "stopping", "signal": signal });
            let text = format!("stopping   {signal}; once more ends it at once");
            say(json, &text, &event);
            None
        }
        Ok(Happened::Lost(it)) => {
            let event = json!({ "event": "stopping", "shard": it.shard, "cause": it.cause });
            let text = format!("stopping   shard {} is lost: {}", it.shard, it.cause);
            say(json, &text, &event);
            Some(it)
        }
        Ok(Happened::Taken) => {
            hands_over = true;
            let event = json!({ "event": "handing_over" });
            let text = "handing over to the relay that has taken this one's place";
            say(json, text, &event);
            None
        }
        Ok(Happened::Stopped | Happened::Reload | Happened::Upgrade) | Err(_) => return Ok(()),
    };
    thread::Builder::new()
        .name("stop".to_owned())
        .spawn(move || {
            match hands_over {
                true => relay.hand_over(),
                false => relay.stop(),
            }
            sender.send(Happened::Stopped)
        })
        .context("cannot stop in order")?;
    // The first signal asks for what a lost shard has begun already.
    let mut is_signalled = lost.is_none() && !hands_over;
    loop {
        match happened.recv() {
            Ok(Happened::Lost(it)) => lost = lost.or(Some(it)),
            Ok(Happened::Signal(_)) if !is_signalled => is_signalled = true,
            Ok(Happened::Stopped) => break,
            // Too late to matter.
            Ok(Happened::Reload | Happened::Upgrade | Happened::Taken) => {}
            Ok(Happened::Signal(_)) | Err(_) => bail!("cut short by a second signal"),
        }
    }
    say(json, "stopped", &json!({ "event": "stopped" }));
    match lost {
        Some(ShardLost { shard, cause }) => bail!("shard {shard} was lost: {cause}"),
        None => Ok(()),
    }
}

/// What the main thread waits for.
enum Happened {
    Signal(&'static str),
    Reload,
    /// Another relay is to be started, to take this one's place.
    Upgrade,
    /// It has.
    Taken,
    Lost(ShardLost),
    Stopped,
}

/// One line for people or for programs; whether somebody still reads it is not our concern.
fn say(json: bool, text: &str, event: &Value) {
    let mut stdout = io::stdout().lock();
    let _ = if json {
        writeln!(stdout, "{event}")
    } else {
        writeln!(stdout, "{text}")
    };
    let _ = stdout.flush();
}

fn start_logging(log: Option<String>) -> Result<(), ConfigError> {
    let filter = match (log, std::env::var("RUST_LOG")) {
        (Some(filter), _) => filter,
        (None, Ok(filter)) if !filter.is_empty() => filter,
        _ => "info".to_owned(),
    };
    let directives = EnvFilter::try_new(&filter)
        .map_err(|error| ConfigError::Conflict(format!("log filter {filter:?}: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(directives)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    Ok(())
}

/// Reports each SIGINT, SIGTERM, SIGHUP and SIGUSR2 to `sender`.
fn watch_signals(sender: SyncSender<Happened>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut interrupt, mut terminate, mut hang_up, mut upgrade) = {
        // The handlers are in place when this returns, so no signal is lost from here on.
        let _entered = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::user_defined2())?,
        )
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    let happened = tokio::select! {
                        _ = interrupt.recv() => Happened::Signal("SIGINT"),
                        _ = terminate.recv() => Happened::Signal("SIGTERM"),
                        _ = hang_up.recv() => Happened::Reload,
                        _ = upgrade.recv() => Happened::Upgrade,
                    };
                    if sender.send(happened).is_err() {
                        return;
                    }
                }
            });
        })?;
    Ok(())
}

/// How long a token is to last, and what time it is; both in seconds.
fn lifetime(order: &TokenOrder) -> anyhow::Result<(u64, u64)> {
    let wrong = |text: &str| ConfigError::Conflict(text.to_owned());
    let ttl = config::parse_duration(&order.ttl)
        .filter(|ttl| ttl.as_secs() > 0)
        .ok_or_else(|| wrong("--ttl: not a time of a second or more, such as 8h"))?;
    if order.subject.is_empty() {
        return Err(wrong("--sub: empty").into());
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok((ttl.as_secs(), now.as_secs()))
}

fn issue(order: TokenOrder) -> anyhow::Result<()> {
    let (ttl_seconds, now_seconds) = lifetime(&order)?;
    let key = config::read_named_secret("--jwt-secret-file", &order.secret_file)?;
    let number = format!("{:032x}", fastrand::u128(..));
    let token = issue_token(order, &key, number, now_seconds, ttl_seconds)?;
    writeln!(io::stdout(), "{token}").context("cannot write the token")
}

fn new(order: TokenOrder) -> anyhow::Result<()> {
    let expires_at_seconds = match order.ttl.as_str() {
        "" => None,
        _ => lifetime(&order).map(|(ttl, now)| Some(now.saturating_add(ttl)))?,
    };
    let mut random = [0; 32];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| anyhow!("the system has no random numbers"))?;
    let (token, entry) = new_token(order, &random, expires_at_seconds)
        .map_err(|error| ConfigError::Conflict(error.to_string()))?;
    writeln!(io::stdout(), "{token}\n\n{entry}").context("cannot write the token")
}
