mod acme;
mod all_settings;
mod auth;
mod refused;
mod tables;
mod tls;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::cli::{Invocation, parse};

/// Builder of a configuration test: settings by source, then the resulting configuration or error.
#[derive(Default)]
struct Case {
    flags: Vec<String>,
    variables: Vec<(String, String)>,
    file: Option<PathBuf>,
}

impl Case {
    fn flags(words: &str) -> Self {
        Self::default().and_flags(words)
    }

    fn file(folder: &Path, text: &str) -> Self {
        let path = folder.join("relay.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        Self {
            file: Some(path),
            ..Self::default()
        }
    }

    fn and_flags(mut self, words: &str) -> Self {
        self.flags
            .extend(words.split_whitespace().map(str::to_owned));
        self
    }

    fn and_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn load(self) -> Result<Options, ConfigError> {
        let words = std::iter::once("tieline-relay".to_owned()).chain(self.flags);
        let Ok(Invocation::Serve { flags, .. }) = parse(words.map(Into::into)) else {
            panic!("the command line was refused")
        };
        let variables = self
            .variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        load(flags, environment(variables)?, self.file.as_deref())
    }

    fn config(self) -> Config {
        self.load().unwrap_or_else(|error| panic!("{error}")).config
    }

    fn error(self) -> String {
        let text = self.load().expect_err("must be refused").to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn secret_file(folder: &Path, secret: &[u8], mode: u32) -> PathBuf {
    let path = folder.join("secret");
    fs::write(&path, secret).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn told_nothing_it_listens_on_loopback_at_the_agreed_ports() {
    let config = Case::default().config();
    assert_eq!(config.agent_listen, ["127.0.0.1:9001".parse().unwrap()]);
    assert_eq!(config.tcp_listen, ["127.0.0.1:9002".parse().unwrap()]);
    assert_eq!(config.http_listen, ["127.0.0.1:9080".parse().unwrap()]);
    assert_eq!(config.admin_listen, ["127.0.0.1:9003".parse().unwrap()]);
    assert_eq!(config.stale_timeout, Duration::from_secs(45));
    assert!(config.shards >= 1);
    assert!(matches!(config.auth, Auth::Open { anywhere: false }));
}

#[test]
fn help_shows_the_defaults_that_hold() {
    let help = crate::cli::command().render_long_help().to_string();
    let config = Config::standard();
    let addresses = [
        ListenKind::Agent,
        ListenKind::Tcp,
        ListenKind::Http,
        ListenKind::Admin,
    ]
    .map(|kind| config.listen(kind)[0].to_string());
    let times = [
        config.stale_timeout,
        config.preamble_timeout,
        config.drain_timeout,
    ]
    .map(|time| format!("{time:?}"));
    let counts = [
        config.max_tunnels.to_string(),
        config.sessions_max.to_string(),
        config.spin_us.to_string(),
        config.bulk_run_bytes.to_string(),
        SHARD_BUDGET_BYTES.to_string(),
    ];
    for default in addresses.iter().chain(&times).chain(&counts) {
        assert!(help.contains(&format!("[default: {default}]")), "{default}");
    }
}

#[test]
fn an_embedded_relay_needs_no_settings() {
    let config = Config::default();
    config.check().unwrap();
    assert_eq!(config.agent_listen, ["127.0.0.1:0".parse().unwrap()]);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = folder();
    let file = "shards = 3\nmax_tunnels = 30\nstale_timeout = \"3s\"";
    let config = Case::file(folder.path(), file)
        .and_variable("TIELINE_RELAY_SHARDS", "2")
        .and_variable("TIELINE_RELAY_MAX_TUNNELS", "20")
        .and_flags("--shards 1")
        .config();
    assert_eq!(config.shards, 1);
    assert_eq!(config.max_tunnels, 20);
    assert_eq!(config.stale_timeout, Duration::from_secs(3));
}

#[test]
fn a_wrong_value_that_another_source_overrides_is_not_parsed() {
    let folder = folder();
    let config = Case::file(folder.path(), "shards = \"three\"\ntake_over = true")
        .and_variable("TIELINE_RELAY_SHARDS", "two")
        .and_variable("TIELINE_RELAY_TAKE_OVER", "0")
        .and_flags("--shards 1")
        .config();
    assert_eq!((config.shards, config.take_over), (1, false));
}

#[test]
fn callers_need_a_token_once_agents_do_at_whatever_address() {
    let folder = folder();
    let secret = secret_file(folder.path(), &[b'x'; 40], 0o600);
    let jwt = format!("--auth jwt --jwt-secret-file {}", secret.display());
    let public = "--http-listen 0.0.0.0:9080";
    for (flags, expected) in [
        (String::new(), CallerAuth::None),
        (jwt.clone(), CallerAuth::Token),
        (public.to_owned(), CallerAuth::None),
        (format!("{jwt} {public}"), CallerAuth::Token),
        (format!("{jwt} --tcp-listen [::]:9002"), CallerAuth::Token),
        (
            format!("{jwt} --http-listen [::1]:9080 --tcp-listen off"),
            CallerAuth::Token,
        ),
        (format!("{jwt} --caller-auth none"), CallerAuth::None),
        (
            format!("{jwt} {public} --caller-auth none"),
            CallerAuth::None,
        ),
        (format!("{jwt} --caller-auth token"), CallerAuth::Token),
    ] {
        assert_eq!(
            Case::flags(&flags).config().caller_auth,
            expected,
            "{flags}"
        );
    }
}

#[test]
fn a_time_has_a_unit() {
    for (text, ms) in [
        ("500ms", 500),
        ("45s", 45_000),
        ("5m", 300_000),
        ("8h", 28_800_000),
        ("7d", 604_800_000),
        ("1h30m", 5_400_000),
        ("1s500ms", 1500),
        ("0s", 0),
    ] {
        assert_eq!(
            parse_duration(text),
            Some(Duration::from_millis(ms)),
            "{text}"
        );
    }
    for text in [
        "",
        "45",
        "s",
        "45 s",
        "1.5s",
        "-1s",
        "1S",
        "1y",
        "1s2",
        "99999999999999999999s",
        "9999999999999999999d",
    ] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}

const OPERATIONS: &str = include_str!("../../../../docs/OPERATIONS.md");

#[test]
fn the_manual_names_every_setting_and_its_file_is_good() {
    for setting in every_setting() {
        let key = setting.get_id();
        assert!(
            OPERATIONS.contains(&format!("`{key}`")) || OPERATIONS.contains(&format!("\n{key} = ")),
            "{key}"
        );
    }
    let (_, rest) = OPERATIONS.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let text = text
        .lines()
        .filter(|line| !line.starts_with("open_anywhere"));
    let text = text.collect::<Vec<_>>().join("\n");
    let folder = folder();
    auth::write_files(folder.path());
    let config = Case::file(folder.path(), &text).config();

    let standard = Config::standard();
    for kind in [
        ListenKind::Agent,
        ListenKind::Tcp,
        ListenKind::Http,
        ListenKind::Admin,
    ] {
        assert_eq!(config.listen(kind), standard.listen(kind));
    }
    assert_eq!(config.stale_timeout, standard.stale_timeout);
    assert_eq!(config.preamble_timeout, standard.preamble_timeout);
    assert_eq!(config.drain_timeout, standard.drain_timeout);
    assert_eq!(config.max_tunnels, standard.max_tunnels);
    assert_eq!(config.sessions_max, standard.sessions_max);
    assert_eq!(config.spin_us, standard.spin_us);
    assert_eq!(config.bulk_run_bytes, standard.bulk_run_bytes);
    let audit = config.audit.unwrap();
    assert_eq!(audit, AuditConfig::new(audit.file.clone()));
    // The manual shows the default for a machine with enough memory.
    assert_eq!(config.shard_budget_bytes, SHARD_BUDGET_BYTES);
}
