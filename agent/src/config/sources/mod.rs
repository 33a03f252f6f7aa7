//! What the flags and the file of `tieline serve` mean together: flags and variables come before
//! the file.

#[cfg(test)]
mod tests;

use std::env;
use std::path::PathBuf;

use super::{Config, DRAIN_TIMEOUT, File, TargetConfig};
use crate::cli::ServeArgs;
use crate::error::ConfigError;
use crate::target::Target;

impl File {
    /// The file that counts for `args`, if there is one.
    pub(crate) fn of_args(args: &ServeArgs) -> Result<Option<Self>, ConfigError> {
        if args.no_config {
            return Ok(None);
        }
        if let Some(path) = &args.config {
            return Self::read(path).map(Some);
        }
        Self::here()
    }

    /// The state directory that `tieline serve` would use here, if a file sets it.
    pub(crate) fn state_dir_here() -> Result<Option<PathBuf>, ConfigError> {
        Ok(Self::here()?.and_then(|file| file.state_dir))
    }

    fn here() -> Result<Option<Self>, ConfigError> {
        // A folder that is gone has no file.
        let found = env::current_dir()
            .ok()
            .and_then(|folder| Self::find(&folder, env::home_dir().as_deref()));
        found.map(|path| Self::read_found(&path)).transpose()
    }
}

impl Config {
    /// The settings that `args` ask for, and where they say nothing `file`.
    pub(crate) fn of_args(args: &ServeArgs, file: Option<File>) -> Result<Self, ConfigError> {
        let config = Self::gathered(args, file, true)?;
        config.check()?;
        Ok(config)
    }

    /// The same, but not checked, and without a target if none is needed and none is there.
    pub(crate) fn gathered(
        args: &ServeArgs,
        file: Option<File>,
        needs_target: bool,
    ) -> Result<Self, ConfigError> {
        let mut file = file.unwrap_or_default();
        let relay = args.relay.clone().or(file.relay.take());
        let relay = relay.ok_or(ConfigError::Missing {
            what: "relay",
            flag: "--relay URL",
            variable: "TIELINE_RELAY",
            key: "relay",
        })?;
        let mut targets = if args.to.is_empty() {
            targets_of_file(&mut file)
        } else {
            targets_of_args(args, &file)?
        };
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
        let mut config = Self::of(&relay, targets)?;
        config.dcc = args.dcc.clone().or(file.dcc).unwrap_or_default();
        config.links = args.links.or(file.links).unwrap_or(1);
        let drain_timeout = args.drain_timeout.or(file.drain_timeout);
        config.drain_timeout = drain_timeout.unwrap_or(DRAIN_TIMEOUT);
        config.token_file = args.token_file.clone().or(file.token_file);
        config.machine = args.machine.clone().or(file.machine);
        config.state_dir = args.state.state_dir.clone().or(file.state_dir);
        Ok(config)
    }
}

/// Targets on the command line are all there are: those of the file go with their names.
fn targets_of_args(args: &ServeArgs, file: &File) -> Result<Vec<TargetConfig>, ConfigError> {
    let mut targets = Vec::new();
    for text in args.to.iter().flat_map(|text| divided(text)) {
        let (name, target) = named(text);
        let mut target = TargetConfig::new(target)?;
        if let Some(name) = name {
            target = target.with_name(name)?;
        }
        target.dcc = file.dcc.clone().unwrap_or_default();
        target.capabilities = file.capabilities.clone().unwrap_or_default();
        targets.push(target);
    }
    Ok(targets)
}

/// The targets that commas divide, if each piece is one. A path may have commas of its own, so behind one the
/// next piece must begin with a scheme, or with a name and a scheme.
fn divided(text: &str) -> Vec<&str> {
    let pieces: Vec<_> = text.split(',').map(str::trim).collect();
    let targets = pieces.iter().map(|it| Target::parse(named(it).1));
    let Ok(targets) = targets.collect::<Result<Vec<_>, _>>() else {
        return vec![text];
    };
    let is_plain = |(piece, before): (&&str, &Target)| {
        matches!(before, Target::Tcp(_)) || named(piece).1.contains("://")
    };
    match pieces.iter().skip(1).zip(&targets).all(is_plain) {
        true => pieces,
        false => vec![text],
    }
}

fn targets_of_file(file: &mut File) -> Vec<TargetConfig> {
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

/// Splits `NAME=TARGET`. What stands in front of the first `=` is no name if it has what only a
/// target has.
fn named(text: &str) -> (Option<&str>, &str) {
    match text.split_once('=') {
        Some((name, target)) if !name.contains([':', '/']) => (Some(name), target),
        _ => (None, text),
    }
}

/// Flags that say something of one target.
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

/// Flags that count for every target.
fn add_to_all(args: &ServeArgs, targets: &mut [TargetConfig]) {
    let paths = targets
        .iter()
        .any(|it| matches!(it.target, Target::Http(_)));
    for target in targets {
        if let Some(dcc) = &args.dcc {
            target.dcc.clone_from(dcc);
        }
        if !args.capabilities.is_empty() {
            target.capabilities.clone_from(&args.capabilities);
        }
        // Of several targets those that have paths are meant; that none has is told later.
        if args.expose_all && (!paths || matches!(target.target, Target::Http(_))) {
            target.expose_all = true;
        }
    }
}
