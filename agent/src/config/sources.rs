//! What the flags of `tieline serve` mean.

use super::{Config, TargetConfig};
use crate::cli::ServeArgs;
use crate::error::ConfigError;
use crate::target::Target;

impl Config {
    /// The settings that `args` ask for.
    pub(crate) fn of_args(args: &ServeArgs) -> Result<Self, ConfigError> {
        let mut targets = Vec::new();
        for text in &args.to {
            let (name, target) = named(text);
            let mut target = TargetConfig::new(target)?;
            if let Some(name) = name {
                target = target.with_name(name)?;
            }
            targets.push(target);
        }
        add_to_the_only_one(args, &mut targets)?;
        add_to_all(args, &mut targets);
        let mut config = Self::of(&args.relay, targets)?;
        config.links = args.links.unwrap_or(1);
        config.token_file.clone_from(&args.token_file);
        config.machine.clone_from(&args.machine);
        config.state_dir.clone_from(&args.state.state_dir);
        config.check()?;
        Ok(config)
    }
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
        if target.name.is_some() {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::error::Error;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        let line = ["tieline", "serve"].iter().chain(flags);
        let Command::Serve(args) = Cli::try_parse_from(line).unwrap().command else {
            panic!("serve was asked for")
        };
        Config::of_args(&args)
    }

    #[test]
    fn every_flag_reaches_the_settings() {
        let config = config(&[
            "--relay",
            "tcp://r:1",
            "--to",
            "http://127.0.0.1:1/mcp",
            "--name",
            "Seat-1",
            "--dcc",
            "maya",
            "--capability",
            "a",
            "--label",
            "l",
            "--expose-all",
            "--links",
            "3",
            "--machine",
            "m",
            "--state-dir",
            "/s",
        ])
        .unwrap();
        let target = &config.targets[0];
        assert_eq!(target.name.as_ref().unwrap().as_str(), "seat-1");
        assert_eq!((target.dcc.as_str(), config.links), ("maya", 3));
        assert_eq!(target.capabilities, ["a"]);
        assert_eq!(target.label.as_deref(), Some("l"));
        assert!(target.expose_all);
        assert_eq!(config.machine.as_deref(), Some("m"));
        assert_eq!(
            config.state_dir.as_deref(),
            Some(std::path::Path::new("/s"))
        );
    }

    #[test]
    fn a_name_stands_in_front_of_its_target() {
        let config = config(&[
            "--relay",
            "tcp://r:1",
            "--to",
            "maya=http://127.0.0.1:8765/mcp",
            "--to",
            "comfy=127.0.0.1:8188",
            "--to",
            "http://127.0.0.1:9/a=b",
            "--dcc",
            "maya",
            "--expose-all",
        ])
        .unwrap();
        let said: Vec<_> = config
            .targets
            .iter()
            .map(|it| {
                let name = it.name.as_ref().map(ToString::to_string);
                (
                    name.unwrap_or_default(),
                    it.target.to_string(),
                    it.expose_all,
                )
            })
            .collect();
        let of = |name: &str, target: &str, all| (name.to_owned(), target.to_owned(), all);
        assert_eq!(
            said,
            [
                of("maya", "http://127.0.0.1:8765/mcp", true),
                of("comfy", "127.0.0.1:8188", false),
                of("", "http://127.0.0.1:9/a=b", true),
            ]
        );
        assert!(config.targets.iter().all(|it| it.dcc == "maya"));
    }

    #[test]
    fn wrong_settings_are_told_before_anything_is_dialled() {
        for (flags, word) in [
            (&["--relay", "relay:1", "--to", "h:1"][..], "scheme"),
            (&["--relay", "wss://relay:1", "--to", "h:1"], "not built"),
            (
                &["--relay", "tcp://r:1", "--to", "h:1", "--name", "-"],
                "name",
            ),
            (&["--relay", "tcp://r:1", "--to", "a b=h:1"], "name"),
            (
                &["--relay", "tcp://r:1", "--to", "h:1", "--links", "0"],
                "links",
            ),
            (
                &[
                    "--relay",
                    "tcp://r:1",
                    "--to",
                    "h:1",
                    "--token-file",
                    "/nonexistent",
                ],
                "/nonexistent",
            ),
            (
                &["--relay", "tcp://r:1", "--to", "a=h:1", "--to", "A=h:2"],
                "the name a",
            ),
            (
                &["--relay", "tcp://r:1", "--to", "h:1", "--to", "h:1"],
                "NAME=TARGET",
            ),
            (
                &[
                    "--relay",
                    "tcp://r:1",
                    "--to",
                    "h:1",
                    "--to",
                    "h:2",
                    "--name",
                    "n",
                ],
                "NAME=TARGET",
            ),
            (
                &[
                    "--relay",
                    "tcp://r:1",
                    "--to",
                    "h:1",
                    "--to",
                    "h:2",
                    "--label",
                    "n",
                ],
                "--label",
            ),
            (
                &["--relay", "tcp://r:1", "--to", "a=h:1", "--name", "n"],
                "--name",
            ),
            (
                &["--relay", "tcp://r:1", "--to", "h:1", "--expose-all"],
                "http://host:port/path",
            ),
        ] {
            let error = Error::from(config(flags).unwrap_err());
            assert_eq!(error.exit_code(), 2, "{flags:?}");
            let text = error.to_string();
            assert!(
                text.contains(word) && text.lines().count() == 1,
                "{flags:?}: {text}"
            );
        }
    }
}
