//! Merges settings from flags, the environment and a TOML file into a [`Config`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::file::{read_denylist, read_settings};
use super::memory;
use super::place;
use super::secret::read_text_secret;
use super::{
    AuditConfig, Config, DriverChoice, HttpConfig, LimitsConfig, Options, PublicUrl, names,
};
use crate::cli::{Layer, Origin, Raw};
use crate::error::ConfigError;

pub(super) const NUMBER: &str = "a whole number in range";
pub(super) const TIME: &str = "a time such as 500ms, 45s or 1h30m";
pub(super) const SWITCH: &str = "true or false";

/// Merges the sources: flags override the environment, which overrides the file.
///
/// # Errors
/// [`ConfigError`] names the flag, variable, key or file.
pub fn load(flags: Layer, environment: Layer, file: Option<&Path>) -> Result<Options, ConfigError> {
    let file = file.map_or_else(|| Ok(Layer::default()), read_settings)?;
    let settings = Settings([flags, environment, file]);
    settings.refuse_unbuilt()?;

    let mut config = Config::standard();
    set(
        &mut config.agent_listen,
        settings.addresses("agent_listen")?,
    );
    set(&mut config.tcp_listen, settings.addresses("tcp_listen")?);
    set(&mut config.http_listen, settings.addresses("http_listen")?);
    set(
        &mut config.admin_listen,
        settings.addresses("admin_listen")?,
    );
    config.domain = settings.judged("domain", names::domain)?;
    config.public_url = settings.judged("public_url", PublicUrl::parse)?;
    set(&mut config.shards, settings.one("shards", NUMBER, number)?);
    set(
        &mut config.driver,
        settings.one("driver", "auto, uring or epoll", driver)?,
    );
    set(
        &mut config.spin_us,
        settings.one("spin_us", NUMBER, number)?,
    );
    set(
        &mut config.stale_timeout,
        settings.one("stale_timeout", TIME, parse_duration)?,
    );
    set(
        &mut config.preamble_timeout,
        settings.one("preamble_timeout", TIME, parse_duration)?,
    );
    set(
        &mut config.drain_timeout,
        settings.one("drain_timeout", TIME, parse_duration)?,
    );
    set(
        &mut config.max_tunnels,
        settings.one("max_tunnels", NUMBER, number)?,
    );
    set(
        &mut config.sessions_max,
        settings.one("sessions_max", NUMBER, number)?,
    );
    set(
        &mut config.bulk_run_bytes,
        settings.one("bulk_run_bytes", NUMBER, number)?,
    );
    config.shard_budget_bytes = settings
        .one("shard_budget_bytes", NUMBER, number)?
        .unwrap_or_else(|| memory::shard_budget(config.memory_limit_bytes, config.shards));
    config.http = HttpConfig::read(&settings)?;
    config.auth = settings.auth()?;
    config.caller_auth = settings.caller_auth(&config.auth)?;
    if let Some(path) = settings.file("auth_denylist")? {
        config.denylist = read_denylist(&path)?;
        config.denylist_file = Some(path);
    }
    config.admin_token = settings
        .file("admin_token_file")?
        .map(|path| read_text_secret(&path))
        .transpose()?;
    config.audit = AuditConfig::read(&settings)?;
    config.limits = LimitsConfig::read(&settings)?;
    config.state_dir = settings.path("state_dir")?;
    config.take_over = settings.one("take_over", SWITCH, boolean)?.unwrap_or(false);
    if config.take_over && config.state_dir.is_none() {
        let text = "take_over: needs state_dir, in which both relays meet";
        return Err(ConfigError::Conflict(text.to_owned()));
    }
    config.check()?;

    let log = settings.one("log", "a log filter", |text| Some(text.to_owned()))?;
    let json = settings.one("json", SWITCH, boolean)?.unwrap_or(false);
    Ok(Options { config, log, json })
}

pub(super) fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// The sources of settings: flags, environment, file. An earlier source overrides a later one.
pub(super) struct Settings([Layer; 3]);

impl Settings {
    pub(super) fn raw(&self, key: &str) -> Option<&Raw> {
        self.0.iter().find_map(|layer| layer.0.get(key))
    }

