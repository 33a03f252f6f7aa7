//! Environment variables: an empty variable counts as not set, as with the relay. A variable that no command reads
//! is refused, since a misspelled name would be a setting without effect.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command, CommandFactory};

use super::Cli;

/// Prefix of all variables of the agent.
const PREFIX: &str = "TIELINE_";

/// Prefix of the relay's variables: the relay may share an environment with an agent, and checks them itself.
const RELAY_PREFIX: &str = "TIELINE_RELAY_";

/// Variable of the log filter; the program reads it without a flag.
pub(crate) const LOG_VARIABLE: &str = "TIELINE_LOG";

/// Similarity from 0 to 1 above which an unknown name counts as a misspelled known name.
const ALIKE_MIN: f64 = 0.7;

/// `command` without the variables whose value is empty.
pub(crate) fn without_empty(command: Command) -> Command {
    without(command, OsStr::is_empty)
}

/// `command` without any variable.
pub(crate) fn without_variables(command: Command) -> Command {
    without(command, |_| true)
}

fn without(command: Command, is_left_out: fn(&OsStr) -> bool) -> Command {
    let read = |arg: Arg| {
        let value = arg.get_env().and_then(env::var_os);
        match value.is_some_and(|value| is_left_out(&value)) {
            true => arg.env(Resettable::Reset),
            false => arg,
        }
    };
    let command = command.mut_args(read);
    command.mut_subcommands(|command| without(command, is_left_out))
}

/// clap's message about a command line; if a wrong value came from a variable, the message names the variable.
pub(crate) fn explained(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (Some(arg), Some(value)) = (of(ContextKind::InvalidArg), of(ContextKind::InvalidValue))
    else {
        return text;
    };
    let flag = arg.split([' ', '=']).next().unwrap_or_default();
    let is_typed = |word: OsString| word.to_string_lossy().split('=').next() == Some(flag);
    match variable_of(&Cli::command(), flag) {
        Some(name) if holds(&name, value) && !env::args_os().skip(1).any(is_typed) => {
            text.replacen(&format!("'{arg}'"), &format!("the variable {name}"), 1)
        }
        _ => text,
    }
}

/// True if the variable `name` has this value, or has it in a comma-separated list.
fn holds(name: &str, value: &str) -> bool {
    env::var(name).is_ok_and(|held| held == value || held.split(',').any(|it| it == value))
}

/// Variable that is read when `flag` is not on the command line.
fn variable_of(command: &Command, flag: &str) -> Option<String> {
    let is_it = |it: &&Arg| {
        it.get_long()
            .is_some_and(|long| flag == format!("--{long}"))
    };
    let mut own = command.get_arguments().filter(is_it);
    let own = own.find_map(Arg::get_env);
    own.map(|it| it.to_string_lossy().into_owned()).or_else(|| {
        let mut commands = command.get_subcommands();
        commands.find_map(|command| variable_of(command, flag))
    })
}

/// Refuses a variable that looks like a setting of the agent but is not.
///
/// # Errors
/// One line that names the variable and the known names that are similar.
pub(crate) fn check(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<(), String> {
    let known = known();
    for (name, value) in variables {
        let name = name.to_string_lossy();
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let is_exempt = value.is_empty()
            || name.starts_with(RELAY_PREFIX)
            || is_service_link(rest, &value.to_string_lossy());
        if is_exempt || known.contains(&*name) {
            continue;
        }
        return Err(problem(&name, &known));
    }
    Ok(())
}

fn problem(name: &str, known: &BTreeSet<String>) -> String {
    // Without the common prefix, which would make all names similar.
    let own = |name: &str| name.replacen(PREFIX, "", 1);
    let alike = |it: &str| strsim::normalized_damerau_levenshtein(&own(name), &own(it));
    let mut near: Vec<_> = known
        .iter()
        .map(|it| (alike(it), it.as_str()))
        .filter(|(alike, _)| *alike >= ALIKE_MIN)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<_> = near.into_iter().take(3).map(|(_, it)| it).collect();
    let all: Vec<_> = known.iter().map(String::as_str).collect();
    let hint = match near.is_empty() {
        true => format!("tieline reads {}", all.join(", ")),
        false => format!("did you mean {}?", near.join(" or ")),
    };
    format!("no setting is called {name}, but this variable is set (correct or unset it): {hint}")
}

/// The variables that the commands read.
fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::from([LOG_VARIABLE.to_owned()]);
    collect(&Cli::command(), &mut known);
    known
}

fn collect(command: &Command, known: &mut BTreeSet<String>) {
    let variables = command.get_arguments().filter_map(|it| it.get_env());
    known.extend(variables.map(|it| it.to_string_lossy().into_owned()));
    for command in command.get_subcommands() {
        collect(command, known);
    }
}

/// Kubernetes puts `TIELINE_SERVICE_HOST`, `TIELINE_PORT_9001_TCP_ADDR` and the like into every pod
/// beside a service called `tieline` or `tieline-…` (its documentation: "Service", environment
/// variables).
fn is_service_link(rest: &str, value: &str) -> bool {
    let rest = format!("_{rest}");
    let is_of_port = |after: &str| {
        let digits = after.trim_start_matches(|c: char| c.is_ascii_digit());
        digits.len() < after.len()
            && ["_TCP", "_UDP", "_SCTP"]
                .iter()
                .any(|protocol| digits.starts_with(protocol))
    };
    rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || (rest.ends_with("_PORT") && value.contains("://"))
        || rest
            .match_indices("_PORT_")
            .any(|(at, it)| is_of_port(&rest[at + it.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> Result<(), String> {
        check([(name.into(), value.into())].into_iter())
    }

    #[test]
    fn a_variable_that_nothing_reads_is_named_with_those_that_are_like_it() {
        for (name, near) in [
            ("TIELINE_TOKEN_FLIE", "TIELINE_TOKEN_FILE"),
            ("TIELINE_RELY", "TIELINE_RELAY"),
            ("TIELINE_STATEDIR", "TIELINE_STATE_DIR"),
            ("TIELINE_XYZZY", "TIELINE_CONNECT_LISTEN"),
        ] {
            let problem = of(name, "x").unwrap_err();
            assert!(
                problem.contains(name) && problem.contains(near),
                "{problem}"
            );
        }
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        for (name, value) in [
            ("TIELINE_RELAY", "tcp://r:1"),
            ("TIELINE_RELAY_SHARDS", "2"),
            ("TIELINE_TO", "127.0.0.1:1"),
            ("TIELINE_LOG", "debug"),
            ("TIELINE_CONNECT_LISTEN", "127.0.0.1:1"),
            ("TIELINE_SERVICE_HOST", "10.0.0.1"),
            ("TIELINE_SERVICE_PORT_HTTP", "80"),
            ("TIELINE_PORT", "tcp://10.0.0.1:9001"),
            ("TIELINE_PORT_9001_TCP_PROTO", "tcp"),
            ("TIELINE_CONNECT_SERVICE_PORT", "80"),
            ("TIELINE_CONNECT_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("TIELINE_EMPTY", ""),
            ("XTIELINE_TO", "x"),
            // Of `tieline-loadgen path`, whose commands may be agents.
            ("EMULATED_NEAR", "10.77.0.1"),
        ] {
            assert_eq!(of(name, value), Ok(()), "{name}");
        }
    }
}
