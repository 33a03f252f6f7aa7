//! Values of settings before they are parsed: texts, each with its source, which errors name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::ConfigError;

/// Prefix of all environment variables of the relay.
pub(super) const ENVIRONMENT_PREFIX: &str = "TIELINE_RELAY_";

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

    /// The path that `text` names. A relative path in the settings file starts at that file's folder.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        match &self.origin {
            Origin::File(settings) => settings.parent().unwrap_or(Path::new("")).join(text),
            Origin::Flag | Origin::Environment => PathBuf::from(text),
        }
    }
}

/// Settings from one source, by key; [`load`](super::load) merges the sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer(pub(crate) BTreeMap<String, Raw>);

/// The environment variable of a setting.
pub(super) fn variable(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.to_ascii_uppercase())
}

/// Error about the text `value`; `problem` follows it in the sentence.
pub(super) fn unfit(origin: String, value: &str, problem: &str) -> ConfigError {
    ConfigError::Unfit {
        origin,
        value: format!("{value:?}"),
        problem: problem.to_owned(),
    }
}