    /// The parsed value of `key`; `expected` describes valid values in the error.
    pub(super) fn one<T>(
        &self,
        key: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((raw, text)) = self.written(key) else {
            return Ok(None);
        };
        match parse(text) {
            Some(value) => Ok(Some(value)),
            None => Err(wrong(raw, key, text, expected)),
        }
    }

    /// The parsed value of `key`; the error text comes from `parse`.
    fn judged<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((raw, text)) = self.written(key) else {
            return Ok(None);
        };
        let unfit = |problem: &str| ConfigError::Unfit {
            origin: raw.describe(key),
            value: format!("{text:?}"),
            problem: problem.to_owned(),
        };
        parse(text).map(Some).map_err(unfit)
    }

    /// The unparsed value of `key`.
    fn written(&self, key: &str) -> Option<(&Raw, &str)> {
        let raw = self.raw(key)?;
        Some((raw, raw.values.first().map_or("", String::as_str)))
    }

    /// All values of `key`, parsed.
    pub(super) fn many<T>(
        &self,
        key: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(raw) = self.raw(key) else {
            return Ok(None);
        };
        let parse = |text: &String| parse(text).ok_or_else(|| wrong(raw, key, text, expected));
        raw.values
            .iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn addresses(&self, key: &str) -> Result<Option<Vec<SocketAddr>>, ConfigError> {
        let Some(raw) = self.raw(key) else {
            return Ok(None);
        };
        if raw.values == ["off"] {
            return Ok(Some(Vec::new()));
        }
        let parse = |text: &String| {
            if text.starts_with("tls://") {
                let origin = raw.describe(key);
                return Err(ConfigError::NotBuilt {
                    origin,
                    what: "a tls:// address",
                });
            }
            text.parse().map_err(|_| {
                wrong(
                    raw,
                    key,
                    text,
                    "an address such as 127.0.0.1:9001 or [::1]:9001",
                )
            })
        };
        raw.values
            .iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// The file or folder that `key` names. A relative path in the settings file starts at that file's folder.
    pub(super) fn path(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        let path = self.one(key, "a file or folder", |text| {
            (!text.is_empty()).then(|| PathBuf::from(text))
        })?;
        let folder = self.raw(key).and_then(|raw| match &raw.origin {
            Origin::File(settings) => settings.parent(),
            _ => None,
        });
        Ok(path.map(|path| folder.map_or_else(|| path.clone(), |folder| folder.join(&path))))
    }

    /// The file that `key` names. Refuses a value that may be the secret itself, without showing it.
    pub(super) fn file(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        let path = self.path(key)?;
        if let (Some(path), Some(raw)) = (&path, self.raw(key)) {
            let text = raw.values.first().map_or("", String::as_str);
            place::check_name(raw.describe(key), text, path)?;
        }
        Ok(path)
    }

    fn refuse_unbuilt(&self) -> Result<(), ConfigError> {
        let unbuilt = [
            ("quic_listen", "QUIC"),
            ("tls_cert", "TLS"),
            ("tls_key", "TLS"),
        ];
        for (key, what) in unbuilt {
            if let Some(raw) = self.raw(key) {
                return Err(ConfigError::NotBuilt {
                    origin: raw.describe(key),
                    what,
                });
            }
        }
        Ok(())
    }
}

pub(super) fn wrong(raw: &Raw, key: &str, text: &str, expected: &'static str) -> ConfigError {
    ConfigError::Value {
        origin: raw.describe(key),
        value: text.to_owned(),
        expected,
    }
}

pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn driver(text: &str) -> Option<DriverChoice> {
    match text {
        "auto" => Some(DriverChoice::Auto),
        "uring" => Some(DriverChoice::Uring),
        "epoll" => Some(DriverChoice::Epoll),
        _ => None,
    }
}

/// Parses a time such as `500ms`, `45s`, `5m`, `8h`, `7d` or `1h30m`; the unit is required.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (count, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let ms = count.parse::<u64>().ok()?.checked_mul(unit_ms)?;
        total = total.checked_add(Duration::from_millis(ms))?;
        rest = tail;
    }
    Some(total)
}
