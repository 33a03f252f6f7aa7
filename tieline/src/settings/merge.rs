//! Combines the flags and the settings file of `tieline serve`; flags and variables take precedence over the file.

use std::env;
use std::path::PathBuf;

use tieline_agent::{Config, ConfigError, DRAIN_TIMEOUT, Target, TargetConfig};

use super::args::ServeArgs;
use super::file::ConfigFile;
use crate::ca;

impl ConfigFile {
    /// The settings file for `args`, if there is one.
    pub(crate) fn of_args(args: &ServeArgs) -> Result<Option<Self>, ConfigError> {
        if args.no_config {
            return Ok(None);
        }
        if let Some(path) = &args.config {
            return Self::read(path).map(Some);
        }
        Self::here()
    }

    /// State directory from the settings file that `tieline serve` would read in this working directory.
    pub(crate) fn state_dir_here() -> Result<Option<PathBuf>, ConfigError> {
        Ok(Self::here()?.and_then(|file| file.state_dir))
    }

    fn here() -> Result<Option<Self>, ConfigError> {
        // A working directory that was deleted has no file.
        let found = env::current_dir()
            .ok()
            .and_then(|folder| Self::find(&folder, env::home_dir().as_deref()));
        found.map(|path| Self::read_found(&path)).transpose()
    }
}

/// Settings from `args`, completed from `file`, and checked.
pub(crate) fn checked(args: &ServeArgs, file: Option<ConfigFile>) -> Result<Config, ConfigError> {
    let config = merged(args, file, true)?;
    config.check()?;
    Ok(config)
}

/// Settings from `args`, completed from `file`, without a check; may lack a target unless `needs_target`.
pub(crate) fn merged(
    args: &ServeArgs,
    file: Option<ConfigFile>,
    needs_target: bool,
) -> Result<Config, ConfigError> {
    let mut file = file.unwrap_or_default();
    let relay = args.relay.clone().or(file.relay.take());
    let relay = relay.ok_or(ConfigError::Missing {
        what: "relay",
        flag: "--relay URL",
        variable: "TIELINE_RELAY",
        key: "relay",
    })?;
    let mut targets = targets(args, &mut file)?;
    if targets.is_empty() && needs_target {
        return Err(ConfigError::Missing {
            what: "target",
            flag: "--to TARGET",
            variable: "TIELINE_TO",
            key: "to",
        });
    }
    add_to_the_only_one(args, &mut targets)?;
    add_to_all(args, &mut targets);
    let mut config = Config::of(&relay, targets)?;
    config.dcc = args.dcc.clone().or(file.dcc).unwrap_or_default();
    config.links = args.links.or(file.links).unwrap_or(1);
    let drain_timeout = args.drain_timeout.or(file.drain_timeout);
    config.drain_timeout = drain_timeout.unwrap_or(DRAIN_TIMEOUT);
    config.token_file = args.token_file.clone().or(file.token_file);
    let ca = args.ca.clone().or(file.ca);
    config.ca = ca::used(ca, config.relay.transport().is_encrypted(), &config.relay);
    config.client_cert = args.client_cert.clone().or(file.client_cert);
    config.client_key = args.client_key.clone().or(file.client_key);
    config.proxies = args.proxy.named()?.or(file.proxies).unwrap_or_default();
    config.machine = args.machine.clone().or(file.machine);
    config.state_dir = args.state.state_dir.clone().or(file.state_dir);
    Ok(config)
}

/// Targets from the command line, else from the file.
fn targets(args: &ServeArgs, file: &mut ConfigFile) -> Result<Vec<TargetConfig>, ConfigError> {
    let given = match args.to.is_empty() && args.command.is_empty() {
        true => Vec::new(),
        false => targets_of_args(args, file)?,
    };
    let has_program = given.iter().any(|it| it.target.is_stdio());
    match args.stdio.given() {
        Some(flag) if !has_program => Err(ConfigError::NoProgram { flag }),
        _ if given.is_empty() => Ok(targets_of_file(file)),
        _ => Ok(given),
    }
}

