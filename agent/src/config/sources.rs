//! What the flags and the file of `tieline serve` mean together: flags and variables come before
//! the file.

use std::env;

use super::{Config, File, TargetConfig};
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
        if targets.is_empty() {
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
        config.links = args.links.or(file.links).unwrap_or(1);
        config.token_file = args.token_file.clone().or(file.token_file);
        config.machine = args.machine.clone().or(file.machine);
        config.state_dir = args.state.state_dir.clone().or(file.state_dir);
        config.check()?;
        Ok(config)
    }
}

/// Targets on the command line are all there are: those of the file go with their names.
fn targets_of_args(args: &ServeArgs, file: &File) -> Result<Vec<TargetConfig>, ConfigError> {
    let mut targets = Vec::new();
    for text in &args.to {
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
    use crate::config::file::FILE_NAME;
    use crate::error::Error;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        with_file(flags, None)
    }

    fn with_file(flags: &[&str], file: Option<&str>) -> Result<Config, ConfigError> {
        let line = ["tieline", "serve"].iter().chain(flags);
        let Command::Serve(args) = Cli::try_parse_from(line).unwrap().command else {
            panic!("serve was asked for")
        };
        let file = file.map(|text| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(FILE_NAME);
            std::fs::write(&path, text).unwrap();
            File::read(&path).unwrap()
        });
        Config::of_args(&args, file)
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

    const FILE: &str = r#"
        relay = "tcp://file:1"
        links = 2
        dcc = "maya"
        capabilities = ["gpu"]
        [[target]]
        to = "http://127.0.0.1:1/mcp"
        name = "one"
        [[target]]
        to = "127.0.0.1:2"
        dcc = "comfy"
        capabilities = []
    "#;

    #[test]
    fn a_file_says_what_flags_do_not() {
        let config = with_file(&[], Some(FILE)).unwrap();
        assert_eq!(
            (config.relay.to_string().as_str(), config.links),
            ("tcp://file:1", 2)
        );
        let dccs: Vec<_> = config.targets.iter().map(|it| it.dcc.as_str()).collect();
        assert_eq!(dccs, ["maya", "comfy"]);
        assert_eq!(config.targets[0].capabilities, ["gpu"]);
        assert!(config.targets[1].capabilities.is_empty());
        let flags = ["--relay", "tcp://flag:1", "--links", "3", "--dcc", "nuke"];
        let config = with_file(&flags, Some(FILE)).unwrap();
        assert_eq!(
            (config.relay.to_string().as_str(), config.links),
            ("tcp://flag:1", 3)
        );
        assert!(config.targets.iter().all(|it| it.dcc == "nuke"));
    }

    #[test]
    fn targets_of_the_command_line_replace_those_of_the_file() {
        let config = with_file(&["--to", "127.0.0.1:3"], Some(FILE)).unwrap();
        let [target] = &config.targets[..] else {
            panic!("one target was given: {config:?}");
        };
        assert_eq!(
            (target.target.to_string().as_str(), &target.name),
            ("127.0.0.1:3", &None)
        );
        assert_eq!(
            (target.dcc.as_str(), &*target.capabilities),
            ("maya", &["gpu".to_owned()][..])
        );
    }

    #[test]
    fn what_must_be_there_is_asked_for_by_flag_variable_and_key() {
        for (flags, words) in [
            (
                &["--to", "h:1"][..],
                ["--relay", "TIELINE_RELAY", "`relay`"],
            ),
            (&["--relay", "tcp://r:1"], ["--to", "TIELINE_TO", "`to`"]),
        ] {
            let error = config(flags).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
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
