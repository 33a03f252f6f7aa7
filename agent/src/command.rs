//! What the commands do: settings from flags, lines for people and programs, exit codes.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::oneshot;

use crate::cli::{Cli, Command, DemoArgs, ServeArgs, StatusArgs};
use crate::config::Config;
use crate::error::ConfigError;
use crate::event::AgentEvent;
use crate::identity::default_state_dir;
use crate::signals::Signals;
use crate::status;
use crate::supervise::{run_once, run_with_reconnect};

/// Exit codes of `tieline`; 3, refused for good, comes from the error itself.
const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// Runs a command to its end; returns the process's exit code.
pub async fn run(cli: Cli) -> ExitCode {
    ExitCode::from(match cli.command {
        Command::Serve(args) => serve(args).await,
        Command::Status(args) => show_status(args).await,
        Command::Demo(args) => demo(args).await,
        Command::Service(args) => crate::service::run(&args),
        Command::Token(args) => crate::token_show::run(&args),
        Command::Completions(args) => crate::completions::completions(&args),
        Command::Man(args) => crate::completions::man(&args),
        Command::Init(args) => crate::init::run(&args),
        Command::Connect(args) => crate::connect::run(args).await,
    })
}

async fn serve(args: ServeArgs) -> u8 {
    let (once, json) = (args.once, args.json);
    let config = match config_of(args) {
        Ok(config) => config.with_event_hook(printer(json)),
        Err(error) => {
            complain(&error);
            return USAGE;
        }
    };
    if once && config.links != 1 {
        complain(&"--once runs one link, so --links cannot be more than 1");
        return USAGE;
    }
    let ended = until_signal(|shutdown| async move {
        if once {
            run_once(config, shutdown).await
        } else {
            run_with_reconnect(config, shutdown).await
        }
    });
    match ended.await {
        None | Some(Ok(())) => DONE,
        Some(Err(error)) => {
            complain(&error);
            error.exit_code()
        }
    }
}

fn config_of(args: ServeArgs) -> Result<Config, ConfigError> {
    let mut config = Config::new(&args.relay, &args.to)?
        .with_dcc(args.dcc)
        .with_links(args.links);
    if let Some(name) = &args.name {
        config = config.with_name(name)?;
    }
    config.capabilities = args.capabilities;
    config.label = args.label;
    config.token_file = args.token_file;
    config.machine = args.machine;
    config.state_dir = args.state.state_dir;
    config.check()?;
    Ok(config)
}

