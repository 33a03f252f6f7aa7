//! The program `tieline-relay`: arguments, logging, signals and exit codes; the library does the rest.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use tieline_relay::cli::{self, Invocation, TokenOrder};
use tieline_relay::config::{self, Layer, Options};
use tieline_relay::error::{ConfigError, EXIT_FAILED, EXIT_USAGE, ListenKind, StartError};
use tieline_relay::{Config, Relay, ShardLost, issue_token, new_token};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tracing::{info, warn};

mod supervisor;

/// How long a stopping relay waits for the successor that it has started.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(5);

/// Signals closer together than this count as sent at the same time.
const SIGNALS_APART_MIN: Duration = Duration::from_millis(10);

/// Error after a second signal.
const CUT_SHORT: &str = "cut short by a second signal";

fn main() -> ExitCode {
    let outcome = match cli::parse(std::env::args_os()) {
        Ok(Invocation::Serve { config, flags }) => serve(config, flags),
        Ok(Invocation::IssueToken(order)) => issue(order),
        Ok(Invocation::NewToken(order)) => new(order),
        Err(error) => {
            // Help goes to stdout; wrong usage goes to stderr, with its own exit code.
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

/// Exit code and message of an error; the relay's own errors contain their cause already.
fn judge(error: &anyhow::Error) -> (u8, String) {
    match error.downcast_ref::<StartError>() {
        Some(error) => (error.exit_code(), error.to_string()),
        None if error.is::<ConfigError>() => (EXIT_USAGE, error.to_string()),
        None => (EXIT_FAILED, format!("{error:#}")),
    }
}

fn serve(config: Option<PathBuf>, flags: Layer) -> anyhow::Result<()> {
    let environment = config::environment(std::env::vars_os())?;
    let named = |value: OsString| (!value.is_empty()).then(|| PathBuf::from(value));
    let file = config.or_else(|| std::env::var_os(config::CONFIG_VARIABLE).and_then(named));
    let Options { config, log, json } = config::load(flags, environment, file.as_deref())?;
    cli::start_logging(log)?;

    let (sender, happened) = mpsc::sync_channel(2);
    watch_signals(sender.clone()).context("cannot watch for signals")?;
    let shards = config.shards;
    let mut desk = Desk {
        happened,
        early: VecDeque::new(),
        successor: None,
    };
    let Some(relay) = start(config, &sender, &mut desk, json)? else {
        say(json, "stopped", &json!({ "event": "stopped" }));
        return Ok(());
    };
    let relay = *relay;
    say_ready(json, &relay, shards);
    supervisor::ready();

    let (mut lost, hands_over, mut is_signalled) = match run(&relay, &sender, &mut desk)? {
        End::Signal(signal) => {
            say_stopping(json, signal);
            // A successor that this relay has started may still take over first.
            (None, desk.wait_for_successor()?, true)
        }
        End::Lost(it) => {
            let event = json!({ "event": "stopping", "shard": it.shard, "cause": it.cause });
            let text = format!("stopping   shard {} is lost: {}", it.shard, it.cause);
            say(json, &text, &event);
            (Some(it), false, false)
        }
        End::Taken => (None, true, false),
    };
    if hands_over {
        let event = json!({ "event": "handing_over" });
        let text = "handing over to the relay that has taken over";
        say(json, text, &event);
    }
    thread::Builder::new()
        .name("stop".to_owned())
        .spawn(move || {
            match hands_over {
                true => relay.hand_over(),
                false => relay.stop(),
            }
            sender.send(Happened::Stopped)
        })
        .context("cannot start the thread that stops the relay")?;
    // After a lost shard or a take-over, the first signal only asks for the stop that has begun already.
    loop {
        match desk.next()? {
            Happened::Lost(it) => lost = lost.or(Some(it)),
            Happened::Signal(_) if !is_signalled => is_signalled = true,
            Happened::Stopped => break,
            Happened::Signal(_) => bail!(CUT_SHORT),
            // Other events no longer matter.
            _ => {}
        }
    }
    say(json, "stopped", &json!({ "event": "stopped" }));
    match lost {
        Some(ShardLost { shard, cause }) => bail!("shard {shard} was lost: {cause}"),
        None => Ok(()),
    }
}

/// Event for the main thread.
enum Happened {
    Started(Box<Result<Relay, StartError>>),
    Signal(&'static str),
    Reload,
    /// A request to start a successor that takes over.
    Upgrade,
    /// The successor ended, with this exit status.
    SuccessorEnded(String),
    /// Another relay has taken over.
    Taken,
    Lost(ShardLost),
    Stopped,
}

/// Why a serving relay stops.
enum End {
    Signal(&'static str),
    Taken,
    Lost(ShardLost),
}

/// Queue of events for the main thread.
struct Desk {
    happened: Receiver<Happened>,
    /// Events that arrived while the relay started, to be handled afterwards.
    early: VecDeque<Happened>,
    /// Process id of the successor, until it has taken over or ended.
    successor: Option<u32>,
}

impl Desk {
    fn next(&mut self) -> anyhow::Result<Happened> {
        match self.early.pop_front() {
            Some(happened) => Ok(happened),
            None => self
                .happened
                .recv()
                .context("a thread of the relay has ended"),
        }
    }

    /// Waits for the successor, if one was started; true if it has taken over.
    fn wait_for_successor(&mut self) -> anyhow::Result<bool> {
        let deadline = Instant::now() + SUCCESSOR_TIMEOUT;
        while self.successor.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.happened.recv_timeout(left) {
                Ok(Happened::Taken) => return Ok(true),
                Ok(Happened::Signal(_)) => bail!(CUT_SHORT),
                Ok(Happened::SuccessorEnded(status)) => self.successor_ended(&status),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Ok(false)
    }

    fn successor_ended(&mut self, status: &str) {
        if self.successor.take().is_some() {
            warn!(
                status,
                "the relay that was to take over ended before it could"
            );
        }
    }
}

/// Starts the relay on a separate thread, so that a signal can end the start; `None` if one did.
fn start(
    config: Config,
    sender: &SyncSender<Happened>,
    desk: &mut Desk,
    json: bool,
) -> anyhow::Result<Option<Box<Relay>>> {
    let (lost, taken, started) = (sender.clone(), sender.clone(), sender.clone());
    // The first thread to set it decides whether the relay serves.
    let is_decided = Arc::new(AtomicBool::new(false));
    let decided = Arc::clone(&is_decided);
    let run = move || {
        Relay::start_succeeded(
            config,
            move |shard| {
                // One lost shard is enough to stop; further ones are dropped.
                let _ = lost.try_send(Happened::Lost(shard));
            },
            move || drop(taken.send(Happened::Taken)),
            move || !decided.swap(true, Ordering::AcqRel),
        )
    };
    let run = move || {
        let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
            // The panic's message is on stderr already.
            let source = io::Error::other("a defect in the relay, see the panic above");
            let what = "the relay".to_owned();
            Err(StartError::Thread { what, source })
        });
        started.send(Happened::Started(Box::new(outcome)))
    };
    let starting = thread::Builder::new().name("start".to_owned());
    starting.spawn(run).context("cannot start the relay")?;
    loop {
        match desk.happened.recv() {
            Ok(Happened::Started(outcome)) => return Ok(Some(Box::new((*outcome)?))),
            Ok(Happened::Signal(signal)) if !is_decided.swap(true, Ordering::AcqRel) => {
                // Threads that run already end with the process.
                say_stopping(json, signal);
                return Ok(None);
            }
            Ok(happened) => desk.early.push_back(happened),
            Err(_) => bail!("a thread of the relay has ended"),
        }
    }
}

/// Handles events while the relay serves, until there is a reason to stop.
fn run(relay: &Relay, sender: &SyncSender<Happened>, desk: &mut Desk) -> anyhow::Result<End> {
    loop {
        match desk.next()? {
            Happened::Reload => relay.reload(),
            Happened::Upgrade => match desk.successor {
                Some(process) => info!(process, "another relay is about to take over already"),
                None => {
                    let sender = sender.clone();
                    let ended = move |status| drop(sender.send(Happened::SuccessorEnded(status)));
                    desk.successor = supervisor::start_successor(ended);
                }
            },
            Happened::SuccessorEnded(status) => desk.successor_ended(&status),
            Happened::Signal(signal) => return Ok(End::Signal(signal)),
            Happened::Taken => return Ok(End::Taken),
            Happened::Lost(it) => return Ok(End::Lost(it)),
            Happened::Started(_) | Happened::Stopped => {}
        }
    }
}

/// Prints the addresses that the relay listens on, and that it serves.
fn say_ready(json: bool, relay: &Relay, shards: usize) {
    for kind in ListenKind::ALL {
        for listener in relay.listening(kind) {
            let (kind, address) = (kind.word(), listener.address.to_string());
            let mut event = json!({ "event": "listening", "kind": kind, "address": address });
            if listener.is_tls {
                event["tls"] = true.into();
            }
            say(json, &format!("listening  {kind:<5}  {listener}"), &event);
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    let driver = relay.driver().driver;
    let event = json!({ "event": "ready", "version": version, "shards": shards, "driver": driver });
    let text = format!("ready      tieline-relay {version}, shards: {shards}, driver: {driver}");
    say(json, &text, &event);
}

fn say_stopping(json: bool, signal: &str) {
    let event = json!({ "event": "stopping", "signal": signal });
    let text = format!("stopping   {signal}; a second signal ends the relay at once");
    say(json, &text, &event);
}

/// Prints one line, for people or for programs. A closed stdout is ignored.
fn say(json: bool, text: &str, event: &Value) {
    let mut stdout = io::stdout().lock();
    let _ = if json {
        writeln!(stdout, "{event}")
    } else {
        writeln!(stdout, "{text}")
    };
    let _ = stdout.flush();
}

/// Reports each SIGINT, SIGTERM, SIGHUP and SIGUSR2 to `sender`.
fn watch_signals(sender: SyncSender<Happened>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupt, mut terminate, mut hang_up, mut upgrade) = {
        // The handlers are installed when this block returns, so no later signal is lost.
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
                        biased;
                        _ = upgrade.recv() => Happened::Upgrade,
                        _ = hang_up.recv() => Happened::Reload,
                        _ = interrupt.recv() => Happened::Signal("SIGINT"),
                        _ = terminate.recv() => Happened::Signal("SIGTERM"),
                    };
                    // The kernel does not keep the order of signals: a SIGUSR2 sent just before is handled first.
                    let is_to_end = matches!(happened, Happened::Signal(_));
                    let is_upgrade =
                        is_to_end && timeout(SIGNALS_APART_MIN, upgrade.recv()).await.is_ok();
                    let before = is_upgrade.then_some(Happened::Upgrade);
                    for happened in before.into_iter().chain([happened]) {
                        if sender.send(happened).is_err() {
                            return;
                        }
                    }
                }
            });
        })?;
    Ok(())
}

/// Lifetime of a token, and the current time; both in seconds.
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
