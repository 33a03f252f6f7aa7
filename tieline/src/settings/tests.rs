use std::time::Duration;

use tieline_agent::{Config, ConfigError, Error, StdioOptions, StdioShare, TargetConfig};

use super::file::FILE_NAME;
use super::{ConfigFile, checked};
use crate::cli::{Cli, Command};

fn config(flags: &[&str]) -> Result<Config, ConfigError> {
    with_file(flags, None)
}

fn with_file(flags: &[&str], file: Option<&str>) -> Result<Config, ConfigError> {
    let line = ["tieline", "serve"].iter().chain(flags);
    let Command::Serve(args) = Cli::read_alone(line).unwrap().command else {
        panic!("serve was asked for")
    };
    let file = file.map(|text| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, text).unwrap();
        ConfigFile::read(&path).unwrap()
    });
    checked(&args, file)
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
fn certificates_to_trust_come_from_the_flag_or_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["relay".to_owned()]).unwrap();
    let path = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, own.cert.pem()).unwrap();
        path.display().to_string()
    };
    let (flag, key) = (path("flag.pem"), path("key.pem"));
    let file = format!("relay = 'tls://r'\nto = 'h:1'\nca = '{key}'");
    let trusted = |flags: &[&str]| {
        let config = with_file(flags, Some(&file)).unwrap();
        config.ca.unwrap().display().to_string()
    };
    assert_eq!(trusted(&[]), key);
    assert_eq!(trusted(&["--ca", &flag]), flag);
    // Without TLS the certificates would have no effect.
    let error = config(&["--relay", "tcp://r:1", "--to", "h:1", "--ca", &flag]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("--ca") && text.contains("dial tls://"),
        "{text}"
    );
}