/// Runs `work` with a future that is ready at the first signal; a second signal ends it at once.
pub(crate) async fn until_signal<W: Future>(
    work: impl FnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> W,
) -> Option<W::Output> {
    let mut signals = match Signals::listen() {
        Ok(signals) => Some(signals),
        Err(error) => {
            tracing::warn!(%error, "signals end the process without a farewell");
            None
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let mut stop = Some(stop);
    let mut work = pin!(work(Box::pin(async {
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    })));
    loop {
        let signal = async {
            match &mut signals {
                Some(signals) => signals.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            output = &mut work => return Some(output),
            () = signal => match stop.take() {
                Some(stop) => drop(stop.send(())),
                None => return None,
            },
        }
    }
}

/// What an agent's events look like on standard output.
fn printer(json: bool) -> impl Fn(&AgentEvent) + Send + Sync + 'static {
    let links = Mutex::new(Links::default());
    move |event| {
        if json {
            print_json(event);
            return;
        }
        let mut links = links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = links.line(event) {
            print_line(&line);
        }
    }
}

/// Which links of an agent are up: they have one URL, which works while one of them is.
#[derive(Default)]
struct Links {
    up: BTreeSet<u16>,
    /// Links that were lost while others went on.
    missing: BTreeSet<u16>,
}

impl Links {
    /// What a person is told.
    fn line(&mut self, event: &AgentEvent) -> Option<String> {
        match event {
            AgentEvent::Registered { link, .. } => {
                let first = self.up.is_empty();
                let back = self.missing.remove(link);
                self.up.insert(*link);
                match (first, back) {
                    (true, _) => Some(event.to_string()),
                    (false, true) => Some(format!("link {link} is back")),
                    (false, false) => None,
                }
            }
            AgentEvent::Disconnected { link, .. } | AgentEvent::GoingAway { link, .. } => {
                let was_up = self.up.remove(link);
                if self.up.is_empty() {
                    self.missing.clear();
                    return Some(event.to_string());
                }
                // The first attempt that fails is news, and not each of the next ones.
                let news = self.missing.insert(*link) || was_up;
                news.then(|| format!("link {link}: {event}; {} still up", self.up.len()))
            }
            AgentEvent::Stopped => Some(event.to_string()),
            // The last line on standard error says it.
            AgentEvent::Refused { .. }
            | AgentEvent::Superseded { .. }
            | AgentEvent::Failed { .. }
            | AgentEvent::Connecting { .. } => None,
        }
    }
}

async fn show_status(args: StatusArgs) -> u8 {
    let state_dir = match args.state.state_dir.map_or_else(default_state_dir, Ok) {
        Ok(dir) => dir,
        Err(error) => {
            complain(&error);
            return USAGE;
        }
    };
    match status::list(&state_dir).await {
        Ok(agents) if agents.is_empty() => {
            complain(&format!(
                "no agent runs here (looked in {})",
                state_dir.display()
            ));
            FAILED
        }
        Ok(agents) => {
            for agent in &agents {
                if args.json {
                    print_json(agent);
                } else {
                    print_line(agent);
                }
            }
            DONE
        }
        Err(error) => {
            complain(&format!("{}: {error}", state_dir.display()));
            FAILED
        }
    }
}

#[cfg(target_os = "linux")]
async fn demo(args: DemoArgs) -> u8 {
    let ended = until_signal(|shutdown| crate::demo::run(args.once, args.json, shutdown)).await;
    match ended {
        None | Some(Ok(())) => DONE,
        Some(Err(error)) => {
            complain(&format!("the demo failed: {error:#}"));
            FAILED
        }
    }
}

#[cfg(not(target_os = "linux"))]
async fn demo(_args: DemoArgs) -> u8 {
    complain(&"the demo runs a relay, which needs Linux; tieline serve works here");
    USAGE
}

/// Prints a line; whoever closed the pipe does not want it.
pub(crate) fn print_line(line: &impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints one JSON object on a line of its own.
pub(crate) fn print_json(object: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(object) {
        print_line(&text);
    }
}

fn complain(problem: &impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "tieline: {problem}");
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::error::Error;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        let line = ["tieline", "serve", "--to", "127.0.0.1:1"]
            .iter()
            .chain(flags);
        let Command::Serve(args) = Cli::try_parse_from(line).unwrap().command else {
            panic!("serve was asked for")
        };
        config_of(args)
    }

    #[test]
    fn a_link_that_is_lost_is_no_lost_tunnel_while_others_are_up() {
        let registered = |link| AgentEvent::Registered {
            link,
            tunnel: "maya-1".to_owned(),
            url: "http://r/w/maya-1".to_owned(),
            urls: Vec::new(),
            generation: 1,
        };
        let lost = |link| AgentEvent::Disconnected {
            link,
            reason: "link_lost",
            message: "cut".to_owned(),
            retry_ms: 500,
        };
        let mut links = Links::default();
        let mut said = |event| links.line(&event).unwrap_or_default();
        assert!(said(registered(0)).contains("http://r/w/maya-1"));
        assert_eq!(said(registered(1)), "");
        assert!(said(lost(1)).starts_with("link 1: disconnected: cut"));
        assert_eq!(said(lost(1)), "");
        assert_eq!(said(registered(1)), "link 1 is back");
        assert!(said(lost(0)).ends_with("; 1 still up"));
        assert!(said(lost(1)).starts_with("disconnected: cut"));
        assert!(said(registered(1)).contains("http://r/w/maya-1"));
    }

    #[test]
    fn every_flag_reaches_the_settings() {
        let config = config(&[
            "--relay",
            "tcp://r:1",
            "--name",
            "Seat-1",
            "--dcc",
            "maya",
            "--capability",
            "a",
            "--label",
            "l",
            "--links",
            "3",
            "--machine",
            "m",
            "--state-dir",
            "/s",
        ])
        .unwrap();
        assert_eq!(config.name.unwrap().as_str(), "seat-1");
        assert_eq!((config.dcc.as_str(), config.links), ("maya", 3));
        assert_eq!(config.capabilities, ["a"]);
        assert_eq!(config.label.as_deref(), Some("l"));
        assert_eq!(config.machine.as_deref(), Some("m"));
        assert_eq!(
            config.state_dir.as_deref(),
            Some(std::path::Path::new("/s"))
        );
    }

    #[test]
    fn wrong_settings_are_told_before_anything_is_dialled() {
        for flags in [
            &["--relay", "relay:1"][..],
            &["--relay", "wss://relay:1"],
            &["--relay", "tcp://r:1", "--name", "-"],
            &["--relay", "tcp://r:1", "--links", "0"],
            &["--relay", "tcp://r:1", "--token-file", "/nonexistent"],
        ] {
            let error = config(flags).unwrap_err();
            assert_eq!(Error::from(error).exit_code(), USAGE, "{flags:?}");
        }
    }
}
