//! Settings from environment variables, and the source of each value for error messages.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::settings::{Arity, Setting};
use crate::error::ConfigError;

/// Prefix of all environment variables of the relay.
pub const ENVIRONMENT_PREFIX: &str = "TIELINE_RELAY_";

/// The environment variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "TIELINE_RELAY_CONFIG";

/// Source of a setting's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag,
    Environment,
    File(PathBuf),
}

/// Unparsed value of a setting, with its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) values: Vec<String>,
    pub(crate) origin: Origin,
}

impl Raw {
    /// Name of this value's source for an error message about `key`.
    pub(crate) fn describe(&self, key: &str) -> String {
        match &self.origin {
            Origin::Flag => format!("--{}", key.replace('_', "-")),
            Origin::Environment => variable(key),
            Origin::File(path) => format!("`{key}` in {}", path.display()),
        }
    }
}

/// Settings from one source, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer(pub(crate) BTreeMap<&'static str, Raw>);

fn variable(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.to_ascii_uppercase())
}

/// Picks the relay's settings out of the environment. Lists are separated by commas; an empty value counts as unset.
///
/// # Errors
/// [`ConfigError::Unknown`] for a variable that has the relay's prefix and is not a setting.
pub fn environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Layer, ConfigError> {
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
        let Some(setting) = Setting::find(&key) else {
            return Err(ConfigError::Unknown {
                origin: name.to_owned(),
                hint: Setting::hint(&key, variable),
            });
        };
        let Ok(value) = value.into_string() else {
            let value = "(bytes)".to_owned();
            return Err(ConfigError::Value {
                origin: name.to_owned(),
                value,
                expected: "text",
            });
        };
        let values = match setting.arity {
            Arity::Many => value.split(',').map(|one| one.trim().to_owned()).collect(),
            Arity::One | Arity::Switch => vec![value],
        };
        layer.0.insert(
            setting.key,
            Raw {
                values,
                origin: Origin::Environment,
            },
        );
    }
    Ok(layer)
}

/// Kubernetes sets variables such as `TIELINE_RELAY_PORT_9001_TCP` in every pod if a service is called
/// `tieline-relay` (its documentation: "Service", environment variables).
fn is_service_link(rest: &str) -> bool {
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_")
}
