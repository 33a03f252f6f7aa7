//! Where settings come from: a TOML file, the environment and flags, and the secret's file.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tieline_wire::claims::Key;

use super::{Auth, Config, DriverChoice, JwtAuth, Options, conflict};
use crate::cli::{Arity, Layer, Origin, Raw, Setting};
use crate::error::ConfigError;

/// Longest configuration or secret file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Bits of a secret file's mode that must not be set: others reading or writing, group writing.
const SECRET_MODE_FORBIDDEN: u32 = 0o027;

const NUMBER: &str = "a whole number in range";
const TIME: &str = "a time such as 500ms, 45s or 1h30m";
const SWITCH: &str = "true or false";

/// Puts the sources together: flags win over the environment, and that over the file.
///
/// # Errors
/// [`ConfigError`] names the flag, variable, key or file.
pub fn load(flags: Layer, environment: Layer, file: Option<&Path>) -> Result<Options, ConfigError> {
    let file = file.map_or_else(|| Ok(Layer::default()), read_file)?;
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
    config.domain = settings.one("domain", "a host name", domain)?;
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
    set(
        &mut config.shard_budget_bytes,
        settings.one("shard_budget_bytes", NUMBER, number)?,
    );
    config.auth = settings.auth()?;
    config.check()?;

    let log = settings.one("log", "a log filter", |text| Some(text.to_owned()))?;
    let json = settings.one("json", SWITCH, boolean)?.unwrap_or(false);
    Ok(Options { config, log, json })
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// The sources, the strongest first.
struct Settings([Layer; 3]);

impl Settings {
    fn raw(&self, key: &str) -> Option<&Raw> {
        self.0.iter().find_map(|layer| layer.0.get(key))
    }

    /// The value of `key`, parsed; `expected` says what would do.
    fn one<T>(
        &self,
        key: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(raw) = self.raw(key) else {
            return Ok(None);
        };
        let text = raw.values.first().map_or("", String::as_str);
        match parse(text) {
            Some(value) => Ok(Some(value)),
            None => Err(wrong(raw, key, text, expected)),
        }
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

    fn refuse_unbuilt(&self) -> Result<(), ConfigError> {
        let unbuilt = [
            ("quic_listen", None, "QUIC"),
            ("tls_cert", None, "TLS"),
            ("tls_key", None, "TLS"),
            ("auth", Some("tokens"), "auth with static tokens"),
            ("auth", Some("provider"), "auth by a provider"),
            ("caller_auth", Some("token"), "authentication of callers"),
        ];
        for (key, value, what) in unbuilt {
            if let Some(raw) = self.raw(key)
                && value.is_none_or(|value| raw.values == [value])
            {
                return Err(ConfigError::NotBuilt {
                    origin: raw.describe(key),
                    what,
                });
            }
        }
        self.one("caller_auth", "none", |text| (text == "none").then_some(()))
            .map(drop)
    }

    fn auth(&self) -> Result<Auth, ConfigError> {
        let jwt = self.one("auth", "open or jwt", |text| match text {
            "open" => Some(false),
            "jwt" => Some(true),
            _ => None,
        })?;
        // A setting that would do nothing is a misunderstanding, here a dangerous one.
        let idle: &[&str] = match jwt {
            Some(true) => &["open_anywhere"],
            _ => &["jwt_secret_file", "jwt_issuer"],
        };
        if let Some((key, raw)) = idle.iter().find_map(|key| Some((key, self.raw(key)?))) {
            let remedy = if jwt == Some(true) {
                "leave it out"
            } else {
                "add --auth jwt"
            };
            return conflict(format!("{} does nothing here; {remedy}", raw.describe(key)));
        }
        if jwt != Some(true) {
            let anywhere = self.one("open_anywhere", SWITCH, boolean)?.unwrap_or(false);
            return Ok(Auth::Open { anywhere });
        }
        let Some(raw) = self.raw("jwt_secret_file") else {
            return conflict("auth jwt wants a secret: --jwt-secret-file FILE");
        };
        let mut path = PathBuf::from(raw.values.first().map_or("", String::as_str));
        if let Origin::File(config) = &raw.origin
            && let Some(folder) = config.parent()
        {
            path = folder.join(path);
        }
        let issuer = self.one("jwt_issuer", "a name", |text| {
            (!text.is_empty()).then(|| text.to_owned())
        })?;
        Ok(Auth::Jwt(JwtAuth {
            keys: read_secret(&path)?.into(),
            issuer,
            audience: Vec::new(),
        }))
    }
}

fn wrong(raw: &Raw, key: &str, text: &str, expected: &'static str) -> ConfigError {
    ConfigError::Value {
        origin: raw.describe(key),
        value: text.to_owned(),
        expected,
    }
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn boolean(text: &str) -> Option<bool> {
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

/// A host name (RFC 1123, 2.1), in lower case.
fn domain(text: &str) -> Option<String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (text.len() <= 253 && text.split('.').all(is_label)).then(|| text.to_ascii_lowercase())
}

/// Reads a time such as `500ms`, `45s`, `5m`, `8h`, `7d` or `1h30m`; a bare number has no meaning.
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

/// Reads the settings in a TOML file.
fn read_file(path: &Path) -> Result<Layer, ConfigError> {
    let (text, _) = read(path)?;
    let text = String::from_utf8(text).map_err(|_| ConfigError::Syntax {
        path: path.to_owned(),
        line: 1,
        message: "not UTF-8 text".to_owned(),
    })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = text
            .get(..error.span().map_or(0, |span| span.start))
            .unwrap_or("");
        ConfigError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            message: error.message().lines().collect::<Vec<_>>().join(", "),
        }
    })?;
    let mut layer = Layer::default();
    for (key, value) in table {
        let mut raw = Raw {
            values: Vec::new(),
            origin: Origin::File(path.to_owned()),
        };
        let origin = raw.describe(&key);
        let Some(setting) = Setting::find(&key) else {
            return Err(ConfigError::Unknown {
                origin,
                known: Setting::all_names(),
            });
        };
        raw.values = file_values(setting, &value).ok_or_else(|| ConfigError::Value {
            origin,
            value: format!("({})", value.type_str()),
            expected: match setting.arity {
                Arity::One => "a text or a number",
                Arity::Many => "a list of texts",
                Arity::Switch => SWITCH,
            },
        })?;
        layer.0.insert(setting.key, raw);
    }
    Ok(layer)
}

