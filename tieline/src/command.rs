//! Runs the commands: settings from flags, output for people and programs, exit codes.

use std::process::ExitCode;

use clap::CommandFactory;

use crate::cli::{Cli, Command, DemoArgs, environment, show_usage};
use crate::exit::{Ended, USAGE};
use crate::paint::{complain, stderr_has_colours};
use crate::settings::ServeArgs;
#[cfg(target_os = "linux")]
use crate::signals::until_signal;

/// True if this process is to be the guard of an agent's processes: the agent has started it so.
#[must_use]
pub fn is_guard() -> bool {
    std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == crate::serve::GUARD)
}

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

/// True if log lines may have colours: standard error is a terminal that shows them.
#[must_use]
pub fn logs_have_colours() -> bool {
    stderr_has_colours()
}

/// Runs a command to its end; returns the process's exit code.
pub async fn run(cli: Cli) -> ExitCode {
    crate::descriptors::raise();
    let ended = match cli.command {
        Command::Serve(args) => crate::serve::run(args).await,
        Command::Status(args) => crate::status::run(args).await,
        Command::Demo(args) => demo(args).await,
        Command::Service(args) => crate::service::run(&args, serve_args),
        Command::Diag(args) => crate::diag::run(*args).await,
        Command::Token(args) => crate::token_show::run(&args),
        Command::Completions(args) => crate::completions::completions(&args, Cli::command()),
        Command::Man(args) => crate::completions::man(&args, Cli::command()),
        Command::Init(args) => crate::init::run(&args).await,
        Command::List(args) => crate::list::run(args).await,
        Command::Connect(args) => crate::connect::run(args).await,
    };
    ExitCode::from(ended.unwrap_or_else(|Ended { code, problem }| {
        complain(&problem);
        code
    }))
}

/// Parses the flags of `tieline serve` alone, without variables; prints an error and returns `None` if they are wrong.
fn serve_args(flags: &[String]) -> Option<Box<ServeArgs>> {
    let line = ["tieline", "serve"].into_iter().map(str::to_owned);
    match Cli::read_alone(line.chain(flags.iter().cloned())) {
        Ok(cli) => match cli.command {
            Command::Serve(args) => Some(args),
            _ => None,
        },
        Err(error) => {
            show_usage(&error);
            None
        }
    }
}

#[cfg(target_os = "linux")]
async fn demo(args: DemoArgs) -> Result<u8, Ended> {
    let ended = until_signal(|shutdown| crate::demo::run(args.once, args.json, shutdown)).await;
    let failed = |error: anyhow::Error| Ended::failed(format!("the demo failed: {error:#}"));
    ended
        .unwrap_or(Ok(()))
        .map(|()| crate::exit::DONE)
        .map_err(failed)
}

#[cfg(not(target_os = "linux"))]
async fn demo(_args: DemoArgs) -> Result<u8, Ended> {
    Err(Ended::usage(
        "the demo runs a relay, which needs Linux; tieline serve works here",
    ))
}
