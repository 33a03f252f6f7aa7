//! Runs the commands: settings from flags, output for people and programs, exit codes.

use std::borrow::Cow;
use std::future::Future;
use std::pin::pin;
use std::process::ExitCode;

use tokio::sync::oneshot;

use crate::announce::announcing;
use crate::cli::{Cli, Command, DemoArgs, ServeArgs, StatusArgs, environment};
use crate::config::{Config, File};
use crate::error::ConfigError;
use crate::identity::default_state_dir;
use crate::paint::{
    complain, print_json, say_lines, say_lines_to_stderr, stderr_has_colours, warn,
};
use crate::plain::masked;
use crate::printer::printer;
use crate::signals::Signals;
use crate::status;
use crate::supervise::{run_once, run_standing_by, run_with_reconnect};

/// Exit codes of `tieline`; code 3, refused for good, comes from `Error::exit_code`.
const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// Parses the command line and checks the environment variables.
///
/// # Errors
/// The exit code, after help or an error line was printed.
pub fn parse() -> Result<Cli, ExitCode> {
    let cli = Cli::read(std::env::args_os()).map_err(|error| {
        show_usage(&error);
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE))
    })?;
    let reads_none = matches!(
        cli.command,
        Command::Completions(_) | Command::Man(_) | Command::Demo(_)
    );
    if !reads_none && let Err(problem) = environment::check(std::env::vars_os()) {
        complain(&problem);
        return Err(ExitCode::from(USAGE));
    }
    Ok(cli)
}

/// Shows help, or what is wrong with a command line.
pub(crate) fn show_usage(error: &clap::Error) {
    let text = environment::explained(error);
    match masked(&text) {
        // A misplaced token must not stay in the terminal's scroll-back.
        Cow::Owned(text) if error.use_stderr() => say_lines_to_stderr(&text.trim_end()),
        // Help prints the values of environment variables.
        Cow::Owned(text) => say_lines(&text.trim_end()),
        Cow::Borrowed(text) if text != error.render().to_string() => {
            say_lines_to_stderr(&text.trim_end());
        }
        Cow::Borrowed(_) => drop(error.print()),
    }
}

/// True if log lines may have colours: standard error is a terminal that shows them.
#[must_use]
pub fn logs_have_colours() -> bool {
    stderr_has_colours()
}

/// Runs a command to its end; returns the process's exit code.
pub async fn run(cli: Cli) -> ExitCode {
    crate::descriptors::raise();
    ExitCode::from(match cli.command {
        Command::Serve(args) => serve(args).await,
        Command::Status(args) => show_status(args).await,
        Command::Demo(args) => demo(args).await,
        Command::Service(args) => crate::service::run(&args),
        Command::Diag(args) => crate::diag::run(*args).await,
        Command::Token(args) => crate::token_show::run(&args),
        Command::Completions(args) => crate::completions::completions(&args),
        Command::Man(args) => crate::completions::man(&args),
        Command::Init(args) => crate::init::run(&args).await,
        Command::List(args) => crate::list::run(args).await,
        Command::Connect(args) => crate::connect::run(args).await,
    })
}

async fn serve(args: Box<ServeArgs>) -> u8 {
    let (once, stand_by, json) = (args.once, args.stand_by, args.json);
    let config = match config_of(&args) {
        Ok(config) => {
            if config.token_file.is_some() && config.relay.exposes_tokens() {
                warn(&format!(
                    "your token goes to {} in clear text, where the network can read it: use a network \
                     that you trust, or a VPN",
                    config.relay.name()
                ));
            }
            let printer = printer(json, &config);
            if args.no_look {
                config.with_event_hook(printer)
            } else {
                let announcing = announcing(&config, printer);
                config.with_event_hook(announcing)
            }
        }
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
        } else if stand_by {
            run_standing_by(config, shutdown).await
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

/// Reads the settings; prints the path of the settings file, if there is one.
fn config_of(args: &ServeArgs) -> Result<Config, ConfigError> {
    let file = File::of_args(args)?;
    if let Some(file) = &file {
        let path = file.path.display();
        if args.json {
            print_json(&serde_json::json!({"event": "config", "file": path.to_string()}));
        } else {
            complain(&format!("settings from {path}"));
        }
    }
    Config::of_args(args, file)
}

/// Runs `work` with a future that is ready at the first signal; a second signal drops `work`.
pub(crate) async fn until_signal<W: Future>(
    work: impl FnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> W,
) -> Option<W::Output> {
    let mut signals = match Signals::listen() {
        Ok(signals) => Some(signals),
        Err(error) => {
            tracing::warn!(%error, "cannot listen for signals, so a signal ends the process without a drain");
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

async fn show_status(args: StatusArgs) -> u8 {
    let state_dir = args.state.state_dir.map_or_else(
        || File::state_dir_here().and_then(|dir| dir.map_or_else(default_state_dir, Ok)),
        Ok,
    );
    let state_dir = match state_dir {
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
                    say_lines(agent);
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