fn file_values(setting: &Setting, value: &toml::Value) -> Option<Vec<String>> {
    use toml::Value;
    let one = match (setting.arity, value) {
        (Arity::Many, Value::Array(list)) => {
            return list
                .iter()
                .map(|one| one.as_str().map(str::to_owned))
                .collect();
        }
        (Arity::One | Arity::Many, Value::String(text)) => text.clone(),
        (Arity::One, Value::Integer(number)) => number.to_string(),
        (Arity::Switch, Value::Boolean(yes)) => yes.to_string(),
        _ => return None,
    };
    Some(vec![one])
}

/// Reads the secret that signs tokens; a line break at its end is not part of it.
///
/// # Errors
/// [`ConfigError::Secret`] if others may read the file, or the secret is too short.
pub fn read_secret(path: &Path) -> Result<Key, ConfigError> {
    let (mut secret, mode) = read(path)?;
    let unfit = |problem: String| ConfigError::Secret {
        path: path.to_owned(),
        problem,
    };
    if mode & SECRET_MODE_FORBIDDEN != 0 {
        return Err(unfit(format!(
            "others can read or change this secret (mode {:03o}); run `chmod 600` on it",
            mode & 0o777
        )));
    }
    if secret.last() == Some(&b'\n') {
        secret.pop();
        secret.pop_if(|byte| *byte == b'\r');
    }
    Key::hs256(&secret).map_err(|error| {
        unfit(format!(
            "{error}; `openssl rand -base64 48` prints a good one"
        ))
    })
}

/// A file's content and mode.
fn read(path: &Path) -> Result<(Vec<u8>, u32), ConfigError> {
    let content = || -> io::Result<(Vec<u8>, u32)> {
        let file = File::open(path)?;
        let mode = file.metadata()?.mode();
        let mut content = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other("the file is longer than 1 MiB"));
        }
        Ok((content, mode))
    };
    content().map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}