/// Targets from the command line, which replace the file's targets and their names.
fn targets_of_args(args: &ServeArgs, file: &ConfigFile) -> Result<Vec<TargetConfig>, ConfigError> {
    let options = args.stdio.options()?;
    let written = args.to.iter().flat_map(|text| divided(text));
    let written = written.map(|text| {
        let (name, target) = named(text);
        (name, Target::parse(target))
    });
    let command = (!args.command.is_empty()).then(|| (None, Target::of_command(&args.command)));
    let mut targets = Vec::new();
    for (name, target) in written.chain(command) {
        let mut target = TargetConfig::of(target?);
        if let Some(name) = name {
            target = target.with_name(name)?;
        }
        if target.target.is_stdio() {
            target = target.with_stdio(options.clone());
        }
        target.dcc = file.dcc.clone().unwrap_or_default();
        target.capabilities = file.capabilities.clone().unwrap_or_default();
        targets.push(target);
    }
    Ok(targets)
}

/// Splits `text` at the commas between its targets. The command of a program may contain commas and reaches to the end.
fn divided(text: &str) -> Vec<&str> {
    let is_program = |at: &usize| {
        let (_, target) = named(text[*at..].trim_start());
        target.starts_with("stdio:")
    };
    let commas = text.match_indices(',').map(|(at, _)| at + 1);
    match std::iter::once(0).chain(commas).find(is_program) {
        None => divided_servers(text),
        Some(0) => vec![text],
        Some(at) => {
            let mut targets = divided_servers(&text[..at - 1]);
            targets.push(text[at..].trim());
            targets
        }
    }
}

/// Splits `text` at its commas if each piece is a target. A path may contain commas, so a piece after a target
/// with a path must begin with a scheme, or with a name and a scheme.
fn divided_servers(text: &str) -> Vec<&str> {
    let pieces: Vec<_> = text.split(',').map(str::trim).collect();
    let targets = pieces.iter().map(|it| Target::parse(named(it).1));
    let Ok(targets) = targets.collect::<Result<Vec<_>, _>>() else {
        return vec![text];
    };
    let is_plain =
        |(piece, before): (&&str, &Target)| !before.is_http() || named(piece).1.contains("://");
    match pieces.iter().skip(1).zip(&targets).all(is_plain) {
        true => pieces,
        false => vec![text],
    }
}

fn targets_of_file(file: &mut ConfigFile) -> Vec<TargetConfig> {
    let (dcc, capabilities) = (&file.dcc, &file.capabilities);
    let targets = std::mem::take(&mut file.targets).into_iter();
    let targets = targets.map(|it| {
        let mut target = it.target;
        target.dcc = it.dcc.or(dcc.clone()).unwrap_or_default();
        target.capabilities = it.capabilities.or(capabilities.clone()).unwrap_or_default();
        target
    });
    targets.collect()
}

/// Splits `NAME=TARGET`. Text in front of the first `=` that has a `:` or `/` is part of a target, not a name.
fn named(text: &str) -> (Option<&str>, &str) {
    match text.split_once('=') {
        Some((name, target)) if !name.contains([':', '/']) => (Some(name), target),
        _ => (None, text),
    }
}

/// Applies the flags that are for a single target.
fn add_to_the_only_one(args: &ServeArgs, targets: &mut [TargetConfig]) -> Result<(), ConfigError> {
    let one_only = |flag, instead| ConfigError::OneTarget { flag, instead };
    if let Some(name) = &args.name {
        let instead = "--to NAME=TARGET";
        let [target] = targets else {
            return Err(one_only("--name", instead));
        };
        if !args.to.is_empty() && target.name.is_some() {
            return Err(ConfigError::NamedTwice);
        }
        *target = target.clone().with_name(name)?;
    }
    if args.label.is_some() {
        let [target] = targets else {
            return Err(one_only("--label", "--to NAME=TARGET"));
        };
        target.label.clone_from(&args.label);
    }
    Ok(())
}

/// Applies the flags that are for all targets.
fn add_to_all(args: &ServeArgs, targets: &mut [TargetConfig]) {
    let paths = targets.iter().any(|it| it.target.has_paths());
    for target in targets {
        if let Some(dcc) = &args.dcc {
            target.dcc.clone_from(dcc);
        }
        if !args.capabilities.is_empty() {
            target.capabilities.clone_from(&args.capabilities);
        }
        // Applies to the targets that have paths; if none has, to all, and the check reports it.
        if args.expose_all && (!paths || target.target.has_paths()) {
            target.expose_all = true;
        }
    }
}