#[test]
fn a_client_certificate_and_its_key_come_from_the_flags_or_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["agent".to_owned()]).unwrap();
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, mode).unwrap();
        }
        path.display().to_string()
    };
    let pair = |name: &str| {
        let cert = write(&format!("{name}.pem"), own.cert.pem());
        (
            cert,
            write(&format!("{name}.key"), own.signing_key.serialize_pem()),
        )
    };
    let (in_file, given) = (pair("a"), pair("b"));
    let (cert, key) = &in_file;
    let file = format!(
        "relay = 'tls://r'\nto = 'h:1'\nca = '{cert}'\nclient_cert = '{cert}'\nclient_key = '{key}'"
    );
    let named = |flags: &[&str]| {
        let config = with_file(flags, Some(&file)).unwrap();
        let shown = |path: Option<std::path::PathBuf>| path.unwrap().display().to_string();
        (shown(config.client_cert), shown(config.client_key))
    };
    assert_eq!(named(&[]), in_file);
    let flags = ["--client-cert", &given.0, "--client-key", &given.1];
    assert_eq!(named(&flags), given);
    for (flag, missing) in [
        ("--client-cert", "--client-key"),
        ("--client-key", "--client-cert"),
    ] {
        let flags = ["--relay", "tls://r", "--to", "h:1", flag, &given.0];
        let error = config(&flags).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{flag} does nothing alone")),
            "{error}"
        );
        assert!(error.contains(missing), "{error}");
    }
    let flags = [
        "--relay",
        "tcp://r:1",
        "--to",
        "h:1",
        "--client-cert",
        &given.0,
    ];
    let without_tls = [&flags[..], &["--client-key", &given.1]].concat();
    let error = config(&without_tls).unwrap_err().to_string();
    assert!(
        error.contains("TIELINE_CLIENT_CERT") && error.contains("dial tls://"),
        "{error}"
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
    let targets: Vec<_> = config
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
        targets,
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
fn a_name_given_as_a_flag_beats_the_files() {
    let file = "relay = 'tcp://r:1'\nto = 'h:1'\nname = 'file'";
    let config = with_file(&["--name", "flag"], Some(file)).unwrap();
    assert_eq!(config.targets[0].name.as_ref().unwrap().as_str(), "flag");
    assert!(with_file(&["--name", "flag"], Some(FILE)).is_err());
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
        (&["--relay", "quic://", "--to", "h:1"], "host"),
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
            &["--relay", "tls://r", "--to", "h:1", "--ca", "/nonexistent"],
            "the file of --ca, /nonexistent",
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

#[test]
fn commas_divide_targets_where_no_path_can_have_them() {
    let targets = |text: &str| -> Vec<String> {
        let config = config(&["--relay", "tcp://r:1", "--to", text]).unwrap();
        let named = |it: &TargetConfig| match &it.name {
            Some(name) => format!("{name}={}", it.target),
            None => it.target.to_string(),
        };
        config.targets.iter().map(named).collect()
    };
    assert_eq!(targets("a=1,b=2"), ["a=127.0.0.1:1", "b=127.0.0.1:2"]);
    assert_eq!(targets("7001, h:7002"), ["127.0.0.1:7001", "h:7002"]);
    let both = ["a=http://h:1/mcp", "b=http://h:2"];
    assert_eq!(targets(&both.join(",")), both);
    for one in ["http://h:1/a,b", "http://h:1/a,7001", "http://h:1/a,b=7001"] {
        assert_eq!(targets(one), [one]);
    }
}

#[test]
fn the_proxy_comes_from_the_flag_or_the_file() {
    let file = "relay = 'https://r'\nto = 'h:1'\nproxy = 'http://ada:secret@key:1'";
    let proxy = |flags: &[&str], file| {
        let config = with_file(flags, Some(file)).unwrap();
        format!("{:?}", config.proxies)
    };
    assert_eq!(proxy(&[], file), "Always(Proxy(http://key:1))");
    assert_eq!(proxy(&["--proxy", "none"], file), "Never");
    assert_eq!(proxy(&[], "relay = 'https://r'\nto = 'h:1'"), "System");
    let flags = [
        "--relay",
        "tcp://r:1",
        "--to",
        "h:1",
        "--proxy",
        "https://ada:secret@p",
    ];
    let error = config(&flags).unwrap_err().to_string();
    assert!(
        error.contains("--proxy none") && !error.contains("secret"),
        "{error}"
    );
}

/// Flags that every test of programs needs, and more.
fn with_relay(flags: &[&str]) -> Result<Config, ConfigError> {
    config(&[&["--relay", "tcp://r:1"][..], flags].concat())
}

#[test]
fn a_program_comes_from_to_or_stands_behind_two_dashes() {
    let targets = |flags: &[&str]| -> Vec<String> {
        let config = with_relay(flags).unwrap();
        let targets = config.targets.iter();
        targets.map(|it| it.target.to_string()).collect()
    };
    let npx = ["stdio:npx -y server"];
    assert_eq!(targets(&["--to", npx[0]]), npx);
    assert_eq!(targets(&["--", "npx", "-y", "server"]), npx);
    let words = ["--", "npx", "a b", "--to", "$HOME"];
    assert_eq!(targets(&words), ["stdio:npx 'a b' --to '$HOME'"]);
    let both = ["--to", "127.0.0.1:1", "--", "server"];
    assert_eq!(targets(&both), ["127.0.0.1:1", "stdio:server"]);
    // The file's targets are replaced.
    let behind = with_file(&["--", "server"], Some(FILE)).unwrap();
    assert_eq!(behind.targets.len(), 1);
    assert_eq!(behind.targets[0].dcc, "maya");
    let named = with_relay(&["--name", "Files", "--", "server"]).unwrap();
    assert_eq!(named.targets[0].name.as_ref().unwrap().as_str(), "files");
    let twice = with_relay(&["--to", "stdio:server", "--", "server"]);
    let error = twice.unwrap_err().to_string();
    assert!(error.contains("--to NAME=TARGET"), "{error}");
}

#[test]
fn a_command_keeps_its_commas_and_ends_a_list() {
    let targets = |text: &str| -> Vec<String> {
        let config = with_relay(&["--to", text]).unwrap();
        let targets = config.targets.iter();
        targets.map(|it| it.target.to_string()).collect()
    };
    // A comma is quoted where a command is shown.
    for (one, shown) in [
        ("stdio:server --ports 1,2", "stdio:server --ports '1,2'"),
        (
            "stdio:fetch http://a,http://b",
            "stdio:fetch 'http://a,http://b'",
        ),
    ] {
        assert_eq!(targets(one), [shown]);
    }
    let list = "7001,a=http://h:1/x, b=stdio:server 1,2 c=3";
    let all = ["127.0.0.1:7001", "http://h:1/x", "stdio:server '1,2' 'c=3'"];
    assert_eq!(targets(list), all);
    let config = with_relay(&["--to", list]).unwrap();
    assert_eq!(config.targets[2].name.as_ref().unwrap().as_str(), "b");
}

#[test]
fn the_flags_of_programs_reach_the_programs_alone() {
    let flags = [
        "--to",
        "127.0.0.1:1",
        "--to",
        "stdio:server",
        "--env",
        "KEY=hunter2",
        "--env",
        "TIELINE_TEST_ABSENT",
        "--cwd",
        "/srv",
        "--stdio-share",
        "caller",
        "--stdio-max",
        "3",
        "--stdio-idle",
        "5m",
    ];
    let config = with_relay(&flags).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let stdio = &config.targets[1].stdio;
    assert_eq!(stdio.share, Some(StdioShare::Caller));
    assert_eq!(
        (stdio.children_max, stdio.idle),
        (3, Duration::from_secs(300))
    );
    let folder = std::path::Path::new("/srv");
    assert_eq!(stdio.directory.as_deref(), Some(folder));
    assert_eq!(stdio.unset_variables(), ["TIELINE_TEST_ABSENT"]);
    assert_eq!(config.targets[0].stdio, StdioOptions::default());
    // For the target that has paths.
    let paths = ["--to", "http://h:1", "--to", "stdio:server", "--expose-all"];
    let config = with_relay(&paths).unwrap();
    assert!(config.targets[0].expose_all && !config.targets[1].expose_all);
}

#[test]
fn what_a_program_cannot_have_is_told() {
    for (flags, word) in [
        (&["--to", "h:1", "--env", "A=secret"][..], "--env is for"),
        (&["--to", "h:1", "--stdio-max", "2"], "--stdio-max is for"),
        (&["--stdio-max", "0", "--", "server"], "1 to 1024"),
        (&["--stdio-max", "2000", "--", "server"], "1 to 1024"),
        (&["--stdio-idle", "5ms", "--", "server"], "1 s to 168 h"),
        (&["--env", "=secret", "--", "server"], "not a name"),
        (&["--expose-all", "--", "server"], "single path"),
        (&["--to", "stdio:"], "the command is missing"),
        (&["--", ""], "names no program"),
    ] {
        let error = Error::from(with_relay(flags).unwrap_err());
        assert_eq!(error.exit_code(), 2, "{flags:?}");
        let text = error.to_string();
        assert!(text.contains(word), "{flags:?}: {text}");
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let error = with_file(&["--cwd", "/srv"], Some(FILE)).unwrap_err();
    assert!(error.to_string().contains("--cwd is for"), "{error}");
    let line = ["tieline", "serve", "--stdio-share", "some", "--", "server"];
    let error = Cli::read_alone(line).unwrap_err().to_string();
    assert!(
        error.contains("never") && error.contains("caller"),
        "{error}"
    );
}
