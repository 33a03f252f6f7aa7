//! Parses the texts of settings: each goes through clap to the value parser of its setting, from every source.

use std::error::Error;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, FromArgMatches, ValueHint};

use super::raw::{Layer, Raw, unfit};
use super::settings::{Settings, every_setting};
use super::values::Never;
use super::{HttpUrl, place};
use crate::error::ConfigError;

impl Settings {
    /// Parses the values that are given.
    ///
    /// # Errors
    /// [`ConfigError`] names the flag, variable or key of the value that is refused.
    pub(super) fn parse(given: &Layer) -> Result<Self, ConfigError> {
        // Unlike a flag, a variable or key may set a switch to false, and a key a list to nothing.
        let with_values = |setting: Arg| match setting.get_action() {
            ArgAction::SetTrue => setting.action(ArgAction::Set),
            ArgAction::Append => setting.num_args(0..=1),
            _ => setting,
        };
        let command = Command::new("settings").no_binary_name(true);
        let command = command.args(every_setting().into_iter().map(with_values));
        let mut settings = Self::default();
        // One at a time, so that an error is known to be about this setting.
        for setting in command.get_arguments() {
            let key = setting.get_id().as_str();
            let Some(raw) = given.0.get(key) else {
                continue;
            };
            let parsed = command.clone().try_get_matches_from(words(setting, raw)?);
            parsed
                .and_then(|it| settings.update_from_arg_matches(&it))
                .map_err(|error| refused(raw.describe(key), &error))?;
        }
        Ok(settings)
    }
}

/// A setting and its values, as words of a command line.
fn words(setting: &Arg, raw: &Raw) -> Result<Vec<OsString>, ConfigError> {
    let key = setting.get_id().as_str();
    let flag = format!("--{}", setting.get_long().unwrap_or(key));
    let is_off = key.ends_with("_listen") && raw.values == ["off"];
    if raw.values.is_empty() || is_off {
        return Ok(vec![flag.into()]);
    }
    let word = |text: &String| {
        let mut word = OsString::from(format!("{flag}="));
        let hint = setting.get_value_hint();
        match hint {
            ValueHint::Url if HttpUrl::is_meant(text) => word.push(text),
            ValueHint::AnyPath | ValueHint::FilePath | ValueHint::Url => {
                if text.is_empty() {
                    let problem = "is not a file or folder";
                    return Err(unfit(raw.describe(key), text, problem));
                }
                let path = raw.path(text);
                if hint != ValueHint::AnyPath {
                    place::check_name(raw.describe(key), text, &path)?;
                }
                word.push(path);
            }
            _ => word.push(text),
        }
        Ok(word)
    };
    raw.values.iter().map(word).collect()
}

/// clap's error about one value, as the error of the setting `origin`.
fn refused(origin: String, error: &clap::Error) -> ConfigError {
    let cause = error.source();
    if let Some(gone @ Never::Gone(_)) = cause.and_then(<dyn Error>::downcast_ref) {
        return ConfigError::Conflict(format!("{origin} {gone}"));
    }
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value,
        _ => "",
    };
    let problem = cause.map_or_else(|| error.to_string(), ToString::to_string);
    unfit(origin, value, &problem)
}
