//! The settings in the environment and in the settings file, as texts that are not parsed yet. Flags come from
//! [`cli`](crate::cli).

use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, ArgAction};
use toml::{Table, Value};

use super::file::read_settings_table;
use super::raw::{ENVIRONMENT_PREFIX, Layer, Origin, Raw, unfit, variable};
use super::settings::every_setting;
use super::{CertificateFiles, conflict, tls, words};
use crate::error::ConfigError;

/// The environment variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "TIELINE_RELAY_CONFIG";

/// Least similarity of an unknown key and a setting for a "did you mean" hint (1: equal).
const ALIKE_MIN: f64 = 0.7;

/// Error about the setting `origin`, which does not exist: names the setting most similar to `key`, formatted by
/// `written`, or all settings.
pub(super) fn unknown(origin: String, key: &str, written: impl Fn(&str) -> String) -> ConfigError {
    let settings = every_setting();
    let keys: Vec<_> = settings.iter().map(|it| it.get_id().as_str()).collect();
    let alike = |it: &&&str| strsim::normalized_damerau_levenshtein(key, it);
    let near = keys
        .iter()
        .max_by(|one, other| alike(one).total_cmp(&alike(other)));
    let hint = match near.filter(|it| alike(it) >= ALIKE_MIN) {
        Some(near) => format!("did you mean {}?", written(near)),
        None => format!("the settings are {}", keys.join(", ")),
    };
    ConfigError::Unknown { origin, hint }
}

/// Picks the relay's settings out of the environment. Lists are separated by commas; an empty value counts as unset.
///
/// # Errors
/// [`ConfigError::Unknown`] for a variable that has the relay's prefix and is not a setting.
pub fn environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Layer, ConfigError> {
    let settings = every_setting();
    let mut layer = Layer::default();
    for (name, value) in variables {
        let Some(name) = name.to_str() else { continue };
        let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else {
            continue;
        };
        if name == CONFIG_VARIABLE || is_service_link(rest) || value.is_empty() {
            continue;
        }
        let key = rest.to_ascii_lowercase();
        let Some(setting) = settings.iter().find(|it| it.get_id() == key.as_str()) else {
            return Err(unknown(name.to_owned(), &key, variable));
        };
        let Ok(value) = value.into_string() else {
            return Err(unfit(name.to_owned(), "(bytes)", "is not text"));
        };
        let values = match setting.get_action() {
            ArgAction::Append => value.split(',').map(|one| one.trim().to_owned()).collect(),
            _ => vec![value],
        };
        let origin = Origin::Environment;
        layer.0.insert(key, Raw { values, origin });
    }
    Ok(layer)
}

/// Kubernetes sets variables such as `TIELINE_RELAY_PORT_9001_TCP` in every pod if a service is called
/// `tieline-relay` (its documentation: "Service", environment variables).
fn is_service_link(rest: &str) -> bool {
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_")
}

/// Reads the settings in a TOML file, and the certificates that it lists.
pub(super) fn read_settings(path: &Path) -> Result<(Layer, Vec<CertificateFiles>), ConfigError> {
    let mut table = read_settings_table(path)?;
    let certificates = tls::take_listed(&mut table, path)?;
    let settings = every_setting();
    let mut layer = Layer::default();
    let mut flat = Vec::new();
    flatten("", table, &settings, &mut flat);
    for (written, key, value) in flat {
        let mut raw = Raw {
            values: Vec::new(),
            origin: Origin::File(path.to_owned()),
        };
        let origin = raw.describe(&written);
        let Some(setting) = settings.iter().find(|it| it.get_id() == key.as_str()) else {
            return Err(unknown(origin, &key, |near| format!("`{near}`")));
        };
        raw.values =
            file_values(setting.get_action(), &value).map_err(|belongs| ConfigError::Unfit {
                origin,
                value: words::value(&value),
                problem: format!("stands where {belongs}"),
            })?;
        if layer.0.contains_key(&key) {
            return conflict(format!(
                "`{key}` in {} is set twice, once alone and once in a table",
                path.display()
            ));
        }
        layer.0.insert(key, raw);
    }
    Ok((layer, certificates))
}

/// The texts of `value`; the error says what belongs in its place.
fn file_values(action: &ArgAction, value: &Value) -> Result<Vec<String>, &'static str> {
    let text = |it: &Value| it.as_str().map(str::to_owned);
    let values = match (action, value) {
        (ArgAction::Append, Value::Array(list)) => list.iter().map(text).collect(),
        (ArgAction::SetTrue, Value::Boolean(yes)) => Some(vec![yes.to_string()]),
        (ArgAction::SetTrue, _) => None,
        (ArgAction::Set, Value::Integer(number)) => Some(vec![number.to_string()]),
        _ => text(value).map(|text| vec![text]),
    };
    values.ok_or(match action {
        ArgAction::SetTrue => "true or false belongs",
        ArgAction::Append => "a list of texts belongs, such as [\"one\", \"two\"]",
        _ => "a text or a whole number belongs",
    })
}

/// Turns tables into settings: `issuer` in the table `[jwt]` is the setting `jwt_issuer`. Each entry of
/// `flat` is the key as written, the setting's key, and the value.
fn flatten(prefix: &str, table: Table, settings: &[Arg], flat: &mut Vec<(String, String, Value)>) {
    let dots = prefix.replace('_', ".");
    for (key, value) in table {
        let (written, name) = match prefix {
            "" => (key.clone(), key.clone()),
            // `auth` is both a table and a setting: its own value is `mode` in the table.
            "auth" if key == "mode" => ("auth.mode".to_owned(), "auth".to_owned()),
            _ => (format!("{dots}.{key}"), format!("{prefix}_{key}")),
        };
        let is_prefix = |setting: &Arg| {
            let rest = setting.get_id().as_str().strip_prefix(name.as_str());
            rest.is_some_and(|rest| rest.starts_with('_'))
        };
        match value {
            Value::Table(inner) if settings.iter().any(is_prefix) => {
                flatten(&name, inner, settings, flat);
            }
            value => flat.push((written, name, value)),
        }
    }
}
